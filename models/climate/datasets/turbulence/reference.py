"""The dataset done again from the raw files, one report after another, and what must hold in the stored whole.

Nothing here imports what makes the dataset: files are read by the csv module, texts by loops over words, the nearest
point by exact fractions, columns by xarray. It is slow and shares no line with the recipe.

Shapes: N reports, D days, B bands, I latitudes, J longitudes, S samples, Z levels.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Claim

if TYPE_CHECKING:
    import xarray as xr

    from models.climate.datasets.turbulence.config import TurbulenceConfig
    from models.common.parts import Part

TOLERANCES: Mapping[str, float] = {}
"""Relative distance that a part made again may have, by variable; none is allowed any."""

BANDS = {"low": (0, 149), "med": (150, 299), "high": (300, 499)}
"""Hundreds of feet, both ends included: turb_eda_preprocessing.ipynb, cell 49, under the limit of cell 17."""

PROFILES = ("T", "U", "V", "OMEGA", "RH", "H", "PL")
LIMITS = {
    "T": (100, 400), "U": (-250, 250), "V": (-250, 250), "OMEGA": (-100, 100), "RH": (-0.05, 4), "H": (-1000, 40_000),
    "PL": (1000, 112_000), "PHIS": (-6000, 70_000),
}  # fmt: skip
EPOCH = date(1970, 1, 1)

_PANDAS_1_MISSING = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "n/a", "nan", "null",
}  # fmt: skip
_STRENGTH = {
    0: ("NEG", "NEGATIVE", "NONE", "NIL", "SMOOTH", "SMTH", "SMTHR"),
    1: ("LGT", "LIGHT", "LGHT", "LT"),
    2: ("MOD", "MDT", "MODERATE", "MODT"),
    3: ("SEV", "SVR", "SEVERE", "SVRE"),
    4: ("EXT", "EXTM", "EXTRM", "EXTREME", "EXTRME", "XTRM"),
}
_OF_WORD = {word: strength for strength, words in _STRENGTH.items() for word in words}
_LIMIT = 2_000_000_000


class Row(NamedTuple):
    """One report."""

    minute: int
    message: str
    turbulence: str | None
    latitude: float
    longitude: float
    level: int
    ranged: bool


def reference(
    config: "TurbulenceConfig", part: "Part", files: Mapping[str, tuple[Path, ...]]
) -> Mapping[str, "xr.Dataset"]:
    """One part done again.

    Args:
        config: the recipe.
        part: which part; its name and its files are read, not what the recipe noted in it.
        files: as the survey was given them; the part names its own, and others are not looked at.

    Returns:
        Group to variables, as `config.part(part)` gives.

    Source:
        The published scripts, by file and line in `schemas/turbulence.json`.
    """
    kind, which = part.name.split(" ")
    mixed = config.compat == "published" or bool(
        {"flight_level_order", "last_day", "literal_year", "previous_month", "empty_band"} & set(config.reproduce)
    )
    paths = [Path(name) for name in part.files]
    fields = [path for path in paths if _is_netcdf(path)]
    raw = _raw_months(config, [path for path in paths if path not in fields], None if mixed else which)
    months = _joined(config, raw)
    rows = [row for month in months.values() for row in month]
    if kind == "columns":
        days = [_number(date.fromisoformat(which))]
    else:
        first = date.fromisoformat(f"{which}-01")
        days = [
            _number(first + timedelta(days=n)) for n in range(31) if (first + timedelta(days=n)).month == first.month
        ]
        days = [day for day in days if _within(config, day)]
    listed = _listed(config, rows, days)
    cells = _cells(config, rows, days, listed)
    if kind == "columns":
        return {"training": _training(config, which, cells, fields)}
    own = [row for row in months[which] if config.repeats("previous_month") or row.minute // 1440 in days]
    return {"reports": _reports(config, own), "grids": _grids(config, rows, days, listed, cells)}


def _is_netcdf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (b"\x89HDF", b"CDF\x01", b"CDF\x02", b"CDF\x05")


def _number(day: date) -> int:
    return (day - EPOCH).days


def _within(config: "TurbulenceConfig", day: int) -> bool:
    text = (EPOCH + timedelta(days=day)).isoformat()
    if config.source == "generated":
        first, last = config.generated_days
        return first.isoformat() <= text <= last.isoformat()
    return (not config.start or config.start <= text) and (not config.end or text <= config.end)


# ------------------------------------------------------------------------------------------------------------ reports


def _raw_months(
    config: "TurbulenceConfig", paths: Sequence[Path], only: str | None
) -> dict[str, list[tuple[str | None, ...]] | None]:
    """Rows as they are written, by month; None where a file cannot be read. `only`: one month, or one day of it."""
    if config.source == "generated":
        return _generated_months(config, only)
    only = only[:7] if only else None
    months: dict[str, list[tuple[str | None, ...]] | None] = {}
    for path in sorted(paths):
        named = _month_of(path.name)
        if only and named not in ("", only):
            continue
        try:
            rows = _read(path)
        except (UnicodeDecodeError, csv.Error, KeyError, ValueError, IndexError):
            months[named] = None
            continue
        for row in rows:
            month = named or f"{(row[0] or '')[:4]}-{(row[0] or '')[4:6]}"
            if only in (None, month):
                there = months.setdefault(month, [])
                if there is not None:
                    there.append(row)
        if named:
            months.setdefault(named, [])
    first, last = config.start[:7] or "0000-00", config.end[:7] or "9999-99"
    return {month: rows for month, rows in months.items() if first <= month <= last}


def _generated_months(config: "TurbulenceConfig", only: str | None) -> dict[str, list[tuple[str | None, ...]] | None]:
    from models.climate.generator.reports import reports_of

    first, last = config.generated_days
    months: dict[str, list[tuple[str | None, ...]]] = {}
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        month = day.isoformat()[:7]
        if day.isoformat().startswith(only or ""):
            told = reports_of(config.world, day)
            texts = zip(*(told.table[name] for name in ("VALID", "REPORT", "TURBULENCE", "LAT", "LON")), strict=True)
            months.setdefault(month, []).extend(texts)
    return dict(months)


def _month_of(name: str) -> str:
    asked = re.search(r"year1=(\d{4})&month1=(\d+)", name)
    plain = re.search(r"(?<!\d)(19\d\d|20\d\d)[_-]?(0[1-9]|1[012])(?!\d)", name)
    found = asked or plain
    return f"{found[1]}-{int(found[2]):02}" if found else ""


def _read(path: Path) -> list[tuple[str | None, ...]]:
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        header = next(lines)
        at = [header.index(name) for name in ("VALID", "REPORT", "TURBULENCE", "LAT", "LON")]
        rows = []
        for line in lines:
            if line:
                row = [None if line[i] in _PANDAS_1_MISSING else line[i] for i in at]
                if header[0] == "" and row[2] is None:
                    row[2] = "None"
                rows.append(tuple(row))
    return rows


def _joined(config: "TurbulenceConfig", raw: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Clean reports by month, in the order in which months are joined, with the levels that the recipe gives them."""
    clean: dict[str, list[Row]] = {}
    latest: list[Row] = []
    for month in sorted(raw):
        if raw[month] is not None:
            latest = _clean(config, raw[month])
        clean[month] = latest  # a month that cannot be read is, where that is repeated, the one before

    def by_request(month: str) -> str:
        return f"year1={month[:4]}&month1={int(month[5:])}&"

    order = sorted(clean, key=by_request if config.repeats("unsorted_files") else None)
    months = {month: clean[month] for month in order}
    if not config.repeats("flight_level_order"):
        return months
    rows = [row for month in order for row in clean[month]]
    levels = iter([row.level for row in rows if not row.ranged] + [row.level for row in rows if row.ranged])
    return {month: [row._replace(level=next(levels)) for row in found] for month, found in months.items()}


def _clean(config: "TurbulenceConfig", raw: Iterable[tuple[str | None, ...]]) -> list[Row]:
    as_pandas, seen, rows = config.repeats("none_text"), set(), []
    for line in raw:
        if line in seen or (config.repeats("leap_day") and (line[0] or "")[4:8] == "0229"):
            continue
        seen.add(line)
        if as_pandas and None in line:
            continue
        valid, message, turbulence, lat, lon = (None if text == "None" else text for text in line)
        if valid is None or lat is None or lon is None or message is None:
            continue
        latitude, longitude = (_pandas_number(text) if as_pandas else float(text) for text in (lat, lon))
        if not as_pandas and (abs(latitude) > 90 or abs(longitude) > 360):
            continue
        day = date(int(valid[:4]), int(valid[4:6]), int(valid[6:8]))
        level, ranged = _level(message, fourth=config.repeats("short_report"))
        minute = _number(day) * 1440 + int(valid[8:10]) * 60 + int(valid[10:12])
        rows.append(Row(minute, message, turbulence, latitude, longitude, level, ranged))
    return rows


def _pandas_number(text: str) -> float:
    """A number as the reader of pandas 1.5.3 makes it: digit after digit, 17 of them, then a power of ten."""
    mantissa, _, power = text.strip().lower().partition("e")
    exponent, number, taken, after_point = int(power or 0), 0.0, 0, False
    for character in mantissa.lstrip("+-"):
        if character == ".":
            after_point = True
        elif taken < 17:
            number, taken = number * 10.0 + int(character), taken + 1
            exponent -= after_point
        else:
            exponent += not after_point
    number = number * 10.0**exponent if exponent > 0 else number / 10.0**-exponent
    return -number if mantissa.startswith("-") else number


def _level(message: str, *, fourth: bool) -> tuple[int, bool]:
    """Level of a report in hundreds of feet, and whether its text is a range."""
    fields = message.split("/")
    # What follows the fourth stroke belongs to no field of the published rule, and to the text of the last of ours.
    field = fields[3] if len(fields) > 3 else None
    if not fourth and not (field or "").lstrip().startswith("FL"):
        field = next((each for each in fields[1:] if each.lstrip().startswith("FL")), field)
    if field is None:
        return -1, False
    text = field.replace("FL", "")
    pieces = text.split("-")
    try:
        if len(pieces) > 1:
            return min((int(pieces[0]) + int(pieces[1])) // 2, _LIMIT), True
        return min(int(text), _LIMIT), False
    except ValueError:
        return -1, len(pieces) > 1


def _strength(turbulence: str | None, *, letters: bool) -> int:
    if turbulence is None:
        return -1
    if letters:
        rules: tuple[tuple[int, str, str], ...] = (
            (0, "SMOOTH SMTH NONE NEG", ""), (1, "LGT LIGHT LT", ""), (2, "MOD MDT", "SX"), (3, "SVR SEV", "X"),
            (4, "EXT", ""),
        )  # fmt: skip
        for strength, wanted, barred in rules:
            if any(word in turbulence for word in wanted.split()) and not set(barred) & set(turbulence):
                return strength
        return -1
    best = -1
    for word in re.findall("[A-Z]+", turbulence.upper()):
        bare = re.sub("(CHOP|TURB.*|CAT)$", "", word)
        best = max(best, _OF_WORD.get(word, -1), _OF_WORD.get(bare, -1))
    return best


def _band(level: int) -> int:
    return next((n for n, (low, high) in enumerate(BANDS.values()) if low <= level <= high), -1)


def _reports(config: "TurbulenceConfig", rows: Sequence[Row]) -> "xr.Dataset":
    import xarray as xr

    letters, width = config.repeats("intensity_words"), f"S{config.text_bytes}"
    empty = config.repeats("empty_clear_air")
    clear = [-1 if row.turbulence is None or empty else int("CAT" in row.turbulence) for row in rows]
    columns: dict[str, NDArray[Any]] = {
        "time": np.array([row.minute for row in rows], np.int64),
        "message": np.array([row.message.encode() for row in rows], width),
        "turbulence": np.array([(row.turbulence or "").encode() for row in rows], width),
        "latitude": np.array([row.latitude for row in rows], np.float64),
        "longitude": np.array([row.longitude for row in rows], np.float64),
        "flight_level": np.array([row.level for row in rows], np.int32),
        "band": np.array([_band(row.level) for row in rows], np.int8),
        "intensity": np.array([_strength(row.turbulence, letters=letters) for row in rows], np.int8),
        "clear_air": np.array(clear, np.int8),
    }
    return xr.Dataset({name: ("report", values) for name, values in columns.items()})


# -------------------------------------------------------------------------------------------------------------- grids


def _listed(config: "TurbulenceConfig", rows: Sequence[Row], days: Sequence[int]) -> dict[tuple[int, int], int]:
    """(day, band) to the year of the file in which the published gridding would write it."""
    listed: dict[tuple[int, int], int] = {}
    for band in range(len(BANDS)):
        held = sorted({row.minute // 1440 for row in rows if _band(row.level) == band})
        years = {day: (EPOCH + timedelta(days=day)).year for day in held}
        if config.repeats("literal_year"):
            inside = [day for day in held if years[day] == 2023]
            if not inside:
                continue
            earlier = [day for day in held if day < inside[0]]
            written = inside[:-1] if config.repeats("last_day") else inside
            listed |= {(day, band): years[held[-1]] for day in written}
            if earlier:  # the first report of 2023 finds the date changed
                listed[earlier[-1], band] = years[earlier[-1]]
        else:
            written = held[:-1] if config.repeats("last_day") else held
            listed |= {(day, band): years[day] for day in written}
    return {key: year for key, year in listed.items() if key[0] in set(days)}


def _cells(
    config: "TurbulenceConfig", rows: Sequence[Row], days: Sequence[int], listed: Mapping[tuple[int, int], int]
) -> dict[tuple[int, int, int, int], tuple[int, int]]:
    """(day, band, row, column) to moderate or stronger reports, and all that count."""
    letters, unknown_counts = config.repeats("intensity_words"), config.repeats("unknown_reports")
    wanted, found = set(days), Counter[tuple[int, int, int, int]]()
    moderate = Counter[tuple[int, int, int, int]]()
    places = _read_again(config, [row for row in rows if row.minute // 1440 in wanted])
    for row, (latitude, longitude) in places:
        day, band = row.minute // 1440, _band(row.level)
        strength = _strength(row.turbulence, letters=letters)
        if (day, band) not in listed or (strength < 0 and not unknown_counts):
            continue
        if config.repeats("literal_year") and (EPOCH + timedelta(days=day)).year != 2023:
            continue
        key = (day, band, *_nearest(config, latitude, longitude))
        found[key] += 1
        moderate[key] += strength >= 2
    return {key: (moderate[key], found[key]) for key in sorted(found)}


def _read_again(config: "TurbulenceConfig", rows: Sequence[Row]) -> list[tuple[Row, tuple[float, float]]]:
    """Positions as the gridding gets them; the published one reads what it wrote."""
    places = [(row.latitude, row.longitude) for row in rows]
    if config.repeats("none_text") and rows:
        places = [(_pandas_number(repr(a)), _pandas_number(repr(b))) for a, b in places]
    return list(zip(rows, places, strict=True))


def _nearest(config: "TurbulenceConfig", latitude: float, longitude: float) -> tuple[int, int]:
    """Row and column, exactly; half-way the lower number."""
    north = (Fraction(latitude) + 90) * (config.rows - 1) / 180
    east = (Fraction(longitude) + 180) * config.across / 360
    half = Fraction(1, 2)
    row = min(max(ceil(north - half), 0), config.rows - 1)
    if config.repeats("no_wrap"):
        return row, min(max(ceil(east - half), 0), config.across - 1)
    if east - floor(east) == half and floor(east) % config.across == config.across - 1:
        return row, 0  # between the last and the first, whose number is lower
    return row, ceil(east - half) % config.across


def _grids(
    config: "TurbulenceConfig",
    rows: Sequence[Row],
    days: Sequence[int],
    listed: Mapping[tuple[int, int], int],
    cells: Mapping[tuple[int, int, int, int], tuple[int, int]],
) -> "xr.Dataset":
    import xarray as xr

    place = {day: number for number, day in enumerate(days)}
    maps = np.full((len(days), len(BANDS), config.rows, config.across), 2, np.uint8)
    counted, unknown, year = (np.zeros(maps.shape[:2], kind) for kind in (np.int32, np.int32, np.int16))
    for (day, band, row, column), (moderate, total) in cells.items():
        maps[place[day], band, row, column] = moderate / total >= config.threshold
        counted[place[day], band] += total
    letters = config.repeats("intensity_words")
    for report in rows:
        band = _band(report.level)
        if report.minute // 1440 in place and band >= 0:
            unknown[place[report.minute // 1440], band] += _strength(report.turbulence, letters=letters) < 0
    for (day, band), of_file in listed.items():
        year[place[day], band] = of_file
    named = {"reports": counted, "unknown": unknown, "file_year": year}
    return xr.Dataset(
        {"Turbulence": (("time", "band", "lat", "lon"), maps), **{n: (("time", "band"), v) for n, v in named.items()}}
    )


# ----------------------------------------------------------------------------------------------------------- training


def _training(
    config: "TurbulenceConfig",
    day: str,
    cells: Mapping[tuple[int, int, int, int], tuple[int, int]],
    paths: Sequence[Path],
) -> "xr.Dataset":
    import xarray as xr

    keys = list(cells)
    air = _generated_air(config, day) if config.source == "generated" else _air_of(config, day, paths)
    data: dict[str, Any] = {
        "TURBULENCE": ("sample", np.array([m / n >= config.threshold for m, n in cells.values()], np.float32)),
        "time": ("sample", np.array([key[0] for key in keys], np.int32)),
        "band": ("sample", np.array([key[1] for key in keys], np.int8)),
        "row": ("sample", np.array([key[2] for key in keys], np.int16)),
        "column": ("sample", np.array([key[3] for key in keys], np.int16)),
    }
    gone = np.zeros(len(keys), np.int16)
    for name, field in air.items():
        values = np.array([field[..., key[2], key[3]] for key in keys], np.float32)
        values = values.reshape(len(keys), *field.shape[:-2])
        missing = ~(np.abs(values) < 1e14)
        gone += missing.sum(tuple(range(1, missing.ndim))).astype(np.int16)
        if not config.repeats("fill_in_mean"):
            values = np.where(missing, np.float32(np.nan), values)
        data[name] = (("sample", "z")[: values.ndim], values)
    data["missing"] = ("sample", gone)
    data["split"] = ("sample", np.array([_held_out(config, key) for key in keys], np.int8))
    return xr.Dataset(data)


def _held_out(config: "TurbulenceConfig", key: tuple[int, int, int, int]) -> int:
    def chance(*of: int) -> float:
        return int.from_bytes(hashlib.blake2b(repr(of).encode(), digest_size=8).digest(), "big") / 2**64

    if config.repeats("random_split"):
        return int(chance(config.split_seed, *key) >= config.train_share)
    block = max(2, round(1 / (1 - config.train_share)))
    return int(int(chance(config.split_seed, key[0] // block) * block) == key[0] % block)


def _generated_air(config: "TurbulenceConfig", day: str) -> dict[str, NDArray[Any]]:
    from models.climate.generator.reports import columns_of

    world = columns_of(config.world, date.fromisoformat(day), config.hour)
    return {name: np.asarray(getattr(world, name)) for name in (*PROFILES, "PHIS")}


def _air_of(config: "TurbulenceConfig", day: str, paths: Sequence[Path]) -> dict[str, NDArray[Any]]:
    """Fields of the hour on the whole grid, from the south and from 180 W; not-a-number where the file has none."""
    import xarray as xr

    air: dict[str, NDArray[Any]] = {}
    for path in sorted(paths):
        if day.replace("-", "") not in path.name.replace("-", ""):
            continue
        with xr.open_dataset(path, decode_cf=False) as raw, xr.open_dataset(path) as file:
            for name in (*PROFILES, "PHIS"):
                if name not in raw or name in air:
                    continue
                at = 0
                if not config.repeats("time_index"):
                    moment = np.datetime64(f"{day}T{config.hour:02}:00:00")
                    at = int(np.flatnonzero(file["time"].values == moment)[0])
                field = raw[name][at].values
                air[name] = field if name == "PHIS" else field[-config.levels :]
                if not config.repeats("time_index"):
                    air[name] = _on_grid(config, air[name], raw["lat"].values, raw["lon"].values)
    return air


def _on_grid(
    config: "TurbulenceConfig", field: NDArray[Any], lat: NDArray[Any], lon: NDArray[Any]
) -> NDArray[np.floating[Any]]:
    whole = np.full((*field.shape[:-2], config.rows, config.across), np.nan, np.float32)
    rows = [round((float(y) + 90) * (config.rows - 1) / 180) for y in lat]
    columns = [round((float(x) + 180) * config.across / 360) % config.across for x in lon]
    for number, row in enumerate(rows):
        whole[..., row, columns] = field[..., number, :]
    return whole


# ------------------------------------------------------------------------------------------------------------- checks


def checks(groups: Mapping[str, "xr.Dataset"]) -> tuple[Claim, ...]:
    """What must hold in the stored whole, by its own rows.

    Args:
        groups: "reports", "grids" and, where there are columns, "training", opened lazily, decoded or not; each says in
            `published_faults` which faults are repeated in it.

    Returns:
        Exact claims, each of a number of offenders that must be zero.

    Source:
        Ours.
    """
    told = set(str(groups["reports"].attrs.get("published_faults", "")).split())
    ledger: list[Claim] = []

    def claim(name: str, wrong: Any, detail: str) -> None:
        ledger.append(Claim(name=name, kind="exact", value=float(np.sum(wrong)), limit=0.0, detail=detail))

    reports = _numbers(groups["reports"])
    _check_reports(groups["reports"], reports, told, claim)
    _check_grids(groups["grids"], reports, told, claim)
    if "training" in groups:
        _check_training(groups["training"], groups["grids"], told, claim)
    return tuple(ledger)


def _numbers(reports: "xr.Dataset") -> dict[str, NDArray[Any]]:
    named = ("time", "latitude", "longitude", "flight_level", "band", "intensity", "clear_air")
    found = {name: np.asarray(reports[name].values) for name in named}
    if found["time"].dtype.kind == "M":
        found["time"] = found["time"].astype("datetime64[m]")
    return {name: values.astype(np.float64 if values.dtype.kind == "f" else np.int64) for name, values in found.items()}


def _check_reports(stored: "xr.Dataset", reports: Mapping[str, NDArray[Any]], told: set[str], claim: Any) -> None:
    level, band = reports["flight_level"], reports["band"]
    expected = np.full(len(level), -1)
    for number, (low, high) in enumerate(BANDS.values()):
        expected[(level >= low) & (level <= high)] = number
    claim("reports_in_wrong_band", expected != band, "Reports whose band is not that of their flight level.")
    off = ~((np.abs(reports["latitude"]) <= 90) & (np.abs(reports["longitude"]) <= 360))
    claim("reports_off_the_sphere", off & ("none_text" not in told), "Reports whose position is none.")
    strange = (reports["intensity"] < -1) | (reports["intensity"] > 4)
    wrong_words = wrong_levels = repeated = 0
    plain = {b"": -1, b"NEG": 0, b"SMTH": 0, b"LGT": 1, b"MOD": 2, b"SEV": 3, b"EXTRM": 4}
    seen: set[bytes] = set()
    size = 65_536
    for begin in range(0, stored.sizes["report"], size):
        block = slice(begin, begin + size)
        words, messages = (_raw_texts(stored[name][block]) for name in ("turbulence", "message"))
        for word, strength in zip(words, reports["intensity"][block].tolist(), strict=True):
            wrong_words += word in plain and plain[word] != strength
        if "flight_level_order" not in told:
            for message, said in zip(messages, level[block].tolist(), strict=True):
                found = re.match(rb"[^/]*/[^/]*/[^/]*/FL(\d+) *(?:/|$)", message)
                wrong_levels += bool(found) and int(found[1]) != said  # type: ignore[index]
        position = zip(*(reports[name][block].tolist() for name in ("time", "latitude", "longitude")), strict=True)
        for key in zip(messages, words, position, strict=True):
            digest = hashlib.blake2b(repr(key).encode(), digest_size=12).digest()
            repeated += digest in seen
            seen.add(digest)
    claim("intensities_unknown", strange, "Intensities that are none of -1 to 4.")
    claim("intensities_against_words", wrong_words, "Reports whose words say one intensity and whose number another.")
    claim("levels_against_messages", wrong_levels, "Reports whose line names one level, and whose number is another.")
    claim("reports_repeated", 0 if "previous_month" in told else repeated, "Reports that stand twice.")


def _raw_texts(variable: "xr.DataArray") -> list[bytes]:
    return [value if isinstance(value, bytes) else str(value).encode() for value in variable.values.tolist()]


def _check_grids(grids: "xr.Dataset", reports: Mapping[str, NDArray[Any]], told: set[str], claim: Any) -> None:
    days = _days(grids["time"])
    claim("days_out_of_order", np.diff(days) <= 0, "Days that do not follow the one before.")
    rows, across = grids.sizes["lat"], grids.sizes["lon"]
    lat, lon = np.linspace(-90, 90, rows), -180 + np.arange(across) * 360 / across
    off = np.abs(grids["lat"].values - lat).max() > 1e-9, np.abs(grids["lon"].values - lon).max() > 1e-9
    claim("coordinates_moved", off, "Axes that are not from the south pole and from 180 W in equal steps.")
    known = (reports["intensity"] >= 0) | ("unknown_reports" in told)
    use = (reports["band"] >= 0) & known
    day = reports["time"] // 1440
    north = np.clip(np.ceil((reports["latitude"] + 90) * (rows - 1) / 180 - 0.5), 0, rows - 1).astype(np.int64)
    east = np.ceil((reports["longitude"] + 180) * across / 360 - 0.5).astype(np.int64)
    seam = (reports["longitude"] + 180) * across / 360 % across == across - 0.5
    east = np.clip(east, 0, across - 1) if "no_wrap" in told else np.where(seam, 0, east % across)
    order = np.argsort(day, kind="stable")
    begins = np.searchsorted(day[order], days)
    ends = np.searchsorted(day[order], days + 1)
    years, counted = np.asarray(grids["file_year"].values), np.asarray(grids["reports"].values)
    differ = miscounted = strange = unlisted = 0
    for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        stored = np.nan_to_num(np.asarray(grids["Turbulence"][number].values), nan=2)
        strange += int((~np.isin(stored, (0, 1, 2))).sum())
        own = order[begin:end]
        for band in range(len(BANDS)):
            of_band = own[(reports["band"][own] == band) & use[own]]
            due = np.full((rows, across), 2)
            if years[number, band] and not ("literal_year" in told and not _of_2023(int(days[number]))):
                total = np.zeros((rows, across))
                moderate = np.zeros((rows, across))
                np.add.at(total, (north[of_band], east[of_band]), 1)
                np.add.at(moderate, (north[of_band], east[of_band]), reports["intensity"][of_band] >= 2)
                share = moderate / np.maximum(total, 1)
                due = np.where(total == 0, 2, share >= _threshold(grids))
                miscounted += int(counted[number, band] != len(of_band))
            differ += int((due != stored[band]).sum())
            any_report = bool((reports["band"][own] == band).any())
            lost = {"last_day", "literal_year"} & told
            unlisted += int(not lost and bool(years[number, band]) != any_report)
    claim("cells_strange", strange, "Cells that are none of 0, 1 and 2.")
    claim("cells_against_reports", differ, "Cells that the stored reports, counted again, do not give.")
    claim("days_miscounted", miscounted, "Days of a band whose number of reports is another.")
    claim("days_unlisted", unlisted, "Days of a band that have reports and no file, or a file and no reports.")


def _threshold(grids: "xr.Dataset") -> float:
    return float(grids.attrs["threshold"])


def _of_2023(day: int) -> bool:
    return (EPOCH + timedelta(days=day)).year == 2023


def _days(time: "xr.DataArray") -> NDArray[np.int64]:
    values = np.asarray(time.values)
    return (values.astype("datetime64[D]") if values.dtype.kind == "M" else values).astype(np.int64)


def _check_training(training: "xr.Dataset", grids: "xr.Dataset", told: set[str], claim: Any) -> None:
    days, when = _days(grids["time"]), _days(training["time"])
    band, row, column = (np.asarray(training[name].values, np.int64) for name in ("band", "row", "column"))
    label, split = np.asarray(training["TURBULENCE"].values), np.asarray(training["split"].values, np.int64)
    at = np.searchsorted(days, when)
    stray = (at >= len(days)) | (days[np.minimum(at, len(days) - 1)] != when)
    claim("samples_of_no_day", stray, "Samples of days that have no map.")
    key = ((when * len(BANDS) + band) * grids.sizes["lat"] + row) * grids.sizes["lon"] + column
    claim("samples_out_of_order", np.diff(key) <= 0, "Samples that repeat a cell or do not follow the one before.")
    wrong = lacking = 0
    for day in np.unique(when[~stray]).tolist():
        own = np.flatnonzero(when == day)
        stored = np.nan_to_num(np.asarray(grids["Turbulence"][int(np.searchsorted(days, day))].values), nan=2)
        wrong += int((stored[band[own], row[own], column[own]] != label[own]).sum())
        lacking += abs(int((stored != 2).sum()) - len(own))
    claim("labels_against_maps", wrong, "Samples whose label is not that of their cell.")
    claim("cells_without_sample", lacking, "Cells of days with columns that have no sample, or more than one.")
    if "random_split" not in told:
        sides = {(int(day), int(side)) for day, side in zip(when, split, strict=True)}
        claim("days_on_both_sides", len(sides) - len({day for day, _ in sides}), "Days both trained on and held out.")
    _check_air(training, told, claim)


def _check_air(training: "xr.Dataset", told: set[str], claim: Any) -> None:
    """Ranges, order of levels and what is missing, a block of samples at a time."""
    beyond = dict.fromkeys(LIMITS, 0)
    upside = miscounted = filled = 0
    for begin in range(0, training.sizes["sample"], 16_384):
        block = training.isel(sample=slice(begin, begin + 16_384))
        gone = np.zeros(block.sizes["sample"], np.int64)
        fields = {name: np.asarray(block[name].values, np.float64) for name in LIMITS}
        for name, values in fields.items():
            missing = ~(np.abs(values) < 1e14)
            filled += int((missing & np.isfinite(values)).sum())
            gone += missing.sum(tuple(range(1, missing.ndim)))
            low, high = LIMITS[name]
            beyond[name] += int((~missing & ((values < low) | (values > high))).sum())
            fields[name] = np.where(missing, np.nan, values)
        for upper, lower in pairwise(range(fields["PL"].shape[1])):
            upside += int((fields["PL"][:, upper] >= fields["PL"][:, lower]).sum())
            upside += int((fields["H"][:, upper] <= fields["H"][:, lower]).sum())
        miscounted += int((gone != np.asarray(block["missing"].values)).sum())
    if "fill_in_mean" not in told:
        claim("fills_read_as_values", filled, "Values of 1e15, which stand for none.")
        for name, number in beyond.items():
            claim(f"{name}_beyond_its_range", number, f"Values outside {LIMITS[name]}: another unit, or no weather.")
        claim(
            "levels_upside_down",
            upside,
            "Levels whose pressure does not rise, or whose height does not fall, downward.",
        )
    claim("missing_miscounted", miscounted, "Samples whose number of missing values is another.")
