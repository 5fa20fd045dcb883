"""The rank's state machine, transition by transition, with the time in the test's hand."""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from penstock.protocol.actions import Action, Deliver, Fail, Note, Send
from penstock.protocol.codec import decode, encode
from penstock.protocol.errors import MessageError, VersionError
from penstock.protocol.limits import MAX_HEADER_BYTES, MAX_INT, PROTOCOL_VERSION
from penstock.protocol.messages import (
    Ack,
    Bye,
    Header,
    Heartbeat,
    Hello,
    Message,
    Nack,
    Ready,
    Reject,
    Result,
    Started,
    Tickets,
    Welcome,
)
from penstock.protocol.rank_machine import Patience, PeerState, RankMachine
from penstock.protocol.tickets import Manifest, Recipe, Ticket

PATIENCE = Patience(heartbeat_s=1.0, lease_s=10.0, max_attempts=3, max_bad_results=3)
HEADER = Header(run="run", incarnation=5)
RECIPE = Recipe(
    prompt="a red fox",
    seed=7,
    num_images=2,
    guidance_scale=2.0,
    num_inference_steps=8,
    scheduler="default",
    height=4,
    width=5,
    model_digest="d1",
)
PIXELS = bytes(range(120))
CRC32 = zlib.crc32(PIXELS)
MANIFEST = Manifest(
    model="tiny",
    model_digest="d1",
    scheduler="DDIMScheduler",
    dtype="float32",
    backend="eager",
    device="cpu",
    batch_images=8,
    versions={},
)
ANN, BOB = b"ann", b"bob"


def _ticket(index: int, **changes: object) -> Ticket:
    return replace(Ticket(index=index, rank=0, recipe=RECIPE), **changes)


def _machine(digest: str | None = "d1", patience: Patience = PATIENCE) -> RankMachine:
    return RankMachine(
        run_id="run",
        incarnation=5,
        rank=0,
        endpoints=("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"),
        model_digest=digest,
        patience=patience,
    )


def _say(
    machine: RankMachine,
    who: bytes,
    message: Message,
    now: float = 0.0,
    payload: bytes | None = None,
    header: Header = HEADER,
) -> list[Action]:
    return machine.on_message(who, header, message, payload, now)


def _join(machine: RankMachine, who: bytes, *, groups: int = 8, nbytes: int = 10**6, now: float = 0.0) -> list[Action]:
    actions = _say(machine, who, Hello(producer=who.decode(), manifest=MANIFEST), now, header=Header())
    return actions + _say(machine, who, Ready(credit_groups=groups, credit_bytes=nbytes), now)


def _result(index: int, attempt: int = 0, **changes: object) -> Result:
    result = Result(index=index, attempt=attempt, shape=(2, 4, 5, 3), crc32=CRC32, seconds=0.5)
    return replace(result, **changes)


def _sent(actions: Sequence[Action], kind: type[Message], to: bytes | None = None) -> list[Message]:
    sends = [action for action in actions if isinstance(action, Send) and (to is None or action.peer == to)]
    return [send.message for send in sends if isinstance(send.message, kind)]


def _given(actions: Sequence[Action], to: bytes | None = None) -> list[tuple[int, int]]:
    """(index, attempt) of the tickets handed out."""
    messages = _sent(actions, Tickets, to)
    return [(t.index, t.attempt) for m in messages if isinstance(m, Tickets) for t in m.tickets]


def _delivered(actions: Sequence[Action]) -> list[Deliver]:
    return [action for action in actions if isinstance(action, Deliver)]


def _warnings(actions: Sequence[Action]) -> list[str]:
    return [action.text for action in actions if isinstance(action, Note) and action.warning]


# --- joining -----------------------------------------------------------------------------------------


def test_hello_is_answered_with_the_run_and_its_ranks() -> None:
    machine = _machine()
    actions = _say(machine, ANN, Hello(producer="ann", manifest=MANIFEST), header=Header())
    assert _sent(actions, Welcome, ANN) == [
        Welcome(
            rank=0,
            world_size=2,
            endpoints=("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"),
            heartbeat_ms=1000,
            lease_ms=10_000,
        )
    ]
    assert machine.peers[ANN].state is PeerState.WARMING


def test_a_producer_without_credit_gets_nothing() -> None:
    machine = _machine()
    _say(machine, ANN, Hello(producer="ann", manifest=MANIFEST), header=Header())
    machine.plan(_ticket(0))
    assert _given(machine.issue(0.0)) == []
    assert _given(_say(machine, ANN, Ready(credit_groups=0, credit_bytes=10**6))) == []
    assert _given(_say(machine, ANN, Ready(credit_groups=1, credit_bytes=10**6))) == [(0, 0)]


def test_another_model_is_refused_with_both_digests_and_its_name() -> None:
    machine = _machine(digest="aaaa")
    hello = Hello(producer="ann", manifest=replace(MANIFEST, model="sd15", model_digest="bbbb"))
    actions = _say(machine, ANN, hello, header=Header())
    (reject,) = _sent(actions, Reject, ANN)
    assert isinstance(reject, Reject)
    assert all(word in reject.reason for word in ("ann", "sd15", "aaaa", "bbbb"))
    assert ANN not in machine.peers
    assert machine.rejects["model_digest", "ann"] == 1
    assert _warnings(actions)


def test_the_first_producer_pins_the_model_where_none_is_asked_for() -> None:
    machine = _machine(digest=None)
    _join(machine, ANN)
    assert machine.model_digest == "d1"
    other = Hello(producer="bob", manifest=replace(MANIFEST, model_digest="d2"))
    assert _sent(_say(machine, BOB, other, header=Header()), Reject, BOB)


def test_a_known_producer_that_returns_with_another_model_loses_its_tickets() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN)
    other = Hello(producer="ann", manifest=replace(MANIFEST, model_digest="d2"))
    _say(machine, ANN, other, header=Header())
    assert machine.peers == {}
    assert _given(_join(machine, BOB), BOB) == [(0, 1)]


def test_a_second_hello_gives_the_tickets_back_at_once() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    assert _given(_join(machine, ANN)) == [(0, 0)]
    _say(machine, ANN, Hello(producer="ann", manifest=MANIFEST), header=Header())
    assert machine.num_outstanding == 0
    assert _given(_say(machine, ANN, Ready(credit_groups=1, credit_bytes=10**6))) == [(0, 1)]


# --- handing out -------------------------------------------------------------------------------------


def test_tickets_go_lowest_index_first_to_whom_has_most_room() -> None:
    machine = _machine()
    _join(machine, ANN, groups=1)
    _join(machine, BOB, groups=3)
    for index in (9, 2, 5, 1):
        machine.plan(_ticket(index))
    actions = machine.issue(0.0)
    assert sorted(_given(actions)) == [(1, 0), (2, 0), (5, 0), (9, 0)]
    assert _given(actions, BOB)[0] == (1, 0)
    assert len(_given(actions, ANN)) == 1
    assert machine.num_outstanding == 4


def test_tickets_go_out_by_whole_batches() -> None:
    # A batch of 8 images is 4 groups of 2: six tickets are a whole batch for one producer, a begun one for the other.
    machine = _machine()
    _join(machine, ANN)
    _join(machine, BOB)
    for index in range(6):
        machine.plan(_ticket(index))
        machine.issue(0.0)
    assert sorted(len(peer.held) for peer in machine.peers.values()) == [2, 4]


def test_a_ticket_that_went_wrong_is_tried_by_another_first() -> None:
    machine = _machine()
    _join(machine, ANN)
    machine.plan(_ticket(0))
    machine.issue(0.0)
    _join(machine, BOB, groups=1)
    again = _say(machine, ANN, Nack(index=0, attempt=0, reason="cannot", retryable=True))
    assert _given(again, BOB) == [(0, 1)]


def test_credit_in_groups_is_never_exceeded() -> None:
    machine = _machine()
    _join(machine, ANN, groups=3)
    for index in range(10):
        machine.plan(_ticket(index))
    assert _given(machine.issue(0.0)) == [(0, 0), (1, 0), (2, 0)]
    assert _given(machine.issue(0.0)) == []
    assert machine.num_waiting == 10


def test_credit_in_bytes_is_never_exceeded() -> None:
    machine = _machine()
    _join(machine, ANN, nbytes=2 * RECIPE.nbytes + RECIPE.nbytes // 2)
    for index in range(10):
        machine.plan(_ticket(index))
    assert _given(machine.issue(0.0)) == [(0, 0), (1, 0)]
    assert machine.peers[ANN].held_bytes == 2 * RECIPE.nbytes


def test_a_finished_group_makes_room_at_once() -> None:
    machine = _machine()
    _join(machine, ANN, groups=1)
    machine.plan(_ticket(0))
    machine.plan(_ticket(1))
    machine.issue(0.0)
    assert _given(_say(machine, ANN, _result(0), payload=PIXELS)) == [(1, 0)]


def test_one_message_of_tickets_always_fits_a_header() -> None:
    machine = _machine()
    for index in range(600):
        machine.plan(_ticket(index, recipe=replace(RECIPE, prompt="x" * 8000)))
    actions = _join(machine, ANN, groups=MAX_INT, nbytes=MAX_INT)
    frames = [encode(message, HEADER) for message in _sent(actions, Tickets)]
    assert max(len(frame) for frame in frames) <= MAX_HEADER_BYTES
    decoded = [decode(frame)[1] for frame in frames]
    indices = [ticket.index for message in decoded if isinstance(message, Tickets) for ticket in message.tickets]
    assert indices == list(range(600))


def test_what_a_producer_holds_can_always_be_named_in_a_heartbeat() -> None:
    machine = _machine()
    for index in range(6000):
        machine.plan(_ticket(index))
    _join(machine, ANN, groups=MAX_INT, nbytes=MAX_INT)
    (answer,) = _sent(_say(machine, ANN, Heartbeat(held=(0,))), Heartbeat)
    assert decode(encode(answer, HEADER))[1] == answer


def test_an_index_is_planned_once() -> None:
    machine = _machine()
    machine.plan(_ticket(4))
    with pytest.raises(ValueError, match="ticket 4 is planned already"):
        machine.plan(_ticket(4))


# --- results -----------------------------------------------------------------------------------------


def test_a_whole_group_is_delivered_and_acknowledged_once() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN)
    actions = _say(machine, ANN, _result(0), payload=PIXELS)
    (delivered,) = _delivered(actions)
    assert (delivered.ticket.index, bytes(delivered.payload), delivered.producer) == (0, PIXELS, "ann")
    assert delivered.manifest == machine.peers[ANN].manifest
    assert _sent(actions, Ack, ANN) == [Ack(index=0, attempt=0)]
    assert (machine.num_waiting, machine.num_outstanding, machine.peers[ANN].held_bytes) == (0, 0, 0)
    replay = _say(machine, ANN, _result(0), payload=PIXELS)
    assert _delivered(replay) == []
    assert len(_sent(replay, Nack)) == 1


@pytest.mark.parametrize(
    ("changes", "payload", "word"),
    [
        ({}, None, "frame"),
        ({}, b"", "size"),
        ({}, PIXELS[:-1], "size"),
        ({}, PIXELS + b"\0", "size"),
        ({"crc32": CRC32 ^ 1}, PIXELS, "checksum"),
        ({}, b"\xff" + PIXELS[1:], "checksum"),
        ({"shape": (2, 5, 4, 3)}, PIXELS, "shape"),
        ({"shape": (120,)}, PIXELS, "shape"),
        ({"shape": ()}, PIXELS, "shape"),
        ({"shape": (2, 4, 5, 4)}, PIXELS, "shape"),
        ({"shape": (-1, 4, 5, 3)}, PIXELS, "shape"),
        ({"shape": (2**40, 2**40, 5, 3)}, PIXELS, "shape"),
    ],
)
def test_a_broken_group_is_refused_with_what_was_expected_and_made_again(
    changes: dict[str, object], payload: bytes | None, word: str
) -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN)
    actions = _say(machine, ANN, _result(0, **changes), payload=payload)
    assert _delivered(actions) == []
    (nack,) = _sent(actions, Nack, ANN)
    assert isinstance(nack, Nack)
    assert (nack.index, nack.attempt, nack.retryable) == (0, 0, True)
    assert word in nack.reason
    assert _given(actions) == [(0, 1)]
    assert _delivered(_say(machine, ANN, _result(0, attempt=1), payload=PIXELS))


def test_a_result_of_an_earlier_attempt_or_of_another_is_refused() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN)
    _say(machine, ANN, Nack(index=0, attempt=0, reason="no", retryable=True))
    _join(machine, BOB)
    for who, attempt in ((ANN, 0), (ANN, 2), (BOB, 1), (BOB, 0)):
        actions = _say(machine, who, _result(0, attempt=attempt), payload=PIXELS)
        (nack,) = _sent(actions, Nack, who)
        assert isinstance(nack, Nack)
        assert "stale" in nack.reason
        assert not nack.retryable
    assert _delivered(_say(machine, ANN, _result(0, attempt=1), payload=PIXELS))


def test_a_result_nobody_asked_for_is_refused_and_harms_nothing() -> None:
    machine = _machine()
    _join(machine, ANN)
    actions = _say(machine, ANN, _result(77), payload=PIXELS)
    assert _delivered(actions) == []
    assert machine.peers[ANN].bad_results == 0


def test_a_producer_of_broken_groups_is_refused_and_its_tickets_go_to_another() -> None:
    machine = _machine(patience=replace(PATIENCE, max_attempts=10))
    for index in range(4):
        machine.plan(_ticket(index))
    _join(machine, ANN, groups=4)
    _join(machine, BOB, groups=4)
    actions: list[Action] = []
    for _ in range(3):
        held = min(machine.peers[ANN].held)
        attempt = next(t for t in range(9) if _attempt_of(machine, held) == t)
        actions = _say(machine, ANN, _result(held, attempt=attempt, crc32=0), payload=PIXELS)
    (reject,) = _sent(actions, Reject, ANN)
    assert isinstance(reject, Reject)
    assert "3 broken groups" in reject.reason
    assert "checksum" in reject.reason
    assert ANN not in machine.peers
    assert machine.peers[BOB].held == {0, 1, 2, 3}


def _attempt_of(machine: RankMachine, index: int) -> int:
    return machine._table[index].ticket.attempt


def test_broken_groups_count_only_in_a_row() -> None:
    machine = _machine(patience=replace(PATIENCE, max_attempts=100))
    _join(machine, ANN)
    for index in range(6):
        machine.plan(_ticket(index))
        machine.issue(0.0)
        _say(machine, ANN, _result(index, crc32=0), payload=PIXELS)
        assert _delivered(_say(machine, ANN, _result(index, attempt=1), payload=PIXELS))
    assert ANN in machine.peers


# --- attempts ----------------------------------------------------------------------------------------


def test_a_ticket_that_nobody_can_make_stops_the_run_with_prompt_and_cause() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN)
    for attempt in range(2):
        actions = _say(machine, ANN, Nack(index=0, attempt=attempt, reason="no scheduler X", retryable=True))
        assert _given(actions) == [(0, attempt + 1)]
    actions = _say(machine, ANN, Nack(index=0, attempt=2, reason="no scheduler X", retryable=True))
    (fail,) = [action for action in actions if isinstance(action, Fail)]
    assert all(word in fail.text for word in ("ticket 0", "a red fox", "3 times", "ann", "no scheduler X"))


def test_a_nack_of_an_attempt_that_is_over_counts_for_nothing() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN)
    _say(machine, ANN, Nack(index=0, attempt=0, reason="no", retryable=True))
    for _ in range(5):
        actions = _say(machine, ANN, Nack(index=0, attempt=0, reason="no", retryable=True))
        assert not any(isinstance(action, Fail) for action in actions)
    assert machine.num_outstanding == 1


def test_producers_that_leave_count_no_failed_attempt() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    for life in range(10):
        who = b"p%d" % life
        assert _given(_join(machine, who), who) == [(0, life)]
        assert not any(isinstance(a, Fail) for a in _say(machine, who, Bye(reason="pre-empted")))
    _join(machine, ANN)
    actions = _say(machine, ANN, Nack(index=0, attempt=10, reason="no", retryable=True))
    assert not any(isinstance(action, Fail) for action in actions), "it has failed once, not eleven times"
    assert _given(actions) == [(0, 11)]


# --- time --------------------------------------------------------------------------------------------


def test_a_lease_lives_while_heartbeats_name_the_ticket() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN)
    for second in range(1, 60):
        actions = _say(machine, ANN, Heartbeat(held=(0,)), float(second))
        assert _sent(actions, Heartbeat, ANN) == [Heartbeat(held=(0,))]
        machine.tick(float(second))
    assert machine.expired == 0
    assert machine.num_outstanding == 1


def test_a_lease_runs_out_only_for_the_ticket_that_is_not_named() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    machine.plan(_ticket(1))
    _join(machine, ANN, groups=2)
    _join(machine, BOB, groups=0)
    for second in range(1, 11):
        _say(machine, ANN, Heartbeat(held=(0,)), float(second))
        assert _given(machine.tick(float(second))) == []
    _say(machine, ANN, Ready(credit_groups=1, credit_bytes=10**6), 10.5)
    _say(machine, BOB, Ready(credit_groups=4, credit_bytes=10**6), 10.5)
    actions = machine.tick(10.5)
    assert _given(actions, BOB) == [(1, 1)]
    assert machine.expired == 1
    assert machine.peers[ANN].held == {0}
    assert machine.peers[BOB].held == {1}


def test_a_ticket_named_by_whom_does_not_hold_it_still_runs_out() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN, groups=1)
    _join(machine, BOB, groups=0)
    for second in range(1, 12):
        _say(machine, BOB, Heartbeat(held=(0,)), float(second))
        _say(machine, ANN, Heartbeat(held=()), float(second))
        machine.tick(float(second))
    assert machine.expired == 1


def test_started_keeps_a_lease_too() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN)
    _say(machine, ANN, Started(indices=(0, 55)), 9.0)
    machine.tick(15.0)
    assert machine.expired == 0
    machine.tick(19.1)
    assert machine.expired == 1


def test_a_silent_producer_is_suspected_then_forgotten_and_comes_back_by_one_word() -> None:
    machine = _machine()
    _join(machine, ANN)
    assert _warnings(machine.tick(3.0)) == []
    assert any("ann" in text and "silent" in text for text in _warnings(machine.tick(3.5)))
    assert machine.peers[ANN].state is PeerState.SUSPECT
    machine.plan(_ticket(0))
    assert _given(machine.tick(4.0)) == [], "a suspect gets no new tickets"
    _say(machine, ANN, Heartbeat(held=()), 5.0)
    assert machine.peers[ANN].state is PeerState.READY
    assert _given(machine.tick(5.0)) == [(0, 0)]
    machine.tick(36.0)
    assert machine.peers == {}


def test_a_suspect_without_credit_does_not_become_ready() -> None:
    machine = _machine()
    _say(machine, ANN, Hello(producer="ann", manifest=MANIFEST), header=Header())
    machine.tick(5.0)
    assert machine.peers[ANN].state is PeerState.WARMING


def test_a_cold_start_burns_no_lease() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    for second in range(1000):
        machine.tick(float(second))
    assert machine.expired == 0
    assert _given(_join(machine, ANN, now=1000.0)) == [(0, 0)]


def test_bye_hands_the_tickets_to_others_in_the_same_breath() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    machine.plan(_ticket(1))
    _join(machine, ANN)
    _join(machine, BOB)
    assert machine.peers[ANN].held == {0, 1}
    actions = _say(machine, ANN, Bye(reason="drained"))
    assert _given(actions, BOB) == [(0, 1), (1, 1)]
    assert ANN not in machine.peers


def test_close_says_bye_to_everybody() -> None:
    machine = _machine()
    _join(machine, ANN)
    _join(machine, BOB)
    actions = machine.close("over")
    assert _sent(actions, Bye, ANN) == _sent(actions, Bye, BOB) == [Bye(reason="over")]


def test_nothing_is_handed_out_after_close() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN, groups=1)
    _join(machine, BOB, groups=1)
    machine.plan(_ticket(1))
    machine.close("over")
    assert machine.num_listening == 2
    assert _given(_say(machine, ANN, Bye(reason="the rank left"))) == []
    assert _given(machine.tick(1.0)) == []
    assert machine.num_listening == 1


# --- fences and nonsense -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [Header(run="run", incarnation=4), Header(run="run", incarnation=6), Header(run="other", incarnation=5)],
)
def test_what_another_life_asked_for_is_dropped_with_a_hint_to_say_hello(header: Header) -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN)
    actions = _say(machine, ANN, _result(0), payload=PIXELS, header=header)
    assert _delivered(actions) == []
    (nack,) = _sent(actions, Nack, ANN)
    assert isinstance(nack, Nack)
    assert (nack.index, nack.retryable) == (-1, True)


def test_a_stranger_is_told_to_say_hello() -> None:
    machine = _machine()
    (nack,) = _sent(_say(machine, ANN, Heartbeat(held=())), Nack, ANN)
    assert isinstance(nack, Nack)
    assert (nack.index, nack.retryable) == (-1, True)
    assert machine.peers == {}


@pytest.mark.parametrize(
    "message",
    [
        Ack(index=0, attempt=0),
        Tickets(tickets=()),
        Reject(reason="no"),
        Welcome(rank=0, world_size=1, endpoints=(), heartbeat_ms=1, lease_ms=1),
    ],
    ids=lambda message: message.kind,
)
def test_a_message_that_only_ranks_send_is_refused(message: Message) -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN)
    (nack,) = _sent(_say(machine, ANN, message), Nack, ANN)
    assert isinstance(nack, Nack)
    assert message.kind in nack.reason
    assert machine.num_outstanding == 1


def test_garbage_is_counted_answered_and_costs_nothing_else() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    _join(machine, ANN)
    actions = machine.on_garbage(ANN, MessageError("truncated", "at byte 3 of 9"))
    (nack,) = _sent(actions, Nack, ANN)
    assert isinstance(nack, Nack)
    assert not nack.retryable
    assert "truncated" in nack.reason
    assert machine.rejects["truncated", "ann"] == 1
    assert machine.num_outstanding == 1
    assert any("ann" in text and "truncated" in text for text in _warnings(actions))


def test_another_version_is_refused_with_both_versions() -> None:
    machine = _machine()
    actions = machine.on_garbage(ANN, VersionError(99, PROTOCOL_VERSION))
    (reject,) = _sent(actions, Reject, ANN)
    assert isinstance(reject, Reject)
    assert "99" in reject.reason
    assert str(PROTOCOL_VERSION) in reject.reason


def test_impossible_indices_in_heartbeats_and_started_harm_nothing() -> None:
    machine = _machine()
    machine.plan(_ticket(0))
    machine.plan(_ticket(1))
    _join(machine, ANN, groups=1)
    for message in (Heartbeat(held=(-1, 1, 2**62)), Started(indices=(-1, 1, 2**62))):
        _say(machine, ANN, message)
    assert machine.num_outstanding == 1
    _join(machine, BOB)
    assert machine.peers[BOB].held == {1}
