"""The configuration of next-item ranking: it builds data, network, training and judgement."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from models.common.configuration import check, setting
from models.common.contracts import Payload, TrainingConfig
from models.common.gate import GateConfig
from models.common.judgement import Judgement
from models.feed.events.metrics import hit_rate_at, ndcg_at
from models.feed.events.splits import Split
from models.feed.events.table import Events, EventsTableConfig
from models.feed.ranking.next_item import judge as judging
from models.feed.ranking.next_item.batches import Negatives, SequenceBatches
from models.feed.ranking.next_item.data import DataConfig, histories_of, questions
from models.feed.ranking.next_item.initial import InitialConfig, initial_vectors
from models.feed.ranking.next_item.judge import JudgementConfig
from models.feed.ranking.next_item.loss import next_item_loss
from models.feed.ranking.next_item.network import Batch, NetworkConfig, NextItem, network_of
from models.feed.ranking.next_item.score import Scorer, blocks, ranks
from models.feed.ranking.next_item.world import WorldConfig

__all__ = [
    "DataConfig",
    "EventsTableConfig",
    "InitialConfig",
    "JudgementConfig",
    "NetworkConfig",
    "NextItemConfig",
    "NextItemRankerConfig",
    "ObjectiveConfig",
    "TrainingConfig",
    "WorldConfig",
    "beauty",
    "paper",
    "small",
    "sports",
    "tiny",
]


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What a user's state is compared with while training."""

    objective: Literal["sampled", "full"] = setting(
        "sampled", "Objective", "A softmax over the target and a sample of the other items, or over all items."
    )
    negatives: int = setting(
        64,
        "Negatives",
        "Items drawn at every step for the sampled objective, 1 to 1000000; no more than the training part has.",
        ge=1,
        le=1_000_000,
    )
    sampling: Literal["uniform", "popularity"] = setting(
        "uniform", "Sampling", "Whether negatives are drawn alike, or as often as the training part has them."
    )
    log_q: bool = setting(
        False, "Correction", "Whether logits of negatives are corrected for how often each is drawn (logQ)."
    )
    precision: Literal["float32", "bfloat16"] = setting(
        "float32",
        "Precision",
        "Of the products of matrices in training; bfloat16 takes about 0.7 of the time on processors that have it. "
        "Scores are float32 always.",
    )
    steps: int = setting(
        60, "Steps of an epoch", "Steps after which the ranker is validated, 1 to 1000000, whatever the data's size.",
        ge=1, le=1_000_000,
    )  # fmt: skip
    validated: int = setting(
        5000, "Validated users", "Most users, drawn once, by whom the best epoch is chosen, 20 to 10000000.",
        ge=20, le=10_000_000,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)


def _training() -> TrainingConfig:
    return TrainingConfig(
        epochs=8,
        batch_size=512,
        learning_rate=3e-3,
        weight_decay=0.0,
        schedule="cosine",
        second_beta=0.98,
        average=0.99,
    )


@dataclass(frozen=True, kw_only=True)
class NextItemRankerConfig:
    """The ranker and how it learns."""

    architecture: NetworkConfig = setting(
        NetworkConfig, "Architecture", "What reads a history and is compared with items."
    )
    initial: InitialConfig = setting(InitialConfig, "Beginning", "Where item vectors begin.")
    objective: ObjectiveConfig = setting(ObjectiveConfig, "Objective", "What a state is compared with.")
    training: TrainingConfig = setting(
        _training, "Training", "How it learns; the size of a batch is its number of next items, about."
    )

    def __post_init__(self) -> None:
        least = 2 * self.architecture.history * self.training.processes
        if self.training.batch_size < least:
            raise ValueError(
                f"TrainingConfig.batch_size counts next items, and must be at least {least}, twice the history for "
                f"each process, got {self.training.batch_size}; raise it or read shorter histories."
            )

    @property
    def monitor(self) -> str:
        """The validation metric by which the best epoch is kept."""
        return "ndcg_at_10"

    def sizes(self, data: Payload) -> Mapping[str, int]:
        """The number of items."""
        return {"items": Events.from_payload(data).items}

    def network(self, sizes: Mapping[str, int]) -> NextItem:
        """A fresh network; random state is the caller's."""
        return NextItem(sizes["items"], self.architecture)

    def start(self, network: torch.nn.Module, data: Payload) -> None:
        """Set the item vectors by what goes with what in the training part, and which items that part has."""
        events, rows = Events.from_payload(data), Split.from_payload(data).train
        vectors = initial_vectors(
            self.initial,
            events.user[rows],
            events.item[rows],
            events.items,
            self.architecture.width,
            self.training.seed,
        )
        known = np.bincount(events.item[rows], minlength=events.items) > 0
        network_of(network).begin(torch.from_numpy(vectors), torch.from_numpy(known))

    def batches(self, data: Payload, *, rank: int, processes: int) -> SequenceBatches:
        """This process's share of the training batches."""
        events, rows = Events.from_payload(data), Split.from_payload(data).train
        negatives = Negatives(
            np.bincount(events.item[rows], minlength=events.items),
            self.objective.negatives if self.objective.objective == "sampled" else 0,
            self.objective.sampling,
            corrected=self.objective.log_q,
        )
        return SequenceBatches(
            histories_of(events, rows, np.arange(events.users)),
            negatives,
            history=self.architecture.history,
            size=self.training.batch_size,
            steps=self.objective.steps,
            seed=self.training.seed,
            rank=rank,
            processes=processes,
        )

    def loss(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The softmax over the catalogue or a sample of it."""
        return next_item_loss(network_of(network), batch, getattr(torch, self.objective.precision))

    def validate(self, network: torch.nn.Module, data: Payload) -> Mapping[str, float]:
        """Recall and NDCG of sampled users' validation events among all items; the test part is not read."""
        events = Events.from_payload(data)
        asked = questions(events, Split.from_payload(data), "validation")
        drawn = np.random.default_rng(0).permutation(len(asked))[: self.objective.validated]
        scorer = Scorer(network_of(network))
        rank = np.concatenate(
            [ranks(part, scorer.logits(part.history)) for part in blocks(asked.take(np.sort(drawn)), events.items)]
        )
        return {"recall_at_10": float(hit_rate_at(rank, 10).mean()), "ndcg_at_10": float(ndcg_at(rank, 10).mean())}


@dataclass(frozen=True, kw_only=True)
class NextItemConfig:
    """A ranker of next items: data, network, judgement, gate."""

    data: DataConfig = setting(DataConfig, "Data", "Who met what, in which order.")
    ranker: NextItemRankerConfig = setting(NextItemRankerConfig, "Ranker", "The network and how it learns.")
    judgement: JudgementConfig = setting(JudgementConfig, "Judgement", "How the ranker is judged.")
    gate: GateConfig = setting(
        lambda: GateConfig(product="comparison", margin=0.02), "Gate", "When the ranker goes live."
    )

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        network, training, objective = self.ranker.architecture, self.ranker.training, self.ranker.objective
        return {
            "data": self.data.name,
            "source": self.data.source,
            "model": network.block,
            "gate": network.gate,
            "width": network.width,
            "layers": network.layers,
            "heads": network.heads,
            "history": network.history,
            "similarity": network.similarity,
            "temperature": network.temperature,
            "dropout": network.dropout,
            "initial": self.ranker.initial.kind,
            "objective": objective.objective,
            "negatives": objective.negatives,
            "sampling": objective.sampling,
            "log_q": objective.log_q,
            "precision": objective.precision,
            "batch_size": training.batch_size,
            "steps": objective.steps * training.epochs,
            "learning_rate": training.learning_rate,
            "weight_decay": training.weight_decay,
            "seed": training.seed,
            "processes": training.processes,
        }

    def judge(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """Test metrics and certificate of a trained ranker; nobody else reads the test part."""
        ranker = self.ranker.network(product["training"]["sizes"]).eval()
        ranker.load_state_dict(product["weights"])
        return judging.judge(product, data, ranker, self.judgement)


def tiny() -> NextItemConfig:
    """1,500 users over 120 items of a world whose law is known: the whole flow in well under a CPU-minute.

    The margin of the gate is as wide as its interval is here: three rankers that differ by their seed alone have lower
    ends of -0.011 to -0.004 against one another. On data of some 20,000 users, as `beauty`, 0.005 is enough.
    """
    return NextItemConfig()


def small() -> NextItemConfig:
    """4,000 users over 600 items of such a world: a real result on two cores within minutes."""
    return NextItemConfig(
        data=DataConfig(name="sequences-small", world=WorldConfig(users=4000, items=600, length=12.0)),
        ranker=NextItemRankerConfig(
            architecture=NetworkConfig(width=128, history=50),
            objective=ObjectiveConfig(negatives=512, steps=100),
            training=TrainingConfig(
                epochs=8,
                batch_size=1500,
                learning_rate=2e-3,
                weight_decay=0.0,
                schedule="cosine",
                second_beta=0.98,
                average=0.99,
            ),
        ),
    )


def published_size(*, seed: int = 0) -> NextItemRankerConfig:
    """The ranker of `beauty()` and `sports()`: 900 steps of about 1,500 next items, whatever the data's size."""
    return NextItemRankerConfig(
        architecture=NetworkConfig(width=256, history=50, dropout=0.2, item_dropout=0.2),
        objective=ObjectiveConfig(negatives=4096, precision="bfloat16", steps=100),
        training=TrainingConfig(
            epochs=9,
            batch_size=1500,
            learning_rate=1e-3,
            weight_decay=0.0,
            schedule="cosine",
            second_beta=0.98,
            average=0.99,
            seed=seed,
        ),
    )


def beauty() -> NextItemConfig:
    """Amazon Beauty in the file of S3-Rec: 22,363 users, 12,101 items, 198,502 events; minutes on one core.

    The file may not be passed on: HEADRACE_MIRROR names the folder where it lies.
    """
    return NextItemConfig(
        data=DataConfig(name="beauty", source="sequences", file="catalogue:ranking-amazon-s3rec/Beauty.txt.gz"),
        ranker=published_size(),
        gate=GateConfig(product="comparison", margin=0.005),
    )


def sports() -> NextItemConfig:
    """Amazon Sports in the file of S3-Rec: 35,598 users, 18,357 items, 296,337 events; minutes on one core.

    The file is found as that of `beauty`.
    """
    return NextItemConfig(
        data=DataConfig(
            name="sports", source="sequences", file="catalogue:ranking-amazon-s3rec/Sports_and_Outdoors.txt.gz"
        ),
        ranker=published_size(),
        gate=GateConfig(product="comparison", margin=0.005),
    )


def paper() -> NextItemConfig:
    """eSASRec's published configuration on Beauty (arXiv 2508.06450): a LiGR block under a sampled softmax.

    Published: 64 numbers, one block, one head, multiplier 4, dropout 0.2, 256 uniform negatives, histories of 50,
    learning rate 1e-3, at most 200 passes. Ours, for we found nothing about it: 750 next items a step, the second beta,
    the norm at the end, the spread of the first vectors. Not run by us.
    """
    return NextItemConfig(
        data=DataConfig(name="beauty-paper", source="sequences", file="catalogue:ranking-amazon-s3rec/Beauty.txt.gz"),
        ranker=NextItemRankerConfig(
            architecture=NetworkConfig(
                width=64,
                multiplier=4,
                history=50,
                final_norm=True,
                similarity="inner",
                temperature=1.0,
                dropout=0.2,
                item_dropout=0.0,
            ),
            initial=InitialConfig(kind="random", spread=0.02),
            objective=ObjectiveConfig(negatives=256, steps=175),
            training=TrainingConfig(epochs=200, batch_size=750, learning_rate=1e-3, weight_decay=0.0, second_beta=0.98),
        ),
        gate=GateConfig(product="comparison", margin=0.005),
    )
