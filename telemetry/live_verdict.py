"""Which side bounds a run just now: the summary's question, asked while there is still time to act on the answer."""

from dataclasses import dataclass

from penstock.telemetry.summary import FED_FRACTION, STARVED_FRACTION, Verdict

MIN_S = 5.0
"""Seconds of the training loop that a verdict needs."""
MIN_STEPS = 5
"""Steps in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a rank has gone over the last minute, or since its first step where that is less."""

    seconds: float
    """That these figures are of; 0 before the first step."""
    steps: float
    """Optimizer steps in them."""
    data_wait: float
    """Share of the time that the training thread waited for its batch."""
    group_wait: float | None
    """Share of the time that whoever prepares batches waited for groups; None where nobody measures it."""
    made_per_s: float
    """Images that came."""
    trained_per_s: float
    """Images that were trained on."""
    reuse: float
    """Uses per image, since the beginning."""


def judge_now(pace: Pace) -> Verdict:
    """Say which side bounds the run now, on what evidence, and what to try."""
    if pace.seconds < MIN_S or pace.steps < MIN_STEPS:
        return Verdict("not enough data", "The first steps are being made.", "Wait for some seconds.")
    waited = pace.data_wait
    share = f"The trainer waits {waited:.0%} of its time for images"
    if waited >= STARVED_FRACTION:
        if pace.group_wait is not None and pace.group_wait < waited / 2:
            evidence = f"{share}, though they are here: batches are slow."
            return Verdict("host", evidence, "Give the trainer's host more or faster cores, or make smaller images.")
        step = "Add producers, or try --reservoir.policy adaptive"
        if waited < 1:
            step += f": at most {1 / (1 - waited):.1f} times as fast"
        return Verdict("producers", f"{share}; {_rate(pace.made_per_s)} come.", f"{step}.")
    if waited <= FED_FRACTION:
        step = "More producers will not help; a faster device or more ranks will."
        if pace.reuse >= 2:
            step += " A lower reuse may cost no time."
        return Verdict("trainer", f"{share}: they are there when it asks.", step)
    return Verdict("balanced", f"{share}: neither side waits much.", "To go faster, add to both sides.")


def _rate(images_per_s: float) -> str:
    return f"{images_per_s:,.0f} images/s" if images_per_s >= 10 else f"{images_per_s:.1f} images/s"
