"""Prompt sources, and the sampler that makes tickets of them.

A source is indexed, not iterated: the global index decides the prompt, so that any rank, any life of a run and any
producer agree on what stands where. Rank r of w owns the indices ≡ r (mod w).
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.config import GeneratorConfig, TrainConfig
from penstock.consumer.mixture import Mixture
from penstock.protocol.errors import ConfigError
from penstock.protocol.limits import MAX_PROMPT_BYTES
from penstock.protocol.tickets import Recipe, Ticket, group_seed, prompt_id
from penstock.toyworld.captions import Captioner

_STAND_IN_STRIDE = 1 << 40
"""Indices between a group's recipe and that of its stand-in: more than a run has groups."""


class PromptSource(Protocol):
    """An endless, indexed source of captions."""

    @property
    def digest(self) -> str:
        """Changes where the captions do; a run is resumed only with the same."""

    def prompt(self, index: int) -> str:
        """The caption at global `index` >= 0: a pure function of the source, the seed and the index."""


class ToyWorldPrompts:
    """Captions of handwritten digits, drawn independently for each index."""

    def __init__(self, seed: int) -> None:
        self._captioner = Captioner(seed)
        self.digest = f"toyworld {seed}"

    def prompt(self, index: int) -> str:
        """The caption at `index`."""
        return self._captioner.prompt(index).text


class CaptionList:
    """N given captions, in a new order every epoch.

    Args:
        captions: at least one.
        digest: of them.
        seed: decides the orders.
    """

    def __init__(self, captions: Sequence[str], digest: str, seed: int) -> None:
        self._captions = captions
        self.digest = digest
        self._seed = seed
        # Around the end of an epoch tickets of two are written in turn, and a stand-in is of a third.
        self._order = lru_cache(maxsize=3)(self._shuffle)

    def prompt(self, index: int) -> str:
        """The caption at `index`; index // N is the epoch."""
        epoch, position = divmod(index, len(self._captions))
        return self._captions[int(self._order(epoch)[position])]

    def _shuffle(self, epoch: int) -> NDArray[np.uint32]:
        """The order of an epoch: uint32 [N]."""
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._captions)).astype(np.uint32)


class TextFilePrompts(CaptionList):
    """Captions of a text file, one a line.

    Raises ConfigError where the file is missing, not UTF-8, has no caption or one that is too long.
    """

    def __init__(self, path: Path, seed: int) -> None:
        try:
            # "utf-8-sig" drops the mark that some editors put first; the reader turns \r\n into \n.
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except OSError as error:
            raise ConfigError(f"prompts.source: cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"prompts.source: {path} is not UTF-8 at byte {error.start}") from error
        captions = [line.strip() for line in lines if line.strip()]
        for number, line in enumerate(lines, start=1):
            if len(line.strip().encode()) > MAX_PROMPT_BYTES:
                raise ConfigError(
                    f"prompts.source: {path}:{number}: the caption is longer than {MAX_PROMPT_BYTES} bytes"
                )
        if not captions:
            raise ConfigError(f"prompts.source: {path} has no captions; write one a line")
        super().__init__(captions, hashlib.sha256("\n".join(captions).encode()).hexdigest(), seed)


def open_source(source: str, seed: int) -> PromptSource:
    """The source that `prompts.source` names. Raises ConfigError where there is none."""
    return ToyWorldPrompts(seed) if source == "toyworld" else TextFilePrompts(Path(source), seed)


class TicketWriter:
    """Writes the ticket of any global index.

    Args:
        source: captions of what is generated.
        config: the run's.
        model_digest: of the generator; empty where every group is real.
        real: captions of the set of real images, whose digest is theirs; None where no group is real.
    """

    def __init__(
        self, source: PromptSource, config: TrainConfig, model_digest: str, real: PromptSource | None = None
    ) -> None:
        self._source = source
        self._real = real
        self._mixture = Mixture(config.real.fraction if real else 0.0, config.seed)
        self._generator: GeneratorConfig = config.generator
        self._seed = config.seed
        self._model_digest = model_digest

    def write(self, index: int, rank: int, need_by_step: int, stand_in: int = 0) -> Ticket:
        """The ticket for the group at global `index`, asked for by `rank`; its `stand_in`-th stand-in where not 0."""
        # A stand-in has prompt and seed of an index that no run reaches, so that it repeats no other group.
        beyond = stand_in * _STAND_IN_STRIDE
        source_index = index + beyond
        place = self._mixture.place(index)
        source, model_digest = self._source, self._model_digest
        if place.is_real and self._real is not None:
            source, model_digest = self._real, self._real.digest
        prompt = source.prompt(place.ordinal + beyond)
        recipe = Recipe(
            prompt=prompt,
            seed=group_seed(self._seed, prompt_id(prompt), source_index),
            num_images=self._generator.images_per_group,
            guidance_scale=self._generator.guidance_scale,
            guidance_rescale=self._generator.guidance_rescale,
            guidance_start=self._generator.guidance_start,
            guidance_stop=self._generator.guidance_stop,
            num_inference_steps=self._generator.num_inference_steps,
            scheduler=self._generator.scheduler,
            native_height=self._generator.native_height,
            native_width=self._generator.native_width,
            height=self._generator.height,
            width=self._generator.width,
            model_digest=model_digest,
        )
        return Ticket(index=index, rank=rank, need_by_step=need_by_step, stand_in=stand_in, recipe=recipe)

    def stand_in(self, ticket: Ticket) -> Ticket:
        """What to ask for instead of a ticket that no producer can make: another recipe for the same place."""
        return self.write(ticket.index, ticket.rank, ticket.need_by_step, ticket.stand_in + 1)


def owned_indices(rank: int, world_size: int, start: int) -> Iterator[int]:
    """The indices >= `start` that `rank` owns, in order, without end."""
    index = start + (rank - start) % world_size
    while True:
        yield index
        index += world_size
