"""The manifest of an artifact: everything needed to check it, to trace it, and to rebuild what made it."""

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from infra.access import credentials_in, without_credentials
from infra.refs import Ref

RefT = TypeVar("RefT", bound=Ref)

FORMAT = 1
"""Version of the layout on disk; a reader refuses what is newer, and `infra.migrations` reads what is older."""

IDENTITY = 1
"""Version of what the digest covers; when it changes, equal content gets another version everywhere."""


class FileEntry(BaseModel):
    """One file of an artifact; a part that is a tree of files has many."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: str
    # a file of this folder and no other; one of a part that is a tree of files lies deeper
    path: str = Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$")
    length: int
    sha256: str


class Manifest(BaseModel):
    """What an artifact consists of and where it comes from.

    Attributes:
        format: version of this layout.
        kind, name: the product.
        configuration: values of the configuration that made it.
        configuration_class: its import path, under `models.`.
        inputs: references of what it was made from, by kind.
        files: every file with length and checksum.
        code: digest of the code that made it.
        commit: git commit, "" outside a repository, with "+" when the tree was changed.
        created: time of writing, UTC, ISO 8601.
        flow_run_id, run_id: the Prefect and MLflow runs that made it.
        certificate: its claims as JSON; None until it is published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    kind: str
    name: str
    configuration: dict[str, Any]
    configuration_class: str
    inputs: dict[str, dict[str, str]]
    files: tuple[FileEntry, ...]
    code: str
    commit: str = ""
    created: str = ""
    flow_run_id: str = ""
    run_id: str = ""
    certificate: dict[str, Any] | None = None

    @property
    def digest(self) -> str:
        """The payload digest: equal for equal content and inputs, whoever made it and whenever."""
        return digest_of(
            {
                "format": IDENTITY,  # not that of the layout: a rewritten manifest is of the same version
                "kind": self.kind,
                "name": self.name,
                "configuration": self.configuration,
                "configuration_class": self.configuration_class,
                "inputs": self.inputs,
                "files": [entry.model_dump() for entry in self.files],
            }
        )

    def input(self, ref_class: type[RefT], root: str) -> RefT:
        """A reference to one of the inputs, in the store under `root`.

        Raises:
            KeyError: there is no input of this kind.
        """
        if ref_class.kind not in self.inputs:
            raise KeyError(
                f"{self.kind} {self.name} was not made from a {ref_class.kind}; it has {sorted(self.inputs)}."
            )
        known = self.inputs[ref_class.kind]
        return ref_class(**known, location=f"{root}/{ref_class.kind}/{known['name']}/{known['version']}")

    def rebuild_configuration(self) -> Any:
        """The configuration that made the artifact, validated anew.

        Raises:
            ValueError: the class is not a dataclass under `models.`, or the values no longer fit it.
        """
        return TypeAdapter(resolve_configuration(self.configuration_class)).validate_python(self.configuration)


def describe(
    ref_class: type[Ref],
    name: str,
    configuration: Any,
    inputs: tuple[Ref, ...] = (),
    *,
    flow_run_id: str = "",
    run_id: str = "",
) -> Manifest:
    """The manifest of a product about to be written: everything but its files.

    Args:
        ref_class: kind of the product.
        name: the product.
        configuration: the configuration that makes it.
        inputs: what it is made from.
        flow_run_id: the Prefect run that makes it.
        run_id: the MLflow run that makes it.

    Raises:
        ValueError: a setting has credentials in it, even one that is not read: a manifest is for everybody.
    """
    values = describe_configuration(configuration)
    for setting, value in flatten(values).items():
        if isinstance(value, str) and (found := credentials_in(value)):
            raise ValueError(
                f"{setting} is {without_credentials(value)!r} and was given with {found}, which everybody would read "
                "beside the run; leave it out, and give the worker credentials by its environment."
            )
    return Manifest(
        kind=ref_class.kind,
        name=name,
        configuration=values,
        configuration_class=class_path(configuration),
        inputs={ref.kind: {"name": ref.name, "version": ref.version, "digest": ref.digest} for ref in inputs},
        files=(),
        code=code_digest(*code_behind(configuration)),
        flow_run_id=flow_run_id,
        run_id=run_id,
    )


def product_name(configuration: Any) -> str:
    """The name of a dataset, and of all products made from it: `SYSTEM-NAME`."""
    return f"{system_of(configuration)}-{configuration.name}"


def canonical(value: Any) -> str:
    """One JSON text per value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return describe_configuration(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(
        f"{type(value).__name__} has no canonical JSON; pass numbers, strings, references or configurations."
    )


def describe_configuration(configuration: Any) -> dict[str, Any]:
    """A configuration's values as JSON, after one round through JSON so that tuples compare equal to lists."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(configuration), allow_nan=False))
    return values


def class_path(configuration: Any) -> str:
    """Import path of a configuration's class."""
    return f"{type(configuration).__module__}.{type(configuration).__qualname__}"


def resolve_configuration(path: str) -> type:
    """Import the configuration class that a manifest names.

    The one place where a name from a file becomes code, so it accepts dataclasses under `models.` alone.

    Raises:
        ValueError: anything else.
    """
    module_name, _, class_name = path.rpartition(".")
    if not module_name.startswith("models."):
        raise ValueError(f"configuration class must lie under `models.`, got {path!r}; the manifest may be forged.")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"configuration class {path!r} does not exist here ({error}); use the code that wrote it."
        ) from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == module_name):
        raise ValueError(f"{path!r} is not a configuration dataclass; the manifest may be forged.")
    return found


def system_of(configuration: Any) -> str:
    """The folder of the configuration's system: `models.feed.ranking.config` belongs to the system `ranking`.

    So does `models.feed.ranking.next_item.config`: a folder with a `config.py` within a system is a part of it.
    """
    return _package_of(configuration).rpartition(".")[2]


def _package_of(configuration: Any) -> str:
    """The package of the configuration's system: the outermost one around its module that has a `config.py`."""
    package = str(type(configuration).__module__).rpartition(".")[0]
    around = package.rpartition(".")[0]
    while around and Path(str(importlib.import_module(around).__file__)).with_name("config.py").exists():
        package, around = around, around.rpartition(".")[0]
    return package


def code_digest(*modules: str) -> str:
    """Digest of the source files behind modules or packages.

    A module stands for its file, a package for its whole folder, so that an edit to a helper counts as much as one to
    the function that calls it. Bytecode, tests and data do not count.

    Args:
        modules: dotted names.

    Returns:
        SHA-256 over paths relative to each package and file contents.

    Raises:
        ValueError: a package has no `__init__.py`.
    """
    total = hashlib.sha256()
    for name in sorted(set(modules)):
        module = importlib.import_module(name)
        if not module.__file__:
            raise ValueError(f"{name} has no source file; give the package an __init__.py.")
        source = Path(module.__file__)
        files = sorted(source.parent.rglob("*.py")) if source.name == "__init__.py" else [source]
        for file in files:
            total.update(f"{name}:{file.relative_to(source.parent)}\0".encode())
            total.update(file.read_bytes())
    return total.hexdigest()


def code_behind(configuration: Any) -> tuple[str, ...]:
    """Modules that a configuration's results depend on: its system, what its family shares, `models.common`.

    A folder of the family with a `config.py` is a system; all else there is shared.
    """
    system = _package_of(configuration)
    family = system.rpartition(".")[0]
    shared: tuple[str, ...] = ()
    if family and family != "models":
        folder = Path(str(importlib.import_module(family).__file__)).parent
        packages = [one.parent for one in folder.glob("*/__init__.py") if not one.with_name("config.py").exists()]
        files = [file for file in folder.glob("*.py") if file.stem != "__init__"]
        shared = tuple(f"{family}.{one.stem}" for one in sorted([*packages, *files]))
    return (system, *shared, "models.common")


def code_behind_parts(configuration: Any) -> tuple[str, ...]:
    """Modules that the parts of a dataset depend on: those that make them, and not those that judge or publish them.

    They are the package of the configuration's own module, the modules beside that package but for `config`,
    `certificate` and `judge`, and what the family shares.
    """
    own = str(type(configuration).__module__).rpartition(".")[0]
    system, *shared = code_behind(configuration)
    beside: list[str] = []
    if own != system:
        folder = Path(str(importlib.import_module(system).__file__)).parent
        kept = [file.stem for file in folder.glob("*.py") if file.stem not in _NOT_OF_PARTS]
        beside = [f"{system}.{stem}" for stem in sorted(kept)]
    return (own, *beside, *(name for name in shared if name != "models.common"), "models.common.parts")


_NOT_OF_PARTS = ("__init__", "config", "certificate", "judge")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names: `{"tower": {"width": 8}}` becomes `{"tower.width": 8}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
