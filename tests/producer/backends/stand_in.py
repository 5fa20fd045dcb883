"""A compiler for the CPU that stands in for Torch-TensorRT: its engines are exported programs, and its work counts."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from penstock.producer.backends.compiler import Compiler
from penstock.producer.backends.engine_store import EngineStore
from penstock.producer.backends.exported import export_part
from penstock.producer.backends.options import TensorRTOptions
from penstock.producer.backends.part import Part
from penstock.producer.backends.tensorrt import TensorRTBackend
from penstock.protocol.errors import ModelError


class Decoder(nn.Module):
    """Latents [D, 4, 8, 8] to pixels in -1..1."""

    def __init__(self, *, stride: int = 1, width: int = 6, slope: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(4, width, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.head = nn.Conv2d(width, 3, 3, padding=1)
        self.slope = slope
        self.eval().requires_grad_(False)

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(self.head(nn.functional.leaky_relu(self.norm(self.stem(latents)), self.slope)))


class Denoiser(nn.Module):
    """A network with all of a denoiser's inputs, SDXL's included."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Conv2d(4, 4, 3, padding=1)
        self.text = nn.Linear(8, 4)
        self.eval().requires_grad_(False)

    def forward(self, sample: Tensor, timestep: Tensor, text_states: Tensor, *added: Tensor) -> Tensor:
        bias = self.text(text_states).mean(1) + (timestep / 1000).to(sample.dtype)[:, None]
        for extra in added:
            bias = bias + extra.mean(1, keepdim=True) / 1000
        return self.net(sample) + bias[:, :, None, None]


def decoder_part(**changes: Any) -> Part:
    return Part("decoder", Decoder(**changes), (torch.zeros(2, 4, 8, 8),))


def denoiser_part(*, batch: int = 3, added: bool = True) -> Part:
    inputs = [torch.zeros(batch, 4, 8, 8), torch.zeros(batch), torch.zeros(batch, 5, 8)]
    return Part(
        "denoiser",
        Denoiser(),
        (*inputs, torch.zeros(batch, 7), torch.zeros(batch, 6)) if added else tuple(inputs),
    )


class StandInCompiler:
    """Writes what it does into `log`, one word a line, so that processes can be counted together."""

    def __init__(self, log: Path, **settings: Any) -> None:
        self._log = log
        self._settings = settings
        self.broken: set[str] = set()
        """Methods that fail, or that give an engine with doubled outputs (`wrong`)."""

    @property
    def done(self) -> list[str]:
        return self._log.read_text().split() if self._log.exists() else []

    def settings(self, part: Part) -> dict[str, Any]:
        return dict(self._settings)

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__, "tensorrt": "0"}

    def export(self, part: Part) -> ExportedProgram:
        return export_part(part)

    def compile(self, exported: ExportedProgram, part: Part, timing_cache: Path) -> nn.Module:
        self._note("compile")
        timing_cache.write_bytes((timing_cache.read_bytes() if timing_cache.exists() else b"") + b"t")
        return self._copy(exported, part)

    def save(self, compiled: nn.Module, part: Part, path: Path) -> None:
        self._note("save")
        torch.export.save(torch.export.export(compiled, part.inputs), path)

    def load(self, path: Path) -> nn.Module:
        self._note("load")
        return torch.export.load(path).module()

    def refit(self, compiled: nn.Module, exported: ExportedProgram, part: Part) -> nn.Module:
        self._note("refit")
        if "wrong" in self.broken:
            return compiled
        compiled.load_state_dict(exported.state_dict)
        return compiled

    def _note(self, word: str) -> None:
        with self._log.open("a") as file:
            file.write(f"{word}\n")
        if word in self.broken:
            raise ModelError(f"cannot {word}")

    def _copy(self, exported: ExportedProgram, part: Part) -> nn.Module:
        """A copy, as an engine is one: the module's weights may change afterwards."""
        module = exported.module()
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        copied = torch.export.export(module, part.inputs).module()
        copied.load_state_dict(state, assign=True)
        return copied


def backend(cache: Path, compiler: Compiler | None = None, **options: Any) -> TensorRTBackend:
    """A backend with a stand-in compiler whose log lies beside the cache."""
    compiler = compiler or StandInCompiler(cache.parent / "log")
    return TensorRTBackend(TensorRTOptions(**options), compiler=compiler, store=EngineStore(cache))


def build_in_process(cache: Path, barrier: Any) -> None:
    """What one of several producers does: it begins when all are there."""
    part = decoder_part()
    made = backend(cache)
    barrier.wait(timeout=60)
    made.build(part)
