"""Weighted kNN against scikit-learn's classifier with the same weights."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from penstock.consumer.evaluation.features import encode, pixel_features
from penstock.consumer.evaluation.knn import knn_accuracy
from penstock.consumer.models import build_encoder
from penstock.kernels.augment import prepare
from penstock.kernels.augment_recipe import AugmentRecipe

torch.set_num_threads(1)


def digits() -> tuple[Tensor, Tensor]:
    """Noisy handwriting, so that accuracy is neither 0 nor 1 and votes are close."""
    data = load_digits()
    noise = np.random.default_rng(0).normal(scale=9.0, size=data.data.shape)
    return torch.from_numpy(data.data + noise), torch.from_numpy(data.target).long()


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (5, 0.01)])
def test_equals_scikit_learn_with_the_same_weights(k: int, temperature: float) -> None:
    features, labels = digits()
    bank, queries = slice(0, 1000), slice(1000, None)
    classifier = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    classifier.fit(features[bank].numpy(), labels[bank].numpy())
    expected = classifier.score(features[queries].numpy(), labels[queries].numpy())
    accuracy = knn_accuracy(
        features[bank], labels[bank], features[queries], labels[queries], k=k, temperature=temperature
    )
    assert 0.3 < expected < 0.99
    assert accuracy == pytest.approx(expected, abs=2 / 797)  # float32 may settle a tie the other way


def test_excluded_ids_have_no_vote() -> None:
    # Every query's twin is in the bank. Without it, only rows of the other class are left.
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    labels, ids = torch.tensor([0, 1]), torch.tensor([2**60, 2**60 + 1])
    assert knn_accuracy(bank, labels, bank, labels) == 1.0
    assert knn_accuracy(bank, labels, bank, labels, exclude=(ids, ids)) == 0.0


def test_leave_one_out_equals_scikit_learn_without_the_sample() -> None:
    features, labels = digits()
    features, labels = features[:150], labels[:150]
    ids = torch.arange(150) // 2  # two rows of one scan
    right = 0
    for sample in range(150):
        kept = ids != ids[sample]
        classifier = KNeighborsClassifier(5, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
        classifier.fit(features[kept].numpy(), labels[kept].numpy())
        right += int(classifier.predict(features[sample : sample + 1].numpy())[0] == labels[sample])
    accuracy = knn_accuracy(features, labels, features, labels, k=5, exclude=(ids, ids))
    assert accuracy == pytest.approx(right / 150, abs=1e-9)


def test_scale_of_features_does_not_matter() -> None:
    features, labels = digits()
    scaled = features * torch.rand(len(features), 1, generator=torch.Generator().manual_seed(0))
    plain = knn_accuracy(features[:500], labels[:500], features[500:900], labels[500:900])
    assert knn_accuracy(scaled[:500], labels[:500], scaled[500:900], labels[500:900]) == pytest.approx(plain, abs=0.005)


def test_encode_returns_cls_features_in_order_and_keeps_the_mode() -> None:
    torch.manual_seed(0)
    encoder, recipe = build_encoder(16, 8, 12, 1, 3).train(), AugmentRecipe.weak(16)
    images = torch.randint(0, 256, (7, 20, 20, 3), dtype=torch.uint8)
    features = encode(encoder, images, recipe, batch_size=3)
    assert encoder.training
    assert not features.requires_grad
    expected = encoder.eval()(pixel_values=prepare(images, recipe)).last_hidden_state[:, 0]
    torch.testing.assert_close(features, expected.detach(), rtol=0, atol=1e-5)


def test_pixel_features_drop_the_tint_and_keep_the_drawing() -> None:
    drawing = torch.randint(0, 100, (1, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tinted = torch.cat([drawing.expand(-1, -1, -1, 3) + tint for tint in (0, torch.tensor([80, 10, 150]).byte())])
    white, pink = pixel_features(tinted)
    torch.testing.assert_close(white, pink, rtol=0, atol=1e-4)


def test_rejects_bad_input_by_name_and_value() -> None:
    features, labels = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        knn_accuracy(features, labels, features, labels, k=0)
    with pytest.raises(ValueError, match=r"temperature must be > 0, got 0\.0"):
        knn_accuracy(features, labels, features, labels, temperature=0.0)
    with pytest.raises(ValueError, match=r"queries has 3 rows but labels of shape \[2\]"):
        knn_accuracy(features, labels, features, labels[:2])
    with pytest.raises(ValueError, match=r"bank must be \[rows, D\] with at least one row"):
        knn_accuracy(features[:0], labels[:0], features, labels)
