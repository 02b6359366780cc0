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

import torch
from torch.nn import functional as F

MIN_LOG_DECAY = -5.0
"""Strongest decay per frame; see the module's docstring."""

CHUNK_SIZE = 32
"""Frames per chunk. Decays are taken relative to the chunk's middle, so exponents stay within 16 * 5 = 80 < 88, the
largest that float32 can exponentiate: 32 is the longest chunk for which MIN_LOG_DECAY is safe."""

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

    Within a chunk, with G the running sum of the log decay and m its middle frame, frame t reads frame s <= t with
    weight exp(G_t - G_s) = exp(G_t - G_m) * exp(G_m - G_s): two factors that depend on one frame each, so the sum over
    channels is a matrix product. Between chunks the state is carried by the recurrence itself, once per chunk.
    """
    with _full_precision(q.device.type):
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        out_dtype, length = v.dtype, q.shape[1]
        state = _initial_state(q, v, initial_state).to(dtype)
        if length == 0:
            return torch.zeros_like(v), state

        # 1. Chunks: (B, T, H, d) -> (B, H, N, C, d). The padding neither decays the state nor adds to it.
        log_decay = log_decay.to(dtype).clamp(min=MIN_LOG_DECAY)
        q, k, v, log_decay = (_split_into_chunks(x.to(dtype)) for x in (q, k, v, log_decay))
        causal, from_state, to_state, carry = _chunk_masks(resets, q)

        # 2. Decays relative to the middle of the chunk, and from there to its beginning and its end.
        total = log_decay.cumsum(dim=-2)  # (B, H, N, C, K)
        middle = total[..., CHUNK_SIZE // 2 - 1, None, :]  # (B, H, N, 1, K)
        relative = total - middle
        q = q * q.shape[-1] ** -0.5
        q_decayed = q * relative.exp()
        k_decayed = k * (-relative).exp()
        begin_to_middle = middle.exp()
        middle_to_end = relative[..., -1:, :].exp()

        # 3. What each frame reads from its own chunk: earlier frames, then itself. A frame's own weight holds no
        # decay.    It is kept out of the product, where its two factors would cancel and leave their rounding in the
        # gradient    of the decay. Entries above the diagonal may overflow: they are never used.
        weights = (q_decayed @ k_decayed.transpose(-1, -2)).masked_fill(~causal, 0.0)  # (B, H, N, C, C)
        out = weights @ v + (q * k).sum(dim=-1, keepdim=True) * v  # (B, H, N, C, V)

        # 4. The state at the beginning of each chunk: the only sequential part. The last frame enters undecayed.
        k_to_end = torch.cat([(k_decayed * middle_to_end * to_state)[..., :-1, :], k[..., -1:, :]], dim=-2)
        contribution = k_to_end.transpose(-1, -2) @ v  # (B, H, N, K, V)
        chunk_decay = (begin_to_middle * middle_to_end * carry).transpose(-1, -2)  # (B, H, N, K, 1)
        states = []
        for decay_n, contribution_n in zip(chunk_decay.unbind(2), contribution.unbind(2), strict=True):
            states.append(state)
            state = decay_n * state + contribution_n

        # 5. What each frame reads from the chunks before its own.
        out = out + (q_decayed * begin_to_middle * from_state) @ torch.stack(states, dim=2)
        out = out.flatten(2, 3)[:, :, :length].transpose(1, 2)  # (B, T, H, V)
        return out.to(out_dtype), state


def _initial_state(q: torch.Tensor, v: torch.Tensor, initial_state: torch.Tensor | None) -> torch.Tensor:
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    if initial_state is not None:
        return initial_state.to(dtype)
    return torch.zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=dtype, device=q.device)


def _split_into_chunks(x: torch.Tensor) -> torch.Tensor:
    """(B, T, H, d) -> (B, H, N, C, d), padded with zeros at the end."""
    padding = -x.shape[1] % CHUNK_SIZE
    x = F.pad(x, (0, 0, 0, 0, 0, padding)).transpose(1, 2)
    return x.unflatten(2, (-1, CHUNK_SIZE))


def _chunk_masks(
    resets: torch.Tensor | None, q: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | float, torch.Tensor | float, torch.Tensor | float]:
    """Which frame may read which, given where the state is emptied.

    Returns `causal` (frame t reads the earlier frame s), broadcastable to (B, H, N, C, C), and factors of 0 or 1,
    broadcastable to (B, H, N, C, 1) and (B, H, N, 1, 1): whether a frame reads the state at the chunk's beginning,
    whether it is still there at the chunk's end, and whether the state at the beginning is.
    """
    causal = torch.ones(CHUNK_SIZE, CHUNK_SIZE, dtype=torch.bool, device=q.device).tril(-1)
    if resets is None:
        return causal, 1.0, 1.0, 1.0
    resets = F.pad(resets, (0, -resets.shape[1] % CHUNK_SIZE)).unflatten(1, (-1, CHUNK_SIZE))
    segment = resets.cumsum(dim=-1)[:, None]  # (B, 1, N, C): utterances begun in the chunk so far
    same_segment = segment[..., :, None] == segment[..., None, :]
    last = segment[..., -1:]
    from_state = (segment == 0)[..., None].to(q.dtype)
    to_state = (segment == last)[..., None].to(q.dtype)
    return causal & same_segment, from_state, to_state, (last == 0)[..., None].to(q.dtype)


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
