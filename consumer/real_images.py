"""The real images of a run as the trainer sees them: a set's captions and its digest, and no pixels.

What a producer must have to serve them, and what there is to say where none does.
"""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.consumer.config import TrainConfig
from penstock.consumer.local_fleet import real_arguments
from penstock.consumer.making_config import RealConfig
from penstock.consumer.prompts.captions import ListedCaptions, ShuffledCaptions
from penstock.imagesets.imageset import ImageSet
from penstock.imagesets.opening import open_imageset
from penstock.protocol.errors import ConfigError
from penstock.protocol.limits import MAX_PROMPT_BYTES
from penstock.protocol.tickets import prompt_id

_log = logging.getLogger(__name__)

_LACKS_GENERATOR = "no producer generates images: penstock produce"


@dataclass(frozen=True, slots=True)
class RealImages:
    """A run's set of real images."""

    prompts: ShuffledCaptions
    """Its captions; their digest is the set's."""
    lack: str
    """What to say where no producer serves it."""

    @property
    def digest(self) -> str:
        """Of the set: the `model_digest` of its tickets and producers."""
        return self.prompts.digest


def open_real_images(config: TrainConfig) -> RealImages | None:
    """The set that the run takes real images from; None where it takes none.

    Raises ConfigError where it cannot be opened, or where no row has a caption that a ticket can carry.
    """
    real = config.real
    if real.fraction == 0:
        if real.source:
            _log.warning("no image of %s is used: real.fraction is 0", real.source)
        return None
    images = open_imageset(real.source, real.split)
    rows = [row for row, caption in enumerate(images.captions) if _can_be_asked(caption)]
    captions = [images.captions[row] for row in rows]
    if not captions:
        raise ConfigError(f"real.source: none of the {len(images)} images of {images.name} has a caption or a class")
    if len(captions) < len(images):
        left_out = len(images) - len(captions)
        _log.warning("%s: %d images have no caption, or one that is too long, and are left out", images.name, left_out)
    listed = ListedCaptions(captions, images.digest, _concepts(images, rows))
    return RealImages(ShuffledCaptions(listed, config.seed), _lack(real))


def _concepts(images: ImageSet, rows: Sequence[int]) -> list[str]:
    """The class of every caption; none where images have no classes or a caption stands in two."""
    if images.labels is None:
        return []
    found: dict[int, str] = {}
    for row in rows:
        name = images.classes[images.labels[row]]
        if found.setdefault(prompt_id(images.captions[row]), name) != name:
            return []
    return [images.classes[images.labels[row]] for row in rows]


def lack_of_generator(config: TrainConfig) -> str:
    """What to say where no producer generates; empty where the run needs nothing else, and that says itself."""
    if config.filter.is_on:
        return f"{_LACKS_GENERATOR} --scorer NAME"
    return _LACKS_GENERATOR if config.real.fraction else ""


def _can_be_asked(caption: str) -> bool:
    """Whether a ticket can carry a caption."""
    encoded = caption.encode(errors="replace")
    return bool(caption.strip()) and len(encoded) <= MAX_PROMPT_BYTES and encoded.decode() == caption


def _lack(real: RealConfig) -> str:
    command = shlex.join(["penstock", "produce", *real_arguments(real)])
    where = f"{real.source} ({real.split})" if real.split else real.source
    return f"no producer serves the real images of {where}: {command}"
