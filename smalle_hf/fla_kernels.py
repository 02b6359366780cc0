"""Gated linear attention by the Triton kernels of flash-linear-attention (`pip install smalle-hf[gpu]`), on CUDA.

The kernels are wrapped as operators of PyTorch, with their gradient and with the shapes of their results, so that
`torch.compile` keeps a model in one graph. Beside shapes nothing is ever read from the device: no call waits for it,
and all of them can be captured in a CUDA graph.

Where the state is emptied, the kernels are given a decay of exp(-50), which no float32 can tell from zero. They stay
finite there, as they never take the reciprocal of a decay. Their own way to pack sequences, `cu_seqlens`, waits for
the device three times per layer and step, to read the number of chunks.
"""

import functools
import importlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .chunked_recurrence import CHUNK_SIZE, MIN_LOG_DECAY

RESET_LOG_DECAY = -50.0
"""Keeps 2e-22 of the state. The running sums that it enters are kept to 1e-5, 50 times more exactly than TF32 is."""

# Remote code is a second module with the same operators.
NAMESPACE = re.sub(r"\W", "_", __name__)


class Kernels(NamedTuple):
    """Functions of flash-linear-attention, in the layout `(B, T, H, d)`; they scale the queries.

    chunk_forward: `fla.ops.gla.chunk.chunk_gla_fwd`.
    chunk_backward: `fla.ops.gla.chunk.chunk_gla_bwd`.
    recurrent: `fla.ops.gla.fused_recurrent_gla`.
    """

    chunk_forward: Callable[..., Any]
    chunk_backward: Callable[..., Any]
    recurrent: Callable[..., Any]


@functools.cache
def load_kernels() -> Kernels | None:
    """The kernels, `None` where flash-linear-attention or Triton is not installed. They run on CUDA tensors only."""
    try:
        chunk = importlib.import_module("fla.ops.gla.chunk")
        recurrent = importlib.import_module("fla.ops.gla.fused_recurrent")
    except ImportError:
        return None
    return Kernels(chunk.chunk_gla_fwd, chunk.chunk_gla_bwd, recurrent.fused_recurrent_gla)


@torch.compiler.assume_constant_result
def kernels_are_installed() -> bool:
    """Whether there are kernels to call."""
    return load_kernels() is not None


def fla_gated_linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    initial_state: torch.Tensor,
    resets: torch.Tensor | None,
    is_short: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence by the kernels.

    Args:
        q, k, v, log_decay, resets: As [`gated_linear_attention`], on CUDA, of at least one frame and not in float64.
        initial_state (`torch.Tensor` of shape `(B, H, K, V)`, float32): State before the first frame.
        is_short (`bool`): Whether going frame by frame is faster than a chunk. This form has no gradient: with
            gradients enabled it is not used.

    Returns:
        As [`gated_linear_attention`].
    """
    q, k = q.to(v.dtype), k.to(v.dtype)
    log_decay = log_decay.to(initial_state.dtype).clamp(min=MIN_LOG_DECAY)
    if resets is not None:
        log_decay = log_decay.masked_fill(resets[:, :, None, None], RESET_LOG_DECAY)
    if is_short and not torch.is_grad_enabled():
        return _recurrent(q, k, v, log_decay, initial_state)
    out, state, *_ = _chunked(q, k, v, log_decay, initial_state)
    return out, state


@torch.library.custom_op(f"{NAMESPACE}::recurrent", mutates_args=())
def _recurrent(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, log_decay: torch.Tensor, initial_state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`out` and the last state, frame by frame."""
    q, k, v, log_decay, initial_state = (x.contiguous() for x in (q, k, v, log_decay, initial_state))
    with torch.cuda.device_of(q):
        out, state = _installed_kernels().recurrent(
            q, k, v, gk=log_decay, initial_state=initial_state, output_final_state=True
        )
    return out.to(v.dtype), state


@_recurrent.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, log_decay: torch.Tensor, initial_state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return v.new_empty(v.shape), initial_state.new_empty(initial_state.shape)


@torch.library.custom_op(f"{NAMESPACE}::chunked", mutates_args=())
def _chunked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, log_decay: torch.Tensor, initial_state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`out`, the last state, and for the gradient: running sums of the decay `(B, T, H, K)`, weights with which the
    frames of a chunk read each other `(B, T, H, CHUNK_SIZE)`."""
    q, k, v, log_decay, initial_state = (x.contiguous() for x in (q, k, v, log_decay, initial_state))
    with torch.cuda.device_of(q):
        totals, weights, _, state, out = _installed_kernels().chunk_forward(
            q=q,
            k=k,
            v=v,
            g=log_decay,
            g_cumsum=None,
            scale=q.shape[-1] ** -0.5,
            initial_state=initial_state,
            output_final_state=True,
            chunk_size=CHUNK_SIZE,
        )
    return out.to(v.dtype), state, totals, weights


@_chunked.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, log_decay: torch.Tensor, initial_state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    totals = log_decay.new_empty(log_decay.shape)
    weights = log_decay.new_empty((*q.shape[:3], CHUNK_SIZE))
    return v.new_empty(v.shape), initial_state.new_empty(initial_state.shape), totals, weights


@torch.library.custom_op(f"{NAMESPACE}::chunked_backward", mutates_args=())
def _chunked_backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    initial_state: torch.Tensor,
    totals: torch.Tensor,
    weights: torch.Tensor,
    d_out: torch.Tensor,
    d_state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the arguments of `_chunked`."""
    q, k, v, initial_state, d_out, d_state = (x.contiguous() for x in (q, k, v, initial_state, d_out, d_state))
    with torch.cuda.device_of(q):
        d_q, d_k, d_v, d_log_decay, d_initial_state = _installed_kernels().chunk_backward(
            q=q,
            k=k,
            v=v,
            g=None,
            g_cumsum=totals,
            scale=q.shape[-1] ** -0.5,
            initial_state=initial_state,
            h=None,
            A=weights,
            do=d_out,
            dht=d_state,
            chunk_size=CHUNK_SIZE,
        )
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), d_log_decay.to(totals.dtype), d_initial_state


@_chunked_backward.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    initial_state: torch.Tensor,
    totals: torch.Tensor,
    weights: torch.Tensor,
    d_out: torch.Tensor,
    d_state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    d_q, d_k, d_v, d_log_decay, d_initial_state = (x.new_empty(x.shape) for x in (q, k, v, totals, initial_state))
    return d_q, d_k, d_v, d_log_decay, d_initial_state


def _keep_for_gradient(ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
    q, k, v, _, initial_state = inputs
    totals, weights = output[2:]
    ctx.mark_non_differentiable(totals, weights)
    ctx.set_materialize_grads(False)  # nobody reads the zeros that would be made for these outputs
    ctx.save_for_backward(q, k, v, initial_state, totals, weights)


def _gradient(
    ctx: Any, d_out: torch.Tensor | None, d_state: torch.Tensor | None, *_: None
) -> tuple[torch.Tensor, ...]:
    q, k, v, initial_state, totals, weights = ctx.saved_tensors
    d_out = torch.zeros_like(v) if d_out is None else d_out
    d_state = torch.zeros_like(initial_state) if d_state is None else d_state
    return _chunked_backward(q, k, v, initial_state, totals, weights, d_out, d_state)


_chunked.register_autograd(_gradient, setup_context=_keep_for_gradient)


def _installed_kernels() -> Kernels:
    kernels = load_kernels()
    if kernels is None:
        raise ImportError("flash-linear-attention is not installed: `pip install smalle-hf[gpu]`.")
    return kernels


__all__ = ["RESET_LOG_DECAY", "Kernels", "fla_gated_linear_attention", "kernels_are_installed", "load_kernels"]
