"""Hostile headers without end, from a seed: msgpack trees that are nearly messages, and bytes that are nearly msgpack.

Nothing here uses the codec. Half of the frames are mutated as trees of values and packed by a packer that lies now and
then about lengths, doubles keys and slips in forbidden types; half are mutated as bytes.
"""

import random
import struct
from collections.abc import Sequence
from typing import Any

import msgpack

HUGE = (2**16, 2**31 - 1, 2**32 - 1)
INTEGERS = (
    -(2**63),
    -(2**31),
    -2,
    -1,
    0,
    1,
    127,
    128,
    255,
    256,
    4096,
    4097,
    2**16,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
)
NUMBERS = (float("nan"), float("inf"), float("-inf"), 1e308, -0.0, 0.5, 3, 2**64 - 1)
STRINGS = ("", " ", "\x00", "\n", "x" * 201, "x" * 8192, "x" * 8193, "\U0001f98a" * 2048)
STRANGE = (
    *(None, True, False, b"", b"\x00" * 9, [], {}, [[]], {"": {}}),
    *(msgpack.ExtType(5, b""), msgpack.ExtType(5, b"1234"), msgpack.ExtType(5, b"123"), msgpack.Timestamp(1, 5)),
)
KEYS = (
    "v",
    "t",
    "run",
    "inc",
    "seq",
    "index",
    "attempt",
    "held",
    "tickets",
    "recipe",
    "manifest",
    "reason",
    "\x00",
    "",
)
BYTES = bytes([*range(0x80, 0x84), 0x90, 0x91, 0x92, 0xA0, 0xA1, *range(0xC0, 0xE0), 0x00, 0x7F, 0xFF])


class Mutator:
    """Frames to throw at a decoder, the same for the same seed.

    Args:
        seed: of its random numbers.
        messages: good headers, to be mutated as trees.
        corpus: frames of any kind, to be mutated as bytes.
    """

    def __init__(self, seed: int, messages: Sequence[bytes], corpus: Sequence[bytes]) -> None:
        self.rng = random.Random(seed)
        self.corpus = list(corpus)
        self._short = [frame for frame in corpus if len(frame) < 2000]
        self._trees = [msgpack.unpackb(frame) for frame in messages]

    def frame(self) -> bytes:
        """The next frame; about one in six is a message as it should be."""
        draw = self.rng.random()
        if draw < 0.12:
            return self._pack(self.rng.choice(self._trees), lie=0.0)
        if draw < 0.5:
            return self.mutated(self.rng.choice(self._trees))
        if draw < 0.97:
            return self._mutated_bytes(self.rng.choice(self._short if self.rng.random() < 0.99 else self.corpus))
        if draw < 0.9995:
            return self._stream()
        return self._flood()

    # --- trees --------------------------------------------------------------------------------------------------------

    def mutated(self, message: dict[str, Any]) -> bytes:
        """One message's plain values, changed in a few places and packed, at times with lies."""
        return self._pack(self._mutated_tree(message), lie=self.rng.choice((0.0, 0.0, 0.0, 0.02, 0.2)))

    def _mutated_tree(self, message: dict[str, Any]) -> Any:
        tree = _copy(message)
        for _ in range(self.rng.choice((1, 1, 1, 2, 4))):
            places = list(_places(tree)) or [({"x": 0}, "x")]
            box, key = self.rng.choice(places)
            self._mutate(box, key, roomy=len(places) < 400)
        return tree

    def _mutate(self, box: Any, key: Any, roomy: bool) -> None:
        """Change what stands in one place; only a `roomy` tree grows, since growth upon growth has no end."""
        match self.rng.randrange(10):
            case 0 | 1 | 2 | 3:
                box[key] = self._hostile(box[key])
            case 8 | 9 if roomy and isinstance(box[key], dict | list):
                box[key] = self._grown(box[key])
            case 3:
                del box[key]
            case 4:
                box[key] = self._wrapped(box[key])
            case 5:
                other, from_key = self.rng.choice(list(_places(self.rng.choice(self._trees))))
                box[key] = _copy(other[from_key])
            case 6 if isinstance(box, dict):
                box[self.rng.choice(KEYS)] = self._hostile("")
            case 7:
                box[key] = _copy(self.rng.choice(STRANGE))
            case _:
                box[key] = self.rng.choice(INTEGERS)

    def _hostile(self, value: Any) -> Any:
        """Something of the value's own type, mostly: it passes the first checks."""
        of_type = {bool: (0, 1, not value), int: INTEGERS, float: NUMBERS, str: STRINGS}.get(type(value), STRANGE)
        return _copy(self.rng.choice(of_type if self.rng.random() < 0.8 else STRANGE))

    def _grown(self, value: Any) -> Any:
        """More of the same, at times one more than any limit allows."""
        small = len(value) < 4 and self.rng.random() < 0.1
        count = self.rng.choice((65, 65, 4096, 4097) if small else (0, 1, 2, 3))
        if isinstance(value, list):
            return (value * count)[:4097]
        return value | {f"k{number}": next(iter(value.values()), "") for number in range(count)}

    def _wrapped(self, value: Any) -> Any:
        for _ in range(self.rng.choice((1, 2, 6, 7, 40))):
            value = [value] if self.rng.random() < 0.5 else {"x": value}
        return value

    def _pack(self, value: Any, lie: float) -> bytes:
        """msgpack of `value`, sometimes in odd widths and orders; each head of a length lies with chance `lie`."""
        if lie == 0 and self.rng.random() < 0.7:
            return msgpack.packb(value)
        out = bytearray()
        self._pack_into(out, value, lie)
        return bytes(out)

    def _pack_into(self, out: bytearray, value: Any, lie: float) -> None:
        if isinstance(value, dict):
            pairs = list(value.items())
            if pairs and self.rng.random() < lie:
                pairs.append(self.rng.choice(pairs))
            self.rng.shuffle(pairs)
            out += self._header(len(pairs), (0x80, 15, None, 0xDE, 0xDF), lie)
            for key, item in pairs:
                self._pack_into(out, key, lie)
                self._pack_into(out, item, lie)
        elif isinstance(value, list):
            out += self._header(len(value), (0x90, 15, None, 0xDC, 0xDD), lie)
            for item in value:
                self._pack_into(out, item, lie)
        elif isinstance(value, str):
            data = value.encode("utf-8", "surrogatepass")
            out += self._header(len(data), (0xA0, 31, 0xD9, 0xDA, 0xDB), lie) + data
        elif type(value) is int and 0 <= value < 2**32 and self.rng.random() < 0.2:
            out += b"\xcf" + struct.pack(">Q", value)
        else:
            out += msgpack.packb(value)

    def _header(self, length: int, form: tuple[int, int, int | None, int, int], lie: float) -> bytes:
        """The head of a string, list or map in its shortest form or a longer one."""
        fix, fix_max, one, two, four = form
        if self.rng.random() < lie:
            length = self.rng.choice((*HUGE, length + 1, max(0, length - 1), 0, length + 255))
        width = self.rng.choice((0, 0, 0, 0, 0, 0, 1, 2, 4))
        if width == 0 and length <= fix_max:
            return bytes([fix | length])
        if one is not None and width <= 1 and length < 2**8:
            return bytes([one, length])
        if width <= 2 and length < 2**16:
            return bytes([two]) + struct.pack(">H", length)
        return bytes([four]) + struct.pack(">I", length)

    # --- bytes --------------------------------------------------------------------------------------------------------

    def _mutated_bytes(self, frame: bytes) -> bytes:
        data = bytearray(frame)
        for _ in range(self.rng.choice((1, 1, 2, 3, 8))):
            at = self.rng.randrange(len(data) + 1)
            match self.rng.randrange(7):
                case 0 if at < len(data):
                    data[at] ^= 1 << self.rng.randrange(8)
                case 1 if at < len(data):
                    data[at] = self.rng.choice(BYTES)
                case 2:
                    del data[at : at + self.rng.choice((1, 2, 8, 64))]
                case 3:
                    data[at:at] = self.rng.randbytes(self.rng.choice((1, 2, 4, 16)))
                case 4:
                    other = self.rng.choice(self.corpus)
                    data[at:] = other[self.rng.randrange(len(other) + 1) :]
                case 5:
                    del data[at:]
                case _:
                    data[at : at + 4] = struct.pack(">I", self.rng.choice(HUGE))
        return bytes(data)

    def _stream(self) -> bytes:
        """Any bytes that msgpack gives a meaning to, one after another."""
        return b"".join(
            self.rng.choice((b"\x81\xa1x", b"\x91", b"\xa1v", b"\xdc\x00\x02", bytes([self.rng.choice(BYTES)])))
            for _ in range(self.rng.choice((3, 30, 300)))
        )

    def _flood(self) -> bytes:
        """About a mebibyte of what is dear for its bytes: empty maps, wide strings, repeated keys, long texts."""
        item = self.rng.choice(
            (
                *(b"\x80", b"\x90", b"\xa0", b"\x81\xa1a\x00", b"\xcf" + b"\xff" * 8, b"\xc4\x00"),
                *(msgpack.packb(text) for text in ("\U0001f98a" + "b" * 27, "\x01" * 8000 + "\U0001f98a", "x" * 8192)),
            )
        )
        inner = _list([item] * min(4096, 2**20 // len(item)))
        key = self.rng.choice(("v", "t", "run", "index", "reason", "held"))
        body = _list([inner] * min(4096, (2**20 - 300) // len(inner)) or [item])
        message = {k: v for k, v in self.rng.choice(self._trees).items() if k != key}
        if self.rng.random() < 0.25:
            keys = b"".join(msgpack.packb(f"{number:05}") + b"\x00" for number in range(4095))
            return b"\xde\x10\x00" + keys + msgpack.packb("04094") + b"\x00"
        return bytes([0x80 | min(15, len(message) + 1)]) + msgpack.packb(key) + body + msgpack.packb(message)[1:]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _places(value: Any) -> Any:
    """Every (container, key) of the tree."""
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def _list(items: Sequence[bytes]) -> bytes:
    return b"\xdc" + struct.pack(">H", len(items)) + b"".join(items)
