"""Judges how well an image shows what its prompt says, with any CLIP- or SigLIP-like model that transformers opens.

CLIP's score is the cosine of the two embeddings, as in CLIPScore (Hessel et al., arXiv 2104.08718) without its factor
of 2.5; SigLIP's (Zhai et al., arXiv 2303.15343) is the probability that the two belong together,
sigmoid(scale * cosine + bias). Images and texts are embedded in blocks of one shape, tails padded, so that what else is
scored changes no score; texts once each, and kept.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from penstock.producer import model_folder
from penstock.producer.loading import LOADING_ERRORS, find_device, find_dtype, first_line, silence
from penstock.producer.scorer_pixels import read_pixels
from penstock.protocol.errors import ModelError

TOYWORLD = Path(__file__).parent / "tiny_siglip"
"""The toy world's own scorer, which comes with Penstock: SigLIP in small."""
TOYWORLD_MIN_SCORE = 0.5
"""A good `min_score` for it; its README says what that rejects."""

_IMAGES = 16
"""Images embedded at a time."""
_TEXTS = 8
"""Texts embedded at a time."""
_KEPT_TEXTS = 4096
"""Embeddings of texts that are kept, those used last: 25 MB of CLIP-L's."""
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


class Scorer(Protocol):
    """Says how well images match prompts; higher is better."""

    @property
    def digest(self) -> str:
        """SHA-256 of weights, tokenizer and settings, as hex: what makes two scorers the same. Known before `load`."""

    def load(self) -> None:
        """Load the weights, once, before the first `score`. Raises ModelError."""

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Scores float32 [n] of images uint8 [n, H, W, 3], each with the prompt at its own place.

        No score depends on what else is scored. Not for two threads at once.
        Raises ValueError where there are not as many prompts as images.
        """


def open_scorer(name: str, device: str, dtype: str) -> "ImageTextScorer":
    """The scorer that a setting names, its weights not loaded yet.

    Args:
        name: a folder of CLIP's or SigLIP's kind, a hub id, or `toyworld`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: arithmetic: `auto`, `float32`, `bfloat16` or `float16`.

    Raises:
        ModelError: there is no such folder, or what is in it is no such model, or lacks its tokenizer or settings.
    """
    folder = TOYWORLD if name == "toyworld" else model_folder.find_scorer(name)
    where = find_device(device)
    return ImageTextScorer(folder, where, find_dtype(dtype, where))


class ImageTextScorer:
    """A `Scorer` of CLIP's or SigLIP's kind.

    Args:
        folder: config, safetensors, tokenizer and image processor's settings, as `save_pretrained` leaves them.
        device: where it works.
        dtype: of its weights.

    Raises:
        ModelError: as `open_scorer`.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self._folder, self._device, self._dtype = folder, device, dtype
        silence()
        self._text_length = _check_kind(folder)
        self._pixels = read_pixels(folder)
        self._tokenizer = _load_tokenizer(folder)
        self._text_length = min(self._text_length, self._tokenizer.model_max_length)
        self._texts: OrderedDict[str, Tensor] = OrderedDict()
        self.digest = model_folder.digest_part(folder)

    def load(self) -> None:
        """Load the weights. Raises ModelError where they do not load, or do not fit the settings."""
        from transformers import AutoModel

        try:
            model, info = AutoModel.from_pretrained(
                self._folder, dtype=self._dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        except LOADING_ERRORS as error:
            raise ModelError(f"scorer: {self._folder} does not load: {first_line(error)}") from error
        if info["missing_keys"]:
            # transformers would fill them with random numbers.
            raise ModelError(
                f"scorer: the weights in {self._folder} lack {len(info['missing_keys'])} tensors, "
                f"such as {min(info['missing_keys'])}"
            )
        size, side = self._pixels.output_size, getattr(model.config.vision_config, "image_size", None)
        if size is not None and side is not None and size != (side, side):
            raise ModelError(f"scorer: {self._folder} takes images of {side} x {side}, its settings make {size}")
        self._model: Any = model.eval().to(self._device)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Scorer.score`."""
        if len(images) != len(prompts):
            raise ValueError(f"there must be a prompt for each image, got {len(prompts)} for {len(images)}")
        if not len(images):
            return np.empty(0, np.float32)
        with torch.inference_mode():
            return self._scores((self._embed_images(images) * self._embed_texts(prompts)).sum(dim=1))

    def score_each(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Scores float32 [n, k] of every image uint8 [n, H, W, 3] with every one of k prompts: zero-shot."""
        with torch.inference_mode():
            return self._scores(self._embed_images(images) @ self._embed_texts(prompts).T)

    def _scores(self, cosines: Tensor) -> NDArray[np.float32]:
        """Of cosines in float64: vector and scalar code round differently, and by place; in float32 it would show."""
        bias = getattr(self._model, "logit_bias", None)
        if bias is not None:
            scale = self._model.logit_scale.double().exp().cpu()
            cosines = (cosines * scale + bias.double().cpu()).sigmoid()
        scores: NDArray[np.float32] = cosines.float().numpy()
        return scores

    def _embed_images(self, images: NDArray[np.uint8]) -> Tensor:
        """float64 [n, D] on the host, of unit length."""
        embeddings = []
        for start in range(0, len(images), _IMAGES):
            block = torch.from_numpy(np.ascontiguousarray(images[start : start + _IMAGES])).to(self._device)
            padded = torch.cat([block, block[-1:].expand(_IMAGES - len(block), -1, -1, -1)])
            inputs = self._pixels(padded)
            inputs["pixel_values"] = inputs["pixel_values"].to(self._dtype)
            embeddings.append(_unit(self._model.get_image_features(**inputs))[: len(block)])
        return torch.cat(embeddings)

    def _embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """As `_embed_images`; those that were embedded before are not again."""
        distinct = list(dict.fromkeys(prompts))
        texts = {prompt: self._texts[prompt] for prompt in distinct if prompt in self._texts}
        new = [prompt for prompt in distinct if prompt not in texts]
        for start in range(0, len(new), _TEXTS):
            block = new[start : start + _TEXTS]
            texts |= dict(zip(block, self._embed_block(block), strict=True))
        for prompt, text in texts.items():
            self._texts[prompt] = text
            self._texts.move_to_end(prompt)
        while len(self._texts) > _KEPT_TEXTS:
            self._texts.popitem(last=False)
        return torch.stack([texts[prompt] for prompt in prompts])

    def _embed_block(self, block: Sequence[str]) -> list[Tensor]:
        padded = [*block, *[block[-1]] * (_TEXTS - len(block))]
        # SigLIP was trained with texts padded to one length, and CLIP does not mind.
        tokens = self._tokenizer(
            padded, padding="max_length", max_length=self._text_length, truncation=True, return_tensors="pt"
        )
        taken = {name: tokens[name].to(self._device) for name in ("input_ids", "attention_mask") if name in tokens}
        # Copies, because a view would keep the whole block.
        return [row.clone() for row in _unit(self._model.get_text_features(**taken))[: len(block)]]


def _unit(features: Any) -> Tensor:
    """What `get_image_features` or `get_text_features` gives, in float64 on the host, of unit length."""
    pooled: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return F.normalize(pooled.cpu().double(), dim=1)


def _check_kind(folder: Path) -> int:
    """The most tokens that the model's text encoder takes. Raises ModelError where it is no image-text model."""
    from transformers import MODEL_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = MODEL_MAPPING[type(config)]
    except LOADING_ERRORS as error:
        raise ModelError(f"scorer: {folder} is no model that transformers knows: {first_line(error)}") from error
    if not (hasattr(kind, "get_image_features") and hasattr(kind, "get_text_features")):
        raise ModelError(
            f"scorer: {folder} holds a {config.model_type}, which does not embed images and texts alike; "
            "give a CLIP or a SigLIP, or 'toyworld'"
        )
    return int(config.text_config.max_position_embeddings)


def _load_tokenizer(folder: Path) -> Any:
    """Raises ModelError where there is none, or where it does not load."""
    from transformers import AutoTokenizer

    files = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not files:
        raise ModelError(f"scorer: {folder} has no tokenizer; save the model's own beside its weights")
    try:
        for path in files:
            if path.suffix == ".json":
                # The tokenizers library raises a bare Exception for a file that is no JSON.
                json.loads(path.read_text(encoding="utf-8"))
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except LOADING_ERRORS as error:
        raise ModelError(f"scorer: the tokenizer in {folder} does not load: {first_line(error)}") from error
