"""Whether an expanded audience is what it says, found again by plain loops that share nothing with who made it."""

# Shapes: N members, S seeds, D dimension, K neighbours of a seed.

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim
from models.common.contracts import Payload

ABSENT = -1.0
"""What a cosine counts that no list holds: the least that it can be."""
OFF = 1e-9
"""Sums of float64 in another order."""
SEEDS = 256
"""Seeds whose lists are held against one another at most."""


def certify(product: Payload) -> Certificate:
    """Judge a stored expansion.

    Args:
        product: its parts; see `models.marketing.audience`.

    Returns:
        Its claims; when one fails its detail names the first offender.

    Source:
        Ours.
    """
    names = product["items"]["item"].to_pylist()
    place = {name: number for number, name in enumerate(names) if name is not None}
    members, scores = (product["answers"][name].to_pylist() for name in ("member", "score"))
    seeds = set(product["seeds"].tolist())
    strangers = [name for name in members if name not in place]
    claims = [
        _count("unknown_members", strangers, "Members that the index does not have by this name."),
        _count(
            "repeated_members", [name for name, times in Counter(members).items() if times > 1], "Members chosen twice."
        ),
        _count("seeds_chosen", [name for name in members if place.get(name) in seeds], "Members that are seeds."),
    ]
    if not all(claim.holds for claim in claims):
        return Certificate(claims=tuple(claims))
    again = _scores(product)
    chosen = [place[name] for name in members]
    off = [abs(score - again.get(at, math.inf)) for score, at in zip(scores, chosen, strict=True)]
    worst = max(range(len(off)), key=off.__getitem__, default=0)
    last = min(scores, default=math.inf)
    size, others = product["about"]["size"], set(chosen) | seeds
    outside = {at: score for at, score in again.items() if at not in others and names[at] is not None}
    unordered = [members[row] for row in range(1, len(scores)) if scores[row] > scores[row - 1]]
    claims += [
        _count("members_out_of_order", unordered, "Members that score above the one before."),
        Claim(
            name="scores_off",
            kind="bounded",
            value=float(max(off, default=0.0)),
            limit=OFF,
            detail=f"Scores added up again from the lists; {_shown(members[worst : worst + 1])} is furthest off.",
        ),
        _count(
            "better_left_out",
            [names[at] for at, score in outside.items() if score > last + OFF],
            "Members that a list holds, and that score above the last who was chosen.",
        ),
        Claim(
            name="members_off",
            kind="exact",
            value=float(abs(len(members) - min(size, len(members) + len(outside)))),
            limit=0.0,
            detail=f"{len(members)} were chosen of {size} wanted; {len(outside)} others are in a list.",
        ),
        *_lists(product, names),
    ]
    return Certificate(claims=tuple(claims))


def _scores(product: Payload) -> dict[int, float]:
    """Scores of the members that a list holds: the mean of the best cosines, one by one."""
    cosines = defaultdict[int, list[float]](list)
    for row, values in zip(product["places"].tolist(), product["scores"].tolist(), strict=True):
        for at, cosine in zip(row, values, strict=True):
            if at >= 0:
                cosines[at].append(cosine)
    best = min(product["about"]["best"], len(product["places"]))
    return {
        at: math.fsum((sorted(found, reverse=True) + [ABSENT] * best)[:best]) / best for at, found in cosines.items()
    }


def _lists(product: Payload, names: Sequence[Any]) -> tuple[Claim, Claim]:
    """Lists against the seeds' own vectors: seeds are members too, so it is known which of them a list should hold."""
    seeds, vectors = product["seeds"], product["queries"].astype(np.float64)
    asked = np.unique(np.linspace(0, len(seeds) - 1, min(SEEDS, len(seeds))).astype(np.int64))
    worst, missing = 0.0, list[Any]()
    for row in asked.tolist():
        held: dict[int, float] = dict(
            zip(product["places"][row].tolist(), product["scores"][row].tolist(), strict=True)
        )
        last = -math.inf if -1 in held else min(held.values())
        cosines: NDArray[np.float64] = (vectors * vectors[row]).sum(1)
        for at, cosine in zip(seeds.tolist(), cosines.tolist(), strict=True):
            if at in held:
                worst = max(worst, abs(held[at] - cosine))
            elif cosine > last + OFF:
                missing.append(names[at])
    detail = f"of {len(seeds)} seeds to {len(asked)} of them, by their stored vectors"
    return (
        Claim(name="cosines_off", kind="bounded", value=worst, limit=OFF, detail=f"Cosines {detail}."),
        _count("neighbours_missing", missing, f"Seeds nearer than the last of a list that lacks them, {detail}."),
    )


def _count(name: str, wrong: Sequence[Any], what: str) -> Claim:
    return Claim(name=name, kind="exact", value=float(len(wrong)), limit=0.0, detail=f"{what} First: {_shown(wrong)}.")


def _shown(wrong: Sequence[Any]) -> str:
    return repr(wrong[0]) if wrong else "none"
