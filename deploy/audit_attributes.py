"""What an audit looks for: attributes, whose values prompts name by words and scorers find in images by texts."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from penstock.protocol.errors import ConfigError
from penstock.protocol.tickets import normalise_prompt

FREE, SEVERAL = -1, -2
"""Instead of a value's place: the prompt names none of the attribute, or more than one."""
CONCEPT = "concept"
TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "{}")
"""For scoring where none are given; as zero-shot evaluation has them."""
MAX_VALUES = 1000
"""Of an attribute: every image is held to each of its texts."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of an attribute."""

    name: str
    words: tuple[str, ...]
    """Any of these in a prompt names it."""
    texts: tuple[str, ...]
    """An image shows it as well as it matches the best of these."""


@dataclass(frozen=True)
class Attribute:
    """A question that every image answers, and some prompts do."""

    name: str
    values: tuple[Value, ...]
    is_concept: bool = False
    """Whether the ledger's concept answers for the prompt, and not its words."""

    def named_by(self, prompt: str, concept: str) -> int:
        """The place of the value that a prompt of a concept names; `FREE` or `SEVERAL`."""
        if self.is_concept:
            return self._place_of.get(concept, FREE)
        found = {self._place_of[match[0]] for match in self._pattern.finditer(normalise_prompt(prompt))}
        return FREE if not found else SEVERAL if len(found) > 1 else found.pop()

    @cached_property
    def _place_of(self) -> Mapping[str, int]:
        if self.is_concept:
            return {value.name: place for place, value in enumerate(self.values)}
        return {normalise_prompt(word): place for place, value in enumerate(self.values) for word in value.words}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Whole words; the longest where several begin at one place, so that `light blue` is not `blue`."""
        longest_first = sorted(self._place_of, key=len, reverse=True)
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")


def read_attributes(path: Path, templates: Sequence[str]) -> tuple[Attribute, ...]:
    """Attributes from a YAML file: ATTRIBUTE: [VALUE, ...], or ATTRIBUTE: {VALUE: [WORD, ...], ...}.

    Args:
        path: the file.
        templates: texts for the scorer, in each of which `{}` stands for a word of the value.

    Raises ConfigError where the file cannot be read, or is something else.
    """
    import yaml

    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--attributes {path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--attributes {path}: not UTF-8 text (byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"--attributes {path}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:  # a forbidden character: it carries no mark
        raise ConfigError(f"--attributes {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(told, dict) or not told:
        raise ConfigError(f"--attributes {path}: expected ATTRIBUTE: [VALUE, ...], got {type(told).__name__}")
    return tuple(_attribute(path, name, values, templates) for name, values in told.items())


def _attribute(path: Path, name: object, told: object, templates: Sequence[str]) -> Attribute:
    where = f"--attributes {path}: {name}"
    if not isinstance(name, str):
        raise ConfigError(f"{where}: an attribute's name must be text; put it in quotes")
    listed: Mapping[Any, Any]
    if isinstance(told, dict):
        listed = told
    elif isinstance(told, list):
        listed = {value if isinstance(value, str) else repr(value): value for value in told}
    else:
        raise ConfigError(f"{where}: expected a list of values, or VALUE: [WORD, ...], got {told!r:.40}")
    values = []
    for value, words in listed.items():
        words = words if isinstance(words, list) else [words]
        words = [value if word is None else word for word in words] or [value]
        if not isinstance(value, str) or not all(isinstance(word, str) and word.strip() for word in words):
            raise ConfigError(f"{where}: {value!r}: values and words must be text; put them in quotes")
        values.append(Value(value, tuple(words), _texts(words, templates)))
    if not 2 <= len(values) <= MAX_VALUES:
        raise ConfigError(f"{where}: needs 2 to {MAX_VALUES} values, got {len(values)}")
    owner: dict[str, str] = {}
    for each in values:
        for word in map(normalise_prompt, each.words):
            if owner.setdefault(word, each.name) != each.name:
                raise ConfigError(f"{where}: the word {word!r} stands for {owner[word]!r} and for {each.name!r}")
    return Attribute(name, tuple(values))


def _texts(words: Iterable[str], templates: Sequence[str]) -> tuple[str, ...]:
    return tuple(template.replace("{}", word) for word in words for template in templates)


def of_concepts(names: Sequence[str], templates: Sequence[str]) -> Attribute:
    """The concepts of a run as an attribute."""
    values = (Value(name, (name,), _texts([name.replace("_", " ")], templates)) for name in names)
    return Attribute(CONCEPT, tuple(values), is_concept=True)


def of_toyworld() -> tuple[Attribute, ...]:
    """Digit, ink and paper. The toy world's captions always name the digit, so a scorer is asked with every digit."""
    from penstock.toyworld.captions import DIGIT_WORDS, caption
    from penstock.toyworld.render import INKS, PAPERS

    every = range(len(DIGIT_WORDS))
    return (
        Attribute("digit", tuple(Value(word, (word,), (caption(digit),)) for digit, word in enumerate(DIGIT_WORDS))),
        Attribute(
            "ink",
            tuple(Value(ink, (f"{ink} ink",), tuple(caption(digit, ink=ink) for digit in every)) for ink in INKS),
        ),
        Attribute(
            "paper",
            tuple(
                Value(paper, (f"{paper} paper",), tuple(caption(digit, paper=paper) for digit in every))
                for paper in PAPERS
            ),
        ),
    )


def is_toy_caption(prompt: str) -> bool:
    """Whether a prompt is one of the toy world's."""
    from penstock.toyworld.captions import VOCABULARY

    words = prompt.split()
    return words[:2] == ["a", "handwritten"] and set(words) <= set(VOCABULARY)
