"""Make a plan: solve the program, round its answer to whole offers, and keep prices for who was not in it.

A plan is a payload with these parts.

    plan         `member`, `offer`, `share`: who gets what, by name; shares are one in a plan of whole offers
    rows         `row`, `lower`, `upper`, `load`, `price`: of every shared row, by name
    passes       `pass`, `gap`: what the solver takes for the gap after a pass over the members; infinite at first
    policy       JSON: prices by name, and what to do where they do not decide; see `models.marketing.allocation.policy`
    about        JSON: `solved`, value, bound, gap, passes, engine, whether offers are whole, where prices began

When no allocation holds all rows there is nothing to plan. The payload then says so and carries the proof, for its
judge to refuse: `about` has `solved` false and the conflict's rows, needed and available; the column `price` is the
ray. Where shares hold all rows and no whole offers were found that do, `about` has the row in `unroundable`.
"""

# Shapes: N members, M offers, E pairs, K rows, S entries of a plan.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import Account, Payload
from models.common.tables import flat
from models.marketing.allocation.policy import Policy
from models.marketing.allocation.program import Infeasible, Program
from models.marketing.allocation.rounding import Unroundable, entries, round_whole
from models.marketing.allocation.solver import solve
from models.marketing.deciding import decide
from models.marketing.tables import SHOWN, plain, program_of
from models.marketing.values import values_of

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What is solved, and how its answer becomes decisions."""

    gap: float = setting(
        1e-4,
        "Duality gap",
        "How far the solved value may lie below the bound that none can exceed, relative to it, 1e-9 to 0.1.",
        ge=1e-9,
        le=0.1,
    )
    most: int = setting(
        1, "Offers per member", "At most so many offers for one member in a round, 1 to 100.", ge=1, le=100
    )
    rounding: Literal["whole", "shares"] = setting(
        "whole",
        "Rounding",
        "whole: every member gets whole offers and every row holds exactly; shares: the solved shares, as chances.",
    )
    warm: bool = setting(
        True, "Warm start", "Begin at the prices of the live plan; rows that it does not have begin at zero."
    )
    seed: int = setting(0, "Seed", "Start of every draw in solving and rounding, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)

    @property
    def whole(self) -> bool:
        """Whether members get whole offers."""
        return self.rounding == "whole"

    def allocate(self, data: Payload, live: Payload | None, network: torch.nn.Module | None) -> Payload:
        """The plan of a data set; see `Allocatable`."""
        return planned(program_of(data, most=self.most, value=values_of(data, network)), self, live)

    def account(self, product: Payload) -> Account:
        """What a solve is compared by; see `Allocatable`."""
        return account(product)

    def decide(self, product: Payload, data: Payload, requests: pa.Table) -> tuple[pa.Table, Mapping[str, float]]:
        """Sends for members who come later; see `Deciding`."""
        return decide(product, data, requests, self.most)


def planned(program: Program, settings: PlanConfig, live: Payload | None = None) -> Payload:
    """The plan of a program.

    Args:
        program: what may be given to whom, and the rows.
        settings: gap, rounding, warm start.
        live: the live plan, for its prices; None: prices begin at zero.

    Returns:
        The parts; with the proof in place of a plan when no allocation holds all rows.

    Source:
        Ours.
    """
    told: list[tuple[int, float]] = []
    begin = prices_for(program, live) if settings.warm and live is not None else None
    try:
        answer = solve(
            program,
            gap=settings.gap,
            prices=begin,
            seed=settings.seed,
            tell=lambda number, gap: told.append((number, gap)),
        )
    except Infeasible as refusal:
        conflict = refusal.conflict
        reasons = {"conflict": list(conflict.rows), "needed": conflict.needed, "available": conflict.available}
        return _refused(program, {**reasons, "sentence": conflict.sentence()}, conflict.ray)
    if answer.passes:  # what the last pass was taken for before its rows were put right, and what it came to
        told = [*((number, gap) for number, gap in told if number < answer.passes), (answer.passes, answer.gap)]
    pairs, shares = entries(answer)
    policy = Policy.from_shares(program, answer.prices, pairs, shares)
    loads, value, whole = answer.loads, answer.value, dict[str, float]()
    if settings.whole:
        try:
            rounded = round_whole(program, pairs, shares, answer.prices)
        except Unroundable as refusal:
            return _refused(program, {"unroundable": str(refusal)}, answer.prices)
        pairs, shares, loads, value = rounded.pairs, np.ones(len(rounded.pairs)), rounded.loads, rounded.value
        whole = {"promise": rounded.promise, "changed": float(rounded.changed)}
    member = program.member_of(pairs)
    about = {
        "solved": True,
        "whole": settings.whole,
        "value": value,
        "bound": answer.bound,
        "gap": (answer.bound - value) / max(abs(answer.bound), 1e-300),
        "solved_value": answer.value,
        "solved_gap": answer.gap,
        "passes": answer.passes,
        "engine": answer.engine,
        "fractional": len(answer.pairs),
        "warm": begin is not None,
        "members": program.N,
        "pairs": program.E,
        "sends": len(pairs),
        **whole,
    }
    return {
        "plan": pa.table(
            {
                "member": _names(program, member),
                "offer": pa.DictionaryArray.from_arrays(
                    pa.array(program.offer[pairs].astype(np.int32)), list(program.offers)
                ).cast(pa.string()),
                "share": shares,
            }
        ),
        "rows": _rows(program, loads, answer.prices),
        "passes": pa.table(
            {
                "pass": pa.array([number for number, _ in told], pa.int64()),
                "gap": pa.array([gap for _, gap in told], pa.float64()),
            }
        ),
        "policy": policy.as_json(),
        "about": about,
    }


def prices_for(program: Program, live: Payload) -> Floats:
    """Prices of a live plan in the order of a program's rows, matched by name.

    Args:
        program: the new program.
        live: the plan.

    Returns:
        (K) float64; zero for a row that the plan does not have, and when the plan was refused.

    Source:
        Ours.
    """
    known = dict(zip(flat(live["rows"], "row").to_pylist(), flat(live["rows"], "price").to_pylist(), strict=True))
    if not live["about"]["solved"]:
        known = {}
    return np.array([known.get(name, 0.0) for name in program.names], np.float64)


def account(product: Payload) -> Account:
    """What a solve is compared by.

    Args:
        product: a plan.

    Returns:
        Value, bound, gap, passes, loads and prices.

    Source:
        Ours.
    """
    about, rows = product["about"], product["rows"].to_pylist()
    named = ("value", "bound", "gap", "passes", "fractional", "sends", "promise", "changed")
    metrics = {name: float(about[name]) for name in named if name in about}
    metrics |= {f"solve_{name}": float(about[f"solved_{name}"]) for name in ("value", "gap") if about["solved"]}
    metrics |= {"feasible": float(about["solved"])}
    for row in rows[:SHOWN] if about["solved"] else ():
        metrics |= {f"load/{plain(row['row'])}": row["load"], f"price/{plain(row['row'])}": row["price"]}
    return Account(
        metrics=metrics,
        table=tuple(rows),
        steps={"gap_by_pass": tuple(gap for gap in flat(product["passes"], "gap").to_pylist() if np.isfinite(gap))},
    )


def _refused(program: Program, why: dict[str, Any], prices: Floats) -> Payload:
    """What is kept when there is no plan: why."""
    about = {"solved": False, **why, "members": program.N, "pairs": program.E}
    empty = pa.table({"member": pa.array([], pa.string()), "offer": pa.array([], pa.string()), "share": np.zeros(0)})
    return {
        "plan": empty,
        "rows": _rows(program, np.zeros(program.K), prices),
        "passes": pa.table({"pass": pa.array([], pa.int64()), "gap": pa.array([], pa.float64())}),
        "about": about,
    }


def _rows(program: Program, loads: Floats, prices: Floats) -> pa.Table:
    def bounds(values: Floats) -> pa.Array:
        return pa.array(values, pa.float64(), mask=np.isinf(values))

    return pa.table(
        {
            "row": list(program.names),
            "lower": bounds(program.lower),
            "upper": bounds(program.upper),
            "load": np.asarray(loads, np.float64),
            "price": np.asarray(prices, np.float64),
        }
    )


def _names(program: Program, member: Integers) -> pa.Array:
    """Names of members; their numbers where they have none."""
    return pa.array(member if program.members is None else np.asarray(program.members)[member])
