"""Networks compiled by torch's own compiler. On a GPU the whole call is one CUDA graph."""

import logging
import os
import warnings

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from penstock.producer.backends.cache import private_folder
from penstock.producer.backends.eager import laid_out
from penstock.producer.backends.part import Call, Part
from penstock.producer.backends.verify import verify
from penstock.protocol.errors import ModelError
from penstock.telemetry.machine import cxx_compiler

_log = logging.getLogger(__name__)


class InductorBackend:
    """`torch.compile` at the one shape of the calls, compared with the module itself before it is used.

    Args:
        device: where the networks are.

    Raises:
        ModelError: there is no C++ compiler, or the cache's folder is not one's own.
    """

    def __init__(self, device: torch.device) -> None:
        if cxx_compiler() is None:
            raise ModelError("backend inductor needs a C++ compiler: install g++ or clang, or use --backend eager")
        # Not the default place: what others can write to in /tmp would be run here. And it outlives a reboot.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(private_folder("inductor")))
        # All sizes share the code of the module, and dynamo counts how often it compiles that.
        torch._dynamo.config.recompile_limit = 1 << 10
        torch._dynamo.config.accumulated_recompile_limit = 1 << 12
        self._is_cuda = device.type == "cuda"

    def build(self, part: Part) -> Call:
        """Compile `part`, which takes minutes. Raises ModelError where it does not compile."""
        mode = {"mode": "reduce-overhead"} if self._is_cuda else {}
        compiled = torch.compile(laid_out(part), fullgraph=True, dynamic=False, **mode)  # type: ignore[call-overload]

        def call(*inputs: Tensor) -> Tensor:
            if self._is_cuda:
                torch.compiler.cudagraph_mark_step_begin()
            answer: Tensor = compiled(*inputs)
            return answer

        try:
            with torch.inference_mode(), warnings.catch_warnings():
                # Of diffusers' helpers that it looks through.
                warnings.filterwarnings("ignore", category=UserWarning, module="torch._dynamo")
                # The second call captures the graph.
                for _ in range(2):
                    call(*part.inputs)
        except torch.OutOfMemoryError:
            raise  # no compiler's fault
        except (TorchDynamoException, FailOnRecompileLimitHit, NotImplementedError, RuntimeError, TypeError) as error:
            first_line = (str(error).strip() or repr(error)).splitlines()[0]
            raise ModelError(f"backend inductor does not compile the {part.name}: {first_line:.200}") from error
        found = verify(part, call)
        _log.info("%s differs from eager by %.2g (RMS) and %.2g (largest)", part.name, found.rms, found.largest)
        return call
