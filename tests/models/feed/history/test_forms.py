"""The comparison of forms keeps its trainings: a call that was cut off goes on, one that is repeated trains nothing."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _trained, history_forms

SMALL = ["--seeds", "2", "--users", "40", "--epochs", "1", "--history", "12"]


def rows(printed: str) -> list[str]:
    """The tables, without the line that has the day."""
    return [line for line in printed.splitlines() if line.startswith("| ")]


def test_trainings_are_found_again_and_a_call_that_was_cut_off_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*SMALL, "--runs", str(tmp_path)]
    history_forms.main([*options, "--most", "1e-9"])
    assert "call again to go on" in capsys.readouterr().out
    assert not list(tmp_path.glob("*/run.json"))
    history_forms.main(options)
    first = rows(capsys.readouterr().out)
    assert len(list(tmp_path.glob("*/run.json"))) == 4, "two forms, two seeds"

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("this training was there already")

    monkeypatch.setattr(_trained, "fit", never)
    history_forms.main(options)
    assert rows(capsys.readouterr().out) == first
    (pair,) = (row for row in first if row.startswith("| append - concat"))
    exact, low, high = map(float, re.findall(r"[+-]\d\.\d{4}", pair)[:3])
    assert low <= exact <= high
    with pytest.raises(AssertionError, match="there already"):
        history_forms.main([*options, "--epochs", "2"])


def test_a_folder_without_movielens_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        history_forms.main(["--data", str(tmp_path)])
    assert "one *.inter and one *.item" in capsys.readouterr().err
