"""Collating: one order of rows for pixels, labels and names, and one copy of the pixels."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from penstock.consumer.batch import Reader, collate
from penstock.consumer.group import Group
from penstock.consumer.reservoir import Use
from penstock.protocol.tickets import Manifest, Recipe, Ticket, prompt_id

MANIFEST = Manifest(
    model="m",
    model_digest="d" * 64,
    scheduler="s",
    dtype="float32",
    backend="eager",
    device="cpu",
    batch_images=4,
    versions={},
)

torch.set_num_threads(1)

RECIPE = Recipe(
    prompt="a red fox",
    seed=7,
    num_images=3,
    guidance_scales=(2.0,),
    num_inference_steps=8,
    scheduler="default",
    height=4,
    width=5,
    model_digest="d1",
)


def _use(index: int, prompt: str, echo: int = 0, shape: tuple[int, int, int] = (3, 4, 5)) -> Use:
    num_images, height, width = shape
    recipe = replace(RECIPE, prompt=prompt, num_images=num_images, height=height, width=width)
    pixels = np.random.default_rng(index).integers(0, 256, recipe.shape, dtype=np.uint8)
    pixels.flags.writeable = False
    return Use(Group(Ticket(index=index, rank=0, recipe=recipe), pixels, "ann", MANIFEST), echo)


def _all(uses: list[Use]) -> list[range]:
    return [range(len(use.group.images)) for use in uses]


def test_rows_are_in_one_order_for_pixels_labels_and_names() -> None:
    uses = [_use(9, "a dog", echo=2), _use(4, "a fox"), _use(7, "A  DOG", echo=1)]
    batch = collate(uses, _all(uses), pin_memory=False)
    assert batch.images.shape == (9, 4, 5, 3)
    assert batch.images.dtype == torch.uint8
    for row in range(9):
        group, image = divmod(row, 3)
        assert np.array_equal(batch.images[row].numpy(), uses[group].group.images[image])
    assert batch.indices == (9, 4, 7)
    assert batch.prompt_ids.tolist() == [prompt_id("a dog"), prompt_id("a fox"), prompt_id("a dog")]
    assert batch.echoes.tolist() == [2, 2, 2, 0, 0, 0, 1, 1, 1]
    assert batch.sample_ids.tolist() == [[1024 * index + image for image in range(3)] for index in (9, 4, 7)]
    named = (batch.prompt_ids, batch.sample_ids, batch.echoes, batch.concepts)
    assert {t.dtype for t in named} == {torch.int64}


def test_no_two_images_of_a_run_share_a_name() -> None:
    uses = [_use(index, "a fox", shape=(1024, 1, 1)) for index in (0, 1, 2, 3)]
    names = collate(uses, _all(uses), pin_memory=False).sample_ids
    assert names.shape == (4, 1024)
    assert len(set(names.flatten().tolist())) == 4 * 1024
    again = collate(uses[::-1], _all(uses), pin_memory=False).sample_ids
    assert torch.equal(again.flip(0), names), "a name does not depend on the row"


def test_labels_keep_all_63_bits() -> None:
    label = collate([_use(0, "a fox")], [range(3)], pin_memory=False).prompt_ids.item()
    assert label == prompt_id("a fox")
    assert label != int(float(label)), "this one would not survive a float"


def test_collating_copies_pixels_once_and_makes_no_other_array_of_them() -> None:
    uses = [_use(index, "a fox", shape=(4, 128, 128)) for index in range(8)]
    chosen = [[0, 2, 3]] * 8
    tracemalloc.start()
    try:
        batch = collate(uses, chosen, pin_memory=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The batch's own memory is traced; whatever comes to it would be a second copy.
    assert batch.images.numel() <= peak < batch.images.numel() + uses[0].group.images[0].nbytes // 2
    assert batch.images.is_contiguous()
    for position, use in enumerate(uses):
        assert np.array_equal(batch.images[3 * position : 3 * position + 3].numpy(), use.group.images[[0, 2, 3]])


def test_a_batch_on_its_own_device_is_not_copied() -> None:
    batch = collate([_use(0, "a fox")], [range(3)], pin_memory=False)
    moved = batch.to(torch.device("cpu"))
    assert moved.images.data_ptr() == batch.images.data_ptr()
    assert moved.indices == batch.indices


def test_a_reader_says_what_the_captions_are_and_in_the_order_of_the_groups() -> None:
    uses = [_use(9, "a dog"), _use(4, "a fox"), _use(7, "A  DOG")]
    asked: list[list[str]] = []

    def tokenize(prompts: Sequence[str]) -> torch.Tensor:
        asked.append(list(prompts))
        return torch.tensor([[len(prompt), 3] for prompt in prompts])

    batch = collate(
        uses, _all(uses), pin_memory=False, reader=Reader(lambda ticket: {9: 1, 4: 0, 7: 2}[ticket.index], tokenize)
    )
    assert batch.concepts.tolist() == [1, 0, 2]
    assert asked == [["a dog", "a fox", "A  DOG"]], "captions as they are written, in one call"
    assert batch.token_ids is not None
    assert batch.token_ids.tolist() == [[5, 3], [5, 3], [6, 3]]
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.concepts, batch.concepts)
    assert moved.token_ids is not None
    assert torch.equal(moved.token_ids, batch.token_ids)


def test_without_a_reader_nothing_is_said_of_the_captions() -> None:
    batch = collate([_use(0, "a fox"), _use(1, "a dog")], [range(3)] * 2, pin_memory=False)
    assert batch.concepts.tolist() == [-1, -1]
    assert batch.token_ids is None
    assert batch.to(torch.device("cpu")).token_ids is None


def test_names_are_of_the_images_that_were_chosen() -> None:
    uses = [_use(2, "a fox", shape=(5, 4, 5)), _use(3, "a dog", shape=(5, 4, 5))]
    batch = collate(uses, [[4, 0], [1, 3]], pin_memory=False)
    assert batch.sample_ids.tolist() == [[2 * 1024 + 4, 2 * 1024], [3 * 1024 + 1, 3 * 1024 + 3]]
