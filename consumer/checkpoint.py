"""Checkpoints: model, optimizer and random states by Accelerate, and where the run stands in the stream as JSON.

A checkpoint is written beside the last one, to the disk, and takes its place by renames, so that a run killed at any
moment leaves a whole one. No image is in it: the reservoir is a list of tickets with their use counts. Any number of
ranks can go on from it: each reads the parts of all and keeps what is its own.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from penstock.consumer.config import TrainConfig
from penstock.consumer.feed_state import FeedState, merge
from penstock.consumer.ledger_schema import NO_ROWS, TABLES, Marks, find_ledgers, marks_of, remove, rewind
from penstock.consumer.prompts.source import PromptSource, num_captions
from penstock.consumer.record import Record
from penstock.consumer.run_folder import CHECKPOINT_STATE, PREVIOUS, RunFolder
from penstock.protocol.errors import RunError

_log = logging.getLogger(__name__)

_FIXED = (
    "seed",
    "order",
    "groups_per_step",
    "prompts.ask",
    "generator",
    "filter",
    "real",
    "reservoir",
    "model",
    "text",
    "objective.name",
    "optimizer.ema_decay",
    "augment.size",
)
"""Settings, or sections of them, that decide what stands where in the stream and which weights fit; no later life may
change them."""
_NOTED = ("max_steps", "mixed_precision", "augment", "objective", "optimizer")
"""Those that a later life may change, knowing that it then ends in other weights."""
_FREE = ("generator.engines", "generator.model_digest", "real.source", "real.split")
"""What among the fixed decides only who may serve, or where a set lies; the digests in the checkpoint say the same
better."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says beside the weights."""

    step: int
    """Optimizer steps done."""
    model_digest: str
    """Digest of the generator whose images the run uses; empty where all are real."""
    manifest_digest: str
    """Digest of the manifest of the first producer: what the others must have where equal bits are asked for."""
    prompts_digest: str
    """Digest of the captions that the run uses."""
    record: Record
    """What the run has measured so far."""
    feed: FeedState
    """This rank's place in the stream."""
    real_digest: str = ""
    """Digest of the set of real images; empty where the run uses none."""
    real_manifest_digest: str = ""
    """As `manifest_digest`, of the first producer of real images."""
    tokenizer_digest: str = ""
    """Digest of the text tower's tokenizer; empty where nothing reads captions."""
    scorer_digest: str = ""
    """Digest of what filters the generated images; empty where nothing does."""
    ledger: Mapping[str, int] = field(default_factory=lambda: NO_ROWS)
    """Where this rank's ledger ends; `rewind_ledgers` reads that of all ranks."""
    num_captions: int = 0
    """Captions that the run uses; 0 where they are without number."""


def make_portable(accelerator: Accelerator) -> None:
    """Let the accelerator save and load models without what DistributedDataParallel puts around them.

    Else the names of the weights would say whether there was one rank or several.
    """

    def on_save(models: list[nn.Module], weights: list[dict[str, Any]], path: str) -> None:
        weights[:] = [accelerator.unwrap_model(model).state_dict() for model in models]

    def on_load(models: list[nn.Module], path: str) -> None:
        models[:] = [accelerator.unwrap_model(model) for model in models]

    accelerator.register_save_state_pre_hook(on_save)
    accelerator.register_load_state_pre_hook(on_load)


def save(accelerator: Accelerator, folder: RunFolder, config: TrainConfig, checkpoint: Checkpoint) -> None:
    """Write the state after an optimizer step. All ranks call it together, their ledgers synced."""
    unfinished = folder.checkpoint.with_name("checkpoint.tmp")
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished), safe_serialization=True)
    _write_json(unfinished / f"feed-{checkpoint.feed.rank}.json", checkpoint.feed.to_json())
    _write_json(unfinished / _marks_name(folder.ledger(checkpoint.feed.rank)), checkpoint.ledger)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _keep_marks_of_others(folder, unfinished)
        state = {
            "settings": _settings(config),
            "step": checkpoint.step,
            "world_size": accelerator.num_processes,
            "model_digest": checkpoint.model_digest,
            "manifest_digest": checkpoint.manifest_digest,
            "prompts_digest": checkpoint.prompts_digest,
            "num_captions": checkpoint.num_captions,
            "real_digest": checkpoint.real_digest,
            "real_manifest_digest": checkpoint.real_manifest_digest,
            "tokenizer_digest": checkpoint.tokenizer_digest,
            "scorer_digest": checkpoint.scorer_digest,
            "record": checkpoint.record.to_json(),
        }
        _write_json(unfinished / CHECKPOINT_STATE, state)
        _put_in_place(unfinished, folder)


def read(folder: RunFolder, config: TrainConfig, rank: int, world_size: int) -> Checkpoint:
    """Where the run stood, for `rank` of `world_size` ranks; the weights are not loaded.

    Raises RunError where the checkpoint is broken, not one of these settings, or at the end.
    """
    try:
        state = _read_json(folder.checkpoint / CHECKPOINT_STATE)
        parts = [_read_json(folder.checkpoint / f"feed-{part}.json") for part in range(state["world_size"])]
        for part in range(len(parts)):
            _read_marks(folder.checkpoint / _marks_name(folder.ledger(part)))
        settings: dict[str, Any] = state["settings"]
        checkpoint = Checkpoint(
            step=int(state["step"]),
            model_digest=str(state["model_digest"]),
            manifest_digest=str(state["manifest_digest"]),
            prompts_digest=str(state["prompts_digest"]),
            record=Record.from_json(state["record"]),
            feed=merge([FeedState.from_json(part) for part in parts]).share(rank, world_size),
            real_digest=str(state["real_digest"]),
            real_manifest_digest=str(state["real_manifest_digest"]),
            tokenizer_digest=str(state["tokenizer_digest"]),
            scorer_digest=str(state["scorer_digest"]),
            num_captions=int(state["num_captions"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder.checkpoint} is not a whole checkpoint ({error}); begin a new run") from error
    _check_settings(folder, settings, _settings(config))
    if checkpoint.step >= config.max_steps:
        raise RunError(f"{folder.checkpoint} is at step {checkpoint.step} already; raise --max-steps to go on")
    return checkpoint


def check_prompts(checkpoint: Checkpoint, prompts: PromptSource, name: str) -> None:
    """Raises RunError where the captions of `name` are not those that the run has trained on so far."""
    if prompts.digest == checkpoint.prompts_digest:
        return
    then, now = checkpoint.num_captions, num_captions(prompts)
    counts = (
        f"{then} then, {now} now"
        if then != now
        else f"{now} then and now, of other text, other concepts, or another order or balance"
    )
    raise RunError(
        f"the captions of {name} are not those that the run began with ({counts}); resume with the same, or begin a "
        "new run"
    )


def check_tokenizer(checkpoint: Checkpoint, digest: str, name: str) -> None:
    """Raises RunError where the tokenizer `name` is not the one whose ids the text tower has learnt.

    A folder may have changed, a hub id may have been moved, another version of the library may learn other words.
    """
    if digest != checkpoint.tokenizer_digest:
        raise RunError(
            f"text.tokenizer {name} is not the tokenizer that the run began with ({digest[:12]}, then "
            f"{checkpoint.tokenizer_digest[:12]}); resume with the same, or begin a new run"
        )


def restore(accelerator: Accelerator, folder: RunFolder) -> None:
    """Load model, optimizer and random states. A rank that the checkpoint does not know keeps its random state."""
    accelerator.load_state(str(folder.checkpoint))


def rewind_ledgers(folder: RunFolder) -> None:
    """Take back what the ledgers say of what came after the checkpoint. For one rank, before any opens its ledger.

    Raises RunError where one is missing, damaged, or has less than the checkpoint counts on.
    """
    for marks in sorted(folder.checkpoint.glob("ledger-*.json")):
        rewind(folder.path / f"{marks.stem}.sqlite", _read_marks(marks))
    for path in find_ledgers(folder.path):
        if not (folder.checkpoint / _marks_name(path)).exists():
            remove(path)  # of a rank that the checkpoint does not know


def _read_marks(path: Path) -> Marks:
    marks = _read_json(path)
    return {table: int(marks[table]) for table in TABLES}


def _marks_name(ledger: Path) -> str:
    """The checkpoint's file that says where a ledger ends."""
    return f"{ledger.stem}.json"


def _keep_marks_of_others(folder: RunFolder, unfinished: Path) -> None:
    """Note where the ledgers end that earlier lives of more ranks have left; nobody writes them."""
    for path in find_ledgers(folder.path):
        if not (unfinished / _marks_name(path)).exists():
            _write_json(unfinished / _marks_name(path), marks_of(path))


def _read_json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} must hold an object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value) + "\n")


def _put_in_place(unfinished: Path, folder: RunFolder) -> None:
    """Let a checkpoint that is on the disk take the place of the last one."""
    for path in [*unfinished.rglob("*"), unfinished]:
        _sync(path)
    previous = folder.checkpoint.with_name(PREVIOUS)
    shutil.rmtree(previous, ignore_errors=True)
    if folder.checkpoint.exists():
        folder.checkpoint.rename(previous)
    unfinished.rename(folder.checkpoint)
    _sync(folder.path)
    shutil.rmtree(previous, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The fixed and the noted settings by dotted name, as JSON gives them back."""
    flat: dict[str, Any] = {}
    for name, value in asdict(config).items():
        flat |= {f"{name}.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
    kept = {name: value for name, value in flat.items() if _is_among(name, _FIXED) or _is_among(name, _NOTED)}
    settings: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return settings


def _is_among(name: str, names: Sequence[str]) -> bool:
    return name not in _FREE and (name in names or name.partition(".")[0] in names)


def _check_settings(folder: RunFolder, saved: dict[str, Any], now: dict[str, Any]) -> None:
    for name in sorted(saved.keys() | now.keys()):
        before, after = saved.get(name), now.get(name)
        if before != after and _is_among(name, _FIXED):
            raise RunError(
                f"{folder.checkpoint} was written with {name} {before!r}, this run says {after!r}; "
                "resume with the same, or begin a new run"
            )
        if before != after:
            _log.warning("%s was %r until now and is %r from here on", name, before, after)
