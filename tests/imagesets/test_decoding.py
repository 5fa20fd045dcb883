import io

import numpy as np
import pytest
from PIL import Image

from penstock.imagesets.decoding import decode_image
from tests.imagesets.files import picture, png


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_pixels_are_the_file_s() -> None:
    np.testing.assert_array_equal(decode_image(png(7)), picture(7))


def test_an_image_stands_upright_as_its_exif_says() -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown a quarter clockwise
    shown = decode_image(encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95))
    np.testing.assert_allclose(shown, np.rot90(pixels, -1), atol=3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(np.full((4, 4, 3), 255, np.uint8)).convert(mode)
    decoded = decode_image(encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert decoded.shape == (4, 4, 3)
    assert decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded, 255, atol=2)


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    grey = np.array([[0, 0x7F00, 0xFF00]], np.uint16)
    decoded = decode_image(encoded(Image.fromarray(grey)))
    np.testing.assert_array_equal(decoded[0], np.array([0, 0x7F, 0xFF])[:, None].repeat(3, 1))


def test_what_is_transparent_shows_white() -> None:
    image = Image.fromarray(np.array([[[9, 9, 9, 255], [9, 9, 9, 0]]], np.uint8), "RGBA")
    np.testing.assert_array_equal(decode_image(encoded(image))[0], [[9, 9, 9], [255, 255, 255]])


@pytest.mark.parametrize("cut", [0, 4, 20, 40, 60])
def test_a_broken_file_is_a_value_error(cut: int) -> None:
    with pytest.raises(ValueError, match=r"does not decode|no image"):
        decode_image(png(3)[:cut])


def test_an_image_that_is_too_large_to_be_one_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"does not decode: .*exceeds limit"):
        decode_image(png(3))
