"""Why no allocation holds all rows: a proof by prices, and a smallest set of rows that cannot hold together.

Let Z be the loads that members can produce when there are no rows, and B the box of loads that the rows allow. Both
are convex. There is no allocation exactly if they do not meet; then a direction r keeps them apart,

    sum_k max(l_k r_k, u_k r_k) < min { r . z : z in Z } = -sum_u max_x (-r . load_u(x)),

and that is an inequality which anybody can check by adding up (`certificate.certify_conflict`). Nothing else counts as
a proof here: what a solver says is a guess until this sum was made over all members.

The nearest points of Z and B are sought by Wolfe's method: Z is known by its corners, each found by one pass over the
members, and either the corners' hull comes to touch B, which is an allocation, or the line between nearest points is r.

Shapes: N members, E pairs, K shared rows, T corners.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from models.marketing.allocation.prices import best, paid, rows_worth, spans
from models.marketing.allocation.program import Conflict, Floats, Integers, Program

PROOF = 1e-11
"""A sum below zero by this, relative to what it adds up, is below zero whatever its rounding."""

_TOUCH = 1e-9
"""Hull and box touch when their distance is below this, in units of the rows' scales."""

_NEAR = 1e-6
"""So near they may be taken to touch when no corner brings them nearer and nothing keeps them apart."""

_PASSES = 600


class Shortfall(NamedTuple):
    """What one row of a conflict needs and what the others leave.

    Attributes:
        row: its name.
        side: "at least" for a lower bound, "at most" for an upper one.
        needed: the bound.
        available: the most (of a lower bound) or the least (of an upper one) that its load can be, the others held.
    """

    row: str
    side: str
    needed: float
    available: float

    def sentence(self) -> str:
        """Both numbers in words."""
        most = "at most" if self.side == "at least" else "at least"
        held = f"with the others held it is {most} {self.available:.6g}"
        return f"{self.row!r} must be {self.side} {self.needed:.6g}; {held}"


def explain(program: Program) -> Conflict | None:
    """Find out whether some allocation holds all rows, and if not, why.

    Args:
        program: any that `Program.check` holds good.

    Returns:
        None when some allocation holds all rows (to some 1e-9 of their scales); else a proved conflict. No row can be
        left out of it: every set with one row less was found to be possible.

    Raises:
        RuntimeError: the rows are so near the edge of what is possible that neither is found.

    Source:
        Farkas' lemma; the deletion filter: Chinneck, Feasibility and Infeasibility in Optimization (2008), chapter 6;
        nearest points: Wolfe, Finding the nearest point in a polytope (1976), here of a polytope and a box, with the
        step inside the hull left to non-negative least squares (Lawson and Hanson 1974).
    """
    least, most = reach(program)
    alone = _alone(program, least, most)
    if alone is not None:
        return alone
    binding = _reachable(program, least, most)
    scale = _scales(binding, least, most)
    nearest = _Nearest(binding, scale)
    ray = nearest.ray(np.flatnonzero(np.isfinite(binding.lower) | np.isfinite(binding.upper)))
    if ray is None:
        return None
    fewest = _filtered(nearest, ray, scale, 1)
    if np.count_nonzero(fewest) > 2:  # one row alone was ruled out above
        other = _filtered(nearest, ray, scale, -1)
        fewest = other if np.count_nonzero(other) < np.count_nonzero(fewest) else fewest
    return _conflict(program, fewest)


def _filtered(nearest: "_Nearest", ray: Floats, scale: Floats, order: int) -> Floats:
    """Leave out one row after another for as long as the others still conflict: those that weigh least first, or last.

    A ray of fewer rows may be found on the way. At the end each row was left out once from a set that holds all that
    are left, and what remained was possible; so it is for what is left.
    """
    tested: set[int] = set()
    while True:
        rows = np.flatnonzero(ray)
        weight = order * np.abs(ray[rows]) * scale[rows]
        left = [k for k in rows[np.argsort(weight, kind="stable")].tolist() if k not in tested]
        if not left:
            return ray
        tested.add(left[0])
        without = nearest.ray(rows[rows != left[0]])
        ray = ray if without is None else without


def shortfalls(program: Program, conflict: Conflict) -> tuple[Shortfall, ...]:
    """Each row of a conflict against what the others leave for it, as far as the ray proves.

    Args:
        program: the program.
        conflict: from `explain`.

    Returns:
        One for each of its rows, in the order of the program.

    Source:
        The ray's inequality solved for one load: with r_k below zero,
        |r_k| load_k <= available - (needed - |r_k| l_k), and the like for upper rows.
    """
    found = []
    for k in np.flatnonzero(conflict.ray).tolist():
        weight, lower = abs(float(conflict.ray[k])), conflict.ray[k] < 0
        bound = float(program.lower[k] if lower else program.upper[k])
        spare = (conflict.available - conflict.needed) / weight
        reached = bound + spare if lower else bound - spare
        found.append(Shortfall(program.names[k], "at least" if lower else "at most", bound, reached))
    return tuple(found)


def reach(program: Program) -> tuple[Floats, Floats]:
    """The least and the most that each row's load can be when no other row is there.

    Args:
        program: the program.

    Returns:
        (K) and (K).

    Source:
        Exact: a row alone asks every member for her `most` smallest or greatest entries.
    """
    least, most = np.zeros(program.K), np.zeros(program.K)
    for begin, end in spans(program):
        first, last = int(program.start[begin]), int(program.start[end])
        for family, row in zip(program.families, program.first, strict=True):
            weight = np.ones(last - first) if family.weight is None else family.weight[first:last].astype(np.float64)
            signs = (1.0,) if weight.size == 0 or weight.min() >= 0 else (1.0, -1.0)
            groups = None if family.offers is None else np.asarray(family.offers)[program.offer[first:last]]
            for k in range(len(family.rows)) if groups is not None else (0,):
                inside = weight if groups is None else np.where(groups == k, weight, 0.0)
                for sign in signs:
                    has = best(program, sign * inside, begin, end)[2]
                    out = most if sign > 0 else least
                    if family.members is None:
                        out[row + k] += sign * has.sum()
                        continue
                    member_row = np.asarray(family.members)[begin:end].astype(np.int64)
                    own = member_row >= 0
                    out += sign * np.bincount(row + member_row[own], has[own], minlength=program.K)
    return least, most


def gap_of_ray(program: Program, ray: Floats) -> tuple[float, float, float]:
    """What a ray says: needed, available, and the sum of the sizes of all terms.

    Args:
        program: the program.
        ray: (K) prices; each one's side of its row has a bound.

    Returns:
        `Conflict.needed`, `Conflict.available`, and a size to compare their difference with.
    """
    lower, upper = ray < 0, ray > 0
    needs, gives = -ray[lower] * program.lower[lower], ray[upper] * program.upper[upper]
    needed, available = float(needs.sum()), float(gives.sum())
    size = float(np.abs(needs).sum() + np.abs(gives).sum())
    for begin, end in spans(program):
        available += float(best(program, -paid(program, ray, begin, end), begin, end)[2].sum())
        size += float(best(program, np.abs(paid(program, np.abs(ray), begin, end)), begin, end)[2].sum())
    return needed, available, size


def proves(program: Program, ray: Floats) -> bool:
    """Whether a ray proves that no allocation holds all rows."""
    needed, available, size = gap_of_ray(program, ray)
    return bool(available - needed < -PROOF * size)


def _alone(program: Program, least: Floats, most: Floats) -> Conflict | None:
    """The row that is furthest from what can be reached at all, if there is one."""
    size = np.maximum(np.abs(least), np.abs(most))
    below = np.where(np.isfinite(program.lower), program.lower - most, -np.inf)
    above = np.where(np.isfinite(program.upper), least - program.upper, -np.inf)
    short = np.maximum(below, above)
    relative = short / np.maximum(np.maximum(size, np.where(short > -np.inf, np.abs(short), 0.0)), 1e-300)
    for k in np.argsort(-relative, kind="stable").tolist():
        if short[k] <= 0:
            return None
        ray = np.zeros(program.K)
        ray[k] = -1.0 if below[k] >= above[k] else 1.0
        if proves(program, ray):
            return _conflict(program, ray)
    return None


def _reachable(program: Program, least: Floats, most: Floats) -> Program:
    """The program without the bounds that no load can pass: a far one would drown the others in its rounding."""
    families = []
    for family, k in zip(program.families, program.first, strict=True):
        own = slice(k, k + len(family.rows))
        lower = np.where(family.lower > least[own], family.lower, -np.inf)
        upper = np.where(family.upper < most[own], family.upper, np.inf)
        families.append(replace(family, lower=lower, upper=upper))
    return replace(program, families=tuple(families))


def _scales(program: Program, least: Floats, most: Floats) -> Floats:
    """What one unit of a row's excess is measured in: the larger of its bounds and its reach."""
    sizes = [np.where(np.isfinite(side), np.abs(side), 0.0) for side in (program.lower, program.upper)]
    reached = np.maximum(np.abs(least), np.abs(most))
    bound = np.maximum(*sizes)
    scale = np.where(bound > 0, np.minimum(bound, np.where(reached > 0, reached, bound)), reached)
    return np.where(scale > 0, scale, 1.0)


def _conflict(program: Program, ray: Floats) -> Conflict:
    ray = ray / np.abs(ray).max()
    needed, available, _ = gap_of_ray(program, ray)
    rows = tuple(program.names[k] for k in np.flatnonzero(ray).tolist())
    return Conflict(rows=rows, ray=ray, needed=needed, available=available)


def _pruned(program: Program, ray: Floats, scale: Floats) -> Floats | None:
    """A proving ray with as few entries as rounding lets one see; None when it proves nothing."""
    weight = np.abs(ray) * scale
    if not weight.any():
        return None
    ray = ray / weight.max()
    for least in (1e-4, 1e-7, 0.0):
        fewer = np.where(weight / weight.max() > least, ray, 0.0)
        if proves(program, fewer):
            return fewer
    return None


class _Nearest:
    """The nearest points of what members can produce and of what the rows allow."""

    def __init__(self, program: Program, scale: Floats) -> None:
        self.program, self.scale = program, scale
        self.corners = [np.zeros(program.K)]
        self.nearest = np.zeros(program.K)

    def corner(self, direction: Floats) -> Floats:
        """The loads that go furthest in a direction; one pass over the members."""
        total = np.zeros(self.program.K)
        for begin, end in spans(self.program):
            pairs, shares, _ = best(self.program, paid(self.program, direction, begin, end), begin, end)
            total += self.program.loads_of(pairs, shares)
        return total

    def ray(self, rows: Integers) -> Floats | None:
        """A ray on some rows alone that proves them impossible; None when some allocation holds them.

        Corners found for some rows serve for all others.
        """
        near, last = np.inf, 0
        for turn in range(_PASSES):
            excess = self._excess(rows)
            distance = float(np.linalg.norm(excess))
            if distance <= _TOUCH:
                return None
            if distance < near * 0.999:
                near, last = distance, turn
            if turn - last > 60 and distance <= _NEAR:
                return None
            ray = np.zeros(self.program.K)
            ray[rows] = excess / self.scale[rows]
            corner = self.corner(-ray)
            self.corners.append(corner)
            if (
                rows_worth(self.program, ray) < ray @ corner
                and (found := _pruned(self.program, ray, self.scale)) is not None
            ):
                return found
            if ray @ (self.nearest - corner) <= 1e-13 * np.linalg.norm(ray * self.scale):
                return None
        raise RuntimeError(
            f"Whether rows {[self.program.names[k] for k in rows.tolist()]} can hold is undecided after "
            f"{_PASSES} passes: they are {near:.2g} of their scales apart; widen one by that."
        )

    def _excess(self, rows: Integers) -> Floats:
        """By how much the point of the corners' hull that is nearest to the box exceeds it, in units of the scales.

        A least-squares problem in shares that are not below zero; a slack takes what a row has left of its bound.
        Columns are corners less the bound and the right side is zero, so that the squared excess grows with the square
        of all shares together: asking them to add up to one by a further equation scales the answer, no more.
        """
        corners = np.array(self.corners)
        scaled = corners[:, rows].T / self.scale[rows][:, None]
        low, high = self.program.lower[rows] / self.scale[rows], self.program.upper[rows] / self.scale[rows]
        lower, upper = np.flatnonzero(np.isfinite(low)), np.flatnonzero(np.isfinite(high))
        sides = np.concatenate([scaled[lower] - low[lower][:, None], scaled[upper] - high[upper][:, None]])
        slack = np.diag(np.concatenate([-np.ones(len(lower)), np.ones(len(upper))]))
        system = np.block([[sides, slack], [np.ones((1, len(corners))), np.zeros((1, len(sides)))]])
        answer = _nonnegative(system, np.append(np.zeros(len(sides)), 1.0))
        shares = answer[: len(corners)] / answer[: len(corners)].sum()
        self.nearest = shares @ corners
        at = shares @ scaled.T
        return np.asarray(np.maximum(at - high, 0.0) - np.maximum(low - at, 0.0))


def _nonnegative(system: Floats, target: Floats) -> Floats:
    """The x >= 0 with the least |system x - target|: an active set, one column more or fewer at a time.

    Source:
        Lawson and Hanson 1974, chapter 23. scipy 1.17's `nnls` ends on some of these systems where a column in use
        still has a gradient.
    """
    size = np.linalg.norm(system, axis=0)
    size[size == 0] = 1.0
    x, used = np.zeros(system.shape[1]), np.zeros(system.shape[1], bool)
    barred = np.zeros(system.shape[1], bool)
    for _ in range(20 * system.shape[1]):
        pull = np.where(used | barred, -np.inf, system.T @ (target - system @ x) / size)
        coming = int(np.argmax(pull))
        if pull[coming] <= 1e-14:
            break
        used[coming] = True
        while True:
            best = np.zeros(len(x))
            best[used] = np.linalg.lstsq(system[:, used], target)[0]
            below = np.flatnonzero(used & (best <= 0))
            if not len(below):
                x = best
                break
            steps = x[below] / np.maximum(x[below] - best[below], 1e-300)
            x = x + steps.min() * (best - x)
            x[below[np.argmin(steps)]] = 0.0
            used &= x > 0
            if not used.any():
                break
        # a column that left as it came would come for ever; it may when another has moved
        barred = np.zeros(len(x), bool) if used[coming] else barred | (np.arange(len(x)) == coming)
    return x
