"""The engine on a genuine, tiny pipeline: the ticket alone decides the pixels."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.producer.engine import Engine, make
from penstock.producer.pipeline_engine import PipelineEngine
from penstock.producer.stable_diffusion import StableDiffusionEngine
from penstock.protocol.errors import ModelError
from tests.producer.engine_bench import BATCH, config, equal, ticket

torch.set_num_threads(1)

KINDS = {"loop": StableDiffusionEngine, "pipeline": PipelineEngine}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(kind: str, pipeline_folder: Path) -> Engine:
    return _engine(kind, pipeline_folder)


def _engine(kind: str, folder: Path, **changes: Any) -> Engine:
    engine = KINDS[kind](config(folder, **changes))
    engine.load()
    return engine


def test_a_group_has_its_recipes_shape_and_type(engine: Engine) -> None:
    (group,) = make(engine, [ticket(engine, 0)])
    assert group.shape == (2, 16, 16, 3)
    assert group.dtype == np.uint8
    assert group.std() > 1, "a picture, not one flat colour"


def test_a_ticket_gives_equal_bits_alone_and_in_any_company_and_slot(engine: Engine) -> None:
    first, second = ticket(engine, 0), ticket(engine, 1)
    alone = [make(engine, [one])[0] for one in (first, second)]
    assert equal(make(engine, [first, second]), alone)
    assert equal(make(engine, [second, first])[::-1], alone)
    other = ticket(engine, 2, num_images=1)
    assert np.array_equal(make(engine, [other, first])[1], alone[0])


def test_a_ticket_gives_equal_bits_after_the_engine_is_loaded_anew(
    kind: str, engine: Engine, pipeline_folder: Path
) -> None:
    asked = ticket(engine, 0)
    again = _engine(kind, pipeline_folder)
    assert again.manifest == engine.manifest
    assert equal(make(engine, [asked]), make(again, [asked]))


def test_attempt_index_and_rank_change_no_pixel(engine: Engine) -> None:
    asked = ticket(engine, 0)
    moved = replace(asked, index=77, rank=3, attempt=2, need_by_step=9)
    assert equal(make(engine, [asked]), make(engine, [moved]))


def test_prompt_and_seed_and_image_number_change_the_pixels(engine: Engine) -> None:
    groups = make(engine, [ticket(engine, 0, prompt="a red fox")])
    groups += make(engine, [ticket(engine, 0, prompt="fox")])
    groups += make(engine, [ticket(engine, 0, prompt="a red fox", seed=5)])
    images = [image.tobytes() for group in groups for image in group]
    assert len(set(images)) == 6


@pytest.mark.parametrize("num_images", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 1])
def test_a_group_of_any_size_is_made_in_batches_of_one_shape(engine: Engine, num_images: int) -> None:
    (group,) = make(engine, [ticket(engine, 0, num_images=num_images)])
    (large,) = make(engine, [ticket(engine, 0, num_images=3 * BATCH)])
    assert group.shape == (num_images, 16, 16, 3)
    assert np.array_equal(group, large[:num_images]), "image i depends on its own seed alone"


def test_groups_of_different_sizes_are_cut_at_the_right_places(engine: Engine) -> None:
    tickets = [ticket(engine, index, num_images=size) for index, size in enumerate((1, 3, 2))]
    together = make(engine, tickets)
    assert equal(together, [make(engine, [one])[0] for one in tickets])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 32), (5, 7), (40, 40)])
def test_images_are_resized_to_the_recipe(engine: Engine, height: int, width: int) -> None:
    (native,) = make(engine, [ticket(engine, 0)])
    (resized,) = make(engine, [ticket(engine, 0, height=height, width=width)])
    assert resized.shape == (2, height, width, 3)
    assert resized.dtype == np.uint8
    # A resize keeps the mean colour; a crop or a wrong axis would not.
    assert np.allclose(native.mean((1, 2)), resized.mean((1, 2)), atol=6)


def test_a_shrunk_image_is_antialiased(engine: Engine) -> None:
    (native,) = make(engine, [ticket(engine, 0)])
    (half,) = make(engine, [ticket(engine, 0, height=8, width=8)])
    # The triangle filter of a halving, written out: weights 1 3 3 1 over four pixels in each direction.
    weights = np.array([1, 3, 3, 1]) / 8
    inner = native.astype(np.float64)[:, 1:15, 1:15]
    windows = np.lib.stride_tricks.sliding_window_view(inner, (4, 4), axis=(1, 2))[:, ::2, ::2]
    expected = np.einsum("nyxcij,i,j->nyxc", windows, weights, weights)
    assert np.abs(expected - half[:, 1:7, 1:7]).max() <= 1.5


def test_each_image_of_a_group_may_have_a_guidance_of_its_own(engine: Engine) -> None:
    several = ticket(engine, 0, num_images=3, guidance_scales=(4.0, 1.0, 2.5))
    (mixed,) = make(engine, [several])
    for place, scale in enumerate((4.0, 1.0, 2.5)):
        (same,) = make(engine, [ticket(engine, 0, num_images=3, guidance_scales=(scale,))])
        assert np.array_equal(mixed[place], same[place])
    other = ticket(engine, 1, num_images=3, guidance_scales=(1.0, 4.0, 1.0))
    alone = [make(engine, [one])[0] for one in (several, other)]
    assert equal(make(engine, [other, several])[::-1], alone)


def test_a_recipe_with_candidates_makes_those_images_bit_for_bit(engine: Engine) -> None:
    (four,) = make(engine, [ticket(engine, 0, num_images=4)])
    (chosen,) = make(engine, [ticket(engine, 0, num_images=2, candidates=(3, 1))])
    assert np.array_equal(chosen, four[[3, 1]])


def test_without_guidance_the_prompt_still_counts(engine: Engine) -> None:
    one = make(engine, [ticket(engine, 0, guidance_scales=(1.0,))])
    two = make(engine, [ticket(engine, 0, guidance_scales=(4.0,))])
    other = make(engine, [ticket(engine, 0, guidance_scales=(1.0,), prompt="fox")])
    assert not equal(one, two)
    assert not equal(one, other)


def test_the_scheduler_is_the_recipes_and_the_default_stays(engine: Engine) -> None:
    before = make(engine, [ticket(engine, 0)])
    euler = make(engine, [ticket(engine, 0, scheduler="EulerDiscreteScheduler")])
    named = make(engine, [ticket(engine, 0, scheduler="DDIMScheduler")])
    after = make(engine, [ticket(engine, 0)])
    assert equal(before, after)
    assert equal(before, named)
    assert not equal(before, euler)


def test_a_scheduler_that_adds_noise_draws_it_from_each_images_own_generator(
    engine: Engine,
) -> None:
    tickets = [ticket(engine, index, scheduler="EulerAncestralDiscreteScheduler") for index in range(2)]
    alone = [make(engine, [one])[0] for one in tickets]
    assert equal(make(engine, tickets[::-1])[::-1], alone)


@pytest.mark.parametrize("name", ["NoSuchScheduler", "UNet2DConditionModel", "SchedulerMixin", "__name__"])
def test_a_scheduler_that_is_none_is_refused_by_name(engine: Engine, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        make(engine, [ticket(engine, 0, scheduler=name)])
    assert repr(name) in str(caught.value)


def test_a_scheduler_that_does_not_suit_the_model_is_refused_by_name(engine: Engine) -> None:
    before = make(engine, [ticket(engine, 0)])
    with pytest.raises(ModelError, match="FlowMatchEulerDiscreteScheduler") as caught:
        make(engine, [ticket(engine, 0, scheduler="FlowMatchEulerDiscreteScheduler")])
    assert "\n" not in str(caught.value)
    assert equal(make(engine, [ticket(engine, 0)]), before), "the engine serves on"


def test_a_ticket_for_another_model_is_refused(engine: Engine) -> None:
    with pytest.raises(ModelError, match="aaaa"):
        make(engine, [ticket(engine, 0, model_digest="aaaa")])


def test_pixels_that_are_not_numbers_are_refused(kind: str, engine: Engine, pipeline_folder: Path) -> None:
    broken = _engine(kind, pipeline_folder)
    with torch.no_grad():
        next(iter(broken._pipeline.vae.decoder.parameters())).fill_(float("nan"))
    with pytest.raises(ModelError, match=r"not finite.*float32"):
        make(broken, [ticket(engine, 0)])


def test_the_manifest_says_what_makes_engines_interchangeable(kind: str, engine: Engine, pipeline_folder: Path) -> None:
    manifest = engine.manifest
    assert (manifest.scheduler, manifest.dtype, manifest.backend) == ("DDIMScheduler", "float32", "eager")
    assert manifest.batch_images == BATCH
    assert set(manifest.versions) >= {"torch", "diffusers", "transformers"}
    assert len(manifest.model_digest) == 64
    assert _engine(kind, pipeline_folder, dtype="bfloat16").manifest.dtype == "bfloat16"


def _broken(pipeline_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline_folder, tmp_path / "sd"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("unet/diffusion_pytorch_model.safetensors", None),
        ("unet/diffusion_pytorch_model.safetensors", b"not weights"),
        ("unet/config.json", None),
        ("unet/config.json", b"{"),
        ("unet/config.json", b'{"_class_name": "UNet2DConditionModel", "block_out_channels": [1]}'),
        ("model_index.json", b""),
        ("model_index.json", b"{}"),
        ("model_index.json", b'{"_class_name": "NoSuchPipeline"}'),
        ("tokenizer/tokenizer_config.json", b"{"),
        ("text_encoder/model.safetensors", b""),
        ("scheduler/scheduler_config.json", b"{"),
    ],
)
def test_a_broken_folder_is_one_line_that_names_it(
    kind: str, name: str, content: bytes | None, pipeline_folder: Path, tmp_path: Path
) -> None:
    folder = _broken(pipeline_folder, tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        _engine(kind, folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cpu:banana", ""])
def test_a_device_that_is_not_there_is_one_line(kind: str, device: str, pipeline_folder: Path) -> None:
    with pytest.raises(ModelError, match=f"device {device!r}") as caught:
        _engine(kind, pipeline_folder, device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("device is gone"), torch.OutOfMemoryError("out of memory")])
def test_a_device_that_fails_is_no_tickets_fault(
    kind: str, error: Exception, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine(kind, pipeline_folder)

    def fail(*inputs: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr(engine._pipeline.unet, "forward", fail)
    with pytest.raises(type(error), match=str(error)):
        make(engine, [ticket(engine, 0)])


def test_a_pipeline_that_may_pad_to_its_longest_prompt_makes_one_prompt_at_a_time(
    pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = _engine("pipeline", pipeline_folder)
    monkeypatch.setattr("penstock.producer.model_folder.pipeline_class", lambda folder: "SomeOtherPipeline")
    unknown = _engine("pipeline", pipeline_folder)
    one, same, other = (
        ticket(known, 0, prompt=text, seed=number) for number, text in enumerate(["fox", "fox", "a fox"])
    )
    assert known.company(one) == known.company(same) == known.company(other)
    assert unknown.company(one) == unknown.company(same) != unknown.company(other)


def test_a_long_path_keeps_its_end_as_a_name(kind: str, pipeline_folder: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    shutil.copytree(pipeline_folder, deep / "sd")
    name = _engine(kind, deep / "sd").manifest.model
    assert len(name) == 200
    assert str(deep / "sd").endswith(name)
