"""One Prefect server and one folder of state for the whole session.

`tests/scale_out.py` runs parts of the suite on other services: `HEADRACE_TEST_PREFECT_API_URL`,
`HEADRACE_TEST_TRACKING_URI` and `HEADRACE_TEST_STORE` name a Prefect server, an MLflow server and an object store.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.homes import living_in

# Set before Prefect, MLflow or headrace read them.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take the cores from the servers
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Read when triton is imported, by whomever: kernels then run on a CPU.
os.environ["TRITON_INTERPRET"] = "1"

hypothesis.settings.register_profile("untimed", deadline=None)  # a loop that is compiled first is no failure
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the session's Prefect server; its database is a temporary file."""
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    if running := os.environ.get("HEADRACE_TEST_PREFECT_API_URL"):
        with temporary_settings({PREFECT_API_URL: running}):
            yield running
        return
    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for the session: making its tables takes seconds."""
    return (
        os.environ.get("HEADRACE_TEST_TRACKING_URI") or f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    )


@pytest.fixture
def home(tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh HEADRACE_HOME, so that nothing is cached from other tests."""
    with living_in(tmp_path, tracking_uri, monkeypatch):
        yield tmp_path
