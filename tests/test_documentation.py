"""The documents: they name what exists, nothing else, and their links lead somewhere."""

import ast
import dataclasses
import importlib
import importlib.util
import re
import subprocess
import sys
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from models.feed.retrieval.config import RetrievalConfig, TableConfig
from models.feed.retrieval.filter import parse

PROJECT = Path(__file__).parent.parent
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
ALL = "\n".join(page.read_text() for page in PAGES)
README = (PROJECT / "README.md").read_text()
MAKEFILE = (PROJECT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
# a system is a folder of its family, or its family itself
SYSTEMS = {
    folder.name
    for folders in ("*", "*/*")
    for folder in (PROJECT / "models").glob(folders)
    if (folder / "config.py").is_file()
}
CODE = r"`[^`\n]+`"


def blocks(text: str, language: str) -> list[str]:
    """Fenced code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def in_code(text: str) -> str:
    """What stands in code: fenced blocks and words in backticks."""
    return "\n".join([*re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL), *re.findall(CODE, text)])


def configurations(kind: type) -> Iterator[type]:
    """A configuration class and those of its fields."""
    yield kind
    for annotation in typing.get_type_hints(kind).values():
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            yield from configurations(annotation)


def engines(package: str, kind: str) -> list[tuple[str, Any]]:
    """The flows or tasks that a package defines, by the names of their functions."""
    import prefect

    found = []
    for file in sorted((PROJECT / package).glob("*.py")):
        name = f"{package}.{file.stem}"
        if file.stem == "__init__" or (package == "tasks" and "prefect" not in file.read_text()):
            continue
        for label, value in vars(importlib.import_module(name)).items():
            if isinstance(value, getattr(prefect, kind)) and value.fn.__module__ == name:
                found.append((label, value))
    return found


# ----------------------------------------------------------------------------------------------- names that exist


def test_every_flow_is_named_by_its_name_and_by_its_function() -> None:
    flows = engines("flows", "Flow")
    assert len(flows) >= 4
    for function, flow in flows:
        assert f"`{flow.name}`" in ALL, flow.name
        assert f"`{function}`" in ALL, function


def test_every_task_is_named() -> None:
    tasks = engines("tasks", "Task")
    assert len(tasks) >= 7
    for function, _ in tasks:
        assert f"`{function}`" in ALL, function


def test_every_configuration_class_is_named_on_the_page_of_its_system() -> None:
    page = (PROJECT / "docs" / "retrieval.md").read_text()
    for kind in configurations(RetrievalConfig):
        assert f"`{kind.__name__}`" in page, kind.__name__


def test_every_setting_of_an_own_table_is_described() -> None:
    page = (PROJECT / "docs" / "retrieval.md").read_text()
    for field in dataclasses.fields(TableConfig):
        row = re.search(rf"^\| `{field.name}` \| (.*?) \|", page, re.MULTILINE)
        assert row, field.name
        if isinstance(field.default, str) and field.default:
            assert field.default in row.group(1), f"{field.name} has the default {field.default!r}"


def test_every_variable_is_in_the_table_of_settings_and_every_one_that_is_mentioned_exists() -> None:
    page = (PROJECT / "docs" / "operating" / "running.md").read_text()
    known = {f"HEADRACE_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"^\| `(HEADRACE_[A-Z_]+)`", page, re.MULTILINE)) == known
    tests = "".join(file.read_text() for file in (PROJECT / "tests").rglob("test_index.py"))
    read_by_tests = set(re.findall(r'environ\S*\(?\[?"(HEADRACE_[A-Z_]+)"', tests))
    assert set(re.findall(r"HEADRACE_[A-Z_]+", ALL)) <= known | read_by_tests


def test_the_ports_in_the_table_are_the_defaults() -> None:
    page = (PROJECT / "docs" / "operating" / "running.md").read_text()
    for name in ("prefect_port", "mlflow_port"):
        assert f"| `HEADRACE_{name.upper()}` | {Settings.model_fields[name].default} |" in page


def test_every_deployment_is_named_and_every_one_that_is_named_exists() -> None:
    import yaml

    flows = {f"{flow.fn.__module__}.{label}": flow.name for label, flow in engines("flows", "Flow")}
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    known = {f"{flows[one['entrypoint']]}/{one['name']}" for one in deployments}
    said = re.findall(rf"`((?:{'|'.join(sorted(flows.values()))})/[a-z-]+)`", ALL)
    assert known == set(said)
    for words in re.findall(r"make run((?: [A-Z]+=[\w.-]+)+)", ALL):
        chosen = {"FLOW": "nightly", "PRESET": "tiny"} | dict(word.split("=") for word in words.split())
        assert f"{chosen['FLOW']}/{chosen['PRESET']}" in known, words


def test_every_system_has_a_page_and_a_row_and_no_other_system_is_claimed() -> None:
    rows = set(re.findall(r"^\| \[`(\w+)`\]\(docs/\1\.md\)", README, re.MULTILINE))
    assert rows == SYSTEMS
    for system in SYSTEMS:
        assert (PROJECT / "docs" / f"{system}.md").is_file()
    planned = re.search(r"Not built yet.*?\n\n", README, re.DOTALL)
    assert planned
    assert not SYSTEMS & set(re.findall(r"`(\w+)`", planned.group()))


# --------------------------------------------------------------------------------------------------- make, headrace


def test_every_target_is_documented_and_every_one_that_is_mentioned_exists() -> None:
    documented = set(re.findall(r"^\| `make ([a-z-]+)", README, re.MULTILINE))
    assert documented >= {"run", "up", "down", "setup", "test", "check", "bench", "prove"}
    assert set(re.findall(r"\bmake ([a-z-]+)", in_code(ALL))) == TARGETS


def test_phony_targets_are_those_that_have_a_rule() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony
    assert set(phony.group(1).split()) - {"clean"} <= TARGETS


def test_the_test_command_of_the_readme_is_make_test_alone() -> None:
    section = README.partition("## Tests\n")[2].partition("\n## ")[0]
    assert blocks(section, "sh") == ["make test\n"]


def test_every_command_of_headrace_exists_and_is_documented() -> None:
    from infra.cli import app

    known = {str(command.name or command.callback.__name__) for command in app.registered_commands if command.callback}
    said = set(re.findall(r"(?<![\w/.-])(?:\.venv/bin/)?headrace ([a-z]+(?:-[a-z]+)*)\b", in_code(ALL)))
    assert said == known


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    from infra.cli import REFUSED

    assert f"{REFUSED} when a product\nwas refused" in README
    assert f"exits {REFUSED}" in ALL


def test_every_make_variable_that_is_mentioned_exists() -> None:
    known = set(re.findall(r"^([A-Z]+) *\?=", MAKEFILE, re.MULTILINE)) | set(
        re.findall(r"\$\((?:value )?([A-Z]+)\)", MAKEFILE)
    )
    for words in re.findall(r"\bmake [a-z-]+((?: [A-Z]+=[\w.-]+)+)", ALL):
        assert {word.partition("=")[0] for word in words.split()} <= known, words


# ----------------------------------------------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(CODE, "", text)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        written_by_a_command = target.parent == PROJECT / "docs" / "results" and target.stem in SYSTEMS
        assert target.exists() or written_by_a_command, f"{page.name} links to {link}"
        assert target.is_relative_to(PROJECT), f"{page.name} links outside: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def test_every_path_in_code_exists() -> None:
    folders = "flows|tasks|models|infra|tests|benchmarks|docs"
    for path in re.findall(rf"`((?:{folders})/[\w/.-]+)`", ALL):
        generated = re.fullmatch(r"docs/results/(\w+)\.md", path)
        known = (PROJECT / path).exists() or (PROJECT / "tests" / "data" / "eleventh" / path).exists()
        assert known or (generated and generated.group(1) in SYSTEMS), path


def test_every_page_that_source_files_name_exists() -> None:
    for folder in ("flows", "tasks", "models", "infra"):
        for file in (PROJECT / folder).rglob("*.py"):
            for path in re.findall(r"docs/[\w/.-]+\.md", file.read_text()):
                assert (PROJECT / path).is_file(), f"{file.relative_to(PROJECT)} names {path}"


def test_decisions_are_numbered_one_page_each() -> None:
    pages = sorted((PROJECT / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        lines = page.read_text().splitlines()
        assert len(lines) <= 40, page.name
        assert lines[0].startswith(f"# {int(page.name[:4])}. "), page.name
        headings = [line for line in lines if line.startswith("## ")]
        assert headings == ["## Context", "## Choice", "## What we gave up"], page.name


# ------------------------------------------------------------------------------------------------------------ code


def test_the_routes_of_the_examples_exist() -> None:
    from prefect.server.api.deployments import router

    routes = {(method, re.sub(r"\{[^}]*\}", "{}", route.path)) for route in router.routes for method in route.methods}
    said = {re.sub(r"\{[^}]*\}", "{}", path) for path in re.findall(r"`/api(/deployments/[^`]+)`", README)}
    assert said == {"/deployments/name/{}/{}", "/deployments/{}/create_flow_run"}
    assert ("GET", "/deployments/name/{}/{}") in routes
    assert ("POST", "/deployments/{}/create_flow_run") in routes
    calls = re.findall(r"curl -s (?:-X (POST) )?\$api(/\S+?)[\s)]", "\n".join(blocks(README, "sh")))
    assert len(calls) >= 2
    for method, path in calls:
        plain = re.sub(r"/name/[\w-]+/[\w-]+", "/name/{}/{}", path.replace("$id", "{}"))
        assert (method or "GET", plain) in routes, path


def test_the_parameters_of_the_examples_are_accepted() -> None:
    import json

    from pydantic import TypeAdapter

    bodies = re.findall(r"-d '(\{.*?\})'", README, re.DOTALL)
    assert len(bodies) >= 2
    for body in bodies:
        config = json.loads(body)["parameters"]["config"]
        built = TypeAdapter(RetrievalConfig).validate_python(config)
        assert built != RetrievalConfig()
        assert differs(config, dataclasses.asdict(built)) == [], "a name in the example is no setting"


def differs(said: Any, built: Any, path: str = "config") -> list[str]:
    """Where what was said is not what was built."""
    if isinstance(said, dict):
        return [
            place
            for key, value in said.items()
            for place in (differs(value, built[key], f"{path}.{key}") if key in built else [f"{path}.{key}"])
        ]
    same = tuple(said) == tuple(built) if isinstance(said, list) else said == built
    return [] if same else [path]


PYTHON = [(page.name, number, code) for page in PAGES for number, code in enumerate(blocks(page.read_text(), "python"))]


@pytest.mark.parametrize(("name", "number", "code"), PYTHON, ids=[f"{name}-{number}" for name, number, _ in PYTHON])
def test_python_in_the_documents_imports_what_exists(name: str, number: int, code: str) -> None:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{name}: {node.module} has no {alias.name}"
        if isinstance(node, ast.keyword) and node.arg == "where" and isinstance(node.value, ast.Constant):
            parse(node.value.value)


def test_the_python_of_the_readme_runs(home: Path) -> None:
    """On an index of untrained towers: what is shown is how to ask, not how good the answer is."""
    from infra.manifest import describe
    from infra.refs import Dataset, Index, Model
    from infra.store import open_store
    from models.feed.retrieval.config import DataConfig
    from models.feed.retrieval.generator import GeneratorConfig
    from tasks.train import network_of

    config = RetrievalConfig(data=DataConfig(generator=GeneratorConfig(users=23, items=97, events=7)))
    store = open_store()
    data = store.write(
        Dataset, config.data.prepare({}), describe(Dataset, f"retrieval-{config.data.name}", config.data)
    )
    sizes = dict(config.encoder.sizes(store.open(data)))
    parts = {"weights": config.encoder.network(sizes).state_dict(), "training": {"sizes": sizes}}
    model = store.write(Model, parts, describe(Model, data.name, config.encoder, (data,)))
    payload = config.index.build_index(store.open(data), network_of(store, model))
    index = store.write(Index, payload, describe(Index, data.name, config.index, (data, model)))
    store.publish(index, {"claims": []})

    for page in ("README.md", "docs/retrieval.md"):
        for code in blocks((PROJECT / page).read_text(), "python"):
            names: dict[str, Any] = {}
            exec(compile(code, page, "exec"), names)  # noqa: S102 - our own documents
            assert names["hits"].ids.shape[1] == 10


def test_every_filter_of_the_reference_can_be_read() -> None:
    section = (
        (PROJECT / "docs" / "retrieval.md").read_text().partition("## The filter language\n")[2].partition("\n## ")[0]
    )
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    filters = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(filters) >= 20
    for text in filters:
        assert parse(str(parse(text))) == parse(text)


def test_every_keyword_of_the_filter_language_is_in_the_reference() -> None:
    from models.feed.retrieval.filter import _KEYWORDS

    section = (
        (PROJECT / "docs" / "retrieval.md").read_text().partition("## The filter language\n")[2].partition("\n## ")[0]
    )
    for word in (*_KEYWORDS, "==", "!=", "<>", "<=", ">="):
        assert re.search(rf"`[^`\n]*(?<!\w){re.escape(word)}(?!\w)[^`\n]*`", section), word


def test_every_exception_that_is_mentioned_exists() -> None:
    defined = {
        node.name
        for folder in ("tasks", "models", "infra")
        for file in (PROJECT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    mentioned = set(re.findall(r"`([A-Z]\w+Error)`", ALL)) - {"ValueError", "TypeError", "KeyError"}
    assert mentioned
    assert mentioned <= defined


MODELS = sorted((PROJECT / "models").rglob("*.py"))


@pytest.mark.parametrize("file", MODELS, ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_public_function_and_class_of_models_has_a_docstring(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "the module"
    for owner, node in public(tree):
        assert ast.get_docstring(node), f"{owner}{node.name}"


def public(tree: ast.Module | ast.ClassDef, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Public functions, classes and methods, with the class before them."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield owner, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{node.name}.")


RESULTS = [page for page in PAGES if page.parent.name == "results" and "| code digest | " in page.read_text()]


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.stem)
def test_a_page_of_results_names_the_code_it_speaks_of_and_how_to_write_it_again(page: Path) -> None:
    """A page that is older than its code is no lie, for it says of which; it is told as a warning of the tests."""
    from infra.manifest import code_digest

    text = page.read_text()
    found = re.search(r"^\| code digest \| `([0-9a-f]{64})` \|\n\| of \| (.+) \|$", text, re.MULTILINE)
    command = re.search(r"Written by `(python -m (tests\.\w+)[^`]*|make ([a-z-]+))`", text)
    assert found
    assert command
    assert command.group(3) in TARGETS or importlib.util.find_spec(command.group(2))
    if code_digest(*re.findall(r"`([\w.]+)`", found.group(2))) != found.group(1):
        warnings.warn(
            f"docs/results/{page.name} speaks of other code; {command.group(1)} writes it anew.", stacklevel=1
        )


# ------------------------------------------------------------------------------------------------------------ tone


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_page_is_plain_ascii_without_marks_of_a_machine(page: Path) -> None:
    text = page.read_text()
    assert text.isascii(), [character for character in text if not character.isascii()][:5]
    for mark in ("/root/", "/home/", "/tmp/"):  # noqa: S108 - looked for, not used
        assert mark not in text, mark
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)


def test_the_changelog_has_the_version_of_the_project() -> None:
    import tomllib

    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    text = (PROJECT / "CHANGELOG.md").read_text()
    assert f"## [{version}]" in text
    assert re.findall(r"^### (\w+)", text, re.MULTILINE)[:4] == ["Added", "Changed", "Fixed", "Removed"]


def test_the_help_of_the_command_line_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "--help"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    for command in ("up", "down", "env", "run"):
        assert re.search(rf"\b{command}\b", done.stdout), command
