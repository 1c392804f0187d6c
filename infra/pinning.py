"""Pins: versions that retention never removes, with the reason, kept in the store beside CURRENT.

headrace pin KIND/NAME@VERSION --why TEXT        keep a version, and what it is made from, whatever happens
headrace unpin KIND/NAME@VERSION
headrace pins                                    which are kept so, since when and why
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra import terminal
from infra.settings import settings


def pin(
    product: Annotated[str, typer.Argument(metavar="KIND/NAME@VERSION", help="As index/retrieval-movielens@0123...")],
    why: Annotated[str, typer.Option(help="For whoever asks later.")],
) -> None:
    """Keep a version and all that it is made from, whatever retention says."""
    with _told() as console:
        from infra.store import StoreError, open_store

        if not why.strip():
            raise StoreError("--why is empty; say for whom or until when the version is kept.")
        open_store().pin(*parsed(product), why)
        console.print(f"pinned {product}; it and what it is made from stay.", soft_wrap=True)


def unpin(
    product: Annotated[str, typer.Argument(metavar="KIND/NAME@VERSION", help="As `headrace pins` shows it.")],
) -> None:
    """Let retention treat a version like any other again."""
    with _told() as console:
        from infra.store import open_store

        open_store().unpin(*parsed(product))
        console.print(f"unpinned {product}.", soft_wrap=True)


def pins() -> None:
    """Show which versions are pinned, since when and why."""
    with _told() as console:
        from infra.store import Store

        store = Store(settings().store_location, touch=False)
        table = Table("version", "since", "why")
        for kind in store.kinds():
            for name in store.products(kind):
                for version, note in store.pins(kind, name).items():
                    table.add_row(f"{kind}/{name}@{version}", note.when[:19], Text(note.why))
        console.print(table if table.row_count else "nothing is pinned.")


def parsed(product: str) -> tuple[str, str, str]:
    """Kind, name and version of `KIND/NAME@VERSION`.

    Raises:
        StoreError: it is not written like that.
    """
    from infra.store import StoreError

    found = re.fullmatch(r"([a-z]+)/([a-z0-9_-]+)@([0-9a-f]{12})", product)
    if not found:
        raise StoreError(
            f"a version is written KIND/NAME@VERSION, as index/retrieval-movielens@0123456789ab, got {product!r}; "
            "the tables on the pages of flow runs have it."
        )
    return found.group(1), found.group(2), found.group(3)


@contextlib.contextmanager
def _told() -> Iterator[Console]:
    """Say what is wrong in a sentence, and exit with 1. The store is imported late: it takes seconds."""
    from infra.store import StoreError

    console = terminal.console()
    try:
        yield console
    except StoreError as error:
        raise terminal.failed(console, error) from error
