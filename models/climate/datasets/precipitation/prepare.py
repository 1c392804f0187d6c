"""The precipitation dataset part by part: which days there are, and how one is made."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.climate.datasets.precipitation import archives, layout
from models.climate.datasets.precipitation.area import Method, Resampling, area_of
from models.climate.datasets.readers import NAMES, header, points
from models.common.errors import AwaitedError, InputError
from models.common.parts import Part, Survey

if TYPE_CHECKING:
    import xarray as xr

    from models.climate.datasets.precipitation.config import PrecipitationConfig

Singles = NDArray[np.float32]
Files = Mapping[str, tuple[Path, ...]]


def survey(config: "PrecipitationConfig", files: Files) -> Survey:
    """A part for every day and group of files, or for every day of the generated world.

    Args:
        config: the settings.
        files: paths by the names of `sources`.

    Returns:
        The survey; only names are looked at, and of Stage IV the header of one file.

    Raises:
        AwaitedError: a source that is named has no file, or none on the days asked for.
        InputError: a file's name tells no day.
    """
    if config.source == "generated":
        names: tuple[str, ...] = (*layout.OBSERVED, "precipitation")
        days = layout.calendar(*config.generated_days)
        parts = [
            Part(
                name=f"{day}",
                at={name: {"time": place} for name in names},
                about={"day": day.isoformat()},
            )
            for place, day in enumerate(days)
        ]
        return Survey(parts=tuple(parts), groups=_groups(config, names, days, None))
    found = {product: _by_day(config, product, files.get(product, ())) for product in config.sources()}
    listed = {day for held in found.values() for day in held}
    if not listed:
        raise AwaitedError(
            f"PrecipitationConfig: none of {', '.join(config.sources())} has files from {config.start or 'the first'} "
            f"to {config.end or 'the last'}; correct the dates or the paths, or get the files."
        )
    days = layout.calendar(min(listed), max(listed))
    names = tuple(name for name in layout.GROUPS if any(product in found for product in _products(name)))
    places = None
    if "stage4" in names:
        if not found["stage4"]:
            raise AwaitedError("PrecipitationConfig.stage4: no file on the days asked for; correct dates or path.")
        first = next(iter(found["stage4"].values()))[0]
        places = points(first, header(first).field(*NAMES["precipitation"]))
    parts = list[Part]()
    for place, day in enumerate(days):
        for name in names:
            held = [path for product in _products(name, config, day) for path in found.get(product, {}).get(day, ())]
            at = {"hour": 24 * place} if name == "stage4" else {"time": place}
            about: dict[str, Any] = {"day": day.isoformat(), "group": name}
            if name == "stage4" and places is not None:
                about["shape"] = list(places[0].shape)
            parts.append(Part(name=f"{day} {name}", files=tuple(map(str, held)), at={name: at}, about=about))
    return Survey(parts=tuple(parts), groups=_groups(config, names, days, places))


def _groups(
    config: "PrecipitationConfig",
    names: Sequence[str],
    days: Sequence[date],
    places: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
) -> Mapping[str, Any]:
    return layout.groups_of(names, days, config.area, config.first_of_imerg, config.defects, places)


def _products(group: str, config: "PrecipitationConfig | None" = None, day: date | None = None) -> tuple[str, ...]:
    """The sources of a group; of rain, on a day, the one that is used then."""
    if group != "precipitation":
        return (group,)
    if config is None or day is None:
        return ("persiann", "imerg")
    return ("imerg",) if day >= config.first_of_imerg else ("persiann",)


def _by_day(config: "PrecipitationConfig", product: str, paths: Sequence[Path]) -> dict[date, list[Path]]:
    """The files of a source by the day that they belong to, in the order of their names."""
    if not paths:
        place = config.sources()[product]
        raise AwaitedError(f"no file matches {product} {place!r}; correct the path, or get the file.")
    found = dict[date, list[Path]]()
    for path in sorted(paths, key=lambda one: (one.name, str(one))):
        stamp = archives.stamp_of(product, path)
        # the hour of Stage IV that ends at 0 UTC began on the day before
        day = stamp.day - timedelta(days=1) if product == "stage4" and stamp.hour == 0 else stamp.day
        early = config.first is not None and day < config.first
        late = config.last is not None and day > config.last
        if not (early or late):
            found.setdefault(day, []).append(path)
    return found


def make(config: "PrecipitationConfig", part: Part) -> Mapping[str, "xr.Dataset"]:
    """One part.

    Args:
        config: the settings.
        part: from the survey.

    Returns:
        Group to its variables.

    Raises:
        InputError: a file cannot be read, is of another day, or lacks a channel.
    """
    import xarray as xr

    day = date.fromisoformat(part.about["day"])
    if config.source == "generated":
        made = _generated(config, day)
    else:
        files = [Path(path) for path in part.files]
        made = {part.about["group"]: _read(config, part, files, day)}
    out = dict[str, xr.Dataset]()
    for name, values in made.items():
        if name == "stage4":
            out[name] = xr.Dataset({"precipitation": (("hour", "y", "x"), values)})
        elif name == "precipitation":
            out[name] = xr.Dataset({name: (("time", "latitude", "longitude"), values[None])})
        else:
            inner = "slot" if name == "gridsat" else "pass"
            out[name] = xr.Dataset({"obs": (("time", inner, "channel", "latitude", "longitude"), values[None])})
    return out


def _read(config: "PrecipitationConfig", part: Part, files: list[Path], day: date) -> Singles:
    group, area = part.about["group"], config.area
    if group == "gridsat":
        return archives.gridsat(files, day, area, config.gridsat_method)
    if group == "patmosx":
        return archives.patmosx(files, day, area, config.patmosx_method)
    if group == "ssmi":
        copied = config.repeats("descending_copy")
        return archives.ssmi(files, day, area, config.ssmi_method, radius_km=config.radius_km, copied=copied)
    if group == "precipitation":
        return archives.rain(files, day, area, config.rain_method)
    if group == "stage4":
        rows, columns = part.about["shape"]
        return archives.stage4(files, day, (int(rows), int(columns)))
    raise InputError(f"{part.name}: no group {group!r}; prepare again, the recipe has changed.")


def _generated(config: "PrecipitationConfig", day: date) -> dict[str, Singles]:
    """A day of the generated world, brought from its own grid onto the area."""
    from models.climate.generator import precipitation as world

    inputs, rain = world.inputs_of(config.world, day), world.rain_of(config.world, day)
    own = area_of(config.world_rows, config.world_columns, shifted=True)  # the world's rows run from the south

    def onto(values: Singles, method: Method) -> Singles:
        resampling = Resampling(own.latitudes[::-1], own.longitudes, config.area, method, "generated world")
        return resampling(values[..., resampling.rows[:, None], resampling.columns])

    shape = (config.world_rows, config.world_columns, len(archives.PASSES), -1)
    patmosx = inputs["patmosx"].reshape(shape).transpose(2, 3, 0, 1)
    ssmi = inputs["ssmi"].reshape(shape).transpose(2, 3, 0, 1)
    if config.repeats("descending_copy"):
        ssmi = ssmi[[0, 0]]
    return {
        "gridsat": onto(inputs["gridsat"].transpose(2, 3, 0, 1), config.gridsat_method),
        "patmosx": onto(patmosx, config.patmosx_method),
        "ssmi": onto(ssmi, config.ssmi_method),
        "precipitation": onto(rain, config.rain_method),
    }
