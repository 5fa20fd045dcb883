"""The arms of a sweep: what is asked for, and that they compare. Images are counted by the order that runs use."""

import dataclasses
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import pytest

from penstock.config.load import flag_names, load_config
from penstock.consumer.config import TrainConfig
from penstock.consumer.feed_state import FeedState
from penstock.consumer.schedule import Share, TicketOrder
from penstock.deploy.demo import preset_dir
from penstock.deploy.sweep_arguments import ALIASES, parse
from penstock.deploy.sweep_plan import Arm, plan, statement
from penstock.protocol.errors import ConfigError


def _load(argv: Sequence[str]) -> TrainConfig:
    return load_config(TrainConfig, argv, preset_dir=preset_dir(), prog="penstock sweep", description="")


def _plan(*argv: str) -> list[Arm]:
    return plan(parse(argv), _load)


def _images(config: TrainConfig) -> int:
    """Images that enter the reservoir in a run in ticket order, played without pixels."""
    share = Share(
        rank=0,
        world_size=1,
        seed=config.seed,
        groups_per_step=config.groups_per_step,
        capacity_groups=config.capacity_groups,
        policy=config.reservoir.reuse_policy,
    )
    entries = TicketOrder(share).upcoming(FeedState.beginning(0, 1), 0)
    in_time = takewhile(lambda entry: entry.need_by_step < config.max_steps, entries)
    return sum(1 for _ in in_time) * config.generator.images_per_group


def test_every_alias_is_a_setting() -> None:
    for alias, flag in ALIASES.items():
        assert parse([f"{alias}=1,2"]).flag == flag
        assert flag in flag_names(TrainConfig)


def test_an_arm_is_the_setting_on_top_of_the_shared_flags() -> None:
    arms = _plan("guidance=1,2.5", "--seeds", "3,4", "--out", "runs/g", "--max-steps", "20")
    assert [(arm.name, arm.value, arm.seed) for arm in arms] == [
        ("guidance-1-seed-3", "1", 3),
        ("guidance-2.5-seed-3", "2.5", 3),
        ("guidance-1-seed-4", "1", 4),
        ("guidance-2.5-seed-4", "2.5", 4),
    ]
    for arm in arms:
        assert arm.config.generator.guidance_scale == float(arm.value)
        assert (arm.config.max_steps, arm.config.seed, arm.config.order) == (20, arm.seed, "ticket")
        assert arm.config.run_dir == Path("runs/g") / arm.name
        assert arm.config.stream.endpoint == "tcp://127.0.0.1:0"


def test_the_trainer_reads_an_arms_arguments_as_its_settings() -> None:
    for arm in _plan("m=4,8", "--seeds", "1"):
        assert _load(arm.argv) == arm.config


def test_arms_differ_in_the_setting_alone() -> None:
    one, other = _plan("guidance=1,2")
    same = dataclasses.replace(
        other.config, generator=one.config.generator, run_dir=one.config.run_dir, reservoir=one.config.reservoir
    )
    assert same == one.config


def test_the_users_own_order_and_preset_count(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("max_steps: 7\nevaluation: {data: toyworld}\nfleet: {local_producers: 1}\n")
    arm, _ = _plan("lr=1e-4,2e-4", "--config", str(mine), "--order=arrival")
    assert (arm.config.max_steps, arm.config.order) == (7, "arrival")


def test_a_dotted_setting_is_taken_in_any_spelling() -> None:
    for name in ("model.hidden-size", "model.hidden_size"):
        assert [arm.config.model.hidden_size for arm in _plan(f"{name}=48,96")] == [48, 96]


def test_a_switch_is_swept_by_true_and_false() -> None:
    assert [arm.config.model.head_norm_output for arm in _plan("model.head-norm-output=true,false")] == [True, False]
    with pytest.raises(ConfigError, match=r"model\.head-norm-output=yes: expected true or false, got 'yes'"):
        _plan("model.head-norm-output=true,yes")


# --- equal images -----------------------------------------------------------------------------------------------------


def test_group_sizes_compare_at_equal_images_steps_and_rows() -> None:
    configs = [arm.config for arm in _plan("m=1,2,4,8")]
    assert [config.groups_per_step for config in configs] == [256, 128, 64, 32]
    assert {config.groups_per_step * config.images_per_use for config in configs} == {256}
    assert {config.max_steps for config in configs} == {900}
    assert {config.capacity_groups * config.generator.images_per_group for config in configs} == {2048}
    images = [_images(config) for config in configs]
    assert max(images) <= 1.03 * min(images)


def test_group_sizes_of_which_a_part_is_used_compare_by_their_reuse() -> None:
    configs = [arm.config for arm in _plan("m=4,8", "--reservoir.images-per-use", "4")]
    assert [config.reservoir.reuse for config in configs] == [12, 24]
    assert {config.groups_per_step for config in configs} == {32}
    images = [_images(config) for config in configs]
    assert max(images) <= 1.03 * min(images)


def test_reuses_compare_at_equal_images_and_rows() -> None:
    configs = [arm.config for arm in _plan("reuse=8,16,32")]
    assert [config.max_steps for config in configs] == [300, 600, 1200]
    images = [_images(config) for config in configs]
    assert max(images) <= 1.03 * min(images)


def test_nothing_follows_where_nothing_is_to_be_fixed() -> None:
    m = [arm.config for arm in _plan("m=4,8", "--fix", "none")]
    assert {config.groups_per_step for config in m} == {32}
    reuse = [arm.config for arm in _plan("reuse=8,32", "--fix", "none")]
    assert {config.max_steps for config in reuse} == {900}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["m=3,8"],
            "m=3: for equal images groups_per_step would be 256/3, no whole number; choose another value, or --f",
        ),
        (["reuse=5,24", "--max-steps", "10"], "reuse=5: for equal images max_steps would be 50/24"),
        (["m=2,x"], "m=x: images_per_group must be whole numbers >= 1, got 'x'"),
        (["m=2,8", "--reservoir.images-per-use", "4"], "m=2: .*images_per_use must be at most .*2"),
    ],
)
def test_what_cannot_be_made_equal_is_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _plan(*argv)


@pytest.mark.parametrize(
    ("argv", "equal", "others"),
    [
        (["guidance=1,2"], "optimizer steps (900), rows a step (256), images used up (9,600)", []),
        (
            ["reuse=8,24"],
            "rows a step (256), images used up (9,600)",
            ["Not equal: optimizer steps (8: 300, 24: 900).", "With reuse=8: --max-steps 300."],
        ),
        (
            ["m=8,4"],
            "optimizer steps (900), rows a step (256), images used up (9,600)",
            ["With m=4: --reservoir.capacity-groups 512 --stream.window-groups 64 --groups-per-step 64."],
        ),
        (
            ["m=4,8", "--fix", "none"],
            "optimizer steps (900)",
            ["Not equal: rows a step (4: 128, 8: 256), images used up (4: 4,800, 8: 9,600)."],
        ),
    ],
)
def test_the_output_says_what_is_equal_and_what_is_not(argv: list[str], equal: str, others: list[str]) -> None:
    sweep = parse(argv)
    lines = statement(sweep, plan(sweep, _load))
    assert lines[0] == f"Equal in all arms: {equal}."
    assert set(others) <= set(lines)


def test_what_weakens_a_comparison_is_said() -> None:
    def said(*argv: str) -> str:
        sweep = parse(argv)
        return " ".join(statement(sweep, plan(sweep, _load)))

    assert "With one image a prompt StableRep's only positives" in said("m=1,2")
    assert "In arrival order" in said("guidance=1,2", "--order", "arrival")
    remote = said("guidance=1,2", "--fleet.local-producers", "0", "--stream.endpoint", "tcp://127.0.0.1:5600")
    assert "each waits for some at tcp://127.0.0.1:5600" in remote


# --- digests ----------------------------------------------------------------------------------------------------------


def test_the_digest_knows_what_changes_a_result_and_nothing_else() -> None:
    arm, other = _plan("guidance=1,2")
    assert arm.digest != other.digest
    assert _plan("guidance=1,2", "--checkpoint-every-steps", "7", "--out", "elsewhere")[0].digest == arm.digest
    assert _plan("guidance=1,2", "--stream.heartbeat-s", "2")[0].digest == arm.digest
    assert _plan("guidance=1,2", "--optimizer.weight-decay", "0.2")[0].digest != arm.digest
    assert _plan("guidance=1,2", "--seeds", "1")[0].digest != arm.digest
    assert _plan("guidance=1,5,9")[0].digest == arm.digest


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "say first what to sweep, such as guidance=1,2,3"),
        (["--seeds", "1", "guidance=1,2"], "say first what to sweep"),
        (["guidance"], "say first what to sweep"),
        (["guidanc=1,2"], "no such setting: guidanc; did you mean 'guidance'"),
        (["generator.guidance-scal=1,2"], "did you mean 'generator.guidance-scale'"),
        (["guidance=1"], "guidance=1: give two values or more"),
        (["guidance=1,,2"], "guidance=1,,2: a value is empty"),
        (["guidance=1,1"], "a value is given twice"),
        (["seed=1,2"], "seed cannot be swept: give --seeds"),
        (["run-dir=a,b"], "run-dir cannot be swept: each arm has a folder of its own below --out"),
        (["guidance=1,2", "--seed", "1"], "--seed is the sweep's own: give --seeds"),
        (["guidance=1,2", "--run_dir=x"], "--run-dir is the sweep's own: each arm"),
        (["guidance=1,2", "--resume"], "--resume is the sweep's own"),
        (["guidance=1,2", "--seeds", "0,0"], "--seeds 0,0: a seed is given twice"),
        (["guidance=1,2", "--seeds", "a"], "--seeds must be whole numbers >= 0, got 'a'"),
        (["guidance=1,2", "--seeds"], "--seeds: expected one argument"),
        (["guidance=1,2", "--parallel", "0"], "--parallel must be whole numbers >= 1, got '0'"),
        (["guidance=1,2", "--fix", "steps"], "--fix: invalid choice: 'steps'"),
        (["guidance=1,2", "--max-step", "3"], "unknown flag --max-step; did you mean '--max-steps'"),
        (["guidance=1,x"], "guidance=x: .*'x'"),
        (["guidance=1,2", "--evaluation.data", "none"], "evaluation.data is none: arms are compared by kNN"),
        (["guidance=1,2", "--parallel", "2", "--fleet.local-producers", "0"], "--parallel needs arms that start their"),
        (
            ["guidance=1,2", "--parallel", "2", "--stream.endpoint", "tcp://127.0.0.1:5599"],
            "needs a free port for each",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _plan(*argv)
