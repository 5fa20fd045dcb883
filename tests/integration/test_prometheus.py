"""A real Prometheus scrapes a real run: every query of the dashboard and every alert's expression finds its data."""

import contextlib
import json
import math
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
import zmq

from tests.deploy.test_grafana import PATH, queries
from tests.deploy.test_prometheus import FOLDER, RULES, alerts
from tests.faults.scene import free_port
from tests.integration.test_run import TRAINER, Program

RUN = ["--config", "demo", "--max-steps", "100000", "--groups-per-step", "4", "--reservoir.capacity-groups", "8"]
RUN += ["--reservoir.reuse", "4", "--stream.window-groups", "8", "--fleet.local-producers", "1", "--metrics", "0"]
RUN += ["--generator.images-per-group", "4", "--generator.num-inference-steps", "2", "--evaluation.every-steps", "20"]
RUN += ["--fleet.local-producer-config", str(Path(__file__).with_name("producer.yaml"))]
WINDOW = "10s"
"""In the place of Grafana's own, which depends on the screen."""
WAIT_S = 90.0
"""Longer than data takes on a busy machine; no test waits for it but one that fails."""
RARE = ("penstock_images_filtered_total", "penstock_producer_messages_rejected_total", "ALERTS")
"""What this run has none of: no filter, no refused producer, nothing wrong for long enough. Their panels show 0."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not installed (make observe, or: apt-get install prometheus)",
    ),
]


@dataclass
class Prometheus:
    """A server that scrapes."""

    url: str
    begun_at: float = field(default_factory=time.time)

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer. Raises AssertionError with Prometheus' own words."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def values(self, query: str) -> list[float]:
        """All that a query has given since the beginning, without what is no number."""
        found = self.get("query_range", query=query, start=f"{self.begun_at}", end=f"{time.time()}", step="1")["result"]
        values = [float(value) for series in found for _, value in series["values"]]
        return [value for value in values if not math.isnan(value)]


@contextmanager
def _prometheus(folder: Path, targets: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """A server with the project's own configuration and rules, but for these targets and a scrape every second."""
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    assert {job["job_name"] for job in config["scrape_configs"]} == set(targets)
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    server = Prometheus(f"http://127.0.0.1:{free_port()}")
    command = ["prometheus", "--config.file", str(folder / "prometheus.yaml"), "--log.level", "warn"]
    command += ["--storage.tsdb.path", str(folder / "data"), "--web.listen-address", server.url.removeprefix("http://")]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _until(lambda: _is_ready(server, process, folder / "prometheus.log"), "Prometheus is ready")
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        with urllib.request.urlopen(f"{server.url}/-/ready", timeout=5):
            return True
    except OSError:
        return False


def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{WAIT_S:.0f} s were not enough for this: {what}"
        time.sleep(0.2)


def _shout(endpoint: str) -> None:
    """What no producer says; the rank's answer is waited for."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
        dealer.connect(endpoint)
        dealer.send(b"\xc1")
        dealer.recv_multipart()


def _browse(endpoint: str) -> None:
    """What speaks no ZeroMQ; that the rank hangs up is waited for."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    # It may hang up with what it has not read, which is a reset.
    with contextlib.suppress(ConnectionResetError), socket.create_connection((host, int(port)), WAIT_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: penstock\r\n\r\n")
        while connection.recv(1024):
            pass


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus in which every metric of a run stands that the run has, while it goes on."""
    folder = tmp_path_factory.mktemp("scraped")
    run_dir, log = folder / "run", folder / "run" / "producer-0.log"
    program = Program([*TRAINER, *RUN, "--run-dir", str(run_dir)], folder / "trainer.log")
    try:
        program.until(lambda: log.exists() and "metrics at " in log.read_text())
        trainer, producer = (
            re.findall(r"metrics at http://(\S+)/metrics", text)[0] for text in (program.output, log.read_text())
        )
        with _prometheus(folder, {"penstock-trainer": [trainer], "penstock-producer": [producer]}) as server:
            endpoint = re.findall(r"listens at (tcp://\S+)", program.output)[0]
            # A counter with a label begins at its first event, and a rate needs two looks.
            for _ in range(2):
                _shout(endpoint)
                _browse(endpoint)
            program.until(lambda: bool(server.values("penstock_knn_ratio")) and _is_steady(server))
            yield server
            assert program.process.poll() is None, program.output
    finally:
        program.kill()


def _is_steady(server: Prometheus) -> bool:
    """Whether what comes at a run's beginning has come, and a window has passed since."""
    return bool(server.values(f"penstock_rankme offset {WINDOW}"))


def test_both_sides_are_scraped_and_every_rule_is_evaluated(scraped: Prometheus) -> None:
    targets = scraped.get("targets")["activeTargets"]
    assert {target["labels"]["job"]: target["health"] for target in targets} == {
        "penstock-trainer": "up",
        "penstock-producer": "up",
    }
    rules = [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(alerts())
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}


def test_every_query_of_the_dashboard_has_data(scraped: Prometheus) -> None:
    empty = []
    for title, query in queries(json.loads(PATH.read_text())).items():
        plain = query.replace("[$__rate_interval]", f"[{WINDOW}]").replace("$job", "penstock-.*")
        plain = plain.replace("$rank", ".*").replace("$producer", ".*")
        assert "$" not in plain, title
        if not any(name in plain for name in RARE):
            plain = plain.replace(" or on () vector(0)", "")
        if not scraped.values(plain):
            empty.append(f"{title}: {plain}")
    assert empty == []


def test_every_alert_has_data_to_judge(scraped: Prometheus) -> None:
    """With `bool` a comparison says 0 where it filtered out: what is empty even so joins nothing or names nothing."""
    empty = []
    for name, rule in alerts().items():
        judging = re.sub(r"(?<=\s)(==|!=|>=|<=|>|<)(?=\s)", r"\1 bool", rule["expr"])
        assert judging != rule["expr"], name
        if not scraped.values(judging):
            empty.append(f"{name}: {judging}")
    assert empty == []
    assert RULES.exists()


def test_a_dropped_message_is_seen_with_its_reason(scraped: Prometheus) -> None:
    assert max(scraped.values('penstock_messages_rejected_total{reason="malformed"}')) == 2
