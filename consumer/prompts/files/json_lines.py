"""Captions in a field of JSON objects, one a line (https://jsonlines.org).

The lines of a chunk are parsed as one array, which is twice as fast as one by one; only where that fails, or gives
another number of values, each is parsed alone.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.files.columns import Columns
from penstock.consumer.prompts.files.concept_table import NO_CONCEPT, ConceptTable
from penstock.consumer.prompts.files.records import (
    MAX_RECORD_BYTES,
    Malformed,
    MalformedRecordError,
    Scanned,
    are_plain_captions,
    check_caption,
    check_concept,
    first_lines,
    line_ends,
    line_starts,
)
from penstock.protocol.errors import ConfigError


def read_fields(where: str, head: bytes) -> list[str]:
    """Names of the fields of a file's first object. Raises ConfigError where it holds none."""
    for _, line in first_lines(head):
        try:
            return list(_read_object(line))
        except MalformedRecordError:
            continue
    if head.strip():
        raise ConfigError(f"prompts.source: {where} is not JSONL; write one object a line")
    return []


class JsonLines:
    """One object a line.

    Args:
        columns: the fields that are read.
        concepts: numbers the concepts.
    """

    def __init__(self, columns: Columns, concepts: ConceptTable) -> None:
        self._columns = columns
        self._concepts = concepts
        self.name = f"JSON: {columns.caption!r}, {columns.concept!r}"

    def scan(self, data: bytes, final: bool) -> Scanned:
        """See `RecordFormat`."""
        # Within a JSON text a lone \\r is white space.
        ends = line_ends(data, final, lone_returns=False)
        starts = line_starts(ends)
        num_bytes = int(ends[-1]) if len(ends) else 0
        codes = self._plain_codes(data[:num_bytes], len(ends))
        if codes is not None and (not len(ends) or (ends - starts).max() <= MAX_RECORD_BYTES):
            return Scanned(num_bytes, len(ends), starts, codes, [])
        good: list[int] = []
        numbers: list[int] = []
        malformed = []
        for line, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            try:
                if data[start:end].strip():
                    concept = self.parse(data[start:end])[1]
                    good.append(line)
                    numbers += [self._concepts[concept]] if concept else []
            except MalformedRecordError as error:
                malformed.append(Malformed(start, end, line, str(error)))
        rows = starts[np.array(good, np.int64)]
        return Scanned(num_bytes, len(ends), rows, np.array(numbers, np.int32), malformed)

    def parse(self, data: bytes) -> tuple[str, str]:
        """See `RecordFormat`."""
        found = _read_object(data.partition(b"\n")[0])
        caption = found.get(self._columns.caption)
        if not isinstance(caption, str):
            raise MalformedRecordError(_no_text(self._columns.caption, caption))
        caption = check_caption(caption)
        if not self._columns.concept:
            return caption, ""
        concept = found.get(self._columns.concept)
        # JSON's true is Python's 1.
        if not isinstance(concept, str | int) or isinstance(concept, bool):
            raise MalformedRecordError(_no_text(self._columns.concept, concept))
        return caption, check_concept(str(concept))

    def _plain_codes(self, data: bytes, num_lines: int) -> NDArray[np.int32] | None:
        """The concepts of all lines where all can be seen at once to be good; None where each must be looked at."""
        try:
            values = json.loads("[" + data.decode().strip().replace("\n", ",") + "]")
        except (ValueError, RecursionError):
            return None
        if len(values) != num_lines or {*map(type, values)} - {dict}:
            return None
        captions = [value.get(self._columns.caption) for value in values]
        if {*map(type, captions)} != {str} or not are_plain_captions(captions):
            return None
        if not self._columns.concept:
            return np.zeros(0, np.int32)
        names = [value.get(self._columns.concept) for value in values]
        if {*map(type, names)} - {str, int}:
            return None
        table = self._concepts
        codes = np.array([table[name] for name in names], np.int32)
        return None if NO_CONCEPT in codes else codes


def _read_object(line: bytes) -> dict[str, Any]:
    """The object of a line. Raises MalformedRecordError."""
    if len(line) > MAX_RECORD_BYTES:
        raise MalformedRecordError(f"the line is longer than {MAX_RECORD_BYTES} bytes")
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise MalformedRecordError(f"it is not UTF-8 at byte {error.start} of the line") from error
    except (ValueError, RecursionError) as error:
        raise MalformedRecordError(f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedRecordError("it is no object")
    return value


def _no_text(field: str, value: object) -> str:
    what = "missing" if value is None else f"no text: {str(value)[:40]!r}"
    return f"{field!r} is {what}"
