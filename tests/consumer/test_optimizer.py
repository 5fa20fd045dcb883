"""Optimizer groups and learning rate against the rules of the published code."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetModel

from penstock.consumer.models import build_encoder
from penstock.consumer.network import Network
from penstock.consumer.objectives import Objective
from penstock.consumer.optimizer import CosineSchedule, build_optimizer, decay_groups
from penstock.consumer.projection_head import ProjectionHead
from penstock.consumer.terms import ImageContrast
from penstock.consumer.text_tower import build_text_tower

torch.set_num_threads(1)


def test_decay_takes_matrices_and_tokens_and_spares_biases_and_norms() -> None:
    term = ImageContrast(ProjectionHead(12, 8, 3), positives="prompt", temperature=0.1)
    model = Network(build_encoder(16, 8, 12, 1, 3), Objective({"image": (term, 1.0)}))
    decayed, spared = build_optimizer(model, weight_decay=0.1).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed_names, spared_names = ({names[p] for p in group["params"]} for group in (decayed, spared))
    assert decayed_names | spared_names == set(names.values())
    assert not decayed_names & spared_names
    head = "objective.terms.image.head"
    assert {"encoder.embeddings.cls_token", "encoder.embeddings.position_embeddings"} <= decayed_names
    assert {f"{head}.layer1.weight", f"{head}.layer3.weight"} <= decayed_names
    assert {f"{head}.bn1.weight", f"{head}.layer1.bias", "encoder.layernorm.weight"} <= spared_names
    assert all("norm" not in name and "bn" not in name and "bias" not in name for name in decayed_names)
    assert all("norm" in name or "bn" in name or "bias" in name for name in spared_names)


def test_frozen_parameters_are_left_out() -> None:
    head = ProjectionHead(4, 4, 2)
    head.layer1.requires_grad_(False)
    num_parameters = sum(len(group["params"]) for group in build_optimizer(head).param_groups)
    assert num_parameters == 8


def test_optimizer_is_adamw_with_the_references_betas() -> None:
    optimizer = build_optimizer(ProjectionHead(4, 4, 2))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["betas"] == (0.9, 0.98) for group in optimizer.param_groups)


def test_peak_learning_rate_of_the_paper() -> None:
    # "base learning rate 2.0e-4, 8256 images": lr = 2e-4 * 8256 / 512.
    schedule = CosineSchedule(base_lr=2e-4, images_per_step=8256, warmup_steps=10, max_steps=100)
    assert schedule.at(10) == pytest.approx(3.225e-3)


def test_schedule_warms_up_linearly_then_follows_half_a_cosine() -> None:
    schedule = CosineSchedule(base_lr=1.0, images_per_step=512, warmup_steps=4, max_steps=12, min_lr=0.1)
    assert [schedule.at(step) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert schedule.at(8) == pytest.approx(0.55)
    assert schedule.at(6) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert schedule.at(12) == schedule.at(1000) == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in pairwise(schedule.at(step) for step in range(4, 13)))


def test_apply_sets_the_rate_of_every_group() -> None:
    optimizer = build_optimizer(ProjectionHead(4, 4, 2))
    schedule = CosineSchedule(base_lr=1.0, images_per_step=256, warmup_steps=0, max_steps=4)
    assert schedule.apply(optimizer, 2) == pytest.approx(0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.25)] * 2


@pytest.mark.parametrize(("warmup_steps", "max_steps"), [(4, 4), (-1, 4), (0, 0)])
def test_schedule_rejects_a_warmup_outside_the_run(warmup_steps: int, max_steps: int) -> None:
    with pytest.raises(ValueError, match=r"warmup_steps must lie in 0 \.\. max_steps - 1"):
        CosineSchedule(base_lr=1.0, images_per_step=1, warmup_steps=warmup_steps, max_steps=max_steps)


@pytest.mark.parametrize("found", [0.0, 1.0])
def test_a_flag_on_the_device_says_whether_a_step_counts(found: float) -> None:
    """By hand: AdamW's first step moves each weight by lr, m / sqrt(v) being the gradient's sign, and by its decay."""
    head = ProjectionHead(4, 4, 2).double()
    optimizer = build_optimizer(head, weight_decay=0.1)
    before = {name: value.clone() for name, value in head.named_parameters()}
    for _ in range(2):
        for parameter in head.parameters():
            parameter.grad = torch.full_like(parameter, 3.0 if not found else torch.nan)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.01
        optimizer.found_inf = torch.tensor(found)  # type: ignore[attr-defined]
        optimizer.step()
        if not found:
            break
    for name, value in head.named_parameters():
        decay = 0.1 if value.ndim > 1 else 0.0
        expected = before[name] if found else before[name] * (1 - 0.01 * decay) - 0.01
        torch.testing.assert_close(value.detach(), expected.detach(), rtol=0, atol=1e-9)
        state = optimizer.state[value]
        assert float(state["step"]) == 1 - found
        if found:
            assert not state["exp_avg"].any()
            assert not state["exp_avg_sq"].any()


def towers() -> nn.ModuleDict:
    """An encoder of three blocks, a text tower of two, a head."""
    return nn.ModuleDict(
        {
            "encoder": build_encoder(16, 8, 12, 3, 3),
            "text": build_text_tower(20, 19, hidden_size=8, num_layers=2, num_heads=2, max_tokens=6),
            "head": ProjectionHead(12, 8, 3),
        }
    )


def test_layers_learn_the_slower_the_deeper_they_lie() -> None:
    model = towers()
    groups = decay_groups(model, 0.1, layer_decay=0.5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    scales = {names[parameter]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales.keys() == set(names.values())
    # BEiT and MAE: decay ** (blocks + 1 - depth), the embeddings at depth 0, what follows the blocks at the full rate.
    assert (
        scales["encoder.embeddings.cls_token"]
        == scales["encoder.embeddings.patch_embeddings.projection.bias"]
        == 1 / 16
    )
    for block, scale in enumerate((1 / 8, 1 / 4, 1 / 2)):
        found = {scales[name] for name in scales if name.startswith(f"encoder.layers.{block}.")}
        assert found == {scale}
    assert scales["encoder.layernorm.weight"] == scales["head.layer1.weight"] == scales["head.bn2.bias"] == 1.0
    assert scales["text.embeddings.token_embedding.weight"] == 1 / 8
    assert scales["text.encoder.layers.0.mlp.fc1.weight"] == 1 / 4
    assert scales["text.encoder.layers.1.mlp.fc1.bias"] == 1 / 2
    assert scales["text.final_layer_norm.weight"] == 1.0


def test_layer_decay_moves_no_parameter_between_decayed_and_spared() -> None:
    model = towers()
    plain, layered = decay_groups(model, 0.1), decay_groups(model, 0.1, layer_decay=0.5)
    for weight_decay, group in zip((0.1, 0.0), plain, strict=True):
        found = {p for other in layered if other["weight_decay"] == weight_decay for p in other["params"]}
        assert found == set(group["params"])


def test_without_layer_decay_the_groups_are_those_of_older_checkpoints() -> None:
    groups = decay_groups(towers(), 0.1, layer_decay=1.0)
    assert [(group["weight_decay"], set(group)) for group in groups] == [
        (0.1, {"params", "weight_decay"}),
        (0.0, {"params", "weight_decay"}),
    ]


def test_apply_multiplies_by_the_groups_share_and_returns_the_full_rate() -> None:
    model = towers()
    optimizer = build_optimizer(model, layer_decay=0.5)
    schedule = CosineSchedule(base_lr=1.0, images_per_step=256, warmup_steps=0, max_steps=4)
    assert schedule.apply(optimizer, 2) == pytest.approx(0.25)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates[model["encoder"].embeddings.cls_token] == pytest.approx(0.25 / 16)
    assert rates[model["head"].layer1.weight] == pytest.approx(0.25)


def test_layer_decay_needs_blocks() -> None:
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    with pytest.raises(ValueError, match=r"layer_decay must be 1 for a tower without blocks, got 0\.5"):
        decay_groups(ResNetModel(config), 0.1, layer_decay=0.5)
