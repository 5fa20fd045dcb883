"""What is evaluated: a run's encoder, a model of Hugging Face's, or one of the two floors that it must beat.

A feature is what the trainer's `image_feature` reads: the CLS token after the last LayerNorm, as StableRep probes it;
of a model with two towers that of its vision tower, before the projection. Only zero-shot reads the projected
embedding, `get_image_features`, because texts lie in its space. The digest is over the weights and what else of the
configuration changes features, so that a cache keyed by it cannot serve another model's.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import cached_file

from penstock.consumer.encoders import image_feature
from penstock.consumer.evaluation.preprocessing import Preprocessing, read_preprocessing
from penstock.protocol.errors import ConfigError

RANDOM = "random:"
PIXELS = "pixels"
_PIXELS_SIZE = 32

_CLS = "CLS token after the last LayerNorm"
_READ = {
    **dict.fromkeys(("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit_msn"), _CLS),
    "timm_wrapper": "the model's own pooling",
}
"""Models whose feature `image_feature` reads, and what it is."""
_POOLED = {"clip_vision_model": _CLS, "siglip_vision_model": "attention pooling"}
"""Models whose feature is their `pooler_output`; CLIP applies the last LayerNorm to the CLS token alone."""
_PADDED_MODELS = ("siglip", "siglip2")
"""Models whose text tower was trained on texts padded to their full length."""
_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Of a configuration: what changes no feature."""
_LOADING = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)
"""What transformers raises where a model cannot be loaded."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A frozen encoder."""

    name: str
    """As the user said it."""
    feature: str
    """What its features are, in words."""
    dim: int
    """Width of the features."""
    digest: str
    """Hex SHA-256 over its weights and configuration."""
    preprocessing: Preprocessing
    embed_images: Callable[[Tensor], Tensor]
    """Pixels float32 `[N, 3, S, S]` to features float32 `[N, D]`."""
    text: "TextSpace | None" = None
    """None without a text tower."""


@dataclass(frozen=True, slots=True)
class TextSpace:
    """The space in which images and texts meet."""

    embed_images: Callable[[Tensor], Tensor]
    """Pixels float32 `[N, 3, S, S]` to embeddings float32 `[N, E]`."""
    embed_texts: Callable[[Sequence[str]], Tensor]
    """Texts to embeddings float32 `[N, E]`."""


def load_encoder(source: str, device: torch.device, *, seed: int = 0) -> Encoder:
    """The encoder that `source` names.

    Args:
        source: a run's folder (its `pair`, else its `encoder`), any folder or hub id that AutoModel loads,
            `random:SOURCE` for the same architecture with random weights, or `pixels`.
        device: where it computes.
        seed: of random weights.

    Raises:
        ConfigError: it cannot be loaded, weights are missing, or nobody knows what its features are.
    """
    if source == PIXELS:
        return _pixels()
    is_random = source.startswith(RANDOM)
    place = _place(source.removeprefix(RANDOM))
    try:
        model = _random_model(place, seed) if is_random else _pretrained_model(place)
    except _LOADING as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{place} cannot be loaded as an encoder: {first_line}") from error
    model = model.float().eval().requires_grad_(False).to(device)
    preprocessing = read_preprocessing(_preprocessor_file(place))
    embed_images, feature = _image_embedder(getattr(model, "vision_model", model), place)
    dim = _width(embed_images, preprocessing, place, device)
    return Encoder(
        name=source,
        feature=feature,
        dim=dim,
        digest=_digest(model),
        preprocessing=preprocessing,
        embed_images=embed_images,
        text=_text_space(model, place, device) if hasattr(model, "get_text_features") else None,
    )


def _pixels() -> Encoder:
    """The floor that any encoder must beat: every image less its own mean colour, which drops the tint."""

    def embed(pixels: Tensor) -> Tensor:
        return (pixels - pixels.mean(dim=(2, 3), keepdim=True)).flatten(1)

    return Encoder(
        name=PIXELS,
        dim=3 * _PIXELS_SIZE**2,
        feature=f"{_PIXELS_SIZE} x {_PIXELS_SIZE} pixels less their mean colour",
        digest=hashlib.sha256(PIXELS.encode()).hexdigest(),
        preprocessing=Preprocessing(size=_PIXELS_SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        embed_images=embed,
    )


def _place(source: str) -> str:
    """The folder or hub id with the weights: of a run's folder what lies in it."""
    if not source:
        raise ConfigError("encoder must name a run folder, a model's folder, a hub id, random:SOURCE or pixels")
    folder = Path(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        inner = [folder / name for name in ("pair", "encoder") if (folder / name / "config.json").is_file()]
        if not inner:
            raise ConfigError(f"{folder} holds no encoder: no config.json, and no run's pair/ or encoder/ with one")
        return str(inner[0])
    if not folder.exists() and (folder.is_absolute() or source.startswith(".") or source.count("/") > 1):
        raise ConfigError(f"{source} is not there; encoder takes a run folder, a model's folder or a hub id")
    return source


def _pretrained_model(place: str) -> nn.Module:
    config = AutoConfig.from_pretrained(place)
    model, loading = AutoModel.from_pretrained(
        place, config=config, use_safetensors=True, output_loading_info=True, **_options(config.model_type)
    )
    absent = sorted({*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
    if absent:
        shown = f"{absent[0]} and {len(absent) - 1} more" if len(absent) > 1 else absent[0]
        raise ConfigError(f"{place} lacks weights, which would be random: {shown}")
    loaded: nn.Module = model
    return loaded


def _random_model(place: str, seed: int) -> nn.Module:
    config = AutoConfig.from_pretrained(place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = AutoModel.from_config(config, **_options(config.model_type))
    return model


def _options(model_type: str) -> dict[str, Any]:
    """A ViT's pooling layer is not used, and most folders hold no weights for it."""
    return {"add_pooling_layer": False} if model_type in ("vit", "deit") else {}


def _preprocessor_file(place: str) -> Path:
    for name in ("preprocessor_config.json", "processor_config.json"):
        try:
            found = cached_file(place, name)
        except OSError:
            continue
        if found is not None:
            return Path(found)
    raise ConfigError(f"{place} has no preprocessor_config.json, so nobody knows what pixels it expects; put one there")


@torch.no_grad()
def _width(
    embed_images: Callable[[Tensor], Tensor], preprocessing: Preprocessing, place: str, device: torch.device
) -> int:
    """Width of the features, from one grey image: what does not fit is said before a set is opened."""
    size = preprocessing.size
    try:
        return embed_images(torch.zeros(1, 3, size, size, device=device)).shape[1]
    except _LOADING as error:
        raise ConfigError(f"{place} cannot encode {size} x {size} pixels, its preprocessor's size: {error}") from error


def _image_embedder(model: Any, place: str) -> tuple[Callable[[Tensor], Tensor], str]:
    model_type = model.config.model_type
    if model_type in _POOLED:
        return lambda pixels: model(pixel_values=pixels).pooler_output.float(), _POOLED[model_type]
    if model_type in _READ:
        return lambda pixels: image_feature(model, pixels).float(), _READ[model_type]
    known = ", ".join((*_READ, *_POOLED))
    raise ConfigError(
        f"{place} is a {model_type}, whose feature is not known; known are {known}, alone or with a text tower"
    )


def _text_space(model: Any, place: str, device: torch.device) -> TextSpace:
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
    except _LOADING as error:
        raise ConfigError(f"{place} has a text tower but no tokenizer that can be loaded: {error}") from error
    padding = "max_length" if model.config.model_type in _PADDED_MODELS else True
    max_length = model.config.text_config.max_position_embeddings

    def embed_images(pixels: Tensor) -> Tensor:
        return _embedding(model.get_image_features(pixel_values=pixels))

    def embed_texts(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), padding=padding, truncation=True, max_length=max_length, return_tensors="pt")
        return _embedding(model.get_text_features(**tokens.to(device)))

    return TextSpace(embed_images, embed_texts)


def _embedding(output: Any) -> Tensor:
    """The embedding, which transformers 5 wraps in an output and 4 does not."""
    embedding = output if isinstance(output, Tensor) else output.pooler_output
    return embedding.float()


def _digest(model: Any) -> str:
    settings = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_OF_THE_MODEL}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
