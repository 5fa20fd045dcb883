"""What is wrong with a group, and how what happens is counted in bounded memory."""

import zlib
from typing import Any

import pytest

from penstock.protocol.inspection import Tally, fault_of
from penstock.protocol.messages import Result
from tests.protocol.samples import NBYTES, PIXELS, a_ticket


def _fault(payload: bytes | None, **changes: Any) -> tuple[str, str] | None:
    crc32 = zlib.crc32(payload or b"")
    said: dict[str, Any] = {"index": 0, "attempt": 0, "shape": (2, 4, 5, 3), "crc32": crc32, "seconds": 0.1}
    return fault_of(a_ticket(0), Result(**said | changes), payload)


def test_a_group_as_it_was_asked_for_has_no_fault() -> None:
    assert _fault(PIXELS) is None
    assert _fault(b"\0" * 59 + b"\1" + b"\1" + b"\0" * 59) is None, "one pixel of each image is enough"


def test_a_memoryview_of_another_item_size_is_measured_in_bytes() -> None:
    pixels = memoryview(PIXELS).cast("I")
    result = Result(index=0, attempt=0, shape=(2, 4, 5, 3), crc32=zlib.crc32(PIXELS), seconds=0.1)
    assert fault_of(a_ticket(0), result, pixels) is None


@pytest.mark.parametrize(
    ("payload", "changes", "word", "says"),
    [
        (None, {}, "frame_count", "missing"),
        (PIXELS, {"shape": (2, 5, 4, 3)}, "shape", r"expected (2, 4, 5, 3), got (2, 5, 4, 3)"),
        (PIXELS[1:], {}, "size", f"needs {NBYTES} bytes, got {NBYTES - 1}"),
        (PIXELS, {"crc32": 1}, "checksum", "expected 0x00000001"),
        (bytes(NBYTES), {}, "blank", "image 0 of 2 is all black"),
        (b"\1" * (NBYTES // 2) + bytes(NBYTES // 2), {}, "blank", "image 1 of 2 is all black"),
    ],
)
def test_a_fault_is_a_word_and_a_sentence(payload: bytes | None, changes: dict[str, Any], word: str, says: str) -> None:
    fault = _fault(payload, **changes)
    assert fault is not None
    assert fault[0] == word
    assert says in fault[1]


def test_what_happens_is_counted_by_kind_and_by_who_did_it() -> None:
    tally = Tally()
    for key in (("stale", "ann"), ("stale", "bob"), ("size", "ann"), ("stale", "ann")):
        tally.counts_round(*key)
    assert tally.counts == {("stale", "ann"): 2, ("stale", "bob"): 1, ("size", "ann"): 1}


def test_one_two_four_eight_are_round_for_each_kind_and_each_who() -> None:
    tally = Tally()
    said = [tally.counts_round("stale", "ann") for _ in range(100)]
    assert {times: count for times, count in enumerate(said, 1) if count} == {n: n for n in (1, 2, 4, 8, 16, 32, 64)}
    assert tally.counts_round("stale", "bob") == 1
    assert tally.counts_round("size", "ann") == 1


def test_a_flood_of_names_takes_bounded_memory_and_loses_no_count() -> None:
    tally = Tally()
    tally.counts_round("stale", "ann")
    round_ones = sum(tally.counts_round("model", f"stranger {number}") > 0 for number in range(50_000))
    assert len(tally.counts) < 5000
    assert round_ones < 1100, "the names beyond the bound are counted, and thinned, as one"
    assert tally.counts.total() == 50_001
    tally.counts_round("stale", "ann")
    assert tally.counts["stale", "ann"] == 2, "who was counted apart still is"
