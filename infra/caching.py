"""When a task may be skipped: same inputs, same code, same raw data, and its product still whole.

A key covers every argument (configurations by value, references by digest), the source of the tasks and of the system
behind each configuration, the libraries that compute, and a fingerprint of the raw files a configuration
names. Prefect's own TASK_SOURCE
sees the task's function alone, not the helpers that do the work.

A cached result is used only while it is true: its version must still be in the store with its digest. When it is not,
the key moves on to its next generation, and the task runs again.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import count
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext

from infra.catalogue import fingerprint
from infra.manifest import canonical, class_path, code_behind, code_digest, digest_of
from infra.refs import Outcome, Ref
from infra.store import open_store

LIBRARIES = ("lightning", "numpy", "pandas", "pyarrow", "torch")
"""A new version of one of these may change numbers, so it makes new keys."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class WhileTrue(CachePolicy):  # type: ignore[misc, unused-ignore]
    """Reuse a result while inputs, code and raw data are the same and what it refers to is still there."""

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **_: Any
    ) -> str | None:
        """The key of the first generation that is either unused or still true."""
        base = cache_key(task_ctx.task.fn, inputs)
        for generation in count():
            key = f"{task_ctx.task.name}-{base[:32]}-{generation}"
            if not task_ctx.result_store.exists(key) or _true(task_ctx.result_store.read(key).result):
                return key
        return None


def cache_key(function: Callable[..., Any], inputs: dict[str, Any]) -> str:
    """Digest of everything a task's result depends on.

    Args:
        function: the task's function; its whole module counts.
        inputs: arguments by name: references, configurations, numbers, strings.

    Returns:
        Hexadecimal SHA-256.

    Raises:
        TypeError: an argument is none of these.
    """
    configurations = [value for value in inputs.values() if dataclasses.is_dataclass(value)]
    shared = {function.__module__, "tasks", "infra.compute", "infra.store"}
    modules = shared | {name for value in configurations for name in code_behind(value)}
    raw = {
        name: fingerprint(location)
        for value in configurations
        if hasattr(value, "sources")
        for name, location in sorted(value.sources().items())
    }
    return digest_of(
        {
            "function": f"{function.__module__}.{function.__qualname__}",
            "inputs": {name: _identity(value) for name, value in inputs.items()},
            "code": _code_digest(tuple(sorted(modules))),
            "libraries": {name: version(name) for name in LIBRARIES},
            "raw": raw,
        }
    )


@lru_cache(maxsize=64)
def _code_digest(modules: tuple[str, ...]) -> str:
    return code_digest(*modules)


def _identity(value: Any) -> Any:
    """What about an argument matters: a reference's digest, a configuration's class and values, the items of a list."""
    if isinstance(value, list | tuple):
        return [_identity(one) for one in value]
    if isinstance(value, Ref):
        return [value.kind, value.name, value.digest]
    if dataclasses.is_dataclass(value):
        return [class_path(value), canonical(value)]
    return value


def _true(result: Any) -> bool:
    """Whether what a stored result says still holds."""
    store = open_store()
    if isinstance(result, Ref):
        return store.intact(result)
    if isinstance(result, Outcome):
        return result.status != "refused" and store.serves(result.kind, result.product, result.version)
    return True


def verb(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """`prefect.task` as every computing task of the house wants it: cached while true, its result kept as JSON.

    Args:
        options: further options of `prefect.task`: retries, timeout_seconds, ...
    """
    return task(cache_policy=WhileTrue(), persist_result=True, result_serializer="json", log_prints=True, **options)
