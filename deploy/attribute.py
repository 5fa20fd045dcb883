"""`penstock attribute`: the training groups nearest to an image in the trained encoder's space, made again and shown.

The run's images were never stored; the first time they are all made again, and a small vector of each is kept. The
nearest groups are then found by these, made again, and put in order by the exact similarity of their nearest image. So
an image of the run itself finds itself, and what is shown are the very images that the encoder was trained on.
"""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.config.process import configure_logging
from penstock.deploy.columns import print_columns
from penstock.deploy.embeddings import (
    EMBEDDINGS,
    Embed,
    EmbeddingStore,
    embed_groups,
    image_embedder,
    sample,
)
from penstock.deploy.nearest import has_faiss, nearest
from penstock.deploy.progress import with_progress
from penstock.deploy.recorded import OneLineParser, add_engine, add_run, counted, open_ledger, open_remaker
from penstock.protocol.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from penstock.consumer.evaluation.encoders import Encoder
    from penstock.consumer.ledger_file import LedgerGroup
    from penstock.consumer.ledger_reader import LedgerReader
    from penstock.deploy.remaking import Remaker

_log = logging.getLogger(__name__)

PROG = "penstock attribute"
DESCRIPTION = """\
Find the training groups nearest to an image, by the encoder that the run has trained. The first time all groups are
made again and their vectors kept in the run's folder; that takes as long as making them did, or less with --groups."""
EXAMPLE = """\
example:
  penstock demo
  penstock attribute runs/demo photo.png --top 8 --out nearest.html
      prints the eight nearest groups with similarity, seed, prompt and the steps that used them, and shows them
  penstock attribute runs/demo photo.png --groups 1000 --json
      among a thousand groups, spread evenly over the run; a line of JSON for each that was found

Similarity is the cosine between the image and the nearest image of the group, in the space of RUN/encoder.
"""
_SPARE = 8
"""Groups that are made again beyond those asked for: vectors of half precision may take one for another."""
_OUT = (".html", ".png")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training group near to the query."""

    group: "LedgerGroup"
    similarity: float
    """Of its nearest image: a cosine."""
    image: int
    """Which that is."""
    steps: list[int]
    """That used the group."""
    images: NDArray[np.uint8]
    """All of them, made again: uint8 [m, H, W, 3]."""
    matches: bool | None
    """As in `Remade`."""

    def to_json(self) -> dict[str, Any]:
        """All but the pixels."""
        group = self.group
        return {
            "similarity": round(self.similarity, 6),
            "index": group.index,
            "image": self.image,
            "prompt": group.recipe.prompt,
            "concept": group.concept,
            "seed": group.recipe.seed,
            "steps": self.steps,
            "producer": group.producer,
            "matches": self.matches,
        }


def main(argv: Sequence[str]) -> int:
    """Find, tell, show."""
    options = _parse(argv)
    configure_logging("attribute")
    query = read_query(options.image)
    with open_ledger(options.run) as ledger, open_remaker(options) as remaker:
        encoder, embed = _open_encoder(options)
        store = _open_store(options, encoder)
        _embed_what_lacks(options.groups, ledger, remaker, embed, store)
        found = attribute(query, options.top, ledger, remaker, embed, store)
        about = f"{counted(len(store.indices), 'group')} of {ledger.num_groups:,} compared"
    if options.json:
        for each in found:
            print(json.dumps(each.to_json(), ensure_ascii=False))
    else:
        _print_table(found)
        print(f"{about}, {'with FAISS' if has_faiss() else 'without FAISS'}")
    if options.out is not None:
        _show(options, query, found, about)
        print(f"{'page' if options.out.suffix == '.html' else 'picture':8} {options.out}", file=sys.stderr)
    return 0


def attribute(
    query: NDArray[np.uint8],
    top: int,
    ledger: "LedgerReader",
    remaker: "Remaker",
    embed: Embed,
    store: EmbeddingStore,
) -> list[Neighbour]:
    """The groups of the store with the images nearest to an image, uint8 [H, W, 3]; the nearest first.

    Raises as `Remaker.remake`.
    """
    (looked_for,) = embed([query])
    images = store.images
    most_images = int(images[:, 2].max())
    _, rows = nearest(store.vectors, looked_for, (top + _SPARE) * most_images)
    indices = set(list(dict.fromkeys(images[rows, 0].tolist()))[: top + _SPARE])
    steps = ledger.steps_of(indices)
    found = []
    for remade in remaker.remake(ledger.groups(among=indices)):
        cosines = embed(list(remade.images)) @ looked_for
        best = int(cosines.argmax())
        similarity, group = float(cosines[best]), remade.group
        found.append(Neighbour(group, similarity, best, steps[group.index], remade.images, remade.matches))
    return sorted(found, key=lambda each: (-each.similarity, each.group.index))[:top]


def read_query(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 [H, W, 3]. Raises ConfigError where it is none."""
    from penstock.imagesets.decoding import decode_image

    try:
        return decode_image(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not an image: {error}") from error


def _parse(argv: Sequence[str]) -> "argparse.Namespace":
    parser = OneLineParser(PROG, DESCRIPTION, EXAMPLE)
    add_run(parser)
    parser.add_argument("image", type=Path, metavar="IMAGE", help="PNG, JPEG or another that Pillow knows, of any size")
    parser.add_argument("--top", type=int, default=8, metavar="K", help="groups to show (default: 8)")
    parser.add_argument(
        "--groups", type=int, metavar="N", help="look among so many groups, spread evenly (default: all)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="show them in a page (.html) or a picture (.png)")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each group")
    add_engine(parser)
    options = parser.parse_args(argv)
    for name in ("top", "groups"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be >= 1, got {value}")
    if options.out is not None and options.out.suffix.lower() not in _OUT:
        parser.error(f"--out {options.out}: the name must end in {' or '.join(_OUT)}")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        parser.error(f"--out {options.out}: no such folder: {options.out.parent}")
    return options


def _open_encoder(options: "argparse.Namespace") -> "tuple[Encoder, Embed]":
    """The run's encoder. Raises ConfigError where it has none yet, or where the device is not here."""
    from transformers.utils import logging as transformers_logging

    from penstock.consumer.evaluation.encoders import load_encoder
    from penstock.consumer.evaluation.evaluate import open_device

    transformers_logging.disable_progress_bar()
    folder = options.run / "encoder"
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{options.run} has no encoder: a run writes it at its end")
    device = open_device(options.device)
    encoder = load_encoder(str(folder), device)
    return encoder, image_embedder(encoder, str(device))


def _open_store(options: "argparse.Namespace", encoder: "Encoder") -> EmbeddingStore:
    """The vectors that are kept in the run's folder, where they are this encoder's."""
    from penstock.consumer import run_folder

    key = {
        "run_id": run_folder.read(options.run).run_id,
        "encoder": encoder.digest,
        "preprocessing": json.loads(json.dumps(encoder.preprocessing.to_json())),
        "dim": encoder.dim,
    }
    store = EmbeddingStore(options.run / EMBEDDINGS, key, encoder.dim)
    if store.is_stale:
        _log.info("the encoder is another than that of the vectors in %s: they are made anew", EMBEDDINGS)
    return store


def _embed_what_lacks(
    num_groups: int | None, ledger: "LedgerReader", remaker: "Remaker", embed: Embed, store: EmbeddingStore
) -> None:
    """Make those groups again of which no vector is kept, and keep theirs."""
    wanted = ledger.indices if num_groups is None else sample(ledger.indices, num_groups)
    lacking = {int(index) for index in np.setdiff1d(wanted, store.indices)}
    if lacking:
        remade = remaker.remake(ledger.groups(among=lacking))
        embed_groups(with_progress(remade, len(lacking), what="vectors of "), embed, store)


def _print_table(found: Sequence[Neighbour]) -> None:
    rows = []
    for each in found:
        group = each.group
        cells = (f"{each.similarity:.4f}", group.index, each.image, group.recipe.seed, group.producer)
        rows.append((*cells, describe_steps(each.steps), group.recipe.prompt))
    print_columns(("similarity", "group", "image", "seed", "producer", "steps", "prompt"), rows)


def describe_steps(steps: Sequence[int]) -> str:
    """`12`, or `12 to 90, 24 times`."""
    if len(steps) < 2:
        return str(steps[0]) if steps else "none"
    return f"{steps[0]} to {steps[-1]}, {len(steps)} times"


def _show(options: "argparse.Namespace", query: NDArray[np.uint8], found: Sequence[Neighbour], about: str) -> None:
    """Write the page or the picture. Raises ConfigError where the file cannot be written."""
    run = options.run.resolve().name
    try:
        if options.out.suffix.lower() == ".html":
            from penstock.deploy.attribute_page import draw_page

            options.out.write_text(draw_page(run, options.image.name, query, found, about), encoding="utf-8")
        else:
            _draw(options.out, run, options.image.name, query, found, about)
    except OSError as error:
        raise ConfigError(f"--out {options.out} cannot be written: {error.strerror or error}") from error


def _draw(path: Path, run: str, name: str, query: NDArray[np.uint8], found: Sequence[Neighbour], about: str) -> None:
    from PIL import Image

    from penstock.telemetry.group_sheet import SheetGroup, draw_sheet

    cells = [SheetGroup(prompt="the image", note=name, images=query[None])]
    for each in found:
        where = f"group {each.group.index} · image {each.image} · steps {describe_steps(each.steps)}"
        note = f"{each.similarity:.4f} · {where}"
        cells.append(SheetGroup(prompt=each.group.recipe.prompt, note=note, images=each.images))
    Image.fromarray(draw_sheet(f"Training groups of {run} nearest to {name}", about, cells)).save(path)
