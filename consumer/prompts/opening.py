"""Opens the prompt source that a run's settings describe."""

from penstock.consumer.config import PromptsConfig, TrainConfig
from penstock.consumer.prompts.captions import ShuffledCaptions
from penstock.consumer.prompts.files import open_captions
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.prompts.toyworld import ToyWorldPrompts
from penstock.protocol.errors import ConfigError


def open_source(config: PromptsConfig, seed: int) -> PromptSource:
    """The source that a run's prompts come from. Raises ConfigError where there is none."""
    if config.source == "toyworld":
        return ToyWorldPrompts(seed)
    return ShuffledCaptions(open_captions(config), seed)


def check_concepts(prompts: PromptSource, config: TrainConfig) -> None:
    """Raises ConfigError where the objective learns concepts and the captions do not have several."""
    if config.objective.name == "supervised" and len(prompts.concepts) < 2:
        raise ConfigError(
            f"objective supervised needs prompts of at least 2 concepts, got {len(prompts.concepts)}; write "
            f"CONCEPT<tab>CAPTION in each line of {config.prompts.source}, name the column of concepts of a table by "
            "prompts.concept_column, or choose another objective.name"
        )
