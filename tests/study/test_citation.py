"""BibTeX entries are found by arXiv id and DOI, and the shipped file is in order."""

import re

import pytest

from thermolearn.study.citation import bibtex, bibtex_of, read_entries, references_file
from thermolearn.study.contract import bare_paper

BIB = """A comment.

@article{amit1985storing,
  title = {Storing {Infinite} Numbers of Patterns},
  doi = {10.1103/PhysRevLett.55.1530},
  year = 1985,
}

@misc{agliari2021emergence,
  title = "The emergence",
  eprint = {2109.00454},
}
"""


@pytest.fixture
def bib(tmp_path):
    file = tmp_path / "x.bib"
    file.write_text(BIB, encoding="utf-8")
    return file


def test_entries(bib):
    (first, fields), (second, others) = read_entries(bib)
    assert first.startswith("@article{amit1985storing,") and first.endswith("year = 1985,\n}")
    assert fields["title"] == "Storing {Infinite} Numbers of Patterns"
    assert second.endswith("}") and others == {"title": "The emergence", "eprint": "2109.00454"}


def test_found_by_either_name_in_the_order_asked(bib):
    text = bibtex_of(["arXiv:2109.00454", "doi:10.1103/physrevlett.55.1530"], bib)
    assert re.findall(r"@\w+\{(\w+)", text) == ["agliari2021emergence", "amit1985storing"]
    with pytest.raises(ValueError, match=r"x\.bib has no entry of arXiv:2204\.07954; add one"):
        bibtex_of(["arXiv:2204.07954"], bib)


def test_a_damaged_file_is_an_error(bib):
    bib.write_text(BIB.replace("1985,\n}", "1985,\n"), encoding="utf-8")
    with pytest.raises(ValueError, match="braces of 'amit1985storing' do not match"):
        read_entries(bib)
    bib.write_text(BIB + BIB, encoding="utf-8")
    with pytest.raises(ValueError, match="'amit1985storing' appears twice"):
        read_entries(bib)


def test_the_shipped_file_is_in_order():
    entries = read_entries(references_file())
    papers = [bare_paper(fields.get("eprint") or fields.get("doi", "")) for _, fields in entries]
    assert len(papers) == len(set(papers)) and all(papers)
    for text, fields in entries:
        assert {"title", "author", "year"} <= fields.keys() or "year = " in text, text


def test_of_a_paper():
    one = bibtex("arXiv:2112.10852v1")
    assert one == bibtex("2112.10852") and one.count("@") == 1 and "2112.10852" in one
    assert "10.1103/PhysRevLett.61.259" in bibtex("doi:10.1103/PhysRevLett.61.259")
    with pytest.raises(ValueError, match="no system of the paper"):
        bibtex("2112.99999")


def test_of_a_system(coin, bib, monkeypatch):
    monkeypatch.setattr("thermolearn.study.citation.references_file", lambda: bib)
    assert bibtex("coin") == bibtex(coin)
    assert bibtex("coin").startswith("@misc{agliari2021emergence")
