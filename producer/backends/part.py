"""What an engine hands to a backend, and what it gets back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

Call = Callable[..., Tensor]
"""What a backend makes of a part: the same arguments, the same result within the backend's tolerance."""


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a generator, to be called over and over at one shape."""

    name: str
    """`denoiser` or `decoder`."""
    module: nn.Module
    """Positional tensors in, one tensor out; in evaluation mode, with its parameters on the device."""
    inputs: tuple[Tensor, ...]
    """Examples: the shapes, dtypes and device of every call. Their values mean nothing."""


class Backend(Protocol):
    """A way to run networks."""

    def build(self, part: Part) -> Call:
        """Make `part` ready to be called. May take minutes. Raises ModelError."""
