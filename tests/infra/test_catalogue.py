"""The catalogue: known content only, and only from where parameters may point."""

import gzip
import hashlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from infra import catalogue
from infra.catalogue import CatalogueError, Entry, allowed, data_roots, fingerprint, locate
from infra.settings import PROJECT, settings


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


INNER = ("127.0.0.1", "10.1.2.3", "192.168.0.10", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1")  # noqa: S104
PUBLIC = "8.8.4.4"


def low(prefix: str) -> Callable[[int], int]:
    """Writes an IPv4 address into the last bits behind a prefix."""
    return lambda inner: int(IPv6Address(prefix)) | inner


CARRIERS: dict[str, Callable[[int], int]] = {
    "mapped": low("::ffff:0:0"),
    "compatible": low("::"),
    "translated": low("::ffff:0:0:0"),
    "NAT64": low("64:ff9b::"),
    "6to4": lambda inner: 0x2002 << 112 | inner << 80 | 1,
    "local NAT64": low("64:ff9b:1::"),
    # RFC 6052, 2.2: 64:ff9b:1:AABB:00CC:DD00::
    "local NAT64 around byte 8": lambda inner: 0x64FF9B0001 << 80 | inner >> 16 << 64 | (inner & 0xFFFF) << 40,
    "Teredo client": lambda inner: 0x20010000 << 96 | int(IPv4Address(PUBLIC)) << 64 | inner ^ 0xFFFFFFFF,
    "Teredo server": lambda inner: 0x20010000 << 96 | inner << 64 | int(IPv4Address(PUBLIC)) ^ 0xFFFFFFFF,
}


def carried(carrier: str, inner: str) -> str:
    """An address with another in it; written out, for a URL with :: in it is refused as a chain of file systems."""
    return IPv6Address(CARRIERS[carrier](int(IPv4Address(inner)))).exploded


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_inner_address_is_refused_within_an_ipv6_address_too(
    roots: Path, monkeypatch: pytest.MonkeyPatch, carrier: str, inner: str
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", "http://")
    settings.cache_clear()
    with pytest.raises(CatalogueError, match="not a public address"):
        allowed(f"http://[{carried(carrier, inner)}]/x")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_credentials_of_a_cloud_are_refused_within_an_ipv6_address_even_when_an_operator_named_it(
    roots: Path, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    host = f"http://[{carried(carrier, '169.254.169.254')}]"
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", host)
    settings.cache_clear()
    with pytest.raises(CatalogueError, match="not a public address"):
        allowed(f"{host}/latest/meta-data")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_operator_may_name_an_inner_address_within_an_ipv6_address(
    roots: Path, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    host = f"http://[{carried(carrier, '10.1.2.3')}]"
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", host)
    settings.cache_clear()
    assert allowed(f"{host}/x") == f"{host}/x"


@pytest.mark.parametrize("carrier", ["compatible", "NAT64", "6to4"])
def test_a_public_address_within_an_ipv6_address_may_be_read(
    roots: Path, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", "http://")
    settings.cache_clear()
    url = f"http://[{carried(carrier, PUBLIC)}]/x"
    assert allowed(url) == url


@pytest.mark.parametrize("inner", ["fec0::1", "64:ff9b:1::808:404", "fc00::1"])
def test_ipv6_addresses_of_a_network_of_ones_own_are_refused(
    roots: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", "http://")
    settings.cache_clear()
    with pytest.raises(CatalogueError, match="not a public address"):
        allowed(f"http://[{IPv6Address(inner).exploded}]/x")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=planted", "X-Amz-Algorithm"),
        ("?x-goog-signature=planted", "x-goog-signature"),
        ("?sv=2024&SIG=planted", "SIG"),
        ("?AWSAccessKeyId=planted&Signature=planted&Expires=1", "AWSAccessKeyId"),
        ("?file=a.csv&access_token=planted", "access_token"),
        ("?api%5Fkey=planted", "api_key"),
        ("?a=b;password=planted", "password"),
        ("?client_secret=planted", "client_secret"),
        ("?Expires=1767225600", "Expires"),
        ("#token=planted", "token"),
    ],
)
def test_a_signed_query_is_refused_by_the_name_of_its_parameter_alone(roots: Path, query: str, named: str) -> None:
    for place in ("s3://bucket/raw/x.csv", "http://127.0.0.1:8443/pub/x.csv", "https://elsewhere/x.csv"):
        for ask in (locate, fingerprint):
            with pytest.raises(
                CatalogueError, match=f"was given with '{named}' in its query, which everybody"
            ) as caught:
                ask(place + query)
            assert repr(place) in str(caught.value)
            assert "planted" not in str(caught.value)


def test_a_user_or_password_is_refused_and_not_repeated(roots: Path) -> None:
    for location in (
        "s3://planted@bucket/raw/x.csv",
        "https://u:planted@example.org/x.csv",
        "https://u:planted/planted@example.org/x.csv",
        "https://u:planted@planted/planted@example.org/x.csv",
        "filecache::https://example.org/x::s3://k:planted@bucket/x",
    ):
        with pytest.raises(CatalogueError, match="was given with a user or password") as caught:
            allowed(location)
        assert "planted" not in str(caught.value)


@pytest.mark.parametrize("rest", ["x@y.csv", "x.csv?version=3", "x.csv?monkeys=1&keyword=a&design=b#part=2"])
def test_an_address_without_credentials_may_have_an_at_and_a_query(roots: Path, rest: str) -> None:
    for prefix in ("s3://bucket/raw", "http://127.0.0.1:8443/pub"):
        assert allowed(f"{prefix}/{rest}") == f"{prefix}/{rest}"


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


def test_whatever_a_preset_names_is_in_the_catalogue() -> None:
    named = {
        (entry, file)
        for module in (PROJECT / "models").rglob("*.py")
        for entry, file in re.findall(r"catalogue:([a-z0-9-]+)/([\w.-]+\w)", module.read_text())
    }
    assert len(named) >= 4
    assert [f"{entry}/{file}" for entry, file in named if file not in catalogue.ENTRIES[entry].files] == []


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
    """A server on loopback without any mark of its content; /pub/away redirects out.

    So does GET of /pub/405, whose HEAD is not answered, and of /pub/200, whose HEAD is; both with a body.
    """
    pages: dict[str, bytes] = {"/pub/a.csv": b"item\n1\n", "/private": b"secret"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path in ("/pub/away", "/pub/405", "/pub/200"):
                get = self.command == "GET" or self.path == "/pub/away"
                self.send_response(302 if get else int(self.path[-3:]))
                if get:
                    self.send_header("Location", "/private?sig=planted")
                self.send_header("Content-Length", "5")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(b"moved")
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


@pytest.mark.parametrize("head", [405, 200])
def test_a_redirect_that_only_get_is_answered_with_is_refused_and_its_body_is_no_data(
    web: tuple[str, dict[str, bytes]], head: int
) -> None:
    for ask in (fingerprint, locate):
        with pytest.raises(CatalogueError, match=rf"/pub/{head} redirects to /private; name that location") as caught:
            ask(f"{web[0]}/pub/{head}")
        assert not isinstance(caught.value.__cause__, FileNotFoundError), "a redirect was taken for a missing file"
    assert not list((settings().scratch / "downloads").glob("*"))


def test_a_redirect_that_comes_while_content_is_read_is_refused(
    web: tuple[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "fingerprint", lambda _: "as before")
    with pytest.raises(CatalogueError, match="redirects to /private"):
        locate(f"{web[0]}/pub/200")


def test_a_copy_is_named_after_the_path_with_a_digest_for_the_query_and_never_too_long(
    web: tuple[str, dict[str, bytes]],
) -> None:
    address, pages = web
    pages |= {f"/pub/a.csv?version={n}": str(n).encode() for n in range(2)}
    copies = [locate(f"{address}/pub/a.csv?version={n}") for n in range(2)]
    assert [copy.read_bytes() for copy in copies] == [b"0", b"1"]
    assert all(copy.name.endswith("-a.csv") and "version" not in copy.name for copy in copies)
    for long in (f"/pub/{'n' * 400}.csv", f"/pub/b.csv?{'q' * 400}=1&x=a/b", f"/pub/{'%C3%A4' * 90}.csv"):
        pages[long] = b"long"
        copy = locate(address + long)
        assert copy.read_bytes() == b"long"
        assert copy.suffix == ".csv"
        assert len(copy.name.encode()) <= 100


def test_a_url_that_does_not_exist_says_so(web: tuple[str, dict[str, bytes]]) -> None:
    with pytest.raises(CatalogueError, match="cannot be reached"):
        locate(f"{web[0]}/pub/nothing.csv")


def test_a_pattern_means_the_files_that_fit_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(tmp_path))
    settings.cache_clear()
    for name in ("b/2.nc", "a/1.nc", "a/3.txt", "a/odd[1].nc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [path.read_text() for path in catalogue.find(f"{tmp_path}/*/?.nc")] == ["a/1.nc", "b/2.nc"]
    assert [path.read_text() for path in catalogue.find(f"{tmp_path}/**/*.txt")] == ["a/3.txt"]
    assert [path.read_text() for path in catalogue.find(f"{tmp_path}/a/odd[1].nc")] == ["a/odd[1].nc"]
    with pytest.raises(CatalogueError, match="no file fits"):
        catalogue.find(f"{tmp_path}/*.grib")
    with pytest.raises(CatalogueError, match="upwards"):
        catalogue.find(f"{tmp_path}/*/../../secret")


def test_a_pattern_leads_out_of_the_data_roots_neither_by_itself_nor_by_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir(), outside.mkdir()
    (outside / "secret.nc").write_text("secret")
    (inside / "link.nc").symlink_to(outside / "secret.nc")
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(inside))
    settings.cache_clear()
    for location in (f"{outside}/*.nc", f"{inside}/*.nc"):
        with pytest.raises(CatalogueError):
            catalogue.find(location)


def test_the_mark_of_a_pattern_changes_with_a_file_and_with_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(tmp_path))
    settings.cache_clear()
    (tmp_path / "1.nc").write_text("one")
    marks = [catalogue.fingerprint(f"{tmp_path}/*.nc")]
    (tmp_path / "1.nc").write_text("two")
    marks.append(catalogue.fingerprint(f"{tmp_path}/*.nc"))
    (tmp_path / "2.nc").write_text("two")
    marks.append(catalogue.fingerprint(f"{tmp_path}/*.nc"))
    assert len(set(marks)) == 3
