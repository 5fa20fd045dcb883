"""A YAML file read into a dataclass with nothing guessed: a mistake ends as `file:line: key: what is wrong`.

The nodes of `yaml.compose` are converted by the dataclass's types, never by YAML's own: `1e-3` is a float
where a float is asked for, `no` is refused where text is asked for, and `1:30` is not ninety. Nothing is
constructed from tags, so a file cannot run code.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import yaml

from penstock.protocol.errors import ConfigError

T = TypeVar("T")

NULL_TAG = "tag:yaml.org,2002:null"
TEXT_TAG = "tag:yaml.org,2002:str"
PLAIN_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "timestamp", "map", "seq")
}


def read_yaml(cls: type[T], path: Path, shown: str, unread: Mapping[str, Any] | None = None) -> T:
    """Read `path` into the dataclass `cls`; keys that the file leaves out keep their defaults.

    Args:
        shown: the file's name in messages.
        unread: further keys that the file may have, with their types: checked, and then left alone.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or does not fit `cls`.
    """
    return _Reader(shown, unread or {}).section(cls, _compose(path, shown), "")


class Line(NamedTuple):
    """Text of a file, and where it stands."""

    text: str
    number: int
    """Of its line, from 1."""


def read_lists(path: Path, shown: str) -> dict[str, tuple[Line, ...]]:
    """Read a file of named lists of texts, whatever their names.

    Args:
        shown: the file's name in messages.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds something else.
    """
    return _Reader(shown).lists(_compose(path, shown))


def _compose(path: Path, shown: str) -> yaml.Node:
    """The nodes of a file; an empty section for an empty one. Raises ConfigError where it cannot be read."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{shown}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:  # a forbidden character, say a control code: it carries no mark
        raise ConfigError(f"{shown}: not valid YAML: {str(error).splitlines()[0]}") from error
    return root or yaml.MappingNode("tag:yaml.org,2002:map", [])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name nearest to `name`, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def describe(kind: Any) -> str:
    """A type in a user's words: `an integer`, `one of 'fixed', 'adaptive'`, `a list of 2 values`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in args) if len(args) > 1 else repr(args[0])
    if _is_union(kind):
        return " or ".join(describe(arm) for arm in args)
    if origin is tuple:
        return f"a list, each {describe(args[0])}" if args[-1] is Ellipsis else f"a list of {len(args)} values"
    if dataclasses.is_dataclass(kind):
        return "a section of keys"
    return {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        Path: "a path",
        types.NoneType: "null",
    }[kind]


class _Reader:
    """Converts the nodes of one file; holds the file's name for the messages, and the keys that others read."""

    def __init__(self, shown: str, unread: Mapping[str, Any] = types.MappingProxyType({})) -> None:
        self.shown = shown
        self.unread = unread

    def error(self, node: yaml.Node, key: str, what: str) -> ConfigError:
        """The error for `key` at `node`'s line."""
        line = f":{node.start_mark.line + 1}" if node.start_mark else ""
        return ConfigError(f"{self.shown}{line}: {key}: {what}" if key else f"{self.shown}{line}: {what}")

    def section(self, cls: type[T], node: yaml.Node, key: str) -> T:
        """Build the dataclass `cls` from a mapping; `key` is the section's dotted path, empty at the top."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, key, f"expected a section of keys, got {_got(node)}")
        unread = {} if key else self.unread
        hints = {**unread, **typing.get_type_hints(cls)}
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
        values: dict[str, Any] = {}
        key_nodes: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            dotted = f"{key}.{name}" if key else str(name)
            if name is None:
                raise self.error(key_node, key, "a key must be a word, not a list or a section")
            if name not in fields and name not in unread:
                raise self.error(key_node, dotted, f"unknown key{did_you_mean(name, [*fields, *unread])}")
            if name in values:
                first = key_nodes[name].start_mark.line + 1
                raise self.error(key_node, dotted, f"given twice; first in line {first}")
            key_nodes[name] = key_node
            values[name] = self.value(hints[name], value_node, dotted)
        for name, field in fields.items():
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and name not in values:
                raise self.error(node, f"{key}.{name}" if key else name, "required, but the file does not give it")
        try:
            return cls(**{name: value for name, value in values.items() if name in fields})
        except (ValueError, ConfigError) as error:
            raise self.blame(error, node, key_nodes, key) from error

    def lists(self, node: yaml.Node) -> dict[str, tuple[Line, ...]]:
        """Named lists of texts of a mapping."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, "", f"expected named lists of texts, got {_got(node)}")
        found: dict[str, tuple[Line, ...]] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, "", "a key must be a word, not a list or a section")
            name = str(key_node.value)
            if name in found:
                raise self.error(key_node, name, "given twice")
            texts = self.value(tuple[str, ...], value_node, name)
            numbers = [item.start_mark.line + 1 for item in value_node.value]
            found[name] = tuple(Line(text, number) for text, number in zip(texts, numbers, strict=True))
        return found

    def blame(self, error: Exception, node: yaml.Node, key_nodes: Mapping[str, yaml.Node], key: str) -> ConfigError:
        """Place a validation error at the key that its text begins with (`a must`), else at its section."""
        first_word = str(error).split(" ", 1)[0].partition(".")[0]
        return self.error(key_nodes.get(first_word, node), key, str(error))

    def value(self, kind: Any, node: yaml.Node, key: str) -> Any:
        """Convert one node to `kind`."""
        if node.tag not in PLAIN_TAGS:
            raise self.error(node, key, f"tags such as {node.tag} are not allowed")
        if dataclasses.is_dataclass(kind):
            return self.section(typing.cast(type[Any], kind), node, key)
        if _is_union(kind):
            return self.union(kind, node, key)
        if typing.get_origin(kind) is tuple:
            return self.sequence(kind, node, key)
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(node, key, f"expected {describe(kind)}, got {_got(node)}")
        if typing.get_origin(kind) is Literal:
            return self.choice(kind, node, key)
        try:
            return SCALARS[kind](node)
        except ValueError:
            hint = " (in quotes it is text)" if kind is str else ""
            raise self.error(node, key, f"expected {describe(kind)}, got {_got(node)}{hint}") from None

    def union(self, kind: Any, node: yaml.Node, key: str) -> Any:
        """The first arm of a union that takes the node; null goes before all others."""
        arms = typing.get_args(kind)
        if types.NoneType in arms and node.tag == NULL_TAG:
            return None
        wanted = [arm for arm in arms if arm is not types.NoneType]
        if len(wanted) == 1:
            return self.value(wanted[0], node, key)
        for arm in wanted:
            try:
                return self.value(arm, node, key)
            except ConfigError:
                continue
        raise self.error(node, key, f"expected {describe(kind)}, got {_got(node)}")

    def sequence(self, kind: Any, node: yaml.Node, key: str) -> tuple[Any, ...]:
        """A YAML list into `tuple[X, ...]` or a tuple of fixed length."""
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, key, f"expected {describe(kind)}, got {_got(node)}")
        args = typing.get_args(kind)
        kinds = [args[0]] * len(node.value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(node.value):
            raise self.error(node, key, f"expected {describe(kind)}, got {len(node.value)}")
        pairs = enumerate(zip(kinds, node.value, strict=True))
        return tuple(self.value(item_kind, item, f"{key}[{i}]") for i, (item_kind, item) in pairs)

    def choice(self, kind: Any, node: yaml.ScalarNode, key: str) -> Any:
        """One of a `Literal`'s values, compared as written."""
        choices = typing.get_args(kind)
        for choice in choices:
            written = ("true" if choice else "false") if isinstance(choice, bool) else str(choice)
            if node.value == written:
                return choice
        near = did_you_mean(node.value, [str(choice) for choice in choices])
        raise self.error(node, key, f"expected {describe(kind)}, got '{node.value}'{near}")


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _got(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a section of keys"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    kind = "text" if node.tag == TEXT_TAG else node.tag.rpartition(":")[2]
    return "null" if node.tag == NULL_TAG else f"{kind} '{node.value}'"


def _int(node: yaml.ScalarNode) -> int:
    if node.style is not None or (node.value.lstrip("+-").startswith("0") and node.value.strip("+-0_")):
        raise ValueError  # "8" is text; 010 is eight to YAML and ten to the reader
    return int(node.value)


def _float(node: yaml.ScalarNode) -> float:
    number = float(node.value) if node.style is None else math.nan
    if not math.isfinite(number):
        raise ValueError
    return number


def _bool(node: yaml.ScalarNode) -> bool:
    if node.style is not None or node.value not in ("true", "false"):
        raise ValueError  # YAML's yes, no, on and off are refused: one way to say it
    return str(node.value) == "true"


def _str(node: yaml.ScalarNode) -> str:
    if node.tag != TEXT_TAG:
        raise ValueError
    return str(node.value)


SCALARS: Mapping[type, Callable[[yaml.ScalarNode], Any]] = {
    int: _int,
    float: _float,
    bool: _bool,
    str: _str,
    Path: lambda node: Path(_str(node)),
}
