"""From a manifest in a ledger to the settings of a producer that makes the same bits, as near as this machine comes."""

from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args, get_type_hints

from penstock.protocol.errors import ConfigError
from penstock.protocol.image_codec import JPEG
from penstock.protocol.tickets import Kind, Manifest

if TYPE_CHECKING:
    from penstock.producer.config import ProduceConfig

_NO_PROMISE = ("model", "codec", "scorer")
"""Of a manifest: its name; how images travel, which is done anew here; and what chose among images that are now
named one by one."""
_PACED: Final = "paced"
_ANYWHERE = ("eager", "inductor", _PACED)
"""Backends that run on any device."""
_FAST_IMAGES_PER_S = 1e9
"""What only slept need not be slept again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """What a manifest cannot know: where things lie on this machine. All as in `Remaker`."""

    model: str
    tiny_autoencoder: str
    images: str
    images_split: str
    device: str


def find_engine(manifest: Manifest, choice: EngineChoice) -> "ProduceConfig":
    """Settings of a producer that is interchangeable with the one of `manifest`, or as near as can be had here.

    Raises ConfigError where its weights or its set of images are not known here, or what was named is another.
    """
    from penstock.producer.config import ProduceConfig

    if manifest.kind is Kind.REAL:
        images, split = _find_images(manifest, choice)
        return ProduceConfig(images=images, images_split=split, batch_images=manifest.batch_images)
    if manifest.backend == _PACED:
        return ProduceConfig(backend=_PACED, batch_images=manifest.batch_images, paced_images_per_s=_FAST_IMAGES_PER_S)
    device, is_same = _find_device(manifest, choice.device)
    settings: dict[str, Any] = {
        "model": _find_model(manifest, choice.model),
        "device": device,
        "backend": manifest.backend if is_same or manifest.backend in _ANYWHERE else "eager",
        "batch_images": manifest.batch_images,
    }
    if manifest.dtype in get_args(get_type_hints(ProduceConfig)["dtype"]):
        settings["dtype"] = manifest.dtype
    return ProduceConfig(**settings, **_told(manifest, choice))


def differences(ours: Manifest, theirs: Manifest) -> list[str]:
    """What keeps an engine here from promising the bits of the ledger's: `device AVX2, the ledger has AVX512`."""
    here, there = _promises(ours, theirs), _promises(theirs, theirs)
    return [
        f"{name} {here.get(name, 'none')}, the ledger has {there.get(name, 'none')}"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]


def _promises(manifest: Manifest, theirs: Manifest) -> dict[str, str]:
    """What a manifest promises by, flat; with the library that codes images, where the ledger's were coded."""
    values = asdict(manifest)
    nested = {name: values.pop(name) for name in ("settings", "versions")}
    flat = {name: str(value) for name, value in values.items() if name not in _NO_PROMISE}
    flat |= {name: value for entries in nested.values() for name, value in entries.items()}
    if theirs.codec.startswith(JPEG) and manifest is not theirs:
        flat["simplejpeg"] = _version("simplejpeg")
    return flat


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def _find_images(manifest: Manifest, choice: EngineChoice) -> tuple[str, str]:
    """The set of real images and its split. Raises ConfigError."""
    from penstock.imagesets.opening import TOYWORLD, open_imageset

    images, split = choice.images, choice.images_split
    if not images and manifest.model.partition("/")[0] == TOYWORLD:
        images, split = TOYWORLD, manifest.model.partition("/")[2]
    if not images:
        raise ConfigError(f"the run has real images, of the set {manifest.model!r}; say where it lies with --images")
    if (found := open_imageset(images, split).digest) != manifest.model_digest:
        raise ConfigError(
            f"--images {images} is another set: its digest is {found[:12]}, "
            f"the run's images are of {manifest.model!r} with {manifest.model_digest[:12]}"
        )
    return images, split


def _find_model(manifest: Manifest, asked: str) -> str:
    """The generator's folder, hub id or `tiny`. Raises ConfigError."""
    from penstock.producer import model_folder

    if asked:
        if (found := model_folder.digest(model_folder.find(asked))) != manifest.model_digest:
            raise ConfigError(
                f"--model {asked} is another model: its digest is {found[:12]}, "
                f"the run's images are of {manifest.model} with {manifest.model_digest[:12]}"
            )
        return asked
    if model_folder.digest(model_folder.TINY) == manifest.model_digest:
        return "tiny"
    place = Path(manifest.model)
    if (place / "model_index.json").is_file() and model_folder.digest(place) == manifest.model_digest:
        return manifest.model
    raise ConfigError(
        f"the run's images were made by {manifest.model} (digest {manifest.model_digest[:12]}), "
        "which is not at that place here; say where it lies with --model"
    )


def _find_device(manifest: Manifest, asked: str) -> tuple[str, bool]:
    """The device to use, and whether it is of the class that the manifest names."""
    if asked != "auto":
        return asked, True
    if "threads" in manifest.settings:  # which only an engine on a CPU states
        return "cpu", True
    import torch

    for number in range(torch.cuda.device_count()):
        if torch.cuda.get_device_name(number) == manifest.device:
            return f"cuda:{number}", True
    return "auto", False


def _told(manifest: Manifest, choice: EngineChoice) -> dict[str, Any]:
    """Settings of a producer that its manifest states. Raises ConfigError where an autoencoder is not named here."""
    told = manifest.settings
    settings: dict[str, Any] = {}
    for name, key in (("threads", "threads"), ("decode_images", "decode_images"), ("tensorrt_level",) * 2):
        if key in told:
            settings[name] = int(told[key])
    for name, key in (("tensorrt_float32_sums", "float32_sums"), ("tensorrt_fp8", "fp8")):
        if key in told:
            settings[name] = told[key] == "true"
    if told.get("autoencoder", "").startswith("tiny"):
        if not choice.tiny_autoencoder:
            raise ConfigError("the run's images were decoded with a tiny autoencoder; name it with --tiny-autoencoder")
        settings["tiny_autoencoder"] = choice.tiny_autoencoder
    return settings
