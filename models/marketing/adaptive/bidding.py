"""Bids for impressions from the shadow price of a budget, paced through a drifting market.

With a budget B and second prices p_i, what to win is a fractional knapsack:

    max  sum_i (v_i - p_i) x_i   or   max  sum_i v_i x_i      s.t.  sum_i p_i x_i <= B,  0 <= x_i <= 1.

Its dual price y turns it into one threshold on value per cost: win where v_i / p_i > theta, theta = 1 + y for the
surplus and theta = y for the value. In a second-price auction the bid

    b_i = v_i / theta                                          value / (1 + price),  or value / price

wins exactly these, without knowing p_i. Theta is the only thing to be found. Before each period it is read off the
auctions of an earlier day: the threshold at which what is left of that day, moved by how today is forecast to differ,
would have cost what is left of the budget. A forecast that is right never moves theta, and a theta that never moves
is the clairvoyant's.
"""

# Shapes: I impressions, H periods, L impressions of the log.

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError
from models.marketing.adaptive.auction import Auctions
from models.marketing.adaptive.frontier import frontier

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Goal = Literal["value", "surplus"]

LEVEL = 1.0
"""How far, in logarithms, a day may begin from the usual one; standard deviation."""
TREND = 0.5
"""How far, in logarithms, it may move away by its end."""
TRIED = 1000
"""Constant bids tried in each segment, from the cheapest impression to the dearest."""
LEAST_REST = 0.05
"""Spend over what it should have been is never taken to be less, so that a period without any has a logarithm."""
MEMORY = 0.98
"""What is seen is worth less by this factor with every period."""
SURPRISE = 5.0
"""Standard deviations from its forecast above which a period is a surprise."""


def bids(value: NDArray[Any], price: float, goal: Goal = "surplus") -> Floats:
    """Bids at a shadow price of the budget.

    Args:
        value: (I) worth of each impression, in money.
        price: shadow price, in money of the goal per money spent; zero or more, above zero for the goal "value".
        goal: what the budget is to buy: value, or value less what is paid.

    Returns:
        (I) value / (1 + price) for the surplus, value / price for the value.

    Raises:
        InputError: the price is out of range.

    Source:
        The dual of the knapsack above; Balseiro & Gur 2019, "Learning in repeated auctions with budgets", for the
        surplus.
    """
    theta = price + (goal == "surplus")
    if not (price >= 0 and theta > 0):
        raise InputError(f"a shadow price for the goal {goal!r} must be above zero, or zero for surplus, got {price}.")
    return np.asarray(value, np.float64) / theta


@dataclass(frozen=True, kw_only=True, eq=False)
class Log:
    """Auctions of an earlier day whose price is known: won ones, and lost ones where the exchange tells what wins.

    Attributes:
        period: (L) 0 to H - 1.
        value: (L).
        price: (L), above zero.
        periods: H.
    """

    period: Integers
    value: Floats
    price: Floats
    periods: int

    def __post_init__(self) -> None:
        if not self.period.shape == self.value.shape == self.price.shape or self.period.ndim != 1:
            raise InputError(
                f"period, value and price of a log must be one row of the same length, got {self.period.shape}, "
                f"{self.value.shape}, {self.price.shape}."
            )
        if len(self.period) and not (self.period.min() >= 0 and self.period.max() < self.periods):
            raise InputError(f"periods of a log lie from 0 to {self.periods - 1}, got {self.period.min()} to "
                             f"{self.period.max()}; number them by the time of day.")  # fmt: skip
        for name, numbers, right in (
            ("value", self.value, np.isfinite(self.value) & (self.value >= 0)),
            ("price", self.price, np.isfinite(self.price) & (self.price > 0)),
        ):
            wrong = np.flatnonzero(~right)
            if len(wrong):
                raise InputError(
                    f"{name} of auction {wrong[0]} of the log is {numbers[wrong[0]]}; leave out auctions whose "
                    f"{name} is not known."
                )

    @classmethod
    def of(cls, day: Auctions) -> "Log":
        """What is known of a day afterwards, where the exchange tells what would have won."""
        kept = day.shown
        return cls(period=day.period[kept], value=day.value[kept], price=day.price[kept], periods=day.periods)


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What a bidder knows of a period once it is over.

    Attributes:
        value: (I) worth of each impression.
        price: (I) what would have won it; not a number where nobody tells.
        won: (I) whether it was won.
        shown: (I) whether it was shown; of no meaning where it was not won.
    """

    value: Floats
    price: Floats
    won: NDArray[np.bool_]
    shown: NDArray[np.bool_]

    def __post_init__(self) -> None:
        shapes = {self.value.shape, self.price.shape, self.won.shape, self.shown.shape}
        if len(shapes) > 1 or self.value.ndim != 1:
            raise InputError(f"what is known of a period must be rows of one length, got {sorted(shapes)}.")
        wrong = np.flatnonzero(~(np.isfinite(self.value) & (self.value >= 0)))
        if len(wrong):
            raise InputError(f"value of impression {wrong[0]} is {self.value[wrong[0]]}; it must be 0 or more.")


class Forecast:
    """A level and its trend, each known as well as the periods seen so far allow.

    Before anything is seen the day is an ordinary one: level 0, trend 0, with `LEVEL` and `TREND` as standard
    deviations. What was seen is worth less by `MEMORY` with every period.

    A surprise teaches nothing: it may be an outage. A second one running, the same way, is a jump: level and trend are
    as unsure again as in the morning, round what is forecast, and so follow it at once.

    Source:
        Harrison & Stevens 1976, "Bayesian forecasting", the linear growth model; discounting as in West & Harrison
        1997, "Bayesian Forecasting and Dynamic Models", section 6.3, and interventions as in chapter 11. Asking for two
        surprises is ours.
    """

    def __init__(self, periods: int) -> None:
        """Begin.

        Args:
            periods: H, over which the trend's prior is stated.
        """
        self._mean = np.zeros(2)
        self._unsure = np.diag([LEVEL**2, (TREND / periods) ** 2])
        self._cover = self._unsure.copy()
        self._odd = 0.0

    def see(self, level: float, variance: float) -> None:
        """Take in one more period.

        Args:
            level: seen in it.
            variance: of what was seen, round what was true.
        """
        step = np.array([[1.0, 1.0], [0.0, 1.0]])
        mean, cover = step @ self._mean, step @ self._cover @ step.T / MEMORY
        away = float((level - mean[0]) / np.sqrt(cover[0, 0] + variance))
        again, self._odd = self._odd * away > 0, away if abs(away) > SURPRISE else 0.0
        if self._odd and not again:
            self._mean, self._cover = mean, cover
            return
        if self._odd:
            cover, self._odd = cover + self._unsure, 0.0
        weight = cover[:, 0] / (cover[0, 0] + variance)
        self._mean = mean + weight * (level - mean[0])
        self._cover = cover - np.outer(weight, cover[0])

    def ahead(self, periods: int) -> Floats:
        """(periods) levels to come."""
        return np.asarray(self._mean[0] + self._mean[1] * np.arange(1, periods + 1), np.float64)


class Bidder:
    """Finds theta before each period; the inner loop is a knapsack on the log, the outer one forecasts the day.

    How today differs from the log is kept as logarithms: how many impressions come, their worth, their price, the share
    of the won ones that is shown, and what was spent over what these four should have cost. Where prices of lost
    auctions are not told, how prices moved is what explains how many were won.
    """

    def __init__(
        self,
        log: Log,
        budget: float,
        *,
        goal: Goal = "value",
        adapts: bool = True,
    ) -> None:
        """Prepare.

        Args:
            log: an earlier day.
            budget: B, of the whole day, zero or more.
            goal: what the budget is to buy.
            adapts: whether to look at what is spent; without, theta is the log's for the whole day.

        Raises:
            InputError: a number is out of range, or the log is empty.
        """
        if not (np.isfinite(budget) and budget >= 0):
            raise InputError(f"the budget must be a finite sum of zero or more, got {budget}.")
        if not len(log.value) or not (log.value > 0).any():
            raise InputError("the log has no auction of known price and worth; bid to explore for a day first.")
        self.budget, self.goal, self.periods, self.adapts = budget, goal, log.periods, adapts
        kept = log.value > 0
        score, price, period = np.log(log.value[kept] / log.price[kept]), log.price[kept], log.period[kept]
        order = np.lexsort((-score, period))
        self._low, self._high = float(score.min()) - 1.0, float(score.max()) + 1.0
        # one rising key for all periods, so that one search answers for each of them
        self._width = 2 * (self._high - self._low) + 200.0
        self._key = period[order] * self._width - score[order]
        self._cost = np.append(0.0, np.cumsum(price[order]))
        self._opens = np.searchsorted(period[order], np.arange(log.periods + 1))
        self._count = np.bincount(log.period, minlength=log.periods)
        self._usual = {
            "worth": [log.value[log.period == t] for t in range(log.periods)],
            "price": [log.price[log.period == t] for t in range(log.periods)],
        }
        self._forecasts = {name: Forecast(log.periods) for name in ("count", "worth", "price", "shown", "rest")}
        self.spent, self.period = 0.0, 0
        self.theta = self._found()

    @property
    def shadow_price(self) -> float:
        """Of the budget: what one more unit of it would bring."""
        return self.theta - (self.goal == "surplus")

    def bids(self, value: NDArray[Any]) -> Floats:
        """Bids of the present period; zero once the budget is spent.

        Args:
            value: (I) worth of each impression.
        """
        left = self.budget - self.spent
        if left <= 0 or not np.isfinite(self.theta):
            return np.zeros(len(value))
        return np.asarray(np.minimum(np.asarray(value, np.float64) / self.theta, left), np.float64)

    def after(self, seen: Seen) -> None:
        """End the present period.

        Args:
            seen: what became known.

        Raises:
            InputError: the day is over, or the price of something won is not known.
        """
        if self.period >= self.periods:
            raise InputError(f"all {self.periods} periods are over; begin a new day.")
        paid = seen.price[seen.won & seen.shown]
        if not np.isfinite(paid).all():
            raise InputError(
                f"{(~np.isfinite(paid)).sum()} prices paid in period {self.period} are not known; tell what was paid."
            )
        realised = float(paid.sum())
        if self.adapts:
            self._learn(seen, realised)
        self.spent += realised
        self.period += 1
        if self.adapts and self.period < self.periods:
            self.theta = self._found()

    def _learn(self, seen: Seen, realised: float) -> None:
        place, usual = self.period, int(self._count[self.period])
        won, shown = int(seen.won.sum()), int((seen.won & seen.shown).sum())
        if not len(seen.value) or not usual:
            return
        found = {
            "count": (float(np.log(len(seen.value) / usual)), 1 / len(seen.value) + 1 / usual),
            "worth": _moved(seen.value, self._usual["worth"][place]),
        }
        if shown:
            found["shown"] = (float(np.log(shown / won)), (won - shown + 1) / (won * shown))
        if np.isfinite(seen.price).all():
            found["price"] = _moved(seen.price, self._usual["price"][place])
        else:
            found["price"] = self._price_by_wins(won, place, found["count"][0], found["worth"][0])
        ahead = {name: np.array([found[name][0] if name in found else 0.0]) for name in self._forecasts}
        expected, terms = self._costs(np.log(self.theta), np.array([place]), ahead)
        if expected > 0:
            # nothing won where something was expected says that bids are too low, and must raise them
            level = float(np.log(max(realised / expected, LEAST_REST)))
            found["rest"] = (level, 2 / max(terms, 1) + 1 / max(shown, 1))
        for name, (level, variance) in found.items():
            self._forecasts[name].see(level, variance)

    def _price_by_wins(self, won: int, place: int, count: float, worth: float) -> tuple[float, float]:
        """How prices must have moved for so many to be won at the present theta, and its variance."""
        score, wanted = float(np.log(self.theta)), max(won, 0.5) / np.exp(count)

        def wins(moved: float) -> int:
            ahead = {name: np.zeros(1) for name in self._forecasts} | {"worth": np.array([worth])}
            return self._costs(score, np.array([place]), ahead | {"price": np.array([moved])})[1]

        low, high = -5.0, 5.0  # dearer prices are won less often
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if wins(middle) > wanted else (low, middle)
        bend = np.log((wins(high - 0.1) + 0.5) / (wins(high + 0.1) + 0.5)) / 0.2
        return high, (1 / max(won, 0.5) + 1 / wanted) / max(float(bend), 0.5) ** 2

    def _costs(self, score: float, period: Integers, ahead: dict[str, Floats]) -> tuple[float, int]:
        """What periods cost at a threshold on log value per cost, given how they differ from the log; by how many."""
        moved = np.clip(score - ahead["worth"] + ahead["price"], self._low - 1, self._high + 1)
        place = np.searchsorted(self._key, period * self._width - moved, side="left")
        place = np.clip(place, self._opens[period], self._opens[period + 1])
        cost = self._cost[place] - self._cost[self._opens[period]]
        factor = np.exp(ahead["count"] + ahead["price"] + ahead["shown"] + ahead["rest"])
        return float((cost * factor).sum()), int((place - self._opens[period]).sum())

    def _found(self) -> float:
        """Theta at which the periods to come are expected to cost what is left of the budget."""
        left = self.budget - self.spent
        if left <= 0:
            return float("inf")
        period = np.arange(self.period, self.periods)
        ahead = {name: forecast.ahead(len(period)) for name, forecast in self._forecasts.items()}
        widest = max(float(np.abs(ahead["worth"]).max()), float(np.abs(ahead["price"]).max()))
        # at the lowest threshold everything is bought: when that is cheaper than the budget, it is what to bid
        low, high = self._low - 2 * widest, self._high + 2 * widest
        for _ in range(50):
            middle = (low + high) / 2
            if self._costs(middle, period, ahead)[0] > left:
                low = middle
            else:
                high = middle
        return max(float(np.exp(high)), 1.0) if self.goal == "surplus" else float(np.exp(high))


def _moved(today: Floats, usual: Floats) -> tuple[float, float]:
    """Difference of the mean logarithms of positive numbers, and its variance."""
    logs = [np.log(numbers[numbers > 0]) for numbers in (today, usual)]
    if min(len(one) for one in logs) < 2:
        return 0.0, 1.0
    return float(logs[0].mean() - logs[1].mean()), float(sum(one.var() / len(one) for one in logs)) + 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Bought:
    """What a day of bidding bought.

    Attributes:
        value: of what was won and shown.
        spent: (H+1) by the end of each period.
        theta: (H) threshold on value per cost in each period.
        won: (I) what was won.
    """

    value: float
    spent: Floats
    theta: Floats
    won: NDArray[np.bool_]


def run_auctions(day: Auctions, bidder: Bidder, *, told_prices: bool = True) -> Bought:
    """Bid through a day; spend never exceeds the budget, because no bid exceeds what is left of it.

    Args:
        day: the auctions.
        bidder: at the beginning of its day.
        told_prices: whether the exchange tells what would have won a lost auction.

    Returns:
        What was bought.

    Raises:
        InputError: the bidder's log has another number of periods, or its day has begun.
    """
    if bidder.period or bidder.periods != day.periods:
        raise InputError(
            f"the day has {day.periods} periods, the bidder knows {bidder.periods} and is in period {bidder.period}; "
            "begin with a fresh bidder whose log has the same periods."
        )
    won, spent, theta = np.zeros(len(day), bool), [0.0], []
    edges = np.searchsorted(day.period, np.arange(day.periods + 1))
    for period in range(day.periods):
        theta.append(bidder.theta)
        rows = slice(edges[period], edges[period + 1])
        value, price, shown = day.value[rows], day.price[rows], day.shown[rows]
        won[rows] = _won(bidder.bids(value), price, shown, bidder.budget - bidder.spent)
        told = price if told_prices else np.where(won[rows], price, np.nan)
        bidder.after(Seen(value=value, price=told, won=won[rows], shown=shown))
        spent.append(bidder.spent)
    return Bought(value=float(day.value[won & day.shown].sum()), spent=np.array(spent), theta=np.array(theta), won=won)


def _won(bid: Floats, price: Floats, shown: NDArray[np.bool_], left: float) -> NDArray[np.bool_]:
    """What is won when every bid is held to what is left at its moment."""
    won = bid > price
    paid = np.cumsum(np.where(won & shown, price, 0.0))
    if not len(paid) or paid[-1] <= left:
        return won
    first = int(np.searchsorted(paid, left, side="right"))
    rest = left - (paid[first - 1] if first else 0.0)
    for row in range(first, len(bid)):
        won[row] = min(bid[row], rest) > price[row]
        if won[row] and shown[row]:
            rest -= price[row]
    return won


def best_value(day: Auctions, spend: float, goal: Goal = "value") -> float:
    """What one who knows all auctions of the day gets for at most so much: the fractional knapsack.

    Args:
        day: the auctions.
        spend: the budget.
        goal: value, or value less what is paid.

    Source:
        Dantzig 1957, "Discrete-variable extremum problems".
    """
    value, price = day.value[day.shown], day.price[day.shown]
    gain = value - price if goal == "surplus" else value
    order = np.argsort(-gain / price, kind="stable")
    order = order[gain[order] > 0]
    return float(np.interp(spend, np.append(0, np.cumsum(price[order])), np.append(0, np.cumsum(gain[order]))))


def constant_bid_value(day: Auctions, spend: float, *, by_segment: bool = False) -> float:
    """Value that the best constant bid gets at the same spend, found with all auctions of the day known.

    Args:
        day: the auctions.
        spend: what it may spend, in full.
        by_segment: one constant bid for each segment, the best such combination of `TRIED` bids each, mixed over time
            where needed.

    Returns:
        The value. One bid wins all that is cheaper than it, so its value is that of the cheapest impressions.

    Source:
        Ours.
    """
    value, price, segment = day.value[day.shown], day.price[day.shown], day.segment[day.shown]
    if not by_segment:
        order = np.argsort(price, kind="stable")
        return float(np.interp(spend, np.append(0, np.cumsum(price[order])), np.append(0, np.cumsum(value[order]))))
    owner, cost, worth = [], [], []
    for one in np.unique(segment):
        order = np.flatnonzero(segment == one)
        order = order[np.argsort(price[order], kind="stable")]
        tried = np.unique(np.linspace(0, len(order) - 1, TRIED).astype(np.int64))
        cost.append(np.cumsum(price[order])[tried])
        worth.append(np.cumsum(value[order])[tried])
        owner.append(np.full(len(tried), one))
    return frontier(*(np.concatenate(column) for column in (owner, worth, cost))).value_at(spend) if owner else 0.0
