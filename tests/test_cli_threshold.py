"""The command `threshold`: its words, its numbers, its refusals in one line."""

import re

import numpy as np
import pytest
from typer.testing import CliRunner

from thermolearn.cli import app
from thermolearn.predict.exponents import ErrorExponents, guaranteed_threshold

RNG = np.random.default_rng(0)
NEGATIVES, POSITIVES = RNG.normal(size=600), RNG.normal(size=200) + 1


def write(path, negatives, positives, header="id,score,label"):
    rows = [(x, 0) for x in negatives] + [(x, 1) for x in positives]
    lines = [header, *(f"case {k},{float(x)!r},{y}" for k, (x, y) in enumerate(rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "scores.csv", NEGATIVES, POSITIVES)


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["threshold", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def error(*arguments):
    lines = run(*arguments, code=2).stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_what_is_guaranteed_and_what_is_modelled(file):
    said = run(file, "--false-alarm", "0.02").stdout
    expected = guaranteed_threshold(NEGATIVES, 0.02, 0.95, POSITIVES)
    promised, modelled = said.split("model-based, not guaranteed")
    assert "scores.csv, 600 negatives and 200 positives" in promised
    assert f"guaranteed threshold: {expected.threshold!r}\n" in promised
    assert "with confidence 0.95, at most 0.02 of new negatives" in promised
    assert f"number {expected.rank} of 600 negatives" in promised
    assert "independent" in promised and "neither trained on" in promised
    assert f"expected false alarm: {expected.expected_false_alarm:.3g}" in promised
    low = expected.miss_interval[0]
    assert f"missed positives: {expected.miss:.4g}, with confidence 0.95 in [{low:.3g}" in promised
    detector = ErrorExponents(NEGATIVES, POSITIVES)
    assert f"I = {detector.chernoff_point()[1]} per observation" in modelled
    at = float(detector.threshold(10, 0.02))
    assert f" {at!r} " in modelled and f"{float(detector.miss(10, at)):.3g}" in modelled
    assert "not to be trusted (a)" in modelled and "(a) " in modelled


def test_decisions_of_many_observations(file):
    said = run(file, "--false-alarm", "0.05", "--observations", "5").stdout
    assert "if the mean score of 5 observations is above it" in said
    assert "of 120 means of 5 negatives" in said
    assert "threshold for a false alarm of 0.05 at 5 observations" in said


def test_too_few_for_means_leaves_the_model(file):
    said = run(file, "--false-alarm", "0.05", "--observations", "25", code=1).stdout
    assert "no guaranteed threshold: 600 negatives make 24 decisions of 25" in said
    assert "at least 1475 negatives" in said and "\nguaranteed threshold: " not in said
    assert "threshold for a false alarm of 0.05 at 25 observations" in said


def test_too_few_negatives_are_refused(tmp_path):
    few = write(tmp_path / "few.csv", NEGATIVES[:298], POSITIVES)
    for n, needed in ((1, 299), (2, 598)):  # with a model, whatever the number of observations
        said = run(few, "--observations", n, code=1).stdout
        assert "no guaranteed threshold: 298 negatives" in said
        assert f"at least {needed} negatives" in said
        assert f"threshold for a false alarm of 0.01 at {n} observation" in said
    run(write(tmp_path / "enough.csv", NEGATIVES[:299], POSITIVES))


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_negatives_for_any_threshold(tmp_path, n):
    few = write(tmp_path / "few.csv", NEGATIVES[:40], POSITIVES)
    assert "40 negatives" in error(few, "--observations", n)
    assert "are too few to guarantee" in error(few, "--observations", n)


@pytest.mark.parametrize("observations", [1, 5])
def test_the_printed_thresholds_applied_to_the_scores(tmp_path, observations):
    rng = np.random.default_rng(1)
    thirds = rng.choice(4, 3000, p=[0.6, 0.395, 0.004, 0.001]) / 3
    logits = rng.normal(size=3000) * 3 + 10
    for name, scores, more in (
        ("thirds", thirds, rng.choice(4, 500, p=[0.1, 0.2, 0.3, 0.4]) / 3),
        ("far", 1.7e9 + rng.normal(size=3000), 1.7e9 + 1 + rng.normal(size=300)),
        ("sigmoid", 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-6 - logits[:500]))),
    ):
        file = write(tmp_path / f"{name}.csv", scores, more)
        said = run(file, "--observations", observations).stdout
        found = guaranteed_threshold(scores, 0.01, observations=observations)
        printed = float(re.search(r"guaranteed threshold: (\S+)\n", said)[1])
        assert printed == found.threshold
        if observations == 1:
            assert (scores > printed).mean() <= 0.01
        detector = ErrorExponents(scores, more)
        rows = dict(re.findall(r"^ +(\d+) +(\S+) +\[", said, re.MULTILINE))
        for n in (2, 10):
            assert float(rows[str(n)]) == float(detector.threshold(n, 0.01))
        assert f", at {float(detector.chernoff_point()[0])!r} +- " in said


def test_a_flag_is_said_once(tmp_path):
    file = write(tmp_path / "few.csv", NEGATIVES[:100], POSITIVES[:60])
    said = run(file, "--observations", 2, code=1).stdout
    lines = [line for line in said.splitlines() if "ESS" in line]
    assert lines and all(line.count("ESS") == 1 for line in lines)


def test_a_saddle_point_that_is_off_is_said(tmp_path):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=3000) * 3 + 10, rng.normal(size=500) * 3 + 16
    file = write(tmp_path / "s.csv", *(1 / (1 + np.exp(-z)) for z in logits))
    said = run(file).stdout
    row = next(line for line in said.splitlines() if line.startswith("   2  "))
    mark = re.search(r"not to be trusted \((\w)", row)[1]
    assert re.search(rf"\({mark}\) saddle point off: 0\.3\d by resampled scores", said)


def test_without_positives_and_with_few(tmp_path):
    none = run(write(tmp_path / "none.csv", NEGATIVES, [])).stdout
    assert "missed positives: unknown" in none and "none: positives: 0 scores are too few" in none
    some = run(write(tmp_path / "some.csv", NEGATIVES, POSITIVES[:20])).stdout
    assert "from 20 decisions" in some and "20 scores are too few; give at least 50" in some


def test_classes_without_overlap_and_heavy_tails(tmp_path):
    apart = run(write(tmp_path / "apart.csv", NEGATIVES, POSITIVES + 20)).stdout
    assert "no exponent: " in apart and "hardly overlap" in apart and "not known" in apart
    heavy = RNG.standard_t(2, 3000)
    said = run(write(tmp_path / "heavy.csv", heavy, heavy[:500] + 2)).stdout
    assert "heavy upper tail" in said and "guaranteed threshold: " in said


@pytest.mark.parametrize("name", ["p.png", "p.svg", "p.pdf"])
def test_a_plot(file, tmp_path, name):
    said = run(file, "--plot", tmp_path / name).stdout
    assert (tmp_path / name).stat().st_size > 5000 and f"{name}" in said


def test_a_plot_without_a_model(tmp_path):
    file = write(tmp_path / "none.csv", NEGATIVES, [])
    run(file, "--plot", tmp_path / "p.svg")
    assert "guaranteed threshold" in (tmp_path / "p.svg").read_text(encoding="utf-8")


def test_columns_by_name_and_parquet(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    scores, labels = np.append(NEGATIVES, POSITIVES), np.repeat([False, True], [600, 200])
    parquet.write_table(pa.table({"logit": scores, "ill": labels}), tmp_path / "s.parquet")
    write(tmp_path / "s.csv", NEGATIVES, POSITIVES, "who,logit,ill")
    names = ("--score", "logit", "--label", "ill")
    said = [run(tmp_path / f, *names).stdout.split("\n", 1)[1] for f in ("s.csv", "s.parquet")]
    assert said[0] == said[1]
    assert "the columns are who, logit, ill. --score and --label" in error(tmp_path / "s.csv")


def test_bad_files(tmp_path):
    assert "no file" in error(tmp_path / "none.csv")
    (tmp_path / "empty.csv").touch()
    assert "is empty" in error(tmp_path / "empty.csv")
    (tmp_path / "s.txt").write_text("score,label\n1,0\n", encoding="utf-8")
    assert ".csv and .parquet" in error(tmp_path / "s.txt")
    cases = {
        "score,label\n1,0\n2,2\n": "holds 2 at row 3",
        "score,label\n1,no\n2,yes\n": "'label' holds text",
        "score,label\n,0\n2,1\n": "'score' is missing or NaN at row 2",
        "score,label\nx,0\n2,1\n": "'score' holds text",
        "score,score,label\n1,2,0\n": "has 2 columns 'score'",
        "score,label\n" + "1,0\n" * 400: "all 400 scores are 1",
        "score,label\n" + "1,1\n2,1\n" * 50: "0 negatives are too few",
    }
    for text, words in cases.items():
        (tmp_path / "s.csv").write_text(text, encoding="utf-8")
        assert words in error(tmp_path / "s.csv")
    inverted = write(tmp_path / "s.csv", POSITIVES, NEGATIVES)
    assert "the classifier is inverted" in error(inverted)


def test_bad_options(file, tmp_path):
    assert "false_alarm must be in (0, 1)" in error(file, "--false-alarm", "1")
    assert "confidence must be in (0, 1)" in error(file, "--confidence", "0")
    assert "observations must be" in error(file, "--observations", "0")
    assert ".pdf, .svg or .png" in error(file, "--plot", tmp_path / "p.txt")
    assert "also an input" in error(file, "--plot", file)


def test_one_positive_does_not_take_the_guarantee_away(tmp_path):
    write(tmp_path / "s.csv", NEGATIVES, [2.5])
    said = run(tmp_path / "s.csv").stdout
    assert "guaranteed threshold" in said and "from 1 decisions" in said


def test_scores_that_are_all_equal(tmp_path):
    write(tmp_path / "s.csv", np.ones(600), np.ones(200))
    assert "all 800 scores are 1; a constant score decides nothing" in error(tmp_path / "s.csv")
