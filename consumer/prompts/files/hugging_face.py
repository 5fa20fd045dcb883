"""Captions of the library `datasets`: by name (`hf:NAME[:SPLIT]`), or a folder that `save_to_disk` wrote.

https://huggingface.co/docs/datasets
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock.consumer.prompts.files.arrow_columns import ROWS_PER_BATCH, ArrowTable
from penstock.consumer.prompts.files.columns import choose_columns
from penstock.imagesets.hugging_face import PREFIX, is_saved
from penstock.protocol.errors import ConfigError


def is_hugging_face(spec: str) -> bool:
    """Whether a source is a data set of Hugging Face's."""
    return spec.startswith(PREFIX) or is_saved(Path(spec).expanduser())


def open_hugging_face(spec: str, caption: str, concept: str) -> Iterator[ArrowTable]:
    """The columns of one split. Raises ConfigError where it cannot be loaded, or has no captions."""
    datasets = _import_datasets()
    place, _, split = spec.removeprefix(PREFIX).partition(":")
    if not place:
        raise ConfigError(f"prompts.source: {PREFIX} must be followed by the name of a data set, {PREFIX}NAME[:SPLIT]")
    folder = Path(place).expanduser()
    try:
        found = datasets.load_from_disk(str(folder)) if is_saved(folder) else datasets.load_dataset(place)
    except (OSError, ValueError, RuntimeError, ImportError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(f"prompts.source: {spec} does not load: {_first_line(error)}") from error
    rows = _choose(datasets, place, found, split)
    columns = choose_columns(spec, rows.features, caption, concept)
    names = getattr(rows.features[columns.concept], "names", ()) if columns.concept else ()
    wanted = [name for name in (columns.caption, columns.concept) if name]
    batches = rows.select_columns(wanted).with_format("arrow").iter(ROWS_PER_BATCH)
    yield ArrowTable(spec, batches, columns, names)


def _import_datasets() -> Any:
    try:
        import datasets
        import datasets.exceptions
    except ImportError as error:
        raise ConfigError(
            "prompts.source: Hugging Face's data sets need the library datasets: pip install 'penstock[data]'"
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _choose(datasets: Any, place: str, found: Any, split: str) -> Any:
    """The set of one split."""
    if isinstance(found, datasets.Dataset):
        own = str(found.split or "")
        if split and split != own:
            raise ConfigError(f"prompts.source: {place} has no split {split!r}; it is {own or 'not split'}")
        return found
    if not split and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        what = f"no split {split!r}" if split else "several splits"
        raise ConfigError(
            f"prompts.source: {place} has {what}; there is {', '.join(found)}; write {PREFIX}{place}:SPLIT"
        )
    return found[split]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
