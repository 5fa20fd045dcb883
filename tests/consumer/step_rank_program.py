"""What a rank of test_training_step.py trains and saves: `python -m tests.consumer.step_rank_program FOLDER`.

Accelerate reads the rank and where the others are from the environment.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from tests.consumer.tiny_training import OBJECTIVES, build_tiny, tiny_config

WORLD_SIZE, NUM_STEPS = 2, 2
PARTS = (1, 2)


def run(name: str, parts: int, accelerator: Accelerator) -> dict[str, Any]:
    """Two steps of an objective: the first one's gradients, every loss, and all weights and buffers at the end."""
    config = tiny_config(name, grad_accum_steps=parts, ema_decay=0.5, teacher_decay=0.5, max_grad_norm=0.5)
    tiny = build_tiny(config, accelerator)
    losses: list[dict[str, Tensor]] = []
    gradients: dict[str, Tensor] = {}
    for step in range(NUM_STEPS):
        losses.append(tiny.train(step).losses)
        gradients = gradients or tiny.gradients()
    return {"losses": losses, "gradients": gradients, "state": tiny.network.state_dict()}


def main(folder: Path) -> None:
    """Every case in one process group, as starting one costs seconds."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == WORLD_SIZE
    found = {f"{name} {parts}": run(name, parts, accelerator) for name in OBJECTIVES for parts in PARTS}
    torch.save(found, folder / f"rank{accelerator.process_index}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
