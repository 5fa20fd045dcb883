"""Refuses keywords that a function would not use.

Torch-TensorRT's functions end in `**kwargs`, and what they do not know vanishes there: `enabled_precisions`, which 2.13
no longer has, still "works". A producer that believes to run in one precision and runs in another is worse than one
that does not start.
"""

import inspect
from collections.abc import Callable
from typing import Any

from penstock.protocol.errors import ModelError


def call_named(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """`function(*arguments, **keywords)`, once every keyword is known to be a named parameter. Raises ModelError."""
    require_named(function, keywords)
    return function(*arguments, **keywords)


def require_named(function: Callable[..., Any], keywords: dict[str, Any]) -> None:
    """Raise ModelError where a keyword is no named parameter of `function`."""
    real = _undecorated(function)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {name for name, parameter in inspect.signature(real).parameters.items() if parameter.kind in kinds}
    if unknown := sorted(set(keywords) - named):
        raise ModelError(
            f"{real.__module__}.{real.__qualname__} as installed has no parameter {', '.join(unknown)} and would drop "
            "it in silence; install a torch-tensorrt between 2.11 and 2.14"
        )


def _undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under a decorator that hides its parameters.

    `refit_module_weights` stands under one, `needs_refit`, without functools.wraps: its signature reads `(*args,
    **kwargs)` and only the wrapper's closure leads to the real one.
    """
    function = inspect.unwrap(function)
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    if kinds == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]:
        cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        hidden = [content for content in cells if inspect.isfunction(content)]
        if len(hidden) == 1:
            return _undecorated(hidden[0])
    return function
