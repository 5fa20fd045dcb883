"""What no decoded header may contain, found by a reader of our own, straight from msgpack's specification.

It shares nothing with the codec and nothing with msgpack's library, so a limit or a check that the codec loses is seen
as soon as a frame slips through.
"""

import math
import struct
from dataclasses import dataclass

MAX_LIST_LENGTH, MAX_STRING_BYTES, MAX_NESTING, MAX_VALUES, MAX_HEADER_BYTES = 4096, 8192, 6, 1 << 15, 1 << 20
"""As docs/protocol.md states them."""

_INTEGERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_FLOATS = {0xCA: ">f", 0xCB: ">d"}
_STRINGS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
_MAPS = {0xDE: ">H", 0xDF: ">I"}
_LISTS = {0xDC: ">H", 0xDD: ">I"}


class Forbidden(Exception):  # noqa: N818 - it says what was found
    """What the frame contains that no message may."""


@dataclass
class _Reader:
    frame: bytes
    at: int = 0
    num_values: int = 0

    def number(self, form: str) -> float:
        size = struct.calcsize(form)
        (value,) = struct.unpack_from(form, self.frame, self.at)
        self.at += size
        return value  # type: ignore[no-any-return]

    def value(self, depth: int) -> object:
        self.num_values += 1
        first = self.frame[self.at]
        self.at += 1
        if first <= 0x7F or first >= 0xE0:
            return first if first <= 0x7F else first - 256
        if first <= 0x8F or first in _MAPS:
            return self.map(first & 15 if first <= 0x8F else int(self.number(_MAPS[first])), depth + 1)
        if first <= 0x9F or first in _LISTS:
            return self.list(first & 15 if first <= 0x9F else int(self.number(_LISTS[first])), depth + 1)
        if first <= 0xBF or first in _STRINGS:
            return self.string(first & 31 if first <= 0xBF else int(self.number(_STRINGS[first])))
        if first in _INTEGERS:
            return self.number(_INTEGERS[first])
        if first in _FLOATS:
            value = self.number(_FLOATS[first])
            if not math.isfinite(value):
                raise Forbidden("a number that is not finite")
            return value
        if first in (0xC2, 0xC3):
            return first == 0xC3
        raise Forbidden(f"the type byte {first:#04x}")

    def map(self, length: int, depth: int) -> dict[str, object]:
        self.check(length, depth)
        result: dict[str, object] = {}
        for _ in range(length):
            key = self.value(depth)
            if not isinstance(key, str):
                raise Forbidden("a key that is no string")
            if key in result:
                raise Forbidden("a key given twice")
            result[key] = self.value(depth)
        return result

    def list(self, length: int, depth: int) -> list[object]:
        self.check(length, depth)
        return [self.value(depth) for _ in range(length)]

    def check(self, length: int, depth: int) -> None:
        if length > MAX_LIST_LENGTH:
            raise Forbidden(f"a map or list of {length} entries")
        if depth > MAX_NESTING:
            raise Forbidden(f"{depth} levels")

    def string(self, size: int) -> str:
        if size > MAX_STRING_BYTES:
            raise Forbidden(f"a string of {size} bytes")
        data = self.frame[self.at : self.at + size]
        self.at += size
        return data.decode()


def forbidden(frame: bytes) -> str:
    """What `frame` contains that no message may, or an empty text."""
    if len(frame) > MAX_HEADER_BYTES:
        return "too many bytes"
    reader = _Reader(frame)
    try:
        tree = reader.value(0)
    except (Forbidden, IndexError, struct.error, UnicodeDecodeError) as error:
        return repr(error)
    if not isinstance(tree, dict):
        return "no map"
    if reader.num_values - 1 > MAX_VALUES:
        return f"{reader.num_values} values"
    return "" if reader.at == len(frame) else "bytes after the map"
