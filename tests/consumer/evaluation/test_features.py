"""A set's features: in the order of its rows, computed once and then found, never those of other weights or pixels."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from penstock.consumer.evaluation.cache import FeatureCache
from penstock.consumer.evaluation.encoders import load_encoder
from penstock.consumer.evaluation.features import SetEncoder
from penstock.kernels.augment import prepare
from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.protocol.errors import ImageSetError, RunError

CPU = torch.device("cpu")


class Pictures:
    """Images in memory that count how often each was asked for."""

    def __init__(self, images: NDArray[np.uint8], digest: str = "0") -> None:
        self.images, self.digest, self.name = images, digest, "pictures"
        self.asked: list[int] = []
        self._lock = threading.Lock()

    def image(self, row: int) -> NDArray[np.uint8]:
        with self._lock:
            self.asked.append(row)
        image: NDArray[np.uint8] = self.images[row]
        return image


def pictures(num: int = 11) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (num, 16, 16, 3), dtype=np.uint8)


def set_encoder(folder: Path, cache: FeatureCache, batch_size: int = 4) -> SetEncoder:
    return SetEncoder(load_encoder(str(folder), CPU), CPU, cache, batch_size)


def directly(folder: Path, images: NDArray[np.uint8]) -> Tensor:
    pixels = prepare(torch.from_numpy(images), AugmentRecipe.weak(16))
    return load_encoder(str(folder), CPU).embed_images(pixels)


def test_features_come_in_the_order_of_the_rows(encoder_folder: Path) -> None:
    images, rows = pictures(), torch.tensor([9, 0, 3, 3, 10, 1])
    encoded = set_encoder(encoder_folder, FeatureCache(None, 0)).encode(Pictures(images), rows)
    expected = directly(encoder_folder, images[rows.numpy()])
    torch.testing.assert_close(encoded.features, expected, rtol=0, atol=1e-5)
    assert not encoded.features.requires_grad
    contents = encoded.contents.tolist()
    assert contents[2] == contents[3]
    assert len(set(contents)) == 5


def test_the_same_weights_pixels_and_rows_are_found_again(encoder_folder: Path, tmp_path: Path) -> None:
    cache, rows = FeatureCache(tmp_path / "cache", 10**6), torch.arange(11)
    first = set_encoder(encoder_folder, cache).encode(Pictures(pictures()), rows)
    again = Pictures(pictures())
    second = set_encoder(encoder_folder, cache).encode(again, rows)
    assert again.asked == []
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.contents, second.contents)
    assert (cache.hits, cache.misses) == (1, 1)


def test_another_weight_digest_row_or_size_is_a_miss(encoder_folder: Path, tmp_path: Path) -> None:
    cache, rows = FeatureCache(tmp_path / "cache", 10**6), torch.arange(11)
    set_encoder(encoder_folder, cache).encode(Pictures(pictures()), rows)
    set_encoder(encoder_folder, cache).encode(Pictures(pictures(), digest="1"), rows)
    set_encoder(encoder_folder, cache).encode(Pictures(pictures()), rows[:-1])
    config = encoder_folder / "preprocessor_config.json"
    config.write_text(config.read_text().replace("0.485", "0.5"))
    set_encoder(encoder_folder, cache).encode(Pictures(pictures()), rows)
    weights = load_file(encoder_folder / "model.safetensors")
    weights["layernorm.bias"] += 0.5
    save_file(weights, encoder_folder / "model.safetensors", metadata={"format": "pt"})
    changed = set_encoder(encoder_folder, cache).encode(Pictures(pictures()), rows)
    assert (cache.hits, cache.misses) == (0, 5)
    assert not torch.allclose(changed.features, directly_before(encoder_folder, pictures()), atol=0.1)


def directly_before(folder: Path, images: NDArray[np.uint8]) -> Tensor:
    """The features less what the last weights add."""
    return directly(folder, images) - 0.5


def test_no_more_than_one_batch_is_decoded_ahead(encoder_folder: Path) -> None:
    encoder = load_encoder(str(encoder_folder), CPU)
    asked_before_batch = []
    images = Pictures(pictures())

    def embed(pixels: Tensor) -> Tensor:
        asked_before_batch.append(max(images.asked))
        return pixels.flatten(1)

    object.__setattr__(encoder, "embed_images", embed)
    SetEncoder(encoder, CPU, FeatureCache(None, 0), 2).encode(images, torch.arange(11))
    assert len(asked_before_batch) == 6
    assert all(asked < 2 * (batch + 2) for batch, asked in enumerate(asked_before_batch))


def test_an_image_that_cannot_be_read_ends_it_with_its_own_line(encoder_folder: Path) -> None:
    class Broken(Pictures):
        def image(self, row: int) -> NDArray[np.uint8]:
            if row == 7:
                raise ImageSetError(self.name, "cat-7.jpg", "it does not decode")
            return super().image(row)

    with pytest.raises(ImageSetError, match=r"pictures: cat-7\.jpg: it does not decode"):
        set_encoder(encoder_folder, FeatureCache(None, 0)).encode(Broken(pictures()), torch.arange(11))


def test_features_that_are_no_numbers_are_refused_and_not_kept(encoder_folder: Path, tmp_path: Path) -> None:
    weights = load_file(encoder_folder / "model.safetensors")
    weights["layernorm.weight"][0] = float("nan")
    save_file(weights, encoder_folder / "model.safetensors", metadata={"format": "pt"})
    cache = FeatureCache(tmp_path / "cache", 10**6)
    with pytest.raises(RunError, match=r"features of pictures by .* are no finite numbers"):
        set_encoder(encoder_folder, cache).encode(Pictures(pictures()), torch.arange(11))
    assert cache.size_bytes == 0
