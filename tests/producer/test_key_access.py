"""A producer's key file is read before anything is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "penstock.producer", "--model", "/no/such/model", "--connect", "tcp://127.0.0.1:1"]


@pytest.mark.parametrize("devices", [[], ["--devices", "cpu,cpu"]])
def test_a_bad_key_is_one_line_before_the_model_is_looked_for(tmp_path: Path, devices: list[str]) -> None:
    command = [*COMMAND, *devices, "--key", str(tmp_path / "ann.key")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'ann.key'} cannot be read: ")
    assert done.stderr.count("\n") == 1
