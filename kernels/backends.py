"""Which implementation computes a function of this folder. All compute the same one.

- `reference`: plain PyTorch, everything in memory at once. To test the others by, and to read.
- `chunked`: plain PyTorch, a part at a time that fits the cache; every device and precision.
- `triton`: fused kernels, on a CUDA device, or on the host under Triton's interpreter (`TRITON_INTERPRET=1` before the
  first use; small shapes only).
- `auto`: `chunked`, on a GPU too. The fused kernels have been checked in the interpreter and compiled for sm_90, but
  never timed: until a GPU shows that they are the faster, nobody gets them unasked.
"""

from importlib.util import find_spec
from typing import Literal, get_args

from torch import Tensor

Backend = Literal["auto", "reference", "chunked", "triton"]


def check_backend(backend: Backend, name: str, tensor: Tensor) -> None:
    """Raises ValueError for a name that is none, and for `triton` without Triton or where it cannot work.

    Args:
        backend: what was asked for.
        name: of the argument that it is to work on, for the error.
        tensor: that argument.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if backend != "triton":
        return
    if find_spec("triton") is None:
        raise ValueError("backend must be another than 'triton' where triton is not installed (pip install triton)")
    # Imported late: it is optional, and slow to import.
    import triton

    if not (tensor.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(
            f"backend 'triton' needs {name} on a CUDA device (or TRITON_INTERPRET=1 for its slow interpreter), "
            f"got {tensor.device}"
        )
