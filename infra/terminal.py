"""What every command says on a terminal, and how."""

import sys

import typer
from rich.console import Console


def console() -> Console:
    """A console; where no terminal is, lines are wide enough for tables to stay whole."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def say(console: Console, sentence: str) -> None:
    """Print a sentence as it is: paths and logs may contain brackets, and are not to be broken."""
    console.print(sentence, markup=False, soft_wrap=True)


def failed(console: Console, error: Exception | str) -> typer.Exit:
    """Say what failed; returns the exit with code 1, to be raised."""
    console.print("[bold red]failed[/]: ", end="")
    say(console, str(error))
    return typer.Exit(1)


def readable(size: float) -> str:
    """A number of bytes in the unit that suits it, decimal."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
