"""From the words by which a person names captions to the captions: files of any format, or data sets.

A file of ten million rows is gone through once, in seconds, and stays where it is.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from penstock.consumer.making_config import PromptsConfig
from penstock.consumer.prompts.files.arrow_columns import open_parquet, spool
from penstock.consumer.prompts.files.columns import Columns, choose_columns
from penstock.consumer.prompts.files.concept_table import ConceptTable
from penstock.consumer.prompts.files.delimited import SEPARATORS, Delimited, read_header
from penstock.consumer.prompts.files.file_captions import FileCaptions
from penstock.consumer.prompts.files.hugging_face import is_hugging_face, open_hugging_face
from penstock.consumer.prompts.files.indexed_file import IndexedFile
from penstock.consumer.prompts.files.json_lines import JsonLines, read_fields
from penstock.consumer.prompts.files.malformed import MalformedRows
from penstock.consumer.prompts.files.records import BYTE_ORDER_MARK, MAX_RECORD_BYTES, RecordFormat
from penstock.consumer.prompts.files.text_lines import TextLines, has_concepts
from penstock.imagesets.shards import find_shards
from penstock.protocol.errors import ConfigError

_log = logging.getLogger(__name__)

_JSON = (".jsonl", ".ndjson", ".json")
_PARQUET = (".parquet",)
_TEXT = (".txt",)
_MAX_FILES = 512
"""Files that are open as long as the run goes on."""


def open_captions(config: PromptsConfig) -> FileCaptions:
    """The captions of `config.source`. Raises ConfigError where there are none, or where some cannot be used."""
    malformed, concepts = MalformedRows(config.malformed), ConceptTable()
    if _is_data_set(config.source):
        tables = open_hugging_face(config.source, config.caption_column, config.concept_column)
        file, what = spool(config.source, tables, malformed, concepts)
        files, formats = [file], [what]
    else:
        paths = _find_files(config.source)
        if paths[0].suffix.lower() in _PARQUET:
            tables = open_parquet(paths, config.caption_column, config.concept_column)
            file, what = spool(config.source, tables, malformed, concepts)
            files, formats = [file], [what]
        else:
            opener = _FileOpener(config, malformed, concepts)
            files = [opened for path in paths if (opened := opener.open(path)) is not None]
            formats = opener.formats
    malformed.check()
    if not sum(map(len, files)):
        raise ConfigError(f"prompts.source: {config.source} has no captions; write one a line")
    digest = hashlib.sha256("\n".join([*formats, *(file.digest for file in files)]).encode()).hexdigest()
    captions = FileCaptions(files, digest, concepts)
    captions.check_concepts(config.source)
    return captions


def _is_data_set(spec: str) -> bool:
    """Whether a source is a data set of Hugging Face's. Raises ConfigError where it cannot be a path."""
    try:
        return is_hugging_face(spec)
    except (OSError, RuntimeError) as error:  # a name that is too long, the home of a user who is not there
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"prompts.source: cannot read {spec[:80]}: {why}") from error


def _find_files(spec: str) -> Sequence[Path]:
    """The files that a path, a folder or a pattern means, sorted; all of one format. Raises ConfigError."""
    path = Path(spec).expanduser()
    try:
        if path.is_file():
            return [path]
        found = find_shards(str(path), "", (*_TEXT, *SEPARATORS, *_JSON, *_PARQUET))
    except ConfigError as error:
        raise ConfigError(f"prompts.source: {error}") from error
    except OSError as error:
        raise ConfigError(f"prompts.source: cannot read {spec}: {error.strerror or error}") from error
    suffixes = sorted({path.suffix.lower() for path in found})
    if len(suffixes) > 1:
        raise ConfigError(
            f"prompts.source: {spec} has files of several formats ({', '.join(suffixes)}); name those of one, "
            f"such as {spec.rstrip('/') if path.is_dir() else '...'}/*{suffixes[0]}"
        )
    if len(found) > _MAX_FILES and suffixes[0] not in _PARQUET:
        raise ConfigError(f"prompts.source: {spec} names {len(found)} files, at most {_MAX_FILES} can be; join some")
    return found


class _FileOpener:
    """Opens files of one format, one after the other: the first says what the others must have.

    Args:
        config: names the columns.
        malformed: counts the rows that are none.
        concepts: numbers the concepts.
    """

    def __init__(self, config: PromptsConfig, malformed: MalformedRows, concepts: ConceptTable) -> None:
        self._config = config
        self._malformed = malformed
        self._concepts = concepts
        self._columns: Columns | None = None
        self._tagged: bool | None = None
        self.formats: list[str] = []
        """What was read of each file."""

    def open(self, path: Path) -> IndexedFile | None:
        """The captions of a file; None where it is empty. Raises ConfigError."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
            head = os.pread(descriptor, MAX_RECORD_BYTES, 0)
        except OSError as error:
            raise ConfigError(f"prompts.source: cannot read {path}: {error.strerror}") from error
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ConfigError(f"prompts.source: {path} is UTF-16; save it as UTF-8")
        mark = len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0
        # One that begins with a MiB of empty lines is read to its end.
        if not head[mark:].strip() and len(head) < MAX_RECORD_BYTES:
            os.close(descriptor)
            _log.warning("prompts.source: %s has no captions", path)
            return None
        form, begin, line = self._format(path, head[mark:])
        self.formats.append(form.name)
        return IndexedFile(str(path), descriptor, form, self._malformed, mark + begin, line)

    def _format(self, path: Path, head: bytes) -> tuple[RecordFormat, int, int]:
        """How its captions stand in a file, where they begin, and how many lines come before."""
        suffix = path.suffix.lower()
        if suffix in SEPARATORS:
            header, begin, line = read_header(str(path), head, SEPARATORS[suffix])
            columns = self._choose(path, header)
            return Delimited(SEPARATORS[suffix], header, columns, self._concepts), begin, line
        if suffix in _JSON:
            return JsonLines(self._choose(path, read_fields(str(path), head)), self._concepts), 0, 0
        for setting, column in (
            ("caption_column", self._config.caption_column),
            ("concept_column", self._config.concept_column),
        ):
            if column:
                raise ConfigError(f"prompts.{setting} is of tables: {path} is read as text, got {column!r}")
        if self._tagged is None:
            self._tagged = has_concepts(head)
        return TextLines(self._concepts if self._tagged else None), 0, 0

    def _choose(self, path: Path, names: Sequence[str]) -> Columns:
        first = self._columns
        if first is None:
            self._columns = choose_columns(str(path), names, self._config.caption_column, self._config.concept_column)
            return self._columns
        choose_columns(str(path), names, first.caption, first.concept)
        return first
