"""Augmented images per second on the CPU, one thread: Penstock's `augment` against kornia's chain and an image loop.

    make bench-setup && python benchmarks/augment.py --json runs/bench/augment.json

StableRep's strong recipe, uint8 256² to normalised float32 224². Each side draws its own parameters, within its time,
as in training. kornia's side is its batched modules with the same names and numbers; it draws the order of the jitter's
steps once a batch, all else for every sample. The image loop makes torchvision v2's tensor operations one image after
the other, by the formulas that torchvision itself uses (torch's interpolate, a depthwise convolution), with Penstock's
parameters; it is what a data loader's worker does, without decoding. That convolution, 23 x 23 taps for half of the
images, is most of the loop's time and runs at very different speeds on different machines; so everything is measured
once more with a recipe that does not blur. All sides run in turn in every round; a rate is the median over the rounds,
a ratio the median of the rounds' own ratios.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import harness
import torch
from baselines.image_loop import augment_one_by_one
from harness import BenchmarkError
from rich.console import Console
from rich.table import Table
from torch import Tensor

from penstock.kernels.augment import AugmentParams, AugmentRecipe, augment, draw_params

SIDE, SEED = 256, 1
STRONG = AugmentRecipe.strong()
WITHOUT_BLUR = replace(STRONG, blur_probability=0.0)
NAMES = {"penstock": "Penstock", "kornia": "kornia", "image_loop": "one image at a time"}
BAR = 2.0
"""Penstock should be this many times as fast as kornia."""
PACKAGES = ("torch", "kornia", "numpy")

Side = Callable[[Tensor, int], Tensor]
"""Images uint8 `[B, H, W, 3]` and the number of the round to views float32 `[B, 3, S, S]`."""


def penstock(recipe: AugmentRecipe) -> Side:
    """Ours, drawing included."""
    return lambda images, number: augment(images, _drawn(recipe, images, number))


def image_loop(recipe: AugmentRecipe) -> Side:
    """The same views, one image at a time."""
    return lambda images, number: augment_one_by_one(images, _drawn(recipe, images, number))


def kornia(recipe: AugmentRecipe) -> Side:
    """The recipe by kornia."""
    from baselines.kornia_chain import chain

    modules = chain(recipe)
    return lambda images, _: modules(images.permute(0, 3, 1, 2).float() / 255)


SIDES: dict[str, Callable[[AugmentRecipe], Side]] = {"penstock": penstock, "kornia": kornia, "image_loop": image_loop}


def _drawn(recipe: AugmentRecipe, images: Tensor, number: int) -> AugmentParams:
    return draw_params(recipe, SEED, torch.arange(len(images)), number, 0, SIDE, SIDE)


def measure(sides: dict[str, Side], num_images: int, rounds: int) -> dict[str, list[float]]:
    """Images per second of every side in every round, after one round that warms up."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    images = torch.randint(0, 256, (num_images, SIDE, SIDE, 3), dtype=torch.uint8)
    for number in range(rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            views = side(images, number)
            rate = num_images / (time.perf_counter() - start)
            if views.shape != (num_images, 3, STRONG.size, STRONG.size) or not views.isfinite().all():
                raise BenchmarkError(f"{name} made no views: {list(views.shape)}")
            if number:
                rates[name].append(rate)
        print(f"round {number} of {rounds}{'' if number else ' (warm-up)'}", file=sys.stderr)
    return rates


def summarise(rates: dict[str, list[float]]) -> dict[str, object]:
    """Medians, and Penstock's ratio to every other side."""
    ratios = {
        f"ratio_to_{name}": statistics.median(
            mine / theirs for mine, theirs in zip(rates["penstock"], of_side, strict=True)
        )
        for name, of_side in rates.items()
        if name != "penstock"
    }
    figures: dict[str, object] = {f"{name}_images_per_s": statistics.median(rows) for name, rows in rates.items()}
    meets = {"meets_bar": ratios["ratio_to_kornia"] >= BAR} if "kornia" in rates else {}
    return figures | ratios | meets | {"rounds": rates}


def print_table(what: str, result: dict[str, object], sides: list[str]) -> None:
    """A row for each side."""
    table = Table(title=f"{what}, {SIDE}² to {STRONG.size}², one thread")
    for column in ("", "images/s", "Penstock is … times as fast"):
        table.add_column(column, justify="right" if column else "left")
    for name in sides:
        ratio = result.get(f"ratio_to_{name}")
        table.add_row(NAMES[name], f"{result[f'{name}_images_per_s']:.0f}", f"{ratio:.2f}" if ratio else "")
    Console().print(table)


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="how often all sides run (9)")
    parser.add_argument("--images", type=int, default=64, metavar="N", help="in a batch (64)")
    parser.add_argument("--sides", default=",".join(NAMES), metavar="NAME,…", help=f"of {', '.join(NAMES)} (all)")
    options = parser.parse_args()
    chosen = options.sides.split(",")
    if unknown := [name for name in chosen if name not in NAMES]:
        raise BenchmarkError(f"there is no side {unknown[0]!r}; choose from {', '.join(NAMES)}")
    if "penstock" not in chosen or options.rounds < 1 or options.images < 1:
        raise BenchmarkError("penstock must be among the sides, --rounds >= 1, --images >= 1")
    if "kornia" in chosen and find_spec("kornia") is None:
        raise BenchmarkError("kornia is not installed; run `make bench-setup`, or choose --sides")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    usage = harness.CpuUsage()
    results = {}
    for what, recipe in (("Strong augmentation", STRONG), ("Without its blur", WITHOUT_BLUR)):
        sides = {name: SIDES[name](recipe) for name in chosen}
        results[what] = summarise(measure(sides, options.images, options.rounds))
        print_table(what, results[what], chosen)
    strong, without_blur = results.values()
    others = {"images": options.images, "cpu_taken_by_others": usage.others()}
    harness.write_json(options.json, {**strong, "without_blur": without_blur, **others}, PACKAGES)
    return 0


if __name__ == "__main__":
    harness.run(main)
