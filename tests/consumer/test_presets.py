"""Every preset against the flags of the published code that it stands for.

Sources: google-research/syn-rep-learn, StableRep/README.md, StableRep/main_stablerep.py (lines 218 to 251),
SynCLR/train_pytorch/README.md and main_mask_synclr.py (lines 350 to 353); facebookresearch/SLIP, README.md and main.py.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from penstock.config.load import load_config, preset_names
from penstock.consumer.building import build_schedule
from penstock.consumer.config import TrainConfig
from penstock.kernels.augment_recipe import AugmentRecipe

PRESETS = Path(__file__).parents[2] / "consumer" / "presets"
CC12M, REDCAPS = 10_000_000, 11_600_000
"""Captions, as the papers count them (arXiv 2306.00984, section 4; arXiv 2312.17742, section 4.1)."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """A published command, by its own flags; the defaults are those of the README of StableRep."""

    captions: int
    epochs: int
    warmup_epochs: float
    world_size: int = 32
    batch_size: int = 43
    n_img: int = 6
    num_crop: int = 1
    blr: float = 2.0e-4
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    num_made: int = 10
    scale: float = 2.0
    weak_aug: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """What a DistributedSampler, which fills up, and a DataLoader with drop_last leave."""
        return math.ceil(self.captions / self.world_size) // self.batch_size

    @property
    def lr(self) -> float:
        eff_batch_size = self.batch_size * self.world_size
        return self.blr * eff_batch_size * self.n_img / 256 * self.num_crop / 2


STABLEREP = Flags(captions=CC12M, epochs=15, warmup_epochs=0.5)
SIMCLR = replace(
    STABLEREP, epochs=35, warmup_epochs=1.0, world_size=64, batch_size=64, n_img=1, num_crop=2, num_made=1, scale=8.0
)
FLAGS = {
    "stablerep-vitb16-cc12m-1x": STABLEREP,
    "stablerep-vitb16-cc12m-2x": replace(STABLEREP, epochs=31, warmup_epochs=1.0),
    "stablerep-vitb16-cc12m-3x": replace(STABLEREP, epochs=46, warmup_epochs=1.5),
    "stablerep-vitb16-redcaps-1x": replace(STABLEREP, captions=REDCAPS, epochs=13, warmup_epochs=0.45),
    "stablerep-vitb16-redcaps-2x": replace(STABLEREP, captions=REDCAPS, epochs=27, warmup_epochs=0.9),
    "stablerep-vitb16-redcaps-3x": replace(STABLEREP, captions=REDCAPS, epochs=40, warmup_epochs=1.35),
    "stablerep+-vitb16-cc12m-1x": STABLEREP,
    "stablerep+-vitb16-redcaps-1x": replace(STABLEREP, captions=REDCAPS, epochs=13, warmup_epochs=0.45),
    "simclr-vitb16-cc12m": SIMCLR,
    # SLIP gives CLIP's rate itself, 5e-4; this blr makes it of the formula.
    "clip-vitb16-cc12m": replace(SIMCLR, num_crop=1, blr=6.25e-5, weight_decay=0.5, scale=2.0, weak_aug=True),
    "synclr-vitb16": replace(STABLEREP, batch_size=64, n_img=4, num_made=4, blr=1.5e-4, scale=2.5),
}
PUBLISHED_LR = {"simclr-vitb16-cc12m": 3.2e-3, "clip-vitb16-cc12m": 5e-4, "synclr-vitb16": 2.4e-3}
"""`--lr` of SLIP's README; for SynCLR and StableRep what their formulas come to."""


def load(name: str) -> TrainConfig:
    return load_config(TrainConfig, ["--config", name], preset_dir=PRESETS, prog="penstock train", description="")


def test_every_preset_of_a_paper_is_checked() -> None:
    assert {name for name in preset_names(PRESETS) if "vitb16" in name} == FLAGS.keys()


@pytest.mark.parametrize("name", FLAGS)
def test_batch_rate_and_length_follow_the_published_flags(name: str) -> None:
    config, flags = load(name), FLAGS[name]
    schedule = build_schedule(config)
    assert config.groups_per_step == flags.batch_size * flags.world_size
    assert config.images_per_use == flags.n_img
    assert config.rows_per_step == flags.batch_size * flags.world_size * flags.n_img * flags.num_crop
    assert schedule.peak_lr == pytest.approx(flags.lr, rel=1e-12)
    assert schedule.peak_lr == pytest.approx(PUBLISHED_LR.get(name, 3.225e-3), rel=1e-12)
    assert schedule.max_steps == flags.epochs * flags.steps_per_epoch
    assert schedule.warmup_steps == pytest.approx(flags.warmup_epochs * flags.steps_per_epoch, abs=0.5)
    assert schedule.min_lr == 0
    assert config.optimizer.weight_decay == flags.weight_decay
    assert config.optimizer.betas == flags.betas
    assert config.optimizer.max_grad_norm == 0


@pytest.mark.parametrize("name", FLAGS)
def test_images_are_made_and_used_as_often_as_published(name: str) -> None:
    config, flags = load(name), FLAGS[name]
    generator, reservoir = config.generator, config.reservoir
    # txt2img.py: DDIM, 50 steps, 512 x 512, saved at 256 x 256; --scale as the README or the paper says.
    assert (generator.scheduler, generator.num_inference_steps) == ("DDIMScheduler", 50)
    assert (generator.native_height, generator.native_width, generator.height, generator.width) == (512, 512, 256, 256)
    assert generator.guidance_scale == flags.scale
    assert generator.images_per_group == flags.num_made
    assert (reservoir.policy, reservoir.reuse) == ("fixed", flags.epochs)
    # A pass over the captions, but for what drop_last leaves over.
    assert config.max_steps * config.groups_per_step / reservoir.reuse == pytest.approx(flags.captions, rel=1e-3)
    assert config.capacity_groups == reservoir.capacity_groups >= 20 * config.groups_per_step


@pytest.mark.parametrize("name", [name for name in FLAGS if not name.startswith("synclr")])
def test_augmentation_is_the_published_one(name: str) -> None:
    assert load(name).augment == (AugmentRecipe.weak() if FLAGS[name].weak_aug else AugmentRecipe.strong())


def test_synclr_augments_as_its_code_does_without_local_crops() -> None:
    # augmentations.py, lines 62 to 105; --global_crops_scale's help; blur of every other crop, else of a tenth.
    assert load("synclr-vitb16").augment == AugmentRecipe(
        crop_scale=(0.14, 1.0), saturation=0.2, blur_probability=(1.0 + 0.1) / 2, blur_kernel_size=9
    )


@pytest.mark.parametrize("name", FLAGS)
def test_network_and_objective_are_the_published_ones(name: str) -> None:
    config = load(name)
    model, text, objective = config.model, config.text, config.objective
    assert (model.patch_size, model.hidden_size, model.num_layers, model.num_heads) == (16, 768, 12, 12)
    assert objective.name == name.partition("-")[0]
    assert (model.head_hidden_size, model.head_out_size, objective.temperature) == (4096, 256, 0.1)
    is_synclr = objective.name == "synclr"
    assert (model.head_norm, model.head_norm_output) == (("layer", True) if is_synclr else ("batch", False))
    assert (objective.image_weight, objective.language_weight) == (1.0, 1.0)
    assert (objective.teacher_decay, objective.teacher_decay_end) == (0.994, 1.0)
    if objective.reads_text:
        assert text.tokenizer == "openai/clip-vit-base-patch32"
        assert (text.hidden_size, text.num_layers, text.num_heads) == (512, 12, 8)
        assert (text.max_tokens, text.out_size) == (77, 512)


@pytest.mark.parametrize("name", FLAGS)
def test_a_preset_says_what_it_stands_for_and_costs(name: str) -> None:
    lines = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comments = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
    for told in ("ImageNet linear", "GPU-hours, estimated", "You supply"):
        assert told in comments
