"""Audience expansion: members who look like those who converted, beyond the audience that a rule selects.

Seeds are members who converted. A candidate's score is one of

    nearest    mean of the k largest cosines to seeds (k = 1: the largest), from embeddings, or from the answers of a
               retrieval index in which each seed asked for its neighbours
    head       logit of a logistic regression on (u, cos(u, centroid of the seeds)), whose negatives are members that
               were reached and did not convert, each weighted by one over the chance of having been reached

The N best beyond the rule's audience become eligible: they are handed to the program as further pairs of member and
offer, and the program decides what they are worth.

Source: audience expansion in NOAH (arXiv 2405.10490) is known to us by name alone; the scores are ours, after Ma et al.
2016, "Score look-alike audiences" (nearest and regression), and Rosenbaum & Rubin 1983 for the weights.
"""

# Shapes: N members, C candidates, S seeds, D embedding, Q neighbours of a seed, P pairs.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError
from models.marketing.logistic import Logistic, fit_logistic

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEAST_PROPENSITY = 0.02
"""No chance of having been reached counts as less, so that no member weighs more than 50 others."""
_CELLS = 4_000_000
"""Cosines held at a time."""


def best_cosines(candidate_CD: NDArray[Any], seed_SD: NDArray[Any], *, best: int = 10) -> Floats:
    """Mean of the largest cosines of each candidate to the seeds.

    Seeds with the same embedding count once, so that a member listed twice, or copied into a table, pulls no harder.

    Args:
        candidate_CD: embeddings; a row of zeros has cosine 0 to everything.
        seed_SD: embeddings, at least one.
        best: how many cosines are averaged; all when there are fewer distinct seeds. 1: the largest.

    Returns:
        (C) from -1 to 1.

    Raises:
        InputError: widths differ, a number is not finite, there is no seed, or `best` is below 1.
    """
    candidates, seeds = _unit(candidate_CD, "candidate"), np.unique(_unit(seed_SD, "seed"), axis=0)
    if candidates.shape[1] != seeds.shape[1]:
        raise InputError(
            f"candidates have {candidates.shape[1]} dimensions and seeds {seeds.shape[1]}; take both from one model."
        )
    if not len(seeds):
        raise InputError("there is no seed; wait for conversions, or begin with the rule's audience.")
    if best < 1:
        raise InputError(f"best must be at least 1, got {best}.")
    kept, step = min(best, len(seeds)), max(1, _CELLS // len(seeds))
    out = np.empty(len(candidates))
    for first in range(0, len(candidates), step):
        cosine = candidates[first : first + step] @ seeds.T
        out[first : first + step] = np.partition(cosine, -kept, axis=1)[:, -kept:].mean(1)
    return np.clip(out, -1.0, 1.0)


def best_neighbours(
    neighbour_SQ: NDArray[np.integer],
    cosine_SQ: NDArray[Any],
    members: int,
    *,
    best: int = 10,
    absent: float = -1.0,
) -> Floats:
    """The same from an index's answers, in which seeds asked for their nearest members.

    Args:
        neighbour_SQ: members near each seed, -1 for an empty place.
        cosine_SQ: their cosines.
        members: N.
        best: how many cosines are averaged.
        absent: counts in place of a cosine that no list holds; -1 is the least that it can be.

    Returns:
        (N) scores. With lists that hold every member they equal `best_cosines` for distinct seeds.

    Raises:
        InputError: shapes differ, a member does not exist or is twice in one list, or a cosine is not finite.
    """
    ids, cosine = np.asarray(neighbour_SQ), np.asarray(cosine_SQ, np.float64)
    if ids.shape != cosine.shape or ids.ndim != 2 or not len(ids):
        raise InputError(f"neighbours and cosines must be seeds x neighbours, got {ids.shape} and {cosine.shape}.")
    if best < 1:
        raise InputError(f"best must be at least 1, got {best}.")
    if ids.size and not (ids.min() >= -1 and ids.max() < members):
        raise InputError(f"neighbours must be members 0 to {members - 1}, or -1, got {ids.min()} to {ids.max()}.")
    seed, place = np.nonzero(ids >= 0)
    member, score = ids[seed, place].astype(np.int64), cosine[seed, place]
    if not np.isfinite(score).all():
        raise InputError(f"cosine of seed {seed[~np.isfinite(score)][0]} to a neighbour is not finite; ask again.")
    pair = seed * members + member
    if len(np.unique(pair)) < len(pair):
        raise InputError("a list names a member twice; remove duplicates from the index's answers.")
    order = np.lexsort((-score, member))
    member, score = member[order], score[order]
    rank = np.arange(len(member)) - np.searchsorted(member, member)
    kept = min(best, len(ids))
    top = rank < kept
    total = np.bincount(member[top], score[top], minlength=members)
    count = np.bincount(member[top], minlength=members)
    return (total + (kept - count) * absent) / kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A logistic head on an embedding and its cosine to the centroid of the seeds.

    Attributes:
        centroid: (D) mean direction of the seeds, length 1.
        line: logistic regression on the embedding and the cosine to the centroid, (D+1) slopes.
    """

    centroid: Floats
    line: Logistic

    def scores(self, embedding_ND: NDArray[Any]) -> Floats:
        """(N) logits; the larger the likelier to convert when reached."""
        return self.line.logits(_with_cosine(embedding_ND, self.centroid))


def fit_head(
    embedding_ND: NDArray[Any],
    seed: NDArray[np.bool_],
    *,
    near: NDArray[np.bool_] | None = None,
    seed_weight: float = 2.0,
    reached: NDArray[np.bool_] | None = None,
    propensity: NDArray[Any] | None = None,
    ridge: float = 20.0,
) -> Head:
    """Fit the head.

    Only members that were reached teach: one who never had the chance to convert is no negative. Each weighs one over
    that chance, so that the fit is one for all members. Seeds are weighted likewise: the chance depends on the member,
    and weighting one label alone would move the logits by it.

    Args:
        embedding_ND: of all members.
        seed: (N) who converted.
        near: (N) who came close (opened, visited), counted as seeds of weight one. Conversions are few, and those who
            come close tell more of the directions that matter.
        seed_weight: of a seed against a near one or a negative, above zero.
        reached: (N) who was reached; None: all.
        propensity: (N) chance of having been reached, above 0 to 1; None: alike for all.
        ridge: on squared slopes in standard units of the features, in members.

    Returns:
        The head.

    Raises:
        InputError: shapes differ, a seed was not reached, there is no seed or no negative, or a number is out of range.
    """
    embedding = _finite(embedding_ND, "member")
    count = len(embedding)
    converted = _flags("seed", seed, count)
    close = np.zeros(count, bool) if near is None else _flags("near", near, count)
    had = np.ones(count, bool) if reached is None else _flags("reached", reached, count)
    chance = np.ones(count) if propensity is None else np.asarray(propensity, np.float64)
    _one_each("propensity", chance, count)
    wrong = np.flatnonzero(had & ~((chance > 0) & (chance <= 1)))
    if len(wrong):
        raise InputError(
            f"the chance of reaching member {wrong[0]} is {chance[wrong[0]]}; it must be above 0 and at most 1."
        )
    wrong = np.flatnonzero((converted | close) & ~had)
    if len(wrong):
        raise InputError(f"member {wrong[0]} responded without having been reached; correct the log or `reached`.")
    if not seed_weight > 0:
        raise InputError(f"the weight of a seed must be above 0, got {seed_weight}.")
    if not converted.any() or (converted | close)[had].all():
        raise InputError("a head needs a seed and a reached member who is none; wait for more conversions.")
    centroid = _centroid(embedding[converted])
    weight = np.where(converted, seed_weight, 1.0)[had] / np.maximum(chance[had], LEAST_PROPENSITY)
    weight *= len(weight) / weight.sum()
    label = (converted | close)[had].astype(np.float64)
    feature = _with_cosine(embedding, centroid)[had]
    return Head(centroid=centroid, line=fit_logistic(feature, label, weight, ridge=ridge))


@dataclass(frozen=True, kw_only=True, eq=False)
class Expansion:
    """Who joins the rule's audience.

    Attributes:
        rule: (N) the rule's audience.
        added: members beyond it, best first.
    """

    rule: NDArray[np.bool_]
    added: Integers

    def recall(self, converted: NDArray[np.bool_]) -> float:
        """Share of the converters beyond the rule that were added; not a number when there is none.

        Args:
            converted: (N) held-out converters.
        """
        beyond = int((converted & ~self.rule).sum())
        return float(converted[self.added].sum()) / beyond if beyond else float("nan")

    def precision(self, converted: NDArray[np.bool_]) -> tuple[float, float]:
        """Share of converters in the rule's audience and among those added.

        Args:
            converted: (N) held-out converters.
        """
        mine = converted[self.rule]
        return (
            float(mine.mean()) if len(mine) else float("nan"),
            float(converted[self.added].mean()) if len(self.added) else float("nan"),
        )


def expand(
    score: NDArray[Any], rule: NDArray[np.bool_], size: int, barred: NDArray[np.bool_] | None = None
) -> Expansion:
    """Choose the N best beyond the rule's audience.

    Args:
        score: (N) the larger the better; of equals the first comes first.
        rule: (N) the rule's audience.
        size: how many to add; fewer when there are no more.
        barred: (N) members never to be added: seeds, or those who opted out.

    Returns:
        The expansion.

    Raises:
        InputError: shapes differ, a score of an eligible member is not finite, or the size is negative.
    """
    scores, base = np.asarray(score, np.float64), np.asarray(rule, bool)
    closed = base if barred is None else base | np.asarray(barred, bool)
    if scores.ndim != 1 or not scores.shape == base.shape == closed.shape:
        raise InputError(
            f"score, rule and barred must be one row of the same length, got {scores.shape}, {base.shape}."
        )
    if size < 0:
        raise InputError(f"the number of members to add must be 0 or more, got {size}.")
    eligible = np.flatnonzero(~closed)
    wrong = eligible[~np.isfinite(scores[eligible])]
    if len(wrong):
        raise InputError(f"the score of member {wrong[0]} is {scores[wrong[0]]}; it must be finite.")
    order = np.argsort(-scores[eligible], kind="stable")
    return Expansion(rule=base, added=eligible[order[:size]].astype(np.int64))


def extra_pairs(
    added: NDArray[np.integer],
    offers: NDArray[np.integer],
    *,
    member: NDArray[np.integer],
    offer: NDArray[np.integer],
) -> tuple[Integers, Integers]:
    """The pairs that an expansion makes eligible, without those that are so already.

    Args:
        added: members.
        offers: offers that each of them may get.
        member: (P) of the pairs that are eligible already.
        offer: (P) of these.

    Returns:
        Members and offers of the further pairs, by member, then offer; no pair twice.

    Raises:
        InputError: a code is negative, or member and offer differ in length.
    """
    if np.shape(member) != np.shape(offer):
        raise InputError(f"member and offer of the pairs differ in shape: {np.shape(member)}, {np.shape(offer)}.")
    who, what = np.unique(added).astype(np.int64), np.unique(offers).astype(np.int64)
    known_member, known_offer = np.asarray(member, np.int64), np.asarray(offer, np.int64)
    for name, codes in (("member", who), ("offer", what), ("member", known_member), ("offer", known_offer)):
        if len(codes) and codes.min() < 0:
            raise InputError(f"{name} codes start at 0, got {codes.min()}.")
    width = int(max(what.max(initial=0), known_offer.max(initial=0))) + 1
    wanted = (who[:, None] * width + what[None, :]).ravel()
    further = np.setdiff1d(wanted, known_member * width + known_offer)
    return further // width, further % width


def _flags(name: str, given: NDArray[Any], count: int) -> NDArray[np.bool_]:
    flags = np.asarray(given)
    _one_each(name, flags, count)
    wrong = np.flatnonzero(~np.isin(flags, (0, 1)))
    if len(wrong):
        raise InputError(f"{name} of member {wrong[0]} is {flags[wrong[0]]}; it must be yes or no.")
    return flags.astype(bool)


def _one_each(name: str, column: NDArray[Any], count: int) -> None:
    if column.shape != (count,):
        raise InputError(f"{name} must have one entry for each of {count} members, got shape {column.shape}.")


def _with_cosine(embedding_ND: NDArray[Any], centroid: Floats) -> Floats:
    embedding = _finite(embedding_ND, "member")
    if embedding.shape[1] != len(centroid):
        raise InputError(f"members have {embedding.shape[1]} dimensions, the head {len(centroid)}; use its embedding.")
    return np.column_stack([embedding, _unit(embedding, "member") @ centroid])


def _centroid(seed_SD: Floats) -> Floats:
    middle = np.unique(_unit(seed_SD, "seed"), axis=0).mean(0)
    length = float(np.linalg.norm(middle))
    return np.asarray(middle / length if length else middle, np.float64)


def _unit(embedding: NDArray[Any], what: str) -> Floats:
    rows = _finite(embedding, what)
    size = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    rows = rows / np.where(size > 0, size, 1.0)  # so that no square leaves the range of numbers
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def _finite(embedding: NDArray[Any], what: str) -> Floats:
    rows = np.asarray(embedding, np.float64)
    if rows.ndim != 2:
        raise InputError(f"embeddings of {what}s must be {what}s x dimensions, got shape {rows.shape}.")
    wrong = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(wrong):
        raise InputError(f"the embedding of {what} {wrong[0]} is not finite; leave it out, or embed it again.")
    return rows
