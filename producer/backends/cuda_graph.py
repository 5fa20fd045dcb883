"""Records a call as a CUDA graph and replays it, which saves the launches of a thousand kernels a step.

Ours, and not `torch_tensorrt.runtime.enable_cudagraphs`, although both record the same work: that one is a switch for
the whole process and records anew whenever the caller's stream changes, and this takes any call, of PyTorch's too. The
way is that of Torch-TensorRT's own `CudaGraphsTorchTensorRTModule`: an engine that is called on a stream other than the
default one puts its kernels there, and the capture takes them.

One stream of its own and buffers of its own, because a graph replays addresses: inputs are copied in, the output is
copied out. Events order both with the caller's stream; nothing waits on the host.
"""

import torch
from torch import Tensor

from penstock.producer.backends.exported import describe, first_line
from penstock.producer.backends.part import Call
from penstock.protocol.errors import ModelError

WARM_UP_CALLS = 3
"""Libraries make their workspaces in the first calls, and must not while the graph is recorded."""


class GraphedCall:
    """A call of fixed shapes on one CUDA device, replayed.

    Args:
        name: the part's, for errors.
        call: what to record. It may not synchronise, nor look at values on the host.
        inputs: examples of the shapes, dtypes and device of every call.

    Raises:
        ModelError: the call cannot be recorded.
    """

    def __init__(self, name: str, call: Call, inputs: tuple[Tensor, ...]) -> None:
        self._name = name
        self._device = inputs[0].device
        self._stream = torch.cuda.Stream(self._device)
        self._inputs = tuple(torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs)
        self._shapes = [(tensor.shape, tensor.dtype, tensor.device) for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        try:
            self._output = self._record(call)
        except (AssertionError, RuntimeError) as error:
            raise ModelError(
                f"part {name!r} cannot be recorded as a CUDA graph: {first_line(error)}; turn cuda_graphs off"
            ) from error

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The result, in memory of its own on the caller's stream. Raises ModelError for other shapes than recorded."""
        if [(tensor.shape, tensor.dtype, tensor.device) for tensor in inputs] != self._shapes:
            raise ModelError(
                f"part {self._name!r} is built for {', '.join(map(describe, self._inputs))}, got "
                f"{', '.join(map(describe, inputs))}"
            )
        caller = torch.cuda.current_stream(self._device)
        # Allocated on the caller's stream, which waits below: so neither needs record_stream.
        result = torch.empty_like(self._output)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            for buffer, tensor in zip(self._inputs, inputs, strict=True):
                buffer.copy_(tensor, non_blocking=True)
            self._graph.replay()
            result.copy_(self._output, non_blocking=True)
        caller.wait_stream(self._stream)
        return result

    def _record(self, call: Call) -> Tensor:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.no_grad():
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP_CALLS):
                    call(*self._inputs)
            self._stream.synchronize()
            # Other threads of a producer may use the device meanwhile; only this one's calls are recorded.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                return call(*self._inputs)
