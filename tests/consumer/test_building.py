"""From settings to what learns: what a configuration asks for is there, and what cannot be is one line."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetModel

from penstock.consumer import building
from penstock.consumer.building import build_adamw, build_network, build_schedule, build_tokenizer
from penstock.consumer.config import TrainConfig
from penstock.consumer.making_config import PromptsConfig
from penstock.consumer.network import Network
from penstock.consumer.prompts.opening import check_concepts, open_source
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.tokenizer import CaptionTokenizer
from penstock.protocol.errors import ConfigError
from tests.consumer.tiny_training import OBJECTIVES, tiny_config

torch.set_num_threads(1)


@pytest.fixture
def captions(tmp_path: Path) -> PromptSource:
    path = tmp_path / "captions.txt"
    path.write_text("fox\ta red fox\ndog\ta dog in snow\nfox\ta fox at night\n")
    return open_source(PromptsConfig(source=str(path)), 0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_network_has_the_towers_and_averages_that_are_asked_for(name: str, captions: PromptSource) -> None:
    config = tiny_config(name, ema_decay=0.9)
    tokenizer = build_tokenizer(config, captions)
    assert isinstance(tokenizer, CaptionTokenizer) is (name in ("clip", "stablerep+"))
    network = build_network(config, captions, tokenizer)
    assert (network.text_tower is not None) is (name in ("clip", "stablerep+"))
    assert (network.teacher is not None) is (name == "synclr")
    assert network.average is not None
    for average in (network.teacher, network.average):
        if average is not None:
            for mine, its in zip(average.module.parameters(), network.encoder.parameters(), strict=True):
                assert torch.equal(mine, its)
                assert mine is not its
    assert build_network(tiny_config(name), captions, tokenizer).average is None
    if tokenizer is not None:
        assert network.text_tower.config.vocab_size == tokenizer.vocab_size
        assert network.encode_texts(tokenizer(["a red fox", "a dog in snow"])).shape == (2, 16)


def test_supervised_learns_a_class_for_every_concept_of_the_captions(captions: PromptSource) -> None:
    network = build_network(tiny_config("supervised"), captions, None)
    assert network.objective.terms["classes"].classifier.out_features == 2
    toyworld = build_network(tiny_config("supervised"), open_source(PromptsConfig(), 0), None)
    assert toyworld.objective.terms["classes"].classifier.out_features == 10


@pytest.mark.parametrize(("text", "number"), [("a fox\na dog\n", 0), ("fox\ta fox\nfox\ta red fox\n", 1)])
def test_supervised_without_concepts_is_one_line_that_says_what_to_write(
    text: str, number: int, tmp_path: Path
) -> None:
    path = tmp_path / "captions.txt"
    path.write_text(text)
    config = replace(tiny_config("supervised"), prompts=PromptsConfig(source=str(path)))
    with pytest.raises(ConfigError) as caught:
        check_concepts(open_source(PromptsConfig(source=str(path)), 0), config)
    assert f"objective supervised needs prompts of at least 2 concepts, got {number}" in str(caught.value)
    assert f"write CONCEPT<tab>CAPTION in each line of {path}" in str(caught.value)
    assert str(caught.value).endswith("or choose another objective.name")
    assert "\n" not in str(caught.value)
    check_concepts(open_source(PromptsConfig(source=str(path)), 0), tiny_config("stablerep"))
    check_concepts(open_source(PromptsConfig(), 0), config)


def test_equal_seeds_give_equal_weights_and_the_average_costs_no_draw(captions: PromptSource) -> None:
    networks = []
    for ema_decay in (0.0, 0.9):
        torch.manual_seed(3)
        networks.append(build_network(tiny_config("stablerep", ema_decay=ema_decay), captions, None))
    for one, other in zip(*(network.encoder.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)


def test_the_optimizer_learns_all_but_the_averages(captions: PromptSource) -> None:
    config = tiny_config("synclr", ema_decay=0.9, weight_decay=0.3, betas=(0.8, 0.95))
    network = build_network(config, captions, None)
    optimizer = build_adamw(config, network)
    found = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    term = network.objective.terms["teacher"]
    learnt = {p for part in (network.encoder, term.projector, term.predictor) for p in part.parameters()}
    assert found == learnt
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)


@pytest.mark.parametrize(("warmup_steps", "max_steps", "used"), [(1000, 10, 2), (3, 100, 3), (5, 4, 0), (0, 50, 0)])
def test_warm_up_takes_at_most_a_fifth_of_the_run(warmup_steps: int, max_steps: int, used: int) -> None:
    config: TrainConfig = tiny_config("stablerep", warmup_steps=warmup_steps, max_steps=max_steps)
    schedule = build_schedule(config)
    assert schedule.warmup_steps == used
    # 6 groups of 3 images, at a rate that is told for 512.
    assert schedule.at(used) == pytest.approx(0.02 * 18 / 512)
    assert schedule.at(max_steps) == 0


def resnet() -> ResNetModel:
    """A small convolutional network, with BatchNorm and without blocks of a name that is known."""
    return ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic"))


def test_an_encoder_with_batchnorm_does_not_go_through_in_parts(
    captions: PromptSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part's statistics are not the batch's: the gradients would be those of another loss, and nobody would know."""
    monkeypatch.setattr(building, "build_vit", lambda config: resnet())
    with pytest.raises(ConfigError, match=r"^optimizer.grad_accum_steps must be 1 for .*BatchNorm.*, got 2$"):
        build_network(tiny_config("stablerep", grad_accum_steps=2), captions, None)


def test_layer_decay_without_layers_is_one_line() -> None:
    network = cast(Network, nn.ModuleDict({"encoder": resnet()}))
    with pytest.raises(ConfigError, match=r"^optimizer.layer_decay must be 1 for a tower without blocks, got 0.5; "):
        build_adamw(tiny_config("stablerep", layer_decay=0.5), network)
