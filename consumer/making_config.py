"""Settings of what is made for a run: prompts, images, which of them are kept, and real ones beside them."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Annotated, Literal
from unicodedata import category

from penstock.config.flags import short_name
from penstock.config.rules import require
from penstock.consumer.guidance import read_schedule
from penstock.protocol.limits import (
    MAX_CANDIDATES,
    MAX_GROUP_BYTES,
    MAX_IMAGE_SIDE,
    MAX_IMAGES_PER_GROUP,
    MAX_INFERENCE_STEPS,
    MAX_NAME_LENGTH,
)
from penstock.protocol.tickets import check_guidance, check_native_size, check_scale, is_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsConfig:
    """Where the captions come from."""

    source: str = "toyworld"
    """`toyworld`: captions of handwritten digits; `concepts`: a list of concepts times templates; a file, a folder or a
    pattern of files: text with a caption a line, which a concept and a tab may precede, CSV, TSV, JSONL or Parquet; or
    `hf:NAME[:SPLIT]` of Hugging Face's."""
    caption_column: str = ""
    """Column of a table that holds the captions; empty is the one with a usual name: caption, text, prompt."""
    concept_column: str = ""
    """Column that holds the captions' concepts; empty is the one with a usual name, if any: concept, label, class."""
    malformed: Literal["stop", "skip"] = "stop"
    """Rows that are no captions: `stop` before the run begins, `skip` leaves them out, counted and named in the log."""
    concepts: str = ""
    """Path of a list of concepts, one a line, other spellings after `|`: those of source `concepts`; of other sources
    those that their captions name are found."""
    templates: str = ""
    """Path of a YAML file of the templates that source `concepts` puts its concepts into; empty takes the built-in
    ones."""
    ask: Annotated[str, short_name("--ask")] = ""
    """What to show, in your words: "birds of the alps, in every season". The model behind OPENAI_BASE_URL makes prompts
    of it, or a built-in grammar where that is not set; they are kept as prompts.tsv in the run folder."""
    ask_prompts: int = 1000
    """Different prompts to make of `ask`. More show more and cost more requests."""
    ask_requests: int = 50
    """Requests to the endpoint at most, those that must be repeated included. More reach more prompts and cost more."""
    balance: Literal["natural", "sqrt", "uniform", "metaclip", "counts"] = "natural"
    """How often concepts come. `natural`: as the captions hold them. `sqrt`: by the square root of that. `uniform`:
    equally. `metaclip`: captions are kept as MetaCLIP's curation does. `counts`: as `balance_counts` says."""
    balance_count: int = 20_000
    """t of `metaclip`: concepts of fewer captions keep them all. Lower is flatter; the original had 20,000 for 400
    million captions."""
    balance_counts: str = ""
    """Path of CONCEPT<tab>NUMBER lines: the shares for balance counts, in any unit. Other concepts do not come."""

    def __post_init__(self) -> None:
        require(
            self.source != "concepts" or bool(self.concepts),
            "prompts.concepts must name a list for prompts.source concepts, a file of one concept a line",
            self.concepts,
        )
        require(
            not self.ask or self.source == "toyworld",
            "prompts.ask makes the prompts itself: leave prompts.source out, or toyworld where a preset names one",
            self.source,
        )
        self._check_unread()
        require(2 <= self.ask_prompts <= 1_000_000, "ask_prompts must be in [2, 1000000]", self.ask_prompts)
        require(self.ask_requests >= 1, "ask_requests must be >= 1", self.ask_requests)
        require(len(self.ask) <= 1000, "ask must have at most 1000 characters", len(self.ask))
        unwritable = [char for char in self.ask if category(char) in ("Cc", "Cs") and not char.isspace()]
        require(not unwritable, "ask must be text without control characters, in UTF-8", self.ask)
        require(not self.ask or bool(self.ask.strip()), "ask must say what to show", self.ask)
        require(self.balance_count >= 1, "prompts.balance_count must be >= 1", self.balance_count)
        require(
            (self.balance == "counts") == bool(self.balance_counts),
            "prompts.balance counts goes with prompts.balance_counts, and none without the other",
            (self.balance, self.balance_counts),
        )

    def _check_unread(self) -> None:
        """Refuse what the source would pass over in silence."""
        of_tables = self.caption_column or self.concept_column
        is_made = bool(self.ask) or self.source in ("toyworld", "concepts")
        require(
            not (is_made and of_tables),
            "prompts.caption_column and prompts.concept_column are of tables that prompts.source names; leave them out",
            of_tables,
        )
        require(
            not (self.ask and self.concepts),
            "prompts.ask gives each prompt its concept: leave prompts.concepts out",
            self.concepts,
        )
        require(
            not self.templates or self.source == "concepts",
            "prompts.templates needs prompts.source concepts",
            self.templates,
        )

    @property
    def shown(self) -> str:
        """Where the captions come from, for messages."""
        return f"--ask {self.ask!r}" if self.ask else self.source


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorConfig:
    """What producers make: every ticket's recipe."""

    images_per_group: int = 4
    """m: images made for one prompt, each other's positives. More of them mean fewer prompts in a batch."""
    guidance_scale: float = 2.0
    """Classifier-free guidance weight; 1 or less is none. Low keeps a prompt's images diverse; StableRep found 2 to 3
    best."""
    guidance_scales: tuple[float, ...] = ()
    """Several scales, of which each image draws one: more diverse images. At most one of guidance_scales,
    guidance_range and guidance_schedule, which take the place of guidance_scale."""
    guidance_range: tuple[float, float] | None = None
    """Lowest and highest scale, between which each image draws one evenly."""
    guidance_schedule: tuple[str, ...] = ()
    """Scales that move with the run, as `STEP:SCALE`, linear in between: `0:1.5 1000:4`. A group has that of the step
    at which it is first due."""
    guidance_rescale: float = 0.0
    """Share, 0 to 1, of guidance rescaled to the spread it had without. More takes back the glare of a large scale."""
    guidance_start: float = 0.0
    """Share of the steps, 0 to 1, that go by before guidance acts. Later leaves a prompt's images more diverse."""
    guidance_stop: float = 1.0
    """Share of the steps, guidance_start to 1, after which guidance acts no more. Earlier saves time."""
    num_inference_steps: int = 50
    """Denoising steps. More cost time and add detail."""
    scheduler: str = "default"
    """Class name of a diffusers scheduler, or `default` for the generator's own."""
    native_height: int = 0
    """Pixels at which the model generates, before the resize; 0 is its own size. More cost time and memory."""
    native_width: int = 0
    """Likewise; both are 0, or neither."""
    height: int = 256
    """Pixels kept, after the resize."""
    width: int = 256
    """Pixels kept, after the resize."""
    model_digest: str = "first"
    """Digest that a producer's model must have, as `penstock produce` logs it; `first` takes the first producer's."""
    engines: Literal["auto", "same", "any"] = "auto"
    """`same`: all producers' engines promise equal bits with the first's; `any`: they have its model. `auto` is `same`
    in ticket order, else `any`."""

    def __post_init__(self) -> None:
        require(
            1 <= self.images_per_group <= MAX_IMAGES_PER_GROUP,
            f"images_per_group must be in [1, {MAX_IMAGES_PER_GROUP}]",
            self.images_per_group,
        )
        self._check_scales()
        check_guidance(self.guidance_rescale, self.guidance_start, self.guidance_stop, require)
        require(
            1 <= self.num_inference_steps <= MAX_INFERENCE_STEPS,
            f"num_inference_steps must be in [1, {MAX_INFERENCE_STEPS}]",
            self.num_inference_steps,
        )
        require(1 <= len(self.scheduler) <= MAX_NAME_LENGTH, "scheduler must be a class name", self.scheduler)
        for name in ("height", "width"):
            side = getattr(self, name)
            require(8 <= side <= MAX_IMAGE_SIDE, f"{name} must be in [8, {MAX_IMAGE_SIDE}]", side)
        check_native_size(self.native_height, self.native_width, require)
        require(
            self.group_bytes <= MAX_GROUP_BYTES, f"a group must have at most {MAX_GROUP_BYTES} bytes", self.group_bytes
        )
        require(
            self.model_digest == "first" or is_digest(self.model_digest),
            "model_digest must be `first` or hexadecimal digits",
            self.model_digest,
        )

    def _check_scales(self) -> None:
        check_scale("guidance_scale", self.guidance_scale, require)
        for scale in self.guidance_scales:
            check_scale("guidance_scales", scale, require)
        if self.guidance_range:
            low, high = self.guidance_range
            check_scale("guidance_range", low, require)
            check_scale("guidance_range", high, require)
            require(low <= high, "guidance_range must be the lowest and the highest scale", self.guidance_range)
        read_schedule(self.guidance_schedule, require)
        kinds = ("guidance_scales", "guidance_range", "guidance_schedule")
        given = [name for name in kinds if getattr(self, name)]
        require(len(given) <= 1, f"{' and '.join(given)} exclude each other; give one", len(given))

    @property
    def group_bytes(self) -> int:
        """Bytes of one group's pixels."""
        return self.images_per_group * self.height * self.width * 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterConfig:
    """Which generated images are kept: those that match their prompt, as `penstock produce --scorer NAME` sees it."""

    min_score: float | None = None
    """Score, -1 to 1, below which an image is rejected and the next of its prompt is made; none by default. CLIP gives
    cosines, 0.2 to 0.35 mostly, SigLIP probabilities. Higher costs more images, and rejects most of rare concepts."""
    quantile: float = 0.0
    """Share of each prompt's images, 0 to 1, that is rejected: 1 / (1 - quantile) times as many are made, and the best
    kept. No prompt loses more than another."""
    max_candidates: int = 0
    """Images made at most for a group; where too few of them are accepted, the best of the others fill it up. 0 is four
    times images_per_group, or what the quantile takes."""

    def __post_init__(self) -> None:
        require(
            self.min_score is None or -1 <= self.min_score <= 1,
            "filter.min_score must be in [-1, 1]",
            self.min_score,
        )
        require(0 <= self.quantile < 1, "filter.quantile must be in [0, 1)", self.quantile)
        require(
            0 <= self.max_candidates <= MAX_CANDIDATES,
            f"filter.max_candidates must be in [0, {MAX_CANDIDATES}]",
            self.max_candidates,
        )
        require(
            self.is_on or not self.max_candidates,
            "filter.max_candidates needs filter.min_score or filter.quantile",
            self.max_candidates,
        )

    @property
    def is_on(self) -> bool:
        """Whether anything is rejected."""
        return self.min_score is not None or self.quantile > 0

    def num_candidates(self, num_images: int) -> int:
        """Images made at first for a group of `num_images`."""
        # Of the number as it was written: 4 / (1 - 0.2) is 5, which floats need not know.
        return ceil(num_images / (1 - Fraction(str(self.quantile))))

    def most_candidates(self, num_images: int) -> int:
        """Images made at most for a group of `num_images`."""
        return self.max_candidates or max(_CANDIDATES_PER_IMAGE * num_images, self.num_candidates(num_images))


_CANDIDATES_PER_IMAGE = 4
"""A prompt of which three of four images are rejected is not the filter's to mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealConfig:
    """Real images in the stream, beside those that are generated or instead of them."""

    source: str = ""
    """A set of captioned images: a folder, tars, Parquet files, `hf:NAME` or `toyworld`. The trainer reads its captions
    only; `penstock produce --images` sends the images."""
    split: str = ""
    """Split of the set, such as `train`; empty where it has none."""
    fraction: float = 0.0
    """Share of the groups that are real, 0 to 1; 1 needs no generator."""

    def __post_init__(self) -> None:
        require(0 <= self.fraction <= 1, "real.fraction must be in [0, 1]", self.fraction)
        require(
            self.fraction == 0 or bool(self.source), "real.source must name a set beside real.fraction", self.source
        )
