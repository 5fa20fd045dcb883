"""What the wheels of Torch-TensorRT say, and functions with the parameters that they state."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

WHEELS: dict[str, Any] = json.loads(Path(__file__).with_name("trt_signatures.json").read_text(encoding="utf-8"))
VERSIONS = sorted(WHEELS)


class Recorder:
    """Takes the calls of a library made of a wheel's signatures."""

    def __init__(self, version: str) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.results: dict[str, Any] = {}
        functions = {name: self._function(name, stated) for name, stated in WHEELS[version]["functions"].items()}
        self.library = SimpleNamespace(
            __version__=version,
            save=functions["save"],
            load=functions["load"],
            dynamo=SimpleNamespace(
                compile=functions["dynamo.compile"], refit_module_weights=functions["dynamo.refit_module_weights"]
            ),
        )

    def take(self, name: str, arguments: dict[str, Any]) -> Any:
        """What a call of `name` gives: `results[name]`, called if it can be."""
        self.calls.append((name, arguments))
        result = self.results.get(name)
        return result(arguments) if inspect.isfunction(result) else result

    def _function(self, name: str, stated: dict[str, Any]) -> Callable[..., Any]:
        """A function of exactly the stated parameters, under the decorator that the wheel's stands under."""
        optional = "=None, ".join([*stated["positional"][1:], ""]).rstrip(", ")
        parameters = ", ".join(filter(None, [stated["positional"][0], optional]))
        if stated["keyword_only"]:
            parameters += ", *, " + ", ".join(f"{keyword}=None" for keyword in stated["keyword_only"])
        if stated["swallows"]:
            parameters += f", **{stated['swallows']}"
        scope: dict[str, Any] = {"take": self.take}
        plain = name.rpartition(".")[2]
        exec(f"def {plain}({parameters}):\n    return take({name!r}, dict(locals()))", scope)
        function: Callable[..., Any] = scope[plain]
        return needs_refit(function) if "needs_refit" in stated["decorators"] else function


def needs_refit(f: Callable[..., Any]) -> Callable[..., Any]:
    """As in torch_tensorrt/_features.py: without functools.wraps."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return f(*args, **kwargs)

    return wrapper
