"""The marketing flows, whole: what is planned and certified, what is refused by name, what is warm, what is cached."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from flows.marketing import decide_offers, evaluate_campaign, pace_budget, plan_campaign, rollback_plan
from infra.refs import Dataset, Plan
from infra.settings import settings
from infra.store import open_store
from infra.tracking import mlflow_client
from models.common.contracts import TrainingConfig
from models.marketing import planning
from models.marketing.allocation.rounding import Whole
from models.marketing.config import (
    EvaluateConfig,
    ExperimentConfig,
    GeneratorConfig,
    MarketingConfig,
    OutcomesTableConfig,
    PaceConfig,
    PacingConfig,
    ResponseConfig,
    ValuesConfig,
)
from models.marketing.deciding import DecideConfig
from models.marketing.generator import generate
from models.marketing.tables import program_of
from tests.models.marketing.campaigns import CONFIG
from tests.runs import states

PRODUCT = "marketing-test"


def run(config: MarketingConfig = CONFIG) -> Any:
    return plan_campaign(config, return_state=True)


def world(**changes: Any) -> MarketingConfig:
    """The same campaign in another world."""
    generator = dataclasses.replace(CONFIG.data.generator, **changes)
    return dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, generator=generator))


def logged() -> dict[str, Any]:
    """MLflow runs of the system, by what they were planned with."""
    experiment = mlflow_client().get_experiment_by_name("marketing")
    if experiment is None:
        return {}
    return {found.info.run_id: found for found in mlflow_client().search_runs([experiment.experiment_id])}


@pytest.mark.usefixtures("prefect_server")
def test_a_plan_is_certified_published_and_cached_until_something_about_it_changes(home: Path) -> None:
    before = set(logged())
    first = run()
    (outcome,) = first.result()
    assert (first.name, outcome.status, outcome.product) == ("Published", "published", PRODUCT)
    assert outcome.certificate == "exact + bounded: holds"
    store = open_store()
    live = store.live(Plan, PRODUCT)
    assert live.version == outcome.version

    opened = store.open(live)
    program = program_of(store.open(opened.manifest.input(Dataset, store.root)))
    plan = opened["plan"].to_pydict()
    assert set(plan["share"]) == {1.0}
    assert len(set(plan["member"])) == len(plan["member"]), "a member has two offers"
    number = {name: place for place, name in enumerate(program.offers)}
    pairs = [
        begin + program.offer[begin:end].tolist().index(number[offer])
        for member, offer in zip(plan["member"], plan["offer"], strict=True)
        for begin, end in [program.start[member : member + 2].tolist()]
    ]
    x = np.zeros(program.E)
    x[pairs] = 1
    loads = program.loads(x)
    assert (loads <= program.upper).all()
    assert (loads >= program.lower).all()
    assert program.value.astype(float) @ x == pytest.approx(outcome.value, rel=1e-9)

    again = run()
    assert (again.name, again.result()[0].version) == ("Unchanged", live.version)
    told = states(again)
    assert {task: told[task] for task in ("curate", "allocate", "evaluate", "publish")} == dict.fromkeys(
        ("curate", "allocate", "evaluate", "publish"), "Cached"
    )
    (made,) = set(logged()) - before
    metrics = logged()[made].data.metrics
    assert metrics["value"] == pytest.approx(outcome.value)
    assert 0 <= metrics["gap"] <= CONFIG.judgement.gap
    assert metrics["bound"] >= metrics["value"]
    assert metrics["load/spend"] == pytest.approx(loads[program.names.index("spend")])
    assert "price/spend" in metrics
    history = mlflow_client().get_metric_history(made, "gap_by_pass")
    assert 1 <= len(history) <= metrics["passes"]
    assert history[-1].value == metrics["solve_gap"]
    assert logged()[made].data.tags["data.digest"]
    artifacts = {file.path for file in mlflow_client().list_artifacts(made, "figures")}
    assert "figures/binding_rows.png" in artifacts


@pytest.mark.usefixtures("prefect_server")
def test_a_new_world_is_planned_from_the_live_prices_and_two_runs_compare(home: Path) -> None:
    before = set(logged())
    cold = run().result()[0]
    state = run(world(budget=0.36))
    (warm,) = state.result()
    assert (state.name, warm.status) == ("Published", "published")
    store = open_store()
    opened = store.open(store.live(Plan, PRODUCT))
    assert opened["before"]["version"] == cold.version
    assert opened["about"]["warm"]
    assert warm.value > cold.value, "more money bought less"

    again = run(world(budget=0.36))
    assert (again.name, again.result()[0].version) == ("Unchanged", warm.version), "the same was solved twice"

    runs = [logged()[one].data for one in set(logged()) - before]
    assert len(runs) == 2
    assert set(runs[0].metrics) == set(runs[1].metrics)
    assert set(runs[0].params) == set(runs[1].params)
    assert runs[0].params["budget"] != runs[1].params["budget"]

    assert rollback_plan(PRODUCT)[0].live == cold.version
    assert run(world(budget=0.36)).name == "Refused", "a schedule brought a withdrawn plan back"


@pytest.mark.usefixtures("prefect_server")
def test_rows_that_cannot_hold_are_refused_by_name_and_the_champion_stays(home: Path) -> None:
    champion = run().result()[0].version
    state = run(world(least_volume=0.15, budget=0.02))
    (outcome,) = state.result()
    assert (state.type.value, state.name, outcome.status) == ("COMPLETED", "Refused", "refused")
    assert outcome.live == champion
    said = str(state.message)
    assert "rows_in_conflict" in said
    assert "'spend'" in said
    assert "'volume/" in said
    assert "Widen one of these rows" in said
    assert "available are" in said


@pytest.mark.usefixtures("prefect_server")
def test_a_plan_that_breaks_a_budget_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(program: Any, *_: Any) -> Whole:
        pairs = np.asarray(program.start[:-1])  # everybody's first offer, whatever it costs
        x = np.zeros(program.E)
        x[pairs] = 1
        return Whole(pairs=pairs, value=float(program.value[pairs].sum()), promise=0, loads=program.loads(x), changed=0)

    monkeypatch.setattr(planning, "round_whole", careless)
    state = run()
    assert state.name == "Refused"
    assert "rows_broken" in str(state.message)
    assert open_store().current_or_none("plan", PRODUCT) is None


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_broke_after_the_solve_goes_on_with_what_was_solved(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, judged = MarketingConfig.judge, list[int]()

    def judge(self: MarketingConfig, *parts: Any) -> Any:
        judged.append(1)
        if len(judged) == 1:
            raise OSError("the machine has other plans")
        return plain(self, *parts)

    monkeypatch.setattr(MarketingConfig, "judge", judge)
    assert run().type.value == "FAILED"
    state = run()
    assert state.name == "Published"
    assert states(state)["allocate"] == "Cached"
    assert len(judged) == 2


@pytest.mark.usefixtures("prefect_server")
def test_values_may_be_learned_from_the_past_and_the_plan_knows_its_model(home: Path) -> None:
    values = ValuesConfig(source="learned", response=ResponseConfig(training=TrainingConfig(epochs=1, batch_size=1024)))
    config = dataclasses.replace(world(lines=3), values=values)
    state = run(config)
    assert state.name == "Published", state.message
    store = open_store()
    live = store.live(Plan, PRODUCT)
    assert set(store.open(live).manifest.inputs) == {"dataset", "model"}
    paced = pace_budget(PaceConfig(data=config.data, plan=config.plan), return_state=True)
    assert paced.name == "Published", paced.message
    assert set(store.open(store.live(Plan, PRODUCT)).manifest.inputs) == {"dataset", "model"}


@pytest.mark.usefixtures("prefect_server")
def test_a_budget_is_held_day_by_day_from_what_is_live(home: Path) -> None:
    days = 4
    pacing = PacingConfig(days=days, delivery=0.7)
    config = PaceConfig(data=CONFIG.data, plan=CONFIG.plan, pacing=pacing)
    assert pace_budget(config, return_state=True).name == "Failed", "there is nothing to pace yet"
    run()
    store = open_store()
    budget = days * store.open(store.live(Plan, PRODUCT))["rows"].to_pylist()[0]["upper"]
    targets, errors = [], []
    for day in range(1, days + 1):
        before = store.live(Plan, PRODUCT)
        state = pace_budget(config, return_state=True)
        assert state.name == "Published", state.message
        opened = store.open(store.live(Plan, PRODUCT))
        assert opened["before"]["version"] == before.version
        assert set(opened.manifest.inputs) == {"dataset"}, "retention would keep every plan there ever was"
        pace = opened["about"]["pace"]
        assert pace["after"]["period"] == day
        row = opened["rows"].to_pylist()[0]
        assert row["load"] <= row["upper"] == pace["upper"]
        targets.append(pace["upper"])
        errors.append(pace["after"]["spent"] / budget - day / days)
    assert targets[0] > budget / days, "a tenth did not arrive, and nothing made up for it"
    assert abs(errors[-1]) < 0.08
    most_reach = 0.95  # of the channel that reaches best
    open_loop = most_reach * sum(1 - 0.3 * day / (days - 1) for day in range(days)) / days
    assert open_loop < 0.82, "without pacing a sixth of the budget would have been left"

    pace_budget(config)
    pace = store.open(store.live(Plan, PRODUCT))["about"]["pace"]
    assert pace["before"]["period"] == 0, "a new horizon begins when the last day is over"


@pytest.mark.usefixtures("prefect_server")
def test_what_was_spent_may_be_told_and_less_than_before_is_refused(home: Path) -> None:
    run()

    def told(spent: float) -> Any:
        pacing = PacingConfig(days=4, source="told", spent=spent)
        return pace_budget(PaceConfig(data=CONFIG.data, plan=CONFIG.plan, pacing=pacing), return_state=True)

    assert told(100.0).name == "Published"
    (outcome,) = told(150.0).result()
    opened = open_store().open(open_store().live(Plan, PRODUCT))
    assert opened.manifest.digest[:12] == outcome.version
    assert opened["about"]["pace"]["realised"] == 50.0
    failed = told(20.0)
    assert failed.name == "Failed"
    assert "PacingConfig.spent is 20, the live plan knows of 150 after day 2" in str(failed.message)


@pytest.mark.usefixtures("prefect_server")
def test_members_who_come_later_are_decided_by_the_live_prices(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    later = generate(dataclasses.replace(CONFIG.data.generator, members=500, seed=77))
    segment = np.array(later.members["segment"].to_pylist())[later.member]
    offer = np.array(later.offers["offer"].to_pylist())[later.offer]
    pairs = pa.table(
        {
            "who": [f"late {member}" for member in later.member],
            "offer": offer,
            **{name: getattr(later, name) for name in ("value", "cost", "risk", "reach")},
            "segment": segment,
        }
    )
    pyarrow.parquet.write_table(pairs, home / "late.parquet")
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(home))
    settings.cache_clear()
    config = DecideConfig(pairs=str(home / "late.parquet"), member_column="who", export=str(home / "answers.parquet"))
    found = decide_offers(config, PRODUCT)
    answers = pyarrow.parquet.read_table(home / "answers.parquet")
    opened = open_store().open(found)
    assert opened["answers"].equals(answers)
    assert opened.manifest.inputs["plan"]["version"] == open_store().live(Plan, PRODUCT).version
    asked = set(zip(pairs["who"].to_pylist(), offer.tolist(), strict=True))
    assert {(one["member"], one["offer"]) for one in answers.to_pylist()} <= asked
    published = open_store().open(open_store().live(Plan, PRODUCT))["about"]
    assert answers.num_rows / 500 == pytest.approx(published["sends"] / published["members"], abs=0.1)

    wrong = decide_offers(dataclasses.replace(config, value_column="worth"), PRODUCT, return_state=True)
    assert "late.parquet has no column 'worth'" in str(wrong.message)


@pytest.mark.usefixtures("prefect_server")
def test_a_campaign_is_measured_where_the_two_ways_differ(home: Path) -> None:
    world = GeneratorConfig(members=3000, lines=3, offers=6, tail=0.6)
    state = evaluate_campaign(EvaluateConfig(experiment=ExperimentConfig(world=world)), return_state=True)
    assert state.name == "Healthy", state.message
    report = state.result()
    metrics = mlflow_client().get_run(report.run_id).data.metrics
    assert metrics["lift_low"] < metrics["lift"] < metrics["lift_high"]
    assert 0.1 < metrics["triggered_share"] < 0.9
    assert metrics["variance_ratio"] < 1
    assert "true_lift" in metrics
    assert min(metrics["sample_ratio_p"], metrics["trigger_ratio_p"]) > 0.001
    figures = {file.path for file in mlflow_client().list_artifacts(report.run_id, "figures")}
    assert {"figures/lift.png", "figures/buyers.png"} <= figures


@pytest.mark.usefixtures("prefect_server")
def test_a_split_that_is_not_as_it_was_meant_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = ["arm,spend", *(f"{'a' if rng.random() < 0.4 else 'b'},{max(rng.normal(), 0):.3f}" for _ in range(3000))]
    (home / "outcome.csv").write_text("\n".join(rows))
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(home))
    settings.cache_clear()
    table = OutcomesTableConfig(file=str(home / "outcome.csv"), treatment="a", control="b")
    experiment = ExperimentConfig(name="own", source="table", table=table)
    state = evaluate_campaign(EvaluateConfig(experiment=experiment), return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "Degraded")
    assert "sample_ratio_p" in str(state.message)
    assert "do not read any effect" in str(state.message)
