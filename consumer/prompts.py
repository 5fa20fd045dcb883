"""Prompt sources, and the sampler that makes tickets of them.

A source is indexed, not iterated: the global index decides the prompt, so that any rank, any life of a run and any
producer agree on what stands where. Rank r of w owns the indices ≡ r (mod w).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
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
from penstock.toyworld.captions import DIGIT_WORDS, Captioner, digit_of

STAND_IN_STRIDE = 1 << 40
"""Indices between a group's recipe and that of its stand-in: more than a run has groups."""


class PromptSource(Protocol):
    """An endless, indexed source of captions."""

    @property
    def digest(self) -> str:
        """Changes where the captions do; a run is resumed only with the same."""

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of the classes that the captions belong to; none where they have no concepts."""

    def prompt(self, index: int) -> str:
        """The caption at global `index` >= 0: a pure function of the source, the seed and the index."""

    def concept(self, prompt: str) -> int:
        """The place in `concepts` of a caption of this source; -1 where it has none."""


class ToyWorldPrompts:
    """Captions of handwritten digits, drawn independently for each index."""

    def __init__(self, seed: int) -> None:
        self._captioner = Captioner(seed)
        self.digest = f"toyworld {seed}"
        self.concepts = DIGIT_WORDS

    def prompt(self, index: int) -> str:
        """The caption at `index`."""
        return self._captioner.prompt(index).text

    def concept(self, prompt: str) -> int:
        """The digit that the caption names."""
        return digit_of(prompt)


class CaptionList:
    """N given captions, in a new order every epoch.

    Args:
        captions: at least one.
        digest: of them.
        seed: decides the orders.
        concept_of: the name of every caption's concept, by `prompt_id`; empty where they have none.
    """

    def __init__(self, captions: Sequence[str], digest: str, seed: int, concept_of: Mapping[int, str]) -> None:
        self._captions = captions
        self.digest = digest
        self.concepts = tuple(sorted(set(concept_of.values())))
        self._concept_of = concept_of
        self._place = {name: place for place, name in enumerate(self.concepts)}
        self._seed = seed
        # Around the end of an epoch tickets of two are written in turn, and a stand-in is of a third.
        self._order = lru_cache(maxsize=3)(self._shuffle)

    def __contains__(self, prompt: str) -> bool:
        """Whether it is one of the captions that have a concept."""
        return prompt_id(prompt) in self._concept_of

    def prompt(self, index: int) -> str:
        """The caption at `index`; index // N is the epoch."""
        epoch, position = divmod(index, len(self._captions))
        return self._captions[int(self._order(epoch)[position])]

    def concept(self, prompt: str) -> int:
        """The place of the caption's concept; -1 where captions have none."""
        return self._place[self._concept_of[prompt_id(prompt)]] if self._concept_of else -1

    def _shuffle(self, epoch: int) -> NDArray[np.uint32]:
        """The order of an epoch: uint32 [N]."""
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._captions)).astype(np.uint32)


class TextFilePrompts(CaptionList):
    """Captions of a text file, one a line. A line may be CONCEPT<tab>CAPTION; then all are.

    Raises ConfigError where the file is missing, not UTF-8, has no caption or one that is too long, or where some lines
    have a concept and others none, or a caption two.
    """

    def __init__(self, path: Path, seed: int) -> None:
        try:
            # "utf-8-sig" drops the mark that some editors put first; the reader turns \r\n into \n.
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except OSError as error:
            raise ConfigError(f"prompts.source: cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"prompts.source: {path} is not UTF-8 at byte {error.start}") from error
        texts = [line.strip() for line in lines if line.strip()]
        for number, line in enumerate(lines, start=1):
            if len(line.strip().encode()) > MAX_PROMPT_BYTES:
                raise ConfigError(
                    f"prompts.source: {path}:{number}: the caption is longer than {MAX_PROMPT_BYTES} bytes"
                )
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
        captions, concept_of = _read_concepts(path, texts)
        if not captions:
            raise ConfigError(f"prompts.source: {path} has no captions; write one a line")
        super().__init__(captions, digest, seed, concept_of)


def _read_concepts(path: Path, texts: Sequence[str]) -> tuple[Sequence[str], dict[int, str]]:
    """Captions, and the concept of each by `prompt_id`; none where no line has one."""
    parts = [text.split("\t", 1) for text in texts]
    num_tagged = sum(len(part) == 2 for part in parts)
    if not num_tagged:
        return texts, {}
    if num_tagged < len(parts):
        bare = next(part[0] for part in parts if len(part) == 1)
        raise ConfigError(
            f"prompts.source: {path}: {num_tagged} of {len(parts)} lines are CONCEPT<tab>CAPTION, "
            f"{bare[:40]!r} is not; give all captions a concept, or none"
        )
    found: dict[int, str] = {}
    for concept, caption in ((concept.strip(), caption.strip()) for concept, caption in parts):
        # Spellings that share an id are one prompt to the losses, and so have one concept.
        first = found.setdefault(prompt_id(caption), concept)
        if first != concept:
            raise ConfigError(
                f"prompts.source: {path}: {caption[:40]!r} must have one concept, got {concept!r} and {first!r}"
            )
    return [caption.strip() for _, caption in parts], found


class MixedPrompts:
    """Captions of a run some of whose groups are real: of a prompt source, and of a set of real images.

    Args:
        generated: captions of what is generated.
        real: captions of the set; their digest is the set's.
        fraction: share of the groups that are real, above 0.
        seed: the run's.
    """

    def __init__(self, generated: PromptSource, real: CaptionList, fraction: float, seed: int) -> None:
        self._generated = generated
        self._real = real
        self._mixture = Mixture(fraction, seed)
        self.digest = generated.digest
        """Of the captions that are generated from; the real ones stand and fall with their set."""
        self.real_digest = real.digest
        if fraction == 1:
            self.concepts = real.concepts
        else:
            both = generated.concepts and real.concepts
            self.concepts = tuple(sorted({*generated.concepts, *real.concepts})) if both else ()
        self._place = {name: place for place, name in enumerate(self.concepts)}

    def is_real(self, index: int) -> bool:
        """Whether the group at global `index` is real; so are its stand-ins."""
        return self._mixture.place(index % STAND_IN_STRIDE).is_real

    def prompt(self, index: int) -> str:
        """The caption at `index`: the next of its kind."""
        place = self._mixture.place(index % STAND_IN_STRIDE)
        source = self._real if place.is_real else self._generated
        return source.prompt(place.ordinal + index // STAND_IN_STRIDE * STAND_IN_STRIDE)

    def concept(self, prompt: str) -> int:
        """The place of a caption's concept; -1 where not all captions have one. Equal names are one concept."""
        if not self.concepts:
            return -1
        source = self._real if prompt in self._real else self._generated
        return self._place[source.concepts[source.concept(prompt)]]


def open_source(source: str, seed: int) -> PromptSource:
    """The source that `prompts.source` names. Raises ConfigError where there is none."""
    return ToyWorldPrompts(seed) if source == "toyworld" else TextFilePrompts(Path(source), seed)


class TicketWriter:
    """Writes the ticket of any global index.

    Args:
        source: the run's captions.
        config: the run's.
        model_digest: of the generator; empty where every group is real.
    """

    def __init__(self, source: PromptSource, config: TrainConfig, model_digest: str) -> None:
        self._source = source
        self._generator: GeneratorConfig = config.generator
        self._seed = config.seed
        self._model_digest = model_digest

    def write(self, index: int, rank: int, need_by_step: int, stand_in: int = 0) -> Ticket:
        """The ticket for the group at global `index`, asked for by `rank`; its `stand_in`-th stand-in where not 0."""
        # A stand-in has prompt and seed of an index that no run reaches, so that it repeats no other group.
        source_index = index + stand_in * STAND_IN_STRIDE
        prompt = self._source.prompt(source_index)
        model_digest = self._model_digest
        if isinstance(self._source, MixedPrompts) and self._source.is_real(index):
            model_digest = self._source.real_digest
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
