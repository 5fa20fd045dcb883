"""Torch-TensorRT behind a small protocol, so that all that surrounds it can be tested without a GPU.

Written against the sources of torch-tensorrt 2.11 to 2.14, whose parameters tests/producer/backends/trt_signatures.json
records. What was learned there:

- `dynamo.compile` takes `arg_inputs`; `torch_tensorrt.compile(ir="dynamo")` never forwards `kwarg_inputs`.
- Its engine cache and timing cache lie in /tmp by default, the former unpickled; both are switched off or moved.
- `offload_module_to_cpu` moves the caller's own parameters, which the exported program shares; they are moved back.
- Saved without `retrace`, an engine cannot be refitted after loading: the loaded module's only child is `_guards_fn`,
  which `refit_module_weights` skips, and then finds no engine at all.
- The attention converter of 2.11 wants queries and keys of one length, which cross-attention does not have.
"""

import importlib
import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from penstock.producer.backends.exported import EXPORT_ERRORS, export_part, first_line
from penstock.producer.backends.options import TensorRTOptions
from penstock.producer.backends.part import Call, Part
from penstock.producer.backends.signatures import call_named
from penstock.protocol.errors import ModelError


class Compiler(Protocol):
    """What the TensorRT backend needs of a compiler. Its methods raise ModelError, and no other error."""

    def settings(self, part: Part) -> dict[str, Any]:
        """All that changes the engine beside the part: JSON values, a part of the engine's key."""

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that change the engine, likewise."""

    def export(self, part: Part) -> ExportedProgram:
        """The graph to compile, with its weights."""

    def compile(self, exported: ExportedProgram, part: Part, timing_cache: Path) -> nn.Module:
        """An engine; minutes. `timing_cache` may be there, and is written."""

    def save(self, compiled: nn.Module, part: Part, path: Path) -> None:
        """Write a compiled, loaded or refitted engine."""

    def load(self, path: Path) -> nn.Module:
        """Read an engine back. It may execute what the file says: only for files that this store wrote."""

    def refit(self, compiled: nn.Module, exported: ExportedProgram, part: Part) -> nn.Module:
        """A loaded engine with the weights of `exported`, whose architecture is the same."""


class TorchTensorRT:
    """The real compiler.

    Args:
        options: how to compile.
        library: the module `torch_tensorrt`; None imports it.

    Raises:
        ModelError: the library is missing.
    """

    def __init__(self, options: TensorRTOptions, library: Any = None) -> None:
        self._options = options
        self._library = import_torch_tensorrt() if library is None else library

    def settings(self, part: Part) -> dict[str, Any]:
        """What goes to `dynamo.compile` and changes the engine."""
        return {
            "optimization_level": self._options.optimization_level,
            "use_fp32_acc": self._options.use_fp32_acc,
            # Else TensorRT rounds the operands of float32 to 10 bits, ten times the tolerance.
            "disable_tf32": part.inputs[0].dtype == torch.float32,
            "decompose_attention": self._attention_needs_equal_lengths(),
            # One engine with everything in it, and refittable. `min_block_size` is 5 by default, for whatever reason.
            "min_block_size": 1,
            "require_full_compilation": True,
            "immutable_weights": False,
            # Their caches are keyed without operator arguments, GPU or version, and unpickled.
            "cache_built_engines": False,
            "reuse_cached_engines": False,
        }

    def versions(self) -> dict[str, str]:
        """As installed; `tensorrt` may come from any of several distributions, so the module is asked."""
        names = ("torch", "diffusers")
        tensorrt = importlib.import_module("tensorrt")
        return {
            **{name: version(name) for name in names},
            "torch_tensorrt": str(self._library.__version__),
            "tensorrt": str(tensorrt.__version__),
        }

    def export(self, part: Part) -> ExportedProgram:
        """Raises ModelError where the part is not on a CUDA device, or does not export."""
        if part.inputs[0].device.type != "cuda":
            raise ModelError(
                f"backend tensorrt needs a CUDA device, and part {part.name!r} is on {part.inputs[0].device}; "
                "use backend eager there"
            )
        return export_part(part)

    def compile(self, exported: ExportedProgram, part: Part, timing_cache: Path) -> nn.Module:
        """Raises ModelError where an operator has no converter, or TensorRT finds no kernels."""
        try:
            compiled: nn.Module = call_named(
                self._library.dynamo.compile,
                exported,
                arg_inputs=list(part.inputs),
                device=part.inputs[0].device,
                timing_cache_path=str(timing_cache),
                offload_module_to_cpu=self._options.offload_module_to_cpu,
                **self.settings(part),
            )
        except EXPORT_ERRORS as error:
            raise ModelError(f"TensorRT does not compile part {part.name!r}: {first_line(error)}") from error
        finally:
            if self._options.offload_module_to_cpu:
                part.module.to(part.inputs[0].device)
        return compiled

    def save(self, compiled: nn.Module, part: Part, path: Path) -> None:
        """As an exported program. Pickle protocol 2, the default, ends at 4 GB, less than SDXL's denoiser."""
        try:
            call_named(
                self._library.save,
                compiled,
                str(path),
                output_format="exported_program",
                arg_inputs=list(part.inputs),
                retrace=True,
                pickle_protocol=4,
            )
        except EXPORT_ERRORS as error:
            raise ModelError(f"TensorRT does not save part {part.name!r}: {first_line(error)}") from error

    def load(self, path: Path) -> nn.Module:
        """Raises ModelError where the file is no exported program; the library then tries TorchScript: refused."""
        try:
            loaded = call_named(self._library.load, str(path))
        except EXPORT_ERRORS as error:
            raise ModelError(f"TensorRT does not load {path}: {first_line(error)}") from error
        if not isinstance(loaded, ExportedProgram):
            raise ModelError(f"TensorRT loads {path} as a {type(loaded).__name__}, it must be an exported program")
        return loaded.module()

    def refit(self, compiled: nn.Module, exported: ExportedProgram, part: Part) -> nn.Module:
        """Raises ModelError where the weights do not fit.

        The library's own check of the result only logs, and in 2.11 leaves the caller's parameters on the host; the
        backend verifies instead.
        """
        try:
            refitted: nn.Module = call_named(
                self._library.dynamo.refit_module_weights, compiled, exported, verify_output=False
            )
        except EXPORT_ERRORS as error:
            raise ModelError(f"TensorRT does not refit part {part.name!r}: {first_line(error)}") from error
        return refitted

    def _attention_needs_equal_lengths(self) -> bool:
        major, minor = str(self._library.__version__).split(".")[:2]
        return (int(major), int(minor)) < (2, 12)


def as_call(compiled: nn.Module) -> Call:
    """The engine as a call that gives one tensor; a graph that went through a compiler may give a tuple of one."""

    def call(*inputs: Tensor) -> Tensor:
        output = compiled(*inputs)
        result: Tensor = output if isinstance(output, Tensor) else output[0]
        return result

    return call


def import_torch_tensorrt() -> Any:
    """The module `torch_tensorrt`. Raises ModelError where it or TensorRT itself is missing, or does not load."""
    install = "pip install -e '.[gpu]' on a machine with an NVIDIA GPU, or use backend eager"
    for name in ("torch_tensorrt", "tensorrt"):
        if importlib.util.find_spec(name) is None:
            raise ModelError(f"backend tensorrt needs the package {name}, which is not installed: {install}")
    try:
        return importlib.import_module("torch_tensorrt")
    except Exception as error:  # it raises Exception itself where TensorRT's libraries do not load
        raise ModelError(
            f"torch_tensorrt does not import beside torch {torch.__version__}: {first_line(error)}"
        ) from error
