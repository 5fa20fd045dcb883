"""Makes `augment_goldens.npz`, what torchvision v2 does to float images. Run once, in an environment of its own.

    python -m venv /tmp/goldens && /tmp/goldens/bin/pip install torch==2.13.0 numpy pillow
    /tmp/goldens/bin/pip install --no-deps torchvision==0.28.0
    /tmp/goldens/bin/python tests/kernels/make_goldens.py

Nothing of Penstock is used. Each group of cases has its parameters as arrays that bear the names of
`AugmentParams`, and `expected` float32 `[n, 3, S, S]`. The functions are torchvision's own, called in the order of
StableRep's published chain; `goldens.py` reads the file.

The small groups are what torchvision makes of float32 images. `full_size`, 256² to 224², is what it makes of float64
ones, at every `STRIDE`-th pixel: in float32 its resize places pixels by float32 numbers, and at this size that alone
moves its views further than ours may differ. `full_size/float32_error` is by how much, for a photo and for noise.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch

# torchvision's compiled part wants CUDA's libraries; its transforms are Python, but its import asks for these two.
_OPERATORS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision  # noqa: E402
from torchvision.transforms.v2 import functional as F  # noqa: E402

SIZE, HEIGHT, WIDTH, KERNEL_SIZE = 16, 40, 48, 23
FULL_SIZE, FULL_SIDE, STRIDE = 224, 256, 9
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IDENTITY = {
    "top": 0, "left": 0, "crop_height": HEIGHT, "crop_width": WIDTH, "color_factors": (1.0, 1.0, 1.0, 0.0),
    "color_order": (0, 1, 2, 3), "grayscale": False, "blur_sigma": 0.0, "flip": False, "downsample": 0,
}  # fmt: skip
CROPS = [
    (0, 0, 40, 48),
    (5, 7, 9, 11),
    (31, 40, 9, 8),
    (0, 20, 40, 28),
    (12, 0, 28, 21),
    (3, 3, 16, 16),
    (39, 47, 1, 1),
]
Case = dict[str, Any]


def crop(*where: int) -> Case:
    return dict(zip(("top", "left", "crop_height", "crop_width"), where, strict=True))


def groups() -> dict[str, list[Case]]:
    """The changes against `IDENTITY` of every case of every group."""
    part, factors = crop(4, 6, 30, 33), (1.3, 0.7, 1.35, 0.08)
    alone = [(0, 0.62), (0, 1.4), (1, 0.6), (1, 1.39), (2, 0.61), (2, 1.4), (3, -0.1), (3, 0.1), (3, 0.5)]
    singles = [tuple(value if i == op else (1.0, 1.0, 1.0, 0.0)[i] for i in range(4)) for op, value in alone]
    orders = list(itertools.permutations(range(4)))
    return {
        "crop_and_resize": [crop(*where) for where in CROPS],
        "jitter_alone": [part | {"color_factors": single} for single in singles],
        "jitter_in_every_order": [part | {"color_factors": factors, "color_order": order} for order in orders],
        "grayscale": [part | {"grayscale": True}],
        "blur": [part | {"blur_sigma": sigma} for sigma in (0.1, 0.5, 1.0, 1.7, 2.0)],
        "flip": [{"flip": True}, part | {"flip": True}],
        "downsample": [part | {"downsample": size} for size in (8, 20, 32)],
        "chain": [
            crop(*where)
            | {"color_factors": factors, "color_order": order, "grayscale": number == 3, "flip": number % 2 == 1}
            | {"blur_sigma": 0.4 * number, "downsample": (0, 20, 0)[number % 3]}
            for number, (where, order) in enumerate(zip(CROPS, orders[3::3], strict=False))
        ],
    }


def full_size_group() -> list[Case]:
    """Of a photo and of noise, in turn: a resize, a crop, the chain over a small crop and over a large one."""
    factors, small, large = (1.3, 0.7, 1.35, 0.08), crop(37, 101, 90, 77), crop(3, 11, 251, 240)
    chain = {"color_factors": factors, "blur_sigma": 0.6, "flip": True}
    changes = [crop(0, 0, FULL_SIDE, FULL_SIDE), large, small | chain, large | chain | {"downsample": 64}]
    return [IDENTITY | change for change in changes for _ in ("photo", "noise")]


def full_size_images() -> np.ndarray:
    """uint8 `[2, 256, 256, 3]`: a photo with detail 5 pixels wide, and noise; each repeats 32 rows, to zip well."""
    random, rows = np.random.default_rng(6), 32
    coarse = torch.from_numpy(random.random((1, 3, 6, 48), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (rows, FULL_SIDE), mode="bicubic").permute(0, 2, 3, 1)
    photo = np.clip(255 * smooth[0].numpy(), 0, 255).round()
    noise = random.integers(0, 256, (rows, FULL_SIDE, 3))
    return np.tile(np.stack([photo, noise]).astype(np.uint8), (1, FULL_SIDE // rows, 1, 1))


def by_torchvision(
    image: torch.Tensor, case: Case, *, normalise: bool, size: int = SIZE, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """uint8 `[H, W, 3]` to `[3, S, S]`, computed in `dtype`."""
    x = image.permute(2, 0, 1).to(dtype) / 255
    if case["downsample"]:
        x = F.resize(F.resize(x, [case["downsample"]], antialias=True), list(image.shape[:2]), antialias=True)
    x = F.resized_crop(
        x, case["top"], case["left"], case["crop_height"], case["crop_width"], [size, size], antialias=True
    )
    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for step in case["color_order"]:
        if case["color_factors"][step] != IDENTITY["color_factors"][step]:
            x = steps[step](x, case["color_factors"][step])
    if case["grayscale"]:
        x = F.rgb_to_grayscale(x, num_output_channels=3)
    if case["blur_sigma"]:
        x = F.gaussian_blur(x, [KERNEL_SIZE, KERNEL_SIZE], [case["blur_sigma"]] * 2)
    if case["flip"]:
        x = F.horizontal_flip(x)
    return F.normalize(x, MEAN, STD) if normalise else x


def full_size_arrays() -> dict[str, np.ndarray]:
    """The arrays of the group `full_size`."""
    images, cases = full_size_images(), full_size_group()
    index = np.arange(len(cases)) % len(images)
    single, double = (
        torch.stack(
            [
                by_torchvision(torch.from_numpy(images[i]), case, normalise=True, size=FULL_SIZE, dtype=dtype).double()
                for i, case in zip(index, cases, strict=True)
            ]
        )
        for dtype in (torch.float32, torch.float64)
    )
    error = (single - double).abs().amax(dim=(1, 2, 3)).view(-1, len(images)).amax(dim=0)
    arrays = {name: np.array([case[name] for case in cases]) for name in IDENTITY}
    arrays |= {
        "image": index,
        "expected": double[:, :, ::STRIDE, ::STRIDE].float().numpy(),
        "float32_error": error.numpy(),
    }
    return {"full_size_images": images} | {f"full_size/{name}": array for name, array in arrays.items()}


def main() -> None:
    """Write the file beside this script."""
    random = np.random.default_rng(5)
    coarse = torch.from_numpy(random.random((4, 3, 6, 7), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic").permute(0, 2, 3, 1).numpy()
    images = np.clip(255 * (smooth + random.normal(0, 0.06, smooth.shape)), 0, 255).round().astype(np.uint8)
    images[3, :20] = images[3, :20, :, :1]  # greys: no hue
    images[3, 20:, :, 1] = images[3, 20:, :, 0]  # ties between channels
    arrays = {"images": images, "versions": np.array([f"torchvision {torchvision.__version__}", torch.__version__])}
    for group, changes in groups().items():
        cases = [IDENTITY | change for change in changes]
        index = np.arange(len(cases)) % len(images)
        arrays[f"{group}/image"] = index
        for name in IDENTITY:
            arrays[f"{group}/{name}"] = np.array([case[name] for case in cases])
        views = [
            by_torchvision(torch.from_numpy(images[i]), case, normalise=group == "chain")
            for i, case in zip(index, cases, strict=True)
        ]
        arrays[f"{group}/expected"] = torch.stack(views).numpy()
    arrays |= full_size_arrays()
    np.savez_compressed(Path(__file__).with_name("augment_goldens.npz"), **arrays)


if __name__ == "__main__":
    main()
