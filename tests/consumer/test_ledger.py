"""The ledger: parseable line by line, complete after every step, cut back with the run, and small."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.consumer.ledger import Ledger, cut_ledgers, ledger_bytes, read_steps
from penstock.consumer.stream import Group, Quarantined
from penstock.protocol.errors import RunError
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

LIFE = {"life": 17, "rank": 0, "world_size": 1, "run_id": "r", "model_digest": "d" * 64, "height": 32}


def _ticket(index: int, prompt: str, stand_in: int = 0) -> Ticket:
    recipe = Recipe(
        prompt=prompt,
        seed=group_seed(0, prompt_id(prompt), index),
        num_images=4,
        guidance_scales=(2.0,),
        num_inference_steps=8,
        scheduler="default",
        height=32,
        width=32,
        model_digest="d" * 64,
    )
    return Ticket(index=index, rank=0, stand_in=stand_in, recipe=recipe)


def _group(index: int, prompt: str, stand_in: int = 0) -> Group:
    ticket = _ticket(index, prompt, stand_in)
    return Group(ticket, np.zeros(ticket.recipe.shape, np.uint8), "local-0", MANIFEST)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_a_group_that_is_real_says_so(tmp_path: Path) -> None:
    real = replace(_group(6, "a dog"), producer="photos", manifest=replace(MANIFEST, backend="images"))
    with Ledger(tmp_path / "ledger", LIFE) as ledger:
        ledger.group(_group(5, "a fox"))
        ledger.group(real)
    groups = [line for line in _lines(tmp_path / "ledger") if "group" in line]
    assert [line.get("real") for line in groups] == [None, True]


def test_a_group_can_be_made_again_from_its_lines(tmp_path: Path) -> None:
    group = _group(5, "a “quoted” fox\u2028of two lines")
    with Ledger(tmp_path / "ledger", LIFE) as ledger:
        ledger.group(group)
        ledger.step(3, [5])
    life, maker, made, step = _lines(tmp_path / "ledger")
    assert maker["producer"] == made["producer"]
    assert maker["manifest"]["dtype"] == "float32"
    assert life == LIFE
    recipe = group.ticket.recipe
    assert (made["group"], made["prompt"], made["seed"]) == (5, recipe.prompt, recipe.seed)
    assert "stand_in" not in made
    assert step == {"step": 3, "groups": [5]}


def test_what_no_producer_could_make_and_its_stand_in_are_on_record(tmp_path: Path) -> None:
    poison = _ticket(5, "a poisonous fox")
    with Ledger(tmp_path / "ledger", LIFE) as ledger:
        ledger.quarantined(Quarantined(poison, "its producer vanished", _ticket(5, "a fox", stand_in=1)))
        ledger.group(_group(5, "a fox", stand_in=1))
    _, quarantined, _, made = _lines(tmp_path / "ledger")
    assert quarantined == {
        "quarantined": 5,
        "stand_in": 1,
        "prompt": "a poisonous fox",
        "reason": "its producer vanished",
    }
    assert (made["group"], made["prompt"], made["stand_in"]) == (5, "a fox", 1)


def test_what_came_before_a_step_is_on_disk_after_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", LIFE)
    try:
        ledger.group(_group(0, "a fox"))
        ledger.step(0, [0])
        assert [*_lines(tmp_path / "ledger")[-1]] == ["step", "groups"]
    finally:
        ledger.close()


def test_another_life_appends_and_begins_with_its_own_line(tmp_path: Path) -> None:
    for step in range(2):
        with Ledger(tmp_path / "ledger", LIFE | {"life": step}) as ledger:
            ledger.group(_group(step, "a fox"))
            ledger.step(step, [step])
    assert [next(iter(line)) for line in _lines(tmp_path / "ledger")] == ["life", "producer", "group", "step"] * 2


def test_what_came_after_the_checkpoint_is_cut_off_whoever_wrote_it(tmp_path: Path) -> None:
    paths = [tmp_path / f"ledger-{rank}.jsonl" for rank in range(3)]
    for rank in (0, 1):
        with Ledger(paths[rank], LIFE) as ledger:
            ledger.step(0, [rank])
            ledger.sync()
    lengths = ledger_bytes(tmp_path)
    before = [path.read_bytes() for path in paths[:2]]
    for path in paths:  # a later step of both, one that is torn, and a rank that the checkpoint does not know
        with Ledger(path, LIFE) as ledger:
            ledger.step(1, [7])
    paths[1].write_bytes(paths[1].read_bytes() + b'{"group":7,"pro')
    cut_ledgers(tmp_path, lengths)
    assert [path.read_bytes() for path in paths] == [*before, b""]
    assert read_steps(tmp_path) == {0: (0, 1)}


@pytest.mark.parametrize("lost", ["some of it", "all of it"])
def test_a_ledger_that_has_lost_bytes_is_an_error(lost: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger-0.jsonl"
    path.write_bytes(b"12345")
    if lost == "all of it":
        path.unlink()
    with pytest.raises(RunError, match=r"ledger-0\.jsonl had 9 bytes at the checkpoint, it has [50]"):
        cut_ledgers(tmp_path, {"ledger-0.jsonl": 9})


def test_the_steps_of_all_ranks_are_read_as_one_order(tmp_path: Path) -> None:
    for rank, steps in {0: {0: [4, 0], 1: [2, 4]}, 1: {0: [1, 3], 1: [5, 3]}}.items():
        with Ledger(tmp_path / f"ledger-{rank}.jsonl", LIFE | {"rank": rank}) as ledger:
            for step, indices in steps.items():
                ledger.group(_group(indices[0], "a fox"))
                ledger.step(step, indices)
    assert read_steps(tmp_path) == {0: (0, 1, 3, 4), 1: (2, 3, 4, 5)}


def test_a_step_that_stands_twice_is_seen(tmp_path: Path) -> None:
    (tmp_path / "ledger-0.jsonl").write_text('{"step":0,"groups":[1,2]}\n{"step":0,"groups":[2]}\n{"step":1,"gro')
    assert read_steps(tmp_path) == {0: (1, 2, 2)}


def test_a_group_costs_at_most_200_bytes_where_its_pixels_are_12_kb(tmp_path: Path) -> None:
    captioner = Captioner(0)
    with Ledger(tmp_path / "ledger", LIFE) as ledger:
        for step in range(50):
            indices = range(64 * step, 64 * step + 64)
            for index in indices:
                group = _group(index, captioner.prompt(index).text)
                ledger.group(replace(group, producer="local-0"))
            ledger.step(step, list(indices))
    assert (tmp_path / "ledger").stat().st_size / (50 * 64) <= 200
