"""How far a prepared dataset is from its raw files: parts are made again by other code, the whole is counted again.

Nothing here knows how a part was made, stored or put together: it gets what is stored, opened lazily and undecoded, and
what a slow reference makes of the raw files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Claim

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]

STATISTICS = 1e-12
"""Relative distance that the stored mean and deviation may have from those that are computed again."""

ROWS_AT_ONCE = 1 << 21
"""Values that are held while statistics are computed again."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a stored variable differs from its reference in the parts that were made again.

    Attributes:
        largest: largest distance, relative to the largest magnitude of the reference; infinite where one side lacks a
            value that the other has, or text or lengths differ.
        values: how many were compared.
        where: the part with the largest distance.
    """

    largest: float
    values: int
    where: str


def differences(
    groups: Mapping[str, "xr.Dataset"],
    remade: Sequence[tuple[str, Mapping[str, Mapping[str, slice]], Mapping[str, "xr.Dataset"]]],
) -> dict[str, Difference]:
    """Compare parts that were made again with what is stored in their place.

    Args:
        groups: the stored dataset.
        remade: name of a part; group to where it lies in the whole along some dimensions, without an end where it is
            as long as the reference says; and what the reference says.

    Returns:
        "GROUP/VARIABLE" to its difference.

    Raises:
        KeyError: a variable of the reference is not stored.
    """
    found: dict[str, Difference] = {}
    for name, place, labelled in remade:
        for group, reference in labelled.items():
            for variable in map(str, reference.data_vars):
                stored = groups[group][variable]
                other = reference[variable].transpose(*stored.dims)
                cut = {
                    dim: at if at.stop is not None else slice(at.start, at.start + other.sizes[dim])
                    for dim, at in place.get(group, {}).items()
                    if dim in stored.dims
                }
                ours, theirs = np.asarray(stored.isel(cut).values), np.asarray(other.values)
                one = Difference(largest=distance(ours, theirs), values=theirs.size, where=name)
                key = f"{group}/{variable}"
                before = found.get(key)
                worst = one if before is None or one.largest > before.largest else before
                found[key] = Difference(
                    largest=worst.largest, values=one.values + (before.values if before else 0), where=worst.where
                )
    return found


def distance(stored: Array, reference: Array) -> float:
    """Largest distance of two arrays, relative to the largest magnitude of the second.

    Args:
        stored: what is stored.
        reference: what should be; times may be given as `datetime64`.

    Returns:
        0 for equal arrays; infinite where shapes, text, or the places of missing values differ.
    """
    if stored.shape != reference.shape:
        return math.inf
    if reference.dtype.kind == "M":
        reference = reference.astype("datetime64[s]").astype(np.int64)
    if stored.dtype.kind in "OSUT" or reference.dtype.kind in "OSUT":
        return 0.0 if np.array_equal(_text(stored), _text(reference)) else math.inf
    a, b = stored.astype(np.float64), reference.astype(np.float64)
    absent = np.isnan(b)
    if not np.array_equal(np.isnan(a), absent):
        return math.inf
    if not b.size or absent.all():
        return 0.0
    scale = float(np.nanmax(np.abs(b)))
    largest = float(np.nanmax(np.abs(a - b)))
    return largest / scale if scale and math.isfinite(scale) else (0.0 if not largest else math.inf)


def _text(values: Array) -> Array:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    return np.array([str(one) for one in values.ravel()], dtype=object).reshape(values.shape)


def claims_of_parts(
    found: Mapping[str, Difference], tolerances: Mapping[str, float], parts: int, of: int, fewer: str = ""
) -> list[Claim]:
    """One claim for every group: exact where no tolerance is declared, else bounded by it.

    Args:
        found: from `differences`.
        tolerances: "GROUP/VARIABLE", or the variable alone, to the relative distance that it may have.
        parts: how many parts were made again.
        of: how many there are.
        fewer: in words, what of these parts was made again, where it was not all: "2 levels, drawn, of ".
    """
    claims = []
    for exact in (True, False):
        rows = {}
        for key, one in found.items():
            limit = tolerances.get(key, tolerances.get(key.partition("/")[2], 0.0))
            if (limit == 0) == exact:
                rows[key] = (one, limit)
        if not rows:
            continue
        worst = max(
            rows, key=lambda key: (rows[key][0].largest / rows[key][1]) if rows[key][1] else rows[key][0].largest
        )
        one, limit = rows[worst]
        values = sum(row.values for row, _ in rows.values())
        claims.append(
            Claim(
                name="difference_of_remade_parts" if exact else "relative_difference_of_remade_parts",
                kind="exact" if exact else "bounded",
                value=one.largest,
                limit=limit,
                detail=f"{values:,} values of {len(rows)} variables in {fewer}{parts} of {of} parts, made again from "
                f"raw input by a reference without the recipe's code; the worst is {worst} in {one.where}.",
            )
        )
    return claims


def claim_of_statistics(
    groups: Mapping[str, "xr.Dataset"], statistics: Mapping[str, Any], names: Sequence[str], fills: Mapping[str, Any]
) -> Claim:
    """The stored mean and deviation against those of two passes over the stored values, in another order.

    Args:
        groups: the stored dataset.
        statistics: as published: "GROUP/VARIABLE" to `mean`, `deviation`, `count`, `minimum`, `maximum`.
        names: which are looked at.
        fills: "GROUP/VARIABLE" to the value that means missing.
    """
    worst, where = 0.0, "none"
    for name in names:
        group, _, variable = name.partition("/")
        stored, published = groups[group][variable], statistics[name]
        shape = np.shape(published["mean"])
        axes = _kept(stored, shape)
        again = _two_passes(stored, axes, fills.get(name))
        for key, theirs in again.items():
            ours = np.array(published[key], np.float64)
            gap = _relative(ours, theirs, np.maximum(np.abs(again["mean"]), again["deviation"]))
            if gap > worst or math.isnan(gap):
                worst, where = gap, f"{key} of {name}"
    return Claim(
        name="statistics_difference",
        kind="bounded",
        value=worst,
        limit=STATISTICS,
        detail=f"count, mean, deviation and extremes of {len(names)} variables, computed again in two passes over the "
        f"stored values in other pieces; the worst is {where}.",
    )


def _kept(stored: "xr.DataArray", shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes whose entries have statistics of their own, found by their lengths."""
    axes: list[int] = []
    for length in shape:
        axes.append(next(axis for axis in range(stored.ndim) if stored.shape[axis] == length and axis not in axes))
    return tuple(axes)


def _two_passes(stored: "xr.DataArray", keep: tuple[int, ...], fill: Any) -> dict[str, Array]:
    """Count, mean, deviation and extremes in extended precision, slab by slab along the longest other dimension."""
    others = [axis for axis in range(stored.ndim) if axis not in keep]
    shape = tuple(stored.shape[axis] for axis in keep)
    if not others or 0 in stored.shape:
        values = _flat(np.asarray(stored.values), keep, fill)
        slabs = [slice(None)]
        axis = None
    else:
        axis = max(others, key=lambda one: stored.shape[one])
        per = max(1, stored.size // stored.shape[axis])
        step = max(1, ROWS_AT_ONCE // per)
        slabs = [slice(start, start + step) for start in range(0, stored.shape[axis], step)][::-1]
    count = np.zeros(shape, np.int64).ravel()
    total = np.zeros(shape, np.longdouble).ravel()
    low, high = np.full(count.shape, math.inf), np.full(count.shape, -math.inf)
    for slab in slabs:
        values = _flat(_slab(stored, axis, slab), keep, fill)
        present = ~np.isnan(values)
        count += present.sum(1)
        total += np.where(present, values, 0).sum(1, dtype=np.longdouble)
        if values.shape[1]:
            low = np.fmin(low, np.where(present, values, math.inf).min(1))
            high = np.fmax(high, np.where(present, values, -math.inf).max(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
    square = np.zeros(count.shape, np.longdouble)
    for slab in slabs:
        values = _flat(_slab(stored, axis, slab), keep, fill).astype(np.longdouble)
        away = values - mean[:, None]
        square += np.where(np.isnan(values), 0, away * away).sum(1, dtype=np.longdouble)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.sqrt(square / count)
    none = count == 0
    found = {
        "count": count.astype(np.float64),
        "mean": mean.astype(np.float64),
        "deviation": deviation.astype(np.float64),
        "minimum": np.where(none, math.nan, low),
        "maximum": np.where(none, math.nan, high),
    }
    return {key: value.reshape(shape) for key, value in found.items()}


def _slab(stored: "xr.DataArray", axis: int | None, slab: slice) -> Array:
    return np.asarray((stored if axis is None else stored.isel({stored.dims[axis]: slab})).values)


def _flat(values: Array, keep: tuple[int, ...], fill: Any) -> Array:
    """Values in double precision, kept cells as rows, missing ones as NaN."""
    others = [axis for axis in range(values.ndim) if axis not in keep]
    rows = math.prod(values.shape[axis] for axis in keep)
    flat = np.transpose(values, (*keep, *others)).reshape(rows, -1)
    double = flat.astype(np.float64)
    if fill is not None:
        double[flat == np.asarray(fill).astype(flat.dtype)] = math.nan
    return double


def _relative(ours: Array, theirs: Array, scale: Array) -> float:
    """Largest distance relative to a scale; NaN on one side alone is infinitely far."""
    if ours.shape != theirs.shape or not np.array_equal(np.isnan(ours), np.isnan(theirs)):
        return math.inf
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.abs(ours - theirs) / np.where(scale > 0, scale, 1.0)
    return float(np.nanmax(gap)) if gap.size and not np.isnan(gap).all() else 0.0
