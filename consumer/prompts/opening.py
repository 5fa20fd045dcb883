"""Opens the prompt source that a run's settings describe."""

from pathlib import Path

from penstock.consumer.config import PromptsConfig, TrainConfig
from penstock.consumer.prompts.captions import ShuffledCaptions
from penstock.consumer.prompts.concept_list import read_concepts
from penstock.consumer.prompts.concept_prompts import ConceptPrompts
from penstock.consumer.prompts.files import open_captions
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.prompts.templates import built_in_templates, read_templates
from penstock.consumer.prompts.toyworld import ToyWorldPrompts
from penstock.protocol.errors import ConfigError


def open_source(config: PromptsConfig, seed: int) -> PromptSource:
    """The source that a run's prompts come from. Raises ConfigError where there is none.

    What `config.ask` asks for is a file by now, which `consumer/opening.py` names as the source.
    """
    if config.ask:
        raise ConfigError("prompts.ask is answered where a run begins; here name the prompts.tsv that it made")
    if config.source == "concepts":
        concepts = read_concepts(Path(config.concepts))
        if config.templates:
            templates = read_templates(Path(config.templates), len(concepts))
        else:
            templates = built_in_templates(len(concepts))
        return ConceptPrompts(concepts, templates, seed)
    if config.source == "toyworld":
        return ToyWorldPrompts(seed)
    return ShuffledCaptions(open_captions(config), seed)


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
