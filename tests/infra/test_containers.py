"""Compose file, image and Kubernetes values: what can be known of them without a container engine."""

import copy
import importlib.util
import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import access, stack
from infra.settings import Settings

PROJECT = Path(__file__).parent.parent.parent
CONTAINERS, POOLS = PROJECT / "infra" / "containers", PROJECT / "infra" / "work_pools"
COMPOSE: dict[str, Any] = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("headrace:")}
VALUES = {
    name: yaml.safe_load((POOLS / f"{name}.yaml").read_text()) for name in ("prefect-server", "prefect-worker", "dask")
}


def make(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(CONTAINERS / "make_secrets.py"), str(folder)], capture_output=True, text=True, check=True
    )
    return done.stdout


# ------------------------------------------------------------------------------------------------------ compose


def test_the_compose_file_is_one_by_the_schema_of_its_specification() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    pytest.importorskip("check_jsonschema", reason="needs the extra `dev`")
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    broken = copy.deepcopy(COMPOSE)
    broken["services"]["redis"]["helthcheck"] = {}
    assert list(validator.iter_errors(broken)), "the schema finds nothing"


def test_every_image_is_pinned_to_a_version() -> None:
    for name, service in SERVICES.items():
        _, _, tag = service["image"].partition(":")
        assert re.search(r"\d+\.\d+|RELEASE\.\d{4}", tag), name
    (base,) = re.findall(r"^FROM (\S+)", (CONTAINERS / "Dockerfile").read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base)


def test_what_is_published_is_published_on_loopback_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"prefect", "mlflow"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert COMPOSE["networks"]["inside"]["internal"] is True
    outside = {name for name, service in SERVICES.items() if "outside" in service["networks"]}
    assert outside == set(published)


def test_every_service_has_a_health_check_and_a_limit_and_waits_for_what_it_needs() -> None:
    for name, service in SERVICES.items():
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert "healthcheck" in service or service["restart"] == "no", name
        for other, condition in service.get("depends_on", {}).items():
            wanted = "service_healthy" if "healthcheck" in SERVICES[other] else "service_completed_successfully"
            assert condition == {"condition": wanted}, (name, other)


def test_volumes_and_networks_that_are_named_exist_and_no_other() -> None:
    named = {
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if not volume.startswith((".", "$"))
    }
    assert named == set(COMPOSE["volumes"])
    assert {network for service in SERVICES.values() for network in service["networks"]} == set(COMPOSE["networks"])


def test_our_containers_have_no_root_no_capabilities_and_no_writable_code() -> None:
    assert len(OURS) == 8
    for name in OURS:
        service = SERVICES[name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "user" not in service, name
    words = re.findall(r"^(?:RUN|USER|ENTRYPOINT|COPY)\b.*", (CONTAINERS / "Dockerfile").read_text(), re.MULTILINE)
    assert words[-2:] == ["USER headrace", 'ENTRYPOINT ["headrace", "serve"]']
    first = next(word for word in words if "pip install" in word)
    assert first.endswith("--constraint constraints.txt torch"), "torch comes first and by the constraints"


def test_every_setting_that_is_given_exists() -> None:
    known = {f"HEADRACE_{name.upper()}" for name in Settings.model_fields}
    given = {name for service in SERVICES.values() for name in service.get("environment", {})}
    assert {name for name in given if name.startswith("HEADRACE_")} <= known
    files_of = {name for name in COMPOSE["secrets"] if name.startswith("headrace_")}
    assert {name.upper() for name in files_of} <= known


def test_every_service_of_ours_that_runs_headrace_names_one_that_it_knows() -> None:
    commands = {SERVICES[name]["command"][0] for name in OURS if "command" in SERVICES[name]}
    assert commands == {"prefect-api", "prefect-services", "mlflow", "worker", "keeper"}
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "serve", "nothing"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert all(command in done.stdout for command in commands)


def test_the_modules_that_containers_run_exist() -> None:
    for name in OURS:
        words = SERVICES[name].get("entrypoint", [])
        if "-m" in words:
            assert importlib.util.find_spec(words[words.index("-m") + 1]), name


def test_what_the_image_is_built_from_exists_and_secrets_are_not_sent() -> None:
    for words in re.findall(r"^COPY (.+)$", (CONTAINERS / "Dockerfile").read_text(), re.MULTILINE):
        for source in words.split()[:-1]:
            assert (PROJECT / source).exists(), source
    ignored = (CONTAINERS / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert ignored.index("infra/containers/secrets") > ignored.index("!infra")


# ------------------------------------------------------------------------------------------------------ secrets


def test_every_secret_is_a_file_that_is_made_and_nothing_else_has_a_password(tmp_path: Path) -> None:
    make(tmp_path / "secrets")
    made = {file.name for file in (tmp_path / "secrets").iterdir()}
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} == {
        f"./secrets/{name}" for name in COMPOSE["secrets"]
    }
    assert set(COMPOSE["secrets"]) <= made
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}
    assert used == set(COMPOSE["secrets"])
    for name, service in SERVICES.items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|KEY|AUTH|DATABASE|REDIS|CREDENTIALS", variable):
                assert str(value).startswith("/run/secrets") or "--auth-host=" in value, (name, variable)


def test_a_service_gets_no_secret_that_it_does_not_need() -> None:
    worker = set(SERVICES["worker"]["secrets"])
    assert not {name for name in worker if name.endswith(("database", "redis_url"))}
    assert "aws_credentials" not in SERVICES["prefect"]["secrets"]
    assert "headrace_prefect_auth" not in SERVICES["mlflow"]["secrets"]


def test_the_keeper_delivers_what_the_workers_noted() -> None:
    keeper, worker = SERVICES["keeper"], SERVICES["worker"]
    assert keeper["volumes"] == [volume for volume in worker["volumes"] if volume.endswith(":/var/lib/headrace")]
    assert set(keeper["secrets"]) <= set(worker["secrets"])
    assert keeper["environment"].items() <= worker["environment"].items()


def test_secrets_are_random_fit_one_another_and_are_kept_when_made_again(tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    make(first)
    make(other)
    one, two = ({file.name: file.read_text() for file in folder.iterdir()} for folder in (first, other))
    assert {name for name in one if one[name] == two[name]} == {"s3_user"}
    for name in ("prefect", "mlflow"):
        password = one[f"{name}_database_password"]
        assert one[f"headrace_{name}_database"] == f"postgresql://{name}:{password}@postgres:5432/{name}"
    assert f"requirepass {one['redis_password']}\n" in one["redis_conf"]
    assert one["redis_password"] in one["headrace_redis_url"]
    assert one["s3_password"] in one["aws_credentials"]
    (first / "headrace_redis_url").unlink()
    assert make(first).count("made ") == 1
    assert {file.name: file.read_text() for file in first.iterdir()} == one
    assert first.stat().st_mode & 0o077 == 0


def test_headrace_accepts_what_is_made_and_reads_it_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    monkeypatch.setenv("HEADRACE_HOST", "0.0.0.0")  # noqa: S104 - as in a container
    monkeypatch.setenv("HEADRACE_PUBLIC_HOST", "prefect.localhost")
    monkeypatch.setenv("HEADRACE_MLFLOW_USER", "operator")
    for name in ("HEADRACE_PREFECT_AUTH", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    found = Settings(_secrets_dir=str(tmp_path))
    assert access.objections(found, prefect=True, mlflow=True) == []
    assert found.prefect_database.get_secret_value().startswith("postgresql://prefect:")
    assert found.mlflow_password.get_secret_value() == (tmp_path / "headrace_mlflow_password").read_text()


# --------------------------------------------------------------------------------------------------- kubernetes


def test_no_value_of_a_chart_is_a_password_and_the_charts_own_are_off() -> None:
    server, worker, dask = (VALUES[name] for name in ("prefect-server", "prefect-worker", "dask"))
    assert server["server"]["basicAuth"] == worker["worker"]["basicAuth"]
    assert server["server"]["basicAuth"].keys() == {"enabled", "existingSecret"}
    assert [server[name]["enabled"] for name in ("postgresql", "redis", "sqlite")] == [False] * 3
    assert server["secret"]["create"] is False
    assert dask["jupyter"] == {"enabled": False}
    assert not {key for value in VALUES.values() for key in keys(value) if re.search("passw|authString", key, re.I)}


def keys(value: Any) -> set[str]:
    """All keys of nested mappings."""
    if isinstance(value, list):
        return {key for item in value for key in keys(item)}
    return set(value) | {key for item in value.values() for key in keys(item)} if isinstance(value, dict) else set()


def test_the_servers_on_kubernetes_are_told_of_redis_what_the_stack_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.settings import settings

    monkeypatch.setenv("HEADRACE_REDIS_URL", "redis://redis:6379/0")
    settings.cache_clear()
    plain = stack._server_environment("prefect", "http://here:1")
    monkeypatch.delenv("HEADRACE_REDIS_URL")
    settings.cache_clear()
    wanted = {name: value for name, value in plain.items() if "redis" in value}
    for part in ("server", "backgroundServices"):
        given = {one["name"]: one for one in VALUES["prefect-server"][part]["env"]}
        assert wanted.keys() <= given.keys()
        for name, value in wanted.items():
            if value.startswith("redis://"):
                assert given[name]["valueFrom"]["secretKeyRef"] == {"name": "headrace-redis", "key": "url"}
            else:
                assert given[name]["value"] == value


def test_the_template_of_a_pod_is_one_that_prefect_accepts_and_says_what_a_flow_run_needs() -> None:
    from prefect.server.schemas.actions import WorkPoolCreate
    from prefect.utilities.templating import find_placeholders

    template = json.loads((POOLS / "base_job_template.json").read_text())
    pool = WorkPoolCreate(name="headrace", type="kubernetes", base_job_template=template)
    assert pool.base_job_template == template
    used = {placeholder.name for placeholder in find_placeholders(template["job_configuration"])}
    assert used == set(template["variables"]["properties"])
    told = template["variables"]["properties"]["env"]["default"]
    known = {f"HEADRACE_{name.upper()}" for name in Settings.model_fields} | {"HEADRACE_PROJECT"}
    assert {name for name in told if name.startswith("HEADRACE_")} <= known
    assert not {name for name in told if re.search(r"PASSWORD|AUTH|SECRET|KEY", name)}
    (container,) = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "headrace-flow-runs"}}]


def test_flow_runs_on_kubernetes_are_told_what_the_stack_tells_them(home: Path) -> None:
    template = json.loads((PROJECT / "infra" / "work_pools" / "base_job_template.json").read_text())
    told = template["variables"]["properties"]["env"]["default"]
    local = stack.environment({})
    for name in ("PREFECT_CLIENT_MAX_RETRIES", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_LOGGING_EXTRA_LOGGERS"):
        assert told[name] == local[name], name
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "PREFECT_RESULTS_PERSIST_BY_DEFAULT"):
        assert told[name] == local[name], name


def test_the_version_of_the_image_is_that_of_the_project() -> None:
    import tomllib

    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert {SERVICES[name]["image"] for name in OURS} == {f"headrace:{version}"}
    assert VALUES["prefect-server"]["global"]["prefect"]["image"]["prefectTag"] == version
    assert VALUES["dask"]["worker"]["image"]["tag"] == VALUES["dask"]["scheduler"]["image"]["tag"] == version
    template = json.loads((POOLS / "base_job_template.json").read_text())
    assert template["variables"]["properties"]["image"]["default"].endswith(f":{version}")
