"""Export: tables leave the store as files of their own, whole or not at all."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from prefect import get_run_logger, task

from infra import catalogue
from infra.refs import Dataset, Predictions
from infra.store import open_store
from models.common.contracts import Exporting, InputError
from models.common.parts import Partitioned


@task
def export_answers(predictions: Predictions, location: str) -> str:
    """Write answers as a Parquet file.

    Args:
        predictions: the answers.
        location: path of the file, under a data root; empty: nothing is written.

    Returns:
        The path; empty when nothing was written.

    Raises:
        CatalogueError: the path lies outside the data roots.
        InputError: it is a URL, or there is no such folder.
        IntegrityError: the answers are damaged.
    """
    return write(location, open_store().open(predictions)["answers"]) if location else ""


@task
def export_tables(config: Exporting, data: Dataset) -> list[str]:
    """Write tables of a dataset as Parquet files; folders under a data root are made.

    Args:
        config: says which tables, and where they go.
        data: the dataset.

    Returns:
        The paths.

    Raises:
        CatalogueError: a path lies outside the data roots.
        InputError: the dataset has no such tables.
        IntegrityError: it is damaged.
    """
    tables = config.tables(open_store().open(data))
    for location in tables:
        Path(_local(location)).parent.mkdir(parents=True, exist_ok=True)
    return [write(location, table) for location, table in tables.items()]


@task
def export_files(data: Dataset, folder: str) -> list[str]:
    """Write a dataset that was made in parts as the files of its published layout.

    Args:
        data: the dataset; its manifest knows the recipe, which knows the layout.
        folder: where the files go, under a data root; it is made if its parent is there.

    Returns:
        The paths; none when no folder is given.

    Raises:
        CatalogueError: the folder lies outside the data roots.
        InputError: it is a URL, or its parent is no folder.
        IntegrityError: the dataset's manifest is damaged.
    """
    if not folder:
        return []
    target = Path(_local(folder))
    if not target.parent.is_dir():
        raise InputError(f"{target.parent} is no folder; make it, or export elsewhere.")
    target.mkdir(exist_ok=True)
    opened = open_store().open(data)
    recipe: Partitioned = opened.manifest.rebuild_configuration()
    written = [str(path) for path in recipe.export(opened["data"], target)]
    get_run_logger().info("wrote %d files of %s to %s", len(written), data, target)
    return written


def write(location: str, table: pa.Table) -> str:
    """Put a Parquet file in place of the one that is there, if any; returns its path."""
    path = Path(_local(location))
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is no folder; make it, or export elsewhere.")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pyarrow.parquet.write_table(table, beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    get_run_logger().info("wrote %d rows to %s", table.num_rows, path)
    return str(path)


def _local(location: str) -> str:
    if "://" in location:
        raise InputError(f"tables are exported to a path on this machine, got {location!r}; copy the file from there.")
    return catalogue.allowed(location)
