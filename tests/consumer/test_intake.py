"""What a rank writes down of its settings before the first group comes."""

import json
from dataclasses import fields
from pathlib import Path

from penstock.consumer.config import GeneratorConfig, RealConfig, TrainConfig
from penstock.consumer.intake import open_ledger
from penstock.consumer.run_folder import RunFolder
from penstock.protocol.tickets import Recipe

GENERATOR = GeneratorConfig(
    images_per_group=3,
    guidance_scale=7.5,
    guidance_rescale=0.7,
    guidance_start=0.2,
    guidance_stop=0.8,
    num_inference_steps=30,
    scheduler="DDIMScheduler",
    native_height=512,
    native_width=768,
    height=256,
    width=384,
)


def test_the_line_of_a_life_has_all_that_the_run_s_recipes_share(tmp_path: Path) -> None:
    with open_ledger(TrainConfig(generator=GENERATOR), RunFolder(tmp_path, "r", 17), 1, 4, "ab"):
        pass
    life = json.loads((tmp_path / "ledger-1.jsonl").read_text())
    assert life == {
        "life": 17,
        "run_id": "r",
        "rank": 1,
        "world_size": 4,
        "model_digest": "ab",
        "num_images": 3,
        "images_per_use": 3,
        "guidance_scale": 7.5,
        "guidance_rescale": 0.7,
        "guidance_start": 0.2,
        "guidance_stop": 0.8,
        "num_inference_steps": 30,
        "scheduler": "DDIMScheduler",
        "native_height": 512,
        "native_width": 768,
        "height": 256,
        "width": 384,
    }
    of_a_group = {"prompt", "seed", "candidates", "guidance_scales"}
    of_a_filter = {"scorer_digest", "min_score", "num_candidates", "max_candidates"}
    shared = {field.name for field in fields(Recipe)} - of_a_group - of_a_filter
    assert shared <= life.keys(), "a group's line has the rest"


def test_the_line_of_a_life_with_real_groups_says_whose_and_how_many(tmp_path: Path) -> None:
    config = TrainConfig(generator=GENERATOR, real=RealConfig(source="photos", fraction=0.25))
    with open_ledger(config, RunFolder(tmp_path, "r", 17), 0, 1, "ab", "cd"):
        pass
    life = json.loads((tmp_path / "ledger-0.jsonl").read_text())
    assert (life["model_digest"], life["real_digest"], life["real_fraction"]) == ("ab", "cd", 0.25)
