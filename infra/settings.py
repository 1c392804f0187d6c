"""Where things are, from environment variables with the prefix `HEADRACE_`.

The same settings lead from a laptop (a folder, SQLite) to shared servers and object stores; nothing else in the
project reads the environment.
"""

from functools import lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Addresses and folders of one installation."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", extra="ignore")

    home: Path = Field(PROJECT / ".headrace", description="Folder of all local state; removing it forgets everything.")
    store: str = Field("", description="Where products live: a folder or an fsspec URL; empty means HOME/store.")
    mirror: str = Field("", description="Folder that stands in for the internet: one subfolder per catalogue entry.")
    data_roots: str = Field("", description="Folders and URL prefixes that parameters may name, semicolons between.")
    tracking_uri: str = Field("", description="MLflow server; empty means a SQLite file under HOME.")
    dask_address: str = Field("", description="Dask scheduler; empty means local processes when work asks for them.")
    prefect_port: int = Field(4200, description="First port tried for the Prefect server.")
    mlflow_port: int = Field(5000, description="First port tried for the MLflow server.")

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
    def scratch(self) -> Path:
        """Checkpoints and downloads: may be deleted at any time, costs only time."""
        return self.home.resolve() / "scratch"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
