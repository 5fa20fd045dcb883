"""Features of images: of a whole set by a frozen encoder, of images in memory by the encoder that is being trained."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from penstock.consumer.encoders import image_feature
from penstock.consumer.evaluation.cache import FeatureCache, cache_key
from penstock.consumer.evaluation.encoders import Encoder, TextSpace
from penstock.kernels.augment import prepare
from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.protocol.errors import RunError

_log = logging.getLogger(__name__)
_DECODING_THREADS = 4
"""Decoders let go of the interpreter's lock."""


class Images(Protocol):
    """What is asked of a set of images here; `penstock.imagesets` opens such sets."""

    @property
    def name(self) -> str:
        """The set as a person says it."""

    @property
    def digest(self) -> str:
        """Changes where any row does."""

    def image(self, row: int) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]. May be called from several threads."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """features: float32 [N, D] on the host. contents: int64 [N], a hash of each image's pixels before any resize."""

    features: Tensor
    contents: Tensor


class SetEncoder:
    """Encodes sets of images, or finds that it has done so before.

    Args:
        encoder: frozen.
        device: where it computes.
        cache: of features.
        batch_size: images at a time. More cost memory and save time on a GPU.
    """

    def __init__(self, encoder: Encoder, device: torch.device, cache: FeatureCache, batch_size: int) -> None:
        self._encoder = encoder
        self._device = device
        self._cache = cache
        self._batch_size = batch_size

    def encode(self, images: Images, rows: Tensor) -> Encoded:
        """Features of the given rows, int64 `[N]`, of a set, in their order.

        Raises:
            RunError: features that are no numbers.
            PenstockError: an image that cannot be read.
        """
        return self._kept(images, rows, "feature", self._encoder.embed_images)

    def encode_for_text(self, images: Images, rows: Tensor, space: TextSpace) -> Encoded:
        """As `encode`, but embeddings in the space of the encoder's text tower."""
        return self._kept(images, rows, "text", space.embed_images)

    def _kept(self, images: Images, rows: Tensor, what: str, embed: Callable[[Tensor], Tensor]) -> Encoded:
        """From the cache, or by `embed`, which `what` names for the cache."""
        key = cache_key(
            {
                "encoder": self._encoder.digest,
                "preprocessing": self._encoder.preprocessing.to_json(),
                "images": images.digest,
                "rows": hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
                "what": what,
                "device": self._device.type,
            }
        )
        if (kept := self._cache.load(key)) is not None:
            return Encoded(kept["features"], kept["contents"])
        _log.info("encoding %d images of %s", len(rows), images.name)
        encoded = self._encode(images, rows, embed)
        if not bool(torch.isfinite(encoded.features).all()):
            raise RunError(
                f"features of {images.name} by {self._encoder.name} are no finite numbers; check its weights"
            )
        self._cache.save(key, {"features": encoded.features, "contents": encoded.contents})
        return encoded

    @torch.no_grad()
    def _encode(self, images: Images, rows: Tensor, embed: Callable[[Tensor], Tensor]) -> Encoded:
        features, contents = [], []
        for batch in _decoded(images, rows, self._batch_size):
            pixels = self._encoder.preprocessing.pixel_values(batch, self._device)
            features.append(embed(pixels).float().cpu())
            contents += [_content(image) for image in batch]
        return Encoded(torch.cat(features), torch.tensor(contents))


@torch.no_grad()
def encode(encoder: PreTrainedModel, images: Tensor, recipe: AugmentRecipe, *, batch_size: int = 256) -> Tensor:
    """Features, float32 `[N, hidden]` on the host, of uint8 images `[N, H, W, 3]`.

    Images are resized and normalised as `recipe` says. Runs in evaluation mode and leaves the encoder's mode
    alone.
    """
    was_training = encoder.training
    encoder.eval()
    features = [
        image_feature(encoder, prepare(batch.to(encoder.device), recipe)).float().cpu()
        for batch in images.split(batch_size)
    ]
    encoder.train(was_training)
    return torch.cat(features)


def pixel_features(images: Tensor) -> Tensor:
    """The floor that any encoder must beat: float32 `[N, H * W * 3]`, every image less its own mean colour.

    Taking each channel's mean away leaves the shape and drops the tint, so cosines compare the drawing.
    """
    pixels = images.float()
    return (pixels - pixels.mean(dim=(1, 2), keepdim=True)).flatten(1)


def _decoded(images: Images, rows: Tensor, batch_size: int) -> Iterator[list[NDArray[np.uint8]]]:
    """The images of the rows, batch by batch; the next batch is decoded meanwhile, and no more."""
    with ThreadPoolExecutor(_DECODING_THREADS, thread_name_prefix="penstock-decode") as pool:
        coming: list[Future[NDArray[np.uint8]]] = []
        try:
            for batch in rows.split(batch_size):
                there, coming = coming, [pool.submit(images.image, row) for row in batch.tolist()]
                if there:
                    yield [image.result() for image in there]
            yield [image.result() for image in coming]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _content(image: NDArray[np.uint8]) -> int:
    """63 bits that are the same for the same pixels."""
    digest = hashlib.blake2b(f"{image.shape}".encode(), digest_size=8)
    digest.update(image.tobytes())
    return int.from_bytes(digest.digest(), "little") >> 1
