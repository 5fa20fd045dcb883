"""The rooms of the source tree and what each may import, read from the code, lazy imports included.

The table is the architecture: a transport that imports torch, or a producer that imports the trainer, would
turn two programs into one.
"""

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ROOMS: dict[str, set[str]] = {
    "protocol": {"msgpack", "numpy", "zmq"},
    "config": {"yaml", "tyro", "rich", "penstock.protocol.errors"},
    "telemetry": {"numpy", "prometheus_client", "rich", "starlette", "matplotlib"},
    "toyworld": {"numpy", "sklearn"},
    "imagesets": {"numpy", "PIL", "pyarrow", "datasets", "penstock.protocol.errors", "penstock.toyworld"},
    "kernels": {"torch", "triton"},
    "producer": {
        *("penstock.config", "penstock.protocol", "penstock.telemetry", "penstock.imagesets"),
        *("torch", "diffusers", "transformers", "tokenizers", "numpy", "safetensors"),
    },
    "consumer": {
        *(
            "penstock.config",
            "penstock.protocol",
            "penstock.telemetry",
            "penstock.toyworld",
            "penstock.imagesets",
            "penstock.kernels",
        ),
        *("torch", "accelerate", "transformers", "tokenizers", "numpy", "safetensors"),
    },
}
"""Beside the standard library and the room itself. `deploy` may import everything, lazily."""

EXCEPTIONS: dict[str, set[str]] = {
    "protocol/image_codec.py": {"simplejpeg"},
    "protocol/checksum.py": {"isal"},
    "producer/image_engine.py": {"PIL"},
    "producer/model_folder.py": {"huggingface_hub"},
    "producer/tiny/": {"penstock.toyworld"},
    "producer/backends/": {"modelopt", "tensorrt", "torch_tensorrt"},
    "telemetry/flops.py": {"torch"},
    "telemetry/nvml.py": {"pynvml"},
    "telemetry/metrics_server.py": {"penstock.config.access", "penstock.config.address", "penstock.protocol.errors"},
    "telemetry/dashboard/": {"PIL", "uvicorn", "penstock.config", "penstock.protocol.errors"},
    "telemetry/html_page.py": {"PIL"},
    "consumer/cpu_ranks.py": {"psutil"},
    "consumer/evaluation/report.py": {"rich"},
    "consumer/encoders.py": {"timm"},
    "consumer/prompts/balance/matching.py": {"ahocorasick"},
    "consumer/paced.py": {"psutil"},
    "consumer/profile_run/bench.py": {"psutil"},
    "consumer/prompts/files/arrow_columns.py": {"pyarrow"},
    "consumer/prompts/files/hugging_face.py": {"datasets"},
}
"""What a corner of a room may import besides, by the beginning of its path: what makes and measures the shipped model
knows the world it draws, which a producer does not; the live page listens; one file reads its launcher's command line,
one codes images, one fetches what is no pipeline from the hub."""

EAGER_IN_DEPLOY = {"penstock", "rich", "packaging", "psutil", "numpy"}
"""What `deploy` may import as its modules load."""

STANDARD = set(sys.stdlib_module_names)


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported module, by its full dotted name."""

    module: str
    line: int
    relative: bool
    lazy: bool
    """Within a function: not run as the module loads."""


def read_imports(source: str) -> Iterator[Import]:
    """Every import of a module's source, `importlib.import_module("…")` and `__import__("…")` included."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lazy = {id(inner) for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, relative=False, lazy=id(node) in lazy)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}" if node.module else alias.name
                yield Import(name, node.lineno, relative=node.level > 0, lazy=id(node) in lazy)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield Import(node.args[0].value, node.lineno, relative=False, lazy=id(node) in lazy)


def violations(root: Path) -> list[str]:
    """`file:line: what is wrong` for everything below `root` that breaks the table."""
    found: list[str] = []
    for room in [*ROOMS, "deploy"]:
        for path in sorted((root / room).rglob("*.py")):
            shown = path.relative_to(root).as_posix()
            found += [f"{shown}: {what}" for what in misnamed(room, path.relative_to(root / room))]
            for item in read_imports(path.read_text(encoding="utf-8")):
                if (what := forbidden(room, shown, item)) is not None:
                    found.append(f"{shown}:{item.line}: {what}")
    return found


def misnamed(room: str, path: Path) -> Iterator[str]:
    """What is wrong with a module's name."""
    if room == "kernels" and path.name == "__init__.py":
        yield "must not be: it would hide the package `kernels` that transformers imports"
    if room in ("consumer", "producer") and len(path.parts) == 1 and path.stem in STANDARD - {"__main__"}:
        yield "has a standard library name, and `accelerate launch` puts this folder first"


def forbidden(room: str, shown: str, item: Import) -> str | None:
    """Why `room` must not hold this import, or None."""
    if item.relative:
        return f"relative import of {item.module}"
    top = item.module.partition(".")[0]
    if top in STANDARD:
        return None
    if is_within(item.module, "penstock.deploy") and room != "deploy":
        return "nothing imports deploy"
    if room == "deploy":
        heavy = not item.lazy and top not in EAGER_IN_DEPLOY
        return f"{item.module} must be imported lazily" if heavy else None
    extra = {name for corner, names in EXCEPTIONS.items() if shown.startswith(corner) for name in names}
    allowed = {f"penstock.{room}", *ROOMS[room], *extra}
    return None if any(is_within(item.module, name) for name in allowed) else f"{room} must not import {item.module}"


def is_within(module: str, package: str) -> bool:
    """Whether `module` is `package` or lies in it."""
    return module == package or module.startswith(f"{package}.")


def test_every_room_imports_only_what_its_row_allows() -> None:
    assert violations(ROOT) == []


def test_every_source_folder_is_a_room() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert folders <= {*ROOMS, "deploy", "tests", "benchmarks"}


PLANTED = [
    ("protocol/a.py", "import torch", "protocol/a.py:1: protocol must not import torch"),
    ("protocol/a.py", "import os, PIL.Image", "protocol/a.py:1: protocol must not import PIL.Image"),
    (
        "protocol/a.py",
        "def f():\n    from penstock.config.load import load_config",
        "protocol/a.py:2: protocol must not import penstock.config.load.load_config",
    ),
    (
        "config/a.py",
        "from penstock.protocol.codec import encode",
        "config/a.py:1: config must not import penstock.protocol.codec.encode",
    ),
    (
        "producer/a.py",
        "if True:\n    import penstock.consumer.stream",
        "producer/a.py:2: producer must not import penstock.consumer.stream",
    ),
    (
        "consumer/a.py",
        "from penstock import producer",
        "consumer/a.py:1: consumer must not import penstock.producer",
    ),
    (
        "consumer/a.py",
        "import importlib\nimportlib.import_module('penstock.producer.engine')",
        "consumer/a.py:2: consumer must not import penstock.producer.engine",
    ),
    ("consumer/a.py", "from penstock.deploy import cli", "consumer/a.py:1: nothing imports deploy"),
    ("consumer/sub/a.py", "from . import b", "consumer/sub/a.py:1: relative import of b"),
    ("producer/a.py", "import penstockets", "producer/a.py:1: producer must not import penstockets"),
    (
        "producer/a.py",
        "import penstock.toyworld.render",
        "producer/a.py:1: producer must not import penstock.toyworld.render",
    ),
    ("deploy/a.py", "import torch", "deploy/a.py:1: torch must be imported lazily"),
    (
        "kernels/__init__.py",
        "",
        "kernels/__init__.py: must not be: it would hide the package `kernels` that transformers imports",
    ),
    (
        "consumer/queue.py",
        "",
        "consumer/queue.py: has a standard library name, and `accelerate launch` puts this folder first",
    ),
]


@pytest.mark.parametrize(("name", "source", "expected"), PLANTED)
def test_the_check_finds_a_planted_violation(tmp_path: Path, name: str, source: str, expected: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert violations(tmp_path) == [expected]


ALLOWED = [
    ("protocol/a.py", "import os, numpy as np, zmq\nfrom penstock.protocol.codec import encode"),
    ("config/a.py", "from penstock.protocol.errors import ConfigError"),
    ("producer/tiny/train.py", "from penstock.toyworld.render import render_split"),
    (
        "consumer/a.py",
        "from penstock.kernels.multipos_loss import multipos_loss\nimport torch.distributed as dist",
    ),
    ("deploy/a.py", "import penstock.config.process\n\ndef f():\n    import torch"),
    ("consumer/__main__.py", "import sys"),
]


@pytest.mark.parametrize(("name", "source"), ALLOWED)
def test_the_check_lets_pass_what_is_allowed(tmp_path: Path, name: str, source: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert violations(tmp_path) == []


REPORT = "import sys; print(*sorted(m for m in {names} if m in sys.modules))"
HEAVY = ("torch", "diffusers", "transformers", "accelerate", "matplotlib", "sklearn", "PIL", "pyarrow", "datasets")


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("from penstock.deploy.cli import dispatch; dispatch(['--help'])", HEAVY),
        ("from penstock.deploy.cli import dispatch; dispatch(['doctor', '--json'])", HEAVY),
        ("import penstock.consumer.evaluation.command", HEAVY),
        ("import penstock.consumer.config, penstock.producer.config", HEAVY),
        ("import penstock.deploy.demo", HEAVY),
        ("import penstock.deploy.profile", HEAVY),
        ("import penstock.imagesets.opening, penstock.imagesets.resize", HEAVY),
        ("import penstock.telemetry.summary, penstock.telemetry.progress", HEAVY),
        ("import penstock.protocol.errors", (*HEAVY, "zmq", "tyro", "rich")),
        ("import torch", ()),
    ],
)
def test_what_must_start_fast_loads_nothing_heavy(statement: str, heavy: tuple[str, ...]) -> None:
    source = f"{statement}\n{REPORT.format(names=(*HEAVY, 'zmq', 'tyro', 'rich'))}"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert not set(loaded) & set(heavy)
    if statement == "import torch":
        assert "torch" in loaded  # the check can fail
