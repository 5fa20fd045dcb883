"""Makes the images of a run again from its ledger, and holds them to the checksums that the ledger kept.

A ticket says all that an image is, so whoever has the generator has the run's images. Two engines with equal manifests
make equal bits; so the engine is opened as the producer's manifest says: weights, arithmetic, backend, shape of the
batch, threads. Where that cannot be had here (another GPU, another version of torch), one line says what differs; a
group whose checksum then differs breaks no promise, and is reported as one that cannot be held to it.

No part of this file loads torch before the first group is made.
"""

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from penstock.deploy.remaking_engine import EngineChoice, differences, find_engine
from penstock.protocol.checksum import crc32
from penstock.protocol.errors import ConfigError, ModelError, RunError
from penstock.protocol.image_codec import JPEG, decode_jpegs, encode_images
from penstock.protocol.tickets import Manifest, Ticket

if TYPE_CHECKING:
    from penstock.consumer.ledger_file import LedgerGroup
    from penstock.producer.config import ProduceConfig
    from penstock.producer.engine import Engine, Images

_log = logging.getLogger(__name__)

_WINDOW_GROUPS = 64
_WINDOW_BYTES = 256 << 20
"""Groups are sorted into batches within a window of so many, or of so many bytes of pixels, and come out in order."""
IMAGES_AT_A_TIME = 128
"""That whoever looks at them takes together."""
_MAX_ENGINES = 3
"""Engines that are kept open, those used last: a fleet of many kinds of GPU has as many manifests."""


@dataclass(frozen=True, slots=True)
class Remade:
    """A group, made again."""

    group: "LedgerGroup"
    images: NDArray[np.uint8]
    """uint8 [m, H, W, 3], as the trainer had them: where they came as JPEGs, decoded from such."""
    matches: bool | None
    """Whether their checksum is the stored one. None where none was stored, or where it differs and the engine here
    is not interchangeable with the one that made the group."""


class Remaker:
    """Remakes groups of any run. A context manager.

    Args:
        model: folder or hub id of the generator; empty where it is the shipped one, or lies where the manifest says.
        tiny_autoencoder: folder or hub id, where the producers decoded with a distilled autoencoder.
        images: the set of real images, as `penstock produce --images` takes it.
        images_split: its split.
        device: `auto` is the producers' own kind where it is here; else `cpu`, `cuda`, `cuda:N`.
    """

    def __init__(
        self,
        *,
        model: str = "",
        tiny_autoencoder: str = "",
        images: str = "",
        images_split: str = "",
        device: str = "auto",
    ) -> None:
        self._choice = EngineChoice(
            model=model, tiny_autoencoder=tiny_autoencoder, images=images, images_split=images_split, device=device
        )
        self._configs: dict[str, ProduceConfig] = {}
        """What remakes the groups of a manifest, by its digest."""
        self._engines: OrderedDict[ProduceConfig, Engine] = OrderedDict()
        """With their weights; the one used last is last."""
        self._lacks: dict[str, list[str]] = {}
        """By a manifest's digest what keeps the engine here from promising its bits."""
        self.notes: list[str] = []
        """What differs between engines here and those of the ledger, a line each; also logged once."""

    def remake(self, groups: "Iterable[LedgerGroup]") -> Iterator[Remade]:
        """The groups' images, in the order of the groups. Memory is bounded by a window of them.

        Raises:
            ConfigError: the generator or the set of images is not known here, is another, or does not load.
            RunError: a group cannot be made.
        """
        window: list[LedgerGroup] = []
        nbytes = 0
        for group in groups:
            window.append(group)
            nbytes += group.recipe.nbytes
            if len(window) >= _WINDOW_GROUPS or nbytes >= _WINDOW_BYTES:
                yield from self._remake_window(window)
                window, nbytes = [], 0
        yield from self._remake_window(window)

    def _remake_window(self, groups: "Sequence[LedgerGroup]") -> Iterator[Remade]:
        # Which groups are made together changes no bit, but batches that are full are fewer.
        companies: dict[tuple[str, Hashable], list[int]] = defaultdict(list)
        for place, group in enumerate(groups):
            engine = self._open(group.manifest)
            companies[group.manifest.digest, engine.company(_ticket(group))].append(place)
        done: dict[int, Remade] = {}
        due = 0
        for places in companies.values():
            for batch in _batches([groups[place] for place in places], places):
                made = self._make([groups[place] for place in batch])
                done |= {place: self._check(groups[place], images) for place, images in zip(batch, made, strict=True)}
                while due in done:
                    yield done.pop(due)
                    due += 1

    def _make(self, groups: "Sequence[LedgerGroup]") -> "Sequence[Images]":
        """One batch, waited for."""
        from penstock.producer.engine import make

        try:
            return make(self._open(groups[0].manifest), [_ticket(group) for group in groups])
        except ModelError as error:
            which = ", ".join(str(group.index) for group in groups)
            raise RunError(f"group {which} cannot be made again: {error}") from error

    def _check(self, group: "LedgerGroup", images: "Images") -> Remade:
        quality = _jpeg_quality(group.manifest)
        coded = encode_images(images, quality)
        if coded.codec == JPEG:
            shape = group.recipe.shape
            images = np.frombuffer(decode_jpegs(coded.payload, coded.sizes, shape), np.uint8).reshape(shape)
        if not group.crc32:
            return Remade(group, images, None)
        if crc32(coded.payload) == group.crc32:
            return Remade(group, images, True)
        return Remade(group, images, None if self._lacks[group.manifest.digest] else False)

    def _open(self, manifest: Manifest) -> "Engine":
        """The engine for a manifest, loaded. Raises ConfigError where there is none."""
        try:
            return self._find(manifest)
        except ModelError as error:
            # Not status 1, which says of a replay or an export that a checksum differs.
            raise ConfigError(str(error)) from error

    def _find(self, manifest: Manifest) -> "Engine":
        """As `_open`; raises ModelError too."""
        from penstock.producer.__main__ import open_engine

        digest = manifest.digest
        if digest not in self._configs:
            self._configs[digest] = find_engine(manifest, self._choice)
        config = self._configs[digest]
        if config not in self._engines:
            while len(self._engines) >= _MAX_ENGINES:
                self._engines.popitem(last=False)
            engine = open_engine(config)
            engine.load()
            self._engines[config] = engine
        self._engines.move_to_end(config)
        if digest not in self._lacks:
            self._lacks[digest] = differences(self._engines[config].manifest, manifest)
            self._note(self._lacks[digest])
        return self._engines[config]

    def _note(self, lacks: Sequence[str]) -> None:
        """Say once what differs."""
        note = f"the engine here is not the one that made these groups ({'; '.join(lacks)}): bits may differ"
        if lacks and note not in self.notes:
            self.notes.append(note)
            _log.warning("%s", note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._engines.clear()


def batches(remade: Iterable[Remade]) -> Iterator[list[Remade]]:
    """Groups of one size of image, about `IMAGES_AT_A_TIME` images at a time, in their order."""
    batch: list[Remade] = []
    for each in remade:
        is_full = sum(len(other.images) for other in batch) >= IMAGES_AT_A_TIME
        if batch and (is_full or each.images.shape[1:] != batch[0].images.shape[1:]):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def _ticket(group: "LedgerGroup") -> Ticket:
    """The request that the group answered, as far as its pixels depend on it."""
    return Ticket(index=group.index, rank=group.rank, stand_in=group.stand_in, recipe=group.recipe)


def _batches(groups: "Sequence[LedgerGroup]", places: Sequence[int]) -> Iterator[list[int]]:
    """The places of groups that fit into one batch of their engine, in order; one group always does."""
    batch: list[int] = []
    room = groups[0].manifest.batch_images
    filled = 0
    for group, place in zip(groups, places, strict=True):
        size = group.recipe.num_images
        if batch and filled + size > room:
            yield batch
            batch, filled = [], 0
        batch.append(place)
        filled += size
    yield batch


def _jpeg_quality(manifest: Manifest) -> int | None:
    """The quality at which the group's images travelled, or None where they came raw."""
    codec, _, quality = manifest.codec.partition("-")
    return int(quality) if codec == JPEG else None
