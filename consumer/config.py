"""Configuration of a training run. What is made stands here, because the trainer writes the tickets."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil, inf
from pathlib import Path
from typing import Annotated, Literal
from unicodedata import category

from penstock.config.flags import short_name
from penstock.config.rules import require
from penstock.consumer.guidance import read_schedule
from penstock.consumer.learning_config import ModelConfig, ObjectiveConfig, OptimizerConfig, TextConfig
from penstock.consumer.reuse import ReusePolicy
from penstock.consumer.tracking_config import TrackingConfig
from penstock.consumer.vit_sizes import VIT_SIZES, encoder_sizes, is_vit
from penstock.kernels.augment_recipe import AugmentRecipe
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
            "prompts.concepts must name a file beside source concepts",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """How groups reach a rank."""

    endpoint: str = "tcp://127.0.0.1:5599"
    """Address that rank 0 binds; rank r takes the port r higher. Port 0 takes a free one."""
    insecure: bool = False
    """Allow an address beyond loopback although the link has no keys. Only on a network that you trust."""
    window_groups: int = 64
    """Groups asked for or waiting to enter the reservoir, over all ranks. More hides slow producers and takes memory;
    below two batches of every producer, producers idle or make padding."""
    window_bytes: int = 1 << 30
    """Bytes of groups that each rank has asked for or holds unused at a time, beside its reservoir."""
    producer_timeout_s: float = 120.0
    """Seconds without a producer, or without a group, before the run stops."""
    warmup_timeout_s: float = 900.0
    """Seconds to wait for producers that are loading their model."""
    heartbeat_s: float = 1.0
    """Seconds between two heartbeats, of a producer and of a rank."""
    lease_s: float = 10.0
    """Seconds that a ticket stays with a producer that does not name it. Higher tolerates worse links; a group
    must get through the slowest one in a quarter of that time."""
    max_attempts: int = 4
    """Failures of one ticket before a stand-in takes its place. More spares good prompts on a fleet that often dies."""
    stall_report_s: float = 30.0
    """Seconds without a finished step before each rank says what it waits for; said again at doubling intervals."""

    def __post_init__(self) -> None:
        require(self.window_groups >= 1, "window_groups must be >= 1", self.window_groups)
        require(self.window_bytes >= 1, "window_bytes must be >= 1", self.window_bytes)
        for name in ("producer_timeout_s", "warmup_timeout_s", "stall_report_s"):
            require(0 < getattr(self, name) < inf, f"{name} must be > 0", getattr(self, name))
        require(
            self.max_attempts >= 3,
            "max_attempts must be >= 3: only after two failures is a ticket made alone, told from its company",
            self.max_attempts,
        )
        require(0.1 <= self.heartbeat_s <= 3600, "heartbeat_s must be in [0.1, 3600]", self.heartbeat_s)
        require(self.lease_s <= 86400, "lease_s must be at most 86400", self.lease_s)
        require(
            self.lease_s >= 3 * self.heartbeat_s,
            f"lease_s must be at least three heartbeats ({3 * self.heartbeat_s:g} s)",
            self.lease_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservoirConfig:
    """What is kept in memory, and how often it is used."""

    policy: Literal["fixed", "adaptive", "fresh"] = "fixed"
    """`fixed`: each group is used exactly `reuse` times. `adaptive`: `min_reuse` to `reuse` times, more only while
    fresh groups lag. `fresh`: once, whatever `reuse` says."""
    reuse: int = 1
    """e: steps that use each group, with policy `adaptive` at most. More hides slow producers and trains longer on
    fewer images. StableRep used its stored images 9 to 28 times."""
    min_reuse: int = 1
    """Uses that policy `adaptive` gives every group. More holds fast producers back and makes images less fresh."""
    min_distance_steps: int = 1
    """Steps between two uses of a group, at least; in arrival order. More keeps groups from meeting again at once, and
    needs as many batches in memory."""
    images_per_use: int = 0
    """Images of a group that each use takes, drawn anew every time; 0 takes all. StableRep made 10 and used 6."""
    capacity_groups: int = 512
    """Groups in memory over all ranks. More mixes older with newer ones; must hold at least one batch."""
    capacity_bytes: int = 8 << 30
    """Bytes of pixels in memory over all ranks: the second bound beside `capacity_groups`, for large groups."""

    def __post_init__(self) -> None:
        for name in ("reuse", "min_reuse", "min_distance_steps", "capacity_groups", "capacity_bytes"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1", getattr(self, name))
        require(self.images_per_use >= 0, "images_per_use must be >= 0", self.images_per_use)
        require(
            self.policy != "adaptive" or self.reuse >= self.min_reuse,
            f"reuse must be at least min_reuse ({self.min_reuse})",
            self.reuse,
        )

    @property
    def reuse_policy(self) -> ReusePolicy:
        """How often a group is used."""
        most = 1 if self.policy == "fresh" else self.reuse
        least = self.min_reuse if self.policy == "adaptive" else most
        return ReusePolicy(min_reuse=least, max_reuse=most, min_distance_steps=self.min_distance_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """The online evaluation on real images."""

    data: Literal["toyworld", "none"] = "none"
    """`toyworld`: handwriting that no prompt, generator or trainer has seen."""
    every_steps: int = 100
    """Steps between two evaluations."""
    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """Of the votes' weights, exp(cosine / temperature)."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, "every_steps must be >= 1", self.every_steps)
        require(self.k >= 1, "k must be >= 1", self.k)
        require(0 < self.temperature < inf, "temperature must be > 0", self.temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """Producers that this run starts itself, on this machine, and ends with it."""

    local_producers: int = 0
    """How many; 0 expects you to start them with `penstock produce --connect ADDRESS`."""
    local_producer_config: str = "demo"
    """Their `--config`: a preset's name or a path."""
    local_scorer: str = ""
    """Their `--scorer`: a CLIP- or SigLIP-like folder, a hub id or `toyworld`; empty for what their config says."""
    local_image_producers: int = 0
    """How many send the real images of `real.source`; one is fast enough for most runs."""

    def __post_init__(self) -> None:
        for name in ("local_producers", "local_image_producers"):
            require(getattr(self, name) >= 0, f"{name} must be >= 0", getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Trains a Vision Transformer on images that producers make while it trains."""

    run_dir: Path = Path("runs/train")
    """Folder of the run: summary, ledger, checkpoint, encoder, one picture."""
    overwrite: bool = False
    """Delete what the run folder holds, if it holds a run."""
    resume: bool = False
    """Go on from the run folder's checkpoint."""
    seed: int = 0
    """Decides prompts, noise, weights and augmentations."""
    max_steps: int = 1000
    """Optimizer steps."""
    groups_per_step: int = 64
    """Prompts in a batch, over all ranks; a multiple of the number of ranks."""
    order: Literal["arrival", "ticket"] = "arrival"
    """`arrival`: groups are used as they come, which is fastest. `ticket`: which step uses which group follows from the
    seed and the settings alone, whatever producers, ranks and resumes; the reservoir is filled before every step."""
    checkpoint_every_steps: int = 500
    """Steps between two checkpoints; the last step always writes one."""
    mixed_precision: Literal["no", "auto", "bf16", "fp16"] = "no"
    """Arithmetic of the forward pass; `auto` is bf16 where the hardware multiplies it, else no."""
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    real: RealConfig = field(default_factory=RealConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    reservoir: ReservoirConfig = field(default_factory=ReservoirConfig)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    model: ModelConfig = field(default_factory=ModelConfig)
    text: TextConfig = field(default_factory=TextConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed must be in [0, 2**32)", self.seed)
        require(self.max_steps >= 1, "max_steps must be >= 1", self.max_steps)
        require(
            self.groups_per_step >= 2, "groups_per_step must be >= 2: one prompt has no negatives", self.groups_per_step
        )
        require(self.checkpoint_every_steps >= 1, "checkpoint_every_steps must be >= 1", self.checkpoint_every_steps)
        require(not (self.overwrite and self.resume), "overwrite and resume exclude each other", "both")
        self._check_reservoir()
        require(
            not self.prompts.ask or self.real.fraction < 1,
            "prompts.ask is for images that are generated; none are with real.fraction 1",
            self.prompts.ask,
        )
        require(
            bool(self.real.source) or not self.fleet.local_image_producers,
            "fleet.local_image_producers needs real images (real.source, real.fraction)",
            self.fleet.local_image_producers,
        )
        require(
            self.stream.window_bytes >= 2 * self.generator.group_bytes,
            f"stream.window_bytes must hold two groups at least, of {self.generator.group_bytes} bytes each: "
            "a late one is asked for twice",
            self.stream.window_bytes,
        )
        self._check_filter()
        self._check_encoder()
        shorter_side = min(self.generator.height, self.generator.width)
        require(
            self.augment.downsample_probability == 0 or max(self.augment.downsample_sizes) < shorter_side,
            f"augment.downsample_sizes must be smaller than the images' shorter side ({shorter_side})",
            self.augment.downsample_sizes,
        )

        require(
            self.images_per_use * self.objective.num_views >= 2 or not self.objective.contrasts_images,
            f"objective {self.objective.name} contrasts the images of a prompt: it needs two of them, in "
            "generator.images_per_group (and reservoir.images_per_use), or objective.views_per_image",
            self.images_per_use * self.objective.num_views,
        )

    def _check_filter(self) -> None:
        made = self.generator.images_per_group
        require(
            not self.filter.is_on or self.real.fraction < 1,
            "filter must be left out where every image is real (real.fraction 1)",
            self.filter,
        )
        first, most = self.filter.num_candidates(made), self.filter.most_candidates(made)
        require(
            not self.filter.is_on or first <= most <= MAX_CANDIDATES,
            f"filter.max_candidates must be in [{first}, {MAX_CANDIDATES}], since {first} images are made at first",
            most,
        )

    def _check_encoder(self) -> None:
        name = self.model.name
        if not name or is_vit(name):
            patch = encoder_sizes(name).patch_size if name else self.model.patch_size
            whose = f"{name}'s patch" if name else "model.patch_size"
            require(
                self.augment.size % patch == 0,
                f"augment.size must be a multiple of {whose} ({patch})",
                self.augment.size,
            )
        require(
            not name or is_vit(name) or not self.objective.reads_text,
            f"model.name must be {', '.join(VIT_SIZES)} for objective {self.objective.name}, whose encoder and text "
            "tower are exported as one",
            name,
        )

    def _check_reservoir(self) -> None:
        reservoir, made = self.reservoir, self.generator.images_per_group
        steps = reservoir.min_distance_steps
        batches = "groups_per_step" if steps == 1 else "groups_per_step * reservoir.min_distance_steps"
        least = self.groups_per_step * steps
        require(
            reservoir.capacity_groups >= least,
            f"reservoir.capacity_groups must be at least {batches} ({least})",
            reservoir.capacity_groups,
        )
        require(
            reservoir.capacity_bytes >= least * self.generator.group_bytes,
            f"reservoir.capacity_bytes must hold {batches} groups ({least}) of {self.generator.group_bytes} bytes each",
            reservoir.capacity_bytes,
        )
        require(
            reservoir.images_per_use <= made,
            f"reservoir.images_per_use must be at most generator.images_per_group ({made})",
            reservoir.images_per_use,
        )
        for name, usual in (("policy", reservoir.policy != "adaptive"), ("min_distance_steps", steps == 1)):
            require(
                self.order == "arrival" or usual,
                f"reservoir.{name} depends on when groups come; order ticket wants fixed or fresh at distance 1",
                getattr(reservoir, name),
            )

    @property
    def local_fleet(self) -> FleetConfig:
        """The producers that the run starts itself: none of a kind whose images it does not use."""
        return replace(
            self.fleet,
            local_producers=self.fleet.local_producers if self.real.fraction < 1 else 0,
            local_image_producers=self.fleet.local_image_producers if self.real.fraction > 0 else 0,
        )

    @property
    def images_per_use(self) -> int:
        """Images of a group that a step trains on."""
        return self.reservoir.images_per_use or self.generator.images_per_group

    @property
    def rows_per_step(self) -> int:
        """Views that all ranks together train on in one optimizer step: what the learning rate is scaled by."""
        return self.groups_per_step * self.images_per_use * self.objective.num_views

    @property
    def capacity_groups(self) -> int:
        """Groups in the reservoirs of all ranks: as many as both bounds allow."""
        return min(self.reservoir.capacity_groups, self.reservoir.capacity_bytes // self.generator.group_bytes)

    @property
    def same_engine(self) -> bool:
        """Whether all producers' engines must promise equal bits."""
        engines = self.generator.engines
        return self.order == "ticket" if engines == "auto" else engines == "same"
