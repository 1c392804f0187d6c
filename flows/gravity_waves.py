"""Train, judge and publish networks of gravity-wave momentum flux; predict fluxes by them, watch them, go back."""

from prefect import flow

from infra.manifest import product_name
from infra.provenance import dated
from infra.refs import Dataset, Outcome
from models.climate.gravity_waves.config import GravityWavesConfig, tiny
from models.climate.gravity_waves.prediction import PredictionFlowConfig
from tasks.evaluate import evaluate
from tasks.export import export_files
from tasks.monitor import condition, watch
from tasks.predict import input_of, live_model, predict_parts
from tasks.prepare import supplied
from tasks.publish import publish, rival, rollback, verdict
from tasks.train import train


@flow(name="gravity-waves", flow_run_name=dated("{config.data.name}"), persist_result=True, result_serializer="json")
def train_gravity_waves(config: GravityWavesConfig = tiny()) -> list[Outcome]:  # noqa: B008
    """Take fields and fluxes, train the network and a single column beside it, judge both, publish what is better.

    Args:
        config: Everything about one network of fluxes: its data, network, the column beside it, judgement and gate.
    """
    data, product = supplied(config.data), product_name(config.data)
    column = train(config.baseline, data, f"{product}-column", "column_")
    model = train(config.trained, data, product)
    live = rival(model)
    report = evaluate(config, model, data, column, against=live)
    return verdict(publish(model, report, config.gate, live))


@flow(name="gravity-waves-predict", flow_run_name=dated("{product}"), persist_result=True, result_serializer="json")
def predict_fluxes(
    config: PredictionFlowConfig = PredictionFlowConfig(),  # noqa: B008
    product: str = "gravity_waves-lattice",
) -> Dataset:
    """Predict fluxes of a dataset or of a folder by the live network, keep them, and write them where you want them.

    Args:
        config: From which fields fluxes are predicted, how the work is done, where the files go.
        product: Name of the network: `gravity_waves-` and the name of its data.
    """
    model = live_model(product)
    data = input_of(config.data, model)
    fluxes = predict_parts(config.data, model, data, config.preparation)
    export_files(fluxes, config.folder)
    return fluxes


@flow(
    name="gravity-waves-monitor",
    flow_run_name=dated("{config.data.name}"),
    persist_result=True,
    result_serializer="json",
)
def monitor_gravity_waves(config: GravityWavesConfig = tiny()) -> None:  # noqa: B008
    """Let the live network predict the latest hours again, and compare with the fluxes that are known of them.

    Args:
        config: The network as it was trained; its judgement says how much is predicted again.
    """
    return condition(watch(config, config.data, "model"))


@flow(name="gravity-waves-rollback", flow_run_name=dated("{product}"), persist_result=True, result_serializer="json")
def rollback_gravity_waves(product: str = "gravity_waves-lattice", version: str = "") -> list[Outcome]:
    """Return to an earlier published network; the one that was live is withdrawn and no schedule brings it back.

    Args:
        product: Name of the network: `gravity_waves-` and the name of its data.
        version: Version to return to, twelve hexadecimal digits; empty means the one that was live before.
    """
    return verdict(rollback("model", product, version))
