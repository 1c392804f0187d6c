"""Where tables for an index go, and that it is these which it reads."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.feed import train_feed
from models.common.contracts import InputError
from models.feed.events.export import ExportConfig
from models.feed.retrieval.config import feed, tiny


def test_two_tables_have_two_files() -> None:
    with pytest.raises(ValueError, match=r"ExportConfig\.interactions and ExportConfig\.items must name two files"):
        ExportConfig(interactions="data/one.parquet", items="data/./one.parquet")


def test_an_index_reads_what_is_written() -> None:
    read = feed().data
    ExportConfig().check_reader(read.source, read.table.interactions, read.table.items)
    with pytest.raises(
        InputError, match=r"ExportConfig\.items is 'a\.parquet'.*data\.table\.items is 'data/feed/items"
    ):
        ExportConfig(items="a.parquet").check_reader(read.source, read.table.interactions, read.table.items)
    with pytest.raises(InputError, match=r"data\.source must be 'table'.*got 'generated'"):
        ExportConfig().check_reader("generated", read.table.interactions, read.table.items)


def test_the_flow_refuses_an_index_of_other_tables_before_it_begins(tmp_path: Path) -> None:
    elsewhere = replace(ExportConfig(), interactions=str(tmp_path / "met.parquet"))
    with pytest.raises(InputError, match=r"data\.table\.interactions is 'data/feed/interactions\.parquet'"):
        train_feed.fn(export=elsewhere)
    with pytest.raises(InputError, match="must be 'table'"):
        train_feed.fn(retrieval=tiny())
    assert not list(tmp_path.iterdir())
