"""What the losses refuse: each error names the argument, the rule and the value, in one line."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from penstock.kernels.contrast_inputs import MIN_TEMPERATURE
from penstock.kernels.multipos_clip_loss import multipos_clip_loss
from penstock.kernels.multipos_loss import multipos_loss

LABELS = torch.tensor([0, 0, 1, 1])
FEATURES = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TEXTS, TEXT_LABELS = FEATURES[1:3], LABELS[1:3]


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (FEATURES, LABELS.float(), r"labels must be int64 \(they are hashes, never rounded\), got torch\.float32"),
        (FEATURES, LABELS[:3], r"labels must be \[4\], one for each row, got \[3\]"),
        (FEATURES, LABELS.to("meta"), "labels must be on the device of features, cpu, got meta"),
        (LABELS[:, None], LABELS, r"features must be floating point \[n, D\], D >= 1, got torch\.int64 \[4, 1\]"),
        (FEATURES[0], LABELS, r"features must be floating point \[n, D\], D >= 1, got torch\.float64 \[5\]"),
        (FEATURES[:, :0], LABELS, r"features must be floating point \[n, D\], D >= 1, got torch\.float64 \[4, 0\]"),
        (FEATURES[:0], LABELS[:0], "features must have at least one row on some rank, got none"),
    ],
)
def test_features_and_labels_of_images(features: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        multipos_loss(features, labels, temperature=0.1)


@pytest.mark.parametrize(
    ("features", "labels", "text_features", "text_labels", "message"),
    [
        (FEATURES, LABELS, TEXTS, TEXT_LABELS.int(), r"text_labels must be int64 .*, got torch\.int32"),
        (FEATURES, LABELS[:2], TEXTS, TEXT_LABELS, r"image_labels must be \[4\], one for each row, got \[2\]"),
        (FEATURES, LABELS, TEXTS[:, :4], TEXT_LABELS, "image_features and .* must be equally wide, got 5 and 4"),
        (FEATURES, LABELS, TEXTS[:0], TEXT_LABELS[:0], "text_features must have at least one row on some rank, .*"),
        (FEATURES[:0], LABELS[:0], TEXTS, TEXT_LABELS, "image_features must have at least one row on some rank, .*"),
        (FEATURES, LABELS, TEXTS, TEXT_LABELS.to("meta"), "text_labels must be on the device of text_features, .*"),
        (
            *(FEATURES, LABELS, TEXTS.to("meta"), TEXT_LABELS.to("meta")),
            "image_features and text_features must be on one device, got cpu and meta",
        ),
    ],
)
def test_features_and_labels_of_images_and_texts(
    features: Tensor, labels: Tensor, text_features: Tensor, text_labels: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        multipos_clip_loss(features, text_features, labels, text_labels, temperature=0.1)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e-40, 0.99 * MIN_TEMPERATURE])
@pytest.mark.parametrize("made", [float, torch.tensor, lambda value: torch.tensor([[value]], requires_grad=True)])
def test_temperatures_that_are_not_finite_or_too_low(made: Callable[[float], float | Tensor], value: float) -> None:
    for loss in (
        lambda temperature: multipos_loss(FEATURES, LABELS, temperature=temperature),
        lambda temperature: multipos_clip_loss(FEATURES, TEXTS, LABELS, TEXT_LABELS, temperature=temperature),
    ):
        with pytest.raises(ValueError, match=r"^temperature must be finite and >= 1e-06, got [-\w.]+$"):
            loss(made(value))


def test_a_temperature_for_each_row() -> None:
    with pytest.raises(ValueError, match=r"^temperature must have one element, got shape \[4\]$"):
        multipos_loss(FEATURES, LABELS, temperature=torch.full((4,), 0.1))


def test_the_lowest_temperature_is_taken() -> None:
    assert multipos_loss(FEATURES, LABELS, temperature=MIN_TEMPERATURE).isfinite()


def test_chunks_and_backends() -> None:
    with pytest.raises(ValueError, match=r"^chunk_size must be >= 1, got 0$"):
        multipos_loss(FEATURES, LABELS, temperature=0.1, chunk_size=0)
    with pytest.raises(ValueError, match=r"^backend must be one of auto, reference, chunked, triton, got 'cuda'$"):
        multipos_loss(FEATURES, LABELS, temperature=0.1, backend="cuda")  # type: ignore[arg-type]
