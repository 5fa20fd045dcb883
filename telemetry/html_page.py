"""What the pages about a run share: one file, nothing from elsewhere, readable by day, by night and on a phone."""

import base64
import html
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #ffffff; --ink: #1f2933; --muted: #66717d; --line: #e2e6ea;
  --blue: #2f6f9f; --alarm: #9b2335; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --card: #1c2227; --ink: #e6e9ec; --muted: #9aa5b0;
  --line: #2f383f; --blue: #6cb0e0; --alarm: #f08a98; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px; margin: 20px 0; }
.muted { color: var(--muted); }
"""


def page(title: str, style: str, body: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: text, also its heading.
        style: CSS beside what all pages have.
        body: HTML below the heading.
    """
    shown = html.escape(title)
    head = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{shown}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}{style}</style></head><body><main>",
        f"<h1>{shown}</h1>",
    ]
    return "\n".join([*head, *body, "</main></body></html>\n"])


def picture_source(image: NDArray[np.uint8], side: int) -> str:
    """The `src` of an image uint8 [H, W, 3], its pixels in it; larger ones are averaged by whole factors to `side`."""
    from PIL import Image

    picture = Image.fromarray(image)
    if (factor := min(picture.size) // side) > 1:
        picture = picture.reduce(factor)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
