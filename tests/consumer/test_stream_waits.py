"""What a waiting rank says, how long it waits for whom, and with which words it gives up."""

import re
import threading
import time
from collections.abc import Iterator

import pytest

from penstock.consumer import stream as stream_module
from penstock.protocol.admission import Expectation
from penstock.protocol.dispatcher import Patience
from penstock.protocol.errors import StarvedError
from penstock.protocol.messages import Bye, Heartbeat, Reject, Started, Tickets, Welcome
from penstock.protocol.tickets import Kind
from tests.consumer.stream_bench import MANIFEST, WAIT_S, StreamBench, until


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamBench]:
    with StreamBench() as made:
        yield made
        monkeypatch.setattr(stream_module, "_FAREWELL_S", 0.0)  # these producers answer no BYE


# --- giving up --------------------------------------------------------------------------------------------------------


def test_no_producer_at_all_names_the_command_that_starts_one(bench: StreamBench) -> None:
    stream = bench.start(ask=False, expects=Expectation(), config={"producer_timeout_s": 0.3})
    begun = time.monotonic()
    with pytest.raises(StarvedError) as caught:
        stream.wait_for_engine()
    assert time.monotonic() - begun < 5
    text = str(caught.value)
    assert "no producer came in" in text
    command = re.search(r"penstock produce --connect (\S+)", text)
    assert command
    assert command[1] == stream._socket.endpoint
    assert "--key" not in text
    assert "\n" not in text


def test_producers_that_deliver_nothing_are_named_with_what_they_hold(bench: StreamBench) -> None:
    stream = bench.start(config={"producer_timeout_s": 0.5})
    producer = bench.join(stream, "bob")
    producer.say(Started(attempts=(producer.next_ticket().key,)))
    with pytest.raises(StarvedError) as caught:
        stream.get()
    text = str(caught.value)
    for words in ("rank 0", "1 producers are connected (bob)", "ticket 0", "held by bob", "running for"):
        assert words in text
    assert "stream.producer_timeout_s" in text
    assert "\n" not in text


def test_where_all_that_came_were_refused_the_wait_ends_with_why(bench: StreamBench) -> None:
    stream = bench.start(expects=Expectation(model_digest="d1", filters=True), config={"producer_timeout_s": 0.5})
    producer = bench.dial(stream)
    producer.hello()
    producer.hear(Reject)
    with pytest.raises(StarvedError) as caught:
        stream.get()
    text = str(caught.value)
    assert text.startswith("no producer that the run can use came in ")
    assert "the last that came was refused: " in text
    assert text.endswith("has no scorer, and this run filters its images: penstock produce --scorer NAME")
    assert "\n" not in text


def test_producers_that_have_left_are_missed(bench: StreamBench) -> None:
    stream = bench.start(config={"producer_timeout_s": 0.5})
    producer = bench.join(stream)
    producer.make()
    stream.get()
    producer.say(Bye(reason="drained"))
    with pytest.raises(StarvedError, match="no producer is left"):
        stream.get()


def test_a_watch_that_knows_of_no_hope_ends_the_wait_in_its_words(bench: StreamBench) -> None:
    stream = bench.start(watch=lambda kind: "all local producers have crashed")
    begun = time.monotonic()
    with pytest.raises(StarvedError, match="all local producers have crashed"):
        stream.get()
    assert time.monotonic() - begun < 5


def test_a_watch_is_not_asked_while_a_producer_is_there(bench: StreamBench) -> None:
    stream = bench.start(watch=lambda kind: "all local producers have crashed")
    producer = bench.join(stream)
    until(lambda: stream.stats.producers == 1)
    maker = threading.Thread(target=producer.make)
    maker.start()
    assert stream.get().ticket.index == 0
    maker.join()


def test_a_kind_without_producers_is_named_with_the_command_that_starts_one(bench: StreamBench) -> None:
    real = Expectation(model_digest="d2", lack="no producer serves the photos: penstock produce --images photos")
    stream = bench.start(ask=False, real=real, config={"producer_timeout_s": 0.5})
    bench.join(stream)
    assert stream.wait_for_engine().model_digest == "d1"
    begun = time.monotonic()
    command = r"no producer serves the photos: penstock produce --images photos --connect tcp://127.0.0.1:\d+$"
    with pytest.raises(StarvedError, match=command):
        stream.wait_for_engine(Kind.REAL)
    assert time.monotonic() - begun < 5, "the other kind's long way to its first group is no reason to wait"


def test_a_watch_that_gives_up_one_kind_ends_the_wait_although_the_other_is_there(bench: StreamBench) -> None:
    def watch(kind: Kind) -> str | None:
        return "the image producers have crashed" if kind is Kind.REAL else None

    stream = bench.start(ask=False, real=Expectation(model_digest="d2"), watch=watch)
    bench.join(stream)
    with pytest.raises(StarvedError, match="the image producers have crashed"):
        stream.wait_for_engine(Kind.REAL)


# --- patience ---------------------------------------------------------------------------------------------------------


def test_a_model_that_loads_has_a_time_of_its_own(bench: StreamBench) -> None:
    stream = bench.start(config={"producer_timeout_s": 0.4, "warmup_timeout_s": WAIT_S})
    producer = bench.dial(stream)
    producer.hello()
    producer.hear(Welcome)

    def load() -> None:
        time.sleep(2.0)
        producer.ready()
        producer.make()

    loading = threading.Thread(target=load)
    loading.start()
    assert stream.get().ticket.index == 0
    loading.join()


def test_a_model_that_has_loaded_late_has_the_whole_time_for_its_first_group(bench: StreamBench) -> None:
    stream = bench.start(config={"producer_timeout_s": 2.0, "warmup_timeout_s": WAIT_S})
    producer = bench.dial(stream)
    producer.hello()
    producer.hear(Welcome)

    def load() -> None:
        time.sleep(3.0)
        producer.ready()
        ticket = producer.next_ticket()
        time.sleep(0.5)
        producer.make(ticket)

    loading = threading.Thread(target=load)
    loading.start()
    assert stream.get().ticket.index == 0
    loading.join()


def test_a_model_that_never_loads_is_waited_for_no_longer_than_it_may_take(bench: StreamBench) -> None:
    stream = bench.start(config={"producer_timeout_s": WAIT_S, "warmup_timeout_s": 0.5})
    producer = bench.dial(stream, "bob")
    producer.hello()
    producer.hear(Welcome)
    begun = time.monotonic()
    with pytest.raises(StarvedError, match=r"bob.*has loaded its model.*stream\.warmup_timeout_s"):
        stream.get()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("loads", [True, False])
def test_producers_that_come_and_die_without_a_group_are_not_waited_for_without_end(
    loads: bool, bench: StreamBench
) -> None:
    patience = Patience(heartbeat_s=0.1, lease_s=1.0)
    stream = bench.start(config={"producer_timeout_s": 2.0, "warmup_timeout_s": 4.0}, patience=patience)
    over = threading.Event()

    def crash_again_and_again() -> None:
        while not over.is_set():
            producer = bench.join(stream) if loads else bench.dial(stream)
            if not loads:
                producer.hello()
                producer.hear(Welcome)
            over.wait(0.3)
            bench.producers.remove(producer)
            producer.sockets.close()
            over.wait(0.3)

    crashing = threading.Thread(target=crash_again_and_again)
    crashing.start()
    begun = time.monotonic()
    try:
        with pytest.raises(StarvedError):
            stream.get()
    finally:
        over.set()
        crashing.join(WAIT_S)
    assert time.monotonic() - begun < 10


def test_a_long_pause_of_the_trainer_is_not_the_producers_fault(
    bench: StreamBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_s = 0.0
    clock = time.monotonic
    monkeypatch.setattr(stream_module.time, "monotonic", lambda: clock() + late_s)
    stream = bench.start(window=1, config={"producer_timeout_s": 5.0})
    producer = bench.join(stream)
    producer.make()
    late_s = 6.0
    assert stream.get().ticket.index == 0

    def wake_and_make() -> None:
        producer.say(Heartbeat(held=()))  # it was silent for as long
        producer.make()

    maker = threading.Thread(target=wake_and_make)
    maker.start()
    assert stream.get().ticket.index == 1, "the window was full, so nothing could come before"
    maker.join()


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_rank_that_does_not_wait_says_so(bench: StreamBench) -> None:
    stream = bench.start()
    bench.join(stream).make()
    assert stream.waiting() is None
    stream.get()
    assert stream.waiting() is None


def test_another_thread_reads_which_ticket_is_waited_for_and_who_holds_it(bench: StreamBench) -> None:
    stream = bench.start(window=1)
    trainer = threading.Thread(target=stream.get)
    trainer.start()
    until(lambda: "ticket 0" in (stream.waiting() or ""))
    alone = stream.waiting()
    assert alone is not None
    assert "held by nobody" in alone
    producer = bench.join(stream, "bob")
    ticket = producer.next_ticket()
    producer.say(Started(attempts=(ticket.key,)))
    until(lambda: "running" in (stream.waiting() or ""))
    held = stream.waiting()
    assert held is not None
    assert re.search(r"ticket 0 .*held by bob .*for [\d.]+ s, running for [\d.]+ s", held)
    producer.make(ticket)
    trainer.join(WAIT_S)
    assert not trainer.is_alive()
    assert stream.waiting() is None


def test_the_wait_for_the_first_producer_is_a_wait_too(bench: StreamBench) -> None:
    stream = bench.start(ask=False)
    engines = []
    trainer = threading.Thread(target=lambda: engines.append(stream.wait_for_engine()))
    trainer.start()
    until(lambda: stream.waiting() is not None)
    bench.join(stream)
    trainer.join(WAIT_S)
    assert engines == [MANIFEST]
    assert stream.waiting() is None


def test_a_fleet_that_goes_and_comes_back_serves_a_rank_that_waits(bench: StreamBench) -> None:
    stream = bench.start(window=1)
    first = bench.join(stream, "ann")
    first.hear(Tickets)
    first.sockets.close()
    trainer = threading.Thread(target=stream.get)
    trainer.start()
    until(lambda: "all producers are gone" in (stream.waiting() or ""))
    bench.join(stream, "bob").make()
    trainer.join(WAIT_S)
    assert not trainer.is_alive()
