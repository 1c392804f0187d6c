"""The command line behind the Makefile: bring the stack up, run a flow through its API, show what came of it."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from infra import stack, terminal
from infra.backup import backup, restore_command
from infra.check_data import check_data
from infra.doctor import doctor
from infra.feeding import feed_index
from infra.migrations import migrate
from infra.pinning import pin, pins, unpin
from infra.serving import serve_feed, serve_index, serve_model
from infra.settings import settings
from infra.survey import survey

app = typer.Typer(help="headrace: local stack and runs.", no_args_is_help=True, add_completion=False)
console = terminal.console()
REFUSED = 3
DEGRADED = 4

app.command("check-data")(check_data)
app.command()(survey)
app.command()(doctor)
app.command()(pin)
app.command()(unpin)
app.command()(pins)
app.command()(backup)
app.command("restore")(restore_command)
app.command()(migrate)
app.command("serve-index")(serve_index)
app.command("serve-model")(serve_model)
app.command("serve-feed")(serve_feed)
app.command("feed-index")(feed_index)


@app.command()
def up() -> None:
    """Start Prefect, MLflow and a worker on loopback, and deploy every flow."""
    try:
        _ready(deploy_always=True)
    except stack.StackError as error:
        raise terminal.failed(console, error) from error


@app.command()
def down() -> None:
    """Stop exactly what `up` started."""
    stopped = stack.down()
    console.print(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def serve(
    service: Annotated[str, typer.Argument(help="prefect, prefect-api, prefect-services, mlflow, worker, keeper")],
) -> None:
    """Become one service, in the foreground, as a container wants it; a worker deploys every flow first."""
    known = ("prefect", "prefect-api", "prefect-services", "mlflow", "worker", "keeper")
    if service not in known:
        raise terminal.failed(console, f"there is no service {service!r}; there are {', '.join(known)}.")
    try:
        command, environment = stack.foreground(service)
    except stack.StackError as error:
        raise terminal.failed(console, error) from error
    sys.stdout.flush()
    os.execve(command[0], command, environment)  # noqa: S606 - a list of words; signals reach the service itself


@app.command()
def env() -> None:
    """Print the environment that points a shell at the stack: `eval "$(headrace env)"`. A terminal sees no password."""
    wanted = ("HEADRACE_", "PREFECT_", "MLFLOW_", "NO_PROXY", "no_proxy")
    for name, value in sorted(stack.environment(stack.known()).items()):
        if name.startswith(wanted):
            secret = name.endswith(("_AUTH_STRING", "_PASSWORD", "_KEY", "_TOKEN", "_URL")) and "://" not in value
            hidden = sys.stdout.isatty() and (secret or "@" in value)
            print(f"# export {name}=... (not shown)" if hidden else f"export {name}={shlex.quote(value)}")


@app.command()
def run(
    flow: Annotated[str, typer.Option(help="Name of a flow in prefect.yaml.")] = "nightly",
    preset: Annotated[str, typer.Option(help="Deployment of it: tiny, small, paper, ...")] = "tiny",
) -> None:
    """Trigger a deployment through the API, follow it, print what came of it.

    Exits 0 when every product was published or live already, 3 when one was refused, 4 when a monitoring run ended
    Degraded, 1 when something broke.
    """
    started = time.monotonic()
    try:
        services = _ready(deploy_always=False)
        import httpx

        from infra.follow import follow, show  # after the environment: Prefect reads it when imported

        followed = follow(f"{flow}/{preset}", console)
    except stack.StackError as error:
        raise terminal.failed(console, error) from error
    except httpx.HTTPError as error:
        raise terminal.failed(
            console,
            f"lost Prefect at {services['prefect'].url} ({type(error).__name__}: {error}); "
            f"see {stack.folder() / 'prefect.log'}, then run it again.",
        ) from error
    if followed.outcomes:
        show(followed, console)
    _close(followed.state, followed.outcomes, time.monotonic() - started)


def _ready(*, deploy_always: bool) -> stack.Services:
    with console.status("starting Prefect and MLflow ..."):
        services = stack.up(lambda sentence: console.print(sentence, soft_wrap=True))
    environment = stack.environment(services)
    console.print(f"Prefect {services['prefect'].url}   MLflow {environment['HEADRACE_TRACKING_URI']}", soft_wrap=True)
    with console.status("deploying the flows of prefect.yaml ..."):
        stack.deploy(services, always=deploy_always)
    os.environ.update(environment)
    settings.cache_clear()
    if "://" in settings().store_location or Path(settings().store_location).is_dir():
        from infra.registry import catch_up
        from infra.store import open_store

        try:
            for sentence in catch_up(open_store()):
                console.print(f"mended the registry: {sentence}")
        except Exception as error:  # the mirror is not the truth: what is live serves without it
            console.print(f"the registry could not be brought in line ({error}); the next start tries again.")
    return services


def _close(state: str, outcomes: list[Any], seconds: float) -> None:
    console.print(f"{len(outcomes)} product(s) in {seconds:.0f} s." if outcomes else f"{state} in {seconds:.0f} s.")
    refused = [outcome for outcome in outcomes if outcome.status == "refused"]
    for outcome in refused:
        console.print(f"refused {outcome.product}@{outcome.version}: {outcome.reason}", style="yellow")
    if refused:
        raise typer.Exit(REFUSED)
    if state == "Degraded":
        raise typer.Exit(DEGRADED)


if __name__ == "__main__":
    app()
