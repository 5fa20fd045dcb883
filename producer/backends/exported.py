"""A part as a graph: exported by torch.export, and named by two digests, of what it computes and of its weights.

The digest of the architecture covers every node with its operator, its arguments, and its result's shape and dtype. A
key made of operator names alone, as Torch-TensorRT's own engine cache has it, takes a convolution of stride 1 for one
of stride 2.
"""

import hashlib
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node

from penstock.producer.backends.part import Part
from penstock.protocol.errors import ModelError

BATCH_BOUNDARY = 64
"""diffusers' `Upsample2D` asks whether the batch has at least so many rows, and the answer is frozen into the graph."""

EXPORT_ERRORS = (AssertionError, AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What torch.export and compilers behind it raise depends on the layer that meets the trouble."""


def export_part(part: Part, batch_range: tuple[int, int] | None = None) -> ExportedProgram:
    """The part's graph at the shapes of its inputs.

    Args:
        part: what to export.
        batch_range: smallest and largest number of rows, where the first dimension of all inputs is to stay free.
            It must lie on one side of 64.

    Raises:
        ModelError: the range crosses 64, or the module does not export.
    """
    shapes = None if batch_range is None else _dynamic_shapes(part, batch_range)
    try:
        with torch.no_grad():
            return torch.export.export(part.module, part.inputs, dynamic_shapes=shapes, strict=False)
    except EXPORT_ERRORS as error:
        raise ModelError(f"part {part.name!r} does not export as one graph: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its name where it has none."""
    return (str(error).strip() or repr(error)).splitlines()[0][:300]


def _dynamic_shapes(part: Part, batch_range: tuple[int, int]) -> tuple[Any, ...]:
    """Dimension 0 of every input is the same free number of rows."""
    low, high = batch_range
    if not 1 <= low <= high:
        raise ModelError(f"batch range must be 1 <= smallest <= largest, got {low} to {high}")
    if low < BATCH_BOUNDARY <= high:
        raise ModelError(
            f"batch range {low} to {high} crosses {BATCH_BOUNDARY}, where diffusers' Upsample2D takes another branch, "
            f"so no one graph holds it; stay below {BATCH_BOUNDARY}, start at {BATCH_BOUNDARY}, or fix the batch"
        )
    free = {0: Dim("batch", min=low, max=high)}
    signature = inspect.signature(part.module.forward)
    bound = signature.bind(*part.inputs).arguments
    return tuple(
        (free,) * len(value) if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL else free
        for name, value in bound.items()
    )


def architecture_digest(exported: ExportedProgram) -> str:
    """SHA-256 of the graph, as hex: operators with all arguments, wiring, shapes, dtypes, names of the weights."""
    total = hashlib.sha256(str(exported.graph_signature).encode())
    for name, module in exported.graph_module.named_modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                total.update(f"{name} {node.format_node()} {_result(node)}\n".encode())
    return total.hexdigest()


def _result(node: Node) -> str:
    """Shapes, dtypes and devices of what a node gives; of a placeholder they stand nowhere else in its text."""
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else (value,)
    return " ".join(describe(item) if isinstance(item, Tensor) else str(item) for item in values)


def describe(tensor: Tensor) -> str:
    """`float16[2, 4, 64, 64] cuda:0`."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)} {tensor.device}"


def weights_digest(exported: ExportedProgram) -> str:
    """SHA-256 of parameters, buffers and constant tensors, by name and value, as hex. Reads all weights to the host."""
    total = hashlib.sha256()
    values = {**exported.constants, **exported.state_dict}
    for name, tensor in sorted((name, value) for name, value in values.items() if isinstance(value, Tensor)):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.detach().flatten().contiguous().view(torch.uint8).cpu().numpy().data)
    return total.hexdigest()
