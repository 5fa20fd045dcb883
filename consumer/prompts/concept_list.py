"""A list of concepts: a file with one a line, and other spellings of it after `|`.

golden retriever
cat | tabby | kitten
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from penstock.protocol.errors import ConfigError
from penstock.protocol.limits import MAX_NAME_LENGTH
from penstock.protocol.tickets import normalise_prompt


@dataclass(frozen=True, slots=True)
class ConceptList:
    """C concepts, in the file's order."""

    names: tuple[str, ...]
    """[C] the first spelling of each."""
    spellings: tuple[tuple[str, ...], ...]
    """[C] all spellings of each, its name among them."""

    @property
    def digest(self) -> str:
        """Changes where a spelling or the order does."""
        return hashlib.sha256("\n".join("|".join(each) for each in self.spellings).encode()).hexdigest()


def read_concepts(path: Path) -> ConceptList:
    """Read a list of concepts; empty lines are passed over.

    Raises ConfigError, with the line, where the file cannot be read, holds no concept, an empty or overlong spelling, a
    control character, or a spelling twice.
    """
    try:
        # "utf-8-sig" drops the mark that some editors put first; the reader turns \r\n into \n.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"prompts.concepts: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts.concepts: {path} is not UTF-8 at byte {error.start}") from error
    spellings: list[tuple[str, ...]] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            spellings.append(_read_line(f"prompts.concepts: {path}:{number}", line, number, first_line))
    if not spellings:
        raise ConfigError(f"prompts.concepts: {path} has no concepts; write one a line, other spellings after |")
    return ConceptList(tuple(each[0] for each in spellings), tuple(spellings))


def _read_line(where: str, line: str, number: int, first_line: dict[str, int]) -> tuple[str, ...]:
    """The spellings of a line, which are noted in `first_line`."""
    spellings = tuple(spelling.strip() for spelling in line.split("|"))
    for spelling in spellings:
        if not spelling:
            raise ConfigError(f"{where}: an empty spelling; write NAME | OTHER SPELLING | ...")
        if not spelling.isprintable():
            raise ConfigError(f"{where}: {spelling[:40]!r} holds a control character; write one concept a line")
        if len(spelling) > MAX_NAME_LENGTH:
            raise ConfigError(f"{where}: {spelling[:40]!r}... is longer than {MAX_NAME_LENGTH} characters")
        # As prompts are compared: two that differ in case alone are one label to the losses.
        first = first_line.setdefault(normalise_prompt(spelling), number)
        if first != number or spellings.count(spelling) > 1:
            raise ConfigError(f"{where}: {spelling!r} stands in line {first} already; give each spelling once")
    return spellings
