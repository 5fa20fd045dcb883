"""Guidance as data: which scale each image of a group has.

One for all; a draw for each image from a few, or from a range; or one that moves with the run. A high scale keeps to
the prompt, a low one leaves its images diverse; with several a group has some of both. The choice is a function of the
seed, the index and the image alone, so that a ticket written again, by whatever life of the run, asks for the same.
Random numbers are raw words of Philox, as in schedule.py.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np

from penstock.protocol.tickets import Require, check_scale

_PER_UNIT = 1000
"""Scales are multiples of 1/1000."""

Points = tuple[tuple[int, int], ...]
"""(step, thousandths of a scale), the steps ascending."""


def read_schedule(entries: Sequence[str], require: Require) -> Points:
    """The points that `STEP:SCALE` entries name; `require` refuses what breaks a rule."""
    points = []
    for entry in entries:
        step, colon, scale = entry.partition(":")
        is_point = bool(colon) and step.strip().isdecimal() and _is_number(scale)
        require(is_point, "guidance_schedule must have entries STEP:SCALE, such as 0:1.5", entry)
        check_scale("guidance_schedule", float(scale), require)
        points.append((int(step), round(float(scale) * _PER_UNIT)))
    steps = [step for step, _ in points]
    require(steps == sorted(set(steps)), "guidance_schedule must have ascending steps", tuple(entries))
    require(len(points) != 1, "guidance_schedule must have two entries or more; use guidance_scale", tuple(entries))
    return tuple(points)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def scale_at(points: Points, step: int) -> float:
    """The scale at a step: linear between two points, that of the nearest beyond them; to the nearest 1/1000."""
    after = bisect_right(points, step, key=lambda point: point[0])
    if after in (0, len(points)):
        return points[min(after, len(points) - 1)][1] / _PER_UNIT
    (begin, low), (end, high) = points[after - 1], points[after]
    # In whole numbers: a sum of floats might differ from machine to machine in what it is rounded to.
    weighed, steps = low * (end - step) + high * (step - begin), end - begin
    return (2 * weighed + steps) // (2 * steps) / _PER_UNIT


class Guidance:
    """The guidance scales of every group.

    Args:
        scale: of all images, where nothing else is given.
        scales: each image has one of these, drawn evenly.
        between: each image has one between these two, drawn evenly.
        schedule: the group has the one of the step at which it is first due.
        seed: the run's.
        num_images: of a group.
        first_due: the step at which the group at an index is first due.
    """

    def __init__(
        self,
        scale: float,
        scales: Sequence[float],
        between: tuple[float, float] | None,
        schedule: Points,
        *,
        seed: int,
        num_images: int,
        first_due: Callable[[int], int],
    ) -> None:
        self._scale = scale
        self._scales = tuple(scales)
        self._between = between and (round(between[0] * _PER_UNIT), round(between[1] * _PER_UNIT))
        self._schedule = schedule
        self._seed = seed
        self._num_images = num_images
        self._first_due = first_due

    def scales(self, index: int, drawn_by: int) -> tuple[float, ...]:
        """The scale of all images of the group at global `index`, length 1, or of each, length m.

        Args:
            index: says when the group is due.
            drawn_by: the index whose draws the group has: another than `index` for a stand-in.
        """
        if self._scales:
            return tuple(self._scales[word * len(self._scales) >> 64] for word in self._words(drawn_by))
        if self._between:
            low, high = self._between
            return tuple((low + (word * (high - low + 1) >> 64)) / _PER_UNIT for word in self._words(drawn_by))
        if self._schedule:
            return (scale_at(self._schedule, self._first_due(index)),)
        return (self._scale,)

    def _words(self, index: int) -> list[int]:
        """64 random bits for each image."""
        # The last word of the counter keeps these words apart from those that schedule.py draws.
        words = np.random.Philox(key=[self._seed, index], counter=[0, 0, 0, 2]).random_raw(self._num_images)
        drawn: list[int] = words.tolist()
        return drawn
