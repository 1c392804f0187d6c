"""The command tries a table without a server and without the store, and what it prints can be pasted."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter
from typer.testing import CliRunner

from infra import catalogue
from infra.check_data import configured, deployment_of
from infra.cli import app
from infra.settings import settings
from models.feed.retrieval.config import RetrievalConfig, small

PROJECT = Path(__file__).parent.parent.parent
SALES = "buyer,sku,ts\n" + "".join(
    f"{u},p-{i},{1_740_000_000 + 977 * u + i}\n" for u in range(7) for i in range(u, u + 4)
)
GOODS = "sku,price,tags\n" + "".join(f"p-{i},{i}.5,new|t{i % 3}\n" for i in range(11))


@pytest.fixture
def shop(home: Path) -> Path:
    folder = home / "a shop's $tables"
    folder.mkdir()
    (folder / "sales.csv").write_text(SALES)
    (folder / "goods.csv").write_text(GOODS)
    return folder


def check(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check-data", *map(str, words)])
    return done.exit_code, done.output


def pasted(output: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The parameters, the deployment and the data roots of what was printed."""
    parameters = json.loads(output[output.index("\n{\n") : output.index("\n}\n") + 3])
    lines = "\n".join(line for line in output.splitlines() if line.startswith("  "))
    entry = lines[lines.index("  - name: ") :]
    head = (PROJECT / "prefect.yaml").read_text().partition("deployments:")[0]
    deployment = yaml.safe_load(f"{head}deployments:\n{entry}\n")["deployments"][0]
    export = re.search(r"^export HEADRACE_DATA_ROOTS=(.*)$", output, re.MULTILINE)
    return parameters, deployment, shlex.split(export.group(1))[0] if export else ""


def test_what_is_printed_curates_when_it_is_pasted(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = check(shop / "sales.csv", "--items", shop / "goods.csv")
    assert code == 0, output
    parameters, deployment, roots = pasted(output)
    assert deployment["parameters"] == parameters
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", roots)
    settings.cache_clear()
    config = TypeAdapter(RetrievalConfig).validate_python(deployment["parameters"]["config"])
    data = config.data.prepare({name: catalogue.locate(place) for name, place in config.data.sources().items()})
    assert data["users"].num_rows == 7
    assert data["items"]["tags"].to_pylist()[4] == ["new", "t1"]


def test_the_deployment_is_one_that_prefect_takes(shop: Path) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    deployment = pasted(check(shop / "sales.csv", "--set", "name=my-shop")[1])[1]
    assert deployment["name"] == "my-shop"
    assert deployment["entrypoint"] == "flows.retrieval.rebuild_index"
    assert deployment["work_pool"] == {"name": "headrace"}
    assert deployment["concurrency_limit"]["limit"] == 1
    (schedule,) = deployment["schedules"]
    CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


def test_the_other_parameters_of_the_preset_are_kept(shop: Path) -> None:
    parameters = pasted(check(shop / "sales.csv", "--preset", "small")[1])[0]
    built = TypeAdapter(RetrievalConfig).validate_python(parameters["config"])
    assert built.encoder == small().encoder
    assert built.data.source == "table"


def test_the_roots_are_asked_for_only_while_they_do_not_hold_the_files(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", "s3://bucket/raw")
    settings.cache_clear()
    assert pasted(check(shop / "sales.csv")[1])[2] == f"s3://bucket/raw;{shop}"
    monkeypatch.setenv("HEADRACE_DATA_ROOTS", str(shop.parent))
    settings.cache_clear()
    output = check(shop / "sales.csv")[1]
    assert pasted(output)[2] == ""
    assert "HEADRACE_DATA_ROOTS holds the files already." in output


def test_an_unusable_table_ends_with_one_and_the_words_of_the_run(shop: Path) -> None:
    (shop / "sales.csv").write_text(SALES.replace("\n3,p-3,", "\n,p-3,"))
    code, output = check(shop / "sales.csv")
    assert code == 1
    assert "stops the run: no identifier: 1 row\n" in output
    assert "row 13: nothing\n" in output
    assert "column 'buyer', row 13: None: an identifier must not be empty; fill it in or drop the row." in output
    assert "Parameters" not in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--system", "ranker"], "there is no system 'ranker'"),
        (["--preset", "huge"], "no deployment 'huge' of flows.retrieval"),
        (["--set", "user"], "--set takes role=column, got 'user'"),
        (["--set", "who=buyer"], "can be set, got 'who'"),
    ],
)
def test_a_wrong_wish_is_an_error_of_usage(shop: Path, words: list[str], message: str) -> None:
    code, output = check(shop / "sales.csv", *words)
    assert code == 2
    assert message in " ".join(re.sub(r"[^\x20-\x7e]", " ", output).split())


def test_nothing_is_written_and_no_server_is_asked(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(shop.parent.rglob("*"))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("HEADRACE_TRACKING_URI", "http://127.0.0.1:9")
    settings.cache_clear()
    assert check(shop / "sales.csv", "--items", shop / "goods.csv")[0] == 0
    assert sorted(shop.parent.rglob("*")) == before


def test_a_system_is_found_by_its_name_and_a_preset_by_its_deployment() -> None:
    assert configured("retrieval", "small") == small()
    assert configured("retrieval", "glove-cities").data.source == "glove-cities"
    assert deployment_of("retrieval", "tiny")["entrypoint"] == "flows.retrieval.rebuild_index"
    with pytest.raises(ValueError, match="has no preset 'RetrievalConfig'"):
        configured("retrieval", "RetrievalConfig")


def test_a_system_without_tables_says_so(monkeypatch: pytest.MonkeyPatch, shop: Path) -> None:
    monkeypatch.setattr("infra.check_data.configured", lambda *_: object())
    code, output = check(shop / "sales.csv")
    assert code == 2
    assert "takes no tables of your own" in output


def test_the_guide_shows_what_is_printed(home: Path) -> None:
    """Tables with the columns of the guide give its parameters and its deployment, but for the folder."""
    ours = SALES.replace("buyer,sku,ts", "customer_id,product_id,purchased_at")
    (home / "purchases.csv").write_text(ours)
    goods = GOODS.replace("sku,price,tags", "product_id,name,categories").replace(".5,", " pieces,")
    (home / "products.csv").write_text(goods)
    output = check(home / "purchases.csv", "--items", home / "products.csv")[1].replace(str(home), "/srv/shop")
    guide = (PROJECT / "docs" / "operating" / "own_data.md").read_text()
    for language in ("json", "yaml"):
        (shown,) = re.findall(rf"^```{language}\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
        assert shown in output, language
    assert "export HEADRACE_DATA_ROOTS=/srv/shop\n" in guide
    assert "export HEADRACE_DATA_ROOTS=/srv/shop\n" in output


def test_make_hands_over_names_with_blanks_quotes_and_dollars_as_they_are(tmp_path: Path) -> None:
    """The Makefile alone, with an interpreter that only prints what it is called with."""
    shutil.copy(PROJECT / "Makefile", tmp_path)
    echo = tmp_path / ".venv" / "bin" / "python"
    echo.parent.mkdir(parents=True)
    echo.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    echo.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".venv" / f".installed-cpu-{sys.version_info[0]}.{sys.version_info[1]}").touch()

    def make(*words: str) -> subprocess.CompletedProcess[str]:
        outer = ("FILE", "ITEMS", "SYSTEM", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")  # as under `make test`
        environment = {name: value for name, value in os.environ.items() if name not in outer}
        command = ["make", "check-data", f"PYTHON={sys.executable}", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    odd = '/srv/my shop\'s "$HOME" $(id) `id`; echo; $$x.csv'
    said = json.loads(make(f"FILE={odd}").stdout)
    assert said == ["-m", "infra.cli", "check-data", "--", odd]
    said = json.loads(make("FILE=-odd.csv", f"ITEMS={odd}", "SYSTEM=retrieval").stdout)
    assert said == ["-m", "infra.cli", "check-data", "--items", odd, "--system", "retrieval", "--", "-odd.csv"]
    assert not (tmp_path / "ran").exists()
    missing = make()
    assert missing.returncode != 0
    assert "name your table, as in: make check-data FILE=purchases.csv" in missing.stderr
