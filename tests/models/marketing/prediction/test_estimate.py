"""An estimate's interval is its value and so many errors to either side."""

import pytest
from scipy.stats import norm

from models.marketing.prediction.estimate import NORMAL, Estimate


def test_the_interval_is_that_of_the_normal_law() -> None:
    assert pytest.approx(norm.ppf(0.975), rel=1e-15) == NORMAL
    one = Estimate(value=-3.0, error=0.5)
    assert (one.low, one.high) == pytest.approx(norm.interval(0.95, -3.0, 0.5))
