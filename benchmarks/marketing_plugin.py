"""The solver for judges that bring their own instances as a dictionary of arrays.

    marketing_lp.py --ours benchmarks.marketing_plugin:solve

An instance has `indptr`, `col`, `val`, `cost`, `risk`, `seg` and `b`: rows for spend, risk, every channel and every
segment, in this order, with upper bounds alone. Nothing of it is copied. The first call loads libraries and compiled
code: judges make one on a small instance before they time.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from models.marketing.allocation.program import Program
    from models.marketing.allocation.solver import Answer

_SMALL = 1_000
"""An instance with fewer members is a first call: Newton's method is loaded too, whichever engine answers."""


class Shares:
    """Shares of all pairs, made when somebody asks for the array."""

    def __init__(self, answer: "Answer") -> None:
        self._answer = answer

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        answer = self._answer
        out = np.zeros(answer.size, dtype or np.float64)
        out[answer.choice[answer.choice >= 0]] = 1
        out[answer.pairs] = answer.shares
        return out


def program_of(inst: dict[str, Any]) -> "Program":
    """The instance as a program."""
    from models.marketing.allocation.program import Family, Program

    offers, channels, segments, b = inst["m"], inst["C"], inst["S"], inst["b"]

    def family(name: str, rows: list[str], first: int, **rest: Any) -> Any:
        count = len(rows)
        return Family(
            name=name, rows=tuple(rows), lower=np.full(count, -np.inf), upper=b[first : first + count], **rest
        )

    families = [
        family("spend", ["spend"], 0, weight=inst["cost"]),
        family("risk", ["risk"], 1, weight=inst["risk"]),
        family("channel", [str(c) for c in range(channels)], 2, offers=np.arange(offers) % channels),
    ]
    if segments:
        families.append(family("segment", [str(s) for s in range(segments)], 2 + channels, members=inst["seg"]))
    return Program(
        start=inst["indptr"],
        offer=inst["col"],
        value=inst["val"],
        offers=tuple(str(i) for i in range(offers)),
        families=tuple(families),
    )


def solve(inst: dict[str, Any], gap: float) -> dict[str, Any]:
    """Solve an instance to a gap; `lam0`, if it has any, is where prices begin."""
    from models.marketing.allocation.solver import solve as solve_program

    if inst["n"] < _SMALL:
        solve_program(program_of(inst), gap=gap, engine="newton")
    answer = solve_program(program_of(inst), gap=gap, prices=inst.get("lam0"))
    return {"x": Shares(answer), "lam": answer.prices, "passes": answer.passes, "engine": answer.engine}
