"""The rank's stream against a real socket: groups, window, stand-ins, broken producers, and its end."""

import threading
import time
from collections.abc import Iterator
from itertools import islice, repeat

import numpy as np
import pytest
import zmq

from penstock.consumer import stream as stream_module
from penstock.consumer.config import StreamConfig
from penstock.consumer.group import Quarantined
from penstock.consumer.stream import GroupStream
from penstock.protocol import exclusion
from penstock.protocol.admission import Expectation
from penstock.protocol.codec import encode
from penstock.protocol.dispatcher import Patience
from penstock.protocol.errors import RunError
from penstock.protocol.limits import PROTOCOL_VERSION
from penstock.protocol.messages import Bye, Header, Heartbeat, Hello, Nack, Reject, Tickets
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.refusals import Refusal
from penstock.protocol.sockets import MESSAGES_PER_TURN, Sent
from penstock.protocol.tickets import Ticket
from tests.consumer.stream_bench import (
    MANIFEST,
    RECIPE,
    WAIT_S,
    HandProducer,
    StreamBench,
    colour_of,
    stand_in_for,
    tickets,
    until,
)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamBench]:
    with StreamBench() as made:
        yield made
        monkeypatch.setattr(stream_module, "_FAREWELL_S", 0.0)  # these producers answer no BYE


# --- groups -----------------------------------------------------------------------------------------------------------


def test_groups_arrive_with_their_tickets_and_pixels(bench: StreamBench) -> None:
    stream = bench.start()
    producer = bench.join(stream)
    for index in range(6):
        producer.make()
        group = stream.get()
        assert group.ticket.index == index
        assert group.images.shape == (2, 4, 5, 3)
        assert group.images.dtype == np.uint8
        assert np.all(group.images == colour_of(group.ticket))
        assert (group.producer, group.manifest) == ("ann", MANIFEST)
    stats = stream.stats
    assert (stats.groups, stats.images, stats.image_bytes) == (6, 12, 6 * RECIPE.nbytes)
    assert (stats.producers, stats.producers_seen, stats.rejected) == (1, 1, 0)


def test_pixels_are_a_view_of_what_came_off_the_wire(bench: StreamBench) -> None:
    stream = bench.start()
    bench.join(stream).make()
    assert not stream.get().images.flags.owndata


def test_poll_gives_what_is_there_and_does_not_wait(bench: StreamBench) -> None:
    stream = bench.start(window=1)
    assert stream.poll() is None
    bench.join(stream).make()
    group = stream.poll()
    assert group is not None
    assert group.ticket.index == 0
    assert stream.poll() is None


@pytest.mark.parametrize(("order", "expected"), [("ticket", [0, 1, 2]), ("arrival", [2, 0, 1])])
def test_groups_come_in_the_order_that_is_asked_for(bench: StreamBench, order: str, expected: list[int]) -> None:
    stream = bench.start(order=order, window=3)
    producer = bench.join(stream)
    held = [producer.next_ticket() for _ in range(3)]
    for number in (2, 0, 1):
        producer.make(held[number])
    assert [stream.get().ticket.index for _ in range(3)] == expected


@pytest.mark.parametrize("window", [{"window": 5}, {"window_bytes": 6 * RECIPE.nbytes}], ids=["groups", "bytes"])
def test_asked_and_unused_groups_never_exceed_the_window(bench: StreamBench, window: dict[str, int]) -> None:
    # In bytes there is room for one hedge beside the five.
    stream = bench.start(**{"window": 100} | window)
    producer = bench.join(stream)
    for _ in range(5):
        producer.make()
        assert stream._machine.num_waiting + len(stream._buffered) <= 5
    # The window is full of unused groups: a heartbeat that lists nothing proves that nothing more was asked for.
    assert producer.hear(Heartbeat) == Heartbeat(held=())
    assert producer.tickets == []
    assert len(stream._buffered) == 5
    stream.get()
    producer.hear(Tickets)
    assert [ticket.index for ticket in producer.tickets] == [5]


def test_prompts_that_come_to_an_end_leave_the_stream_open(bench: StreamBench) -> None:
    stream = bench.start(ask=False)
    stream.ask(iter([Ticket(index=3, rank=0, recipe=RECIPE)]), stand_in_for)
    producer = bench.join(stream)
    producer.make()
    assert stream.get().ticket.index == 3
    assert stream._machine.num_waiting == 0
    stream.ask(iter([Ticket(index=4, rank=0, recipe=RECIPE)]), stand_in_for)
    producer.make()
    assert stream.get().ticket.index == 4


def test_an_error_in_the_source_of_tickets_reaches_the_training_thread(bench: StreamBench) -> None:
    def broken() -> Iterator[Ticket]:
        yield from ()
        raise RunError("line 3 of the prompts is no JSON")

    stream = bench.start(ask=False)
    stream.ask(broken(), stand_in_for)
    with pytest.raises(RunError, match="line 3"):
        stream.get()


# --- engines ----------------------------------------------------------------------------------------------------------


def test_the_first_producers_engine_becomes_the_runs(bench: StreamBench) -> None:
    stream = bench.start(ask=False, expects=Expectation())
    bench.join(stream)
    assert stream.wait_for_engine() == MANIFEST


def test_a_stream_expects_what_it_is_told_before_it_starts(bench: StreamBench) -> None:
    stream = bench.stream(expects=Expectation())
    stream.expect(Expectation(model_digest="ffff"))
    stream.start()
    producer = bench.dial(stream)
    producer.hello()
    assert "ffff" in producer.hear(Reject).reason


# --- stand-ins --------------------------------------------------------------------------------------------------------


def _poison(producer: HandProducer, ticket: Ticket, *, attempts: int = 3) -> None:
    for attempt in range(ticket.attempt, ticket.attempt + attempts):
        assert ticket.attempt == attempt
        producer.refuse(ticket, "no scheduler X")
        ticket = producer.next_ticket()
    producer.tickets.insert(0, ticket)


def test_a_ticket_that_nobody_can_make_is_replaced_in_its_place_and_recorded(bench: StreamBench) -> None:
    stream = bench.start(order="ticket", window=1)
    producer = bench.join(stream)
    _poison(producer, producer.next_ticket())
    producer.make()
    group = stream.get()
    assert (group.ticket.index, group.ticket.stand_in, group.ticket.recipe.prompt) == (0, 1, "a dog")
    assert np.all(group.images == colour_of(group.ticket))
    (record,) = stream.quarantined()
    assert isinstance(record, Quarantined)
    assert (record.ticket.index, record.ticket.recipe.prompt) == (0, "a red fox")
    assert "no scheduler X" in record.reason
    assert record.stand_in.recipe == group.ticket.recipe
    assert stream.quarantined() == [], "each record is handed over once"


def test_tickets_that_fail_one_after_another_end_the_wait_with_the_cause(bench: StreamBench) -> None:
    stream = bench.start(window=1)
    producer = bench.join(stream)
    ticket = producer.next_ticket()
    for _ in range(2):
        _poison(producer, ticket)
        ticket = producer.next_ticket()
    for _ in range(2):
        producer.refuse(ticket, "no scheduler X")
        ticket = producer.next_ticket()
    producer.refuse(ticket, "no scheduler X")
    with pytest.raises(RunError, match=r"3 tickets in a row .*no scheduler X"):
        stream.get()
    with pytest.raises(RunError, match="no scheduler X"):
        stream.poll()


def test_a_stand_in_that_cannot_be_found_ends_the_wait_with_the_cause(bench: StreamBench) -> None:
    def none_left(ticket: Ticket) -> Ticket:
        raise RunError(f"no prompt is left to stand in for ticket {ticket.index}")

    stream = bench.start(ask=False, window=1, patience=Patience(max_attempts=1))
    stream.ask(tickets(), none_left)
    producer = bench.join(stream)
    producer.refuse(producer.next_ticket(), "no scheduler X")
    with pytest.raises(RunError, match="stand in for ticket 0"):
        stream.get()


# --- broken producers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"GET / HTTP/1.1", b"\x80\x04\x95", b"\x91" * 5000])
def test_garbage_is_counted_and_the_stream_goes_on(frame: bytes, bench: StreamBench) -> None:
    stream = bench.start()
    bad = bench.dial(stream, "bad")
    bad.say_bytes(frame)
    bad.hear(Nack)
    assert stream.stats.rejected == 1
    bench.join(stream, "good").make()
    assert stream.get().producer == "good"


def test_a_message_of_too_many_frames_is_refused(bench: StreamBench) -> None:
    stream = bench.start()
    bad = bench.join(stream, "bad")
    bad.say(Heartbeat(held=()), b"pixels")
    assert "frame_count" in bad.hear(Nack).reason
    (dealer,) = (dial.socket for dial in bad.sockets._dials.values())
    dealer.send_multipart([b"a", b"b", b"c"], zmq.NOBLOCK)
    assert "got 3" in bad.hear(Nack).reason
    assert stream.stats.rejected == 2


def test_a_producer_of_another_version_is_told_so(bench: StreamBench) -> None:
    stream = bench.start()
    old = bench.dial(stream, "old")
    hello = encode(Hello(producer="old", manifest=MANIFEST), Header())
    old.say_bytes(hello.replace(bytes([0xA1, ord("v"), PROTOCOL_VERSION]), b"\xa1v\x63"))
    reject = old.hear(Reject)
    assert "99" in reject.reason
    assert str(PROTOCOL_VERSION) in reject.reason


def test_a_producer_whose_connection_ends_gives_its_tickets_to_others(bench: StreamBench) -> None:
    stream = bench.start(window=1)
    gone = bench.join(stream, "gone")
    gone.hear(Tickets)
    gone.sockets.close()
    bench.join(stream, "good").make()
    group = stream.get()
    assert (group.producer, group.ticket.attempt) == ("good", 1)


class _Flood:
    """A socket behind which somebody never stops talking."""

    endpoint = "tcp://127.0.0.1:1"

    def __init__(self) -> None:
        self.waker = self
        self.open = True

    def wake(self) -> None:
        return None

    def wait(self, timeout_ms: int) -> None:
        return None

    def received(self) -> Iterator[tuple[bytes, list[memoryview]]]:
        return repeat((b"stranger", [memoryview(encode(Heartbeat(held=()), Header()))]), MESSAGES_PER_TURN * self.open)

    def send(self, peer: bytes, header: bytes) -> Sent:
        return Sent.FULL

    def refusals(self) -> list[Refusal]:
        return []

    def blame(self, peer: bytes, now: float) -> None:
        return None

    def let_go(self, now: float) -> list[tuple[bytes, str]]:
        return []

    def close(self) -> None:
        self.open = False


def test_a_flood_stops_neither_the_clock_nor_the_training_thread(
    bench: StreamBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = _Flood()
    machine = bench.stream()._machine
    ticks: list[float] = []
    monkeypatch.setattr(machine, "tick", lambda now: ticks.append(now) or [])
    stream = GroupStream(socket, machine, StreamConfig())  # type: ignore[arg-type]
    stream.start()
    try:
        until(lambda: len(ticks) >= 3)
        assert stream.poll() is None
    finally:
        socket.close()
        stream.close("the test is over")


def test_a_producer_whose_messages_are_all_refused_is_told_why_and_heard_no_more(
    bench: StreamBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusion, "MOST_REFUSED", 50)
    monkeypatch.setattr(exclusion, "WITHIN_S", WAIT_S)
    stream = bench.start()
    ann, bob = bench.join(stream), bench.join(stream, "bob")
    for _ in range(50):
        ann.say_bytes(b"\xc1 nonsense")
    assert ann.hear(Reject).reason == "1,000 of its messages were refused within 5 s"
    assert stream.stats.producers == 1
    ann.say_bytes(b"\xc1 nonsense")
    for _ in range(3):
        bob.make()
    assert stream.stats.rejected == 50
    until(lambda: stream.look().refused == {"nonsense": 1})


class _Trickle(_Flood):
    """A socket from which a message comes each time that somebody looks, and never two."""

    def received(self) -> Iterator[tuple[bytes, list[memoryview]]]:
        return islice(super().received(), 1)


def test_time_passes_by_the_clock_and_not_by_the_message(bench: StreamBench, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = _Trickle()
    machine = bench.stream()._machine
    ticks: list[float] = []
    turns: list[float] = []
    monkeypatch.setattr(machine, "tick", lambda now: ticks.append(now) or [])
    monkeypatch.setattr(machine, "issue", lambda now: turns.append(now) or [])
    stream = GroupStream(socket, machine, StreamConfig())  # type: ignore[arg-type]
    stream.start()
    try:
        until(lambda: len(turns) > 300 and len(ticks) > 3)
    finally:
        socket.close()
        stream.close("the test is over")
    assert len(ticks) <= (ticks[-1] - ticks[0]) / 0.05 + 2


def test_tickets_go_out_though_no_time_passes(bench: StreamBench, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = bench.stream(window=1)
    monkeypatch.setattr(stream._machine, "tick", lambda now: [])
    stream.start()
    stream.ask(tickets(), stand_in_for)
    producer = bench.join(stream)
    for index in range(3):
        producer.make()
        assert stream.get().ticket.index == index


# --- the end ----------------------------------------------------------------------------------------------------------


def test_close_is_bounded_though_a_producer_never_answers(bench: StreamBench) -> None:
    stream = bench.start()
    bench.join(stream).hear(Tickets)
    begun = time.monotonic()
    stream.close("the run is over")
    assert time.monotonic() - begun < 5


def test_a_producer_that_answers_bye_is_not_waited_for(bench: StreamBench) -> None:
    stream = bench.start()
    producer = bench.join(stream)
    answer = threading.Thread(target=lambda: (producer.hear(Bye), producer.say(Bye(reason="the rank left"))))
    answer.start()
    begun = time.monotonic()
    stream.close("the run is over")
    assert time.monotonic() - begun < stream_module._FAREWELL_S
    answer.join(WAIT_S)
    assert not answer.is_alive()


def test_a_stream_that_never_started_closes(bench: StreamBench) -> None:
    stream = bench.stream()
    stream.close("the run is over")
    stream.close("the run is over")


def test_closing_a_stream_with_a_lost_producer_and_a_ticket_about_to_fail_raises_nothing(bench: StreamBench) -> None:
    stream = bench.start(window=1, patience=Patience(max_attempts=1, max_quarantined=1))
    producer = bench.join(stream)
    producer.hear(Tickets)
    machine: RankMachine = stream._machine
    with stream._changed:  # the stream's thread may not act between these two
        (entry,) = machine._table
        entry.holds[0].started_at, entry.holds[0].alone = time.monotonic(), True
        producer.sockets.close()
        until(lambda: stream._socket.send(entry.holds[0].holder, b"") is Sent.UNREACHABLE)
        stream._stopping = True
    stream._thread.join(WAIT_S)
    stream._stopping = False
    stream.close("the run is over")
