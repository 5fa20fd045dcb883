"""A tower's features of a large batch with the memory of a small one: GradCache (Gao et al. 2021, arXiv 2101.06983).

The features of all parts are formed without a graph; the loss is differentiated down to them; then each part goes
through the tower once more, with a graph, from its features' gradients on. The sum of the parts' gradients is the whole
batch's, as rows do not know of each other in the towers. (They do in the heads' BatchNorm and in the loss, which
therefore see all rows at once.)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states


class CachedFeatures:
    """Features of `inputs`, part by part.

    Args:
        encode: rows `[n, ...]` to features `[n, D]`; draws the same random numbers in both passes.
        inputs: `[N, ...]`.
        num_parts: in which they are encoded.
        autocast: makes a context for the arithmetic of `encode`.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        inputs: Tensor,
        num_parts: int,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._encode = encode
        self._parts = inputs.chunk(num_parts)
        self._autocast = autocast
        self._states: list[_RandomState] = []
        features = []
        with torch.no_grad(), autocast():
            for part in self._parts:
                self._states.append(_RandomState(inputs))
                features.append(encode(part))
        self.features = torch.cat(features).requires_grad_()
        """`[N, D]`, a leaf: the loss is differentiated down to it."""

    def backward(self) -> None:
        """Add to the tower's gradients what `features.grad` asks for. Raises ValueError where nothing depends on it."""
        if self.features.grad is None:
            raise ValueError("the loss must depend on the features")
        gradients = self.features.grad.split([len(part) for part in self._parts])
        for part, gradient, state in zip(self._parts, gradients, self._states, strict=True):
            with state.again(), self._autocast():
                features = self._encode(part)
            features.backward(gradient)


class _RandomState:
    """Torch's random state on the host and on the device of `like`, as it is now."""

    def __init__(self, like: Tensor) -> None:
        self._host = torch.get_rng_state()
        self._devices, self._states = get_device_states(like)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers once more; afterwards all is as before."""
        with torch.random.fork_rng(devices=self._devices):
            torch.set_rng_state(self._host)
            set_device_states(self._devices, self._states)
            yield
