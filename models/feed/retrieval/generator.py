"""A world whose truth is known: members, items and the choices that a stated utility makes them take.

Member u meets the items that exist and that she has not taken yet, and takes one with probability

    P(i | u) = exp(utility_ui) / sum_j exp(utility_uj),     utility_ui = taste_u . trait_i + appeal_i,

the Plackett-Luce model of successive choices without replacement. With several interests a member has as many tastes,
and each choice serves one of them:

    utility_ui = log sum_m exp(taste_um . trait_i) + appeal_i,

which is no inner product of a vector of hers and one of the item's. Traits follow the items' attributes in part, so
that attributes say something about an item that nobody has taken yet. Each member's last two choices happen after the
last item was born, so ranking the unseen items by utility is the best that anyone can do about them: the oracle.
"""

# Shapes: U members, N items, F factors of taste, M interests of a member, S seasons, E events of one member, T tags.

from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.common.configuration import check, setting

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CATEGORIES = (
    "books", "music", "garden", "kitchen", "toys", "sport", "film", "travel", "tools", "shoes", "art", "pets",
    "café", "Spiele", "料理", "музика",
)  # fmt: skip
TAGS = (
    "new", "classic", "gift", "local", "handmade", "vegan", "kids", "summer", "winter", "retro", "luxury", "budget",
    "naïve", "déjà vu", "größer", "żółty", "日本", "한국", "مصر", "ελληνικά", "🌿", "it's", "50% off", "a|b",
)  # fmt: skip
SEASONS = 4
SEASON_SECONDS = 90 * 86_400
START = 1_600_000_000
DAY_SECONDS = 86_400
FIRST_DAY = datetime.fromtimestamp(START, UTC).date()
LAST_DAY = datetime.fromtimestamp(START + (SEASONS + 1) * SEASON_SECONDS, UTC).date()
DAYS = (LAST_DAY - FIRST_DAY).days + 1
PRESENT_YEAR = 2024


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The size and the temper of a generated world."""

    users: int = setting(600, "Members", "Members who choose, 10 to 10000000.", ge=10, le=10_000_000)
    items: int = setting(1500, "Items", "Items to choose from, 60 to 100000000.", ge=60, le=100_000_000)
    events: int = setting(40, "Choices per member", "Mean number of choices of one member, 4 to 500.", ge=4, le=500)
    factors: int = setting(8, "Factors of taste", "Dimensions of taste and trait, 2 to 64.", ge=2, le=64)
    interests: int = setting(
        1, "Interests", "Separate tastes of one member, any one of which may decide a choice, 1 to 16.", ge=1, le=16
    )
    sharpness: float = setting(
        2.5, "Sharpness of taste", "Standard deviation of taste in the utility, in nats, 0 to 10.", ge=0, le=10
    )
    skew: float = setting(
        1.0, "Skew of appeal", "Standard deviation of an item's appeal to everyone, in nats, 0 to 5.", ge=0, le=5
    )
    told: float = setting(
        0.7, "Told by attributes", "Share of the variance of traits that attributes explain, 0 to 1.", ge=0, le=1
    )
    newcomers: float = setting(
        0.2, "Newcomers", "Share of items born after the first of four seasons, 0 to 0.9.", ge=0, le=0.9
    )
    missing: float = setting(0.05, "Missing values", "Share of absent categories and prices, 0 to 0.9.", ge=0, le=0.9)
    seed: int = setting(0, "Seed", "Start of the world's random stream, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)
        if self.events * 4 > self.items:
            raise ValueError(
                f"GeneratorConfig.events must be at most a quarter of the items, got {self.events} choices among "
                f"{self.items} items; lower events or raise items."
            )


@dataclass(frozen=True, kw_only=True)
class World:
    """What was generated: what a data set would show, and the truth that it would not.

    Attributes:
        items: one row per item, its attributes (category, year, price, tags), nulls among them.
        user: member of each event, dense from 0.
        item: item of each event, dense from 0.
        time: seconds since 1970, UTC, of each event; rises for each member.
        taste: true tastes (U, F), or (U, M, F) with several interests.
        trait: true traits (N, F).
        appeal: true appeal to everyone (N).
    """

    items: pa.Table
    user: Integers
    item: Integers
    time: Integers
    taste: Floats
    trait: Floats
    appeal: Floats


def generate(config: GeneratorConfig) -> World:
    """Make a world from its configuration and nothing else.

    Args:
        config: sizes, temper and seed.

    Returns:
        The world; the same configuration gives the same arrays.

    Source:
        The choice model is Luce (1959) and Plackett (1975); choices are drawn by the exponential clocks that are
        equivalent to it (the item whose clock rings first is taken; rates are exp(utility)). The world is ours.
    """
    rng = np.random.default_rng(config.seed)
    born_N = _births(config, rng)
    items, told_NF = _attributes(config, born_N, rng)
    hidden_NF = rng.standard_normal((config.items, config.factors))
    trait_NF = np.sqrt(config.told) * told_NF + np.sqrt(1 - config.told) * hidden_NF
    appeal_N = config.skew * rng.standard_normal(config.items)
    taste_UF = _tastes(config, items, told_NF, rng)
    events_U = _activity(config, rng)
    user, item, time = _choices(config, taste_UF, trait_NF, appeal_N, born_N, events_U, rng)
    return World(items=items, user=user, item=item, time=time, taste=taste_UF, trait=trait_NF, appeal=appeal_N)


@lru_cache(maxsize=1)
def world_of(config: GeneratorConfig) -> World:
    """The world of a configuration, kept until another one is asked for; not to be written to."""
    return generate(config)


@lru_cache(maxsize=1)
def _by_day(config: GeneratorConfig) -> tuple[Integers, Integers]:
    """A world's events in order of their days, those of one day in the world's own order; and where each day begins."""
    number = world_of(config).time // DAY_SECONDS - START // DAY_SECONDS
    return np.argsort(number, kind="stable"), np.searchsorted(np.sort(number), np.arange(DAYS + 1))


def events_on(config: GeneratorConfig, day: date) -> tuple[Integers, Integers, Integers]:
    """What happened in a generated world on one day, from midnight to midnight in UTC.

    All days together, one after another, hold every event of the world once; the last two choices of every member are
    spread over the last ninety days.

    Args:
        config: the world.
        day: one of `FIRST_DAY` to `LAST_DAY`.

    Returns:
        Member, item and time of each event, in the world's own order.

    Raises:
        ValueError: the world has no such day.

    Source:
        Ours.
    """
    number = (day - FIRST_DAY).days
    if not 0 <= number < DAYS:
        raise ValueError(f"day must be from {FIRST_DAY} to {LAST_DAY}, where the generated world ends, got {day}.")
    world, (order, begins) = world_of(config), _by_day(config)
    rows = order[begins[number] : begins[number + 1]]
    return world.user[rows], world.item[rows], world.time[rows]


def _births(config: GeneratorConfig, rng: np.random.Generator) -> Integers:
    """The season in which each item appears; most are there from the first."""
    later = rng.integers(1, SEASONS, config.items)
    return np.where(rng.random(config.items) < config.newcomers, later, 0).astype(np.int64)


def _attributes(config: GeneratorConfig, born_N: Integers, rng: np.random.Generator) -> tuple[pa.Table, Floats]:
    """Attributes of every item, and the part of its traits that they tell (unit variance in every factor)."""
    size, factors = config.items, config.factors
    frequency = 1.0 / np.arange(1, len(CATEGORIES) + 1) ** 0.7
    category_N = rng.choice(len(CATEGORIES), size, p=frequency / frequency.sum())
    leaning = rng.gumbel(size=(size, len(TAGS))) + 1.5 * rng.standard_normal((len(CATEGORIES), len(TAGS)))[category_N]
    order_NT = np.argsort(-leaning, axis=1)
    count_N = rng.integers(0, 5, size)
    age_N = np.minimum(rng.geometric(0.08, size) - 1, 60)
    year_N = np.where(born_N > 0, PRESENT_YEAR, PRESENT_YEAR - 1 - age_N)
    price_N = np.exp(rng.normal(3, 1, size) + 0.5 * rng.standard_normal(len(CATEGORIES))[category_N])

    mean_tag_NF = np.zeros((size, factors))
    tag_traits = rng.standard_normal((len(TAGS), factors))
    for place in range(4):
        mean_tag_NF += np.where((count_N > place)[:, None], tag_traits[order_NT[:, place]], 0)
    mean_tag_NF /= np.maximum(count_N, 1)[:, None]
    told_NF = (
        rng.standard_normal((len(CATEGORIES), factors))[category_N]
        + 0.7 * mean_tag_NF
        + 0.5 * _standard(np.log(price_N))[:, None] * rng.standard_normal(factors)
        + 0.5 * _standard(np.log1p(PRESENT_YEAR - year_N))[:, None] * rng.standard_normal(factors)
    )
    told_NF = (told_NF - told_NF.mean(0)) / told_NF.std(0)

    tag_values = pa.array([TAGS[i] for i in order_NT[:, :4][np.arange(4) < count_N[:, None]]], pa.string())
    offsets = pa.array(np.concatenate([[0], np.cumsum(count_N)]), pa.int32())
    columns: dict[str, Any] = {
        "category": pa.array([CATEGORIES[i] for i in category_N], pa.string(), mask=_absent(config, rng)),
        "year": pa.array(year_N, pa.int64()),
        "price": pa.array(np.round(price_N, 2), pa.float64(), mask=_absent(config, rng)),
        "tags": pa.ListArray.from_arrays(offsets, tag_values),
    }
    return pa.table(columns), told_NF


def _absent(config: GeneratorConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which items lack a value."""
    return rng.random(config.items) < config.missing


def _standard(values: Floats) -> Floats:
    """Zero mean, unit variance; a constant becomes zero."""
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-12))


def _tastes(config: GeneratorConfig, items: pa.Table, told_NF: Floats, rng: np.random.Generator) -> Floats:
    """Tastes of length `sharpness`: each leans to what a few random items are like, and has whims."""
    tastes = config.users * config.interests
    models_UF = told_NF[rng.integers(0, config.items, (tastes, 2))].mean(1)
    taste_UF = models_UF + 0.7 * rng.standard_normal((tastes, config.factors))
    taste_UF = config.sharpness * taste_UF / np.linalg.norm(taste_UF, axis=1, keepdims=True)
    if config.interests == 1:
        return np.asarray(taste_UF)
    return np.asarray(taste_UF.reshape(config.users, config.interests, config.factors))


def utility(taste_UF: NDArray[Any], trait_NF: NDArray[Any]) -> NDArray[Any]:
    """What members find in items, appeal aside.

    Args:
        taste_UF: tastes of members, (U, F), or (U, M, F) with several interests.
        trait_NF: traits of items.

    Returns:
        Of shape (U, N): taste . trait, or the logarithm of the sum of its exponentials over the interests.

    Source:
        Ours; a choice by a sum of exponentials is a mixture of choices by each.
    """
    if taste_UF.ndim == 2:
        return np.asarray(taste_UF @ trait_NF.T)
    found_UN = taste_UF[:, 0] @ trait_NF.T
    for interest in range(1, taste_UF.shape[1]):
        found_UN = np.logaddexp(found_UN, taste_UF[:, interest] @ trait_NF.T)
    return np.asarray(found_UN)


def _activity(config: GeneratorConfig, rng: np.random.Generator) -> Integers:
    """Choices of each member: at least three, a few members with many, never over half the first season's items."""
    extra = rng.gamma(2.0, max(config.events - 3, 0.5) / 2.0, config.users)
    return np.asarray(np.minimum(3 + np.floor(extra), config.items * (1 - config.newcomers) // 2), np.int64)


def _choices(
    config: GeneratorConfig,
    taste_UF: Floats,
    trait_NF: Floats,
    appeal_N: Floats,
    born_N: Integers,
    events_U: Integers,
    rng: np.random.Generator,
) -> tuple[Integers, Integers, Integers]:
    """All members' choices in the order of time, members one after another."""
    users, items, times = [], [], []
    block = max(1, 20_000_000 // config.items)
    for first in range(0, config.users, block):
        events = events_U[first : first + block]
        most = int(events.max())
        happens = np.arange(most) < events[:, None]
        when = rng.random((len(events), most)) * SEASONS
        held_out = np.arange(most) >= events[:, None] - 2
        when = np.sort(np.where(happens, np.where(held_out, SEASONS + when / SEASONS, when), np.inf), axis=1)
        season = np.minimum(np.nan_to_num(when, posinf=SEASONS - 1), SEASONS - 1).astype(np.int64)
        taken = _race(taste_UF[first : first + block], trait_NF, appeal_N, born_N, season, rng)
        users.append(np.repeat(np.arange(first, first + len(events)), events))
        items.append(taken[happens])
        times.append(START + np.floor(when[happens] * SEASON_SECONDS).astype(np.int64))
    return np.concatenate(users), np.concatenate(items), np.concatenate(times)


def _race(
    taste_UF: Floats,
    trait_NF: Floats,
    appeal_N: Floats,
    born_N: Integers,
    season_UE: Integers,
    rng: np.random.Generator,
) -> Integers:
    """Draw each member's choices by letting every item's exponential clock run from the item's birth.

    Only the E first clocks of each season's items can ever ring, and within a season their order is fixed; so one
    partial sort a season and then E steps over the heads of S queues replace E draws from N items.
    """
    members, events = season_UE.shape
    rows = np.arange(members)
    queues, clocks = [], []
    for season in range(SEASONS):
        group = np.flatnonzero(born_N == season)
        rate = (utility(taste_UF, trait_NF[group]) + appeal_N[group]).astype(np.float32)
        wait = rng.standard_exponential(rate.shape, dtype=np.float32) * np.exp(-rate)
        keep = min(events, len(group))
        first = np.argpartition(wait, keep - 1, axis=1)[:, :keep] if keep else np.zeros((members, 0), np.int64)
        wait = np.take_along_axis(wait, first, axis=1)
        order = np.argsort(wait, axis=1, kind="stable")
        pad = ((0, 0), (0, events + 1 - keep))
        queues.append(np.pad(group[np.take_along_axis(first, order, axis=1)], pad, constant_values=-1))
        clocks.append(np.pad(np.take_along_axis(wait, order, axis=1).astype(np.float64), pad, constant_values=np.inf))
    queue_USE, clock_USE = np.stack(queues, 1), np.stack(clocks, 1)

    head_US = np.zeros((members, SEASONS), np.int64)
    started_US = np.full((members, SEASONS), np.inf)
    now_U = np.zeros(members)
    taken_UE = np.zeros((members, events), np.int64)
    seasons = np.arange(SEASONS)
    for event in range(events):
        begins = (seasons <= season_UE[:, event, None]) & np.isinf(started_US)
        started_US = np.where(begins, now_U[:, None], started_US)
        rings_US = started_US + np.take_along_axis(clock_USE, head_US[:, :, None], axis=2)[:, :, 0]
        winner_U = rings_US.argmin(1)
        taken_UE[:, event] = queue_USE[rows, winner_U, head_US[rows, winner_U]]
        now_U = rings_US[rows, winner_U]
        head_US[rows, winner_U] += 1
    return taken_UE
