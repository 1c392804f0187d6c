"""Whether a study of scaling says what its trainings did, found by other code than that which made it.

Every trial's entropy and area are counted again from the scores that it left, its operations product by product from
the sizes of the rows it learned from, and the law is fitted again by a general solver. The intervals are not computed
another way but held to what they promise: at an end of one, the least sum of squares is at its limit.
"""

# Shapes: C candidates of a trial, K sizes.

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from models.common.certificate import Certificate, Claim
from models.common.contracts import Payload

Floats = NDArray[np.float64]

ROUNDING = 1e-9
SQUARES = 1e-4
"""How far, as a share, a least sum of squares may be from one that another solver finds."""
SIGMAS = 4.0
"""Standard errors that chance is allowed: 1 in 16,000 honest trials fails."""
CLIP = 1e-7
EDGES = (0.005, 4.0)
"""Exponents beyond which nobody looked; an interval may end there for want of evidence."""
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Study:
    """What the study was to be.

    Attributes:
        trials: axis, place and seed of every training.
        held_back: largest sizes that the law is not told of when it predicts the largest of all.
        least_decades: powers of ten that the sizes must span.
        least_exponent: what the lower end of the exponent's interval must reach.
    """

    trials: tuple[tuple[str, int, int], ...]
    held_back: int
    least_decades: float
    least_exponent: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """What one trial left behind."""

    about: Mapping[str, Any]
    row: NDArray[Any]
    label: NDArray[Any]
    logit: NDArray[Any]
    chance: Floats
    oracle: Floats
    events: list[int]
    candidates: list[int]

    @property
    def key(self) -> tuple[str, int, int]:
        """Axis, place and seed."""
        return str(self.about["axis"]), int(self.about["place"]), int(self.about["seed"])


def certify(data: Payload, points: Sequence[Mapping[str, Any]], law: Mapping[str, Any], study: Study) -> Certificate:
    """Hold a study's points and law to what its trials left behind.

    Args:
        data: scores and rows of all trials.
        points: the metrics that are reported, one a trial, in the same order.
        law: the law that is reported.
        study: what the study was to be.

    Returns:
        The certificate. When the trials themselves are not what they should be, nothing else is looked at.

    Source:
        Ours.
    """
    trials = _trials(data)
    claims = _whole(trials, points, study)
    if any(not claim.holds for claim in claims):
        return Certificate(claims=claims)
    claims = (*claims, *_recounted(trials, points), *_honest(trials, points))
    return Certificate(claims=(*claims, *_lawful(points, law, study), *_beside(trials, points, law, study)))


# --- the trials -------------------------------------------------------------------------------------------------------


def _trials(data: Payload) -> list[Trial]:
    table = data["trials"].to_pylist()
    score, row = data["score_start"].tolist(), data["row_start"].tolist()
    found = []
    for number, about in enumerate(table):
        begin, end = score[number], score[number + 1]
        learned = slice(row[number], row[number + 1])
        found.append(
            Trial(
                about=about,
                row=np.asarray(data["row"][begin:end]),
                label=np.asarray(data["label"][begin:end]),
                logit=np.asarray(data["logit"][begin:end]),
                chance=np.asarray(data["chance"][begin:end], np.float64),
                oracle=np.asarray(data["oracle"][begin:end], np.float64),
                events=np.asarray(data["row_events"][learned]).tolist(),
                candidates=np.asarray(data["row_candidates"][learned]).tolist(),
            )
        )
    return found


def _whole(trials: list[Trial], points: Sequence[Mapping[str, Any]], study: Study) -> tuple[Claim, ...]:
    """All trials and no others, of numbers, measured on the same events."""
    wanted, found = Counter(study.trials), Counter(trial.key for trial in trials)
    told = Counter((str(one["axis"]), int(one["place"]), int(one["seed"])) for one in points)
    astray = (wanted - found) + (found - wanted) + (wanted - told) + (told - wanted)
    order = sum(
        trial.key != (one["axis"], one["place"], one["seed"]) for trial, one in zip(trials, points, strict=False)
    )
    broken = 0
    for trial in trials:
        chance = trial.chance
        broken += int((~np.isfinite(trial.logit)).sum() + (~((chance >= 0) & (chance <= 1))).sum())
        broken += int(len(np.unique(trial.label)) != 2) + int((~((trial.oracle > 0) & (trial.oracle < 1))).sum())
    first: dict[int, Trial] = {}
    apart = 0
    for trial in trials:
        other = first.setdefault(trial.key[2], trial)
        for mine, theirs in ((trial.row, other.row), (trial.label, other.label), (trial.oracle, other.oracle)):
            apart += int(len(mine) != len(theirs)) or int((mine != theirs).sum())
    twins = sum(
        np.array_equal(trial.logit, other.logit) and not _same_training(trial, other)
        for place, trial in enumerate(trials)
        for other in trials[:place]
    )
    return (
        _exact(
            "trials_missing_or_foreign",
            sum(astray.values()) + order,
            f"{len(study.trials)} trials were to be; axis, place and seed of each in scores and in points.",
        ),
        _exact("scores_broken", broken, "Logits that are not finite, chances outside 0 to 1, labels all alike."),
        _exact(
            "events_differ", apart, "Events, labels or oracles of a seed's trials that differ from its first trial's."
        ),
        _exact(
            "trials_alike",
            twins,
            "Pairs of trials with the same scores, bit for bit; but for one training that is on two axes.",
        ),
    )


def _same_training(one: Trial, other: Trial) -> bool:
    """A size of the axis of examples may be one of the sizes: trained alike, it scores alike."""
    rest = [
        {name: value for name, value in trial.about.items() if name not in ("axis", "place")} for trial in (one, other)
    ]
    return bool(one.about["axis"] != other.about["axis"] and rest[0] == rest[1])


def _recounted(trials: list[Trial], points: Sequence[Mapping[str, Any]]) -> tuple[Claim, ...]:
    """Reported numbers of every trial, counted again."""
    pairs = list(zip(trials, points, strict=True))
    unlike = sum(one.get(name) != value for trial, one in pairs for name, value in trial.about.items())
    return (
        _exact("descriptions_differ", unlike, "What points say of their trials, beside what the trials left."),
        _bounded(
            "entropy_difference",
            max(abs(_entropy(trial.label, trial.chance) - one["entropy"]) for trial, one in pairs),
            ROUNDING,
            f"Normalized entropy of {len(pairs)} trials, counted again from chances and labels.",
        ),
        _bounded(
            "oracle_difference",
            max(abs(_entropy(trial.label, trial.oracle) - one["oracle"]) for trial, one in pairs),
            ROUNDING,
            "The same of the best score that is possible.",
        ),
        _bounded(
            "auc_difference",
            max(abs(_area(trial.label, trial.logit) - one["auc"]) for trial, one in pairs),
            ROUNDING,
            f"AUC of {len(pairs)} trials, pairs counted again.",
        ),
        _bounded(
            "operations_difference",
            max(abs(_operations(trial) / one["flops"] - 1) for trial, one in pairs),
            ROUNDING,
            "Operations of training, product by product from the rows learned from; largest difference as a share.",
        ),
        _exact(
            "weights_difference",
            sum(_weights(trial.about) != trial.about["weights"] for trial, _ in pairs),
            "Trials whose number of weights in blocks and head is not that of their width and layers.",
        ),
    )


def _honest(trials: list[Trial], points: Sequence[Mapping[str, Any]]) -> tuple[Claim, ...]:
    """What an honest study cannot do: order chances against logits, beat the oracle, set each trial's rate apart."""
    disorder = 0
    for trial in trials:
        order = np.lexsort((trial.chance, trial.logit))
        disorder += int((np.diff(trial.chance[order]) < 0).sum())
    examples = sum(sum(trial.candidates) != trial.about["examples"] for trial in trials)
    rates = np.array([trial.about["learning_rate"] * trial.about["width"] for trial in trials])
    above = []
    for trial in trials:
        lost = _losses(trial.label, trial.chance) - _losses(trial.label, trial.oracle)
        above.append(float(lost.mean() / (lost.std() / math.sqrt(len(lost)))))
    sizes = _sizes(points)
    falling = sum(later <= earlier for earlier, later in zip(sizes[:, 0], sizes[1:, 0], strict=False))
    return (
        _exact("chances_disordered", disorder, "Neighbours by logit whose chances fall."),
        _exact(
            "examples_differ", examples, "Trials whose rows do not hold the events that they say they learned from."
        ),
        _bounded(
            "rate_rule_broken",
            float(np.ptp(rates) / rates.max()),
            ROUNDING,
            "Spread of learning rate times width over all trials, as a share.",
        ),
        Claim(
            name="least_above_oracle",
            kind="statistical",
            value=min(above),
            limit=-SIGMAS,
            sense="at least",
            detail="Least distance of a trial's loss above that of the best possible score, in standard errors.",
        ),
        _exact("sizes_out_of_order", int(falling), "Sizes of the compute axis that cost no more than the one before."),
    )


def _losses(label: NDArray[Any], chance: Floats) -> Floats:
    kept = np.minimum(np.maximum(chance, CLIP), 1 - CLIP)
    return np.asarray(-np.where(label == 1, np.log(kept), np.log(1 - kept)))


def _entropy(label: NDArray[Any], chance: Floats) -> float:
    """Mean loss over that of the share of ones, each a sum over ones and over zeros."""
    ones, zeros = chance[label == 1], chance[label == 0]
    total = len(label)
    lost = -math.fsum(np.log(np.clip(ones, CLIP, 1 - CLIP))) - math.fsum(np.log1p(-np.clip(zeros, CLIP, 1 - CLIP)))
    always = -len(ones) * math.log(len(ones) / total) - len(zeros) * math.log(len(zeros) / total)
    return lost / always


def _area(label: NDArray[Any], logit: NDArray[Any]) -> float:
    """Share of pairs of a one and a zero in which the one is above, ties half."""
    zeros = np.sort(logit[label == 0])
    ones = logit[label == 1]
    below = np.searchsorted(zeros, ones, side="left").sum(dtype=np.int64)
    not_above = np.searchsorted(zeros, ones, side="right").sum(dtype=np.int64)
    return (int(below) + int(not_above)) / (2 * len(ones) * len(zeros))


def _operations(trial: Trial) -> float:
    """Operations of training: each product (a, b) x (b, c) is 2 a b c, three times, over the rows that steps took."""
    about = trial.about
    wide, deep, tasks = int(about["width"]), int(about["layers"]), int(about["tasks"])
    inner = wide * int(about["multiplier"])
    total = 0
    for events, candidates in zip(trial.events, trial.candidates, strict=True):
        tokens = events + candidates
        layer = 2 * tokens * wide * 3 * wide  # queries, keys and values
        layer += 2 * (2 * events * events * wide)  # scores of events and what they gather
        layer += 2 * (2 * candidates * tokens * wide)  # the same of candidates
        layer += 2 * tokens * wide * wide  # out of the heads
        layer += 2 * tokens * wide * 2 * inner + 2 * tokens * inner * wide  # the feed-forward part
        if about["gate"]:
            layer += 2 * (2 * tokens * wide * wide)
        total += deep * layer + 2 * events * tasks * wide + 2 * candidates * wide * tasks
        if about["head"] == "mlp":
            total += 2 * candidates * wide * wide
    return 3.0 * total * int(about["steps"]) * int(about["batch_size"]) / len(trial.events)


def _weights(about: Mapping[str, Any]) -> int:
    wide, tasks = int(about["width"]), int(about["tasks"])
    block = 4 * wide * wide + 3 * wide * wide * int(about["multiplier"]) + 4 * wide
    block += 2 * (wide * wide + wide) if about["gate"] else 0
    head = wide * tasks + tasks + (wide * wide + wide if about["head"] == "mlp" else 0)
    return int(about["layers"]) * block + 2 * wide + head


# --- the law ----------------------------------------------------------------------------------------------------------


def _sizes(points: Sequence[Mapping[str, Any]]) -> Floats:
    """(K, 3) mean operations, entropy and AUC of the sizes of the compute axis."""
    by_place: dict[int, list[tuple[float, float, float]]] = {}
    for one in points:
        if one["axis"] == "compute":
            by_place.setdefault(int(one["place"]), []).append((one["flops"], one["entropy"], one["auc"]))
    return np.array([np.mean(by_place[place], axis=0) for place in sorted(by_place)])


def _lawful(points: Sequence[Mapping[str, Any]], law: Mapping[str, Any], study: Study) -> tuple[Claim, ...]:
    sizes, held = _sizes(points), law["held_back"]
    x, y = sizes[:, 0] / law["unit"], sizes[:, 1]
    some = len(x) - study.held_back
    told = held["asymptote"] + held["coefficient"] * x[-1] ** -held["exponent"]
    half = (held["high"] - held["low"]) / 2
    decades = math.log10(sizes[-1, 0] / sizes[0, 0])
    return (
        _bounded(
            "law_not_least", _excess(x, y, law), SQUARES, "Sum of squares above that of another solver, as a share."
        ),
        _bounded(
            "law_of_the_smaller_not_least",
            _excess(x[:some], y[:some], held),
            SQUARES,
            f"The same of the law of the {some} smaller sizes.",
        ),
        _bounded(
            "exponent_interval_off",
            max(_end_off(x, y, law, end) for end in ("exponent_low", "exponent_high")),
            10 * SQUARES,
            "At both ends the least sum of squares is at its limit; largest distance as a share.",
        ),
        _bounded(
            "prediction_difference",
            max(abs(told - held["predicted"]), abs(held["measured"] - y[-1])),
            ROUNDING,
            "The law of the smaller sizes at the largest one, and what that reached.",
        ),
        _bounded(
            "predictive_interval_off",
            max(_taken_in_off(x[:some], y[:some], x[-1], held["exponent"], held[end]) for end in ("low", "high")),
            10 * SQUARES,
            "Taken as one more point, an end of the interval raises the least sum of squares to its limit.",
        ),
        _bounded("decades_difference", abs(decades - law["decades"]), ROUNDING, "Powers of ten that the sizes span."),
        Claim(
            name="decades",
            kind="exact",
            value=decades,
            limit=study.least_decades,
            sense="at least",
            detail=f"From {sizes[0, 0]:.3g} to {sizes[-1, 0]:.3g} operations, {len(x)} sizes.",
        ),
        Claim(
            name="exponent_low",
            kind="statistical",
            value=float(law["exponent_low"]),
            limit=study.least_exponent,
            sense="at least",
            detail=f"Lower end of the {100 * LEVEL:.0f} % interval of the exponent, {law['exponent']:.4f}.",
        ),
        Claim(
            name="held_back_off",
            kind="statistical",
            value=abs(y[-1] - (held["high"] + held["low"]) / 2) / half if half > 0 else math.inf,
            limit=1.0,
            detail=f"Distance of the largest size's entropy, {y[-1]:.4f}, from the middle of the interval that was "
            f"predicted for it, {held['low']:.4f} to {held['high']:.4f}, in halves of the interval.",
        ),
    )


def _beside(
    trials: list[Trial], points: Sequence[Mapping[str, Any]], law: Mapping[str, Any], study: Study
) -> tuple[Claim, ...]:
    """What is told beside the law: shares that it explains, spread of the largest size, and the straight lines."""
    sizes, held, above, rise = _sizes(points), law["held_back"], law["above_oracle"], law["auc"]
    x, y = sizes[:, 0] / law["unit"], sizes[:, 1]
    some = len(x) - study.held_back
    oracle = float(
        np.mean([_entropy(trial.label, trial.oracle) for trial in trials if trial.about["axis"] == "compute"])
    )
    gap = np.log10(np.maximum(y - oracle, 1e-9))
    fall, short = _line(x, gap), _line(x[:some], gap[:some])
    last = [one["entropy"] for one in points if one["axis"] == "compute" and one["place"] == len(x) - 1]
    told_above = (-above["exponent"], -above["exponent_high"], -above["exponent_low"], above["coefficient"])
    told_rise = (rise["slope"], rise["slope_low"], rise["slope_high"], rise["intercept"])
    ahead = oracle + 10 ** (short[3] + short[0] * math.log10(x[-1]))
    return (
        _bounded(
            "explained_difference",
            _apart(
                (law["r_squared"], held["r_squared"]),
                (_explained(x, y, law), _explained(x[:some], y[:some], held)),
            ),
            1e-8,
            "Shares of the variance that both laws explain, counted again.",
        ),
        _bounded(
            "largest_size_difference",
            _apart(
                (held["measured_low"], held["measured_high"], held["flops"] / sizes[-1, 0]),
                (min(last), max(last), 1.0),
            ),
            ROUNDING,
            "Least and largest of the largest size over its seeds, and its operations.",
        ),
        _bounded(
            "oracle_mean_difference",
            abs(oracle - law["oracle"]),
            ROUNDING,
            "Mean entropy of the best score that is possible, counted again from its chances.",
        ),
        _bounded(
            "above_oracle_line_difference",
            _apart((*told_above, above["r_squared"], above["predicted"]), (*fall[:3], 10 ** fall[3], fall[4], ahead)),
            1e-8,
            "The line of the entropy above the oracle, its interval, its share and what it foretells, by another "
            "routine.",
        ),
        _bounded(
            "auc_line_difference",
            _apart((*told_rise, rise["r_squared"]), _line(x, sizes[:, 2])),
            1e-8,
            "The line of AUC over log10 of operations, its interval and its share, by another routine.",
        ),
    )


def _line(x: Floats, y: Floats) -> tuple[float, float, float, float, float]:
    """Slope, the ends of its interval, intercept and share of the variance of a line over log10 x."""
    found = stats.linregress(np.log10(x), y)
    half = float(stats.t.isf((1 - LEVEL) / 2, len(x) - 2) * found.stderr)
    slope = float(found.slope)
    return slope, slope - half, slope + half, float(found.intercept), float(found.rvalue) ** 2


def _apart(told: Sequence[float], found: Sequence[float]) -> float:
    """Largest difference; of what is no number, none is small enough."""
    off = np.abs(np.subtract(told, found))
    return float(off.max()) if np.isfinite(off).all() else math.inf


def _explained(x: Floats, y: Floats, law: Mapping[str, Any]) -> float:
    left = y - law["asymptote"] - law["coefficient"] * x ** -law["exponent"]
    return 1 - math.fsum(left**2) / (len(y) * float(np.var(y)))


def _squares(x: Floats, y: Floats, exponent: float) -> float:
    """Least sum of squares of asymptote + coefficient x^-exponent, neither below zero."""
    column = np.stack([np.ones_like(x), x**-exponent], 1)
    return float(optimize.nnls(column, y)[1] ** 2)


def _least(x: Floats, y: Floats) -> float:
    """Least sum of squares over all exponents, by a solver that knows nothing of the form."""

    def residuals(parts: Floats) -> Floats:
        return np.asarray(parts[0] + parts[1] * x ** -parts[2] - y)

    best = math.inf
    for exponent in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
        column = np.stack([np.ones_like(x), x**-exponent], 1)
        asymptote, coefficient = optimize.nnls(column, y)[0]
        found = optimize.least_squares(
            residuals,
            (asymptote, coefficient, exponent),
            bounds=((-1e-12, -1e-12, EDGES[0]), (np.inf, np.inf, EDGES[1])),
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            max_nfev=2000,
        )
        best = min(best, 2 * float(found.cost))
    return best


def _excess(x: Floats, y: Floats, law: Mapping[str, Any]) -> float:
    told = law["asymptote"] + law["coefficient"] * x ** -law["exponent"]
    square, best = float(np.square(told - y).sum()), _least(x, y)
    if law["asymptote"] < 0 or law["coefficient"] < 0:
        return math.inf
    return (square - best) / max(best, 1e-18)


def _limit(least: float, freedom: int) -> float:
    """The sum of squares up to which an exponent is believed."""
    return float(least * (1 + stats.f.ppf(LEVEL, 1, freedom) / freedom))


def _end_off(x: Floats, y: Floats, law: Mapping[str, Any], end: str) -> float:
    square, limit = _squares(x, y, law[end]), _limit(_squares(x, y, law["exponent"]), len(x) - 3)
    if law[end] in EDGES:  # nothing is claimed beyond, and inside the exponent is still believed
        return max(0.0, square / limit - 1)
    wrong_side = (law[end] > law["exponent"]) != (end == "exponent_high")
    return math.inf if wrong_side else abs(square / limit - 1)


def _taken_in_off(x: Floats, y: Floats, at: float, exponent: float, value: float) -> float:
    """How far the least sum of squares with one more point is from its limit, as a share of the limit."""
    limit = _limit(_squares(x, y, exponent), len(x) - 3)
    wide, more = np.append(x, at), np.append(y, value)
    grid = np.geomspace(*EDGES, 400)
    best = int(np.argmin([_squares(wide, more, float(one)) for one in grid]))
    # between its neighbours, for of points with little noise the exponent is known to less than one step
    square = float(
        optimize.minimize_scalar(
            lambda one: _squares(wide, more, float(one)),
            bounds=(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]),
            method="bounded",
            options={"xatol": 1e-10},
        ).fun
    )
    square = min(square, _squares(wide, more, float(grid[best])))
    if value <= 0:  # an error is never below zero, so neither is its interval
        return max(0.0, square / limit - 1)
    return abs(square / limit - 1)


def _exact(name: str, value: int, detail: str) -> Claim:
    return Claim(name=name, kind="exact", value=value, limit=0, detail=detail)


def _bounded(name: str, value: float, limit: float, detail: str) -> Claim:
    return Claim(name=name, kind="bounded", value=value, limit=limit, detail=detail)
