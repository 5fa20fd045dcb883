"""A run by the manifests' own commands: two trainer pods that meet by name, a producer that dials by name, with keys. A
trainer is lost, the pods are made anew as a JobSet does, and the run goes on to its end.
"""

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.consumer.ledger_reader import LedgerReader, read_steps
from penstock.deploy import keys as keys_command
from tests.deploy.manifests import FOLDER, RENDERED, documents
from tests.fleet.own_host import TOOLS, Host, kill, wait_for

pytestmark = [pytest.mark.fleet, pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(600)]

NUM_STEPS = 60
CHECKPOINT_EVERY = 20
TOKEN = "a-token-of-the-test"
PODS = {f"penstock-trainer-0-{index}.penstock": f"127.0.0.{2 + index}" for index in range(2)}
"""Addresses by the names that JobSet's service gives."""
SMALL = (
    *(f"--max-steps={NUM_STEPS}", f"--checkpoint-every-steps={CHECKPOINT_EVERY}", "--order=ticket"),
    *("--groups-per-step=8", "--generator.images-per-group=4", "--evaluation.data=none"),
    *("--reservoir.capacity-groups=16", "--reservoir.reuse=1", "--stream.window-groups=16"),
)
START_S = 240.0
"""Longer than three processes take to load torch on a busy machine."""


class Run:
    """What the manifests start, with their folders in the test's own.

    Args:
        host: where.
        folder: what is mounted.
    """

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.run_dir = folder / "runs" / "run"
        self._mounted = {
            "/etc/penstock/keys": str(folder / "keys"),
            "/etc/penstock/key/": f"{folder}/keys/",
            "/etc/penstock/metrics": str(folder / "metrics"),
            "/etc/penstock/scripts": str(FOLDER / "base"),
            "/runs/run": str(self.run_dir),
            "$(POD_NAME)": "penstock-producer-0",
        }
        found = {one["kind"]: one for one in documents(RENDERED / "local.yaml")}
        (job,) = found["JobSet"]["spec"]["replicatedJobs"]
        (self._trainer,) = job["template"]["spec"]["template"]["spec"]["containers"]
        (self._producer,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]

    def trainer(self, index: int) -> "subprocess.Popen[bytes]":
        """The pod with this index, as the Job controller and the kubelet start it."""
        name, address = list(PODS.items())[index]
        env = {one["name"]: self._here(one["value"]) for one in self._trainer["env"] if "value" in one}
        env |= {"TRAINER_PODS": "2", "JOB_COMPLETION_INDEX": str(index)}
        env |= {"HOSTNAME": name.removesuffix(".penstock"), "POD_IP": address}
        # Both pods have the host's addresses here: only the first rank's metrics stay where they were.
        own = [*SMALL, f"--metrics={address}:{9400 - index}"]
        words = [*self._trainer["command"], *self._trainer["args"], *own]
        return self.host.start(f"trainer-{index}", [self._here(word) for word in words], env)

    def producer(self) -> "subprocess.Popen[bytes]":
        """A producer, which the kubelet starts again however it ends."""
        command = [self._here(word) for word in (*self._producer["command"], *self._producer["args"])]
        again = 'while :; do "$@"; echo "ended with $?"; sleep 1; done'
        env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return self.host.start("producer", ["bash", "-c", again, "kubelet", *command], env)

    def _here(self, word: str) -> str:
        for there, here in self._mounted.items():
            word = word.replace(there, here)
        return word


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    if os.geteuid() != 0 or any(shutil.which(tool) is None for tool in TOOLS):
        pytest.skip(f"needs root, {', '.join(TOOLS)}: pods get names and ports of their own")
    assert keys_command.main(["init", str(tmp_path / "keys")]) == 0
    assert keys_command.main(["add", str(tmp_path / "keys"), "producer"]) == 0
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "token").write_text(TOKEN)
    (tmp_path / "metrics" / "token").chmod(0o440)
    with Host(tmp_path, PODS) as host:
        yield Run(host, tmp_path)


def test_pods_meet_serve_and_are_made_anew_until_the_run_is_over(run: Run) -> None:
    host = run.host
    producer = run.producer()
    wait_for(lambda: host.get("http://127.0.0.1:9500/startupz") == 200, "the producer is loaded", START_S)
    assert host.get("http://127.0.0.1:9500/healthz") == 200
    assert host.get("http://127.0.0.1:9500/readyz") == 503, "nobody to serve, which is no reason to start it anew"

    pods = [run.trainer(index) for index in range(2)]
    checkpoint = run.run_dir / "checkpoint" / "state.json"
    wait_for(lambda: checkpoint.exists() or any(pod.poll() is not None for pod in pods), "a checkpoint", START_S)
    assert checkpoint.exists(), said(run)
    for url in ("http://127.0.0.2:9400", "http://127.0.0.3:9400", "http://127.0.0.1:9500"):
        assert host.get(f"{url}/readyz") == 200, url
        assert (host.get(f"{url}/metrics"), host.get(f"{url}/metrics", TOKEN)) == (401, 200), url

    kill(pods[1])
    assert pods[0].wait(120) != 0, "a rank ends with the others"
    assert not (run.run_dir / "summary.json").exists(), "it was too late to lose a pod"
    before = len(read_steps(run.run_dir))
    pods = [run.trainer(index) for index in range(2)]
    assert [pod.wait(START_S) for pod in pods] == [0, 0], said(run)

    assert CHECKPOINT_EVERY <= before < NUM_STEPS
    steps = read_steps(run.run_dir)
    assert list(steps) == list(range(NUM_STEPS))
    assert set(Counter(index for used in steps.values() for index in used).values()) == {1}, "each group is used once"
    with LedgerReader(run.run_dir) as ledger:
        assert len(ledger.lives) == 2 * 2, "of each rank"
        assert ledger.producers == ["penstock-producer-0"]
    assert run.trainer(0).wait(60) == 0, "a pod that comes too late has nothing to do"
    assert "is over" in host.said("trainer-0")
    os.killpg(producer.pid, signal.SIGTERM)


def said(run: Run) -> str:
    """The last words of all."""
    return "\n".join(f"{name}:\n{run.host.said(name)[-3000:]}" for name in ("trainer-0", "trainer-1", "producer"))
