"""Dataclasses as JSON, both ways: what is read has every field, and the types that are stated.

A file that a user hands in may be of another version or cut off: each fault is one ValueError that names the place.
Fields that are not known are those that a later version has added, and are passed over.
"""

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def write(path: Path, value: Any) -> None:
    """Write a dataclass as JSON, whole or not at all.

    Raises:
        ValueError: a figure is NaN or infinite.
        OSError: `path` cannot be written.
    """
    text = json.dumps(dataclasses.asdict(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def read(kind: type[T], value: object, place: str = "") -> T:
    """A dataclass from plain values.

    Args:
        kind: a dataclass whose fields are numbers, texts, truth values, literals, dataclasses, tuples, mappings from
            text, or None beside one of these.
        value: what `json.loads` made of it.
        place: of the value in the file, for errors.

    Raises:
        ValueError: a field is missing or of another type.
    """
    return typing.cast(T, _read(kind, value, place))


def _read(kind: Any, value: object, place: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _read(inner, value, place)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{place.lstrip('.')}: must be one of {', '.join(arguments)}, got {value!r}")
        return value
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, _expect(value, dict, place), place)
    if origin is tuple:
        items = _expect(value, list, place)
        return tuple(_read(arguments[0], item, f"{place}[{number}]") for number, item in enumerate(items))
    if origin is not None and issubclass(origin, Mapping):
        return {
            name: _read(arguments[1], item, f"{place}.{name}") for name, item in _expect(value, dict, place).items()
        }
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    found = _expect(value, kind, place)
    if isinstance(found, float) and not math.isfinite(found):
        raise ValueError(f"{place.lstrip('.')}: must be finite, got {found}")
    return found


def _read_fields(kind: Any, values: dict[str, object], place: str) -> Any:
    hints = typing.get_type_hints(kind)
    read_fields = {}
    for field in dataclasses.fields(kind):
        if field.name in values:
            read_fields[field.name] = _read(hints[field.name], values[field.name], f"{place}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{f'{place}.{field.name}'.lstrip('.')}: missing")
    return kind(**read_fields)


def _expect(value: object, kind: Any, place: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{place.lstrip('.') or 'the file'}: must be {kind.__name__}, got {type(value).__name__}")
    return value
