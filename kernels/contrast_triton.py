"""The sums over all pairs as fused Triton kernels: no similarity ever reaches memory.

Every program owns a block of queries and walks over all keys, so nothing is added up by atomics and the result does not
depend on the order in which programs run. The sum of exponentials runs under an online maximum (arXiv 1805.02867),
so 1 / temperature = 100 overflows nothing. Products are float32 sums of three TF32 products each, which keeps float32's
precision on tensor cores; plain TF32 would leave an error of 0.1 in a similarity at that temperature.

No GPU has run them yet: they equal the reference in Triton's interpreter and compile for sm_90. They have never been
timed, so `backend="auto"` leaves them alone.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

# The largest that spill no register on sm_90 by Triton 3.6, 3.7 and 3.9. Backward forms the similarities once for every
# MAX_BLOCK_OUT columns, so 256 would save a third of its work at D = 256; but 3.6 and 3.7 then spill.
BLOCK_QUERIES, BLOCK_KEYS, BLOCK_DIM, MAX_BLOCK_OUT = 64, 32, 32, 128
NUM_WARPS = 8

_UNSPECIALISED = ["num_queries", "num_keys", "first"]  # they change with every ragged batch; recompiling takes seconds


@triton.jit
def _similarities(
    query_ptr,
    key_ptr,
    inverse_temperature,
    offs_m,
    offs_n,
    num_queries,
    num_keys,
    dim,
    first,
    HAS_SELF: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """`[BLOCK_M, BLOCK_N]` float32; -inf beyond the last key and where a row meets itself."""
    products = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    query_rows = query_ptr + offs_m.to(tl.int64)[:, None] * dim
    key_rows = key_ptr + offs_n.to(tl.int64)[None, :] * dim
    for start in range(0, dim, BLOCK_K):
        offs_k = start + tl.arange(0, BLOCK_K)
        query_mask = (offs_m[:, None] < num_queries) & (offs_k[None, :] < dim)
        key_mask = (offs_n[None, :] < num_keys) & (offs_k[:, None] < dim)
        queries = tl.load(query_rows + offs_k[None, :], mask=query_mask, other=0.0)
        keys = tl.load(key_rows + offs_k[:, None], mask=key_mask, other=0.0)
        products = tl.dot(queries, keys, products, input_precision="tf32x3")
    is_pair = offs_n[None, :] < num_keys
    if HAS_SELF:
        is_pair = is_pair & (offs_m[:, None] + first != offs_n[None, :])
    return tl.where(is_pair, products * inverse_temperature, -float("inf"))


@triton.jit(do_not_specialize=_UNSPECIALISED)
def lse_kernel(
    query_ptr,
    key_ptr,
    inverse_temperature_ptr,
    lse_ptr,
    num_queries,
    num_keys,
    first,
    dim,
    HAS_SELF: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Each program: log sum_j exp(s_ij) of BLOCK_M queries."""
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inverse_temperature = tl.load(inverse_temperature_ptr)
    largest = tl.full((BLOCK_M,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for start in range(0, num_keys, BLOCK_N):
        offs_n = start + tl.arange(0, BLOCK_N)
        logits = _similarities(
            query_ptr,
            key_ptr,
            inverse_temperature,
            offs_m,
            offs_n,
            num_queries,
            num_keys,
            dim,
            first,
            HAS_SELF,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
        now = tl.maximum(largest, tl.max(logits, axis=1))
        # A row that has met nobody yet: -inf - -inf is no number.
        shift = tl.where(now == -float("inf"), 0.0, now)
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(logits - shift[:, None]), axis=1)
        largest = now
    tl.store(lse_ptr + offs_m, largest + tl.log(total), mask=offs_m < num_queries)


@triton.jit(do_not_specialize=_UNSPECIALISED)
def weighted_keys_kernel(
    query_ptr,
    key_ptr,
    query_shift_ptr,
    key_shift_ptr,
    inverse_temperature_ptr,
    total_ptr,
    num_queries,
    num_keys,
    first,
    dim,
    HAS_SELF: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Each program: sum_j (exp(s_ij - shift_i) + exp(s_ij - shift_j)) k_j of BLOCK_M queries, BLOCK_OUT columns."""
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_out = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    inverse_temperature = tl.load(inverse_temperature_ptr)
    query_shifts = tl.load(query_shift_ptr + offs_m, mask=offs_m < num_queries, other=float("inf"))
    total = tl.zeros((BLOCK_M, BLOCK_OUT), dtype=tl.float32)
    for start in range(0, num_keys, BLOCK_N):
        offs_n = start + tl.arange(0, BLOCK_N)
        logits = _similarities(
            query_ptr,
            key_ptr,
            inverse_temperature,
            offs_m,
            offs_n,
            num_queries,
            num_keys,
            dim,
            first,
            HAS_SELF,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
        key_shifts = tl.load(key_shift_ptr + offs_n, mask=offs_n < num_keys, other=float("inf"))
        weights = tl.exp(logits - query_shifts[:, None]) + tl.exp(logits - key_shifts[None, :])
        key_mask = (offs_n[:, None] < num_keys) & (offs_out[None, :] < dim)
        key_rows = key_ptr + offs_n.to(tl.int64)[:, None] * dim
        keys = tl.load(key_rows + offs_out[None, :], mask=key_mask, other=0.0)
        total = tl.dot(weights, keys, total, input_precision="tf32x3")
    total_mask = (offs_m[:, None] < num_queries) & (offs_out[None, :] < dim)
    tl.store(total_ptr + offs_m.to(tl.int64)[:, None] * dim + offs_out[None, :], total, mask=total_mask)


@dataclass(frozen=True, slots=True)
class TritonKernels:
    """`PairKernels` in float32, on a CUDA device or in Triton's interpreter.

    Triton launches on the current device, whatever its arguments are on; hence `device_of`, which leaves the CPU alone.
    """

    def lse(self, queries: Tensor, keys: Tensor, inverse_temperature: Tensor, first: int | None) -> Tensor:
        """`[n]`, see `PairKernels`."""
        lse = queries.new_empty(len(queries))
        grid = (triton.cdiv(len(queries), BLOCK_QUERIES),)
        if len(queries):
            with torch.cuda.device_of(queries):
                lse_kernel[grid](
                    queries.contiguous(),
                    keys.contiguous(),
                    inverse_temperature,
                    lse,
                    len(queries),
                    len(keys),
                    first or 0,
                    queries.shape[1],
                    HAS_SELF=first is not None,
                    BLOCK_M=BLOCK_QUERIES,
                    BLOCK_N=BLOCK_KEYS,
                    BLOCK_K=BLOCK_DIM,
                    num_warps=NUM_WARPS,
                )
        return lse

    def weighted_keys(
        self,
        queries: Tensor,
        keys: Tensor,
        query_shifts: Tensor,
        key_shifts: Tensor,
        inverse_temperature: Tensor,
        first: int | None,
    ) -> Tensor:
        """`[n, D]`, see `PairKernels`."""
        total, dim = torch.empty_like(queries, memory_format=torch.contiguous_format), queries.shape[1]
        block_out = min(MAX_BLOCK_OUT, max(16, triton.next_power_of_2(dim)))
        grid = (triton.cdiv(len(queries), BLOCK_QUERIES), triton.cdiv(dim, block_out))
        if total.numel():
            with torch.cuda.device_of(queries):
                weighted_keys_kernel[grid](
                    queries.contiguous(),
                    keys.contiguous(),
                    query_shifts.contiguous(),
                    key_shifts.contiguous(),
                    inverse_temperature,
                    total,
                    len(queries),
                    len(keys),
                    first or 0,
                    dim,
                    HAS_SELF=first is not None,
                    BLOCK_M=BLOCK_QUERIES,
                    BLOCK_N=BLOCK_KEYS,
                    BLOCK_K=BLOCK_DIM,
                    BLOCK_OUT=block_out,
                    num_warps=NUM_WARPS,
                )
        return total
