"""The retrieval system's configuration: it builds data, towers, index and judgement."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import Payload, TrainingConfig
from models.common.examination import Examination, RawFile
from models.common.gate import GateConfig
from models.common.judgement import Judgement
from models.feed.retrieval import judge as judging
from models.feed.retrieval.batches import Batch, InteractionBatches, latest_items
from models.feed.retrieval.cascade import MixtureSearching, tower_queries
from models.feed.retrieval.data import DataConfig, GloveCitiesConfig, MovieLensConfig, index_ids
from models.feed.retrieval.delta import DeltaError, LiveIndex, replayed, stored
from models.feed.retrieval.examine import examine
from models.feed.retrieval.features import attribute_names, encode_attributes
from models.feed.retrieval.generator import GeneratorConfig
from models.feed.retrieval.index import RetrievalIndex
from models.feed.retrieval.judge import JudgementConfig
from models.feed.retrieval.loss import retrieval_loss
from models.feed.retrieval.members import Members
from models.feed.retrieval.metrics import Seen, coverage, hit_rate, ndcg, rank_by, reciprocal_rank
from models.feed.retrieval.mixture import Hadamard, MixtureOfLogits, SimilarityConfig, compare_by
from models.feed.retrieval.network import Catalogue, TowerConfig, TwoTower, encode_items, encode_users
from models.feed.retrieval.searcher import IndexSearcher
from models.feed.retrieval.table import TableConfig, VectorsConfig
from models.feed.retrieval.writes import Writes, writes_of

__all__ = [
    "DataConfig",
    "EncoderConfig",
    "GeneratorConfig",
    "GloveCitiesConfig",
    "IndexConfig",
    "JudgementConfig",
    "MovieLensConfig",
    "RetrievalConfig",
    "SimilarityConfig",
    "TableConfig",
    "TowerConfig",
    "TrainingConfig",
    "VectorsConfig",
    "feed",
    "glove_cities",
    "movielens",
    "paper",
    "small",
    "tiny",
    "tiny_by_day",
]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The two towers and how they learn."""

    tower: TowerConfig = setting(TowerConfig, "Towers", "The encoder of members and items.")
    similarity: SimilarityConfig = setting(SimilarityConfig, "Similarity", "How a member and an item are compared.")
    training: TrainingConfig = setting(TrainingConfig, "Training", "How the towers learn.")

    @property
    def monitor(self) -> str:
        """The validation metric by which the best epoch is kept."""
        return "hit_rate_at_50"

    @property
    def unserved(self) -> str:
        """Why an index of these towers is not served over HTTP; empty when it is."""
        if self.similarity.kind == "dot":
            return ""
        return f"the service compares by inner products, and SimilarityConfig.kind is {self.similarity.kind!r}"

    def sizes(self, data: Payload) -> Mapping[str, int]:
        """Numbers of users, items and attribute codes."""
        features = encode_attributes(data["items"])
        return {"users": data["users"].num_rows, "items": data["items"].num_rows, "codes": features.size}

    def network(self, sizes: Mapping[str, int]) -> TwoTower:
        """Fresh towers; random state is the caller's."""
        return self.similarity.network(
            users=sizes["users"], items=sizes["items"], codes=sizes["codes"], tower=self.tower
        )

    def batches(self, data: Payload, *, rank: int, processes: int) -> InteractionBatches:
        """This process's share of the training batches."""
        return InteractionBatches(
            data["train"],
            items=data["items"].num_rows,
            catalogue=_catalogue(data),
            history=self.tower.history,
            negatives=self.tower.uniform_negatives,
            batch_size=self.training.batch_size,
            seed=self.training.seed,
            rank=rank,
            processes=processes,
        )

    def loss(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Sampled softmax with logQ correction; a mixture begins once its towers had their epochs."""
        towers = _towers(network)
        if isinstance(towers, MixtureOfLogits) and not towers.started and batch.epoch >= self.similarity.tower_epochs:
            towers.start(batch.catalogue, seed=self.training.seed)
        return retrieval_loss(towers, batch)

    def validate(self, network: torch.nn.Module, data: Payload) -> Mapping[str, float]:
        """Ranking metrics on the validation items; the test part is not read."""
        towers, seen = _towers(network), Seen([data["train"]], data["users"].num_rows)
        users = np.asarray(data["validation"]["user"].to_numpy(), np.int64)
        relevant = np.asarray(data["validation"]["item"].to_numpy(), np.int64)[:, None]
        queries = _member_vectors(towers, data, users, [data["train"]])
        lists = rank_by(queries, item_vectors(data, towers), users, seen, 50, compare_by(towers))
        return {
            "hit_rate_at_50": float(hit_rate(lists, relevant, 50).mean()),
            "hit_rate_at_10": float(hit_rate(lists, relevant, 10).mean()),
            "ndcg_at_50": float(ndcg(lists, relevant, 50).mean()),
            "mrr_at_50": float(reciprocal_rank(lists, relevant, 50).mean()),
            "coverage_at_50": coverage(lists, data["items"].num_rows, 50),
        }

    def members(self, product: Payload, data: Payload) -> Members:
        """Vectors of users by trained towers, for whoever asks an index; see `Members`."""
        towers = _towers(self.network(product["training"]["sizes"]))
        towers.load_state_dict(product["weights"])
        return Members(towers, data)


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """What is put into the index."""

    attributes: tuple[str, ...] = setting(
        (), "Filterable attributes", "Attributes of the items that filters may name; none named: all of them."
    )

    def __post_init__(self) -> None:
        check(self)

    def filterable(self, data: Payload) -> pa.Table:
        """The attributes of all items that filters may name."""
        present = attribute_names(data["items"])
        for name in self.attributes:
            if name not in present:
                raise ValueError(f"IndexConfig.attributes must be among {present}, got {name!r}; take it out.")
        return data["items"].select(list(self.attributes) or present)

    def build_index(self, data: Payload, network: torch.nn.Module | None) -> Payload:
        """The index as parts to be stored: vectors, ids, attributes.

        Raises:
            ValueError: the similarity has no index.
        """
        if isinstance(network, Hadamard):
            raise ValueError(
                "there is no index for SimilarityConfig.kind 'hadamard', which no inner products bound; choose "
                "'mixture' or 'dot'."
            )
        return RetrievalIndex.build(item_vectors(data, network), index_ids(data), self.filterable(data)).snapshot()

    def open_live(self, payload: Payload, folder: Path, origin: str, writes: Payload | None = None) -> LiveIndex:
        """A published index for serving, with the writes that a folder holds; see `LiveIndex.open`."""
        return LiveIndex.open(folder, payload, origin=origin, **(writes["about"] if writes else {}))

    def adopt(self, product: LiveIndex, payload: Payload, writes: Payload) -> None:
        """Let a live index stand on a published one that holds some of its writes; see `LiveIndex.adopt`."""
        product.adopt(payload, **writes["about"])

    def compact(self, built: Payload, folder: Path, before: Payload | None) -> tuple[Payload, Payload] | None:
        """An index with the writes that a folder holds, and these writes; see `Compactable`.

        Raises:
            DeltaError: the folder is damaged, or holds other writes than the live version.
        """
        found = stored(folder)
        held = Writes.of(before) if before else None
        if found is None or not found.sequence:
            return None
        if held and held.line != found.description.line:
            raise DeltaError(
                f"{folder} holds other writes (line {found.description.line}) than the live version (line "
                f"{held.line}); compact where that is written to."
            )
        if held and found.sequence <= held.sequence:
            return None
        return replayed(found), writes_of(built, found).parts()

    def searcher(self, product: Payload, data: Payload, folder: Path) -> IndexSearcher:
        """A published index, to be asked for neighbours; see `IndexSearcher`."""
        return IndexSearcher(product, data, folder)

    def application(self, source: Callable[[], tuple[LiveIndex, str]]) -> Any:
        """The HTTP service of whatever `source` gives at the moment of a request: an index and its version."""
        from models.feed.retrieval.service import service  # FastAPI takes a moment to import, and few need it

        return service(source)


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """A filtered, live-updated retrieval index over a two-tower encoder."""

    data: DataConfig = setting(DataConfig, "Data", "Items, members and who met what.")
    encoder: EncoderConfig = setting(EncoderConfig, "Encoder", "What gives members and items their vectors.")
    index: IndexConfig = setting(IndexConfig, "Index", "What is searched and filtered.")
    judgement: JudgementConfig = setting(JudgementConfig, "Judgement", "How the index is judged and watched.")
    gate: GateConfig = setting(GateConfig, "Gate", "When the index goes live.")

    @property
    def trains(self) -> bool:
        """Whether vectors come from the towers; the cities and given vectors bring their own."""
        return self.data.source not in ("glove-cities", "vectors")

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        described: dict[str, str | int | float] = {
            "data": self.data.name,
            "source": self.data.source,
            "certificate_cases": self.judgement.cases,
        }
        if not self.trains:
            return described
        tower, training = self.encoder.tower, self.encoder.training
        return {
            **described,
            "dimension": tower.dimension,
            "hidden": tower.hidden,
            "temperature": tower.temperature,
            "similarity": self.encoder.similarity.kind,
            "dropout": tower.dropout,
            "history": tower.history,
            "uniform_negatives": tower.uniform_negatives,
            "batch_size": training.batch_size,
            "epochs": training.epochs,
            "learning_rate": training.learning_rate,
            "weight_decay": training.weight_decay,
            "seed": training.seed,
            "processes": training.processes,
        }

    def examine(
        self,
        table: tuple[str, Path],
        others: Mapping[str, tuple[str, Path]],
        chosen: Mapping[str, str],
        *,
        moment: float,
    ) -> Examination:
        """How a user's own interactions, and `items` beside them, would be read."""
        files = {name: RawFile(*other) for name, other in others.items()}
        return examine(RawFile(*table), files, chosen, moment=moment)

    def judge(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """Test metrics and certificate, of an index or of the towers; nobody else reads the test part."""
        if "weights" in product:
            towers = self.encoder.network(product["training"]["sizes"]).eval()
            towers.load_state_dict(product["weights"])
            return judging.judge_towers(product, data, self._source(data, towers), self.judgement)
        if "writes" in data:
            return judging.judge_compacted(
                product, Writes.of(data["writes"]), self._source(data, network), self.judgement
            )
        return judging.judge(product, data, self._source(data, network), self.judgement)

    def watch(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """Replay sampled requests against the exact answer."""
        return judging.watch(product, self._source(data, network), self.judgement)

    def _source(self, data: Payload, network: torch.nn.Module | None) -> judging.Source:
        """What the index should hold, made again from data and network."""
        members = query_vectors(data, network)
        vectors, ids, attributes = item_vectors(data, network), index_ids(data), self.index.filterable(data)
        if "writes" in data:
            vectors, ids, attributes = Writes.of(data["writes"]).applied(vectors, ids, attributes)
        source = judging.Source(vectors=vectors, ids=ids, attributes=attributes, queries=members, members=members)
        if network is None or type(network) is TwoTower:
            return source
        if not isinstance(network, MixtureOfLogits):
            return replace(source, compare=compare_by(_towers(network)), ranking="Hadamard network")
        return replace(
            source,
            queries=tower_queries(network, members),
            compare=compare_by(network),
            search=partial(MixtureSearching, network),
            ranking="mixture of logits",
            weights={name: tensor.numpy() for name, tensor in network.state_dict().items()},
        )


def item_vectors(data: Payload, network: torch.nn.Module | None) -> NDArray[np.float32]:
    """Rows of all items: unit vectors given by the data, or what the towers make of them."""
    if "vectors" in data:
        return np.asarray(data["vectors"], np.float32)
    return encode_items(_towers(network), _catalogue(data))


def query_vectors(data: Payload, network: torch.nn.Module | None) -> NDArray[np.float32]:
    """Rows that ask: held-out unit vectors, or every test member after training and validation."""
    if "queries" in data:
        return np.asarray(data["queries"], np.float32)
    users = np.asarray(data["test"]["user"].to_numpy(), np.int64)
    return _member_vectors(_towers(network), data, users, [data["train"], data["validation"]])


def _member_vectors(
    network: TwoTower, data: Payload, users: NDArray[np.int64], parts: list[pa.Table]
) -> NDArray[np.float32]:
    histories = latest_items(parts, data["users"].num_rows, network.history)
    return encode_users(network, _catalogue(data), users, histories[users])


def _catalogue(data: Payload) -> Catalogue:
    return Catalogue.of(encode_attributes(data["items"]))


def _towers(network: torch.nn.Module | None) -> TwoTower:
    if not isinstance(network, TwoTower):
        raise TypeError(f"expected a trained TwoTower, got {type(network).__name__}; train the configuration first.")
    return network


def tiny() -> RetrievalConfig:
    """600 members and 1,500 items: the whole flow in some twenty seconds on a CPU; the default everywhere."""
    return RetrievalConfig()


def tiny_by_day() -> RetrievalConfig:
    """The tiny world under a name of its own, to be taken in day by day."""
    return RetrievalConfig(data=DataConfig(name="generated-by-day"))


def small() -> RetrievalConfig:
    """6,000 members and 20,000 items: a real result on two cores within minutes."""
    return RetrievalConfig(
        data=DataConfig(name="generated-small", generator=GeneratorConfig(users=6000, items=20_000)),
        encoder=EncoderConfig(
            tower=TowerConfig(dimension=64, hidden=128, uniform_negatives=1024),
            training=TrainingConfig(epochs=4, batch_size=1024),
        ),
    )


def movielens() -> RetrievalConfig:
    """MovieLens ml-latest-small: 610 members, 9,742 films, every rating taken as a sign of interest."""
    return RetrievalConfig(
        data=DataConfig(name="movielens", source="movielens"),
        encoder=EncoderConfig(
            tower=TowerConfig(temperature=0.1),
            training=TrainingConfig(epochs=6, batch_size=1024),
        ),
    )


def feed() -> RetrievalConfig:
    """An index over the items of a feed, from the positive responses that the flow `feed` wrote as tables."""
    return RetrievalConfig(
        data=DataConfig(
            name="feed",
            source="table",
            table=TableConfig(interactions="data/feed/interactions.parquet", items="data/feed/items.parquet"),
        )
    )


def glove_cities() -> RetrievalConfig:
    """198,000 given word vectors, 18,700 of them with the attributes of a city; nothing is trained."""
    return RetrievalConfig(data=DataConfig(name="glove-cities", source="glove-cities"))


def paper() -> RetrievalConfig:
    """LiNR's published sizes (CIKM 2024, arXiv 2407.13218). Not run by us; weights, gradients, moments are 32 GB."""
    return RetrievalConfig(
        data=DataConfig(
            name="generated-paper",
            generator=GeneratorConfig(
                items=15_500_000,  # section 5.2: 15.5 million jobs
                users=25_000,  # section 5.2: 25 thousand queries; its training data are not described
            ),
        ),
        encoder=EncoderConfig(
            tower=TowerConfig(
                dimension=128,  # section 5.2
                hidden=50,  # section 5.1: member and item networks of its Hadamard model; it gives none for two towers
                uniform_negatives=8192,  # not published; nor are batch, rate, decay, temperature and epochs below
            ),
            training=TrainingConfig(batch_size=8192, accelerator="auto"),
        ),
        judgement=JudgementConfig(
            k=2000,  # section 5.2: the best 2,000
            cases=24,  # ours: the reference reads 15.5 million rows for each
            queries=24,
            replays=24,
        ),
    )
