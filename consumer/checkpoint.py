"""Checkpoints: model, optimizer and random states by Accelerate, and each rank's place in the stream as JSON.

A checkpoint is written beside the last one and takes its place by renames, so that a run killed at any moment leaves a
whole one. No image is in it: the reservoir is a list of tickets with their use counts.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from typing import Any

from accelerate import Accelerator

from penstock.consumer.config import TrainConfig
from penstock.consumer.feed import FeedState
from penstock.consumer.run_folder import PREVIOUS, RunFolder
from penstock.protocol.errors import RunError

_FIXED = ("seed", "groups_per_step", "prompts", "generator", "reservoir", "model")
"""Settings that decide what stands where in the stream and in the weights; no later life may change them."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says beside the weights."""

    step: int
    """Optimizer steps done."""
    model_digest: str
    """Digest of the generator whose images the run uses."""
    prompts_digest: str
    """Digest of the captions that the run uses."""
    feed: FeedState
    """This rank's place in the stream."""


def save(accelerator: Accelerator, folder: RunFolder, config: TrainConfig, checkpoint: Checkpoint) -> None:
    """Write the state after an optimizer step. All ranks call it together."""
    unfinished = folder.checkpoint.with_name("checkpoint.tmp")
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished), safe_serialization=True)
    state = {
        "settings": _fixed_settings(config),
        "step": checkpoint.step,
        "model_digest": checkpoint.model_digest,
        "prompts_digest": checkpoint.prompts_digest,
        "feed": checkpoint.feed.to_json(),
    }
    (unfinished / f"feed-{checkpoint.feed.rank}.json").write_text(json.dumps(state) + "\n")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        previous = folder.checkpoint.with_name(PREVIOUS)
        shutil.rmtree(previous, ignore_errors=True)
        if folder.checkpoint.exists():
            folder.checkpoint.rename(previous)
        unfinished.rename(folder.checkpoint)
        shutil.rmtree(previous, ignore_errors=True)


def load(accelerator: Accelerator, folder: RunFolder, config: TrainConfig) -> Checkpoint:
    """Restore model, optimizer and random states, and say where the run stood.

    Raises RunError where the checkpoint is not one of this number of ranks, of these settings, or is at the end.
    """
    path = folder.checkpoint / f"feed-{accelerator.process_index}.json"
    try:
        state = json.loads(path.read_text())
    except OSError as error:
        raise RunError(
            f"{folder.checkpoint} has no state for rank {accelerator.process_index}; "
            "resume with as many ranks as wrote it"
        ) from error
    _check_settings(folder, state["settings"], _fixed_settings(config))
    if state["step"] >= config.max_steps:
        raise RunError(f"{folder.checkpoint} is at step {state['step']} already; raise --max-steps to go on")
    accelerator.load_state(str(folder.checkpoint))
    return Checkpoint(state["step"], state["model_digest"], state["prompts_digest"], FeedState.from_json(state["feed"]))


def _fixed_settings(config: TrainConfig) -> dict[str, Any]:
    """The fixed settings by dotted name, as JSON gives them back."""
    flat: dict[str, Any] = {}
    for name in _FIXED:
        value = asdict(config)[name]
        section = {f"{name}.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
        flat |= section
    settings: dict[str, Any] = json.loads(json.dumps(flat))
    return settings


def _check_settings(folder: RunFolder, saved: dict[str, Any], now: dict[str, Any]) -> None:
    for name in sorted(saved.keys() | now.keys()):
        if saved.get(name) != now.get(name):
            raise RunError(
                f"{folder.checkpoint} was written with {name} {saved.get(name)!r}, this run says {now.get(name)!r}; "
                "resume with the same, or begin a new run"
            )
