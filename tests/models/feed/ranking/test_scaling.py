"""The study of scaling: what it counts, what its trials share, and the corruptions that its certificate refuses."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from infra.figures import draw
from models.common.power_law import fit_power_law
from models.common.transformer import TransformerConfig
from models.feed.events.simulator import SimulatorConfig, simulate
from models.feed.events.table import Events
from models.feed.ranking.batches import batch_of, rows_of
from models.feed.ranking.config import RankerConfig
from models.feed.ranking.data import arrange
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.network import LiGR, NetworkConfig
from models.feed.ranking.scaling import (
    UNIT,
    ScalingConfig,
    SizeConfig,
    TrialConfig,
    forward_flops,
    law_of,
    means_of,
    paper,
    small,
    tiny,
    training_flops,
)
from models.feed.ranking.scaling_certificate import Study, _lawful

Payload = Mapping[str, Any]
DATA = arrange(
    simulate(SimulatorConfig(users=11, items=160, sessions=5.0, slate=7, seed=4)).events, "category", (0.1, 0.1), "test"
)
INPUTS = Inputs.of(DATA)


# --- operations -------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    head_width=st.sampled_from([2, 4, 6]),
    layers=st.integers(1, 3),
    multiplier=st.integers(1, 3),
    gate=st.booleans(),
    head=st.sampled_from(["linear", "mlp"]),
    history=st.integers(1, 40),
    place=st.integers(0, 3),
)
def test_operations_of_a_row_are_those_that_torch_counts(
    head_width: int, layers: int, multiplier: int, gate: bool, head: Any, history: int, place: int
) -> None:
    """Torch counts every product of matrices as it is made; beside ours that of the looked-up items alone."""
    width = 2 * head_width
    config = NetworkConfig(
        transformer=TransformerConfig(
            width=width, heads=2, layers=layers, multiplier=multiplier, gate=gate, dropout=0.0
        ),
        item_width=5,
        history=history,
        head=head,
    )
    network = LiGR(users=11, items=160, categories=len(INPUTS.categories), tasks=2, config=config)
    rows = rows_of(INPUTS, np.arange(len(INPUTS.seen)), history=history, candidates=30)
    row = np.array([np.flatnonzero(rows.length > 0)[place]])  # one row is not padded
    batch = batch_of(INPUTS, rows, row, np.zeros(len(INPUTS.events), np.float32))
    # attention written out, for torch does not count its fused form on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(batch)
    distinct = len(torch.unique(torch.cat((batch.event_item, batch.item), 1)))
    candidates = np.diff(rows.start)[row]
    ours = forward_flops(config, 2, rows.length[row], candidates)
    assert counter.get_total_flops() == ours[0] + 2 * distinct * 5 * width


def test_the_backward_pass_of_a_matrix_costs_twice_the_forward_one() -> None:
    weight, token = torch.nn.Linear(12, 7, bias=False), torch.randn(5, 12, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        out = weight(token)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    assert backward.get_total_flops() == 2 * forward.get_total_flops() == 4 * 5 * 12 * 7


def test_operations_of_a_training_are_those_of_the_rows_that_its_steps_took() -> None:
    about = {
        "width": 8, "layers": 1, "multiplier": 2, "gate": True, "head": "mlp", "tasks": 2, "batch_size": 3, "steps": 2,
    }  # fmt: skip
    config = NetworkConfig(transformer=TransformerConfig(width=8, heads=2, layers=1, multiplier=2))
    events, candidates = np.array([0, 5, 9, 4]), np.array([10, 10, 20, 7])
    forward = forward_flops(config, 2, events, candidates).sum()
    assert training_flops(about, events, candidates) == pytest.approx(3 * forward * 6 / 4)


def test_blocks_of_the_session_and_company_are_not_counted_and_say_so() -> None:
    for config in (NetworkConfig(session_layers=1), NetworkConfig(company=1)):
        with pytest.raises(ValueError, match="session_layers and company"):
            forward_flops(config, 2, np.array([3]), np.array([4]))


# --- trials -----------------------------------------------------------------------------------------------------------

STUDY = ScalingConfig(
    sizes=tuple(SizeConfig(width=4 + 4 * place, layers=1, users=9 + 5 * place) for place in range(5)),
    seeds=2,
    measured=23,
    axis_seeds=2,
    examples=(9, 17),
    histories=(7, 19),
    simulator=SimulatorConfig(items=160, slate=7, sessions=5.0),
    axis_size=SizeConfig(width=8, layers=1, users=17),
)


def test_trials_of_a_seed_share_their_data_and_all_trials_the_rule_for_the_rate() -> None:
    for config in (STUDY, tiny(), small(), paper()):
        trials = config.trials()
        assert len({trial.name for trial in trials}) == len(trials)
        in_order = sorted(trials, key=lambda trial: trial.seed)
        for seed, group in itertools.groupby(in_order, lambda trial: trial.seed):
            some = list(group)
            assert len({trial.data for trial in some}) == 1
            assert some[0].data.simulator.seed == seed
            assert all(trial.training.seed == seed for trial in some)
        for trial in trials:
            width = trial.ranker.architecture.transformer.width
            assert trial.training.learning_rate * width == pytest.approx(config.rate)
            assert (trial.training.epochs, trial.ranker.architecture.transformer.dropout) == (1, 0.0)


def test_nobody_is_both_learned_from_and_measured() -> None:
    trial = STUDY.trials()[2]
    data = trial.data.prepare({})
    user = np.asarray(data["events"]["user"])
    view = trial._view(data)
    kept = view["kept"]
    last = trial.data.simulator.users - trial.measured
    assert user[kept[view["train"]]].max() < trial.users <= last
    assert min(user[kept[view["validation"]]].min(), user[kept[view["test"]]].min()) >= last
    # the parts of the narrowed log are the parts of the whole one
    assert set(kept[view["train"]]) <= set(data["train"].tolist())
    assert set(kept[view["test"]]) <= set(data["test"].tolist())


def test_more_users_are_those_before_and_others() -> None:
    few, many = STUDY.trials()[0], STUDY.trials()[3]
    data = few.data.prepare({})
    one, other = few._view(data), many._view(data)
    assert set(one["kept"][one["train"]]) < set(other["kept"][other["train"]])
    np.testing.assert_array_equal(one["kept"][one["test"]], other["kept"][other["test"]])


def test_a_study_without_points_for_a_law_and_a_trial_without_users_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        dataclasses.replace(STUDY, sizes=STUDY.sizes[:4])
    for sizes in (STUDY.sizes[::-1], STUDY.sizes[:1] * 5, (*STUDY.sizes, STUDY.sizes[-1])):
        with pytest.raises(ValueError, match=r"users of ScalingConfig\.sizes must rise"):
            dataclasses.replace(STUDY, sizes=sizes)
    with pytest.raises(ValueError, match=r"ScalingConfig\.examples must rise, got 9 after 9"):
        dataclasses.replace(STUDY, examples=(9, 9))
    with pytest.raises(ValueError, match=r"ScalingConfig\.histories must rise"):
        dataclasses.replace(STUDY, histories=(19, 7))
    with pytest.raises(ValueError, match=r"raise SimulatorConfig\.users"):
        TrialConfig(users=100_000)
    with pytest.raises(ValueError, match="take 'ligr', 0, 0 and 0"):
        TrialConfig(ranker=RankerConfig(model="sasrec"))
    with pytest.raises(ValueError, match="multiple of 4"):
        SizeConfig(width=10)


@pytest.mark.parametrize("name", ["My Study", "a--b", "a/../c", "-a", "\u00e4"])
def test_a_name_that_the_store_refuses_is_refused_before_the_first_training(name: str) -> None:
    for config in (STUDY, STUDY.trials()[0]):
        with pytest.raises(ValueError, match=f"{type(config).__name__}.name must be lower case"):
            dataclasses.replace(config, name=name)


def test_the_longest_name_leaves_room_for_those_of_its_trials() -> None:
    trials = dataclasses.replace(STUDY, name="n" * 40, seeds=100, axis_seeds=100).trials()
    assert max(len(trial.name) for trial in trials) <= 63


def test_what_a_trial_measures_is_what_its_network_says_of_the_test_part() -> None:
    trial = STUDY.trials()[1]
    data = trial.data.prepare({})
    torch.manual_seed(3)
    network: Any = trial.network(trial.sizes(data)).eval()
    trial.validate(network, data)
    part = trial.measure({"training": {"steps": 11}}, data, network)
    np.testing.assert_array_equal(part["label"], Events.from_payload(data).label[part["row"]])
    np.testing.assert_allclose(part["oracle"], data["oracle_setwise"][part["row"]], rtol=1e-6)
    np.testing.assert_allclose(part["chance"], network.chances(part["logit"][:, None].repeat(2, 1))[:, 0], rtol=1e-6)
    assert part["about"]["examples"] == part["row_candidates"].sum()
    assert part["about"]["weights"] == sum(
        value.numel() for name, value in network.named_parameters() if name.startswith(("transformer", "head"))
    )
    assert trial.metrics(part)["flops"] > 0


# --- the law and its certificate --------------------------------------------------------------------------------------


def left_behind(trial: TrialConfig, *, strength: float, seed: int) -> Payload:
    """What a trial would leave whose network knew the truth but for noise, less of it the more was spent."""
    world = np.random.default_rng(trial.seed)
    truth = world.normal(-0.4, 1.2, 4003)
    label = (world.random(len(truth)) < 1 / (1 + np.exp(-truth))).astype(np.uint8)
    rng = np.random.default_rng(seed)
    logit = (0.9 * truth + strength * rng.standard_normal(len(truth))).astype(np.float32)
    block = trial.ranker.architecture.transformer
    shown = rng.integers(3, 9, 4 * trial.users).astype(np.int32)
    wide = block.width
    return {
        "row": np.arange(len(truth)),
        "label": label,
        "logit": logit,
        "chance": (1 / (1 + np.exp(-logit.astype(np.float64)))).astype(np.float32),
        "oracle": (1 / (1 + np.exp(-truth))).astype(np.float32),
        "row_events": rng.integers(0, 30, len(shown)).astype(np.int32),
        "row_candidates": shown,
        "about": {
            "axis": trial.axis, "place": trial.place, "seed": trial.seed, "width": wide, "layers": block.layers,
            "multiplier": block.multiplier, "gate": block.gate, "head": "mlp", "tasks": 2,
            "history": trial.ranker.architecture.history, "users": trial.users,
            "batch_size": trial.training.batch_size, "steps": len(shown) // trial.training.batch_size,
            "examples": int(shown.sum()), "learning_rate": trial.training.learning_rate,
            "weights": block.layers * ((6 + 3 * block.multiplier) * wide**2 + 6 * wide) + 2 * wide
            + wide**2 + wide + 2 * wide + 2,
        },
    }  # fmt: skip


CERTIFIED = dataclasses.replace(
    STUDY,
    sizes=tuple(
        SizeConfig(width=4 * wide, layers=1, users=users)
        for wide, users in ((1, 20), (2, 30), (3, 50), (5, 90), (8, 150), (12, 260))
    ),
    seeds=3,
    least_decades=2.0,
    least_exponent=0.01,
)


def study() -> tuple[dict[str, Any], dict[str, Any]]:
    """A sound study: what was gathered, and what was concluded from it."""
    parts = [
        left_behind(trial, strength=0.25 + 1.6 / (1 + trial.place) ** 0.8, seed=number)
        for number, trial in enumerate(CERTIFIED.trials())
    ]
    data = dict(CERTIFIED.gather(parts))
    return data, {**CERTIFIED.conclude(data)}


DATA_OF_STUDY, PRODUCT = study()


def failures(data: Payload, product: Payload) -> set[str]:
    return {claim.name for claim in CERTIFIED.judge(product, data, None).certificate.failures()}


def test_a_sound_study_is_certified() -> None:
    judgement = CERTIFIED.judge(PRODUCT, DATA_OF_STUDY, None)
    assert judgement.certificate.holds, [claim.sentence() for claim in judgement.certificate.failures()]
    assert judgement.certificate.kinds == "exact + bounded + statistical"
    assert judgement.metrics["decades"] > 2
    assert len(judgement.table) == 6 + 2 + 2
    assert [figure.name for figure in judgement.figures] == ["law", "auc", "examples", "history"]
    for figure in judgement.figures:
        assert draw(figure)[:4] == b"\x89PNG"


@pytest.mark.parametrize("noise", [3e-3, 1e-4])
def test_a_law_of_precise_points_is_certified(noise: float) -> None:
    """However little noise: neither the law nor what judges it may end at a step of its grid."""
    spent = np.geomspace(1e10, 3e12, 7)
    study = Study(trials=(), held_back=1, least_decades=2.0, least_exponent=0.01)
    off = []
    for seed in range(10):
        y = 0.6 + 0.1 * (spent / UNIT) ** -0.3 + noise * np.random.default_rng(seed).standard_normal(len(spent))
        points = [
            {
                "axis": "compute",
                "place": place,
                "seed": 0,
                "flops": one,
                "entropy": error,
                "auc": 1 - error,
                "oracle": 0.5,
            }
            for place, (one, error) in enumerate(zip(spent, y, strict=True))
        ]
        claims = {claim.name: claim for claim in _lawful(points, law_of(points, 1), study)}
        assert all(claims[name].holds for name in claims if claims[name].kind != "statistical"), claims
        off.append(claims["predictive_interval_off"].value)
    assert max(off) < 1e-5


def test_a_size_that_is_on_two_axes_may_score_alike_on_both() -> None:
    size = CERTIFIED.sizes[2]
    config = dataclasses.replace(CERTIFIED, axis_size=size, examples=(size.users, 2 * size.users), axis_seeds=1)
    parts = [
        left_behind(trial, strength=0.25 + 1.6 / (1 + trial.place) ** 0.8, seed=number)
        for number, trial in enumerate(config.trials())
    ]
    both = [number for number, trial in enumerate(config.trials())
            if (trial.axis, trial.place, trial.seed) in (("compute", 2, 0), ("examples", 0, 0))]  # fmt: skip
    twin = parts[both[1]]["about"]
    parts[both[1]] = {**parts[both[0]], "about": {**parts[both[0]]["about"], "axis": "examples", "place": 0}}
    assert {name for name in twin if twin[name] != parts[both[1]]["about"][name]} <= {"examples"}
    data = config.gather(parts)
    certificate = config.judge(config.conclude(data), data, None).certificate
    assert certificate.holds, [claim.sentence() for claim in certificate.failures()]


def test_the_law_is_that_of_the_means_and_the_largest_size_is_not_told_to_its_prediction() -> None:
    points, law = PRODUCT["points"], PRODUCT["law"]
    means = means_of(points, "compute")
    x, y = np.array([one.flops for one in means]) / UNIT, np.array([one.entropy for one in means])
    assert law["exponent"] == fit_power_law(x, y).exponent
    moved = [{**one, "entropy": one["entropy"] + 0.1 * (one["place"] == 5)} for one in points]
    again = law_of(moved, 1)
    assert again["held_back"]["predicted"] == law["held_back"]["predicted"]
    assert again["held_back"]["measured"] == pytest.approx(law["held_back"]["measured"] + 0.1)
    assert again["exponent"] != law["exponent"]


def scores(name: str, change: Callable[[np.ndarray], np.ndarray], trial: int = 4) -> Callable[..., None]:
    """Change one part of one trial's scores."""

    def corrupt(data: dict[str, Any], product: dict[str, Any]) -> None:
        part = data[name].copy()
        start = data["row_start" if name.startswith("row_") else "score_start"]
        some = slice(start[trial], start[trial + 1])
        part[some] = change(part[some])
        data[name] = part

    return corrupt


def scores_and_points(*changes: Callable[..., None]) -> Callable[..., None]:
    """Change scores, and conclude from them as if they were sound."""

    def corrupt(data: dict[str, Any], product: dict[str, Any]) -> None:
        for change in changes:
            change(data, product)
        product |= CERTIFIED.conclude(data)

    return corrupt


def point(name: str, change: Callable[[float], float], trial: int = 4) -> Callable[..., None]:
    """Change one reported number of one trial."""

    def corrupt(data: dict[str, Any], product: dict[str, Any]) -> None:
        points = [dict(one) for one in product["points"]]
        points[trial][name] = change(points[trial][name])
        product["points"] = points

    return corrupt


def law(change: Callable[[float], float], *path: str) -> Callable[..., None]:
    """Change one number of the reported law."""

    def corrupt(data: dict[str, Any], product: dict[str, Any]) -> None:
        whole = {name: dict(part) if isinstance(part, dict) else part for name, part in product["law"].items()}
        inner = whole[path[0]] if len(path) > 1 else whole
        inner[path[-1]] = change(inner[path[-1]])
        product["law"] = whole

    return corrupt


def trials(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[..., None]:
    """Change the table of trials, and conclude from it as if it were sound."""

    def corrupt(data: dict[str, Any], product: dict[str, Any]) -> None:
        data["trials"] = pa.Table.from_pylist(change(data["trials"].to_pylist()))
        product |= CERTIFIED.conclude(data)

    return corrupt


def said(trial: int, **changed: Any) -> Callable[..., None]:
    return trials(lambda rows: [{**row, **(changed if place == trial else {})} for place, row in enumerate(rows)])


def told_of_all(data: dict[str, Any], product: dict[str, Any]) -> None:
    """The law that predicts was fitted to the largest size too."""
    whole = dict(product["law"])
    fitted = {name: whole[name] for name in ("asymptote", "coefficient", "exponent", "exponent_low", "exponent_high")}
    said = whole["asymptote"] + whole["coefficient"] * (whole["held_back"]["flops"] / UNIT) ** -whole["exponent"]
    product["law"] = {**whole, "held_back": {**whole["held_back"], **fitted, "predicted": said}}


def copied(data: dict[str, Any], product: dict[str, Any]) -> None:
    """One trial's scores stand for another's of the same seed."""
    start = data["score_start"]
    for name in ("logit", "chance"):
        part = data[name].copy()
        part[start[4] : start[5]] = part[start[3] : start[4]]
        data[name] = part
    product |= CERTIFIED.conclude(data)


def another_world(data: dict[str, Any], product: dict[str, Any]) -> None:
    """One trial was measured on the events of another seed."""
    start, other = data["score_start"], len(CERTIFIED.sizes)
    for name in ("label", "oracle"):
        part = data[name].copy()
        part[start[4] : start[5]] = part[start[other] : start[other + 1]]
        data[name] = part
    product |= CERTIFIED.conclude(data)


def told_the_labels(data: dict[str, Any], product: dict[str, Any]) -> None:
    """A trial knew its labels: better than the best that is possible."""
    start = data["score_start"]
    some = slice(start[5], start[6])
    logit, chance = data["logit"].copy(), data["chance"].copy()
    logit[some] += 3 * (data["label"][some].astype(np.float32) - 0.5)
    chance[some] = 1 / (1 + np.exp(-logit[some].astype(np.float64)))
    data |= {"logit": logit, "chance": chance}
    product |= CERTIFIED.conclude(data)


CORRUPTIONS: dict[str, tuple[Callable[..., None], str]] = {
    "labels shuffled after the points were made": (scores("label", lambda v: v[::-1]), "events_differ"),
    "chances nudged after points were made": (scores("chance", lambda v: v * np.float32(0.999)), "entropy_difference"),
    "logits negated": (scores("logit", lambda v: -v), "auc_difference"),
    "a chance is no number": (scores("chance", lambda v: np.where(np.arange(len(v)) == 7, np.nan, v)), "scores_broken"),
    "a chance is above one": (scores("chance", lambda v: np.where(np.arange(len(v)) == 7, 1.5, v)), "scores_broken"),
    "chances do not follow logits": (
        scores_and_points(scores("chance", lambda v: np.roll(v, 1))), "chances_disordered"),
    "the oracle of one trial is another": (scores("oracle", lambda v: v[::-1]), "events_differ"),
    "a trial is measured on another world": (another_world, "events_differ"),
    "a trial knew its labels": (told_the_labels, "least_above_oracle"),
    "scores of one trial stand for another": (copied, "trials_alike"),
    "rows learned from are fewer than said": (
        scores_and_points(scores("row_candidates", lambda v: np.maximum(v - 1, 0))), "examples_differ"),
    "rows learned from changed after the points were made": (
        scores("row_events", lambda v: v + 1), "operations_difference"),
    "an entropy is a thousandth better": (point("entropy", lambda v: 0.999 * v), "entropy_difference"),
    "an area is a little better": (point("auc", lambda v: v + 1e-5), "auc_difference"),
    "an oracle is worse": (point("oracle", lambda v: v + 1e-5), "oracle_difference"),
    "operations a hundredth too few": (point("flops", lambda v: 0.99 * v), "operations_difference"),
    "the backward pass left out": (point("flops", lambda v: v / 3), "operations_difference"),
    "a point of another width": (point("width", lambda v: v + 4), "descriptions_differ"),
    "weights that the network does not have": (said(4, weights=17), "weights_difference"),
    "a rate of its own": (said(4, learning_rate=0.5), "rate_rule_broken"),
    "a trial under another seed": (said(4, seed=9), "trials_missing_or_foreign"),
    "the exponent has the other sign": (law(lambda v: -v, "exponent"), "law_not_least"),
    "a steeper exponent": (law(lambda v: 1.2 * v, "exponent"), "law_not_least"),
    "an asymptote of its own": (law(lambda v: v - 0.01, "asymptote"), "law_not_least"),
    "a narrower interval": (law(lambda v: v + 0.02, "exponent_low"), "exponent_interval_off"),
    "an interval whose end is on the wrong side": (law(lambda v: 0.02, "exponent_high"), "exponent_interval_off"),
    "a prediction made afterwards": (law(lambda v: v + 1e-3, "held_back", "predicted"), "prediction_difference"),
    "the law that predicts was told of the largest size": (told_of_all, "law_of_the_smaller_not_least"),
    "another size was reached": (law(lambda v: v - 1e-3, "held_back", "measured"), "prediction_difference"),
    "a wider predictive interval": (law(lambda v: v + 0.02, "held_back", "high"), "predictive_interval_off"),
    "an interval that misses the largest": (law(lambda v: v - 0.2, "held_back", "high"), "predictive_interval_off"),
    "a steeper line of areas": (law(lambda v: 1.01 * v, "auc", "slope"), "auc_line_difference"),
    "areas nearer to their line": (law(lambda v: v + 1e-4, "auc", "r_squared"), "auc_line_difference"),
    "a surer line of areas": (law(lambda v: v + 1e-4, "auc", "slope_low"), "auc_line_difference"),
    "a line of areas that is no number": (law(lambda v: math.nan, "auc", "slope_high"), "auc_line_difference"),
    "a law that explains more": (law(lambda v: v + 1e-4, "r_squared"), "explained_difference"),
    "a law of the smaller that explains more": (
        law(lambda v: v + 1e-4, "held_back", "r_squared"), "explained_difference"),
    "a lower mean of the oracles": (law(lambda v: v - 1e-4, "oracle"), "oracle_mean_difference"),
    "a faster fall above the oracle": (
        law(lambda v: v + 1e-3, "above_oracle", "exponent"), "above_oracle_line_difference"),
    "a higher start above the oracle": (
        law(lambda v: 1.01 * v, "above_oracle", "coefficient"), "above_oracle_line_difference"),
    "a better foretelling above the oracle": (
        law(lambda v: v - 1e-4, "above_oracle", "predicted"), "above_oracle_line_difference"),
    "another spread of the largest size": (
        law(lambda v: v + 1e-4, "held_back", "measured_high"), "largest_size_difference"),
    "decades that were not spanned": (law(lambda v: v + 1, "decades"), "decades_difference"),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_study_is_refused_by_the_claim_that_it_breaks(name: str) -> None:
    corrupt, claim = CORRUPTIONS[name]
    data, product = dict(DATA_OF_STUDY), dict(PRODUCT)
    corrupt(data, product)
    assert claim in failures(data, product)


@pytest.mark.parametrize("missing", [0, 5, -1])
def test_a_trial_that_is_missing_or_there_twice_is_refused(missing: int) -> None:
    parts = [
        left_behind(trial, strength=0.25 + 1.6 / (1 + trial.place) ** 0.8, seed=number)
        for number, trial in enumerate(CERTIFIED.trials())
    ]
    del parts[missing]
    data = CERTIFIED.gather(parts)
    assert failures(data, CERTIFIED.conclude(data)) == {"trials_missing_or_foreign"}
    data = CERTIFIED.gather([*parts, parts[0], parts[0]])
    assert "trials_alike" in failures(data, CERTIFIED.conclude(data))


def test_sizes_that_span_too_little_and_an_error_that_does_not_fall_are_refused() -> None:
    wide = dataclasses.replace(CERTIFIED, least_decades=5.0)
    assert {claim.name for claim in wide.judge(PRODUCT, DATA_OF_STUDY, None).certificate.failures()} == {"decades"}
    parts = [left_behind(trial, strength=0.8, seed=number) for number, trial in enumerate(CERTIFIED.trials())]
    data = CERTIFIED.gather(parts)
    assert "exponent_low" in failures(data, CERTIFIED.conclude(data))


def test_the_certificate_imports_nothing_that_it_judges() -> None:
    import ast
    from pathlib import Path

    import models.feed.ranking.scaling_certificate as judged

    tree = ast.parse(Path(str(judged.__file__)).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in modules if name and name.startswith("models")}
    assert ours == {"models.common.certificate", "models.common.contracts"}
    assert math.isfinite(PRODUCT["law"]["exponent"])
