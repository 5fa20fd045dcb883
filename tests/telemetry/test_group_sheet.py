"""The sheet of many groups: every pixel of every image is on it, prompts are cut late, and it is never a strip."""

import numpy as np
import pytest

from penstock.telemetry.group_sheet import ASPECT, SheetGroup, draw_sheet, shrink


def group(number: int, side: int = 64, num: int = 3, prompt: str = "a fox") -> SheetGroup:
    images = np.random.default_rng(number).integers(0, 255, (num, side, side, 3), dtype=np.uint8)
    return SheetGroup(prompt=prompt, note=f"group {number}", images=images)


def _holds(sheet: np.ndarray, image: np.ndarray) -> bool:
    height, width = image.shape[:2]
    corners = (sheet[: -height + 1, : -width + 1] == image[0, 0]).all(axis=2)
    return any((sheet[y : y + height, x : x + width] == image).all() for y, x in np.argwhere(corners))


def test_images_stand_on_it_pixel_by_pixel() -> None:
    groups = [group(number) for number in range(5)]
    sheet = draw_sheet("step 3", "all match", groups)
    assert sheet.dtype == np.uint8
    assert all(_holds(sheet, image) for each in groups for image in each.images)


@pytest.mark.parametrize("num", [1, 7, 40, 200])
def test_it_comes_near_its_aspect_where_there_are_many(num: int) -> None:
    height, width = draw_sheet("t", "s", [group(number, num=2) for number in range(num)]).shape[:2]
    assert width / height > 1
    assert num < 40 or ASPECT / 1.5 < width / height < ASPECT * 1.5


def test_a_group_of_many_images_and_a_long_prompt_fit() -> None:
    sheet = draw_sheet("t", "s", [group(0, num=23, prompt="word " * 400), group(1, side=300)])
    assert sheet.shape[1] < 2000


def test_alarm_is_red() -> None:
    red = [0xB3, 0x26, 0x1E]
    plain, wrong = (draw_sheet("t", "differs", [group(0)], is_wrong=is_wrong) for is_wrong in (False, True))
    assert not (plain[:74] == red).all(axis=2).any()
    assert (wrong[:74] == red).all(axis=2).any()


def test_no_groups_and_odd_images_are_refused() -> None:
    with pytest.raises(ValueError, match="groups must not be empty"):
        draw_sheet("t", "s", [])
    with pytest.raises(ValueError, match="must be uint8"):
        draw_sheet("t", "s", [SheetGroup(prompt="p", note="", images=np.zeros((2, 4, 4, 1), np.uint8))])


def test_only_images_larger_than_a_sheet_shows_are_shrunk() -> None:
    large = np.arange(2 * 512 * 384 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 512, 384, 3)
    np.testing.assert_array_equal(shrink(large)[1, 3, 5], np.rint(large[1, 12:16, 20:24].mean(axis=(0, 1))))
    assert shrink(large).shape == (2, 128, 96, 3)
    small = large[:, :128, :128]
    np.testing.assert_array_equal(shrink(small), small)
