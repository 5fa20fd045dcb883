"""How much arithmetic a rank's step is, and what its device reaches with nothing but matrix products."""

import torch
from accelerate import Accelerator

from penstock.consumer.config import TrainConfig
from penstock.consumer.network import Network
from penstock.telemetry.flops import count_flops, matrix_flops_per_s

_BACKWARD = 2
"""Forward passes that a backward pass is worth: one for the gradients of the inputs, one for those of the weights."""


def flops_per_step(config: TrainConfig, network: Network, world_size: int) -> float:
    """Floating point operations of the towers of one rank in a step; heads, losses and augmentation are small beside.

    Args:
        config: the run's settings.
        network: as built, on any device.
        world_size: number of ranks.
    """
    size, device = config.augment.size, next(network.parameters()).device
    rows = config.rows_per_step // world_size
    view = count_flops(network.encoder, (torch.empty(1, 3, size, size, device=device),))
    # In parts, or without their activations kept, features are computed a second time for their gradients.
    again = config.optimizer.grad_accum_steps > 1 or config.model.gradient_checkpointing
    passes = 1 + _BACKWARD + again
    flops = rows * view * (passes + (network.teacher is not None))
    if network.text_tower is not None:
        tokens = torch.zeros(1, config.text.max_tokens, dtype=torch.int64, device=device)
        captions = config.groups_per_step // world_size
        flops += captions * count_flops(network.text_tower, (tokens,)) * (passes - config.model.gradient_checkpointing)
    return flops


def device_flops_per_s(accelerator: Accelerator) -> float:
    """What large matrix products reach on a rank's device, in the arithmetic of its forward pass."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return matrix_flops_per_s(accelerator.device, dtypes.get(accelerator.mixed_precision, torch.float32))
