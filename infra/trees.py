"""A part of a product that is a folder of files: made elsewhere, checked, and linked into place.

    version/data.zarr/zarr.json
    version/data.zarr/fluxes/uw/c/0/0/0/0

Its files are linked, not copied, where the file system allows it: a file that two versions share is stored once.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.manifest import FileEntry


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A file of a tree.

    Attributes:
        source: where its bytes lie now, on this machine; they never change again.
        length: in bytes.
        sha256: of its bytes, hexadecimal.
    """

    source: Path
    length: int
    sha256: str


@dataclass(frozen=True)
class Tree:
    """Files by their path within the tree, with slashes."""

    leaves: Mapping[str, Leaf]

    def __iter__(self) -> Iterator[tuple[str, Leaf]]:
        return iter(sorted(self.leaves.items()))


def plant(tree: Tree, folder: Path, part: str) -> list[FileEntry]:
    """Put a tree's files below a folder, as the part's entries of a manifest.

    Raises:
        OSError: there is no room, or a source is gone.
    """
    entries, made = [], {folder}
    for path, leaf in tree:
        target = folder / f"{part}.zarr" / path
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        link(leaf.source, target)
        entries.append(FileEntry(part=part, path=f"{part}.zarr/{path}", length=leaf.length, sha256=leaf.sha256))
    for place, _, _ in os.walk(folder / f"{part}.zarr"):
        sync(Path(place))
    return entries


def link(source: Path, target: Path) -> None:
    """The same file under a second name; a durable copy where it lies on another file system."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)
        sync(target)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
