"""Which image does what: nothing that is reported on decides anything."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from penstock.consumer.evaluation.config import EvaluateConfig
from penstock.consumer.evaluation.splits import Labelled, cut, limited
from penstock.consumer.evaluation.tasks import open_tasks
from penstock.protocol.errors import ConfigError
from penstock.toyworld.scans import load_split


def write_set(root: Path, split: str, classes: dict[str, int]) -> None:
    """`ROOT/SPLIT/CLASS/*.png`, so many of each class, every image another."""
    rng = np.random.default_rng(len(split))
    for name, num in classes.items():
        (root / split / name).mkdir(parents=True)
        for number in range(num):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / name / f"{number}.png")


def labelled(labels: list[int], ids: list[int] | None = None) -> Labelled:
    class NoImages:
        name = digest = "none"

    return Labelled(
        NoImages(),  # type: ignore[arg-type]
        torch.arange(len(labels)),
        torch.tensor(labels),
        None if ids is None else torch.tensor(ids),
    )


def test_a_cut_takes_its_share_of_every_class_and_is_always_the_same() -> None:
    bank = labelled([0] * 100 + [1] * 40 + [2] * 5 + [3])
    fit, aside = cut(bank, 0.2)
    assert sorted([*fit.tolist(), *aside.tolist()]) == list(range(146))
    assert torch.bincount(bank.labels[aside], minlength=4).tolist() == [20, 8, 1, 0]  # one image alone stays
    again = cut(bank, 0.2)
    assert torch.equal(fit, again[0])
    assert aside.tolist() == sorted(aside.tolist()) != list(range(20))


def test_a_cut_never_divides_an_original() -> None:
    bank = labelled([0] * 40 + [1] * 40, ids=[number // 4 for number in range(80)])
    fit, aside = cut(bank, 0.3)
    assert bank.ids is not None
    assert set(bank.ids[fit].tolist()).isdisjoint(bank.ids[aside].tolist())
    assert len(aside) == 4 * (3 + 3)


def test_a_limit_draws_without_order_of_the_classes() -> None:
    bank = labelled([0] * 50 + [1] * 50)
    few = limited(bank, 20)
    assert len(few) == 20
    assert few.labels.unique().tolist() == [0, 1]
    assert torch.equal(few.rows, limited(bank, 20).rows)
    assert limited(bank, 0) is bank
    assert limited(bank, 100) is bank


def test_the_toy_world_is_tested_on_test_scans_and_all_else_on_validation_scans() -> None:
    rendered, raw = open_tasks(EvaluateConfig())
    for task, repeats in ((rendered, 4), (raw, 1)):
        assert task.bank.ids is not None
        assert task.test.ids is not None
        assert isinstance(task.choosing, torch.Tensor)
        assert set(task.bank.ids.tolist()) == set(load_split("val").ids.tolist())
        assert set(task.test.ids.tolist()) == set(load_split("test").ids.tolist())
        assert len(task.bank) == repeats * len(load_split("val"))
        fit, choosing = task.bank.ids[task.fit], task.bank.ids[task.choosing]
        assert set(fit.tolist()).isdisjoint(choosing.tolist())
        assert task.original == "scan"
    assert set(rendered.test.groups) == {"ink", "paper"}
    assert rendered.templates == ("a handwritten {}",)


def test_reporting_on_validation_images_of_the_toy_world_leaves_the_test_scans_alone() -> None:
    for task in open_tasks(EvaluateConfig(report_on="val")):
        assert task.bank.ids is not None
        assert task.test.ids is not None
        scans = set(load_split("val").ids.tolist())
        assert set(task.bank.ids.tolist()) | set(task.test.ids.tolist()) == scans
        assert set(task.bank.ids.tolist()).isdisjoint(task.test.ids.tolist())


def test_a_real_set_s_splits_keep_their_parts(tmp_path: Path) -> None:
    for split, num in (("train", 10), ("dev", 4), ("test", 3)):
        write_set(tmp_path, split, {"cat": num, "owl": num})
    (task,) = open_tasks(EvaluateConfig(data=str(tmp_path), val_split="dev"))
    assert (len(task.bank), len(task.fit), len(task.choosing), len(task.test)) == (20, 20, 8, 6)
    assert task.classes == ("cat", "owl")
    assert task.bank.labels.tolist() == [0] * 10 + [1] * 10
    (cut_task,) = open_tasks(EvaluateConfig(data=str(tmp_path)))
    assert (len(cut_task.bank), len(cut_task.fit), len(cut_task.choosing)) == (20, 16, 4)
    (on_val,) = open_tasks(EvaluateConfig(data=str(tmp_path), val_split="dev", report_on="val"))
    assert (len(on_val.bank), len(on_val.fit), len(on_val.choosing), len(on_val.test)) == (20, 16, 4, 8)
    assert on_val.test.images.image(0).shape == (8, 8, 3)


def test_reporting_on_val_does_not_even_open_the_test_split(tmp_path: Path) -> None:
    write_set(tmp_path, "train", {"cat": 10, "owl": 10})
    (task,) = open_tasks(EvaluateConfig(data=str(tmp_path), report_on="val"))
    assert (len(task.bank), len(task.test)) == (16, 4)
    with pytest.raises(ConfigError, match="has no split 'test'"):
        open_tasks(EvaluateConfig(data=str(tmp_path)))


def test_labels_are_matched_by_name_where_a_split_lacks_a_class(tmp_path: Path) -> None:
    write_set(tmp_path, "train", {"ant": 5, "cat": 5, "owl": 5})
    write_set(tmp_path, "test", {"cat": 2, "owl": 2})
    (task,) = open_tasks(EvaluateConfig(data=str(tmp_path)))
    assert task.test.labels.tolist() == [1, 1, 2, 2]
    write_set(tmp_path, "other", {"cat": 2, "zebra": 2})
    with pytest.raises(ConfigError, match="class 'zebra' of its split 'other' is not in the training split"):
        open_tasks(EvaluateConfig(data=str(tmp_path), test_split="other"))


def test_sets_that_cannot_be_used_end_as_one_line(tmp_path: Path) -> None:
    write_set(tmp_path, "train", {"cat": 1})
    write_set(tmp_path, "test", {"cat": 2})
    with pytest.raises(ConfigError, match="too few images for three parts: 1 to fit, 0 to choose by, 2 to report on"):
        open_tasks(EvaluateConfig(data=str(tmp_path)))
    with pytest.raises(ConfigError, match="toyworld has splits of its own"):
        open_tasks(EvaluateConfig(test_split="raw-test"))
    unlabelled = tmp_path / "captioned" / "train"
    unlabelled.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(unlabelled / "a.png")
    with (unlabelled / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "caption"], ["a.png", "a cat"]])
    with pytest.raises(ConfigError, match="has no labels in its split 'train'; accuracy needs some"):
        open_tasks(EvaluateConfig(data=str(tmp_path / "captioned")))
