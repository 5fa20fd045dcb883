"""Whose pixels a rank wants to see, and what it makes of them."""

import zlib
from dataclasses import replace
from typing import Any

import pytest

from penstock.protocol.actions import Deliver
from penstock.protocol.admission import Expectation
from penstock.protocol.image_codec import encode_images
from penstock.protocol.messages import Header, Nack, Reject, Result, Welcome
from tests.protocol.desk import ANN, BOB, CAT, Desk, delivered, notes, sent
from tests.protocol.pictures import group
from tests.protocol.samples import CRC32, MANIFEST, a_ticket

LOSSY = replace(MANIFEST, codec="jpeg-92")
IMAGES = group(2, 48, 64)
CODED = encode_images(IMAGES, 92)
SAID = {"shape": IMAGES.shape, "codec": CODED.codec, "sizes": CODED.sizes, "crc32": zlib.crc32(CODED.payload)}


def _desk(manifest: Any = LOSSY) -> Desk:
    """Ann holds ticket 0, for two images of 48 × 64."""
    desk = Desk()
    desk.hello(ANN, manifest)
    desk.ready(ANN)
    desk.machine.plan(a_ticket(0, height=48, width=64))
    desk.machine.issue(desk.now)
    return desk


def test_a_producer_of_jpegs_delivers_pixels_and_says_what_travelled() -> None:
    desk = _desk()
    actions = desk.make(ANN, 0, payload=CODED.payload, **SAID)
    (delivery,) = [action for action in actions if isinstance(action, Deliver)]
    assert delivery.wire_bytes == len(CODED.payload)
    assert memoryview(delivery.payload).nbytes == 2 * 48 * 64 * 3
    assert delivery.manifest.codec == "jpeg-92"
    assert desk.machine.reserved_bytes == 2 * 48 * 64 * 3, "windows count what is decoded"


def test_a_broken_jpeg_is_its_producer_s_fault_and_the_ticket_is_made_again() -> None:
    desk = _desk()
    short = CODED.payload[:-1]
    said = SAID | {"sizes": (CODED.sizes[0], CODED.sizes[1] - 1), "crc32": zlib.crc32(short)}
    for attempt in range(3):
        assert desk.machine.peers[ANN].bad_results == attempt
        actions = desk.make(ANN, 0, payload=short, **said)
        assert delivered(actions) == []
        (nack,) = sent(actions, Nack, ANN)
        assert (nack.index, nack.attempt, nack.retryable) == (0, attempt, True)
        assert nack.reason.startswith("jpeg: image 1 of 2: ")
    (reject,) = sent(actions, Reject, ANN)
    assert "3 broken groups in a row" in reject.reason
    assert desk.machine.quarantined == 0


def test_a_jpeg_is_refused_from_who_said_that_it_sends_raw() -> None:
    desk = _desk(MANIFEST)
    (nack,) = sent(desk.make(ANN, 0, payload=CODED.payload, **SAID), Nack, ANN)
    assert nack.reason == "codec: jpeg from a producer whose manifest says raw"


def test_who_joins_with_lossy_images_is_named_so() -> None:
    desk = Desk()
    assert notes(desk.hello(ANN, LOSSY)) == ["ann joined; its images come as jpeg-92, which is lossy"]
    assert notes(desk.hello(BOB)) == ["bob joined"]


def test_raw_and_lossy_producers_are_not_mixed_where_bits_must_be_equal() -> None:
    desk = Desk(expects=Expectation(model_digest="d1", same_engine=True))
    desk.hello(ANN)
    (reject,) = sent(desk.hello(BOB, LOSSY), Reject, BOB)
    assert "codec jpeg-92, the run has raw" in reject.reason
    (reject,) = sent(desk.hello(CAT, replace(MANIFEST, codec="jpeg-50")), Reject, CAT)
    assert "codec jpeg-50" in reject.reason
    mixed = Desk()
    mixed.hello(ANN)
    assert len(sent(mixed.hello(BOB, LOSSY), Welcome, BOB)) == 1


def _wanted(desk: Desk, who: bytes = ANN, *, index: int = 0, attempt: int = 0, **fences: Any) -> object:
    header = Header(**{"run": "run", "incarnation": 5, "seq": 100} | fences)
    result = Result(index=index, attempt=attempt, shape=(2, 4, 5, 3), crc32=CRC32, seconds=0.5)
    return desk.machine.wanted(who, header, result)


def test_pixels_are_wanted_only_of_who_holds_the_attempt() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    desk.join(BOB)
    ticket_and_manifest = _wanted(desk)
    assert ticket_and_manifest == (replace(a_ticket(0), attempt=1), MANIFEST)
    assert _wanted(desk, BOB) is None
    assert _wanted(desk, CAT) is None, "a stranger"
    assert _wanted(desk, attempt=1) is None
    assert _wanted(desk, index=1) is None
    assert _wanted(desk, run="other") is None
    assert _wanted(desk, incarnation=4) is None
    assert _wanted(desk, seq=desk.machine.peers[ANN].last_seq) is None
    desk.make(ANN, 0)
    assert _wanted(desk) is None, "it has come"


def test_to_ask_what_is_wanted_changes_nothing() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    for _ in range(3):
        assert _wanted(desk) is not None
    assert delivered(desk.make(ANN, 0)) == [0]


def test_a_wanted_group_that_nobody_has_looked_at_is_not_taken() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    result = Result(index=0, attempt=0, shape=(2, 4, 5, 3), crc32=CRC32, seconds=0.5)
    with pytest.raises(ValueError, match="ticket 0 are wanted and were not inspected"):
        desk.machine.on_message(ANN, Header(run="run", incarnation=5, seq=100), result, None, 0.0)
