"""From the words by which a person names a set of images to the set."""

from pathlib import Path

from penstock.imagesets import folder, hugging_face, parquet, shards, tars
from penstock.imagesets.imageset import ImageSet
from penstock.protocol.errors import ConfigError

TOYWORLD = "toyworld"


def open_imageset(spec: str, split: str = "") -> ImageSet:
    """Opens a set of real images; reads what its rows say, and no pixels.

    Args:
        spec: what `docs/real_images.md` lists: a folder of images (`ROOT[/SPLIT]/CLASS/*.jpg`, or a flat one with
            `metadata.csv` or `captions.txt`), WebDataset tars (`shards-{000..009}.tar`), Parquet files, a set of
            Hugging Face's (`hf:NAME[:CONFIG]`, or what `save_to_disk` wrote), or `toyworld`.
        split: `train`, `test` or the like; empty where the set has none.

    Raises ConfigError where it is not there, has no such split, no images, or no column that says them.
    """
    if not spec:
        raise ConfigError("a set of images must be named: a folder, tars, Parquet files, hf:NAME or toyworld")
    if spec == TOYWORLD:
        # Here because scikit-learn takes a second to load.
        from penstock.imagesets.toy import open_toyworld

        return open_toyworld(split)
    path = Path(spec)
    if spec.startswith(hugging_face.PREFIX) or hugging_face.is_saved(path):
        return hugging_face.open_hugging_face(spec, split)
    if _consists_of(path, (*tars.TARS, *tars.COMPRESSED)):
        return tars.open_tars(spec, split)
    if _consists_of(path, parquet.SUFFIX):
        return parquet.open_parquet(spec, split)
    return folder.open_folder(path, split)


def _consists_of(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether a file, a pattern or a folder means shards with one of these suffixes."""
    return shards.has_shards(path, suffixes) if path.is_dir() else path.name.lower().endswith(suffixes)
