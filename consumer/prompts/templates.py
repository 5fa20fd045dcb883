"""Templates that make a caption of a concept, as SynCLR's three ways do (arXiv 2312.17742, section 3.1).

SynCLR lets a language model write captions of a concept alone, of a concept with a background, and of a concept with a
relation. Here the sentence is a template, and what stands in its fields is drawn from lists:

    templates:
      - a photo of a {concept}
      - a {concept} {background}, {time}
      - a {concept} {relation} a {other}
    background: [in a forest, on a beach]
    time: [at dawn, at night]

`{concept}` is the concept, `{other}` another one; every other field is a list of the file, or a built-in one of that
name. Before a field, "a" is written as the word that comes needs it: an owl, trousers.
"""

import hashlib
import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.config.strict_yaml import Line, did_you_mean, read_lists
from penstock.consumer.prompts import template_words
from penstock.consumer.prompts.asking.english import article
from penstock.protocol.errors import ConfigError

CONCEPT, OTHER = "concept", "other"
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]*")
_BEFORE_FIELD = re.compile(r"(.*?)(?<!\w)(an?) ", re.IGNORECASE | re.DOTALL)
"""Text that ends in an article."""


@dataclass(frozen=True, slots=True)
class Template:
    """A sentence with fields."""

    pieces: tuple[tuple[str, str, str], ...]
    """Text, the article after it as the template writes it (or nothing), and the field that follows (or nothing)."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of its fields, each once, in the sentence's order."""
        return tuple(dict.fromkeys(field for _, _, field in self.pieces if field))

    def fill(self, words: Mapping[str, str]) -> str:
        """The sentence with a word in each field."""
        parts: list[str] = []
        for text, written, field in self.pieces:
            word = words[field] if field else ""
            parts += [text, _as_written(written, article(word)) if written else "", word]
        return " ".join("".join(parts).split())


@dataclass(frozen=True, slots=True)
class Templates:
    """Templates, and the lists that their fields are drawn from."""

    templates: tuple[Template, ...]
    lists: Mapping[str, tuple[str, ...]]

    @property
    def digest(self) -> str:
        """Changes where a template or a list does."""
        content = [[template.pieces for template in self.templates], sorted(self.lists.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def parse_template(text: str, known: Sequence[str] = ()) -> Template:
    """Read a template. Raises ValueError, with the reason, for one that makes no caption.

    Args:
        text: with fields in braces; a double brace is one.
        known: the lists that there are, beside the concepts; none to take any field.
    """
    pieces: list[tuple[str, str, str]] = []
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"a brace is left open ({error}); write {{concept}}, and {{{{ for a brace") from error
    for literal, field, spec, conversion in parsed:
        if field is None:
            pieces.append((literal, "", ""))
            continue
        if not _FIELD_NAME.fullmatch(field) or spec or conversion:
            raise ValueError(f"{{{field}}} is no field; a field is a word of small letters, such as {{concept}}")
        if known and field not in (CONCEPT, OTHER, *known):
            near = did_you_mean(field, (CONCEPT, OTHER, *known))
            raise ValueError(f"no list is called {field}{near}")
        found = _BEFORE_FIELD.fullmatch(literal)
        pieces.append((found[1], found[2], field) if found else (literal, "", field))
    if CONCEPT not in {field for _, _, field in pieces}:
        raise ValueError("a template must hold {concept}: the caption would not show it")
    return Template(tuple(pieces))


def built_in_templates(num_concepts: int) -> Templates:
    """The built-in templates, in equal parts of SynCLR's three ways; without relations where there is one concept."""
    ways = [template_words.ALONE, template_words.WITH_BACKGROUND, template_words.WITH_RELATION]
    texts = [text for way in ways[: 2 if num_concepts == 1 else 3] for text in way]
    templates = tuple(parse_template(text) for text in texts)
    return Templates(templates, _used(templates, template_words.LISTS))


def read_templates(path: Path, num_concepts: int) -> Templates:
    """Read a file of templates.

    Raises ConfigError, with the line, where the file is not named lists of texts, has no `templates`, one that makes no
    caption, an empty list, a list that no template uses, or a template with `{other}` where there is one concept.
    """
    shown = f"prompts.templates: {path}"
    lists = read_lists(path, shown)
    lines = lists.pop("templates", ())
    if not lines:
        raise ConfigError(f"{shown} has no templates; write templates: [a photo of a {{concept}}]")
    _check_lists(shown, lists)
    words = dict(template_words.LISTS) | {name: tuple(line.text for line in lists[name]) for name in lists}
    templates: list[Template] = []
    for line in lines:
        try:
            templates.append(parse_template(line.text, list(words)))
        except ValueError as error:
            raise ConfigError(f"{shown}:{line.number}: {line.text[:60]!r}: {error}") from error
        if num_concepts == 1 and OTHER in templates[-1].fields:
            raise ConfigError(f"{shown}:{line.number}: {line.text[:60]!r}: {{other}} needs a second concept")
    used = _used(templates, words)
    for name in lists:
        if name not in used:
            raise ConfigError(f"{shown}:{lists[name][0].number}: no template has {{{name}}}; use the list or drop it")
    return Templates(tuple(templates), used)


def _check_lists(shown: str, lists: Mapping[str, Sequence[Line]]) -> None:
    for name, lines in lists.items():
        if name in (CONCEPT, OTHER) or not _FIELD_NAME.fullmatch(name):
            raise ConfigError(f"{shown}: {name!r} cannot be a list's name; take another word of small letters")
        if not lines:
            raise ConfigError(f"{shown}: {name}: the list is empty")
        for line in lines:
            if not line.text.strip() or not line.text.isprintable():
                raise ConfigError(f"{shown}:{line.number}: {name}: expected a phrase on one line, got {line.text!r}")


def _used(templates: Sequence[Template], lists: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Those of the lists that the templates draw from."""
    fields = {field for template in templates for field in template.fields}
    return {name: lists[name] for name in sorted(fields - {CONCEPT, OTHER})}


def _as_written(written: str, word: str) -> str:
    """The article, begun with a capital where the template's is."""
    return word.capitalize() if written[0].isupper() else word
