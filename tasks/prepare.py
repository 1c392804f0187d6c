"""Prepare: a large dataset is made part by part, each part once, and put together without copying it.

A part's key is the digest of the settings and the code that make it and of the content of its files. What was made
before a kill, in an earlier run, or for another range of dates is found by its key and not made again; a revised file
has another key. The parts are immutable, and so are the versions that link them.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from prefect import get_run_logger, task
from prefect.cache_policies import INPUTS, RUN_ID

from infra import catalogue
from infra.caching import verb
from infra.compute import each
from infra.digests import sha256_of
from infra.grids import Parts, Receipt
from infra.lineage import tracked
from infra.manifest import (
    canonical,
    class_path,
    code_behind_parts,
    code_digest,
    describe,
    describe_configuration,
    digest_of,
    product_name,
)
from infra.provenance import Progress, create_table_artifact, this_flow_run
from infra.refs import Dataset, Ref, Report
from infra.store import open_store, write_durably
from models.common.contracts import Gridding, InputError, Supplied, Surveyed
from models.common.moments import Moments, merge, moments, side_by_side
from models.common.parts import Layout, Part, Partitioned, PreparationConfig, Survey, Variable
from tasks.evaluate import show, spelled

if TYPE_CHECKING:
    import xarray as xr

LIBRARIES = ("ducc0", "eccodes", "netCDF4", "numcodecs", "numpy", "pandas", "pyarrow", "xarray", "zarr")
"""A new version of one of these may change bytes, so it makes new keys."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker is told of one part: small, and without arrays."""

    part: Part
    key: str
    folder: Path


@verb(timeout_seconds=timedelta(days=7).total_seconds())
def prepare(config: Partitioned, how: PreparationConfig) -> Dataset:
    """Make the parts that are not there yet, put all of them together, and store the dataset.

    Args:
        config: surveys its raw files and makes parts.
        how: how the work is done; it does not matter for the result.

    Returns:
        The dataset; the same files, settings and code give the same version, whatever happened on the way.

    Raises:
        CatalogueError: a source is not allowed or missing.
        InputError: raw input cannot be used; names file, variable and remedy. Parts that were made are kept.
        StoreError: the store cannot be written.
    """
    survey = surveyed(config)
    digests = _digests(survey)
    keys = keys_of(config, survey, digests)
    light = {group: dataclasses.replace(layout, coordinates={}) for group, layout in survey.groups.items()}
    return put_together(config, survey, keys, partial(make, config, light), how, files=digests)


def put_together(
    config: Partitioned | Gridding,
    survey: Survey,
    keys: Mapping[str, str],
    maker: Callable[[Work], str],
    how: PreparationConfig,
    *,
    files: Mapping[str, str],
    inputs: tuple[Ref, ...] = (),
) -> Dataset:
    """Make the parts that are not there yet, put all of them together, and store the dataset.

    Args:
        config: names the dataset, and is kept with it.
        survey: which parts there are.
        keys: the key of every part, by its name.
        maker: makes and stores one part, in whatever process.
        how: how the work is done.
        files: checksum of every raw file, by its path.
        inputs: products that the parts are made from.

    Returns:
        The dataset.

    Raises:
        Exception: of the first part that failed; what others made is kept.
    """
    log, began, store = get_run_logger(), time.monotonic(), open_store()
    name = product_name(config)
    parts = Parts(store.parts(name))
    made_from = [[ref.kind, ref.name, ref.digest] for ref in inputs]
    whole = digest_of([[part.name, keys[part.name], part.at] for part in survey.parts] + [_frame(survey), *made_from])
    if (known := _put_together(parts, whole)) and store.intact(known):
        log.info("%s is there already: %d parts, none made", known, len(survey.parts))
        return known
    missing = [
        Work(part=part, key=keys[part.name], folder=parts.folder)
        for part in survey.parts
        if parts.receipt(keys[part.name]) is None
    ]
    log.info("%d parts of %s, of which %d are made now", len(survey.parts), name, len(missing))
    with Progress(f"parts of {name}") as progress:
        each(maker, missing, workers=how.workers, tell=_tell(log, progress))
    receipts = [_receipt(parts, part, keys[part.name]) for part in survey.parts]
    with store.workplace() as staging:
        tree = parts.join(
            staging,
            survey.groups,
            [(receipt, part.at) for receipt, part in zip(receipts, survey.parts, strict=True)],
            {"recipe": class_path(config), "settings": canonical(config)},
        )
        payload: dict[str, Any] = {
            "data": tree,
            "statistics": statistics(survey, receipts),
            "provenance": _provenance(survey, receipts, files, config),
        }
        if inputs:
            payload["provenance"]["inputs"] = [
                {"kind": one.kind, "name": one.name, "digest": one.digest} for one in inputs
            ]
        manifest = describe(Dataset, name, config, inputs, flow_run_id=this_flow_run().id)
        dataset = store.write(Dataset, payload, manifest)
    _note(parts, whole, dataset)
    removed = parts.sweep(frozenset(keys.values()), time.time() - timedelta(days=how.keep_days).total_seconds())
    create_table_artifact(
        _shown(receipts, {work.key for work in missing}),
        key="parts",
        description=f"{dataset}: {len(receipts)} parts, {len(missing)} made in {time.monotonic() - began:.1f} s.",
    )
    log.info("prepared %s; %d old parts were removed", dataset, removed)
    return dataset


def supplied(config: Supplied) -> Dataset:
    """The dataset that a configuration asks for: made in parts here, or live already.

    Args:
        config: says which of the two.

    Returns:
        The dataset.

    Raises:
        NotPublishedError: nothing is live under the name.
        InputError: raw input cannot be used.
    """
    recipe = config.recipe
    return live_dataset(config.product) if recipe is None else prepare(recipe, config.preparation)


@verb(timeout_seconds=timedelta(hours=12).total_seconds())
def certify(config: Surveyed, dataset: Dataset) -> Report:
    """Judge a dataset that was made in parts against its raw files, and show the judgement.

    Args:
        config: the whole configuration of the flow; says how to judge.
        dataset: the candidate.

    Returns:
        The report.

    Raises:
        IntegrityError: the candidate is damaged.
        InputError: its raw files are gone.
    """
    flow_run, store = this_flow_run(), open_store()
    store.verify(dataset)
    judgement = config.judge_parts(store.open(dataset), surveyed(config.recipe))
    with tracked(config, dataset, flow_run, "evaluation") as run:
        show(run, judgement, flow_run.name)
        run.text("product/manifest.json", store.open(dataset).manifest.model_dump_json(indent=1))
        manifest = describe(Report, dataset.name, config, (dataset,), flow_run_id=flow_run.id, run_id=run.id)
        report = store.write(Report, {"judgement": spelled(dataclasses.asdict(judgement))}, manifest, run_id=run.id)
    get_run_logger().info("judged %s: %s %.4g", dataset, judgement.headline, judgement.metrics[judgement.headline])
    return report


@task(cache_policy=RUN_ID + INPUTS, persist_result=True, result_serializer="json")
def live_dataset(product: str) -> Dataset:
    """The live version of a dataset; a retry of the same flow run goes on with the one that it began with.

    Args:
        product: its name.

    Returns:
        The live version.

    Raises:
        NotPublishedError: nothing is live under this name.
        IntegrityError: its manifest is not the one that was published.
    """
    return open_store().live(Dataset, product)


def surveyed(config: Partitioned) -> Survey:
    """What a configuration finds to do in its raw files.

    Raises:
        CatalogueError: a source is not allowed or missing.
        InputError: the files do not make the dataset; or two parts have one name, or a place that is not a shard's.
    """
    survey = config.survey({name: catalogue.find(location) for name, location in config.sources().items()})
    names = [part.name for part in survey.parts]
    if not names:
        raise InputError(f"{config.name}: nothing to do between the dates given; check dates and files.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{config.name}: two parts are called {twice!r}; two files may be of the same time.")
    return survey


def make(config: Partitioned, groups: Mapping[str, Layout], work: Work) -> str:
    """Make one part, check it, and store it with its statistics; in whatever process.

    Args:
        config: the recipe.
        groups: the layouts that the survey found.
        work: which part.

    Returns:
        Its key.

    Raises:
        InputError: its files cannot be used, or a value is outside its bounds.
    """
    return keep(config.part(work.part), groups, work)


def keep(made: Mapping[str, "xr.Dataset"], groups: Mapping[str, Layout], work: Work) -> str:
    """Check one part, and store it with its statistics.

    Args:
        made: group to its variables.
        groups: the layouts that the survey found.
        work: which part.

    Returns:
        Its key.

    Raises:
        InputError: a variable is not as its layout says, or a value is outside its bounds.
    """
    arrays: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    notes: dict[str, Any] = {"statistics": {}}
    for group, labelled in made.items():
        layout = groups[group]
        brought = set(map(str, labelled.variables))
        if odd := (set(layout.variables) - brought) | (set(map(str, labelled.data_vars)) - set(layout.variables)):
            raise InputError(f"{work.part.name}, group {group!r}: {sorted(odd)} are in one of layout and part alone.")
        arrays[group] = {}
        for name, variable in layout.variables.items():
            where = f"{work.part.name}, {group}/{name}"
            values = _as_declared(labelled[name].transpose(*variable.dims).values, variable, where)
            arrays[group][name] = values
            if values.dtype.kind in "fiu":
                found = moments(
                    values, _kept(variable), variable.fill if isinstance(variable.fill, int | float) else None
                )
                _refuse_outside(found, variable, where)
                notes["statistics"][f"{group}/{name}"] = found.to_json()
    parts = Parts(work.folder)
    parts.write(work.part.name, work.key, groups, arrays, notes)
    return work.key


def _as_declared(values: "np.ndarray[Any, Any]", variable: Variable, where: str) -> "np.ndarray[Any, Any]":
    """Values in the declared type; times become whole seconds since 1970."""
    if values.dtype.kind == "M":
        values = values.astype("datetime64[s]").astype("int64")
    if variable.dtype == "str":
        return values.astype(object)
    if values.dtype != np.dtype(variable.dtype):
        raise InputError(f"{where}: the recipe gave {values.dtype}, the layout says {variable.dtype}.")
    return np.ascontiguousarray(values)


def _kept(variable: Variable) -> tuple[int, ...]:
    return tuple(variable.dims.index(dim) for dim in variable.along)


def _refuse_outside(found: Moments, variable: Variable, where: str) -> None:
    """The bounds that a variable was declared with, for one part."""
    units = variable.attrs.get("units", "")
    present, missing = int(found.count.sum()), int(found.missing.sum())
    if present:
        lowest, highest = float(np.nanmin(found.minimum)), float(np.nanmax(found.maximum))
        if variable.low is not None and lowest < variable.low:
            raise InputError(f"{where}: {lowest:.6g} {units} is below {variable.low:g}; check the units of the files.")
        if variable.high is not None and highest > variable.high:
            raise InputError(
                f"{where}: {highest:.6g} {units} is above {variable.high:g}; check the units of the files."
            )
    if missing > variable.missing * (present + missing):
        share = missing / (present + missing)
        raise InputError(f"{where}: {share:.1%} is missing, at most {variable.missing:.1%} may be; check the files.")


def statistics(survey: Survey, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Statistics of every variable over all parts; their sums are exact, so order and size of parts do not matter.

    Args:
        survey: says where parts lie, so that levels of different parts are not taken for one.
        receipts: one for each part, in the survey's order.
    """
    pieces: dict[str, dict[tuple[int, ...], list[Moments]]] = {}
    for part, receipt in zip(survey.parts, receipts, strict=True):
        for name, found in receipt.notes["statistics"].items():
            group, _, variable = name.partition("/")
            starts = part.at.get(group, {})
            corner = tuple(starts.get(dim, 0) for dim in survey.groups[group].variables[variable].along)
            pieces.setdefault(name, {}).setdefault(corner, []).append(Moments.from_json(found))
    return {
        name: _spelled(side_by_side({corner: merge(found) for corner, found in corners.items()}))
        for name, corners in sorted(pieces.items())
    }


def _spelled(found: Moments) -> dict[str, Any]:
    """Numbers for a reader, and the exact state for whoever merges further."""
    return {
        "count": found.count.tolist(),
        "missing": found.missing.tolist(),
        "mean": _known(found.mean.tolist()),
        "deviation": _known(found.deviation.tolist()),
        "minimum": _known(found.minimum.tolist()),
        "maximum": _known(found.maximum.tolist()),
        "exact": found.to_json(),
    }


def _known(value: Any) -> Any:
    """The same numbers with None for not-a-number, which JSON lacks."""
    if isinstance(value, list):
        return [_known(one) for one in value]
    return None if value != value else value


def _digests(survey: Survey) -> dict[str, str]:
    """Checksum of every file that a part reads."""
    files = sorted({file for part in survey.parts for file in part.files})
    return dict(zip(files, sha256_of([Path(file) for file in files]), strict=True))


def keys_of(config: Partitioned, survey: Survey, digests: Mapping[str, str]) -> dict[str, str]:
    """The key of every part: the digest of the settings, code and files that it depends on.

    Args:
        config: the recipe.
        survey: what it found.
        digests: checksum of every file, by its path.
    """
    common = key_of_all(config)
    return {
        part.name: digest_of(
            {**common, "part": part.name, "about": part.about, "files": [digests[file] for file in part.files]}
        )[:32]
        for part in survey.parts
    }


def key_of_all(config: Partitioned | Gridding) -> dict[str, Any]:
    """What the keys of all parts have in common: settings, code and libraries."""
    settings = {name: value for name, value in describe_configuration(config).items() if name not in config.elsewhere}
    return {
        "class": class_path(config),
        "settings": settings,
        "code": code_digest(*code_behind_parts(config), "models.common.moments", "infra.grids"),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def _frame(survey: Survey) -> dict[str, Any]:
    """What about the whole is in no part: coordinates, lengths, attributes."""
    return {
        group: {
            "sizes": dict(layout.sizes),
            "attrs": dict(layout.attrs),
            "append": layout.append,
            "variables": {name: spelled(dataclasses.asdict(one)) for name, one in layout.variables.items()},
            "coordinates": {
                name: [dims, hashlib.sha256(_bytes_of(values)).hexdigest(), dict(attrs)]
                for name, (dims, values, attrs) in layout.coordinates.items()
            },
        }
        for group, layout in survey.groups.items()
    }


def _bytes_of(values: "np.ndarray[Any, Any]") -> bytes:
    if values.dtype.kind == "O":
        return json.dumps([str(value) for value in values.ravel()]).encode()
    return str(values.dtype).encode() + np.ascontiguousarray(values).tobytes()


def _receipt(parts: Parts, part: Part, key: str) -> Receipt:
    receipt = parts.receipt(key)
    if receipt is None:
        raise InputError(f"part {part.name!r} was made and is not in {parts.folder}; workers must share that folder.")
    return receipt


def _put_together(parts: Parts, whole: str) -> Dataset | None:
    """The version that was put together from exactly these parts before, if anybody noted it."""
    with contextlib.suppress(OSError, ValueError):
        return Dataset.model_validate_json(_note_of(parts, whole).read_bytes())
    return None


def _note(parts: Parts, whole: str, dataset: Dataset) -> None:
    """Note which version the parts gave; a note that is lost costs putting them together again."""
    path = _note_of(parts, whole)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path.with_suffix(f".{os.getpid()}"), dataset.model_dump_json().encode())
    path.with_suffix(f".{os.getpid()}").replace(path)


def _note_of(parts: Parts, whole: str) -> Path:
    return parts.folder.parent / ".wholes" / f"{whole[:32]}.json"


def _provenance(
    survey: Survey, receipts: Sequence[Receipt], digests: Mapping[str, str], config: Partitioned | Gridding
) -> dict[str, Any]:
    """Which part was made of which content; without paths, so that the same content gives the same bytes anywhere.

    The digest of the code is in the manifest, where it does not count: code that changes no value changes no version.
    """
    return {
        "recipe": class_path(config),
        "parts": [
            {
                "name": part.name,
                "files": [{"name": Path(file).name, "sha256": digests[file]} for file in part.files],
                "rows": receipt.rows,
            }
            for part, receipt in zip(survey.parts, receipts, strict=True)
        ],
    }


def _shown(receipts: Sequence[Receipt], made: set[str]) -> list[dict[str, Any]]:
    """Lines of the table on the flow run's page: the newest parts, at most so many as a page bears."""
    lines = [
        {
            "part": one.name,
            "status": "made" if one.key in made else "there before",
            "files": len(one.pieces),
            "MiB": round(sum(piece.length for piece in one.pieces) / 2**20, 2),
            "rows": sum(one.rows.values()) or "",
        }
        for one in receipts
    ]
    return lines[-SHOWN:]


SHOWN = 400
"""Parts that the page's table has at most."""


def _tell(log: Any, progress: Progress) -> Callable[[int, int], None]:
    """Say how far the work is: on the page all the time, in the log every ten seconds."""
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        progress(done / total)
        if done == total or time.monotonic() - last > 10:
            last = time.monotonic()
            log.info("made %d of %d parts", done, total)

    return tell
