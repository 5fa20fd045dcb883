"""Stable Diffusion 1.5's own networks export, and Torch-TensorRT has a converter for every operator in them."""

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch._decomp import get_decompositions
from torch._export.utils import _collect_all_valid_cia_ops_for_aten_namespace, _get_decomp_for_cia
from torch.export import ExportedProgram

from penstock.producer.backends.exported import export_part
from penstock.producer.backends.part import Part
from penstock.protocol.errors import ModelError
from tests.producer.backends.generators import denoiser, kl_decoder, tiny_decoder
from tests.producer.backends.stand_in import denoiser_part
from tests.producer.backends.trt_wheels import VERSIONS, WHEELS

PARTS: dict[str, Callable[[], Part]] = {"denoiser": denoiser, "kl": kl_decoder, "tiny": tiny_decoder}
SHAPES = {"denoiser": (2, 4, 64, 64), "kl": (2, 3, 512, 512), "tiny": (2, 3, 512, 512)}


@cache
def exported(name: str) -> ExportedProgram:
    return export_part(PARTS[name]())


@pytest.mark.parametrize("name", PARTS)
def test_a_generators_part_exports_with_its_shape(name: str) -> None:
    (output,) = exported(name).graph.output_node().args[0]
    assert tuple(output.meta["val"].shape) == SHAPES[name]
    assert output.meta["val"].dtype == torch.float16


@pytest.mark.parametrize("batch_range", [(1, 63), (64, 128)])
@pytest.mark.slow
def test_a_free_batch_on_one_side_of_64_exports(batch_range: tuple[int, int]) -> None:
    made = export_part(denoiser(batch=batch_range[1] - 1, layers=1), batch_range)
    (output,) = made.graph.output_node().args[0]
    assert not isinstance(output.meta["val"].shape[0], int)
    (bounds,) = made.range_constraints.values()
    assert (bounds.lower, bounds.upper) == batch_range


def test_a_batch_that_crosses_64_is_refused_before_torch_finds_out() -> None:
    with pytest.raises(ModelError, match=r"batch range 32 to 96 crosses 64, where diffusers' Upsample2D takes another"):
        export_part(denoiser_part(), (32, 96))
    with pytest.raises(ModelError, match=r"1 <= smallest <= largest, got 0 to 8"):
        export_part(denoiser_part(), (0, 8))


@pytest.mark.slow
def test_torch_finds_out_that_64_is_a_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.producer.backends.exported.BATCH_BOUNDARY", 10**6)
    with pytest.raises(ModelError, match=r"does not export as one graph: Constraints violated") as caught:
        export_part(denoiser(batch=40, layers=1), (32, 96))
    assert "<= 63" in str(caught.value.__cause__)


def test_a_free_batch_reaches_every_input_of_sdxl() -> None:
    made = export_part(denoiser_part(batch=3), (1, 8))
    users = [node.meta["val"].shape[0] for node in made.graph.find_nodes(op="placeholder") if "p_" not in node.name]
    assert len(users) == 5
    assert len({str(rows) for rows in users}) == 1


def test_what_does_not_export_is_one_line() -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(ModelError, match=r"^part 'decoder' does not export as one graph: [^\n]*$"):
        export_part(Part("decoder", Branches(), (torch.zeros(2),)))


HANDLED = {
    "aten._assert_tensor_metadata.default": "erased by the lowering pass remove_assert_nodes",
    "aten._unsafe_view.default": "their own decomposition makes a view of it",
    "aten.silu.default": "their own decomposition makes x · sigmoid(x) of it",
}
"""Operators without a converter, and what takes them; read in dynamo/lowering of 2.11 to 2.14."""

ASKS_FIRST = {
    "aten._to_copy.default": "two converters that share all casts among the dtypes of a generator",
    "aten.cat.default": "refuses an empty one-dimensional tensor among larger ones",
    "aten.clone.default": "two converters that share all cases",
    "aten.convolution.default": "refuses on TensorRT-RTX alone",
    "aten.native_group_norm.default": "wants the first output to be the only one used, as it is in inference",
    "aten.scaled_dot_product_attention.default": "wants equal batch, heads and width; 2.11 is told to decompose it",
    "aten.split.Tensor": "wants a static size, as a chunk of a static width has",
    "_operator.getitem": "wants its parent to have a converter",
}
"""Operators whose converter may refuse a node, and why it does not refuse ours."""

DECOMPOSED_ATTENTION = ["matmul", "transpose.int", "scalar_tensor", "sqrt", "_to_copy", "div.Tensor", "_softmax"]
"""What `scaled_dot_product_attention_decomposition` calls without a mask; transpose is decomposed into permute."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", PARTS)
def test_every_operator_has_a_converter(name: str, version: str) -> None:
    converters: dict[str, list[str]] = {}
    for line in WHEELS[version]["converters"]:
        converter, _, validator = line.partition(" if ")
        converters.setdefault(converter.replace("operator.", "_operator."), []).append(validator)
    own = WHEELS[version]["decompositions"]["own"]
    for used in decomposed_operators(name, version):
        if used in HANDLED:
            assert used not in converters
            assert "assert" in HANDLED[used] or any(used.startswith(rule) for rule in own), used
        else:
            assert used in converters, used
            assert "" in converters[used] or used in ASKS_FIRST, f"{used} if {converters[used]}"


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_rules_of_their_own_make_has_converters(version: str) -> None:
    converters = {line.partition(" if ")[0] for line in WHEELS[version]["converters"]}
    for made in ["_reshape_copy", "sigmoid", "mul.Tensor", "permute", *DECOMPOSED_ATTENTION]:
        full = made if "." in made else f"{made}.default"
        assert f"aten.{full}" in converters or made == "transpose.int", made
    assert "aten.transpose.int" in WHEELS[version]["decompositions"]["torch"]


def decomposed_operators(name: str, version: str) -> set[str]:
    """Operators of the part after what torch contributes to `torch_tensorrt.dynamo.lowering.get_decompositions`."""
    groups = WHEELS[version]["decompositions"]
    return _decomposed_operators(name, tuple(groups["torch"]), tuple(groups["kept"]))


@cache
def _decomposed_operators(name: str, enabled: tuple[str, ...], kept: tuple[str, ...]) -> set[str]:
    stays = {*map(resolve, kept), torch.ops.aten.scaled_dot_product_attention.default}
    composite = {
        op: _get_decomp_for_cia(op) for op in _collect_all_valid_cia_ops_for_aten_namespace() if op not in stays
    }
    table = {**get_decompositions([resolve(op) for op in enabled]), **composite}
    graph = exported(name).run_decompositions(table).graph
    targets = {node.target for node in graph.nodes if node.op == "call_function"}
    return {"_operator.getitem" if target is operator.getitem else str(target) for target in targets}


def resolve(name: str) -> Any:
    """`aten.add.Tensor` to the operator."""
    found: Any = torch.ops
    for step in name.split("."):
        found = getattr(found, step)
    return found
