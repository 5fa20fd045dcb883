"""Opens captions as a run does, from bytes that a test writes."""

from pathlib import Path
from typing import Any

from penstock.consumer.making_config import PromptsConfig
from penstock.consumer.prompts.files.file_captions import FileCaptions
from penstock.consumer.prompts.files.opening import open_captions
from penstock.consumer.prompts.source import Prompt


def opened(path: Path | str, **settings: Any) -> FileCaptions:
    return open_captions(PromptsConfig(source=str(path), **settings))


def write(folder: Path, content: bytes, name: str = "captions.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def texts(captions: FileCaptions) -> list[str]:
    """All captions, in their order."""
    return [captions.caption(row).text for row in range(len(captions))]


def tagged(captions: FileCaptions) -> list[tuple[str, str]]:
    """All concepts and captions, in their order; what `concept_codes` says must be the same."""
    prompts: list[Prompt] = [captions.caption(row) for row in range(len(captions))]
    codes = [-1] * len(prompts) if captions.concept_codes is None else captions.concept_codes.tolist()
    assert codes == [prompt.concept for prompt in prompts]
    return [(captions.concepts[prompt.concept] if prompt.concept >= 0 else "", prompt.text) for prompt in prompts]
