"""How often each caption is to come, by the ways to balance concepts.

| mode      | the share of a concept                                                     |
| --------- | -------------------------------------------------------------------------- |
| `sqrt`    | as the square root of its captions                                         |
| `uniform` | equal                                                                      |
| `counts`  | as a file says                                                             |
| `metaclip`| captions weigh 1 − Π (1 − min(1, t / n)) over the concepts that they name, |
|           | each named by n captions: the chance that MetaCLIP's curation keeps them   |
|           | (Xu et al., "Demystifying CLIP Data", arXiv 2309.16671, algorithm 1)       |

In all but `metaclip` a caption counts for the concept that it is of, and the captions of a concept weigh the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.balance.tags import Tags
from penstock.protocol.errors import ConfigError
from penstock.protocol.tickets import normalise_prompt

Mode = Literal["sqrt", "uniform", "metaclip", "counts"]
_MAX_TARGET = 1e18


def row_weights(tags: Tags, mode: Mode, count: int, targets: Mapping[str, float] | None = None) -> NDArray[np.float64]:
    """What each caption weighs; one that is never to come weighs nothing.

    Args:
        tags: of N captions.
        mode: how to balance.
        count: t of `metaclip`: concepts of fewer captions are tail, and keep them all.
        targets: of `counts`: share of each concept by its normalised name, in any unit. Others get none.

    Returns:
        float64 [N], at least 0.
    """
    if mode == "metaclip":
        return _metaclip(tags, count)
    counts = tags.counts()
    if mode == "sqrt":
        shares = np.sqrt(counts.astype(np.float64))
    elif mode == "uniform":
        shares = np.ones(len(counts))
    else:
        shares = np.array([(targets or {}).get(normalise_prompt(name), 0.0) for name in tags.names])
    by_concept = np.divide(shares, counts, out=np.zeros(len(counts)), where=counts > 0)
    # Code -1, a caption without a concept, takes the zero at the end.
    weights: NDArray[np.float64] = np.append(by_concept, 0.0)[tags.codes]
    return weights


def _metaclip(tags: Tags, count: int) -> NDArray[np.float64]:
    counts = tags.counts_of_all()
    chances = np.minimum(1.0, count / np.maximum(counts, 1))
    if tags.starts is None or tags.all_codes is None:
        single: NDArray[np.float64] = np.append(chances, 0.0)[tags.codes]
        return single
    # A segment that is empty would take its neighbour's first: its caption names nothing and weighs nothing.
    named = tags.starts[1:] > tags.starts[:-1]
    missed = np.multiply.reduceat(1.0 - chances[tags.all_codes], tags.starts[:-1][named])
    weights = np.zeros(len(tags.codes))
    weights[named] = 1.0 - missed
    return weights


def read_targets(path: Path) -> dict[str, float]:
    """Shares by normalised name, of a file with CONCEPT<tab>NUMBER in each line.

    Raises ConfigError where the file cannot be read, or a line is none, or names a concept again.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"prompts.balance_counts: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts.balance_counts: {path} is not UTF-8 at byte {error.start}") from error
    targets: dict[str, float] = {}
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, number = line.rpartition("\t")
        concept = normalise_prompt(name)
        try:
            target = float(number)
        except ValueError:
            target = -1.0
        # Larger ones would add up to what no float holds.
        if not concept or not 0 <= target <= _MAX_TARGET:
            raise ConfigError(
                f"prompts.balance_counts: {path}:{place}: want CONCEPT<tab>NUMBER, the number in [0, {_MAX_TARGET:g}], "
                f"got {line.strip()[:40]!r}"
            )
        if concept in targets:
            raise ConfigError(f"prompts.balance_counts: {path}:{place}: {name.strip()[:40]!r} stands twice")
        targets[concept] = target
    return targets
