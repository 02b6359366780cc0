"""Gated linear attention as matrix products over chunks of frames, with its gradient: see `gated_linear_attention.py`.

With G the running sum of the log decay since the beginning of a chunk, frame t of the chunk reads

- frame s <= t of it with weight exp(G_t - G_s) = exp(G_t - G_r) * exp(G_r - G_s): two factors that depend on one frame
  each, so that the sum over channels is a matrix product;
- the state before the chunk with weight exp(G_t).

Between chunks the state is carried by the recurrence itself, once per chunk. The reference r is the middle of the
chunk, or, where decays are strong, one frame for each block of the chunk, so that no factor leaves the range of
float32.

Inside this file tensors have shape (N, B, H, C, d): N chunks of C frames. G is in units of log 2, as `exp2` is several
times faster than `exp` on some processors.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MIN_LOG_DECAY = -5.0
"""Strongest decay per frame, in every form of the recurrence; see `gated_linear_attention.py`."""

CHUNK_SIZE = 64
"""Frames per chunk: the state is carried once per chunk."""

BLOCK_SIZE = 16
"""Frames of a block. Relative to its middle, exponents stay within 8 * 5 = 40, which leaves half of the range of
float32 to the values and their gradients."""

MILD_LOG_DECAY = MIN_LOG_DECAY * BLOCK_SIZE / CHUNK_SIZE
"""Down to this decay per frame the same holds for a whole chunk, which then is one block."""


PIECE_SIZE = 2**16
"""Elements of the values that a CPU computes at a time, so that what is computed on the way stays in its cache."""


class ChunkedRecurrence(torch.autograd.Function):
    """The recurrence and its gradient; arguments and result as [`gated_linear_attention`], followed by what the
    gradient needs. All numbers are of one dtype, float32 or float64, and there is at least one frame. It cannot be
    differentiated twice.
    """

    @staticmethod
    def forward(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        log_decay: torch.Tensor,
        state: torch.Tensor,
        resets: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        out, kept, block = torch.empty_like(v), [], _block_size(log_decay)
        for piece in _pieces(q.shape[1], _chunks_per_piece(v)):
            masks = _segment_masks(resets, piece, q.dtype)
            piece_out, state, *intermediates = _forward(
                q[:, piece], k[:, piece], v[:, piece], log_decay[:, piece], state, masks, block
            )
            _write_chunks(piece_out, out[:, piece])
            kept += intermediates
        return out, state, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        q, k, v, log_decay, _, resets = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)  # nobody reads the zeros that would be made for these outputs
        ctx.save_for_backward(q, k, v, log_decay, resets, *output[2:])

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_out: torch.Tensor | None, d_state: torch.Tensor | None, *_: None
    ) -> tuple[torch.Tensor | None, ...]:
        q, k, v, log_decay, resets, *kept = ctx.saved_tensors
        d_out = torch.zeros_like(v) if d_out is None else d_out
        d_state = torch.zeros_like(kept[-1][0]) if d_state is None else d_state
        gradients: list[torch.Tensor] = []
        with full_precision(q.device.type):
            for index, piece in reversed(list(enumerate(_pieces(q.shape[1], len(kept[-1]))))):
                masks = _segment_masks(resets, piece, q.dtype)
                intermediates = kept[3 * index : 3 * index + 3]
                *results, d_state = _backward(
                    d_out[:, piece], q[:, piece], k[:, piece], v[:, piece], d_state, masks, *intermediates
                )
                if not gradients:
                    likes = (q, k, v, log_decay)
                    gradients = [result.new_empty(x.shape) for result, x in zip(results, likes, strict=True)]
                for result, gradient in zip(results, gradients, strict=True):
                    _write_chunks(result, gradient[:, piece])
        if kept[0].shape[-2] != CHUNK_SIZE:
            gradients[-1] = gradients[-1] * (log_decay >= MIN_LOG_DECAY)
        return *gradients, d_state, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: torch.Tensor | None) -> tuple[Any, Any]:
        """Rows are independent, so another dimension of them is a larger batch."""
        size = info.batch_size

        def merge(x: torch.Tensor | None, dim: int | None) -> torch.Tensor | None:
            if x is None:
                return None
            return (x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)

        outputs = ChunkedRecurrence.apply(*map(merge, inputs, in_dims))
        dims = (0, 0, *[1 for _ in outputs[2:]])  # of the batch
        return tuple(x.unflatten(dim, (size, -1)) for x, dim in zip(outputs, dims, strict=True)), dims


def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    state: torch.Tensor,
    masks: "_SegmentMasks | None",
    block: int,
) -> tuple[torch.Tensor, ...]:
    """`out`, (N, B, H, C, V), and the last state of one piece; then running sums, weights and states."""
    scale = q.shape[-1] ** -0.5
    q, k, v, totals = _to_chunks(q), _to_chunks(k), _to_chunks(v).contiguous(), _running_sums(log_decay, block)
    decays = _decays(totals, masks)
    weights = _weigh(q, k, decays.readings)
    if masks is not None:
        weights *= masks.same_segment

    # The state before each chunk, and after the last one: (N + 1, B, H, K, V). The only sequential part.
    states = torch.cat([state[None], (decays.to_end * k).transpose(-1, -2) @ v])
    for n, decay in enumerate(decays.chunk.unbind()):
        states[n + 1].addcmul_(decay, states[n])

    own = weights.flatten(0, 2) @ v.flatten(0, 2)
    q = (decays.from_begin * q).flatten(0, 2)
    out = torch.baddbmm(own, q, states[:-1].flatten(0, 2), beta=scale, alpha=scale).view_as(v)
    return out, states[-1].clone(), totals, weights, states[:-1]


def _backward(
    d_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    d_state: torch.Tensor,
    masks: "_SegmentMasks | None",
    totals: torch.Tensor,
    weights: torch.Tensor,
    states: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Gradients of q, k, v and log decay, (N, B, H, C, d), and of the first state of one piece. `d_x` is that of `x`.

    A weight between two frames, reader i and read j, is a function of G_i - G_j, so the gradient of G is
    q * d_q - k * d_k. The weight 1 of a frame for itself is left out of it: both terms hold it and would leave
    the rounding of their difference, which counts where decays are strong. So is the last frame in the state.
    """
    q, k, v, d_out = _to_chunks(q), _to_chunks(k), _to_chunks(v).contiguous(), _to_chunks(d_out).contiguous()
    d_out = d_out * q.shape[-1] ** -0.5
    decays = _decays(totals, masks)

    d_states = torch.cat([(decays.from_begin * q).transpose(-1, -2) @ d_out, d_state[None]])
    for n in reversed(range(len(states))):
        d_states[n].addcmul_(decays.chunk[n], d_states[n + 1])
    d_end = d_states[1:]
    k_to_end = decays.to_end * k
    d_v = weights.transpose(-1, -2).flatten(0, 2) @ d_out.flatten(0, 2)
    d_v = d_v.baddbmm_(k_to_end.flatten(0, 2), d_end.flatten(0, 2)).view_as(v)
    d_q = (d_out @ states.transpose(-1, -2)).mul_(decays.from_begin)
    d_k = v @ d_end.transpose(-1, -2)
    d_last = (d_k * k_to_end)[..., :-1, :].sum(dim=-2, keepdim=True)  # gradient of the chunk's last G
    d_last += (decays.chunk * (states * d_end).sum(dim=-1, keepdim=True)).transpose(-1, -2)
    d_k *= decays.to_end

    d_weights = (d_out @ v.transpose(-1, -2)).tril_()
    if masks is not None:
        d_weights *= masks.same_segment
    d_itself = d_weights.diagonal(dim1=-2, dim2=-1)[..., None].clone()
    _add_gradients_of_weights(d_weights.tril_(-1), q, k, decays.readings, d_q, d_k)
    d_total = d_q * q
    d_total[..., :-1, :].addcmul_(d_k[..., :-1, :], k[..., :-1, :], value=-1)
    d_log_decay = d_total.flip(-2).cumsum(dim=-2).flip(-2).add_(d_last)
    d_q.addcmul_(d_itself, k)
    d_k.addcmul_(d_itself, q)
    return d_q, d_k, d_v, d_log_decay, d_states[0]


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Autocast would run the products in bfloat16: a state that sums up a whole utterance needs float32."""
    if not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type=device_type, enabled=False)


def _block_size(log_decay: torch.Tensor) -> int:
    """Frames that one reference serves. Only the CPU may look at values: elsewhere it would have to wait for them."""
    if torch.compiler.is_compiling() or not log_decay.is_cpu:
        return BLOCK_SIZE
    return CHUNK_SIZE if log_decay.amin() >= MILD_LOG_DECAY else BLOCK_SIZE


def _chunks_per_piece(v: torch.Tensor) -> int:
    batch_size, length, num_heads, width = v.shape
    if torch.compiler.is_compiling() or not v.is_cpu:
        return (length + CHUNK_SIZE - 1) // CHUNK_SIZE
    return max(PIECE_SIZE // (CHUNK_SIZE * max(batch_size, 1) * num_heads * width), 1)


def _pieces(length: int, num_chunks: int) -> list[slice]:
    """Frames that are computed together; the first piece takes in what does not fill a chunk."""
    num_frames = num_chunks * CHUNK_SIZE
    first = (length - 1) % num_frames + 1
    return [slice(max(end - num_frames, 0), end) for end in range(first, length + 1, num_frames)]


def _to_chunks(x: torch.Tensor) -> torch.Tensor:
    """(B, T, H, d) -> (N, B, H, C, d), padded with zeros in front: the last frame has to end its chunk."""
    padding = -x.shape[1] % CHUNK_SIZE
    if padding:
        x = F.pad(x, (0, 0, 0, 0, padding, 0))
    return x.unflatten(1, (-1, CHUNK_SIZE)).permute(1, 0, 3, 2, 4)


def _write_chunks(x: torch.Tensor, target: torch.Tensor) -> None:
    """Writes (N, B, H, C, d) into (B, T, H, d), without the padding."""
    x = x.permute(1, 0, 3, 2, 4)
    if padding := x.shape[1] * CHUNK_SIZE - target.shape[1]:
        target.copy_(x.flatten(1, 2)[:, padding:])
    else:
        target.unflatten(1, (-1, CHUNK_SIZE)).copy_(x)


def _running_sums(log_decay: torch.Tensor, block: int) -> torch.Tensor:
    """G within each block, in units of log 2: (N, B, H, C / block, block, K)."""
    if block != CHUNK_SIZE:
        log_decay = log_decay.clamp(min=MIN_LOG_DECAY)
    return _to_chunks(log_decay / math.log(2)).contiguous().unflatten(-2, (-1, block)).cumsum(dim=-2)


class _SegmentMasks(NamedTuple):
    """Who reads what where resets are, as factors of 0 or 1.

    same_segment: frame t reads frame s, (N, B, 1, C, C).
    reads_state: the frame reads the state before the chunk, (N, B, 1, C, 1).
    in_state: the frame is in the state after the chunk, (N, B, 1, C, 1).
    carried: so is the state before the chunk, (N, B, 1, 1, 1).
    """

    same_segment: torch.Tensor
    reads_state: torch.Tensor
    in_state: torch.Tensor
    carried: torch.Tensor


def _segment_masks(resets: torch.Tensor | None, piece: slice, dtype: torch.dtype) -> _SegmentMasks | None:
    if resets is None:
        return None
    # Utterances begun in the chunk so far, (N, B, 1, C, 1).
    segment = _to_chunks(resets[:, piece, None, None]).cumsum(dim=-2)
    return _SegmentMasks(
        same_segment=(segment == segment.transpose(-1, -2)).to(dtype),
        reads_state=(segment == 0).to(dtype),
        in_state=(segment == segment[..., -1:, :]).to(dtype),
        carried=(segment[..., -1:, :] == 0).to(dtype),
    )


class _Reading(NamedTuple):
    """In every stretch of `size` frames the frames `readers` read the frames `read`, over one reference frame.

    decay: from the reference to each reader, (N, B, H, C / size, readers, K).
    growth: from each frame that is read to the reference, (N, B, H, C / size, read, K). It is a decay, too, for frames
    before the reference.
    """

    size: int
    readers: slice
    read: slice
    decay: torch.Tensor
    growth: torch.Tensor

    def readers_of(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C, d) -> (..., C / size, readers, d)."""
        return x.unflatten(-2, (-1, self.size))[..., self.readers, :]

    def read_of(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C, d) -> (..., C / size, read, d)."""
        return x.unflatten(-2, (-1, self.size))[..., self.read, :]

    def weights_of(self, weights: torch.Tensor) -> torch.Tensor:
        """(..., C, C) -> (..., C / size, readers, read)."""
        stretches = weights.unflatten(-2, (-1, self.size)).unflatten(-1, (-1, self.size))
        return stretches.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)[..., self.readers, self.read]


class _Decays(NamedTuple):
    """readings: all pairs of frames of a chunk.
    from_begin: decay of the state before the chunk until each frame, (N, B, H, C, K).
    to_end: decay of each frame until the end of the chunk, (N, B, H, C, K).
    chunk: decay of the state over the whole chunk, (N, B, H, K, 1).
    """

    readings: list[_Reading]
    from_begin: torch.Tensor
    to_end: torch.Tensor
    chunk: torch.Tensor


def _decays(totals: torch.Tensor, masks: _SegmentMasks | None) -> _Decays:
    """All decays from the running sums within blocks.

    A block reads itself relative to its middle. Blocks are then joined in pairs, of which the second half reads the
    first relative to the frame between them, until they are the whole chunk. Sums are never taken apart again: the
    difference of two long ones would be that of their rounding.
    """
    from_begin, to_end = totals, totals[..., -1:, :] - totals
    size = totals.shape[-2]
    decay = (totals - totals[..., size // 2 - 1 : size // 2, :]).exp2()
    readings = [_Reading(size, slice(None), slice(None), decay, decay.reciprocal())]
    while size < CHUNK_SIZE:
        first_begin, second_begin = from_begin.unflatten(-3, (-1, 2)).unbind(dim=-3)
        first_end, second_end = to_end.unflatten(-3, (-1, 2)).unbind(dim=-3)
        readings.append(_Reading(2 * size, slice(size, None), slice(size), second_begin.exp2(), first_end.exp2()))
        from_begin = torch.cat([first_begin, first_begin[..., -1:, :] + second_begin], dim=-2)
        to_end = torch.cat([first_end + second_begin[..., -1:, :], second_end], dim=-2)
        size *= 2
    from_begin, to_end = from_begin.squeeze(-3).exp2(), to_end.squeeze(-3).exp2()
    chunk = from_begin[..., -1:, :].transpose(-1, -2)
    if masks is not None:
        chunk = chunk * masks.carried
        from_begin, to_end = from_begin.mul_(masks.reads_state), to_end.mul_(masks.in_state)
    return _Decays(readings, from_begin, to_end, chunk)


def _weigh(q: torch.Tensor, k: torch.Tensor, readings: list[_Reading]) -> torch.Tensor:
    """Weights with which the frames of a chunk (rows) read each other (columns), decay included: (N, B, H, C, C)."""
    products = [
        (reading.decay * reading.readers_of(q)) @ (reading.growth * reading.read_of(k)).transpose(-1, -2)
        for reading in readings
    ]
    weights = products[0].tril_()
    for product in products[1:]:
        first, second = weights.unflatten(-3, (-1, 2)).unbind(dim=-3)
        upper, lower = F.pad(first, (0, first.shape[-1])), torch.cat([product, second], dim=-1)
        weights = torch.cat([upper, lower], dim=-2)
    return weights.squeeze(-3)


def _add_gradients_of_weights(
    d_weights: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    readings: list[_Reading],
    d_q: torch.Tensor,
    d_k: torch.Tensor,
) -> None:
    """Adds to the gradients of queries and keys, in place, what reaches them through the weights of `_weigh`."""
    for reading in readings:
        d_product = reading.weights_of(d_weights)
        read_k, reader_q = reading.growth * reading.read_of(k), reading.decay * reading.readers_of(q)
        reading.readers_of(d_q).addcmul_(d_product @ read_k, reading.decay)
        reading.read_of(d_k).addcmul_(d_product.transpose(-1, -2) @ reader_q, reading.growth)


__all__ = ["CHUNK_SIZE", "MIN_LOG_DECAY", "ChunkedRecurrence", "full_precision"]
