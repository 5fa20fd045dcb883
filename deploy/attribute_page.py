"""The nearest training groups as one HTML page: the query, then each group's images, nothing from elsewhere."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from penstock.telemetry.html_page import page, picture_source

if TYPE_CHECKING:
    from penstock.deploy.attribute import Neighbour

_MAX_SIDE = 256
"""Pixels; larger images are averaged down to about this, by whole factors."""
_SHOWN_PX = 88
"""Side of an image on the page."""
_MAX_STEPS = 40
"""Steps of a group that are named."""

_STYLE = """
h1 { font-size: 24px; margin: 8px 0 4px; } h2 { font-size: 17px; margin: 0; overflow-wrap: anywhere; }
.muted { font-size: 13px; margin: 4px 0 10px; overflow-wrap: anywhere; }
.head { display: flex; gap: 14px; align-items: baseline; }
.similarity { font-variant-numeric: tabular-nums; font-weight: 600; color: var(--blue); }
.alarm { color: var(--alarm); }
.images { display: flex; flex-wrap: wrap; gap: 8px; }
img { width: 88px; height: 88px; object-fit: cover; border-radius: 4px; border: 3px solid transparent;
  image-rendering: pixelated; }
img.near { border-color: var(--blue); } img.query { width: 176px; height: 176px; }
img.large { image-rendering: auto; }
"""


def draw_page(run: str, name: str, query: NDArray[np.uint8], found: "Sequence[Neighbour]", about: str) -> str:
    """The page.

    Args:
        run: name of the run.
        name: of the image that was asked for.
        query: its pixels, uint8 [H, W, 3].
        found: the nearest groups, in order.
        about: among how many they were found.
    """
    body = [
        f'<p class="muted">{html.escape(about)}. Similarity is the cosine between the image and the framed one, in the '
        "space of the trained encoder. Every image below was made again from its recipe.</p>",
        f"<section>{_picture(query, name, 'query')}</section>",
        *map(_section, found),
    ]
    return page(f"{name}: nearest training groups of {run}", _STYLE, body)


def _section(each: "Neighbour") -> str:
    group = each.group
    steps = ", ".join(map(str, each.steps[:_MAX_STEPS])) + (" …" if len(each.steps) > _MAX_STEPS else "")
    facts = [
        f"group {group.index}, image {each.image}",
        f"seed {group.recipe.seed}",
        f"made by {group.producer} ({group.manifest.model})",
        f"used in {len(each.steps)} steps: {steps}",
    ]
    if group.concept:
        facts.insert(0, group.concept)
    alarm = ' · <span class="alarm">its checksum differs from the ledger\'s</span>' if each.matches is False else ""
    images = "".join(
        _picture(image, f"image {number} of group {group.index}", "near" if number == each.image else "")
        for number, image in enumerate(each.images)
    )
    return (
        f'<section><div class="head"><span class="similarity">{each.similarity:.4f}</span>'
        f"<h2>{html.escape(group.recipe.prompt)}</h2></div>"
        f'<p class="muted">{html.escape(" · ".join(facts))}{alarm}</p><div class="images">{images}</div></section>'
    )


def _picture(image: NDArray[np.uint8], about: str, kind: str) -> str:
    """An image as a tag that holds its pixels."""
    kind = f"{kind} large" if min(image.shape[:2]) > _SHOWN_PX else kind
    told = html.escape(about)
    return f'<img class="{kind.strip()}" src="{picture_source(image, _MAX_SIDE)}" alt="{told}" title="{told}">'
