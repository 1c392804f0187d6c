"""How the ranker's error falls with what is spent on its training: a study of many trainings, and the law they follow.

    NE(C)  = a + b C^-c                      normalized entropy, C in 10^12 operations of training
    AUC(C) = u + v log10 C

A trial is one training: a width, a number of layers, the users whose sessions are learned from, a seed. Sizes grow
together, so that a larger network also sees more. Whatever belongs to one seed shares one simulated world, and is
measured on the same test sessions, of users whom no trial learned from; so trials of a seed differ in what was spent
and in nothing else, and the best score that is possible is known. The largest size is held back: the law of the others
says beforehand what it will reach.

Fixed before the first trial, and the same for all of them: one pass over the sessions, the rate of learning
`rate` / width with a cosine to zero, no dropout, rows of a batch.

Operations of a training are those of the products of matrices in the blocks and the head, multiply and add counted as
two, the backward pass as twice the forward one, attention as if it were not causal. What is looked up (embeddings), and
the projection of looked-up items, which is done once for each distinct item of a batch, is not counted, nor are norms,
softmax and gates' products.
"""

# Shapes: R rows of training, C candidates, T trials, K sizes.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import Batches, Payload, TrainingConfig
from models.common.gate import GateConfig
from models.common.judgement import Figure, Judgement, Series
from models.common.power_law import PowerLaw, fit_line, fit_power_law, predict
from models.common.transformer import TransformerConfig
from models.feed.events.metrics import auc, normalized_entropy
from models.feed.events.simulator import SimulatorConfig
from models.feed.events.splits import Split
from models.feed.events.table import Events
from models.feed.ranking.batches import rows_of
from models.feed.ranking.config import DataConfig, NetworkConfig, ObjectiveConfig, RankerConfig
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.scaling_certificate import Study, certify
from models.feed.ranking.score import batch_logits

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

UNIT = 1e12
"""Operations in which the law counts what is spent."""
BACKWARD = 2
"""Operations of the backward pass for each of the forward one: a product for the input's gradient, one for weights'."""

SCORES, ROWS = ("row", "label", "logit", "chance", "oracle"), ("row_events", "row_candidates")
"""What a trial leaves behind: one value a test event, and one a row that was learned from."""

AXES: tuple[Literal["compute", "examples", "history"], ...] = ("compute", "examples", "history")
STRAIGHT = 0.95
"""Share of the variance of AUC that a line must explain to be spoken of."""

Axis = Literal["compute", "examples", "history"]


def _check_name(configuration: Any, name: str) -> None:
    if not all(part.isalnum() and part.isascii() and part == part.lower() for part in name.split("-")):
        raise ValueError(
            f"{type(configuration).__name__}.name must be lower case letters, digits and single hyphens, got {name!r}."
        )


class Point(NamedTuple):
    """One size of the study: the mean over its seeds.

    Attributes:
        flops: operations of training, mean over seeds.
        entropy: normalized entropy, mean over seeds.
        low, high: least and largest over seeds.
        auc: mean over seeds.
        auc_low, auc_high: least and largest over seeds.
    """

    flops: float
    entropy: float
    low: float
    high: float
    auc: float
    auc_low: float
    auc_high: float


@dataclass(frozen=True, kw_only=True)
class SizeConfig:
    """One size: of the network, and of what it learns from."""

    width: int = setting(16, "Width", "Numbers in a token's vector, 4 to 4096; a multiple of 4.", ge=4, le=4096)
    layers: int = setting(1, "Layers", "Blocks on top of one another, 1 to 64.", ge=1, le=64)
    users: int = setting(1000, "Users", "Users whose sessions are learned from, 8 to 10000000.", ge=8, le=10_000_000)

    def __post_init__(self) -> None:
        check(self)
        if self.width % 4:
            raise ValueError(f"SizeConfig.width must be a multiple of 4, two heads of even width, got {self.width}.")


def _data() -> DataConfig:
    return DataConfig(name="scaling-seed-0", simulator=SimulatorConfig(users=160))


def _ranker() -> RankerConfig:
    return RankerConfig(
        architecture=NetworkConfig(
            transformer=TransformerConfig(width=8, heads=2, layers=1, multiplier=2, dropout=0.0),
            item_width=8,
            forgetting=0.0,
        ),
        objective=ObjectiveConfig(recency_days=0.0),
        training=TrainingConfig(epochs=1, batch_size=8, learning_rate=0.02, weight_decay=0.1, schedule="cosine"),
    )


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One training of a study, and what it is measured on."""

    name: str = setting(
        "scaling-trial",
        "Name",
        "Name of what is measured: lower case letters, digits and hyphens, 1 to 63.",
        min_length=1,
        max_length=63,
    )
    axis: Literal["compute", "examples", "history"] = setting(
        "compute", "Axis", "What is varied: compute, where all grows together, examples alone, or history alone."
    )
    place: int = setting(0, "Place", "Which size on the axis, from the smallest, 0 to 1000.", ge=0, le=1000)
    seed: int = setting(0, "Seed", "Start of every random stream, 0 to 2147483647.", ge=0, le=2147483647)
    users: int = setting(80, "Users", "Users whose sessions are learned from, 8 to 10000000.", ge=8, le=10_000_000)
    measured: int = setting(
        80, "Users measured", "The last users of the data, nobody learns from them, 2 to 10000000.", ge=2, le=10_000_000
    )
    data: DataConfig = setting(_data, "Data", "The simulated feed; trials of one seed share it.")
    ranker: RankerConfig = setting(_ranker, "Ranker", "The network and how it learns.")

    def __post_init__(self) -> None:
        check(self)
        _check_name(self, self.name)
        if self.data.source != "simulator" or self.users + self.measured > self.data.simulator.users:
            raise ValueError(
                f"TrialConfig needs a simulated feed of at least users + measured = {self.users + self.measured} "
                f"users, got {self.data.source} with {self.data.simulator.users}; raise SimulatorConfig.users."
            )
        network = self.ranker.architecture
        counted = self.ranker.model == "ligr" and not network.session_layers and not network.company
        if not counted or self.ranker.objective.cut:
            raise ValueError(
                f"TrialConfig counts the operations of LiGR without blocks of the session, without company and with "
                f"whole sessions, got model {self.ranker.model!r}, session_layers {network.session_layers}, company "
                f"{network.company} and cut {self.ranker.objective.cut}; take 'ligr', 0, 0 and 0."
            )

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        network, training = self.ranker.architecture, self.ranker.training
        return {
            "study": self.axis,
            "data": self.data.name,
            "model": "LiGR",
            "width": network.transformer.width,
            "layers": network.transformer.layers,
            "history": network.history,
            "users": self.users,
            "learning_rate": training.learning_rate,
            "batch_size": training.batch_size,
            "epochs": training.epochs,
            "seed": self.seed,
        }

    # ------------------------------------------------------------------------------------------ learning (Trainable)

    @property
    def training(self) -> TrainingConfig:
        """How training runs."""
        return self.ranker.training

    @property
    def monitor(self) -> str:
        """The validation metric by which the best epoch is kept; there is one epoch."""
        return self.ranker.monitor

    def sizes(self, data: Payload) -> Mapping[str, int]:
        """Numbers of users, items, categories and tasks."""
        return self.ranker.sizes(data)

    def network(self, sizes: Mapping[str, int]) -> torch.nn.Module:
        """A fresh network; random state is the caller's."""
        return self.ranker.network(sizes)

    def start(self, network: torch.nn.Module, data: Payload) -> None:
        """Set a fresh network's weights in place from the sessions that are learned from, where the ranker says so."""
        self.ranker.start(network, self._view(data))

    def batches(self, data: Payload, *, rank: int, processes: int) -> Batches:
        """This process's share of the training batches."""
        return self.ranker.batches(self._view(data), rank=rank, processes=processes)

    def loss(self, network: torch.nn.Module, batch: Any) -> torch.Tensor:
        """The impression objective."""
        return self.ranker.loss(network, batch)

    def validate(self, network: torch.nn.Module, data: Payload) -> Mapping[str, float]:
        """Metrics on the validation part of the users who are measured; fits the calibration there."""
        return self.ranker.validate(network, self._view(data))

    def _view(self, data: Payload) -> Payload:
        """The log of this trial's users and of those measured: it learns from the first, and is measured on the last.

        `kept` has the rows of the whole log. A log of few users takes as long to prepare as it has events.
        """
        events, split = Events.from_payload(data), Split.from_payload(data)
        last = self.data.simulator.users - self.measured
        ours, theirs = events.user < self.users, events.user >= last
        kept = np.flatnonzero(ours | theirs)
        place = np.cumsum(ours | theirs) - 1
        part = replace(
            events,
            **{
                name: getattr(events, name)[kept] for name in ("user", "item", "time", "session", "position", "actions")
            },
        )
        narrowed = replace(
            split,
            train=place[split.train[ours[split.train]]],
            validation=place[split.validation[theirs[split.validation]]],
            test=place[split.test[theirs[split.test]]],
            left_out=place[split.left_out[(ours | theirs)[split.left_out]]],
        )
        return {**part.payload(), **narrowed.payload(), "layout": data["layout"], "kept": kept}

    # ----------------------------------------------------------------------------------------- measuring (Measured)

    def measure(self, product: Payload, data: Payload, network: torch.nn.Module) -> Payload:
        """Scores of the test sessions, and what was spent to make them.

        Args:
            product: the trained model.
            data: the data set.
            network: with the model's weights, in evaluation mode.

        Returns:
            `row`, `label`, `logit`, `chance` and `oracle` of every test event (C): the oracle is the best chance that
            sees the whole slate; `row_events` and `row_candidates`, the sizes of the rows that were learned from; and
            `about`, what the trial was.

        Source:
            Ours.
        """
        ranker: Any = network
        view = self._view(data)
        inputs, split = Inputs.of(view), Split.from_payload(view)
        rows, logit = batch_logits(ranker, inputs, inputs.sessions_of(split.test))
        learned = rows_of(
            inputs,
            inputs.sessions_of(split.train),
            history=self.ranker.architecture.history,
            candidates=self.ranker.objective.candidates,
        )
        block, training = self.ranker.architecture.transformer, self.ranker.training
        return {
            "row": view["kept"][rows],
            "label": inputs.events.label[rows].astype(np.uint8),
            "logit": logit[:, 0],
            "chance": ranker.chances(logit)[:, 0].astype(np.float32),
            "oracle": np.asarray(data["oracle_setwise"])[view["kept"][rows]].astype(np.float32),
            "row_events": learned.length.astype(np.int32),
            "row_candidates": np.diff(learned.start).astype(np.int32),
            "about": {
                "axis": self.axis,
                "place": self.place,
                "seed": self.seed,
                "width": block.width,
                "layers": block.layers,
                "multiplier": block.multiplier,
                "gate": block.gate,
                "head": self.ranker.architecture.head,
                "tasks": len(inputs.events.tasks),
                "history": self.ranker.architecture.history,
                "users": self.users,
                "batch_size": training.batch_size,
                "steps": int(product["training"]["steps"]),
                "examples": len(split.train),
                "learning_rate": training.learning_rate,
                "weights": sum(part.numel() for part in (*ranker.transformer.parameters(), *ranker.head.parameters())),
            },
        }

    def metrics(self, measured: Payload) -> Mapping[str, float]:
        """What a person compares trials by: operations of training, and what they bought."""
        point = _point(measured["about"], measured)
        return {name: float(point[name]) for name in ("flops", "entropy", "auc", "oracle")}


def forward_flops(network: NetworkConfig, tasks: int, events_R: NDArray[Any], candidates_R: NDArray[Any]) -> Integers:
    """Operations of one forward pass over rows without padding; what is counted stands at the top of this module.

    Args:
        network: sizes; without blocks of the session.
        tasks: responses, each an output of the head and an input of an event.
        events_R: events of each row.
        candidates_R: candidates of each row.

    Returns:
        (R) operations.

    Raises:
        ValueError: the network has blocks of the session or company, which are not counted here.

    Source:
        Ours, product by product; "embedding-free" as in Kaplan et al. 2020, "Scaling Laws for Neural Language Models",
        section 2.1, but with attention and with what each token costs beside the weights.
    """
    if network.session is not None or network.ways:
        raise ValueError(
            "operations of blocks of the session and of company are not counted; set session_layers and company to 0."
        )
    block = network.transformer
    width, inner = block.width, block.inner_width
    events, candidates = np.asarray(events_R, np.int64), np.asarray(candidates_R, np.int64)
    tokens = events + candidates
    weights = (4 + 2 * block.gate) * width**2 + 3 * width * inner
    seen = events * events + candidates * tokens
    head = width * tasks + (width**2 if network.head == "mlp" else 0)
    total = (
        block.layers * (2 * weights * tokens + 4 * width * seen) + 2 * head * candidates + 2 * tasks * width * events
    )
    return np.asarray(total, np.int64)


def training_flops(about: Mapping[str, Any], events_R: NDArray[Any], candidates_R: NDArray[Any]) -> float:
    """Operations of a trial's training: forward and backward over as many rows as its steps took.

    Args:
        about: the trial, as `TrialConfig.measure` describes it.
        events_R: events of each row that could be learned from.
        candidates_R: candidates of each.

    Returns:
        Operations; the rows that fill no last batch are left out in proportion.

    Source:
        Ours; the backward pass as in Kaplan et al. 2020, section 2.1.
    """
    network = NetworkConfig(
        transformer=TransformerConfig(
            width=about["width"], heads=2, layers=about["layers"], multiplier=about["multiplier"], gate=about["gate"]
        ),
        head=about["head"],
    )
    forward = int(forward_flops(network, about["tasks"], events_R, candidates_R).sum())
    passes = int(about["steps"]) * int(about["batch_size"]) / len(events_R)
    return (1 + BACKWARD) * forward * passes


def _sizes() -> tuple[SizeConfig, ...]:
    return (
        SizeConfig(width=4, layers=1, users=40),
        SizeConfig(width=8, layers=1, users=60),
        SizeConfig(width=12, layers=1, users=90),
        SizeConfig(width=16, layers=1, users=140),
        SizeConfig(width=20, layers=2, users=210),
    )


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """A study: its sizes and seeds, what all trials share, how its law is judged, and when that goes live."""

    name: str = setting(
        "scaling",
        "Name",
        "Name of the study and of its law: lower case letters, digits and hyphens, 1 to 40.",
        min_length=1,
        max_length=40,
    )
    simulator: SimulatorConfig = setting(
        lambda: SimulatorConfig(user_spread=1.0),
        "Simulator",
        "The simulated feed; users and seed are set by the study.",
    )
    sizes: tuple[SizeConfig, ...] = setting(_sizes(), "Sizes", "From the smallest to the largest; 5 or more.")
    held_back: int = setting(
        1,
        "Held back",
        "Largest sizes that the law is not told of; it predicts the largest of all, 1 to 10.",
        ge=1,
        le=10,
    )
    seeds: int = setting(
        2, "Seeds", "Trainings of each size, each in a simulated world of its own, 1 to 100.", ge=1, le=100
    )
    measured: int = setting(
        80,
        "Users measured",
        "Users whose test sessions measure all trials of a seed, 2 to 10000000.",
        ge=2,
        le=10_000_000,
    )
    axis_size: SizeConfig = setting(
        lambda: SizeConfig(width=8, layers=1, users=90),
        "Size on the axes",
        "The network of the axes of examples and of history, and the users of the latter.",
    )
    examples: tuple[int, ...] = setting(
        (45, 90), "Axis of examples", "Users whose sessions are learned from, all else alike; empty: no axis."
    )
    histories: tuple[int, ...] = setting(
        (10, 40), "Axis of history", "Latest events that are seen, all else alike; empty: no axis."
    )
    axis_seeds: int = setting(
        1, "Seeds of the axes", "Trainings of each size on the axes of examples and history, 1 to 100.", ge=1, le=100
    )
    history: int = setting(
        128, "History", "Latest events that are seen by all other trials, 1 to 100000.", ge=1, le=100_000
    )
    rate: float = setting(0.16, "Rate", "Peak learning rate times the width, above 0 to 10.", gt=0, le=10)
    batch_size: int = setting(4, "Batch size", "Rows of a step, 2 to 65536.", ge=2, le=65536)
    least_decades: float = setting(
        1.0, "Least decades", "Powers of ten that the operations of the sizes must span, 0 to 10.", ge=0, le=10
    )
    least_exponent: float = setting(
        0.0,
        "Least exponent",
        "What the lower end of the exponent's interval must reach, 0 to 1; up to 0.005 nothing is asked.",
        ge=0,
        le=1,
    )
    concurrency: int = setting(
        1, "Concurrency", "Trials at a time, each in a process of its own, 1 to 16.", ge=1, le=16
    )
    gate: GateConfig = setting(GateConfig, "Gate", "When the law goes live.")

    def __post_init__(self) -> None:
        check(self)
        _check_name(self, self.name)
        if len(self.sizes) - self.held_back < 4:
            raise ValueError(
                f"ScalingConfig.sizes must be at least {self.held_back + 4}: a law has three numbers, and "
                f"{self.held_back} of the sizes are held back from it; got {len(self.sizes)}."
            )
        for what, rising in (
            ("width^2 x layers x users of ScalingConfig.sizes", [s.width**2 * s.layers * s.users for s in self.sizes]),
            ("ScalingConfig.examples", self.examples),
            ("ScalingConfig.histories", self.histories),
        ):
            for smaller, larger in pairwise(rising):
                if larger <= smaller:
                    raise ValueError(
                        f"{what} must rise, got {larger} after {smaller}; order them from the smallest to the largest, "
                        f"none twice."
                    )

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        return {
            "study": self.name,
            "model": "LiGR",
            "sizes": len(self.sizes),
            "seeds": self.seeds,
            "largest_width": self.sizes[-1].width,
            "largest_users": self.sizes[-1].users,
            "held_back": self.held_back,
            "measured": self.measured,
            "rate": self.rate,
            "batch_size": self.batch_size,
        }

    def trials(self) -> tuple[TrialConfig, ...]:
        """All trainings: the sizes, seed by seed from the smallest, and after them the axes."""
        compute = (
            self._trial("compute", place, seed, size)
            for seed in range(self.seeds)
            for place, size in enumerate(self.sizes)
        )
        examples = (
            self._trial("examples", place, seed, replace(self.axis_size, users=users))
            for seed in range(self.axis_seeds)
            for place, users in enumerate(self.examples)
        )
        histories = (
            self._trial("history", place, seed, self.axis_size, history)
            for seed in range(self.axis_seeds)
            for place, history in enumerate(self.histories)
        )
        return (*compute, *examples, *histories)

    def _trial(self, axis: Axis, place: int, seed: int, size: SizeConfig, history: int = 0) -> TrialConfig:
        most = max(*(one.users for one in (*self.sizes, self.axis_size)), *self.examples, 0)
        # one session a row, so that no session sees more than its own history
        alone = {"candidates": 1} if history else {}
        return TrialConfig(
            name=f"{self.name}-{axis}-{place}-{seed}",
            axis=axis,
            place=place,
            seed=seed,
            users=size.users,
            measured=self.measured,
            data=DataConfig(
                name=f"{self.name}-seed-{seed}",
                simulator=replace(self.simulator, users=most + self.measured, seed=seed),
            ),
            ranker=RankerConfig(
                architecture=NetworkConfig(
                    transformer=TransformerConfig(
                        width=size.width, heads=2, layers=size.layers, multiplier=2, dropout=0.0
                    ),
                    item_width=size.width,
                    history=history or self.history,
                    forgetting=0.0,
                ),
                objective=ObjectiveConfig(recency_days=0.0, **alone),
                training=TrainingConfig(
                    epochs=1,
                    batch_size=self.batch_size * (SESSIONS_A_ROW if history else 1),
                    learning_rate=self.rate / size.width,
                    weight_decay=0.1,
                    schedule="cosine",
                    second_beta=0.98,
                    seed=seed,
                ),
            ),
        )

    # -------------------------------------------------------------------------------------------- the whole (Studied)

    def gather(self, parts: Sequence[Payload]) -> Payload:
        """All trials as one data set: their scores one after another, and a table of what they were.

        Args:
            parts: what `TrialConfig.measure` returned, in the order of `trials`.

        Returns:
            The parts of the trials, concatenated, `score_start` and `row_start` (T + 1) where each trial's begin, and
            `trials`, a table.
        """
        return {
            **{name: np.concatenate([part[name] for part in parts]) for name in (*SCORES, *ROWS)},
            "score_start": np.cumsum([0, *(len(part["label"]) for part in parts)]).astype(np.int64),
            "row_start": np.cumsum([0, *(len(part["row_events"]) for part in parts)]).astype(np.int64),
            "trials": pa.Table.from_pylist([part["about"] for part in parts]),
        }

    def conclude(self, data: Payload) -> Payload:
        """Every trial's metrics, and the laws that they follow.

        Args:
            data: what `gather` returned.

        Returns:
            `points`, one a trial, and `law`.
        """
        points = points_of(data)
        return {"points": points, "law": law_of(points, self.held_back)}

    def judge(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """The law with its certificate, its table and its figures."""
        points, law = product["points"], product["law"]
        held = law["held_back"]
        metrics = {
            "exponent": law["exponent"],
            "exponent_low": law["exponent_low"],
            "exponent_high": law["exponent_high"],
            "asymptote": law["asymptote"],
            "coefficient": law["coefficient"],
            "r_squared": law["r_squared"],
            "exponent_above_oracle": law["above_oracle"]["exponent"],
            "auc_slope": law["auc"]["slope"],
            "auc_r_squared": law["auc"]["r_squared"],
            "predicted": held["predicted"],
            "predicted_low": held["low"],
            "predicted_high": held["high"],
            "measured": held["measured"],
            "prediction_error": held["measured"] - held["predicted"],
            "normalized_entropy_oracle": law["oracle"],
            "decades": law["decades"],
            "trials": float(len(points)),
        }
        return Judgement(
            headline="exponent",
            metrics=metrics,
            certificate=certify(
                data,
                points,
                law,
                Study(
                    trials=tuple((trial.axis, trial.place, trial.seed) for trial in self.trials()),
                    held_back=self.held_back,
                    least_decades=self.least_decades,
                    least_exponent=self.least_exponent,
                ),
            ),
            table=table_of(points),
            figures=figures_of(points, law),
            protocol=PROTOCOL,
        )


SESSIONS_A_ROW = 8
"""Sessions of a user that other trials have in one row, about; trials of the axis of history have one."""
PROTOCOL = (
    "Global time split; whole sessions of users that no trial learned from, the same for all trials of a seed; "
    "calibration fitted on their validation sessions; one pass; normalized entropy and AUC of the click; a size is the "
    "mean over its seeds."
)


def points_of(data: Payload) -> list[dict[str, Any]]:
    """Every trial with what it cost and what it reached.

    Args:
        data: what `ScalingConfig.gather` returned.

    Returns:
        One row a trial: what it was, `flops`, `entropy`, `auc`, and `oracle`, the entropy of the best that sees slates.
    """
    trials, score, row = data["trials"].to_pylist(), data["score_start"], data["row_start"]
    points = []
    for number, about in enumerate(trials):
        scored, learned = slice(score[number], score[number + 1]), slice(row[number], row[number + 1])
        parts = {name: data[name][scored] for name in SCORES} | {name: data[name][learned] for name in ROWS}
        points.append(_point(about, parts))
    return points


def _point(about: Mapping[str, Any], parts: Payload) -> dict[str, Any]:
    label = parts["label"]
    return {
        **about,
        "flops": training_flops(about, parts["row_events"], parts["row_candidates"]),
        "entropy": normalized_entropy(label, parts["chance"]),
        "auc": auc(label, parts["logit"]),
        "oracle": normalized_entropy(label, parts["oracle"]),
        "impressions": len(label),
    }


def means_of(points: Sequence[Mapping[str, Any]], axis: Axis) -> list[Point]:
    """The sizes of an axis, means over seeds, from the smallest."""
    places = sorted({point["place"] for point in points if point["axis"] == axis})
    found = []
    for place in places:
        some = [point for point in points if (point["axis"], point["place"]) == (axis, place)]
        entropy, area = [one["entropy"] for one in some], [one["auc"] for one in some]
        found.append(
            Point(
                flops=float(np.mean([one["flops"] for one in some])),
                entropy=float(np.mean(entropy)),
                low=min(entropy),
                high=max(entropy),
                auc=float(np.mean(area)),
                auc_low=min(area),
                auc_high=max(area),
            )
        )
    return found


def law_of(points: Sequence[Mapping[str, Any]], held_back: int) -> dict[str, Any]:
    """The law of all sizes, and what that of the smaller ones says of the largest.

    Args:
        points: what `points_of` returned.
        held_back: largest sizes that the second law is not told of.

    Returns:
        Numbers by name. The law of AUC and that of the entropy above the oracle are straight lines over log10 C.
    """
    means = means_of(points, "compute")
    x = np.array([one.flops for one in means]) / UNIT
    y, area = np.array([one.entropy for one in means]), np.array([one.auc for one in means])
    oracle = float(np.mean([point["oracle"] for point in points if point["axis"] == "compute"]))
    law = fit_power_law(x, y)
    known, above = fit_power_law(x[:-held_back], y[:-held_back]), np.log10(np.maximum(y - oracle, 1e-9))
    ahead = predict(x[:-held_back], y[:-held_back], float(x[-1]))
    rise, fall, short = fit_line(x, area), fit_line(x, above), fit_line(x[:-held_back], above[:-held_back])
    return {
        "unit": UNIT,
        **_spelled(law),
        "oracle": oracle,
        "decades": float(np.log10(x[-1] / x[0])),
        "held_back": {
            **_spelled(known),
            "sizes": held_back,
            "flops": means[-1].flops,
            "predicted": ahead.value,
            "low": ahead.low,
            "high": ahead.high,
            "measured": means[-1].entropy,
            "measured_low": means[-1].low,
            "measured_high": means[-1].high,
        },
        "above_oracle": {
            "exponent": -fall.slope,
            "exponent_low": -fall.high,
            "exponent_high": -fall.low,
            "coefficient": 10**fall.intercept,
            "r_squared": fall.r_squared,
            "predicted": oracle + 10 ** (short.intercept + short.slope * float(np.log10(x[-1]))),
        },
        "auc": {
            "intercept": rise.intercept,
            "slope": rise.slope,
            "slope_low": rise.low,
            "slope_high": rise.high,
            "r_squared": rise.r_squared,
        },
    }


def _spelled(law: PowerLaw) -> dict[str, float]:
    return {
        "asymptote": law.asymptote,
        "coefficient": law.coefficient,
        "exponent": law.exponent,
        "exponent_low": law.low,
        "exponent_high": law.high,
        "r_squared": law.r_squared,
    }


# --- for a person -----------------------------------------------------------------------------------------------------


def table_of(points: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """One row a size of each axis: what it is, what it costs, and mean with least and largest over seeds."""
    rows: list[Mapping[str, Any]] = []
    for axis in AXES:
        for place, mean in enumerate(means_of(points, axis)):
            about = next(one for one in points if (one["axis"], one["place"]) == (axis, place))
            rows.append(
                {
                    "axis": axis,
                    "width": about["width"],
                    "layers": about["layers"],
                    "weights": about["weights"],
                    "users": about["users"],
                    "history": about["history"],
                    "operations": mean.flops,
                    "normalized entropy": mean.entropy,
                    "least": mean.low,
                    "largest": mean.high,
                    "AUC": mean.auc,
                    "AUC least": mean.auc_low,
                    "AUC largest": mean.auc_high,
                }
            )
    return tuple(rows)


def figures_of(points: Sequence[Mapping[str, Any]], law: Mapping[str, Any]) -> tuple[Figure, ...]:
    """The law above its asymptote, the AUC, and the axes that there are."""
    means, held = means_of(points, "compute"), law["held_back"]
    seeds = _seeds(points, "compute")
    return (
        _law_figure(means, held, seeds),
        _auc_figure(means, law, seeds),
        *(_axis_figure(points, axis) for axis in AXES[1:] if _seeds(points, axis)),
    )


def _seeds(points: Sequence[Mapping[str, Any]], axis: Axis) -> int:
    return sum((one["axis"], one["place"]) == (axis, 0) for one in points)


def _law_figure(means: list[Point], held: Mapping[str, Any], seeds: int) -> Figure:
    """The law that was not told of the largest size, and that size.

    Above the asymptote on logarithmic axes; as it is, where a size falls below the asymptote, which no logarithm shows.
    """
    told = means[: -held["sizes"]]
    x, y = np.array([one.flops for one in told]) / UNIT, np.array([one.entropy for one in told])
    curve = np.geomspace(means[0].flops / 1.3, means[-1].flops * 1.3, 30)
    band = [predict(x, y, float(one) / UNIT) for one in curve]
    above = min(one.low for one in means) > held["asymptote"]
    floor = held["asymptote"] if above else 0.0
    least = 0.25 * min(one.value - floor for one in band) if above else 0.0
    off = 100 * (held["measured"] / held["predicted"] - 1)

    def marks(some: list[Point], label: str) -> Series:
        return Series(
            label=label,
            style="marks",
            x=tuple(one.flops for one in some),
            y=tuple(one.entropy - floor for one in some),
            low=tuple(one.low - floor for one in some),
            high=tuple(one.high - floor for one in some),
        )

    return Figure(
        name="law",
        title=f"The largest size is {abs(off):.1f} % {'above' if off > 0 else 'below'} what the smaller ones foretell",
        x_label="operations of training",
        y_label=f"normalized entropy less its asymptote, {floor:.3f}" if above else "normalized entropy",
        series=(
            Series(
                label=f"C^-{held['exponent']:.2f}",
                style="curve",
                x=tuple(curve.tolist()),
                y=tuple(one.value - floor for one in band),
                low=tuple(max(one.low - floor, least) for one in band),
                high=tuple(one.high - floor for one in band),
            ),
            marks(told, "fitted to"),
            marks(means[-held["sizes"] :], "held back"),
        ),
        caption=f"{_of_seeds(seeds)} Band: where a size should fall, 95 %. Exponent {held['exponent']:.3f}, interval "
        f"{held['exponent_low']:.3f} to {held['exponent_high']:.3f}.",
        log_x=True,
        log_y=above,
    )


def _of_seeds(seeds: int) -> str:
    return f"Means of {seeds} seeds, bars over their worlds." if seeds > 1 else "One seed, no spread."


def _auc_figure(means: list[Point], law: Mapping[str, Any], seeds: int) -> Figure:
    rise = law["auc"]
    x = tuple(one.flops for one in means)
    return Figure(
        name="auc",
        title=f"Ten times the operations add {rise['slope']:.3f} of AUC"
        if rise["r_squared"] >= STRAIGHT
        else "AUC is no straight line over the logarithm of operations",
        x_label="operations of training",
        y_label="AUC",
        series=(
            Series(
                label=f"{rise['slope']:+.3f} a decade",
                style="curve",
                x=x,
                y=tuple(rise["intercept"] + rise["slope"] * float(np.log10(one / UNIT)) for one in x),
            ),
            Series(
                label="LiGR",
                style="marks",
                x=x,
                y=tuple(one.auc for one in means),
                low=tuple(one.auc_low for one in means),
                high=tuple(one.auc_high for one in means),
            ),
        ),
        caption=f"{_of_seeds(seeds)} R^2 of the line {rise['r_squared']:.3f}.",
        log_x=True,
    )


def _axis_figure(points: Sequence[Mapping[str, Any]], axis: Axis) -> Figure:
    some = [one for one in points if one["axis"] == axis]
    means, seeds = means_of(points, axis), _seeds(points, axis)
    what = "users" if axis == "examples" else "history"
    x = tuple(next(one[what] for one in some if one["place"] == place) for place in range(len(means)))
    falls = means[-1].entropy < means[0].entropy
    more = "More users to learn from" if axis == "examples" else "A longer history"
    return Figure(
        name=axis,
        title=f"{more} {'helps' if falls else 'does not help'}, all else alike",
        x_label="users whose sessions are learned from" if axis == "examples" else "latest events that are seen",
        y_label="normalized entropy",
        series=(
            Series(
                label=f"width {some[0]['width']}",
                x=x,
                y=tuple(one.entropy for one in means),
                low=tuple(one.low for one in means) if seeds > 1 else (),
                high=tuple(one.high for one in means) if seeds > 1 else (),
            ),
        ),
        caption="Exploratory. "
        + (f"Means of {seeds} seeds; band from least to largest." if seeds > 1 else "One seed, no spread."),
        log_x=True,
    )


# --- sizes ------------------------------------------------------------------------------------------------------------


def tiny() -> ScalingConfig:
    """Five sizes, two seeds, a handful of steps each: the whole flow in about a CPU-minute; shows no law."""
    return ScalingConfig()


def small() -> ScalingConfig:
    """Seven sizes over two decades of operations, three seeds: some ten CPU-minutes, and two more for the axes.

    Tastes are strong and mostly told by categories, so that the smallest size already learns to look at the history;
    below it lies a plateau that only knows which items are popular, and no law.
    """
    return ScalingConfig(
        name="scaling-small",
        simulator=SimulatorConfig(items=240, sessions=10.0, affinity=2.5, told=0.9),
        sizes=tuple(
            SizeConfig(width=width, layers=1, users=users)
            for width, users in ((16, 1600), (20, 2300), (24, 3200), (32, 4400), (44, 6000), (60, 8400), (80, 12_000))
        ),
        seeds=3,
        measured=2000,
        axis_size=SizeConfig(width=24, layers=1, users=3200),
        examples=(1600, 3200, 6400, 12_000),
        histories=(10, 20, 40, 80),
        axis_seeds=1,
        least_decades=2.0,
        least_exponent=0.01,
    )


def paper() -> ScalingConfig:
    """Seven sizes up to 16 layers, over a simulated feed of 5,000 items; for GPUs, and not run by us.

    LiGR (arXiv 2502.03417, section 5.1) reports 0.015 of AUC for ten times the operations; its sizes, its learning rate
    and its tables are not published, so these sizes are ours.
    """
    return ScalingConfig(
        name="scaling-paper",
        simulator=SimulatorConfig(items=5000, categories=20, sessions=20.0),
        sizes=tuple(
            SizeConfig(width=width, layers=layers, users=users)
            for width, layers, users in (
                (16, 2, 4000),
                (32, 2, 10_000),
                (64, 4, 25_000),
                (96, 4, 60_000),
                (128, 8, 150_000),
                (192, 8, 400_000),
                (256, 16, 1_000_000),
            )
        ),
        seeds=3,
        measured=20_000,
        axis_size=SizeConfig(width=64, layers=4, users=25_000),
        examples=(10_000, 25_000, 60_000, 150_000),
        histories=(32, 64, 128, 256),
        history=512,
        least_decades=4.0,
        least_exponent=0.01,
    )
