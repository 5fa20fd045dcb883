"""The quick part of the fuzzing of both machines: whatever a codec lets through, no machine raises or loses count."""

import random

import msgpack
import pytest

from penstock.consumer import stream
from penstock.protocol.actions import Send
from penstock.protocol.codec import decode, encode
from penstock.protocol.errors import MessageError
from penstock.protocol.image_codec import RAW, CodedImages
from penstock.protocol.inspection import Pixels
from penstock.protocol.messages import Header
from penstock.protocol.producer_machine import ProducerMachine
from penstock.protocol.tickets import Manifest
from penstock.protocol.watching import Status
from tests.fuzz.decoder import make_mutator, read_corpus
from tests.fuzz.rank import fuzz

CORPUS = read_corpus()
FROM_A_RANK = ("WELCOME", "TICKETS", "CANCEL", "HEARTBEAT", "CLOCK", "ACK", "NACK", "REJECT", "BYE")
NOTHING = CodedImages(RAW, (), b"")
RANK = b"tcp://127.0.0.1:5599"


def test_a_rank_under_fire_neither_raises_nor_loses_count() -> None:
    fire = fuzz(8_000, seed=1)
    assert fire.misses == []
    # It must have got somewhere: groups taken, bad ones refused, tickets taken back, a producer thrown out.
    assert fire.outcomes["Deliver"] > 50
    assert fire.outcomes["Deliver from JPEG"] > 5
    assert {
        "ACK",
        "NACK",
        "REJECT",
        "CANCEL",
        "TICKETS",
        "WELCOME",
        "CLOCK",
        "Quarantine",
        "Traced",
    } <= fire.outcomes.keys()


def test_a_rank_that_takes_any_pixels_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "inspect", lambda ticket, manifest, result, payload: Pixels(payload or b"", 0))
    assert any("not what an honest producer made" in miss for miss in fuzz(4_000, seed=1).misses)


def test_a_rank_that_asks_beyond_a_credit_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.protocol.fleet.Peer.has_room", lambda peer, ticket: True)
    assert any("is given more than its credit" in miss for miss in fuzz(4_000, seed=1).misses)


def _manifest() -> Manifest:
    stated = msgpack.unpackb(CORPUS["HELLO"])["manifest"]
    return Manifest(**stated)


def _throw(machine: ProducerMachine, frame: bytes, now: float) -> bool:
    """Let the producer hear one frame; whether it was a message. All that it says in answer must be readable."""
    try:
        header, message = decode(frame)
    except MessageError:
        return False
    actions = [
        *machine.on_message(RANK, header, message, now),
        *machine.tick(now, Status(clock_ns=int(now * 1e9))),
        *machine.free(),
    ]
    if (traced := machine.traced) is not None and traced[1].best is not None:
        assert traced[1].best[1] >= 0
    batch, begun = machine.take(8)
    actions += begun
    for held in batch:
        actions += machine.fail(held, "no") if now % 2 < 1 else machine.finish(held, NOTHING, 0, 0.1, now)
    for action in actions:
        if isinstance(action, Send):
            assert decode(encode(action.message, Header()))[1] == action.message
    return True


@pytest.mark.parametrize("kind", FROM_A_RANK)
def test_a_producer_hears_every_message_at_any_time(kind: str) -> None:
    """Also a NACK about no ticket, and an answer to what was never asked."""
    welcome = CORPUS["WELCOME"]
    for before in ([], [welcome], [welcome, CORPUS["TICKETS"]], [welcome, CORPUS["TICKETS"], CORPUS["BYE"]]):
        machine = ProducerMachine(name="p", manifest=_manifest(), credit_groups=1, credit_bytes=1 << 20)
        machine.connect(RANK.decode())
        machine.loaded()
        for number, frame in enumerate([*before, CORPUS[kind], CORPUS[kind]]):
            assert _throw(machine, frame, float(number))


def test_a_producer_under_fire_does_not_raise() -> None:
    rng, mutator = random.Random(0), make_mutator(0)
    trees = [
        msgpack.unpackb(CORPUS[kind]) for kind in FROM_A_RANK for _ in range(1 if kind in ("BYE", "REJECT") else 8)
    ]
    heard = 0
    for _ in range(60):
        machine = ProducerMachine(name="p", manifest=_manifest(), credit_groups=4, credit_bytes=1 << 20)
        machine.connect(RANK.decode())
        machine.loaded()
        _throw(machine, CORPUS["WELCOME"], 0.0)
        for number in range(50):
            tree = rng.choice(trees)
            frame = msgpack.packb(tree) if rng.random() < 0.4 else mutator.mutated(tree)
            heard += _throw(machine, frame, 0.3 * number)
        machine.drain("SIGTERM")
        machine.leave("enough")
    assert heard > 1_000
