"""What a container grants, read from files as Linux writes them."""

import os
from pathlib import Path

import pytest
import torch

from penstock.telemetry import machine

HOST_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_a_quota_all_cores_of_the_affinity_count(tmp_path: Path) -> None:
    assert machine.usable_cores(tmp_path) == HOST_CORES
    write(tmp_path / "cpu.max", "max 100000\n")
    assert machine.usable_cores(tmp_path) == HOST_CORES


@pytest.mark.parametrize("quota", ["100000", "150000", "50000"])
def test_a_quota_of_less_than_two_cores_leaves_one(tmp_path: Path, quota: str) -> None:
    write(tmp_path / "v2" / "cpu.max", f"{quota} 100000\n")
    write(tmp_path / "v1" / "cpu" / "cpu.cfs_quota_us", f"{quota}\n")
    write(tmp_path / "v1" / "cpu" / "cpu.cfs_period_us", "100000\n")
    assert machine.usable_cores(tmp_path / "v2") == 1
    assert machine.usable_cores(tmp_path / "v1") == 1


def test_an_unlimited_version_1_quota_is_none(tmp_path: Path) -> None:
    write(tmp_path / "cpu" / "cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cpu" / "cpu.cfs_period_us", "100000\n")
    assert machine.usable_cores(tmp_path) == HOST_CORES


def test_memory_is_the_lesser_of_the_systems_and_the_containers(tmp_path: Path) -> None:
    assert machine.available_memory_bytes(tmp_path, tmp_path) is None
    write(tmp_path / "meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert machine.available_memory_bytes(tmp_path, tmp_path) == 4000 * 1024
    write(tmp_path / "memory.max", "max\n")
    write(tmp_path / "memory.current", "1000\n")
    assert machine.available_memory_bytes(tmp_path, tmp_path) == 4000 * 1024
    write(tmp_path / "memory.max", "3000\n")
    assert machine.available_memory_bytes(tmp_path, tmp_path) == 2000


def test_bfloat16_is_read_from_the_cpus_flags(tmp_path: Path) -> None:
    assert machine.bf16_instructions(tmp_path) == []
    write(tmp_path / "cpuinfo", "processor : 0\nflags\t\t: fpu avx512_bf16 avx512f amx_bf16\n")
    assert machine.bf16_instructions(tmp_path) == ["amx_bf16", "avx512_bf16"]
    write(tmp_path / "cpuinfo", "flags : fpu avx512f\n")
    assert machine.bf16_instructions(tmp_path) == []


@pytest.mark.parametrize(
    ("listed", "visible"),
    [
        ("", []),
        ("0", ["0"]),
        ("2, 0", ["2", "0"]),
        ("1gpu,2", ["1", "2"]),
        ("1,-1,2", ["1"]),
        ("NoDevFiles", []),
        ("0,0", []),
        ("GPU-aa,GPU-bb", ["GPU-aa", "GPU-bb"]),
        ("GPU-aa,1", ["GPU-aa"]),
        ("GPU-aa,GPU-aa", []),
        ("MIG-1,MIG-2", ["MIG-1", "MIG-2"]),
    ],
)
def test_cudas_variable_is_read_as_torch_reads_it(
    monkeypatch: pytest.MonkeyPatch, listed: str, visible: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert machine.visible_gpus(8) == visible
    assert [str(item) for item in torch.cuda._parse_visible_devices()] == visible


def test_without_cudas_variable_all_gpus_are_visible() -> None:
    assert machine.visible_gpus(3, {}) == ["0", "1", "2"]
    assert machine.visible_gpus(None, {}) == []


def test_an_index_that_the_driver_does_not_have_ends_the_list() -> None:
    assert machine.visible_gpus(4, {"CUDA_VISIBLE_DEVICES": "3,4,0"}) == ["3"]
    assert machine.visible_gpus(None, {"CUDA_VISIBLE_DEVICES": "3,4"}) == ["3", "4"]


def fake_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    smi = folder / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_gpus_are_named_as_the_driver_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(
        tmp_path,
        monkeypatch,
        "echo 'NVIDIA H200, 143771 MiB, 570.86'; echo 'NVIDIA H200, 143771 MiB, 570.86'",
    )
    assert machine.nvidia_gpus() == ["NVIDIA H200, 143771 MiB, driver 570.86"] * 2


def test_a_driver_that_fails_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed'; exit 9")
    assert machine.nvidia_gpus() == []
    monkeypatch.setenv("PATH", "")
    assert machine.nvidia_gpus() == []


def test_a_driver_is_seen_by_its_devices(tmp_path: Path) -> None:
    (tmp_path / "null").touch()
    assert not machine.may_have_gpus(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert machine.may_have_gpus(tmp_path)
