"""A producer's metrics beyond its machine: refused without a token before anything is loaded, served with one."""

import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest

COMMAND = [sys.executable, "-m", "penstock.producer", "--backend", "paced", "--connect", "tcp://127.0.0.1:1"]
WAIT_S = 30


def _environ(token: str = "") -> dict[str, str]:
    return os.environ | {"PENSTOCK_METRICS_TOKEN": token}


@pytest.mark.parametrize("devices", [[], ["--devices", "cpu,cpu"]])
def test_without_a_token_it_is_one_line(devices: list[str]) -> None:
    command = [*COMMAND, *devices, "--metrics", "0.0.0.0:0"]
    done = subprocess.run(command, env=_environ(), capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"error: metrics: others can reach 0\.0\.0\.0:0, so it wants a token: .*\n", done.stderr)


def test_with_one_it_serves_those_who_bring_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("prometheus-knows-it\n")
    file.chmod(0o600)
    command = [*COMMAND, "--metrics", "0.0.0.0:0", "--metrics-token-file", str(file)]
    with subprocess.Popen(command, env=_environ(), stderr=subprocess.PIPE, text=True) as producer:
        watchdog = threading.Timer(WAIT_S, producer.kill)
        watchdog.start()
        try:
            assert producer.stderr is not None
            ports = (
                re.search(r"metrics at http://0\.0\.0\.0:(\d+)/metrics, to whoever", line) for line in producer.stderr
            )
            url = f"http://127.0.0.1:{next(found[1] for found in ports if found)}/metrics"
            with pytest.raises(HTTPError, match="401"):
                urllib.request.urlopen(url, timeout=WAIT_S)
            asked = urllib.request.Request(url, headers={"Authorization": "Bearer prometheus-knows-it"})
            with urllib.request.urlopen(asked, timeout=WAIT_S) as answer:
                assert b"process_cpu_seconds" in answer.read()
        finally:
            watchdog.cancel()
            producer.kill()
