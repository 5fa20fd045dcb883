"""What training minimises: an objective is a weighted sum of terms over the same encoder.

| objective    | terms                                                | source                                |
| ------------ | ---------------------------------------------------- | ------------------------------------- |
| `stablerep`  | images of a prompt against all others                | arXiv 2306.00984, section 3.2         |
| `stablerep+` | that, and images against captions                    | arXiv 2306.00984, section 3.3         |
| `simclr`     | two views of an image against all others             | arXiv 2002.05709                      |
| `clip`       | images against captions                              | arXiv 2103.00020                      |
| `supervised` | images against the concepts of their prompts         | arXiv 2312.17742, table 5             |
| `synclr`     | images of a prompt against an average of the network | arXiv 2312.17742, without its masking |
"""

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from penstock.consumer.learning_config import ModelConfig, ObjectiveConfig, TextConfig
from penstock.consumer.projection_head import Head, LayerNormHead, ProjectionHead
from penstock.consumer.terms import (
    Classification,
    Features,
    ImageContrast,
    LanguageContrast,
    Targets,
    TeacherContrast,
    Term,
)
from penstock.consumer.text_tower import LanguageHead


class Objective(nn.Module):
    """A weighted sum of terms.

    Args:
        terms: by name, each with its weight.
    """

    def __init__(self, terms: Mapping[str, tuple[nn.Module, float]]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict({name: term for name, (term, _) in terms.items()})
        self._weights = {name: weight for name, (_, weight) in terms.items()}

    @property
    def reads_text(self) -> bool:
        """Whether a text tower is needed."""
        return any(term.reads_text for term in self._all().values())

    @property
    def has_teacher(self) -> bool:
        """Whether a moving average of the encoder is needed."""
        return any(term.has_teacher for term in self._all().values())

    def forward(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """`loss`, the sum, and where there are several terms each by its name, unweighted and without gradient."""
        losses = {name: term(features, targets) for name, term in self._all().items()}
        total = torch.stack([self._weights[name] * loss for name, loss in losses.items()]).sum()
        parts = {f"{name}_loss": loss.detach() for name, loss in losses.items()} if len(losses) > 1 else {}
        return {"loss": total, **parts}

    def after_step(self, progress: float) -> None:
        """What follows an optimizer step; `progress` is the share of the run that was done before."""
        for term in self._all().values():
            term.after_step(progress)

    def _all(self) -> Mapping[str, Term]:
        return cast(Mapping[str, Term], self.terms)


def build_objective(
    config: ObjectiveConfig, model: ModelConfig, text: TextConfig, hidden_size: int, num_classes: int
) -> Objective:
    """The objective that `config` names, with random heads.

    Args:
        config, model, text: the run's settings.
        hidden_size: width of the encoder's features.
        num_classes: concepts that the prompts have; 0 where they have none.

    Raises ValueError for `supervised` without concepts.
    """

    def image_contrast(positives: Literal["prompt", "image"]) -> ImageContrast:
        return ImageContrast(build_head(model, hidden_size), positives=positives, temperature=config.temperature)

    def language_contrast() -> LanguageContrast:
        return LanguageContrast(LanguageHead(hidden_size, text.hidden_size, text.out_size))

    match config.name:
        case "stablerep":
            return Objective({"image": (image_contrast("prompt"), 1.0)})
        case "stablerep+":
            image = (image_contrast("prompt"), config.image_weight)
            return Objective({"image": image, "language": (language_contrast(), config.language_weight)})
        case "simclr":
            return Objective({"image": (image_contrast("image"), 1.0)})
        case "clip":
            return Objective({"language": (language_contrast(), 1.0)})
        case "supervised":
            if num_classes < 2:
                raise ValueError(f"objective supervised needs prompts of at least 2 concepts, got {num_classes}")
            return Objective({"classes": (Classification(hidden_size, num_classes), 1.0)})
        case "synclr":
            term = TeacherContrast(
                build_head(model, hidden_size),
                build_head(model, model.head_out_size, num_layers=2),
                decay=config.teacher_decay,
                decay_end=config.teacher_decay_end,
                temperature=config.temperature,
            )
            return Objective({"teacher": (term, 1.0)})


def build_head(model: ModelConfig, in_dim: int, *, num_layers: int = 3) -> Head:
    """A projection head as `model` says, with random weights."""
    build = LayerNormHead if model.head_norm == "layer" else ProjectionHead
    return build(
        in_dim,
        model.head_hidden_size,
        model.head_out_size,
        num_layers=num_layers,
        norm_output=model.head_norm_output,
    )
