"""Which prompts a ledger has: a table of fixed size, so that a rank's memory stays flat whatever its captions."""

from array import array

_SLOTS = 1 << 19
_MASK = _SLOTS - 1


class KnownPrompts:
    """The rows of prompts by their texts. 12 bytes a slot; of two prompts in one slot the later is known.

    A text is known by its hash of 64 bits, which is enough: of a million prompts two meet once in 40 million runs.
    """

    def __init__(self) -> None:
        self._hashes = array("q", bytes(8 * _SLOTS))
        self._rows = array("I", bytes(4 * _SLOTS))

    def get(self, text: str) -> int | None:
        """The row of a prompt; None where it is not known, or no more."""
        key = hash(text)
        slot = key & _MASK
        row = self._rows[slot]
        return row if row and self._hashes[slot] == key else None

    def put(self, text: str, row: int) -> None:
        """A prompt has this row, 1 or more."""
        key = hash(text)
        self._hashes[key & _MASK], self._rows[key & _MASK] = key, row
