import numpy as np
from numpy.typing import NDArray

from penstock.toyworld.evaluation import evaluation_sets
from penstock.toyworld.scans import load_split


def nearest_neighbour_accuracy(
    bank: NDArray[np.float32],
    bank_labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> float:
    """Weighted kNN of Wu et al. (CVPR 2018), cosine, k 20, temperature 0.07, in plain numpy."""
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    similarity = queries @ bank.T
    nearest = np.argsort(-similarity, axis=1)[:, :20]
    weight = np.exp(np.take_along_axis(similarity, nearest, axis=1) / 0.07)
    votes = np.stack([(weight * (bank_labels[nearest] == digit)).sum(axis=1) for digit in range(10)], axis=1)
    return float((votes.argmax(axis=1) == labels).mean())


def pixel_features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Every image less its own mean colour, float32 [N, 3072]: the strongest of the pixel floors that were tried."""
    pixels = images.astype(np.float32)
    centred: NDArray[np.float32] = (pixels - pixels.mean(axis=(1, 2), keepdims=True)).reshape(len(images), -1)
    return centred


def test_no_evaluation_image_shows_a_training_scan() -> None:
    sets, training = evaluation_sets(), set(load_split("train").ids)
    banks = set(sets.bank.scan_ids) | set(sets.raw_bank.scan_ids)
    queries = set(sets.queries.scan_ids) | set(sets.raw_queries.scan_ids)
    assert not (banks | queries) & training
    assert not banks & queries


def test_sets_have_four_and_two_renders_of_each_scan() -> None:
    sets = evaluation_sets()
    assert len(sets.bank.images) == 4 * len(load_split("val"))
    assert len(sets.queries.images) == 2 * len(load_split("test"))
    assert len(sets.raw_bank.images) == len(load_split("val"))
    assert len(sets.raw_queries.images) == len(load_split("test"))
    assert {images.images.shape[1:] for images in (sets.bank, sets.queries, sets.raw_bank)} == {(32, 32, 3)}


def test_pixels_alone_read_at_most_sixty_percent_of_the_rendered_digits() -> None:
    sets = evaluation_sets()
    accuracy = nearest_neighbour_accuracy(
        pixel_features(sets.bank.images),
        sets.bank.labels,
        pixel_features(sets.queries.images),
        sets.queries.labels,
    )
    assert 0.3 < accuracy <= 0.6


def test_pixels_read_the_raw_scans_easily() -> None:
    # So it is the pose that makes the rendered test hard, and the handwriting itself is sound.
    sets = evaluation_sets()
    bank, queries = pixel_features(sets.raw_bank.images), pixel_features(sets.raw_queries.images)
    assert nearest_neighbour_accuracy(bank, sets.raw_bank.labels, queries, sets.raw_queries.labels) > 0.9
