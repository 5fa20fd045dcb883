"""A hostile producer beside a good one: it costs its own messages and nothing else.

Every message that is dropped is counted by reason and producer, and the reason goes back to whoever sent it.
"""

import pickle
import socket
import time
from collections import Counter
from dataclasses import replace

import msgpack
import numpy as np
import pytest

from penstock.protocol.codec import encode
from penstock.protocol.limits import PROTOCOL_VERSION
from penstock.protocol.messages import Hello, Reject
from penstock.protocol.tickets import Ticket
from tests.faults.conftest import Report
from tests.faults.hostile import Hostile
from tests.faults.programs import LightRank
from tests.faults.scene import Scene
from tests.faults.workload import light_manifest


def besieged(scene: Scene, **plan: object) -> LightRank:
    """A rank with a good producer that serves it."""
    rank = scene.rank(**{"order": "ticket"} | plan)
    scene.producer("good", batch_s=0.05)
    rank.until_made_by("good")
    return rank


def survives(rank: LightRank, tickets: list[Ticket], since: float, report: Report) -> str:
    """What was spoilt is made by the good producer, and the run ends as planned."""
    indices = {ticket.index for ticket in tickets}
    report.recovered_in(rank.until_consumed(indices) - since)
    rank.until_all_consumed(indices)
    seen = rank.finish()
    assert {name for index, name, _ in rank.groups if index in indices} == {"good"}
    assert rank.events("quarantined") == []
    return seen


def flipped(payload: bytes) -> bytes:
    """The same with one bit changed."""
    spoilt = bytearray(payload)
    spoilt[len(spoilt) // 2] ^= 1
    return bytes(spoilt)


@pytest.mark.fault("flipped bits", expected="refused by checksum; after the third the producer is refused")
def test_flipped_bits(scene: Scene, report: Report) -> None:
    rank = besieged(scene)
    with Hostile(scene.endpoint) as mallory:
        mallory.join()
        tickets = mallory.tickets(3)
        since = time.monotonic()
        for ticket in tickets:
            result, payload = mallory.result(ticket)
            mallory.say(result, flipped(payload))
            assert mallory.refusal("checksum").index == ticket.index
        assert "checksum" in mallory.hear(Reject).reason
    seen = survives(rank, tickets, since, report)
    assert rank.rejects("checksum", "mallory") == 3
    report.saw(f"{seen}, 3 refused, the producer too")


LIES: dict[str, tuple[list[int], int, str]] = {
    "half the height": ([4, 8, 16, 3], 0, "shape"),
    "sides that multiply to the same": ([4, 32, 8, 3], 0, "shape"),
    "a terabyte": ([4, 1 << 19, 1 << 19, 3], 0, "shape"),
    "a byte too many": ([4, 16, 16, 3], 1, "size"),
    "three sizes": ([4, 16, 48], 0, "bad_value"),
    "no images": ([0, 16, 16, 3], 0, "bad_value"),
    "sizes below nothing": ([-4, -16, 16, 3], 0, "bad_value"),
}
"""What is said of the shape, bytes too many, and the reason that must come back."""


@pytest.mark.fault("lying shapes", expected="refused before a byte is looked at; index and reason go back")
def test_lying_shapes(scene: Scene, report: Report) -> None:
    rank = besieged(scene)
    spoilt = []
    since = time.monotonic()
    for number, (shape, num_extra, reason) in enumerate(LIES.values()):
        with Hostile(scene.endpoint, f"mallory-{number}") as mallory:
            mallory.join()
            (ticket,) = mallory.tickets(1)
            result, payload = mallory.result(ticket)
            header = msgpack.unpackb(encode(result, mallory.header)) | {"shape": shape}
            mallory.send_frames(msgpack.packb(header), payload + b"\0" * num_extra)
            # What cannot be read has no index.
            assert mallory.refusal(reason).index == (-1 if reason == "bad_value" else ticket.index)
            spoilt.append(ticket)
    seen = survives(rank, spoilt, since, report)
    reasons = Counter(reason for _, _, reason in LIES.values())
    assert all(rank.rejects(reason) == count for reason, count in reasons.items())
    report.saw(f"{seen}, {len(LIES)} lies refused")


@pytest.mark.fault("oversize", expected="a large header is refused, a frame above the group's size ends the connection")
def test_oversize(scene: Scene, report: Report) -> None:
    rank = besieged(scene, workload={"side": 512})
    with Hostile(scene.endpoint) as mallory:
        mallory.join()
        (ticket,) = mallory.tickets(1)
        mallory.send_frames(b"\x80" * ((1 << 20) + 1))
        mallory.refusal("oversize")
        since = time.monotonic()
        result, payload = mallory.result(ticket)
        mallory.say(result, payload + b"\0")
        rank.until_log("mallory is gone")
    seen = survives(rank, [ticket], since, report)
    assert rank.rejects("oversize", "mallory") == 1
    report.saw(f"{seen}, 1 header refused, 1 connection ended")


@pytest.mark.fault("truncation", expected="half a header, half a group, no group: each refused by its own reason")
def test_truncation(scene: Scene, report: Report) -> None:
    rank = besieged(scene)
    with Hostile(scene.endpoint) as mallory:
        mallory.join()
        tickets = mallory.tickets(2)
        since = time.monotonic()
        result, payload = mallory.result(tickets[0])
        mallory.say(result, payload[: len(payload) // 2])
        assert mallory.refusal("size").index == tickets[0].index
        header = mallory.say(mallory.result(tickets[1])[0])
        assert mallory.refusal("frame_count").index == tickets[1].index
        for length in (1, len(header) // 2, len(header) - 1):
            mallory.send_frames(header[:length])
            mallory.refusal("truncated")
    seen = survives(rank, tickets, since, report)
    assert rank.rejects("truncated", "mallory") == 3
    assert rank.rejects("size", "mallory") == rank.rejects("frame_count", "mallory") == 1
    report.saw(f"{seen}, 5 refused")


@pytest.mark.fault("wrong version", expected="REJECT that names both versions; the run goes on")
def test_wrong_version(scene: Scene, report: Report) -> None:
    rank = besieged(scene)
    with Hostile(scene.endpoint) as mallory:
        hello = {
            "v": 99,
            "t": "HELLO",
            "run": "",
            "inc": 0,
            "seq": 0,
            "producer": "mallory",
            "a field": "of the future",
        }
        mallory.send_frames(msgpack.packb(hello))
        reason = mallory.hear(Reject).reason
        rank.until_groups(len(rank.groups) + 16)
    seen = rank.finish()
    assert f"version {PROTOCOL_VERSION}" in reason
    assert "99" in reason
    assert rank.rejects("version") == 1
    report.saw(f"{seen}, 1 refused")


@pytest.mark.fault(
    "duplicated and reordered results", expected="each group once; the order of the plan; copies refused"
)
def test_duplicated_and_reordered_results(scene: Scene, order: str, report: Report) -> None:
    rank = besieged(scene, order=order)
    with Hostile(scene.endpoint) as mallory:
        mallory.join(credit_groups=4)
        tickets = mallory.tickets(4)
        frames = [(mallory.say(*mallory.result(ticket)), mallory.result(ticket)[1]) for ticket in reversed(tickets)]
        for ticket in tickets:
            mallory.answer(ticket)
            assert mallory.refusal("stale").index == ticket.index
        for frame in frames:  # to the byte: the sequence number too
            mallory.send_frames(*frame)
            mallory.refusal("sequence")
        rank.until_all_consumed(ticket.index for ticket in tickets)
    seen = rank.finish()
    assert rank.makers["mallory"] == 4
    assert rank.rejects("stale", "mallory") == 4
    assert rank.rejects("sequence", "mallory") == 4
    report.saw(f"{seen}, 8 copies refused")


@pytest.mark.fault("unsolicited and stale results", expected="what nobody asked it for is refused, whatever it holds")
def test_results_that_nobody_asked_for(scene: Scene, report: Report) -> None:
    rank = besieged(scene)
    with Hostile(scene.endpoint) as mallory:
        mallory.join(credit_groups=1)
        (ticket,) = mallory.tickets(1)
        of_others = replace(ticket, index=ticket.index + 1)
        unplanned = replace(ticket, index=10**9)
        another_attempt = replace(ticket, attempt=ticket.attempt + 1)
        for wrong in (of_others, unplanned, another_attempt):
            mallory.answer(wrong)
            assert mallory.refusal("stale").index == wrong.index
        result, payload = mallory.result(ticket)
        mallory.say(result, payload, header=replace(mallory.header, incarnation=0))
        nack = mallory.refusal("life")
        assert (nack.index, nack.retryable) == (-1, True)
        mallory.answer(ticket)
        rank.until_all_consumed([ticket.index])
    seen = rank.finish()
    assert rank.makers["mallory"] == 1
    assert rank.rejects("stale", "mallory") == 3
    report.saw(f"{seen}, 4 refused, its own ticket accepted")


@pytest.mark.fault(
    "heartbeats that name no ticket", expected="who does not name a ticket loses it, however alive it is"
)
def test_heartbeats_that_name_nothing(scene: Scene, report: Report) -> None:
    # It is slow enough to have always something to take: no hedge mends what the lease must.
    rank = besieged(scene, order="arrival", step_s=0.2)
    with Hostile(scene.endpoint) as mallory:
        mallory.names_what_it_holds = False
        mallory.join()
        tickets = mallory.tickets(1)
        since = time.monotonic()
        mallory.wait(lambda: tickets[0].index in rank.indices)
    seen = survives(rank, tickets, since, report)
    assert rank.statistics["expired"] >= 1
    report.saw(f"{seen}, {rank.statistics['expired']} leases ran out")


@pytest.mark.fault("garbage and floods", expected="counted by reason; the good producer does not notice")
def test_garbage(scene: Scene, report: Report) -> None:
    rank = besieged(scene)
    random = np.random.default_rng(0)
    hello = Hello(producer="eve", manifest=light_manifest(16))
    began = len(rank.groups)
    with Hostile(scene.endpoint) as mallory, Hostile(scene.endpoint, "eve") as eve:
        mallory.join()
        for size in random.integers(0, 2000, 500):
            mallory.send_frames(random.bytes(int(size)))
        mallory.send_frames(pickle.dumps({"v": 1}))
        mallory.send_frames(b"\x91" * 5000)
        mallory.send_frames(*[b"frame"] * 100)
        with socket.create_connection(("127.0.0.1", scene.port), timeout=5) as browser:
            browser.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(3000):
            eve.say(hello)
        mallory.refusal("frame_count")  # the last but one
        rank.until_groups(began + 64)
    seen = rank.finish()
    reasons = {reason for reason, name, _ in rank.statistics["rejects"] if name == "mallory"}
    dropped = sum(count for _, name, count in rank.statistics["rejects"] if name == "mallory")
    assert dropped == 503
    assert {"frame_count", "nesting", "malformed"} <= reasons
    report.saw(f"{seen}, {dropped} messages refused for {len(reasons)} reasons")
