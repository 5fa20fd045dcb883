"""A real Prometheus with the project's configuration for several machines reads what wants a token; without it, not."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from penstock.config.address import Address
from penstock.telemetry.metrics_server import MetricsServer
from tests.deploy.test_prometheus import FOLDER, RULES

WAIT_S = 60.0
TOKEN = "prometheus-knows-it"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(150),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not installed (make observe, or: apt-get install prometheus)",
    ),
]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _targets(url: str) -> dict[str, Any]:
    """By job, what Prometheus says of its one target; nothing where it does not answer yet."""
    try:
        with urllib.request.urlopen(f"{url}/api/v1/targets?state=active", timeout=5) as answer:
            return {found["labels"]["job"]: found for found in json.load(answer)["data"]["activeTargets"]}
    except OSError:
        return {}


def test_it_reads_with_the_token_and_says_401_without(tmp_path: Path) -> None:
    shutil.copy(FOLDER / RULES.name, tmp_path)
    text = (FOLDER / "fleet.yaml").read_text().replace("scrape_interval: 10s", "scrape_interval: 1s")
    # The second job forgets its token.
    head, _, tail = text.rpartition("    authorization:\n      credentials_file: metrics.token\n")
    (tmp_path / "fleet.yaml").write_text(head + tail)
    (tmp_path / "metrics.token").write_text(TOKEN + "\n")
    (tmp_path / "targets").mkdir()
    url = f"http://127.0.0.1:{_free_port()}"
    command = ["prometheus", "--config.file", str(tmp_path / "fleet.yaml"), "--log.level", "warn"]
    command += ["--storage.tsdb.path", str(tmp_path / "data"), "--web.listen-address", url.removeprefix("http://")]
    with MetricsServer(Address("127.0.0.1", 0), token=TOKEN) as server:
        for side in ("trainer", "producer"):
            (tmp_path / "targets" / f"{side}.yaml").write_text(f'- targets: ["{server.address}"]\n')
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + WAIT_S
            targets = _targets(url)
            while sorted(found["health"] for found in targets.values()) != ["down", "up"]:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, targets
                time.sleep(0.2)
                targets = _targets(url)
        finally:
            process.kill()
            process.wait()
    assert targets["penstock-trainer"]["health"] == "up"
    assert "401 Unauthorized" in targets["penstock-producer"]["lastError"]
