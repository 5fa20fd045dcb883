"""Real groups as the trainer asks for them: captions, digests, stand-ins, and what it says where it cannot."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from penstock.consumer.config import TrainConfig
from penstock.consumer.making_config import RealConfig
from penstock.consumer.prompts.mixed import MixedPrompts
from penstock.consumer.prompts.source import Prompt, PromptSource
from penstock.consumer.prompts.toyworld import ToyWorldPrompts
from penstock.consumer.prompts.writer import TicketWriter
from penstock.consumer.real_images import RealImages, open_real_images
from penstock.imagesets.opening import open_imageset
from penstock.protocol.errors import ConfigError
from penstock.protocol.tickets import group_seed, prompt_id
from penstock.toyworld.captions import DIGIT_WORDS
from tests.imagesets.files import write

CAPTIONS = [f"photo number {number}" for number in range(10)]
GENERATOR = "ab"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    for number in range(len(CAPTIONS)):
        write(folder / f"{number}.png", number)
    (folder / "captions.txt").write_text("".join(f"{number}.png\t{text}\n" for number, text in enumerate(CAPTIONS)))
    return folder


def _config(photos: Path, fraction: float, **real: Any) -> TrainConfig:
    return TrainConfig(seed=3, real=RealConfig(source=str(photos), fraction=fraction, **real))


def _open(config: TrainConfig) -> RealImages:
    real = open_real_images(config)
    assert real is not None
    return real


def _prompts(config: TrainConfig) -> PromptSource:
    generated, real = ToyWorldPrompts(config.seed), open_real_images(config)
    return MixedPrompts(generated, real.prompts, config.real.fraction, config.seed) if real else generated


def _writer(config: TrainConfig) -> TicketWriter:
    return TicketWriter(_prompts(config), config, GENERATOR)


def test_a_run_without_real_images_opens_no_set_and_says_when_one_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert open_real_images(TrainConfig()) is None
    assert not caplog.records
    assert open_real_images(TrainConfig(real=RealConfig(source="/nowhere"))) is None
    assert [record.getMessage() for record in caplog.records] == ["no image of /nowhere is used: real.fraction is 0"]


def test_real_tickets_name_the_set_and_its_captions_once_an_epoch(photos: Path) -> None:
    config = _config(photos, 0.5)
    digest = open_imageset(str(photos)).digest
    tickets = [_writer(config).write(index, 0, 0) for index in range(40)]
    real = [ticket for ticket in tickets if ticket.recipe.model_digest == digest]
    others = [ticket for ticket in tickets if ticket.recipe.model_digest == GENERATOR]
    assert (len(real), len(others)) == (20, 20)
    prompts = [ticket.recipe.prompt for ticket in real]
    assert sorted(prompts[:10]) == sorted(prompts[10:]) == sorted(CAPTIONS)
    assert prompts[:10] != prompts[10:]
    source = ToyWorldPrompts(config.seed)
    assert [ticket.recipe.prompt for ticket in others] == [source.prompt(ordinal).text for ordinal in range(20)]
    for ticket in tickets:
        assert ticket.recipe.seed == group_seed(3, prompt_id(ticket.recipe.prompt), ticket.index)


def test_a_stand_in_is_of_the_kind_of_its_ticket(photos: Path) -> None:
    writer = _writer(_config(photos, 0.5))
    for index in range(64):
        ticket = writer.write(index, 0, 0)
        for _ in range(3):
            stand_in = writer.stand_in(ticket)
            assert stand_in.recipe.model_digest == ticket.recipe.model_digest
            assert stand_in.recipe.seed != ticket.recipe.seed
            ticket = stand_in


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (1.0, 64)])
def test_none_and_all_are_exact(photos: Path, fraction: float, expected: int) -> None:
    writer = _writer(_config(photos, fraction))
    digests = Counter(writer.write(index, 0, 0).recipe.model_digest for index in range(64))
    assert 64 - digests[GENERATOR] == expected


def test_classes_of_a_set_are_the_concepts_of_its_captions(tmp_path: Path) -> None:
    for name in ("nine", "fox"):
        write(tmp_path / f"set/{name}/a.png", 1)
    config = _config(tmp_path / "set", 1.0)
    assert _prompts(config).concepts == ("fox", "nine")
    found = {_prompts(config).prompt(index) for index in range(20)}
    assert found == {Prompt("fox", 0), Prompt("nine", 1)}
    mixed = _prompts(_config(tmp_path / "set", 0.5))
    assert mixed.concepts == tuple(sorted({*DIGIT_WORDS, "fox"})), "equal names are one concept"
    for prompt in map(mixed.prompt, range(100)):
        assert mixed.concepts[prompt.concept] in prompt.text.split()


def test_without_concepts_of_either_kind_there_are_none(photos: Path) -> None:
    mixed = _prompts(_config(photos, 0.5))
    assert mixed.concepts == ()
    assert {mixed.prompt(index).concept for index in range(20)} == {-1}


def test_a_caption_of_two_classes_is_no_concept(photos: Path) -> None:
    (photos / "metadata.csv").write_text("file_name,text,label\n0.png,a pet,cat\n1.png,a pet,dog\n")
    assert _open(_config(photos, 1.0)).prompts.concepts == ()


def test_captions_that_no_ticket_can_carry_are_left_out_with_a_warning(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "captions.txt").write_text(f"0.png\ta fox\n1.png\t \n2.png\t{'x' * 9000}\n")
    with caplog.at_level(logging.WARNING):
        prompts = _open(_config(photos, 1.0)).prompts
    assert {prompts.prompt(index).text for index in range(20)} == {"a fox"}
    assert caplog.messages == ["my photos: 2 images have no caption, or one that is too long, and are left out"]


def test_a_set_without_captions_is_refused(photos: Path) -> None:
    (photos / "captions.txt").unlink()
    with pytest.raises(ConfigError, match=r"real.source: none of the 10 images of my photos has a caption or a class"):
        open_real_images(_config(photos, 1.0))


def test_what_lacks_is_said_with_the_command_that_starts_it(photos: Path) -> None:
    write(photos / "train/fox/a.png", 1)
    assert _open(_config(photos, 1.0, split="train")).lack == (
        f"no producer serves the real images of {photos} (train): "
        f"penstock produce --images '{photos}' --images-split train"
    )


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"fraction": 1.5, "source": "x"}, "real.fraction must be in"),
        ({"fraction": 0.5}, "real.source must name a set"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        RealConfig(**settings)
