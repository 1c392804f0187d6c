"""Declare a configuration's settings once: default, words for a person, and limits that hold everywhere.

A setting's title, description and limits travel in the dataclass field's metadata. The Prefect form shows them,
the API's schema enforces them, and `check` enforces them again for whoever builds the configuration in Python.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

_LIMITS: dict[str, tuple[str, Callable[[Any, float], bool]]] = {
    "ge": ("at least", lambda value, limit: value >= limit),
    "gt": ("above", lambda value, limit: value > limit),
    "le": ("at most", lambda value, limit: value <= limit),
    "lt": ("below", lambda value, limit: value < limit),
    "min_length": ("at least this long:", lambda value, limit: len(value) >= limit),
    "max_length": ("at most this long:", lambda value, limit: len(value) <= limit),
}


def setting(default: Any, title: str, description: str, **limits: float) -> Any:
    """Declare one field of a configuration.

    Args:
        default: the value of `tiny()`; a callable makes a fresh value (a nested configuration, a tuple's factory).
        title: what a person calls it; the label in the form.
        description: what it does, with range and unit in words; the help line in the form.
        limits: any of ge, gt, le, lt, min_length, max_length.

    Returns:
        A dataclass field.

    Raises:
        TypeError: a limit has an unknown name.

    Source:
        Ours. Pydantic reads the same metadata keys from a standard-library dataclass field.
    """
    unknown = set(limits) - set(_LIMITS)
    if unknown:
        raise TypeError(f"unknown limits {sorted(unknown)}; known are {sorted(_LIMITS)}.")
    metadata = {"title": title, "description": description, **limits}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check(configuration: Any) -> None:
    """Hold a configuration to the limits of its settings; to be called from `__post_init__`.

    Args:
        configuration: an instance of a dataclass whose fields were declared with `setting`.

    Raises:
        ValueError: a value is outside its limits; the message names class, field, value, limit and meaning.

    Source:
        Ours.
    """
    for field in dataclasses.fields(configuration):
        value = getattr(configuration, field.name)
        for name, (words, holds) in _LIMITS.items():
            if name in field.metadata and not holds(value, field.metadata[name]):
                raise ValueError(
                    f"{type(configuration).__name__}.{field.name} must be {words} {field.metadata[name]}, "
                    f"got {value!r}. {field.metadata['description']}"
                )
