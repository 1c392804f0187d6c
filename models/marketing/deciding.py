"""Decide for members who were not in the solve, by the policy of a live plan and a table of what each may get."""

# Shapes: N members, E pairs, S sends.

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload
from models.common.tables import flat, read_numbers, read_table, read_written_names
from models.marketing.allocation.policy import Policy
from models.marketing.allocation.program import Program
from models.marketing.tables import OWN, SHOWN, plain, program_of


@dataclass(frozen=True, kw_only=True)
class DecideConfig:
    """Whom to decide for, and where the answers go."""

    pairs: str = setting(
        "",
        "Pairs file",
        "Path or URL of a Parquet or CSV file with one row per member and offer that she may get: its value, and every "
        "weight and member's column that the rows of the plan name.",
    )
    member_column: str = setting("member", "Member column", "Column that names the member.", min_length=1)
    offer_column: str = setting("offer", "Offer column", "Column that names the offer.", min_length=1)
    value_column: str = setting("value", "Value column", "Column of what the offer is worth, in money.", min_length=1)
    export: str = setting("", "Export", "Path of a Parquet file for the answers, under a data root; empty: none.")

    def __post_init__(self) -> None:
        check(self)
        if self.export and not self.export.endswith(".parquet"):
            raise ValueError(
                f"DecideConfig.export must end in .parquet, because answers are a Parquet file, got {self.export!r}."
            )

    def sources(self) -> Mapping[str, str]:
        """The raw file."""
        if not self.pairs:
            raise InputError("DecideConfig.pairs must name a file, got ''; give its path or URL.")
        return {"pairs": self.pairs}

    def read(self, files: Mapping[str, Path]) -> pa.Table:
        """Pairs under our own names, other columns as they are; raises `InputError`."""
        path = files["pairs"]
        needed = (self.member_column, self.offer_column, self.value_column)
        table = read_table(path, (), needed=needed)
        others = {name: table[name] for name in table.column_names if name not in needed}
        for name in OWN:
            if name in others:
                raise InputError(f"{path} has a column called {name!r} beside {needed}; rename it.")
        return pa.table(
            {
                "member": pc.cast(read_written_names(path, table, self.member_column), pa.string()),
                "offer": pc.cast(read_written_names(path, table, self.offer_column), pa.string()),
                "value": read_numbers(path, table, self.value_column),
                **others,
            }
        )


def decide(product: Payload, data: Payload, requests: pa.Table, most: float) -> tuple[pa.Table, Mapping[str, float]]:
    """Decide by the policy of a plan.

    Args:
        product: the plan.
        data: behind it: which offers there are, and which rows.
        requests: pairs of members, with what they are worth and draw.
        most: at most so many offers a member.

    Returns:
        `member` and `offer` of every send, and what was counted. The same member, values and plan give the same sends,
        in whatever company.

    Raises:
        InputError: a column is missing, an offer or a row is unknown, or the plan was made without a policy.

    Source:
        `models.marketing.allocation.policy`.
    """
    if "policy" not in product:
        raise InputError("there is no policy in this plan; publish one that was solved.")
    program = requested(data, requests, most)
    pairs = Policy.from_json(product["policy"]).decide_all(program)
    members = pa.array(np.asarray(program.members)[program.member_of(pairs)], pa.string())
    names = pa.array(np.array(program.offers)[program.offer[pairs]].tolist(), pa.string())
    loads = zip(program.names[:SHOWN], program.loads_of(pairs, np.ones(len(pairs))).tolist(), strict=False)
    counted = {
        "members": float(program.N),
        "sends": float(len(pairs)),
        "value": float(program.value[pairs].astype(np.float64).sum()),
        **{f"load/{plain(name)}": load for name, load in loads},
    }
    return pa.table({"member": members, "offer": names}), counted


def requested(data: Payload, requests: pa.Table, most: float) -> Program:
    """The program of members who come later: the offers and rows of the data, none of its bounds looked at.

    Args:
        data: behind a plan.
        requests: pairs of the new members.
        most: at most so many offers a member.

    Returns:
        The program; members in the order of their first pair.

    Raises:
        InputError: a column that a row names is missing, a member has two entries in one, or an offer is unknown.

    Source:
        Ours.
    """
    offers, rows = data["offers"], data["rows"]
    for name in sorted({one for one in rows["weight"].to_pylist() if one}):
        if name not in requests.column_names:
            raise InputError(f"the plan's rows sum {name!r}, the table has {requests.column_names}; add that column.")
    members = flat(requests, "member")
    names = pc.unique(members)
    member = np.asarray(pc.index_in(members, value_set=names).to_numpy(zero_copy_only=False), np.int64)
    columns = {"member": names}
    for by in sorted({one for one in rows["by"].to_pylist() if one and one not in offers.column_names}):
        columns[by] = _of_members(requests, by, member, len(names))
    place = pc.index_in(flat(requests, "offer"), value_set=pc.cast(flat(offers, "offer"), pa.string()))
    if place.null_count:
        row = int(np.flatnonzero(np.asarray(pc.is_null(place)))[0])
        known = ", ".join(offers["offer"].to_pylist())
        raise InputError(
            f"row {row + 1} is of the offer {flat(requests, 'offer')[row].as_py()!r}, the plan knows {known}; plan "
            "with it first."
        )
    order = np.argsort(member, kind="stable")
    weights = [name for name in requests.column_names if name in set(rows["weight"].to_pylist())]
    pairs = {"offer": np.asarray(place.to_numpy(zero_copy_only=False), np.int32)[order]}
    numbers = {name: read_numbers(Path("requests"), requests, name)[order] for name in ("value", *weights)}
    return program_of(
        {
            "members": pa.table(columns),
            "offers": offers,
            "start": np.concatenate([[0], np.cumsum(np.bincount(member, minlength=len(names)))]).astype(np.int64),
            "pairs": pa.table({**pairs, **numbers}),
            "rows": rows,
        },
        most=most,
        some=True,
    )


def _of_members(requests: pa.Table, by: str, member: NDArray[np.int64], count: int) -> pa.Array:
    """One entry of a column for every member."""
    if by not in requests.column_names:
        raise InputError(f"the plan's rows are by {by!r}, the table has {requests.column_names}; add that column.")
    values = pc.cast(flat(requests, by), pa.string())
    if values.null_count:
        row = int(np.flatnonzero(np.asarray(pc.is_null(values)))[0])
        raise InputError(f"row {row + 1}, column {by!r}: it is empty, and the plan's rows are by it; fill it in.")
    first = np.unique(member, return_index=True)[1]
    of_member = values.take(pa.array(first, pa.int64()))
    same = pc.fill_null(pc.equal(of_member.take(pa.array(member)), values), False)
    if not pc.all(same, min_count=0).as_py():
        row = int(np.flatnonzero(~np.asarray(same.to_numpy(zero_copy_only=False)))[0])
        raise InputError(
            f"row {row + 1}, column {by!r}: {values[row].as_py()!r}, the member had another entry before; give one."
        )
    return of_member
