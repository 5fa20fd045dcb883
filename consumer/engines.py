"""Which engines a run's images may come from, and how its ranks agree on them.

Generated and real images come from engines of their own; those of one kind must agree among themselves. The first
producer of each decides, unless the settings or an earlier life do.
"""

from dataclasses import dataclass

from accelerate import Accelerator

from penstock.consumer.checkpoint import Checkpoint
from penstock.consumer.config import TrainConfig
from penstock.consumer.ranks import gather_strings
from penstock.consumer.real_images import RealImages, lack_of_generator
from penstock.consumer.stream import GroupStream
from penstock.protocol.admission import Expectation
from penstock.protocol.errors import RunError
from penstock.protocol.tickets import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """Digests of what a run's images come from; empty for a kind that it does not use."""

    model_digest: str = ""
    """Of the generator."""
    manifest_digest: str = ""
    """Of the first generating producer's manifest."""
    real_digest: str = ""
    """Of the set of real images."""
    real_manifest_digest: str = ""
    """Of its first producer's manifest."""
    scorer_digest: str = ""
    """Of what filters the generated images; empty where nothing does."""


def expected(
    config: TrainConfig, real: RealImages | None, resume: Checkpoint | None
) -> tuple[Expectation | None, Expectation | None]:
    """What producers of generated and of real images must be; None for a kind that the run does not use.

    Raises RunError where the settings name another generator or set than the run was begun with.
    """
    wanted = None if config.generator.model_digest == "first" else config.generator.model_digest
    if resume and resume.model_digest and wanted not in (None, resume.model_digest):
        raise RunError(
            f"the run was begun with the generator {resume.model_digest[:12]}, generator.model_digest says "
            f"{config.generator.model_digest[:12]}; resume with the same, or begin a new run"
        )
    if resume and real and real.digest != resume.real_digest:
        raise RunError(
            f"the images of {config.real.source} are not those that the run began with; resume with those, or begin a "
            "new run"
        )
    known = resume or Engines(model_digest=wanted or "", real_digest=real.digest if real else "")
    return _expectations(config, real, known)


def agree(accelerator: Accelerator, stream: GroupStream, config: TrainConfig, real: RealImages | None) -> Engines:
    """The engines of the first producers of each kind, for which rank 0 waits.

    The other ranks start their streams here, and accept only engines like those.
    """
    none = ("", "", "")
    model, manifest, scorer = _first(accelerator, stream, Kind.GENERATED) if config.real.fraction < 1 else none
    real_model, real_manifest, _ = _first(accelerator, stream, Kind.REAL) if real else none
    engines = Engines(
        model_digest=model,
        manifest_digest=manifest,
        real_digest=real_model,
        real_manifest_digest=real_manifest,
        scorer_digest=scorer if config.filter.is_on else "",
    )
    if not accelerator.is_main_process:
        stream.expect(*_expectations(config, real, engines))
        stream.start()
    return engines


def _expectations(
    config: TrainConfig, real: RealImages | None, known: Engines | Checkpoint
) -> tuple[Expectation | None, Expectation | None]:
    """What is expected where these digests are known; an empty one is not."""
    generated = Expectation(
        model_digest=known.model_digest or None,
        manifest_digest=known.manifest_digest or None,
        same_engine=config.same_engine,
        filters=config.filter.is_on,
        scorer=known.scorer_digest or None,
        lack=lack_of_generator(config),
    )
    looked_up = Expectation(
        model_digest=known.real_digest or None,
        manifest_digest=known.real_manifest_digest or None,
        same_engine=config.same_engine,
        lack=real.lack if real else "",
    )
    return generated if config.real.fraction < 1 else None, looked_up if real else None


def _first(accelerator: Accelerator, stream: GroupStream, kind: Kind) -> list[str]:
    """Digests of model, manifest and scorer of the first producer of a kind, as rank 0 sees it."""
    digests = ""
    if accelerator.is_main_process:
        manifest = stream.wait_for_engine(kind)
        digests = f"{manifest.model_digest} {manifest.digest} {manifest.scorer}"
    return gather_strings(accelerator, digests)[0].split(" ")
