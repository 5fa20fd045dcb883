"""Groups made again: the very bits, whatever company they are made in; and an honest word where they cannot be."""

from dataclasses import replace

import numpy as np
import pytest

from penstock.deploy import remaking
from penstock.deploy.remaking import Remaker
from penstock.deploy.remaking_engine import differences
from penstock.producer import model_folder
from penstock.producer.__main__ import open_engine
from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Engine, make
from penstock.protocol.errors import ConfigError
from penstock.protocol.image_codec import decode_jpegs, encode_images
from penstock.protocol.tickets import Ticket
from tests.deploy.recorded_run import RecordedGroup, paced_groups, recipe, record, toy_engine, toy_recipes

NUM = 4


@pytest.fixture(scope="module")
def engine() -> Engine:
    return toy_engine()


@pytest.fixture(scope="module")
def groups(engine: Engine) -> list[RecordedGroup]:
    return record(engine, toy_recipes(NUM, engine.manifest.model_digest), [""] * NUM)


def test_the_tiny_model_is_known_by_its_digest_and_makes_the_same_bits(
    engine: Engine, groups: list[RecordedGroup]
) -> None:
    with Remaker() as remaker:
        remade = list(remaker.remake(reversed(groups)))
    assert [each.group.index for each in remade] == [3, 2, 1, 0]
    assert [each.matches for each in remade] == [True] * NUM
    assert remaker.notes == []
    (images,) = make(engine, [Ticket(index=2, rank=0, recipe=groups[2].recipe)])
    np.testing.assert_array_equal(remade[1].images, images)


def test_chosen_candidates_are_made_and_no_others(engine: Engine, groups: list[RecordedGroup]) -> None:
    whole = replace(groups[0].recipe, num_images=6)
    (images,) = make(engine, [Ticket(index=0, rank=0, recipe=whole)])
    chosen = replace(groups[0], recipe=whole.choose([4, 1]), crc32=0)
    with Remaker() as remaker:
        (remade,) = remaker.remake([chosen])
    np.testing.assert_array_equal(remade.images, images[[4, 1]])


def test_jpegs_are_coded_anew_and_come_as_the_trainer_saw_them(engine: Engine, groups: list[RecordedGroup]) -> None:
    (coded_group,) = record(engine, [groups[1].recipe], [""], jpeg_quality=60)
    with Remaker() as remaker:
        (remade,) = remaker.remake([coded_group])
    (images,) = make(engine, [Ticket(index=1, rank=0, recipe=groups[1].recipe)])
    coded = encode_images(images, 60)
    assert remade.matches is True
    assert remade.images.tobytes() == bytes(decode_jpegs(coded.payload, coded.sizes, images.shape))
    assert not np.array_equal(remade.images, images)


def test_another_checksum_is_a_difference_and_none_is_none() -> None:
    first, second, third = paced_groups(3)
    with Remaker() as remaker:
        remade = list(remaker.remake([first, replace(second, crc32=second.crc32 ^ 1), replace(third, crc32=0)]))
    assert [each.matches for each in remade] == [True, False, None]


def test_where_the_engine_differs_one_line_says_what_and_other_bits_break_no_promise() -> None:
    first, second = paced_groups(2)
    other = replace(first.manifest, device="A100", versions={"torch": "0.1"})
    with Remaker() as remaker:
        remade = list(
            remaker.remake([replace(first, manifest=other), replace(second, manifest=other, crc32=second.crc32 ^ 1)])
        )
        list(remaker.remake([replace(first, manifest=other)]))
    assert [each.matches for each in remade] == [True, None]
    assert remaker.notes == [
        "the engine here is not the one that made these groups "
        "(device none, the ledger has A100; torch none, the ledger has 0.1): bits may differ"
    ]


def test_name_scorer_and_codec_are_no_difference() -> None:
    manifest = paced_groups(1)[0].manifest
    assert differences(manifest, replace(manifest, model="b", scorer="ab" * 32)) == []
    assert differences(manifest, replace(manifest, batch_images=5)) == ["batch_images 32, the ledger has 5"]


def test_a_window_is_made_at_a_time_by_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_counted(config: ProduceConfig) -> Engine:
        opened.append(config)
        return open_engine(config)

    monkeypatch.setattr("penstock.producer.__main__.open_engine", open_counted)
    monkeypatch.setattr(remaking, "_WINDOW_GROUPS", 3)
    groups = paced_groups(8)
    taken = []

    def watched() -> "list[RecordedGroup]":
        for group in groups:
            taken.append(group.index)
            yield group

    with Remaker() as remaker:
        made = remaker.remake(watched())
        assert next(made).group.index == 0
        assert taken == [0, 1, 2]
        assert [each.group.index for each in made] == [1, 2, 3, 4, 5, 6, 7]
    assert len(opened) == 1


def test_real_images_are_looked_up_again() -> None:
    engine = open_engine(ProduceConfig(images="toyworld", images_split="val"))
    engine.load()
    asked = replace(recipe("a handwritten four", 0, engine.manifest.model_digest), num_inference_steps=1)
    (group,) = record(engine, [asked], [""])
    with Remaker() as remaker:
        (remade,) = remaker.remake([group])
    assert remade.matches is True
    with Remaker(images="toyworld", images_split="test") as remaker, pytest.raises(ConfigError) as caught:
        list(remaker.remake([group]))
    assert str(caught.value).startswith("--images toyworld is another set: its digest is ")


def test_what_is_not_known_here_is_asked_for_in_one_line(tmp_path: object) -> None:
    (group,) = paced_groups(1)
    unknown = replace(group.manifest, backend="eager", model="/elsewhere/sd", model_digest="ab" * 32)
    with Remaker() as remaker, pytest.raises(ConfigError) as caught:
        list(remaker.remake([replace(group, manifest=unknown)]))
    assert str(caught.value) == (
        "the run's images were made by /elsewhere/sd (digest abababababab), "
        "which is not at that place here; say where it lies with --model"
    )
    with Remaker(model="tiny") as remaker, pytest.raises(ConfigError, match="--model tiny is another model"):
        list(remaker.remake([replace(group, manifest=unknown)]))
    for words in ({"model": "/nowhere"}, {"model": "tiny", "device": "cuda:99"}):
        told = replace(unknown, model_digest=model_folder.digest(model_folder.TINY))
        with Remaker(**words) as remaker, pytest.raises(ConfigError, match=r"no such folder|is not here"):
            list(remaker.remake([replace(group, manifest=told)]))
    real = replace(group.manifest, backend="images", model="photos/train")
    with Remaker() as remaker, pytest.raises(ConfigError, match="say where it lies with --images"):
        list(remaker.remake([replace(group, manifest=real)]))
