"""Five steps, and the rules, against StableRep's published code, as `make_reference_goldens.py` recorded it.

The reference orders a batch's rows by view, Penstock by group; losses, statistics and gradients do not mind.
"""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from penstock.consumer.models import build_encoder
from penstock.consumer.optimizer import CosineSchedule, build_optimizer, decay_groups
from penstock.consumer.projection_head import ProjectionHead
from penstock.kernels.multipos_clip_loss import multipos_clip_loss
from penstock.kernels.multipos_loss import multipos_loss
from tests.consumer.reference import CAPTIONS, GOLDENS, MAX_LOG_SCALE, STEPS, VIEWS, batches, golden

torch.set_num_threads(1)

TOY = CosineSchedule(base_lr=0.2, images_per_step=CAPTIONS * VIEWS, warmup_steps=2, max_steps=STEPS)
"""The recorded run's flags: --blr 0.2 --batch_size 5 --n_img 6 --epochs 1 --warmup_epochs 0.4, five steps an epoch."""

SCHEDULES = {
    "cc12m-1x": (15, 0.5, 7267),
    "cc12m-2x": (31, 1.0, 7267),
    "cc12m-3x": (46, 1.5, 7267),
    "redcaps-1x": (13, 0.45, 8430),
    "redcaps-2x": (27, 0.9, 8430),
    "redcaps-3x": (40, 1.35, 8430),
}
"""The README's --epochs and --warmup_epochs, and the steps of an epoch."""


class Trained(nn.Module):
    """The recorded runs' network: a linear encoder, Penstock's head and losses, an embedding for the text tower."""

    def __init__(self, *, language: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 12), nn.Tanh())
        self.head = ProjectionHead(12, 16, 8)
        if language:
            self.text = nn.Embedding(32, 10)
            self.image_projection, self.text_projection = nn.Linear(12, 6, bias=False), nn.Linear(10, 6, bias=False)
            self.logit_scale = nn.Parameter(torch.zeros(()))
        self.language = language

    def forward(self, images: Tensor, words: Tensor, prompt_ids: Tensor) -> Tensor:
        features = self.encoder(images)
        labels = prompt_ids.repeat_interleave(VIEWS)
        loss = multipos_loss(self.head(features, VIEWS), labels, temperature=0.1)
        if not self.language:
            return loss
        projected = self.image_projection(features), self.text_projection(self.text(words))
        return loss + multipos_clip_loss(*projected, labels, prompt_ids, temperature=(-self.logit_scale).exp())


def begun(part: str) -> Trained:
    model = Trained(language=part == "stablerep+").double()
    start = {name.removeprefix("start/"): value for name, value in golden(part).items() if name.startswith("start/")}
    model.load_state_dict(start)
    return model


def train(part: str) -> tuple[Trained, dict[str, Tensor]]:
    """Five steps by Penstock's rules, and their curves."""
    model = begun(part)
    optimizer = build_optimizer(model, weight_decay=0.1, betas=(0.9, 0.98))
    curves: dict[str, list[float]] = {"loss": [], "lr": [], "scale": []}
    for step, batch in enumerate(batches(part)):
        loss = model(*batch)
        curves["lr"].append(TOY.apply(optimizer, step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        curves["loss"].append(loss.item())
        if model.language:
            model.logit_scale.data.clamp_(0, MAX_LOG_SCALE)
            curves["scale"].append(model.logit_scale.exp().item())
    return model, {name: torch.tensor(values, dtype=torch.float64) for name, values in curves.items()}


@pytest.mark.parametrize("part", ["stablerep", "stablerep+"])
def test_five_steps_give_the_references_losses_rates_and_weights(part: str) -> None:
    expected = golden(part)
    model, curves = train(part)
    # The reference divides by the number of positives in float32, which moves its losses by some 1e-8.
    torch.testing.assert_close(curves["loss"], expected["loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(curves["lr"], expected["lr"], rtol=1e-12, atol=0)
    if model.language:
        torch.testing.assert_close(curves["scale"], expected["scale"], rtol=1e-6, atol=0)
    state = {f"end/{name}": value for name, value in model.state_dict().items()}
    assert state.keys() == {name for name in expected if name.startswith("end/")}
    for name, value in state.items():
        torch.testing.assert_close(
            value, expected[name], rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
        # Far more than the tolerance; what BatchNorm subtracts has no gradient.
        moved = (value - expected[name.replace("end", "start")]).abs().max()
        assert name in ("end/head.layer1.bias", "end/head.layer2.bias") or moved > 1e-3


@pytest.mark.parametrize("part", ["stablerep", "stablerep+"])
def test_float32_gives_the_first_loss_too(part: str) -> None:
    images, words, prompt_ids = next(batches(part))
    loss = begun(part).float()(images.float(), words, prompt_ids)
    torch.testing.assert_close(loss.double(), golden(part)["loss"][0], rtol=1e-6, atol=0)


def test_the_reference_keeps_its_scale_within_our_bounds() -> None:
    assert golden("clamp")["bounds"].tolist() == [MAX_LOG_SCALE, 0.0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_the_readme(name: str) -> None:
    expected = golden(f"schedule/{name}")
    epochs, warmup_epochs, steps_per_epoch = SCHEDULES[name]
    warmup = warmup_epochs * steps_per_epoch
    schedule = CosineSchedule(
        base_lr=2e-4, images_per_step=43 * 32 * 6, warmup_steps=round(warmup), max_steps=epochs * steps_per_epoch
    )
    assert schedule.peak_lr == pytest.approx(expected["peak"].item(), rel=1e-12)
    rates = torch.tensor([schedule.at(step) for step in expected["steps"].tolist()], dtype=torch.float64)
    # A warm-up of 3,633.5 steps is one of 3,634 here: that much less in it, and next to nothing behind it.
    slack = 0.5 / warmup if warmup % 1 else 1e-10
    torch.testing.assert_close(rates, expected["lr"], rtol=1.01 * slack, atol=1e-12)


def test_weight_decay_takes_and_spares_what_the_references_does() -> None:
    names = {
        group: {ours for name in GOLDENS[f"groups/{group}"] for ours in renamed(str(name))}
        for group in ("decayed", "spared")
    }
    with torch.device("meta"):
        text = CLIPTextModel(CLIPTextConfig(hidden_size=512, intermediate_size=2048, num_attention_heads=8))
        model = nn.ModuleDict({
            "visual": build_encoder(224, 16, 768, 12, 12),
            "head": ProjectionHead(768, 4096, 256),
            "text": text,
            "image_projection": nn.Linear(768, 512, bias=False),
            "text_projection": nn.Linear(512, 512, bias=False),
        })  # fmt: skip
        model.register_parameter("logit_scale", nn.Parameter(torch.zeros(())))
    ours = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = ({ours[id(p)] for p in group["params"]} for group in decay_groups(model, 0.1))
    assert decayed == names["decayed"]
    assert spared == names["spared"]


def renamed(name: str) -> list[str]:
    """Penstock's names of a parameter of the reference: several, where attention is one matrix there and three here."""
    rules = [
        (r"visual\.cls_token", "visual.embeddings.cls_token"),
        (r"visual\.pos_embed", "visual.embeddings.position_embeddings"),
        (r"visual\.patch_embed\.proj", "visual.embeddings.patch_embeddings.projection"),
        (r"visual\.norm\.", "visual.layernorm."),
        (r"visual\.blocks", "visual.layers"),
        (r"\.norm1", ".layernorm_before"),
        (r"\.norm2", ".layernorm_after"),
        (r"\.attn\.proj", ".attention.o_proj"),
        (r"^image_mlp", "head"),
        (r"^(image|text)_projection$", r"\1_projection.weight"),
        (r"^token_embedding", "text.embeddings.token_embedding"),
        (r"^positional_embedding", "text.embeddings.position_embedding.weight"),
        (r"^transformer\.resblocks", "text.encoder.layers"),
        (r"^ln_final", "text.final_layer_norm"),
        (r"\.attn\.out_proj", ".self_attn.out_proj"),
        (r"\.ln_", ".layer_norm"),
        (r"\.mlp\.c_fc", ".mlp.fc1"),
        (r"\.mlp\.c_proj", ".mlp.fc2"),
    ]
    for theirs, ours in rules:
        name = re.sub(theirs, ours, name)
    for fused, attention in ((".attn.qkv.", ".attention"), (".attn.in_proj_", ".self_attn")):
        if fused in name:
            return [name.replace(fused, f"{attention}.{letter}_proj.") for letter in "qkv"]
    return [name]


def test_the_loss_does_not_mind_the_references_order_of_rows() -> None:
    """By hand from the paper's equations 1 to 3, and by the kernel, over rows ordered by view."""
    model = begun("stablerep")
    images, _, prompt_ids = next(batches("stablerep"))
    by_group = model.head(model.encoder(images), VIEWS)
    by_view = by_group.view(CAPTIONS, VIEWS, -1).transpose(0, 1).flatten(0, 1)
    labels = prompt_ids.repeat(VIEWS)
    unit = F.normalize(by_view, dim=1)
    logits = (unit @ unit.T / 0.1).masked_fill(torch.eye(len(unit), dtype=torch.bool), -torch.inf)
    is_positive = labels[:, None].eq(labels) & ~torch.eye(len(unit), dtype=torch.bool)
    by_hand = -(logits.log_softmax(1).masked_fill(~is_positive, 0).sum(1) / is_positive.sum(1)).mean()
    torch.testing.assert_close(by_hand, golden("stablerep")["loss"][0], rtol=1e-7, atol=0)
    torch.testing.assert_close(multipos_loss(by_view, labels, temperature=0.1), by_hand)
