"""The rank's fences and answers, message by message, with the time in the test's hand."""

from dataclasses import replace
from typing import Any

import pytest

from penstock.protocol.actions import Deliver
from penstock.protocol.admission import Expectation
from penstock.protocol.errors import MessageError, VersionError
from penstock.protocol.fleet import PeerState
from penstock.protocol.limits import PROTOCOL_VERSION
from penstock.protocol.messages import (
    Ack,
    Bye,
    Cancel,
    Drain,
    Header,
    Heartbeat,
    Message,
    Nack,
    Ready,
    Reject,
    Started,
    Tickets,
    Welcome,
)
from penstock.protocol.tickets import Attempt, Kind
from tests.protocol.desk import ANN, BOB, CAT, ENDPOINTS, PATIENCE, Desk, delivered, given, notes, sent
from tests.protocol.samples import CRC32, MANIFEST, NBYTES, PIXELS, a_ticket

# --- joining ----------------------------------------------------------------------------------------------------------


def test_hello_is_answered_with_the_run_and_its_ranks() -> None:
    desk = Desk()
    welcome = Welcome(rank=0, world_size=2, endpoints=ENDPOINTS, keys=(), heartbeat_ms=1000, lease_ms=10_000)
    assert sent(desk.hello(ANN), Welcome, ANN) == [welcome]
    assert desk.machine.peers[ANN].state is PeerState.WARMING


def test_a_producer_that_is_still_loading_gets_nothing_until_it_says_ready() -> None:
    desk = Desk()
    desk.hello(ANN)
    assert given(desk.plan(0)) == []
    assert given(desk.wait(400.0, ANN)) == [], "its heartbeats keep it welcome"
    assert given(desk.ready(ANN)) == [(0, 0)]
    assert desk.machine.peers[ANN].state is PeerState.READY


def test_a_producer_without_credit_gets_nothing() -> None:
    desk = Desk()
    desk.join(ANN, groups=0)
    assert given(desk.plan(0)) == []
    assert given(desk.ready(ANN, groups=1)) == [(0, 0)]


def test_another_model_is_refused_with_both_digests_and_its_name() -> None:
    desk = Desk(expects=Expectation(model_digest="aaaa"))
    actions = desk.hello(ANN, replace(MANIFEST, model="sd15", model_digest="bbbb"))
    (reject,) = sent(actions, Reject, ANN)
    assert all(word in reject.reason for word in ("ann", "sd15", "aaaa", "bbbb"))
    assert desk.machine.peers == {}
    assert desk.machine.rejects.counts == {("model", "ann"): 1}
    assert any("sd15" in text for text in notes(actions, warning=True))


def test_the_first_producer_pins_the_model_where_none_is_asked_for() -> None:
    desk = Desk(expects=Expectation())
    desk.join(ANN)
    assert desk.machine.engines == {Kind.GENERATED: MANIFEST}
    assert sent(desk.hello(BOB, replace(MANIFEST, model_digest="d2")), Reject, BOB)


def test_a_run_that_filters_wants_a_scorer_and_all_of_its_producers_the_first_one_s() -> None:
    desk = Desk(expects=Expectation(filters=True))
    (reject,) = sent(desk.hello(ANN), Reject, ANN)
    assert reject.reason == "ann has no scorer, and this run filters its images: penstock produce --scorer NAME"
    assert sent(desk.hello(BOB, replace(MANIFEST, scorer="5c")), Welcome, BOB)
    (reject,) = sent(desk.hello(CAT, replace(MANIFEST, scorer="ab")), Reject, CAT)
    assert reject.reason == "cat scores with digest ab, this run filters by 5c: use its --scorer"
    assert desk.machine.rejects.counts == {("scorer", "ann"): 1, ("scorer", "cat"): 1}
    assert sent(desk.hello(CAT, replace(MANIFEST, scorer="5c")), Welcome, CAT)


def test_a_later_life_filters_by_the_scorer_of_the_first_whoever_comes_first() -> None:
    desk = Desk(expects=Expectation(filters=True, scorer="5c"))
    assert sent(desk.hello(ANN, replace(MANIFEST, scorer="ab")), Reject, ANN)
    assert sent(desk.hello(BOB, replace(MANIFEST, scorer="5c")), Welcome, BOB)


def test_a_run_that_does_not_filter_takes_producers_with_any_scorer_or_none() -> None:
    desk = Desk(expects=Expectation())
    for who, scorer in ((ANN, ""), (BOB, "5c"), (CAT, "ab")):
        assert sent(desk.hello(who, replace(MANIFEST, scorer=scorer)), Welcome, who)


def test_a_group_says_which_candidates_it_is_of_and_what_its_frame_s_checksum_was() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.machine.plan(a_ticket(0, scorer_digest="5c", num_candidates=3, max_candidates=6))
    desk.machine.issue(desk.now, eager=True)
    actions = desk.make(ANN, 0, candidates=(1, 4), num_made=6, num_unsatisfied=1)
    [group] = [action for action in actions if isinstance(action, Deliver)]
    assert (group.candidates, group.num_made, group.num_unsatisfied, group.crc32) == ((1, 4), 6, 1, CRC32)


def test_a_refused_producer_pins_nothing() -> None:
    desk = Desk()
    desk.hello(ANN, replace(MANIFEST, model_digest="d2"))
    assert desk.machine.engines == {}
    assert sent(desk.hello(BOB), Welcome, BOB)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "float16"}, ("dtype float16", "float32")),
        ({"device": "H200"}, ("device H200", "cpu")),
        ({"batch_images": 16}, ("batch_images 16", "8")),
        ({"settings": {"vae": "tiny"}}, ("settings", "tiny", "full")),
        ({"versions": {"torch": "2.12"}}, ("versions", "2.12", "2.11")),
    ],
)
def test_the_same_engine_is_pinned_by_the_whole_manifest_and_a_refusal_names_what_differs(
    change: dict[str, Any], words: tuple[str, ...]
) -> None:
    other = replace(MANIFEST, **change)
    loose = Desk()
    loose.join(ANN)
    assert sent(loose.hello(BOB, other), Welcome, BOB), "without same_engine only the model counts"
    strict = Desk(expects=Expectation(model_digest="d1", same_engine=True))
    strict.join(ANN)
    (reject,) = sent(strict.hello(BOB, other), Reject, BOB)
    assert all(word in reject.reason for word in words)
    assert "backend" not in reject.reason, "what agrees is not named"
    assert strict.machine.rejects.counts == {("engine", "bob"): 1}


def test_the_name_of_a_model_is_no_part_of_its_engine() -> None:
    desk = Desk(expects=Expectation(same_engine=True))
    desk.join(ANN)
    assert sent(desk.hello(BOB, replace(MANIFEST, model="/models/tiny")), Welcome, BOB)


def test_a_manifest_that_an_earlier_life_recorded_is_expected_of_the_first_producer_too() -> None:
    desk = Desk(expects=Expectation(manifest_digest=MANIFEST.digest, same_engine=True))
    (reject,) = sent(desk.hello(ANN, replace(MANIFEST, dtype="float16")), Reject, ANN)
    assert MANIFEST.digest[:12] in reject.reason
    assert sent(desk.hello(BOB), Welcome, BOB)


def test_a_known_producer_that_returns_with_another_model_loses_its_tickets() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    desk.hello(ANN, replace(MANIFEST, model_digest="d2"))
    assert desk.machine.peers == {}
    assert given(desk.join(BOB), BOB) == [(0, 1)]


def test_a_second_hello_gives_the_tickets_back_at_once() -> None:
    desk = Desk()
    desk.join(ANN)
    assert given(desk.plan(0)) == [(0, 0)]
    desk.hello(ANN)
    assert desk.machine.num_outstanding == 0
    assert given(desk.ready(ANN)) == [(0, 1)]


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_whole_group_is_delivered_and_acknowledged_once() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    actions = desk.make(ANN, 0)
    (group,) = [action for action in actions if isinstance(action, Deliver)]
    assert (group.ticket.index, bytes(group.payload), group.producer) == (0, PIXELS, "ann")
    assert group.manifest == MANIFEST
    assert sent(actions, Ack, ANN) == [Ack(attempts=(Attempt(0, 0),))]
    assert (desk.machine.num_waiting, desk.machine.num_outstanding) == (0, 0)
    assert desk.machine.peers[ANN].held_bytes == 0
    again = desk.make(ANN, 0, attempt=0)
    assert delivered(again) == []
    (nack,) = sent(again, Nack, ANN)
    assert (nack.index, nack.attempt, nack.retryable) == (0, 0, False)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"payload": None}, "frame_count"),
        ({"payload": b""}, "size"),
        ({"payload": PIXELS[:-1]}, "size"),
        ({"payload": PIXELS + b"\0"}, "size"),
        ({"crc32": CRC32 ^ 1}, "checksum"),
        ({"payload": b"\xff" + PIXELS[1:]}, "checksum"),
        ({"shape": (2, 5, 4, 3)}, "shape"),
        ({"shape": (1, 4, 5, 3)}, "shape"),
        ({"shape": (1024, 8192, 8192, 3)}, "shape"),
        # The CRC-32 of 120 zero bytes, by gzip.
        ({"payload": bytes(NBYTES), "crc32": 962427431}, "blank"),
    ],
)
def test_a_broken_group_is_refused_with_what_was_expected_and_made_again(changes: dict[str, Any], word: str) -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    actions = desk.make(ANN, 0, **changes)
    assert delivered(actions) == []
    (nack,) = sent(actions, Nack, ANN)
    assert (nack.index, nack.attempt, nack.retryable) == (0, 0, True)
    assert nack.reason.startswith(f"{word}: ")
    assert desk.machine.rejects.counts == {(word, "ann"): 1}
    assert given(actions) == [(0, 1)]
    assert delivered(desk.make(ANN, 0)) == [0]


def test_a_result_of_an_earlier_attempt_or_of_another_is_refused() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    desk.refuse(ANN, 0)
    desk.join(BOB)
    for who, attempt in ((ANN, 0), (ANN, 2), (BOB, 1), (BOB, 0)):
        (nack,) = sent(desk.make(who, 0, attempt=attempt), Nack, who)
        assert nack.reason.startswith("stale: ")
        assert not nack.retryable
    assert delivered(desk.make(ANN, 0, attempt=1)) == [0]


def test_a_result_nobody_asked_for_is_refused_and_harms_nothing() -> None:
    desk = Desk()
    desk.join(ANN)
    assert delivered(desk.make(ANN, 77, attempt=0)) == []
    assert desk.machine.peers[ANN].bad_results == 0


def test_a_producer_of_broken_groups_is_refused_and_its_tickets_go_to_another() -> None:
    desk = Desk(patience=replace(PATIENCE, max_attempts=10))
    desk.join(ANN, groups=4)
    desk.plan(0, 1, 2, 3)
    desk.join(BOB, groups=4)
    for index in (0, 1, 2):
        actions = desk.make(ANN, index, crc32=0)
    (reject,) = sent(actions, Reject, ANN)
    assert "3 broken groups in a row" in reject.reason
    assert "checksum" in reject.reason
    assert set(desk.machine.peers) == {BOB}
    assert set(desk.machine.peers[BOB].held) == {0, 1, 2, 3}


def test_who_comes_again_and_again_with_broken_groups_does_not_fill_the_log() -> None:
    desk = Desk(patience=replace(PATIENCE, max_attempts=10**6))
    lines = []
    for _ in range(64):
        said = notes(desk.join(ANN, groups=4)) + notes(desk.plan(*(range(3) if not lines else ())))
        for index in range(3):
            said += notes(desk.make(ANN, index, crc32=0))
        lines.append(said)
    assert any("joined" in text for text in lines[0])
    assert any("refused: 3 broken groups in a row" in text for text in lines[0])
    assert sum(map(len, lines)) < 64, "of 64 times 7: what is told, is told at the first, second, fourth, … time"
    assert sum(map(len, lines[33:])) < 8
    desk.join(BOB)
    assert any("checksum" in text for text in notes(desk.make(BOB, 0, crc32=0))), "another is told of"


def test_broken_groups_count_only_in_a_row() -> None:
    desk = Desk(patience=replace(PATIENCE, max_attempts=100))
    desk.join(ANN)
    for index in range(6):
        desk.plan(index)
        desk.make(ANN, index, crc32=0)
        assert delivered(desk.make(ANN, index)) == [index]
    assert ANN in desk.machine.peers


# --- fences and nonsense ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        Header(run="run", incarnation=4, seq=99),
        Header(run="run", incarnation=6, seq=99),
        Header(run="other", incarnation=5, seq=99),
    ],
)
def test_what_another_life_asked_for_is_dropped_with_a_hint_to_say_hello(header: Header) -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    actions = desk.say(ANN, Started(attempts=(Attempt(0, 0),)), header=header)
    (nack,) = sent(actions, Nack, ANN)
    assert (nack.index, nack.retryable) == (-1, True)
    assert nack.reason.startswith("life: ")
    assert "running" not in desk.machine.describe_wait(0.0)


def test_numbers_of_messages_must_grow_and_may_have_gaps() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    head = Header(run="run", incarnation=5)
    assert sent(desk.say(ANN, Heartbeat(held=()), header=replace(head, seq=50)), Nack) == []
    for seq in (50, 49, 0):
        actions = desk.say(ANN, Bye(reason="an old one"), header=replace(head, seq=seq))
        (nack,) = sent(actions, Nack, ANN)
        assert nack.reason.startswith("sequence: ")
        assert (nack.index, nack.retryable) == (-1, False), "the producer need not say HELLO for it"
        assert str(seq) in nack.reason
        assert "50" in nack.reason
    assert ANN in desk.machine.peers
    assert desk.machine.rejects.counts == {("sequence", "ann"): 3}
    assert desk.say(ANN, Bye(reason="over"), header=replace(head, seq=52))
    assert ANN not in desk.machine.peers


def test_a_result_that_comes_twice_counts_once() -> None:
    desk = Desk(order="ticket")
    desk.join(ANN)
    desk.plan(0, 1)
    assert delivered(desk.make(ANN, 1)) == [], "number 0 is before it"
    desk.make(ANN, 1, attempt=0)
    assert delivered(desk.make(ANN, 0)) == [0, 1]


@pytest.mark.parametrize(("groups", "nbytes"), [(8, 10**6), (10**6, 8 * NBYTES)])
def test_groups_are_acknowledged_together_when_a_quarter_of_the_credit_has_come(groups: int, nbytes: int) -> None:
    desk = Desk()
    desk.join(ANN, groups=groups, nbytes=nbytes)
    desk.plan(*range(8))
    acks = [sent(desk.make(ANN, index), Ack, ANN) for index in range(6)]
    pair = [[Ack(attempts=(Attempt(index, 0), Attempt(index + 1, 0)))] for index in (0, 2, 4)]
    assert acks == [[], pair[0], [], pair[1], [], pair[2]]


def test_no_group_waits_for_its_acknowledgement_longer_than_a_tick() -> None:
    desk = Desk()
    desk.join(ANN, groups=8)
    desk.plan(*range(8))
    assert sent(desk.make(ANN, 0), Ack) == []
    desk.now += 0.05
    assert sent(desk.machine.tick(desk.now), Ack, ANN) == [Ack(attempts=(Attempt(0, 0),))]
    assert sent(desk.machine.tick(desk.now), Ack) == []


def test_the_last_group_that_a_producer_holds_is_acknowledged_at_once() -> None:
    desk = Desk()
    desk.join(ANN, groups=100)
    desk.plan(0, 1)
    assert sent(desk.make(ANN, 0), Ack) == []
    assert sent(desk.make(ANN, 1), Ack, ANN) == [Ack(attempts=(Attempt(0, 0), Attempt(1, 0)))]


def test_a_stranger_is_told_to_say_hello() -> None:
    desk = Desk()
    (nack,) = sent(desk.say(ANN, Heartbeat(held=())), Nack, ANN)
    assert (nack.index, nack.retryable) == (-1, True)
    assert desk.machine.peers == {}
    assert desk.machine.rejects.counts == {("unknown_producer", "unknown"): 1}


@pytest.mark.parametrize(
    "message",
    [
        Ack(attempts=(Attempt(0, 0),)),
        Tickets(tickets=()),
        Cancel(attempts=()),
        Reject(reason="no"),
        Welcome(rank=0, world_size=1, endpoints=ENDPOINTS[:1], keys=(), heartbeat_ms=1, lease_ms=1),
    ],
    ids=lambda message: message.kind,
)
def test_a_message_that_only_ranks_send_is_refused(message: Message) -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    (nack,) = sent(desk.say(ANN, message), Nack, ANN)
    assert message.kind in nack.reason
    assert desk.machine.num_outstanding == 1


def test_garbage_is_counted_answered_and_costs_nothing_else() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    actions = desk.machine.on_garbage(ANN, MessageError("truncated", "at byte 3 of 9"))
    (nack,) = sent(actions, Nack, ANN)
    assert not nack.retryable
    assert "truncated" in nack.reason
    assert desk.machine.rejects.counts == {("truncated", "ann"): 1}
    assert desk.machine.num_outstanding == 1
    assert any("ann" in text and "truncated" in text for text in notes(actions, warning=True))


def test_a_flood_of_garbage_is_noted_at_the_first_second_fourth_and_eighth() -> None:
    desk = Desk()
    desk.join(ANN)
    noted = []
    for number in range(1, 16):
        if notes(desk.machine.on_garbage(ANN, MessageError("truncated", "at byte 3 of 9"))):
            noted.append(number)
    assert noted == [1, 2, 4, 8]
    assert desk.machine.rejects.counts["truncated", "ann"] == 15


def test_a_flood_of_drains_is_noted_once() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0, 1)
    actions = [action for _ in range(1000) for action in desk.say(ANN, Drain(returned=(), reason="bored"))]
    (note,) = notes(actions)
    assert "ann drains: bored" in note
    desk.say(ANN, Drain(returned=desk.held(ANN, 1), reason="bored"))
    assert desk.held(ANN) == (Attempt(0, 0),), "what the second returns goes back too"


def test_a_flood_of_hellos_is_noted_at_the_first_second_fourth_and_eighth_of_a_name() -> None:
    desk = Desk()
    assert len(notes(desk.join(ANN))) == 1
    again = [notes(desk.join(ANN)) for _ in range(10)]
    assert [times for times, said in enumerate(again, 1) if said] == [1, 2, 4, 8]
    assert any("said HELLO again" in text for text in again[0])
    desk.join(BOB)
    assert notes(desk.join(BOB)), "another is counted apart"


def test_another_version_is_refused_with_both_versions() -> None:
    actions = Desk().machine.on_garbage(ANN, VersionError(99, PROTOCOL_VERSION))
    (reject,) = sent(actions, Reject, ANN)
    assert "99" in reject.reason
    assert str(PROTOCOL_VERSION) in reject.reason


@pytest.mark.parametrize("kind", [Heartbeat, Started])
def test_impossible_attempts_in_heartbeats_and_started_harm_nothing(kind: type[Heartbeat] | type[Started]) -> None:
    desk = Desk()
    desk.join(ANN, groups=1)
    desk.plan(0, 1)
    named = (Attempt(1, 0), Attempt(0, 7), Attempt(2**62, 2**62))
    message = Heartbeat(held=named) if kind is Heartbeat else Started(attempts=named)
    assert sent(desk.say(ANN, message), Nack) == []
    assert desk.machine.num_outstanding == 1
    assert "running" not in desk.machine.describe_wait(0.0)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_close_says_bye_to_everybody() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.join(BOB)
    actions = desk.machine.close("over")
    assert sent(actions, Bye, ANN) == sent(actions, Bye, BOB) == [Bye(reason="over")]


def test_nothing_is_handed_out_after_close() -> None:
    desk = Desk()
    desk.join(ANN, groups=1)
    desk.join(BOB, groups=1)
    desk.plan(0, 1, 2)
    desk.machine.close("over")
    assert desk.machine.num_listening == 2
    assert given(desk.say(ANN, Bye(reason="the rank left"))) == []
    assert given(desk.ready(BOB, groups=5)) == []
    assert given(desk.wait(1.0)) == []
    assert desk.machine.num_listening == 1


def test_ready_may_be_said_again_with_another_credit() -> None:
    desk = Desk()
    desk.join(ANN, groups=2)
    assert given(desk.plan(*range(6))) == [(0, 0), (1, 0)]
    assert given(desk.say(ANN, Ready(credit_groups=5, credit_bytes=10**6))) == [(2, 0), (3, 0), (4, 0)]
    assert desk.machine.num_outstanding == 5
