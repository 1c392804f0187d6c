"""The history system's configuration: it builds data, network, training and judgement."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from models.common.configuration import setting
from models.common.contracts import Payload, TrainingConfig
from models.common.gate import GateConfig
from models.common.judgement import Judgement
from models.common.transformer import TransformerConfig
from models.feed.events.contest import JudgementConfig, main_metrics
from models.feed.events.preparation import MovieLensConfig
from models.feed.events.scoring import sizes_of
from models.feed.events.serving import InService
from models.feed.events.simulator import sized
from models.feed.events.splits import Split
from models.feed.events.table import EventsTableConfig
from models.feed.history import judge as judging
from models.feed.history.batches import SessionBatches
from models.feed.history.data import DataConfig
from models.feed.history.inputs import Inputs
from models.feed.history.loss import multi_task_loss
from models.feed.history.network import DLRM, Batch, NetworkConfig
from models.feed.history.score import batch_logits

if TYPE_CHECKING:
    from models.feed.history.service import Served

__all__ = [
    "DataConfig",
    "EventsTableConfig",
    "HistoryConfig",
    "JudgementConfig",
    "MovieLensConfig",
    "NetworkConfig",
    "ScorerConfig",
    "TrainingConfig",
    "TransformerConfig",
    "movielens",
    "paper",
    "small",
    "tiny",
]


def _training() -> TrainingConfig:
    return TrainingConfig(epochs=4, batch_size=32, learning_rate=3e-3, weight_decay=0.1)


@dataclass(frozen=True, kw_only=True)
class ScorerConfig(InService):
    """The scorer and how it learns."""

    architecture: NetworkConfig = setting(NetworkConfig, "Architecture", "What scores the candidates of a session.")
    training: TrainingConfig = setting(_training, "Training", "How it learns; a batch is of sessions.")

    @property
    def monitor(self) -> str:
        """The validation metric by which the best epoch is kept."""
        return "auc"

    def sizes(self, data: Payload) -> Mapping[str, int]:
        """Numbers of users, items, categories and tasks."""
        inputs = Inputs.of(data)
        return sizes_of(inputs.events, inputs.categories)

    def network(self, sizes: Mapping[str, int]) -> DLRM:
        """A fresh network; random state is the caller's."""
        return DLRM(**sizes, config=self.architecture)

    def batches(self, data: Payload, *, rank: int, processes: int) -> SessionBatches:
        """This process's share of the training batches."""
        inputs = Inputs.of(data)
        return SessionBatches(
            inputs,
            inputs.sessions_of(Split.from_payload(data).train),
            self.architecture,
            batch_size=self.training.batch_size,
            seed=self.training.seed,
            rank=rank,
            processes=processes,
        )

    def loss(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The objective of several tasks."""
        return multi_task_loss(_dlrm(network), batch)

    def validate(self, network: torch.nn.Module, data: Payload) -> Mapping[str, float]:
        """Metrics of the main task on the validation part.

        The network's calibration is fitted here, and what puts features into standard units is kept in it, so that the
        weights of an epoch come with theirs; entropy is that of the chances so fitted. The test part is not read.
        """
        scorer, inputs, rows = _dlrm(network), Inputs.of(data), Split.from_payload(data).validation
        scorer.keep(inputs.standard)
        found, logit = batch_logits(scorer, inputs, inputs.sessions_of(rows))
        scorer.calibrate_on(inputs.events, found, logit)
        user, label = inputs.events.user[found], inputs.events.label[found]
        return main_metrics(user, label, logit[:, 0], scorer.chances(logit)[:, 0])

    def open_live(self, product: Payload, data: Payload, **limits: float) -> "Served":
        """A trained scorer, opened for service with the data that it was made from; `limits` as in `Limits`."""
        from models.feed.events.limits import Limits
        from models.feed.history.service import Served

        network = _dlrm(self.network(product["training"]["sizes"]))
        network.load_state_dict(product["weights"])
        return Served(network, data, cache_bytes=Limits(**limits).cache_megabytes * 2**20)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """A click model over a user's history: data, network, judgement, gate."""

    data: DataConfig = setting(DataConfig, "Data", "Who was shown what, and how they responded.")
    scorer: ScorerConfig = setting(ScorerConfig, "Scorer", "The network and how it learns.")
    judgement: JudgementConfig = setting(JudgementConfig, "Judgement", "How the scorer is judged.")
    gate: GateConfig = setting(
        lambda: GateConfig(product="comparison", margin=0.002), "Gate", "When the scorer goes live."
    )

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        network, training = self.scorer.architecture, self.scorer.training
        block = network.transformer
        return {
            "data": self.data.name,
            "source": self.data.source,
            "model": "DLRM",
            "form": network.form,
            "width": block.width,
            "layers": block.layers,
            "heads": block.heads,
            "gate": block.gate,
            "history": network.history,
            "stride": network.stride,
            "last": network.last,
            "item_width": network.item_width,
            "cross": network.cross,
            "rank": network.rank,
            "hidden": network.hidden,
            "depth": network.depth,
            "dropout": block.dropout,
            "forgetting": network.forgetting,
            "batch_size": training.batch_size,
            "epochs": training.epochs,
            "learning_rate": training.learning_rate,
            "weight_decay": training.weight_decay,
            "seed": training.seed,
            "processes": training.processes,
        }

    def judge(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """Test metrics and certificate of a trained scorer; nobody else reads the test part."""
        scorer = self.scorer.network(product["training"]["sizes"]).eval()
        scorer.load_state_dict(product["weights"])
        return judging.judge(product, data, scorer, self.judgement)

    def watch(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """Replay sampled sessions of the latest events against the live scorer."""
        from models.feed.history.watch import watch

        if network is None:
            raise ValueError("a live scorer is watched by its network, got None; rebuild it from its manifest.")
        return watch(data, _dlrm(network), self.judgement)


def _dlrm(network: torch.nn.Module) -> DLRM:
    if not isinstance(network, DLRM):
        raise TypeError(f"expected a DLRM, got {type(network).__name__}; train the configuration first.")
    return network


def tiny() -> HistoryConfig:
    """300 users and 30,000 impressions: the whole flow in well under a CPU-minute; the default everywhere."""
    return HistoryConfig()


def small() -> HistoryConfig:
    """1,500 users and 150,000 impressions of a simulated feed: a real result on two cores within minutes."""
    return HistoryConfig(
        data=DataConfig(name="simulated-small", simulator=sized("small")),
        scorer=ScorerConfig(training=TrainingConfig(epochs=8, batch_size=64, learning_rate=3e-3, weight_decay=0.1)),
    )


def movielens() -> HistoryConfig:
    """MovieLens ml-latest-small: 610 users, 100,836 ratings, four stars and more are liked."""
    return HistoryConfig(
        data=DataConfig(name="movielens", source="movielens"),
        scorer=ScorerConfig(
            architecture=NetworkConfig(history=200, stride=50),
            training=TrainingConfig(epochs=6, batch_size=16, learning_rate=2e-3, weight_decay=0.1),
        ),
    )


def paper() -> HistoryConfig:
    """What arXiv 2412.06924 says of its model, over a simulated feed. Not run by us.

    Published: the append form with cross-attention, a transformer over the history inside a DLRM with cross layers and
    several tasks. Not published, and ours: width, layers, heads, length of the history, embeddings, hidden layers,
    learning rate, batch.
    """
    return HistoryConfig(
        data=DataConfig(name="simulated-paper", simulator=sized("large")),
        scorer=ScorerConfig(
            architecture=NetworkConfig(
                form="append",
                transformer=TransformerConfig(width=64, heads=2, layers=2, multiplier=4),
                item_width=64,
                history=200,
                stride=50,
                last=10,
                cross=3,
                hidden=512,
                depth=2,
            ),
            training=TrainingConfig(epochs=1, batch_size=256, learning_rate=1e-3, accelerator="auto"),
        ),
    )
