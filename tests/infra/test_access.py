"""Beyond loopback nobody gets in without a password, and no password gets out."""

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from infra import access, stack
from infra.cli import app
from infra.settings import Settings, settings
from infra.stack import Service, StackError

PROJECT = Path(__file__).parent.parent.parent
SECRETS = {
    "HEADRACE_PREFECT_AUTH": "operator:Zq7vR2mK9xW4tL8n",
    "HEADRACE_MLFLOW_PASSWORD": "hB3yT6pF1sD5gJ0c",
    "HEADRACE_PREFECT_DATABASE": "postgresql://one:Xc8uN4eG7wQ2@db.example.org/prefect",
    "HEADRACE_MLFLOW_DATABASE": "postgresql://two:kV5rM9aY3zH6@db.example.org:6543/mlflow",
    "HEADRACE_REDIS_URL": "redis://:Pd1oS7iL4fE8@redis.example.org:6379/0",
}
PLAIN = ("Zq7vR2mK9xW4tL8n", "hB3yT6pF1sD5gJ0c", "Xc8uN4eG7wQ2", "kV5rM9aY3zH6", "Pd1oS7iL4fE8")
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def told(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Settings without any that another test or shell set; to be set anew and read with `read`."""
    for name in list(os.environ):
        if name.startswith(("HEADRACE_", "PREFECT_API_AUTH", "MLFLOW_TRACKING_")) and name != "HEADRACE_HOME":
            monkeypatch.delenv(name)
    settings.cache_clear()
    yield monkeypatch
    settings.cache_clear()


def read(told: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        told.setenv(f"HEADRACE_{name.upper()}", value)
    settings.cache_clear()
    return settings()


def objections(found: Settings) -> str:
    return "\n".join(access.objections(found, prefect=True, mlflow=True))


# -------------------------------------------------------------------------------------------------- objections


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_nothing_is_asked(told: pytest.MonkeyPatch, host: str) -> None:
    assert not read(told, host=host).exposed
    assert objections(settings()) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7", "::", "build-7.example.org"])  # noqa: S104
def test_beyond_loopback_every_missing_credential_is_named_with_its_setting(
    told: pytest.MonkeyPatch, host: str
) -> None:
    found = objections(read(told, host=host, public_host="here.example.org"))
    for name in ("HEADRACE_PREFECT_AUTH", "HEADRACE_MLFLOW_USER", "HEADRACE_MLFLOW_PASSWORD"):
        assert f"{name} is not set, and HEADRACE_HOST is {host}" in found
    with pytest.raises(StackError, match=r"nothing was started\.\n- HEADRACE_PREFECT_AUTH is not set"):
        stack.up(lambda _: None)
    assert stack.known() == {}


def test_servers_that_run_elsewhere_have_their_own_guards(told: pytest.MonkeyPatch) -> None:
    read(told, host="10.0.0.7")
    assert access.objections(settings(), prefect=False, mlflow=False) == []


def test_an_address_that_nobody_can_call_needs_a_name(told: pytest.MonkeyPatch) -> None:
    assert "set HEADRACE_PUBLIC_HOST" in objections(read(told, host="0.0.0.0"))  # noqa: S104
    assert "HEADRACE_PUBLIC_HOST" not in objections(read(told, public_host="here.example.org"))


@pytest.mark.parametrize(
    "password",
    [
        *(
            "password1234",
            "Password1234!",
            "changeme-please",
            "admin123admin1",
            "Short1x",
            "aaaaaaaaaaaaaaaa",
            "12121212",
        ),
        *("operator-2026-x", "headrace-9f3k2", "correct\u00e9horse-battery", "tab\tin-the-middle1"),
    ],
)
def test_a_weak_password_is_refused_wherever_the_server_listens_and_never_repeated(
    told: pytest.MonkeyPatch, password: str
) -> None:
    found = objections(
        read(told, prefect_auth=f"operator:{password}", mlflow_user="operator", mlflow_password=password)
    )
    assert re.search(r"HEADRACE_PREFECT_AUTH (has|must have) ", found)
    assert re.search(r"HEADRACE_MLFLOW_PASSWORD (has|must have) ", found)
    assert password not in found


@pytest.mark.parametrize("auth", ["Zq7vR2mK9xW4tL8n", ":Zq7vR2mK9xW4tL8n", "operator:"])
def test_a_credential_without_a_user_or_a_password_is_refused(told: pytest.MonkeyPatch, auth: str) -> None:
    found = objections(read(told, prefect_auth=auth))
    assert "HEADRACE_PREFECT_AUTH must" in found
    assert "Zq7v" not in found


def test_strong_credentials_are_accepted_beyond_loopback(told: pytest.MonkeyPatch) -> None:
    found = read(
        told,
        host="10.0.0.7",
        prefect_auth=SECRETS["HEADRACE_PREFECT_AUTH"],
        mlflow_user="operator",
        mlflow_password=SECRETS["HEADRACE_MLFLOW_PASSWORD"],
    )
    assert objections(found) == ""


def test_half_of_a_credential_is_refused_on_loopback_too(told: pytest.MonkeyPatch) -> None:
    assert "set both or neither" in objections(read(told, mlflow_user="operator"))


# ---------------------------------------------------------------------------------------------------- secrets


def test_secrets_are_read_from_a_folder_of_files_and_the_environment_goes_first(
    told: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name, value in SECRETS.items():
        (folder / name.lower()).write_text(value + "\n")
    found = read(told, secrets=str(folder))
    assert found.prefect_auth.get_secret_value() == SECRETS["HEADRACE_PREFECT_AUTH"]
    assert found.redis_url.get_secret_value() == SECRETS["HEADRACE_REDIS_URL"]
    found = read(told, prefect_auth="other:3nW8bX5kC1vQ7jR")
    assert found.prefect_auth.get_secret_value() == "other:3nW8bX5kC1vQ7jR"


def test_a_folder_of_secrets_that_is_missing_is_an_error_and_not_a_server_without_password(
    told: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="HEADRACE_SECRETS must be a folder"):
        read(told, secrets=str(tmp_path / "nowhere"))


def test_no_secret_is_shown_by_settings_or_by_their_errors(told: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        told.setenv(name, value)
    settings.cache_clear()
    shown = f"{settings()!r} {settings()}"
    told.setenv("HEADRACE_PREFECT_PORT", "Zq7vR2mK9xW4tL8n")
    with pytest.raises(ValueError, match="prefect_port") as caught:
        Settings()
    assert not any(secret in shown + str(caught.value) for secret in PLAIN)


def test_no_command_line_has_a_secret_and_each_process_learns_only_its_own(told: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        told.setenv(name, value)
    read(told, mlflow_user="operator", store="s3://bucket/store", mlflow_artifacts="s3://bucket/mlflow")
    stack.folder().mkdir(parents=True)
    commands = [word for name in ("prefect", "mlflow", "worker", "keeper") for word in stack._commands(name, 1)]
    assert not any(secret in word for secret in PLAIN for word in commands)

    flow_run = " ".join(stack.environment({}).values())
    assert [secret in flow_run for secret in PLAIN] == [True, True, False, False, False]
    prefect = " ".join(stack._server_environment("prefect", "http://here:1").values())
    assert [secret in prefect for secret in PLAIN] == [True, False, True, False, True]
    mlflow = " ".join(stack._server_environment("mlflow", "http://here:2").values())
    assert [secret in mlflow for secret in PLAIN] == [False, True, False, True, False]
    users = (stack.folder() / "mlflow_users.ini").read_text()
    assert "database_uri = postgresql+psycopg://two@db.example.org:6543/mlflow\n" in users
    assert not any(secret in users for secret in PLAIN)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("prefect_database", "mysql://one:Xc8uN4eG7wQ2@db/prefect", "it has the scheme 'mysql'"),
        ("mlflow_database", "Xc8uN4eG7wQ2", "cannot be read"),
        ("prefect_database", "postgresql://one:Xc8uN4eG7wQ2@db:port/prefect", "cannot be read"),
        ("redis_url", "memcached://:Xc8uN4eG7wQ2@redis", "HEADRACE_REDIS_URL must be redis://"),
        ("tracking_uri", "https://me:Xc8uN4eG7wQ2@mlflow.example.org", "HEADRACE_TRACKING_URI has a user"),
        ("store", "s3://key:Xc8uN4eG7wQ2@bucket/store", "HEADRACE_STORE has a user or password"),
    ],
)
def test_an_address_that_is_none_is_refused_by_its_setting_and_not_repeated(
    told: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    read(told, **{name: value})
    with pytest.raises(StackError, match=re.escape(words)) as caught:
        stack.up(lambda _: None)
    assert "Xc8uN4eG7wQ2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_setting_that_needs_a_package_names_it_and_the_extra(told: pytest.MonkeyPatch) -> None:
    read(told, redis_url=SECRETS["HEADRACE_REDIS_URL"], store="s3://bucket/store")
    told.setattr(stack.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StackError) as caught:
        stack.up(lambda _: None)
    for words in ("HEADRACE_REDIS_URL needs the package prefect_redis", "HEADRACE_STORE needs the package s3fs"):
        assert words in str(caught.value)
    assert "'.[scale]'" in str(caught.value)


def test_the_record_of_the_stack_is_for_its_owner_alone(told: pytest.MonkeyPatch) -> None:
    stack.folder().mkdir(parents=True)
    stack._remember({"prefect": Service(pid=1, created=0, digest="d")})
    assert (stack.folder() / "stack.json").stat().st_mode & 0o077 == 0


def test_a_terminal_is_not_shown_what_a_shell_is_told(told: pytest.MonkeyPatch) -> None:
    read(told, prefect_auth=SECRETS["HEADRACE_PREFECT_AUTH"])
    line = "export PREFECT_API_AUTH_STRING=operator:Zq7vR2mK9xW4tL8n"
    assert line in CliRunner().invoke(app, ["env"]).output.splitlines()
    told.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    told.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True)
    shown = CliRunner().invoke(app, ["env"]).output
    assert "PREFECT_API_AUTH_STRING=... (not shown)" in shown
    assert "Zq7vR2mK9xW4tL8n" not in shown


# ------------------------------------------------------------------------------------------------- elsewhere


def test_servers_that_settings_name_are_called_and_not_started(told: pytest.MonkeyPatch) -> None:
    read(told, prefect_api_url="https://prefect.example.org/api/", tracking_uri="https://mlflow.example.org/")
    assert stack._elsewhere() == {"prefect": "https://prefect.example.org", "mlflow": "https://mlflow.example.org"}
    with pytest.raises(StackError, match="mend HEADRACE_PREFECT_API_URL"):
        told.setattr(stack, "FOREIGN_WITHIN_S", 0.1)
        stack.up(lambda _: None)
    record = {"prefect": Service(pid=0, created=0, address="https://prefect.example.org")}
    assert stack.environment(record)["PREFECT_API_URL"] == "https://prefect.example.org/api"
    assert record["prefect"].alive()


def test_runs_of_other_machines_are_not_taken_for_dead(told: pytest.MonkeyPatch) -> None:
    prefect = Service(pid=0, created=0, address="https://prefect.example.org")
    ours, gone = {"name": stack._worker_name(), "status": "ONLINE"}, {"name": "gone", "status": "OFFLINE"}
    for workers, alone in (([], True), ([ours, gone], True), ([ours, {"name": "other", "status": "ONLINE"}], False)):
        told.setattr(stack, "call", lambda *_, found=workers: found)
        assert stack._alone(prefect) is alone


def test_a_pool_of_another_type_keeps_it(told: pytest.MonkeyPatch) -> None:
    prefect = Service(pid=0, created=0, address="https://prefect.example.org")
    told.setattr(stack, "call", lambda *_: [{"name": "headrace", "type": "kubernetes"}])
    with pytest.raises(StackError, match="is of type kubernetes"):
        stack._create_pool({"prefect": prefect})


# --------------------------------------------------------------------------------------------- by trying it


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A stack that listens on every address of this machine; yields its environment."""
    home = tmp_path_factory.mktemp("guarded")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "PREFECT_API"))},
        "HEADRACE_HOME": str(home),
        "HEADRACE_HOST": "0.0.0.0",  # noqa: S104 - what is to be tried
        "HEADRACE_PUBLIC_HOST": "127.0.0.1",
        "HEADRACE_PREFECT_PORT": "24930",
        "HEADRACE_MLFLOW_PORT": "25930",
        "HEADRACE_PREFECT_AUTH": SECRETS["HEADRACE_PREFECT_AUTH"],
        "HEADRACE_MLFLOW_USER": "operator",
        "HEADRACE_MLFLOW_PASSWORD": SECRETS["HEADRACE_MLFLOW_PASSWORD"],
    }
    try:
        done = command(environment, "up")
        assert done.returncode == 0, done.stdout + done.stderr
        yield environment
    finally:
        command(environment, "down")


def command(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", *words],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


def status(method: str, url: str, user: str = "", **headers: str) -> int:
    sent = {"Content-Type": "application/json", **headers}
    if user:
        sent["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    body = None if method == "GET" else b"{}"
    try:
        with direct.open(urllib.request.Request(url, body, sent, method=method), timeout=60) as reply:  # noqa: S310
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def services(environment: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(environment["HEADRACE_HOME"]) / "stack" / "stack.json").read_text())
    return found


@pytest.mark.timeout(600)
def test_no_route_of_prefect_answers_without_the_password(guarded: dict[str, str]) -> None:
    base = services(guarded)["prefect"]["address"]
    with direct.open(f"{base}/openapi.json") as reply:
        paths = json.loads(reply.read())["paths"]
    some = "11111111-1111-4111-8111-111111111111"
    routes = [(method.upper(), re.sub(r"\{[^}]*\}", some, path)) for path, found in paths.items() for method in found]
    assert len(routes) > 150
    for user in ("", "operator:wrong"):
        found = {f"{method} {path}": status(method, f"{base}/api{path}", user) for method, path in routes}
        open_to_all = {route for route, code in found.items() if code != 401}
        assert open_to_all == {"GET /health", "GET /ready"}
    assert status("POST", f"{base}/api/flows/filter", SECRETS["HEADRACE_PREFECT_AUTH"]) == 200


@pytest.mark.timeout(600)
def test_mlflow_answers_neither_without_the_password_nor_under_a_strangers_name(guarded: dict[str, str]) -> None:
    base = services(guarded)["mlflow"]["address"]
    us = f"operator:{SECRETS['HEADRACE_MLFLOW_PASSWORD']}"
    search = f"{base}/api/2.0/mlflow/experiments/search"
    routes = [
        ("GET", "/"),
        ("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0"),
        ("POST", "/api/2.0/mlflow/runs/create"),
        ("POST", "/ajax-api/2.0/mlflow/runs/search"),
        ("GET", "/get-artifact?path=x&run_uuid=1"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/x"),
        ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/x"),
        ("POST", "/api/2.0/mlflow/users/create"),
        ("POST", "/graphql"),
        ("GET", "/signup"),
        ("GET", "/metrics"),
    ]
    for user in ("", "operator:wrong", "admin:password1234", "admin:admin"):
        assert {route: status(*(route[0], base + route[1]), user) for route in routes} == dict.fromkeys(routes, 401)
    assert status("POST", search, us) not in (401, 403)
    assert status("POST", search, us, Host="stranger.example.org") == 403
    assert status("POST", search, us, Origin="http://stranger.example.org") == 403


@pytest.mark.timeout(600)
def test_who_has_the_exported_environment_can_run_log_and_upload(guarded: dict[str, str]) -> None:
    exported = command(guarded, "env").stdout
    code = """
from infra import tracking
from prefect import flow
@flow
def tried():
    with tracking.run_for("guarded", "flow-run-of-the-test", "tried") as run:
        run.text("note.txt", "here")
        run.metrics({"one": 1.0})
        return run.id
run = tried()
client = tracking.mlflow_client()
print(client.list_artifacts(run)[0].path, client.get_run(run).data.metrics, tracking.url_of(run))
"""
    words = dict(re.findall(r"^export (\w+)='?([^'\n]*)'?$", exported, re.MULTILINE))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "PREFECT_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **words}, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    base = services(guarded)["mlflow"]["address"]
    assert f"note.txt {{'one': 1.0}} {base}/#/experiments/" in done.stdout


@pytest.mark.timeout(600)
def test_a_wrong_password_ends_the_next_start_and_names_the_setting(guarded: dict[str, str]) -> None:
    """As on a second machine, whose servers are those of the first."""
    found = services(guarded)
    elsewhere = {
        **guarded,
        "HEADRACE_HOME": f"{guarded['HEADRACE_HOME']}/second",
        "HEADRACE_HOST": "127.0.0.1",
        "HEADRACE_PREFECT_API_URL": f"{found['prefect']['address']}/api",
        "HEADRACE_TRACKING_URI": found["mlflow"]["address"],
    }
    done = command({**elsewhere, "HEADRACE_PREFECT_AUTH": "operator:7fK2pW9qX4vB6nMd"}, "up")
    assert (done.returncode, "set HEADRACE_PREFECT_AUTH" in done.stdout) == (1, True)
    done = command({**elsewhere, "HEADRACE_MLFLOW_PASSWORD": "7fK2pW9qX4vB6nMd"}, "up")
    assert (done.returncode, "set HEADRACE_MLFLOW_USER and HEADRACE_MLFLOW_PASSWORD" in done.stdout) == (1, True)
    assert "7fK2pW9qX4vB6nMd" not in done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_no_log_no_file_and_no_command_line_has_a_password(guarded: dict[str, str]) -> None:
    words = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    kept = [file for file in Path(guarded["HEADRACE_HOME"]).rglob("*") if file.is_file()]
    assert any(file.name == "prefect.log" for file in kept)
    for secret in PLAIN[:2]:
        assert not [word for word in words if secret in word]
        assert not [file for file in kept if secret.encode() in file.read_bytes()]
