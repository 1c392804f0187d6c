"""The thread that ties an MLflow run to the flow run, the code and the data behind it."""

import contextlib
from collections.abc import Iterator
from typing import Any

from infra import tracking
from infra.manifest import code_behind, code_digest, describe_configuration, digest_of, flatten, system_of
from infra.provenance import FlowRun, prefect_version
from infra.refs import Ref


@contextlib.contextmanager
def tracked(configuration: Any, data: Ref, flow_run: FlowRun, purpose: str, run_id: str = "") -> Iterator[tracking.Run]:
    """Continue or begin the MLflow run of a flow run, with its parameters, lineage and input.

    Args:
        configuration: of the task; says which system and so which experiment.
        data: the dataset behind the product.
        flow_run: who asks.
        purpose: what the data serve: training, evaluation, monitoring.
        run_id: a known MLflow run to continue.

    Yields:
        The run.
    """
    whole = flow_run.parameters.get("config", configuration)
    link = (
        f"[Prefect flow run {flow_run.name}]({flow_run.url})" if flow_run.url else f"Prefect flow run {flow_run.name}"
    )
    tags = {
        "product": data.name,
        "data.name": data.name,
        "data.digest": data.digest,
        "code.digest": code_digest(*code_behind(configuration)),
        "configuration.digest": digest_of(describe_configuration(whole)),
        "prefect.flow_run_name": flow_run.name,
        "prefect.flow_run_url": flow_run.url,
        "prefect.version": prefect_version(),
        "mlflow.note.content": f"{link}, dataset {data}.",
    }
    with tracking.run_for(system_of(configuration), flow_run.id, flow_run.name, tags, run_id) as run:
        run.parameters(parameters_of(whole))
        run.dataset(data, purpose)
        yield run


def parameters_of(configuration: Any) -> dict[str, Any]:
    """What a person compares runs by: the configuration's own choice, or every setting when it makes none."""
    if hasattr(configuration, "parameters"):
        return dict(configuration.parameters())
    return flatten(describe_configuration(configuration))
