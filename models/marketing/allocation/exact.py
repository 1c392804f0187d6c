"""The same program in the language of cvxpy, answered by HiGHS' simplex: what the large solver has to agree with.

Meant for up to some 100,000 pairs; cvxpy keeps several copies of the matrix.

Shapes: N members, E pairs, K shared rows.
"""

from typing import Any, NamedTuple

import cvxpy
import numpy as np
import scipy.sparse

from models.marketing.allocation.conflict import explain
from models.marketing.allocation.prices import dual_bound
from models.marketing.allocation.program import Floats, Infeasible, Program


class Exact(NamedTuple):
    """An optimal vertex.

    Attributes:
        x: (E) float64, shares.
        value: of these shares.
        prices: (K) above zero where an upper row binds, below zero where a lower row does.
        bound: dual bound at these prices; equal to the value but for rounding.
        loads: (K) of the rows.
        engine: "highs".
    """

    x: Floats
    value: float
    prices: Floats
    bound: float
    loads: Floats
    engine: str = "highs"


def matrix(program: Program) -> Any:
    """(K, E) sparse matrix of what pairs add to rows."""
    rows, weights = program.columns(np.arange(program.E))
    inside = rows >= 0
    pairs = np.broadcast_to(np.arange(program.E), rows.shape)
    return scipy.sparse.csr_array((weights[inside], (rows[inside], pairs[inside])), shape=(program.K, program.E))


def membership(program: Program) -> Any:
    """(N, E) sparse matrix: one where a pair is a member's."""
    return scipy.sparse.csr_array(
        (np.ones(program.E), np.arange(program.E), program.start), shape=(program.N, program.E)
    )


def solve_exactly(program: Program) -> Exact:
    """Solve a small program to the last digits.

    Args:
        program: any that `Program.check` holds good.

    Returns:
        A vertex of the optimal face, with prices.

    Raises:
        Infeasible: no allocation holds all rows.
        RuntimeError: HiGHS ends in another state, which it names.

    Source:
        cvxpy (Diamond and Boyd 2016) and HiGHS (Huangfu and Hall 2018). A constraint's multiplier is never below zero
        there; a price here is that of the upper bound less that of the lower.
    """
    if not program.E:
        return _without_pairs(program)
    x = cvxpy.Variable(program.E)
    value, a = program.value.astype(np.float64), matrix(program)
    limits: list[Any] = [x >= 0, x <= 1, membership(program) @ x <= program.most_of(slice(0, program.N))]
    sides = []
    for sign, bound in ((1.0, program.upper), (-1.0, program.lower)):
        some = np.flatnonzero(np.isfinite(bound))
        if len(some):
            limits.append((sign * a[some]) @ x <= sign * bound[some])
            sides.append((sign, some, limits[-1]))
    problem = cvxpy.Problem(cvxpy.Maximize(value @ x), limits)
    problem.solve(solver=cvxpy.HIGHS)  # type: ignore[no-untyped-call]
    if problem.status in ("infeasible", "infeasible_or_unbounded") and (conflict := explain(program)) is not None:
        raise Infeasible(conflict)
    if problem.status != "optimal":
        raise RuntimeError(f"HiGHS ended in the state {problem.status!r}; look at the program's scales.")
    prices = np.zeros(program.K)
    for sign, some, limit in sides:
        prices[some] += sign * np.atleast_1d(limit.dual_value)
    shares: Floats = np.clip(np.asarray(x.value, np.float64), 0.0, 1.0)
    return Exact(shares, float(value @ shares), prices, dual_bound(program, prices), program.loads(shares))


def _without_pairs(program: Program) -> Exact:
    if (conflict := explain(program)) is not None:
        raise Infeasible(conflict)
    return Exact(np.empty(0), 0.0, np.zeros(program.K), 0.0, np.zeros(program.K))
