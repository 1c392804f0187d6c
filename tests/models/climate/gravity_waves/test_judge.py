"""Networks are judged on months that they never saw: what is read, what is reported, what is refused."""

import dataclasses
import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from infra.figures import draw
from models.climate.gravity_waves import figures
from models.climate.gravity_waves.certificate import Stored
from models.climate.gravity_waves.fields import FluxFields
from models.climate.gravity_waves.judge import JudgementConfig, answers, chosen_hours, judge, scores
from models.climate.gravity_waves.networks import FluxNetwork, NetworkConfig
from models.climate.gravity_waves.splits import SplitConfig
from models.climate.gravity_waves.statistics import Statistics
from models.common.judgement import Judgement
from tests.models.climate.gravity_waves.worlds import LEVELS, World

SPLIT = SplitConfig(train=("2010-01", "2010-02"), validation=("2010-04",), test=("2011",))
STENCIL = NetworkConfig(kind="stencil", padding="circular", latitude=False, theta=False, hidden=32, layers=1)
COLUMN = NetworkConfig(kind="column", latitude=False, theta=False, hidden=32, layers=1)


@lru_cache
def world() -> World:
    return World()


def opened() -> FluxFields:
    return FluxFields.of({"data": {"training": world().dataset}})


def trained(config: NetworkConfig, steps: int = 80, seed: int = 0) -> FluxNetwork:
    """A network that learned for seconds."""
    fields = opened()
    rows = SPLIT.rows_of("train", fields.time)
    features, fluxes = fields.read(rows)
    torch.manual_seed(seed)
    network = FluxNetwork(fields.levels, config)
    network.begin(Statistics.of(fields, rows))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    given, truth = torch.from_numpy(features), network.standardised(torch.from_numpy(np.asarray(fluxes)))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        optimiser.zero_grad()
        (network(given) - truth).square().mean().backward()
        optimiser.step()
    return network.eval()


@lru_cache
def networks() -> tuple[FluxNetwork, FluxNetwork]:
    return trained(STENCIL), trained(COLUMN)


def judged(network: FluxNetwork | None = None, *, fields: Any = None, **given: Any) -> Judgement:
    network = network or networks()[0]
    data: dict[str, Any] = {"data": {"training": world().dataset}} | given.pop("data", {})
    settings = {"settings": JudgementConfig(seed=3), "split": SPLIT, "column_share": 1.0} | given
    product = {"weights": dict(network.state_dict())}
    return judge(product, data, network, networks()[1], fields=fields or opened(), **settings)


@lru_cache
def sound() -> Judgement:
    return judged()


def test_a_network_that_sees_its_neighbours_is_certified_where_they_matter() -> None:
    judgement = sound()
    assert judgement.certificate.failures() == ()
    metrics = judgement.metrics
    assert 0.05 < metrics["skill_over_column_low"] < metrics["skill_over_column"] < metrics["skill_over_column_high"]
    assert metrics["skill_over_column"] == pytest.approx(1 - metrics["mse"] / metrics["mse_column"], rel=1e-12)
    assert metrics["correlation"] > metrics["correlation_column"]
    assert metrics["hours"] == 40 and metrics["months"] == 5 and metrics["blocks"] == 5
    assert metrics["roll_difference"] < 1e-5
    assert judgement.headline in metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert "40 hours of 5 months" in judgement.protocol and "leave out months" in judgement.protocol


def test_metrics_are_named_alike_whatever_is_judged() -> None:
    other = judged(networks()[1])
    assert set(other.metrics) == set(sound().metrics)
    assert other.metrics["mse_over_column"] == 1.0
    assert "mse_over_column" in {claim.name for claim in other.certificate.failures()}


def test_the_table_has_a_row_for_every_flux_and_level() -> None:
    table = sound().table
    assert [(row["flux"], row["hPa"]) for row in table] == [
        (flux, level) for flux in ("uw", "vw") for level in (10.0, 100.0, 1000.0)
    ]
    assert all(row["ratio"] == pytest.approx(row["mse"] / row["mse_column"]) for row in table)
    mean = np.mean([row["mse"] for row in table])
    assert sound().metrics["mse"] == pytest.approx(mean, rel=1e-12)


def test_a_network_that_learned_nothing_is_refused() -> None:
    fresh = FluxNetwork(LEVELS, STENCIL)
    fields = opened()
    fresh.begin(Statistics.of(fields, SPLIT.rows_of("train", fields.time)))
    failures = {claim.name for claim in judged(fresh.eval()).certificate.failures()}
    assert {"mse_over_column", "mse_over_mean"} <= failures


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_network_that_overflows_is_refused_and_not_tripped_over() -> None:
    network = trained(STENCIL, 1)
    network.load_state_dict(networks()[0].state_dict())
    list(network.parameters())[-1].data[1] = torch.inf
    judgement = judged(network)
    assert "values_not_finite" in {claim.name for claim in judgement.certificate.failures()}
    assert draw(next(figure for figure in judgement.figures if figure.name == "mse_by_level"))


def test_statistics_of_other_months_are_refused() -> None:
    network = trained(STENCIL, 1)
    network.load_state_dict(networks()[0].state_dict())
    network.flux_deviation *= 1.02
    assert "statistics_difference" in {claim.name for claim in judged(network).certificate.failures()}


def test_a_champion_is_asked_about_the_same_hours() -> None:
    network, column = networks()
    same = judged(data={"champion": {"network": network, "data": {}}}).metrics
    assert (same["gain_over_champion"], same["gain_over_champion_low"]) == (0.0, 0.0)
    weaker = judged(data={"champion": {"network": column, "data": {}}}).metrics
    assert weaker["gain_over_champion"] == pytest.approx(weaker["skill_over_column"], rel=1e-12)
    assert weaker["gain_over_champion_low"] == pytest.approx(weaker["skill_over_column_low"], rel=1e-9)
    assert set(same) - set(sound().metrics) == {
        "gain_over_champion", "gain_over_champion_low", "gain_over_champion_high"
    }  # fmt: skip
    stranger = FluxNetwork(LEVELS + 1, COLUMN)
    with pytest.raises(ValueError, match="the champion has 4 levels, the network 3"):
        judged(data={"champion": {"network": stranger, "data": {}}})


class Counted(FluxFields):
    """Fields that remember which hours were read."""

    def read(self, rows: Any) -> Any:
        self.__dict__.setdefault("seen", []).extend(np.asarray(rows).tolist())
        return super().read(rows)


def test_a_champion_of_another_lattice_is_refused() -> None:
    champion = trained(STENCIL, steps=1)
    champion.lattice = (16, 32)
    with pytest.raises(ValueError, match=r"the champion learned from a lattice of \(16, 32\), and is asked about one"):
        judged(data={"champion": {"network": champion}})


def test_the_test_months_are_read_once_and_no_others() -> None:
    fields = Counted.of({"data": {"training": world().dataset}})
    judged(fields=fields)
    rows = SPLIT.rows_of("test", fields.time).tolist()
    assert sorted(fields.seen) == sorted([*rows, rows[0]]), "the first hour is asked again, rolled"


def test_of_many_hours_one_of_each_stretch_is_judged() -> None:
    rows = np.arange(100, 100 + 8760)
    chosen = chosen_hours(rows, 365, seed=1)
    assert len(chosen) == 365 and (np.diff(chosen) > 0).all()
    assert ((chosen - 100) // 24 == np.arange(365)).all(), "one an equal stretch"
    assert len(np.unique(chosen % 24)) == 24, "at all hours of the day"
    assert (chosen_hours(rows, 365, seed=1) == chosen).all()
    assert (chosen_hours(rows[:50], 50, seed=1) == rows[:50]).all()
    few = judged(settings=JudgementConfig(hours=20))
    assert few.metrics["hours"] == 20 and few.metrics["months"] == 5


def test_few_months_give_intervals_over_days() -> None:
    split = dataclasses.replace(SPLIT, test=("2011-03", "2011-04"))
    judgement = judged(split=split)
    assert "windows of 10 days" in judgement.protocol
    assert judgement.metrics["blocks"] > 2


def test_what_epochs_are_compared_by_is_r2_over_area() -> None:
    network, fields = networks()[0], opened()
    rows = SPLIT.rows_of("validation", fields.time)
    network.train()
    found = scores(network, fields, rows)
    assert network.training, "left as it was"
    network.eval()
    features, truth = fields.read(rows)
    deviation, mean = (one.double().numpy()[:, None, None] for one in (network.flux_deviation, network.flux_mean))
    z, told = ((np.asarray(one, np.float64) - mean) / deviation for one in (truth, answers(network)(features)))
    area = fields.grid.area_weights
    error = ((told - z) ** 2 * area).sum((2, 3)).mean(0)
    spread = (z**2 * area).sum((2, 3)).mean(0) - (z * area).sum((2, 3)).mean(0) ** 2
    assert found["r2"] == pytest.approx(1 - error.sum() / spread.sum(), rel=1e-9)
    assert found["mse"] == pytest.approx(error.mean(), rel=1e-9)
    with pytest.raises(ValueError, match="at least one hour"):
        scores(network, fields, rows[:0])


def test_the_certificate_reads_what_the_networks_are_given() -> None:
    fields, stored = opened(), Stored(world().dataset, LEVELS)
    rows = np.array([2, 7])
    features, fluxes = fields.read(rows)
    for number, row in enumerate(rows):
        np.testing.assert_allclose(stored.features(fields.time[row]), features[number], rtol=2e-7)
        np.testing.assert_array_equal(stored.fluxes(fields.time[row]), np.asarray(fluxes)[number])


@pytest.mark.parametrize(
    "name, value", [("hours", 1), ("confidence", 0.2), ("column", 0.0), ("sign", 1.5), ("slope", 0.9)]
)
def test_settings_out_of_bounds_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"JudgementConfig\.{name}"):
        JudgementConfig(**{name: value})


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_issue_and_can_be_drawn() -> None:
    by_name = {figure.name: figure for figure in sound().figures}
    assert len(by_name) == 15
    assert {"map_truth", "map_network", "map_column", "mse_by_level", "histogram", "spectrum"} <= set(by_name)
    assert sum(name.startswith("region_") for name in by_name) == 8
    for name in ("map_network", "histogram", "power_by_band"):
        assert draw(by_name[name]).startswith(b"\x89PNG")
    for figure in by_name.values():
        assert max(map(len, figure.caption.split("\n"))) <= 118, "fits its figure"
    fields = [by_name[f"map_{name}"].field for name in ("truth", "network", "column")]
    assert all(field is not None and field.diverging for field in fields)
    assert len({field.strongest for field in fields if field is not None}) == 1, "maps can be compared by colour"


def test_titles_say_what_was_found() -> None:
    def title(judgement: Judgement, name: str) -> str:
        return next(figure.title for figure in judgement.figures if figure.name == name)

    skill = sound().metrics["skill_over_column"]
    assert title(sound(), "mse_by_level") == (
        f"The stencil errs {skill:.0%} less than a single column, and less at 3 of 3 levels"
    )
    fresh = FluxNetwork(LEVELS, STENCIL)
    fields = opened()
    fresh.begin(Statistics.of(fields, SPLIT.rows_of("train", fields.time)))
    worse = judged(fresh.eval())
    assert "more than a single column, and less at 0 of 3 levels" in title(worse, "mse_by_level")
    assert title(worse, "spectrum") != title(sound(), "spectrum")


def test_a_long_series_is_drawn_as_means_of_neighbours() -> None:
    from models.climate.gravity_waves.metrics import RegionalSeries

    time = np.datetime64("2015-01-01T00", "s") + np.arange(8760) * np.timedelta64(3600, "s")
    values = np.sin(np.arange(8760) / 500)
    empty = np.zeros((8760, 0, 8))
    days, drawn = figures._thinned(RegionalSeries(time=time, truth=empty, prediction=empty), values)
    assert len(days) == len(drawn) == figures.STEPS
    assert days[-1] == pytest.approx(365 - 11 / 24, abs=0.1)
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.01)
