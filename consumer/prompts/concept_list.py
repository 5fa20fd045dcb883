"""Lists of concepts: one a line, other spellings of it after `|`."""

from dataclasses import dataclass
from pathlib import Path

from penstock.protocol.errors import ConfigError
from penstock.protocol.tickets import normalise_prompt


@dataclass(frozen=True, slots=True)
class Concept:
    """A thing that captions speak of."""

    name: str
    spellings: tuple[str, ...]
    """The words that name it, its name first."""


def read_concepts(path: Path) -> tuple[Concept, ...]:
    """The concepts of a list, in its order. Empty lines, and those that begin with `#`, are passed over.

    Raises ConfigError where the file cannot be read, is not UTF-8, names no concept, or gives a spelling twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"prompts.concepts: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts.concepts: {path} is not UTF-8 at byte {error.start}") from error
    concepts: list[Concept] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        spellings = [" ".join(part.split()) for part in line.split("|")]
        if spellings == [""] or line.startswith("#"):
            continue
        for spelling in spellings:
            if not spelling:
                raise ConfigError(f"prompts.concepts: {path}:{number}: {line.strip()[:40]!r} has an empty spelling")
            # Spellings that differ in case or white space are found alike.
            first = line_of.setdefault(normalise_prompt(spelling), number)
            if first != number:
                raise ConfigError(f"prompts.concepts: {path}:{number}: {spelling[:40]!r} stands in line {first} too")
        concepts.append(Concept(spellings[0], tuple(spellings)))
    if not concepts:
        raise ConfigError(f"prompts.concepts: {path} names no concept; write one a line")
    return tuple(concepts)
