"""Which column of a table holds what, by the names that datasets give them."""

from collections.abc import Iterable, Sequence

from penstock.protocol.errors import ConfigError

IMAGE = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo")
CAPTION = ("caption", "text", "captions", "prompt", "description", "sentence", "sentences", "title", "txt")
LABEL = ("label", "labels", "fine_label", "class", "class_name", "category", "cls", "target")
FILE = ("file_name", "filename", "file", "path", "image")


def find_column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The column that is called by the earliest of `names`, whatever its case; None where none is."""
    by_name = {column.casefold(): column for column in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def no_column(where: str, what: str, names: Sequence[str], columns: Iterable[str]) -> ConfigError:
    """That a table has no column of a kind, and what it has instead."""
    there = ", ".join(columns) or "none"
    return ConfigError(f"{where} has no column of {what} ({', '.join(names)}); its columns are {there}")


def first_text(value: object) -> str:
    """A caption's cell as one text: of several captions the first."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return "" if value is None else str(value)
