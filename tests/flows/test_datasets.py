"""The datasets' flows: all six are certified and published, parts are made once, and what is wrong is refused."""

import dataclasses
import os
import re
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flows import datasets
from infra.grids import Parts
from infra.refs import Dataset, Index, Predictions
from infra.settings import settings
from infra.store import open_store
from models.climate.datasets import schemas
from models.climate.datasets.analogs.baseline import Days
from models.climate.datasets.analogs.search import AnalogQuestionsConfig, AnalogSearchConfig, DayVectorsConfig
from models.climate.datasets.config import FLOWS, DatasetConfig, preset
from models.climate.datasets.validation import ExportConfig, ValidationConfig
from models.common.errors import InputError
from models.common.parts import PreparationConfig
from models.feed.retrieval.config import DataConfig, RetrievalConfig, VectorsConfig
from tasks import prepare as preparing

pytestmark = pytest.mark.usefixtures("prefect_server")


def run(dataset: str, config: DatasetConfig | None = None, **changes: Any) -> Any:
    """Run the flow of a dataset; changes are to the recipe of its smallest world."""
    chosen = config or preset(dataset, "tiny")
    recipe = dataclasses.replace(chosen.recipe, **changes)  # type: ignore[type-var]
    chosen = dataclasses.replace(chosen, data=recipe)
    return getattr(datasets, f"prepare_{dataset}")(chosen, return_state=True)


def live(dataset: str) -> Dataset:
    return open_store().live(Dataset, f"datasets-{dataset}")


def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts that are made from now on."""
    names: list[str] = []
    original = Parts.write

    def write(self: Parts, name: str, *rest: Any) -> Any:
        names.append(name)
        return original(self, name, *rest)

    monkeypatch.setattr(Parts, "write", write)
    return names


def inodes(dataset: Dataset) -> dict[str, int]:
    folder = Path(dataset.location)
    return {str(path.relative_to(folder)): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("dataset", FLOWS)
def test_a_dataset_is_certified_published_validated_and_exported_and_a_second_run_makes_nothing(
    dataset: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = made(monkeypatch)
    state = run(dataset)
    (outcome,) = state.result()
    assert (state.name, outcome.status, outcome.product) == ("Published", "published", f"datasets-{dataset}")
    assert outcome.certificate.endswith("holds")
    assert len(names) == len(set(names)) > 0
    before = inodes(live(dataset))

    again = run(dataset, dataclasses.replace(preset(dataset, "tiny"), preparation=PreparationConfig(keep_days=7)))
    assert again.name == "Unchanged"
    assert len(names) == len(set(names)), "a part was made twice"
    assert inodes(live(dataset)) == before, "a file was written again"

    if dataset != "turbulence":  # trains its network for half a minute; see the tests of its baseline
        report = datasets.validate_climate(ValidationConfig(dataset=dataset), return_state=True)  # type: ignore[arg-type]
        assert report.name == "Healthy"

    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(home / "out"))
    settings.cache_clear()
    (home / "out").mkdir()
    files = datasets.export_climate(ExportConfig(dataset=dataset, folder=str(home / "out" / dataset)))  # type: ignore[arg-type]
    assert files
    schema = schemas.load(dataset)
    known = [file for file in map(Path, files) if (entry := _entry(schema, file)) and not _wrong(entry, file)]
    assert known, "no exported file is of the published layout"


def _entry(schema: Any, file: Path) -> Any:
    try:
        return schema.file(file.name)
    except (KeyError, ValueError):
        return None


def _wrong(entry: Any, file: Path) -> None:
    # The smallest worlds have coarser grids than the published ones, and a mended file says its fill where readers look
    # for it; nothing else is different.
    mended = r"dimension \w+ has length|\w+ has fill np.float32\(1e\+15\), must have None"
    found = [one for one in schemas.differences_in(entry, file) if not re.match(mended, one)]
    assert found == [], f"{file.name}: {found}"


def test_another_day_makes_one_part_and_the_rest_is_shared(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = made(monkeypatch)
    run("precipitation", days=20)
    few, shared = len(names), inodes(live("precipitation"))
    run("precipitation", days=21)
    assert len(names) == few + 1
    now = inodes(live("precipitation"))
    pieces = {path for path in shared if re.search(r"/(obs|precipitation)/c/", path)}
    assert len(pieces) >= 20
    assert all(now[path] == shared[path] for path in pieces), "a file of a part that is the same was written again"

    digest = live("precipitation").digest
    monkeypatch.setenv("HEADRACE_HOME", str(home / "elsewhere"))
    settings.cache_clear()
    run("precipitation", days=21)
    assert live("precipitation").digest == digest, "the way to a dataset shows in it"


def test_two_workers_make_what_one_makes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("storms")
    digest = live("storms").digest
    monkeypatch.setenv("HEADRACE_HOME", str(home / "elsewhere"))
    settings.cache_clear()
    state = run("storms", dataclasses.replace(preset("storms", "tiny"), preparation=PreparationConfig(workers=2)))
    assert state.name == "Published"
    assert live("storms").digest == digest


def test_a_dask_cluster_makes_the_same_and_survives_the_death_of_a_worker_in_mid_run(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    run("precipitation", days=24)
    digest = live("precipitation").digest
    monkeypatch.delenv("HEADRACE_HOME")  # workers that were started elsewhere do not know it
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=True) as cluster:
        elsewhere = home / "elsewhere"
        monkeypatch.setenv("HEADRACE_HOME", str(elsewhere))
        monkeypatch.setenv("HEADRACE_DASK_ADDRESS", cluster.scheduler_address)
        settings.cache_clear()
        monkeypatch.setattr(Parts, "write", None)  # not by this process
        made_before: list[int] = []

        def kill() -> None:
            count = 0
            while not count:
                time.sleep(0.002)
                with suppress(FileNotFoundError):  # a part moved to its place between two looks
                    count = len(list(elsewhere.rglob("[!.]*/receipt.json")))
            os.kill(cluster.workers[0].process.pid, signal.SIGKILL)
            made_before.append(count)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        state = run("precipitation", days=24)
        killer.join(10)
    assert state.name == "Published", state.message
    assert made_before
    assert made_before[0] < 24, "the worker was killed when all was made"
    assert live("precipitation").digest == digest


def test_a_revised_file_makes_its_own_part_again_and_no_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.climate.generator.storms import StormsConfig, hurdat2, storms_of

    raw = home / "raw"
    raw.mkdir()
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(raw))
    settings.cache_clear()
    for basin in ("AL", "EP"):
        (raw / f"{basin}.txt").write_text(hurdat2(storms_of(StormsConfig(basin=basin), 2001)))
    names = made(monkeypatch)
    changes = {"source": "files", "atlantic": f"{raw}/A*.txt", "pacific": f"{raw}/EP.txt"}
    run("storms", **changes)
    assert sorted(names) == ["AL.txt", "EP.txt"]
    text = (raw / "EP.txt").read_text().splitlines()
    (raw / "EP.txt").write_text("\n".join(hurdat2(storms_of(StormsConfig(basin="EP"), 2002)).splitlines()) + "\n")
    assert (raw / "EP.txt").read_text().splitlines() != text
    state = run("storms", **changes)
    assert state.name == "Published", state.message
    assert sorted(names) == ["AL.txt", "EP.txt", "EP.txt"]


def test_parts_in_the_wrong_places_are_refused_and_the_live_version_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("precipitation", days=20).name == "Published"
    good = live("precipitation")
    original = Parts.join

    def swapped(self: Parts, staging: Path, layouts: Any, parts: Any, attrs: Any) -> Any:
        (a, first), (b, second), *rest = parts
        return original(self, staging, layouts, [(b, first), (a, second), *rest], attrs)

    monkeypatch.setattr(Parts, "join", swapped)
    config = preset("precipitation", "tiny")
    config = dataclasses.replace(config, judgement=dataclasses.replace(config.judgement, parts=40))
    state = run("precipitation", config, days=22)
    (outcome,) = state.result()
    assert state.name == "Refused"
    assert "remade_parts" in outcome.reason
    assert live("precipitation") == good


def test_a_file_that_is_not_there_and_one_that_is_no_hurdat2_end_the_run_by_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(home))
    settings.cache_clear()
    state = run("storms", source="files", atlantic=f"{home}/none.txt")
    assert "none.txt" in str(state.message)
    (home / "page.txt").write_text("<html>not found</html>\n")
    state = run("storms", source="files", atlantic=f"{home}/page.txt")
    assert state.is_failed()
    assert "page.txt" in str(state.message)


def test_values_outside_their_bounds_are_refused_by_name() -> None:
    import numpy as np

    from models.common.errors import InputError
    from models.common.moments import moments
    from models.common.parts import Variable

    variable = Variable(dims=("x",), dtype="float32", low=0, high=10, missing=0.25, attrs={"units": "m s-1"})
    refuse = preparing._refuse_outside
    refuse(moments(np.array([0, 10, np.nan, 5], np.float32)), variable, "day, u")
    for values, words in (([-1, 2], "-1 m s-1 is below 0"), ([11, 2], "11 m s-1 is above 10"), ([np.nan, 2], "50.0%")):
        with pytest.raises(InputError, match=words):
            refuse(moments(np.array(values, np.float32)), variable, "day, u")


def test_analogs_come_from_a_published_index_of_the_days_and_are_those_of_a_direct_search(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    import pyarrow.parquet

    roots = home / "data"
    roots.mkdir()
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(roots))
    settings.cache_clear()
    days = DayVectorsConfig(file=str(roots / "analogs" / "days.parquet"))
    vectors = VectorsConfig(items=days.file, item_column="day", query_column="question")
    index = RetrievalConfig(data=DataConfig(name="days", source="vectors", vectors=vectors))
    with pytest.raises(InputError, match="but the index reads"):
        datasets.index_analogs.fn(DayVectorsConfig(), index)

    assert run("analogs", days=75).name == "Published"
    built = datasets.index_analogs(days, index, return_state=True)
    assert built.name == "Published", built.message
    (outcome,) = built.result()
    assert (outcome.product, outcome.certificate.endswith("holds")) == ("retrieval-days", True)

    config = AnalogSearchConfig(
        questions=AnalogQuestionsConfig(analogs=3), export=str(roots / "analogs" / "found.parquet")
    )
    state = datasets.search_analogs(config, "retrieval-days", return_state=True)
    assert state.name == "Healthy", state.message
    store = open_store()
    kept = store.open(state.result()).manifest.input(Predictions, store.root)
    assert kept.name == "datasets-analog-search"
    assert store.open(kept).manifest.inputs["index"]["version"] == store.live(Index, "retrieval-days").version
    stored = Days.of(store.open(live("analogs"))["data"])
    places, distance = stored.nearest(3)
    found = pyarrow.parquet.read_table(config.export)
    moment = stored.day.astype("datetime64[D]")
    assert np.array_equal(np.asarray(found["analog"]).reshape(75, 3), moment[places])
    assert np.asarray(found["distance"]).reshape(75, 3) == pytest.approx(distance, rel=1e-5)
    judged = store.open(state.result())["judgement"]
    assert judged["metrics"]["recall_at_3"] == 1
    assert judged["metrics"]["gain_over_random_1d_low"] <= judged["metrics"]["gain_over_random_1d"]

    absent = datasets.search_analogs(config, "retrieval-none", return_state=True)
    assert "no index named 'retrieval-none' is live" in str(absent.message)
