"""Which of the tickets in a producer's hands are made together."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields
from operator import attrgetter

from penstock.protocol.links import HeldTicket
from penstock.protocol.tickets import Recipe, Ticket

_OWN = ("prompt", "seed", "num_images", "candidates")
"""What every ticket of a batch has for itself."""
_shared = attrgetter(*(field.name for field in fields(Recipe) if field.name not in _OWN))


def same_recipe(ticket: Ticket) -> Hashable:
    """All of the recipe but what is each ticket's own: where it is equal, any engine can make tickets together."""
    shared: Hashable = _shared(ticket.recipe)
    return shared


def choose_batch(
    queue: Sequence[HeldTicket], max_images: int, company: Callable[[Ticket], Hashable]
) -> list[HeldTicket]:
    """The most urgent tickets of a queue that fit one batch and can share it; a group larger than a batch goes alone.

    Args:
        queue: what has not begun.
        max_images: images of a batch.
        company: tickets may share a batch where it gives equal values and neither is `alone`. Probes, which no engine
            sees, share with all other probes and with nothing else.
    """
    batch: list[HeldTicket] = []
    room = max_images
    for held in sorted(queue, key=lambda held: (held.ticket.need_by_step, held.ticket.index)):
        images = held.ticket.recipe.num_first
        if batch and (images > room or not _share_a_batch(held.ticket, batch[0].ticket, company)):
            continue
        batch.append(held)
        room -= images
        if room <= 0:
            break
    return batch


def _share_a_batch(one: Ticket, other: Ticket, company: Callable[[Ticket], Hashable]) -> bool:
    if one.alone or other.alone or one.probe != other.probe:
        return False
    return one.probe or company(one) == company(other)
