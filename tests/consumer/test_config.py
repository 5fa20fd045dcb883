"""The trainer's configuration: what cannot work is refused at once, by its name, in one line."""

from pathlib import Path

import pytest

from penstock.config.load import load_config
from penstock.consumer.config import TrainConfig
from penstock.protocol.errors import ConfigError

PRESETS = Path(__file__).parents[2] / "consumer" / "presets"


def load(*argv: str) -> TrainConfig:
    return load_config(TrainConfig, argv, preset_dir=PRESETS, prog="penstock train", description="")


@pytest.mark.parametrize(
    ("flag", "value", "rule"),
    [
        ("--seed", "-1", "seed must be in"),
        ("--model.num-heads", "0", "num_heads must be >= 1"),
        ("--model.patch-size", "0", "patch_size must be >= 1"),
        ("--generator.images-per-group", "2000", "images_per_group must be in"),
        ("--generator.guidance-scale", "inf", "guidance_scale must be a finite number"),
        ("--generator.num-inference-steps", "20000", "num_inference_steps must be in"),
        ("--generator.height", "9000", "height must be in"),
        ("--generator.model-digest", "x" * 64, "model_digest must be"),
        ("--evaluation.every-steps", "0", "every_steps must be >= 1"),
        ("--evaluation.k", "0", "k must be >= 1"),
        ("--stream.lease-s", "inf", "lease_s must be at most"),
        ("--stream.window-bytes", "49151", "stream.window_bytes must hold two groups at least, of 24576 bytes each"),
        ("--stream.warmup-timeout-s", "0", "warmup_timeout_s must be > 0"),
        ("--stream.stall-report-s", "inf", "stall_report_s must be > 0"),
        ("--stream.max-attempts", "2", "max_attempts must be >= 3"),
        ("--stream.heartbeat-s", "0", "heartbeat_s must be in"),
        ("--reservoir.capacity-groups", "4", "capacity_groups must be at least groups_per_step"),
        ("--augment.size", "33", "augment.size must be a multiple of model.patch_size"),
        ("--optimizer.base-lr", "0", "base_lr must be > 0"),
    ],
)
def test_a_value_that_cannot_work_is_refused(flag: str, value: str, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("--config", "demo", flag, value)
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_group_beyond_what_a_message_may_hold_is_refused() -> None:
    sizes = ("--generator.height", "8192", "--generator.width", "8192", "--generator.images-per-group", "64")
    with pytest.raises(ConfigError, match="a group must have at most"):
        load("--config", "demo", *sizes)


def test_the_defaults_and_the_demo_are_possible() -> None:
    assert load().generator.group_bytes == 4 * 256 * 256 * 3
    assert load("--config", "demo").fleet.local_producers > 0


@pytest.mark.parametrize(
    ("order", "engines", "same"),
    [
        ("arrival", "auto", False),
        ("ticket", "auto", True),
        ("arrival", "same", True),
        ("ticket", "any", False),
    ],
)
def test_equal_bits_are_asked_for_where_the_order_is_to_decide_all(order: str, engines: str, same: bool) -> None:
    assert load("--config", "demo", "--order", order, "--generator.engines", engines).same_engine is same
