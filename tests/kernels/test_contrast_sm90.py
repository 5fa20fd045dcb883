"""The fused losses compile for sm_90 without a GPU, in every variant that a launch can choose, and spill no register.

Triton must not have been loaded as an interpreter, so this file is also the program of a process of its own.
"""

import contextlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (pip install triton)"),
    pytest.mark.timeout(590),
    pytest.mark.slow,
]

SCALARS = {"num_queries": "i32", "num_keys": "i32", "first": "i32", "dim": "i32"}
VARIANTS = {
    f"{kernel} {'with' if has_self else 'without'} self, "
    f"{'aligned' if aligned else 'ragged'}{f', {block_out} columns' if block_out else ''}": (
        kernel,
        has_self,
        aligned,
        block_out,
    )
    for kernel, blocks in (("lse_kernel", (None,)), ("weighted_keys_kernel", (128, 64, 32, 16)))
    for has_self, aligned, block_out in itertools.product((True, False), (True, False), blocks)
}
"""Aligned: a width that is a multiple of 16, and shifts that start at a multiple of 16 bytes, as rank 0's do."""


def compile_variants(path: Path) -> None:
    import triton
    from triton.backends.compiler import GPUTarget

    from penstock.kernels import contrast_triton as ours

    figures = {}
    for name, (kernel_name, has_self, aligned, block_out) in VARIANTS.items():
        kernel = getattr(ours, kernel_name)
        blocks = {"BLOCK_M": ours.BLOCK_QUERIES, "BLOCK_N": ours.BLOCK_KEYS, "BLOCK_K": ours.BLOCK_DIM}
        constants: dict[str, Any] = {"HAS_SELF": has_self, **blocks, **({"BLOCK_OUT": block_out} if block_out else {})}
        unaligned = set() if aligned else {"dim", "query_shift_ptr"}
        divisible = [
            (index,)
            for index, argument in enumerate(kernel.arg_names)
            if (argument.endswith("ptr") or argument == "dim") and argument not in unaligned
        ]
        source = triton.compiler.ASTSource(
            fn=kernel,
            signature={
                argument: "constexpr" if argument in constants else SCALARS.get(argument, "*fp32")
                for argument in kernel.arg_names
            },
            constexprs=constants,
            attrs={index: [["tt.divisibility", 16]] for index in divisible},
        )
        with contextlib.redirect_stdout(io.StringIO()) as ptxas_log:
            compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": ours.NUM_WARPS})
        figures[name] = {
            "shared_bytes": compiled.metadata.shared,
            "has_cubin": bool(compiled.asm["cubin"]),
            "has_tensor_cores": "wgmma.mma_async" in compiled.asm["ptx"],
            "atomics": re.findall(r"\b(?:atom|red)\.\S+", compiled.asm["ptx"]),
            "spills": re.findall(r"(\d+) bytes spill (?:stores|loads)", ptxas_log.getvalue()),
        }
    path.write_text(json.dumps(figures))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("compiled") / "figures.json"
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    cache = {"TRITON_CACHE_DIR": str(path.parent / "cache"), "TRITON_DUMP_PTXAS_LOG": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(path)]
    done = subprocess.run(command, env=plain | cache, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_compiles_without_spills_or_atomics(compiled: dict[str, dict[str, Any]], variant: str) -> None:
    figures = compiled[variant]
    assert figures["has_cubin"]
    assert figures["has_tensor_cores"]
    assert figures["atomics"] == []
    assert set(figures["spills"]) == {"0"}
    assert figures["shared_bytes"] <= 227 * 1024, "an H100's shared memory for one block"


if __name__ == "__main__":
    compile_variants(Path(sys.argv[1]))
