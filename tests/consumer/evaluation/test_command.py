"""The verb as a user meets it: floors and a tiny encoder on the toy world, JSON, and mistakes in one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, ViTModel

from penstock.consumer.config import EvaluationConfig
from penstock.consumer.evaluation.command import main
from penstock.consumer.evaluation.online import ToyWorldEvaluation
from penstock.consumer.export import save_pair
from penstock.consumer.text_tower import LanguageHead, build_text_tower
from penstock.consumer.tokenizer import open_tokenizer
from penstock.kernels.augment import prepare
from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.protocol.errors import ConfigError

SHORT = ["--linear-probe.epochs", "3", "--few-shot.episodes", "20"]


def evaluated(tmp_path: Path, *argv: str) -> dict[str, Any]:
    """What the JSON says."""
    path = tmp_path / "report.json"
    assert main([*argv, "--cache", str(tmp_path / "cache"), *SHORT, "--json", str(path)]) == 0
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_a_tiny_encoder_on_the_toy_world(
    encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluated(tmp_path, str(encoder_folder), "--limit", "300")
    rendered, raw = report["tasks"]
    assert (rendered["num_bank"], rendered["num_test"], raw["num_test"]) == (300, 300, 300)
    assert rendered["num_fit"] + rendered["num_choosing"] == 300
    assert (report["settings"]["knn"]["k"], report["settings"]["knn"]["temperature"]) == (20, 0.07)
    for task in (rendered, raw):
        for measure in ("knn", "linear_probe"):
            figures = task[measure]
            assert 0 < figures["interval"]["low"] < figures["accuracy"] < figures["interval"]["high"] < 1
            assert figures["worst_class"]["accuracy"] == min(part["accuracy"] for part in figures["classes"])
            right = sum(part["accuracy"] * part["num"] for part in figures["classes"])
            assert right / 300 == pytest.approx(figures["accuracy"])
        assert 1 <= task["spread"]["rankme"] <= task["spread"]["max_rank"] == 12
        assert task["skipped"]["zero-shot"] == "the encoder has no text tower"
    assert rendered["knn"]["interval"]["method"].startswith("bootstrap of")
    assert raw["knn"]["interval"]["method"] == "Wilson"
    assert set(rendered["knn"]["worst_groups"]) == {"ink", "paper"}
    shown = capsys.readouterr().out
    assert "k 20, T 0.07; 300 images vote" in shown
    assert "0 of 4 feature sets were there already" in shown


def test_it_repeats_itself_from_the_cache(encoder_folder: Path, tmp_path: Path) -> None:
    argv = [f"random:{encoder_folder}", "--limit", "200"]
    first, second = evaluated(tmp_path, *argv), evaluated(tmp_path, *argv)
    assert second["tasks"] == first["tasks"]
    assert (first["cache"]["hits"], second["cache"]["hits"]) == (0, 4)
    assert second["cache"]["misses"] == 0
    other = evaluated(tmp_path, *argv, "--seed", "1")
    assert other["digest"] != first["digest"]


def test_the_pixel_floor_is_the_one_that_a_run_reports(tmp_path: Path) -> None:
    report = evaluated(tmp_path, "--encoder", "pixels", "--measures", "knn")
    online = ToyWorldEvaluation(EvaluationConfig(), AugmentRecipe.weak(32)).pixels()
    assert report["tasks"][0]["knn"]["accuracy"] == pytest.approx(online, abs=2 / 720)
    assert report["tasks"][0]["linear_probe"] is None


def test_a_pair_is_probed_by_its_tower_and_reads_class_names_in_templates(encoder_folder: Path, tmp_path: Path) -> None:
    templates, words = ["a {}", "one {} here"], ["cat", "owl"]
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in words:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(12):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / split / name / f"{number}.png")
    pair = tmp_path / "pair"
    tokenizer = open_tokenizer("own", [template.replace("{}", name) for template in templates for name in words], 10)
    sizes = {"hidden_size": 12, "num_layers": 1, "num_heads": 3, "max_tokens": 10}
    torch.manual_seed(2)
    tower = build_text_tower(tokenizer.vocab_size, tokenizer.end_id, **sizes)
    save_pair(
        pair,
        ViTModel.from_pretrained(encoder_folder, add_pooling_layer=False),
        tower,
        LanguageHead(12, 12, 7),
        tokenizer,
        AugmentRecipe.weak(16),
    )
    argv = ["--data", str(tmp_path / "set"), "--zero-shot.templates", *templates]
    report = evaluated(tmp_path, str(pair), *argv)
    (task,) = report["tasks"]
    # The same by transformers alone.
    model, reader = AutoModel.from_pretrained(pair).eval(), AutoTokenizer.from_pretrained(pair)
    files = [tmp_path / "set" / "test" / name / f"{number}.png" for name in words for number in range(12)]
    files.sort()
    images = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files]))
    mean = 0
    with torch.no_grad():
        for template in templates:
            texts = reader([template.replace("{}", name) for name in words], padding=True, return_tensors="pt")
            mean = mean + F.normalize(model.get_text_features(**texts).pooler_output, dim=1)
        pixels = prepare(images, AugmentRecipe.weak(16))
        found = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=1)
    predicted = (found @ F.normalize(mean, dim=1).T).argmax(dim=1)
    labels = torch.tensor([words.index(file.parent.name) for file in files])
    assert task["zero_shot"]["accuracy"] == pytest.approx(float((predicted == labels).float().mean()))
    assert len(predicted.unique()) > 0
    assert task["templates"] == templates
    alone = evaluated(tmp_path, str(encoder_folder), *argv)
    assert alone["tasks"][0]["knn"] == task["knn"]
    assert report["dim"] == 12


def test_images_that_stand_in_two_splits_are_counted_and_do_not_vote_for_themselves(
    encoder_folder: Path, tmp_path: Path
) -> None:
    # Every test image is a training image; all are noise, so that only its copy could name its class.
    rng = np.random.default_rng(0)
    for name in ("ant", "cat", "owl", "yak"):
        for number in range(20):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            for split in ("train", "test"):
                folder = tmp_path / "set" / split / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    report = evaluated(tmp_path, str(encoder_folder), "--data", str(tmp_path / "set"), "--knn.k", "1")
    (task,) = report["tasks"]
    assert task["num_known"] == 80
    assert task["knn"]["accuracy"] < 0.5
    assert task["skipped"]["few-shot"] == "needs 5 classes with 20 different images each, found 4"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "encoder must name a run folder, a model's folder, a hub id, random:SOURCE or pixels"),
        (["/no/such/run"], "/no/such/run is not there; encoder takes a run folder, a model's folder or a hub id"),
        (["pixels", "--data", "/no/such/set"], "/no/such/set is not a folder, nor any other set of images"),
        (["pixels", "--device", "tpu:9"], "device 'tpu:9' is not there: "),
        (["pixels", "--json", "/no/such/folder/report.json"], "no such folder: /no/such/folder"),
        (["pixels", "--knn.k", "0"], "--knn.k: k must be >= 1, got 0"),
        (["pixels", "--linear-probe.learning-rates", "0.1", "0.01"], "learning_rates must be some numbers > 0, asc"),
        (["pixels", "--linear-probe.batch-size", "1"], "batch_size must be >= 2: BatchNorm needs two, got 1"),
        (["pixels", "--few-shot.episodes", "1"], "episodes must be >= 2: one has no interval, got 1"),
        (["pixels", "--zero-shot.templates", "a photo"], "templates must hold {} exactly once, got 'a photo'"),
        (["pixels", "--val-split", "test"], "train_split, val_split and test_split must differ"),
        (["pixels", "--confidence", "1"], "confidence must be in (0, 1), got 1.0"),
        (["pixels", "--dat", "toyworld"], "unknown flag --dat; did you mean"),
    ],
)
def test_a_mistake_is_one_line(argv: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main([*argv, "--cache", "none"] if argv else [])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_needs_no_torch() -> None:
    source = "import sys; from penstock.consumer.evaluation.command import main\ntry: main(['--help'])\nfinally: print("
    source += "'torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert "penstock evaluate ENCODER --data SPEC" in " ".join(done.stdout.split())
    assert done.stdout.rstrip().endswith("False False")
