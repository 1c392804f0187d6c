"""Second-price auctions: the rule, its truthfulness, and the market's known truth."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import InputError
from models.marketing.adaptive.auction import Market, second_price, simulate_auctions

amounts = st.floats(0, 100, allow_nan=False)


def test_the_highest_bid_wins_for_the_second_highest_or_the_reserve() -> None:
    bids = np.array([[3.0, 5.0, 1.0], [2.0, 1.0, 0.0], [0.5, 0.2, 0.0], [4.0, 4.0, 0.0]])
    winner, paid = second_price(bids, reserve=1.5)
    assert winner.tolist() == [1, 0, -1, 0]
    assert paid.tolist() == [3.0, 1.5, 0.0, 4.0]


@settings(max_examples=100)
@given(amounts, amounts, st.lists(amounts, min_size=1, max_size=5), st.floats(0, 10))
def test_no_bid_beats_the_truth(value: float, other: float, rivals: list[float], reserve: float) -> None:
    def surplus(bid: float) -> float:
        winner, paid = second_price(np.array([[bid, *rivals]]), reserve)
        return value - float(paid[0]) if winner[0] == 0 else 0.0

    assert surplus(value) >= surplus(other) - 1e-12
    assert surplus(value) >= 0


@settings(max_examples=50)
@given(st.lists(st.lists(amounts, min_size=4, max_size=4), min_size=1, max_size=7), st.floats(0, 10))
def test_the_winner_pays_no_more_than_she_bid_and_no_less_than_any_other(
    rows: list[list[float]], reserve: float
) -> None:
    bids = np.array(rows)
    winner, paid = second_price(bids, reserve)
    for row, (who, price) in enumerate(zip(winner, paid, strict=True)):
        if who >= 0:
            assert reserve <= price <= bids[row, who]
            assert price >= np.delete(bids[row], who).max()
        else:
            assert price == 0
            assert bids[row].max() < reserve or bids[row].max() == 0


def test_the_market_drifts_as_it_was_told() -> None:
    market = Market(periods=48, impressions=200_000)
    usual = simulate_auctions(market, 1)
    today = simulate_auctions(replace(market, price_drift=0.6, value_drift=-0.3, shown_last=0.5), 1)
    late = usual.period >= 36
    # the last quarter lies at 7/8 of the drift; equal seeds draw equal impressions
    assert np.log(today.price[late] / usual.price[late]).mean() == pytest.approx(0.6 * 7 / 8, abs=0.01)
    assert np.log(today.value[late] / usual.value[late]).mean() == pytest.approx(-0.3 * 7 / 8, abs=0.01)
    assert today.shown[late].mean() == pytest.approx(1 - 0.5 * 7 / 8, abs=0.01)
    assert usual.shown.all()
    assert (np.diff(usual.period) >= 0).all()
    assert usual.price.min() >= market.reserve
    assert len(usual) == pytest.approx(200_000, rel=0.02)


def test_the_price_is_that_of_an_auction_among_all_rivals() -> None:
    # with one rival the price is her bid, with more the highest of theirs: it can only rise
    few = simulate_auctions(Market(periods=12, impressions=30_000, rivals=1), 5)
    many = simulate_auctions(Market(periods=12, impressions=30_000, rivals=6), 5)
    assert np.log(many.price).mean() > np.log(few.price).mean() + 0.3


def test_bad_bids_and_markets_are_named() -> None:
    with pytest.raises(InputError, match="bidder 1 for impression 0 is -1"):
        second_price(np.array([[1.0, -1.0]]))
    with pytest.raises(InputError, match="bidder 0 for impression 0 is nan"):
        second_price(np.array([[np.nan, 1.0]]))
    with pytest.raises(InputError, match="at least one bidder"):
        second_price(np.empty((3, 0)))
    with pytest.raises(InputError, match="reserve price must be 0 or more, got -1"):
        second_price(np.ones((1, 2)), -1.0)
    with pytest.raises(InputError, match=r"rivals.*at least 1, got 0"):
        Market(rivals=0)
    with pytest.raises(InputError, match=r"shown_last.*from 0 to 1, got 1.5"):
        Market(shown_last=1.5)
    with pytest.raises(InputError, match="price_drift of a market must be finite, got nan"):
        Market(price_drift=float("nan"))
