import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.climate.gravity_waves.fields import FluxFields
from models.climate.gravity_waves.statistics import Statistics
from models.common.errors import InputError
from tests.models.climate.gravity_waves.hours import hand_written, stored

NAMES = ("feature_mean", "feature_deviation", "flux_mean", "flux_deviation")


def test_statistics_are_those_of_the_hours_of_training_alone() -> None:
    dataset = hand_written(9)
    for name in ("u", "uw"):  # nobody may look at the others: they cannot even be read
        dataset[name][[0, 3, 8]] = np.nan
    fields = FluxFields(dataset)
    rows = np.array([7, 1, 2, 4, 5, 6])
    found = Statistics.of(fields, rows)
    features, fluxes = fields.read(rows)
    assert fluxes is not None
    assert found.hours == 6
    wide, told = features.astype(np.float64), fluxes.astype(np.float64)
    np.testing.assert_allclose(found.feature_mean[2:], wide[:, 2:].mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(found.feature_deviation[2:], wide[:, 2:].std((0, 2, 3)), rtol=1e-11)
    np.testing.assert_allclose(found.flux_mean, told.mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(found.flux_deviation, told.std((0, 2, 3)), rtol=1e-11)


def test_there_is_one_mean_and_deviation_for_each_variable_and_level_and_position_is_not_centred() -> None:
    found = Statistics.of(FluxFields(hand_written(levels=4)), np.arange(5))
    assert found.feature_mean.shape == found.feature_deviation.shape == (19,)
    assert found.flux_mean.shape == found.flux_deviation.shape == (8,)
    assert found.feature_mean[:2].tolist() == [0, 0]
    assert found.feature_deviation[:2].tolist() == [90, 360]


def test_a_channel_that_never_changes_has_no_deviation() -> None:
    dataset = hand_written()
    dataset["u"][:, 1] = 0.1  # whose float sums would not be exact
    dataset["vw"][:, 0] = -0.3
    found = Statistics.of(FluxFields(dataset), np.arange(5))
    assert found.feature_deviation[4] == 0 and found.flux_deviation[3] == 0
    assert found.feature_mean[4] == np.float32(0.1) and found.flux_mean[3] == np.float32(-0.3)


@pytest.mark.parametrize(
    ("chunks", "threads"), [({"time": 1, "level": 1}, 1), ({"time": 1}, 3), ({"time": 2, "level": 3}, 40)]
)
def test_neither_order_nor_storage_of_hours_nor_threads_change_a_bit(
    chunks: dict[str, int], threads: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    dataset = hand_written(11)
    for name in ("u", "v", "w", "uw", "vw"):
        dataset[name][:] = rng.normal(0, 10.0 ** rng.integers(-8, 1, (11, 1, 1, 1)), dataset[name].shape)
    wanted = Statistics.of(FluxFields(dataset), np.arange(11), threads=1)
    fields = FluxFields.of(stored(dataset, tmp_path, chunks=chunks, shards={"time": 4, "level": 3}))
    found = Statistics.of(fields, rng.permutation(11), threads=threads)
    for name in NAMES:
        assert getattr(found, name).tobytes() == getattr(wanted, name).tobytes()


def test_memory_does_not_grow_with_the_hours(tmp_path: Path) -> None:
    dataset = hand_written(1, rows=16, columns=32).isel(time=[0] * 60)
    dataset = dataset.assign_coords(time=("time", 60 * np.arange(60), {"units": "minutes since 1970-01-01"}))
    fields = FluxFields.of(stored(dataset, tmp_path, chunks={"time": 1}, shards={"time": 8}))
    hour = 4 * (fields.features + fields.outputs) * 16 * 32

    def largest(rows: int) -> int:
        tracemalloc.start()
        Statistics.of(fields, np.arange(rows), threads=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    largest(2)
    assert largest(60) - largest(6) < 4 * hour < (60 - 6) * hour / 10


def test_an_hour_that_cannot_be_used_ends_the_reading_of_the_rest() -> None:
    class Counted(FluxFields):
        count = 0

        def read_into(self, row: int, features_FIJ: Any, fluxes_OIJ: Any) -> None:
            type(self).count += 1
            if row == 5:
                raise InputError("hour 5 is damaged")
            super().read_into(row, features_FIJ, fluxes_OIJ)

    dataset = hand_written(1, rows=2, columns=2).isel(time=[0] * 500)
    dataset = dataset.assign_coords(time=("time", 60 * np.arange(500), {"units": "minutes since 1970-01-01"}))
    with pytest.raises(InputError, match="hour 5 is damaged"):
        Statistics.of(Counted(dataset), np.arange(500), threads=2)
    assert Counted.count < 250


def test_no_hours_and_no_fluxes_are_refused() -> None:
    with pytest.raises(InputError, match="statistics need at least one hour of training, got none"):
        Statistics.of(FluxFields(hand_written()), np.array([], np.int64))
    with pytest.raises(InputError, match="has no uw and vw to learn from"):
        Statistics.of(FluxFields(hand_written().drop_vars(["uw", "vw"])), np.arange(5))
