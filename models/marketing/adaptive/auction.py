"""A simulated market of second-price auctions that drifts over the day, with its truth known.

Each impression is sold to the highest bidder for the second highest bid, or the reserve price if that is more. From
period to period change how many impressions come, what they are worth, what the others bid, and which share of what is
won is really shown; only what is shown is paid and counts.
"""

# Shapes: I impressions, J bidders, H periods, G segments.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def second_price(bid_IJ: NDArray[Any], reserve: float = 0.0) -> tuple[Integers, Floats]:
    """Sell every impression among all bidders.

    Args:
        bid_IJ: bids, zero or more.
        reserve: nothing is sold below it.

    Returns:
        (I) the winner, the first of equal bids, -1 where no bid reaches the reserve; (I) what she pays, 0 where unsold.

    Raises:
        InputError: a bid is negative or not a number, or the reserve is negative.

    Source:
        Vickrey 1961, "Counterspeculation, auctions, and competitive sealed tenders".
    """
    bids = np.asarray(bid_IJ, np.float64)
    if bids.ndim != 2 or not bids.shape[1]:
        raise InputError(f"bids must be impressions x bidders with at least one bidder, got shape {bids.shape}.")
    if not (bids >= 0).all():
        row, bidder = np.argwhere(~(bids >= 0))[0]
        raise InputError(f"bid of bidder {bidder} for impression {row} is {bids[row, bidder]}; it must be 0 or more.")
    if not reserve >= 0:
        raise InputError(f"the reserve price must be 0 or more, got {reserve}.")
    winner = bids.argmax(1)
    highest = bids[np.arange(len(bids)), winner]
    second = np.partition(bids, -2, axis=1)[:, -2] if bids.shape[1] > 1 else np.zeros(len(bids))
    sold = (highest >= reserve) & (highest > 0)
    return np.where(sold, winner, -1).astype(np.int64), np.where(sold, np.maximum(second, reserve), 0.0)


@dataclass(frozen=True, kw_only=True)
class Market:
    """How a day of auctions is drawn; with all drifts at their defaults it is the usual day.

    Attributes:
        periods: H.
        impressions: expected in the whole day.
        rivals: how many others bid for each impression.
        reserve: reserve price.
        segments: G kinds of impressions, of different worth.
        spread: standard deviation of the logarithm of values inside a segment.
        among: the same, of the segments' means.
        seen: what the others know of the value: weight of its logarithm in theirs, 0 to 1.
        doubt: standard deviation of the logarithm of what is left in a rival's bid.
        swing: rise and fall of prices in a usual day, in logarithms.
        price_drift: rise of the logarithm of rival bids from morning to night, today.
        price_jump: at half time all rival bids rise by so much in logarithms, today.
        value_drift: rise of the logarithm of values from morning to night, today.
        shown_first: share of the won impressions that is shown, at the beginning of the day.
        shown_last: the same at its end.
    """

    periods: int = 96
    impressions: int = 200_000
    rivals: int = 5
    reserve: float = 0.01
    segments: int = 6
    spread: float = 0.6
    among: float = 0.3
    seen: float = 0.5
    doubt: float = 0.5
    swing: float = 0.25
    price_drift: float = 0.0
    price_jump: float = 0.0
    value_drift: float = 0.0
    shown_first: float = 1.0
    shown_last: float = 1.0

    def __post_init__(self) -> None:
        for name in ("periods", "impressions", "rivals", "segments"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of a market must be at least 1, got {getattr(self, name)}.")
        for name in ("swing", "price_drift", "price_jump", "value_drift"):
            if not np.isfinite(getattr(self, name)):
                raise InputError(f"{name} of a market must be finite, got {getattr(self, name)}.")
        for name in ("reserve", "spread", "among", "doubt"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} of a market must be 0 or more, got {getattr(self, name)}.")
        for name in ("seen", "shown_first", "shown_last"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} of a market must be from 0 to 1, got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Auctions:
    """A day of auctions in the order of time, as one who sees everything sees it.

    Attributes:
        period: (I) 0 to H - 1, never falling.
        segment: (I) 0 to G - 1.
        value: (I) what a shown impression is worth to us; known when the bid is made.
        price: (I) the highest rival bid, or the reserve if that is more: whoever bids more wins and pays it.
        shown: (I) whether it is shown, and so paid, when won; known afterwards.
        periods: H.
    """

    period: Integers
    segment: Integers
    value: Floats
    price: Floats
    shown: NDArray[np.bool_]
    periods: int

    def __len__(self) -> int:
        return len(self.value)


def simulate_auctions(market: Market, seed: int) -> Auctions:
    """Draw a day.

    Args:
        market: how.
        seed: of everything drawn.

    Returns:
        Impressions come along a daily curve. Log values are normal round their segment's mean. A rival's log bid is
        normal round a weighted mean of the impression's log value and the day's level.

    Source:
        Ours; lognormal bids as fitted to exchanges by Ostrovsky & Schwarz 2011, "Reserve prices in internet
        advertising auctions".
    """
    rng = np.random.default_rng(seed)
    clock = (np.arange(market.periods) + 0.5) / market.periods
    volume = 1 + 0.4 * np.sin(2 * np.pi * (clock - 0.35))
    counts = rng.poisson(market.impressions * volume / volume.sum())
    period = np.repeat(np.arange(market.periods), counts).astype(np.int64)
    time = clock[period]
    segment = rng.integers(0, market.segments, len(period))
    means = market.among * (np.arange(market.segments) - (market.segments - 1) / 2)
    means = means / max(float(np.std(np.arange(market.segments))), 1.0)
    worth = means[segment] + rng.normal(0, market.spread, len(period))
    level = market.swing * np.sin(2 * np.pi * (time - 0.1)) + market.price_drift * time
    level += market.price_jump * (time > 0.5)
    rival = np.full(len(period), -np.inf)
    for _ in range(market.rivals):
        np.maximum(rival, rng.normal(0, market.doubt, len(period)), out=rival)
    price = np.exp(market.seen * worth - 0.5 + level + rival)
    shown = rng.random(len(period)) < market.shown_first + (market.shown_last - market.shown_first) * time
    return Auctions(
        period=period,
        segment=segment.astype(np.int64),
        value=np.exp(worth + market.value_drift * time),
        price=np.maximum(price, market.reserve),
        shown=shown,
        periods=market.periods,
    )
