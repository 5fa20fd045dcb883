"""Whom a rank of the run welcomes: the rules that a producer's manifest must keep."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from penstock.protocol.tickets import Kind, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the engines of one kind of producers must be. None takes the first producer's."""

    model_digest: str | None = None
    manifest_digest: str | None = None
    same_engine: bool = False
    """Whether the whole manifest must agree and not only the model: only then are equal tickets equal bits."""
    filters: bool = False
    """Whether it must have a scorer, and the same as the others."""
    scorer: str | None = None
    """Digest of that scorer."""
    lack: str = ""
    """What to say where there is no such producer: what is lacking, and the command that starts one, without the
    address. Empty for what a run usually lacks."""


def refusal(
    producer: str, manifest: Manifest, expectations: Mapping[Kind, Expectation], first: Manifest | None
) -> tuple[str, str] | None:
    """Why a producer cannot serve the run, as the word that is counted and a sentence; or None.

    Args:
        producer: its name.
        manifest: what it is.
        expectations: for each kind of images that the run uses.
        first: the manifest of the first producer of its kind that was welcome.
    """
    kind = manifest.kind
    expects = expectations.get(kind)
    what = f"{producer} serves {manifest.model} with digest {manifest.model_digest[:12]}"
    if expects is None:
        return "model", f"{what}: {kind.value} images, and this run uses none"
    model_digest = expects.model_digest or (first.model_digest if first else manifest.model_digest)
    if manifest.model_digest != model_digest:
        apart = f" for its {kind.value} images" if len(expectations) > 1 else ""
        return "model", f"{what}, this run wants digest {model_digest[:12]}{apart}"
    if expects.filters and (lack := _lack_of_scorer(manifest, expects.scorer or (first.scorer if first else ""))):
        return "scorer", f"{producer} {lack}"
    digest = expects.manifest_digest or (first.digest if first else manifest.digest)
    if expects.same_engine and manifest.digest != digest:
        others = asdict(first) if first else {}
        named = [f"{k} {v}, the run has {others[k]}" for k, v in asdict(manifest).items() if others.get(k, v) != v]
        what = "; ".join(named) or f"its manifest's digest is {manifest.digest[:12]}, the run has {digest[:12]}"
        return "engine", f"{producer} cannot make the same bits as the run's first producer: {what:.400}"
    return None


def _lack_of_scorer(manifest: Manifest, scorer: str) -> str:
    """What a producer's scorer lacks for a run that filters by this one, or by any where it is empty; or nothing."""
    if not manifest.scorer:
        return "has no scorer, and this run filters its images: penstock produce --scorer NAME"
    if scorer and manifest.scorer != scorer:
        return f"scores with digest {manifest.scorer[:12]}, this run filters by {scorer[:12]}: use its --scorer"
    return ""
