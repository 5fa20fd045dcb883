"""Runs with a bottleneck that is built in: real processes whose work is a sleep, behind the real protocol."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.telemetry.profile.summary import ProfileSummary, read_summary
from tests.faults.programs import ROOT, Program
from tests.faults.proxy import Proxy

WAIT_S = 100.0
NUM_IMAGES, SIDE, GROUPS_PER_STEP = 4, 32, 8
IMAGES_PER_STEP = NUM_IMAGES * GROUPS_PER_STEP
GROUP_BYTES = NUM_IMAGES * SIDE * SIDE * 3
SECONDS = 2.5


def profile(
    folder: Path,
    *,
    fleet: Sequence[float],
    trainer: float,
    wire_bytes_per_s: float | None = None,
    host_s: float | None = None,
    world_size: int = 1,
    **flags: Any,
) -> ProfileSummary:
    """What `penstock profile` says of a rigged run.

    Args:
        folder: takes logs and report.
        fleet: images/s of each producer.
        trainer: images/s of each rank's steps.
        wire_bytes_per_s: width of each producer's pipe to rank 0; None for no pipe.
        host_s: seconds that each batch takes a rank's host beside its work.
        flags: further ones of the profile.
    """
    port = free_ports(world_size)
    settings = {"out": folder / "profile", "seconds": SECONDS, "paced-images-per-s": trainer}
    settings |= {"min-producers": len(fleet)} | common(f"tcp://127.0.0.1:{port}") | flags
    module = ["penstock.consumer.profiled"]
    if host_s is not None:
        module = ["tests.consumer.profile_run.slow_host", str(host_s)]
    if world_size > 1:
        module = ["accelerate.commands.launch", "--cpu", f"--num_processes={world_size}", "--quiet", "-m", *module]
    proxy = Proxy(port, chunk_bytes=GROUP_BYTES // 4) if wire_bytes_per_s else None
    connect = proxy.endpoint if proxy else f"tcp://127.0.0.1:{port}"
    if proxy and wire_bytes_per_s:
        proxy.up.bytes_per_s = wire_bytes_per_s
    programs = start_fleet(folder, connect, fleet)
    rank = Program(["-m", *module, *as_flags(settings)], folder / "profile.log")
    try:
        assert rank.end(WAIT_S) == 0, rank.output
    finally:
        for program in (*programs, rank):
            program.kill()
        if proxy:
            proxy.close()
    return read_summary(folder / "profile")


def paced_run(folder: Path, *, fleet: Sequence[float], trainer: float, seconds: float, **flags: Any) -> dict[str, Any]:
    """The report of the rehearsal that follows: the same run with these producers, in steady state."""
    port = free_ports(1)
    step_s = IMAGES_PER_STEP / min(sum(fleet), trainer)
    warmup = round(1.5 / step_s) + 1
    settings = {"images-per-s": trainer, "max-steps": warmup + round(seconds / step_s), "first-measured-step": warmup}
    settings |= {"run-dir": folder / "run", "min-producers": len(fleet)} | common(f"tcp://127.0.0.1:{port}") | flags
    producers = start_fleet(folder, f"tcp://127.0.0.1:{port}", fleet)
    command = [sys.executable, "-m", "penstock.consumer.paced", *as_flags(settings)]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=True,
        )
    finally:
        for producer in producers:
            producer.kill()
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def common(endpoint: str) -> dict[str, Any]:
    """What a profile and a rehearsal have in common."""
    return {
        "stream.endpoint": endpoint,
        "stream.window-groups": 6 * GROUPS_PER_STEP,
        "groups-per-step": GROUPS_PER_STEP,
        "generator.images-per-group": NUM_IMAGES,
        "generator.height": SIDE,
        "generator.width": SIDE,
        "reservoir.capacity-groups": 2 * GROUPS_PER_STEP,
    }


def start_fleet(folder: Path, connect: str, fleet: Sequence[float]) -> list[Program]:
    """A paced producer for each of these rates."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = {"backend": "paced", "batch-images": NUM_IMAGES, "batch-wait-s": 0, "credit-groups": 4, "connect": connect}
    return [
        Program(
            ["-m", "penstock.producer", *as_flags(flags | {"paced-images-per-s": rate, "name": f"paced-{number}"})],
            folder / f"producer-{number}.log",
        )
        for number, rate in enumerate(fleet)
    ]


def as_flags(settings: dict[str, Any]) -> list[str]:
    """As a command line has them."""
    return [f"--{name}={value}" for name, value in settings.items()]


def free_ports(number: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    for port in range(20_000 + os.getpid() % 10_000, 60_000, 7):
        taken = []
        try:
            for offset in range(number):
                taken.append(socket.create_server(("127.0.0.1", port + offset)))
        except OSError:
            continue
        finally:
            for server in taken:
                server.close()
        return port
    raise AssertionError("no ports are free")
