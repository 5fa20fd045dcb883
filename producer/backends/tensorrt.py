"""The backend `tensorrt`: compiles a part once for a GPU, keeps the engine, and refits it when only the weights change.

What happens to a part: export; digest the graph and the weights; look for the engine in the store. Same weights: load.
Other weights of the same architecture (a fine-tuned model, a fused LoRA): load and refit, seconds where compiling takes
minutes. Else compile. Whatever comes out is compared with the module, and only then kept and used.
"""

import logging
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from penstock.producer.backends import fp8
from penstock.producer.backends.compiler import Compiler, TorchTensorRT, as_call
from penstock.producer.backends.cuda_graph import GraphedCall
from penstock.producer.backends.engine_store import EngineIdentity, EngineStore
from penstock.producer.backends.exported import architecture_digest, describe, weights_digest
from penstock.producer.backends.options import TensorRTOptions
from penstock.producer.backends.part import Call, Part
from penstock.producer.backends.verify import verify
from penstock.protocol.errors import ModelError

_log = logging.getLogger(__name__)


class TensorRTBackend:
    """Makes TensorRT engines of parts.

    Args:
        options: how to compile and run.
        compiler: None takes Torch-TensorRT.
        store: where engines are kept; None takes the user's cache.
        calibration: inputs for `fp8`.

    Raises:
        ModelError: Torch-TensorRT is missing, or the store's folder cannot be used.
    """

    def __init__(
        self,
        options: TensorRTOptions | None = None,
        *,
        compiler: Compiler | None = None,
        store: EngineStore | None = None,
        calibration: fp8.Calibration | None = None,
    ) -> None:
        self._options = options or TensorRTOptions()
        self._compiler = compiler or TorchTensorRT(self._options)
        self._store = store or EngineStore()
        self._calibration = calibration

    def build(self, part: Part) -> Call:
        """A verified call for `part`: from the store in seconds, else compiled in minutes.

        Raises ModelError where the part does not export or compile, or the engine's results differ from the module's.
        """
        source = fp8.quantized(part, self._calibration) if self._options.fp8 else part
        exported = self._compiler.export(source)
        identity = self._identity(part, exported)
        weights = weights_digest(exported)
        with self._store.lock(identity, exclusive=False):
            call = self._loaded(part, identity, weights)
        if call is None:
            with self._store.lock(identity, exclusive=True):
                # Another producer may have made it while this one waited.
                call = (
                    self._loaded(part, identity, weights)
                    or self._refitted(part, identity, weights, exported)
                    or self._compiled(part, identity, weights, exported)
                )
        if not self._options.cuda_graphs or part.inputs[0].device.type != "cuda":
            return call
        graphed = GraphedCall(part.name, call, part.inputs)
        self._verify(part, graphed)
        return graphed

    def _loaded(self, part: Part, identity: EngineIdentity, weights: str) -> Call | None:
        """The stored engine, where its weights are those of the part."""
        stored = self._store.find(identity)
        if stored is None or stored.weights != weights:
            return None
        try:
            call = as_call(self._compiler.load(stored.path))
            self._verify(part, call)
        except ModelError as error:
            _log.warning("stored engine of part %r is not used: %s", part.name, error)
            return None
        _log.info("engine of part %r loaded from %s", part.name, stored.path)
        return call

    def _refitted(self, part: Part, identity: EngineIdentity, weights: str, exported: ExportedProgram) -> Call | None:
        """The stored engine with the part's weights, kept in place of the other. FP8 ranges are not refitted."""
        stored = self._store.find(identity)
        if stored is None or stored.weights == weights or self._options.fp8:
            return None
        try:
            engine = self._compiler.refit(self._compiler.load(stored.path), exported, part)
            return self._checked_in(part, identity, weights, engine)
        except ModelError as error:
            _log.warning("engine of part %r cannot be refitted, compiling it anew: %s", part.name, error)
            return None

    def _compiled(self, part: Part, identity: EngineIdentity, weights: str, exported: ExportedProgram) -> Call:
        _log.info("compiling part %r for %s; this takes minutes, once", part.name, identity.gpu)
        with self._store.timing_cache(identity) as timing_cache:
            engine = self._compiler.compile(exported, part, timing_cache)
        return self._checked_in(part, identity, weights, engine)

    def _checked_in(self, part: Part, identity: EngineIdentity, weights: str, engine: nn.Module) -> Call:
        """Verified, then kept: nothing that differs from its module enters the store."""
        call = as_call(engine)
        self._verify(part, call)
        self._store.put(identity, weights, lambda path: self._compiler.save(engine, part, path))
        return call

    def _verify(self, part: Part, call: Call) -> None:
        tolerance = self._options.tolerance
        if tolerance is None and self._options.fp8:
            tolerance = fp8.TOLERANCE
        found = verify(part, call, tolerance)
        _log.info("part %r differs from PyTorch by %.2g (RMS) and %.2g (largest)", part.name, found.rms, found.largest)

    def _identity(self, part: Part, exported: ExportedProgram) -> EngineIdentity:
        settings: dict[str, Any] = {**self._compiler.settings(part), "fp8": self._options.fp8}
        gpu, capability = _gpu(part.inputs[0].device)
        return EngineIdentity(
            part=part.name,
            architecture=architecture_digest(exported),
            inputs=[describe(tensor) for tensor in part.inputs],
            settings=settings,
            gpu=gpu,
            capability=capability,
            versions=self._compiler.versions(),
        )


def _gpu(device: torch.device) -> tuple[str, str]:
    """Name and compute capability."""
    if device.type != "cuda":
        return torch.backends.cpu.get_cpu_capability(), ""
    major, minor = torch.cuda.get_device_capability(device)
    return torch.cuda.get_device_name(device), f"{major}.{minor}"
