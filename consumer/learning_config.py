"""Settings of what learns: the encoder, the text tower, the objective and the optimizer."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from penstock.config.rules import require


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The encoder, a Vision Transformer, and the projection head behind it."""

    name: str = ""
    """`vit-s-16`, `vit-b-16` or `vit-l-16`, in timm's spelling too, or where timm is installed any of its models;
    instead of the four sizes that follow."""
    patch_size: int = 16
    """Pixels of a patch's side. Smaller sees more and costs more."""
    hidden_size: int = 768
    """Width of the encoder."""
    num_layers: int = 12
    """Depth of the encoder."""
    num_heads: int = 12
    """Attention heads; divides hidden_size."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights. Narrow encoders want more, about hidden_size ** -0.5."""
    initial_weights: Literal["transformers", "timm"] = "transformers"
    """Whose way of drawing the initial weights; `timm` is that of StableRep's published code."""
    positions: Literal["random", "sincos"] = "random"
    """Where the position embeddings start: `sincos` knows the grid from the first step."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """How attention is computed; `eager` is faster for short sequences in bfloat16 on a CPU."""
    drop_path: float = 0.0
    """Rate at which rows skip the last block's branches, earlier blocks' less (stochastic depth)."""
    gradient_checkpointing: bool = False
    """Whether blocks are computed once more in the backward pass instead of keeping what they made. Saves memory."""
    compile: bool = False
    """Whether `torch.compile` makes the encoder faster; costs minutes at the start."""
    head_hidden_size: int = 4096
    """Width of the projection head's two hidden layers."""
    head_out_size: int = 256
    """Dimensions in which the loss compares images."""
    head_norm: Literal["batch", "layer"] = "batch"
    """`batch`: BatchNorm per view over all ranks, as in StableRep; `layer`: LayerNorm and GELU, as in SynCLR."""
    head_norm_output: bool = False
    """A norm behind the head, as in MoCo v3 and SynCLR. Narrow encoders start faster with it; StableRep has none."""

    def __post_init__(self) -> None:
        for name in ("patch_size", "hidden_size", "num_layers", "num_heads", "head_hidden_size", "head_out_size"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1", getattr(self, name))
        require(
            self.hidden_size % self.num_heads == 0,
            f"hidden_size must be a multiple of num_heads ({self.num_heads})",
            self.hidden_size,
        )
        require(self.initializer_range > 0, "initializer_range must be > 0", self.initializer_range)
        require(0 <= self.drop_path < 1, "drop_path must be in [0, 1)", self.drop_path)
        require(
            self.positions == "random" or self.hidden_size % 4 == 0,
            "positions sincos needs a hidden_size that is a multiple of 4",
            self.hidden_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The text tower of `stablerep+` and `clip`; the others have none."""

    tokenizer: str = "own"
    """`own`: a small one, made from the run's captions; or the folder or hub id of a CLIP tokenizer."""
    hidden_size: int = 512
    """Width of the text tower."""
    num_layers: int = 12
    """Depth of the text tower."""
    num_heads: int = 8
    """Attention heads; divides hidden_size."""
    max_tokens: int = 77
    """Tokens of a caption, its two ends among them; longer ones are cut."""
    out_size: int = 512
    """Dimensions in which images are compared with texts."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads", "out_size"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1", getattr(self, name))
        require(self.max_tokens >= 3, "max_tokens must be >= 3: a word between its two ends", self.max_tokens)
        require(
            self.hidden_size % self.num_heads == 0,
            f"hidden_size must be a multiple of num_heads ({self.num_heads})",
            self.hidden_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """What is optimised."""

    name: Literal["stablerep", "stablerep+", "simclr", "clip", "supervised", "synclr"] = "stablerep"
    """`stablerep`: images of a prompt attract each other; `stablerep+`: also images and their captions; `simclr`: two
    views of an image; `clip`: images and captions alone; `supervised`: a class for every concept; `synclr`: images of a
    prompt, against a slowly moving average of the encoder."""
    temperature: float = 0.1
    """Of the softmax over images' similarities. Lower weighs the nearest images more."""
    views_per_image: int = 0
    """Augmented views of each image in a step; 0 is the objective's own: 2 for simclr, else 1."""
    image_weight: float = 1.0
    """Weight of `stablerep+`'s contrast among images."""
    language_weight: float = 1.0
    """Weight of `stablerep+`'s contrast between images and captions."""
    teacher_decay: float = 0.994
    """Share of `synclr`'s teacher that stays in a step, at first. Higher is steadier and slower."""
    teacher_decay_end: float = 1.0
    """The same at the end; between them half a cosine."""

    def __post_init__(self) -> None:
        # As the losses have it: a float32 cosine is rounded to 6e-8, and a lower one would make much of that.
        require(1e-6 <= self.temperature < inf, "temperature must be finite and >= 1e-6", self.temperature)
        require(self.views_per_image >= 0, "views_per_image must be >= 0", self.views_per_image)
        for name in ("image_weight", "language_weight"):
            require(0 <= getattr(self, name) < inf, f"{name} must be >= 0", getattr(self, name))
        require(self.image_weight + self.language_weight > 0, "language_weight must be > 0 beside image_weight 0", 0)
        for name in ("teacher_decay", "teacher_decay_end"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be in [0, 1]", getattr(self, name))
        require(
            self.name != "simclr" or self.num_views >= 2,
            "views_per_image must be >= 2 for simclr, which contrasts the views of an image",
            self.views_per_image,
        )

    @property
    def num_views(self) -> int:
        """Views of each image in a step."""
        return self.views_per_image or (2 if self.name == "simclr" else 1)

    @property
    def contrasts_images(self) -> bool:
        """Whether images of a prompt are compared with each other."""
        return self.name in ("stablerep", "stablerep+", "synclr")

    @property
    def reads_text(self) -> bool:
        """Whether there is a text tower."""
        return self.name in ("stablerep+", "clip")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW as StableRep uses it."""

    base_lr: float = 2e-4
    """Learning rate for 512 images a step; the rate used is base_lr · images / 512."""
    weight_decay: float = 0.1
    """Not applied to biases and norms."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's moments."""
    warmup_steps: int = 1000
    """Steps of linear warm-up, at most a fifth of the run; the rest is cosine decay to zero."""
    max_grad_norm: float = 0.0
    """Gradients are clipped to this norm; 0 leaves them as they are."""
    layer_decay: float = 1.0
    """Factor by which each layer learns slower than the one above it; 1 treats all alike."""
    ema_decay: float = 0.0
    """Share of the encoder's moving average that stays in a step; that average is then what is evaluated and exported.
    0 keeps none."""
    grad_accum_steps: int = 1
    """Parts in which a rank's batch goes through the encoder, each with a fraction of the memory. The loss still sees
    the whole batch (GradCache); costs a third more time."""
    max_skipped_steps: int = 20
    """Steps in succession that may be skipped because their gradients are no numbers, before the run stops."""

    def __post_init__(self) -> None:
        require(0 < self.base_lr < inf, "base_lr must be > 0", self.base_lr)
        require(0 <= self.weight_decay < inf, "weight_decay must be >= 0", self.weight_decay)
        require(all(0 <= beta < 1 for beta in self.betas), "betas must be in [0, 1)", self.betas)
        require(self.warmup_steps >= 0, "warmup_steps must be >= 0", self.warmup_steps)
        require(0 <= self.max_grad_norm < inf, "max_grad_norm must be >= 0", self.max_grad_norm)
        require(0 < self.layer_decay <= 1, "layer_decay must be in (0, 1]", self.layer_decay)
        require(0 <= self.ema_decay < 1, "ema_decay must be in [0, 1)", self.ema_decay)
        for name in ("grad_accum_steps", "max_skipped_steps"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1", getattr(self, name))
