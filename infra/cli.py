"""The command line behind the Makefile: bring the stack up, run a flow through its API, show what came of it."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from infra import stack
from infra.settings import settings

app = typer.Typer(help="headrace: local stack and runs.", no_args_is_help=True, add_completion=False)
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
REFUSED = 3


@app.command()
def up() -> None:
    """Start Prefect, MLflow and a worker on loopback, and deploy every flow."""
    _ready()


@app.command()
def down() -> None:
    """Stop exactly what `up` started."""
    stopped = stack.down()
    console.print(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def env() -> None:
    """Print the environment that points a shell at the stack: `eval "$(headrace env)"`."""
    wanted = ("HEADRACE_", "PREFECT_", "MLFLOW_")
    for name, value in sorted(stack.environment(stack.known()).items()):
        if name.startswith(wanted):
            print(f"export {name}={shlex.quote(value)}")


@app.command()
def run(
    flow: Annotated[str, typer.Option(help="Name of a flow in prefect.yaml.")] = "nightly",
    preset: Annotated[str, typer.Option(help="Deployment of it: tiny, small, paper, ...")] = "tiny",
) -> None:
    """Trigger a deployment through the API, follow it, print what came of it; exits 3 when a product was refused."""
    started = time.monotonic()
    try:
        services = _ready()
        from infra.follow import follow, outcomes_table  # after the environment: Prefect reads it when imported

        outcomes = follow(f"{flow}/{preset}", console)
    except stack.StackError as error:
        console.print(f"[bold red]failed[/]: {error}", markup=True)
        raise typer.Exit(1) from error
    console.print(outcomes_table(outcomes, services["mlflow"].url))
    _close(outcomes, time.monotonic() - started)


def _ready() -> stack.Services:
    with console.status("starting Prefect and MLflow ..."):
        services = stack.up()
    console.print(f"Prefect {services['prefect'].url}   MLflow {services['mlflow'].url}")
    with console.status("deploying the flows of prefect.yaml ..."):
        stack.deploy(services)
    os.environ.update(stack.environment(services))
    settings.cache_clear()
    if "://" in settings().store_location or Path(settings().store_location).is_dir():
        from infra.registry import reconcile
        from infra.store import open_store

        for sentence in reconcile(open_store()):
            console.print(f"mended the registry: {sentence}")
    return services


def _close(outcomes: list[Any], seconds: float) -> None:
    console.print(f"{len(outcomes)} product(s) in {seconds:.0f} s.")
    refused = [outcome for outcome in outcomes if outcome.status == "refused"]
    for outcome in refused:
        console.print(f"refused {outcome.product}@{outcome.version}: {outcome.reason}", style="yellow")
    if refused:
        raise typer.Exit(REFUSED)


if __name__ == "__main__":
    app()
