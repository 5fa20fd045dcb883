"""Messages to bytes and back: one msgpack map per message, checked field by field against the message's own types.

A decoder that builds objects from bytes it does not trust must refuse early and say why. So: sizes and nesting are
limited before anything is allocated; extension types, timestamps, NaN, duplicate and unknown keys are refused;
every error names the field, what was expected and what came. Wire format: docs/protocol.md.

It stands on the way of every group, so what a class needs is worked out once, the way to a field is put together only
for an error, and the walk that looks for bombs is spared where a frame is too small to hold one.
"""

import types
import typing
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from math import isfinite
from operator import attrgetter
from typing import Any, TypeVar

import msgpack

from penstock.protocol.errors import MessageError, VersionError
from penstock.protocol.limits import (
    MAX_HEADER_BYTES,
    MAX_INT,
    MAX_LIST_LENGTH,
    MAX_NESTING,
    MAX_STRING_BYTES,
    MAX_VALUES,
    PROTOCOL_VERSION,
)
from penstock.protocol.messages import MESSAGE_TYPES, Header, Message, Reject

T = TypeVar("T")

_HARMLESS_BYTES = 1024
"""Larger headers are walked before they are built. In so few bytes some 340 nested lists can each claim 1,023 entries,
for each of which msgpack reserves 8 bytes: 2.8 MB for a moment."""


def encode(message: Message, header: Header) -> bytes:
    """The msgpack header frame of `message`. A RESULT's pixels travel in a frame of their own."""
    envelope: dict[str, object] = {
        "v": PROTOCOL_VERSION,
        "t": message.kind,
        "run": header.run,
        "inc": header.incarnation,
        "seq": header.seq,
    }
    return typing.cast(bytes, msgpack.packb(envelope | _writer(type(message))(message)))


def decode(frame: bytes | memoryview) -> tuple[Header, Message]:
    """The header and message in `frame`.

    Raises:
        VersionError: the message states another protocol version (REJECT is read in any version).
        MessageError: anything else that is not a message; `reason` names the kind of fault.
    """
    if len(frame) > MAX_HEADER_BYTES:
        raise MessageError("oversize", f"header of {len(frame)} bytes, the limit is {MAX_HEADER_BYTES}")
    if len(frame) > _HARMLESS_BYTES:
        _check_structure(frame)
        return _read(frame)
    try:
        return _read(frame)
    except VersionError:
        raise
    except MessageError:
        _check_structure(frame)  # may know better what is wrong
        raise


def _read(frame: bytes | memoryview) -> tuple[Header, Message]:
    """The header and message in a frame that is harmless to build."""
    envelope = _unpack(frame)
    _require_keys(envelope, ("v", "t"))
    kind = envelope.pop("t")
    version = envelope.pop("v")
    if type(version) is not int or version != PROTOCOL_VERSION:
        _check_structure(frame)  # of another version nothing else is checked
        if kind == Reject.kind and "reason" in envelope:
            return Header(), Reject(reason=_at("REJECT.reason", _string, envelope["reason"]))
        raise VersionError(_shown(version), PROTOCOL_VERSION)
    cls = MESSAGE_TYPES.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise MessageError("unknown_type", f"no message has the type {_shown(kind)}")
    _require_keys(envelope, ("run", "inc", "seq"))
    run = _at("run", _string, envelope.pop("run"))
    incarnation, seq = _at("inc", _integer, envelope.pop("inc")), _at("seq", _integer, envelope.pop("seq"))
    try:
        header = Header(run=run, incarnation=incarnation, seq=seq)
    except ValueError as error:
        raise MessageError("bad_value", str(error)) from error
    try:
        return header, typing.cast(Message, _build(cls, envelope))
    except _WrongError as wrong:
        raise wrong.at(cls.kind) from wrong.__cause__


def _at(where: str, parse: Callable[[Any], T], value: Any) -> T:
    try:
        return parse(value)
    except _WrongError as wrong:
        raise wrong.at(where) from None


def _shown(value: Any) -> str:
    """A stranger's value for an error, cut short before it is written out: the text of a list could fill the memory."""
    if isinstance(value, str):
        return repr(value[:40])
    return repr(value) if isinstance(value, int | float | None) else type(value).__name__


def _require_keys(envelope: dict[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        if key not in envelope:
            raise MessageError("missing_field", f"the header has no {key!r}")


# --- messages to plain values -----------------------------------------------------------------------------------------


_WRITERS: dict[type[Any], Callable[[Any], dict[str, Any]]] = {}


def _writer(cls: type[Any]) -> Callable[[Any], dict[str, Any]]:
    """What makes a map of a dataclass: nested ones become maps, tuples lists, everything else stays as it is."""
    if cls not in _WRITERS:
        _WRITERS[cls] = _make_writer(cls)
    return _WRITERS[cls]


def _make_writer(cls: type[Any]) -> Callable[[Any], dict[str, Any]]:
    hints = typing.get_type_hints(cls)
    names = tuple(field.name for field in fields(cls))
    nested = [(name, writer) for name in names if (writer := _value_writer(hints[name]))]
    values_of = attrgetter(*names) if len(names) > 1 else lambda value: (getattr(value, names[0]),)

    def write(value: Any) -> dict[str, Any]:
        plain = dict(zip(names, values_of(value), strict=True))
        for name, writer in nested:
            plain[name] = writer(plain[name])
        return plain

    return write


def _value_writer(hint: Any) -> Callable[[Any], Any] | None:
    """What makes a plain value of one of this type; None where it is plain as it is."""
    if is_dataclass(hint):
        return _writer(typing.cast(type[Any], hint))
    if typing.get_origin(hint) is tuple:
        item = _value_writer(typing.get_args(hint)[0])
        return (lambda value: [item(entry) for entry in value]) if item else list
    return None


# --- bytes to plain values -------------------------------------------------------------------------------------------


def _unpack(frame: bytes | memoryview) -> dict[str, Any]:
    try:
        value = msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            max_str_len=MAX_STRING_BYTES,
            max_bin_len=0,
            # No list can have more entries than there are bytes; what is claimed is reserved before it is read.
            max_array_len=min(MAX_LIST_LENGTH, len(frame)),
            max_map_len=min(MAX_LIST_LENGTH, len(frame)),
            max_ext_len=0,
        )
    except msgpack.ExtraData as error:
        raise MessageError("trailing_bytes", f"{len(error.extra)} bytes follow the header") from error
    except UnicodeDecodeError as error:
        raise MessageError("not_utf8", f"a string is not UTF-8 at its byte {error.start}") from error
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        # StackError and FormatError carry no text of their own.
        detail = str(error) or type(error).__name__
        raise MessageError("malformed", f"{len(frame)} bytes are not msgpack within the limits: {detail}") from error
    if not isinstance(value, dict):
        raise MessageError("malformed", f"a header must be a map, got {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise MessageError("duplicate_key", f"the key {_shown(twice)} is given twice")
    return result


def _check_structure(frame: bytes | memoryview) -> None:
    """Refuse depth, floods and extension types without building anything, by walking the headers of the values."""
    unpacker = msgpack.Unpacker(max_buffer_size=MAX_HEADER_BYTES, strict_map_key=False)
    unpacker.feed(frame)
    open_items = [1]
    num_values = 0
    try:
        while open_items:
            if open_items[-1] == 0:
                open_items.pop()
                continue
            open_items[-1] -= 1
            at = unpacker.tell()
            first = frame[at] if at < len(frame) else -1
            if 0x80 <= first <= 0x9F or 0xDC <= first <= 0xDF:
                open_items.append(_read_container(unpacker, is_map=first <= 0x8F or first >= 0xDE))
                num_values += open_items[-1]
            elif 0xC7 <= first <= 0xC9 or 0xD4 <= first <= 0xD8:
                raise MessageError("extension_type", f"the extension type at byte {at} is not allowed")
            else:
                unpacker.skip()
            if len(open_items) > MAX_NESTING + 1:
                raise MessageError("nesting", f"more than {MAX_NESTING} levels of maps and lists")
            if num_values > MAX_VALUES:
                raise MessageError("too_many_values", f"more than {MAX_VALUES} keys and values in one header")
    except (msgpack.UnpackException, ValueError) as error:
        where = f"at byte {unpacker.tell()} of {len(frame)}"
        raise MessageError("truncated" if isinstance(error, msgpack.OutOfData) else "malformed", where) from error


def _read_container(unpacker: msgpack.Unpacker, *, is_map: bool) -> int:
    """The number of values that a map's or list's header announces, keys included."""
    length: int = unpacker.read_map_header() if is_map else unpacker.read_array_header()
    if length > MAX_LIST_LENGTH:
        what = "map" if is_map else "list"
        raise MessageError("too_long", f"a {what} of {length} entries, the limit is {MAX_LIST_LENGTH}")
    return 2 * length if is_map else length


# --- plain values to messages, by the dataclass's own types -----------------------------------------------------------


class _WrongError(Exception):
    """A value that breaks its rule, before it is known where in the message it stands."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self._reason = reason
        self._path = ""

    def within(self, place: str) -> None:
        """It is seen from one level further out."""
        self._path = place + self._path

    def at(self, root: str) -> MessageError:
        """The error for the reader; `{}` in its text is where the value stands."""
        return MessageError(self._reason, str(self).replace("{}", root + self._path, 1))


def _build(cls: type[Any], value: Any) -> Any:
    if not isinstance(value, dict):
        raise _WrongError("wrong_type", f"{{}} must be a map, got {type(value).__name__}")
    parsers = _parsers(cls)
    if value.keys() != parsers.keys():
        _refuse_keys(value, parsers)
    built = {}
    for key, parse in parsers.items():
        try:
            built[key] = parse(value[key])
        except _WrongError as wrong:
            wrong.within(f".{key}")
            raise
    try:
        return cls(**built)
    except ValueError as error:
        # Whatever the text holds, the place is in front of it.
        raise _WrongError("bad_value", f"{{}}: {error}") from error


def _refuse_keys(value: dict[str, Any], parsers: dict[str, Any]) -> typing.NoReturn:
    for key in value:
        if key not in parsers:
            raise _WrongError("unknown_field", f"{{}} has no field {key!r:.40}")
    missing = next(key for key in parsers if key not in value)
    raise _WrongError("missing_field", f"{{}} lacks the field {missing!r}")


_PARSERS: dict[type[Any], dict[str, Callable[[Any], Any]]] = {}


def _parsers(cls: type[Any]) -> dict[str, Callable[[Any], Any]]:
    """One parser for each field of `cls`, read from its type hints at first use."""
    if cls not in _PARSERS:
        hints = typing.get_type_hints(cls)
        _PARSERS[cls] = {field.name: _parser(hints[field.name]) for field in fields(cls)}
    return _PARSERS[cls]


def _parser(hint: Any) -> Callable[[Any], Any]:
    if is_dataclass(hint):
        return lambda value: _build(typing.cast(type[Any], hint), value)
    if typing.get_origin(hint) is tuple:
        item = _parser(typing.get_args(hint)[0])
        return _integers if item is _integer else lambda value: _tuple(value, item)
    if isinstance(hint, types.GenericAlias) and hint.__origin__ is dict:
        return _string_map
    return _SCALARS[hint]


def _tuple(value: Any, item: Callable[[Any], Any]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _WrongError("wrong_type", f"{{}} must be a list, got {type(value).__name__}")
    position = 0
    try:
        parsed = []
        for position, entry in enumerate(value):  # noqa: B007 - an error names the position
            parsed.append(item(entry))
        return tuple(parsed)
    except _WrongError as wrong:
        wrong.within(f"[{position}]")
        raise


def _integers(value: Any) -> tuple[int, ...]:
    """Looked at as a whole, since a TRACE has thousands of them; one by one only where one is wrong."""
    are_integers = type(value) is list and {*map(type, value)} <= {int}
    if are_integers and min(value, default=0) >= -1 and max(value, default=0) <= MAX_INT:
        return tuple(value)
    return _tuple(value, _integer)


def _string_map(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _WrongError("wrong_type", f"{{}} must be a map, got {type(value).__name__}")
    parsed = {}
    for key, entry in value.items():
        name = _string(key)
        try:
            parsed[name] = _string(entry)
        except _WrongError as wrong:
            wrong.within(f".{name}")
            raise
    return parsed


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongError("wrong_type", f"{{}} must be a string, got {type(value).__name__}")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise _WrongError("wrong_type", f"{{}} must be an integer, got {type(value).__name__}")
    if not -1 <= value <= MAX_INT:
        raise _WrongError("bad_value", f"{{}} must be in [-1, 2**63), got {value}")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _WrongError("wrong_type", f"{{}} must be a number, got {type(value).__name__}")
    if not isfinite(value):
        raise _WrongError("bad_value", f"{{}} must be finite, got {value}")
    return float(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _WrongError("wrong_type", f"{{}} must be true or false, got {type(value).__name__}")
    return value


_SCALARS: dict[Any, Callable[[Any], Any]] = {str: _string, int: _integer, float: _number, bool: _boolean}
