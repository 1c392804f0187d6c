"""Where things are, from environment variables with the prefix `HEADRACE_`.

The same settings lead from a laptop (a folder, SQLite) to shared servers and object stores; nothing else in the
project reads the environment. A secret may also come from a file: `HEADRACE_SECRETS` names a folder, as a container's
secrets are mounted, with one file for each, called like the variable in lower case.
"""

import os
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Addresses and folders of one installation."""

    # what was given is not repeated in an error: it may be a password
    model_config = SettingsConfigDict(env_prefix="HEADRACE_", extra="ignore", hide_input_in_errors=True)

    home: Path = Field(PROJECT / ".headrace", description="Folder of all local state; removing it forgets everything.")
    store: str = Field("", description="Where products live: a folder or an fsspec URL; empty means HOME/store.")
    mirror: str = Field("", description="Folder that stands in for the internet: one subfolder per catalogue entry.")
    data_roots: str = Field("", description="Folders and URL prefixes that parameters may name, semicolons between.")
    tracking_uri: str = Field("", description="MLflow server; empty means a SQLite file under HOME.")
    dask_address: str = Field("", description="Dask scheduler; empty means local processes when work asks for them.")
    prefect_port: int = Field(4200, description="First port tried for the Prefect server.")
    mlflow_port: int = Field(5000, description="First port tried for the MLflow server.")
    host: str = Field(
        "127.0.0.1", description="Address that the servers listen on; beyond loopback they ask who calls."
    )
    public_host: str = Field("", description="Name under which others reach the servers; empty means HOST.")
    prefect_api_url: str = Field("", description="A Prefect server that runs already; empty means one of our own.")
    prefect_database: SecretStr = Field(SecretStr(""), description="Postgres of our Prefect server; empty: SQLite.")
    mlflow_database: SecretStr = Field(SecretStr(""), description="Postgres of our MLflow server; empty: SQLite.")
    mlflow_artifacts: str = Field("", description="Where our MLflow server keeps files; empty means a folder of HOME.")
    redis_url: SecretStr = Field(SecretStr(""), description="Redis of our Prefect server; empty: its own memory.")
    # the last name of each is what `headrace env` exports and a flow run inherits
    prefect_auth: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("HEADRACE_PREFECT_AUTH", "PREFECT_API_AUTH_STRING"),
        description="USER:PASSWORD that the Prefect server asks for.",
    )
    mlflow_user: str = Field(
        "",
        validation_alias=AliasChoices("HEADRACE_MLFLOW_USER", "MLFLOW_TRACKING_USERNAME"),
        description="User of the MLflow server; the administrator of our own.",
    )
    mlflow_password: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("HEADRACE_MLFLOW_PASSWORD", "MLFLOW_TRACKING_PASSWORD"),
        description="Password of that user.",
    )
    outbox_wait_s: int = Field(
        0, ge=0, description="Seconds that a process waits at its end for MLflow, where its disk ends with it."
    )
    secrets: str = Field("", description="Folder with a file for each secret, named like its variable in lower case.")

    @property
    def store_location(self) -> str:
        """The store as an absolute path or URL."""
        if "://" in self.store:
            return self.store.rstrip("/")
        return str(Path(self.store).resolve() if self.store else self.home.resolve() / "store")

    @property
    def tracking_location(self) -> str:
        """The MLflow tracking URI."""
        return self.tracking_uri or f"sqlite:///{self.home.resolve() / 'mlflow' / 'mlflow.db'}"

    @property
    def results_location(self) -> str:
        """Where Prefect keeps results that other machines must find: inside a store that they share; else ""."""
        return f"{self.store_location}/.results" if "://" in self.store else ""

    @property
    def address(self) -> str:
        """The name or number under which the servers are called and linked to."""
        return self.public_host or self.host

    @property
    def exposed(self) -> bool:
        """Whether other machines can reach the servers."""
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"

    @property
    def scratch(self) -> Path:
        """Checkpoints and downloads: may be deleted at any time, costs only time."""
        return self.home.resolve() / "scratch"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        ValueError: the folder of secrets does not exist, or a setting cannot be read.
    """
    folder = os.environ.get("HEADRACE_SECRETS")
    if folder and not Path(folder).is_dir():
        raise ValueError(f"HEADRACE_SECRETS must be a folder, got {folder}; make it, or unset the variable.")
    return Settings(_secrets_dir=folder or None)
