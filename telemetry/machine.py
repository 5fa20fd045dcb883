"""What this machine offers: cores, memory, GPUs and the arithmetic of its CPU, asked without torch."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
DEV = Path("/dev")
SMI_TIMEOUT_S = 10.0


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may use: its affinity, and a container's quota of CPU time (version 1 or 2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota_us, _, period_us = _read(cgroup / "cpu.max").strip().partition(" ")
    if not period_us:
        quota_us = _read(cgroup / "cpu" / "cpu.cfs_quota_us").strip()
        period_us = _read(cgroup / "cpu" / "cpu.cfs_period_us").strip()
    if quota_us.isdigit() and period_us.isdigit():
        cores = min(cores, max(1, int(quota_us) // int(period_us)))
    return cores


def available_memory_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Memory that processes can still take: the system's or a container's; None where it is unknown."""
    found: list[int] = []
    for line in _read(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit_text, used_text = _read(cgroup / limit).strip(), _read(cgroup / used).strip()
        if limit_text.isdigit() and used_text.isdigit():
            found.append(int(limit_text) - int(used_text))
    return min(found, default=None)


def shared_memory_bytes(path: Path = Path("/dev/shm")) -> int | None:
    """Free bytes of shared memory; None where the system has no such folder."""
    return shutil.disk_usage(path).free if path.is_dir() else None


def bf16_instructions(proc: Path = PROC) -> list[str]:
    """The CPU's instructions for bfloat16 products, fastest first; without them bfloat16 is slow."""
    for line in _read(proc / "cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
            return [flag for flag in ("amx_bf16", "avx512_bf16", "avx_bf16", "bf16") if flag in flags]
    return []


def cpu_model(proc: Path = PROC) -> str:
    """The processor's name, as far as the system tells it."""
    for line in _read(proc / "cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def nvidia_gpus() -> list[str]:
    """A line for each GPU, as `NVIDIA H200, 143771 MiB, driver 570.86`; empty without a driver or a GPU."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    query = [smi, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines()]
    return [f"{row[0]}, {row[1]}, driver {row[2]}" for row in rows if len(row) == 3]


def may_have_gpus(dev: Path = DEV) -> bool:
    """Whether a driver has left a device that torch could take for a GPU; with `nvidia-smi` missing, all one knows.

    NVIDIA's, on Jetson too, WSL's, and AMD's, which ROCm's torch also calls `cuda`.
    """
    return any(any(dev.glob(name)) for name in ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd"))


def visible_gpus(num_gpus: int | None, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that CUDA would number from 0 on in a process with this environment.

    `CUDA_VISIBLE_DEVICES` is read as CUDA reads it: it lists indices, or identifiers `GPU-...` or `MIG-...`; what CUDA
    cannot use ends the list, and one that is named twice leaves none.

    Args:
        num_gpus: how many the driver counts; None where that is unknown.
        environ: the environment.

    Returns:
        For `cuda:0`, `cuda:1`, ... the driver's index or the identifier; not all of them need exist if identifiers
        are given or `num_gpus` is unknown.
    """
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [str(index) for index in range(num_gpus or 0)]
    found: list[str] = []
    kind = next((prefix for prefix in ("GPU-", "MIG-") if listed.startswith(prefix)), "")
    for word in listed.split(","):
        digits = re.match(r"\s*\+?(\d+)", word)
        name = word.strip() if kind else str(int(digits[1])) if digits else ""
        if not name.startswith(kind) or not name or (not kind and num_gpus is not None and int(name) >= num_gpus):
            break
        if name in found:
            return []
        found.append(name)
    return found


def cxx_compiler() -> str | None:
    """The C++ compiler that `torch.compile` would find, `CXX` first."""
    names = (os.environ.get("CXX", ""), "g++", "c++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _read(path: Path) -> str:
    """A small system file's text, empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
