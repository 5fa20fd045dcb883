"""What to do next, and what it should bring: worth more than the verdict itself."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from penstock.telemetry.profile.capacities import HOST, PRODUCERS, SYMBOLS, TRAINER, WIRE, Capacity
from penstock.telemetry.profile.caveats import narrow_window
from penstock.telemetry.profile.measurements import Measurements
from penstock.telemetry.profile.prediction import Prediction
from penstock.telemetry.profile.verdict import BALANCED_RATIO, BUSY, EXCEEDING, Verdict
from penstock.telemetry.profile.wording import counted, nbytes, per_s, times

MOST_AT_ONCE = 4
"""Times as many producers or ranks as there are, that a step asks for at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """Something to do."""

    text: str
    gain: float | None
    """Times as fast as the run was; None where it is not for speed."""
    images_per_s: float | None
    """What it should then reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """All that advice is made of."""

    measurements: Measurements
    rates: dict[str, float]
    reached: Capacity
    prediction: Prediction

    def other(self, *sides: str) -> tuple[str, float]:
        """The slowest side beside these, and its rate; infinite where no other was measured."""
        rest = ((side, rate) for side, rate in self.rates.items() if side not in sides)
        return min(rest, key=lambda pair: pair[1], default=(sides[0], math.inf))

    def outcome(self, bound: float) -> tuple[float, float]:
        """Gain and images/s where this is the smallest capacity."""
        images_per_s = bound * self.prediction.efficiency
        return images_per_s / self.reached.images_per_s, images_per_s


def advise(
    measurements: Measurements,
    parts: Sequence[Capacity],
    reached: Capacity | None,
    verdict: Verdict,
    prediction: Prediction | None,
) -> NextStep:
    """The next step."""
    if measurements.left or measurements.joined:
        text = "Profile again while no producer comes or goes: --min-producers waits for as many as there should be."
        return NextStep(text=text, gain=None, images_per_s=None)
    if verdict.kind == "not enough data" or reached is None or prediction is None:
        return NextStep(text="Measure longer: raise --seconds.", gain=None, images_per_s=None)
    if (window := narrow_window(measurements, verdict.sides)) is not None:
        asked, room = window
        text = f"Raise --stream.window-groups from {asked:,} to {room:,}, what its producers would hold; profile again."
        return NextStep(text=text, gain=None, images_per_s=None)
    rates = {part.side: part.images_per_s for part in parts}
    case = _Case(measurements=measurements, rates=rates, reached=reached, prediction=prediction)
    step = _step(case, verdict)
    if verdict.contradiction or reached.images_per_s > EXCEEDING * min(rates.values()):
        text = "First profile again, longer (--seconds) and with nothing else on these machines. "
        text += f"If it says the same: {step.text[0].lower()}{step.text[1:]}"
        return NextStep(text=text, gain=step.gain, images_per_s=step.images_per_s)
    return step


def _step(case: _Case, verdict: Verdict) -> NextStep:
    reached = case.reached
    is_crowded = reached.cores_busy is not None and reached.cores_busy >= BUSY
    if verdict.shortfall and is_crowded:
        return _own_cores(case, verdict)
    step = _of_sides(case, verdict.sides)
    besides = {PRODUCERS: _more_uses, TRAINER: _spare}.get(verdict.sides[0])
    if besides and len(verdict.sides) == 1 and (text := besides(case)):
        return replace(step, text=f"{step.text} {text}")
    return step


def _of_sides(case: _Case, sides: Sequence[str]) -> NextStep:
    """What moves the side that bounds, or both of a balanced run."""
    if len(sides) > 1:
        return _both(case, sides)
    advice: dict[str, Callable[[_Case], NextStep]] = {
        PRODUCERS: _more_producers,
        WIRE: _wider_wire,
        HOST: _faster_host,
        TRAINER: _more_ranks,
    }
    return advice[sides[0]](case)


def _own_cores(case: _Case, verdict: Verdict) -> NextStep:
    """First what takes the parts out of each other's way, then what moves the side that bounds them after that."""
    bound = min(case.rates.values())
    gain = bound / case.reached.images_per_s
    after = replace(
        case,
        reached=replace(case.reached, images_per_s=bound),
        prediction=replace(case.prediction, efficiency=1.0),
    )
    then = _of_sides(after, verdict.sides).text
    text = f"Give producers and trainer cores of their own: up to {times(gain)} as fast, {per_s(bound)}. "
    text += f"After that: {then[0].lower()}{then[1:]}"
    return NextStep(text=text, gain=gain, images_per_s=bound)


def _more_producers(case: _Case) -> NextStep:
    prediction, num = case.prediction, case.prediction.producers
    wanted = min(prediction.knee, MOST_AT_ONCE * num)
    images_per_s = prediction.at(wanted)
    gain = images_per_s / case.reached.images_per_s
    more = wanted - num
    where = _own("core" if any(each.is_local for each in case.measurements.makers) else "device", more)
    text = f"Add {counted(more, 'producer')} on {where}: {times(gain)} as fast, {per_s(images_per_s)}; "
    text += f"beyond {prediction.knee:,} the {_bounds(prediction.ceiling_side)}."
    return NextStep(text=text, gain=gain, images_per_s=images_per_s)


def _more_ranks(case: _Case) -> NextStep:
    ranks = case.measurements.world_size
    # Each rank has a host of its own, or at least cores of its own.
    side, rate = case.other(TRAINER, HOST)
    each = min(case.rates[TRAINER], case.rates.get(HOST, math.inf)) / ranks
    enough = math.ceil(rate / each - 1e-6)
    wanted = min(enough, MOST_AT_ONCE * ranks)
    gain, images_per_s = case.outcome(min(each * wanted, rate))
    more = wanted - ranks
    text = f"Add {counted(more, 'rank')} on {_own('device', more)}, or take a faster device: {times(gain)} as fast, "
    text += f"{per_s(images_per_s)}; beyond {counted(enough, 'rank')} the {_bounds(side)}."
    return NextStep(text=text, gain=gain, images_per_s=images_per_s)


def _wider_wire(case: _Case) -> NextStep:
    side, rate = case.other(WIRE)
    gain, images_per_s = case.outcome(rate)
    wire = case.measurements.wire
    carried = f" (it carried {nbytes(wire.nbytes / wire.seconds)}/s)" if wire and wire.nbytes and wire.seconds else ""
    text = f"Send less (producers' --codec jpeg) or take a faster link{carried}: at most {times(gain)} as fast, "
    text += f"{per_s(images_per_s)}, where the {_bounds(side)}."
    return NextStep(text=text, gain=gain, images_per_s=images_per_s)


def _faster_host(case: _Case) -> NextStep:
    side, rate = case.other(HOST)
    gain, images_per_s = case.outcome(rate)
    text = "Give the trainer's host faster cores or fewer other tasks, or divide its work among more ranks on other "
    text += f"hosts: at most {times(gain)} as fast, {per_s(images_per_s)}, where the {_bounds(side)}."
    return NextStep(text=text, gain=gain, images_per_s=images_per_s)


def _both(case: _Case, sides: Sequence[str]) -> NextStep:
    alone = max(case.rates[side] for side in sides) / min(case.rates[side] for side in sides)
    twice = 2 * min(case.rates[side] for side in sides)
    side, rate = case.other(*sides)
    gain, images_per_s = case.outcome(min(twice, rate))
    held = f" (then the {_bounds(side)})" if rate < twice else ""
    text = f"Add to both sides in step: twice the {sides[0]} and the {sides[1]} make it {times(gain)} as fast, "
    text += f"{per_s(images_per_s)}{held}; to one side alone brings {alone - 1:.0%} at most."
    return NextStep(text=text, gain=gain, images_per_s=images_per_s)


def _more_uses(case: _Case) -> str:
    """What else feeds a trainer whose producers bound the run."""
    uses = _uses(case, case.prediction.ceiling)
    if uses <= case.measurements.max_reuse:
        return ""
    flags = "--reservoir.policy fixed --reservoir.reuse" if case.measurements.policy == "fresh" else "--reservoir.reuse"
    return f"Or use each image {uses} times ({flags}): as fast, and less fresh."


def _spare(case: _Case) -> str:
    """What a trainer that bounds the run does not need."""
    needed, most = BALANCED_RATIO * case.rates[TRAINER], case.measurements.max_reuse
    uses, producers = _uses(case, needed), math.ceil(needed / case.prediction.images_per_s_each)
    spare = []
    if uses < most:
        spare.append(f"{counted(uses, 'use')} of each image instead of {most}, so fresher ones")
    if producers < case.prediction.producers:
        spare.append(f"{counted(producers, 'producer')} instead of {case.prediction.producers}")
    return f"To keep it fed, {', or '.join(spare)} would do." if spare else ""


def _uses(case: _Case, images_per_s: float) -> int:
    """Uses of a group with which the fleet feeds so many images/s."""
    uses_per_s = case.rates[PRODUCERS] / case.measurements.max_reuse
    return max(1, math.ceil(images_per_s / uses_per_s - 1e-6))


def _own(what: str, num: int) -> str:
    """`devices of their own`, `a core of its own`: who shares what is measured here is no faster than that."""
    return f"a {what} of its own" if num == 1 else f"{what}s of their own"


def _bounds(side: str) -> str:
    """`trainer bounds`, `producers bound`."""
    verb = "bound" if side == PRODUCERS else "bounds"
    return f"{side} {verb} ({SYMBOLS[side]})"
