"""A producer's events, as it tells a rank of them."""

from collections.abc import Sequence

from penstock.protocol.actions import Send
from penstock.protocol.clock import ClockDifference
from penstock.protocol.limits import MAX_INT, MAX_TRACE_EVENTS, MAX_TRACE_KINDS
from penstock.protocol.messages import Ack, Message, Tickets, Welcome
from penstock.protocol.watching import Trace
from penstock.telemetry.recorder import Event, Flow, Recorder

_AT_ONCE = 128
"""Messages that tell of events, at most: as many as a full ring."""


def tell(recorder: Recorder, traced: tuple[bytes, ClockDifference] | None) -> list[Send]:
    """What is to be sent of the events so far; nothing as long as the clocks are not known.

    Args:
        recorder: has them.
        traced: who wants to hear of them, as `ProducerMachine.traced`.
    """
    if traced is None or (known := traced[1].best) is None:
        return []
    sends: list[Send] = []
    while len(sends) < _AT_ONCE and (events := recorder.drain(MAX_TRACE_EVENTS)):
        sends.append(Send(traced[0], trace_of(events, *known)))
    return sends


def mark_heard(recorder: Recorder, message: Message) -> None:
    """Take note of what a rank says of tickets, and begin to take notes at all where it wants to hear of them."""
    if isinstance(message, Welcome) and message.trace:
        recorder.trace()
    elif isinstance(message, Tickets):
        for ticket in message.tickets:
            recorder.mark("held", ticket.index, ticket.attempt, Flow.STEP)
    elif isinstance(message, Ack):
        for key in message.attempts:
            recorder.mark("acknowledged", key.index, key.attempt)


def trace_of(events: Sequence[Event], difference_ns: int, uncertainty_ns: int) -> Trace:
    """A message that tells of `events`, with their times on the rank's clock.

    What cannot be told is left out: a time that no clock shows, and kinds beyond as many as a message may have.

    Args:
        events: at most as many as a message may have.
        difference_ns: the rank's clock minus this one.
        uncertainty_ns: how wrong that may be.
    """
    kinds: dict[tuple[str, str, int], int] = {}
    told: list[int] = []
    for event in events:
        name = (event.stage, event.thread, int(event.flow))
        begin_ns, lasts_ns = event.begin_ns + difference_ns, event.end_ns - event.begin_ns
        if name not in kinds and len(kinds) == MAX_TRACE_KINDS:
            continue
        if 0 <= begin_ns <= MAX_INT // 2 and lasts_ns >= 0:
            told += (kinds.setdefault(name, len(kinds)), begin_ns, lasts_ns, event.ticket, event.attempt)
    return Trace(
        uncertainty_ns=uncertainty_ns,
        stages=tuple(stage for stage, _, _ in kinds),
        threads=tuple(thread for _, thread, _ in kinds),
        flows=tuple(flow for _, _, flow in kinds),
        events=tuple(told),
    )
