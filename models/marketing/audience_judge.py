"""How well an expansion finds seeds that it was not told of, beside chance, popularity, and the truth where known.

The seeds are split into folds at random. For each fold the others are the seeds, and the fold's own are to be found
among the n members with the highest scores that are no such seeds: recall at n. Each seed is held out once. A share of
members with equal scores counts where not all of them are among the n, so that no order of members helps.
"""

# Shapes: N members, S seeds, Z sizes.

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim
from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.common.judgement import Figure, Judgement, Series
from models.marketing.audience import scored
from models.marketing.audience_certificate import certify

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

OURS, CHANCE, POPULAR, TRUTH = "look-alikes", "random", "popularity", "oracle"
SHARES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Sizes at which recall is told, as multiples of the audience's."""
_DRAWN = 4_000_000
"""Seeds drawn at a time by the bootstrap."""


@dataclass(frozen=True, kw_only=True)
class AudienceJudgementConfig:
    """How an expansion is judged by seeds that are held out."""

    folds: int = setting(5, "Folds", "Each holds out its share of the seeds in turn, 2 to 100.", ge=2, le=100)
    level: float = setting(0.95, "Level", "Coverage of intervals, 0.5 to 0.999.", ge=0.5, le=0.999)
    resamples: int = setting(2000, "Resamples", "Of the bootstrap over seeds, 100 to 100000.", ge=100, le=100_000)
    seed: int = setting(0, "Seed", "Of folds and resamples, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)


def judge(product: Payload, settings: AudienceJudgementConfig) -> Judgement:
    """Judge an expansion by its held-out seeds, and certify what it says.

    Args:
        product: the parts of an expansion.
        settings: folds and intervals.

    Returns:
        Recall at the audience's size with its interval, the same for chance, for popularity and the truth where they
        are known, at other sizes as a table; and the certificate.

    Source:
        Percentile bootstrap over seeds, Efron & Tibshirani 1993, chapter 13; the rest is ours.
    """
    size, members = product["about"]["size"], len(product["items"])
    sizes = np.unique([min(max(1, round(size * share)), members) for share in SHARES])
    hits = held_out(product, sizes, settings)
    at = int(np.searchsorted(sizes, min(size, members)))
    means = _resampled(hits, settings)
    metrics = {
        "recall": float(hits[OURS][:, at].mean()),
        **_ends("recall", means[OURS][:, at], settings.level),
        "seeds": float(len(product["seeds"])),
        "members": float(len(product["answers"])),
        "reached": float(product["about"]["reached"]),
        "items": float(members),
    }
    for name, others in hits.items():
        if name != OURS:
            word = {CHANCE: "random", POPULAR: "popularity", TRUTH: "oracle"}[name]
            metrics |= {
                f"recall_{word}": float(others[:, at].mean()),
                f"gain_over_{word}": float((hits[OURS] - others)[:, at].mean()),
                **_ends(f"gain_over_{word}", (means[OURS] - means[name])[:, at], settings.level),
            }
    gain = Claim(
        name="gain_over_random_low",
        kind="statistical",
        value=metrics["gain_over_random_low"],
        limit=0.0,
        sense="at least",
        detail=f"Lower end of the {settings.level:.0%} bootstrap interval over {len(product['seeds'])} seeds of recall "
        f"at {size}, less that of members drawn at random. When it fails the audience is no better than one drawn by "
        "lot: name another index, or wait for more seeds.",
    )
    certificate = certify(product)
    return Judgement(
        headline="recall",
        metrics=metrics,
        certificate=Certificate(claims=(*certificate.claims, gain)),
        table=_table(sizes, hits, means, settings.level),
        figures=(_figure(sizes, hits, means, metrics, settings),),
        protocol=f"{len(product['seeds'])} seeds ({product['about']['source']}) among {members} members; "
        f"{min(settings.folds, len(product['seeds']))} folds, each held out once and looked for among all members but "
        "the other seeds.",
    )


def held_out(product: Payload, sizes: Integers, settings: AudienceJudgementConfig) -> Mapping[str, Floats]:
    """Whether each seed is found when it is held out, by every way to rank.

    Args:
        product: the parts of an expansion.
        sizes: (Z) of audiences.
        settings: number of folds, and their seed.

    Returns:
        Name of a ranking to (S, Z), 0 to 1; a share where the last place is shared by several with equal scores.

    Source:
        Ours.
    """
    seeds, items, best = product["seeds"], product["items"], product["about"]["best"]
    named = np.asarray(pc.is_valid(items["item"].combine_chunks()).to_numpy(zero_copy_only=False), bool)
    fold = np.random.default_rng([settings.seed, 0]).permutation(len(seeds)) % settings.folds
    others = {CHANCE: np.zeros(len(items))}
    for name, column in ((POPULAR, "popularity"), (TRUTH, "chance")):
        if column in items.column_names:
            others[name] = np.asarray(items[column].to_numpy(), np.float64)
    hits = {name: np.zeros((len(seeds), len(sizes))) for name in (OURS, *others)}
    for number in np.unique(fold).tolist():
        acting, held = fold != number, fold == number
        candidate = named.copy()
        candidate[seeds[acting]] = False
        score, found = scored(product["places"][acting], product["scores"][acting], len(items), best)
        hits[OURS][held] = _hits(score, candidate & found, seeds[held], sizes)
        for name, values in others.items():
            hits[name][held] = _hits(values, candidate, seeds[held], sizes)
    return hits


def _hits(score: Floats, candidate: NDArray[np.bool_], wanted: Integers, sizes: Integers) -> Floats:
    """(wanted, Z) chance that a member is among the n best candidates, equal ones in an order by lot."""
    ranked = np.sort(-score[candidate])
    better = np.searchsorted(ranked, -score[wanted], "left")
    equal = np.searchsorted(ranked, -score[wanted], "right") - better
    share = (sizes[None, :] - better[:, None]) / np.maximum(equal, 1)[:, None]
    return np.where(candidate[wanted][:, None], np.clip(share, 0.0, 1.0), 0.0)


def _resampled(hits: Mapping[str, Floats], settings: AudienceJudgementConfig) -> dict[str, Floats]:
    """(resamples, Z) mean hits over seeds drawn anew, the same seeds for all rankings."""
    rng = np.random.default_rng([settings.seed, 1])
    seeds = len(hits[OURS])
    step = max(1, _DRAWN // seeds)
    means: dict[str, list[Floats]] = {name: [] for name in hits}
    for first in range(0, settings.resamples, step):
        rows = min(step, settings.resamples - first)
        drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=rows) / seeds
        for name, found in hits.items():
            means[name].append(drawn @ found)
    return {name: np.concatenate(parts) for name, parts in means.items()}


def _ends(name: str, means: Floats, level: float) -> dict[str, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def _table(
    sizes: Integers, hits: Mapping[str, Floats], means: Mapping[str, Floats], level: float
) -> tuple[Mapping[str, float], ...]:
    rows = []
    for at, size in enumerate(sizes.tolist()):
        ends = _ends("recall", means[OURS][:, at], level)
        recall = {f"recall, {name}": float(found[:, at].mean()) for name, found in hits.items()}
        rows.append({"audience": size, **recall, "low": ends["recall_low"], "high": ends["recall_high"]})
    return tuple(rows)


def _figure(
    sizes: Integers,
    hits: Mapping[str, Floats],
    means: Mapping[str, Floats],
    metrics: Mapping[str, float],
    settings: AudienceJudgementConfig,
) -> Figure:
    x = tuple(sizes.tolist())
    series = [Series(label=name, x=x, y=tuple(found.mean(0).tolist())) for name, found in hits.items()]
    low, high = np.quantile(means[OURS], [(1 - settings.level) / 2, (1 + settings.level) / 2], axis=0)
    series[0] = dataclasses.replace(series[0], low=tuple(low.tolist()), high=tuple(high.tolist()))
    times = metrics["recall"] / metrics["recall_random"]
    return Figure(
        name="held_out_seeds",
        title=f"Look-alikes find {metrics['recall']:.0%} of held-out seeds, {times:.2g} times what chance finds",
        x_label="members added",
        y_label="recall of held-out seeds",
        series=tuple(series),
        caption=f"{settings.level:.0%} bootstrap intervals over {metrics['seeds']:.0f} seeds.",
        log_x=True,
    )
