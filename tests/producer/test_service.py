"""The generate-and-send loop with a stub engine, against a real rank on the loopback."""

import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.producer.engine import Chosen, Images, Made
from penstock.protocol.errors import EndpointError, ModelError, RejectedError, StarvedError
from penstock.protocol.fleet import PeerState
from penstock.protocol.messages import Choice
from penstock.protocol.sockets import RankSocket
from penstock.protocol.tickets import Ticket
from tests.producer.live_rank import GROUPS_PER_BATCH, RECIPE, WAIT_S, LiveRank, RunningService, StubEngine, colour_of
from tests.protocol.key_ring import KeyRing

OpenRank = Callable[..., LiveRank]


@pytest.fixture
def free_endpoint() -> str:
    """An address where nobody listens."""
    socket = RankSocket("tcp://127.0.0.1:0")
    socket.close()
    return socket.endpoint


def _join(rank: LiveRank) -> None:
    """Until a producer is there and knows it: it beats."""
    rank.run_until(lambda: bool(rank.machine.peers))
    (peer,) = rank.machine.peers.values()
    welcomed = peer.last_seq
    rank.run_until(lambda: peer.last_seq > welcomed)


# --- work -------------------------------------------------------------------------------------------------------------


def test_groups_are_made_in_batches_and_arrive_whole(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    rank.plan(*range(20))
    running = RunningService(rank.socket.endpoint, engine)
    rank.run_until(lambda: len(rank.delivered) == 20)
    for index, delivered in rank.delivered.items():
        assert bytes(delivered.payload) == bytes([colour_of(index)]) * RECIPE.nbytes
        assert delivered.producer == "ann"
        assert delivered.manifest == engine.manifest
    assert sum(engine.batches) == 40
    assert max(engine.batches) <= 8
    rank.say_bye()
    assert running.end() is None


def test_probes_are_answered_with_noise_and_without_the_engine(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    filtered = replace(RECIPE, scorer_digest="5c", num_candidates=3, max_candidates=4)
    for index in range(12):
        recipe = replace(filtered if index % 2 else RECIPE, seed=index)
        rank.machine.plan(Ticket(index=index, rank=0, recipe=recipe, probe=True))
    # An incomplete batch of them waits for nobody.
    running = RunningService(rank.socket.endpoint, engine, batch_wait_s=60.0)
    rank.run_until(lambda: len(rank.delivered) == 12)
    assert engine.batches == []
    assert (engine.work.seconds, engine.work.groups) == (0, 0)
    for index, delivered in rank.delivered.items():
        assert len({*bytes(delivered.payload)}) > 200
        assert delivered.candidates == ((0, 1) if index % 2 else ())
    rank.say_bye()
    assert running.end() is None


def test_no_more_tickets_are_held_than_the_credit(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.gate.clear()
    rank.plan(*range(100))
    running = RunningService(rank.socket.endpoint, engine, credit_groups=5)
    rank.run_until(engine.working.is_set)
    (peer,) = rank.machine.peers.values()
    assert len(peer.held) == 5
    engine.gate.set()
    rank.say_bye()
    assert running.end() is None


def test_the_credit_in_bytes_comes_from_the_configuration(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.gate.clear()
    rank.plan(*range(100))
    running = RunningService(rank.socket.endpoint, engine, credit_bytes=3 * RECIPE.nbytes, batch_wait_s=0.0)
    rank.run_until(engine.working.is_set)
    (peer,) = rank.machine.peers.values()
    assert len(peer.held) == 3
    engine.gate.set()
    rank.run_until(lambda: len(rank.delivered) == 100)
    rank.say_bye()
    assert running.end() is None


def test_an_incomplete_batch_waits_for_company_and_no_longer_than_it_must(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    running = RunningService(rank.socket.endpoint, engine, batch_wait_s=1.0)
    rank.run_until(lambda: bool(rank.machine.peers))
    rank.plan(0)
    rank.run_for(0.3)
    assert not engine.working.is_set()
    rank.plan(1, 2, 3)
    rank.run_until(lambda: len(rank.delivered) == 4)
    rank.plan(4)
    rank.run_until(lambda: len(rank.delivered) == 5)
    assert engine.batches == [8, 2]
    rank.say_bye()
    assert running.end() is None


def test_heartbeats_keep_the_leases_while_the_engine_works(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.gate.clear()
    rank.plan(*range(3))
    running = RunningService(rank.socket.endpoint, engine)
    rank.run_until(engine.working.is_set)
    rank.run_for(2.5)
    assert rank.machine.expired == 0, "the lease is 1 s, the batch took 2.5"
    engine.gate.set()
    rank.run_until(lambda: len(rank.delivered) == 3)
    assert all(delivered.ticket.attempt == 0 for delivered in rank.delivered.values())
    rank.say_bye()
    assert running.end() is None


def test_an_engine_that_hangs_while_its_io_lives_loses_its_tickets_until_it_is_free(open_rank: OpenRank) -> None:
    rank, hung = open_rank(lease_s=0.4, cold_start_s=0.6), StubEngine()
    hung.gate.clear()
    rank.plan(*range(4))
    ann = RunningService(rank.socket.endpoint, hung)
    rank.run_until(hung.working.is_set)
    bob = RunningService(rank.socket.endpoint, StubEngine(), name="bob", batch_wait_s=0.0)
    rank.run_until(lambda: len(rank.delivered) == 4)
    assert {delivered.producer for delivered in rank.delivered.values()} == {"bob"}
    rank.run_for(0.5)
    assert rank.states() == {"ann": PeerState.STALLED, "bob": PeerState.READY}
    hung.gate.set()
    rank.run_until(lambda: rank.states()["ann"] is PeerState.READY)
    rank.plan(*range(4, 24))
    rank.run_until(lambda: len(rank.delivered) == 24)
    assert {delivered.producer for delivered in rank.delivered.values()} == {"ann", "bob"}
    rank.say_bye()
    assert (ann.end(), bob.end()) == (None, None)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_a_producer_is_welcome_before_its_model_is_loaded_and_gets_nothing(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.load_gate.clear()
    rank.plan(0)
    running = RunningService(rank.socket.endpoint, engine, batch_wait_s=0.0)
    rank.run_until(lambda: bool(rank.machine.peers))
    rank.run_for(1.5)
    assert rank.states() == {"ann": PeerState.WARMING}, "longer than a lease"
    assert rank.machine.num_outstanding == 0
    engine.load_gate.set()
    rank.run_until(lambda: 0 in rank.delivered)
    rank.say_bye()
    assert running.end() is None


def test_a_model_that_does_not_load_ends_the_producer_and_the_rank_reads_why(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.load_gate.clear()
    engine.load_error = ModelError("no weights in /models/sd")
    running = RunningService(rank.socket.endpoint, engine)
    _join(rank)
    engine.load_gate.set()
    rank.run_until(lambda: not rank.machine.peers)
    assert running.end() is engine.load_error
    assert any("no weights in /models/sd" in note for note in rank.notes)


def test_a_very_long_reason_arrives_too(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.load_gate.clear()
    engine.load_error = ModelError("no weights: " + "x" * 100_000)
    running = RunningService(rank.socket.endpoint, engine)
    _join(rank)
    engine.load_gate.set()
    rank.run_until(lambda: not rank.machine.peers)
    assert running.end() is engine.load_error
    assert any("left: no weights" in note for note in rank.notes)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_rank_of_another_model_refuses_with_the_digests(open_rank: OpenRank) -> None:
    rank = open_rank(digest="ffff")
    running = RunningService(rank.socket.endpoint, StubEngine())
    rank.run_until(running.ended)
    error = running.end()
    assert isinstance(error, RejectedError)
    assert all(word in str(error) for word in ("ann", "d1", "ffff"))


def test_a_trainer_that_never_comes_ends_the_wait_within_its_bound(free_endpoint: str) -> None:
    begun = time.monotonic()
    error = RunningService(free_endpoint, StubEngine(), trainer_timeout_s=0.5).end()
    assert time.monotonic() - begun < 5
    assert isinstance(error, StarvedError)
    assert free_endpoint in str(error)
    assert "accelerate launch consumer" in str(error)


def test_that_no_trainer_answers_is_said_long_before_the_wait_ends(
    free_endpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("penstock.producer.complaints._ALONE_S", 0.1)
    with caplog.at_level("INFO", logger="penstock"):
        RunningService(free_endpoint, StubEngine(), trainer_timeout_s=1.0).end()
    said = [text for text in caplog.messages if text.startswith("no trainer answers at ")]
    assert said == [f"no trainer answers at {free_endpoint} (for 0 s); dials on for 1 s at most (--trainer-timeout-s)"]


def test_a_restarted_trainer_is_served_in_its_new_life(open_rank: OpenRank) -> None:
    first = open_rank(incarnation=1)
    first.plan(*range(4))
    running = RunningService(first.socket.endpoint, StubEngine())
    first.run_until(lambda: len(first.delivered) == 4)
    first.socket.close()
    second = open_rank(first.socket.endpoint, incarnation=2)
    second.plan(*range(4, 8))
    second.run_until(lambda: len(second.delivered) == 4)
    second.say_bye()
    assert running.end() is None


def test_a_trainer_that_comes_back_at_another_of_the_addresses_is_served(
    open_rank: OpenRank, free_endpoint: str
) -> None:
    first = open_rank(incarnation=1)
    first.plan(0)
    running = RunningService(f"{free_endpoint},{first.socket.endpoint}", StubEngine(), batch_wait_s=0.0)
    first.run_until(lambda: len(first.delivered) == 1)
    first.socket.close()
    second = open_rank(free_endpoint, incarnation=2)
    second.plan(1)
    second.run_until(lambda: len(second.delivered) == 1)
    second.say_bye()
    assert running.end() is None


def test_a_rank_at_two_addresses_hears_goodbye_at_one_and_is_served_at_the_other(open_rank: OpenRank) -> None:
    rank = open_rank()
    by_name = rank.socket.endpoint.replace("127.0.0.1", "localhost")
    running = RunningService(f"{rank.socket.endpoint},{by_name}", StubEngine(), batch_wait_s=0.0)
    rank.run_until(lambda: any("is served at tcp://" in note for note in rank.notes))
    rank.plan(0)
    rank.run_until(lambda: len(rank.delivered) == 1)
    assert list(rank.states()) == ["ann"]
    assert rank.machine.rejects.counts == {}
    rank.say_bye()
    assert running.end() is None


def test_a_group_that_an_earlier_life_asked_for_is_not_sent_to_the_next(open_rank: OpenRank) -> None:
    first, engine = open_rank(incarnation=1), StubEngine()
    engine.gate.clear()
    first.plan(*range(4))
    running = RunningService(first.socket.endpoint, engine, batch_wait_s=0.0)
    first.run_until(engine.working.is_set)
    first.socket.close()
    second = open_rank(first.socket.endpoint, incarnation=2)
    second.run_until(lambda: bool(second.machine.peers))
    engine.gate.set()
    second.plan(4)
    second.run_until(lambda: 4 in second.delivered)
    assert set(second.delivered) == {4}
    assert not second.machine.rejects.counts.get(("stale", "ann"))
    second.say_bye()
    assert running.end() is None


def test_a_producer_that_is_early_finds_its_trainer(open_rank: OpenRank, free_endpoint: str) -> None:
    running = RunningService(free_endpoint, StubEngine(), batch_wait_s=0.0)
    rank = open_rank(free_endpoint)
    rank.plan(0)
    rank.run_until(lambda: len(rank.delivered) == 1)
    rank.say_bye()
    assert running.end() is None


def test_a_ticket_that_the_engine_refuses_is_given_back_with_its_words(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.error = ModelError("no scheduler X")
    rank.plan(0)
    running = RunningService(rank.socket.endpoint, engine, batch_wait_s=0.0)
    rank.run_until(lambda: bool(rank.quarantined))
    assert "no scheduler X" in rank.quarantined[0].reason
    rank.say_bye()
    assert running.end() is None


def test_an_engine_that_breaks_ends_the_producer_and_its_tickets_are_suspected(open_rank: OpenRank) -> None:
    rank, engine = open_rank(max_attempts=1), StubEngine()
    engine.error = RuntimeError("CUDA error: an illegal memory access")
    rank.plan(0)
    running = RunningService(rank.socket.endpoint, engine, batch_wait_s=0.0)
    rank.run_until(lambda: running.ended() and not rank.machine.peers)
    assert running.end() is engine.error
    assert rank.machine.num_outstanding == 0
    (poison,) = rank.quarantined
    assert poison.ticket.index == 0
    assert "illegal memory access" in poison.reason


@pytest.mark.parametrize("other", ["", "nonsense://x", "inproc://x", "tcp://127.0.0.1"])
def test_another_rank_that_cannot_be_dialled_is_named_and_costs_nothing_else(
    other: str, open_rank: OpenRank, caplog: pytest.LogCaptureFixture
) -> None:
    rank = open_rank(others=(other,))
    rank.plan(0)
    running = RunningService(rank.socket.endpoint, StubEngine(), batch_wait_s=0.0)
    rank.run_until(lambda: 0 in rank.delivered)
    (warning,) = [record.getMessage() for record in caplog.records if "is not served" in record.getMessage()]
    assert repr(other) in warning
    rank.say_bye()
    assert running.end() is None, "nor is the other waited for"


def test_bye_in_the_middle_of_a_batch_ends_the_producer(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.gate.clear()
    rank.plan(*range(4))
    running = RunningService(rank.socket.endpoint, engine)
    rank.run_until(engine.working.is_set)
    rank.say_bye()
    rank.run_until(lambda: not rank.machine.peers)
    engine.gate.set()
    assert running.end() is None
    assert rank.delivered == {}


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://127.0.0.1", "http://127.0.0.1:80"])
def test_a_malformed_address_is_an_endpoint_error(endpoint: str) -> None:
    error = RunningService(endpoint, StubEngine()).end()
    assert isinstance(error, EndpointError)
    assert repr(endpoint) in str(error)


# --- what the device has made -----------------------------------------------------------------------------------------


def test_a_ticket_that_cannot_be_made_is_refused_and_its_company_is_sent(open_rank: OpenRank) -> None:
    rank, engine = open_rank(max_attempts=1), StubEngine()
    engine.flaws[2] = ModelError("its pixels are not finite")
    rank.plan(*range(4))
    running = RunningService(rank.socket.endpoint, engine)
    rank.run_until(lambda: len(rank.delivered) == 3 and bool(rank.quarantined))
    assert set(rank.delivered) == {0, 1, 3}
    (quarantine,) = rank.quarantined
    assert quarantine.ticket.index == 2
    assert "its pixels are not finite" in quarantine.reason
    rank.say_bye()
    assert running.end() is None


def test_what_a_filter_chose_reaches_the_rank_with_the_pixels(open_rank: OpenRank) -> None:
    class Choosing(StubEngine):
        """Rejects candidate 0 of every group."""

        def finish(self, tickets: Sequence[Ticket], groups: Sequence[Images]) -> list[Made]:
            choices = [Choice(tuple(range(1, len(images) + 1)), len(images) + 1) for images in groups]
            return [Chosen(images, choice) for images, choice in zip(groups, choices, strict=True)]

    rank, engine = open_rank(), Choosing()
    m = rank.recipe.num_images
    rank.recipe = replace(rank.recipe, scorer_digest="5c", num_candidates=m, max_candidates=2 * m)
    rank.plan(0, 1)
    running = RunningService(rank.socket.endpoint, engine)
    rank.run_until(lambda: len(rank.delivered) == 2)
    for group in rank.delivered.values():
        assert (group.candidates, group.num_made, group.num_unsatisfied) == (tuple(range(1, m + 1)), m + 1, 0)
        assert group.crc32 == zlib.crc32(group.payload)
    rank.say_bye()
    assert running.end() is None


def test_the_next_batch_is_begun_while_one_is_finished_and_no_more_than_one(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), SlowToFinish()
    rank.plan(*range(6 * GROUPS_PER_BATCH))
    running = RunningService(rank.socket.endpoint, engine, credit_groups=6 * GROUPS_PER_BATCH)
    rank.run_until(lambda: len(engine.batches) == 2)
    rank.run_for(0.5)
    assert len(engine.batches) == 2, "the first is being finished, the second has been begun, the third waits"
    assert not rank.delivered
    engine.finish_gate.set()
    rank.run_until(lambda: len(rank.delivered) == 6 * GROUPS_PER_BATCH)
    rank.say_bye()
    assert running.end() is None
    assert engine.work.seconds > 0


def test_an_error_in_what_waits_for_the_device_ends_the_service_and_names_its_tickets(open_rank: OpenRank) -> None:
    rank, engine = open_rank(max_attempts=1), SlowToFinish()
    engine.finish_error = RuntimeError("the device is gone")
    engine.finish_gate.set()
    rank.plan(0)
    running = RunningService(rank.socket.endpoint, engine, batch_wait_s=0.0)
    rank.run_until(lambda: bool(rank.quarantined) and running.ended())
    assert isinstance(running.end(), RuntimeError)
    assert "the device is gone" in rank.quarantined[0].reason


def test_a_device_that_hangs_holds_a_drain_up_no_longer_than_its_bound(
    open_rank: OpenRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    unheard: list[object] = []
    monkeypatch.setattr(threading, "excepthook", unheard.append)
    rank, engine = open_rank(), SlowToFinish()
    rank.plan(*range(2 * GROUPS_PER_BATCH))
    running = RunningService(rank.socket.endpoint, engine, drain_timeout_s=1.0, batch_wait_s=0.0)
    rank.run_until(lambda: len(engine.batches) == 2)
    running.service.drain()
    begun = time.monotonic()
    rank.run_until(running.ended)
    assert time.monotonic() - begun < WAIT_S / 2, "the gate of the device never opens"
    assert running.end() is None
    # It wakes up when all is closed: nobody wants what it has made, and nothing breaks.
    engine.finish_gate.set()
    for thread in threading.enumerate():
        if thread.name == "penstock-finish":
            thread.join(WAIT_S)
            assert not thread.is_alive()
    assert not unheard


class SlowToFinish(StubEngine):
    """Begins at once; what it has begun is done when its gate opens, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.finish_gate = threading.Event()
        self.finish_error: Exception | None = None

    def finish(self, tickets: Sequence[Ticket], groups: Sequence[Images]) -> list[Made]:
        assert self.finish_gate.wait(WAIT_S)
        if self.finish_error is not None:
            raise self.finish_error
        return super().finish(tickets, groups)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_that_the_trainer_does_not_allow_is_a_warning_at_once_and_an_error_in_the_end(
    open_rank: OpenRank, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.producer.complaints._REFUSED_S", 2.0)
    ring = KeyRing(tmp_path)
    ring.add("ann")
    (tmp_path / "ann.key").write_text((ring.folder / "ann.key").read_text())
    (tmp_path / "ann.key").chmod(0o600)
    ring.revoke("ann")
    rank = open_rank(keys=ring.trainer)
    running = RunningService(rank.socket.endpoint, StubEngine(), key=str(tmp_path / "ann.key"))
    rank.run_until(lambda: "not let in" in caplog.text)
    assert not running.ended()
    rank.run_until(running.ended)
    error = running.end()
    assert isinstance(error, RejectedError)
    assert "refuses the key" in str(error)
    assert str(tmp_path / "ann.key") in str(error)
    assert caplog.text.count("not let in") == 1


def test_a_key_that_is_allowed_while_the_producer_waits_lets_it_work(open_rank: OpenRank, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    ring.add("ann")
    (tmp_path / "ann.key").write_text((ring.folder / "ann.key").read_text())
    (tmp_path / "ann.key").chmod(0o600)
    allowed = (ring.folder / "allowed").read_text()
    ring.revoke("ann")
    rank = open_rank(keys=ring.trainer)
    rank.plan(0, 1)
    running = RunningService(rank.socket.endpoint, StubEngine(), key=str(tmp_path / "ann.key"))
    rank.run_until(lambda: bool(running.service._complaints.told_at))
    (ring.folder / "allowed").write_text(allowed)
    rank.run_until(lambda: len(rank.delivered) == 2)
    rank.say_bye()
    assert running.end() is None


def test_a_producer_without_a_key_learns_that_the_trainer_wants_one(open_rank: OpenRank, tmp_path: Path) -> None:
    rank = open_rank(keys=KeyRing(tmp_path).trainer)
    running = RunningService(rank.socket.endpoint, StubEngine(), trainer_timeout_s=3.0)
    rank.run_until(running.ended)
    assert "wants a key" in str(running.end())
