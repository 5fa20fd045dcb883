"""Puts captions into the order in which they come: each once an epoch, or balanced by their concepts."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from penstock.consumer.making_config import PromptsConfig
from penstock.consumer.prompts.balance.balanced import BalancedCaptions
from penstock.consumer.prompts.balance.histogram import describe
from penstock.consumer.prompts.balance.matching import match
from penstock.consumer.prompts.balance.row_weights import read_targets, row_weights
from penstock.consumer.prompts.balance.tags import TaggedCaptions, Tags, given_tags
from penstock.consumer.prompts.captions import Captions, ShuffledCaptions
from penstock.consumer.prompts.concept_list import read_concepts
from penstock.consumer.prompts.source import PromptSource
from penstock.protocol.errors import ConfigError
from penstock.protocol.tickets import normalise_prompt

_NAMED = 5
"""Concepts that a line names."""


def arrange(captions: Captions, config: PromptsConfig, seed: int, tell: Callable[[str], None]) -> PromptSource:
    """A source of captions that come as often as the settings say. Raises ConfigError."""
    tags = given_tags(captions)
    if config.concepts:
        if tags is not None:
            raise ConfigError(
                f"prompts.concepts finds the concepts of captions that have none; those of {config.source} have their "
                "own: leave prompts.concepts out"
            )
        tags = match(captions, read_concepts(Path(config.concepts)))
        captions = TaggedCaptions(captions, tags)
    if tags is not None and tags.num_without == len(captions):
        raise ConfigError(f"no caption of {config.source} names a concept of {config.concepts or 'its own'}")
    mode = config.balance
    if mode == "natural":
        if tags is not None:
            _tell_of_gaps(tags, tell, "they come too")
            for line in describe(tags.names, tags.counts(), None):
                tell(line)
        return ShuffledCaptions(captions, seed)
    if tags is None:
        raise ConfigError(
            f"prompts.balance {mode} needs the concepts of the captions, and those of {config.source} have none; "
            "write CONCEPT<tab>CAPTION in each line, or name a list of concepts as prompts.concepts"
        )
    targets = read_targets(Path(config.balance_counts)) if mode == "counts" else None
    weights = row_weights(tags, mode, config.balance_count, targets)
    if not weights.any():
        raise ConfigError(
            f"prompts.balance_counts: {config.balance_counts} gives no share to any concept of the captions, such as "
            f"{tags.names[int(tags.codes.max())]!r}"
        )
    _tell_of_gaps(tags, tell, "they are left out")
    if targets:
        _tell_of_strangers(targets, tags, tell)
    tagged = tags.codes >= 0
    target = np.bincount(tags.codes[tagged], weights[tagged], minlength=len(tags.names)).astype(np.float64)
    for line in describe(tags.names, tags.counts(), target):
        tell(f"balance {mode}: {line}")
    return BalancedCaptions(captions, tags.codes, weights, seed)


def _tell_of_strangers(targets: Mapping[str, float], tags: Tags, tell: Callable[[str], None]) -> None:
    """Name shares that nothing gets: a name may be misspelt."""
    there = {normalise_prompt(name) for name, count in zip(tags.names, tags.counts().tolist(), strict=True) if count}
    if strangers := [name for name in targets if name not in there]:
        named = ", ".join(repr(name[:40]) for name in strangers[:_NAMED])
        tell(f"prompts.balance_counts: {len(strangers):,} of its concepts have no captions, and do not come: {named}")


def _tell_of_gaps(tags: Tags, tell: Callable[[str], None], what_then: str) -> None:
    if tags.num_without:
        tell(f"{tags.num_without:,} of {len(tags.codes):,} captions have no concept: {what_then}")
