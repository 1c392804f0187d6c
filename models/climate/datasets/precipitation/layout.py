"""How the precipitation dataset is stored, split into years, and written as the published files.

    gridsat         obs (time, slot, channel, latitude, longitude)
    patmosx         obs (time, pass, channel, latitude, longitude)
    ssmi            obs (time, pass, channel, latitude, longitude)
    precipitation   precipitation (time, latitude, longitude)
    stage4          precipitation (hour, y, x), on its own grid

Every group has the same days; a day, a slot or a pass without observations is not-a-number.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.climate.datasets import schemas
from models.climate.datasets.precipitation.archives import GRIDSAT, IMAGER, PASSES, SLOT_HOURS, SLOTS, SOUNDER, SSMI
from models.climate.datasets.precipitation.area import Area
from models.common.parts import Layout, Variable

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]

GROUPS = ("gridsat", "patmosx", "ssmi", "precipitation", "stage4")
OBSERVED = ("gridsat", "patmosx", "ssmi")
EPOCH = date(1970, 1, 1)
TRAIN, TEST = 1, 2
"""Bits of the split."""

_CHANNELS: Mapping[str, tuple[str, ...]] = {
    "gridsat": GRIDSAT,
    "patmosx": (*IMAGER, *SOUNDER),
    "ssmi": tuple(f"tb{name}" for name in SSMI),
}
_TITLES: Mapping[str, str] = {
    "gridsat": "GridSat-B1: visible, water-vapour and infrared-window observations every three hours",
    "patmosx": "PATMOS-x: imager and sounder observations of ascending and descending passes",
    "ssmi": "SSM/I and SSMIS: microwave brightness temperatures of ascending and descending passes",
    "precipitation": "Daily precipitation of PERSIANN-CDR and IMERG Final",
    "stage4": "Hourly precipitation of NCEP Stage IV on its own grid",
}


def years_of(group: str, *, overlapping: bool) -> tuple[frozenset[int], frozenset[int]]:
    """Years to train on, and years to test on.

    Args:
        group: gridsat, patmosx, ssmi or precipitation.
        overlapping: as published, with years in both.

    Returns:
        The two.

    Source:
        WxC-Bench at ee00516, long_term_precipitation_forecast/extract_data_{gridsat,patmosx,ssmi,precip}.sh: GridSat
        leaves out 2002-2004, SSM/I begins in 1987. Published as they stand, SSM/I has 2019 twice, and GridSat tests on
        2019 and on 1998-2001, which it trains on; mended, all test on 2019-2023.
    """
    train, test = set(range(1983, 2019)), set(range(2019, 2024))
    if group == "gridsat":
        train -= {2002, 2003, 2004}
    if group == "ssmi":
        train -= set(range(1983, 1987))
    if overlapping and group == "gridsat":
        test = {2019, 1998, 1999, 2000, 2001}
    if overlapping and group == "ssmi":
        train |= {2019}
    return frozenset(train), frozenset(test)


def groups_of(
    names: Sequence[str],
    days: Sequence[date],
    area: Area,
    switch: date,
    repeated: frozenset[str],
    stage4: tuple[Array, Array] | None,
) -> dict[str, Layout]:
    """The groups that there are, all on the same days.

    Args:
        names: of `GROUPS`.
        days: without gaps.
        area: the grid.
        switch: first day of IMERG.
        repeated: names of the published defects that are repeated.
        stage4: latitudes and longitudes of the points of Stage IV, (rows, columns) each.
    """
    return {
        name: _group(name, days, area, switch, repeated)
        if stage4 is None or name != "stage4"
        else _stage4(days, *stage4)
        for name in names
    }


def _group(name: str, days: Sequence[date], area: Area, switch: date, repeated: frozenset[str]) -> Layout:
    rows, columns = area.shape
    train, test = years_of(name, overlapping="overlapping_years" in repeated)
    split = np.array([TRAIN * (day.year in train) + TEST * (day.year in test) for day in days], np.int8)
    flags = {"long_name": "split", "flag_masks": [TRAIN, TEST], "flag_meanings": "train test"}
    coordinates: dict[str, Any] = {
        "time": (
            ("time",),
            np.array([(day - EPOCH).days for day in days], np.int32),
            {"units": "days since 1970-01-01", "calendar": "standard", "standard_name": "time"},
        ),
        "latitude": (("latitude",), area.latitudes, {"units": "degrees_north", "standard_name": "latitude"}),
        "longitude": (("longitude",), area.longitudes, {"units": "degrees_east", "standard_name": "longitude"}),
        "split": (("time",), split, flags),
    }
    attrs: dict[str, Any] = {"title": _TITLES[name], "repeated": " ".join(sorted(repeated))}
    sizes = {"time": len(days), "latitude": rows, "longitude": columns}
    if name == "precipitation":
        product = np.array([int(day >= switch) for day in days], np.int8)
        words = {"long_name": "product", "flag_values": [0, 1], "flag_meanings": "persiann_cdr imerg_final"}
        coordinates["product"] = (("time",), product, words)
        rain = Variable(
            dims=("time", "latitude", "longitude"),
            dtype="float32",
            attrs={
                "units": "mm day-1",
                "standard_name": "lwe_precipitation_rate",
                "long_name": "daily precipitation",
                "cell_methods": "time: mean",
            },
            chunks={"time": 1},
            shards={"time": 1},
            low=0.0,
            high=3000.0,  # mm; the record of one day is 1,825 mm (WMO, Foc-Foc, 1966)
        )
        return Layout(variables={name: rain}, sizes=sizes, coordinates=coordinates, attrs=attrs)
    part = "slot" if name == "gridsat" else "pass"
    if part == "slot":
        hours = np.arange(0, 24, SLOT_HOURS, dtype=np.int8)
        coordinates[part] = ((part,), hours, {"units": "hours", "long_name": "hour of the day"})
    else:
        words = {"flag_values": [0, 1], "flag_meanings": "ascending descending"}
        coordinates[part] = ((part,), np.arange(len(PASSES), dtype=np.int8), words)
    sizes |= {part: SLOTS if part == "slot" else len(PASSES), "channel": len(_CHANNELS[name])}
    observed = Variable(
        dims=("time", part, "channel", "latitude", "longitude"),
        dtype="float32",
        attrs={
            "long_name": "observations",
            "channels": " ".join(_CHANNELS[name]),
            "comment": "brightness temperatures in K; reflectances (vschn, refl) as in the archive",
        },
        chunks={"time": 1, part: 1},
        shards={"time": 1},
        low=-50.0,  # reflectances at night, after packing
        high=400.0,
        along=("channel",),
    )
    return Layout(variables={"obs": observed}, sizes=sizes, coordinates=coordinates, attrs=attrs)


def _stage4(days: Sequence[date], latitudes: Array, longitudes: Array) -> Layout:
    hours = np.arange(24 * len(days), dtype=np.int64) + 24 * (days[0] - EPOCH).days
    rain = Variable(
        dims=("hour", "y", "x"),
        dtype="float32",
        attrs={
            "units": "mm",
            "long_name": "precipitation of the hour",
            "standard_name": "lwe_thickness_of_precipitation_amount",
            "cell_methods": "hour: sum",
        },
        chunks={"hour": 1},
        shards={"hour": 24},
        low=0.0,
        high=1000.0,
    )
    words = {"units": "hours since 1970-01-01", "standard_name": "time", "long_name": "begin of the hour"}
    return Layout(
        variables={"precipitation": rain},
        sizes={"hour": len(hours), "y": latitudes.shape[0], "x": latitudes.shape[1]},
        coordinates={
            "hour": (("hour",), hours, words),
            "latitude": (("y", "x"), latitudes, {"units": "degrees_north", "standard_name": "latitude"}),
            "longitude": (("y", "x"), longitudes, {"units": "degrees_east", "standard_name": "longitude"}),
        },
        attrs={"title": _TITLES["stage4"]},
    )


def days_of(group: "xr.Dataset") -> NDArray[np.datetime64]:
    """The days of a group, decoded or not."""
    time = np.asarray(group["time"].values)
    return time.astype("datetime64[D]") if time.dtype.kind == "M" else time.astype(np.int64).astype("datetime64[D]")


def export(groups: Mapping[str, "xr.Dataset"], folder: Path) -> tuple[Path, ...]:
    """Write the published files: for every day one of each group.

    Args:
        groups: the stored dataset, opened lazily; one day is held at a time.
        folder: where to.

    Returns:
        The files. Stage IV has no published layout and is left out.

    Source:
        schemas/precipitation.json.
    """
    return tuple(_exported(groups, Path(folder)))


def _exported(groups: Mapping[str, "xr.Dataset"], folder: Path) -> Iterator[Path]:
    schema = schemas.load("precipitation")
    for name in (*OBSERVED, "precipitation"):
        if name not in groups:
            continue
        entry = next(one for one in schema.files if one.group == name)
        group = groups[name]
        for place, day in enumerate(days_of(group)):
            text = str(day).replace("-", "")
            made = _file_of(name, group.isel(time=place), day)
            sizes = {
                key: made.sizes[key] if key in ("latitude", "longitude") else size
                for key, size in entry.dimensions.items()
            }
            sized = dataclasses.replace(entry, dimensions=sizes)
            yield schemas.write(sized, made, folder / name / entry.file_name(date=text), compression=4)


def _file_of(name: str, day: "xr.Dataset", date_: np.datetime64) -> "xr.Dataset":
    """One day as the published file has it: channels last, passes apart."""
    import xarray as xr

    kind = np.float32 if name in ("gridsat", "precipitation") else np.float64
    coords: dict[str, Any] = {axis: (axis, day[axis].values.astype(kind)) for axis in ("latitude", "longitude")}
    start = date_.astype("datetime64[ns]")
    if name == "precipitation":
        coords["time"] = ((), start, {"units": f"days since {date_}"})
        values = day["precipitation"].values
        return xr.Dataset({"precipitation": (("latitude", "longitude"), values)}, coords)
    if name == "gridsat":
        hours = np.arange(0, 24, SLOT_HOURS).astype("timedelta64[h]")
        coords["time"] = ("time", start + hours, {"units": f"hours since {date_}"})
        values = day["obs"].values.transpose(0, 2, 3, 1)
        return xr.Dataset({"obs": (("time", "latitude", "longitude", "channels"), values)}, coords)
    kinds, first = (("imager", "sounder"), len(IMAGER)) if name == "patmosx" else (("lores", "hires"), 5)
    data = dict[str, Any]()
    for half, part in enumerate(PASSES):
        values = day["obs"].isel({"pass": half}).values.transpose(1, 2, 0)
        for kind_, piece in zip(kinds, (values[..., :first], values[..., first:]), strict=True):
            data[f"obs_{kind_}_{part}"] = (("latitude", "longitude", f"channels_{kind_}"), piece)
    if name == "patmosx":
        coords["time"] = ((), start, {"units": f"days since {date_}"})
    return xr.Dataset(data, coords)


def calendar(first: date, last: date) -> tuple[date, ...]:
    """All days from the first to the last."""
    return tuple(first + timedelta(days=number) for number in range((last - first).days + 1))
