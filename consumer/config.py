"""Configuration of a training run: what it makes (`making_config.py`), how that reaches it, what it learns."""

from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import ClassVar, Literal

from penstock.config.address import parse_address
from penstock.config.rules import require
from penstock.consumer.learning_config import ModelConfig, ObjectiveConfig, OptimizerConfig, TextConfig
from penstock.consumer.making_config import FilterConfig, GeneratorConfig, PromptsConfig, RealConfig
from penstock.consumer.reuse import ReusePolicy
from penstock.consumer.tracking_config import TrackingConfig
from penstock.consumer.vit_sizes import VIT_SIZES, encoder_sizes, is_vit
from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.protocol.addresses import parse_advertised
from penstock.protocol.limits import (
    MAX_CANDIDATES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """How groups reach a rank."""

    endpoint: str = "tcp://127.0.0.1:5599"
    """Address that rank 0 binds; rank r takes the port r higher. Port 0 takes a free one, HOST `*` every address."""
    advertise: str = ""
    """HOST or HOST:PORT that producers dial, where it is not what is bound; of rank r the port r higher. Empty for what
    is bound, and where that is every address (`tcp://*:5599`) for the one of this machine's name or default route."""
    keys: str = ""
    """Folder of `penstock keys init`: connections are encrypted, and only producers that it allows get in. Empty for
    links without keys, on this machine only."""
    insecure: bool = False
    """Allow an address beyond loopback although the link has no keys. Only on a network that you trust."""
    max_connections: int = 1024
    """Connections that a rank holds at a time; further ones are refused."""
    window_groups: int = 64
    """Groups asked for or waiting to enter the reservoir, over all ranks. More hides slow producers and takes memory;
    below 2.5 batches of every producer and two steps, producers idle or make padding."""
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
        if self.advertise:
            parse_advertised(self.advertise)
            require(self.endpoint.startswith("tcp://"), "advertise needs an endpoint tcp://HOST:PORT", self.endpoint)
        require(self.window_groups >= 1, "window_groups must be >= 1", self.window_groups)
        require(self.max_connections >= 1, "max_connections must be >= 1", self.max_connections)
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

    folder_flag: ClassVar[str] = "--run-dir"
    """What names the run folder, for errors."""
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
    metrics: str = ""
    """HOST:PORT, or a port of this machine, where rank 0 serves its metrics to Prometheus; rank r takes the port r
    higher. Empty for none."""
    metrics_token_file: str = ""
    """File of the token that readers of the metrics must bring, where others can reach them; if empty the
    environment's PENSTOCK_METRICS_TOKEN. The run's own producers ask for it too."""
    metrics_insecure: bool = False
    """Let everyone who reaches the metrics read them, without a token. Only on a network that you trust."""
    dashboard: str = ""
    """HOST:PORT, or a port of this machine, of the live page of rank 0; beyond this machine a token is asked for. Empty
    for none."""
    trace: str = ""
    """File that gets the last minutes of all processes on one time line, for Perfetto. Empty for none."""
    view: Literal["auto", "full", "line"] = "auto"
    """What a terminal shows: `full` the pipeline, the fleet and the curves, `line` one line; `auto` is `full` where the
    terminal is large enough. Without a terminal there are plain lines."""
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
        for name in ("metrics", "dashboard"):
            if text := getattr(self, name):
                parse_address(text, name)
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
        # A file may name a scorer of its own; no preset of the producers does.
        of_a_file = self.fleet.local_producer_config.endswith((".yaml", ".yml"))
        require(
            not (self.filter.is_on and self.local_fleet.local_producers) or of_a_file or bool(self.fleet.local_scorer),
            "fleet.local_scorer must name a scorer for the producers that this run starts, since filter is on: "
            "toyworld, or a CLIP or SigLIP",
            self.fleet.local_scorer,
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
