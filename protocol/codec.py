"""Messages to bytes and back: one msgpack map per message, checked field by field against the message's own types.

A decoder that builds objects from bytes it does not trust must refuse early and say why. So: sizes and nesting are
limited before anything is allocated; extension types, timestamps, NaN, duplicate and unknown keys are refused;
every error names the field, what was expected and what came. Wire format: docs/protocol.md.
"""

import types
import typing
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

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


def encode(message: Message, header: Header) -> bytes:
    """The msgpack header frame of `message`. A RESULT's pixels travel in a frame of their own."""
    envelope: dict[str, object] = {
        "v": PROTOCOL_VERSION,
        "t": message.kind,
        "run": header.run,
        "inc": header.incarnation,
        "seq": header.seq,
    }
    return typing.cast(bytes, msgpack.packb(envelope | _plain(message)))


def decode(frame: bytes | memoryview) -> tuple[Header, Message]:
    """The header and message in `frame`.

    Raises:
        VersionError: the message states another protocol version (REJECT is read in any version).
        MessageError: anything else that is not a message; `reason` names the kind of fault.
    """
    envelope = _unpack(frame)
    _require_keys(envelope, ("v", "t"))
    kind = envelope.pop("t")
    version = envelope.pop("v")
    if type(version) is not int or version != PROTOCOL_VERSION:
        if kind == Reject.kind and "reason" in envelope:
            return Header(), Reject(reason=_string(envelope["reason"], "REJECT.reason"))
        raise VersionError(_shown(version), PROTOCOL_VERSION)
    cls = MESSAGE_TYPES.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise MessageError("unknown_type", f"no message has the type {_shown(kind)}")
    _require_keys(envelope, ("run", "inc", "seq"))
    run = _string(envelope.pop("run"), "run")
    incarnation, seq = _integer(envelope.pop("inc"), "inc"), _integer(envelope.pop("seq"), "seq")
    try:
        header = Header(run=run, incarnation=incarnation, seq=seq)
    except ValueError as error:
        raise MessageError("bad_value", str(error)) from error
    return header, typing.cast(Message, _build(cls, envelope, cls.kind))


def _shown(value: Any) -> str:
    """A stranger's value for an error, cut short before it is written out: the text of a list could fill the memory."""
    if isinstance(value, str):
        return repr(value[:40])
    return repr(value) if isinstance(value, int | float | None) else type(value).__name__


def _require_keys(envelope: dict[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        if key not in envelope:
            raise MessageError("missing_field", f"the header has no {key!r}")


def _plain(value: Any) -> Any:
    """A dataclass as a map, a tuple as a list; everything else as it is."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


# --- bytes to plain values -------------------------------------------------------------------------------------------


def _unpack(frame: bytes | memoryview) -> dict[str, Any]:
    if len(frame) > MAX_HEADER_BYTES:
        raise MessageError("oversize", f"header of {len(frame)} bytes, the limit is {MAX_HEADER_BYTES}")
    _check_structure(frame)
    try:
        value = msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            max_str_len=MAX_STRING_BYTES,
            max_bin_len=0,
            max_array_len=MAX_LIST_LENGTH,
            max_map_len=MAX_LIST_LENGTH,
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


def _build(cls: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise MessageError("wrong_type", f"{where} must be a map, got {type(value).__name__}")
    parsers = _parsers(cls)
    for key in value:
        if key not in parsers:
            raise MessageError("unknown_field", f"{where} has no field {key!r:.40}")
    for key in parsers:
        if key not in value:
            raise MessageError("missing_field", f"{where} lacks the field {key!r}")
    built = {key: parse(value[key], f"{where}.{key}") for key, parse in parsers.items()}
    try:
        return cls(**built)
    except ValueError as error:
        raise MessageError("bad_value", f"{where}: {error}") from error


_PARSERS: dict[type[Any], dict[str, Callable[[Any, str], Any]]] = {}


def _parsers(cls: type[Any]) -> dict[str, Callable[[Any, str], Any]]:
    """One parser for each field of `cls`, read from its type hints at first use."""
    if cls not in _PARSERS:
        hints = typing.get_type_hints(cls)
        _PARSERS[cls] = {field.name: _parser(hints[field.name]) for field in fields(cls)}
    return _PARSERS[cls]


def _parser(hint: Any) -> Callable[[Any, str], Any]:
    if is_dataclass(hint):
        return lambda value, where: _build(typing.cast(type[Any], hint), value, where)
    if typing.get_origin(hint) is tuple:
        item = _parser(typing.get_args(hint)[0])
        return lambda value, where: _tuple(value, where, item)
    if isinstance(hint, types.GenericAlias) and hint.__origin__ is dict:
        return _string_map
    return _SCALARS[hint]


def _tuple(value: Any, where: str, item: Callable[[Any, str], Any]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise MessageError("wrong_type", f"{where} must be a list, got {type(value).__name__}")
    return tuple(item(entry, f"{where}[{position}]") for position, entry in enumerate(value))


def _string_map(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise MessageError("wrong_type", f"{where} must be a map, got {type(value).__name__}")
    return {_string(key, where): _string(entry, f"{where}.{key}") for key, entry in value.items()}


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise MessageError("wrong_type", f"{where} must be a string, got {type(value).__name__}")
    return value


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise MessageError("wrong_type", f"{where} must be an integer, got {type(value).__name__}")
    if not -1 <= value <= MAX_INT:
        raise MessageError("bad_value", f"{where} must be in [-1, 2**63), got {value}")
    return value


def _number(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise MessageError("wrong_type", f"{where} must be a number, got {type(value).__name__}")
    if not isfinite(value):
        raise MessageError("bad_value", f"{where} must be finite, got {value}")
    return float(value)


def _boolean(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise MessageError("wrong_type", f"{where} must be true or false, got {type(value).__name__}")
    return value


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {str: _string, int: _integer, float: _number, bool: _boolean}
