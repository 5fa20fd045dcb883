"""Which columns of a table hold the captions and their concepts."""

from collections.abc import Iterable
from dataclasses import dataclass

from penstock.imagesets.columns import CAPTION, find_column
from penstock.protocol.errors import ConfigError

_CONCEPT = ("concept", "label", "class", "class_name", "category")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of two columns."""

    caption: str
    concept: str
    """Empty where captions have no concepts."""


def choose_columns(where: str, there: Iterable[str], caption: str, concept: str) -> Columns:
    """The columns that are asked for, or those that have the usual names.

    Args:
        where: the table's name, for errors.
        there: names of its columns.
        caption: name of the column of captions; empty for whichever has a usual name.
        concept: likewise, of concepts; it may then be missing.

    Raises ConfigError where a column is not there, or stands there twice.
    """
    names = list(there)
    shown = ", ".join(names[:20]) or "none"
    for setting, name in (("caption_column", caption), ("concept_column", concept)):
        if name and name not in names:
            raise ConfigError(f"prompts.{setting}: {where} has no column {name!r}; its columns are {shown}")
    found = caption or find_column(names, CAPTION)
    if found is None:
        raise ConfigError(
            f"prompts.source: {where} has no column of captions ({', '.join(CAPTION[:4])}); its columns are {shown}; "
            "name it by --prompts.caption-column (the first line of a CSV or TSV file is its header)"
        )
    others = [name for name in names if name != found]
    chosen = Columns(found, concept or find_column(others, _CONCEPT) or "")
    for name in (chosen.caption, chosen.concept):
        if name and names.count(name) > 1:
            raise ConfigError(f"prompts.source: {where} has {names.count(name)} columns {name!r}; give each its name")
    return chosen
