"""What a system's configuration promises to the tasks.

A configuration builds what it describes. Tasks open references, hand over payloads, and store the payloads that come
back; they never learn which system they serve.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.common.certificate import Certificate
from models.common.configuration import check, setting
from models.common.errors import AwaitedError as AwaitedError
from models.common.errors import InputError as InputError
from models.common.examination import Examination
from models.common.judgement import Judgement
from models.common.parts import Part, Partitioned, PreparationConfig, Survey

if TYPE_CHECKING:
    import xarray as xr

Payload = Mapping[str, Any]
"""Named parts of a product. Each part is one of: `numpy.ndarray` (no objects), `pyarrow.Table`,
`dict[str, torch.Tensor]` (weights), or a JSON value (dict, list)."""


class Comparable(Protocol):
    """The whole configuration of a flow."""

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by: few, named alike in every run of the system."""


class Named(Protocol):
    """A configuration of data."""

    @property
    def name(self) -> str:
        """Lower case, digits and hyphens; `SYSTEM-NAME` is the dataset's name and that of all products made from it."""


class Curatable(Named, Protocol):
    """A configuration that turns raw files into a validated dataset."""

    def sources(self) -> Mapping[str, str]:
        """Raw files wanted: logical name to location (path, URL, `catalogue:ENTRY/FILE`); empty when generated."""

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        """Validate and arrange the raw files; raises `InputError`."""


class CuratableDay(Curatable, Protocol):
    """A configuration of one day of raw input: its sources are that day's files."""

    def prepare(self, files: Mapping[str, Path]) -> Payload:
        """Validate the files; the part `about` says at least how many `rows` there are.

        Raises `InputError`, and `AwaitedError` for a day that has not come yet.
        """

    def certify(self, payload: Payload, files: Mapping[str, Path]) -> Certificate:
        """What holds about a prepared day, found in its files by other code than that of `prepare`."""


class Dated(Curatable, Protocol):
    """A configuration whose raw input arrives day by day; its `sources` are the files that all days share."""

    def day(self, date: date) -> CuratableDay:
        """One day; its name is that of the data, a hyphen and the date as in 2024-05-17. Raises `InputError`."""

    def assemble(self, days: Mapping[str, Payload], files: Mapping[str, Path]) -> Payload:
        """The dataset of all given days, by their dates; raises `InputError`.

        It is what `prepare` makes of one file with the same rows, in whatever order the days are given.
        """


class Examinable(Protocol):
    """The whole configuration of a flow that can be run on somebody's own table."""

    def examine(
        self,
        table: tuple[str, Path],
        others: Mapping[str, tuple[str, Path]],
        chosen: Mapping[str, str],
        *,
        moment: float,
    ) -> Examination:
        """Look at tables as a run would read them; nothing is stored.

        Args:
            table: location as in parameters, and path, of the main table.
            others: the same of the tables beside it, by the system's names.
            chosen: what is not to be guessed: a role or setting to a column or value.
            moment: now, in seconds since 1970.

        Raises:
            ValueError: a name in `others` or `chosen` is unknown, or a value is wrong.
        """


class Batches(Protocol):
    """Batches of one epoch after another; the order depends on seed and epoch alone."""

    def epoch(self, number: int) -> Iterator[Any]:
        """Batches of one epoch."""

    def __len__(self) -> int:
        """Batches in an epoch."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How training runs; what is trained belongs to the system."""

    epochs: int = setting(8, "Epochs", "Passes over the training data, 1 to 1000.", ge=1, le=1000)
    batch_size: int = setting(512, "Batch size", "Examples per step over all processes, 2 to 65536.", ge=2, le=65536)
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw",
        "Optimizer",
        "adamw: AdamW; muon: Muon for the matrices of linear layers and convolutions, AdamW for all else.",
    )
    learning_rate: float = setting(3e-3, "Learning rate", "Peak step size, above 0 to 1.", gt=0, le=1)
    weight_decay: float = setting(1e-4, "Weight decay", "Decoupled decay per step size, 0 to 1.", ge=0, le=1)
    schedule: Literal["constant", "cosine"] = setting(
        "constant",
        "Schedule",
        "constant: the rate rises over the first twentieth of the steps and stays; cosine: it begins at its peak and "
        "falls to zero over all steps.",
    )
    first_beta: float = setting(
        0.9, "First beta", "How much of the mean gradient AdamW keeps at a step, 0 to below 1.", ge=0, lt=1
    )
    second_beta: float = setting(
        0.999, "Second beta", "How much of the mean squared gradient AdamW keeps at a step, 0 to below 1.", ge=0, lt=1
    )
    average: float = setting(
        0.0,
        "Average of weights",
        "How much of a running mean of the weights is kept at a step, 0 to below 1, less in the beginning; the mean is "
        "what is validated and kept; 0: no mean, the weights themselves.",
        ge=0,
        lt=1,
    )
    seed: int = setting(0, "Seed", "Start of every random stream, 0 to 2147483647.", ge=0, le=2147483647)
    checkpoint_minutes: float = setting(
        10.0,
        "Checkpoint interval",
        "Minutes between checkpoints within an epoch, 0 to 1440; 0: only at the end of every epoch.",
        ge=0,
        le=1440,
    )
    processes: int = setting(
        1, "Processes", "Data-parallel processes, 1 to 64; above 1 runs under torchrun.", ge=1, le=64
    )
    accelerator: Literal["auto", "cpu", "gpu"] = setting(
        "cpu", "Accelerator", "Where to train: cpu, gpu, or auto for a GPU when there is one."
    )

    def __post_init__(self) -> None:
        check(self)


class Trainable(Protocol):
    """A configuration that describes a network and how it learns."""

    @property
    def training(self) -> TrainingConfig:
        """How training runs."""

    @property
    def monitor(self) -> str:
        """The validation metric, larger is better, by which the best epoch is kept."""

    def sizes(self, data: Payload) -> Mapping[str, int]:
        """What the network must know of the data to be built (numbers of users, items, categories)."""

    def network(self, sizes: Mapping[str, int]) -> torch.nn.Module:
        """A fresh network; random state is the caller's."""

    def batches(self, data: Payload, *, rank: int, processes: int) -> Batches:
        """This process's share of the training batches; every process gets the same number."""

    def loss(self, network: torch.nn.Module, batch: Any) -> torch.Tensor:
        """The mean loss of one batch, a scalar with gradient."""

    def validate(self, network: torch.nn.Module, data: Payload) -> Mapping[str, float]:
        """Validation metrics of the whole network, `monitor` among them; deterministic."""


@runtime_checkable
class Started(Protocol):
    """A `Trainable` whose network begins at what the data say, not at random alone."""

    def start(self, network: torch.nn.Module, data: Payload) -> None:
        """Set a fresh network's weights in place; deterministic, and not called when a training goes on."""


class Measured(Trainable, Protocol):
    """A `Trainable` that is one trial of a study: it says what its trained network is measured by."""

    @property
    def name(self) -> str:
        """Name of what is measured; see `Curatable.name`."""

    def measure(self, product: Payload, data: Payload, network: torch.nn.Module) -> Payload:
        """What the trained network says of the held-out part, and what the training was."""

    def metrics(self, measured: Payload) -> Mapping[str, float]:
        """What a person compares trials by."""


class Studied(Protocol):
    """A configuration of many trials, and of what they show together."""

    @property
    def name(self) -> str:
        """Name of the study and of what it concludes; see `Curatable.name`."""

    def gather(self, parts: Sequence[Payload]) -> Payload:
        """What all trials measured as one dataset; the parts are in the order of the study's trials."""

    def conclude(self, data: Payload) -> Payload:
        """What the trials show together, fitted to what was gathered."""


class Indexable(Protocol):
    """A configuration that builds a searchable index."""

    def build_index(self, data: Payload, network: torch.nn.Module | None) -> Payload:
        """The index as parts to be stored."""


class Searcher(Protocol):
    """An index that was opened to be asked what is nearest to vectors; it stays as it was when it was opened."""

    @property
    def items(self) -> pa.Array:
        """(N) identifiers of all items, each once: integers or text; null where an item has a number alone."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(N, D) theirs."""

    @property
    def popularity(self) -> NDArray[np.float64] | None:
        """(N) how often each was met by whom the index was made for; None where that is not known."""

    @property
    def about(self) -> Mapping[str, str | int]:
        """What is searched beyond the version that was opened: which writes to it; as JSON."""

    def neighbours(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k items nearest to each vector, as whoever asks its service gets them.

        Args:
            queries: (Q, D).
            k: how many, at least 1.

        Returns:
            (Q, k) places in `items`, best first, -1 where there are no more; and their scores, the larger the nearer.
        """


class Searchable(Protocol):
    """A configuration whose published index can be asked for neighbours without its service."""

    def searcher(self, product: Payload, data: Payload, folder: Path) -> Searcher:
        """Open an index to be asked.

        Args:
            product: the index.
            data: the dataset behind it; the part `writes`, where there is one, has what was written to it since it was
                built.
            folder: where its service keeps what is written to it, if it runs on this machine; it is only read.

        Raises:
            Exception: the folder is damaged, or holds other writes than the index.
        """


class Asking(Protocol):
    """A configuration of questions to a published index, and of what is made of its answers."""

    @property
    def name(self) -> str:
        """Name of the answers; see `Curatable.name`."""

    @property
    def k(self) -> int:
        """How many neighbours each question asks for."""

    def sources(self) -> Mapping[str, str]:
        """Raw files that say who asks: logical name to location; empty when that is generated."""

    def questions(self, files: Mapping[str, Path], searcher: Searcher) -> Payload:
        """What is asked.

        Returns:
            The part `queries`, (Q, D) float32, at least one, and whatever `answers` needs of the index.

        Raises:
            InputError: a file cannot be used, or names an item that the index lacks.
        """

    def answers(
        self, asked: Payload, places: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> tuple[Payload, Mapping[str, float]]:
        """The parts to be stored, and what was counted.

        Args:
            asked: what `questions` gave.
            places: (Q, k) of `Searcher.neighbours`.
            scores: (Q, k) theirs.

        Returns:
            Parts that can be judged by themselves, among them the table `answers`, for whoever asked.
        """


class Compactable(Protocol):
    """A configuration whose product is written to in service, and can be published as it became."""

    def compact(self, built: Payload, folder: Path, before: Payload | None) -> tuple[Payload, Payload] | None:
        """The product with the writes that a folder holds for certain, and these writes as parts of their own.

        Args:
            built: the product as it was built.
            folder: what its service keeps; it may be written to meanwhile.
            before: the writes that the live version holds; None when it is as it was built.

        Returns:
            Both; None when the folder holds nothing that the live version lacks. The same items give the same parts.

        Raises:
            Exception: the folder is damaged, or holds other writes than the live version.
        """


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a solve is compared by.

    Attributes:
        metrics: name to value, the same names for every plan over the same rows.
        table: one row per shared row, all with the same keys.
        steps: name to one value after every pass.
    """

    metrics: Mapping[str, float]
    table: tuple[Mapping[str, Any], ...] = ()
    steps: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class Allocatable(Protocol):
    """A configuration that makes a plan: who gets what, within rows that all share."""

    def allocate(self, data: Payload, live: Payload | None, network: torch.nn.Module | None) -> Payload:
        """The plan as parts to be stored.

        Args:
            data: who may get what, what it is worth and draws, and the rows.
            live: the plan to begin from; None to begin from nothing.
            network: says what things are worth; None when the data do.

        Where no plan holds all rows, the parts say so and carry the proof; their judge refuses them.
        """

    def account(self, product: Payload) -> Account:
        """What the solve is compared by."""


class Deciding(Protocol):
    """A configuration whose plan decides for tables of members who were not in it."""

    def decide(self, product: Payload, data: Payload, requests: pa.Table) -> tuple[pa.Table, Mapping[str, float]]:
        """Sends, and what was counted; raises `InputError` for a row that cannot be decided."""


class Analysed(Protocol):
    """A configuration that says what an experiment, or answers of an index, show."""

    def analyse(self, data: Payload) -> Judgement:
        """Effects with their intervals and tests; the certificate says whether the data may be believed."""


class Judged(Protocol):
    """A configuration that judges its product against an independent reference."""

    def judge(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """Metrics on held-out data and the certificate.

        The part `writes` of the data, where there is one, has what was written to the product since it was built. The
        part `champion` has the live version that the product must not be worse than, as `network`, and the `data` that
        it was made from; metrics then have `gain_over_champion_low` (see `models.common.gate`).
        """


class Supplied(Protocol):
    """A configuration of data that are either made in parts, or live already."""

    @property
    def recipe(self) -> Partitioned | None:
        """What makes the parts; None: the data are live."""

    @property
    def preparation(self) -> PreparationConfig:
        """How the parts are made, if they are."""

    @property
    def product(self) -> str:
        """Name of the live dataset."""


class Gridding(Protocol):
    """A configuration whose trained network turns a dataset that was made in parts into another one, part by part."""

    elsewhere: ClassVar[tuple[str, ...]]
    """As of `Partitioned`."""

    @property
    def name(self) -> str:
        """Lower case, digits and hyphens; `SYSTEM-NAME` is the name of what is made."""

    @property
    def location(self) -> str:
        """Path of a Zarr tree of somebody's own; empty: a dataset of the store."""

    @property
    def dataset(self) -> str:
        """Name of a live dataset; empty: that from which the model learned."""

    def sources(self) -> Mapping[str, str]:
        """The files of that tree as a pattern; empty for a dataset of the store."""

    def survey(self, data: Payload, network: torch.nn.Module) -> Survey:
        """Which parts there are; looks at labels alone. Raises `InputError` for data that the network cannot take."""

    def content(self, data: Payload, part: Part) -> str:
        """Digest of everything that a part reads of the data: equal for equal values."""

    def part(self, data: Payload, network: torch.nn.Module, part: Part) -> Mapping[str, "xr.Dataset"]:
        """Make one part in bounded memory; raises `InputError`."""

    def export(self, groups: Mapping[str, "xr.Dataset"], folder: Path) -> tuple[Path, ...]:
        """As of `Partitioned`."""


class Surveyed(Protocol):
    """The whole configuration of a flow whose dataset is made in parts."""

    @property
    def recipe(self) -> Partitioned:
        """What makes the parts."""

    def judge_parts(self, product: Payload, survey: Survey) -> Judgement:
        """Metrics, figures and the certificate of the dataset: parts are made again from their raw files, otherwise.

        Args:
            product: `data`, groups opened lazily and undecoded; `statistics` and `provenance` as JSON.
            survey: what the recipe finds in the raw files now.
        """


class Monitored(Protocol):
    """A configuration whose live product is watched in service."""

    def watch(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """Replay sampled requests against the exact answer; the data are those of `Judged.judge`."""


class Requested(Protocol):
    """A configuration that names a table of requests of somebody's own."""

    def sources(self) -> Mapping[str, str]:
        """The raw files: logical name to location."""

    def read(self, files: Mapping[str, Path]) -> pa.Table:
        """The requests as a table that the model's own configuration can answer; raises `InputError`."""


class Predicting(Protocol):
    """A configuration whose trained product answers tables of requests."""

    def predict(
        self, product: Payload, data: Payload, config: Any, requests: pa.Table, tell: Callable[[float], None]
    ) -> tuple[pa.Table, Mapping[str, float]]:
        """Answers, one row per row of the requests, and what was counted.

        Args:
            product: the model's parts.
            data: the data set that it was made from.
            config: the configuration that read the requests.
            requests: the requests.
            tell: is told now and then what share is done.

        Among what was counted are `candidates_per_second` and `cache_hit_rate`. Raises `InputError` for a row that
        cannot be answered.
        """


class Exporting(Protocol):
    """A configuration that makes tables of a dataset for somebody else to read."""

    def tables(self, data: Payload) -> Mapping[str, pa.Table]:
        """Tables by where they go; raises `InputError`."""
