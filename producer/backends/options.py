"""How TensorRT compiles and runs a part."""

from dataclasses import dataclass

from penstock.config.rules import require


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRTOptions:
    """Options of the backend `tensorrt`."""

    optimization_level: int = 3
    """0 to 5. Higher tries more kernels: longer to compile, perhaps faster to run. 3 is TensorRT's default."""
    use_fp32_acc: bool = True
    """Matrix products of float16 are summed in float32, as PyTorch does. Off may be faster and is less exact."""
    offload_module_to_cpu: bool = False
    """Moves the weights to the host while TensorRT compiles. For GPUs that cannot hold both."""
    cuda_graphs: bool = True
    """Records the call as a CUDA graph and replays it: no launch costs, a copy of inputs and output more."""
    fp8: bool = False
    """Weights and activations in 8 bits, by ModelOpt, from calibration inputs. Validate the images yourself."""
    tolerance: float | None = None
    """Relative RMS by which results may differ from PyTorch's; None takes that of the dtype, or of 8 bits."""

    def __post_init__(self) -> None:
        require(0 <= self.optimization_level <= 5, "optimization_level must be in [0, 5]", self.optimization_level)
        require(self.tolerance is None or 0 < self.tolerance < 1, "tolerance must be in (0, 1)", self.tolerance)
