"""What is wrong with a group, and how what happens is counted in bounded memory."""

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.protocol.actions import Buffer
from penstock.protocol.inspection import Flaw, Pixels, Tally, inspect
from penstock.protocol.messages import Result
from penstock.protocol.tickets import Manifest, Ticket
from tests.protocol.pictures import claiming, from_jpeg, group, to_jpeg
from tests.protocol.samples import MANIFEST, NBYTES, PIXELS, a_ticket

TICKET = a_ticket(0)
LARGE = a_ticket(0, height=48, width=64)
LOSSY = replace(MANIFEST, codec="jpeg-92")
JPEGS = tuple(to_jpeg(image) for image in group(2, 48, 64))


def _inspect(
    payload: Buffer | None, *, ticket: Ticket = TICKET, manifest: Manifest = MANIFEST, **changes: Any
) -> Pixels | Flaw:
    said: dict[str, Any] = {"index": 0, "attempt": 0, "crc32": zlib.crc32(payload or b""), "seconds": 0.1}
    return inspect(ticket, manifest, Result(**said | {"shape": ticket.recipe.shape} | changes), payload)


def _inspect_jpegs(*jpegs: bytes, manifest: Manifest = LOSSY, **changes: Any) -> Pixels | Flaw:
    said = {"codec": "jpeg", "sizes": tuple(map(len, jpegs))}
    return _inspect(b"".join(jpegs), ticket=LARGE, manifest=manifest, **said | changes)


# --- raw --------------------------------------------------------------------------------------------------------------


def test_a_group_as_it_was_asked_for_is_good() -> None:
    assert _inspect(PIXELS) == Pixels(bytearray(PIXELS), NBYTES)
    one_pixel_of_each = b"\0" * 59 + b"\1" + b"\1" + b"\0" * 59
    assert isinstance(_inspect(one_pixel_of_each), Pixels)


FILTERED = a_ticket(0, scorer_digest="5c", num_candidates=3, max_candidates=6, min_score=0.5)


@pytest.mark.parametrize(
    ("candidates", "num_made", "num_unsatisfied"), [((0, 1), 3, 0), ((0, 5), 6, 0), ((4, 5), 6, 2), ((1, 2), 3, 0)]
)
def test_candidates_that_a_filter_can_have_chosen_are_taken(
    candidates: tuple[int, ...], num_made: int, num_unsatisfied: int
) -> None:
    choice = {"candidates": candidates, "num_made": num_made, "num_unsatisfied": num_unsatisfied}
    assert isinstance(_inspect(PIXELS, ticket=FILTERED, **choice), Pixels)


@pytest.mark.parametrize(
    ("ticket", "choice", "says"),
    [
        (FILTERED, {}, "expected 3 to 6 to be made, got 0"),
        (FILTERED, {"candidates": (0, 1), "num_made": 2}, "expected 3 to 6 to be made, got 2"),
        (FILTERED, {"candidates": (0, 1), "num_made": 7}, "expected 3 to 6 to be made, got 7"),
        (FILTERED, {"num_made": 3}, "expected 2 candidates, got 0"),
        (FILTERED, {"candidates": (0, 1, 2), "num_made": 3}, "expected 2 candidates, got 3"),
        (FILTERED, {"candidates": (1, 0), "num_made": 3}, "expected ascending numbers below the 3 made, got (1, 0)"),
        (FILTERED, {"candidates": (0, 3), "num_made": 3}, "expected ascending numbers below the 3 made, got (0, 3)"),
        (
            FILTERED,
            {"candidates": (0, 1), "num_made": 5, "num_unsatisfied": 1},
            "expected at most 0 unsatisfied of 5 made, got 1",
        ),
        (
            FILTERED,
            {"candidates": (0, 1), "num_made": 6, "num_unsatisfied": 3},
            "expected at most 2 unsatisfied of 6 made, got 3",
        ),
        (TICKET, {"candidates": (0, 1)}, "no filter was asked for, got 2 of 0 candidates, 0 unsatisfied"),
        (TICKET, {"num_made": 2}, "no filter was asked for"),
        (TICKET, {"num_unsatisfied": 1}, "no filter was asked for"),
        (a_ticket(0, candidates=(3, 1)), {"candidates": (3, 1), "num_made": 4}, "no filter was asked for"),
    ],
)
def test_what_no_filter_can_have_chosen_is_a_flaw(ticket: Ticket, choice: dict[str, Any], says: str) -> None:
    flaw = _inspect(PIXELS, ticket=ticket, **choice)
    assert isinstance(flaw, Flaw)
    assert flaw.word == "candidates"
    assert says in flaw.what


def test_a_memoryview_of_another_item_size_is_measured_in_bytes() -> None:
    assert isinstance(_inspect(memoryview(PIXELS).cast("I")), Pixels)


@pytest.mark.parametrize(
    ("payload", "changes", "word", "says"),
    [
        (None, {}, "frame_count", "missing"),
        (PIXELS, {"shape": (2, 5, 4, 3)}, "shape", r"expected (2, 4, 5, 3), got (2, 5, 4, 3)"),
        (PIXELS[1:], {}, "size", f"needs {NBYTES} bytes, got {NBYTES - 1}"),
        (PIXELS, {"sizes": (60, 60)}, "size", "got 120 and 2 sizes"),
        (PIXELS, {"crc32": 1}, "checksum", "expected 0x00000001"),
        (bytes(NBYTES), {}, "blank", "image 0 of 2 is all black"),
        (b"\1" * (NBYTES // 2) + bytes(NBYTES // 2), {}, "blank", "image 1 of 2 is all black"),
    ],
)
def test_a_flaw_is_a_word_and_a_sentence(payload: bytes | None, changes: dict[str, Any], word: str, says: str) -> None:
    flaw = _inspect(payload, **changes)
    assert isinstance(flaw, Flaw)
    assert flaw.word == word
    assert says in flaw.what


@pytest.mark.parametrize("at", [0, 1, 4_999, 9_215])
def test_one_byte_anywhere_keeps_an_image_from_being_blank(at: int) -> None:
    """A glance at some bytes may see only zeros; then all are looked at."""
    images = np.zeros((2, 48 * 64 * 3), np.uint8)
    images[0, at] = images[1, 9_215 - at] = 1
    assert isinstance(_inspect(images.tobytes(), ticket=LARGE), Pixels)
    images[1] = 0
    assert _inspect(images.tobytes(), ticket=LARGE) == Flaw("blank", "image 1 of 2 is all black")


@pytest.mark.parametrize(("height", "is_view"), [(2730, False), (2731, True)])
def test_only_what_could_share_libzmq_s_buffer_is_copied(height: int, is_view: bool) -> None:
    """One image of H × 1 pixels: 2,730 are 8,190 bytes, 2,731 are 8,193; the buffer has 8,192."""
    ticket = a_ticket(0, num_images=1, height=height, width=1)
    payload = memoryview(b"\1" * 3 * height)
    seen = _inspect(payload, ticket=ticket)
    assert isinstance(seen, Pixels)
    assert bytes(seen.buffer) == bytes(payload)
    assert np.shares_memory(np.frombuffer(seen.buffer, np.uint8), np.frombuffer(payload, np.uint8)) == is_view


# --- JPEG -------------------------------------------------------------------------------------------------------------


def test_a_group_of_jpegs_is_decoded_as_another_library_decodes_it() -> None:
    seen = _inspect_jpegs(*JPEGS)
    assert isinstance(seen, Pixels)
    assert seen.wire_bytes == sum(map(len, JPEGS)) < LARGE.recipe.nbytes
    pixels = np.frombuffer(seen.buffer, np.uint8).reshape(LARGE.recipe.shape)
    assert np.abs(pixels - np.stack([from_jpeg(jpeg) for jpeg in JPEGS]).astype(int)).max() <= 1


def test_a_producer_of_jpegs_may_send_raw() -> None:
    assert isinstance(_inspect(PIXELS, manifest=LOSSY), Pixels)


BLACK = to_jpeg(np.zeros((48, 64, 3), np.uint8))
FLAWED: list[tuple[tuple[bytes, ...], dict[str, Any], str, str]] = [
    (JPEGS, {"manifest": MANIFEST}, "codec", "jpeg from a producer whose manifest says raw"),
    (JPEGS, {"shape": (2, 64, 48, 3)}, "shape", "expected (2, 48, 64, 3)"),
    (JPEGS, {"sizes": ()}, "size", "got 0 of 0 bytes"),
    (JPEGS[:1], {}, "size", "expected 2 sizes of"),
    ((*JPEGS, JPEGS[0]), {}, "size", "got 3 of"),
    (JPEGS, {"sizes": (len(JPEGS[0]), len(JPEGS[1]) - 1)}, "size", "the frame's"),
    (JPEGS, {"sizes": (len(JPEGS[0]), len(JPEGS[1]) + 1)}, "size", "the frame's"),
    (JPEGS, {"sizes": (2**63 - 1, 2**63 - 1)}, "size", f"of {2**64 - 2} bytes in all"),
    ((JPEGS[0], JPEGS[1] + bytes(20_000)), {}, "size", "must be smaller than the 18432 bytes of their pixels"),
    (JPEGS, {"crc32": 1}, "checksum", "expected 0x00000001"),
    (JPEGS, {"sizes": (len(JPEGS[0]) - 9, len(JPEGS[1]) + 9)}, "jpeg", "image 1 of 2: "),
    ((JPEGS[0], JPEGS[1][:-300]), {}, "jpeg", "image 1 of 2: Premature end of JPEG file"),
    ((claiming(JPEGS[0], 65500, 65500), JPEGS[1]), {}, "jpeg", "image 0 of 2: its header claims 65500 × 65500 pixels"),
    ((JPEGS[0], BLACK), {}, "blank", "image 1 of 2 is all black"),
]


@pytest.mark.parametrize(("jpegs", "changes", "word", "says"), FLAWED)
def test_a_flaw_of_jpegs_is_a_word_and_a_sentence(
    jpegs: tuple[bytes, ...], changes: dict[str, Any], word: str, says: str
) -> None:
    flaw = _inspect_jpegs(*jpegs, **changes)
    assert isinstance(flaw, Flaw)
    assert flaw.word == word
    assert says in flaw.what


# --- counts -----------------------------------------------------------------------------------------------------------


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
