"""Captions in a column of a CSV or TSV file with a header (RFC 4180: a quoted cell may hold separators and line ends).

Python's `csv` has the last word on where a row ends. Where a quote is not closed, or something follows it, the row's
first line is malformed and reading goes on behind that line, so that one stray quote does not swallow the file.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.files.columns import Columns
from penstock.consumer.prompts.files.concept_table import NO_CONCEPT, ConceptTable
from penstock.consumer.prompts.files.records import (
    Malformed,
    MalformedRecordError,
    Scanned,
    are_plain_captions,
    check_caption,
    check_concept,
    line_ends,
    line_starts,
)
from penstock.protocol.errors import ConfigError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
_UNFINISHED = "unexpected end of data"
"""What `csv` says where a quoted cell is not closed."""


def read_header(where: str, head: bytes, separator: str) -> tuple[list[str], int, int]:
    """Names of the columns, where the rows begin, and how many lines come before. Raises ConfigError."""
    ends = line_ends(head, final=True)
    rows = _read_rows(_split_lines(head.decode("utf-8", "surrogateescape")), separator, final=True)
    place = next((place for place, cells in enumerate(rows.cells) if cells), None)
    if place is None:
        return [], len(head), len(ends)
    cells, num_lines = rows.cells[place], rows.end(place)
    try:
        if isinstance(cells, csv.Error):
            raise ConfigError(f"prompts.source: the header of {where} cannot be read: {cells}")
        "".join(cells).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"prompts.source: the header of {where} is not UTF-8") from error
    return [cell.strip() for cell in cells], int(ends[num_lines - 1]), num_lines


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of some lines."""

    cells: list[list[str] | csv.Error]
    """Of each row, none where it is blank; or why it cannot be read."""
    firsts: list[int]
    """The line in which each begins."""
    num_lines: int
    """Lines that belong to them."""

    def end(self, place: int) -> int:
        """The line behind a row."""
        return self.firsts[place + 1] if place + 1 < len(self.firsts) else self.num_lines


class Delimited:
    """One caption a row.

    Args:
        separator: of cells.
        header: names of the columns.
        columns: which of them are read.
        concepts: numbers the concepts.
    """

    def __init__(self, separator: str, header: list[str], columns: Columns, concepts: ConceptTable) -> None:
        self._separator = separator
        self._width = len(header)
        self._caption = header.index(columns.caption)
        self._concept = header.index(columns.concept) if columns.concept else None
        self._concepts = concepts
        self.name = f"cells between {separator!r}: {columns.caption!r}, {columns.concept!r}"

    def scan(self, data: bytes, final: bool) -> Scanned:
        """See `RecordFormat`."""
        ends = line_ends(data, final)
        # What is not UTF-8 becomes halves of surrogate pairs, so that only the rows that hold it are lost.
        lines = _split_lines(data[: int(ends[-1]) if len(ends) else 0].decode("utf-8", "surrogateescape"))
        rows = _read_rows(lines, self._separator, final)
        num_bytes = int(ends[rows.num_lines - 1]) if rows.num_lines else 0
        starts = line_starts(ends)
        codes = self._plain_codes(rows)
        if codes is not None:
            return Scanned(num_bytes, rows.num_lines, starts[np.array(rows.firsts, np.int64)], codes, [])
        good: list[int] = []
        numbers: list[int] = []
        malformed = []
        for place, (first, cells) in enumerate(zip(rows.firsts, rows.cells, strict=True)):
            try:
                if cells:
                    concept = self._read(cells)[1]
                    good.append(first)
                    numbers += [self._concepts[concept]] if concept else []
            except MalformedRecordError as error:
                malformed.append(Malformed(int(starts[first]), int(ends[rows.end(place) - 1]), first, str(error)))
        found = np.array(numbers, np.int32)
        return Scanned(num_bytes, rows.num_lines, starts[np.array(good, np.int64)], found, malformed)

    def parse(self, data: bytes) -> tuple[str, str]:
        """See `RecordFormat`."""
        if b'"' not in data:
            # Without quotes a row is a line, and its cells need no reader.
            return self._read(data.splitlines()[0].decode("utf-8", "surrogateescape").split(self._separator))
        try:
            text = io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")
            cells = next(csv.reader(text, delimiter=self._separator, strict=True))
        except (csv.Error, StopIteration) as error:
            raise MalformedRecordError(str(error) or "the row is not there") from error
        return self._read(cells)

    def _plain_codes(self, rows: _Rows) -> NDArray[np.int32] | None:
        """The concepts of all rows where all can be seen at once to be good; None where each must be looked at."""
        cells = [row for row in rows.cells if not isinstance(row, csv.Error)]
        if len(cells) < len(rows.cells) or {*map(len, cells)} != {self._width}:
            return None
        if not are_plain_captions([row[self._caption] for row in cells]):
            return None
        if self._concept is None:
            return np.zeros(0, np.int32)
        table, place = self._concepts, self._concept
        codes = np.array([table[row[place]] for row in cells], np.int32)
        return None if NO_CONCEPT in codes else codes

    def _read(self, cells: list[str] | csv.Error) -> tuple[str, str]:
        """Caption and concept of a row. Raises MalformedRecordError."""
        if isinstance(cells, csv.Error):
            why = "a quote is not closed" if str(cells) == _UNFINISHED else str(cells)
            raise MalformedRecordError(why)
        if len(cells) != self._width:
            raise MalformedRecordError(f"it has {len(cells)} cells, the header has {self._width}")
        caption = check_caption(cells[self._caption])
        return caption, "" if self._concept is None else check_concept(cells[self._concept])


def _split_lines(text: str) -> list[str]:
    r"""Lines with their ends: \n, \r\n or \r and no other, which str.splitlines would add."""
    return list(io.StringIO(text, newline=""))


def _read_rows(lines: list[str], separator: str, final: bool) -> _Rows:
    """All rows of lines; unless they are the `final` ones, without the last row where it may go on.

    Where a row cannot be read its first line stands for it, and reading goes on behind that.
    """
    cells: list[list[str] | csv.Error] = []
    firsts: list[int] = []
    first = 0
    while first < len(lines):
        begun = first
        rest = _from(lines, begun) if begun else lines
        reader = csv.reader(rest, delimiter=separator, strict=True)
        try:
            for row in reader:
                cells.append(row)
                firsts.append(first)
                first = begun + reader.line_num
        except csv.Error as error:
            if str(error) == _UNFINISHED and not final:
                break
            cells.append(error)
            firsts.append(first)
            first += 1
    return _Rows(cells, firsts, first)


def _from(lines: list[str], first: int) -> Iterator[str]:
    for place in range(first, len(lines)):
        yield lines[place]
