"""A trainer small enough for tests: settings, batches, and a `TrainingStep` with what it trains."""

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from penstock.consumer.batch import Batch
from penstock.consumer.building import build_adamw, build_network, build_schedule
from penstock.consumer.config import TrainConfig
from penstock.consumer.learning_config import ModelConfig, ObjectiveConfig, OptimizerConfig, TextConfig
from penstock.consumer.making_config import GeneratorConfig
from penstock.consumer.network import Network
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.tokenizer import CaptionTokenizer
from penstock.consumer.training_step import StepLog, TrainingStep
from penstock.kernels.augment_recipe import AugmentRecipe

OBJECTIVES = ("stablerep", "stablerep+", "simclr", "clip", "supervised", "synclr")
NUM_CONCEPTS = 3
VOCABULARY, END_ID, NUM_TOKENS = 12, 11, 6


def tiny_config(
    name: str, *, groups: int = 6, images: int = 3, max_steps: int = 10, seed: int = 5, **others: Any
) -> TrainConfig:
    """Settings of a run of `groups` of `images` 16 x 16 images a step; `others` are the optimizer's and objective's."""
    of_optimizer = {field.name for field in dataclasses.fields(OptimizerConfig)}
    optimizer = {key: value for key, value in others.items() if key in of_optimizer}
    objective = {key: value for key, value in others.items() if key not in of_optimizer}
    return TrainConfig(
        seed=seed,
        max_steps=max_steps,
        groups_per_step=groups,
        generator=GeneratorConfig(images_per_group=images, height=16, width=16),
        augment=AugmentRecipe(size=16, crop_scale=(0.5, 1.0), blur_kernel_size=5),
        model=ModelConfig(
            patch_size=8,
            hidden_size=16,
            num_layers=1,
            num_heads=2,
            initializer_range=0.2,
            head_hidden_size=16,
            head_out_size=8,
        ),
        text=TextConfig(hidden_size=16, num_layers=1, num_heads=2, max_tokens=NUM_TOKENS, out_size=8),
        objective=ObjectiveConfig(name=name, **objective),  # type: ignore[arg-type]
        optimizer=OptimizerConfig(**({"base_lr": 0.02, "warmup_steps": 0} | optimizer)),
    )


def random_batch(config: TrainConfig, step: int) -> Batch:
    """What all ranks together train on in a step; the first and the last group are of one prompt."""
    groups, images = config.groups_per_step, config.images_per_use
    generator = torch.Generator().manual_seed(1000 + step)

    def integers(high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(0, high, shape, generator=generator, dtype=dtype)

    prompt_ids = 2**60 + torch.arange(groups)
    prompt_ids[-1] = prompt_ids[0]
    concepts, token_ids = integers(NUM_CONCEPTS, groups), integers(END_ID, groups, NUM_TOKENS)
    token_ids[:, -1] = END_ID
    concepts[-1], token_ids[-1] = concepts[0], token_ids[0]
    first = step * groups
    return Batch(
        images=integers(256, groups * images, 16, 16, 3, dtype=torch.uint8),
        prompt_ids=prompt_ids,
        sample_ids=1024 * (first + torch.arange(groups))[:, None] + torch.arange(images),
        echoes=integers(3, groups).repeat_interleave(images),
        indices=tuple(range(first, first + groups)),
        prompts=("a fox",) * groups,
        concepts=concepts,
        token_ids=token_ids if config.objective.reads_text else None,
    )


def share_of(batch: Batch, rank: int, world_size: int) -> Batch:
    """The part of a batch that `rank` has: as many groups as every other."""
    groups = len(batch.indices) // world_size
    mine = slice(rank * groups, (rank + 1) * groups)
    images = len(batch.images) // len(batch.indices)
    rows = slice(rank * groups * images, (rank + 1) * groups * images)
    return Batch(
        images=batch.images[rows],
        prompt_ids=batch.prompt_ids[mine],
        sample_ids=batch.sample_ids[mine],
        echoes=batch.echoes[rows],
        indices=batch.indices[mine],
        prompts=batch.prompts[mine],
        concepts=batch.concepts[mine],
        token_ids=None if batch.token_ids is None else batch.token_ids[mine],
    )


@dataclass
class Tiny:
    """A step with what it trains."""

    config: TrainConfig
    network: Network
    optimizer: torch.optim.AdamW
    step: TrainingStep
    rank: int = 0
    world_size: int = 1

    def train(self, step: int) -> StepLog:
        """Train on this rank's share of the batch of `step`."""
        return self.step(share_of(random_batch(self.config, step), self.rank, self.world_size), step)

    def weights(self) -> dict[str, Tensor]:
        """A copy of what is trained."""
        return {name: p.detach().clone() for name, p in self.network.named_parameters() if p.requires_grad}

    def gradients(self) -> dict[str, Tensor]:
        """Those of the first step, as AdamW saw them: its first moment is (1 - beta1) times them by then."""
        beta1 = self.config.optimizer.betas[0]
        return {
            name: self.optimizer.state[p]["exp_avg"].clone() / (1 - beta1)
            for name, p in self.network.named_parameters()
            if p.requires_grad
        }


def build_tiny(config: TrainConfig, accelerator: Accelerator, weights_seed: int = 0) -> Tiny:
    """Random weights by `weights_seed`, the same for equal models."""
    torch.manual_seed(weights_seed)
    source = cast(PromptSource, SimpleNamespace(concepts=("cat", "dog", "fox")))
    tokenizer = cast(CaptionTokenizer, SimpleNamespace(vocab_size=VOCABULARY, end_id=END_ID))
    network = build_network(config, source, tokenizer if config.objective.reads_text else None).train()
    optimizer = build_adamw(config, network)
    model, prepared = accelerator.prepare(network, optimizer)
    step = TrainingStep(config, accelerator, model, prepared, build_schedule(config))
    return Tiny(config, network, optimizer, step, accelerator.process_index, accelerator.num_processes)
