"""What a run leaves for others: ordinary Hugging Face folders, loaded without Penstock. Weights are safetensors."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPTextModel,
    PreTrainedModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from penstock.consumer.encoders import has_own_pooling
from penstock.consumer.text_tower import LanguageHead
from penstock.consumer.tokenizer import CaptionTokenizer
from penstock.kernels.augment_recipe import AugmentRecipe


def save_encoder(encoder: PreTrainedModel, path: Path, recipe: AugmentRecipe) -> None:
    """Write `encoder` so that `AutoModel.from_pretrained(path)` loads it, with its preprocessing beside it.

    `AutoImageProcessor.from_pretrained(path)` then normalises as `prepare` does.
    """
    encoder.save_pretrained(path)
    _write_preprocessing(path, recipe)


def save_pair(
    path: Path,
    encoder: PreTrainedModel,
    text_tower: CLIPTextModel,
    head: LanguageHead,
    tokenizer: CaptionTokenizer,
    recipe: AugmentRecipe,
) -> None:
    """Write encoder and text tower as one zero-shot model, with its tokenizer and its preprocessing.

    `AutoModel.from_pretrained(path)` makes a VisionTextDualEncoderModel of it: its `get_image_features` and
    `get_text_features` answer what `head` projects, its `logits_per_image` are their cosines times the head's scale.
    The modules stay as they are.

    Args:
        path: a folder, made where it is missing.
        encoder: `image_feature` reads it.
        text_tower: as `encode_text` reads it.
        head: the projections and the scale.
        tokenizer: writes the text tower's ids.
        recipe: how images are resized and normalised.
    """
    vision_config, pooler = encoder.config.to_dict(), {}
    if not has_own_pooling(encoder):
        # The model takes the pooler's output, which this encoder lacks: one that multiplies by the identity and adds
        # nothing hands the CLS token on.
        width = head.image_projection.in_features
        vision_config["pooler_act"] = "linear"
        pooler = {"dense.weight": torch.eye(width), "dense.bias": torch.zeros(width)}
    config = VisionTextDualEncoderConfig(
        vision_config=vision_config,
        text_config=text_tower.config.to_dict(),
        projection_dim=head.image_projection.out_features,
    )
    # On the meta device nothing is drawn, and the weights are taken in place instead of being copied.
    with torch.device("meta"):
        pair = VisionTextDualEncoderModel(config)
    weights = {
        **{f"vision_model.{name}": weight for name, weight in encoder.state_dict().items()},
        **{f"vision_model.pooler.{name}": weight for name, weight in pooler.items()},
        **{f"text_model.{name}": weight for name, weight in text_tower.state_dict().items()},
        "visual_projection.weight": head.image_projection.weight,
        "text_projection.weight": head.text_projection.weight,
        "logit_scale": head.logit_scale,
    }
    pair.load_state_dict(weights, assign=True)
    pair.save_pretrained(path)
    tokenizer.save(path)
    _write_preprocessing(path, recipe)


def _write_preprocessing(path: Path, recipe: AugmentRecipe) -> None:
    """The file is written here because making the processor itself would need torchvision or Pillow."""
    preprocessing: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": recipe.size, "width": recipe.size},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(recipe.mean),
        "image_std": list(recipe.std),
    }
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n", encoding="utf-8")
