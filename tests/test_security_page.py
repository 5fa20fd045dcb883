"""What docs/security.md says that a test shows, a test shows; and what it says that is never done, is never done."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
ROOMS = ("protocol", "config", "telemetry", "toyworld", "imagesets", "producer", "consumer", "deploy")


def _tests(path: str) -> set[str]:
    """Names of the tests of a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_is_named_is_there() -> None:
    assert len(NAMED) > 50
    found = {path: _tests(path) for path, _ in NAMED if (ROOT / path).is_file()}
    assert [f"{path}::{name}" for path, name in NAMED if name not in found.get(path, ())] == []


def test_every_row_of_a_threat_names_its_test() -> None:
    tables = re.findall(r"\| could \| but \| shown by \|\n\|[ \-|]+\n((?:\|.*\n)+)", PAGE)
    assert len(tables) == 7
    rows = [row for table in tables for row in table.splitlines()]
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+`[^|]*\|$", row)] == []


def test_every_file_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)`", PAGE)
    assert {"tests/benchmarks/test_security.py"} <= set(named)
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_no_model_s_own_code_is_ever_run() -> None:
    """Neither is it asked for, nor is a pickle loaded with all that it may do."""
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                assert "trust_remote_code" not in given, f"{path}:{node.lineno}"
                unsafe = given.get("weights_only")
                assert not (isinstance(unsafe, ast.Constant) and unsafe.value is False), f"{path}:{node.lineno}"
                assert ast.unparse(node.func) not in ("pickle.load", "pickle.loads"), f"{path}:{node.lineno}"
