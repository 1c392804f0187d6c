import numpy as np
import pytest
import xarray as xr

from models.climate.datasets.precipitation.baseline import LEADS, _Rain, baseline, climatology
from models.climate.generator import precipitation as world
from models.common.errors import InputError
from tests.models.climate.datasets.precipitation.worlds import WORLD

START = np.datetime64("2018-11-01")


def rain(values: np.ndarray, start: np.datetime64 = START) -> dict[str, xr.Dataset]:
    days = (start + np.arange(len(values))).astype(int)
    years = (start + np.arange(len(values))).astype("datetime64[Y]").astype(int) + 1970
    rows, columns = values.shape[1:]
    return {
        "precipitation": xr.Dataset(
            {"precipitation": (("time", "latitude", "longitude"), values.astype(np.float32))},
            {
                "time": ("time", days),
                "split": ("time", np.where(years <= 2018, 1, 2)),
                "latitude": ("latitude", 90 - (np.arange(rows) + 0.5) * 180 / rows),
                "longitude": ("longitude", np.arange(columns) * 360 / columns),
            },
        )
    }


def test_rain_of_independent_days_has_the_errors_that_its_variance_tells() -> None:
    # squares of a normal variable of mean 0: mean 1, variance 2; persistence differs by two independent days
    values = np.random.default_rng(0).normal(size=(250, 36, 20)) ** 2
    found = baseline(rain(values))
    for lead in (1, 14, 28):
        # the mean of 61 training days adds 2 / 61 to the climatology's error
        assert found[f"climatology_mse_{lead}d"] == pytest.approx(2 * (1 + 1 / 61), rel=0.03)
        assert found[f"persistence_mse_{lead}d"] == pytest.approx(4.0, rel=0.03)
        assert found[f"persistence_correlation_{lead}d"] == pytest.approx(0.0, abs=0.02)
        for score in ("climatology_mse", "persistence_mse", "persistence_correlation"):
            key = f"{score}_{lead}d"
            assert found[f"{key}_low"] < found[key] < found[f"{key}_high"]
    assert found["forecasts"] == 250 - 61 - LEADS + 1
    assert (found["training_days"], found["harmonics"]) == (61, 0)


def test_rain_that_never_changes_is_foretold_exactly() -> None:
    field = np.random.default_rng(1).gamma(1, 3, (12, 8))
    found = baseline(rain(np.broadcast_to(field, (120, 12, 8))))
    for rule in ("climatology", "persistence"):
        for lead in (1, 28):
            assert found[f"{rule}_mse_{lead}d"] == pytest.approx(0, abs=1e-9)
            assert found[f"{rule}_bias_{lead}d"] == pytest.approx(0, abs=1e-6)
            assert found[f"{rule}_correlation_{lead}d"] == pytest.approx(1, abs=1e-9)


def test_a_yearly_course_is_learned_from_whole_years() -> None:
    start = np.datetime64("2016-01-01")
    days = np.arange(4 * 365)
    season = 5 + 3 * np.cos(2 * np.pi * ((start + days).astype(int)) / 365.2425 - 1)
    found = baseline(rain(np.broadcast_to(season[:, None, None], (len(days), 6, 4)), start))
    assert found["harmonics"] == 3
    assert found["climatology_mse_28d"] == pytest.approx(0, abs=1e-6)
    assert found["persistence_mse_28d"] > 0.1


def test_a_climatology_is_fitted_to_the_days_on_which_a_cell_has_a_value() -> None:
    start, rng = np.datetime64("2016-01-01"), np.random.default_rng(5)
    values = rng.gamma(1, 3, (800, 6, 3)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[5:, 3, 1] = np.nan  # a cell with too few days
    got, harmonics = climatology(_Rain.of(rain(values, start)["precipitation"]))
    assert harmonics == 3
    angle = 2 * np.pi * (start + np.arange(800)).astype(int) / 365.2425
    waves = np.stack([np.ones(800), *(f(k * angle) for k in (1, 2, 3) for f in (np.cos, np.sin))], 1)
    inside = values[:, 1:5]  # within 60 degrees
    for row, column in np.ndindex(4, 3):
        known = np.isfinite(inside[:, row, column])
        if (row, column) == (2, 1):
            assert np.isnan(got[:, row, column]).all()
            continue
        want = np.linalg.lstsq(waves[known], inside[known, row, column].astype(float), rcond=None)[0]
        assert np.allclose(got[:, row, column], want, atol=1e-9)


def test_scores_are_weighted_by_area_within_sixty_degrees_and_leave_out_what_is_missing() -> None:
    values = np.zeros((100, 18, 4))
    values[61:, 5] = 2.0  # one band of ten degrees, 30 to 40 north, rains in the test days alone
    values[61:, :3] = 99.0  # beyond 60 degrees nothing counts
    values[70:80, 9] = np.nan
    found = baseline(rain(values))
    band = (np.sin(np.radians(40)) - np.sin(np.radians(30))) / (2 * np.sin(np.radians(60)))
    dry = (np.sin(np.radians(0)) - np.sin(np.radians(-10))) / (2 * np.sin(np.radians(60)))
    assert found["climatology_bias_28d"] == pytest.approx(-2 * band, rel=1e-6)  # days 88 and later: all is known
    assert -2 * band / (1 - dry) < found["climatology_bias_14d"] < -2 * band
    assert found["climatology_mse_28d"] == pytest.approx(4 * band, rel=1e-6)


def test_a_generated_world_is_persistent_for_days_and_no_longer() -> None:
    days = [np.datetime64("2018-12-01") + number for number in range(120)]
    values = np.stack([world.rain_of(WORLD, day.astype(object))[::-1] for day in days])
    found = baseline(rain(values, days[0]))
    assert found["persistence_correlation_1d_low"] > found["persistence_correlation_28d_high"]
    # no forecast from the past can correlate better than the world allows
    assert found["persistence_correlation_1d"] < WORLD.predictable(1)
    assert found["climatology_mse_28d"] < found["persistence_mse_28d"]


def test_too_few_days_are_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match="no 8 days with 28 days of testing after them"):
        baseline(rain(np.ones((80, 6, 4))))
    with pytest.raises(InputError, match="no day of the years to train on"):
        baseline(rain(np.ones((80, 6, 4)), np.datetime64("2019-02-01")))
    with pytest.raises(InputError, match="no group of rain to score"):
        baseline({})


def test_the_same_seed_gives_the_same_intervals() -> None:
    values = np.random.default_rng(2).gamma(1, 3, (130, 6, 4))
    assert baseline(rain(values), 1) == baseline(rain(values), 1)
    assert baseline(rain(values), 1) != baseline(rain(values), 2)
