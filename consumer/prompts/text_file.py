"""Captions of a text file, one a line."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from penstock.consumer.prompts.captions import ListedCaptions
from penstock.protocol.errors import ConfigError
from penstock.protocol.limits import MAX_PROMPT_BYTES
from penstock.protocol.tickets import prompt_id


def read_text_file(path: Path) -> ListedCaptions:
    """The captions of a text file. A line may be CONCEPT<tab>CAPTION; then all are.

    Raises ConfigError where the file is missing, not UTF-8, has no caption or one that is too long, or where some lines
    have a concept and others none, or a caption two.
    """
    try:
        # "utf-8-sig" drops the mark that some editors put first; the reader turns \r\n into \n.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"prompts.source: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts.source: {path} is not UTF-8 at byte {error.start}") from error
    texts = [line.strip() for line in lines if line.strip()]
    for number, line in enumerate(lines, start=1):
        if len(line.strip().encode()) > MAX_PROMPT_BYTES:
            raise ConfigError(f"prompts.source: {path}:{number}: the caption is longer than {MAX_PROMPT_BYTES} bytes")
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    captions, names = _read_concepts(path, texts)
    if not captions:
        raise ConfigError(f"prompts.source: {path} has no captions; write one a line")
    return ListedCaptions(captions, digest, names)


def _read_concepts(path: Path, texts: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Captions, and the concept of each; none where no line has one."""
    num_tagged = sum("\t" in text for text in texts)
    if not num_tagged:
        return texts, ()
    if num_tagged < len(texts):
        bare = next(text for text in texts if "\t" not in text)
        raise ConfigError(
            f"prompts.source: {path}: {num_tagged} of {len(texts)} lines are CONCEPT<tab>CAPTION, "
            f"{bare[:40]!r} is not; give all captions a concept, or none"
        )
    concept_of: dict[int, str] = {}
    captions: list[str] = []
    names: list[str] = []
    for text in texts:
        concept, caption = (part.strip() for part in text.split("\t", 1))
        captions.append(caption)
        names.append(concept)
        # Spellings that share an id are one prompt to the losses, and so have one concept.
        first = concept_of.setdefault(prompt_id(caption), concept)
        if first != concept:
            raise ConfigError(
                f"prompts.source: {path}: {caption[:40]!r} must have one concept, got {concept!r} and {first!r}"
            )
    return captions, names
