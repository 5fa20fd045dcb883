"""Writes trt_signatures.json: what Torch-TensorRT's wheels say about the functions that Penstock calls.

    python tests/producer/backends/make_trt_signatures.py

TensorRT itself takes gigabytes and a GPU; the wheels of Torch-TensorRT are 4 MB, and their Python is read here by `ast`
and never imported: parameters of the functions, operators with a converter, and what is decomposed.
"""

import ast
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSIONS = ("2.11.0", "2.12.0", "2.13.0", "2.14.0")
FUNCTIONS = {
    "dynamo.compile": ("torch_tensorrt/dynamo/_compiler.py", "compile"),
    "dynamo.refit_module_weights": ("torch_tensorrt/dynamo/_refit.py", "refit_module_weights"),
    "save": ("torch_tensorrt/_compile.py", "save"),
    "load": ("torch_tensorrt/_compile.py", "load"),
}
CONVERTERS = "torch_tensorrt/dynamo/conversion/"
GROUPS = "torch_tensorrt/dynamo/lowering/_decomposition_groups.py"
DECOMPOSITIONS = "torch_tensorrt/dynamo/lowering/_decompositions.py"
OUTPUT = Path(__file__).with_name("trt_signatures.json")


def main() -> None:
    """Download the wheels, read them, write the JSON file."""
    found = {}
    for version in VERSIONS:
        with tempfile.TemporaryDirectory() as folder:
            found[version] = read_wheel(download(version, Path(folder)))
    OUTPUT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def download(version: str, folder: Path) -> Path:
    """The wheel's path."""
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(folder), f"torch-tensorrt=={version}"], check=True)
    return next(folder.glob("*.whl"))


def read_wheel(path: Path) -> dict[str, Any]:
    """Everything that the tests ask of one version."""
    with zipfile.ZipFile(path) as wheel:
        trees = {name: ast.parse(wheel.read(name)) for name in wheel.namelist() if _wanted(name)}
    groups = sets_by_name(trees[GROUPS])
    return {
        "functions": {name: signature(trees[file], function) for name, (file, function) in FUNCTIONS.items()},
        "converters": converters([tree for name, tree in trees.items() if name.startswith(CONVERTERS)]),
        "decompositions": {
            "torch": groups["torch_enabled_decompositions"],
            "kept": groups["torch_disabled_decompositions"],
            "own": sorted(set(first_arguments(trees[DECOMPOSITIONS], "register_torch_trt_decomposition"))),
        },
    }


def _wanted(name: str) -> bool:
    files = {file for file, _ in FUNCTIONS.values()} | {GROUPS, DECOMPOSITIONS}
    return name in files or (name.startswith(CONVERTERS) and name.endswith(".py"))


def signature(tree: ast.Module, name: str) -> dict[str, Any]:
    """Named parameters of a function, whether it swallows others, and the decorators that may hide them."""
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    arguments = function.args
    return {
        "positional": [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]],
        "keyword_only": [argument.arg for argument in arguments.kwonlyargs],
        "swallows": arguments.kwarg.arg if arguments.kwarg else None,
        "decorators": [ast.unparse(decorator) for decorator in function.decorator_list],
    }


def converters(trees: list[ast.Module]) -> list[str]:
    """`OPERATOR`, or `OPERATOR if VALIDATOR` for a converter that first asks whether it can take the node."""
    found = set()
    for tree in trees:
        for call in calls(tree, "dynamo_tensorrt_converter"):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if call.args and keywords.get("enabled", "True") == "True":
                name, validator = operator(call.args[0]), keywords.get("capability_validator")
                found.add(f"{name} if {validator}" if validator else name)
    return sorted(found)


def first_arguments(tree: ast.Module, function: str) -> Iterator[str]:
    """The operator that each call of `function` names first."""
    return (operator(call.args[0]) for call in calls(tree, function) if call.args)


def calls(tree: ast.Module, function: str) -> Iterator[ast.Call]:
    """Every call of the function, decorators included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == function:
            yield node


def sets_by_name(tree: ast.Module) -> dict[str, list[str]]:
    """Operators of the module's set literals."""
    return {
        ast.unparse(node.target): sorted(operator(element) for element in node.value.elts)
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Set)
    }


def operator(node: ast.expr) -> str:
    """`aten.add.Tensor`."""
    return ast.unparse(node).removeprefix("torch.ops.").removeprefix("torch.")


if __name__ == "__main__":
    main()
