"""A world of members, lines and offers whose truth is known: who buys by herself, whom an offer moves, and what for.

A member buys in every line with a chance of her own, without any offer:

    organic_nl = sigmoid( a_l + w_l . x_n )

An offer i of the line l that reaches her moves the odds, up or down:

    lifted_ni = sigmoid( logit organic_nl + b_i + u_l . x_n + z_ni )

Who buys spends a lognormal amount, heavy in its tail; who does not spends nothing. So the true value of a send is

    value_ni = reach_ni * ( lifted_ni - organic_nl ) * exp( m_nl + s^2 / 2 ),

a chance times a lifetime value. A planner sees estimates: the true value with an error of a known size. Purchases come
days after the send, so what is seen early is less than what comes.
"""

# Shapes: N members, M offers, E pairs of a member and an offer she may get, L lines, F features.

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.common.configuration import check, setting

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LINES = ("starter", "plus", "team", "enterprise", "events", "learning", "support", "partner")
PRICES = (5.0, 10.0, 10.0, 200.0, 25.0, 15.0, 40.0, 80.0)
CHANCES = (-3.0, -3.4, -3.6, -5.0, -3.8, -3.2, -4.0, -4.4)
"""Logits of buying without an offer, at the average member."""

DELAYS = (1.0, 2.0, 3.0, 7.0, 2.0, 1.0, 4.0, 6.0)
"""Mean days from a send to the purchase."""

CHANNELS = ("email", "push", "inapp", "paid", "sms", "mail")
COSTS = (0.02, 0.005, 0.001, 0.30, 0.05, 0.80)
RISKS = (0.0025, 0.0040, 0.0005, 0.0001, 0.0080, 0.0010)
"""Chance that a send of the channel makes a member unsubscribe, at the average member."""

REACHES = (0.90, 0.70, 0.80, 0.95, 0.97, 0.99)
SEGMENTS = ("new", "casual", "regular", "power", "dormant", "returning", "student", "company")
FEATURES = ("activity", "affluence", "tenure", "curiosity", "loyalty", "mobility", "size", "season")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The size and the temper of a generated world, and how tight its rows are."""

    members: int = setting(10_000, "Members", "Members who may get an offer, 10 to 50000000.", ge=10, le=50_000_000)
    offers: int = setting(8, "Offers", "Offers in all channels together, 1 to 10000.", ge=1, le=10_000)
    lines: int = setting(4, "Lines", "Lines of business that the offers belong to, 1 to 8.", ge=1, le=8)
    channels: int = setting(4, "Channels", "Owned and paid channels, 1 to 6.", ge=1, le=6)
    segments: int = setting(5, "Segments", "Segments of members, 1 to 8.", ge=1, le=8)
    density: float = setting(
        0.6, "Eligibility", "Share of the offers that a member may get, above 0 to 1; each may get one at least.",
        gt=0, le=1,
    )  # fmt: skip
    effect: float = setting(
        0.5, "Effect", "Mean shift of the odds of buying by an offer, in nats, -2 to 2.", ge=-2, le=2
    )
    spread: float = setting(
        0.6,
        "Spread of effects",
        "Standard deviation of that shift over members and offers, in nats, 0 to 2.",
        ge=0,
        le=2,
    )
    tail: float = setting(
        1.0, "Tail of spend", "Standard deviation of the logarithm of what is spent, 0 to 2.5.", ge=0, le=2.5
    )
    error: float = setting(
        0.3,
        "Error of estimates",
        "Standard deviation of the logarithm of estimated over true values, 0 to 3; what a planner sees is off by it.",
        ge=0,
        le=3,
    )
    budget: float = setting(
        0.35,
        "Budget",
        "Money to spend, as a share of what the best offer for every member would cost, 0 to 2.",
        ge=0,
        le=2,
    )
    unsubscribes: float = setting(
        0.5, "Unsubscribes", "Unsubscribes allowed, as a share of those of the best offers, 0 to 2.", ge=0, le=2
    )
    least_volume: float = setting(
        0.05, "Least volume of a line", "Share of the members that each line must reach at least, 0 to 1.", ge=0, le=1
    )
    most_volume: float = setting(
        0.25, "Most volume of a line", "Share of the members that each line may reach at most, 0 to 1.", ge=0, le=1
    )
    channel_share: float = setting(
        0.25, "Most sends of a channel", "Share of the members that a channel may be sent to, 0 to 1.", ge=0, le=1
    )
    segment_share: float = setting(
        0.85, "Most sends in a segment", "Share of a segment's members that may get an offer, 0 to 1.", ge=0, le=1
    )
    seed: int = setting(0, "Seed", "Start of the world's random stream, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)
        if self.least_volume > self.most_volume:
            raise ValueError(
                f"GeneratorConfig.least_volume must be at most most_volume, got {self.least_volume} and "
                f"{self.most_volume}; lower the one or raise the other."
            )


@dataclass(frozen=True, kw_only=True)
class World:
    """What was generated: what a planner would see, and the truth that she would not.

    Attributes:
        members: `member`, `segment` and one column per feature.
        offers: `offer`, `line`, `channel`.
        start: (N + 1) where each member's pairs begin.
        offer: (E) offer of each pair, rising within a member.
        value, risk: (E) estimates of the value in money and of the chance to unsubscribe.
        cost: (E) money for a send, known exactly.
        reach: (E) chance that a send arrives, known exactly.
        rows: rows that all members share; see `models.marketing.tables`.
        line: (M) line of each offer.
        organic: (N, L) true chances to buy without an offer.
        lifted: (E) true chances to buy in the offer's line once the offer has arrived.
        spend: (N, L) true means of the logarithm of what is spent by who buys.
        tail: standard deviation of that logarithm.
        delay: (L) mean days from a send to a purchase.
        true_risk: (E) true chances to unsubscribe.
    """

    members: pa.Table
    offers: pa.Table
    start: Integers
    offer: NDArray[np.int32]
    value: NDArray[np.float32]
    risk: NDArray[np.float32]
    cost: NDArray[np.float32]
    reach: NDArray[np.float32]
    rows: pa.Table
    line: Integers
    organic: Floats
    lifted: Floats
    spend: Floats
    tail: float
    delay: Floats
    true_risk: Floats

    @property
    def member(self) -> Integers:
        """(E) member of each pair."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    @property
    def true_value(self) -> Floats:
        """(E) what a send brings in the mean beyond what the member would have spent anyway, in money."""
        member, line = self.member, self.line[self.offer]
        mean = np.exp(self.spend[member, line] + self.tail**2 / 2)
        return np.asarray(self.reach * (self.lifted - self.organic[member, line]) * mean)

    @property
    def organic_value(self) -> Floats:
        """(N) what a member spends in the mean without any offer."""
        return np.asarray((self.organic * np.exp(self.spend + self.tail**2 / 2)).sum(1))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What members did after a round of sends.

    Attributes:
        arrived: (N) whether the send arrived; false without one.
        lines: (N, L) money spent in every line, organic and moved by the offer.
        delay: (N) days from the send to the first purchase; nan without one.
        unsubscribed: (N) whether the member left the channel.
        cost: money that was paid for sends that arrived.
    """

    arrived: NDArray[np.bool_]
    lines: Floats
    delay: Floats
    unsubscribed: NDArray[np.bool_]
    cost: float

    @property
    def spend(self) -> Floats:
        """(N) money spent in all lines."""
        return np.asarray(self.lines.sum(1))


def generate(config: GeneratorConfig) -> World:
    """Make a world from its configuration and nothing else.

    Args:
        config: sizes, temper, rows and seed.

    Returns:
        The world; the same configuration gives the same arrays.

    Source:
        Ours. Prices of the first four lines, and rows with lower and upper volumes, as in "From Prediction to
        Incrementality" (arXiv 2608.10182), table 1.
    """
    rng = np.random.default_rng(config.seed)
    size, lines = config.members, config.lines
    segment = rng.integers(0, config.segments, size)
    x_NF = rng.standard_normal((size, len(FEATURES)))
    x_NF += 0.5 * rng.standard_normal((config.segments, len(FEATURES)))[segment]
    line, channel = _offers(config)
    start, offer = _eligible(config, rng)
    member = np.repeat(np.arange(size), np.diff(start))

    organic_logit = np.asarray(CHANCES[:lines]) + x_NF @ _weights(rng, lines, 0.5)
    spend_NL = np.log(PRICES[:lines]) + x_NF @ _weights(rng, lines, 0.3)
    appeal_M = 0.4 * config.spread * rng.standard_normal(config.offers)
    moved_NL = config.spread * (x_NF @ _weights(rng, lines, 0.7))
    whim_E = 0.6 * config.spread * rng.standard_normal(len(offer))
    shift_E = config.effect + appeal_M[offer] + moved_NL[member, line[offer]] + whim_E
    organic_NL = _sigmoid(organic_logit)
    lifted_E = _sigmoid(organic_logit[member, line[offer]] + shift_E)

    of_channel = channel[offer]
    annoyance_N = np.exp(x_NF @ _weights(rng, 1, 0.5)[:, 0])
    true_risk = np.minimum(np.asarray(RISKS)[of_channel] * annoyance_N[member], 0.5)
    cost = np.asarray(COSTS)[of_channel] * np.exp(0.2 * rng.standard_normal(len(offer)))
    reach = np.asarray(REACHES)[of_channel] * rng.uniform(0.9, 1.0, len(offer))
    world = World(
        members=_members(config, segment, x_NF),
        offers=_offer_table(line, channel),
        start=start,
        offer=offer,
        value=np.zeros(len(offer), np.float32),
        risk=(true_risk * np.exp(config.error * rng.standard_normal(len(offer)))).astype(np.float32),
        cost=cost.astype(np.float32),
        reach=reach.astype(np.float32),
        rows=pa.table({}),
        line=line,
        organic=organic_NL,
        lifted=lifted_E,
        spend=spend_NL,
        tail=config.tail,
        delay=np.asarray(DELAYS[:lines]),
        true_risk=true_risk,
    )
    estimate = world.true_value * np.exp(config.error * rng.standard_normal(len(offer)))
    seen: dict[str, Any] = {**world.__dict__, "value": estimate.astype(np.float32)}
    return World(**{**seen, "rows": _rows(config, World(**seen), segment)})


def simulate(world: World, choice: Integers, rng: np.random.Generator) -> Outcome:
    """Let members live through one round of sends.

    Args:
        world: the truth.
        choice: (N) pair that each member is sent, -1 for nothing.
        rng: source of chance.

    Returns:
        What they did.

    Source:
        Ours.
    """
    sent = np.flatnonzero(choice >= 0)
    pair = choice[sent]
    arrived = np.zeros(len(choice), bool)
    arrived[sent] = rng.random(len(sent)) < world.reach[pair]
    chance_NL = world.organic.copy()
    reached = np.flatnonzero(arrived)
    chance_NL[reached, world.line[world.offer[choice[reached]]]] = world.lifted[choice[reached]]
    bought_NL = rng.random(chance_NL.shape) < chance_NL
    member, line = np.nonzero(bought_NL)
    amount = np.exp(world.spend[member, line] + world.tail * rng.standard_normal(len(member)))
    wait = rng.exponential(world.delay[line])
    delay = np.full(len(choice), np.inf)
    np.minimum.at(delay, member, wait)
    gone = np.zeros(len(choice), bool)
    gone[reached] = rng.random(len(reached)) < world.true_risk[choice[reached]]
    lines = np.zeros(chance_NL.shape)
    lines[member, line] = amount
    return Outcome(
        arrived=arrived,
        lines=lines,
        delay=np.where(np.isinf(delay), np.nan, delay),
        unsubscribed=gone,
        cost=float(world.cost[choice[reached]].sum(dtype=np.float64)),
    )


def past(world: World, rng: np.random.Generator) -> tuple[Integers, Outcome]:
    """A round of the past in which chance alone decided: half of the members got any one of their offers.

    Args:
        world: the truth.
        rng: source of chance.

    Returns:
        (N) pair that each was sent, -1 for nothing, and what came of it: what response and uplift are learned from.

    Source:
        Ours.
    """
    degree = np.diff(world.start)
    drawn = world.start[:-1] + (rng.random(len(degree)) * degree).astype(np.int64)
    choice = np.where(rng.random(len(degree)) < 0.5, drawn, -1)
    return choice, simulate(world, choice, rng)


def _weights(rng: np.random.Generator, columns: int, length: float) -> Floats:
    """(F, columns) directions of a given length."""
    drawn = rng.standard_normal((len(FEATURES), columns))
    return np.asarray(length * drawn / np.linalg.norm(drawn, axis=0))


def _offers(config: GeneratorConfig) -> tuple[Integers, Integers]:
    """Line and channel of every offer: lines in turn, and each line in all channels in turn."""
    number = np.arange(config.offers)
    return number % config.lines, (number + number // config.lines) % config.channels


def _eligible(config: GeneratorConfig, rng: np.random.Generator) -> tuple[Integers, NDArray[np.int32]]:
    """Which offers each member may get: independent coins, and one offer for who would have none."""
    pieces, degrees = [], []
    block = max(1, 20_000_000 // config.offers)
    for first in range(0, config.members, block):
        count = min(block, config.members - first)
        may = rng.random((count, config.offers), np.float32) < config.density
        may[np.arange(count), rng.integers(0, config.offers, count)] |= ~may.any(1)
        pieces.append(np.nonzero(may)[1].astype(np.int32))
        degrees.append(may.sum(1))
    start = np.concatenate([[0], np.cumsum(np.concatenate(degrees))]).astype(np.int64)
    return start, np.concatenate(pieces)


def _members(config: GeneratorConfig, segment: Integers, x_NF: Floats) -> pa.Table:
    """What is known of every member."""
    columns: dict[str, Any] = {
        "member": pa.array(np.arange(config.members), pa.int64()),
        "segment": pa.DictionaryArray.from_arrays(pa.array(segment, pa.int32()), list(SEGMENTS)).cast(pa.string()),
    }
    columns |= {name: pa.array(x_NF[:, place], pa.float32()) for place, name in enumerate(FEATURES)}
    return pa.table(columns)


def _offer_table(line: Integers, channel: Integers) -> pa.Table:
    """Names, lines and channels of the offers; a name is that of line and channel, numbered when it comes again."""
    names: list[str] = []
    counts = Counter[str]()
    for one, other in zip(line, channel, strict=True):
        plain = f"{LINES[one]}-{CHANNELS[other]}"
        counts[plain] += 1
        names.append(f"{plain}-{counts[plain]}" if counts[plain] > 1 else plain)
    return pa.table(
        {"offer": names, "line": [LINES[one] for one in line], "channel": [CHANNELS[one] for one in channel]}
    )


def _rows(config: GeneratorConfig, world: World, segment: Integers) -> pa.Table:
    """The rows that all members share, their bounds taken from what the best offer for everybody would draw."""
    best = _best(world)
    size, rows = config.members, list[dict[str, Any]]()

    def add(family: str, row: str, weight: str, by: str, lower: float | None, upper: float | None) -> None:
        rows.append({"family": family, "row": row, "weight": weight, "by": by, "lower": lower, "upper": upper})

    add("spend", "", "cost", "", None, config.budget * float(world.cost[best].sum(dtype=np.float64)))
    risk = float(world.risk[best].sum(dtype=np.float64))
    add("unsubscribes", "", "risk", "", None, config.unsubscribes * risk)
    for line in sorted(set(world.line.tolist())):
        least = config.least_volume * size if config.least_volume else None
        add("volume", LINES[line], "reach", "line", least, config.most_volume * size)
    for channel in sorted(set(world.offers["channel"].to_pylist())):
        add("channel", channel, "", "channel", None, config.channel_share * size)
    for number in sorted(set(segment.tolist())):  # few members may leave a segment empty
        count = int(np.count_nonzero(segment == number))
        add("segment", SEGMENTS[number], "", "segment", None, config.segment_share * count)
    kinds = {"family": pa.string(), "row": pa.string(), "weight": pa.string(), "by": pa.string()}
    bounds = {"lower": pa.float64(), "upper": pa.float64()}
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in (kinds | bounds).items()})


def _best(world: World) -> Integers:
    """The pair of the most valuable offer of every member who has one of a value above zero."""
    highest = np.maximum.reduceat(world.value, world.start[:-1])
    first = np.flatnonzero((world.value == np.repeat(highest, np.diff(world.start))) & (world.value > 0))
    _, place = np.unique(world.member[first], return_index=True)
    return np.asarray(first[place])


def _sigmoid(logit: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-logit)))
