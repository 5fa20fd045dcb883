"""Images per second of the augmentation on one card: part of `benchmarks/gpu.py`.

Images lie on the card, the views come out there. `triton` and `reference` have parameters drawn before; with them drawn
within the time they are `triton_with_drawing`: on the host, one thread of it, as in training, where it happens while
the card works on the step before. `reference` multiplies in float64: it is an oracle, not a rival. kornia's batched
modules and torchvision v2's transforms draw their own; v2 gives all images of a batch the same parameters, so it runs
image by image.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from baselines.gpu_timing import Session
from penstock.kernels.augment import AugmentRecipe, augment, draw_params
from penstock.kernels.backends import Backend

TOLERANCE = 2e-5
"""Largest difference from the reference in float32, checked before anything is timed."""


def measure(session: Session, small: bool) -> dict[str, object]:
    """Images per second by way; `small` shapes for a rehearsal."""
    num, side = (4, 40) if small else (1024, 256)
    recipe = AugmentRecipe.strong(24 if small else 224)
    images = torch.randint(0, 256, (num, side, side, 3), dtype=torch.uint8, device=session.device)
    figures: dict[str, object] = {"images": num, "height_width": side, "size": recipe.size, "dtype": "bfloat16"}
    rates: dict[str, float] = {}
    for name, (call, num_images) in _ways(images, recipe).items():
        measured = session.time(f"augment {name}", call)
        if measured:
            rates[name] = num_images / measured[0]
            print(f"augment {name}: {rates[name]:,.0f} images/s", flush=True)
    figures["images_per_s"] = rates
    figures["largest_difference_from_reference"] = _difference(session, images[:64], recipe)
    return figures


def _ways(images: Tensor, recipe: AugmentRecipe) -> dict[str, tuple[Callable[[], object], int]]:
    """What to time, and how many images a call makes."""
    num, height, width, _ = images.shape
    params = draw_params(recipe, 1, torch.arange(num), 0, 0, height, width)

    def ours(backend: Backend) -> Callable[[], object]:
        return lambda: augment(images, params, dtype=torch.bfloat16, backend=backend)

    def with_drawing() -> object:
        drawn = draw_params(recipe, 1, torch.arange(num), 0, 0, height, width)
        return augment(images, drawn, dtype=torch.bfloat16, backend="triton")

    one_by_one = images[:64]
    return {
        "triton": (ours("triton"), num),
        "triton_with_drawing": (with_drawing, num),
        "reference": (ours("reference"), num),
        "chunked": (ours("chunked"), num),
        "kornia": (_kornia(images, recipe), num),
        "torchvision_v2": (_torchvision(one_by_one, recipe), len(one_by_one)),
    }


def _kornia(images: Tensor, recipe: AugmentRecipe) -> Callable[[], object]:
    made: list[torch.nn.Module] = []

    def call() -> object:
        if not made:
            from baselines.kornia_chain import chain

            made.append(chain(recipe).to(images.device))
        return made[0](images.permute(0, 3, 1, 2).float() / 255).bfloat16()

    return call


def _torchvision(images: Tensor, recipe: AugmentRecipe) -> Callable[[], object]:
    made: list[Callable[[Tensor], Tensor]] = []

    def call() -> object:
        if not made:
            made.append(_torchvision_chain(recipe))
        return torch.stack([made[0](image) for image in images.permute(0, 3, 1, 2)])

    return call


def _torchvision_chain(recipe: AugmentRecipe) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2

    size = recipe.blur_kernel_size
    chain: Callable[[Tensor], Tensor] = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomResizedCrop(recipe.size, recipe.crop_scale, recipe.crop_ratio, antialias=True),
            v2.RandomApply(
                [v2.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)],
                p=recipe.jitter_probability,
            ),
            v2.RandomGrayscale(recipe.grayscale_probability),
            v2.RandomApply([v2.GaussianBlur(size, recipe.blur_sigma)], p=recipe.blur_probability),
            v2.RandomHorizontalFlip(recipe.flip_probability),
            v2.Normalize(list(recipe.mean), list(recipe.std)),
            v2.ToDtype(torch.bfloat16),
        ]
    )
    return chain


def _difference(session: Session, images: Tensor, recipe: AugmentRecipe) -> float | None:
    """Triton's against the reference's on the host, in float32; a note where it is too large."""
    downsampled = replace(recipe, downsample_probability=0.1, downsample_sizes=(16,))
    params = draw_params(downsampled, 1, torch.arange(len(images)), 0, 0, *images.shape[1:3])
    found: list[float] = []

    def compare() -> None:
        expected = augment(images.cpu(), params, backend="reference")
        found.append((augment(images, params, backend="triton").cpu() - expected).abs().max().item())

    if session.time("augment difference from the reference", compare, repeats=1) is None:
        return None
    if not max(found) <= TOLERANCE:
        print(f"augment triton is WRONG: it differs from the reference by {max(found):.1e}", flush=True)
    return max(found)
