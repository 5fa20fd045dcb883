"""What images show against what prompts asked for, value by value, with intervals.

Images of one group share a prompt, so groups are what is sampled: intervals are percentiles of a bootstrap over groups
(Davison and Hinkley, "Bootstrap Methods", 1997, section 3.8), or Wilson's where all groups are alike and no resample
could differ. A value that few sampled groups name gets no verdict.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.evaluation.intervals import wilson
from penstock.deploy.audit_attributes import FREE

NUM_RESAMPLES = 2000
FEW_GROUPS = 10
"""A value that fewer sampled groups name is not judged: its interval would say more of luck than of the generator."""
MIN_EFFECT = 0.1
"""A ratio that is nearer to 1 is as asked, however sure."""
CONFIDENCE = 0.95

Verdict = Literal["over", "under", "as asked", "too few", "misread"]
"""`misread` where the scorer cannot be trusted with the attribute."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share or ratio with its interval; all None where there is nothing to estimate it from."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueShares:
    """One value of an attribute."""

    name: str
    prompt_groups: int
    """Groups of the whole run that name it."""
    prompt_uses: int
    """Uses of such."""
    prompt_share: float | None
    """Of the groups that name any value of the attribute."""
    prompt_share_by_uses: float | None
    sampled_groups: int
    """Groups that name it among those that were made again."""
    image_share: Estimate
    """Of the sampled images whose prompt names any value: those that show this one."""
    ratio: Estimate
    """`image_share` by the share of this value among the same groups' prompts; 1 is as asked."""
    agreement: Estimate
    """Of the sampled images whose prompt names this value: those that show it."""
    free_share: Estimate
    """Of the sampled images whose prompt leaves the attribute open: those that show it."""
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeShares:
    """One attribute."""

    name: str
    values: tuple[ValueShares, ...]
    naming_groups: int
    """Groups of the whole run that name one value."""
    free_groups: int
    """Groups that name none."""
    several_groups: int
    """Groups that name more than one; they count for none."""
    sampled_naming: int
    """Groups made again that name one value."""
    sampled_free: int
    agreement: Estimate
    """Of the sampled images whose prompt names a value: those that show it."""


def compare(
    name: str,
    values: tuple[str, ...],
    codes: NDArray[np.int16],
    groups: NDArray[np.int64],
    uses: NDArray[np.int64],
    sampled_codes: NDArray[np.int16],
    shown: NDArray[np.float64],
    *,
    seed: int,
) -> AttributeShares:
    """Compare prompts and images by one attribute of V values.

    Args:
        name, values: of the attribute.
        codes: int16 [G], what each group's prompt names.
        groups, uses: int64 [V], how many groups name each value, and uses of such.
        sampled_codes: int16 [n], as `codes` of the groups that were made again.
        shown: float64 [n, V], shares of each such group's images that show each value.
        seed: of the resamples.
    """
    named = sampled_codes >= 0
    asked = np.eye(len(values))[sampled_codes[named]]
    seen = shown[named]
    free = shown[sampled_codes == FREE]
    weights, free_weights = _resamples(len(seen), seed), _resamples(len(free), seed + 1)
    shares = _estimates(len(seen), seen.mean(0), weights @ seen) if len(seen) else None
    matching = asked * seen
    num_asked = asked.sum(0)
    rows = []
    for place, value in enumerate(values):
        asked_again, seen_again = weights @ asked[:, place], weights @ seen[:, place]
        # Both are means over the same groups, so a sample that has many of a value by luck has them on both sides.
        ratio = _ratio(seen[:, place].sum(), num_asked[place], seen_again, asked_again)
        rows.append(
            ValueShares(
                name=value,
                prompt_groups=int(groups[place]),
                prompt_uses=int(uses[place]),
                prompt_share=_share(groups[place], groups.sum()),
                prompt_share_by_uses=_share(uses[place], uses.sum()),
                sampled_groups=int(num_asked[place]),
                image_share=shares[place] if shares else Estimate(None, None, None),
                ratio=ratio,
                agreement=_part(matching[:, place].sum(), num_asked[place], weights @ matching[:, place], asked_again),
                free_share=_part(free[:, place].sum(), len(free), free_weights @ free[:, place], free_weights.sum(1)),
                verdict=_verdict(ratio, int(num_asked[place])),
            )
        )
    return AttributeShares(
        name=name,
        values=tuple(rows),
        naming_groups=int((codes >= 0).sum()),
        free_groups=int((codes == FREE).sum()),
        several_groups=int((codes < FREE).sum()),
        sampled_naming=len(seen),
        sampled_free=len(free),
        agreement=_part(matching.sum(), len(seen), weights @ matching.sum(1), weights.sum(1)),
    )


def _resamples(num: int, seed: int) -> NDArray[np.float64]:
    """How often each of `num` groups stands in each resample: float64 [NUM_RESAMPLES, num]."""
    if not num:
        return np.zeros((NUM_RESAMPLES, 0))
    rng = np.random.default_rng(seed)
    return rng.multinomial(num, np.full(num, 1 / num), NUM_RESAMPLES).astype(np.float64)


def _estimates(num: int, means: NDArray[np.float64], sums: NDArray[np.float64]) -> list[Estimate]:
    """Of shares float64 [V] of `num` groups, with their sums in the resamples: float64 [NUM_RESAMPLES, V]."""
    totals = sums.sum(1)
    return [_part(num * mean, num, sums[:, place], totals) for place, mean in enumerate(means.tolist())]


def _part(above: float, below: float, above_again: NDArray[np.float64], below_again: NDArray[np.float64]) -> Estimate:
    """A share of so many groups with its interval."""
    estimate = _ratio(above, below, above_again, below_again)
    if estimate.value is not None and round(estimate.value, 9) in (0.0, 1.0):
        return Estimate(estimate.value, *wilson(round(above), round(below), CONFIDENCE))
    return estimate


def _ratio(above: float, below: float, above_again: NDArray[np.float64], below_again: NDArray[np.float64]) -> Estimate:
    """A quotient with its interval. A resample without anything below says nothing."""
    if below == 0:
        return Estimate(None, None, None)
    usable = below_again > 0
    return _bounded(float(above / below), above_again[usable] / below_again[usable])


def _bounded(value: float, again: NDArray[np.float64]) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(again, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None


def _verdict(ratio: Estimate, num_groups: int) -> Verdict:
    if num_groups < FEW_GROUPS or ratio.low is None or ratio.high is None:
        return "too few"
    if ratio.value is None or abs(ratio.value - 1) < MIN_EFFECT or ratio.low <= 1 <= ratio.high:
        return "as asked"
    return "over" if ratio.low > 1 else "under"
