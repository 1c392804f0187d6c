"""Members, offers, pairs and rows as tables: a generated world's, or a user's own, matched by name.

A prepared data set is a payload with these parts.

    members      `member`, and columns that rows may be `by`, as `segment`
    offers       `offer`, and columns that rows may be `by`, as `line` and `channel`
    start        (N + 1) where each member's pairs begin
    pairs        `offer` (place in the offers), `value`, and one column for every weight that a row names
    rows         `family`, `row`, `weight`, `by`, `lower`, `upper`
    past         generator only: what chance alone decided before, and what came of it
    past_..., lessons     generator only: the same as examples to learn values from; see `models.marketing.values`
    about        JSON: source, counts, protocol

Rows of one family sum one weight: `weight` names a column of the pairs, or is empty for one each. `by` names a column
of the offers or of the members, and `row` is an entry of it; both are empty for a row over all pairs, which is called
like its family. An empty bound is none.
"""

# Shapes: N members, M offers, E pairs, K rows.

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload
from models.common.tables import flat, is_text, read_numbers, read_table, read_written_names, refuse_first
from models.marketing.allocation.program import NOTHING, Family, Limits, Program
from models.marketing.generator import GeneratorConfig, Outcome, World, generate, past
from models.marketing.values import examples

ROWS = ("family", "row", "weight", "by", "lower", "upper")
SHOWN = 100
"""Rows whose loads and prices are shown as metrics; tables have all."""

OWN = ("member", "offer", "value")
"""Names of our own columns; a weight must have another."""


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Where a user's own tables lie and what their columns are called."""

    pairs: str = setting(
        "",
        "Pairs file",
        "Path or URL of a Parquet or CSV file with one row per member and offer that she may get: what it is worth, "
        "and what it draws from every budget.",
    )
    rows: str = setting(
        "",
        "Rows file",
        "Path or URL of a Parquet or CSV file with one row per budget or volume: family, row, weight, by, lower and "
        "upper.",
    )
    offers: str = setting(
        "", "Offers file", "Path or URL of a file with one row per offer; empty when no row is by a column of offers."
    )
    members: str = setting(
        "",
        "Members file",
        "Path or URL of a file with one row per member; empty when no row is by a column of members.",
    )
    member_column: str = setting("member", "Member column", "Column that names the member in all files.", min_length=1)
    offer_column: str = setting("offer", "Offer column", "Column that names the offer in all files.", min_length=1)
    value_column: str = setting(
        "value", "Value column", "Column of the pairs: what the offer is worth to you, in money.", min_length=1
    )

    def __post_init__(self) -> None:
        check(self)


def read_tables(config: TableConfig, files: Mapping[str, Path]) -> Payload:
    """A user's own tables as a data set.

    Args:
        config: names of the columns.
        files: `pairs` and `rows`, and `offers` and `members` where there are such files.

    Returns:
        The parts; pairs in the order of the members, those in the order of their table or of their first pair.

    Raises:
        InputError: a file cannot be used, a column is missing, a number is none, a name is unknown or stands twice.

    Source:
        Ours.
    """
    rows = read_rows(files["rows"])
    weights = sorted({name for name in rows["weight"].to_pylist() if name})
    for name in weights:
        if name in OWN:
            raise InputError(f"{files['rows']} names the weight {name!r}, which is our own name; rename that column.")
    path = files["pairs"]
    table = read_table(path, (config.member_column, config.offer_column, config.value_column, *weights))
    pairs = {
        "member": read_written_names(path, table, config.member_column),
        "offer": read_written_names(path, table, config.offer_column),
        "value": read_numbers(path, table, config.value_column),
        **{name: read_numbers(path, table, name) for name in weights},
    }
    offers = _named(files.get("offers"), config.offer_column, "offer")
    members = _named(files.get("members"), config.member_column, "member")
    try:
        program = Program.from_pairs(pairs, limits=limits_of(rows), offers=offers, members=members)
    except InputError as error:
        raise InputError(f"{', '.join(str(file) for file in files.values())}: {error}") from error
    order = _order(pairs["member"], program)
    kept = {name: pairs[name][order] for name in ("value", *weights)}
    return {
        "members": pa.table({"member": list(program.members or ())}) if members is None else members,
        "offers": pa.table({"offer": list(program.offers)}) if offers is None else offers,
        "start": program.start,
        "pairs": pa.table({"offer": program.offer.astype(np.int32), **kept}),
        "rows": rows,
        "about": _about("table", program),
    }


def generated(config: GeneratorConfig) -> Payload:
    """A generated world as a data set, with a round of the past that chance alone decided.

    Args:
        config: the world.

    Returns:
        The parts.

    Source:
        Ours.
    """
    world = generate(config)
    data = data_of(world)
    choice, outcome = past(world, np.random.default_rng([config.seed, 1]))
    return {
        **data,
        **examples(world, choice, outcome),
        "past": _past(world, choice, outcome),
        "about": _about("generator", program_of(data)),
    }


def data_of(world: World) -> Payload:
    """What of a world a program is made from."""
    pairs = {"offer": world.offer, "value": world.value, "cost": world.cost, "risk": world.risk, "reach": world.reach}
    return {
        "members": world.members,
        "offers": world.offers,
        "start": world.start,
        "pairs": pa.table(pairs),
        "rows": world.rows,
    }


def program_of(
    data: Payload,
    *,
    most: float = 1.0,
    rows: pa.Table | None = None,
    value: NDArray[np.float32] | None = None,
    some: bool = False,
) -> Program:
    """The program of a data set.

    Args:
        data: the parts.
        most: at most so many offers a member.
        rows: other rows than those of the data.
        value: (E) other values than those of the data.
        some: whether these are some members of many, so that rows may bound segments in which there is nobody.

    Returns:
        The checked program.

    Raises:
        InputError: a row names a weight, a column or an entry that is not there; whatever `Program.check` refuses.

    Source:
        Ours.
    """
    pairs, offers, members = data["pairs"], data["offers"], data["members"]
    limits = limits_of(data["rows"] if rows is None else rows)
    families = tuple(_family(limit, pairs, offers, members, some) for limit in limits)
    return Program(
        start=np.asarray(data["start"], np.int64),
        offer=_numpy(pairs, "offer"),
        value=_numpy(pairs, "value") if value is None else value,
        offers=tuple(str(name) for name in offers["offer"].to_pylist()),
        families=families,
        most=most,
        members=_numpy(members, "member"),
    ).check()


def limits_of(rows: pa.Table) -> list[Limits]:
    """Rows as limits, family by family in the order of the table.

    Args:
        rows: the table.

    Returns:
        The limits.

    Raises:
        InputError: rows of one family sum different weights or are by different columns, one stands twice, or one is
            named in a family that is by nothing.

    Source:
        Ours.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for one in rows.to_pylist():
        found.setdefault(one["family"], []).append(one)
    limits = []
    for family, members in found.items():
        for what in ("weight", "by"):
            if len({one[what] for one in members}) > 1:
                kinds = ", ".join(repr(kind) for kind in sorted({one[what] for one in members}))
                raise InputError(f"rows of family {family!r} have {what} {kinds}; give each its own family.")
        by = members[0]["by"]
        if extra := [one["row"] for one in members if not by and one["row"] not in ("", family)]:
            raise InputError(
                f"family {family!r} has the row {extra[0]!r} and is by nothing; name the column that holds "
                f"{extra[0]!r}, or leave the row empty."
            )
        names = [one["row"] if by else family for one in members]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"row {twice[0]!r} of family {family!r} stands twice; keep one.")
        bounds = {
            name: (
                -np.inf if one["lower"] is None else float(one["lower"]),
                np.inf if one["upper"] is None else float(one["upper"]),
            )
            for name, one in zip(names, members, strict=True)
        }
        limits.append(Limits(name=family, bounds=bounds, weight=members[0]["weight"], by=by))
    return limits


def read_rows(path: Path) -> pa.Table:
    """The rows file.

    Args:
        path: the file.

    Returns:
        `family`, `row`, `weight` and `by` as text, empty for none; `lower` and `upper`, null for none.

    Raises:
        InputError: it cannot be used; names column and row.

    Source:
        Ours.
    """
    table = read_table(path, (), needed=ROWS)
    if unknown := [name for name in table.column_names if name not in ROWS]:
        raise InputError(f"{path} has the unknown column {unknown[0]!r}; known are {', '.join(ROWS)}. Take it out.")
    columns: dict[str, Any] = {}
    for name in ROWS[:4]:
        values = flat(table, name)
        if not (is_text(values.type) or pa.types.is_null(values.type)):
            raise InputError(f"{path}, column {name!r} holds {values.type}; it must hold names.")
        columns[name] = pc.fill_null(pc.cast(values, pa.string()), "")
    refuse_first(path, "family", pc.equal(columns["family"], ""), columns["family"], "name the family of the row")
    for name in ROWS[4:]:
        numbers = read_numbers(path, table, name, empty=np.nan)
        columns[name] = pa.array(numbers, pa.float64(), mask=np.isnan(numbers))
    wrong = pc.fill_null(pc.greater(columns["lower"], columns["upper"]), False)
    refuse_first(path, "lower", wrong, columns["lower"], "the lower bound must be at most the upper")
    return pa.table(columns)


def plain(row: str) -> str:
    """A row's name as one of a metric: of letters, digits and few signs; the table of rows has the name itself."""
    return re.sub(r"[^\w\- /]|^/|/$", "_", re.sub(r"/+", "/", row))


def _family(limit: Limits, pairs: pa.Table, offers: pa.Table, members: pa.Table, some: bool) -> Family:
    """One family of rows, its weight and its groups found by name."""
    if limit.weight and limit.weight not in pairs.column_names:
        raise InputError(
            f"rows {limit.name!r} sum {limit.weight!r}, the pairs have {', '.join(pairs.column_names)}; "
            "correct the name."
        )
    groups: dict[str, NDArray[np.int32]] = {}
    if limit.by:
        what = [
            name
            for name, table in (("offers", offers), ("members", members))
            if limit.by in table.column_names[1:]  # the first one names them
        ]
        if len(what) != 1:
            held = "both have" if what else "neither has"
            raise InputError(
                f"rows {limit.name!r} are by {limit.by!r}, of offers and members {held} it; name one of one."
            )
        column = pc.cast(flat(offers if what[0] == "offers" else members, limit.by), pa.string())
        place = pc.fill_null(pc.index_in(column, value_set=pa.array(list(limit.bounds), pa.string())), NOTHING)
        groups[what[0]] = np.asarray(place.to_numpy(zero_copy_only=False), np.int32)
        for number, row in enumerate(limit.bounds):
            if not (groups[what[0]] == number).any() and not (some and what[0] == "members"):
                known = ", ".join(sorted(filter(None, pc.unique(column).to_pylist())))
                raise InputError(
                    f"rows {limit.name!r} bound {row!r}, column {limit.by!r} holds {known}; "
                    "correct the name or leave it out."
                )
    return Family(
        name=limit.name,
        rows=tuple(limit.bounds),
        lower=np.array([low for low, _ in limit.bounds.values()], np.float64),
        upper=np.array([high for _, high in limit.bounds.values()], np.float64),
        weight=_numpy(pairs, limit.weight) if limit.weight else None,
        offers=groups.get("offers"),
        members=groups.get("members"),
    )


def _named(path: Path | None, column: str, name: str) -> pa.Table | None:
    """A table of offers or members, its first column called by our name."""
    if path is None:
        return None
    table = read_table(path, (), needed=(column,))
    others = {other: table[other] for other in table.column_names if other != column}
    if name in others:
        raise InputError(f"{path} has a column called {name!r} beside {column!r}; rename it.")
    return pa.table({name: pc.cast(read_written_names(path, table, column), pa.string()), **others})


def _order(member: pa.Array, program: Program) -> NDArray[np.int64]:
    """Places of the file's pairs in the order of the program's."""
    names = pc.cast(member, pa.string())
    place = pc.index_in(names, value_set=pa.array([str(name) for name in program.members or ()], pa.string()))
    return np.argsort(np.asarray(place.to_numpy(zero_copy_only=False), np.int64), kind="stable")


def _past(world: World, choice: NDArray[np.int64], outcome: Outcome) -> pa.Table:
    """What each member was sent by chance, at which chance, and what she did."""
    sent = choice >= 0
    return pa.table(
        {
            "member": pa.array(np.arange(len(choice)), pa.int64()),
            "offer": pa.array(world.offer[np.maximum(choice, 0)], pa.int32(), mask=~sent),
            "propensity": np.where(sent, 0.5 / np.diff(world.start), 0.5),
            "arrived": outcome.arrived,
            "spend": outcome.spend,
            "delay_days": pa.array(outcome.delay, pa.float64(), mask=np.isnan(outcome.delay)),
            "unsubscribed": outcome.unsubscribed,
        }
    )


def _about(source: str, program: Program) -> dict[str, Any]:
    return {
        "source": source,
        "members": program.N,
        "offers": program.M,
        "pairs": program.E,
        "rows": program.K,
        "protocol": f"{program.N} members, {program.M} offers, {program.E} pairs, {program.K} shared rows.",
    }


def _numpy(table: pa.Table, column: str) -> NDArray[Any]:
    """A column of our own; where it can be, arrow's memory itself."""
    values: NDArray[Any] = flat(table, column).to_numpy(zero_copy_only=False)
    return values
