"""What a rank writes down of its settings before the first group comes."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from penstock.consumer.config import TrainConfig
from penstock.consumer.intake import open_ledger
from penstock.consumer.ledger_reader import LedgerReader
from penstock.consumer.making_config import FilterConfig, GeneratorConfig, RealConfig
from penstock.consumer.run_folder import RunFolder

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


def _life(run_dir: Path) -> dict[str, Any]:
    (run_dir / "run.json").touch()
    with LedgerReader(run_dir) as ledger:
        (life,) = ledger.lives
    return life


def test_a_life_begins_with_what_it_was_told(tmp_path: Path) -> None:
    with open_ledger(TrainConfig(generator=GENERATOR, seed=5), RunFolder(tmp_path, "r", 17), 1, 4, "ab"):
        pass
    life = _life(tmp_path)
    sections = {name: life.pop(name) for name in ("prompts", "generator", "filter", "real", "reservoir")}
    assert life == {
        "life": 17,
        "run_id": "r",
        "seed": 5,
        "rank": 1,
        "world_size": 4,
        "model_digest": "ab",
        "real_digest": "",
        "images_per_use": 3,
        "order": "arrival",
        "groups_per_step": TrainConfig().groups_per_step,
    }
    assert sections["generator"].items() >= {"guidance_scale": 7.5, "num_inference_steps": 30, "height": 256}.items()
    assert sections["generator"].keys() == {field.name for field in fields(GeneratorConfig)}
    assert sections["filter"].keys() >= {"min_score", "quantile", "max_candidates"}


def test_a_life_says_how_its_guidance_varies_and_what_it_filters(tmp_path: Path) -> None:
    config = TrainConfig(
        generator=GeneratorConfig(guidance_schedule=("0:1", "9:3")), filter=FilterConfig(min_score=0.5)
    )
    with open_ledger(config, RunFolder(tmp_path, "r", 17), 0, 1, "ab"):
        pass
    life = _life(tmp_path)
    assert life["generator"]["guidance_schedule"] == ["0:1", "9:3"]
    assert life["filter"] == {"min_score": 0.5, "quantile": 0.0, "max_candidates": 0}


def test_a_life_with_real_groups_says_whose_and_how_many(tmp_path: Path) -> None:
    config = TrainConfig(generator=GENERATOR, real=RealConfig(source="photos", fraction=0.25))
    with open_ledger(config, RunFolder(tmp_path, "r", 17), 0, 1, "ab", "cd"):
        pass
    life = _life(tmp_path)
    assert (life["model_digest"], life["real_digest"], life["real"]["fraction"]) == ("ab", "cd", 0.25)
