"""Outlooks once more, by plain code that shares nothing with the recipe, and what must hold of the stored whole."""

import gzip
import html
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Claim
from models.common.parts import Part

if TYPE_CHECKING:
    import xarray as xr

    from models.climate.datasets.outlooks.config import OutlooksConfig

Array = NDArray[Any]


class _Tolerances(dict[str, float]):
    """One tolerance for all fields of the model, whatever their names: means are summed in another order."""

    def get(self, key: str, default: Any = None) -> Any:
        """The tolerance of a variable."""
        return 1e-6 if key.startswith("fields/") else super().get(key, default)


TOLERANCES: Mapping[str, float] = _Tolerances()
"""Relative distance that a variable may have from its reference; those without one must be equal."""

LONGEST = 8000
"""Characters of a discussion: a summary has hundreds, a whole outlook thousands."""

_BEGIN = datetime(1970, 1, 1)
_OFFSETS = dict(zip(("EST", "EDT", "CST", "CDT", "MST", "MDT", "PST", "PDT"), (5, 4, 6, 5, 7, 6, 8, 7), strict=True))


def reference(
    config: "OutlooksConfig", part: Part, files: Mapping[str, tuple[Path, ...]]
) -> Mapping[str, "xr.Dataset"]:
    """One day, page by page and line by line.

    Args:
        config: the settings.
        part: which day.
        files: not needed, the part names its own.

    Returns:
        The groups `outlooks`, `images` and `pairs`.

    Source:
        Ours.
    """
    import xarray as xr

    del files
    under = date.fromisoformat(part.about["under"])
    rows: list[dict[str, Any]] = []
    for page, url, name in _pages(config, part, under):
        moment, ahead = _issued(name, page)
        base = {
            "stored_under": (under - _BEGIN.date()).days, "issued": _minutes(moment), "ahead": ahead, "url": url,
        }  # fmt: skip
        for block, text in _texts(page, config.repeats("three_dots")):
            rows.append({**base, "block": block, "discussion": text or "", "has_summary": int(text is not None)})
    images = []
    for name in part.about["images"]:
        token, run = name.split(".")[1:3]
        moment = datetime(int(token[:4]), int(token[4:6]), int(token[6:]), int(run[1:3]))
        tail = name[len("hrrr.") + len(token) + 1 :]
        images.append({"file_name": name, "place": f"hrrr.{token}/conus/hrrr.{tail}", "moment": _minutes(moment)})
    pairs = []
    for image in images:
        chosen = _chosen(config, image["moment"], rows)
        image["paired"] = int(bool(chosen))
        for row in chosen:
            words = row["discussion"].strip()
            pairs.append({**image, "issued": row["issued"], "url": row["url"], "text": words})
    kinds = {
        "outlooks": {
            "stored_under": "i4", "issued": "i4", "ahead": "i1", "block": "i2", "has_summary": "i1", "url": "O",
            "discussion": "O",
        },
        "images": {"file_name": "O", "place": "O", "moment": "i4", "paired": "i1"},
        "pairs": {"file_name": "O", "moment": "i4", "issued": "i4", "url": "O", "text": "O"},
    }  # fmt: skip
    out = {}
    for group, listed in (("outlooks", rows), ("images", images), ("pairs", pairs)):
        columns = {name: np.array([one[name] for one in listed], kind) for name, kind in kinds[group].items()}
        out[group] = xr.Dataset({name: ((group[:-1],), values) for name, values in columns.items()})
    if config.variables:
        out["fields"] = _fields(config, part)
    return out


def _fields(config: "OutlooksConfig", part: Part) -> "xr.Dataset":
    """Fields of the runs, message by message and cell by cell."""
    import xarray as xr

    names, cells = [], []
    if config.source == "generated":
        from models.climate.generator import outlooks as world

        for name in part.about["images"]:
            day = datetime.strptime(name.split(".")[1], "%Y%m%d").date()
            held = world.native_of(world.OutlooksConfig(daily=config.daily, seed=config.seed), day)
            names.append(name)
            cells.append([_cells(held[one][config.level - 1], config.every) for one in config.variables])
    else:
        for file in part.files[len(part.about["urls"]) :]:
            names.append(Path(file).name)
            tables = _messages(Path(file), config.variables, config.level)
            cells.append([_cells(tables[one], config.every) for one in config.variables])
    moments = [datetime.strptime("".join(name.split(".")[1:3]), "%Y%m%dt%Hz") for name in names]
    columns: dict[str, Any] = {
        "file_name": (("run",), np.array(names, object)),
        "moment": (("run",), np.array([_minutes(one) for one in moments], "i4")),
    }
    for place, one in enumerate(config.variables):
        stack = [held[place] for held in cells]
        values = np.array(stack, "f4") if stack else np.zeros((0, *part.about.get("cells", (0, 0))), "f4")
        columns[one] = (("run", "y", "x"), values)
    return xr.Dataset(columns)


def _cells(table: Array, every: int) -> list[list[float]]:
    rows, columns = table.shape[0] // every, table.shape[1] // every
    return [
        [
            float(sum(float(value) for value in table[i * every : (i + 1) * every, j * every : (j + 1) * every].flat))
            / every**2
            for j in range(columns)
        ]
        for i in range(rows)
    ]


def _messages(path: Path, names: tuple[str, ...], level: int) -> dict[str, Array]:
    """Tables of values by short name, straight from eccodes; of several levels the one asked for."""
    import eccodes

    found: dict[str, Array] = {}
    with path.open("rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            try:
                name = eccodes.codes_get(handle, "shortName")
                layered = eccodes.codes_get(handle, "typeOfLevel") == "hybrid"
                if name in names and (not layered or eccodes.codes_get(handle, "level") == level) and name not in found:
                    shape = (eccodes.codes_get(handle, "Nj"), eccodes.codes_get(handle, "Ni"))
                    found[name] = eccodes.codes_get_values(handle).reshape(shape)
            finally:
                eccodes.codes_release(handle)
    return found


def _minutes(moment: datetime) -> int:
    return round((moment - _BEGIN).total_seconds() / 60)


def _pages(config: "OutlooksConfig", part: Part, day: date) -> list[tuple[str, str, str]]:
    """Characters, address and name of every page of a part."""
    if config.source == "generated":
        from models.climate.generator import outlooks as world

        out = []
        for one in world.outlooks_of(world.OutlooksConfig(daily=config.daily, seed=config.seed), day):
            name = f"day1otlk_{day:%Y%m%d}_{one.time}.html"
            out.append((one.page, f"https://spc.noaa.gov/products/outlook/archive/{day.year}/{name}", name))
        return out
    out = []
    for url, file in zip(part.about["urls"], part.files, strict=False):
        raw = Path(file).read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        try:
            out.append((raw.decode("utf-8"), url, Path(file).name))
        except UnicodeDecodeError:
            out.append((raw.decode("cp1252", errors="replace"), url, Path(file).name))
    return out


def _issued(name: str, page: str) -> tuple[datetime, int]:
    """When, and for which day, by the name or else by the text."""
    pieces = name.split(".")[0].split("_")
    if len(pieces) >= 3 and pieces[0].startswith("day") and pieces[-2].isdigit() and pieces[-1].isdigit():
        return datetime.strptime(pieces[-2] + pieces[-1], "%Y%m%d%H%M"), int(pieces[0][3])
    for line in page.splitlines():
        words = line.upper().split()
        if len(words) == 7 and words[1] in ("AM", "PM") and words[2] in _OFFSETS:
            clock = words[0].zfill(4)
            told = f"{clock[:2]}:{clock[2:]} {words[1]} {words[4].title()} {words[5]} {words[6]}"
            local = datetime.strptime(told, "%I:%M %p %b %d %Y")
            found = re.search(r"day (\d)\b", page.lower())
            return local + timedelta(hours=_OFFSETS[words[2]]), int(found[1]) if found else 0
    raise ValueError(f"{name} does not tell when it was issued.")


def _texts(page: str, as_published: bool) -> list[tuple[int, str | None]]:
    """Number and discussion of the blocks that count."""
    marked = re.findall(r"<pre[^>]*>(.*?)</pre\s*>", page, re.DOTALL | re.IGNORECASE)
    blocks = [html.unescape(re.sub(r"<[^>]*>", "", one)) for one in marked] if "<" in page[:5000] else [page]
    if as_published:
        return [(number, one.split("...SUMMARY...")[-1].split("...")[0]) for number, one in enumerate(blocks)]
    for number, one in enumerate(blocks):
        zones = {word for line in one.splitlines() for word in line.upper().split()} & set(_OFFSETS)
        if zones or "SUMMARY..." in one.upper():
            return [(number, _section(one))]
    return []


def _section(block: str) -> str | None:
    """The last summary of a report, line by line."""
    lines = block.split("\n")
    for number, line in enumerate(lines):
        if re.match(r"\s*\.+\s*PREV(IOUS)? DISCUSSION", line, re.IGNORECASE):
            lines = lines[:number]
            break
    outlook = [n for n, line in enumerate(lines) if re.search(r"\.\.\.[ \t]*summary[ \t]*\.\.\.", line, re.IGNORECASE)]
    inline = [n for n, line in enumerate(lines) if line.startswith("SUMMARY...")]
    if not outlook and not inline:
        return None
    at = outlook[-1] if outlook else inline[-1]
    mark = r".*\.\.\.[ \t]*summary[ \t]*\.\.\." if outlook else r"SUMMARY\.\.\."
    kept = [re.sub(mark, "", lines[at], count=1, flags=re.IGNORECASE)]
    for line in lines[at + 1 :]:
        words = line.strip()
        after_gap = not kept[-1].strip() and len(kept) > 1
        indent = line[: len(line) - len(line.lstrip(" \t"))]
        if outlook:
            heading = len(words) > 6 and words.startswith("...") and words[3] not in ". " and words.endswith("...")
            if heading or (after_gap and words.startswith(("..", "$$", "&&"))):
                return "\n".join([*kept, indent])
        else:
            heading = after_gap and (re.match(r"[A-Z]{4,}\.\.\.", line) is not None or line.startswith(("..", "$$")))
            if heading or line.startswith("DISCUSSION..."):
                return "\n".join([*kept, ""])
        kept.append(line)
    return "\n".join(kept)


def _chosen(config: "OutlooksConfig", moment: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that go with a run."""
    if config.repeats("first_outlook"):
        return rows[:1]
    fitting = [row for row in rows if row["has_summary"] and row["ahead"] < 2 and row["discussion"].strip()]
    if config.pairing == "every" or not fitting:
        return fitting
    best = fitting[0]
    for row in fitting[1:]:
        if abs(row["issued"] - moment) < abs(best["issued"] - moment):
            best = row
    return [best]


def checks(groups: Mapping[str, "xr.Dataset"]) -> tuple[Claim, ...]:
    """What must hold of the stored whole, whatever it was made from.

    Args:
        groups: `outlooks`, `images` and `pairs`, undecoded.

    Returns:
        Claims on days, addresses, texts and pairs. A dataset that repeats published defects, as its attributes say, is
        not held to what they break.

    Source:
        Ours.
    """
    outlooks, images, pairs = groups["outlooks"], groups["images"], groups["pairs"]
    repeated = str(outlooks.attrs.get("repeated_defects", "")).split()
    url, text = _words(outlooks["url"].values), _words(outlooks["discussion"].values)
    issued = np.asarray(outlooks["issued"].values).astype(np.int64)
    under = np.asarray(outlooks["stored_under"].values).astype(np.int64)
    block = np.asarray(outlooks["block"].values).astype(np.int64)
    said = np.asarray(outlooks["has_summary"].values).astype(np.int64)
    keys = list(zip(under.tolist(), url, block.tolist(), strict=True))
    tokens = [re.search(r"_(\d{8})_(\d{4})\.", one) for one in url]
    told = [(_BEGIN + timedelta(minutes=int(one))).strftime("%Y%m%d%H%M") for one in issued]
    unlike = sum(found is not None and found[1] + found[2] != one for found, one in zip(tokens, told, strict=True))
    flags = sum(bool(one.strip()) > flag for one, flag in zip(text, said, strict=True))
    marks = sum("SUMMARY..." in one.upper() for one in text)
    damaged = sum("\ufffd" in one or "\0" in one for one in text)
    claims = [
        _none("outlooks_twice", len(keys) - len(set(keys)), "a page, or a part, was taken twice"),
        _none("days_out_of_order", int((np.diff(under) < 0).sum()), "tables follow one another by day"),
        _none("issued_unlike_address", unlike, "day and time stand in the address"),
        _none("marks_within_texts", marks, "a text begins behind its mark"),
        _none("texts_too_long", sum(len(one) > LONGEST for one in text), f"more than {LONGEST} characters"),
        _none("flags_unlike_texts", flags, "a text without a summary"),
        _none("damaged_characters", damaged, "texts with undecodable bytes"),
    ]
    if "last_day_of_request" not in repeated:
        claims.append(_none("stored_under_another_day", int((issued // 1440 != under).sum()), "a table is of one day"))
    if "three_dots" not in repeated:
        header = sum("Convective Outlook" in one or "SPC AC" in one for one in text)
        claims.append(_none("headers_as_texts", header, "a page without summary has no text"))
        cut = [one.strip() for one in text if one.strip()]
        ended = np.mean([one[-1] in ".!?)\"'" for one in cut]) if cut else 1.0
        claims.append(
            Claim(name="texts_that_end", kind="statistical", value=float(ended), limit=0.9, sense="at least",
                  detail="Share of texts that end with a full stop; others are cut off.")
        )  # fmt: skip
    return (*claims, *_pairs(images, pairs, dict(zip(url, text, strict=True)), url, issued, repeated))


def _pairs(
    images: "xr.Dataset",
    pairs: "xr.Dataset",
    texts: Mapping[str, str],
    url: list[str],
    issued: Array,
    repeated: list[str],
) -> list[Claim]:
    """Claims on the model's files and what goes with them."""
    names, moment = _words(images["file_name"].values), np.asarray(images["moment"].values).astype(np.int64)
    flags = np.asarray(images["paired"].values).astype(np.int64)
    file, words, from_url = (_words(pairs[name].values) for name in ("file_name", "text", "url"))
    when = np.asarray(pairs["moment"].values).astype(np.int64)
    from_issue = np.asarray(pairs["issued"].values).astype(np.int64)
    known = dict(zip(url, issued.tolist(), strict=True))
    runs = [(_BEGIN + timedelta(minutes=int(one))).strftime("hrrr.%Y%m%d.t%Hz.") for one in moment]
    paired = set(file)
    all_texts: dict[str, set[str]] = {}
    for one, text in texts.items():
        all_texts.setdefault(one, set()).add(text.strip())
    first_block = "three_dots" in repeated  # several blocks of a page have one address
    strange = sum(
        from_url[row] not in known or (not first_block and words[row] not in all_texts.get(from_url[row], ()))
        for row in range(len(file))
    )
    runs_of = dict(zip(names, moment.tolist(), strict=True))
    issues = sum(known.get(one) != at for one, at in zip(from_url, from_issue.tolist(), strict=True))
    times = sum(runs_of.get(one) != at for one, at in zip(file, when.tolist(), strict=True))
    told = sum(not one.startswith(run) for one, run in zip(names, runs, strict=True))
    flagged = sum((one in paired) != bool(flag) for one, flag in zip(names, flags, strict=True))
    claims = [
        _none("files_twice", len(names) - len(set(names)), "names of the model's files"),
        _none("runs_unlike_names", told, "day and hour stand in the name"),
        _none("files_of_another_kind", sum(not one.endswith(".grib2") for one in names), "names end with .grib2"),
        _none("pairs_without_file", len(paired - set(names)), "every pair has a file that is listed"),
        _none("flags_unlike_pairs", flagged, "files said to be paired"),
        _none("texts_unlike_outlooks", strange, "a pair's text is that of the outlook it names"),
        _none("pairs_without_text", sum(not one.strip() for one in words), "every pair has a text"),
        _none("issues_unlike_outlooks", issues, "a pair's time of issue is its outlook's"),
        _none("times_unlike_files", times, "a pair's run is its file's"),
    ]
    if "last_day_of_request" not in repeated:
        apart = int((from_issue // 1440 != when // 1440).sum())
        claims.append(_none("pairs_of_two_days", apart, "run and outlook are of one day"))
    return claims


def _none(name: str, found: float, detail: str) -> Claim:
    return Claim(name=name, kind="exact", value=float(found), limit=0.0, sense="at most", detail=detail + ".")


def _words(values: Array) -> list[str]:
    return [one.decode("utf-8") if isinstance(one, bytes) else str(one) for one in np.asarray(values, object)]
