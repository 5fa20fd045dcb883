"""A file of captions, of which memory holds little more than where every fourth row begins.

Ten million captions of 60 bytes cost 20 MB. A row costs one read of the four rows around it, which come from the
operating system's cache where there is memory to spare.
"""

import hashlib
import os
import weakref
from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.files.malformed import MalformedRows
from penstock.consumer.prompts.files.records import (
    MAX_RECORD_BYTES,
    MalformedRecordError,
    RecordFormat,
    Scanned,
    first_line_end,
    nth_record,
)
from penstock.protocol.errors import ConfigError, RunError

if TYPE_CHECKING:
    from hashlib import _Hash

_CHUNK_BYTES: Final = 1 << 19
"""Bytes that are checked at once. More of them leave the processor's caches, and keep the garbage collector busy."""
_MAX_ROWS_PER_BLOCK: Final = 4
"""Rows between two offsets that are kept: more of them cost less memory and longer reads."""
_BLOCK_BYTES: Final = 4096
"""Bytes of a block, where rows are long."""
_HOLE_BYTES: Final = 1 << 16
"""A malformed record this long is never read again, not even with the rows around it."""
_READS_PER_CHECK: Final = 64
"""Reads after which it is looked whether the file has changed."""


@dataclass(slots=True)
class Index:
    """What the one pass over a file finds."""

    digest: "_Hash"
    """Of its bytes."""
    rows_per_block: int = 0
    """Rows between two offsets; 0 until the first row has come."""
    num_rows: int = 0
    """Good rows."""
    starts: "array[int]" = field(default_factory=lambda: array("q"))
    """Where each block begins, and behind the last its end."""
    codes: list[NDArray[np.int32]] = field(default_factory=list)
    """Concepts of the rows, by a `ConceptTable`, in pieces; empty where they have none."""
    holes: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """By block: where the long malformed records in it begin and end."""
    num_malformed: int = 0
    first_malformed: str = ""


class FileScan:
    """Goes through a file once.

    Args:
        path: what errors call it.
        descriptor: open for reading.
        form: of its records.
        malformed: counts the rows that are none.
        begin: where its records begin.
        line: lines before these.
    """

    def __init__(
        self, path: str, descriptor: int, form: RecordFormat, malformed: MalformedRows, begin: int, line: int
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._form = form
        self._malformed = malformed
        self._offset, self._line = begin, line
        self._index = Index(hashlib.sha256())

    def run(self) -> Index:
        """Raises ConfigError where most of it is malformed."""
        index = self._index
        # What lies before the records, a header, changes what they say.
        index.digest.update(os.pread(self._descriptor, self._offset, 0))
        data, position, too_long = b"", self._offset, -1
        while True:
            piece = os.pread(self._descriptor, _CHUNK_BYTES, position)
            index.digest.update(piece)
            position += len(piece)
            data, final = data + piece, not piece
            if too_long >= 0:
                end = len(data) if final else first_line_end(data)
                if end < 0:
                    self._offset += len(data)
                    data = b""
                    continue
                self._close_hole(too_long, self._offset + end)
                data, too_long = data[end:], -1
            scanned = self._form.scan(data, final)
            self._add(scanned)
            data = data[scanned.num_bytes :]
            if final:
                break
            if len(data) > MAX_RECORD_BYTES:
                self._note(self._line, f"it is longer than {MAX_RECORD_BYTES} bytes, or a quote is not closed")
                too_long = self._offset
        index.starts.append(self._offset)
        self._check(final=True)
        return index

    def _add(self, scanned: Scanned) -> None:
        index = self._index
        if not index.rows_per_block and len(scanned.starts):
            index.rows_per_block = _rows_per_block(scanned.num_bytes / len(scanned.starts))
        for record in scanned.malformed:
            self._note(self._line + record.line, record.why)
            if record.end - record.start > _HOLE_BYTES:
                num_rows = index.num_rows + int(np.searchsorted(scanned.starts, record.start))
                self._add_hole(num_rows, self._offset + record.start, self._offset + record.end)
        if len(scanned.starts):
            first = -index.num_rows % index.rows_per_block
            kept = scanned.starts[first :: index.rows_per_block] + self._offset
            index.starts.frombytes(np.ascontiguousarray(kept).tobytes())
        if len(scanned.codes):
            index.codes.append(scanned.codes)
        index.num_rows += len(scanned.starts)
        self._offset += scanned.num_bytes
        self._line += scanned.num_lines
        self._check(final=False)

    def _close_hole(self, start: int, end: int) -> None:
        self._add_hole(self._index.num_rows, start, end)
        self._offset = end
        self._line += 1

    def _add_hole(self, num_rows: int, start: int, end: int) -> None:
        """Keep a record that comes behind so many rows from being read with the block in which it lies."""
        if num_rows:
            block = (num_rows - 1) // self._index.rows_per_block
            self._index.holes.setdefault(block, []).append((start, end))

    def _note(self, line: int, why: str) -> None:
        index = self._index
        where = f"{self._path}:{line + 1}"
        index.first_malformed = index.first_malformed or f"{where}: {why}"
        index.num_malformed += 1
        self._malformed.add(where, why)

    def _check(self, *, final: bool) -> None:
        index = self._index
        self._malformed.check_file(self._path, index.num_malformed, index.num_rows, index.first_malformed, final=final)


class IndexedFile:
    """The captions of one file, in any order. Threads may share it.

    Args:
        path: what errors call it.
        descriptor: open for reading; closed with this object.
        form: of its records.
        malformed: counts the rows that are none.
        begin: where its records begin.
        line: lines before these.

    Raises ConfigError where most of it is malformed, or where it changes meanwhile.
    """

    def __init__(
        self, path: str, descriptor: int, form: RecordFormat, malformed: MalformedRows, begin: int = 0, line: int = 0
    ) -> None:
        self.close = weakref.finalize(self, os.close, descriptor)
        self._path = path
        self._descriptor = descriptor
        self._form, self._parse = form, form.parse
        self._stamp = _stamp(descriptor)
        index = FileScan(path, descriptor, form, malformed, begin, line).run()
        if _stamp(descriptor) != self._stamp:
            raise ConfigError(f"prompts.source: {path} is being written; begin when it is whole")
        self.digest = index.digest.hexdigest()
        self.codes = index.codes
        """Concepts of the rows, by the format's `ConceptTable`, in pieces."""
        self._num_rows = index.num_rows
        self._rows_per_block = index.rows_per_block or 1
        self._num_in_full_blocks = index.num_rows - index.num_rows % self._rows_per_block
        self._starts = index.starts
        self._holes = index.holes
        self._reads = 0
        self._last: tuple[int, list[bytes], list[bytes]] = (-1, [], [])

    def __len__(self) -> int:
        return self._num_rows

    def caption(self, row: int) -> tuple[str, str]:
        """Caption and concept of a row. Raises RunError where the file has changed."""
        block, place = divmod(row, self._rows_per_block)
        last, pieces, lines = self._last
        if block != last:
            pieces = self._read(block)
            lines = (
                pieces[0].splitlines() if len(pieces) == 1 else [line for one in pieces for line in one.splitlines()]
            )
            # Rows in order, as whoever looks for something in all captions takes them, are read once.
            self._last = (block, pieces, lines)
        # Every row has a line at least: where there are as many of both, each row is one line.
        is_plain = len(lines) == self._rows_per_block and row < self._num_in_full_blocks
        record = lines[place] if is_plain else self._find(block, place, pieces, lines)
        try:
            return self._parse(record)
        except MalformedRecordError as error:
            raise self._changed() from error

    def _find(self, block: int, place: int, pieces: list[bytes], lines: list[bytes]) -> bytes:
        """What begins with the row in a place of a block that is not full, or has other lines than its rows."""
        num_rows = min(self._rows_per_block, self._num_rows - block * self._rows_per_block)
        if len(lines) != num_rows:
            lines = [line for line in lines if line.strip()]
        if len(lines) == num_rows:
            return lines[place]
        try:
            return nth_record(self._form, pieces, place)
        except MalformedRecordError as error:
            raise self._changed() from error

    def _read(self, block: int) -> list[bytes]:
        """The rows of a block, in pieces where long malformed records are between them."""
        self._reads += 1
        if not self._reads % _READS_PER_CHECK and _stamp(self._descriptor) != self._stamp:
            raise self._changed()
        start, end = self._starts[block], self._starts[block + 1]
        bounds = [(start, end)]
        if self._holes and block in self._holes:
            bounds = [*pairwise([start, *(edge for hole in self._holes[block] for edge in hole), end])][::2]
        pieces = []
        for at, to in bounds:
            try:
                piece = os.pread(self._descriptor, to - at, at)
            except OSError as error:
                raise RunError(f"{self._path} cannot be read any more: {error.strerror}") from error
            if len(piece) < to - at:
                raise self._changed()
            pieces.append(piece)
        return pieces

    def _changed(self) -> RunError:
        return RunError(
            f"{self._path} has changed since the run opened it; leave the captions of a run as they are, and resume "
            "with those that it began with"
        )


def _rows_per_block(row_bytes: float) -> int:
    num_rows = _MAX_ROWS_PER_BLOCK
    while num_rows > 1 and num_rows * row_bytes > _BLOCK_BYTES:
        num_rows //= 2
    return num_rows


def _stamp(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns
