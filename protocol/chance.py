"""Chance that is a function of names: the same in every process and every life, and even over many names."""

from hashlib import blake2b


def draw(*names: object) -> float:
    """A number in [0, 1) for these names."""
    text = "\0".join(str(name) for name in names)
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48
