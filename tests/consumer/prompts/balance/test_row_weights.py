"""What captions weigh, by hand and by MetaCLIP's algorithm."""

from pathlib import Path

import numpy as np
import pytest

from penstock.consumer.prompts.balance.row_weights import read_targets, row_weights
from penstock.consumer.prompts.balance.tags import Tags
from penstock.protocol.errors import ConfigError

#: Nine captions of a, four of b, one of c, none of d, two of nothing.
TAGS = Tags(names=("a", "b", "c", "d"), codes=np.array([0] * 9 + [1] * 4 + [2] + [-1] * 2, dtype=np.int32))


def _shares(weights: np.ndarray) -> list[float]:
    return [float(weights[TAGS.codes == code].sum() / weights.sum()) for code in range(4)]


@pytest.mark.parametrize(
    ("mode", "shares"),
    [
        ("sqrt", [3 / 6, 2 / 6, 1 / 6, 0]),
        ("uniform", [1 / 3, 1 / 3, 1 / 3, 0]),
        ("counts", [5 / 8, 0, 3 / 8, 0]),
        # 4 of 9 captions' worth, all of 4, all of 1.
        ("metaclip", [4 / 9, 4 / 9, 1 / 9, 0]),
    ],
)
def test_concepts_get_their_share(mode: str, shares: list[float]) -> None:
    weights = row_weights(TAGS, mode, 4, {"a": 10, "c": 6, "elsewhere": 3})  # type: ignore[arg-type]
    assert _shares(weights) == pytest.approx(shares)
    assert np.all(weights[-2:] == 0), "captions without a concept are left out"
    assert len(set(weights[:9])) == 1


def test_metaclip_keeps_captions_of_several_concepts_as_its_algorithm_does() -> None:
    """Algorithm 1 of arXiv 2309.16671, run for many curations: a text is kept if any of its entries draws it."""
    entries = [[0], [0, 1], [1, 2], [], [0, 1, 2], [0], [0]]
    tags = Tags(
        names=("x", "y", "z"),
        codes=np.array([row[0] if row else -1 for row in entries], dtype=np.int32),
        starts=np.cumsum([0, *map(len, entries)]),
        all_codes=np.array([entry for row in entries for entry in row], dtype=np.int32),
    )
    count = 2
    entry_count = np.array([5, 3, 2])
    entry_prob = count / np.maximum(entry_count, count)
    rng = np.random.default_rng(0)
    num_curations = 20_000
    kept = [
        np.mean([(rng.random((num_curations, len(row))) < entry_prob[row]).any(axis=1)]) if row else 0.0
        for row in entries
    ]
    assert row_weights(tags, "metaclip", count) == pytest.approx(np.array(kept), abs=0.015)


def test_targets_are_read_by_normalised_name(tmp_path: Path) -> None:
    path = tmp_path / "counts.tsv"
    path.write_bytes(b"\xef\xbb\xbfHot  Dog\t3\r\n\r\ncat\t0.5\n")
    assert read_targets(path) == {"hot dog": 3.0, "cat": 0.5}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cat 3\n", r":1: want CONCEPT<tab>NUMBER, the number in \[0, 1e\+18\], got 'cat 3'"),
        ("cat\t3\ndog\t-1\n", ":2: want CONCEPT<tab>NUMBER"),
        ("cat\tmany\n", ":1: want CONCEPT<tab>NUMBER"),
        ("cat\tnan\n", ":1: want CONCEPT<tab>NUMBER"),
        ("cat\tinf\n", ":1: want CONCEPT<tab>NUMBER"),
        ("cat\t1e308\ndog\t1e308\n", ":1: want CONCEPT<tab>NUMBER"),
        ("\t3\n", ":1: want CONCEPT<tab>NUMBER"),
        ("cat\t3\nCAT\t4\n", ":2: 'CAT' stands twice"),
    ],
)
def test_bad_targets_are_named_by_line(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "counts.tsv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_targets(path)
    assert str(caught.value).startswith(f"prompts.balance_counts: {path}")
