"""How far work on a run's groups is: a line on stderr, at most every two seconds, and one at the end."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.deploy.remaking import Remade

_EVERY_S = 2.0


def with_progress(remade: "Iterable[Remade]", total: int, *, done: int = 0, what: str = "") -> "Iterator[Remade]":
    """The groups as they are made again, and lines on how many have passed.

    Rates count from the first group on: what loads until then is no work.

    Args:
        remade: the groups.
        total: how many they are, with those that are done.
        done: groups that an earlier try has done.
        what: becomes of them, before their number.
    """
    first_at = shown_at = now = 0.0
    num_groups = num_images = 0
    is_terminal = sys.stderr.isatty()
    for each in remade:
        yield each
        now = time.monotonic()
        num_groups += 1
        if num_groups == 1:
            first_at = shown_at = now
            continue
        num_images += len(each.images)
        if now - shown_at >= _EVERY_S and done + num_groups < total:
            shown_at = now
            _show(
                f"{what}{done + num_groups:,} of {total:,} groups", now - first_at, num_groups, num_images, total - done
            )
    if num_groups:
        _show(f"{what}{done + num_groups:,} of {total:,} groups", now - first_at, num_groups, num_images, num_groups)
        if is_terminal:
            print(file=sys.stderr)


def _show(text: str, seconds: float, num_groups: int, num_images: int, to_do: int) -> None:
    """One line; in a terminal in the place of the one before."""
    if num_images and seconds:
        left_s = (to_do - num_groups) * seconds / (num_groups - 1)
        text += f", {num_images / seconds:,.0f} images/s, {left_s:,.0f} s to go"
    is_terminal = sys.stderr.isatty()
    print(f"\r{text:<70}" if is_terminal else text, end="" if is_terminal else "\n", file=sys.stderr, flush=True)
