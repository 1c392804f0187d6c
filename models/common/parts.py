"""Large datasets that are made part by part: what a recipe promises, in labels and numbers.

A recipe surveys its raw files and says which parts there are and where each lies in the whole. A part is made from its
own files alone, so parts are made in any order, by any worker, once: its key is the digest of settings, code and the
content of its files. Parts of fixed extent fill whole shards of the stored arrays, and the whole is put together
without copying a byte; parts that give as many rows as they happen to have are laid end to end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from models.common.configuration import check, setting

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One stored variable.

    Attributes:
        dims: names of its dimensions, in order.
        dtype: as numpy spells it, native byte order: "float32", "int16", "S8".
        attrs: CF attributes: `units`, `long_name`, `standard_name`, ...; JSON values.
        fill: what stands where nothing is known; NaN for floats that have no other.
        chunks: by dimension, what is read at once; a dimension that is left out is read whole.
        shards: by dimension, what one file holds, a multiple of the chunk; left out: the whole dimension.
        low, high: outside these a value is an error of the run; None: no bound.
        missing: share of missing values in a part above which the part is an error of the run, 0 to 1.
        along: dimensions whose entries get statistics of their own, such as ("level",).
    """

    dims: tuple[str, ...]
    dtype: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    fill: float | int | str | None = None
    chunks: Mapping[str, int] = field(default_factory=dict)
    shards: Mapping[str, int] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    missing: float = 1.0
    along: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """One group of the stored dataset.

    Attributes:
        variables: what parts bring; their extents together are `sizes`.
        sizes: length of every dimension; that of `append` is not known before the parts are made and is left out.
        coordinates: name to (dims, values, attrs), known before any part is made.
        attrs: of the group: title, source, references, ...
        append: the dimension along which parts are laid end to end, in the order of the survey; "": every part has a
            place.
    """

    variables: Mapping[str, Variable]
    sizes: Mapping[str, int]
    coordinates: Mapping[str, tuple[tuple[str, ...], "np.ndarray[Any, Any]", Mapping[str, Any]]] = field(
        default_factory=dict
    )
    attrs: Mapping[str, Any] = field(default_factory=dict)
    append: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One piece of work.

    Attributes:
        name: unique in the survey, what a person calls it: "2015-03-01T05 levels 1-32".
        files: paths of the raw files that it reads, as the survey was given them; no others may be read.
        at: group to where its arrays begin along the dimensions in which it does not span the whole; empty for groups
            that are laid end to end. Starts are multiples of the shards.
        about: whatever else the recipe wants to know when it makes the part; JSON values, part of the key.
    """

    name: str
    files: tuple[str, ...] = ()
    at: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What there is to do: parts in their order, and the groups they fill ("" is the root)."""

    parts: tuple[Part, ...]
    groups: Mapping[str, Layout]


@dataclass(frozen=True, kw_only=True)
class PreparationConfig:
    """How the parts of a dataset are made; it does not matter for what is in them."""

    workers: int = setting(
        1,
        "Workers",
        "Local processes that make parts side by side, 1 to 256; 1 works in the flow's own. A Dask scheduler that "
        "settings name has workers of its own.",
        ge=1,
        le=256,
    )
    keep_days: int = setting(
        30,
        "Days of a part",
        "How long a part is kept that this dataset no longer has, for a return to it, in days, 1 to 3650.",
        ge=1,
        le=3650,
    )

    def __post_init__(self) -> None:
        check(self)


class Partitioned(Protocol):
    """A configuration of a dataset that is made part by part."""

    elsewhere: ClassVar[tuple[str, ...]]
    """Names of settings that say which parts there are or where files lie, not what is in a part: `name`, `start`."""

    @property
    def name(self) -> str:
        """Lower case, digits and hyphens; `SYSTEM-NAME` is the dataset's name."""

    def sources(self) -> Mapping[str, str]:
        """Raw files wanted: logical name to a path, a glob or a URL; empty when generated."""

    def survey(self, files: Mapping[str, tuple[Path, ...]]) -> Survey:
        """Look at names and headers, not at data; raises `InputError` that names what is missing and the remedy."""

    def part(self, part: Part) -> Mapping[str, "xr.Dataset"]:
        """Make one part: group to its variables, computed in bounded memory; raises `InputError`.

        Depends on the configuration, the part and the content of its files alone. May be called in any process.
        """

    def export(self, groups: Mapping[str, "xr.Dataset"], folder: Path) -> tuple[Path, ...]:
        """Write the published netCDF files from the stored groups, opened lazily, into a folder; returns them.

        Bounded memory. Names, dims, dtypes, attributes and fills are those of the schema's data file.
        """
