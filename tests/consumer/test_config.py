"""The trainer's configuration: what cannot work is refused at once, by its name, in one line."""

from pathlib import Path

import pytest

from penstock.config.load import load_config
from penstock.consumer import vit_sizes
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
        ("--generator.guidance-scale", "inf", "guidance_scale must be in [0, 1000], got inf"),
        ("--generator.guidance-scale", "2.0005", "guidance_scale must be a multiple of 0.001, got 2.0005"),
        ("--generator.guidance-rescale", "1.5", "guidance_rescale must be in [0, 1], got 1.5"),
        ("--generator.guidance-rescale", "nan", "guidance_rescale must be in [0, 1]"),
        ("--generator.guidance-start", "-0.1", "guidance_start must be in [0, 1], got -0.1"),
        ("--generator.guidance-stop", "1.1", "guidance_stop must be in [guidance_start (0.0), 1], got 1.1"),
        ("--generator.guidance-stop", "nan", "guidance_stop must be in [guidance_start (0.0), 1]"),
        ("--generator.native-height", "7", "native_height must be 0 or in [8, 8192], got 7"),
        ("--generator.native-width", "9000", "native_width must be 0 or in [8, 8192], got 9000"),
        ("--generator.native-width", "512", "native_height and native_width must be 0 both or neither, got (0, 512)"),
        ("--generator.num-inference-steps", "20000", "num_inference_steps must be in"),
        ("--generator.height", "9000", "height must be in"),
        ("--generator.model-digest", "x" * 64, "model_digest must be"),
        ("--evaluation.every-steps", "0", "every_steps must be >= 1"),
        ("--evaluation.k", "0", "k must be >= 1"),
        ("--stream.lease-s", "inf", "lease_s must be at most"),
        ("--stream.advertise", "node7:0", "advertise must be HOST or HOST:PORT"),
        ("--stream.window-bytes", "49151", "stream.window_bytes must hold two groups at least, of 24576 bytes each"),
        ("--stream.warmup-timeout-s", "0", "warmup_timeout_s must be > 0"),
        ("--stream.stall-report-s", "inf", "stall_report_s must be > 0"),
        ("--stream.max-attempts", "2", "max_attempts must be >= 3"),
        ("--stream.heartbeat-s", "0", "heartbeat_s must be in"),
        ("--reservoir.capacity-groups", "4", "capacity_groups must be at least groups_per_step"),
        ("--reservoir.capacity-bytes", "786431", "capacity_bytes must hold groups_per_step groups (32) of 24576 bytes"),
        ("--reservoir.min-distance-steps", "9", "groups_per_step * reservoir.min_distance_steps (288)"),
        ("--reservoir.images-per-use", "9", "images_per_use must be at most generator.images_per_group (8)"),
        ("--reservoir.policy", "often", "policy"),
        ("--filter.min-score", "0.5", "fleet.local_scorer must name a scorer for the producers that this run starts"),
        ("--augment.size", "33", "augment.size must be a multiple of model.patch_size"),
        (
            "--augment.downsample-probability",
            "0.1",
            "downsample_sizes must be smaller than the images' shorter side (32)",
        ),
        ("--model.head-norm", "group", "head-norm"),
        ("--model.hidden-size", "98", "hidden_size must be a multiple of num_heads (4), got 98"),
        ("--text.num-heads", "5", "hidden_size must be a multiple of num_heads (5), got 96"),
        ("--text.max-tokens", "2", "max_tokens must be >= 3: a word between its two ends, got 2"),
        ("--text.out-size", "0", "out_size must be >= 1"),
        ("--objective.name", "dino", "name"),
        ("--objective.temperature", "0", "temperature must be finite and >= 1e-6"),
        ("--objective.temperature", "9e-7", "temperature must be finite and >= 1e-6, got 9e-07"),
        ("--objective.temperature", "nan", "temperature must be finite and >= 1e-6"),
        ("--objective.views-per-image", "-1", "views_per_image must be >= 0"),
        ("--objective.image-weight", "-0.5", "image_weight must be >= 0"),
        ("--objective.language-weight", "inf", "language_weight must be >= 0"),
        ("--objective.teacher-decay", "1.01", "teacher_decay must be in [0, 1]"),
        ("--objective.teacher-decay-end", "nan", "teacher_decay_end must be in [0, 1]"),
        ("--real.fraction", "0.5", "real.source must name a set beside real.fraction"),
        ("--real.fraction", "nan", "real.fraction must be in [0, 1]"),
        ("--fleet.local-image-producers", "1", "fleet.local_image_producers needs real images"),
        ("--optimizer.base-lr", "0", "base_lr must be > 0"),
        ("--optimizer.base-lr", "inf", "base_lr must be > 0"),
        ("--optimizer.weight-decay", "-1", "weight_decay must be >= 0"),
        ("--optimizer.max-grad-norm", "nan", "max_grad_norm must be >= 0"),
        ("--optimizer.layer-decay", "0", "layer_decay must be in (0, 1]"),
        ("--optimizer.ema-decay", "1", "ema_decay must be in [0, 1)"),
        ("--optimizer.grad-accum-steps", "0", "grad_accum_steps must be >= 1"),
        ("--optimizer.max-skipped-steps", "0", "max_skipped_steps must be >= 1"),
    ],
)
def test_a_value_that_cannot_work_is_refused(flag: str, value: str, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("--config", "demo", flag, value)
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_encoder_that_does_not_fit_is_refused_before_torch_is_loaded() -> None:
    """And before the run folder is cleared."""
    with pytest.raises(ConfigError, match=r"augment.size must be a multiple of vit-b-16's patch \(16\), got 40"):
        load("--config", "demo", "--model.name", "vit-b-16", "--augment.size", "40")
    # 40 is a multiple of the demo's own patch of 8.
    assert load("--config", "demo", "--augment.size", "40").augment.size == 40
    with pytest.raises(
        ConfigError, match=r"model.name must be vit-s-16, .* for objective clip, .* as one, got .?resnet50"
    ):
        load("--config", "demo", "--model.name", "resnet50", "--objective.name", "clip")
    assert load("--config", "demo", "--model.name", "resnet50").model.name == "resnet50"


def test_a_name_that_only_timm_may_know_is_refused_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("", "vit-s-16", "vit_large_patch16_224"):
        vit_sizes.check_name(name)
    monkeypatch.setattr(vit_sizes, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^model.name must be one of vit-s-16, .* got vit-b16; or run: pip install timm$"
    ):
        vit_sizes.check_name("vit-b16")
    monkeypatch.setattr(vit_sizes, "find_spec", lambda name: object())
    vit_sizes.check_name("resnet50")


def test_the_downsample_is_set_by_flags() -> None:
    flags = ("--augment.downsample-probability", "0.1", "--augment.downsample-sizes", "8", "16", "24")
    augment = load("--config", "demo", *flags).augment
    assert (augment.downsample_probability, augment.downsample_sizes) == (0.1, (8, 16, 24))


def test_guidance_in_an_interval_and_the_model_s_size_are_set_by_flags() -> None:
    interval = ("--generator.guidance-rescale", "0.7", "--generator.guidance-start", "0.2")
    size = ("--generator.native-height", "512", "--generator.native-width", "768")
    generator = load("--config", "demo", *interval, "--generator.guidance-stop", "0.8", *size).generator
    assert (generator.guidance_rescale, generator.guidance_start, generator.guidance_stop) == (0.7, 0.2, 0.8)
    assert (generator.native_height, generator.native_width) == (512, 768)
    with pytest.raises(ConfigError, match=r"guidance_stop must be in \[guidance_start \(0\.2\), 1\], got 0\.1"):
        load("--config", "demo", *interval, "--generator.guidance-stop", "0.1")


def test_a_group_beyond_what_a_message_may_hold_is_refused() -> None:
    sizes = ("--generator.height", "8192", "--generator.width", "8192", "--generator.images-per-group", "64")
    with pytest.raises(ConfigError, match="a group must have at most"):
        load("--config", "demo", *sizes)


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (("--reservoir.policy", "adaptive"), "reservoir.policy depends on when groups come"),
        (("--reservoir.min-distance-steps", "2"), "reservoir.min_distance_steps depends on when groups come"),
    ],
)
def test_what_depends_on_luck_is_refused_in_ticket_order(flags: tuple[str, str], rule: str) -> None:
    load("--config", "demo", *flags)
    with pytest.raises(ConfigError, match=rule):
        load("--config", "demo", "--order", "ticket", *flags)


def test_an_echo_below_its_floor_is_refused() -> None:
    flags = ("--reservoir.policy", "adaptive", "--reservoir.min-reuse", "25")
    with pytest.raises(ConfigError, match=r"reuse must be at least min_reuse \(25\)"):
        load("--config", "demo", *flags)


def test_the_reservoir_holds_as_many_groups_as_both_bounds_allow() -> None:
    assert load("--config", "demo").capacity_groups == 256
    assert load("--config", "demo", "--reservoir.capacity-bytes", "2000000").capacity_groups == 2_000_000 // 24_576
    assert load("--config", "demo").images_per_use == 8
    assert load("--config", "demo", "--reservoir.images-per-use", "6").images_per_use == 6


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


# --- the objective's own rules -------------------------------------------------------------------------------------

ONE_IMAGE = ("--generator.images-per-group", "1")


@pytest.mark.parametrize("name", ["stablerep", "stablerep+", "synclr"])
@pytest.mark.parametrize("flags", [ONE_IMAGE, ("--reservoir.images-per-use", "1")])
def test_images_of_a_prompt_are_contrasted_only_where_there_are_two(name: str, flags: tuple[str, str]) -> None:
    objective = ("--objective.name", name)
    with pytest.raises(ConfigError) as caught:
        load("--config", "demo", *objective, *flags)
    assert f"objective {name} contrasts the images of a prompt: it needs two of them" in str(caught.value)
    assert "objective.views_per_image" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert load("--config", "demo", *objective, *flags, "--objective.views-per-image", "2").images_per_use == 1


@pytest.mark.parametrize("name", ["simclr", "clip", "supervised"])
def test_the_others_are_content_with_one_image(name: str) -> None:
    assert load("--config", "demo", "--objective.name", name, *ONE_IMAGE).images_per_use == 1


def test_simclr_needs_two_views_and_has_them_by_itself() -> None:
    simclr = ("--config", "demo", "--objective.name", "simclr")
    assert load(*simclr).objective.num_views == 2
    assert load(*simclr, "--objective.views-per-image", "3").objective.num_views == 3
    with pytest.raises(ConfigError, match="views_per_image must be >= 2 for simclr, which contrasts the views"):
        load(*simclr, "--objective.views-per-image", "1")


def test_no_contrast_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="language_weight must be > 0 beside image_weight 0"):
        load("--config", "demo", "--objective.image-weight", "0", "--objective.language-weight", "0")


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        ((), 32 * 8),
        (("--objective.name", "simclr"), 32 * 8 * 2),
        (("--objective.views-per-image", "3"), 32 * 8 * 3),
        (("--reservoir.images-per-use", "6"), 32 * 6),
        (("--objective.name", "simclr", "--reservoir.images-per-use", "1"), 32 * 2),
        (("--optimizer.grad-accum-steps", "4"), 32 * 8),
    ],
)
def test_the_learning_rate_is_scaled_by_the_views_of_a_step(flags: tuple[str, ...], rows: int) -> None:
    # 32 prompts of 8 images stand in the demo's file; parts are parts of the same batch.
    assert load("--config", "demo", *flags).rows_per_step == rows


def test_a_filter_takes_the_scorer_that_is_named_or_that_the_producers_file_may_name() -> None:
    flags = ("--config", "demo", "--filter.min-score", "0.5")
    assert load(*flags, "--fleet.local-scorer", "toyworld").filter.is_on
    assert load(*flags, "--fleet.local-producer-config", "mine.yaml").filter.is_on
    assert load(*flags, "--fleet.local-producers", "0").filter.is_on, "those that come may score"
