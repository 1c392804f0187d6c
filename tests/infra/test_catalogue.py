"""The catalogue: known content only, and only from where parameters may point."""

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import catalogue
from infra.catalogue import CatalogueError, Entry, allowed, data_roots, fingerprint, locate
from infra.settings import settings


@pytest.fixture
def roots(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    inside = home / "inbox"
    inside.mkdir()
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", f"{inside};s3://bucket/raw;http://127.0.0.1:8443/pub")
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
        "s3://bucket/rawer/x",
        "http://127.0.0.1/x",
        "http://127.0.0.1:8443/private/x",
        "http://127.0.0.1:8443/pub/%2e%2e/private/x",
        "http://127.0.0.1:8443/pub/%252e%252e/private/x",
        "http://127.0.0.1:8443/pub/..",
        "http://127.0.0.1:8443/pub/..%5cprivate",
        "simplecache::s3://bucket/raw/x",
        "s3://bucket/raw/x::file:///etc/passwd",
        "file:///etc/passwd",
    ],
)
def test_a_url_outside_the_data_roots_is_refused(roots: Path, location: str) -> None:
    with pytest.raises(CatalogueError, match="outside the data roots"):
        allowed(location)


@pytest.mark.parametrize(
    ("roots_say", "location"),
    [
        ("http://", "http://127.0.0.1:9/x"),
        ("http://", "http://localhost:9/x"),
        ("http://", "http://[::1]:9/x"),
        ("http://", "http://10.1.2.3/x"),
        ("https://", "https://192.168.0.10/x"),
        ("http://", "http://0.0.0.0:9/x"),
        ("http://", "http://2130706433/x"),
        ("http://", "http://[::ffff:127.0.0.1]/x"),
        ("http://169.254.169.254/", "http://169.254.169.254/latest/meta-data"),
        ("http://", "http://[fe80::1]/x"),
    ],
)
def test_an_address_inside_this_network_is_refused_unless_an_operator_named_it(
    roots: Path, monkeypatch: pytest.MonkeyPatch, roots_say: str, location: str
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", roots_say)
    settings.cache_clear()
    with pytest.raises(CatalogueError, match=r"not a public address|outside the data roots"):
        locate(location)


def test_url_prefixes_may_have_ports(roots: Path) -> None:
    assert data_roots() == (str(roots), "s3://bucket/raw", "http://127.0.0.1:8443/pub")
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


@pytest.fixture
def web(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server on loopback without any mark of its content; /pub/away redirects out."""
    pages: dict[str, bytes] = {"/pub/a.csv": b"item\n1\n", "/private": b"secret"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/pub/away":
                self.send_response(302)
                self.send_header("Location", "/private")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = pages.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", f"{address}/pub")
    settings.cache_clear()
    yield address, pages
    server.shutdown()


def test_a_url_is_copied_and_its_fingerprint_follows_its_content(web: tuple[str, dict[str, bytes]]) -> None:
    address, pages = web
    url = f"{address}/pub/a.csv"
    assert locate(url).read_bytes() == b"item\n1\n"
    before = fingerprint(url)
    pages["/pub/a.csv"] = b"item\n2\n"
    assert fingerprint(url) != before, "content of equal size was taken for the same"
    assert locate(url).read_bytes() == b"item\n2\n"


def test_a_redirect_out_of_the_data_roots_is_not_followed(web: tuple[str, dict[str, bytes]]) -> None:
    with pytest.raises(CatalogueError, match="redirects to /private"):
        locate(f"{web[0]}/pub/away")


def test_a_url_that_does_not_exist_says_so(web: tuple[str, dict[str, bytes]]) -> None:
    with pytest.raises(CatalogueError, match="cannot be reached"):
        locate(f"{web[0]}/pub/nothing.csv")
