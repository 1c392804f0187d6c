"""The ranking system's configuration: it builds data, network, training and judgement."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from models.common.configuration import check, setting
from models.common.contracts import Payload, TrainingConfig
from models.common.gate import GateConfig
from models.common.judgement import Judgement
from models.common.transformer import TransformerConfig
from models.feed.events.contest import JudgementConfig, main_metrics
from models.feed.events.counting import item_rates
from models.feed.events.preparation import MovieLensConfig
from models.feed.events.scoring import sizes_of
from models.feed.events.serving import InService
from models.feed.events.simulator import sized
from models.feed.events.splits import Split
from models.feed.events.table import EventsTableConfig
from models.feed.ranking import judge as judging
from models.feed.ranking.baselines import BASELINES
from models.feed.ranking.batches import SessionBatches, candidate_weights, rows_of
from models.feed.ranking.data import DataConfig
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.loss import impression_loss
from models.feed.ranking.network import Batch, LiGR, NetworkConfig
from models.feed.ranking.score import batch_logits
from models.feed.ranking.scorer import Scorer, TokenScorer

if TYPE_CHECKING:
    from models.feed.ranking.service import Served

__all__ = [
    "DataConfig",
    "EventsTableConfig",
    "JudgementConfig",
    "MovieLensConfig",
    "NetworkConfig",
    "ObjectiveConfig",
    "RankerConfig",
    "RankingConfig",
    "TrainingConfig",
    "TransformerConfig",
    "movielens",
    "paper",
    "small",
    "tiny",
]


Model = Literal["ligr", "logistic", "dcnv2", "din", "sasrec", "hstu"]
NETWORKS: Mapping[str, Any] = {"ligr": LiGR, **BASELINES}
"""What makes each model from the numbers of users, items, categories and tasks, and from sizes."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What counts in the loss, and how candidates share a row."""

    recency_days: float = setting(
        60.0,
        "Half-life by time",
        "Days before the last training event after which an event counts half, 0 to 10000; 0: all alike.",
        ge=0,
        le=10_000,
    )
    position: float = setting(
        0.0,
        "Half-life by position",
        "Later training events of the same user after which an event counts half, 0 to 1000000; 0: all alike.",
        ge=0,
        le=1_000_000,
    )
    prior: float = setting(
        0.0,
        "Prior of identities",
        "Inverse variance of the embedding of an item or a user before anything is known of it, 0 to 10000; the more, "
        "the less is believed of what was seldom met; 0: no prior.",
        ge=0,
        le=10_000,
    )
    smoothing: float = setting(
        0.0,
        "Smoothing of the start",
        "Events of the rate of all that are added to those of each item in training, to give the log-odds at which the "
        "item's bias begins, 0 to 10000; 0: it begins at zero.",
        ge=0,
        le=10_000,
    )
    cut: float = setting(
        0.0,
        "Cut sessions",
        "Share of the training sessions that end at a random moment, other ones in each epoch; what follows is learned "
        "as a session that knows what came before, 0 to 1.",
        ge=0,
        le=1,
    )
    candidates: int = setting(
        128,
        "Candidates in a row",
        "Most candidates of one user's sessions that share one pass over her history in training, 1 to 100000.",
        ge=1,
        le=100_000,
    )

    def __post_init__(self) -> None:
        check(self)


def _training() -> TrainingConfig:
    return TrainingConfig(epochs=6, batch_size=8, learning_rate=5e-3, weight_decay=0.1)


@dataclass(frozen=True, kw_only=True)
class RankerConfig(InService):
    """The ranker and how it learns."""

    model: Model = setting(
        "ligr",
        "Model",
        "What scores: LiGR, or a baseline to compare it with: logistic regression or DCNv2 on counting features, DIN, "
        "SASRec or HSTU on the history. A baseline takes of architecture and objective what it has (logistic "
        "regression neither widths and blocks nor prior and smoothing), is judged, and never goes live.",
    )
    architecture: NetworkConfig = setting(NetworkConfig, "Architecture", "What scores the candidates of a session.")
    objective: ObjectiveConfig = setting(ObjectiveConfig, "Objective", "What counts in the loss.")
    training: TrainingConfig = setting(_training, "Training", "How it learns; a batch is of rows, one user each.")

    @property
    def monitor(self) -> str:
        """The validation metric by which the best epoch is kept."""
        return "auc"

    def sizes(self, data: Payload) -> Mapping[str, int]:
        """Numbers of users, items, categories and tasks."""
        inputs = Inputs.of(data)
        return sizes_of(inputs.events, inputs.categories)

    def network(self, sizes: Mapping[str, int]) -> Scorer:
        """A fresh network; random state is the caller's."""
        network: Scorer = NETWORKS[self.model](**sizes, config=self.architecture)
        return network

    def start(self, network: torch.nn.Module, data: Payload) -> None:
        """Let the bias of every item begin at the log-odds of its smoothed rate in training, less those of all."""
        if not self.objective.smoothing or not isinstance(network, TokenScorer):
            return
        events, rows = Inputs.of(data).events, Split.from_payload(data).train
        for task in range(len(events.tasks)):
            label = events.actions[rows, task]
            rate = item_rates(events.item[rows], label, events.items, prior=self.objective.smoothing)
            # as if there were one more event of each kind, for a task that nobody or everybody responded to
            least = 1 / (len(rows) + 2)
            rate = np.clip(np.append(rate, label.mean(dtype=np.float64)), least, 1 - least)
            odds = np.log(rate / (1 - rate))
            with torch.no_grad():
                network.bias.weight[:, task] = torch.from_numpy(odds[:-1] - odds[-1])

    def batches(self, data: Payload, *, rank: int, processes: int) -> SessionBatches:
        """This process's share of the training batches."""
        inputs, split = Inputs.of(data), Split.from_payload(data)
        rows = rows_of(
            inputs,
            inputs.sessions_of(split.train),
            history=self.architecture.history,
            candidates=self.objective.candidates,
        )
        weight = candidate_weights(
            inputs, split.train, recency_days=self.objective.recency_days, position=self.objective.position
        )
        counter = NETWORKS[self.model].counter(self.architecture)
        if counter is not None:
            counter.check(inputs, split.train)
        return SessionBatches(
            inputs,
            rows,
            weight,
            batch_size=self.training.batch_size,
            seed=self.training.seed,
            cut=self.objective.cut,
            counter=counter,
            rank=rank,
            processes=processes,
        )

    def loss(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The impression objective, with the prior of identities."""
        objective = self.objective
        return impression_loss(_scorer(network), batch, objective.prior, started=objective.smoothing > 0)

    def validate(self, network: torch.nn.Module, data: Payload) -> Mapping[str, float]:
        """Metrics of the main task on the validation part, each session by its own history, as in service.

        The network's calibration is fitted here too, so that the weights of an epoch come with theirs; entropy is that
        of the chances so fitted. The test part is not read.
        """
        ranker, inputs, rows = _scorer(network), Inputs.of(data), Split.from_payload(data).validation
        found, logit = batch_logits(ranker, inputs, inputs.sessions_of(rows))
        ranker.calibrate_on(inputs.events, found, logit)
        user, label = inputs.events.user[found], inputs.events.label[found]
        return main_metrics(user, label, logit[:, 0], ranker.chances(logit)[:, 0])

    def open_live(self, product: Payload, data: Payload, **limits: float) -> "Served":
        """A trained ranker, opened for service with the data that it was made from; `limits` as in `Limits`."""
        from models.feed.events.limits import Limits
        from models.feed.ranking.service import Served

        network = _ligr(self.network(product["training"]["sizes"]))
        network.load_state_dict(product["weights"])
        return Served(network, data, cache_bytes=Limits(**limits).cache_megabytes * 2**20)  # type: ignore[arg-type]


def _of_slates() -> RankerConfig:
    """The ranker of feeds whose items are shown together: each knows how many others of the slate are like it."""
    return RankerConfig(
        architecture=NetworkConfig(company=2),
        objective=ObjectiveConfig(recency_days=0.0),
        training=replace(_training(), average=0.98),
    )


@dataclass(frozen=True, kw_only=True)
class RankingConfig:
    """A ranker of the candidates of a session: data, network, judgement, gate."""

    data: DataConfig = setting(DataConfig, "Data", "Who was shown what, and how they responded.")
    ranker: RankerConfig = setting(_of_slates, "Ranker", "The network and how it learns.")
    judgement: JudgementConfig = setting(JudgementConfig, "Judgement", "How the ranker is judged.")
    gate: GateConfig = setting(
        lambda: GateConfig(product="comparison", margin=0.002), "Gate", "When the ranker goes live."
    )

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        network, training, objective = self.ranker.architecture, self.ranker.training, self.ranker.objective
        block = network.transformer
        return {
            "data": self.data.name,
            "source": self.data.source,
            "model": self.ranker.model,
            "width": block.width,
            "layers": block.layers,
            "heads": block.heads,
            "gate": block.gate,
            "setwise": network.setwise,
            "session_layers": network.session_layers,
            "company": network.company,
            "history": network.history,
            "hour": network.hour,
            "rate_days": network.rate_days,
            "user_rate": network.user_rate,
            "item_width": network.item_width,
            "head": network.head,
            "dropout": block.dropout,
            "forgetting": network.forgetting,
            "recency_days": objective.recency_days,
            "position": objective.position,
            "prior": objective.prior,
            "smoothing": objective.smoothing,
            "cut": objective.cut,
            "batch_size": training.batch_size,
            "epochs": training.epochs,
            "learning_rate": training.learning_rate,
            "weight_decay": training.weight_decay,
            "optimizer": training.optimizer,
            "schedule": training.schedule,
            "average": training.average,
            "seed": training.seed,
            "processes": training.processes,
        }

    def judge(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """Test metrics and certificate of a trained ranker; nobody else reads the test part."""
        ranker = self.ranker.network(product["training"]["sizes"]).eval()
        ranker.load_state_dict(product["weights"])
        return judging.judge(product, data, ranker, self.judgement)

    def watch(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """Replay sampled sessions of the latest events against the live ranker."""
        from models.feed.ranking.watch import watch

        if network is None:
            raise ValueError("a live ranker is watched by its network, got None; rebuild it from its manifest.")
        return watch(data, _ligr(network), self.judgement)


def _scorer(network: torch.nn.Module) -> Scorer:
    if not isinstance(network, Scorer):
        raise TypeError(f"expected a ranker's network, got {type(network).__name__}; train the configuration first.")
    return network


def _ligr(network: torch.nn.Module) -> LiGR:
    if not isinstance(network, LiGR):
        raise TypeError(
            f"a service takes a LiGR, which keeps histories between requests, got {type(network).__name__}; serve a "
            f"ranker whose RankerConfig.model is 'ligr'."
        )
    return network


def tiny() -> RankingConfig:
    """300 users and 30,000 impressions: the whole flow in well under a CPU-minute; the default everywhere."""
    return RankingConfig()


def small() -> RankingConfig:
    """1,500 users and 150,000 impressions of a simulated feed: a real result on two cores within minutes."""
    return RankingConfig(
        data=DataConfig(name="simulated-small", simulator=sized("small")),
        ranker=RankerConfig(
            architecture=NetworkConfig(
                transformer=TransformerConfig(width=48, heads=2, layers=2, multiplier=4), forgetting=0.3, company=2
            ),
            objective=ObjectiveConfig(recency_days=0.0),
            training=TrainingConfig(epochs=12, batch_size=8, learning_rate=3e-3, weight_decay=0.1, average=0.98),
        ),
    )


def movielens() -> RankingConfig:
    """MovieLens ml-latest-small: 610 users, 100,836 ratings, four stars and more are liked."""
    return RankingConfig(
        data=DataConfig(name="movielens", source="movielens"),
        ranker=RankerConfig(
            architecture=NetworkConfig(
                transformer=TransformerConfig(width=32, heads=2, layers=1, multiplier=2, dropout=0.1),
                history=128,
                session_layers=1,
                hour=False,
            ),
            objective=ObjectiveConfig(recency_days=0.0, prior=5.0, smoothing=5.0, cut=0.7),
            training=TrainingConfig(epochs=3, batch_size=8, learning_rate=2e-3, weight_decay=0.05, average=0.98),
        ),
    )


def paper() -> RankingConfig:
    """LiGR's published sizes (arXiv 2502.03417, its largest run), over a simulated feed. Not run by us.

    Published: 16 layers, 64 numbers for an identity, 33 million items, histories of up to 1,024 interactions in six
    months, attention in the session in blocks of its own, half-lives of the loss of the sequence's length and of 60
    days. Not published, and ours: width, heads, multiplier, blocks of the session, learning rate, batch.
    """
    return RankingConfig(
        data=DataConfig(name="simulated-paper", simulator=sized("large")),
        ranker=RankerConfig(
            architecture=NetworkConfig(
                transformer=TransformerConfig(width=192, heads=6, layers=16, multiplier=4),  # about 10 million weights
                item_width=64,
                history=1024,
                session_layers=1,
            ),
            objective=ObjectiveConfig(recency_days=60.0, position=1024, candidates=1024),
            training=TrainingConfig(epochs=1, batch_size=64, learning_rate=1e-3, accelerator="auto"),
        ),
    )
