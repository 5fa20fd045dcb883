"""A ledger in memory, of groups that a real engine made: what the verbs on recorded runs are tried on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Self

import numpy as np
from numpy.typing import NDArray

from penstock.producer.__main__ import open_engine
from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Engine, make
from penstock.producer.paced_engine import MODEL_DIGEST
from penstock.protocol.checksum import crc32
from penstock.protocol.image_codec import encode_images
from penstock.protocol.tickets import Manifest, Recipe, Ticket, group_seed, prompt_id
from penstock.toyworld.captions import DIGIT_WORDS, Captioner


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedGroup:
    """As the ledger's reader gives it."""

    index: int
    recipe: Recipe
    manifest: Manifest
    crc32: int = 0
    rank: int = 0
    attempt: int = 0
    stand_in: int = 0
    num_made: int = 0
    producer: str = "local-0"
    concept: str = ""
    first_step: int = 0


@dataclass(frozen=True, slots=True)
class RecordedUse:
    """As the ledger's reader gives it."""

    group: RecordedGroup
    echo: int
    images: tuple[int, ...]


class RecordedLedger:
    """Groups in memory; step s uses those at `used[s]`, two images of each."""

    def __init__(self, groups: Sequence[RecordedGroup], used: Sequence[Sequence[int]]) -> None:
        self._groups = {group.index: group for group in groups}
        self._used = used
        self.num_groups = len(groups)
        self.steps = range(len(used))

    def groups(
        self, *, step: int | None = None, index: int | None = None, prompt: str | None = None
    ) -> Iterator[RecordedGroup]:
        for group in self._groups.values():
            is_used = step is None or group.index in self._used[step]
            if is_used and index in (None, group.index) and prompt in (None, group.recipe.prompt):
                yield group

    def use_counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        indices = np.array(sorted(self._groups), np.int64)
        used = np.concatenate([np.array(step, np.int64) for step in self._used])
        return indices, (indices[:, None] == used).sum(1)

    def uses(self, step: int) -> list[RecordedUse]:
        echo = [sum(index in earlier for earlier in self._used[:step]) for index in self._used[step]]
        return [
            RecordedUse(self._groups[index], times, (0, self._groups[index].recipe.num_images - 1))
            for index, times in zip(self._used[step], echo, strict=True)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def recipe(prompt: str, index: int, model_digest: str, num_images: int = 3) -> Recipe:
    return Recipe(
        prompt=prompt,
        seed=group_seed(0, prompt_id(prompt), index),
        num_images=num_images,
        guidance_scales=(2.5,),
        num_inference_steps=2,
        scheduler="default",
        height=32,
        width=32,
        model_digest=model_digest,
    )


def record(
    engine: Engine, recipes: Sequence[Recipe], concepts: Sequence[str], jpeg_quality: int | None = None
) -> list[RecordedGroup]:
    """Groups as a producer with this engine would have made and summed them, each in a batch of its own."""
    manifest = engine.manifest
    if jpeg_quality is not None:
        versions = manifest.versions | {"simplejpeg": version("simplejpeg")}
        manifest = replace(manifest, codec=f"jpeg-{jpeg_quality}", versions=versions)
    recorded = []
    for index, (asked, concept) in enumerate(zip(recipes, concepts, strict=True)):
        (images,) = make(engine, [Ticket(index=index, rank=0, recipe=asked)])
        checksum = crc32(encode_images(images, jpeg_quality).payload)
        recorded.append(RecordedGroup(index=index, recipe=asked, manifest=manifest, crc32=checksum, concept=concept))
    return recorded


def paced_groups(num: int, side: int = 32, num_images: int = 3) -> list[RecordedGroup]:
    """Groups of noise, which cost nothing; their prompts are the toy world's."""
    engine = open_engine(ProduceConfig(backend="paced", paced_images_per_s=1e9))
    captions = [Captioner(0).prompt(index) for index in range(num)]
    recipes = [
        replace(recipe(caption.text, index, MODEL_DIGEST, num_images), height=side, width=side)
        for index, caption in enumerate(captions)
    ]
    return record(engine, recipes, [DIGIT_WORDS[caption.digit] for caption in captions])


def toy_engine() -> Engine:
    """The shipped tiny model, loaded."""
    engine = open_engine(ProduceConfig(device="cpu", dtype="float32", batch_images=8, decode_images=4, threads=1))
    engine.load()
    return engine


def toy_recipes(num: int, model_digest: str) -> list[Recipe]:
    captions = Captioner(0)
    return [recipe(captions.prompt(index).text, index, model_digest) for index in range(num)]
