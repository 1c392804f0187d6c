"""Look at headrace with a browser, as a person does: every form, a run's page, the automations, a comparison in MLflow.

    python -m tests.browse

One command: it brings up a stack in a temporary home, runs `retrieval/tiny` three times with other parameters, walks
through Prefect's and MLflow's pages with the system's chromium, and ends all of it. Pictures lie in `build/browse/`,
what was asserted in `docs/results/browse.md`. The exit code is 1 if something was not as it must be.

Nothing outside this machine is called: what a page wants from elsewhere is refused, and named on the page of results.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import yaml
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Error,
    Locator,
    Page,
    Request,
    Response,
    ViewportSize,
    expect,
    sync_playwright,
)
from rich.console import Console
from rich.table import Table

from infra.automations import DEAD, STILLBORN
from infra.manifest import code_digest
from infra.settings import PROJECT
from tests.operations import Stack, learning, stack
from tests.proof import ascii_of, table, yes
from tests.test_deployments import fields

PORT = 4470
PICTURES = PROJECT / "build" / "browse"
RESULTS = PROJECT / "docs" / "results" / "browse.md"
CODE = ("flows", "tasks", "infra", "models.common", "models.feed.retrieval")
"""What the pages show is made here."""

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
)
VIEW: ViewportSize = {"width": 1500, "height": 1100}
PATIENCE_S = 30
"""How long a page may take to show something."""

COMPARED = ({"epochs": 3, "temperature": 0.2}, {"epochs": 5, "temperature": 0.2}, {"epochs": 5, "temperature": 0.1})
"""Three runs that a person would compare."""

FILLED = {
    ("Data", "Name"): "formed",
    ("Data", "Generator", "Members"): 200,
    ("Data", "Generator", "Items"): 400,
    ("Encoder", "Training", "Epochs"): 2,
    ("Judgement", "Certificate cases"): 24,
    ("Judgement", "Margin to popularity"): 1,
}
"""What a person types into the form, by the titles on the way to the field."""

WIDGETS = ("number", "choice", "switch", "date", "list", "text", "group")
READ_FORM = """
() => {
  const property = '.schema-form-property';
  const own = (element, wanted) => [...element.querySelectorAll(wanted)].find(it => it.closest(property) === element);
  const said = (element, wanted) => {
    const found = own(element, wanted);
    return found && found.checkVisibility() ? found.innerText.trim() : '';
  };
  const kinds = [
    ['editor', '.p-code-input, .cm-editor, [class*=kind-json]'],
    ['list', '.schema-form-property-array'],
    ['number', 'input[type=number]'],
    ['date', '.p-date-input'],
    ['choice', '.p-select'],
    ['switch', '[role=switch]'],
    ['group', '.schema-form-property-object'],
    ['text', 'textarea, input[type=text]'],
  ];
  const path = element => {
    const above = element.parentElement.closest(property);
    return [...(above ? path(above) : []), said(element, '.schema-form-property__label')];
  };
  return [...document.querySelectorAll(property)].map(element => {
    const kind = (kinds.find(([, wanted]) => own(element, wanted)) || ['nothing'])[0];
    const control = own(element, 'input, textarea');
    const shown = {
      number: () => control.value,
      text: () => control.value,
      choice: () => said(element, '.p-select-button__value'),
      date: () => said(element, '.p-date-button__value'),
      switch: () => own(element, '[role=switch]').getAttribute('aria-checked'),
      list: () => own(element, '.schema-form-property-array-list__empty') ? '' : 'some',
    }[kind];
    return {
      path: path(element),
      help: said(element, '.schema-form-property__description'),
      kind,
      shown: shown ? shown() : '',
    };
  });
}
"""


@dataclass(frozen=True)
class Row:
    """One thing that must be so.

    Attributes:
        place: which page.
        wanted: what must be.
        found: what is.
        right: whether it is as it must be.
        picture: name of the picture.
    """

    place: str
    wanted: str
    found: str
    right: bool
    picture: str


@dataclass
class Traffic:
    """Whom the pages called.

    Attributes:
        elsewhere: other machines that they wanted to call.
        errors: answers of our servers that are errors of theirs.
    """

    elsewhere: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def called(self, request: Request) -> None:
        """Take down another machine."""
        host = urllib.parse.urlsplit(request.url).hostname
        if host not in (None, "127.0.0.1"):
            self.elsewhere.add(str(host))

    def answered(self, response: Response) -> None:
        """Take down an error of a server."""
        if response.status >= 500:
            self.errors.append(f"{response.status} for {urllib.parse.urlsplit(response.url).path}")


@dataclass
class Visit:
    """A person at the browser: where she is, and what she saw so far.

    Attributes:
        context: the browser's window.
        page: the tab before her.
        running: the stack.
        rows: what she saw.
        forms: a row for each deployment's form.
        notes: what is worth knowing and cannot be changed here.
        traffic: whom the pages called.
        place: where she is.
    """

    context: BrowserContext
    page: Page
    running: Stack
    rows: list[Row] = field(default_factory=list)
    forms: list[tuple[Any, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)
    place: str = ""

    @property
    def prefect(self) -> str:
        """Address of Prefect's pages."""
        return f"http://127.0.0.1:{self.running.services()['prefect']['port']}"

    @property
    def mlflow(self) -> str:
        """Address of MLflow's pages."""
        return f"http://127.0.0.1:{self.running.services()['mlflow']['port']}"

    @property
    def picture(self) -> str:
        """Name of the picture of this place."""
        return f"{re.sub('[^a-z0-9]+', '-', self.place.lower()).strip('-')}.png"

    def see(self, wanted: str, right: bool, found: object) -> None:
        """Write down one thing."""
        self.rows.append(Row(self.place, wanted, str(found), right, self.picture))

    def see_text(self, wanted: str, place: Locator, *words: str) -> None:
        """Write down whether all words are to be read in a place, now or soon."""
        missing = [one for one in words if not soon(self.page, lambda one=one: one in seen(place))]  # type: ignore[misc]
        found = f"not there: {', '.join(missing)}" if missing else shortened(", ".join(words))
        self.see(wanted, not missing, found)

    @contextlib.contextmanager
    def at(self, place: str) -> Iterator[Page]:
        """Be somewhere; a picture is taken on leaving, and what is missed there does not end the visit."""
        self.place = place
        before = self.page
        try:
            yield self.page
        except (Error, AssertionError) as error:
            self.see("the page can be used as a person uses it", False, shortened(str(error)))
        finally:
            self.take()
            if self.page is not before:
                self.page.close()
                self.page = before

    def take(self) -> None:
        """Take a picture of the tab, down to the end of what can be scrolled."""
        with contextlib.suppress(Error):
            tall = self.page.evaluate("Math.max(...[...document.querySelectorAll('*')].map(it => it.scrollHeight))")
            self.page.set_viewport_size({"width": VIEW["width"], "height": min(10_000, max(VIEW["height"], tall))})
            self.page.screenshot(path=PICTURES / self.picture)
            self.page.set_viewport_size(VIEW)


def shortened(text: str) -> str:
    """The beginning of a text on one line, plain."""
    plain = re.sub(r"\s+", " ", re.sub(r"\x1b\[[\d;]*m", "", text))
    return plain if len(plain) <= 160 else f"{plain[:157]}..."


def plainly(text: str) -> str:
    """What a reader sees of Markdown's code, and one blank where there are many."""
    return re.sub(r"\s+", " ", text.replace("`", "")).strip()


def seen(place: Locator) -> str:
    """What can be read in a place."""
    return " ".join(plainly(one.inner_text()) for one in place.all())


def soon(page: Page, right: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    """Whether something becomes true within some seconds; a page that is being redrawn is asked again."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(Error):
            if right():
                return True
        if time.monotonic() > deadline:
            return False
        page.wait_for_timeout(150)


# ----------------------------------------------------------------------------------------------------------- forms


@dataclass(frozen=True)
class Field:
    """A field as the schema has it.

    Attributes:
        path: titles on the way to it.
        help: its description.
        kind: the widget that a person expects.
        value: what must stand in it.
    """

    path: tuple[str, ...]
    help: str
    kind: str
    value: Any


def expected(deployment: Mapping[str, Any]) -> list[Field]:
    """The fields that a deployment's form must show, with the values of its preset, and those of all items of lists."""
    schema = deployment["parameter_openapi_schema"]
    found = dict(fields(schema, {"properties": schema["properties"]}))
    every: list[Field] = []
    for names, node in ((path.split("."), node) for path, node in found.items()):
        titles = tuple(label(found[".".join(names[: depth + 1])]) for depth in range(len(names)))
        value = preset(deployment["parameters"], found, names)
        every.append(Field(path=titles, help=plainly(node["description"]), kind=widget(node), value=value))
        if node.get("type") == "array" and "$ref" in node["items"]:
            every += [one for item in value for one in item_fields(schema, node["items"], titles, item)]
    return every


def item_fields(
    schema: Mapping[str, Any], item: Mapping[str, Any], above: tuple[str, ...], values: Mapping[str, Any]
) -> Iterator[Field]:
    """The fields of an item of a list; items lie under the title of their list, one after another."""
    for name, node in fields(dict(schema), dict(item)):
        value = values.get(name, node.get("default"))
        yield Field(path=(*above, label(node)), help=plainly(node["description"]), kind=widget(node), value=value)


def label(node: Mapping[str, Any]) -> str:
    """What stands over a field that has a default."""
    return f"{node['title']} (Optional)"


def widget(node: Mapping[str, Any]) -> str:
    """The widget that a person expects for a kind of value."""
    if "enum" in node:
        return "choice"
    if node.get("format") == "date":
        return "date"
    names = {"integer": "number", "number": "number", "boolean": "switch", "array": "list", "object": "group"}
    return names.get(node["type"], "text")


def preset(parameters: Any, found: Mapping[str, Any], names: Sequence[str]) -> Any:
    """What a deployment sets, else the default of the outermost parameter, else that of the field."""
    for start, rest in ((parameters, names), (found[names[0]].get("default"), names[1:])):
        value = start
        for name in rest:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            return value
        if isinstance(start, Mapping) and names[0] in start:
            break  # what is sent takes the place of the whole parameter
    return found[".".join(names)].get("default")


def shows(field: Field, shown: str) -> bool:
    """Whether a widget shows a field's value."""
    if field.kind == "number":
        return shown != "" and float(shown) == float(field.value)
    if field.kind == "switch":
        return shown == str(field.value).lower()
    if field.kind == "date":
        day = datetime.strptime(re.sub(r"(?<=\d)(st|nd|rd|th)", "", shown), "%b %d, %Y")
        return field.value == f"{day:%Y-%m-%d}"
    if field.kind == "list":
        return (shown != "") == bool(field.value)
    return field.kind == "group" or shown == str(field.value)


def deployments(visit: Visit) -> list[dict[str, Any]]:
    """All deployments of the server, by name."""
    found = visit.running.call("/deployments/filter", {"limit": 200})
    flows = {one["id"]: one["name"] for one in visit.running.call("/flows/filter", {"limit": 200})}
    named = [{**one, "label": f"{flows[one['flow_id']]}/{one['name']}"} for one in found]
    return sorted(named, key=lambda one: str(one["label"]))


def look_at_forms(visit: Visit, browser: Browser) -> None:
    """Open the Run form of every deployment, in the interface that Prefect starts with and in the other one."""
    wanted = len(yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"])
    all_of_them = deployments(visit)
    with visit.at("deployments") as page:
        page.goto(f"{visit.prefect}/deployments")
        there = soon(page, lambda: f"{wanted} Deployments" in seen(page.locator("body")))
        visit.see("all deployments of prefect.yaml are there", there and len(all_of_them) == wanted, len(all_of_them))
    other = window(browser, visit.traffic)
    for deployment in all_of_them:
        with visit.at(f"form {deployment['label']}") as page:
            page.goto(f"{visit.prefect}/deployments/deployment/{deployment['id']}/run")
            look_at_form(visit, page, deployment, other)
    other.close()


def look_at_form(visit: Visit, page: Page, deployment: Mapping[str, Any], other: BrowserContext) -> None:
    """Compare a form with the schema, field by field."""
    wanted = expected(deployment)
    form: list[dict[str, Any]] = []

    def drawn() -> bool:
        form[:] = page.evaluate(READ_FORM)
        return len(form) == len(wanted) and not any(wrong_fields(wanted, form).values())

    soon(page, drawn, 15)
    wrong = wrong_fields(wanted, form)
    second = other.new_page()
    second.goto(f"{visit.prefect}/v2/deployments/deployment/{deployment['id']}/run")
    words = Counter(word for one in wanted for word in (one.path[-1], one.help))

    def unread() -> list[str]:
        text = plainly(second.locator("body").inner_text())
        return [word for word, count in words.items() if text.count(word) < count]

    soon(second, lambda: not unread(), 15)
    editors = second.locator(".cm-editor").count()
    wrong["in Prefect's second interface"] = unread() + ["an editor"] * editors
    if wrong["in Prefect's second interface"]:
        second.screenshot(path=PICTURES / f"second-{visit.picture}", full_page=True)
    second.close()
    kinds = Counter(one["kind"] for one in form)
    bad = [f"{what}: {', '.join(names)}" for what, names in wrong.items() if names]
    visit.forms.append(
        (deployment["label"], len(form), *(kinds[kind] for kind in WIDGETS), kinds["editor"], yes(not bad))
    )
    said = "; ".join(bad) or f"{len(form)} fields"
    visit.see("every field: title, help, widget, the preset's value; no editor", not bad, shortened(said))


def wrong_fields(wanted: Sequence[Field], form: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Fields that are not as they must be, by what is wrong; of those with one path the first is held to the first."""
    left: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for shown in form:
        left.setdefault(tuple(shown["path"]), []).append(shown)
    both: list[tuple[Field, Mapping[str, Any]]] = []
    absent = []
    for one in wanted:
        if left.get(one.path):
            both.append((one, left[one.path].pop(0)))
        else:
            absent.append(" > ".join(one.path))
    return {
        "no such label": absent,
        "not in the schema": [" > ".join(path) for path, rest in left.items() for _ in rest],
        "another help line": [one.path[-1] for one, shown in both if plainly(shown["help"]) != one.help],
        "another widget": [f"{one.path[-1]} ({shown['kind']})" for one, shown in both if shown["kind"] != one.kind],
        "another value": [
            f"{one.path[-1]} ({shown['shown']!r}, not {one.value!r})"
            for one, shown in both
            if shown["kind"] == one.kind and not shows(one, shown["shown"])
        ],
    }


def control(page: Page, titles: Sequence[str]) -> Locator:
    """The control of a field, found by the labels on the way to it."""
    scope = page.locator("body")
    for title in ("config", *titles):
        label = page.locator(":scope > .p-label__header .schema-form-property__label")
        named = label.get_by_text(f"{title} (Optional)", exact=True)
        scope = scope.locator(".schema-form-property").filter(has=named).first
    return scope.locator("input, textarea").first


def run_by_form(visit: Visit) -> str:
    """Fill in the form with a bad value, be refused, mend it, submit; returns the flow run."""
    deployment = visit.running.call("/deployments/name/retrieval/tiny")
    ours = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    before = {one["id"] for one in visit.running.call("/flow_runs/filter", ours)}

    def new() -> list[dict[str, Any]]:
        return [one for one in visit.running.call("/flow_runs/filter", ours) if one["id"] not in before]

    with visit.at("form refused") as page:
        page.goto(f"{visit.prefect}/deployments/deployment/{deployment['id']}")
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Custom run").click()
        expect(page.get_by_role("button", name="Submit")).to_be_visible()
        for titles, value in FILLED.items():
            control(page, titles).fill(str(value))
        epochs = control(page, ("Encoder", "Training", "Epochs"))
        epochs.fill("0")
        page.get_by_role("button", name="Submit").click()
        told = page.locator(".p-toast__message, .p-toast").first
        expect(told).to_be_visible()
        visit.see_text("0 epochs are refused by the name of the field", told, "config.encoder.training.epochs")
        visit.see("nothing was started, and what was typed is still there", not new(), f"{len(new())} new flow runs")
    with visit.at("form accepted") as page:
        epochs.fill(str(FILLED["Encoder", "Training", "Epochs"]))
        page.get_by_role("button", name="Submit").click()
        started = soon(page, lambda: len(new()) == 1)
        visit.see("with a good value one flow run starts", started, f"{len(new())} new flow runs")
    if not new():
        return ""
    config = new()[0]["parameters"]["config"]
    sent = (config["data"]["name"], config["data"]["generator"]["users"], config["encoder"]["training"]["epochs"])
    visit.see("it has the parameters that were typed", sent == ("formed", 200, 2), sent)
    return str(new()[0]["id"])


def look_at_detector(visit: Visit) -> None:
    """What says that there is no editor must see one when there is one."""
    deployment = visit.running.call("/deployments/name/retrieval/tiny")
    with visit.at("form with an editor") as page:
        page.goto(f"{visit.prefect}/deployments/deployment/{deployment['id']}/run")
        epochs = control(page, ("Encoder", "Training", "Epochs"))
        expect(epochs).to_be_visible()
        menu = page.locator(".schema-form-property-menu button")
        menu.first.click()
        page.get_by_text("Use JSON input").click()
        found = soon(page, lambda: any(one["kind"] == "editor" for one in page.evaluate(READ_FORM)), 5)
        visit.see("the check sees a JSON editor that was asked for", found, yes(found))


# ---------------------------------------------------------------------------------------------------------- run page


def look_at_runs(visit: Visit, flow_runs: Sequence[str]) -> list[str]:
    """The list of runs; returns their names."""
    names = [str(visit.running.call(f"/flow_runs/{one}")["name"]) for one in flow_runs]
    with visit.at("runs") as page:
        page.goto(f"{visit.prefect}/runs")
        visit.see_text("the runs have names that tell them apart", page.locator("body"), *names)
        pattern = r"compared \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
        visit.see("what was worked on, and when", all(re.fullmatch(pattern, one) for one in names), names[0])
    with visit.at("deployment") as page:
        deployment = visit.running.call("/deployments/name/retrieval/tiny")
        page.goto(f"{visit.prefect}/deployments/deployment/{deployment['id']}")
        expect(page.get_by_role("tab", name="Description").or_(page.get_by_text("Description")).first).to_be_visible()
        page.wait_for_timeout(2000)
        listed = sum(name in seen(page.locator("body")) for name in names)
        if not listed:
            visit.notes.append(
                "The tab Runs of a deployment's page shows only runs whose state has one of Prefect's own names. Ours "
                "end Published, Refused, Unchanged, Healthy or Degraded: look for them under Runs, where all are."
            )
        page.get_by_text("Description", exact=True).first.click()
        visit.see_text("the deployment says what it does", page.locator("body"), deployment["description"])
    return names


def look_at_run(visit: Visit, flow_run: str) -> None:
    """The page of a finished run, and everything that it leads to."""
    run = visit.running.call(f"/flow_runs/{flow_run}")
    with visit.at("run") as page:
        page.goto(f"{visit.prefect}/runs/flow-run/{flow_run}")
        visit.see_text("name, state and deployment", page.locator("body"), run["name"], "Published", "tiny")
        page.get_by_text("Task Runs", exact=True).first.click()
        tasks = ("curate", "train", "build_index", "evaluate", "publish")
        visit.see_text("every task is named", page.locator("body"), *tasks)
        page.get_by_text("Details", exact=True).first.click()
        visit.see_text("the state says why", page.locator("body"), run["state"]["message"])
        artifacts(page)
        keys = ("products", "results", "certificate", "hit-rate-by-k", "hit-rate-by-fame", "mlflow-run")
        visit.see_text("its artifacts are on it", page.locator(".artifact-card__title"), *keys)
        nameless = page.locator(".artifact-card", has_text="No description").locator(".artifact-card__title")
        bare = nameless.all_inner_texts()
        visit.see("every artifact says what it is", not bare, f"without a description: {', '.join(bare) or 'none'}")
    product, _, number = run["state"]["message"].partition(":")[0].partition("@")
    with opened(visit, flow_run, "products") as page:
        cells = page.locator("table")
        visit.see_text("a table of what was done to the products", cells, product, number, "published", "holds")
    with opened(visit, flow_run, "results") as page:
        visit.see_text("a table of rankings beside each other", page.locator("table"), "popularity", "two towers")
    with opened(visit, flow_run, "certificate") as page:
        page.get_by_role("heading", name="The certificate holds").wait_for()
        claims = page.locator("article table tbody tr, .markdown-renderer table tbody tr").count()
        visit.see("a page with a row for each claim", claims == 14, f"{claims} claims")
    for key in ("hit-rate-by-k", "hit-rate-by-fame", f"{product}-figure"):
        with opened(visit, flow_run, key) as page:
            look_at_image(visit, page)
    with opened(visit, flow_run, "mlflow-run") as page:
        with visit.context.expect_page() as tab:
            page.locator(".markdown-renderer a").first.click()
        visit.page = tab.value
        title = visit.page.get_by_role("heading", name=run["name"])
        visit.see("the link leads to its run in MLflow", soon(visit.page, title.is_visible), shortened(visit.page.url))
        back = visit.page.get_by_role("link", name=f"Prefect flow run {run['name']}")
        expect(back).to_be_visible()
        target = str(back.get_attribute("href"))
        visit.take()
        visit.page.goto(target)
        visit.see_text("and from there a link leads back", visit.page.locator("body"), run["name"], "Published")
        visit.page.go_back()
        soon(visit.page, title.is_visible)


def artifacts(page: Page) -> None:
    """Turn to the artifacts of a run."""
    page.get_by_text("Artifacts", exact=True).first.click()
    expect(page.locator(".artifact-card").first).to_be_visible()


@contextlib.contextmanager
def opened(visit: Visit, flow_run: str, key: str) -> Iterator[Page]:
    """Click on an artifact of a run."""
    with visit.at(f"artifact {key}") as page:
        page.goto(f"{visit.prefect}/runs/flow-run/{flow_run}")
        artifacts(page)
        page.locator(".artifact-card__title").get_by_text(key, exact=True).first.click()
        page.wait_for_url("**/artifacts/artifact/**")
        yield page


def look_at_image(visit: Visit, page: Page) -> None:
    """A figure must really arrive."""
    width = 0

    def there() -> bool:
        nonlocal width
        width = page.evaluate("Math.max(0, ...[...document.images].map(image => image.naturalWidth))")
        return width > 0

    visit.see("the figure is there", soon(page, there), f"{width} pixels wide")


def look_at_automations(visit: Visit) -> None:
    """What happens by itself is named, and on."""
    described = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    names = [DEAD, STILLBORN, *(trigger["name"] for one in described for trigger in one.get("triggers", ()))]
    with visit.at("automations") as page:
        page.goto(f"{visit.prefect}/automations")
        visit.see_text("ours are there by name", page.locator("body"), *names)
        switches = page.get_by_role("switch").all()
        on = sum(one.get_attribute("aria-checked") == "true" for one in switches)
        visit.see("all of them are on", on == len(names), f"{on} of {len(switches)} on")
        words = ("is silent for 90 s", "nothing is heard for 10 minutes", "Crashed", "Run deployment:")
        visit.see_text("what they wait for and what they do", page.locator("body"), *words)


# ------------------------------------------------------------------------------------------------------------ MLflow


def look_at_comparison(visit: Visit, names: Sequence[str]) -> None:
    """From MLflow's first page to the comparison of three runs, by clicks."""
    with visit.at("mlflow experiments") as page:
        page.goto(f"{visit.mlflow}/#/experiments")
        experiment = page.get_by_role("link", name="retrieval", exact=True).first
        visit.see("an experiment for the system", soon(page, experiment.is_visible), "retrieval")
    with visit.at("mlflow runs") as page:
        training = page.get_by_text("Model training", exact=True).first
        if soon(page, training.is_visible, 3):  # MLflow begins with its pages for language models
            training.click()
            visit.notes.append(
                "MLflow begins with its pages for language models, where no training run is listed: press Model "
                "training at the top left first."
            )
        page.goto(f"{visit.mlflow}/#/experiments")
        page.get_by_role("link", name="retrieval", exact=True).first.click()
        visit.see_text("the three runs by the names of their flow runs", page.locator("body"), *names)
        unchosen = page.get_by_label("Press Space to toggle row selection (unchecked)")
        for name in names:
            row = page.locator("[role=row]", has=page.get_by_text(name, exact=True)).first
            index = row.get_attribute("row-index") or row.get_attribute("row-id")
            attribute = "row-index" if row.get_attribute("row-index") else "row-id"
            page.locator(f"[role=row][{attribute}='{index}']").locator(unchosen).first.check()
    with visit.at("mlflow comparison") as page:
        page.get_by_role("button", name="Compare", exact=True).click()
        page.wait_for_url("**/compare-runs?**")
        visit.see_text("three runs beside each other", page.locator("body"), "Comparing 3 Runs", *names)
        parameters, metrics = (page.get_by_role("switch").nth(number) for number in (0, 1))
        expect(parameters).to_be_visible()
        rows = page.locator("tr, [role=row]")
        for name in ("epochs", "temperature"):
            values = [f"{run[name]:g}" for run in COMPARED]
            visit.see(
                f"the parameter {name}, different",
                soon(page, lambda name=name, values=values: has_row(rows, name, values)),  # type: ignore[misc]
                ", ".join(values),
            )
        parameters.click()
        same = page.locator("tr", has_text="weight_decay")
        visit.see("Show diff only hides what is the same", soon(page, lambda: not same.count()), "weight_decay is gone")
        metrics.click()
        page.wait_for_timeout(500)
        wanted = metrics_of(visit, names, "hit_rate_at_50")
        differs = len(set(wanted)) > 1
        visit.see("the headline metric differs", differs, ", ".join(f"{one:.4f}" for one in wanted))
        shown = soon(page, lambda: "hit_rate_at_50" in seen(page.locator("body")))
        visit.see("and is shown", shown, "hit_rate_at_50")


def has_row(rows: Locator, name: str, values: Sequence[str]) -> bool:
    """Whether a table has a row with this name and these values, in any order."""
    cells = [plainly(one.inner_text()).split() for one in rows.filter(has_text=name).all()]
    return [name, *sorted(values)] in [[*one[:1], *sorted(one[1:])] for one in cells]


def metrics_of(visit: Visit, names: Sequence[str], metric: str) -> list[float]:
    """A metric of the runs with these names, from MLflow itself."""
    address = f"{visit.mlflow}/api/2.0/mlflow"
    found = visit.context.request.post(f"{address}/experiments/search", data={"max_results": 100}).json()
    ids = [one["experiment_id"] for one in found["experiments"]]
    runs = visit.context.request.post(f"{address}/runs/search", data={"experiment_ids": ids}).json()["runs"]
    by_name = {run["info"]["run_name"]: {m["key"]: m["value"] for m in run["data"]["metrics"]} for run in runs}
    return [float(by_name[name][metric]) for name in names]


def look_at_registry(visit: Visit, product: str, live: str) -> None:
    """The registered product: the champion is what the store calls live, and carries its certificate."""
    registered = f"{product}-index"
    with visit.at("mlflow registry") as page:
        page.goto(f"{visit.mlflow}/#/models")
        link = page.get_by_role("link", name=registered, exact=True).first
        expect(link).to_be_visible()
        page.keyboard.press("Escape")  # what MLflow wants to say about its new pages
        link.click()
        row = page.locator("tr, [role=row]", has_text="@ champion")
        visit.see_text("the version that is live is the champion", row, "version", live, "certificate")
        visit.see(
            "the registered name says what it is",
            soon(page, lambda: registered in seen(page.locator("h1, h2"))),
            registered,
        )
    with visit.at("mlflow version") as page:
        row.get_by_role("link", name=re.compile(r"Version \d+")).first.click()
        page.wait_for_url("**/versions/*")
        words = ("@ champion", live, "filtered_recall_at_10 = 1 (exact)", "certificate", "digest", "location")
        visit.see_text("alias, tags and certificate", page.locator("body"), *words)


# ---------------------------------------------------------------------------------------------------------- the whole


def window(browser: Browser, traffic: Traffic) -> BrowserContext:
    """A window whose calls are taken down; its browser finds no other machine."""
    context = browser.new_context(viewport=VIEW, timezone_id="UTC", locale="en-US")
    context.set_default_timeout(PATIENCE_S * 1000)
    context.on("request", traffic.called)
    context.on("response", traffic.answered)
    return context


def variants() -> Iterator[dict[str, Any]]:
    """Parameters of the three runs."""
    for chosen in COMPARED:
        config = learning(0, int(chosen["epochs"]))["config"]
        data = {**config["data"], "name": "compared"}
        encoder = {**config["encoder"], "tower": {"temperature": chosen["temperature"]}}
        yield {"config": {**config, "data": data, "encoder": encoder}}


def walk(running: Stack, chromium: str, console: Console) -> tuple[Visit, str]:
    """Everything that is looked at; returns also the browser's version."""
    with sync_playwright() as playwright, ThreadPoolExecutor(1) as behind:
        computed = [behind.submit(computing, running, parameters) for parameters in variants()]
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            traffic = Traffic()
            context = window(browser, traffic)
            expect.set_options(timeout=PATIENCE_S * 1000)
            visit = Visit(context, context.new_page(), running, traffic=traffic)
            steps: list[tuple[str, Callable[[], object]]] = [
                ("forms", lambda: look_at_forms(visit, browser)),
                ("an editor", lambda: look_at_detector(visit)),
                ("automations", lambda: look_at_automations(visit)),
                ("a run by form", lambda: formed.append(run_by_form(visit))),
                ("runs", lambda: names.extend(look_at_runs(visit, ended(visit, computed)))),
                ("a run", lambda: look_at_run(visit, computed[-1].result())),
                ("comparison", lambda: look_at_comparison(visit, names)),
                ("registry", lambda: look_at_registry(visit, "retrieval-compared", live_version(running))),
                ("the run by form", lambda: look_at_formed(visit, formed[0])),
            ]
            formed: list[str] = []
            names: list[str] = []
            for name, step in steps:
                begun = time.monotonic()
                step()
                console.print(f"{name}: {time.monotonic() - begun:.0f} s")
            visit.place = "all pages"
            errors = ", ".join(sorted(set(traffic.errors))) or "none"
            visit.see("no server answered with an error of its own", not traffic.errors, errors)
            return visit, browser.version
        finally:
            browser.close()


def computing(running: Stack, parameters: dict[str, Any]) -> str:
    """Run to the end; one after another, since a run that waits for its turn waits longer than it needs."""
    flow_run = running.trigger("retrieval/tiny", parameters)
    running.wait(flow_run, seconds=240)
    return flow_run


def ended(visit: Visit, computed: Sequence[Future[str]]) -> list[str]:
    """The flow runs, after their end."""
    visit.place = "runs"
    flow_runs = [one.result() for one in computed]
    states = [visit.running.state(one)["name"] for one in flow_runs]
    visit.see("three runs with other parameters are published", set(states) == {"Published"}, ", ".join(states))
    return flow_runs


def live_version(running: Stack) -> str:
    """What the store calls live."""
    current = running.home / "store" / "index" / "retrieval-compared" / "CURRENT"
    return str(json.loads(current.read_text())["version"])


def look_at_formed(visit: Visit, flow_run: str) -> None:
    """The run that was started from the form, to its end."""
    if not flow_run:
        return
    state = visit.running.wait(flow_run, seconds=120)
    with visit.at("run from the form") as page:
        page.goto(f"{visit.prefect}/runs/flow-run/{flow_run}")
        visit.see("the run from the form is published", state["name"] == "Published", f"{state['name']}")
        page.get_by_text("Parameters", exact=True).first.click()
        visit.see_text("its page shows what was typed", page.locator("body"), '"epochs": 2', '"name": "formed"')
    steps = metrics_of(visit, [str(visit.running.call(f"/flow_runs/{flow_run}")["name"])], "best_epoch")
    visit.see("it trained no longer than the form said", 1 <= steps[0] <= 2, f"best epoch {steps[0]:g} of 2")


def write(visit: Visit, browser: str, seconds: float) -> str:
    """The page of results."""
    wrong = [row for row in visit.rows if not row.right]
    facts = [
        ("looked at", f"{datetime.now(UTC):%Y-%m-%d}"),
        ("with", f"chromium {browser}, playwright {version('playwright')}"),
        ("Prefect", version("prefect")),
        ("MLflow", version("mlflow")),
        ("code digest", f"`{code_digest(*CODE)}`"),
        ("of", ", ".join(f"`{name}`" for name in CODE)),
        ("machine", f"{len(os.sched_getaffinity(0))} cores ({platform.machine()}), {seconds:.0f} s"),
        ("asserted", f"{len(visit.rows)} things, {len(wrong)} not as they must be"),
    ]
    steps = [row for row in visit.rows if not row.place.startswith("form ") or "/" not in row.place]
    hosts = ", ".join(sorted(visit.traffic.elsewhere)) or "none"
    lines = [
        "# In the browser: what was looked at",
        "",
        "Written by `make browse`; do not edit. A stack of its own; 3 runs of retrieval/tiny with other parameters.",
        "",
        *table(("what", "value"), facts),
        "",
        *(
            ["**Not as it must be:**", "", *(f"- {row.place}: {row.wanted}: {row.found}" for row in wrong), ""]
            if wrong
            else []
        ),
        "## Forms",
        "",
        "The Run form of every deployment against its parameter schema: each title and help line is to be read, each "
        "value has its widget and shows the preset, and nothing is an editor of JSON or code. Words and absence of "
        "editors are looked at in Prefect's second interface too.",
        "",
        *table(("deployment", "fields", *WIDGETS, "editor", "as it must be"), visit.forms),
        "",
        "## What a person does",
        "",
        *table(
            ("page", "what must be", "found", "as it must be"),
            [(row.place, row.wanted, row.found, yes(row.right)) for row in steps],
        ),
        "",
        "## To be known",
        "",
        *(f"- {note}" for note in visit.notes),
        f"- Machines elsewhere that the pages wanted to call; all were refused, and nothing was missed: {hosts}.",
    ]
    return "\n".join(ascii_of(line) for line in lines) + "\n"


def main() -> None:
    """Look, write the page, and end with 1 if something is not as it must be."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not installed; on Debian: apt-get install chromium.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    console, begun = Console(highlight=False), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-browse-") as home, stack(Path(home), PORT) as running:
        console.print(f"stack: {time.monotonic() - begun:.0f} s")
        visit, browser = walk(running, chromium, console)
        if not all(row.right for row in visit.rows):
            for log in (running.home / "stack").glob("*.log"):
                shutil.copy(log, PICTURES)
    shown = Table("page", "what must be", "found", "as it must be")
    for row in visit.rows:
        shown.add_row(row.place, row.wanted, row.found, yes(row.right))
    console.print(shown)
    RESULTS.write_text(write(visit, browser, time.monotonic() - begun), encoding="ascii")
    console.print(f"wrote {RESULTS.relative_to(PROJECT)}; pictures in {PICTURES.relative_to(PROJECT)}")
    wrong = [row for row in visit.rows if not row.right]
    for row in wrong:
        picture = (PICTURES / row.picture).relative_to(PROJECT)
        console.print(f"wrong: {row.place}: {row.wanted}: {row.found}; see {picture}", markup=False, soft_wrap=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
