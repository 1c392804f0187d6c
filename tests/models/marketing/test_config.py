"""The configuration: presets, limits, what runs are compared by, and what the plan is made from."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from models.common.contracts import Payload
from models.marketing.config import (
    DataConfig,
    EvaluateConfig,
    ExperimentConfig,
    GeneratorConfig,
    JudgementConfig,
    MarketingConfig,
    OutcomesTableConfig,
    PaceConfig,
    PacingConfig,
    PlanConfig,
    TableConfig,
    ValuesConfig,
    hillstrom,
    learned,
    paper,
    small,
    tiny,
    tiny_campaign,
    tiny_pace,
)
from models.marketing.deciding import DecideConfig
from models.marketing.generator import generate
from models.marketing.tables import data_of

PRESETS = (tiny, small, learned, paper, tiny_pace, tiny_campaign, hillstrom)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.__name__)
def test_a_preset_is_valid_and_names_data_of_its_own(preset: Any) -> None:
    config = preset()
    assert preset() == config
    assert {type(value) for value in config.parameters().values()} <= {str, int, float, bool}
    names = [(one().data.name if hasattr(one(), "data") else one().experiment.name) for one in PRESETS[:4]]
    assert len(set(names)) == 4, "two presets would publish under one name"


def test_the_tiny_plan_holds_and_its_gap_is_known(tiny_plan: Payload, tiny_data: Payload) -> None:
    judgement = tiny().judge(tiny_plan, tiny_data, None)
    assert judgement.certificate.holds, [claim.sentence() for claim in judgement.certificate.failures()]
    assert judgement.headline in judgement.metrics
    assert 0 <= judgement.metrics["gap"] <= 1e-3
    assert judgement.metrics["solve_gap"] <= tiny().plan.gap
    assert judgement.metrics["true_value"] > 0.7 * judgement.metrics["value"]
    (figure,) = [figure for figure in judgement.figures if figure.name == "binding_rows"]
    assert figure.series[0].x[0] == "spend"
    assert 0 < sum(figure.series[0].y) < 100, "rows are worth a part of the bound"
    assert any("held back by" in str(row["why"]) for row in judgement.table)


def test_shares_are_judged_as_shares(tiny_data: Payload) -> None:
    config = dataclasses.replace(tiny(), plan=PlanConfig(rounding="shares", gap=1e-5))
    plan = config.plan.allocate(tiny_data, None, None)
    assert not all(share == 1 for share in plan["plan"]["share"].to_pylist())
    judgement = config.judge(plan, tiny_data, None)
    assert judgement.certificate.holds, [claim.sentence() for claim in judgement.certificate.failures()]
    assert judgement.metrics["gap"] <= 1e-5


def test_several_offers_a_member_are_planned_up_to_the_cap(tiny_data: Payload) -> None:
    config = dataclasses.replace(tiny(), plan=PlanConfig(most=2))
    plan = config.plan.allocate(tiny_data, None, None)
    members = plan["plan"]["member"].to_pylist()
    assert max(members.count(member) for member in members[:2000]) == 2
    assert config.judge(plan, tiny_data, None).certificate.holds


def test_a_warm_plan_begins_at_the_live_prices_by_name(tiny_plan: Payload, tiny_data: Payload) -> None:
    from models.marketing.planning import prices_for
    from models.marketing.tables import program_of

    program = program_of(tiny_data)
    known = {row["row"]: row["price"] for row in tiny_plan["rows"].to_pylist()}
    assert dict(zip(program.names, prices_for(program, tiny_plan).tolist(), strict=True)) == known
    fewer = {**tiny_plan, "rows": tiny_plan["rows"].slice(1)}
    assert prices_for(program, fewer)[0] == 0, "a row that the live plan lacks begins at zero"
    again = tiny().plan.allocate(tiny_data, tiny_plan, None)
    assert again["about"]["warm"]
    assert again["about"]["passes"] <= tiny_plan["about"]["passes"]
    cold = PlanConfig(warm=False).allocate(tiny_data, tiny_plan, None)
    assert not cold["about"]["warm"]


def test_without_any_plan_the_parts_are_the_proof_and_the_rows_are_named(tiny_data: Payload) -> None:
    config = dataclasses.replace(
        tiny(), data=DataConfig(generator=GeneratorConfig(members=1500, least_volume=0.24, budget=0.001))
    )
    data = config.data.prepare({})
    plan = config.plan.allocate(data, None, None)
    assert not plan["about"]["solved"]
    judgement = config.judge(plan, data, None)
    (failed,) = judgement.certificate.failures()
    assert failed.name == "rows_in_conflict"
    assert failed.value == len(plan["about"]["conflict"]) >= 2
    assert "cannot hold together" in failed.sentence()
    forged = {**plan, "about": {**plan["about"], "needed": plan["about"]["needed"] * 2}}
    names = [claim.name for claim in config.judge(forged, data, None).certificate.failures()]
    assert "numbers_off" in names


def test_a_world_written_to_files_is_planned_as_the_world_itself(tmp_path: Path) -> None:
    world = generate(GeneratorConfig(members=300, offers=6, lines=3, seed=12))
    member = np.array([f"m {number}" for number in range(300)])
    offers = np.array(world.offers["offer"].to_pylist())
    tables = {
        "pairs": {
            "value": world.value,
            "member": member[world.member],
            "offer": offers[world.offer],
            **{name: getattr(world, name) for name in ("cost", "risk", "reach")},
        },
        "rows": {name: world.rows[name] for name in world.rows.column_names},
        "offers": {name: world.offers[name] for name in ("line", "offer", "channel")},
        "members": {"segment": world.members["segment"], "member": member},
    }
    files = {}
    for name, columns in tables.items():
        table = pa.table(columns)
        if name == "pairs":  # in any order
            table = table.take(np.random.default_rng(0).permutation(table.num_rows))
        files[name] = tmp_path / f"{name}.csv"
        pyarrow.csv.write_csv(table, files[name])
    config = MarketingConfig(
        data=DataConfig(source="table", table=TableConfig(**{name: str(file) for name, file in files.items()})),
        judgement=JudgementConfig(gap=0.01),
    )
    assert config.data.sources() == {name: str(file) for name, file in files.items()}
    data = config.data.prepare(files)
    plan = config.plan.allocate(data, None, None)
    judgement = config.judge(plan, data, None)
    assert judgement.certificate.holds, [claim.sentence() for claim in judgement.certificate.failures()]
    assert "true_value" not in judgement.metrics, "nobody knows the truth about a table"
    itself = PlanConfig().allocate(data_of(world), None, None)
    assert plan["about"]["solved_value"] == pytest.approx(itself["about"]["solved_value"], rel=1e-6)
    assert set(plan["plan"]["member"].to_pylist()) <= set(member.tolist())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: DataConfig(name="Spring Sale"), "lower case letters, digits and single hyphens, got 'Spring Sale'"),
        (lambda: DataConfig(source="table"), "DataConfig.table.pairs must name a file"),
        (lambda: DataConfig(source="table", table=TableConfig(pairs="p")), "DataConfig.table.rows must name a file"),
        (lambda: PlanConfig(gap=0.5), "PlanConfig.gap must be at most 0.1, got 0.5"),
        (lambda: PlanConfig(most=0), "PlanConfig.most must be at least 1, got 0"),
        (lambda: PacingConfig(days=0), "PacingConfig.days must be at least 1, got 0"),
        (lambda: ExperimentConfig(source="table"), "ExperimentConfig.table.file must name a file"),
        (lambda: OutcomesTableConfig(control_decision="a"), "needs both decisions or none, got 'a' and ''"),
        (
            lambda: PaceConfig(data=DataConfig(source="table", table=TableConfig(pairs="p", rows="r"))),
            "PaceConfig.pacing.source must be 'told' unless",
        ),
        (
            lambda: MarketingConfig(
                data=DataConfig(source="table", table=TableConfig(pairs="p", rows="r")),
                values=ValuesConfig(source="learned"),
            ),
            "MarketingConfig.values.source must be 'given' for tables of your own",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_remedy(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


def test_the_page_names_every_configuration_class() -> None:
    page = (Path(__file__).parents[3] / "docs" / "marketing.md").read_text()

    def classes(kind: Any) -> set[str]:
        inner = [one for one in typing.get_type_hints(kind).values() if dataclasses.is_dataclass(one)]
        return {kind.__name__}.union(*(classes(one) for one in inner))

    for kind in (MarketingConfig, PaceConfig, EvaluateConfig, DecideConfig):
        for name in classes(kind):
            assert f"`{name}`" in page, name
    for field in dataclasses.fields(TableConfig):
        assert f"`{field.name}`" in page, field.name


def test_only_files_of_the_chosen_source_are_wanted() -> None:
    table = TableConfig(pairs="p.csv", rows="r.csv", offers="o.csv")
    assert tiny().data.sources() == {}
    assert DataConfig(source="table", table=table).sources() == {"pairs": "p.csv", "rows": "r.csv", "offers": "o.csv"}
    assert hillstrom().experiment.sources() == {"experiment": "catalogue:marketing-hillstrom/hillstrom_dev.csv.gz"}
    assert EvaluateConfig().experiment.sources() == {}


@pytest.fixture(scope="module")
def tiny_data() -> Payload:
    return tiny().data.prepare({})


@pytest.fixture(scope="module")
def tiny_plan(tiny_data: Payload) -> Payload:
    return tiny().plan.allocate(tiny_data, None, None)
