"""The whole network, its objectives and its teacher against the published code of StableRep and SynCLR.

A linear encoder and a token's embedding stand for the towers here as in the recorded runs; the text tower itself is
compared with the published one, two layers deep.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from penstock.consumer.average import Average
from penstock.consumer.learning_config import ModelConfig, ObjectiveConfig, TextConfig
from penstock.consumer.network import Network
from penstock.consumer.objectives import build_objective
from penstock.consumer.optimizer import CosineSchedule, build_optimizer
from penstock.consumer.terms import Targets
from penstock.consumer.text_tower import build_text_tower, encode_text
from tests.consumer.reference import CAPTIONS, NUM_VIEWS, STEPS, VIEWS, batches, golden

torch.set_num_threads(1)

NAMES = ["stablerep", "stablerep+", "simclr", "clip", "synclr"]
TEXT = TextConfig(hidden_size=10, num_layers=1, num_heads=1, out_size=6)


class Encoder(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(27, 12), nn.Tanh())

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=super().forward(pixel_values)[:, None])


class Words(nn.Embedding):
    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(pooler_output=super().forward(input_ids[:, 0]))


def build(name: str) -> Network:
    """The recorded run's network, in float64."""
    norm = {"head_norm": "layer", "head_norm_output": True} if name == "synclr" else {}
    model = ModelConfig(head_hidden_size=16, head_out_size=8, **norm)
    objective = build_objective(ObjectiveConfig(name=name), model, TEXT, 12, 0)
    encoder = Encoder()
    teacher = Average(encoder, 0.994, 1.0) if objective.has_teacher else None
    return Network(encoder, objective, Words(32, 10) if objective.reads_text else None, teacher).double()


def recorded(name: str, weight: str, *, at_end: bool) -> str:
    """The recorded name of one of the network's weights, at the run's start or end."""
    student, teacher = ("student", "teacher") if at_end else ("start", "start")
    value = "end" if at_end else "start"
    prefixes = {
        "objective.terms.image.head.": f"{value}/head.",
        "objective.terms.language.head.": f"{value}/",
        "objective.terms.teacher.projector.layers.": f"{student}/proj.mlp.",
        "objective.terms.teacher.predictor.layers.": f"{student}/pred.mlp.",
        "objective.terms.teacher.teacher_projector.module.layers.": f"{teacher}/proj.mlp.",
        "teacher.module.": f"{teacher}/backbone.",
        "text_tower.": f"{value}/text.",
        "encoder.": f"{student}/backbone." if name == "synclr" else f"{value}/encoder.",
    }
    ours = next(prefix for prefix in prefixes if weight.startswith(prefix))
    return prefixes[ours] + weight.removeprefix(ours)


@pytest.mark.parametrize("name", NAMES)
def test_five_steps_give_the_references_losses_and_weights(name: str) -> None:
    expected = golden(name)
    network = build(name)
    network.load_state_dict({weight: expected[recorded(name, weight, at_end=False)] for weight in network.state_dict()})
    optimizer = build_optimizer(network, weight_decay=0.1, betas=(0.9, 0.98))
    num_rows = CAPTIONS * NUM_VIEWS.get(name, VIEWS)
    base_lr = 0.01 * 512 / num_rows if name == "synclr" else 0.2
    schedule = CosineSchedule(base_lr=base_lr, images_per_step=num_rows, warmup_steps=2, max_steps=STEPS)
    losses = []
    for step, (images, words, prompt_ids) in enumerate(batches(name)):
        num_images = 1 if name == "simclr" else num_rows // CAPTIONS
        sample_ids = torch.arange(CAPTIONS * num_images).view(CAPTIONS, num_images)
        targets = Targets(prompt_ids, sample_ids, torch.zeros(CAPTIONS).long())
        loss = network(images, words[:, None] if network.text_tower else None, targets)["loss"]
        assert schedule.apply(optimizer, step) == pytest.approx(expected["lr"][step].item(), rel=1e-12)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        network.after_step(step / STEPS)
        losses.append(loss.item())
    # The reference divides by the number of positives in float32, which moves its losses by some 1e-8.
    assert losses == pytest.approx(expected["loss"].tolist(), rel=1e-6)
    for weight, value in network.state_dict().items():
        torch.testing.assert_close(
            value,
            expected[recorded(name, weight, at_end=True)],
            rtol=0,
            atol=1e-6,
            msg=lambda text, at=weight: f"{at}: {text}",
        )


def test_the_text_tower_computes_what_the_references_does() -> None:
    expected = golden("text")
    tokens = expected.pop("tokens")
    features = expected.pop("features").float()
    tower = build_text_tower(32, 31, hidden_size=16, num_layers=2, num_heads=2, max_tokens=9)
    tower.load_state_dict({name: value.float() for name, value in expected.items()})
    torch.testing.assert_close(encode_text(tower, tokens), features, rtol=1e-5, atol=1e-5)
