"""Chance by place and time: alone or in order, the same bits; autoregressions that remember as they should."""

import numpy as np
import pytest

from models.climate.generator.chance import autoregression, stream


def test_a_stream_depends_on_its_numbers_alone_and_on_all_of_them() -> None:
    first = stream(3, 1, -5, 2).standard_normal(9)
    stream(3, 1, -5, 3).standard_normal(1000)
    np.testing.assert_array_equal(first, stream(3, 1, -5, 2).standard_normal(9))
    for other in (stream(4, 1, -5, 2), stream(3, 2, -5, 2), stream(3, 1, 5, 2), stream(3, 1, -5), stream(-3, 1, -5, 2)):
        assert np.abs(other.standard_normal(9) - first).min() > 0


def test_more_numbers_than_a_counter_holds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most three numbers .* \(1, 2, 3, 4\)"):
        stream(0, 1, 2, 3, 4)


@pytest.mark.parametrize("memory", [0.3, 4.0, 120.0])
def test_correlation_falls_by_e_within_the_memory_across_every_seam(memory: float) -> None:
    # 47 x 1000 numbers: the standard error of a correlation is below 0.005
    size, step = 47_000, max(1, round(memory / 2))
    times = [-3 * step + step * k for k in range(7)]
    series = [autoregression(5, 1, size, time, memory) for time in times]
    for one in series:
        assert abs(one.mean()) < 0.02
        assert one.var() == pytest.approx(1.0, abs=0.03)
    for k in range(1, 7):
        found = np.mean(series[0] * series[k])
        assert found == pytest.approx(np.exp(-step * k / memory), abs=0.02), k


def test_what_happens_next_needs_only_what_is_now() -> None:
    # Markov: given now, the step before tells nothing about the step after
    before, now, after = (autoregression(2, 7, 60_000, time, 6.0) for time in (1023, 1024, 1025))
    kept = np.exp(-1 / 6.0)
    assert abs(np.mean((after - kept * now) * (before - kept * now))) < 0.005


def test_kinds_and_seeds_are_independent() -> None:
    one = autoregression(0, 1, 30_000, 50, 10.0)
    assert abs(np.mean(one * autoregression(0, 2, 30_000, 50, 10.0))) < 0.03
    assert abs(np.mean(one * autoregression(1, 1, 30_000, 50, 10.0))) < 0.03
    np.testing.assert_array_equal(one, autoregression(0, 1, 30_000, 50, 10.0))
