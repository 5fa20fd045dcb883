"""From what a column says of classes to names and places.

Datasets say them as names, as numbers with names elsewhere (`ClassLabel`), or as bare numbers. A bare number is its own
place, so that a split in which a class does not occur numbers the others alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.protocol.errors import ConfigError

_MAX_CLASSES = 1_000_000
"""Bare numbers beyond are no classes, but identities."""


@dataclass(frozen=True, slots=True)
class Labels:
    """classes: their names. places: int64 [N], where in `classes` each row's stands; None where there are none."""

    classes: tuple[str, ...] = ()
    places: NDArray[np.int64] | None = None

    def names_by_row(self, num_rows: int) -> list[str]:
        """Each row's class by name, length N; empty texts where there are no labels."""
        if self.places is None:
            return [""] * num_rows
        return [self.classes[place] for place in self.places.tolist()]


def read_labels(values: Sequence[object] | None, where: str, names: Sequence[str] = ()) -> Labels:
    """Labels from a column's values.

    Args:
        values: names or numbers; None, an empty text and -1 are none. None where the set has no such column.
        where: the set, for errors.
        names: of the classes, where the column holds places in them.

    Raises ConfigError where some rows have a label and some have none, or where a number is no place.
    """
    if values is None:
        return Labels()
    missing = [value in (None, "", -1, "-1") for value in values]
    if all(missing):
        return Labels()
    if any(missing):
        raise ConfigError(f"{where} has labels, but row {missing.index(True)} and {sum(missing) - 1} others have none")
    numbers = _numbers(values)
    if numbers is None:
        return place([str(value).strip() for value in values], where, names)
    classes = tuple(names) or tuple(str(number) for number in range(_num_classes(numbers, where)))
    outside = [number for number in numbers if not 0 <= number < len(classes)]
    if outside:
        raise ConfigError(f"{where} has the label {outside[0]}; its classes are 0 to {len(classes) - 1}")
    return Labels(classes, np.array(numbers, np.int64))


def _numbers(values: Sequence[object]) -> list[int] | None:
    """The values as integers, or None where one of them is none."""
    numbers = []
    for value in values:
        try:
            number = int(str(value))
        except ValueError:
            return None
        numbers.append(number)
    return numbers


def _num_classes(numbers: Sequence[int], where: str) -> int:
    if max(numbers) >= _MAX_CLASSES:
        raise ConfigError(f"{where} has the label {max(numbers)}: a number must be below {_MAX_CLASSES} to be a class")
    return max(max(numbers) + 1, 1)


def place(texts: Sequence[str], where: str, names: Sequence[str] = ()) -> Labels:
    """Labels from the name of each row's class; the classes are `names`, or all that occur, sorted.

    Raises ConfigError where one is not among `names`.
    """
    classes = tuple(names) or tuple(sorted(set(texts)))
    places = {name: number for number, name in enumerate(classes)}
    unknown = [text for text in texts if text not in places]
    if unknown:
        raise ConfigError(f"{where} has the label {unknown[0]!r}; its classes are {', '.join(classes[:8])}")
    return Labels(classes, np.array([places[text] for text in texts], np.int64))
