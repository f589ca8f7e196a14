"""Runs the code of how_many_examples.md and writes its output and its figure back into the docs.

python docs/how_many_examples.py
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
BLOCKS = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def run_page(text: str) -> list[tuple[str, str]]:
    """(printed output, output shown on the page) of every block, run in one namespace."""
    names: dict[str, object] = {}
    outputs = []
    for code, shown in BLOCKS.findall(text):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "how_many_examples.md", "exec"), names)
        outputs.append((printed.getvalue(), shown))
    return outputs


def main() -> None:
    page = DOCS / "how_many_examples.md"
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        printed = iter([output for output, _ in run_page(text)])
        picture = Path("how_many_examples.png").read_bytes()
    (DOCS / "images" / "how_many_examples.png").write_bytes(picture)

    def filled(match: re.Match[str]) -> str:
        output = next(printed)
        shown = f"\n```text\n{output}```\n" if match[2] is not None or output else ""
        return f"```python\n{match[1]}```\n{shown}"

    page.write_text(BLOCKS.sub(filled, text), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
