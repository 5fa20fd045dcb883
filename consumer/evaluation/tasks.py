"""From the settings to the tasks that an encoder is measured on.

The toy world gives two, since a renderer could flatter what was trained on its like: scans drawn by the renderer, and
the same scans merely enlarged. Its bank is the validation scans, because the training scans made the generator, and its
test scans have never been shown to anything. Any other set gives one, of its own splits.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.consumer.evaluation.config import EvaluateConfig
from penstock.consumer.evaluation.splits import Labelled, Task, cut, limited
from penstock.consumer.evaluation.zero_shot import PHOTO_TEMPLATES
from penstock.imagesets.imageset import ImageSet
from penstock.imagesets.opening import open_imageset
from penstock.protocol.errors import ConfigError
from penstock.toyworld.captions import DIGIT_WORDS
from penstock.toyworld.evaluation import LabelledImages, bank_styles, evaluation_sets, query_styles
from penstock.toyworld.render import INKS, PAPERS, Styles

TOYWORLD = "toyworld"
_TOY_TEMPLATES = ("a handwritten {}",)
_OWN_SPLITS = ("train", "", "test")


def open_tasks(config: EvaluateConfig) -> list[Task]:
    """The tasks of `config.data`; no pixels of a real set are read yet.

    Raises:
        ConfigError: there is no such set or split, or it has no labels.
    """
    if config.data == TOYWORLD:
        if (config.train_split, config.val_split, config.test_split) != _OWN_SPLITS:
            raise ConfigError("toyworld has splits of its own; leave train_split, val_split and test_split out")
        return _toyworld(config)
    return [_real(config)]


@dataclass(frozen=True, slots=True)
class _Arrays:
    """Images in memory as a set; the digest is over their pixels."""

    name: str
    pixels: NDArray[np.uint8]
    digest: str

    def image(self, row: int) -> NDArray[np.uint8]:
        """As `Images.image`."""
        image: NDArray[np.uint8] = self.pixels[row]
        return image


def _toyworld(config: EvaluateConfig) -> list[Task]:
    sets = evaluation_sets()
    bank = _labelled("toyworld rendered val", sets.bank, bank_styles())
    test = _labelled("toyworld rendered test", sets.queries, query_styles())
    raw_bank, raw_test = _labelled("toyworld raw val", sets.raw_bank), _labelled("toyworld raw test", sets.raw_queries)
    return [
        _task("toyworld, rendered", config, bank, None, lambda: test, DIGIT_WORDS, _TOY_TEMPLATES, "scan"),
        _task("toyworld, raw scans", config, raw_bank, None, lambda: raw_test, DIGIT_WORDS, _TOY_TEMPLATES, "scan"),
    ]


def _labelled(name: str, arrays: LabelledImages, styles: Styles | None = None) -> Labelled:
    named = (("ink", styles.ink, INKS), ("paper", styles.paper, PAPERS)) if styles else ()
    return Labelled(
        _Arrays(name, arrays.images, hashlib.sha256(arrays.images.tobytes()).hexdigest()),
        rows=torch.arange(len(arrays.labels)),
        labels=torch.tensor(arrays.labels),
        ids=torch.tensor(arrays.scan_ids),
        groups={attribute: (torch.tensor(values), tuple(names)) for attribute, values, names in named},
    )


def _real(config: EvaluateConfig) -> Task:
    train_set = open_imageset(config.data, config.train_split)
    classes = train_set.classes

    def split(name: str) -> Labelled:
        return _of_set(open_imageset(config.data, name), name, classes)

    train = _of_set(train_set, config.train_split, classes)
    val = split(config.val_split) if config.val_split else None
    return _task(config.data, config, train, val, lambda: split(config.test_split), classes, PHOTO_TEMPLATES, "image")


def _of_set(images: ImageSet, split: str, classes: tuple[str, ...]) -> Labelled:
    """All of a split, its labels as places in `classes`, the training split's."""
    if images.labels is None:
        raise ConfigError(f"{images.name} has no labels in its split {split!r}; accuracy needs some")
    places = {name: place for place, name in enumerate(classes)}
    used = [images.classes[label] for label in np.unique(images.labels)]
    if unknown := [name for name in used if name not in places]:
        raise ConfigError(f"{images.name}: class {unknown[0]!r} of its split {split!r} is not in the training split")
    place_of = np.array([places.get(name, -1) for name in images.classes], np.int64)
    return Labelled(images, torch.arange(len(images)), torch.from_numpy(place_of[images.labels]))


def _task(
    name: str,
    config: EvaluateConfig,
    bank: Labelled,
    val: Labelled | None,
    test: Callable[[], Labelled],
    classes: tuple[str, ...],
    templates: tuple[str, ...],
    original: str,
) -> Task:
    """The task of some splits. Where validation images are reported on, they take the place of `test`, unopened."""
    bank = limited(bank, config.limit)
    if config.report_on == "test":
        reported = test()
    elif val is None:
        rest, aside = cut(bank, config.val_share)
        bank, reported = bank.take(rest), bank.take(aside)
    else:
        reported, val = val, None
    reported = limited(reported, config.limit)
    choosing: Tensor | Labelled
    if val is None:
        fit, choosing = cut(bank, config.val_share)
    else:
        fit, choosing = torch.arange(len(bank)), limited(val, config.limit)
    if min(len(fit), len(choosing), len(reported)) < 2:
        counts = f"{len(fit)} to fit, {len(choosing)} to choose by, {len(reported)} to report on"
        raise ConfigError(f"{name} has too few images for three parts: {counts}")
    return Task(
        name=name,
        classes=classes,
        bank=bank,
        fit=fit,
        choosing=choosing,
        test=reported,
        templates=config.zero_shot.templates or templates,
        original=original,
    )
