"""The report in a real Chromium: no errors, no requests, plots drawn, phone width, dark mode."""

import os
import shutil
from pathlib import Path

import make_rows
import pytest

from thermolearn.report import render

pytestmark = pytest.mark.browser

MAKERS = ("full", "transformer", "only_header", "hostile")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

MARKS_OUTSIDE = """
() => [...document.querySelectorAll('svg.plot')].flatMap(svg => {
  if (!svg.getClientRects().length) return [];
  const v = svg.viewBox.baseVal, bad = [];
  for (const mark of svg.querySelectorAll('.mark')) {
    const b = mark.getBBox();
    if (![b.x, b.y, b.width, b.height].every(Number.isFinite) || b.x < v.x || b.y < v.y ||
        b.x + b.width > v.x + v.width || b.y + b.height > v.y + v.height)
      bad.push(svg.querySelector('title').textContent + ' ' + mark.outerHTML.slice(0, 80));
  }
  return bad;
})
"""
TEXT_OVERLAPS = """
() => [...document.querySelectorAll('svg.plot')].flatMap(svg => {
  if (!svg.getClientRects().length) return [];
  const boxes = [...svg.querySelectorAll('text')].filter(t => t.textContent)
    .map(t => [t.textContent, t.getBBox()]);
  const v = svg.viewBox.baseVal, bad = [];
  boxes.forEach(([t, a], i) => {
    if (a.x < v.x || a.x + a.width > v.x + v.width + 1) bad.push('outside: ' + t);
    boxes.slice(i + 1).forEach(([u, b]) => {
      if (a.x < b.x + b.width && b.x < a.x + a.width &&
          a.y + 3 < b.y + b.height && b.y + 3 < a.y + a.height) bad.push(t + ' / ' + u);
    });
  });
  return bad;
})
"""
WIDE = "() => [document.documentElement.scrollWidth, window.innerWidth]"
OPEN_ALL = "() => document.querySelectorAll('details').forEach(d => { d.open = true; })"
# contrast ratio of the text of an element against the first opaque background behind it (WCAG 2)
CONTRAST = """
selector => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => rgb(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
  return [...document.querySelectorAll(selector)].map(e => {
    const style = getComputedStyle(e), text = e.closest('svg') ? style.fill : style.color;
    let under = e;
    while (under && (rgb(getComputedStyle(under).backgroundColor)[3] ?? 1) === 0)
      under = under.parentElement;
    const [a, b] = [light(text), light(getComputedStyle(under || document.body).backgroundColor)]
      .sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
}
"""


@pytest.fixture(scope="module")
def browser():
    """Chromium; a missing one is a failure where THERMOLEARN_REQUIRE_BROWSER=1, else a skip."""
    required = os.environ.get("THERMOLEARN_REQUIRE_BROWSER") == "1"

    def missing(why):
        (pytest.fail if required else pytest.skip)(why)

    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install 'thermolearn[browser]'")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        missing("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    for name in MAKERS:
        (folder / name).with_suffix(".html").write_text(
            render(getattr(make_rows, name)()), encoding="utf-8"
        )
    return {name: folder / f"{name}.html" for name in MAKERS}


class Opened:
    """A page with what it complained about and what it asked the network for."""

    def __init__(self, browser, file, width=1200, scheme="light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("dialog", lambda d: (self.complaints.append(d.message), d.dismiss()))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(file.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("width", [360, 768, 1200])
def test_quiet_and_fitting(browser, files, name, width):
    """No console message, no request but the file itself, no sideways scrolling."""
    with Opened(browser, files[name], width) as opened:
        for _ in range(2):
            scroll, inner = opened.page.evaluate(WIDE)
            assert scroll <= inner
            opened.page.evaluate(OPEN_ALL)
        opened.page.wait_for_timeout(50)
        assert opened.complaints == []
        assert [u for u in opened.requests if not u.startswith(("file:", "data:"))] == []
        assert len([u for u in opened.requests if u.startswith("file:")]) == 1


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("name", ["full", "transformer", "hostile"])
def test_every_plot_is_drawn(browser, files, name, width):
    with Opened(browser, files[name], width) as opened:
        opened.page.evaluate(OPEN_ALL)
        sizes = opened.page.evaluate(
            "() => [...document.querySelectorAll('svg.plot')].map(s => s.getBoundingClientRect())"
            ".map(r => [r.width, r.height])"
        )
        shown = [s for s in sizes if s[0] > 0]
        assert len(shown) == len(sizes) - 1  # of the loss plot's two layouts one is hidden
        assert len(sizes) == {"full": 16, "transformer": 5, "hostile": 16}[name]
        assert all(250 < w <= width and h > 150 for w, h in shown)
        assert opened.page.evaluate(MARKS_OUTSIDE) == []
        if name != "hostile":
            assert opened.page.evaluate(TEXT_OVERLAPS) == []
        filled = opened.page.locator("svg.plot").filter(has=opened.page.locator(".mark"))
        assert filled.count() == len(sizes)


def test_the_checks_of_plots_can_fail(browser, files):
    with Opened(browser, files["full"]) as opened:
        opened.page.evaluate(
            "() => document.querySelector('.wide circle.mark').setAttribute('cx', '5000')"
        )
        assert len(opened.page.evaluate(MARKS_OUTSIDE)) == 1
        opened.page.evaluate(
            "() => { const t = document.querySelectorAll('.wide text.tick');"
            " t[1].setAttribute('y', t[0].getAttribute('y')); }"
        )
        assert opened.page.evaluate(TEXT_OVERLAPS) != []


def test_phone_layout(browser, files):
    with Opened(browser, files["full"], 360) as opened:
        page = opened.page
        assert page.locator(".narrow svg").bounding_box()["width"] >= 300
        assert not page.locator(".wide svg").is_visible()
        table = page.locator(".scroll").first
        inside, box = table.evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert inside > box  # the table scrolls in its own box
        size = page.evaluate("() => parseFloat(getComputedStyle(document.body).fontSize)")
        assert size >= 16


def test_dark_mode(browser, files):
    colors = {}
    for scheme in ("light", "dark"):
        with Opened(browser, files["full"], scheme=scheme) as opened:
            opened.page.evaluate(OPEN_ALL)
            colors[scheme] = opened.page.evaluate(
                "() => { const c = e => getComputedStyle(document.querySelector(e));"
                " return [c('body').backgroundColor, c('body').color, c('svg .s1.stroke').stroke,"
                " c('.card .answer').color, c('svg text.tick').fill]; }"
            )
            for selector in ("p", "dd", "dt", "td", ".answer", ".num", ".badge", "svg text", "li"):
                ratios = opened.page.evaluate(CONTRAST, selector)
                assert ratios, selector
                assert min(ratios) >= 4.5, (scheme, selector, min(ratios))
    assert all(a != b for a, b in zip(colors["light"], colors["dark"], strict=True))


def test_sections_open_and_close(browser, files):
    with Opened(browser, files["full"]) as opened:
        sections = opened.page.locator("details.section")
        assert sections.count() == 11
        assert opened.page.locator("details[open]").count() == 0
        section = opened.page.locator("#temperature")
        body = section.locator(".body")
        assert not body.is_visible()
        section.locator("> summary").click()
        assert body.is_visible()
        value = section.locator("details.q").nth(1)
        value.locator("summary").click()
        assert "1/\u03b2" in value.locator(".formula").inner_text()
        value.locator("summary").focus()
        opened.page.keyboard.press("Enter")
        assert not value.locator(".formula").is_visible()
        section.locator("> summary").click()
        assert not body.is_visible()


def test_print_shows_the_sections(browser, files):
    with Opened(browser, files["full"], scheme="dark") as opened:
        opened.page.emulate_media(media="print", color_scheme="dark")
        assert opened.page.locator("#laws .body").is_visible()
        background = opened.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(255, 255, 255)"
