"""`penstock doctor`: what is installed, what would work on this machine, and a line of advice for each lack.

Nothing here imports torch: versions come from the packages' metadata, the CUDA build from torch's version
file.
"""

import argparse
import dataclasses
import importlib.util
import io
import json
import platform
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from penstock.telemetry import machine, nvml

State = Literal["ok", "missing", "note"]
MIB = 1 << 20
MIN_SHARED_MEMORY_BYTES = 64 * MIB
MIN_MEMORY_BYTES = 3072 * MIB
INSTALL = "run `make setup`, or `pip install -c constraints.txt -e .` in the folder of the clone"
INSTALL_GPU = "pip install -e '.[gpu]'"


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    group: str
    name: str
    state: State
    """`missing` stops `penstock demo`; `note` only limits what can be done."""
    detail: str
    advice: str = ""
    """What to do about it; empty where there is nothing to do."""


def main(argv: Sequence[str]) -> int:
    """Print the findings; 0 where `penstock demo` can run, else 1."""
    parser = argparse.ArgumentParser(prog="penstock doctor", description="Say what works here and what is missing.")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--port", type=int, default=5599, help="TCP port to try to bind (default: %(default)s)")
    options = parser.parse_args(argv)
    if not 0 <= options.port <= 65535:
        parser.error(f"--port must be from 0 to 65535, got {options.port}")
    checks = examine(options.port)
    print(as_json(checks) if options.json else as_text(checks))
    return 0 if healthy(checks) else 1


def examine(port: int) -> list[Check]:
    """Look at everything."""
    gpus = machine.nvidia_gpus()
    return [
        *_packages(),
        *_backends(gpus),
        *_machine(gpus),
        tiny_model(_folder_of("penstock.producer") / "tiny_sd"),
        try_keys(),
        try_port(port),
    ]


def healthy(checks: Sequence[Check]) -> bool:
    """Whether nothing is missing that the demo needs."""
    return all(check.state != "missing" for check in checks)


def as_json(checks: Sequence[Check]) -> str:
    """The findings for another program."""
    found = {
        "schema_version": 1,
        "healthy": healthy(checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }
    return json.dumps(found, indent=2)


def as_text(checks: Sequence[Check]) -> str:
    """The findings as a table, then what to do."""
    from rich.console import Console
    from rich.table import Table

    text = io.StringIO()
    console = Console(file=text, width=110, force_terminal=sys.stdout.isatty(), highlight=False)
    table = Table.grid(padding=(0, 2))
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            table.add_row(f"[bold]{group}[/bold]")
        mark = {"ok": "[green]✓[/green]", "missing": "[red]✗[/red]", "note": "[yellow]·[/yellow]"}[check.state]
        table.add_row(f"  {mark} {check.name}", check.detail)
    console.print(table)
    advised = [check for check in checks if check.advice]
    if advised:
        console.print("\n[bold]What to do[/bold]")
    for check in advised:
        console.print(f"  {check.name}: {check.advice}", markup=False, soft_wrap=True)
    verdict = "`penstock demo` can run here." if healthy(checks) else "`penstock demo` cannot run here yet."
    console.print(f"\n{verdict}", markup=False)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def _packages() -> Iterator[Check]:
    """Python and every required package, against the versions that Penstock asks for."""
    python = platform.python_version()
    old = sys.version_info < (3, 11)
    yield Check(
        "Installed",
        "python",
        "missing" if old else "ok",
        python,
        "install Python 3.11 or newer" if old else "",
    )
    for text in sorted(metadata.requires("penstock") or []):
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            yield Check("Installed", requirement.name, "missing", "not installed", INSTALL)
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Check("Installed", requirement.name, "missing", f"{version}, needs {requirement.specifier}", INSTALL)
        else:
            yield Check("Installed", requirement.name, "ok", version)


def _backends(gpus: Sequence[str]) -> Iterator[Check]:
    """Which backends have here what they need."""
    cuda = None if not gpus else _torch_cuda()
    gpu_lacks = [] if gpus else [("no NVIDIA GPU", "")]
    if gpus and cuda is None:
        gpu_lacks = [("torch is a CPU build", "install a CUDA build of torch")]
    compiler_lacks = [] if machine.cxx_compiler() else [("no C++ compiler", "install g++ or clang")]
    triton_lacks = _lacking("triton") if gpus else []
    for name, lacks in (
        ("eager", _lacking("torch", "diffusers", "transformers")),
        ("inductor", _lacking("torch") + compiler_lacks + triton_lacks),
        ("xformers", _lacking("xformers") + gpu_lacks),
        ("tensorrt", _lacking("torch-tensorrt", "tensorrt") + gpu_lacks),
    ):
        reasons = ", ".join(reason for reason, _ in lacks)
        advice = "; ".join(dict.fromkeys(what for _, what in lacks if what)) if gpus or name == "eager" else ""
        state: State = "ok" if not lacks else "missing" if name == "eager" else "note"
        yield Check("Backends", name, state, f"no: {reasons}" if lacks else "can run here", advice)


def _lacking(*packages: str) -> list[tuple[str, str]]:
    core = {"torch", "diffusers", "transformers"}
    return [
        (f"{package} is not installed", INSTALL if package in core else INSTALL_GPU)
        for package in packages
        if _version(package) is None
    ]


def _machine(gpus: Sequence[str]) -> Iterator[Check]:
    """Cores, memory and devices."""
    cores = machine.usable_cores()
    few = "with one core, producer and trainer share it and the demo takes twice as long" if cores < 2 else ""
    yield Check("Machine", "cores", "note" if few else "ok", f"{cores} usable, {platform.machine()}", few)
    bf16 = machine.bf16_instructions()
    yield Check("Machine", "bfloat16", "ok" if bf16 else "note", ", ".join(bf16) or "not on this CPU; float32 is used")
    yield Check("Machine", "GPU", "ok" if gpus else "note", "; ".join(gpus) or "none; the CPU is used")
    if gpus:
        why_not = nvml.Nvml().why_not
        detail = "tells how the GPUs are" if why_not is None else f"no: {why_not}"
        advice = nvml.INSTALL if why_not == nvml.NOT_INSTALLED else ""
        yield Check("Machine", "NVML", "note" if why_not else "ok", detail, advice)
    memory = machine.available_memory_bytes()
    if memory is not None:
        low = "close other programs: the demo takes about 3 GB" if memory < MIN_MEMORY_BYTES else ""
        yield Check("Machine", "memory", "note" if low else "ok", f"{memory / 1e9:.1f} GB available", low)
    shared = machine.shared_memory_bytes()
    if shared is not None:
        low = "give the container more, such as `--shm-size 1g`" if shared < MIN_SHARED_MEMORY_BYTES else ""
        yield Check("Machine", "shared memory", "note" if low else "ok", f"{shared / 1e6:,.0f} MB free", low)


def tiny_model(folder: Path) -> Check:
    """Whether the generator that comes with Penstock is whole: each part in its index has its weights."""
    restore = "the clone or package is incomplete: restore it with `git checkout producer/tiny_sd`"
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return Check("Penstock", "tiny model", "missing", f"model_index.json cannot be read: {error}", restore)
    weighed = [part for part in ("text_encoder", "unet", "vae") if part in index]
    empty = [part for part in weighed if not any((folder / part).glob("*.safetensors"))]
    if empty or len(weighed) < 3:
        return Check("Penstock", "tiny model", "missing", f"no weights for {', '.join(empty) or 'its parts'}", restore)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    return Check("Penstock", "tiny model", "ok", f"{size / 1e6:.1f} MB of weights in {folder}")


def try_keys() -> Check:
    """Whether links can have keys: libzmq is built with CURVE, or without."""
    try:
        import zmq
    except ImportError:
        return Check("Penstock", "keys", "note", "pyzmq is not installed", INSTALL)
    if zmq.has("curve"):
        return Check("Penstock", "keys", "ok", f"libzmq {zmq.zmq_version()} encrypts and knows its peers (CURVE)")
    advice = "install pyzmq from its wheel (pip install --force-reinstall pyzmq), to let producers of other machines in"
    return Check("Penstock", "keys", "note", f"libzmq {zmq.zmq_version()} was built without CURVE", advice)


def try_port(port: int) -> Check:
    """Whether the port can be bound on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            advice = "choose another with --stream.endpoint tcp://127.0.0.1:PORT, or end the program that holds it"
            return Check("Penstock", f"port {port}", "note", f"cannot be bound: {error.strerror}", advice)
    return Check("Penstock", f"port {port}", "ok", "free")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """The CUDA version that torch was built for, from its version file; None for a CPU build or no torch."""
    version_file = _folder_of("torch") / "version.py"
    if not version_file.is_file():
        return None
    text = version_file.read_text(encoding="utf-8")
    found = re.search(r"""^cuda\b[^=]*=\s*['"]([\d.]+)['"]""", text, re.MULTILINE)
    return found[1] if found else None


def _folder_of(package: str) -> Path:
    """Where a package lies, found without importing it; a folder that does not exist where there is none."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]) if folders else Path("/nonexistent")
