from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, SiglipModel

from penstock.producer.tiny import scorer_training
from penstock.toyworld.captions import VOCABULARY, Caption

FEW = ["--steps", "2", "--batch", "8", "--threads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first") / "scorer"
    scorer_training.main(["--out", str(out), *FEW])
    return out


def test_script_leaves_an_ordinary_siglip_in_half_precision(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(model, SiglipModel)
    assert AutoTokenizer.from_pretrained(folder).tokenize("a handwritten seven") == [
        "a</w>",
        "handwritten</w>",
        "seven</w>",
    ]
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["scorer"]
    assert not [path for path in folder.rglob("*.json") if str(folder.parent) in path.read_text()]


def test_equal_seeds_train_equal_weights(folder: Path, tmp_path: Path) -> None:
    scorer_training.main(["--out", str(tmp_path / "again"), *FEW])
    first, second = (load_file(root / "model.safetensors") for root in (folder, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_goes_on_from_a_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "on"
    scorer_training.main(["--out", str(out), "--start", str(folder), *FEW, "--lr", "1e-9", "--weight-decay", "0"])
    first, second = (load_file(root / "model.safetensors") for root in (folder, out))
    assert all(torch.allclose(first[name], second[name], atol=1e-3) for name in first)


def test_a_readme_outlives_another_training(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "README.md").write_text("measured")
    scorer_training.main(["--out", str(tmp_path / "again"), *FEW])
    assert (tmp_path / "again" / "README.md").read_text() == "measured"


def test_a_picture_matches_what_names_its_digit_and_no_colour_but_its_own() -> None:
    captions = [
        Caption("", 3, None, None),
        Caption("", 3, "black", "pink"),
        Caption("", 3, "brown", None),
        Caption("", 4, "black", "pink"),
    ]
    pairs = scorer_training.judge(np.array([3, 4, -1]), ["black", "black", "black"], ["pink", "pink", "grey"], captions)
    assert pairs.tolist() == [[0, 0, 2, 1], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_each_kind_of_pair_has_its_share_of_the_loss_however_many_it_has() -> None:
    logits, pairs = torch.randn(40, 5), torch.ones(40, 5, dtype=torch.int64)
    pairs[0, 0], pairs[1, :3] = 0, 2
    match, digit, colour = weights = (1.0, 2.0, 0.5)
    means = (
        match * -F.logsigmoid(logits[0, 0]),
        digit * -F.logsigmoid(-logits[pairs == 1]).mean(),
        colour * -F.logsigmoid(-logits[1, :3]).mean(),
    )
    expected = sum(means) / (match + digit + colour)
    assert float(scorer_training.pair_loss(logits, pairs, weights)) == pytest.approx(float(expected), rel=1e-5)
    alone = scorer_training.pair_loss(logits[2:], pairs[2:], weights)  # nothing but other digits
    assert float(alone) == pytest.approx(float(-F.logsigmoid(-logits[2:]).mean()), rel=1e-5)


def test_batches_are_drawn_afresh_and_hold_every_kind_of_pair() -> None:
    rng = np.random.default_rng(0)
    batch = scorer_training.draw_batch(200, rng)
    assert batch.images.shape == (200, 32, 32, 3)
    assert len(batch.captions) == 200
    assert {word for text in batch.captions for word in text.split()} <= set(VOCABULARY)
    assert set(np.unique(batch.pairs)) == {0, 1, 2}
    blank = batch.digits == -1
    assert 1 <= blank.sum() <= 20
    assert (batch.pairs[blank] == 1).all()
    # Nothing is written on a blank: no pixel is as dark as ink.
    assert batch.images[blank].min() > 150 > batch.images[~blank].min(axis=(1, 2, 3)).max()
    assert (batch.images != scorer_training.draw_batch(200, rng).images).any()


def test_most_captions_are_of_their_own_pictures() -> None:
    batch = scorer_training.draw_batch(400, np.random.default_rng(1))
    own = np.diagonal(batch.pairs) == 0
    assert 0.7 < own[batch.digits >= 0].mean() < 0.95
