"""The alarm for collapse: a representation that tells images apart less and less, whatever its loss says.

Two looks in a row must agree before it warns, because one look soon after the start proves little, and it says once
that it warns and once that it is over. Its bounds come from what was measured on 32 x 32 handwriting: ViTs with random
weights (96 wide and 4 deep to 384 wide and 12 deep) have a RankMe of 4% to 9% of min(N, D) and a mean cosine of .975 to
.988; one that StableRep's loss trained for 600 steps has 45% and .59. A collapsed one tends to a RankMe of 1 and a
cosine of 1. So the alarm rings only for less than no training at all gives.
"""

from penstock.consumer.evaluation.rankme import Spread

MIN_RANK_SHARE = 0.02
"""RankMe below this share of min(N, D) is suspect: under half of what random weights give."""
MAX_MEAN_COSINE = 0.995
"""Features of different images more alike than this are suspect: their differences are a 14th of their length."""
LOOKS = 2
"""Suspect looks in a row that make an alarm."""


class CollapseAlarm:
    """Decides whether a run's features collapse. Pure: it is told what each look saw and answers what to say."""

    def __init__(self) -> None:
        self._suspect_looks = 0
        self._first_suspect_step = 0
        self._ringing = False

    @property
    def ringing(self) -> bool:
        """Whether the features have collapsed, as far as is known."""
        return self._ringing

    def saw(self, step: int, spread: Spread) -> str | None:
        """Take note of a look after `step` steps; the line to log now, or None."""
        reasons = _suspicions(spread)
        if not reasons:
            self._suspect_looks = 0
            if not self._ringing:
                return None
            self._ringing = False
            return f"the features have recovered at step {step}: {_shown(spread)}"
        if self._suspect_looks == 0:
            self._first_suspect_step = step
        self._suspect_looks += 1
        if self._ringing or self._suspect_looks < LOOKS:
            return None
        self._ringing = True
        return (
            f"the features have collapsed since step {self._first_suspect_step}: {' and '.join(reasons)}; images look "
            "alike to the encoder. Lower optimizer.base_lr, lengthen its warm-up, or raise objective.temperature"
        )


def _suspicions(spread: Spread) -> list[str]:
    reasons = []
    if spread.rankme < MIN_RANK_SHARE * spread.max_rank:
        reasons.append(f"RankMe is {spread.rankme:.1f} of {spread.max_rank}, below {MIN_RANK_SHARE:.0%}")
    if spread.mean_cosine > MAX_MEAN_COSINE:
        reasons.append(f"the mean cosine between images is {spread.mean_cosine:.4f}, above {MAX_MEAN_COSINE}")
    return reasons


def _shown(spread: Spread) -> str:
    return f"RankMe {spread.rankme:.1f} of {spread.max_rank}, mean cosine {spread.mean_cosine:.3f}"
