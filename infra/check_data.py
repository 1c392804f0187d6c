"""Try somebody's own table on a system, without any server: how it would be read, what is wrong, what to paste.

What is found comes from the system's configuration (`models.common.contracts.Examinable`); here it is called by name,
shown, and put into the words of `prefect.yaml` and of `HEADRACE_DATA_ROOTS`. Nothing is written to the store.
"""

import importlib
import json
import shlex
import textwrap
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml  # type: ignore[import-untyped]
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import catalogue, terminal
from infra.settings import PROJECT, settings

UNUSABLE = 1


def check_data(
    file: Annotated[
        str, typer.Argument(help="The table: a path, a URL under HEADRACE_DATA_ROOTS, or a catalogue entry.")
    ],
    items: Annotated[str, typer.Option(help="The items' table, where the system takes one.")] = "",
    system: Annotated[str, typer.Option(help="System that is to read it.")] = "retrieval",
    preset: Annotated[str, typer.Option(help="Deployment whose other parameters are kept: tiny, small, ...")] = "tiny",
    choices: Annotated[
        list[str] | None, typer.Option("--set", help="What is not to be guessed: role=column, may be repeated.")
    ] = None,
) -> None:
    """Try a table of your own on a system: mapping, problems, and the parameters to paste.

    Exits 0 when a run would take it, 1 when it would not.
    """
    console = terminal.console()
    try:
        deployment = deployment_of(system, preset)
        found = examined(system, preset, file, {"items": items} if items else {}, chosen(choices or []))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    show(found, console)
    if not found.usable:
        raise typer.Exit(UNUSABLE)
    locations = [_location(one) for one in (file, items) if one]
    print(paste(found, deployment, system, locations))


def configured(system: str, preset: str) -> Any:
    """The configuration of a system at a preset, as the system's `config.py` makes it.

    Args:
        system: the folder under `models/` that holds the system.
        preset: name of its deployment; hyphens stand for underscores.

    Raises:
        ValueError: there is no such system or preset.
    """
    module = _module(system)
    make = getattr(importlib.import_module(module), preset.replace("-", "_"), None)
    if not callable(make) or isinstance(make, type):
        raise ValueError(f"{module} has no preset {preset!r}; take one of its deployments in prefect.yaml.")
    return make()


def _module(system: str) -> str:
    """The module of a system's configuration."""
    folders = sorted(file.parent for file in (PROJECT / "models").rglob("config.py"))
    modules = {folder.name: ".".join((*folder.relative_to(PROJECT).parts, "config")) for folder in folders}
    if system not in modules:
        raise ValueError(f"there is no system {system!r}; there are {', '.join(sorted(modules))}.")
    return modules[system]


def examined(system: str, preset: str, file: str, others: dict[str, str], wishes: dict[str, str]) -> Any:
    """What a system finds in somebody's own tables.

    Args:
        system: the system.
        preset: a deployment of it.
        file: location of the main table.
        others: locations of the tables beside it, by the system's names.
        wishes: what is not to be guessed.

    Raises:
        ValueError: there is no such system, it takes no tables, a choice is wrong, or a URL cannot be reached.
    """
    configuration = configured(system, preset)
    if not hasattr(configuration, "examine"):
        raise ValueError(f"the system {system!r} takes no tables of your own; take another --system.")
    tables = {name: _raw(location) for name, location in others.items()}
    return configuration.examine(_raw(file), tables, wishes, moment=time.time())


def chosen(words: list[str]) -> dict[str, str]:
    """`role=column` as a mapping; raises `ValueError` for what has another form."""
    for word in words:
        if "=" not in word:
            raise ValueError(f"--set takes role=column, got {word!r}.")
    return {name.strip(): value for name, _, value in (word.partition("=") for word in words)}


def deployment_of(system: str, preset: str) -> dict[str, Any]:
    """The deployment of a system's own flow that `prefect.yaml` has under a name; raises `ValueError` without one."""
    _module(system)
    known = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    ours = [one for one in known if one["entrypoint"].startswith(f"flows.{system}.")]
    for one in ours:
        if one["name"] == preset:
            return dict(one)
    names = ", ".join(sorted({one["name"] for one in ours})) or "none"
    raise ValueError(f"prefect.yaml has no deployment {preset!r} of flows.{system}; it has {names}.")


def show(found: Any, console: Console) -> None:
    """Print the mapping, the problems and the verdict."""
    for file in dict.fromkeys(one.file for one in found.columns):
        table = Table(title=escape(file), title_justify="left", title_style="bold")
        for heading in ("role", "column", "type", "example", "chosen", "missing"):
            table.add_column(heading, justify="right" if heading == "missing" else "left", overflow="fold")
        for one in found.columns:
            if one.file == file:
                missing = "" if one.choice == "not found" else _share(one.missing)
                table.add_row(*map(escape, (one.role, one.column, one.kind, one.example, one.choice, missing)))
        console.print(table)
    for problem in found.problems:
        _show_problem(problem, console)
    if found.counts:
        counted = ", ".join(f"{count:,} {name}" for name, count in found.counts.items())
        console.print(f"A run would get: {counted}.", markup=False, soft_wrap=True)
    verdict = "usable" if found.usable else f"unusable; a run would say: {found.refusal}"
    console.print(f"Verdict: {verdict}", markup=False, soft_wrap=True, style="green" if found.usable else "red")


def _show_problem(problem: Any, console: Console) -> None:
    style = {"stops the run": "red", "rows left out": "yellow"}.get(problem.grade, "")
    count = f": {problem.count:,} row{'s' if problem.count > 1 else ''}" if problem.count else ""
    place = Path(problem.file).name + (f", column {problem.column!r}" if problem.column else "")
    rows = "".join(f", row {row}: {value}" for row, value in problem.rows)
    more = ", ..." if problem.count > len(problem.rows) > 0 else ""
    console.print(f"{problem.grade}: {problem.what}{count}", markup=False, soft_wrap=True, style=style)
    console.print(f"    {place}{rows}{more}", markup=False, soft_wrap=True)
    console.print(f"    {problem.remedy}.", markup=False, soft_wrap=True)


def _share(share: float) -> str:
    """A share in per cent; what is not zero does not look like it."""
    return "0 %" if share == 0 else f"{100 * share:.1f} %" if share >= 0.001 else "<0.1 %"


def paste(found: Any, deployment: dict[str, Any], system: str, locations: list[str]) -> str:
    """What a person pastes: parameters for the form and the API, lines of `prefect.yaml`, and the data roots.

    Args:
        found: a usable examination.
        deployment: the deployment whose other parameters are kept.
        system: the system.
        locations: the tables.
    """
    kept = deployment.get("parameters", {}).get("config", {})
    parameters = {"config": {**kept, **found.settings}}
    name = found.settings["data"]["name"]
    flow = f"{system}/{deployment['name']}"
    lines = [
        f"\nParameters, for a custom run of {flow} in the Prefect UI, or for its API:\n",
        json.dumps(parameters, indent=2, ensure_ascii=False),
        "\nThe same every night, as lines of `deployments:` in prefect.yaml:\n",
        textwrap.indent(_entry(name, deployment, system, parameters), "  "),
    ]
    outside = _outside(locations)
    if outside:
        roots = settings().data_roots or (str(PROJECT / "data") if (PROJECT / "data").is_dir() else "")
        value = ";".join([*(root for root in roots.split(";") if root.strip()), *outside])
        lines.append(f"HEADRACE_DATA_ROOTS does not hold {' and '.join(outside)} yet; before `make up`:\n")
        lines.append(f"export HEADRACE_DATA_ROOTS={shlex.quote(value)}")
    else:
        lines.append("HEADRACE_DATA_ROOTS holds the files already.")
    return "\n".join(lines)


def _entry(name: str, deployment: dict[str, Any], system: str, parameters: dict[str, Any]) -> str:
    """A deployment with a schedule; pool and limit are the aliases that prefect.yaml defines."""
    head = {"name": name, "entrypoint": deployment["entrypoint"], "description": f"{system} over {name}."}
    tail = {
        "schedules": [{"cron": "17 3 * * *", "timezone": "UTC", "slug": "every-night"}],
        "parameters": parameters,
    }
    written = [
        _yaml({**head, "tags": [system]}),
        "work_pool: *pool\nconcurrency_limit: *alone\n",
        _yaml(tail),
    ]
    return "- " + textwrap.indent("".join(written), "  ").removeprefix("  ")


def _yaml(values: dict[str, Any]) -> str:
    return str(yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100))


def _outside(locations: list[str]) -> list[str]:
    """Folders of files that no data root holds."""
    outside: list[str] = []
    for location in locations:
        try:
            if not location.startswith("catalogue:"):
                catalogue.allowed(location)
        except catalogue.CatalogueError:
            outside.append(location.rpartition("/")[0])
    return list(dict.fromkeys(outside))


def _location(file: str) -> str:
    """What parameters call a file: a path is made absolute and its links are resolved, as a run does."""
    if "://" in file or file.startswith("catalogue:"):
        return file
    return str(Path(file).expanduser().resolve())


def _raw(file: str) -> tuple[str, Path]:
    """A file's location and where its bytes lie. A path is read wherever it is: whoever types it may read it."""
    location = _location(file)
    remote = "://" in file or file.startswith("catalogue:")
    return location, catalogue.locate(location) if remote else Path(location)
