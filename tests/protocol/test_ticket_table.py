"""The rank's book of tickets: states, places, bytes and the order of delivery."""

import pytest

from penstock.protocol.actions import Deliver
from penstock.protocol.ticket_table import Entry, Fault, TicketState, TicketTable
from tests.protocol.desk import ANN, BOB
from tests.protocol.samples import MANIFEST, NBYTES, PIXELS, a_ticket


def _table(*indices: int, in_order: bool = False) -> TicketTable:
    table = TicketTable(in_order=in_order)
    for index in indices:
        table.plan(a_ticket(index))
    return table


def _entry(table: TicketTable, index: int) -> Entry:
    entry = table.get(index)
    assert entry is not None
    return entry


def _buffer(table: TicketTable, index: int) -> list[int]:
    entry = _entry(table, index)
    for hold in tuple(entry.holds):
        table.release(entry, hold)
    group = Deliver(a_ticket(index), PIXELS, "ann", MANIFEST, NBYTES)
    return [delivered.ticket.index for delivered in table.buffer(entry, group)]


def _next(table: TicketTable) -> int | None:
    entry = table.pop_planned({"d1"})
    if entry is None:
        return None
    table.put_back(entry)
    return entry.ticket.index


def test_a_ticket_goes_from_the_plan_to_delivery_through_its_states() -> None:
    table = _table(0, 1, in_order=True)
    entry = _entry(table, 1)
    assert entry.state is TicketState.PLANNED
    table.issue(entry, ANN, 0.0)
    assert entry.state is TicketState.ISSUED
    entry.holds[0].started_at = 1.0
    assert entry.state is TicketState.RUNNING
    assert _buffer(table, 1) == []
    assert entry.state is TicketState.BUFFERED
    assert _buffer(table, 0) == [0, 1]
    assert (len(table), table.num_untaken) == (0, 2)


def test_tickets_are_planned_in_the_order_in_which_they_came_and_go_back_to_their_place() -> None:
    table = _table(9, 2, 5)
    first = _entry(table, 9)
    table.issue(first, ANN, 0.0)
    assert _next(table) == 2
    table.release(first, first.holds[0])
    assert _next(table) == 9
    assert table.head is first


def test_each_handing_out_is_an_attempt_of_its_own() -> None:
    table = _table(0)
    entry = _entry(table, 0)
    attempts = []
    for _ in range(3):
        attempts.append(table.issue(entry, ANN, 0.0).attempt)
        table.release(entry, entry.holds[0])
    assert attempts == [0, 1, 2]


def _end(table: TicketTable, entry: Entry, *faults: Fault) -> list[bool]:
    """Hand the ticket out once for each of these ends; whether it was alone each time."""
    alone = []
    for fault in faults:
        alone.append(table.issue(entry, ANN, 0.0).alone)
        (hold,) = entry.holds
        assert hold.alone is alone[-1]
        table.release(entry, hold)
        entry.count(hold, fault)
    return alone


@pytest.mark.parametrize(
    ("faults", "alone"),
    [
        ((Fault.NOBODY,) * 9, False),
        ((Fault.PRODUCER,) * 9, False),
        ((Fault.UNKNOWN,), False),
        ((Fault.UNKNOWN, Fault.UNKNOWN), True),
        ((Fault.TICKET, Fault.UNKNOWN), True),
        ((Fault.TICKET, Fault.TICKET), True),
        ((Fault.UNKNOWN, Fault.NOBODY, Fault.PRODUCER), False),
    ],
)
def test_a_ticket_is_alone_after_two_failures_or_losses(faults: tuple[Fault, ...], alone: bool) -> None:
    table = _table(0)
    entry = _entry(table, 0)
    assert not any(_end(table, entry, *faults)[:2])
    assert table.issue(entry, BOB, 0.0).alone is alone


def test_what_is_lost_speaks_against_the_ticket_only_where_it_was_alone() -> None:
    table = _table(0)
    entry = _entry(table, 0)
    assert _end(table, entry, Fault.UNKNOWN, Fault.UNKNOWN) == [False, False]
    assert (entry.failures, entry.losses) == (0, 2)
    assert _end(table, entry, Fault.UNKNOWN, Fault.NOBODY, Fault.PRODUCER, Fault.UNKNOWN) == [True] * 4
    assert (entry.failures, entry.losses) == (2, 2)


def test_a_stand_in_is_made_in_company() -> None:
    table = _table(0)
    entry = _entry(table, 0)
    _end(table, entry, Fault.UNKNOWN, Fault.UNKNOWN, *[Fault.TICKET] * 4)
    table.quarantine(entry)
    table.stand_in(a_ticket(0, prompt="a dog"))
    assert _end(table, entry, Fault.NOBODY) == [False]


def test_an_index_is_planned_once_until_its_group_is_taken() -> None:
    table = _table(4)
    with pytest.raises(ValueError, match="ticket 4 is planned already"):
        table.plan(a_ticket(4))
    _buffer(table, 4)
    with pytest.raises(ValueError, match="ticket 4 is planned already"):
        table.plan(a_ticket(4))
    table.take(4)
    table.plan(a_ticket(4))
    with pytest.raises(KeyError):
        table.take(4)


def test_bytes_count_once_for_each_live_attempt_and_until_the_group_is_taken() -> None:
    table = _table(0)
    entry = _entry(table, 0)
    assert table.reserved_bytes == NBYTES, "what is planned counts"
    table.issue(entry, ANN, 0.0)
    assert table.reserved_bytes == NBYTES
    table.issue(entry, BOB, 0.0)
    assert table.reserved_bytes == 2 * NBYTES, "a hedge may bring a second group"
    table.release(entry, entry.holds[0])
    assert table.reserved_bytes == NBYTES
    _buffer(table, 0)
    assert table.reserved_bytes == NBYTES, "it is here, and nobody has taken it"
    table.take(0)
    assert table.reserved_bytes == 0


def test_a_quarantined_ticket_is_handed_out_no_more_and_keeps_its_place_for_a_stand_in() -> None:
    table = _table(3, 4)
    entry = _entry(table, 3)
    table.issue(entry, ANN, 0.0)
    table.release(entry, entry.holds[0])
    table.quarantine(entry)
    assert entry.state is TicketState.QUARANTINED
    assert _next(table) == 4
    table.stand_in(a_ticket(3, prompt="a dog", height=8))
    assert _next(table) == 3
    handed_out = table.issue(entry, BOB, 0.0)
    assert (handed_out.attempt, handed_out.recipe.prompt) == (1, "a dog")
    assert table.reserved_bytes == 2 * NBYTES + NBYTES, "its group is twice as high"


def test_only_a_quarantined_ticket_gets_a_stand_in() -> None:
    table = _table(3)
    for index in (3, 8):
        with pytest.raises(ValueError, match=f"ticket {index} is not quarantined"):
            table.stand_in(a_ticket(index))


def test_groups_are_delivered_as_they_come_where_no_order_is_asked_for() -> None:
    table = _table(0, 1, 2)
    assert [_buffer(table, index) for index in (2, 0, 1)] == [[2], [0], [1]]


def test_in_order_groups_are_delivered_in_the_order_of_the_plan_and_not_of_the_indices() -> None:
    table = _table(7, 3, 5, in_order=True)
    assert [_buffer(table, index) for index in (5, 3, 7)] == [[], [], [7, 3, 5]]
