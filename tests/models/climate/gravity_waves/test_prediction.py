"""Predictions part by part: which parts there are, on what they depend, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from infra.grids import Parts
from infra.refs import Model
from models.climate.gravity_waves.fields import FluxFields
from models.climate.gravity_waves.networks import FluxNetwork, NetworkConfig
from models.climate.gravity_waves.prediction import PREDICTED, PredictionConfig
from models.climate.gravity_waves.statistics import Statistics
from models.common.contracts import InputError
from tasks import predict
from tasks.predict import _key, _Source
from tasks.prepare import Work
from tests.models.climate.gravity_waves.hours import hand_written

HOURS = hand_written(9, rows=4, columns=8, apart=7)
"""Three days: 0, 7, 14 and 21 o'clock; 4, 11 and 18; 1 and 8."""


def payload(hours: xr.Dataset = HOURS) -> dict[str, Any]:
    return {"data": {"training": hours}}


def network(levels: int = 3, hours: xr.Dataset = HOURS) -> FluxNetwork:
    torch.manual_seed(0)
    made = FluxNetwork(levels, NetworkConfig(width=2, depth=1)).eval()
    fields = FluxFields.of(payload(hours), dropped_levels=3 - levels)
    made.begin(Statistics.of(fields, np.arange(len(fields))))
    return made


def test_a_part_is_the_hours_of_a_day_or_of_some_days_that_do_not_move() -> None:
    survey = PredictionConfig().survey(payload(), network())
    assert [part.name for part in survey.parts] == ["2010-01-01", "2010-01-02", "2010-01-03"]
    assert [part.at[PREDICTED]["time"] for part in survey.parts] == [0, 4, 7]
    assert survey.groups[PREDICTED].sizes == {"time": 9, "level": 3, "lat": 4, "lon": 8}
    wide = PredictionConfig(days_together=2)
    names = [part.name for part in wide.survey(payload(), network()).parts]
    assert len(names) == 2
    later = wide.survey(payload(HOURS.isel(time=slice(4, None))), network())
    assert later.parts[-1].name in names or later.parts[0].name in names, "windows moved with their first day"


def test_a_part_is_what_the_network_says_hour_by_hour_and_needs_no_fluxes() -> None:
    config, net = PredictionConfig(hours_at_once=3), network()
    known = payload(HOURS.drop_vars(["uw", "vw"]))
    part = config.survey(known, net).parts[0]
    made = config.part(known, net, part)[PREDICTED]
    features, _ = FluxFields.of(payload()).read([0, 1, 2, 3])
    with torch.no_grad():
        told = net.fluxes(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(made["uw"], told[:, :3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(made["vw"], told[:, 3:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["u", "v", "w", "t", "p", "zs"])
def test_a_part_depends_on_every_value_of_its_hours_and_on_no_other(name: str) -> None:
    config = PredictionConfig()
    first, second, *_ = config.survey(payload(), network()).parts
    before = [config.content(payload(), part) for part in (first, second)]
    assert before[0] != before[1]
    values = HOURS[name].values.copy()
    values[1, -1, 2, 3] *= 1.001
    if name == "zs":  # read at the top
        values[1, 0, 2, 3] *= 1.001
    changed = payload(HOURS.assign({name: (HOURS[name].dims, values, HOURS[name].attrs)}))
    after = [config.content(changed, part) for part in (first, second)]
    assert after[0] != before[0]
    assert after[1] == before[1]
    without = payload(HOURS.drop_vars(["uw", "vw"]))
    assert config.content(without, first) == before[0], "fluxes are not read"


def test_levels_beyond_those_of_the_network_are_left_out_at_the_top() -> None:
    survey = PredictionConfig().survey(payload(), network(2))
    assert survey.groups[PREDICTED].sizes["level"] == 2
    dims, levels, _ = survey.groups[PREDICTED].coordinates["level"]
    assert dims == ("level",)
    assert levels.tolist() == HOURS["level"].values[1:].tolist()
    with pytest.raises(InputError, match="have 2 levels, the network learned from 3"):
        PredictionConfig().survey(payload(HOURS.isel(level=slice(1, None))), network())


def test_other_units_are_seen_in_what_is_usual() -> None:
    config, net = PredictionConfig(), network()
    part = config.survey(payload(), net).parts[0]
    knots = payload(HOURS.assign(u=(HOURS["u"].dims, HOURS["u"].values * np.float32(1.94), HOURS["u"].attrs)))
    with pytest.raises(InputError, match=r"the mean of u at .* hPa is .* deviations off"):
        config.part(knots, net, part)


def test_another_lattice_is_refused_where_neighbours_count(monkeypatch: pytest.MonkeyPatch) -> None:
    net, wide = network(), payload(hand_written(9, rows=4, columns=16))
    PredictionConfig().survey(wide, net)  # of a network that does not say what it learned from, nothing is known
    net.lattice = (4, 8)
    assert len(PredictionConfig().survey(payload(), net).parts) == 3
    with pytest.raises(InputError, match=r"a lattice of \(4, 16\), the network learned from one of \(4, 8\)"):
        PredictionConfig().survey(wide, net)
    column = FluxNetwork(3, NetworkConfig(kind="column"))
    column.lattice = (4, 8)
    assert len(PredictionConfig().survey(wide, column).parts) == 3


def test_hours_that_are_gone_are_not_answered_by_others() -> None:
    config, net = PredictionConfig(), network()
    last = config.survey(payload(), net).parts[-1]
    for left in ([0, 1, 2, 3, 4, 5, 6, 8], [0, 1, 2, 3, 4, 5, 6]):
        fewer = payload(HOURS.isel(time=left))
        for asked in (lambda data: config.content(data, last), lambda data: config.part(data, net, last)):
            with pytest.raises(InputError, match="2010-01-03: the fields have no hour 2010-01-03T01:00:00 any more"):
                asked(fewer)


def test_a_folder_that_changes_while_it_is_read_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, net = PredictionConfig(location="somewhere"), network()
    survey = config.survey(payload(), net)
    part, common = survey.parts[0], {"model": "0" * 64}
    model = Model(name="a-b", version="0" * 12, digest="0" * 64, location="")
    source = _Source(model=model, data=None, location="there", mark="")
    work = Work(part=part, key=_key(common, part, config.content(payload(), part)), folder=tmp_path / "parts")
    parts = Parts(work.folder)
    now = payload(HOURS.assign(u=(HOURS["u"].dims, HOURS["u"].values + 1, HOURS["u"].attrs)))
    monkeypatch.setattr(predict, "_opened", lambda _: (net, now))
    with pytest.raises(InputError, match="2010-01-01: there changed while it was read; run again when it is whole"):
        predict._make(config, source, survey.groups, common, work)
    assert parts.receipt(work.key) is None
    monkeypatch.setattr(predict, "_opened", lambda _: (net, payload()))
    assert predict._make(config, source, survey.groups, common, work) == work.key
    assert parts.receipt(work.key) is not None


def test_a_gpu_makes_other_parts_and_the_number_of_threads_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = hand_written(5, rows=32, columns=64)
    auto, cpu, known = PredictionConfig(accelerator="auto"), PredictionConfig(), payload(hours)
    torch.manual_seed(0)
    net = FluxNetwork(3, NetworkConfig(width=12, depth=1, stem=48)).eval()
    net.begin(Statistics.of(FluxFields.of(known), np.arange(5)))
    part = cpu.survey(known, net).parts[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = auto.content(known, part)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert auto.content(known, part) != before == cpu.content(known, part)
    made, threads = [], torch.get_num_threads()
    for number in (1, 2):
        torch.set_num_threads(number)
        made.append(cpu.part(known, net, part)[PREDICTED])
    torch.set_num_threads(threads)
    assert made[0].identical(made[1])


def test_months_are_written_as_files(tmp_path: Path) -> None:
    hours = hand_written(60, rows=4, columns=8, apart=24)
    config, net = PredictionConfig(days_together=366), network(hours=hours)
    survey = config.survey(payload(hours), net)
    made = [config.part(payload(hours), net, part)[PREDICTED] for part in survey.parts]
    stored = xr.concat(made, "time").assign_coords(
        {name: (dims, values, attrs) for name, (dims, values, attrs) in survey.groups[PREDICTED].coordinates.items()}
    )
    files = config.export({PREDICTED: stored}, tmp_path)
    assert [file.name for file in files] == [f"fluxes_predicted_2010-0{month}.nc" for month in (1, 2, 3)]
    with xr.open_dataset(files[1]) as february:
        assert february["time"].values[0] == np.datetime64("2010-02-01")
        np.testing.assert_array_equal(february["vw"], stored["vw"].values[31:59])
        assert february["uw"].dims == ("time", "level", "lat", "lon")


def test_a_dataset_and_a_folder_are_not_both_named_and_a_url_is_no_folder() -> None:
    with pytest.raises(ValueError, match="say which of them"):
        PredictionConfig(dataset="datasets-fluxes", location="somewhere")
    with pytest.raises(ValueError, match="a path on this machine"):
        PredictionConfig(location="s3://bucket/tree.zarr")
    assert PredictionConfig(location="tree.zarr/").sources() == {"fields": "tree.zarr/**/*"}
    assert PredictionConfig().sources() == {}
    with pytest.raises(TypeError, match="got Linear"):
        PredictionConfig().survey(payload(), torch.nn.Linear(1, 1))


def test_where_and_in_which_pieces_is_not_in_a_part() -> None:
    names = {field.name for field in dataclasses.fields(PredictionConfig)}
    assert set(PredictionConfig.elsewhere) < names
    assert names - set(PredictionConfig.elsewhere) == {"hours_at_once", "accelerator"}
