"""Gated linear attention, the recurrence inside every LCLM block (paper section 2.2), as pure functions.

Per head, with keys of width K and values of width V, the state S is a K x V matrix:

    S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T          out_t = (q_t / sqrt(K))^T S_t

Three implementations share one signature `(q, k, v, log_decay, initial_state, resets) -> (out, final_state)`:

- [`recurrent_gated_linear_attention`], frame by frame: the definition, and the fastest form of a decoding step;
- [`chunked_gated_linear_attention`], matrix products over chunks of 64 frames, on any device;
- [`fla_gated_linear_attention`], the Triton kernels of flash-linear-attention (`pip install smalle-hf[gpu]`), on CUDA;
  a single frame that overwrites its state goes to [`step_in_place`].

[`gated_linear_attention`] picks one. Layout is (batch, time, heads, width), as in flash-linear-attention.

Log decays are clamped at -5 per frame, in every form alike: a channel that keeps less than exp(-5) = 0.7 % per frame
is as good as empty, and the bound keeps the chunked form inside the range of float32. The decay of the model,
logsigmoid(x) / 16, comes near it only for x < -80.
"""

import torch

from .chunked_recurrence import CHUNK_SIZE, MIN_LOG_DECAY, ChunkedRecurrence, full_precision
from .fla_kernels import fla_gated_linear_attention, kernels_are_installed
from .step_kernel import step_in_place

RECURRENT_MAX_LENGTH = 8
"""Up to this many frames the recurrent form is faster than a padded chunk."""


def gated_linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    initial_state: torch.Tensor | None = None,
    resets: torch.Tensor | None = None,
    overwrite_state: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the recurrence with the implementation that suits device and length.

    Args:
        q (`torch.Tensor` of shape `(B, T, H, K)`): Queries; they are scaled by K^-0.5 here.
        k (`torch.Tensor` of shape `(B, T, H, K)`): Keys.
        v (`torch.Tensor` of shape `(B, T, H, V)`): Values.
        log_decay (`torch.Tensor` of shape `(B, T, H, K)`): Logarithm of the decay, <= 0, clamped at -5.
        initial_state (`torch.Tensor` of shape `(B, H, K, V)`, *optional*): State before the first frame; zeros if
            `None`.
        resets (`torch.BoolTensor` of shape `(B, T)`, *optional*): Frames before which the state is emptied (the first
            frame of every utterance that is packed behind another one).
        overwrite_state (`bool`, defaults to `False`): Whether the final state may take the place of the initial one in
            its memory. It does where no gradients are recorded and nothing is compiled.

    Returns:
        `out` of shape `(B, T, H, V)` in the dtype of `v`, and the float32 state after the last frame, `(B, H, K, V)`.
    """
    is_short = q.shape[1] <= RECURRENT_MAX_LENGTH
    if q.shape[1] and _has_kernels(q):
        state = _initial_state(q, v, initial_state)
        is_step = q.shape[1] == 1 and resets is None and state.is_contiguous()
        if is_step and overwrite_state and _may_be_overwritten(state):
            return step_in_place(q, k, v, log_decay, state), state
        return fla_gated_linear_attention(q, k, v, log_decay, state, resets, is_short)
    if is_short:
        return recurrent_gated_linear_attention(q, k, v, log_decay, initial_state, resets, overwrite_state)
    return chunked_gated_linear_attention(q, k, v, log_decay, initial_state, resets)


def recurrent_gated_linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    initial_state: torch.Tensor | None = None,
    resets: torch.Tensor | None = None,
    overwrite_state: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence as it is defined, one frame after the other. Arguments and result as [`gated_linear_attention`].

    Float64 inputs are computed in float64, everything else in float32.
    """
    with full_precision(q.device.type):
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        out_dtype = v.dtype
        q, k, v, log_decay = (x.to(dtype) for x in (q, k, v, log_decay))
        q = q * q.shape[-1] ** -0.5
        decay = log_decay.clamp(min=MIN_LOG_DECAY).exp()
        if resets is not None:
            decay = decay * ~resets[:, :, None, None]
        state = _initial_state(q, v, initial_state)
        outs = []
        # In place where nothing is recorded: new memory for a large state costs more than the arithmetic.
        is_in_place = overwrite_state and _may_be_overwritten(state)
        for q_t, k_t, v_t, decay_t in zip(*(x.unbind(dim=1) for x in (q, k, v, decay)), strict=True):
            decay_t, k_t, v_t = decay_t.unsqueeze(-1), k_t.unsqueeze(-1), v_t.unsqueeze(-2)
            decayed = state.mul_(decay_t) if is_in_place else decay_t * state
            state = decayed.addcmul(k_t, v_t) if torch.is_grad_enabled() else decayed.addcmul_(k_t, v_t)
            outs.append((q_t.unsqueeze(-2) @ state).squeeze(-2))
        out = torch.stack(outs, dim=1) if outs else torch.zeros_like(v)
        return out.to(out_dtype), state


def chunked_gated_linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    initial_state: torch.Tensor | None = None,
    resets: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence as matrix products over chunks of 64 frames; signature of [`gated_linear_attention`]."""
    with full_precision(q.device.type):
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        state = _initial_state(q, v, initial_state)
        if q.shape[1] == 0:
            return torch.zeros_like(v), state
        inputs = (x.to(dtype) for x in (q, k, v, log_decay))
        out, state, *_ = ChunkedRecurrence.apply(*inputs, state, resets)
        return out.to(v.dtype), state


def _initial_state(q: torch.Tensor, v: torch.Tensor, initial_state: torch.Tensor | None) -> torch.Tensor:
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    if initial_state is not None:
        return initial_state.to(dtype)
    return torch.zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=dtype, device=q.device)


def _may_be_overwritten(state: torch.Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or state.requires_grad:
        return False
    return torch.is_inference_mode_enabled() or not state.is_inference()


def _has_kernels(q: torch.Tensor) -> bool:
    """Whether the kernels compute with such tensors. Where there is Triton but no GPU, they are installed and fail."""
    return q.is_cuda and q.dtype != torch.float64 and kernels_are_installed()


__all__ = [
    "CHUNK_SIZE",
    "MIN_LOG_DECAY",
    "chunked_gated_linear_attention",
    "gated_linear_attention",
    "recurrent_gated_linear_attention",
]
