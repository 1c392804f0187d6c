"""A feed whose truth is known: who is shown what with what, and how likely each click was.

User u opens the feed at time t (a share of the whole span, 0 to 1) and is shown a slate of S items in random order. The
item i in slot p, among K other items of its own category in the slate, is clicked with probability

    sigmoid(z_uit + position_p - repeat * K),
    z_uit = base + effect_u + effect_i(t) + affinity * taste_u(t) . trait_i / sqrt(F),

where tastes and the effects of items drift: x(t) = cos(a t) x + sin(a t) x', with x and x' independent and a = drift
quarter turns. Traits follow the category in part.

A slate has a focus: a category, drawn by popularity and by the user's taste. Every slot is of the focus with chance
`focus`, and otherwise of any category by popularity; within a category it is of the few head items or of the others;
and within these all items are alike, none shown twice. So K is independent of the item given its category, and its law
given user, time and category is a mixture of two binomial laws. Two best scores follow, both without knowing the slot:

    pointwise   E[click | u, i, t]                 the best that sees one candidate at a time
    setwise     E[click | u, t, all of the slate]  the best that sees the whole slate

What lies between the two is what attention inside the session can win, and nothing else can.
"""

# Shapes: U users, I items, F factors, G categories, N sessions, S slots of a slate, E = N * S events.

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.feed.events.table import Events

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

START = 1_600_000_000
DAY_SECONDS = 86_400
HEAD = 0.1
"""Share of a category's items that are its head."""
LIKE_BASE = -1.0
"""Logit of a like after a click on an item that is neither to nor against the user's taste."""
_BLOCK = 20_000
"""Sessions at a time; the random stream depends on it."""
_GRID = 1e-3
"""Step, in logits, of the table of chances averaged over slots; linear interpolation in it errs by at most 1.3e-8."""

Size = Literal["tiny", "small", "medium", "large"]


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """The size and the temper of a simulated feed."""

    users: int = setting(80, "Users", "People who open the feed, 2 to 10000000.", ge=2, le=10_000_000)
    items: int = setting(240, "Items", "Items that may be shown, 24 to 10000000.", ge=24, le=10_000_000)
    sessions: float = setting(
        8.0, "Sessions per user", "Mean number of times that one user opens the feed, 1 to 10000.", ge=1, le=10_000
    )
    slate: int = setting(10, "Slate", "Items shown together, 1 to 100.", ge=1, le=100)
    categories: int = setting(8, "Categories", "Categories of items, 1 to 1000.", ge=1, le=1000)
    factors: int = setting(6, "Factors of taste", "Dimensions of taste and trait, 1 to 64.", ge=1, le=64)
    days: float = setting(60.0, "Days", "Length of the span, 0.1 to 3650.", ge=0.1, le=3650)
    base: float = setting(-0.2, "Base", "Logit of a click when every effect is zero, -10 to 10.", ge=-10, le=10)
    user_spread: float = setting(
        0.6, "Spread of users", "Standard deviation of users' effects, in logits, 0 to 5.", ge=0, le=5
    )
    item_spread: float = setting(
        0.6, "Spread of items", "Standard deviation of items' effects, in logits, 0 to 5.", ge=0, le=5
    )
    affinity: float = setting(
        1.3, "Affinity", "Standard deviation of taste times trait, in logits, 0 to 10.", ge=0, le=10
    )
    told: float = setting(
        0.7, "Told by category", "Share of the variance of traits that categories explain, 0 to 1.", ge=0, le=1
    )
    position: float = setting(
        0.3, "Effect of position", "Logits lost at slot p are this times log(1 + p), 0 to 5.", ge=0, le=5
    )
    repeat: float = setting(
        0.35, "Penalty for repeats", "Logits lost for each other item of one's category in the slate, 0 to 5.",
        ge=0, le=5,
    )  # fmt: skip
    focus: float = setting(
        0.4, "Focus of a slate", "Chance that a slot is of the slate's own category, 0 to 1.", ge=0, le=1
    )
    courtship: float = setting(
        0.5, "Courtship", "How much a slate's focus follows the user's taste, in logits, 0 to 5.", ge=0, le=5
    )
    head: float = setting(
        0.4, "Head", "Share of slots that go to the first tenth of a category's items, 0 to 1.", ge=0, le=1
    )
    drift: float = setting(
        0.3, "Drift", "Turn of tastes and of items' effects over the span, in quarter turns, 0 to 1.", ge=0, le=1
    )
    seed: int = setting(0, "Seed", "Start of the random stream, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)
        if self.items < 2 * self.slate * self.categories:
            raise ValueError(
                f"SimulatorConfig.items must be at least {2 * self.slate * self.categories}, twice the slate for each "
                f"category, so that no slate shows an item twice; got {self.items}. Raise items or lower categories."
            )


_SIZES: dict[Size, SimulatorConfig] = {
    "tiny": SimulatorConfig(),
    "small": SimulatorConfig(users=1500, items=600, sessions=10.0, categories=12),
    "medium": SimulatorConfig(users=8000, items=2000, sessions=12.5, categories=16),
    "large": SimulatorConfig(users=25_000, items=5000, sessions=20.0, categories=20),
}


def sized(size: Size, *, seed: int = 0) -> SimulatorConfig:
    """A configuration by its size: about 6,400, 150,000, 1,000,000 or 5,000,000 events.

    Args:
        size: tiny, small, medium or large.
        seed: start of the random stream.

    Raises:
        ValueError: there is no such size.

    Source:
        Ours.
    """
    if size not in _SIZES:
        raise ValueError(f"size must be one of {list(_SIZES)}, got {size!r}.")
    return replace(_SIZES[size], seed=seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulation:
    """What a simulated log would show, and the truth that it would not.

    Attributes:
        events: tasks `click` and `like` (which only follows a click); item attribute `category`.
        probability: (E) true chance of each click, slot and slate known.
        pointwise: (E) the best score that sees one candidate at a time, E[click | user, item, time].
        setwise: (E) the best score that sees the slate but not its order.
        repeats: (E) other items of the same category in the slate.
    """

    events: Events
    probability: Floats
    pointwise: Floats
    setwise: Floats
    repeats: Integers

    def payload(self) -> Payload:
        """The events and, beside them, the oracles, each one value an event."""
        oracles = {"pointwise": self.pointwise, "setwise": self.setwise, "probability": self.probability}
        return {**self.events.payload(), **{f"oracle_{name}": scores for name, scores in oracles.items()}}


def simulate(config: SimulatorConfig) -> Simulation:
    """Make a feed from its configuration and nothing else.

    Args:
        config: sizes, temper and seed.

    Returns:
        The simulation; the same configuration gives the same arrays. Items do not depend on how many users there are
        or how often they come, and more users leave the tastes of the others as they are: one world, more data.

    Source:
        Ours. The utility is that of a factor model with biases (Koren et al. 2009, "Matrix factorization techniques
        for recommender systems"), the effect of the slot that of an examination model in logits, the penalty for
        repeats what a diversity rule assumes.
    """
    items, users, rng = (np.random.default_rng(part) for part in np.random.SeedSequence(config.seed).spawn(3))
    world = _World(config, items, users)
    user_N, time_N = _openings(config, rng)
    parts = [
        world.show(user_N[first : first + _BLOCK], time_N[first : first + _BLOCK], rng)
        for first in range(0, len(user_N), _BLOCK)
    ]
    item, logit, repeats, odds, click, like, slate = (np.concatenate(column) for column in zip(*parts, strict=True))
    size = config.slate
    events = Events(
        user=np.repeat(user_N, size).astype(np.int32),
        item=item.reshape(-1).astype(np.int32),
        time=np.repeat(time_N, size),
        session=np.repeat(np.arange(len(user_N)), size),
        position=np.tile(np.arange(size), len(user_N)).astype(np.int16),
        actions=np.stack([click.reshape(-1), like.reshape(-1)], 1).astype(np.float32),
        tasks=("click", "like"),
        user_ids=pa.array(np.arange(config.users)),
        item_ids=pa.array(np.arange(config.items)),
        item_attributes=pa.table({"category": pa.array([f"category {code:03}" for code in world.category_I])}),
    )
    table = _SlotTable(config, float(logit.min()) - config.repeat * (size - 1), float(logit.max()))
    return Simulation(
        events=events,
        probability=slate.reshape(-1),
        pointwise=_expected(config, world, table, logit, item, odds).reshape(-1),
        setwise=table(logit - config.repeat * repeats).reshape(-1),
        repeats=repeats.reshape(-1),
    )


def _openings(config: SimulatorConfig, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """(N) user and moment of every session, in the order of time."""
    extra = np.floor(rng.gamma(2.0, (config.sessions - 0.5) / 2.0, config.users))
    count_U = 1 + np.asarray(extra, np.int64) if config.sessions > 1 else np.ones(config.users, np.int64)
    user_N = np.repeat(np.arange(config.users), count_U)
    time_N = START + np.floor(rng.random(len(user_N)) * config.days * DAY_SECONDS).astype(np.int64)
    order = np.argsort(time_N, kind="stable")
    return user_N[order], time_N[order]


class _World:
    """Users, items and the rule by which slates are made."""

    def __init__(self, config: SimulatorConfig, rng: np.random.Generator, users: np.random.Generator) -> None:
        self.config = config
        factors = config.factors
        drawn_UF = users.standard_normal((config.users, 1 + 2 * factors))
        self.effect_U = config.user_spread * drawn_UF[:, 0]
        self.taste_2UF = np.stack([drawn_UF[:, 1 : 1 + factors], drawn_UF[:, 1 + factors :]]).astype(np.float32)
        self.effect_2I = config.item_spread * rng.standard_normal((2, config.items))
        centre_GF = rng.standard_normal((config.categories, factors))
        self.category_I = rng.permutation(np.arange(config.items) % config.categories)
        hidden_IF = rng.standard_normal((config.items, factors))
        trait_IF = np.sqrt(config.told) * centre_GF[self.category_I] + np.sqrt(1 - config.told) * hidden_IF
        self.trait_IF = trait_IF.astype(np.float32) / np.float32(np.sqrt(factors))
        self.centre_GF = centre_GF.astype(np.float32) / np.float32(np.sqrt(factors))
        popularity_G = 1 / np.sqrt(np.arange(1, config.categories + 1))
        self.popularity_G = popularity_G / popularity_G.sum()
        # cell 2g holds the head of category g, cell 2g + 1 its other items
        self.member = np.argsort(self.category_I, kind="stable")
        total_G = np.bincount(self.category_I, minlength=config.categories)
        head_G = np.maximum(config.slate, np.floor(HEAD * total_G)).astype(np.int64)
        self.size_C = np.stack([head_G, total_G - head_G], 1).reshape(-1)
        self.first_C = np.cumsum(self.size_C) - self.size_C

    def show(self, user_N: Integers, time_N: Integers, rng: np.random.Generator) -> tuple[NDArray[np.generic], ...]:
        """Slates of some sessions and what is clicked in them.

        Returns:
            (N, S) item, logit without slot and slate, other items of the category, odds of its focus, click, like, and
            true chance.
        """
        config, size = self.config, self.config.slate
        turn_N = config.drift * np.pi / 2 * (time_N - START) / (config.days * DAY_SECONDS)
        cosine_N, sine_N = np.cos(turn_N), np.sin(turn_N)
        taste_NF = self.taste_2UF[0, user_N] * cosine_N[:, None].astype(np.float32) + self.taste_2UF[
            1, user_N
        ] * sine_N[:, None].astype(np.float32)
        chance_NG = self.popularity_G * np.exp(config.courtship * (taste_NF @ self.centre_GF.T).astype(np.float64))
        chance_NG /= chance_NG.sum(1, keepdims=True)
        focus_N = np.minimum((rng.random((len(user_N), 1)) > np.cumsum(chance_NG, 1)).sum(1), config.categories - 1)
        shape = (len(user_N), size)
        any_NS = np.searchsorted(np.cumsum(self.popularity_G), rng.random(shape)).clip(max=config.categories - 1)
        category_NS = np.where(rng.random(shape) < config.focus, focus_N[:, None], any_NS)
        item_NS = self._fill(2 * category_NS + (rng.random(shape) >= config.head), rng)
        repeats_NS = (category_NS[:, :, None] == category_NS[:, None, :]).sum(2) - 1
        liking_NS = config.affinity * np.einsum("nf,nsf->ns", taste_NF, self.trait_IF[item_NS]).astype(np.float64)
        logit_NS = (
            config.base
            + self.effect_U[user_N][:, None]
            + cosine_N[:, None] * self.effect_2I[0][item_NS]
            + sine_N[:, None] * self.effect_2I[1][item_NS]
            + liking_NS
        )
        true_NS = sigmoid(logit_NS + slot_effect(config) - config.repeat * repeats_NS)
        click_NS = rng.random(shape) < true_NS
        like_NS = click_NS & (rng.random(shape) < sigmoid(LIKE_BASE + liking_NS))
        own_NS = np.take_along_axis(chance_NG, category_NS, 1)
        return item_NS, logit_NS, repeats_NS, own_NS, click_NS, like_NS, true_NS

    def _fill(self, cell_NS: Integers, rng: np.random.Generator) -> Integers:
        """An item for every slot, all items of a cell alike and none twice in a slate.

        An item that stands in an earlier slot is drawn anew until it does not. Renaming the items of a cell changes
        nothing about that procedure, so whatever the cells of a slate are, each item of the cell is as likely.
        """
        size = self.size_C[cell_NS]
        item_NS = self.member[self.first_C[cell_NS] + np.floor(rng.random(cell_NS.shape) * size).astype(np.int64)]
        rows = np.arange(len(item_NS))
        while len(rows):
            some = item_NS[rows]
            order = np.argsort(some, axis=1, kind="stable")
            ranked = np.take_along_axis(some, order, 1)
            again = np.zeros(some.shape, bool)
            np.put_along_axis(again, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
            place, slot = np.nonzero(again)
            cell = cell_NS[rows[place], slot]
            drawn = np.floor(rng.random(len(place)) * self.size_C[cell]).astype(np.int64)
            item_NS[rows[place], slot] = self.member[self.first_C[cell] + drawn]
            rows = rows[np.unique(place)]
        return np.asarray(item_NS, np.int64)


def slot_effect(config: SimulatorConfig) -> Floats:
    """(S) logits that each slot adds."""
    return np.asarray(-config.position * np.log1p(np.arange(config.slate)))


def sigmoid(logit: Floats) -> Floats:
    """Chances of logits."""
    return np.asarray(1 / (1 + np.exp(-logit)))


class _SlotTable:
    """Mean chance over all slots, as a function of the logit without slot; a table, read by linear interpolation."""

    def __init__(self, config: SimulatorConfig, low: float, high: float) -> None:
        self.low = low
        logits = low + _GRID * np.arange(int(np.ceil((high - low) / _GRID)) + 3)
        self.mean = np.mean([sigmoid(logits + effect) for effect in slot_effect(config)], axis=0)

    def __call__(self, logit: Floats) -> Floats:
        place = (logit - self.low) / _GRID
        left = np.clip(place.astype(np.int64), 0, len(self.mean) - 2)
        share = place - left
        return np.asarray(self.mean[left] * (1 - share) + self.mean[left + 1] * share)


def _expected(
    config: SimulatorConfig,
    world: _World,
    table: _SlotTable,
    logit_NS: Floats,
    item_NS: Integers,
    chance_NS: Floats,
) -> Floats:
    """(N, S) expectation of the click over everything that else could be in the slate.

    With c the chance of the focus and q the popularity of the item's category, another slot is of that category with
    chance c + (1 - c) q when the category is the focus and (1 - c) q when it is not; and by Bayes' rule the category is
    the focus with odds chance * (c + (1 - c) q) to (1 - chance) * (1 - c) q.
    """
    others = config.slate - 1
    least_G = (1 - config.focus) * world.popularity_G
    most_G = config.focus + least_G
    out = np.zeros(logit_NS.shape)
    ways = [1.0]
    for k in range(others):
        ways.append(ways[-1] * (others - k) / (k + 1))
    law_2GK = np.stack(
        [
            np.stack([ways[k] * rate_G**k * (1 - rate_G) ** (others - k) for k in range(others + 1)], 1)
            for rate_G in (least_G, most_G)
        ]
    )
    for first in range(0, len(out), _BLOCK):
        rows = slice(first, first + _BLOCK)
        category = world.category_I[item_NS[rows]]
        focused = chance_NS[rows] * most_G[category]
        unfocused = (1 - chance_NS[rows]) * least_G[category]
        # a category that can never be shown unfocused has no odds to weigh
        weight = focused / np.maximum(focused + unfocused, np.finfo(float).tiny)
        for k in range(others + 1):
            chance = (1 - weight) * law_2GK[0, category, k] + weight * law_2GK[1, category, k]
            out[rows] += chance * table(logit_NS[rows] - config.repeat * k)
    return out
