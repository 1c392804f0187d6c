import gc
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.apply_func import move_data_to_device

from models.climate.gravity_waves.batches import HourBatches
from models.climate.gravity_waves.fields import FluxFields
from models.common.errors import InputError
from tests.models.climate.gravity_waves.hours import files_of, hand_written, stored


class Watched(FluxFields):
    """Counts the hours that are read, and can hold readers back."""

    def __init__(self, hours: int = 40, **how: Any) -> None:
        super().__init__(hand_written(hours, **how))
        self.read_hours: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def read_into(self, row: int, features_FIJ: Any, fluxes_OIJ: Any) -> None:
        self.open.wait(10)
        self.read_hours.append(row)
        super().read_into(row, features_FIJ, fluxes_OIJ)


def _readers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("hours")]


def _gone(seconds: float = 5.0) -> bool:
    """Whether all readers end soon."""
    gc.collect()
    until = time.monotonic() + seconds
    while _readers() and time.monotonic() < until:
        time.sleep(0.01)
    return not _readers()


def test_a_batch_has_the_values_of_its_hours() -> None:
    fields = FluxFields(hand_written(11))
    for batch in HourBatches(fields, np.arange(2, 11), batch_size=4, seed=3).epoch(1):
        features, fluxes = fields.read(batch.rows)
        assert fluxes is not None
        assert len(batch) == 4 and batch.features.dtype == batch.fluxes.dtype == torch.float32
        assert torch.equal(batch.features, torch.from_numpy(features))
        assert torch.equal(batch.fluxes, torch.from_numpy(fluxes))
        unpacked = tuple(batch)
        assert unpacked[0] is batch.features and unpacked[1] is batch.fluxes


def test_the_trainer_moves_a_batch_as_features_and_fluxes() -> None:
    batch = next(HourBatches(FluxFields(hand_written(8)), np.arange(8), batch_size=4, seed=0).epoch(0))
    moved = move_data_to_device(batch, torch.device("cpu"))
    assert isinstance(moved, tuple)
    assert torch.equal(moved[0], batch.features) and torch.equal(moved[1], batch.fluxes)


@settings(deadline=None)
@given(
    rows=st.lists(st.integers(0, 199), min_size=1, max_size=120, unique=True),
    share=st.integers(1, 9),
    processes=st.integers(1, 4),
    days=st.integers(1, 40),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_processes_share_the_batches_of_one_among_them(
    rows: list[int], share: int, processes: int, days: int, seed: int, epoch: int
) -> None:
    fields = _SHARED
    size = share * processes
    if len(rows) < size:
        with pytest.raises(InputError, match=f"a batch has {size} hours, and there are {len(rows)} to learn from"):
            HourBatches(fields, np.array(rows), batch_size=size, seed=seed)
        return
    alone = HourBatches(fields, np.array(rows), batch_size=size, seed=seed, days=days)
    whole = [batch.rows.tolist() for batch in alone.epoch(epoch)]
    ranks = [
        HourBatches(fields, np.array(rows), batch_size=size, seed=seed, days=days, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    shares = [[batch.rows.tolist() for batch in one.epoch(epoch)] for one in ranks]
    assert len(alone) == len(whole) == len(rows) // size
    assert all(len(one) == len(found) == len(whole) for one, found in zip(ranks, shares, strict=True))
    for number, batch in enumerate(whole):
        parts = [one[number] for one in shares]
        assert [len(part) for part in parts] == [share] * processes
        assert [row for part in parts for row in part] == batch
    seen = [row for batch in whole for row in batch]
    assert len(set(seen)) == len(seen) and set(seen) <= set(rows)
    assert sorted(alone.order(epoch).tolist()) == sorted(rows)


_SHARED = FluxFields(hand_written(200, levels=1, rows=2, columns=2))


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    fields = FluxFields(hand_written(60, levels=1, rows=2, columns=2))

    def order(seed: int, epoch: int) -> list[int]:
        return [int(row) for row in HourBatches(fields, np.arange(60), batch_size=7, seed=seed).order(epoch)]

    torch.manual_seed(1)
    first = order(4, 2)
    torch.manual_seed(2)
    np.random.default_rng().random()
    assert order(4, 2) == first
    others = [order(4, 0), order(4, 1), order(5, 2), order(2, 4), list(range(60))]
    assert all(one != first for one in others)


def test_hours_that_a_batch_leaves_out_are_others_in_every_epoch() -> None:
    fields = FluxFields(hand_written(50, levels=1, rows=2, columns=2))
    batches = HourBatches(fields, np.arange(50), batch_size=8, seed=0)
    left = [set(range(50)) - {int(row) for batch in batches.epoch(epoch) for row in batch.rows} for epoch in range(4)]
    assert [len(one) for one in left] == [2] * 4
    assert len(set.union(*left)) > 4


def test_neighbours_in_a_batch_are_of_different_days_and_reads_stay_among_few() -> None:
    fields = FluxFields(hand_written(40 * 24, levels=1, rows=2, columns=2, apart=1))
    batches = HourBatches(fields, np.arange(960), batch_size=16, seed=0, days=10)
    days = np.array([[int(row) // 24 for row in batch.rows] for batch in batches.epoch(0)])
    # ten days of 24 hours fill fifteen batches; 16 draws among ten days meet 8.15 of them in the mean
    for window in days.reshape(4, 15, 16):
        assert len(set(window.ravel().tolist())) == 10
    distinct = np.mean([len(set(batch.tolist())) for batch in days])
    assert 7.8 < distinct < 8.6
    drawn = [set(window.ravel().tolist()) for window in days.reshape(4, 15, 16)]
    assert not set.intersection(*drawn) and len(set.union(*drawn)) == 40
    assert sorted(drawn[0]) != list(range(min(drawn[0]), min(drawn[0]) + 10))


def test_going_on_in_the_middle_reads_nothing_before_it_and_gives_the_same_bits() -> None:
    fields = Watched(44)
    batches = HourBatches(fields, np.arange(44), batch_size=4, seed=9, ahead=2)
    whole = [(batch.rows, *batch.to("cpu")) for batch in batches.epoch(5)]
    fields.read_hours.clear()
    rest = islice(batches.epoch(5), 7, None)
    resumed: list[tuple[Any, ...]] = []
    for batch in rest:
        assert not fields.read_hours or resumed
        resumed.append((batch.rows, *batch.to("cpu")))
    assert len(resumed) == 4
    for one, other in zip(resumed, whole[7:], strict=True):
        assert np.array_equal(one[0], other[0])
        assert torch.equal(one[1], other[1]) and torch.equal(one[2], other[2])
    assert sorted(fields.read_hours) == sorted(int(row) for rows, _, _ in whole[7:] for row in rows)


def test_an_epoch_that_is_only_counted_reads_nothing_and_starts_no_thread() -> None:
    fields = Watched(44)
    assert sum(1 for _ in HourBatches(fields, np.arange(44), batch_size=4, seed=9).epoch(0)) == 11
    assert not fields.read_hours and not _readers()


@pytest.mark.parametrize("ahead", [1, 3])
def test_some_batches_are_read_ahead_and_never_more(ahead: int) -> None:
    fields = Watched(44)
    batches = HourBatches(fields, np.arange(44), batch_size=4, seed=9, ahead=ahead, readers=2)
    for number, batch in enumerate(batches.epoch(0)):
        assert len(fields.read_hours) <= 4 * min(11, number + ahead)
        batch.to("cpu")
        until = time.monotonic() + 5
        while len(fields.read_hours) < 4 * min(11, number + 1 + ahead) and time.monotonic() < until:
            time.sleep(0.001)
        assert len(fields.read_hours) == 4 * min(11, number + 1 + ahead)


def test_hours_are_read_while_a_batch_is_learned_from() -> None:
    fields = Watched(12)
    reading = HourBatches(fields, np.arange(12), batch_size=4, seed=0, ahead=1).epoch(0)
    next(reading).to("cpu")
    until = time.monotonic() + 5
    while len(fields.read_hours) < 8 and time.monotonic() < until:
        time.sleep(0.001)
    fields.open.clear()  # what comes now was read before
    second = next(reading)
    assert all(not one.done() for one in _pending(second)[4:]) and all(one.done() for one in _pending(second)[:4])
    fields.open.set()
    assert second.features.shape[0] == 4


def _pending(batch: Any) -> list[Any]:
    return [one for _, _, readings in batch._reading._begun for one in readings]


@pytest.mark.parametrize("readers", [1, 5])
def test_a_reader_that_fails_fails_whoever_waits_for_its_batch_and_names_the_file(readers: int, tmp_path: Path) -> None:
    data = stored(hand_written(12), tmp_path, chunks={"time": 1}, shards={"time": 1})
    batches = HourBatches(FluxFields.of(data), np.arange(12), batch_size=3, seed=0, readers=readers)
    rows = [batch.rows.tolist() for batch in batches.epoch(0)]
    file = files_of(tmp_path, "t")[0]
    file = file.parents[3] / str(rows[2][1]) / "0/0/0"
    file.unlink()
    reading = batches.epoch(0)
    for _ in range(2):
        next(reading).to("cpu")
    third = next(reading)
    with pytest.raises(InputError, match="is missing; the dataset is damaged") as error:
        third.to("cpu")
    assert str(file) in str(error.value)
    assert next(reading).features.shape[0] == 3  # what is not damaged can still be read


def test_a_value_that_is_no_number_reaches_whoever_learns_with_its_place() -> None:
    dataset = hand_written(6)
    dataset["vw"][4, 0, 2, 1] = np.nan
    batches = HourBatches(FluxFields(dataset), np.arange(6), batch_size=6, seed=0)
    with pytest.raises(InputError, match=r"vw at 2010-01-02T04:00, level 1 from the top \(3 hPa\)"):
        tuple(next(batches.epoch(0)))


def test_an_error_that_nobody_foresaw_reaches_whoever_waits() -> None:
    class Odd(Watched):
        def read_into(self, *_: Any) -> None:
            raise MemoryError("no room for an hour")

    with pytest.raises(MemoryError, match="no room for an hour"):
        next(HourBatches(Odd(), np.arange(8), batch_size=4, seed=0).epoch(0)).to("cpu")


def test_threads_end_when_an_epoch_is_dropped() -> None:
    assert _gone()
    fields = Watched(40)
    reading = HourBatches(fields, np.arange(40), batch_size=2, seed=0, readers=3).epoch(0)
    batch = next(reading)
    batch.to("cpu")
    assert _readers()
    del reading
    assert _gone(), "the batch that was read holds no thread"
    assert batch.features.shape[0] == 2
    count = len(fields.read_hours)
    time.sleep(0.05)
    assert len(fields.read_hours) == count <= 6


def test_threads_end_with_the_epoch_and_when_its_reader_failed() -> None:
    for fields in (Watched(8), FluxFields(hand_written(8).assign(u=hand_written(8)["u"] * np.nan))):
        try:
            for batch in HourBatches(fields, np.arange(8), batch_size=4, seed=0).epoch(0):
                batch.to("cpu")
        except (InputError, KeyError):
            pass
        else:
            assert isinstance(fields, Watched)
        del batch
        assert _gone()


def test_batches_asked_for_out_of_turn_have_their_own_values() -> None:
    fields = FluxFields(hand_written(30))
    batches = list(HourBatches(fields, np.arange(30), batch_size=3, seed=0).epoch(0))
    for place in (4, 1, 9, 0, 8, 5):
        features, _ = fields.read(batches[place].rows)
        assert torch.equal(batches[place].features, torch.from_numpy(features))


def test_settings_that_cannot_be_met_are_refused() -> None:
    fields = FluxFields(hand_written(8))
    with pytest.raises(ValueError, match="batch_size 3 does not split among 2 processes"):
        HourBatches(fields, np.arange(8), batch_size=3, seed=0, processes=2)
    with pytest.raises(ValueError, match="rank must be between 0 and 1, got 2"):
        HourBatches(fields, np.arange(8), batch_size=4, seed=0, rank=2, processes=2)
    with pytest.raises(ValueError, match="days and ahead must be at least 1, readers 0, got 1, 0, 1"):
        HourBatches(fields, np.arange(8), batch_size=4, seed=0, days=1, ahead=0, readers=1)
    with pytest.raises(InputError, match="has no uw and vw to learn from"):
        HourBatches(FluxFields(hand_written(8).drop_vars(["uw", "vw"])), np.arange(8), batch_size=4, seed=0)
