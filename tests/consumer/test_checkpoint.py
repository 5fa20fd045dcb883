"""Checkpoints: whole at any moment, for any number of ranks, and refused where they cannot be gone on from."""

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from penstock.consumer import checkpoint, run_folder
from penstock.consumer.checkpoint import Checkpoint
from penstock.consumer.config import ObjectiveConfig, TrainConfig
from penstock.consumer.feed_state import FeedState, Kept
from penstock.consumer.group import Group
from penstock.consumer.ledger import Ledger
from penstock.consumer.ledger_reader import read_steps
from penstock.consumer.ledger_schema import NO_ROWS
from penstock.consumer.making_config import FilterConfig, GeneratorConfig, PromptsConfig
from penstock.consumer.meter import Totals
from penstock.consumer.prompts.captions import ListedCaptions, ShuffledCaptions
from penstock.consumer.record import Record
from penstock.consumer.run_folder import RunFolder
from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.protocol.errors import RunError
from tests.protocol.samples import MANIFEST, a_ticket

torch.set_num_threads(1)

CONFIG = TrainConfig(groups_per_step=4)
RECORD = Record(
    loss=[(1, 6.5), (10, 5.25)], knn=[(10, 0.5)], knn_before=0.25, totals=Totals(steps=10, images_made=40, loop_s=2.5)
)


class _Rank:
    """What `save` needs of an Accelerator, for ranks that are threads."""

    def __init__(self, rank: int, barrier: threading.Barrier) -> None:
        self.process_index, self.num_processes = rank, barrier.parties
        self.is_main_process = rank == 0
        self._barrier = barrier

    def wait_for_everyone(self) -> None:
        self._barrier.wait(timeout=30)

    def save_state(self, path: str, *, safe_serialization: bool) -> None:
        Path(path).mkdir(exist_ok=True)
        (Path(path) / f"random_states_{self.process_index}.pkl").write_bytes(b"")


def _folder(tmp_path: Path) -> RunFolder:
    return run_folder.prepare(tmp_path / "run", overwrite=False, resume=False)


def _save(
    folder: RunFolder,
    feeds: list[FeedState],
    step: int = 10,
    config: TrainConfig = CONFIG,
    ledgers: Sequence[Ledger] = (),
) -> None:
    barrier = threading.Barrier(len(feeds))

    def save(feed: FeedState) -> None:
        marks = ledgers[feed.rank].marks if ledgers else NO_ROWS
        state = Checkpoint(step, "d1", "e1", "toyworld 0", RECORD, feed, ledger=marks)
        checkpoint.save(_Rank(feed.rank, barrier), folder, config, state)  # type: ignore[arg-type]

    threads = [threading.Thread(target=save, args=(feed,)) for feed in feeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def _read(folder: RunFolder, rank: int = 0, world_size: int = 1, config: TrainConfig = CONFIG) -> Checkpoint:
    return checkpoint.read(folder, config, rank, world_size)


TWO_RANKS = [
    FeedState(rank=0, world_size=2, cursor=6, entered=(8,), kept=(Kept(4, 1, 0), Kept(8, 2, 1))),
    FeedState(rank=1, world_size=2, cursor=3, kept=(Kept(1, 3, 0),)),
]


def test_the_digests_of_both_kinds_of_engines_come_back(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    feed = FeedState.beginning(0, 1)
    state = Checkpoint(10, "d1", "e1", "p", RECORD, feed, real_digest="d2", real_manifest_digest="e2")
    state = replace(state, scorer_digest="5c")
    checkpoint.save(_Rank(0, threading.Barrier(1)), folder, CONFIG, state)  # type: ignore[arg-type]
    assert _read(folder) == state


def test_a_tokenizer_with_other_ids_is_refused_when_resuming(tmp_path: Path) -> None:
    """Its name may be the same: a folder, or a hub id, whose content has changed."""
    folder = _folder(tmp_path)
    feed = FeedState.beginning(0, 1)
    state = Checkpoint(10, "d1", "e1", "toyworld 0", RECORD, feed, tokenizer_digest="f" * 64)
    checkpoint.save(_Rank(0, threading.Barrier(1)), folder, CONFIG, state)  # type: ignore[arg-type]
    checkpoint.check_tokenizer(_read(folder), "f" * 64, "clips")
    with pytest.raises(RunError, match=r"^text.tokenizer clips is not the tokenizer that the run began with \(0{12}, "):
        checkpoint.check_tokenizer(_read(folder), "0" * 64, "clips")


@pytest.mark.parametrize(
    ("texts", "counts"),
    [
        (["a fox"], r"2 then, 1 now"),
        (["a fox", "a cat"], r"2 then and now, of other text, .*"),
    ],
)
def test_captions_that_have_changed_between_lives_are_refused_with_how_many_there_are(
    texts: list[str], counts: str, tmp_path: Path
) -> None:
    folder = _folder(tmp_path)
    state = Checkpoint(10, "d1", "e1", "p1", RECORD, FeedState.beginning(0, 1), num_captions=2)
    checkpoint.save(_Rank(0, threading.Barrier(1)), folder, CONFIG, state)  # type: ignore[arg-type]
    resume = _read(folder)
    checkpoint.check_prompts(resume, ShuffledCaptions(ListedCaptions(["a fox", "a dog"], "p1"), 0), "captions.txt")
    with pytest.raises(RunError, match=rf"^the captions of captions\.txt are not those .* \({counts}\); resume with "):
        checkpoint.check_prompts(resume, ShuffledCaptions(ListedCaptions(texts, "p2"), 0), "captions.txt")


def test_one_rank_goes_on_from_two_and_four_from_that_one(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _save(folder, TWO_RANKS)
    one = _read(folder)
    assert one.feed == FeedState(
        rank=0, world_size=1, cursor=3, entered=(4, 8), kept=(Kept(1, 3, 0), Kept(4, 1, 0), Kept(8, 2, 1))
    )
    _save(folder, [one.feed])
    assert not (folder.checkpoint / "feed-1.json").exists()
    four = [_read(folder, rank, 4).feed for rank in range(4)]
    assert [feed.kept for feed in four] == [(Kept(4, 1, 0), Kept(8, 2, 1)), (Kept(1, 3, 0),), (), ()]
    assert [feed.cursor for feed in four] == [12, 5, 6, 3]
    _save(folder, four)
    assert _read(folder).feed == one.feed


def test_it_says_what_the_run_has_measured_and_used(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _save(folder, TWO_RANKS)
    read = _read(folder, 1, 2)
    assert (read.step, read.model_digest, read.manifest_digest, read.prompts_digest) == (10, "d1", "e1", "toyworld 0")
    assert read.record == RECORD
    assert read.feed == TWO_RANKS[1]


def test_the_ledger_is_cut_back_to_where_the_checkpoint_stands(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _write_steps(folder, range(4), 2, saves_after=1)
    assert len(read_steps(folder.path)) == 4
    checkpoint.rewind_ledgers(folder)
    assert read_steps(folder.path) == {0: (0, 1), 1: (2, 3)}


def test_ledgers_of_more_ranks_than_now_are_kept_and_those_of_later_ranks_are_not(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _write_steps(folder, range(2), 2, saves_after=1)
    _write_steps(folder, range(2, 4), 1, saves_after=3)
    folder.ledger(5).write_text("of a rank that was killed before it came to a checkpoint")
    checkpoint.rewind_ledgers(folder)
    assert read_steps(folder.path) == {0: (0, 1), 1: (2, 3), 2: (2,), 3: (3,)}
    assert sorted(path.name for path in folder.path.glob("*.sqlite")) == ["ledger-0.sqlite", "ledger-1.sqlite"]


def test_a_copy_that_somebody_has_put_beside_a_ledger_is_neither_read_nor_deleted(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    copy = folder.path / "ledger-0.before.sqlite"
    copy.write_text("somebody's")
    _write_steps(folder, range(2), 1, saves_after=1)
    checkpoint.rewind_ledgers(folder)
    assert copy.read_text() == "somebody's"
    assert read_steps(folder.path) == {0: (0,), 1: (1,)}


def _write_steps(folder: RunFolder, steps: range, num_ranks: int, *, saves_after: int) -> None:
    """Steps of one group a rank, that of index ranks · step + rank, and a checkpoint after one of them."""
    ledgers = [Ledger(folder.ledger(rank), {"life": 1}) for rank in range(num_ranks)]
    for step in steps:
        for rank, ledger in enumerate(ledgers):
            ticket = a_ticket(num_ranks * step + rank)
            ledger.group(Group(ticket, np.zeros(ticket.recipe.shape, np.uint8), "ann", MANIFEST))
            ledger.step(step, [ticket.index])
        if step == saves_after:
            feeds = [replace(state, world_size=num_ranks) for state in TWO_RANKS[:num_ranks]]
            _save(folder, feeds, ledgers=ledgers)
    for ledger in ledgers:
        ledger.close()


@pytest.mark.parametrize("file", ["state.json", "feed-0.json", "feed-1.json", "ledger-1.json"])
def test_a_checkpoint_that_is_not_whole_is_one_line(file: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _save(folder, TWO_RANKS)
    for text in ("", "[]", "{}", '{"rank": 0}'):
        (folder.checkpoint / file).write_text(text)
        with pytest.raises(RunError, match="is not a whole checkpoint") as caught:
            _read(folder)
        assert "\n" not in str(caught.value)
    (folder.checkpoint / file).unlink()
    with pytest.raises(RunError, match="is not a whole checkpoint"):
        _read(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 3}, r"seed 0, this run says 3"),
        ({"order": "ticket"}, r"order 'arrival', this run says 'ticket'"),
        ({"groups_per_step": 8}, r"groups_per_step 4, this run says 8"),
        ({"augment": AugmentRecipe(size=112)}, r"augment\.size 224, this run says 112"),
        ({"filter": FilterConfig(min_score=0.5)}, r"filter\.min_score None, this run says 0\.5"),
        (
            {"generator": GeneratorConfig(guidance_range=(1.0, 3.0))},
            r"generator\.guidance_range None, this run says \[1\.0",
        ),
        ({"generator": GeneratorConfig(guidance_scale=3.0)}, r"generator\.guidance_scale 2\.0, this run says 3\.0"),
        ({"generator": GeneratorConfig(guidance_rescale=0.7)}, r"generator\.guidance_rescale 0\.0, this run says 0\.7"),
        ({"generator": GeneratorConfig(guidance_start=0.2)}, r"generator\.guidance_start 0\.0, this run says 0\.2"),
        ({"generator": GeneratorConfig(guidance_stop=0.8)}, r"generator\.guidance_stop 1\.0, this run says 0\.8"),
        (
            {"generator": GeneratorConfig(native_height=512, native_width=512)},
            r"generator\.native_height 0, this run says 512",
        ),
    ],
)
def test_what_decides_the_stream_cannot_change(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _save(folder, TWO_RANKS)
    with pytest.raises(RunError, match=words):
        _read(folder, config=replace(CONFIG, **change))


def test_what_decides_only_how_it_comes_may_change(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _save(folder, TWO_RANKS)
    stream = replace(CONFIG.stream, window_groups=3, lease_s=60.0)
    generator, prompts = GeneratorConfig(engines="any", model_digest="d1"), PromptsConfig(source="/elsewhere/same.txt")
    config = replace(CONFIG, stream=stream, generator=generator, prompts=prompts, checkpoint_every_steps=7)
    assert _read(folder, config=config).step == 10


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"max_steps": 77}, "max_steps was 1000 until now and is 77 from here on"),
        ({"objective": ObjectiveConfig(temperature=0.2)}, "objective.temperature was 0.1 until now and is 0.2"),
    ],
)
def test_what_changes_the_weights_may_change_and_is_said(
    change: dict[str, Any], line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _folder(tmp_path)
    _save(folder, [FeedState.beginning(0, 1)])
    checkpoint.read(folder, CONFIG, 0, 1)
    assert not caplog.records
    checkpoint.read(folder, replace(CONFIG, **change), 0, 1)
    assert line in caplog.text


def test_a_run_that_is_over_is_not_resumed(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _save(folder, TWO_RANKS, step=CONFIG.max_steps)
    with pytest.raises(RunError, match="is at step 1000 already; raise --max-steps"):
        _read(folder)


@pytest.mark.parametrize("killed_in", ["the first rename", "the second rename"])
def test_the_last_checkpoint_stands_until_the_next_is_in_place(
    killed_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _folder(tmp_path)
    _save(folder, [FeedState.beginning(0, 1)], step=10)
    moved, rename = "checkpoint" if killed_in == "the first rename" else "checkpoint.tmp", Path.rename

    def killed(path: Path, target: Path) -> Path:
        assert json.loads((folder.path / "checkpoint.tmp" / "state.json").read_text())["step"] == 20
        if path.name == moved:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    later = Checkpoint(20, "d1", "e1", "toyworld 0", RECORD, FeedState.beginning(0, 1))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(_Rank(0, threading.Barrier(1)), folder, CONFIG, later)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert _read(run_folder.prepare(folder.path, overwrite=False, resume=True)).step == 10


def test_everything_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    rename, fsync = Path.rename, os.fsync

    def sync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def move(path: Path, target: Path) -> Path:
        if path.name == "checkpoint.tmp":
            names = {entry.name for entry in path.iterdir()}
            assert names == {"state.json", "feed-0.json", "ledger-0.json", "random_states_0.pkl"}
            assert names | {"checkpoint.tmp"} == set(synced)
        return rename(path, target)

    folder = _folder(tmp_path)
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", move)
    _save(folder, [FeedState.beginning(0, 1)])
    assert synced[-1] == folder.path.name, "the rename itself"


def test_weights_do_not_say_how_many_ranks_there_were(tmp_path: Path) -> None:
    """DataParallel prefixes the names of the weights as DistributedDataParallel does, and needs no second process."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(3, 2)
    wrapped, optimizer = accelerator.prepare(nn.DataParallel(model), torch.optim.AdamW(model.parameters()))
    assert all(name.startswith("module.") for name in wrapped.state_dict())
    wrapped(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.make_portable(accelerator)
    accelerator.save_state(str(tmp_path / "checkpoint"))
    (tmp_path / "checkpoint" / "random_states_0.pkl").unlink()  # that of a rank which is new

    alone = Accelerator(cpu=True)
    fresh = nn.Linear(3, 2)
    fresh, fresh_optimizer = alone.prepare(fresh, torch.optim.AdamW(fresh.parameters()))
    checkpoint.make_portable(alone)
    checkpoint.restore(alone, RunFolder(tmp_path, "r", 1))
    assert torch.equal(fresh.weight, model.weight)
    assert fresh_optimizer.state_dict()["state"][0]["step"] == 1
