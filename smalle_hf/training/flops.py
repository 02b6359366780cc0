"""Operations that training takes, from the configuration, and the share of them that a device could do."""

import re

import torch

from ..chunked_recurrence import CHUNK_SIZE
from ..configuration_smalle import SmallEConfig

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A40": 150.0,
    "A10": 125.0,
    "RTX A6000": 155.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "T4": 65.0,
}
"""Dense products in bfloat16 (float16 on the T4), in 10^12 operations per second, as the data sheets of the
manufacturer have them; an entry comes before those that its name contains."""


def forward_flops(
    config: SmallEConfig, columns: float, text_tokens: float, text_pairs: float, cross_pairs: float
) -> float:
    """Operations of the matrix products of a forward pass; a multiplication and an addition are two.

    A product with a weight takes 2 per element of the weight, for every column or text token. The recurrence of a
    block, with keys of width K and values of width V in H heads, is counted in its chunked form: each of the C = 64
    frames of a chunk reads the others (2 C (K + V) per column), and the state is written and read (4 K V / H).
    Attention takes 4 D for every pair of text tokens; PACA 4 (D + P) for every pair of column and token, to compare
    and to fetch, twice.

    Args:
        config ([`SmallEConfig`]): Sizes: D the hidden size, P the width of the position stream.
        columns (`float`): Columns of the delayed sequence, padding not counted.
        text_tokens (`float`): Text tokens, padding not counted.
        text_pairs (`float`): Pairs of tokens that read each other: the sum of squared lengths.
        cross_pairs (`float`): Pairs of column and token of the same utterance.
    """
    size, position_size = config.hidden_size, config.position_size
    num_blocks = config.num_audio_encoder_layers + config.num_audio_decoder_layers
    per_column = num_blocks * _block_flops(config, size)
    per_column += 2 * size * config.num_codebooks * config.audio_vocab_size  # heads
    per_column += 2 * size**2  # queries of the cross-attention
    per_token = config.num_text_encoder_layers * (6 * size**2 + _mlp_flops(size))
    per_token += 4 * size**2  # its keys and values
    per_cross_pair = 4 * size
    if config.cross_attention == "paca":
        per_column += _block_flops(config, position_size)
        per_cross_pair += 4 * position_size
    per_text_pair = 4 * size * config.num_text_encoder_layers
    return per_column * columns + per_token * text_tokens + per_text_pair * text_pairs + per_cross_pair * cross_pairs


def training_flops(
    config: SmallEConfig, columns: float, text_tokens: float, text_pairs: float, cross_pairs: float
) -> float:
    """Operations of a training step, arguments as [`forward_flops`]: every product has a gradient for both of its
    factors. What gradient checkpointing computes again is not counted."""
    return 3 * forward_flops(config, columns, text_tokens, text_pairs, cross_pairs)


def peak_flops(device: torch.device, peak_tflops: float | None = None) -> float | None:
    """Operations per second that a device can do at most, `None` where that is not known.

    Args:
        device (`torch.device`): CUDA devices are looked up by name in `PEAK_TFLOPS`.
        peak_tflops (`float`, *optional*): The peak in 10^12 operations per second, instead of that of the table.
    """
    if peak_tflops is not None:
        return peak_tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = [peak for part, peak in PEAK_TFLOPS.items() if re.search(rf"\b{part}\b", name)]
    return found[0] * 1e12 if found else None


def _block_flops(config: SmallEConfig, size: int) -> float:
    """Operations of an LCLM block of a width, per column."""
    keys, values = int(size * config.key_expand), int(size * config.value_expand)
    projections = size * (2 * keys + 3 * values + config.gate_low_rank_size) + config.gate_low_rank_size * keys
    recurrence = 2 * CHUNK_SIZE * (keys + values) + 4 * keys * values / config.num_attention_heads
    return 2 * projections + recurrence + _mlp_flops(size)


def _mlp_flops(size: int) -> float:
    """Operations of a SwiGLU layer, per position."""
    return 2 * 3 * size * (4 * size // 3)


__all__ = ["PEAK_TFLOPS", "forward_flops", "peak_flops", "training_flops"]
