"""The ledger: parseable line by line, complete after every step, and small."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from penstock.consumer.ledger import Ledger
from penstock.consumer.stream import Group
from penstock.protocol.tickets import Manifest, Recipe, Ticket, group_seed, prompt_id
from penstock.toyworld.captions import Captioner

MANIFEST = Manifest(
    model="m",
    model_digest="d" * 64,
    scheduler="s",
    dtype="float32",
    backend="eager",
    device="cpu",
    batch_images=4,
    versions={},
)

COMMON = {"run_id": "r", "model_digest": "d" * 64, "height": 32}


def _group(index: int, prompt: str) -> Group:
    recipe = Recipe(
        prompt=prompt,
        seed=group_seed(0, prompt_id(prompt), index),
        num_images=4,
        guidance_scale=2.0,
        num_inference_steps=8,
        scheduler="default",
        height=32,
        width=32,
        model_digest="d" * 64,
    )
    return Group(Ticket(index=index, rank=0, recipe=recipe), np.zeros(recipe.shape, np.uint8), "local-0", MANIFEST)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_a_group_can_be_made_again_from_its_lines(tmp_path: Path) -> None:
    group = _group(5, "a “quoted” fox\u2028of two lines")
    with Ledger(tmp_path / "ledger", COMMON) as ledger:
        ledger.group(group)
        ledger.step(3, [5])
    common, maker, made, step = _lines(tmp_path / "ledger")
    assert maker["producer"] == made["producer"]
    assert maker["manifest"]["dtype"] == "float32"
    assert common == {"run": COMMON}
    recipe = group.ticket.recipe
    assert (made["group"], made["prompt"], made["seed"]) == (5, recipe.prompt, recipe.seed)
    assert step == {"step": 3, "groups": [5]}


def test_what_came_before_a_step_is_on_disk_after_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", COMMON)
    try:
        ledger.group(_group(0, "a fox"))
        ledger.step(0, [0])
        assert [*_lines(tmp_path / "ledger")[-1]] == ["step", "groups"]
    finally:
        ledger.close()


def test_another_life_appends_and_does_not_begin_again(tmp_path: Path) -> None:
    for step in range(2):
        with Ledger(tmp_path / "ledger", COMMON) as ledger:
            ledger.step(step, [step])
    assert [next(iter(line)) for line in _lines(tmp_path / "ledger")] == ["run", "step", "step"]


def test_a_line_torn_by_a_kill_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger(path, COMMON) as ledger:
        ledger.step(0, [0])
    path.write_bytes(path.read_bytes() + b'{"group":7,"pro')
    with Ledger(path, COMMON) as ledger:
        ledger.step(1, [1])
    lines = path.read_bytes().split(b"\n")
    assert json.loads(lines[-2]) == {"step": 1, "groups": [1]}


def test_a_group_costs_at_most_200_bytes_where_its_pixels_are_12_kb(tmp_path: Path) -> None:
    captioner = Captioner(0)
    with Ledger(tmp_path / "ledger", COMMON) as ledger:
        for step in range(50):
            indices = range(64 * step, 64 * step + 64)
            for index in indices:
                ledger.group(_group(index, captioner.prompt(index).text))
            ledger.step(step, list(indices))
    assert (tmp_path / "ledger").stat().st_size / (50 * 64) <= 200
