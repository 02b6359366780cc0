"""Gated linear attention, the recurrence inside every LCLM block (paper section 2.2), as pure functions.

Per head, with keys of width K and values of width V, the state S is a K x V matrix:

    S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T          out_t = (q_t / sqrt(K))^T S_t

Three implementations share one signature `(q, k, v, log_decay, initial_state, resets) -> (out, final_state)`:

- [`recurrent_gated_linear_attention`], frame by frame: the definition, and the fastest form of a decoding step;
- [`chunked_gated_linear_attention`], matrix products over chunks of 32 frames, on any device;
- the Triton kernels of flash-linear-attention (`pip install smalle-hf[gpu]`), on CUDA.

[`gated_linear_attention`] picks one. Layout is (batch, time, heads, width), as in flash-linear-attention.

Log decays are clamped at -5 per frame, in every form alike: a channel that keeps less than exp(-5) = 0.7 % per frame
is as good as empty, and the bound keeps the chunked form inside the range of float32. The decay of the model,
logsigmoid(x) / 16, comes near it only for x < -80.
"""

import functools
import importlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

MIN_LOG_DECAY = -5.0
"""Strongest decay per frame; see the module's docstring."""

CHUNK_SIZE = 32
"""Frames per chunk: the state is carried once per chunk."""

HALF = CHUNK_SIZE // 2
"""Frames whose decays are taken relative to a frame in their middle. Exponents stay within 8 * 5 = 40, which leaves
half of the range of float32 to the values and their gradients."""

RECURRENT_MAX_LENGTH = 4
"""Up to this many frames the recurrent form is faster than a padded chunk."""


def gated_linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    initial_state: torch.Tensor | None = None,
    resets: torch.Tensor | None = None,
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

    Returns:
        `out` of shape `(B, T, H, V)` in the dtype of `v`, and the float32 state after the last frame, `(B, H, K, V)`.
    """
    if q.is_cuda and resets is None and not torch.compiler.is_compiling():
        kernel = _fla_kernel(q.shape[1] <= RECURRENT_MAX_LENGTH)
        if kernel is not None:
            return _run_fla(kernel, q, k, v, log_decay, initial_state)
    if q.shape[1] <= RECURRENT_MAX_LENGTH:
        return recurrent_gated_linear_attention(q, k, v, log_decay, initial_state, resets)
    return chunked_gated_linear_attention(q, k, v, log_decay, initial_state, resets)


def recurrent_gated_linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    initial_state: torch.Tensor | None = None,
    resets: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence as it is defined, one frame after the other. Arguments and result as [`gated_linear_attention`].

    Float64 inputs are computed in float64, everything else in float32.
    """
    with _full_precision(q.device.type):
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        out_dtype = v.dtype
        q, k, v, log_decay = (x.to(dtype) for x in (q, k, v, log_decay))
        q = q * q.shape[-1] ** -0.5
        decay = log_decay.clamp(min=MIN_LOG_DECAY).exp()
        if resets is not None:
            decay = decay * ~resets[:, :, None, None]
        state = _initial_state(q, v, initial_state)
        outs = []
        for t in range(q.shape[1]):
            state = decay[:, t, :, :, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
            outs.append((q[:, t, :, None, :] @ state).squeeze(-2))
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
    """The recurrence as matrix products over chunks of 32 frames. Arguments and result as [`gated_linear_attention`].

    With G the running sum of the log decay, frame t reads frame s <= t with weight exp(G_t - G_s) = exp(G_t - G_m) *
    exp(G_m - G_s): two factors that depend on one frame each, so the sum over channels is a matrix product. Inside
    each half of a chunk m is a frame in its middle; between the halves it is the last frame of the first. Between
    chunks the state is carried by the recurrence itself, once per chunk.
    """
    with _full_precision(q.device.type):
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        out_dtype, length = v.dtype, q.shape[1]
        state = _initial_state(q, v, initial_state).to(dtype)
        if length == 0:
            return torch.zeros_like(v), state

        # 1. Chunks in two halves: (B, T, H, d) -> (B, H, N, 2, C/2, d). Padding neither decays nor adds to the state.
        log_decay = log_decay.to(dtype).clamp(min=MIN_LOG_DECAY)
        q, k, v, log_decay = (_split_into_chunks(x.to(dtype)) for x in (q, k, v, log_decay))
        masks = _chunk_masks(resets, q)

        # 2. Decays relative to the middle of each half, and from there to the edges.
        total = log_decay.flatten(3, 4).cumsum(dim=3).unflatten(3, (2, HALF))
        middle = total[..., HALF // 2 - 1, None, :]  # (B, H, N, 2, 1, K)
        edge, end = total[..., 0, -1:, :], total[..., 1:, -1:, :]  # last frame of the first half and of the chunk
        relative = total - middle
        q = q * q.shape[-1] ** -0.5
        q_decayed = q * relative.exp()
        k_decayed = k * (-relative).exp()

        # 3. Weights within each half: earlier frames, then the frame itself, whose weight holds no decay. It is kept
        #    out of the product, where its two factors would cancel and leave their rounding in the gradient of the
        #    decay. Entries above the diagonal are never used.
        within = (q_decayed @ k_decayed.transpose(-1, -2)).masked_fill(~masks.within, 0.0)
        within = within + torch.diag_embed((q * k).sum(dim=-1))  # (B, H, N, 2, C/2, C/2)

        # 4. Weights with which the second half reads the first, and what every frame reads from its own chunk.
        q_second = q_decayed[..., 1, :, :] * (middle[..., 1, :, :] - edge).exp()
        k_first = k_decayed[..., 0, :, :] * (edge - middle[..., 0, :, :]).exp()
        across = (q_second @ k_first.transpose(-1, -2)) * masks.across  # (B, H, N, C/2, C/2)
        first, second = within.unbind(3)
        weights = torch.cat([F.pad(first, (0, HALF)), torch.cat([across, second], dim=-1)], dim=-2)
        v = v.flatten(3, 4)  # (B, H, N, C, V)
        out = weights @ v

        # 5. The state at the beginning of each chunk: the only sequential part. The last frame enters undecayed.
        k_to_end = torch.where(masks.is_last, k, k_decayed * (end - middle).exp() * masks.to_state).flatten(3, 4)
        contribution = k_to_end.transpose(-1, -2) @ v  # (B, H, N, K, V)
        chunk_decay = (end.exp() * masks.carry).squeeze(3).transpose(-1, -2)  # (B, H, N, K, 1)
        states = []
        for decay_n, contribution_n in zip(chunk_decay.unbind(2), contribution.unbind(2), strict=True):
            states.append(state)
            state = decay_n * state + contribution_n

        # 6. What each frame reads from the chunks before its own.
        q_from_begin = (q_decayed * middle.exp() * masks.from_state).flatten(3, 4)
        out = out + q_from_begin @ torch.stack(states, dim=2)
        out = out.flatten(2, 3)[:, :, -length:].transpose(1, 2)  # (B, T, H, V)
        return out.to(out_dtype), state


def _initial_state(q: torch.Tensor, v: torch.Tensor, initial_state: torch.Tensor | None) -> torch.Tensor:
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    if initial_state is not None:
        return initial_state.to(dtype)
    return torch.zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=dtype, device=q.device)


def _split_into_chunks(x: torch.Tensor) -> torch.Tensor:
    """(B, T, H, d) -> (B, H, N, 2, C/2, d), padded with zeros in front: the last frame has to end its chunk."""
    padding = -x.shape[1] % CHUNK_SIZE
    x = F.pad(x, (0, 0, 0, 0, padding, 0)).transpose(1, 2)
    return x.unflatten(2, (-1, 2, HALF))


class _ChunkMasks(NamedTuple):
    """Who reads whom within a chunk. `within` is boolean, the others are factors of 0 or 1.

    within: frame t reads the earlier frame s of its half, (..., 2, C/2, C/2).
    is_last: the frame is the chunk's last, (2, C/2, 1).
    across: frame t of the second half reads frame s of the first, (..., C/2, C/2).
    from_state: the frame reads the state at the chunk's beginning, (..., 2, C/2, 1).
    to_state: the frame is still in the state at the chunk's end, (..., 2, C/2, 1).
    carry: so is the state at its beginning, (..., 1, 1, 1).
    """

    within: torch.Tensor
    is_last: torch.Tensor
    across: torch.Tensor | float
    from_state: torch.Tensor | float
    to_state: torch.Tensor | float
    carry: torch.Tensor | float


def _chunk_masks(resets: torch.Tensor | None, q: torch.Tensor) -> _ChunkMasks:
    earlier = torch.ones(HALF, HALF, dtype=torch.bool, device=q.device).tril(-1)
    is_last = (torch.arange(CHUNK_SIZE, device=q.device) == CHUNK_SIZE - 1).view(2, HALF, 1)
    if resets is None:
        return _ChunkMasks(earlier, is_last, 1.0, 1.0, 1.0, 1.0)
    resets = F.pad(resets, (-resets.shape[1] % CHUNK_SIZE, 0)).unflatten(1, (-1, CHUNK_SIZE))
    # Utterances begun in the chunk so far, (B, 1, N, 2, C/2).
    segment = resets.cumsum(dim=-1)[:, None].unflatten(-1, (2, HALF))
    last = segment[..., 1:, -1:]
    return _ChunkMasks(
        within=earlier & (segment[..., :, None] == segment[..., None, :]),
        is_last=is_last,
        across=(segment[..., 1, :, None] == segment[..., 0, None, :]).to(q.dtype),
        from_state=(segment == 0)[..., None].to(q.dtype),
        to_state=(segment == last)[..., None].to(q.dtype),
        carry=(last == 0)[..., None].to(q.dtype),
    )


def _full_precision(device_type: str) -> torch.autocast:
    """Autocast would run the products in bfloat16: a state that sums up a whole utterance needs float32."""
    return torch.autocast(device_type=device_type, enabled=False)


@functools.cache
def _fla_kernel(short: bool) -> Callable | None:
    """The Triton kernel for short or long inputs, `None` where flash-linear-attention is not installed."""
    try:
        ops = importlib.import_module("fla.ops.gla")
    except ImportError:
        return None
    return ops.fused_recurrent_gla if short else ops.chunk_gla


def _run_fla(
    kernel: Callable,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    initial_state: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    log_decay = log_decay.clamp(min=MIN_LOG_DECAY)
    gate = {"gk": log_decay} if kernel.__name__ == "fused_recurrent_gla" else {"g": log_decay}
    out, state = kernel(q, k, v, **gate, scale=None, initial_state=initial_state, output_final_state=True)
    return out.to(v.dtype), state


__all__ = [
    "CHUNK_SIZE",
    "MIN_LOG_DECAY",
    "chunked_gated_linear_attention",
    "gated_linear_attention",
    "recurrent_gated_linear_attention",
]
