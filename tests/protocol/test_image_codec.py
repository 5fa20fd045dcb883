"""JPEGs of a group: as another library reads and writes them, and what is refused before memory is taken for it."""

import io
import resource
import sys
import tracemalloc
from itertools import accumulate

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from penstock.protocol.image_codec import CodedImages, decode_jpegs, encode_images, is_codec_name
from tests.protocol.pictures import claiming, from_jpeg, group, picture, psnr, to_jpeg

SHAPE = (2, 48, 64, 3)
GOOD = [to_jpeg(image) for image in group(2, 48, 64)]


def _decode(*jpegs: bytes, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.frombuffer(decode_jpegs(b"".join(jpegs), [*map(len, jpegs)], shape), np.uint8).reshape(shape)


def _split(coded: CodedImages) -> list[bytes]:
    ends = accumulate(coded.sizes)
    return [bytes(coded.payload[end - size : end]) for size, end in zip(coded.sizes, ends, strict=True)]


# --- coding -----------------------------------------------------------------------------------------------------------


def test_each_image_is_a_jpeg_that_another_library_reads() -> None:
    images = group(3, 128, 96)
    coded = encode_images(images, 92)
    assert coded.codec == "jpeg"
    assert len(coded.sizes) == 3
    assert sum(coded.sizes) == len(coded.payload) < images.nbytes / 5
    for image, jpeg in zip(images, _split(coded), strict=True):
        opened = Image.open(io.BytesIO(jpeg))
        assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (96, 128))
        assert JpegImagePlugin.get_sampling(opened) == 2, "4:2:0"
        assert psnr(image, from_jpeg(jpeg)) > 40


@pytest.mark.parametrize("quality", [1, 50, 92, 100])
def test_a_quality_means_what_it_means_to_another_library(quality: int) -> None:
    image = picture(128, 128)
    [jpeg] = _split(encode_images(image[None], quality))
    tables = Image.open(io.BytesIO(jpeg)).quantization  # type: ignore[attr-defined]
    assert tables == Image.open(io.BytesIO(to_jpeg(image, quality=quality))).quantization  # type: ignore[attr-defined]


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_what_another_library_wrote_is_decoded_as_it_decodes_it(subsampling: str) -> None:
    jpegs = [to_jpeg(image, subsampling=subsampling) for image in group(2, 48, 64)]
    expected = np.stack([from_jpeg(jpeg) for jpeg in jpegs]).astype(int)
    assert np.abs(_decode(*jpegs) - expected).max() <= 1


def test_a_natural_picture_keeps_its_pixels_at_the_default_quality() -> None:
    image = picture(256, 256)
    coded = encode_images(image[None], 92)
    decoded = decode_jpegs(coded.payload, coded.sizes, (1, 256, 256, 3))
    assert psnr(image, np.frombuffer(decoded, np.uint8).reshape(image.shape)) > 42


def test_raw_is_the_array_itself() -> None:
    images = group(2, 48, 64)
    coded = encode_images(images, None)
    assert (coded.codec, coded.sizes) == ("raw", ())
    assert np.shares_memory(np.frombuffer(coded.payload, np.uint8), images)


def test_images_that_jpeg_would_not_make_smaller_go_raw() -> None:
    """A JPEG has 600 bytes of tables; 8 × 8 pixels are 192 bytes."""
    images = group(4, 8, 8)
    coded = encode_images(images, 92)
    assert (coded.codec, coded.sizes, bytes(coded.payload)) == ("raw", (), images.tobytes())
    noise = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    assert encode_images(noise, 100).codec == "raw"


@pytest.mark.parametrize("name", ["raw", "jpeg-1", "jpeg-92", "jpeg-100"])
def test_a_codec_has_one_name(name: str) -> None:
    assert is_codec_name(name)


@pytest.mark.parametrize("name", ["", "jpeg", "jpeg-0", "jpeg-101", "jpeg-092", "jpeg-9²", "JPEG-92", "raw-1", "raw\n"])
def test_what_is_no_codec_has_no_name(name: str) -> None:
    assert not is_codec_name(name)


# --- refusing ---------------------------------------------------------------------------------------------------------

TINY = to_jpeg(np.full((8, 8, 3), 99, np.uint8))
PROGRESSIVE = to_jpeg(group(2, 48, 64)[1], progressive=True)
SOS = GOOD[1].rindex(b"\xff\xda")


def _one_component_a_scan(jpeg: bytes) -> bytes:
    """The first scan says that it holds luma alone, as where each component has scans of its own."""
    at = jpeg.index(b"\xff\xda")
    assert jpeg[at : at + 5] == b"\xff\xda\x00\x0c\x03"
    return jpeg[:at] + b"\xff\xda\x00\x08\x01" + jpeg[at + 5 : at + 7] + jpeg[at + 11 :]


BROKEN = {
    "half of it": (GOOD[1][: len(GOOD[1]) // 2], "Premature end"),
    "without its last two bytes": (GOOD[1][:-2], "Premature end"),
    "headers alone": (GOOD[1][:SOS], "."),
    "one byte": (b"\xff", "."),
    "no JPEG": (b"\x89PNG\r\n\x1a\n" + bytes(100), "."),
    "a pixel too high": (to_jpeg(picture(49, 64)), "claims 49 × 64 pixels, the ticket asks for 48 × 64"),
    "lying on its side": (to_jpeg(picture(64, 48)), "claims 64 × 48 pixels"),
    "a bomb": (claiming(TINY, 65500, 65500), "claims 65500 × 65500 pixels, the ticket asks for 48 × 64"),
    "more pixels than it says": (claiming(to_jpeg(picture(96, 64)), 48, 64), "extraneous bytes"),
    "fewer pixels than it says": (claiming(to_jpeg(picture(16, 64)), 48, 64), "premature end"),
    "grey": (to_jpeg(picture(48, 64), "L", subsampling=0), "colours are Gray, must be YCbCr or RGB"),
    "for a printer": (to_jpeg(picture(48, 64), "CMYK", subsampling=0), "colours are CMYK"),
    "progressive": (PROGRESSIVE, "no baseline JPEG of one scan"),
    "a component a scan": (_one_component_a_scan(GOOD[1]), "no baseline JPEG of one scan"),
    "a second scan": (GOOD[1][:-2] + GOOD[1][SOS:], "more than one scan"),
}


@pytest.mark.parametrize(("jpeg", "says"), BROKEN.values(), ids=BROKEN)
def test_an_image_that_is_not_what_was_asked_for_is_named_and_refused(jpeg: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=rf"^image 1 of 2: .*{says}"):
        _decode(GOOD[0], jpeg)


def test_every_truncation_of_a_jpeg_is_refused() -> None:
    for length in range(1, len(GOOD[0]) - 1):
        with pytest.raises(ValueError, match=r"^image 0 of 1: "):
            _decode(GOOD[0][:length], shape=(1, 48, 64, 3))


def test_a_jpeg_among_application_data_and_fill_bytes_is_read() -> None:
    """Cameras write EXIF between the headers, and T.81 allows 0xFF before any marker."""
    padded = GOOD[0][:2] + b"\xff\xff\xe1\x00\x06Exif" + b"\xff" * 5 + GOOD[0][2:]
    assert np.array_equal(_decode(padded, GOOD[1]), _decode(*GOOD))


def _peak_bytes(jpegs: list[bytes], shape: tuple[int, ...], says: str) -> tuple[int, int]:
    """Memory that a refusal takes: at its peak in Python and numpy, and in the whole process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=says):
            _decode(*jpegs, shape=shape)
        return tracemalloc.get_traced_memory()[1], 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts KiB only there")
def test_a_bomb_is_refused_in_no_memory() -> None:
    """65500² pixels of three bytes are 12.9 GB; the JPEG that claims them has less than 700 bytes."""
    bomb = claiming(TINY, 65500, 65500)
    assert len(bomb) < 700
    python, process = _peak_bytes([bomb], (1, 64, 64, 3), "claims 65500 × 65500")
    assert python < 100_000
    assert process < 4 << 20


def test_no_memory_is_taken_for_a_group_before_all_its_headers_are_read() -> None:
    flat = to_jpeg(np.full((4096, 4096, 3), 99, np.uint8), quality=20)
    python, process = _peak_bytes([flat, flat, GOOD[0]], (3, 4096, 4096, 3), "image 2 of 3: .* claims 48 × 64")
    assert python < 200_000 + len(flat) * 4
    assert process < 16 << 20


def test_a_progressive_bomb_costs_no_passes_over_its_image() -> None:
    """One scan of twelve bytes, said two thousand times over: each would be a pass over 1024² pixels."""
    calm = to_jpeg(np.full((1024, 1024, 3), 99, np.uint8), progressive=True)
    scan = calm[calm.rindex(b"\xff\xda") : -2]
    bomb = calm[:-2] + scan * 2000 + calm[-2:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with pytest.raises(ValueError, match="one scan"):
        _decode(bomb, shape=(1, 1024, 1024, 3))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 0.1
