"""A second name of a flag, for a setting that many will type: `--ask` beside `--prompts.ask`.

ask: Annotated[str, short_name("--ask")] = ""
"""

import typing

import tyro


def short_name(flag: str) -> object:
    """What a field's `Annotated` says so that its flag is also called `flag`, without a section before it."""
    return tyro.conf.arg(aliases=(flag,))


def short_names(annotation: typing.Any) -> list[str]:
    """The second names that `short_name` has put into an annotation."""
    return [name for extra in typing.get_args(annotation) for name in getattr(extra, "aliases", None) or ()]
