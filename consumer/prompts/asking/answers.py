"""What a language model's answer says: prompts with their concepts, however it wrote them down.

Asked for JSON, models answer with JSON, with JSON in a code fence, with JSON that ends where their limit is, or with a
numbered list; all of these hold prompts. Prose does not: it is how a model without a field for it refuses.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from penstock.protocol.limits import MAX_NAME_LENGTH, MAX_PROMPT_BYTES

_LIST_LINE = re.compile(r"\s*(?:\d{1,4}[.):]|[-*•])\s+(?P<text>\S.*)")
# A model that loops ends in thousands of dots: what may be repeated without end must not stand beside its like.
_TAGGED = re.compile(r"\W{0,8}(?P<concept>[^:\t|]{1,60}?)\W{0,8}(?:\t|\||:)\s*(?P<prompt>\S.*)")
_UNFINISHED_THOUGHT = re.compile(r"\s*<think>(?!.*</think>)", re.DOTALL)
_PROMPT_KEYS = ("prompt", "caption", "text", "description")
_CONCEPT_KEYS = ("concept", "subject", "name", "category")
_CONTAINER_KEYS = re.compile(r"prompt|caption|item|data|result|output|answer|response|list|text|description", re.I)
_MAX_DEPTH = 4
_MAX_READ_CHARS = 1 << 18
_MAX_FALSE_STARTS = 1000


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A caption, and the name of what it is of (empty where the answer gives none)."""

    concept: str
    text: str


def read_answer(text: str) -> list[AskedPrompt]:
    """The prompts of an answer, in its order; none where it is prose. Thinking aloud does not count."""
    text = "" if _UNFINISHED_THOUGHT.match(text) else text.rpartition("</think>")[2]
    found = [pair for value in _json_values(text) for pair in _pairs(value, 0)]
    if not found:
        found = [
            _of_line(match["text"].rstrip()) for line in text.splitlines() if (match := _LIST_LINE.fullmatch(line))
        ]
    tidy = (AskedPrompt(_tidy(pair.concept), _tidy(pair.text)) for pair in found)
    return [
        AskedPrompt(pair.concept if len(pair.concept) <= MAX_NAME_LENGTH else "", pair.text)
        for pair in tidy
        if pair.text and len(pair.text.encode()) <= MAX_PROMPT_BYTES
    ]


def _json_values(text: str) -> Iterator[Any]:
    """The JSON of a text: the whole, or what of it can be read where something stands around it or its end is cut."""
    decoder, opening = json.JSONDecoder(), re.compile(r"[\[{]")
    text = text[:_MAX_READ_CHARS]
    place, false_starts = 0, 0
    while false_starts < _MAX_FALSE_STARTS and (match := opening.search(text, place)):
        try:
            value, place = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            # The list that is cut is given up, and what stands in it read one by one.
            place = match.end()
            false_starts += 1
            continue
        yield value


def _pairs(value: Any, depth: int) -> Iterator[AskedPrompt]:
    """The prompts of a JSON value: objects with a prompt, lists of such or of texts, and objects that hold these."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, list):
        for item in value:
            if isinstance(item, str):
                yield AskedPrompt("", item)
            else:
                yield from _pairs(item, depth + 1)
    elif isinstance(value, dict):
        prompt = _first(value, _PROMPT_KEYS)
        if prompt:
            yield AskedPrompt(_first(value, _CONCEPT_KEYS), prompt)
            return
        for name, inner in value.items():
            for pair in _pairs(inner, depth + 1):
                # {"robin": ["a robin in the snow", ...]} names the concept by its key, {"prompts": [...]} does not.
                is_concept = not pair.concept and isinstance(inner, list) and not _CONTAINER_KEYS.search(name)
                yield AskedPrompt(name, pair.text) if is_concept else pair


def _first(value: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((value[name] for name in names if isinstance(value.get(name), str)), "")


def _of_line(text: str) -> AskedPrompt:
    """A line of a list: `robin: a robin in the snow`, or the prompt alone."""
    tagged = _TAGGED.fullmatch(text)
    return AskedPrompt(tagged["concept"], tagged["prompt"]) if tagged else AskedPrompt("", text)


def _tidy(text: str) -> str:
    """On one line, without control characters, and without quotation marks or emphasis around it."""
    text = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(text.split()).strip("\"'“”*_` ")
