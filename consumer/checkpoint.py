"""Checkpoints: model, optimizer and random states by Accelerate, and each rank's place in the stream as JSON.

A checkpoint is written beside the last one and takes its place by a rename, so that a run killed at any moment leaves a
whole one. No image is in it: the reservoir is a list of tickets with their use counts.
"""

import json
import shutil

from accelerate import Accelerator

from penstock.consumer.feed import FeedState
from penstock.consumer.run_folder import RunFolder
from penstock.protocol.errors import RunError


def save(accelerator: Accelerator, folder: RunFolder, step: int, feed: FeedState) -> None:
    """Write the state after optimizer step `step`. All ranks call it together."""
    unfinished = folder.checkpoint.with_name("checkpoint.tmp")
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished), safe_serialization=True)
    state = {"step": step, "feed": feed.to_json()}
    (unfinished / f"feed-{feed.rank}.json").write_text(json.dumps(state) + "\n")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(folder.checkpoint, ignore_errors=True)
        unfinished.rename(folder.checkpoint)


def load(accelerator: Accelerator, folder: RunFolder) -> tuple[int, FeedState]:
    """Restore model, optimizer and random states; the step after which they were saved, and this rank's place.

    Raises RunError where the checkpoint is not one of this number of ranks.
    """
    path = folder.checkpoint / f"feed-{accelerator.process_index}.json"
    try:
        state = json.loads(path.read_text())
    except OSError as error:
        raise RunError(
            f"{folder.checkpoint} has no state for rank {accelerator.process_index}; "
            "resume with as many ranks as wrote it"
        ) from error
    accelerator.load_state(str(folder.checkpoint))
    return int(state["step"]), FeedState.from_json(state["feed"])
