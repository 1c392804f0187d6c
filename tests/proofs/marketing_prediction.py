"""Predictions for `make prove SYSTEM=marketing`: how often intervals cover, and what exploration is worth."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from models.marketing.prediction.counterfactual import doubly_robust, ips, snips
from models.marketing.prediction.estimate import NORMAL
from models.marketing.prediction.exploration import last_layer
from models.marketing.prediction.maturity import fit_delays, matured_rate, maturity_weights
from models.marketing.prediction.purchases import fit_purchases, fit_spending
from models.marketing.prediction.uplift import Ridge, area_under_uplift, calibrate, cross_fit, mean_uplift, qini
from tests.proof import Found, Pieces, Proof, Report, Section, table

Floats = NDArray[np.float64]
Covered = Mapping[str, bool]

RUNS, PIECE = 2000, 500
LEAST, MOST = 0.93, 0.97
FIRST_SEED = 9000


# --- intervals --------------------------------------------------------------------------------------------------------


def _uplift(random: np.random.Generator) -> Covered:
    """A confounded campaign whose uplift is a line; everything is learned from it."""
    x = random.normal(size=(1500, 3))
    treated = (random.random(1500) < expit(0.7 * x[:, 0])).astype(float)
    uplift = 0.5 + x[:, 1]
    outcome = 2 * x[:, 0] + x[:, 2] + treated * uplift + random.standard_t(5, 1500)
    scores = cross_fit(x, treated, outcome, learner=Ridge()).scores
    # an order given beforehand: what is said is the uplift with noise, s, of variance 2; E[uplift | s] has the slope
    # 1/2, so E[uplift F(s)] = 1/4 + (1/2) E[(s - 1/2) F(s)], and E[(s - mean) F(s)] = deviation / (2 sqrt(pi))
    said = uplift + random.normal(size=1500)
    gained = 0.5 * math.sqrt(2) / (2 * math.sqrt(math.pi))
    parts = {
        "mean uplift": (mean_uplift(scores), 0.5),
        "area under uplift": (area_under_uplift(scores, said), 0.25 + gained),
        "Qini": (qini(scores, said), gained),
        "slope of found on said": (calibrate(scores, said).slope, 0.5),
    }
    return {name: found.low < true < found.high for name, (found, true) in parts.items()}


def _policy(random: np.random.Generator) -> Covered:
    """Three offers shown by a policy that depends on the member; another policy's value from its log."""
    x = random.random(600)
    logging = np.stack([0.2 + 0.5 * x, 0.3 - 0.2 * x, 0.5 - 0.3 * x], axis=1)
    policy = np.stack([0.1 * np.ones(600), 0.2 + 0.3 * x, 0.7 - 0.3 * x], axis=1)
    mean = np.stack([x, 1 - x, 0.5 * np.ones(600)], axis=1)
    shown, row = (random.random(600)[:, None] > np.cumsum(logging, axis=1)).sum(1), np.arange(600)
    reward = (random.random(600) < mean[row, shown]).astype(float)
    model = np.clip(mean + 0.1, 0, 1)
    propensity, chance = logging[row, shown], policy[row, shown]
    true = 0.05 + (0.1 + 0.3 / 6) + 0.5 * 0.55
    parts = {
        "IPS": ips(reward, propensity, chance),
        "SNIPS": snips(reward, propensity, chance),
        "doubly robust": doubly_robust(reward, propensity, chance, model[row, shown], (policy * model).sum(1)),
    }
    return {name: found.low < true < found.high for name, found in parts.items()}


def _young(random: np.random.Generator) -> Covered:
    """Members of all ages, a tenth of whom convert, in 10 days on average, if within 30 days."""
    age = np.ceil(random.uniform(0, 40, 3000))
    delay = np.where(random.random(3000) < 0.1, np.ceil(random.exponential(10, 3000)), 99)
    seen = (delay <= age) & (delay <= 30)
    delays = fit_delays(delay[seen], age[seen], horizon=30)
    old = age >= 5
    _, low, high = matured_rate(seen[old], maturity_weights(age[old], delays, most=10))
    true = 0.1 * (1 - math.exp(-3))
    come = (1 - math.exp(-1)) / (1 - math.exp(-3))
    place = int(np.searchsorted(delays.delay, 10.0, side="right")) - 1
    half = NORMAL * delays.error[place]
    return {
        "rate of young members": low < true < high,
        "delays come by day 10": abs(math.log(delays.come[place] / come)) < half,
    }


def _buyers(random: np.random.Generator) -> Covered:
    """Customers of BG/NBD and Gamma-Gamma; every parameter's logarithm by its standard error."""
    r, alpha, a, b = 0.5, 4.0, 0.8, 2.5
    size = 12_000
    rate, gone, age = random.gamma(r, 1 / alpha, size), random.beta(a, b, size), random.uniform(20, 60, size)
    x, t, now, alive = np.zeros(size), np.zeros(size), np.zeros(size), np.arange(size)
    while len(alive):
        now[alive] += random.exponential(1 / np.maximum(rate[alive], 1e-300))
        alive = alive[now[alive] <= age[alive]]
        x[alive] += 1
        t[alive] = now[alive]
        alive = alive[random.random(len(alive)) >= gone[alive]]
    model = fit_purchases(x, t, age)
    count = random.integers(1, 7, size)
    spending = fit_spending(count, random.gamma(6.0 * count, 1 / (random.gamma(4.0, 1 / 15.0, size) * count)))
    found = np.log([model.r, model.alpha, model.a, model.b, spending.p, spending.q, spending.v])
    true, error = np.log([r, alpha, a, b, 6.0, 4.0, 15.0]), np.append(model.error, spending.error)
    inside = np.abs(found - true) < NORMAL * error
    names = ("log r", "log alpha", "log a", "log b", "log p", "log q", "log v")
    return {name: bool(one) for name, one in zip(names, inside, strict=True)}


WORLDS: Mapping[str, Callable[[np.random.Generator], Covered]] = {
    "uplift": _uplift,
    "policies": _policy,
    "young members": _young,
    "buyers": _buyers,
}


def intervals(_: Proof) -> Pieces:
    """Some worlds of a kind a piece."""
    return {
        f"{name} {first + 1} to {first + PIECE}": partial(_intervals, name, first)
        for name in WORLDS
        for first in range(0, RUNS, PIECE)
    }


def _intervals(name: str, first: int, _: Mapping[str, Found]) -> Found:
    place = list(WORLDS).index(name)
    rows = [WORLDS[name](np.random.default_rng((FIRST_SEED, place, run))) for run in range(first, first + PIECE)]
    return {"covered": {key: int(sum(row[key] for row in rows)) for key in rows[0]}, "runs": PIECE}


def report_intervals(found: Mapping[str, Found]) -> Report:
    """How often each interval covers the truth."""
    rows, missed = [], []
    for name in WORLDS:
        pieces = [piece for key, piece in found.items() if key.startswith(f"{name} ")]
        runs = sum(piece["runs"] for piece in pieces)
        for key in pieces[0]["covered"]:
            covered = sum(piece["covered"][key] for piece in pieces)
            exact = stats.binomtest(covered, runs).proportion_ci(0.95)
            rows.append((name, key, f"{covered / runs:.3f}", f"{exact.low:.3f} to {exact.high:.3f}"))
            if not LEAST <= covered / runs <= MOST:
                missed.append(f"the interval of {key} covers the truth in {covered / runs:.1%} of {runs:,}")
    lines = [
        f"{RUNS:,} worlds of each kind, drawn anew; 95 % intervals, bar {LEAST} to {MOST}.",
        "",
        *table(("world", "what", "share that covers the truth", "95 % interval of it"), rows),
    ]
    return Report(lines, missed)


# --- exploration ------------------------------------------------------------------------------------------------------

EXPLORED, UPDATES, MEMBERS, OFFERS, SEEN = 30, 50, 100, 5, 4


def exploration(_: Proof) -> Pieces:
    """Six worlds a piece."""
    return {f"{first + 1} to {first + 6}": partial(_exploration, first) for first in range(0, EXPLORED, 6)}


def _exploration(first: int, _: Mapping[str, Found]) -> Found:
    return {"drawn": [explored(seed, 1.0) for seed in range(first, first + 6)],
            "greedy": [explored(seed, 0.0) for seed in range(first, first + 6)]}  # fmt: skip


def explored(seed: int, scale: float) -> list[float]:
    """Mean true chance, after every update, of what is chosen, as a share of the best one's.

    Offers' chances are logistic in three features of the member; what is known at first are 20 responses to the first
    offer and none to the others, which are thought to be somewhat worse, as a business that has always sent one thing.
    """
    random = np.random.default_rng((FIRST_SEED + 1, seed))
    true = np.concatenate([random.normal(0, 1, (OFFERS, SEEN - 1)), random.normal(-2, 0.5, (OFFERS, 1))], axis=1)

    def members() -> Floats:
        return np.concatenate([random.normal(size=(MEMBERS, SEEN - 1)), np.ones((MEMBERS, 1))], axis=1)

    thought = np.zeros((OFFERS, SEEN))
    thought[:, -1] = [-2.0, -3.0, -3.0, -3.0, -3.0]
    known = last_layer(thought, np.zeros((0, SEEN)), np.zeros(0, int), prior=1.0)
    start = members()[:20]
    known = known.learned(start, np.zeros(20, int), (random.random(20) < expit(start @ true[0])).astype(float), steps=5)
    shares = []
    for _ in range(UPDATES):
        seen = members()
        chance = expit(seen @ true.T)
        offer = known.drawn(seen, random, scale=scale).argmax(1)
        got = chance[np.arange(MEMBERS), offer]
        shares.append(float(got.sum() / chance.max(axis=1).sum()))
        known = known.learned(seen, offer, (random.random(MEMBERS) < got).astype(float), steps=3)
    return shares


def report_exploration(found: Mapping[str, Found]) -> Report:
    """When drawing overtakes greed, summed from the beginning, and how far apart they end."""
    drawn, greedy = (np.array([row for piece in found.values() for row in piece[kind]]) for kind in ("drawn", "greedy"))
    summed = np.cumsum(drawn - greedy, axis=1)
    half = stats.t.ppf(0.975, EXPLORED - 1) * summed.std(axis=0, ddof=1) / np.sqrt(EXPLORED)
    ahead = np.flatnonzero(summed.mean(axis=0) - half > 0)
    when = f"{ahead[0] + 1}" if len(ahead) else f"not within {UPDATES}"
    last = drawn[:, -10:].mean(1) - greedy[:, -10:].mean(1)
    spread = stats.t.ppf(0.975, EXPLORED - 1) * last.std(ddof=1) / np.sqrt(EXPLORED)
    rows = [
        (f"{update}", f"{drawn[:, update - 1].mean():.3f}", f"{greedy[:, update - 1].mean():.3f}",
         f"{summed[:, update - 1].mean():+.2f} ({summed[:, update - 1].mean() - half[update - 1]:+.2f} to "
         f"{summed[:, update - 1].mean() + half[update - 1]:+.2f})")
        for update in (1, 2, 5, 10, 20, 30, 50)
    ]  # fmt: skip
    lines = [
        f"{OFFERS} offers, {MEMBERS} members an update, {EXPLORED} worlds. One offer was always sent before; the "
        "others are thought to be worse and need not be. Share of the best possible responses, and what drawing has "
        "gained over greed so far, in updates' worth of the best.",
        "",
        *table(("update", "drawn", "greedy", "gained so far (95 %)"), rows),
        "",
        f"Drawing is ahead for certain from update {when} on. Over the last ten updates it gets {last.mean():.3f} "
        f"({last.mean() - spread:.3f} to {last.mean() + spread:.3f}) more of the best.",
    ]
    missed = [] if len(ahead) else [f"drawn decisions do not overtake greedy ones within {UPDATES} updates"]
    return Report(lines, missed)


_HERE = Path(__file__)
SECTIONS = (
    Section("prediction_intervals", "Intervals of predictions", (_HERE,), intervals, report_intervals),
    Section("prediction_exploration", "Exploration", (_HERE,), exploration, report_exploration),
)
