"""What an engine hands to a backend, and what it gets back.

An engine cuts its generator into parts, networks that it calls thousands of times at one shape, and a backend makes a
faster call of each. Shapes are static because padding the tails costs little, while a fixed shape lets a compiler
choose its kernels and CUDA record a graph, and keeps a ticket's bits whatever its company.

B rows a call (an image with guidance takes two), N images decoded at once, C latent channels, L tokens of D features:

    denoiser   (sample [B, C, h, w], timestep [B] float32, text_states [B, L, D], *added) -> [B, C, h, w]
               `added` is () for Stable Diffusion 1 and 2, (text_embeds [B, P], time_ids [B, 6]) for SDXL; a model that
               is told its guidance gets an embedding of it [B, W] last
    decoder    (latents [N, C, h, w]) -> pixels [N, 3, H, W] in about -1..1
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a generator, to be called over and over at one shape."""

    name: str
    """`denoiser` or `decoder`."""
    module: nn.Module
    """Positional tensors in, one tensor out; parameters on the device, eval mode."""
    inputs: tuple[Tensor, ...]
    """Examples: the shapes, dtypes and device of every call. Their values are irrelevant."""


Call = Callable[..., Tensor]
"""What a backend makes of a part: same arguments, same result within the tolerance."""


class Backend(Protocol):
    """Makes a part fast."""

    def build(self, part: Part) -> Call:
        """A verified call for `part`; may take minutes. The part's module is as it was when this returns.

        Raises ModelError where the backend's library or device is missing, and where the call's results differ from
        the module's by more than the tolerance.
        """
