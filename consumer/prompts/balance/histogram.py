"""Says in a few lines how concepts are spread: as the captions hold them, and as they are to come."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NAMED = 3
"""Concepts that a line names."""


def describe(names: Sequence[str], natural: NDArray[np.int64], target: NDArray[np.float64] | None) -> tuple[str, ...]:
    """Lines for the log.

    Args:
        names: of C concepts.
        natural: int64 [C], captions of each; some have any.
        target: float64 [C], how often each is to come, in any unit; None where as the captions hold them.
    """
    order = np.argsort(-natural, kind="stable")
    order = order[natural[order] > 0]
    num_head = (len(order) + 1) // 2
    head, tail = order[:num_head], order[num_head:]
    missing = len(names) - len(order)
    whose = f"captions of {len(order):,} concepts{f' ({missing:,} more have none)' if missing else ''}"
    if natural[order[0]] == natural[order[-1]]:
        lines = [f"{whose}, {natural[order[0]]:,} each"]
    else:
        rarer = f"{natural[tail].sum() / natural.sum():.2%} of the captions"
        lines = [
            f"{whose}: most of {_list(names, natural, order)}; fewest of {_list(names, natural, order[::-1])}",
            f"the rarer half of the concepts, {len(tail):,}, has {rarer}",
        ]
    if target is not None:
        # Rounded, so that equal shares stay in the captions' order whatever their last bits.
        share = np.round(target / target.sum(), 9)
        if len(lines) > 1:
            lines[1] += f", and gets {share[tail].sum():.2%} of the prompts; the rest {share[head].sum():.2%}"
        reached = order[target[order] > 0]
        rising = reached[np.argsort(share[reached], kind="stable")]
        falling = reached[np.argsort(-share[reached], kind="stable")]
        if share[rising[0]] == share[rising[-1]]:
            spread = f"each of {len(reached):,} concepts gets {share[rising[0]]:.2%} of the prompts"
        else:
            spread = f"most of the prompts get {_list(names, share, falling)}; fewest {_list(names, share, rising)}"
        never = len(order) - len(reached)
        lines.append(spread + (f"; {never:,} concepts that have captions never come" if never else ""))
    return tuple(lines)


def _list(names: Sequence[str], values: NDArray[np.int64] | NDArray[np.float64], order: NDArray[np.int64]) -> str:
    """The first of an order with their values: counts, or shares."""
    shown = (f"{values[place]:,}" if values.dtype.kind == "i" else f"{values[place]:.2%}" for place in order[:_NAMED])
    return ", ".join(f"{names[place]!r} {value}" for place, value in zip(order[:_NAMED], shown, strict=True))
