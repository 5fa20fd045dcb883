"""Captions in columns of Arrow's tables: Parquet files, and what Hugging Face's datasets are.

Neither can be read one row at a time, in any order, at little cost. So the two columns are gone through once, in
batches, and go as lines of text into a temporary file without a name, which is read as any file of captions is.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.consumer.prompts.files.columns import Columns, choose_columns
from penstock.consumer.prompts.files.concept_table import ConceptTable
from penstock.consumer.prompts.files.indexed_file import IndexedFile
from penstock.consumer.prompts.files.malformed import MalformedRows
from penstock.consumer.prompts.files.text_lines import TextLines
from penstock.protocol.errors import ConfigError
from penstock.protocol.limits import MAX_PROMPT_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_BATCH = 1 << 16
_WHITE_SPACE = "".join(character for character in map(chr, range(0x3001)) if character.isspace())
"""What `str.strip` strips."""


@dataclass(frozen=True, slots=True)
class ArrowTable:
    """Two columns of a table, in batches."""

    name: str
    batches: Iterator["pa.RecordBatch | pa.Table"]
    columns: Columns
    class_names: Sequence[str]
    """Names of the classes whose numbers the column of concepts holds; none where it holds names."""


def open_parquet(paths: Sequence[Path], caption: str, concept: str) -> Iterator[ArrowTable]:
    """The columns of Parquet files; later ones must have those of the first. Raises ConfigError."""
    parquet, pa = import_arrow()
    columns: Columns | None = None
    for path in paths:
        try:
            file = parquet.ParquetFile(path)
            schema = file.schema_arrow
            found = choose_columns(str(path), schema.names, caption, concept)
            if columns is None:
                columns = found
                caption, concept = columns.caption, columns.concept
            wanted = [name for name in (columns.caption, columns.concept) if name]
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error
        yield ArrowTable(str(path), _batches(path, file, wanted), columns, _class_names(schema, columns.concept))


def _batches(path: Path, file: Any, wanted: Sequence[str]) -> Iterator["pa.RecordBatch"]:
    """Columns of a file, in batches. Raises ConfigError where what comes is damaged, whatever the schema promised."""
    _, pa = import_arrow()
    try:
        yield from file.iter_batches(ROWS_PER_BATCH, columns=wanted)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"prompts.source: {path} cannot be read as Parquet: {_one_line(error)}")


def import_arrow() -> tuple[Any, Any]:
    """The modules `pyarrow.parquet` and `pyarrow`. Raises ConfigError where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("prompts.source: Parquet files need pyarrow: pip install 'penstock[data]'") from error
    return pyarrow.parquet, pyarrow


def spool(
    name: str, tables: Iterable[ArrowTable], malformed: MalformedRows, concepts: ConceptTable
) -> tuple[IndexedFile, str]:
    """The captions of tables as a file of text, and what was read of them.

    Raises ConfigError where a column holds no text, most rows are malformed, or there is no room for the file.
    """
    tagged, what = False, ""
    try:
        with tempfile.TemporaryFile(prefix="penstock-prompts-") as file:
            for table in tables:
                tagged = bool(table.columns.concept)
                what = f"columns: {table.columns.caption!r}, {table.columns.concept!r}"
                _spool_table(table, file.fileno(), malformed)
            descriptor = os.dup(file.fileno())
    except OSError as error:
        raise ConfigError(
            f"prompts.source: the captions of {name} cannot be kept in {tempfile.gettempdir()} ({error.strerror}); "
            "set TMPDIR to a folder with room for them"
        ) from error
    return IndexedFile(name, descriptor, TextLines(concepts if tagged else None), malformed), what


def _spool_table(table: ArrowTable, descriptor: int, malformed: MalformedRows) -> None:
    """Write a table's good rows as lines."""
    reader = _RowReader(table, malformed)
    for batch in table.batches:
        lines = reader.lines(batch)
        with memoryview(lines) as left:
            done = 0
            while done < len(left):
                done += os.write(descriptor, left[done:])
    reader.check(final=True)


class _RowReader:
    """Turns the rows of one table into lines, and counts those that are malformed."""

    def __init__(self, table: ArrowTable, malformed: MalformedRows) -> None:
        self._table = table
        self._malformed = malformed
        self._num_rows = 0
        self._num_malformed = 0
        self._first = ""

    def check(self, *, final: bool) -> None:
        """Raises ConfigError where most rows are malformed."""
        num_good = self._num_rows - self._num_malformed
        self._malformed.check_file(self._table.name, self._num_malformed, num_good, self._first, final=final)

    def lines(self, batch: "pa.RecordBatch | pa.Table") -> "pa.Buffer | bytes":
        """The good rows of a batch: `CAPTION`, or `CONCEPT<tab>CAPTION`, and a line end each."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns, names = self._table.columns, self._table.class_names
        parts = [self._texts(batch.column(columns.caption), columns.caption, ())]
        if columns.concept:
            parts.insert(0, self._texts(batch.column(columns.concept), columns.concept, names))
        good = np.ones(len(parts[0]), bool)
        for part in parts:
            lengths = pc.fill_null(pc.binary_length(part), 0).to_numpy(zero_copy_only=False)
            good &= (lengths > 0) & (lengths <= MAX_PROMPT_BYTES)
        for row in np.flatnonzero(~good).tolist():
            self._note(self._num_rows + row, [part[row].as_py() for part in parts])
        self._num_rows += len(good)
        self.check(final=False)
        kept = parts if good.all() else [part.filter(good) for part in parts]
        tab, end, nothing = (pa.scalar(text, pa.large_string()) for text in ("\t", "\n", ""))
        rows = kept[0] if len(kept) == 1 else pc.binary_join_element_wise(*kept, tab)
        return _values(pc.binary_join_element_wise(rows, nothing, end))

    def _texts(self, column: Any, name: str, class_names: Sequence[str]) -> "pa.Array":
        """A column as text without white space around it, on one line; null where it is not UTF-8, or nothing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(values, pa.ChunkedArray):
            values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if class_names:
            inside = pc.and_(pc.greater_equal(values, 0), pc.less(values, len(class_names)))
            values = pa.array(class_names, pa.large_string()).take(pc.if_else(inside, values, None))
        is_number = pa.types.is_integer(values.type) and name == self._table.columns.concept
        if not (is_number or _is_text(pa, values.type)):
            raise ConfigError(f"prompts.source: column {name!r} of {self._table.name} holds {values.type}, not text")
        if not is_number:
            values = _decoded(pa, values)
        texts = pc.utf8_trim(values.cast(pa.large_string()), _WHITE_SPACE)
        content = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
        for end in "\r\n\t":
            if (content == ord(end)).any():
                texts = pc.replace_substring(texts, end, " ")
        return texts

    def _note(self, row: int, parts: list[str | None]) -> None:
        caption = parts[-1]
        if caption is not None and len(caption.encode()) > MAX_PROMPT_BYTES:
            why = f"the caption is longer than {MAX_PROMPT_BYTES} bytes"
        elif caption:
            why = "the concept is missing, or too long"
        else:
            why = "the caption is missing, empty or not UTF-8"
        where = f"{self._table.name}: row {row + 1}"
        self._first = self._first or f"{where}: {why}"
        self._num_malformed += 1
        self._malformed.add(where, why)


def _is_text(pa: Any, kind: "pa.DataType") -> bool:
    types = pa.types
    checks = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(check(kind) for check in checks)


def _decoded(pa: Any, values: "pa.Array") -> "pa.Array":
    """Strings that are UTF-8 indeed; null where bytes are not."""
    try:
        values = values.cast(pa.large_binary()).cast(pa.large_string())
        values.validate(full=True)
    except pa.ArrowInvalid:
        values = pa.array([_text(value) for value in values.cast(pa.large_binary()).to_pylist()], pa.large_string())
    return values


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _values(lines: "pa.Array") -> "pa.Buffer | bytes":
    """The text of all strings of an array, one behind the other."""
    _, offsets, values = lines.buffers()
    if values is None or not len(lines):
        return b""
    first, last = np.frombuffer(offsets, np.int64)[[lines.offset, lines.offset + len(lines)]].tolist()
    return values.slice(first, last - first)


def _class_names(schema: "pa.Schema", concept: str) -> Sequence[str]:
    """Names of the classes, where Hugging Face's description of the columns travels with the file."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names: Sequence[str] = told["info"]["features"][concept].get("names", ())
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
    return names


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
