"""Which global indices belong to a rank: r of w owns those ≡ r (mod w)."""

from collections.abc import Iterator


def owned_indices(rank: int, world_size: int, start: int) -> Iterator[int]:
    """The indices >= `start` that `rank` owns, in order, without end."""
    index = start + (rank - start) % world_size
    while True:
        yield index
        index += world_size
