"""From settings to what learns: the network, its tokenizer, its optimizer and the learning rate of every step."""

from itertools import count

import torch
from torch import nn
from transformers import PreTrainedModel

from penstock.consumer.average import Average
from penstock.consumer.config import TrainConfig
from penstock.consumer.encoders import build_timm_encoder, start_as_timm
from penstock.consumer.models import build_encoder
from penstock.consumer.network import Network
from penstock.consumer.objectives import build_objective
from penstock.consumer.optimizer import CosineSchedule, build_optimizer
from penstock.consumer.positions import start_from_sincos
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.text_tower import build_text_tower
from penstock.consumer.tokenizer import CaptionTokenizer, open_tokenizer
from penstock.consumer.vit_sizes import EncoderSizes, encoder_sizes, is_vit
from penstock.protocol.errors import ConfigError


def build_tokenizer(config: TrainConfig, prompts: PromptSource) -> CaptionTokenizer | None:
    """The tokenizer of the text tower; None where the objective reads no text. Raises ConfigError."""
    if not config.objective.reads_text:
        return None
    captions = (prompts.prompt(index).text for index in count())
    return open_tokenizer(config.text.tokenizer, captions, config.text.max_tokens)


def build_network(config: TrainConfig, prompts: PromptSource, tokenizer: CaptionTokenizer | None) -> Network:
    """Towers and objective as `config` says, with random weights.

    Raises ConfigError where there can be no such encoder, and ValueError for objective `supervised` without
    `check_concepts`.
    """
    encoder = build_vit(config)
    _check_parts(config, encoder)
    objective = build_objective(
        config.objective, config.model, config.text, encoder.config.hidden_size, len(prompts.concepts)
    )
    text_tower = None
    if tokenizer is not None:
        text = config.text
        text_tower = build_text_tower(
            tokenizer.vocab_size,
            tokenizer.end_id,
            hidden_size=text.hidden_size,
            num_layers=text.num_layers,
            num_heads=text.num_heads,
            max_tokens=text.max_tokens,
        )
    teacher = None
    if objective.has_teacher:
        teacher = Average(encoder, config.objective.teacher_decay, config.objective.teacher_decay_end)
    average = Average(encoder, config.optimizer.ema_decay) if config.optimizer.ema_decay else None
    if config.model.compile:
        encoder.compile()
    return Network(encoder, objective, text_tower, teacher, average)


def _check_parts(config: TrainConfig, encoder: nn.Module) -> None:
    """Raises ConfigError where rows know of each other in the encoder, and yet are to go through it in parts."""
    knows = any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in encoder.modules())
    if knows and config.optimizer.grad_accum_steps > 1:
        raise ConfigError(
            f"optimizer.grad_accum_steps must be 1 for {config.model.name}, whose BatchNorm would take its statistics "
            f"from a part of the batch, got {config.optimizer.grad_accum_steps}"
        )


def build_vit(config: TrainConfig) -> PreTrainedModel:
    """The encoder as `config` says, with random weights. Raises ConfigError where there is none of that name."""
    model, size = config.model, config.augment.size
    if model.name and not is_vit(model.name):
        return build_timm_encoder(
            model.name, size, drop_path=model.drop_path, gradient_checkpointing=model.gradient_checkpointing
        )
    own = EncoderSizes(model.hidden_size, model.num_layers, model.num_heads, model.patch_size)
    sizes = encoder_sizes(model.name) if model.name else own
    encoder = build_encoder(
        size,
        sizes.patch_size,
        sizes.hidden_size,
        sizes.num_layers,
        sizes.num_heads,
        initializer_range=model.initializer_range,
        attention=model.attention,
        drop_path=model.drop_path,
        gradient_checkpointing=model.gradient_checkpointing,
    )
    if model.initial_weights == "timm":
        start_as_timm(encoder)
    if model.positions == "sincos":
        start_from_sincos(encoder)
    return encoder


def build_adamw(config: TrainConfig, network: Network) -> torch.optim.AdamW:
    """The optimizer of the network's weights as `config` says. Raises ConfigError where a tower lacks the layers."""
    settings = config.optimizer
    try:
        return build_optimizer(
            network, weight_decay=settings.weight_decay, betas=settings.betas, layer_decay=settings.layer_decay
        )
    except ValueError as error:
        raise ConfigError(f"optimizer.{error}; {config.model.name or 'the encoder'} has none that is known") from error


def build_schedule(config: TrainConfig) -> CosineSchedule:
    """The learning rate of every step of a run."""
    return CosineSchedule(
        base_lr=config.optimizer.base_lr,
        images_per_step=config.rows_per_step,
        warmup_steps=min(config.optimizer.warmup_steps, config.max_steps // 5),
        max_steps=config.max_steps,
    )
