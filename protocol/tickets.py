"""Recipes and tickets: what is made, and where it stands in the stream.

The ticket fixes the content, not the worker: whoever holds it makes the same group. So the same run gives the same
stream whatever the fleet's size and luck, and no image need be stored, because its ticket can make it again.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum

from penstock.protocol.image_codec import RAW, is_codec_name
from penstock.protocol.limits import (
    MAX_CANDIDATES,
    MAX_GUIDANCE_SCALE,
    MAX_IMAGE_SIDE,
    MAX_IMAGES_PER_GROUP,
    MAX_INFERENCE_STEPS,
    MAX_INT,
    MAX_NAME_LENGTH,
    MAX_PROMPT_BYTES,
    MAX_VERSIONS,
)
from penstock.protocol.rules import require, require_name


def normalise_prompt(text: str) -> str:
    """The form in which two prompts count as one: NFKC, case folded, runs of white space made one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def prompt_id(text: str) -> int:
    """Stable identity of a prompt and the label of its images: 63 bits of BLAKE2b of its normalised text.

    Returns an int in [0, 2**63), equal on every machine and in every life of a run.
    """
    return _hash63("prompt", normalise_prompt(text))


def group_seed(run_seed: int, prompt: int, index: int) -> int:
    """Seed of the group at global `index` for the prompt with id `prompt`; int in [0, 2**63).

    The global index stands in it because a prompt that occurs twice must give different images.
    """
    return _hash63("group", run_seed, prompt, index)


def image_seed(seed: int, image: int) -> int:
    """Seed of candidate number `image` of the group with seed `seed`; int in [0, 2**63). One generator per image."""
    return _hash63("image", seed, image)


def _hash63(*parts: str | int) -> int:
    text = "\x1f".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=b"penstock").digest()
    return int.from_bytes(digest, "big") >> 1


def _is_text(text: str) -> bool:
    """Whether no half of a surrogate pair stands alone in `text`: such a string cannot travel."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_digest(text: str) -> bool:
    """Whether `text` can be a digest: 1 to 64 lower-case hexadecimal digits."""
    return re.fullmatch("[0-9a-f]{1,64}", text) is not None


IMAGES = "images"
"""Backend of what generates nothing: it looks images up in a set of real ones."""


class Kind(Enum):
    """Where a group's images come from. In one run each kind has one `model_digest`."""

    GENERATED = "generated"
    REAL = "real"


Require = Callable[[bool, str, object], None]
"""Raises unless the first is true, with a rule and the value that breaks it. A recipe and a configuration that writes
recipes have the same rules, and errors of their own."""


def check_scale(name: str, scale: float, require: Require) -> None:
    """The rules of a guidance scale. It is a multiple of 1/1000, so that a record of it takes few bytes."""
    require(0 <= scale <= MAX_GUIDANCE_SCALE, f"{name} must be in [0, {MAX_GUIDANCE_SCALE}]", scale)
    require(round(scale, 3) == scale, f"{name} must be a multiple of 0.001", scale)


def check_guidance(rescale: float, start: float, stop: float, require: Require) -> None:
    """The rules of how images are guided, whatever their scale."""
    require(0 <= rescale <= 1, "guidance_rescale must be in [0, 1]", rescale)
    require(0 <= start <= 1, "guidance_start must be in [0, 1]", start)
    require(start <= stop <= 1, f"guidance_stop must be in [guidance_start ({start}), 1]", stop)


def check_native_size(height: int, width: int, require: Require) -> None:
    """The rules of the size at which a model generates, in pixels."""
    for name, side in (("native_height", height), ("native_width", width)):
        require(side == 0 or 8 <= side <= MAX_IMAGE_SIDE, f"{name} must be 0 or in [8, {MAX_IMAGE_SIDE}]", side)
    native = (height, width)
    require(all(native) or not any(native), "native_height and native_width must be 0 both or neither", native)


def check_candidates(candidates: Sequence[int], require: Require) -> None:
    """The rules of the numbers of images that are chosen of those that could be made for a group."""
    highest = MAX_CANDIDATES - 1
    for candidate in (min(candidates, default=0), max(candidates, default=0)):
        require(0 <= candidate <= highest, f"candidates must be in [0, {highest}]", candidate)
    require(len(set(candidates)) == len(candidates), "candidates must be distinct", candidates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that determines a group's pixels. Raises ValueError where a value breaks its rule.

    Images that could be made for the group are its candidates, numbered from 0; candidate c is drawn from
    `image_seed(seed, c)`. Its images are the first m, or those in `candidates`, or, where a filter is asked for, those
    that the filter chooses.
    """

    prompt: str
    """The caption as the text encoder reads it."""
    seed: int
    """The group's seed."""
    num_images: int
    """m: images of the group, each other's positives."""
    candidates: tuple[int, ...] = ()
    """Which candidates the images are; empty for 0 to m - 1."""
    guidance_scales: tuple[float, ...]
    """Classifier-free guidance weight w of all images, or of each; 1 or less is none, as in diffusers."""
    guidance_rescale: float = 0.0
    """Share of the rescaled prediction mixed in, in [0, 1] (arXiv 2305.08891, equations 15 and 16); 0 is none."""
    guidance_start: float = 0.0
    """Guidance acts only in the steps i of n with guidance_start <= i/n < guidance_stop (arXiv 2404.07724)."""
    guidance_stop: float = 1.0
    """Likewise; 1 is to the end."""
    num_inference_steps: int
    """Denoising steps."""
    scheduler: str
    """Class name of a diffusers scheduler, or `default` for the generator's own."""
    native_height: int = 0
    """Pixels at which the model generates, before the resize to `height`; 0, and then for both, is its own size."""
    native_width: int = 0
    """Likewise, before the resize to `width`."""
    height: int
    """Pixels kept, after the resize."""
    width: int
    """Pixels kept, after the resize."""
    model_digest: str
    """Hex digest of the generator's weights and configuration, or of the set that a real image is looked up in."""
    scorer_digest: str = ""
    """Hex digest of what scores how well an image matches the prompt; empty where no filter is asked for."""
    min_score: float = -1.0
    """Score from which on a candidate is accepted; -1 accepts all."""
    num_candidates: int = 0
    """Candidates that are made at first; the m best of those accepted are kept. Each that lacks takes the next."""
    max_candidates: int = 0
    """Candidates that are made at most; then the best of those rejected make up what lacks."""

    def __post_init__(self) -> None:
        require(bool(self.prompt.strip()), "prompt must not be empty", self.prompt[:40])
        require(_is_text(self.prompt), "prompt must be encodable as UTF-8", self.prompt[:40])
        size = len(self.prompt.encode())
        require(size <= MAX_PROMPT_BYTES, f"prompt must be at most {MAX_PROMPT_BYTES} bytes of UTF-8", size)
        require(0 <= self.seed <= MAX_INT, f"seed must be in [0, {MAX_INT}]", self.seed)
        require(
            1 <= self.num_images <= MAX_IMAGES_PER_GROUP,
            f"num_images must be in [1, {MAX_IMAGES_PER_GROUP}]",
            self.num_images,
        )
        if self.candidates:
            wanted = f"candidates must be num_images ({self.num_images}) many, or none"
            require(len(self.candidates) == self.num_images, wanted, len(self.candidates))
            check_candidates(self.candidates, require)
        wanted = f"guidance_scales must be 1 or num_images ({self.num_images}) many"
        require(len(self.guidance_scales) in (1, self.num_images), wanted, len(self.guidance_scales))
        for scale in self.guidance_scales:
            check_scale("guidance_scales", scale, require)
        check_guidance(self.guidance_rescale, self.guidance_start, self.guidance_stop, require)
        require(
            1 <= self.num_inference_steps <= MAX_INFERENCE_STEPS,
            f"num_inference_steps must be in [1, {MAX_INFERENCE_STEPS}]",
            self.num_inference_steps,
        )
        require(is_digest(self.model_digest), "model_digest must be 1 to 64 hexadecimal digits", self.model_digest[:80])
        require_name("scheduler", self.scheduler, MAX_NAME_LENGTH)
        for name in ("height", "width"):
            side = getattr(self, name)
            require(1 <= side <= MAX_IMAGE_SIDE, f"{name} must be in [1, {MAX_IMAGE_SIDE}]", side)
        check_native_size(self.native_height, self.native_width, require)
        self._check_filter()

    def _check_filter(self) -> None:
        if not self.scorer_digest:
            filtering = (self.min_score, self.num_candidates, self.max_candidates)
            require(filtering == (-1.0, 0, 0), "min_score, num_candidates and max_candidates need a scorer", filtering)
            return
        require(
            is_digest(self.scorer_digest), "scorer_digest must be 1 to 64 hexadecimal digits", self.scorer_digest[:80]
        )
        require(not self.candidates, "candidates must be none beside scorer_digest", len(self.candidates))
        require(-1 <= self.min_score <= 1, "min_score must be in [-1, 1]", self.min_score)
        first, most = self.num_candidates, self.max_candidates
        require(self.num_images <= first, f"num_candidates must be >= num_images ({self.num_images})", first)
        rule = f"max_candidates must be in [num_candidates ({first}), {MAX_CANDIDATES}]"
        require(first <= most <= MAX_CANDIDATES, rule, most)

    @property
    def is_filtered(self) -> bool:
        """Whether its images are chosen by their scores."""
        return bool(self.scorer_digest)

    def scale_of(self, candidate: int) -> float:
        """Guidance scale of a candidate, where `candidates` are none: of image c mod m, where each has its own."""
        return self.guidance_scales[candidate % len(self.guidance_scales)]

    def choose(self, candidates: Sequence[int]) -> "Recipe":
        """The recipe that makes exactly these of its candidates, in this order and without a filter.

        It asks for as many images as there are candidates, each with the guidance scale that it has here.
        """
        scales = self.guidance_scales
        if len(scales) > 1:
            scales = tuple(self.scale_of(candidate) for candidate in candidates)
        return replace(
            self,
            num_images=len(candidates),
            candidates=tuple(candidates),
            guidance_scales=scales,
            scorer_digest="",
            min_score=-1.0,
            num_candidates=0,
            max_candidates=0,
        )

    @property
    def num_first(self) -> int:
        """Images that are made for it at first."""
        return max(self.num_images, self.num_candidates)

    @property
    def image_scales(self) -> tuple[float, ...]:
        """One guidance scale per image, length m."""
        return self.guidance_scales if len(self.guidance_scales) > 1 else self.guidance_scales * self.num_images

    @property
    def num_per_image_values(self) -> int:
        """Entries of its lists, which bound how many recipes travel in one message."""
        return len(self.guidance_scales) + len(self.candidates)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the group's uint8 buffer: (m, H, W, 3)."""
        return (self.num_images, self.height, self.width, 3)

    @property
    def nbytes(self) -> int:
        """Bytes of the group's uint8 buffer."""
        return self.num_images * self.height * self.width * 3

    @property
    def image_seeds(self) -> tuple[int, ...]:
        """One seed per image, length m."""
        return tuple(image_seed(self.seed, number) for number in self.candidates or range(self.num_images))


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """One handing-out of a ticket: what leases, results and refusals name."""

    index: int
    """Global index of the ticket."""
    attempt: int
    """How many times it was handed out before."""

    def __post_init__(self) -> None:
        require(0 <= self.index <= MAX_INT, f"index must be in [0, {MAX_INT}]", self.index)
        require(0 <= self.attempt <= MAX_INT, f"attempt must be in [0, {MAX_INT}]", self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A recipe plus its place in the stream: a request for one group, made by the rank that owns its index."""

    index: int
    """Global index of the group in the run; belongs to rank `index % world_size`."""
    rank: int
    """The rank that asks, and to which the group goes."""
    attempt: int = 0
    """How many times the ticket was handed out before; a result of an earlier attempt is refused."""
    need_by_step: int = 0
    """Optimizer step at which the group is wanted; a producer serves the earliest first."""
    stand_in: int = 0
    """0, or which stand-in this is for the group that belongs at `index` and that no producer could make."""
    alone: bool = False
    """Whether it must be made in a batch of its own: it has gone wrong before, and may be poison."""
    probe: bool = False
    """Whether it is answered with noise of the recipe's shape and without the engine: it measures the wire alone."""
    recipe: Recipe = field()

    def __post_init__(self) -> None:
        for name in ("index", "rank", "attempt", "need_by_step", "stand_in"):
            value = getattr(self, name)
            require(0 <= value <= MAX_INT, f"{name} must be in [0, {MAX_INT}]", value)

    @property
    def key(self) -> Attempt:
        """What names this handing-out of the ticket."""
        return Attempt(self.index, self.attempt)

    def again(self) -> "Ticket":
        """The same ticket for its next attempt."""
        return replace(self, attempt=self.attempt + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What makes two engines interchangeable: equal manifests promise equal bits for equal tickets."""

    model: str
    """Name of the generator as a person would say it; not part of the promise."""
    model_digest: str
    """Hex digest of its weights and configuration, or of its set of real images."""
    scheduler: str
    """Class name of its own scheduler; `none` where nothing is generated."""
    dtype: str
    """Arithmetic of the denoiser: `float32`, `bfloat16` or `float16`."""
    backend: str
    """How it is run: `eager`, ...; `images` where real ones are looked up."""
    device: str
    """Class of the device: `cpu`, or the name of the GPU."""
    batch_images: int
    """Images in every batch; tails are padded to it."""
    settings: dict[str, str] = field(default_factory=dict)
    """Whatever else of the engine changes pixels, such as its autoencoder."""
    codec: str = RAW
    """How its images travel: `raw`, or `jpeg-Q` with the quality, which changes pixels."""
    scorer: str = ""
    """Hex digest of what scores its images, and so decides which of them travel; empty where nothing does."""
    versions: dict[str, str]
    """Versions of the libraries that touch the pixels."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 of everything but the name: equal where two engines promise equal bits."""
        promise = {name: value for name, value in asdict(self).items() if name != "model"}
        return hashlib.sha256(json.dumps(promise, sort_keys=True).encode()).hexdigest()

    @property
    def kind(self) -> Kind:
        """What images such an engine has."""
        return Kind.REAL if self.backend == IMAGES else Kind.GENERATED

    @property
    def is_lossy(self) -> bool:
        """Whether pixels change on their way."""
        return self.codec != RAW

    def __post_init__(self) -> None:
        require(is_digest(self.model_digest), "model_digest must be 1 to 64 hexadecimal digits", self.model_digest[:80])
        require(1 <= self.batch_images <= MAX_INT, "batch_images must be >= 1", self.batch_images)
        for name in ("model", "scheduler", "dtype", "backend", "device"):
            require_name(name, getattr(self, name), MAX_NAME_LENGTH)
        require(not self.scorer or is_digest(self.scorer), "scorer must be a digest, or empty", self.scorer[:80])
        require(is_codec_name(self.codec), "codec must be raw or jpeg-Q with Q in [1, 100]", self.codec)
        for field_name in ("settings", "versions"):
            entries: dict[str, str] = getattr(self, field_name)
            require(len(entries) <= MAX_VERSIONS, f"{field_name} must be at most {MAX_VERSIONS}", len(entries))
            for name, value in entries.items():
                require_name(field_name, name, MAX_NAME_LENGTH)
                require_name(f"{field_name}.{name}", value, MAX_NAME_LENGTH)
