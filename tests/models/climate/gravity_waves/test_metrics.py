"""Metrics of fluxes against brute force and analytic cases, whole and in pieces."""

import itertools
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.climate.geometry import Grid, gaussian_grid, regular_grid
from models.climate.gravity_waves import metrics

LEVELS, ROWS, COLUMNS = 3, 7, 10
CHANNELS = 2 * LEVELS
GRID = gaussian_grid(ROWS, COLUMNS)
AREA = GRID.area_weights
SCALE = np.array([1.0, 2.0, 0.5, 3.0, 1.5, 0.7])


def hours(count: int, seed: int = 0, grid: Grid = GRID) -> tuple[np.ndarray, np.ndarray]:
    """Truth and a prediction that has to do with it."""
    random = np.random.default_rng(seed)
    truth = random.standard_normal((count, CHANNELS, *grid.shape)) * SCALE[:, None, None] + 0.3
    prediction = 0.6 * truth + 0.5 * random.standard_normal(truth.shape)
    return truth.astype(np.float32), prediction.astype(np.float32)


def weighted(values: np.ndarray) -> np.ndarray:
    """Mean over hours and area of every channel, written out."""
    total = np.zeros(values.shape[1])
    for hour in values.astype(np.float64):
        for row in range(values.shape[2]):
            for column in range(values.shape[3]):
                total += AREA[row, column] * hour[:, row, column]
    return total / len(values)


def test_errors_correlation_and_r2_are_those_written_out() -> None:
    truth, prediction = (one.astype(np.float64) for one in hours(4))
    found = metrics.agreement(truth, prediction, AREA)
    np.testing.assert_allclose(found.mse, weighted((prediction - truth) ** 2), rtol=1e-12)
    np.testing.assert_allclose(found.published, ((prediction - truth) ** 2).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.bias, weighted(prediction - truth), atol=1e-14)
    a = truth - weighted(truth)[:, None, None]
    b = prediction - weighted(prediction)[:, None, None]
    np.testing.assert_allclose(
        found.correlation, weighted(a * b) / np.sqrt(weighted(a * a) * weighted(b * b)), rtol=1e-12
    )
    np.testing.assert_allclose(found.r2, 1 - weighted((prediction - truth) ** 2) / weighted(a * a), rtol=1e-12)
    pooled = weighted(a * b).sum() / math.sqrt(weighted(a * a).sum() * weighted(b * b).sum())
    assert found.pooled_correlation == pytest.approx(pooled, rel=1e-12)
    assert found.slope == pytest.approx(weighted(a * b).sum() / weighted(b * b).sum(), rel=1e-12)


def test_area_counts_in_the_mse_and_not_in_the_published_one() -> None:
    truth = np.zeros((1, 1, *GRID.shape))
    prediction = truth.copy()
    prediction[0, 0, 0] = 1.0  # a row at the pole
    found = metrics.agreement(truth, prediction, AREA)
    assert found.mse[0] == pytest.approx(GRID.row_weights[0], rel=1e-12)
    assert found.published[0] == pytest.approx(1 / ROWS, rel=1e-12)


def test_the_mean_has_an_error_of_one_and_no_correlation() -> None:
    truth, _ = hours(50)
    mean, deviation = truth.mean((0, 2, 3), np.float64), truth.std((0, 2, 3), dtype=np.float64)
    z = metrics.standardised(truth, mean, deviation)
    found = metrics.agreement(z, np.zeros_like(z), AREA)
    np.testing.assert_allclose(found.published, 1.0, rtol=1e-9)
    assert np.isnan(found.correlation).all() and math.isnan(found.slope)
    with pytest.raises(ValueError, match=r"channel 2 has the deviation 0\.0"):
        metrics.standardised(truth, mean, deviation * [1, 1, 0, 1, 1, 1])


def all_sums(truth: np.ndarray, prediction: np.ndarray) -> list[metrics.Sums]:
    z = [metrics.standardised(one, np.zeros(CHANNELS), SCALE) for one in (truth, prediction)]
    return [
        metrics.agreement(*z, AREA),
        metrics.change(*z),
        metrics.size(truth, prediction, AREA, SCALE),
        metrics.histogram(truth, prediction, AREA, SCALE),
        metrics.spectra(truth, prediction, metrics.band_weights(GRID)),
    ]


@given(cuts=st.lists(st.integers(0, 9), max_size=4), turned=st.booleans())
@settings(max_examples=15, deadline=None)
def test_hours_in_pieces_give_the_sums_of_all_hours(cuts: list[int], turned: bool) -> None:
    truth, prediction = hours(9)
    ends = sorted({0, 9, *cuts})
    pieces = [all_sums(truth[a:b], prediction[a:b]) for a, b in itertools.pairwise(ends)]
    if turned:
        pieces.reverse()
    for number, whole in enumerate(all_sums(truth, prediction)):
        total: Any = pieces[0][number]
        for piece in pieces[1:]:
            total = total + piece[number]
        for one in fields(whole):
            np.testing.assert_allclose(getattr(total, one.name), getattr(whole, one.name), rtol=1e-11, atol=1e-13)


def test_departures_from_each_cells_mean_are_correlated_as_written_out() -> None:
    truth, prediction = (one.astype(np.float64) for one in hours(6))
    a, b = truth - truth.mean(0), prediction - prediction.mean(0)
    expected = (a * b * AREA).sum() / math.sqrt((a * a * AREA).sum() * (b * b * AREA).sum())
    assert metrics.change(truth, prediction).correlation(AREA) == pytest.approx(expected, rel=1e-9)


def test_a_climatology_has_no_correlation_of_departures() -> None:
    truth, _ = hours(8)
    climate = np.broadcast_to(truth.mean(0), truth.shape)
    assert metrics.agreement(truth, climate, AREA).pooled_correlation > 0.2
    assert math.isnan(metrics.change(truth.astype(np.float64), climate.astype(np.float64)).correlation(AREA))


def test_signs_are_counted_where_the_flux_is_strong() -> None:
    truth, prediction = hours(5)
    found = metrics.size(truth, prediction, AREA, SCALE)
    strong = np.abs(truth) >= SCALE[:, None, None]
    right = strong & (truth * prediction > 0)
    assert found.sign_right == pytest.approx((right * AREA).sum() / (strong * AREA).sum(), rel=1e-12)
    ratio = (weighted(np.abs(prediction)) / SCALE).sum() / (weighted(np.abs(truth)) / SCALE).sum()
    assert found.magnitude_ratio(SCALE) == pytest.approx(ratio, rel=1e-6)
    flipped = metrics.size(truth, -prediction, AREA, SCALE)
    assert flipped.sign_right == pytest.approx(1 - found.sign_right, rel=1e-12)


def test_histograms_are_those_of_numpy_with_symmetric_bins() -> None:
    truth, prediction = hours(3)
    truth[0, 0, 0, :3] = (1e9, -1e9, 0.0)  # beyond the outermost edges, and in the middle
    found = metrics.histogram(truth, prediction, AREA, SCALE)
    np.testing.assert_array_equal(metrics.EDGES, -metrics.EDGES[::-1])
    ends = np.concatenate([[-np.inf], metrics.EDGES, [np.inf]])
    for channel in range(CHANNELS):
        scaled = truth[:, channel].astype(np.float64) / SCALE[channel]
        expected, _ = np.histogram(scaled, ends, weights=np.broadcast_to(AREA, scaled.shape))
        np.testing.assert_allclose(found.truth[channel], expected, atol=1e-14)
    np.testing.assert_allclose(found.truth.sum(1), 3.0, rtol=1e-12)


def test_hellinger_is_zero_for_equal_one_for_separate_and_known_between() -> None:
    def of(p: list[float], q: list[float]) -> float:
        return float(metrics.Histogram(hours=1, truth=np.array([p]), prediction=np.array([q])).hellinger[0])

    assert of([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]) == 0.0
    assert of([0.5, 0.5, 0.0], [0.0, 0.0, 1.0]) == pytest.approx(1.0, abs=1e-15)
    p, q = [0.1, 0.6, 0.3], [0.4, 0.4, 0.2]
    by_definition = math.sqrt(1 - sum(math.sqrt(a * b) for a, b in zip(p, q, strict=True)))
    assert of(p, q) == pytest.approx(by_definition, rel=1e-12)
    assert of([10 * one for one in p], q) == pytest.approx(by_definition, rel=1e-12)


@pytest.mark.parametrize("columns", [10, 9])
def test_spectra_keep_the_mean_square(columns: int) -> None:
    grid = gaussian_grid(ROWS, columns)
    truth, prediction = hours(2, grid=grid)
    bands = metrics.band_weights(grid)
    found = metrics.spectra(truth, prediction, bands)
    for name, values in (("truth", truth), ("error", prediction - truth)):
        square = np.einsum("zi,noi->zo", bands, np.square(values.astype(np.float64)).mean(3))
        np.testing.assert_allclose(getattr(found, name).sum(2), square, rtol=1e-6)


def test_a_wave_stands_at_its_wavenumber_in_its_band() -> None:
    grid = gaussian_grid(32, 64)
    wave = np.zeros((1, 2, *grid.shape))
    tropics = np.abs(grid.latitudes) < 15
    wave[0, 1, tropics] = 3 * np.cos(np.radians(5 * grid.longitudes))
    found = metrics.spectra(wave, 0 * wave, metrics.band_weights(grid))
    power = found.truth[:, 1]
    assert np.unravel_index(power.argmax(), power.shape) == (2, 5)
    others = np.delete(power, 5, axis=1)
    assert others.max() < 1e-25, "nothing leaks to other wavenumbers"
    assert 0.7 * 4.5 < power[2, 5] < 4.5, "half the squared amplitude, times the part of the band that has it"
    assert found.short_power_ratio() == 0.0


@pytest.mark.parametrize("grid", [gaussian_grid(64, 128), regular_grid(19, 36), gaussian_grid(8, 16)])
def test_bands_cover_the_sphere_once(grid: Grid) -> None:
    bands = metrics.band_weights(grid)
    share = [(np.sin(np.radians(b)) - np.sin(np.radians(a))) / 2 for _, a, b in metrics.BANDS]
    np.testing.assert_allclose(share @ bands, grid.row_weights, atol=1e-12)


def test_regions_are_the_published_boxes_on_their_own_grid() -> None:
    grid = gaussian_grid(64, 128)
    weights = metrics.region_weights(grid)
    # dataloader_definition.py of amangupta2/nonlocal_gwfluxes: y1, y2, x1, x2
    boxes = [
        (3, 21, 96, 113), (45, 58, 0, 12), (41, 54, 26, 44), (47, 58, 103, 119),
        (8, 17, 10, 25), (33, 42, 32, 49), (31, 44, 112, 124), (27, 47, 67, 87),
    ]  # fmt: skip
    assert [one.name for one in metrics.REGIONS][:2] == ["andes", "scandinavia"]
    for weight, (y1, y2, x1, x2) in zip(weights, boxes, strict=True):
        inside = np.zeros(grid.shape, bool)
        inside[y1:y2, x1:x2] = True
        assert ((weight > 0) == inside).all()
        expected = np.where(inside, grid.area_weights, 0)
        np.testing.assert_allclose(weight, expected / expected.sum(), rtol=1e-9)


@pytest.mark.parametrize(
    "grid", [gaussian_grid(16, 32), regular_grid(91, 180, first_longitude=-180.0), regular_grid(37, 72, poles=False)]
)
def test_regions_are_the_same_places_on_any_grid(grid: Grid) -> None:
    own, field = gaussian_grid(64, 128), []
    for one in (own, grid):
        lat, lon = np.radians(one.latitudes)[:, None], np.radians(one.longitudes)[None, :]
        field.append((np.sin(lat) + 0.5 * np.cos(lat) * np.cos(lon - 0.4))[None, None])
    a, b = (
        metrics.weighted_means(values, metrics.region_weights(one))
        for values, one in zip(field, (own, grid), strict=True)
    )
    np.testing.assert_allclose(a, b, atol=0.04)
    with pytest.raises(ValueError, match="whole sphere"):
        metrics.region_weights(
            Grid(
                kind="regional",
                latitudes=np.array([0.0, 1.0]),
                longitudes=np.array([0.0, 1.0]),
                latitude_bounds=np.array([-0.5, 0.5, 1.5]),
                longitude_bounds=np.array([-0.5, 0.5, 1.5]),
            )
        )


def test_regional_series_join_in_the_order_of_time() -> None:
    truth, prediction = hours(6)
    time = np.datetime64("2015-03-01T00", "m") + np.arange(6) * np.timedelta64(60, "m")
    weights = metrics.region_weights(GRID)
    whole = metrics.regional(time, truth, prediction, weights)
    late = metrics.regional(time[4:], truth[4:], prediction[4:], weights)
    early = metrics.regional(time[:4], truth[:4], prediction[:4], weights)
    joined = late + early
    by_hour = [metrics.regional(time[at : at + 1], truth[[at]], prediction[[at]], weights) for at in (3, 0, 5, 1, 4, 2)]
    np.testing.assert_array_equal(metrics.RegionalSeries.joined(by_hour).truth, joined.truth)
    assert len(joined.none.time) == len(joined.none.truth) == 0
    np.testing.assert_array_equal(joined.time, time)
    np.testing.assert_allclose(joined.truth, whole.truth, rtol=1e-12)
    assert whole.truth.shape == (6, CHANNELS, 8)
    andes = (truth[2, 1] * weights[0]).sum()
    assert whole.truth[2, 1, 0] == pytest.approx(andes, rel=1e-6)
    expected = np.corrcoef(whole.truth[:, 3, 5], whole.prediction[:, 3, 5])[0, 1]
    assert whole.correlation[3, 5] == pytest.approx(expected, rel=1e-9)


def test_forces_on_layers_sum_to_the_drag_of_the_column_exactly() -> None:
    truth, _ = hours(2)
    force = metrics.layer_force(truth).reshape(2, 2, LEVELS - 1, *GRID.shape)
    drag = metrics.column_drag(truth)
    summed = np.vectorize(lambda *layers: math.fsum(layers))(*(force[:, :, layer] for layer in range(LEVELS - 1)))
    assert (summed == drag).all()
    pressure = np.array([100.0, 3000.0, 100_000.0])
    speedup = metrics.acceleration(truth, pressure).reshape(force.shape)
    mass = np.diff(pressure) / metrics.GRAVITY
    again = (speedup / metrics.DAY * mass[:, None, None]).sum(2)
    np.testing.assert_allclose(again, drag, rtol=1e-9, atol=1e-12)


def test_waves_that_break_push_the_air_their_own_way() -> None:
    # Eastward momentum of 1 mPa goes up from the ground; half of it is left between the lower two of three levels.
    flux = np.zeros((1, 6, 1, 1))
    flux[0, :3, 0, 0] = (0.0005, 0.0005, 0.001)
    speedup = metrics.acceleration(flux, np.array([1e3, 2e4, 1e5]))[0, :, 0, 0]
    np.testing.assert_allclose(speedup, [0, 9.81 * 0.0005 / 8e4 * 86_400, 0, 0], rtol=1e-12)
    assert metrics.column_drag(flux)[0, :, 0, 0] == pytest.approx([0.0005, 0.0])


def yardstick() -> metrics.Yardstick:
    return metrics.Yardstick(
        grid=GRID, pressure=np.array([100.0, 3000.0, 100_000.0]), mean=np.full(CHANNELS, 0.1), deviation=SCALE
    )


def test_all_scores_of_pieces_add_to_those_of_the_whole() -> None:
    truth, prediction = hours(6)
    time = np.datetime64("2015-03-01T00", "m") + np.arange(6) * np.timedelta64(60, "m")
    measure = yardstick()
    whole = measure(time, truth, prediction)
    later, earlier = measure(time[4:], truth[4:], prediction[4:]), measure(time[:4], truth[:4], prediction[:4])
    both = later + earlier
    assert both.hours == whole.hours == 6
    np.testing.assert_allclose(both.agreement.mse, whole.agreement.mse, rtol=1e-12)
    np.testing.assert_allclose(both.histogram.hellinger, whole.histogram.hellinger, rtol=1e-9)
    np.testing.assert_allclose(both.regions.prediction, whole.regions.prediction, rtol=1e-12)
    assert both.drag.pooled_correlation == pytest.approx(whole.drag.pooled_correlation, rel=1e-12)
    assert both.change.correlation(measure.area) == pytest.approx(whole.change.correlation(measure.area), rel=1e-12)


def test_errors_hour_by_hour_are_those_of_all_hours() -> None:
    truth, prediction = hours(5)
    measure = yardstick()
    by_hour = measure.squared_errors(truth, prediction)
    assert by_hour.mean() == pytest.approx(measure.errors(truth, prediction).mse.mean(), rel=1e-12)
    plain = measure.squared_errors(truth, np.broadcast_to(measure.mean[:, None, None], truth.shape))
    z = metrics.standardised(truth, measure.mean, measure.deviation)
    np.testing.assert_allclose(plain, (z**2 * AREA).sum((2, 3)).mean(1), rtol=1e-12)
    np.testing.assert_allclose(measure.scale, np.hypot(0.1, SCALE))


def test_some_channels_have_the_errors_that_they_have_among_all() -> None:
    truth, prediction = hours(4)
    found = yardstick().errors(truth, prediction)
    part = found.of(slice(LEVELS, None))
    np.testing.assert_array_equal(part.mse, found.mse[LEVELS:])
    assert part.hours == 4
    assert part.pooled_r2 == pytest.approx(1 - part.mse.sum() / found.truth_variance[LEVELS:].sum(), rel=1e-12)


def test_the_interval_of_a_ratio_covers_it_about_as_often_as_it_says() -> None:
    random, covered = np.random.default_rng(5), 0
    for _ in range(400):
        block = np.repeat(np.arange(8), 6)
        below = 1 + 0.3 * np.repeat(random.standard_normal(8), 6) ** 2
        above = 0.7 * below + 0.1 * np.repeat(random.standard_normal(8), 6)
        found = metrics.ratio_interval(above, below, block, confidence=0.9)
        covered += found.low <= 0.7 <= found.high
    assert 0.85 < covered / 400 < 0.95


def test_the_interval_of_a_mean_is_students() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found = metrics.ratio_interval(values, np.ones(4), np.arange(4), confidence=0.95)
    half = 3.182446 * values.std(ddof=1) / 2  # t of 3 degrees of freedom at 0.975, any table
    assert (found.value, found.low, found.high) == pytest.approx((4.0, 4 - half, 4 + half), rel=1e-6)
    alone = metrics.ratio_interval(values, np.ones(4), np.zeros(4, np.int64), confidence=0.95)
    assert (alone.low, alone.high, alone.blocks) == (-np.inf, np.inf, 1)


def test_blocks_are_months_where_there_are_four_of_them() -> None:
    year = np.datetime64("2015-01-01T00", "h") + np.arange(0, 8760, 50) * np.timedelta64(1, "h")
    months, word = metrics.blocks_of(year)
    assert (len(np.unique(months)), word) == (12, "months")
    few, word = metrics.blocks_of(year[year < np.datetime64("2015-02-01")])
    assert word == "windows of 10 days" and len(np.unique(few)) in (4, 5)


def test_intervals_over_two_months_bear_weather_that_lasts() -> None:
    random, covered, kept = np.random.default_rng(7), 0, 0.8
    time = np.datetime64("2015-01-01", "s") + np.arange(60) * np.timedelta64(86_400, "s")
    block, _ = metrics.blocks_of(time)
    for _ in range(500):
        weather = np.empty((60, 2))
        weather[0] = random.standard_normal(2)
        for day in range(1, 60):
            weather[day] = kept * weather[day - 1] + np.sqrt(1 - kept**2) * random.standard_normal(2)
        below, ratio = np.exp(0.3 * weather[:, 0]), 0.6 * np.exp(0.3 * weather[:, 1] - 0.045)
        found = metrics.ratio_interval(below * ratio, below, block, confidence=0.95)
        covered += found.low <= 0.6 <= found.high
    assert covered / 500 > 0.79
