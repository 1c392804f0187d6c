"""What `make prove` keeps, and what its page says of it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

import tests.proof as proof
from tests.proof import Found, Proof, Report, Section, Subject, write


def counted(found: Mapping[str, Found]) -> Report:
    wrong = [f"kills: {name}" for name, piece in found.items() if piece["lost"]]
    return Report([f"{len(found)} kills, {len(wrong)} lost"], wrong)


@pytest.fixture
def section(tmp_path: Path) -> Section:
    tests = tmp_path / "kills.py"
    tests.write_text("kill")
    pieces = {f"kill {number}": lambda _: {"lost": 0} for number in range(3)}
    return Section("kills", "Kills", [tests], lambda _: pieces, counted)


def kept(section: Section, digest: str, lost: int, count: int, monkeypatch: pytest.MonkeyPatch) -> Proof:
    """A proof with some code that has measured the first pieces of a section."""
    monkeypatch.setattr(proof, "code_digest", lambda *_: digest)
    one = Proof(Subject("toy", "Toy", ["models.toy"], [section], "none"), digest)
    for number in range(count):
        one.keep(section, f"kill {number}", {"lost": lost}, 1.0)
    return one


def page(one: Proof, section: Section) -> tuple[str, list[str]]:
    found = {f"kill {number}": one.known(section, f"kill {number}") for number in range(3)}
    return write(one, {"kills": {name: piece for name, piece in found.items() if piece}}, "prove")


def test_a_section_of_older_code_is_shown_as_that_with_the_bars_that_it_missed(
    section: Section, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = kept(section, "b" * 64, 0, 0, monkeypatch)
    assert "Not run with this code." in page(now, section)[0]
    kept(section, "a" * 64, 1, 3, monkeypatch)
    text, missed = page(now, section)
    assert "3 kills, 3 lost" in text
    assert "Measured with older code, `aaaaaaaaaaaa`, and not yet with this." in text
    assert f"| code digest | `{'b' * 64}` |" in text
    assert len(missed) == 3


def test_what_this_code_measured_goes_before_anything_older_even_if_it_is_less(
    section: Section, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(section, "a" * 64, 1, 3, monkeypatch)
    text, missed = page(kept(section, "b" * 64, 0, 2, monkeypatch), section)
    assert "2 kills, 0 lost" in text
    assert "Incomplete: 2 of 3 pieces were run." in text
    assert "older code" not in text
    assert missed == []


def test_neither_a_part_of_a_section_nor_what_other_tests_found_is_shown_for_the_whole(
    section: Section, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(section, "a" * 64, 0, 2, monkeypatch)
    assert "Not run with this code." in page(kept(section, "b" * 64, 0, 0, monkeypatch), section)[0]
    kept(section, "a" * 64, 0, 3, monkeypatch)
    section.tests[0].write_text("kill otherwise")
    assert "Not run with this code." in page(kept(section, "b" * 64, 0, 0, monkeypatch), section)[0]
