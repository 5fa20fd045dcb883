"""Opens the prompt source that a run's settings describe."""

from collections.abc import Callable
from pathlib import Path

from penstock.consumer.config import TrainConfig
from penstock.consumer.making_config import PromptsConfig
from penstock.consumer.prompts.arranging import arrange
from penstock.consumer.prompts.captions import ShuffledCaptions
from penstock.consumer.prompts.concept_list import read_concepts
from penstock.consumer.prompts.concept_prompts import ConceptPrompts
from penstock.consumer.prompts.files.opening import open_captions
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.prompts.templates import built_in_templates, read_templates
from penstock.consumer.prompts.toyworld import ToyWorldPrompts
from penstock.protocol.errors import ConfigError


def open_source(config: PromptsConfig, seed: int, tell: Callable[[str], None] = lambda line: None) -> PromptSource:
    """The source that a run's prompts come from; `tell` is given lines about their concepts.

    What `config.ask` asks for is a file by now, which `consumer/opening.py` names as the source.

    Raises ConfigError where there is none, or it cannot be balanced as asked for.
    """
    if config.ask:
        raise ConfigError("prompts.ask is answered where a run begins; here name the prompts.tsv that it made")
    if config.source == "concepts":
        return _concept_prompts(config, seed)
    if config.source == "toyworld":
        if config.balance != "natural" or config.concepts:
            raise ConfigError(
                "prompts.source toyworld draws its ten concepts equally, and endlessly: there is nothing to balance; "
                "leave prompts.balance and prompts.concepts out, or name a file as prompts.source"
            )
        return ToyWorldPrompts(seed)
    return arrange(open_captions(config), config, seed, tell)


def _concept_prompts(config: PromptsConfig, seed: int) -> ConceptPrompts:
    if config.balance != "natural":
        raise ConfigError("prompts.source concepts names each concept equally often: leave prompts.balance out")
    concepts = read_concepts(Path(config.concepts))
    if config.templates:
        templates = read_templates(Path(config.templates), len(concepts))
    else:
        templates = built_in_templates(len(concepts))
    return ConceptPrompts(concepts, templates, seed)


def check_concepts(prompts: PromptSource, config: TrainConfig) -> None:
    """Raises ConfigError where the objective learns concepts and the captions do not have several."""
    if config.objective.name == "supervised" and len(prompts.concepts) < 2:
        remedy = (
            f"write CONCEPT<tab>CAPTION in each line of {config.prompts.source}, name the column of concepts of a "
            "table by prompts.concept_column"
        )
        if config.prompts.ask or config.prompts.source == "concepts":
            remedy = "ask for several" if config.prompts.ask else f"name several in {config.prompts.concepts}"
        raise ConfigError(
            f"objective supervised needs prompts of at least 2 concepts, got {len(prompts.concepts)}; {remedy}, or "
            "choose another objective.name"
        )


def check_gaps(prompts: PromptSource, config: TrainConfig) -> None:
    """Raises ConfigError where the objective learns concepts and not all captions that come have one."""
    if config.objective.name == "supervised" and isinstance(prompts, ShuffledCaptions) and prompts.num_without_concept:
        raise ConfigError(
            f"objective supervised needs a concept for every caption, {prompts.num_without_concept:,} have none; set "
            "prompts.balance to sqrt, say, which leaves them out, or choose another objective.name"
        )
