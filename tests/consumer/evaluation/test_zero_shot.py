"""Zero-shot by a fake text tower whose embeddings are known."""

from collections.abc import Sequence

import torch
from torch import Tensor

from penstock.consumer.evaluation.zero_shot import class_embeddings, zero_shot_predict

VECTORS = {
    "a red": [2.0, 0.0, 0.0],
    "a blue": [0.0, 3.0, 0.0],
    "red!": [1.0, 1.0, 0.0],
    "blue!": [0.0, 0.0, 7.0],
}


def embed(texts: Sequence[str]) -> Tensor:
    return torch.tensor([VECTORS[text] for text in texts])


def test_templates_are_averaged_as_unit_vectors_and_made_unit_again() -> None:
    half = 0.5**0.5
    red = torch.tensor([1 + half, half, 0.0])
    blue = torch.tensor([0.0, 1.0, 1.0])
    expected = torch.stack([red / red.norm(), blue / blue.norm()])
    torch.testing.assert_close(class_embeddings(embed, ["red", "blue"], ["a {}", "{}!"]), expected)


def test_the_largest_cosine_wins_whatever_the_length() -> None:
    classes = class_embeddings(embed, ["red", "blue"], ["a {}"])
    features = torch.tensor([[0.9, 1.0, 50.0], [1.0, 0.9, -50.0], [1e-3, 0.0, 0.0]])
    assert zero_shot_predict(features, classes).tolist() == [1, 0, 0]


def test_many_texts_go_through_the_tower_in_parts() -> None:
    sizes = []

    def tower(texts: Sequence[str]) -> Tensor:
        sizes.append(len(texts))
        return torch.tensor([[float(text), 1.0] for text in texts])

    classes = class_embeddings(tower, [str(number) for number in range(700)], ["{}"])
    assert sizes == [256, 256, 188]
    torch.testing.assert_close(classes[:, 0] / classes[:, 1], torch.arange(700.0), rtol=1e-4, atol=1e-4)
