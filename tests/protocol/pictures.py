"""Pictures with what photographs have, JPEGs by Pillow, and the distance of two pictures."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    """Soft shapes on a soft ground, with a little grain; uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    image = np.stack([0.5 + 0.3 * np.sin(3 * x + 2 * y + phase) for phase in rng.uniform(0, 6, 3)], axis=-1)
    for _ in range(12):
        (center_y, center_x), radius = rng.random(2), rng.uniform(0.05, 0.2)
        distance = np.hypot(y - center_y, x - center_x)
        inside = 1 / (1 + np.exp((distance - radius) * 80))[..., None]
        image = image * (1 - inside) + rng.uniform(0.1, 0.9, 3) * inside
    image += rng.normal(0, 0.004, (height, width, 1))
    return np.asarray((image * 255).round().clip(1, 255), np.uint8)


def group(num_images: int, height: int, width: int) -> Pixels:
    """uint8 [m, H, W, 3]."""
    return np.stack([picture(height, width, seed) for seed in range(num_images)])


def to_jpeg(image: Pixels, mode: str = "RGB", **settings: object) -> bytes:
    """A JPEG by Pillow."""
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, "JPEG", **{"quality": 92, "subsampling": "4:2:0"} | settings)
    return file.getvalue()


def from_jpeg(jpeg: bytes | memoryview) -> Pixels:
    """Its pixels by Pillow, uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(bytes(jpeg))))


def claiming(jpeg: bytes, height: int, width: int) -> bytes:
    """The same JPEG with another size in its header: SOF0 holds length, precision, height and width (T.81, B.2.2)."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[at + 4 :]


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal to noise in dB."""
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)
