"""What the trained encoder is measured on: real handwriting that neither generator nor trainer has seen.

The bank holds validation scans and the queries are test scans, once drawn by the renderer in its wide poses
and once raw, merely enlarged. Every image carries the id of its scan, so that a disjoint bank is a fact and
not a promise.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from penstock.toyworld.render import Styles, enlarge, render_split, split_styles
from penstock.toyworld.scans import Split, load_split

BANK_REPEATS, QUERY_REPEATS = 4, 2
BANK_SEED, QUERY_SEED = 1, 2


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """images: uint8 [N, 32, 32, 3]; labels: int64 [N], digits; scan_ids: int64 [N], rows of `load_digits`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    scan_ids: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EvaluationSets:
    """Banks of validation scans and queries of test scans, rendered and raw."""

    bank: LabelledImages
    queries: LabelledImages
    raw_bank: LabelledImages
    raw_queries: LabelledImages


@cache
def evaluation_sets() -> EvaluationSets:
    """The four fixed sets: 4 renders of each val scan, 2 of each test scan, and both splits raw."""
    return EvaluationSets(
        bank=LabelledImages(*render_split("val", BANK_REPEATS, BANK_SEED)),
        queries=LabelledImages(*render_split("test", QUERY_REPEATS, QUERY_SEED)),
        raw_bank=_raw("val"),
        raw_queries=_raw("test"),
    )


def bank_styles() -> Styles:
    """In which inks, papers and poses the rendered bank is drawn, in its order."""
    return split_styles("val", BANK_REPEATS, BANK_SEED)


def query_styles() -> Styles:
    """In which inks, papers and poses the rendered queries are drawn, in their order."""
    return split_styles("test", QUERY_REPEATS, QUERY_SEED)


def _raw(split: Split) -> LabelledImages:
    scans = load_split(split)
    return LabelledImages(enlarge(split), scans.labels, scans.ids)
