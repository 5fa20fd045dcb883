"""What every format of captions does: find its records in a run of bytes, and read one of them.

A file is gone through once, at its opening, a run of bytes at a time: every record is checked, and a few of their
offsets are kept. Later a record is read by its offset, by the same rules.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.protocol.limits import MAX_PROMPT_BYTES

MAX_RECORD_BYTES: Final = 1 << 20
"""Bytes of one row with all its columns; a longer one is malformed."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
"""Some editors put it first in UTF-8."""

_LINE_FEED, _CARRIAGE_RETURN = 10, 13
_ONE_LINE = str.maketrans("\r\n\t", "   ")


class MalformedRecordError(Exception):
    """A record that is no caption, and why."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A record that is left out."""

    start: int
    """Its first byte."""
    end: int
    """Behind its last."""
    line: int
    """Lines before it."""
    why: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a run of bytes holds; offsets and lines count from its beginning."""

    num_bytes: int
    """How far it was read: to the end of its last whole record."""
    num_lines: int
    """Lines in these."""
    starts: NDArray[np.int64]
    """Where each good row begins: [rows]."""
    codes: NDArray[np.int32]
    """Its concept, by a `ConceptTable`: [rows]; empty where rows have none."""
    malformed: list[Malformed]


class RecordFormat(Protocol):
    """How captions stand in a file. Records are parted by line ends; one may hold line ends itself."""

    @property
    def name(self) -> str:
        """Of the format and the columns that are read: another name may mean other captions in the same bytes."""

    def scan(self, data: bytes, final: bool) -> Scanned:
        """Find and check the records of `data`, which begins with one.

        Args:
            data: some bytes of a file.
            final: whether the file ends with them; if not, an unfinished record at the end is left for the next call.
        """

    def parse(self, data: bytes) -> tuple[str, str]:
        """Caption and concept (empty where rows have none) of the record that `data` begins with.

        Raises MalformedRecordError.
        """


def line_ends(data: bytes, final: bool, *, lone_returns: bool = True) -> NDArray[np.int64]:
    r"""Where the lines of `data` end, behind their \n, \r\n or \r: int64 [lines].

    Args:
        data: some bytes of a file.
        final: whether the file ends with them: then the last line needs no end.
        lone_returns: whether a lone \r ends a line too.
    """
    values = np.frombuffer(data, np.uint8)
    is_end = values == _LINE_FEED
    if lone_returns and b"\r" in data:
        is_return = values == _CARRIAGE_RETURN
        is_return[:-1] &= values[1:] != _LINE_FEED
        # The other half of a pair may still come.
        is_return[-1] &= final
        is_end |= is_return
    ends = np.flatnonzero(is_end) + 1
    if final and data and (not len(ends) or ends[-1] != len(data)):
        ends = np.append(ends, len(data))
    return ends.astype(np.int64, copy=False)


def first_line_end(data: bytes) -> int:
    """Where the first line ends; -1 where it may go on."""
    ends = line_ends(data, final=False)
    return int(ends[0]) if len(ends) else -1


def line_starts(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the lines begin that end there: [lines]."""
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1]
    return starts


def check_caption(text: str) -> str:
    """A caption without white space around it, on one line. Raises MalformedRecordError where it can be no prompt."""
    text = text.strip()
    if not text:
        raise MalformedRecordError("the caption is empty")
    if "\n" in text or "\r" in text or "\t" in text:
        text = text.translate(_ONE_LINE)
    if not is_encodable(text):
        raise MalformedRecordError("the caption is not UTF-8")
    if len(text) * 4 > MAX_PROMPT_BYTES and len(text.encode()) > MAX_PROMPT_BYTES:
        raise MalformedRecordError(f"the caption is longer than {MAX_PROMPT_BYTES} bytes")
    return text


def check_concept(text: str) -> str:
    """The name of a concept without white space around it. Raises MalformedRecordError where there is none."""
    text = text.strip()
    if not text:
        raise MalformedRecordError("the concept is empty")
    if not is_encodable(text):
        raise MalformedRecordError("the concept is not UTF-8")
    return text


def is_encodable(text: str) -> bool:
    """Whether no half of a surrogate pair stands alone in `text`; what is not UTF-8 is read as such."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def are_plain_captions(texts: list[str]) -> bool:
    """Whether all can be seen at once to be good captions; if not, some may be."""
    if not all(texts) or max(map(len, texts)) * 4 > MAX_PROMPT_BYTES:
        return False
    joined = "".join([text[0] for text in texts])
    if not joined.isprintable() or " " in joined:
        # A caption that begins with white space may hold nothing else.
        return False
    return is_encodable("".join(texts))


def nth_record(form: RecordFormat, pieces: Sequence[bytes], place: int) -> bytes:
    """What begins with the good row in a place of `pieces`. Raises MalformedRecordError where there are fewer.

    Each is read alone: a quote that is open where a piece ends would swallow rows of the next.
    """
    for piece in pieces:
        starts = form.scan(piece, final=True).starts
        if place < len(starts):
            return piece[int(starts[place]) :]
        place -= len(starts)
    raise MalformedRecordError("the row is not there")


def first_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, each with where it begins."""
    ends = line_ends(data, final=True)
    for start, end in zip(line_starts(ends).tolist(), ends.tolist(), strict=True):
        if line := data[start:end].strip():
            yield start, line
