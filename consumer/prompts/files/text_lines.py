"""Captions of text, one a line: `CAPTION`, or `CONCEPT<tab>CAPTION` in all lines. Blank lines are no rows.

Whole chunks are checked at once; only lines in which something may be amiss are looked at one by one.
"""

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.files.concept_table import NO_CONCEPT, ConceptTable
from penstock.consumer.prompts.files.records import (
    Malformed,
    MalformedRecordError,
    Scanned,
    first_lines,
    line_ends,
    line_starts,
)
from penstock.protocol.limits import MAX_PROMPT_BYTES

_TAB = 9
# What str.strip strips, by its first byte in UTF-8, and for those that other characters share by its second.
_BLANK = np.zeros(256, bool)
_BLANK[[9, 10, 11, 12, 13, 28, 29, 30, 31, 32]] = True
_BLANK_PAIRS = np.zeros((256, 256), bool)
for _first, _seconds in {0xC2: (0x85, 0xA0), 0xE1: (0x9A,), 0xE2: (0x80, 0x81), 0xE3: (0x80,)}.items():
    _BLANK_PAIRS[_first, list(_seconds)] = True


def has_concepts(head: bytes) -> bool:
    """Whether the first row of a file has a concept."""
    return any(b"\t" in line for _, line in [*first_lines(head)][:1])


class TextLines:
    """One caption a line.

    Args:
        concepts: numbers the concepts that the lines name; None where they have none.
    """

    def __init__(self, concepts: ConceptTable | None) -> None:
        self._concepts = concepts
        self.name = "text" if concepts is None else "text with concepts"

    def scan(self, data: bytes, final: bool) -> Scanned:
        """See `RecordFormat`."""
        ends = line_ends(data, final)
        starts = line_starts(ends)
        num_bytes = int(ends[-1]) if len(ends) else 0
        # One byte more, so that the byte behind every line's first can be looked at.
        values = np.frombuffer(data[:num_bytes] + b"\n", np.uint8)
        tabs = np.flatnonzero(values == _TAB)
        captions, suspect = starts, ends - starts > MAX_PROMPT_BYTES
        if self._concepts is not None:
            captions, suspect = self._behind_tabs(tabs, starts, ends)
            suspect |= _may_be_blank(values, captions)
        elif len(tabs):
            suspect[np.searchsorted(ends, tabs, side="right")] = True
        suspect |= _may_be_blank(values, starts)
        if not _is_utf8(data[:num_bytes]):
            suspect[:] = True
        good, malformed = ~suspect, []
        for line in np.flatnonzero(suspect).tolist():
            start, end = int(starts[line]), int(ends[line])
            try:
                good[line] = bool(self._read(data[start:end]))
            except MalformedRecordError as error:
                malformed.append(Malformed(start, end, line, str(error)))
        codes = self._codes(data, starts, captions, good, suspect)
        return Scanned(num_bytes, len(ends), starts[good], codes, malformed)

    def parse(self, data: bytes) -> tuple[str, str]:
        """See `RecordFormat`."""
        found = self._read(data.splitlines()[0] if b"\n" in data or b"\r" in data else data)
        if found is None:
            raise MalformedRecordError("the line is blank")
        return found

    def _read(self, line: bytes) -> tuple[str, str] | None:
        """Caption and concept of a line; None where it is blank. Raises MalformedRecordError."""
        if len(line) > MAX_PROMPT_BYTES:
            # A line of many MiB need not be made text to be refused.
            line = line.strip()
            if len(line) - (line.find(b"\t") + 1) > MAX_PROMPT_BYTES:
                raise MalformedRecordError(f"the caption is longer than {MAX_PROMPT_BYTES} bytes")
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            raise MalformedRecordError(f"it is not UTF-8 at byte {error.start} of the line") from error
        if self._concepts is None:
            if "\t" in text:
                raise MalformedRecordError(
                    "it has a tab, the first line has none; give all captions a concept (CONCEPT<tab>CAPTION), or none"
                )
            return (text, "") if text else None
        if not text:
            return None
        concept, tab, caption = text.partition("\t")
        if not tab:
            raise MalformedRecordError(
                f"{text[:40]!r} is not CONCEPT<tab>CAPTION, the first is; give all captions a concept, or none"
            )
        caption = caption.strip()
        if not caption:
            raise MalformedRecordError("the caption is empty")
        return caption, concept.strip()

    def _behind_tabs(
        self, tabs: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where the captions of lines begin, behind their first tab, and which lines have none or are too long."""
        place = np.searchsorted(tabs, starts)
        behind = np.append(tabs, np.iinfo(np.int64).max - 1)[place] + 1
        suspect = (behind >= ends) | (ends - behind > MAX_PROMPT_BYTES)
        return np.where(suspect, starts, behind), suspect

    def _codes(
        self,
        data: bytes,
        starts: NDArray[np.int64],
        captions: NDArray[np.int64],
        good: NDArray[np.bool_],
        suspect: NDArray[np.bool_],
    ) -> NDArray[np.int32]:
        """The concepts of the good lines: [rows]."""
        if self._concepts is None:
            return np.zeros(0, np.int32)
        table = self._concepts
        codes = np.full(len(starts), NO_CONCEPT, np.int32)
        plain = ~suspect
        pairs = zip(starts[plain].tolist(), captions[plain].tolist(), strict=True)
        codes[plain] = [table[data[start : caption - 1]] for start, caption in pairs]
        for line in np.flatnonzero(good & suspect).tolist():
            codes[line] = table[self.parse(data[starts[line] :])[1]]
        return codes[good]


def _may_be_blank(values: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether what begins there begins with white space: [lines]."""
    first = values[starts]
    blank = _BLANK[first]
    wide = np.flatnonzero(first >= 0x80)
    blank[wide] |= _BLANK_PAIRS[first[wide], values[starts[wide] + 1]]
    return blank


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
