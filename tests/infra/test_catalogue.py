"""The catalogue: known content only, and only from where parameters may point."""

import gzip
import hashlib
from pathlib import Path

import pytest

from infra import catalogue
from infra.catalogue import CatalogueError, Entry, allowed, data_roots, fingerprint, locate
from infra.settings import settings


@pytest.fixture
def roots(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    inside = home / "inbox"
    inside.mkdir()
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", f"{inside}:s3://bucket/raw")
    settings.cache_clear()
    return inside


def test_a_file_under_a_data_root_is_found_and_fingerprinted_by_content(roots: Path) -> None:
    file = roots / "items.csv"
    file.write_text("item\n1\n")
    assert locate(str(file)) == file
    before = fingerprint(str(file))
    file.write_text("item\n2\n")
    assert fingerprint(str(file)) != before


def test_a_path_outside_the_data_roots_is_refused_even_through_a_link(roots: Path, home: Path) -> None:
    secret = home / "secret.csv"
    secret.write_text("x")
    (roots / "link.csv").symlink_to(secret)
    for location in (str(secret), str(roots / ".." / "secret.csv"), str(roots / "link.csv"), "/etc/passwd"):
        with pytest.raises(CatalogueError, match="outside the data roots"):
            locate(location)


@pytest.mark.parametrize(
    "location",
    [
        "s3://other/raw/x.csv",
        "s3://bucket/raw/../x.csv",
        "http://127.0.0.1/x",
        "file:///etc/passwd",
        "s3://bucket/rawer/x",
    ],
)
def test_a_url_outside_the_data_roots_is_refused(roots: Path, location: str) -> None:
    with pytest.raises(CatalogueError, match="outside the data roots"):
        allowed(location)


def test_a_url_prefix_survives_the_split_of_the_setting(roots: Path) -> None:
    assert data_roots() == (str(roots), "s3://bucket/raw")
    assert allowed("s3://bucket/raw/x.csv") == "s3://bucket/raw/x.csv"


def test_a_missing_file_says_so(roots: Path) -> None:
    with pytest.raises(CatalogueError, match="expected a file, found none"):
        locate(str(roots / "nothing.csv"))


@pytest.fixture
def mirror(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    content = b"item\n1\n"
    entry = Entry(name="toy", licence="ours", origin="here", files={"a.csv.gz": hashlib.sha256(content).hexdigest()})
    monkeypatch.setitem(catalogue.ENTRIES, "toy", entry)
    monkeypatch.setenv("HEADRACE_MIRROR", str(home / "mirror"))
    settings.cache_clear()
    file = home / "mirror" / "toy" / "a.csv.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(gzip.compress(content))
    return file


def test_a_catalogue_file_comes_from_the_mirror_whatever_compressed_it(mirror: Path) -> None:
    assert locate("catalogue:toy/a.csv.gz") == mirror


def test_changed_content_is_refused(mirror: Path) -> None:
    mirror.write_bytes(gzip.compress(b"item\n2\n"))
    with pytest.raises(CatalogueError, match="expected SHA-256"):
        locate("catalogue:toy/a.csv.gz")
    mirror.write_bytes(b"not gzip")
    with pytest.raises(CatalogueError, match="cannot be read"):
        locate("catalogue:toy/a.csv.gz")


def test_an_unknown_entry_or_file_names_the_known_ones(mirror: Path) -> None:
    with pytest.raises(CatalogueError, match=r"no entry 'toi'; it has .*toy"):
        locate("catalogue:toi/a.csv.gz")
    with pytest.raises(CatalogueError, match=r"no file 'b.csv'; it has a\.csv\.gz"):
        locate("catalogue:toy/b.csv")


def test_without_a_mirror_the_origin_is_named(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_MIRROR")
    settings.cache_clear()
    with pytest.raises(CatalogueError, match="get it from here and name its parent folder in HEADRACE_MIRROR"):
        locate("catalogue:toy/a.csv.gz")
