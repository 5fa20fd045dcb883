"""The image engine: which rows a ticket means, at which size, and what becomes of rows that cannot be used."""

import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from penstock.imagesets.opening import open_imageset
from penstock.producer.engine import Made, make
from penstock.producer.image_engine import ImageEngine
from penstock.protocol.errors import ModelError
from penstock.protocol.tickets import Kind, Ticket
from tests.producer.live_rank import LiveRank, RunningService
from tests.protocol.samples import RECIPE

COLOURS = {"fox": range(10, 20), "owl": range(100, 102)}
"""What each caption's images are filled with."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten foxes and two owls, one colour each, 12 x 10 pixels."""
    for name, colours in COLOURS.items():
        (tmp_path / "animals" / name).mkdir(parents=True)
        for colour in colours:
            Image.new("RGB", (12, 10), (colour,) * 3).save(tmp_path / f"animals/{name}/{colour}.png")
    return tmp_path / "animals"


def _engine(folder: Path) -> ImageEngine:
    engine = ImageEngine(open_imageset(str(folder)), num_threads=2)
    engine.load()
    return engine


def _ticket(engine: ImageEngine, prompt: str = "fox", seed: int = 1, **recipe: Any) -> Ticket:
    fields = {"num_images": 3, "height": 8, "width": 8, "model_digest": engine.manifest.model_digest} | recipe
    return Ticket(index=0, rank=0, recipe=replace(RECIPE, prompt=prompt, seed=seed, **fields))


def _colours(group: NDArray[np.uint8]) -> list[int]:
    assert all((image == image[0, 0, 0]).all() for image in group)
    return [int(image[0, 0, 0]) for image in group]


def _outcome(engine: ImageEngine, ticket: Ticket) -> Made:
    [made] = engine.generate([ticket])()
    return made


def test_its_manifest_names_the_set_as_the_others_name_their_model(folder: Path) -> None:
    manifest = _engine(folder).manifest
    assert manifest.kind is Kind.REAL
    assert manifest.model == "animals"
    assert manifest.model_digest == open_imageset(str(folder)).digest
    assert "pillow" in manifest.versions


def test_a_group_is_images_of_its_prompt_at_the_recipe_s_size(folder: Path) -> None:
    engine = _engine(folder)
    [group] = make(engine, [_ticket(engine, num_images=10, height=9, width=7)])
    assert group.shape == (10, 9, 7, 3)
    assert group.dtype == np.uint8
    assert sorted(_colours(group)) == list(COLOURS["fox"])
    assert engine.work.images == 10


def test_a_prompt_is_any_text_with_its_prompt_id(folder: Path) -> None:
    engine = _engine(folder)
    first, second = make(engine, [_ticket(engine, "fox"), _ticket(engine, "  FOX ")])
    np.testing.assert_array_equal(first, second)


def test_rows_are_a_function_of_the_seed_and_of_nothing_else(folder: Path) -> None:
    engine = _engine(folder)
    tickets = [_ticket(engine, seed=seed) for seed in range(200)]
    drawn = [_colours(group) for group in make(engine, tickets)]
    again = _engine(folder)
    assert [_colours(make(again, [ticket])[0]) for ticket in reversed(tickets)] == drawn[::-1]
    assert all(len(set(colours)) == 3 for colours in drawn), "an image stands in a group once while there are others"
    firsts = Counter(colours[0] for colours in drawn)
    assert set(firsts) == set(COLOURS["fox"])
    assert max(firsts.values()) < 45, "every row is as likely: 20 of 200, standard deviation 4.2"


def test_fewer_rows_than_places_stand_in_turn(folder: Path) -> None:
    engine = _engine(folder)
    [group] = make(engine, [_ticket(engine, "owl", num_images=5)])
    first, second = _colours(group)[:2]
    assert {first, second} == set(COLOURS["owl"])
    assert _colours(group) == [first, second, first, second, first]


def test_a_prompt_that_no_row_has_costs_its_own_ticket_only(folder: Path) -> None:
    engine = _engine(folder)
    good, bad = engine.generate([_ticket(engine), _ticket(engine, "a wolf")])()
    assert isinstance(good, np.ndarray)
    assert isinstance(bad, ModelError)
    assert str(bad) == "animals has no image whose caption is 'a wolf'"


def test_a_ticket_of_another_set_is_refused(folder: Path) -> None:
    engine = _engine(folder)
    made = _outcome(engine, _ticket(engine, model_digest="d1"))
    assert isinstance(made, ModelError)
    assert str(made) == "the ticket wants the images d1, animals are others"


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(b"no image"), lambda path: path.unlink()], ids=["broken", "gone"]
)
def test_the_next_row_takes_the_place_of_one_that_cannot_be_read(
    folder: Path, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    engine = _engine(folder)
    ticket = _ticket(engine, num_images=10)
    [whole] = make(engine, [ticket])
    order = _colours(whole)
    spoil(folder / f"fox/{order[1]}.png")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            [group] = make(engine, [_ticket(engine, num_images=4)])
            assert _colours(group) == [order[0], *order[2:5]]
    assert engine.num_broken == 1
    assert len(caplog.messages) == 1
    assert f"left out, 1 so far: animals: fox/{order[1]}.png: " in caplog.messages[0]


def test_a_black_image_is_left_out(folder: Path) -> None:
    Image.new("RGB", (12, 10)).save(folder / "owl/100.png")
    engine = _engine(folder)
    [group] = make(engine, [_ticket(engine, "owl", num_images=2)])
    assert _colours(group) == [101, 101]


def test_where_every_row_is_broken_the_ticket_cannot_be_made(folder: Path) -> None:
    engine = _engine(folder)
    for colour in COLOURS["owl"]:
        (folder / f"owl/{colour}.png").write_bytes(b"")
    made = _outcome(engine, _ticket(engine, "owl"))
    assert isinstance(made, ModelError)
    assert str(made) == "animals: none of the 2 images with caption 'owl' can be used"


def test_it_serves_a_rank_like_any_producer(folder: Path, open_rank: Callable[..., LiveRank]) -> None:
    engine = ImageEngine(open_imageset(str(folder)), batch_images=4)
    rank = open_rank(real_digest=engine.manifest.model_digest)
    service = RunningService(rank.socket.endpoint, engine, batch_wait_s=0.0)
    for index, prompt in enumerate(["fox", "owl", "wolf"]):
        rank.machine.plan(replace(_ticket(engine, prompt), index=index))
    rank.run_until(lambda: len(rank.delivered) == 2 and len(rank.quarantined) == 1)
    rank.say_bye()
    assert service.end() is None
    colours = _colours(np.frombuffer(rank.delivered[1].payload, np.uint8).reshape(3, 8, 8, 3))
    assert set(colours) == set(COLOURS["owl"])
    assert rank.quarantined[0].ticket.recipe.prompt == "wolf"


@pytest.mark.slow
def test_it_starts_without_torch(folder: Path) -> None:
    code = (
        "import sys; from penstock.producer.__main__ import open_engine; from penstock.producer.config import "
        f"ProduceConfig; import penstock.producer.service; open_engine(ProduceConfig(images={str(folder)!r})).load(); "
        "assert not {'torch', 'diffusers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
