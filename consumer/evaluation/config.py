"""Settings of `penstock evaluate`."""

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal

from penstock.config.rules import require

REFERENCE_LRS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""The grid of StableRep's own linear probe."""

Measure = Literal["knn", "linear_probe", "few_shot", "zero_shot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnConfig:
    """Nearest neighbours vote."""

    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """Of the votes' weights, exp(cosine / temperature)."""

    def __post_init__(self) -> None:
        require(self.k >= 1, "k must be >= 1", self.k)
        require(0 < self.temperature < inf, "temperature must be > 0", self.temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbeConfig:
    """A linear classifier on the features, chosen on validation images from a grid."""

    learning_rates: tuple[float, ...] = (*REFERENCE_LRS, 1.0, 2.0, 5.0, 10.0)
    """Base learning rates, ascending; the rate used is base · batch_size / 256. Each with and without BatchNorm."""
    epochs: int = 90
    """Passes over the training features."""
    batch_size: int = 256
    """Images a step; all of them where there are fewer."""

    def __post_init__(self) -> None:
        rates = self.learning_rates
        ascending = len(rates) > 0 and list(rates) == sorted(set(rates)) and rates[0] > 0 and rates[-1] < inf
        require(ascending, "learning_rates must be some numbers > 0, ascending", rates)
        require(self.epochs >= 1, "epochs must be >= 1", self.epochs)
        require(self.batch_size >= 2, "batch_size must be >= 2: BatchNorm needs two", self.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotConfig:
    """Prototypes from a few images of each class, over many random tasks."""

    ways: int = 5
    """Classes in an episode. More are harder."""
    shots: int = 5
    """Labelled images of each class. More are easier."""
    queries: int = 15
    """Images of each class to classify."""
    episodes: int = 600
    """More narrow the interval."""

    def __post_init__(self) -> None:
        require(self.ways >= 2, "ways must be >= 2", self.ways)
        for name in ("shots", "queries"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1", getattr(self, name))
        require(self.episodes >= 2, "episodes must be >= 2: one has no interval", self.episodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShotConfig:
    """Class names in words, for encoders with a text tower."""

    templates: tuple[str, ...] = ()
    """Texts in which `{}` stands for the class's name, their embeddings averaged; none: the set's usual ones. Fix them
    before you look at figures."""

    def __post_init__(self) -> None:
        for template in self.templates:
            require(template.count("{}") == 1, "templates must hold {} exactly once", template)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Measures a frozen encoder on labelled images."""

    encoder: str = ""
    """What is measured; may stand first without the flag. A run folder, a model's folder or hub id, `random:` before
    either for random weights, or `pixels`."""
    data: str = "toyworld"
    """`toyworld`: handwriting that no run has seen; else a set of real images, as docs/real_images.md lists them."""
    train_split: str = "train"
    """Images that test images are compared with and the probe is trained on."""
    val_split: str = ""
    """Images that the probe's setting is chosen by; empty: cut from the training split."""
    test_split: str = "test"
    """Images that are reported on, and decide nothing."""
    val_share: float = 0.2
    """Share of the training split that is cut off where there is no val_split."""
    report_on: Literal["test", "val"] = "test"
    """`val` reports on validation images and opens no test image: for choosing among encoders, prompts or settings. The
    probe's setting is then chosen on images cut from the training split."""
    limit: int = 0
    """Images of a split at most, drawn by a fixed seed; 0 takes all. For a quick look, not for figures."""
    measures: tuple[Measure, ...] = ("knn", "linear_probe", "few_shot", "zero_shot")
    """What is measured, beside RankMe; zero_shot only where the encoder has a text tower."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Decides the probe's start and order, the episodes, the resamples and random weights; the splits never change."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    batch_size: int = 128
    """Images encoded at a time. More cost memory and save time on a GPU."""
    cache: str = "~/.cache/penstock/features"
    """Folder in which features are kept between evaluations; `none` keeps none."""
    cache_bytes: int = 4_000_000_000
    """Most that the folder holds; features that were not used for longest go first."""
    json: Path | None = None
    """File for the report as JSON."""
    knn: KnnConfig = field(default_factory=KnnConfig)
    linear_probe: LinearProbeConfig = field(default_factory=LinearProbeConfig)
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    zero_shot: ZeroShotConfig = field(default_factory=ZeroShotConfig)

    def __post_init__(self) -> None:
        require(self.data != "", "data must name a set of images", self.data)
        splits = [self.train_split, self.test_split, *([self.val_split] if self.val_split else [])]
        require(len(set(splits)) == len(splits), "train_split, val_split and test_split must differ", splits)
        require(0 < self.val_share < 1, "val_share must be in (0, 1)", self.val_share)
        require(self.limit >= 0, "limit must be >= 0", self.limit)
        require(0 < self.confidence < 1, "confidence must be in (0, 1)", self.confidence)
        require(0 <= self.seed < 2**32, "seed must be in [0, 2**32)", self.seed)
        require(self.batch_size >= 1, "batch_size must be >= 1", self.batch_size)
        require(self.cache_bytes >= 0, "cache_bytes must be >= 0", self.cache_bytes)
