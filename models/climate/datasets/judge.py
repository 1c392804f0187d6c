"""Judge a prepared dataset: its certificate, its statistics in a table, and what a person looks at."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from models.climate.datasets import certificate
from models.common.certificate import Certificate, Claim
from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.common.judgement import Figure, Judgement
from models.common.parts import Part, Partitioned, Survey

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, kw_only=True)
class JudgementConfig:
    """How much of a dataset is made again to judge it."""

    parts: int = setting(
        2, "Parts made again", "How many parts are made again from raw input by the slow reference, 1 to 10000.",
        ge=1, le=10_000,
    )  # fmt: skip
    levels: int = setting(
        12,
        "Levels made again",
        "How many levels of such a part, drawn, are made again at most, 1 to 256; only fluxes have levels.",
        ge=1,
        le=256,
    )
    values: float = setting(
        1e8,
        "Values counted again",
        "Up to how many stored values the statistics are computed again from, 1000 to 1e12; variables are taken in "
        "order until then.",
        ge=1e3,
        le=1e12,
    )
    seed: int = setting(0, "Seed", "Which parts are made again, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)


def judge(
    recipe: Partitioned, reference: ModuleType, figures: tuple[Figure, ...], product: Payload, survey: Survey,
    config: JudgementConfig,
) -> Judgement:  # fmt: skip
    """The judgement of one dataset.

    Args:
        recipe: what made it.
        reference: module with `reference(recipe, part, files)`, `checks(groups)` and `TOLERANCES`; with
            `some_levels(part, most, draw)` where a part has levels that can be made again one by one.
        figures: what a person looks at.
        product: `data`, `statistics`, `provenance`.
        survey: what the recipe finds in the raw files now.
        config: how much is made again.

    Source:
        Ours: `docs/decisions/0017-datasets.md`.
    """
    groups: Mapping[str, xr.Dataset] = product["data"]
    provenance = product["provenance"]["parts"]
    claims = [_same_parts(provenance, survey)]
    places = _places(provenance, survey)
    draw = random.Random(config.seed)  # noqa: S311
    chosen = draw.sample(survey.parts, min(config.parts, len(survey.parts)))
    pieces = [(part, piece) for part in chosen for piece in _pieces(reference, part, config.levels, draw)]
    remade = [
        (piece.name, {**places[part.name], **_begins(piece, but=part)}, reference.reference(recipe, piece, {}))
        for part, piece in pieces
    ]
    found = certificate.differences(groups, remade)
    fewer = f"{len(pieces)} levels, drawn, of " if len(pieces) > len(chosen) else ""
    claims += certificate.claims_of_parts(found, reference.TOLERANCES, len(chosen), len(survey.parts), fewer)
    names = _within(groups, product["statistics"], config.values)
    fills = {
        f"{group}/{name}": variable.fill
        for group, layout in survey.groups.items()
        for name, variable in layout.variables.items()
        if isinstance(variable.fill, int | float)
    }
    claims.append(certificate.claim_of_statistics(groups, product["statistics"], names, fills))
    claims += reference.checks(groups)
    worst = max((one.largest for one in found.values()), default=0.0)
    return Judgement(
        headline="largest_relative_difference",
        metrics={"largest_relative_difference": worst, **_metrics(groups, product, survey)},
        certificate=Certificate(claims=tuple(claims)),
        table=_table(groups, product["statistics"]),
        figures=figures,
        protocol=f"{fewer}{len(chosen)} of {len(survey.parts)} parts, chosen by seed {config.seed}, were made "
        "again from raw input by a reference that shares no code with the recipe; statistics of "
        f"{len(names)} variables were computed again.",
    )


def _same_parts(provenance: list[Mapping[str, Any]], survey: Survey) -> Claim:
    """Whether what is stored was made of the parts and files that are there now."""
    stored = [(part["name"], [file["name"] for file in part["files"]]) for part in provenance]
    now = [(part.name, [file.rpartition("/")[2] for file in part.files]) for part in survey.parts]
    wrong = [a for a, b in zip(stored, now, strict=False) if a != b]
    count = len(wrong) + abs(len(stored) - len(now))
    first = f" The first is {wrong[0][0]}; prepare again." if wrong else ""
    return Claim(
        name="parts_not_as_surveyed",
        kind="exact",
        value=count,
        limit=0,
        detail=f"names and files of {len(stored)} stored parts against {len(now)} in the raw input.{first}",
    )


def _places(provenance: list[Mapping[str, Any]], survey: Survey) -> dict[str, dict[str, dict[str, slice]]]:
    """Where every part begins in the whole, or, of parts that are laid end to end, all of its rows."""
    places: dict[str, dict[str, dict[str, slice]]] = {part.name: {} for part in survey.parts}
    for group, layout in survey.groups.items():
        if layout.append:
            rows = [part["rows"].get(group, 0) for part in provenance]
            for part, end, length in zip(provenance, accumulate(rows), rows, strict=True):
                if part["name"] in places:
                    places[part["name"]][group] = {layout.append: slice(end - length, end)}
            continue
        for one in survey.parts:
            places[one.name][group] = {dim: slice(start, None) for dim, start in one.at.get(group, {}).items()}
    return places


def _begins(piece: Part, *, but: Part) -> dict[str, dict[str, slice]]:
    """Where a piece of a part begins, in the groups in which it does not begin as the part does."""
    moved = {group: at for group, at in piece.at.items() if at != but.at.get(group)}
    return {group: {dim: slice(start, None) for dim, start in at.items()} for group, at in moved.items()}


def _pieces(reference: ModuleType, part: Part, most: int, draw: random.Random) -> tuple[Part, ...]:
    """What of a part is made again: all of it, or some of its levels."""
    return tuple(reference.some_levels(part, most, draw)) if hasattr(reference, "some_levels") else (part,)


def _within(groups: Mapping[str, "xr.Dataset"], statistics: Mapping[str, Any], most: float) -> list[str]:
    """Names of variables, smallest first, whose values together are at most so many; always one."""
    sizes = {}
    for name in statistics:
        group, _, variable = name.partition("/")
        sizes[name] = groups[group][variable].size
    chosen: list[str] = []
    for name in sorted(sizes, key=lambda one: (sizes[one], one)):
        if not chosen or sum(sizes[one] for one in chosen) + sizes[name] <= most:
            chosen.append(name)
    return chosen


def _metrics(groups: Mapping[str, "xr.Dataset"], product: Payload, survey: Survey) -> dict[str, float]:
    """What runs are compared by."""
    statistics = product["statistics"].values()
    present = sum(int(np.sum(one["count"])) for one in statistics)
    missing = sum(int(np.sum(one["missing"])) for one in statistics)
    return {
        "parts": float(len(survey.parts)),
        "variables": float(sum(len(one.data_vars) for one in groups.values())),
        "values": float(present + missing),
        "missing_share": missing / max(1, present + missing),
        "mebibytes": sum(one.nbytes for one in groups.values()) / 2**20,
        **{
            f"rows_{group}" if group else "rows": float(groups[group].sizes[layout.append])
            for group, layout in survey.groups.items()
            if layout.append
        },
    }


def _table(groups: Mapping[str, "xr.Dataset"], statistics: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """One row for every variable with numbers."""
    rows = []
    for name, one in statistics.items():
        group, _, variable = name.partition("/")
        count, mean = np.array(one["count"], np.float64), np.array(one["mean"], np.float64)
        total, missing = count.sum(), float(np.sum(one["missing"]))
        weighted = float(np.nansum(count * mean) / total) if total else float("nan")
        spread = np.array(one["deviation"], np.float64) ** 2 + (mean - weighted) ** 2
        rows.append(
            {
                "group": group,
                "variable": variable,
                "units": str(groups[group][variable].attrs.get("units", "")),
                "shape": " x ".join(map(str, groups[group][variable].shape)),
                "mean": weighted,
                "deviation": float(np.sqrt(np.nansum(count * spread) / total)) if total else float("nan"),
                "minimum": _extreme(one["minimum"], np.nanmin),
                "maximum": _extreme(one["maximum"], np.nanmax),
                "missing": missing / max(1.0, total + missing),
            }
        )
    return tuple(rows)


def _extreme(values: Any, choose: Any) -> float:
    found = np.array(values, np.float64)
    return float(choose(found)) if found.size and not np.isnan(found).all() else float("nan")
