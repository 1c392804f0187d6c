"""Random programs with every kind of row, whose rows some known allocation holds."""

from dataclasses import replace
from typing import Any

import numpy as np

from models.marketing.allocation.conflict import reach
from models.marketing.allocation.program import Family, Program


def world(
    seed: int,
    members: int = 6,
    offers: int = 4,
    *,
    density: float = 0.6,
    most: float | str = 1.0,
    tight: float = 0.6,
    lower: float = 0.5,
    quantise: float = 0.0,
    negative: bool = False,
    groups: int = 3,
) -> Program:
    """A program with four families: all pairs by weight, by channels, by segments, and one of a second weight.

    Args:
        seed: start of the random stream.
        members: N; some of them may have no pairs.
        offers: M.
        density: share of the offers that a member may get.
        most: at most so many offers a member; "mixed" for one of 0 to 3 each.
        tight: upper bounds relative to what the best offers of all would use.
        lower: share of rows with a lower bound, which the known allocation meets.
        quantise: values are multiples of it.
        negative: the second weight may be below zero.
        groups: channels, and segments.
    """
    random = np.random.default_rng(seed)
    eligible = random.random((members, offers)) < density
    start = np.concatenate([[0], np.cumsum(eligible.sum(1))]).astype(np.int64)
    offer = np.nonzero(eligible)[1].astype(np.int16)
    pairs = len(offer)
    value = np.exp(random.normal(0, 1, pairs)) * (random.random(pairs) < 0.9)
    if quantise:
        value = np.round(value / quantise) * quantise
    weights = np.exp(random.normal(0, 0.5, (2, pairs)))
    if negative:
        weights[1] -= 0.7
    channel, segment = random.integers(-1, groups, offers), random.integers(-1, groups, members)
    names = tuple("abcdefghij"[:groups])
    families = (
        ("spend", ("spend",), {"weight": weights[0]}),
        ("risk", ("risk",), {"weight": weights[1]}),
        ("volume", names, {"offers": channel}),
        ("segment", names, {"members": segment, "weight": weights[0].astype(np.float32)}),
    )
    many = random.integers(0, 4, members).astype(np.float64) if most == "mixed" else float(most)
    blank = Program(
        start=start,
        offer=offer,
        value=value,
        offers=tuple(f"offer-{i}" for i in range(offers)),
        most=many,
        families=tuple(family(name, rows, **parts) for name, rows, parts in families),
    )
    member, share = np.repeat(np.arange(members), np.diff(start)), random.random(pairs)
    total = np.bincount(member, share, minlength=members)
    cap = np.minimum(blank.most_of(slice(0, members)), np.diff(start))
    x = np.minimum(1, share / np.maximum(total, 1e-9)[member] * cap[member] * 0.8)
    load = blank.loads(x)
    high = np.where(random.random(blank.K) < 0.8, load + tight * np.abs(load) * random.random(blank.K), np.inf)
    low = np.where(random.random(blank.K) < lower, load - 0.3 * np.abs(load) * random.random(blank.K), -np.inf)
    return bounded(blank, low, high).check()


def family(name: str, rows: tuple[str, ...], **parts: Any) -> Family:
    """A family without bounds."""
    free = np.full(len(rows), np.inf)
    return Family(name=name, rows=rows, lower=-free, upper=free, **parts)


def bounded(program: Program, lower: np.ndarray, upper: np.ndarray) -> Program:
    """The program with other bounds (K)."""
    families = tuple(
        replace(one, lower=lower[k : k + len(one.rows)].copy(), upper=upper[k : k + len(one.rows)].copy())
        for one, k in zip(program.families, program.first, strict=True)
    )
    return replace(program, families=families)


def impossible(seed: int, **options: Any) -> Program:
    """A program whose bounds were drawn between what each row alone can reach; most of them conflict."""
    program = world(seed, **options)
    random = np.random.default_rng(seed + 10**6)
    least, most = reach(program)
    low = np.where(random.random(program.K) < 0.5, least + (most - least) * random.uniform(0.3, 1, program.K), -np.inf)
    high = np.where(low == -np.inf, least + (most - least) * random.uniform(0, 0.7, program.K), np.inf)
    return bounded(program, low, high).check()
