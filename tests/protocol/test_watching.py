"""What a producer tells of itself, clocks, and traces: they change nothing else, whatever stands in them."""

from dataclasses import replace

import pytest

from penstock.protocol.actions import Traced
from penstock.protocol.clock import ClockDifference
from penstock.protocol.messages import Header, Heartbeat, Nack, Welcome
from penstock.protocol.watching import Clock, Status, Trace
from tests.protocol import bench as producer
from tests.protocol.bench import LIFE, R0, R1, Bench, welcome
from tests.protocol.desk import ANN, Desk, sent

S = 10**9
STATUS = Status(clock_ns=5 * S, images=40, busy_s=12.5, unfinished_s=0.5, flops=1e15, matrix_flops_per_s=1e14)
TRACE = Trace(
    uncertainty_ns=5,
    stages=("encode",),
    threads=("finish",),
    flows=(2,),
    events=(0, 7 * S, 1000, 3, 0, 0, 8 * S, 0, -1, 0),
)

# --- clocks -----------------------------------------------------------------------------------------------------------


def test_the_difference_is_ntp_s() -> None:
    """RFC 5905, section 8: theta = ((T2 - T1) + (T3 - T4)) / 2, delta = (T4 - T1) - (T3 - T2)."""
    clock = ClockDifference()
    assert clock.best is None
    clock.hear(1000, 71_000, 71_500, 3500)
    assert clock.best == (((71_000 - 1000) + (71_500 - 3500)) // 2, (2500 - 500) // 2)


@pytest.mark.parametrize("ahead", [-(10**15), -1, 0, 3 * 10**9])
def test_the_truth_lies_within_the_uncertainty_however_unequal_the_ways_are(ahead: int) -> None:
    clock = ClockDifference()
    for there, back in ((900, 20), (10, 4000), (300, 200)):
        sent_at = 10**16
        heard = sent_at + there + ahead
        clock.hear(sent_at, heard, heard + 70, sent_at + there + 70 + back)
        assert clock.best is not None
        difference, uncertainty = clock.best
        assert abs(difference - ahead) <= uncertainty + 1
    assert clock.best[1] == 250, "that of the smallest round trip counts"


def test_old_answers_are_forgotten_since_clocks_drift() -> None:
    clock = ClockDifference()
    clock.hear(0, 100, 100, 2)
    for _ in range(8):
        clock.hear(0, 900, 900, 10)
    assert clock.best == (895, 5)


@pytest.mark.parametrize("times", [(5, 0, 0, 4), (0, 9, 8, 20), (0, 0, 50, 20)])
def test_an_answer_that_cannot_be_is_not_believed(times: tuple[int, int, int, int]) -> None:
    clock = ClockDifference()
    clock.hear(*times)
    assert clock.best is None


# --- the rank's side --------------------------------------------------------------------------------------------------


def test_a_status_is_answered_by_the_clock_and_shown() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.now = 8.25
    assert desk.machine.peers[ANN].look(desk.now).status is None
    answers = desk.say(ANN, STATUS)
    assert sent(answers, Clock, ANN) == [Clock(echo_ns=5 * S, heard_ns=8_250_000_000, sent_ns=8_250_000_000)]
    assert desk.machine.peers[ANN].look(desk.now).status == STATUS


def test_a_rank_that_traces_says_so_and_keeps_what_it_is_told() -> None:
    desk = Desk(traces=True)
    (told,) = sent(desk.join(ANN), Welcome)
    assert told.trace
    assert desk.say(ANN, TRACE) == [Traced(ANN, "ann", TRACE)]


def test_a_rank_that_does_not_trace_refuses_events() -> None:
    desk = Desk()
    (told,) = sent(desk.join(ANN), Welcome)
    assert not told.trace
    (nack,) = sent(desk.say(ANN, TRACE), Nack)
    assert (nack.reason, nack.index, nack.retryable) == ("trace: this rank does not trace", -1, False)
    assert desk.machine.rejects.counts["trace", "ann"] == 1
    assert ANN in desk.machine.peers, "it costs the message and nothing else"


def test_a_flood_of_both_changes_no_ticket() -> None:
    desk = Desk(traces=True)
    desk.join(ANN)
    desk.plan(0, 1, 2)
    before = desk.held(ANN)
    for number in range(300):
        desk.say(ANN, replace(STATUS, images=2**62, busy_s=1e30, flops=float(number)))
        desk.say(ANN, TRACE)
    assert desk.held(ANN) == before
    desk.work(ANN, 0, 1, 2, seconds=1.0)
    assert desk.machine.peers[ANN].groups == 3


# --- the producer's side ----------------------------------------------------------------------------------------------


def test_a_status_goes_to_every_rank_beside_each_heartbeat() -> None:
    bench = Bench(ranks=2)
    for now in (1.0, 1.5, 2.0):
        actions = bench.machine.tick(now, STATUS)
        expected = [] if now == 1.5 else [STATUS]
        for peer in (R0, R1):
            assert producer.sent(actions, Status, peer) == expected
            assert len(producer.sent(actions, Heartbeat, peer)) == len(expected)
    assert producer.sent(bench.machine.tick(9.0), Status) == [], "nothing is known of its work"


def test_a_producer_tells_the_rank_that_asks_once_it_knows_its_clock() -> None:
    bench = Bench(ranks=2)
    assert bench.machine.traced is None
    bench.hear(replace(welcome(0, (producer.RANK0, producer.RANK1)), trace=True))
    assert bench.machine.traced is not None
    peer, clock = bench.machine.traced
    assert (peer, clock.best) == (R0, None)
    bench.now = 5.0
    bench.hear(Clock(echo_ns=4 * S, heard_ns=90 * S, sent_ns=90 * S))
    assert clock.best == (int(85.5 * S), S // 2)


def test_another_life_of_a_rank_has_another_clock_and_may_not_trace() -> None:
    bench = Bench(ranks=0)
    bench.hear(replace(welcome(), trace=True))
    bench.hear(Clock(echo_ns=0, heard_ns=9, sent_ns=9))
    bench.hear(replace(welcome(), trace=True), header=Header(run="run", incarnation=6))
    assert bench.machine.traced is not None
    assert bench.machine.traced[1].best is None
    bench.hear(welcome(), header=Header(run="run", incarnation=7))
    assert bench.machine.traced is None


def test_a_clock_of_another_life_is_not_heard() -> None:
    bench = Bench(ranks=0)
    bench.hear(replace(welcome(), trace=True))
    bench.hear(Clock(echo_ns=0, heard_ns=9, sent_ns=9), header=replace(LIFE, incarnation=4))
    assert bench.machine.traced is not None
    assert bench.machine.traced[1].best is None
