"""Days are taken in once each, late and revised ones too, whoever does it, in whatever order, and killed or not."""

import csv
import dataclasses
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import fsspec
import numpy as np
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey

from infra.compute import each
from infra.refs import Calendar, Dataset, Day
from infra.settings import settings
from infra.store import open_store
from models.common.contracts import InputError
from models.common.days import DaysConfig
from models.feed.retrieval.config import DataConfig, GeneratorConfig, TableConfig
from models.feed.retrieval.days import TableDay
from models.feed.retrieval.generator import FIRST_DAY
from tasks.ingest import assemble, ingest, take
from tests import children

FIRST = date(2024, 2, 27)
DAYS = [FIRST + timedelta(days=number) for number in range(6)]
ALL = DaysConfig(first=DAYS[0], last=DAYS[-1])


@pytest.fixture
def raw(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of raw files, one for each day, that parameters may name."""
    folder = home / "raw"
    folder.mkdir()
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", f"{folder};memory://raw")
    settings.cache_clear()
    for day in DAYS:
        write(folder, day)
    yield folder


def write(folder: Path, day: date, *, users: int = 7, quoting: Any = csv.QUOTE_MINIMAL) -> None:
    """A day on which every user meets two items."""
    midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    rng = np.random.default_rng(day.toordinal())
    rows = [(f"u{user}", f"i{rng.integers(0, 19)}", midnight + 60 * user + n) for user in range(users) for n in (0, 1)]
    with (folder / f"met-{day}.csv").open("w", newline="") as file:
        csv.writer(file, quoting=quoting).writerows([("user", "item", "time"), *rows])


def shop(folder: Path | str) -> DataConfig:
    return DataConfig(name="shop", source="table", table=TableConfig(interactions=f"{folder}/met-{{date}}.csv"))


def look(folder: Path | str, days: list[date] = DAYS) -> dict[date, Any]:
    return {day: take(shop(folder).day(day), flow_run_id="") for day in days}


def statuses(taken: dict[date, Any]) -> list[str]:
    return [one.status for one in taken.values()]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of the store with its inode and the time of its last change."""
    files = [path for path in folder.rglob("*") if path.is_file() and not {".staging", ".used"} & {*path.parts}]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("a day was read although nothing about it is new")


@flow
def take_in(config: DataConfig, days: DaysConfig) -> Calendar:
    return ingest(config, days)


@flow
def make(config: DataConfig, days: DaysConfig) -> tuple[Calendar, Dataset]:
    calendar = ingest(config, days)
    return calendar, assemble(config, calendar)


def shown(state: Any) -> tuple[str, list[dict[str, Any]]]:
    """What the flow run's page says of the days."""
    with get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(
                flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]),
                key=ArtifactFilterKey(any_=["days"]),
            )
        )
    return str(artifact.description), json.loads(str(artifact.data))


# -------------------------------------------------------------------------------------------------------- one day


def test_the_same_day_twice_is_written_once_and_read_once(
    raw: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = look(raw)
    assert statuses(first) == ["new"] * 6
    assert all(one.rows == 14 for one in first.values())
    before = tree(home)
    monkeypatch.setattr(TableDay, "prepare", never)
    again = look(raw)
    assert statuses(again) == ["unchanged"] * 6
    assert [one.version for one in again.values()] == [one.version for one in first.values()]
    assert tree(home) == before


def test_a_revised_day_replaces_the_old_one_which_stays_readable(raw: Path) -> None:
    first = look(raw)
    write(raw, DAYS[2], users=9)
    second = look(raw)
    assert statuses(second) == ["unchanged", "unchanged", "revised", "unchanged", "unchanged", "unchanged"]
    store, name = open_store(), f"retrieval-shop-{DAYS[2]}"
    current = store.current("day", name)
    assert (current.version, current.history) == (second[DAYS[2]].version, (first[DAYS[2]].version,))
    old = store.manifest("day", name, first[DAYS[2]].version)
    ref = Day(
        name=name, version=old.digest[:12], digest=old.digest, location=f"{store.root}/day/{name}/{old.digest[:12]}"
    )
    assert store.open(ref)["interactions"].num_rows == 14
    assert store.open(store.live(Day, name))["interactions"].num_rows == 18


def test_a_file_written_anew_with_the_same_rows_changes_nothing_and_is_read_once(
    raw: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = look(raw)
    before = {path: at for path, at in tree(home / "store").items() if not path.endswith(".lock")}
    write(raw, DAYS[1], quoting=csv.QUOTE_ALL)
    assert look(raw) == {day: dataclasses.replace(one, status="unchanged") for day, one in first.items()}
    assert {path: at for path, at in tree(home / "store").items() if not path.endswith(".lock")} == before
    monkeypatch.setattr(TableDay, "prepare", never)
    assert statuses(look(raw)) == ["unchanged"] * 6


def test_a_published_day_has_an_exact_certificate_that_names_its_raw_file(raw: Path) -> None:
    look(raw, DAYS[:1])
    store = open_store()
    ref = store.live(Day, f"retrieval-shop-{FIRST}")
    certificate = store.open(ref).manifest.certificate
    assert certificate and certificate["rows"] == 14
    names = {claim["name"] for claim in certificate["claims"]}
    assert names >= {"rows_lost_or_added", "identifiers_changed", "cells_missing", "moments_outside_the_day"}
    assert all((claim["kind"], claim["value"]) == ("exact", 0) for claim in certificate["claims"])
    checksum = hashlib.sha256((raw / f"met-{FIRST}.csv").read_bytes()).hexdigest()
    assert any(checksum in claim["detail"] for claim in certificate["claims"])


def test_a_missing_day_is_awaited_and_one_whose_file_went_away_is_kept(raw: Path) -> None:
    (raw / f"met-{DAYS[3]}.csv").unlink()
    first = look(raw)
    assert first[DAYS[3]].status == "awaited"
    assert f"met-{DAYS[3]}.csv" in first[DAYS[3]].note
    write(raw, DAYS[3])
    (raw / f"met-{DAYS[0]}.csv").unlink()
    second = look(raw)
    assert statuses(second) == ["kept", "unchanged", "unchanged", "new", "unchanged", "unchanged"]
    assert (second[DAYS[0]].version, second[DAYS[0]].rows) == (first[DAYS[0]].version, 14)


def test_a_day_behind_a_url_is_awaited_then_taken_in_then_revised(raw: Path) -> None:
    memory = fsspec.filesystem("memory")
    try:
        assert statuses(look("memory://raw", DAYS[:1])) == ["awaited"]
        for number, status in ((0, "new"), (0, "unchanged"), (1, "revised")):
            write(raw, DAYS[0], users=7 + number)
            memory.pipe(f"/raw/met-{DAYS[0]}.csv", (raw / f"met-{DAYS[0]}.csv").read_bytes())
            assert statuses(look("memory://raw", DAYS[:1])) == [status]
    finally:
        memory.store.clear()


def test_a_day_that_was_rolled_back_stays_so_until_its_file_changes(raw: Path) -> None:
    first = look(raw, DAYS[:1])[FIRST]
    write(raw, FIRST, users=9)
    look(raw, DAYS[:1])
    open_store().rollback("day", f"retrieval-shop-{FIRST}")
    withdrawn = look(raw, DAYS[:1])[FIRST]
    assert (withdrawn.status, withdrawn.version, withdrawn.rows) == ("withdrawn", first.version, 14)
    write(raw, FIRST, users=8)
    assert look(raw, DAYS[:1])[FIRST].status == "revised"


def test_a_day_that_was_damaged_in_the_store_is_taken_in_again(raw: Path) -> None:
    first = look(raw, DAYS[:1])[FIRST]
    store = open_store()
    part = Path(store.live(Day, f"retrieval-shop-{FIRST}").location) / "interactions.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    assert look(raw, DAYS[:1])[FIRST].version == first.version
    store.verify(store.live(Day, f"retrieval-shop-{FIRST}"))


# --------------------------------------------------------------------------------------------------------- a range


@pytest.mark.usefixtures("prefect_server")
def test_days_in_two_orders_with_a_late_and_a_revised_one_make_the_same_dataset(
    raw: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calendar, dataset = make(shop(raw), ALL)

    monkeypatch.setenv("HEADRACE_STORE", str(home / "other"))
    settings.cache_clear()
    late = (raw / f"met-{DAYS[4]}.csv").rename(raw / "late")
    write(raw, DAYS[1], users=3)
    config, last = shop(raw), DAYS[-1]
    early_calendar, early = make(config, DaysConfig(first=DAYS[3], last=last))
    assert len(open_store().open(early_calendar)["days"]) == 2
    make(config, DaysConfig(first=DAYS[0], last=DAYS[2]))
    late.rename(raw / f"met-{DAYS[4]}.csv")
    write(raw, DAYS[1])
    again_calendar, again = make(config, DaysConfig(first=DAYS[1], last=DAYS[4]))
    assert (again_calendar.digest, again.digest) == (calendar.digest, dataset.digest)
    assert early.digest != dataset.digest


@pytest.mark.usefixtures("prefect_server")
def test_the_page_says_of_every_day_what_became_of_it_and_a_second_run_makes_no_version(raw: Path, home: Path) -> None:
    (raw / f"met-{DAYS[5]}.csv").unlink()
    state = take_in(shop(raw), ALL, return_state=True)
    description, rows = shown(state)
    assert description == "6 days from 2024-02-27 to 2024-03-03: 5 new, 1 awaited"
    assert [row["status"] for row in rows] == ["new"] * 5 + ["awaited"]
    assert [row["rows"] for row in rows] == [14] * 5 + [0]
    assert [row["day"] for row in rows] == [str(day) for day in DAYS]
    before = {path for path in tree(home / "store") if not path.endswith(".lock")}
    again = take_in(shop(raw), ALL, return_state=True)
    assert again.result() == state.result()
    assert shown(again)[0].endswith("5 unchanged, 1 awaited")
    assert {path for path in tree(home / "store") if not path.endswith(".lock")} == before


@pytest.mark.usefixtures("prefect_server")
def test_damaged_days_are_named_in_one_error_and_the_others_are_kept(raw: Path) -> None:
    whole = (raw / f"met-{DAYS[1]}.csv").read_text()
    (raw / f"met-{DAYS[1]}.csv").write_text(whole.replace("u3,", ",", 1))
    (raw / f"met-{DAYS[4]}.csv").write_text((raw / f"met-{DAYS[3]}.csv").read_text())
    state = take_in(shop(raw), ALL, return_state=True)
    assert state.is_failed()
    with pytest.raises(InputError) as found:
        state.result()
    message = str(found.value)
    assert message.startswith("2 of 6 days cannot be used")
    assert f"{DAYS[1]}: {raw}/met-{DAYS[1]}.csv, column 'user', row 7: None" in message
    assert f"{DAYS[4]}: {raw}/met-{DAYS[4]}.csv, column 'time', row 1: '2024-03-01T00:00:00Z'" in message
    assert shown(state)[0].endswith("4 new, 2 damaged")
    assert open_store().products("day") == [f"retrieval-shop-{DAYS[n]}" for n in (0, 2, 3, 5)]

    write(raw, DAYS[1])
    write(raw, DAYS[4])
    mended = take_in(shop(raw), ALL, return_state=True)
    assert mended.is_completed()
    assert shown(mended)[0].endswith("2 new, 4 unchanged")


@pytest.mark.usefixtures("prefect_server")
def test_only_days_of_the_same_settings_within_the_window_count(raw: Path) -> None:
    world = DataConfig(name="world", generator=GeneratorConfig(users=40, items=120, events=9))
    other = dataclasses.replace(world, generator=dataclasses.replace(world.generator, seed=1))

    def known(config: DataConfig, first: int, last: int, window: int = 0) -> list[str]:
        days = DaysConfig(first=FIRST_DAY + timedelta(days=first), last=FIRST_DAY + timedelta(days=last), window=window)
        return [entry["day"] for entry in open_store().open(take_in(config, days))["days"]]

    assert known(world, 0, 4) == ["2020-09-13", "2020-09-14", "2020-09-15", "2020-09-16", "2020-09-17"]
    assert known(world, 2, 2, window=2) == ["2020-09-16", "2020-09-17"]
    assert known(other, 3, 5) == ["2020-09-16", "2020-09-17", "2020-09-18"], "days of two worlds were mixed"


@pytest.mark.usefixtures("prefect_server")
def test_where_no_day_is_known_the_run_fails_and_says_where_it_looked(raw: Path) -> None:
    state = take_in(shop(raw), DaysConfig(first=date(2024, 1, 1), last=date(2024, 1, 3)), return_state=True)
    with pytest.raises(InputError, match=r"no day of retrieval-shop is known .*3 awaited.*check the dates"):
        state.result()
    outside = take_in(shop(raw.parent), ALL, return_state=True)
    with pytest.raises(InputError, match="lies outside the data roots"):
        outside.result()


# -------------------------------------------------------------------------------------------- other hands, and kills

KILLED = """
import os, signal, sys
from datetime import date, timedelta
from infra import store as stores
from models.feed.retrieval.config import DataConfig, TableConfig
from tasks.ingest import take

where, folder = sys.argv[1:]
config = DataConfig(name="shop", source="table", table=TableConfig(interactions=folder + "/met-{date}.csv"))
whole, count = getattr(stores.Store, where), 0

def deadly(*arguments, **options):
    global count
    count += 1
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **options)

setattr(stores.Store, where, deadly)
for number in range(6):
    take(config.day(date(2024, 2, 27) + timedelta(days=number)), flow_run_id="")
"""


@pytest.mark.parametrize("where", ["_commit", "publish", "_point"])
def test_what_was_taken_in_before_a_kill_is_not_taken_in_again(
    raw: Path, home: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = children.run(KILLED, where, str(raw), timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    prepare, read = TableDay.prepare, []

    def noted(self: TableDay, files: Any) -> Any:
        read.append(self.date)
        return prepare(self, files)

    monkeypatch.setattr(TableDay, "prepare", noted)
    retried = look(raw)
    assert statuses(retried) == ["unchanged"] * 3 + ["new"] * 3
    assert read == [str(day) for day in DAYS[3:]]

    monkeypatch.setenv("HEADRACE_STORE", str(home / "undisturbed"))
    settings.cache_clear()
    assert [one.version for one in look(raw).values()] == [one.version for one in retried.values()]


def _die_once(marker: Path, number: int) -> int:
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


@pytest.mark.usefixtures("prefect_server")
def test_a_dask_cluster_gives_the_same_days_and_survives_the_death_of_a_worker(
    raw: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    here = take_in(shop(raw), ALL)
    for name in ("HEADRACE_HOME", "HEADRACE_DATA_ROOTS"):  # workers that were started elsewhere know of neither
        monkeypatch.delenv(name)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=True) as cluster:
        monkeypatch.setenv("HEADRACE_HOME", str(home))
        monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(raw))
        monkeypatch.setenv("HEADRACE_STORE", str(home / "other"))
        monkeypatch.setenv("HEADRACE_DASK_ADDRESS", cluster.scheduler_address)
        settings.cache_clear()
        monkeypatch.setattr(TableDay, "prepare", never)  # not by this process
        state = take_in(shop(raw), ALL, return_state=True)
        assert state.result().digest == here.digest
        assert shown(state)[0].endswith("6 new")

        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        told: list[tuple[int, int]] = []
        try:
            found = each(
                partial(_die_once, home / "died"), range(7), tell=lambda done, total: told.append((done, total))
            )
        finally:
            cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        assert (home / "died").exists()
        assert found == [number * number for number in range(7)]
        assert told == [(number, 7) for number in range(1, 8)]
