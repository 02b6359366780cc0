"""One frame of gated linear attention on a GPU, in one Triton kernel that writes the state where it stands.

A decoding step of many utterances is bound by the memory of their states. Here each is read once and written once; the
kernels of flash-linear-attention write it elsewhere, from where it would have to be copied back.
"""

import torch

from .chunked_recurrence import MIN_LOG_DECAY

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

MAX_BLOCK_K, MAX_BLOCK_V = 64, 32
"""Keys and values of the part of a state that a program holds at a time."""


if triton is not None:

    @triton.jit
    def _step_kernel(  # type: ignore[no-untyped-def]
        q,
        k,
        v,
        log_decay,
        state,
        out,
        scale,
        min_log_decay,
        K: tl.constexpr,
        V: tl.constexpr,
        BLOCK_K: tl.constexpr,
        BLOCK_V: tl.constexpr,
    ):
        """Some values of one head of one utterance."""
        row = tl.program_id(0).to(tl.int64)
        v_index = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
        value = tl.load(v + row * V + v_index, mask=v_index < V, other=0.0).to(tl.float32)
        total = tl.zeros([BLOCK_V], dtype=tl.float32)
        for first in range(0, K, BLOCK_K):
            k_index = first + tl.arange(0, BLOCK_K)
            is_key = k_index < K
            query = tl.load(q + row * K + k_index, mask=is_key, other=0.0).to(tl.float32) * scale
            key = tl.load(k + row * K + k_index, mask=is_key, other=0.0).to(tl.float32)
            decay = tl.load(log_decay + row * K + k_index, mask=is_key, other=0.0).to(tl.float32)
            decay = tl.exp(tl.maximum(decay, min_log_decay))
            place = state + row * K * V + k_index[:, None] * V + v_index[None, :]
            is_there = is_key[:, None] & (v_index < V)[None, :]
            part = tl.load(place, mask=is_there, other=0.0)
            part = decay[:, None] * part + key[:, None] * value[None, :]
            tl.store(place, part, mask=is_there)
            total += tl.sum(query[:, None] * part, axis=0)
        tl.store(out + row * V + v_index, total.to(out.dtype.element_ty), mask=v_index < V)


def step_in_place(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, log_decay: torch.Tensor, state: torch.Tensor
) -> torch.Tensor:
    """The recurrence over one frame, without a gradient.

    Args:
        q, k, v, log_decay: As [`gated_linear_attention`], of one frame, on CUDA.
        state (`torch.Tensor` of shape `(B, H, K, V)`, float32, contiguous): State before the frame; is overwritten
            with that after it.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, V)` in the dtype of `v`.
    """
    batch_size, _, num_heads, key_size = q.shape
    value_size = v.shape[-1]
    out = v.new_empty(v.shape)
    block_k = min(triton.next_power_of_2(key_size), MAX_BLOCK_K)
    block_v = min(triton.next_power_of_2(value_size), MAX_BLOCK_V)
    q, k, v, log_decay = (x.contiguous() for x in (q, k, v, log_decay))
    with torch.cuda.device_of(q):
        _step_kernel[batch_size * num_heads, triton.cdiv(value_size, block_v)](
            q, k, v, log_decay, state, out, key_size**-0.5, MIN_LOG_DECAY, key_size, value_size, block_k, block_v
        )
    return out


__all__ = ["step_in_place"]
