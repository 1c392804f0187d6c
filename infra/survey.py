"""Look at somebody's own raw files as a dataset's recipe would, without any server: what a run would make of them.

The survey is the recipe's own (`models.common.parts.Partitioned`), so what it refuses a run refuses, in the same words.
Nothing is written to the store.
"""

import glob
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import catalogue, terminal

UNUSABLE = 1
_CONFIGURATIONS = "models.climate.datasets.config"
_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}


def survey(
    dataset: Annotated[
        str, typer.Argument(help="fluxes, turbulence, storms, analogs, precipitation or outlooks: whose recipe.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of the recipe, as in files='/data/MERRA2*.nc4' start=2019-01-01."),
    ] = None,
    part: Annotated[bool, typer.Option("--part", help="Make the first part too, and show its values.")] = False,
) -> None:
    """Try your own raw files on a dataset's recipe: files, variables, grid, times and parts, or why not.

    Exits 0 when a run would take them, 1 when it would not.
    """
    console = terminal.console()
    try:
        recipe, said = recipe_of(dataset, changes or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        files = {role: found(location) for role, location in recipe.sources().items()}
        _show_files(recipe.sources(), files, console)
        surveyed = recipe.survey(files)
        _show_survey(surveyed, console)
        _refuse_names([one.name for one in surveyed.parts])
        if part:
            _show_part(recipe, surveyed, console)
    except (ValueError, OSError) as error:  # `InputError` is a ValueError, `CatalogueError` too
        console.print(f"Verdict: unusable; a run would say: {error}", markup=False, soft_wrap=True, style="red")
        raise typer.Exit(UNUSABLE) from error
    console.print("Verdict: usable", style="green")
    parameters = {"config": {"data": said}}
    print(f"\nParameters, for a custom run of datasets-{dataset}/tiny in the Prefect UI, or for its API:\n")
    print(json.dumps(parameters, indent=2, ensure_ascii=False))
    if outside := _outside(recipe.sources().values()):
        print(f"\nHEADRACE_DATA_ROOTS does not hold {' and '.join(outside)} yet; add it before `make up`.")


def recipe_of(dataset: str, changes: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """A recipe with settings of somebody's own, and all that are no defaults; raw files are its source unless said.

    Args:
        dataset: one of the six.
        changes: `name=value`; several values are parted by commas.

    Raises:
        ValueError: there is no such dataset or setting, or a value is wrong.
    """
    known = importlib.import_module(_CONFIGURATIONS)
    if dataset not in known.FLOWS:
        raise ValueError(f"there is no dataset {dataset!r}; there are {', '.join(known.FLOWS)}.")
    kind = type(known.preset(dataset, "tiny").recipe)
    settings = {field.name: field.default for field in fields(kind)}
    said: dict[str, Any] = {"source": "files"}
    for word in changes:
        name, mark, value = word.partition("=")
        if not mark or name not in settings:
            raise ValueError(f"{word!r} is no setting as in NAME=VALUE; settings of {dataset}: {', '.join(settings)}.")
        said[name] = [one for one in value.split(",") if one] if isinstance(settings[name], tuple) else value
    try:
        built = TypeAdapter(kind).validate_python(said)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")) from error
    ours = {name: getattr(built, name) for name in settings}
    return built, {name: value for name, value in ours.items() if value != settings[name]}


def found(location: str) -> tuple[Path, ...]:
    """The files that a path, a glob or a URL means, in order; a path is read wherever it is, for whoever types it may.

    Raises:
        CatalogueError: nothing fits, or a URL is not allowed.
    """
    if "://" in location or location.startswith("catalogue:"):
        return catalogue.find(location)
    pieces = Path(location).expanduser().absolute().parts
    fixed = next((at for at, piece in enumerate(pieces) if glob.has_magic(piece)), len(pieces) - 1)
    paths = tuple(sorted(one for one in Path(*pieces[:fixed]).glob("/".join(pieces[fixed:])) if one.is_file()))
    if not paths:
        raise catalogue.CatalogueError(f"{location}: no file fits; look at the folder, and at the pattern.")
    return paths


def _refuse_names(names: Sequence[str]) -> None:
    if not names:
        raise ValueError("there is nothing to do between the dates given; check dates and files.")
    if twice := [one for one, other in pairwise(sorted(names)) if one == other]:
        raise ValueError(f"two parts are called {twice[0]!r}; two files may be of the same time.")


def _show_files(sources: Mapping[str, str], files: Mapping[str, tuple[Path, ...]], console: Console) -> None:
    """A row for each kind of raw file."""
    table = Table(title="Raw files", title_justify="left", title_style="bold")
    for heading in ("source", "location", "files", "size", "first", "last"):
        table.add_column(heading, justify="right" if heading in ("files", "size") else "left", overflow="fold")
    for role, paths in files.items():
        size = terminal.readable(sum(path.stat().st_size for path in paths))
        ends = (paths[0].name, paths[-1].name)
        table.add_row(*map(escape, (role, sources[role], f"{len(paths):,}", size, *ends)))
    console.print(table if files else "No raw files: the world is generated.")


def _show_survey(surveyed: Any, console: Console) -> None:
    """The variables of every group, its grid and times, and the parts."""
    for group, layout in surveyed.groups.items():
        title = f"Group {group or '(root)'}: {layout.attrs.get('title', '')}"
        table = Table(title=escape(title), title_justify="left", title_style="bold")
        for heading in ("variable", "type", "dimensions", "units"):
            table.add_column(heading, overflow="fold")
        for name, one in layout.variables.items():
            sizes = " x ".join(f"{dim} {layout.sizes[dim]}" if dim in layout.sizes else str(dim) for dim in one.dims)
            table.add_row(*map(escape, (name, one.dtype, sizes, str(one.attrs.get("units", "")))))
        console.print(table)
        for name, (_, values, attrs) in layout.coordinates.items():
            terminal.say(console, f"    {name}: {_range(np.asarray(values), str(attrs.get('units', '')))}")
    parts = surveyed.parts
    last = f", the last {parts[-1].name!r}" if len(parts) > 1 else ""
    ends = f"; the first is {parts[0].name!r}{last}" if parts else ""
    terminal.say(console, f"{len(parts):,} part{'s' * (len(parts) != 1)}{ends}.")


def _range(values: Any, units: str) -> str:
    """Ends of a coordinate, dates for times since an epoch."""
    if not values.size:
        return "empty"
    first, last = values.ravel()[0], values.ravel()[-1]
    unit, _, epoch = units.partition(" since ")
    if epoch and unit in _SECONDS:
        begin = np.datetime64(epoch.split(" ")[0], "s")
        first, last = (str(begin + int(one) * _SECONDS[unit])[:16] for one in (first, last))
        units = "UTC"
    elif values.dtype.kind == "f":
        first, last = f"{first:g}", f"{last:g}"
    return f"{first} to {last} {units} ({values.size:,})".replace("  ", " ")


def _show_part(recipe: Any, surveyed: Any, console: Console) -> None:
    """Values of the first part, held to the bounds that a run would hold them to."""
    first = surveyed.parts[0]
    table = Table(title=escape(f"Part {first.name}"), title_justify="left", title_style="bold")
    for heading in ("variable", "shape", "least", "mean", "greatest", "missing"):
        table.add_column(heading, justify="left" if heading == "variable" else "right")
    wrong = []
    for group, labelled in recipe.part(first).items():
        for name, one in surveyed.groups[group].variables.items():
            values = np.asarray(labelled[name].values)
            row = [f"{group}/{name}".lstrip("/"), " x ".join(map(str, values.shape))]
            if values.dtype.kind not in "fiu":
                table.add_row(*map(escape, (*row, "", "", "", "")))
                continue
            absent = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
            absent |= values == one.fill if isinstance(one.fill, int | float) else False
            there = values[~absent].astype(np.float64)
            share = absent.mean() if values.size else 0.0
            least, greatest = (float(there.min()), float(there.max())) if there.size else (np.nan, np.nan)
            middle = float(there.mean()) if there.size else np.nan
            numbers = [f"{value:.6g}" if there.size else "" for value in (least, middle, greatest)]
            table.add_row(*map(escape, (*row, *numbers, f"{share:.1%}")))
            low = -np.inf if one.low is None else one.low
            high = np.inf if one.high is None else one.high
            if there.size and not low <= least <= greatest <= high:
                wrong.append(
                    f"{first.name}, {group}/{name}: {least:.6g} to {greatest:.6g} {one.attrs.get('units', '')} is not "
                    f"within {low:g} to {high:g}; check the units of the files."
                )
            if share > one.missing:
                wrong.append(f"{first.name}, {group}/{name}: {share:.1%} is missing, at most {one.missing:.1%} may be.")
    console.print(table)
    if wrong:
        raise ValueError(wrong[0])


def _outside(locations: Any) -> list[str]:
    """Locations that no data root holds."""
    outside = []
    for location in locations:
        try:
            catalogue.allowed(catalogue.matches(location)[0])
        except catalogue.CatalogueError:
            outside.append(location)
    return outside
