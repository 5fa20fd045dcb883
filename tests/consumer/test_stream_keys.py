"""A stream whose link has keys: what a revoked producer held goes to others; who was refused is said and counted."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.consumer import stream as stream_module
from penstock.protocol.messages import Reject
from tests.consumer.stream_bench import StreamBench, until
from tests.protocol.key_ring import KeyRing


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamBench]:
    with StreamBench() as made:
        yield made
        monkeypatch.setattr(stream_module, "_FAREWELL_S", 0.0)  # these producers answer no BYE


def test_what_a_revoked_producer_held_goes_to_another_and_it_is_told_why(
    bench: StreamBench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ring = KeyRing(tmp_path)
    stream = bench.start(keys=ring.trainer, window=4)
    ann = bench.join(stream, "ann", key=ring.add("node-7"))
    held = [ann.next_ticket() for _ in range(4)]
    bob = bench.join(stream, "bob", key=ring.add("node-8"))
    ring.revoke("node-7")
    assert ann.hear(Reject) == Reject(reason="its key was revoked")
    again = [bob.next_ticket() for _ in range(4)]
    assert sorted(ticket.index for ticket in again) == sorted(ticket.index for ticket in held)
    assert {ticket.attempt for ticket in again} == {held[0].attempt + 1}
    for ticket in again:
        bob.make(ticket)
    assert {stream.get().producer for _ in range(4)} == {"bob"}
    assert "ann joined with the key of node-7" in caplog.text
    assert "ann is out: its key was revoked; 4 tickets go to others" in caplog.text
    assert stream._machine.quarantined == 0


def test_who_was_refused_at_the_door_is_logged_and_counted_by_reason(
    bench: StreamBench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing(tmp_path)
    stream = bench.start(keys=ring.trainer)
    host, port = stream.endpoint.removeprefix("tcp://").split(":")
    bench.dial(stream, "mallory", ring.stranger())
    with socket.create_connection((host, int(port))) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\n\r\n")
        until(lambda: stream.look().refused.keys() == {"unknown_key", "no_zeromq"})
    assert stream.stats.rejected == 0  # messages, of which there were none
    assert "is not in" in caplog.text
    assert "it speaks no ZeroMQ" in caplog.text
