"""A column's name, a file's first bytes, and the rows of a problem say what they say for any system."""

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from models.common.examination import looks_like_data, offending, plain_name, rank_by_name, shown, suspicion


@pytest.mark.parametrize(
    ("written", "plain"),
    [("UserID", "user_id"), ("userId", "user_id"), (" user-id ", "user_id"), ("HTTPPath", "http_path"), ("ts", "ts")],
)
def test_a_name_is_compared_without_its_dress(written: str, plain: str) -> None:
    assert plain_name(written) == plain


def test_a_plainer_name_ranks_before_a_longer_one_and_a_stranger_has_no_rank() -> None:
    words, endings = ("user", "user_id", "member"), ("id", "key")
    ranks = [
        rank_by_name(name, words, endings) for name in ("User", "user-id", "member", "app_user_id", "my_app_user_id")
    ]
    assert ranks == sorted(ranks, key=lambda rank: -1 if rank is None else rank)
    assert None not in ranks
    assert rank_by_name("user_age", words, endings) is None
    assert rank_by_name("order_id", words, endings) is None


@pytest.mark.parametrize("cell", ["17", "-3.5", "2024-05-17T08:00", "17.05.2024", '{"user": 1', "[1"])
def test_a_value_is_no_name_of_a_column(cell: str) -> None:
    assert looks_like_data(cell)


@pytest.mark.parametrize("name", ["user", "2nd choice", "col_7", "price (EUR)", "été"])
def test_a_name_is_no_value(name: str) -> None:
    assert not looks_like_data(name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"user;item;time\n1;2;3\n", "semicolons"),
        (gzip.compress(b"user\titem\ttime\n1\t2\t3\n", mtime=0), "tabs"),
        (b"5,7,100\n6,7,101\n", "looks like data"),
        (b'[{"user": 1}]', "it is JSON"),
        ("größe,farbe\n".encode("cp1252"), "Windows-1252"),
        (b"\xfd7zXZ\x00\x00", "xz"),
        (b"user,item,time\n1,2,3\n", ""),
        (b"PAR1", ""),
        (b"", ""),
    ],
)
def test_what_a_file_probably_is_follows_from_its_first_bytes(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "file").write_bytes(content)
    found = suspicion(tmp_path / "file")
    assert words in found
    assert bool(words) == bool(found)


def test_a_character_on_the_border_of_what_was_read_is_no_wrong_byte(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a" * 65_535 + "é".encode() + b"\n")
    assert suspicion(tmp_path / "file") == ""
    assert suspicion(tmp_path / "absent") == ""


def test_rows_of_a_problem_are_counted_from_one_and_null_is_no_problem() -> None:
    wrong = [False, True, None, True, True, True]
    (found,) = offending(
        "worth knowing", "odd", "f.csv", "c", wrong, pa.array(["a", "b", "c", None, "e", "f"]), "mend it"
    )
    assert (found.count, found.rows) == (4, ((2, "'b'"), (4, "nothing"), (5, "'e'")))
    assert offending("worth knowing", "odd", "f.csv", "c", [False, None], pa.array([1, 2]), "mend it") == ()


def test_a_value_is_shown_on_one_short_line() -> None:
    assert shown("a\nb") == "'a\\nb'"
    assert len(shown("x" * 500)) == 40
