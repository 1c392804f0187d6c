"""The configuration of networks of gravity-wave fluxes: data, network, the single column beside it, judgement, gate."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from models.climate.generator.gwsphere import GwsphereConfig
from models.climate.gravity_waves import judge as judging
from models.climate.gravity_waves.batches import HourBatch, HourBatches
from models.climate.gravity_waves.fields import FluxFields
from models.climate.gravity_waves.judge import JudgementConfig
from models.climate.gravity_waves.lattice import LatticeConfig
from models.climate.gravity_waves.loss import flux_loss
from models.climate.gravity_waves.networks import FluxNetwork, NetworkConfig, of_fluxes, published
from models.climate.gravity_waves.splits import SplitConfig
from models.climate.gravity_waves.statistics import Statistics
from models.common.configuration import check, setting
from models.common.contracts import Payload, TrainingConfig
from models.common.gate import GateConfig
from models.common.judgement import Judgement
from models.common.parts import PreparationConfig

log = logging.getLogger("headrace.gravity_waves")

__all__ = [
    "DataConfig",
    "FluxNetworkConfig",
    "GravityWavesConfig",
    "JudgementConfig",
    "LatticeConfig",
    "LearningConfig",
    "NetworkConfig",
    "ReadingConfig",
    "SplitConfig",
    "TrainingConfig",
    "paper",
    "small",
    "tiny",
]


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """What of the data is read, and for what."""

    split: SplitConfig = setting(SplitConfig, "Split", "Which months are for training, validation and test.")
    dropped_levels: int = setting(
        0,
        "Dropped levels",
        "Levels at the top that are left out, 0 to 256; 15 of 137 as published.",
        ge=0,
        le=256,
    )

    def __post_init__(self) -> None:
        check(self)

    def fields(self, data: Payload) -> FluxFields:
        """The fields of a dataset."""
        return FluxFields.of(data, dropped_levels=self.dropped_levels)


def _lattice() -> LatticeConfig:
    # little is left to chance, so that what comes from the side shows in little data
    return LatticeConfig(hours_apart=193, world=GwsphereConfig(rows=32, columns=64, levels=6, intermittency=0.2))


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Fields and the fluxes that go with them: a generated lattice, or a live dataset of fluxes."""

    source: Literal["generated", "dataset"] = setting(
        "generated",
        "Source",
        "generated: hours of a world of waves whose fluxes are known, made here part by part. dataset: a live dataset "
        "of momentum fluxes.",
    )
    dataset: str = setting(
        "datasets-fluxes", "Dataset", "For dataset: name of the live dataset; its group `training` is read."
    )
    lattice: LatticeConfig = setting(_lattice, "Lattice", "For generated: which world, and which hours of it.")
    preparation: PreparationConfig = setting(PreparationConfig, "Preparation", "For generated: how parts are made.")
    reading: ReadingConfig = setting(ReadingConfig, "Reading", "What of the data is read, and for what.")

    def __post_init__(self) -> None:
        check(self)

    @property
    def name(self) -> str:
        """Name of what is trained: that of the lattice, or of the dataset without its system."""
        return self.lattice.name if self.source == "generated" else self.dataset.partition("-")[2] or self.dataset

    @property
    def recipe(self) -> LatticeConfig | None:
        """What makes the parts; None: the data are live."""
        return self.lattice if self.source == "generated" else None

    @property
    def product(self) -> str:
        """Name of the live dataset."""
        return self.dataset


def _training() -> TrainingConfig:
    return TrainingConfig(epochs=6, batch_size=2, learning_rate=6e-3, schedule="cosine")


def _architecture() -> NetworkConfig:
    return NetworkConfig(width=12, depth=1, stem=48)


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """A network and how it learns."""

    architecture: NetworkConfig = setting(_architecture, "Architecture", "What turns fields into fluxes.")
    training: TrainingConfig = setting(_training, "Training", "How it learns; a batch is of hours of the whole sphere.")


@dataclass(frozen=True, kw_only=True)
class FluxNetworkConfig(LearningConfig):
    """A network, how it learns, and from what."""

    reading: ReadingConfig = setting(ReadingConfig, "Reading", "What of the data is read, and for what.")

    @property
    def monitor(self) -> str:
        """The validation metric by which the best epoch is kept."""
        return "r2"

    def sizes(self, data: Payload) -> Mapping[str, int]:
        """Levels, latitudes and longitudes."""
        fields = self.reading.fields(data)
        rows, columns = fields.shape
        return {"levels": fields.levels, "rows": rows, "columns": columns}

    def network(self, sizes: Mapping[str, int]) -> FluxNetwork:
        """A fresh network; random state is the caller's."""
        network = FluxNetwork(sizes["levels"], self.architecture)
        if "rows" in sizes:
            network.lattice = sizes["rows"], sizes["columns"]
        return network

    def start(self, network: torch.nn.Module, data: Payload) -> None:
        """Tell the network means and deviations of the hours of training; and a person, which months are not there."""
        fields = self.reading.fields(data)
        for part, months in self.reading.split.absent(fields.time).items():
            log.warning(
                "%s has no hour of months that the split names for %s: %s; the others are used",
                fields.place or "the root group",
                part,
                ", ".join(months),
            )
        of_fluxes(network).begin(Statistics.of(fields, self.reading.split.rows_of("train", fields.time)))

    def batches(self, data: Payload, *, rank: int, processes: int) -> "WeighedBatches":
        """This process's share of the training batches."""
        fields = self.reading.fields(data)
        hours = HourBatches(
            fields,
            self.reading.split.rows_of("train", fields.time),
            batch_size=self.training.batch_size,
            seed=self.training.seed,
            rank=rank,
            processes=processes,
            pinned=self.training.accelerator != "cpu" and torch.cuda.is_available(),
        )
        return WeighedBatches(hours, torch.from_numpy(fields.area.astype(np.float32)))

    def loss(self, network: torch.nn.Module, batch: Any) -> Tensor:
        """The area-weighted mean square of standardised fluxes."""
        (features, fluxes), area = batch
        return flux_loss(of_fluxes(network), features, fluxes, area)

    def validate(self, network: torch.nn.Module, data: Payload) -> Mapping[str, float]:
        """Scores of standardised fluxes in the months of validation; those of test are not read."""
        fields = self.reading.fields(data)
        rows = self.reading.split.rows_of("validation", fields.time)
        return judging.scores(of_fluxes(network), fields, rows)


class WeighedBatches:
    """Batches of hours, each with the share of the sphere of every cell; see `models.common.contracts.Batches`."""

    def __init__(self, hours: HourBatches, area: Tensor) -> None:
        self._hours, self._area = hours, area

    def epoch(self, number: int) -> Iterator[tuple[HourBatch, Tensor]]:
        """Batches of one epoch; their values are read when they go to a device."""
        return ((batch, self._area) for batch in self._hours.epoch(number))

    def __len__(self) -> int:
        return len(self._hours)


@dataclass(frozen=True, kw_only=True)
class GravityWavesConfig:
    """A network of gravity-wave fluxes: data, network, the column beside it, judgement, gate."""

    data: DataConfig = setting(DataConfig, "Data", "Fields and the fluxes that go with them.")
    network: LearningConfig = setting(LearningConfig, "Network", "What is to be published, and how it learns.")
    column: LearningConfig = setting(
        lambda: LearningConfig(architecture=NetworkConfig(kind="column", hidden=48, layers=2)),
        "Column",
        "The single column that the network must beat, and how it learns: for as many steps, with a rate of its own.",
    )
    judgement: JudgementConfig = setting(JudgementConfig, "Judgement", "How the network is judged.")
    gate: GateConfig = setting(
        lambda: GateConfig(product="comparison", margin=0.002), "Gate", "When the network goes live."
    )

    def __post_init__(self) -> None:
        check(self)
        if self.column.architecture.kind != "column":
            raise ValueError(
                f"GravityWavesConfig.column must be a column, got a {self.column.architecture.kind}: what a network is "
                "worth is said over a column; make the other one the network, and compare reports."
            )

    @property
    def trained(self) -> FluxNetworkConfig:
        """The network, and what it learns from."""
        return _learning(self.network, self.data.reading)

    @property
    def baseline(self) -> FluxNetworkConfig:
        """The column, and what it learns from."""
        return _learning(self.column, self.data.reading)

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        data, network, training = self.data, self.network.architecture, self.network.training
        column, beside = self.column.architecture, self.column.training
        return {
            "data": data.name,
            "source": data.source,
            "nonlocality": data.lattice.world.nonlocality,
            "world_seed": data.lattice.world.seed,
            "hours_apart": data.lattice.hours_apart,
            "dropped_levels": data.reading.dropped_levels,
            "kind": network.kind,
            "padding": network.padding,
            "latitude": int(network.latitude),
            "longitude": int(network.longitude),
            "ground": int(network.ground),
            "theta": int(network.theta),
            "omega": int(network.omega),
            "hidden": network.hidden,
            "layers": network.layers,
            "stencil": network.stencil,
            "width": network.width,
            "depth": network.depth,
            "gates": int(network.gates),
            "stem": network.stem,
            "dropout": network.dropout,
            "precision": network.precision,
            "batch_size": training.batch_size,
            "epochs": training.epochs,
            "learning_rate": training.learning_rate,
            "weight_decay": training.weight_decay,
            "optimizer": training.optimizer,
            "schedule": training.schedule,
            "average": training.average,
            "seed": training.seed,
            "processes": training.processes,
            "column_hidden": column.hidden,
            "column_layers": column.layers,
            "column_dropout": column.dropout,
            "column_batch_size": beside.batch_size,
            "column_epochs": beside.epochs,
            "column_learning_rate": beside.learning_rate,
        }

    def judge(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """Test metrics and certificate of a trained network; nobody else reads the test part.

        Args:
            product: the network's parts.
            data: the dataset.
            network: the column that was trained beside it.

        Raises:
            TypeError: there is no column.
        """
        candidate = self.trained.network(product["training"]["sizes"]).eval()
        candidate.load_state_dict(product["weights"])
        fields = self.data.reading.fields(data)
        hours = len(self.data.reading.split.rows_of("train", fields.time))
        return judging.judge(
            product,
            data,
            candidate,
            of_fluxes(network),
            fields=fields,
            split=self.data.reading.split,
            settings=self.judgement,
            column_share=_steps(self.column.training, hours) / _steps(self.network.training, hours),
        )

    def watch(self, product: Payload, data: Payload, network: torch.nn.Module | None) -> Judgement:
        """Let the live network predict the latest hours whose fluxes are known."""
        from models.climate.gravity_waves.watch import watch

        return watch(data, of_fluxes(network), self.data.reading, self.judgement)


def _steps(training: TrainingConfig, hours: int) -> int:
    """Steps of a whole training."""
    return training.epochs * (hours // training.batch_size)


def _learning(config: LearningConfig, reading: ReadingConfig) -> FluxNetworkConfig:
    return FluxNetworkConfig(architecture=config.architecture, training=config.training, reading=reading)


def tiny() -> GravityWavesConfig:
    """A world of 32 x 64 columns and six levels, 184 hours: well under a CPU-minute; the default everywhere."""
    return GravityWavesConfig()


def small() -> GravityWavesConfig:
    """A world of 64 x 128 columns and 12 levels: a real result on two cores within minutes.

    What chance adds at the sources is less than the generator's default, so that more than half of the fluxes can be
    known. Network and column learn for as many steps, from the same hours in the same order.
    """
    training = TrainingConfig(
        epochs=4,
        batch_size=2,
        optimizer="muon",
        learning_rate=1e-2,
        weight_decay=1e-4,
        schedule="cosine",
        average=0.98,
    )
    return GravityWavesConfig(
        data=DataConfig(
            lattice=LatticeConfig(name="lattice-small", hours_apart=37, world=GwsphereConfig(intermittency=0.25))
        ),
        network=LearningConfig(
            architecture=NetworkConfig(width=32, depth=2, stem=256, precision="bfloat16"), training=training
        ),
        column=LearningConfig(
            architecture=NetworkConfig(kind="column", hidden=200, layers=4, precision="bfloat16"), training=training
        ),
    )


def paper() -> GravityWavesConfig:
    """The published networks and their data: 122 levels of ERA5 on 64 x 128 columns, hourly; wants a GPU.

    Published (amangupta2/nonlocal_gwfluxes at 4b68e09 and 407cc1d): the body, the channels, the years of training and
    test, batches, epochs, shares of dropout, the highest rate of learning. Ours: two months of 2014 choose the epoch
    and are not learned from (published: every epoch is kept, and the test year logged after each); hours are shuffled;
    cells count by their area; the rate falls along a cosine from its highest value (published: a triangle between
    lowest and highest, every 100 steps); gradients are clipped at norm 1, as everywhere in this house. AdamW without
    decay is the published Adam.
    """
    return GravityWavesConfig(
        data=DataConfig(
            source="dataset",
            dataset="datasets-fluxes-paper",
            reading=ReadingConfig(dropped_levels=15),  # 122 of 137: ann_cnn_training/training.py, rho[15:]
        ),
        network=LearningConfig(
            # attention_unet/training_attention_unet.py at 4b68e09: dropout = 0.05, after the runs whose logs are there
            architecture=replace(published("unet"), dropout=0.05),
            training=TrainingConfig(
                epochs=150,  # nepochs
                batch_size=40,  # bs_train
                learning_rate=5e-4,  # lr_max; lr_min is 1e-4
                weight_decay=0.0,
                schedule="cosine",
                accelerator="auto",
            ),
        ),
        column=LearningConfig(
            architecture=published("column"),
            training=TrainingConfig(  # ann_cnn_training/training.py at 407cc1d
                epochs=100,
                batch_size=20,
                learning_rate=9e-4,
                weight_decay=0.0,
                schedule="cosine",
                accelerator="auto",
            ),
        ),
    )
