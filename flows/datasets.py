"""Prepare the six datasets of WxC-Bench part by part, certify and publish them, and validate what they are good for."""

from prefect import flow

from flows.retrieval import rebuild_index
from infra.provenance import dated
from infra.refs import Outcome, Report
from models.climate.datasets.analogs.search import AnalogSearchConfig, DayVectorsConfig
from models.climate.datasets.config import (
    AnalogsFlowConfig,
    FluxesFlowConfig,
    OutlooksFlowConfig,
    PrecipitationFlowConfig,
    StormsFlowConfig,
    TurbulenceFlowConfig,
    tiny_analogs,
    tiny_fluxes,
    tiny_outlooks,
    tiny_precipitation,
    tiny_storms,
    tiny_turbulence,
)
from models.climate.datasets.validation import ExportConfig, ValidationConfig
from models.feed.retrieval.config import DataConfig, RetrievalConfig, VectorsConfig
from tasks.evaluate import analyse, findings
from tasks.export import export_answers, export_files, export_tables
from tasks.neighbours import neighbours, published_index
from tasks.prepare import certify, live_dataset, prepare
from tasks.publish import publish, rollback, verdict

_NAME = dated("{config.data.name}")
_DAYS = DayVectorsConfig()
_DAYS_INDEX = RetrievalConfig(
    data=DataConfig(
        name="analogs",
        source="vectors",
        vectors=VectorsConfig(items=_DAYS.file, item_column="day", query_column="question"),
    )
)


@flow(name="datasets-fluxes", flow_run_name=_NAME, persist_result=True, result_serializer="json")
def prepare_fluxes(config: FluxesFlowConfig = tiny_fluxes()) -> list[Outcome]:  # noqa: B008
    """Prepare gravity-wave momentum fluxes from winds, certify them against other code, and publish them.

    Args:
        config: The recipe, how its parts are made, how the dataset is judged.
    """
    dataset = prepare(config.data, config.preparation)
    return verdict(publish(dataset, certify(config, dataset), config.gate))


@flow(name="datasets-turbulence", flow_run_name=_NAME, persist_result=True, result_serializer="json")
def prepare_turbulence(config: TurbulenceFlowConfig = tiny_turbulence()) -> list[Outcome]:  # noqa: B008
    """Prepare maps of turbulence and training columns from pilots' reports, certify and publish them.

    Args:
        config: The recipe, how its parts are made, how the dataset is judged.
    """
    dataset = prepare(config.data, config.preparation)
    return verdict(publish(dataset, certify(config, dataset), config.gate))


@flow(name="datasets-storms", flow_run_name=_NAME, persist_result=True, result_serializer="json")
def prepare_storms(config: StormsFlowConfig = tiny_storms()) -> list[Outcome]:  # noqa: B008
    """Prepare tracks and intensities of hurricanes from HURDAT2 texts, certify and publish them.

    Args:
        config: The recipe, how its parts are made, how the dataset is judged.
    """
    dataset = prepare(config.data, config.preparation)
    return verdict(publish(dataset, certify(config, dataset), config.gate))


@flow(name="datasets-analogs", flow_run_name=_NAME, persist_result=True, result_serializer="json")
def prepare_analogs(config: AnalogsFlowConfig = tiny_analogs()) -> list[Outcome]:  # noqa: B008
    """Prepare a region's daily pressure and temperature from MERRA-2 files, certify and publish them.

    Args:
        config: The recipe, how its parts are made, how the dataset is judged.
    """
    dataset = prepare(config.data, config.preparation)
    return verdict(publish(dataset, certify(config, dataset), config.gate))


@flow(name="datasets-precipitation", flow_run_name=_NAME, persist_result=True, result_serializer="json")
def prepare_precipitation(config: PrecipitationFlowConfig = tiny_precipitation()) -> list[Outcome]:  # noqa: B008
    """Prepare satellite observations and daily rain on one grid, certify and publish them.

    Args:
        config: The recipe, how its parts are made, how the dataset is judged.
    """
    dataset = prepare(config.data, config.preparation)
    return verdict(publish(dataset, certify(config, dataset), config.gate))


@flow(name="datasets-outlooks", flow_run_name=_NAME, persist_result=True, result_serializer="json")
def prepare_outlooks(config: OutlooksFlowConfig = tiny_outlooks()) -> list[Outcome]:  # noqa: B008
    """Prepare forecasters' discussions beside the model fields of their day, certify and publish them.

    Args:
        config: The recipe, how its parts are made, how the dataset is judged.
    """
    dataset = prepare(config.data, config.preparation)
    return verdict(publish(dataset, certify(config, dataset), config.gate))


@flow(name="datasets", persist_result=True, result_serializer="json")
def prepare_climate(
    fluxes: FluxesFlowConfig = tiny_fluxes(),  # noqa: B008
    turbulence: TurbulenceFlowConfig = tiny_turbulence(),  # noqa: B008
    storms: StormsFlowConfig = tiny_storms(),  # noqa: B008
    analogs: AnalogsFlowConfig = tiny_analogs(),  # noqa: B008
    precipitation: PrecipitationFlowConfig = tiny_precipitation(),  # noqa: B008
    outlooks: OutlooksFlowConfig = tiny_outlooks(),  # noqa: B008
) -> list[Outcome]:
    """Prepare all six datasets in turn; one that is refused keeps its live version and does not stop the others.

    Args:
        fluxes: Gravity-wave momentum fluxes.
        turbulence: Pilots' reports of turbulence.
        storms: Hurricane tracks and intensities.
        analogs: Daily pressure and temperature of a region.
        precipitation: Satellite observations and rain.
        outlooks: Forecasters' discussions.
    """
    grids = (*prepare_fluxes(fluxes), *prepare_analogs(analogs), *prepare_precipitation(precipitation))
    return verdict(*grids, *prepare_turbulence(turbulence), *prepare_storms(storms), *prepare_outlooks(outlooks))


@flow(name="datasets-validate", flow_run_name=dated("{config.dataset}"), persist_result=True, result_serializer="json")
def validate_climate(config: ValidationConfig = ValidationConfig()) -> Report:  # noqa: B008
    """Train or compute the baseline of a live dataset, as its paper's technical validation asks, with intervals.

    Args:
        config: Which dataset, and how its baseline is found.
    """
    return findings(analyse(config, live_dataset(config.product)))


@flow(name="datasets-index", flow_run_name=dated("{days.name}"), persist_result=True, result_serializer="json")
def index_analogs(days: DayVectorsConfig = _DAYS, retrieval: RetrievalConfig = _DAYS_INDEX) -> list[Outcome]:
    """Write the days of the live analogs as a table of vectors, and build, certify and publish the index of it.

    Args:
        days: Which days, and where their table goes.
        retrieval: The index; its data are the table that is written.
    """
    read = retrieval.data.vectors
    days.check_reader(retrieval.data.source, read.items, (read.item_column, read.vector_column, read.query_column))
    export_tables(days, live_dataset(days.product))
    return verdict(*rebuild_index(retrieval))


@flow(
    name="datasets-search",
    flow_run_name=dated("{config.questions.name}"),
    persist_result=True,
    result_serializer="json",
)
def search_analogs(config: AnalogSearchConfig = AnalogSearchConfig(), index: str = "retrieval-analogs") -> Report:  # noqa: B008
    """Ask a published index for the analogs of its days, keep and export them, and say what they foretell.

    Args:
        config: How many analogs, which days are none, and where they go.
        index: Name of the index of days: its system, a hyphen, and the name of its data.
    """
    analogs = neighbours(config.questions, published_index(index))
    export_answers(analogs, config.export)
    return findings(analyse(config, analogs))


@flow(name="datasets-export", flow_run_name=dated("{config.product}"), persist_result=True, result_serializer="json")
def export_climate(config: ExportConfig = ExportConfig()) -> list[str]:  # noqa: B008
    """Write a live dataset as the netCDF, text and table files of the published layout.

    Args:
        config: Which dataset, and where its files go.
    """
    return export_files(live_dataset(config.product), config.folder)


@flow(name="datasets-rollback", flow_run_name=dated("{product}"), persist_result=True, result_serializer="json")
def rollback_dataset(product: str = "datasets-fluxes", version: str = "") -> list[Outcome]:
    """Return to an earlier published version; the one that was live is withdrawn and no schedule brings it back.

    Args:
        product: Name of the dataset: `datasets-` and the name in its recipe.
        version: Version to return to, twelve hexadecimal digits; empty means the one that was live before.
    """
    return verdict(rollback("dataset", product, version))
