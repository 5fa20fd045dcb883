"""The denoising loop: many images, each with its own prompt, seed, guidance, scheduler and number of steps.

The denoiser is called at one batch shape, of `slots` rows. A step of an image takes one slot, or two where it is
guided: one with its prompt, one with the empty prompt. All images of a batch go step by step together; their slots are
put one after another and cut into calls, and only the last call of a step is padded. So guidance costs nothing where it
does not act, and an image that needs fewer steps makes room for the others. Images with the same scheduler and number
of steps share a schedule; mixed timesteps in one call are exact, because the denoiser takes a timestep for each row.

A ticket's company decides which slot an image has and what is beside it. With one batch shape neither changes a bit of
it (measured in tests/producer/test_stable_diffusion.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock.producer.backends.part import Call
from penstock.producer.guidance import Guidance, GuidedRows
from penstock.producer.schedules import Schedule, Schedules
from penstock.producer.text import Text

EMPTY = 0
"""Place of the empty prompt in a table of texts."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image to make."""

    seed: int
    text: int
    """Place of its prompt in the table of texts."""
    guidance: Guidance
    scheduler: str
    num_steps: int


@dataclass(slots=True)
class _Walk:
    """The rows that share a schedule, and how far they are."""

    schedule: Schedule
    rows: list[Row]
    generators: list[torch.Generator]
    latents: Tensor
    """float32 [n, C, h, w]."""
    places: Tensor
    """int64 [n]: where its rows stand in the batch; on the device."""
    timesteps: Tensor
    """float32 [calls], on the device, where they are sent once: a step must not wait for it."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which row has which slot, for as long as the same rows are guided."""

    rows: list[Tensor]
    """int64 [slots] for each call: of the rows that are walking."""
    conditions: list[tuple[Tensor, ...]]
    """For each call, what the denoiser is told beside sample and timestep."""
    guided: GuidedRows
    guided_places: Tensor | None
    """int64 [n]: which of the rows that are walking are guided; None for all."""
    num_active: int
    num_guided: int


class Denoiser:
    """Takes images from noise to latents.

    Args:
        call: the denoiser at its one shape: (sample, timestep, text states, further conditions) to a prediction.
        schedules: makes the schedules.
        slots: rows of every call.
        latent_shape: (C, h, w).
        device: where the denoiser is.
        dtype: what it takes samples and conditions in.
        time_ids: SDXL's sizes and crops, [6]; None where the model takes none.
        guidance_width: width of the embedding by which a distilled model is told its guidance (arXiv 2310.04378); 0
            where guidance takes the calls without a prompt.
    """

    def __init__(
        self,
        call: Call,
        schedules: Schedules,
        *,
        slots: int,
        latent_shape: tuple[int, int, int],
        device: torch.device,
        dtype: torch.dtype,
        time_ids: Tensor | None = None,
        guidance_width: int = 0,
    ) -> None:
        self._call = call
        self._schedules = schedules
        self._slots = slots
        self._latent_shape = latent_shape
        self._device = device
        self._dtype = dtype
        self._time_ids = time_ids
        self._guidance_width = guidance_width
        self.num_calls = 0
        """Calls of the denoiser so far."""

    def denoise(self, rows: Sequence[Row], texts: Text) -> Tensor:
        """Latents float32 [R, C, h, w] of R rows, in their order. Draws each row's noise from its own seed."""
        walks = self._begin(rows)
        plans: dict[tuple[object, ...], _Plan] = {}
        for number in range(max(walk.schedule.num_calls for walk in walks)):
            walking = [walk for walk in walks if number < walk.schedule.num_calls]
            active = [row for walk in walking for row in walk.rows]
            steered = [self._is_guided(row, number, walk.schedule) for walk in walking for row in walk.rows]
            key = (len(walking), tuple(steered))
            if key not in plans:
                plans[key] = self._plan(active, steered, texts)
            predictions = self._predict(walking, number, plans[key])
            self._step(walking, number, _combined(predictions, plans[key]))
        latents = torch.empty((len(rows), *self._latent_shape), device=self._device)
        for walk in walks:
            latents[walk.places] = walk.latents
        return latents

    def _begin(self, rows: Sequence[Row]) -> list[_Walk]:
        """The rows by schedule, the longest first, so that those that walk are always the first few."""
        shared: dict[tuple[str, int], list[int]] = {}
        for place, row in enumerate(rows):
            shared.setdefault((row.scheduler, row.num_steps), []).append(place)
        walks = []
        for (scheduler, num_steps), places in shared.items():
            schedule = self._schedules.open(scheduler, num_steps)
            # On the CPU, so that the noise is the same wherever the image is made.
            generators = [torch.Generator().manual_seed(rows[place].seed) for place in places]
            noise = torch.stack([torch.randn(self._latent_shape, generator=generator) for generator in generators])
            latents = noise.to(self._device) * schedule.initial_scale
            timesteps = torch.tensor(schedule.timesteps, device=self._device)
            at = torch.tensor(places, device=self._device)
            walks.append(_Walk(schedule, [rows[place] for place in places], generators, latents, at, timesteps))
        return sorted(walks, key=lambda walk: -walk.schedule.num_calls)

    def _is_guided(self, row: Row, call: int, schedule: Schedule) -> bool:
        return not self._guidance_width and row.guidance.acts(schedule.steps[call], row.num_steps)

    def _plan(self, active: Sequence[Row], steered: Sequence[bool], texts: Text) -> _Plan:
        """Slots for every active row with its prompt, then for the guided ones without."""
        without = [place for place, is_guided in enumerate(steered) if is_guided]
        places = [*range(len(active)), *without]
        prompts = [*(row.text for row in active), *[EMPTY] * len(without)]
        calls: list[Tensor] = []
        conditions = []
        for start in range(0, len(places), self._slots):
            here = slice(start, start + self._slots)
            padded = _padded(places[here], self._slots)
            told = torch.tensor(_padded(prompts[here], self._slots), device=self._device)
            calls.append(torch.tensor(padded, device=self._device))
            scales = [active[place].guidance.scale for place in padded]
            conditions.append(_conditions(texts, told, self._time_ids, scales, self._guidance_width, self._dtype))
        return _Plan(
            calls,
            conditions,
            GuidedRows([active[place].guidance for place in without], self._device),
            None if len(without) == len(active) else torch.tensor(without, dtype=torch.long, device=self._device),
            len(active),
            len(without),
        )

    def _predict(self, walking: Sequence[_Walk], number: int, plan: _Plan) -> Tensor:
        """What the denoiser says, float32 [jobs, C, h, w]; padding stands last."""
        seen = torch.cat([walk.schedule.scaled(walk.latents, number) for walk in walking]).to(self._dtype)
        timesteps = torch.cat([walk.timesteps[number].expand(len(walk.rows)) for walk in walking])
        predictions = []
        for rows, conditions in zip(plan.rows, plan.conditions, strict=True):
            prediction = self._call(seen[rows], timesteps[rows], *conditions)
            # A copy always: a captured graph writes its next answer over this one.
            predictions.append(prediction.to(torch.float32, copy=True))
        self.num_calls += len(plan.rows)
        return torch.cat(predictions)

    def _step(self, walking: Sequence[_Walk], number: int, predictions: Tensor) -> None:
        start = 0
        for walk in walking:
            end = start + len(walk.rows)
            walk.latents = walk.schedule.step(predictions[start:end], number, walk.latents, walk.generators)
            start = end


def _combined(predictions: Tensor, plan: _Plan) -> Tensor:
    """One prediction a row, float32 [R, C, h, w], of those for all slots."""
    with_prompt = predictions[: plan.num_active]
    if not plan.num_guided:
        return with_prompt
    without = predictions[plan.num_active : plan.num_active + plan.num_guided]
    if plan.guided_places is None:
        return plan.guided.mix(with_prompt, without)
    with_prompt[plan.guided_places] = plan.guided.mix(with_prompt[plan.guided_places], without)
    return with_prompt


def example_inputs(
    slots: int,
    latent_shape: tuple[int, int, int],
    texts: Text,
    time_ids: Tensor | None,
    guidance_width: int,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    """What a call of the denoiser is given, with noise for a sample and the empty prompt for a text.

    Args:
        slots: rows of every call.
        latent_shape: (C, h, w).
        texts: a table of at least the empty prompt.
        time_ids: as for `Denoiser`.
        guidance_width: as for `Denoiser`.
        dtype: of all but the timesteps.
    """
    device = texts.states.device
    noise = torch.randn((slots, *latent_shape), generator=torch.Generator().manual_seed(0))
    told = torch.full((slots,), EMPTY, device=device)
    return (
        noise.to(device, dtype),
        torch.linspace(1, 999, slots, device=device),
        *_conditions(texts, told, time_ids, [5.0] * slots, guidance_width, dtype),
    )


def _conditions(
    texts: Text, told: Tensor, time_ids: Tensor | None, scales: Sequence[float], guidance_width: int, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """What the denoiser is told beside sample and timestep, for rows whose texts stand at `told`, int64 [n]."""
    conditions = [texts.states[told].to(dtype)]
    if texts.pooled is not None and time_ids is not None:
        conditions += [texts.pooled[told].to(dtype), time_ids.to(dtype).expand(len(told), -1).contiguous()]
    if guidance_width:
        conditions.append(guidance_embedding(torch.tensor(scales, device=told.device), guidance_width).to(dtype))
    return tuple(conditions)


def guidance_embedding(scales: Tensor, width: int) -> Tensor:
    """What a guidance-distilled model is told: sines, then cosines of 1000·(w - 1), float32 [n, width].

    Latent consistency models, arXiv 2310.04378, section 4.2; frequencies as for timesteps, 10000^(-i / (width/2 - 1)).

    Args:
        scales: w, float32 [n].
        width: even.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=scales.device) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = (scales - 1)[:, None] * 1000.0 * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _padded(values: list[int], length: int) -> list[int]:
    return [*values, *[values[-1]] * (length - len(values))]
