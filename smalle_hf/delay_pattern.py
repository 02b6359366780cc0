"""The delay pattern: codebook q of a frame is emitted `delays[q]` columns after codebook 0 (paper section 3.1).

With T frames and delays 0..Q-1 the delayed sequence has T + Q + 1 columns: column 0 holds start ids only, and at
column t codebook q holds frame t - 1 - q. Cells before a codebook's first frame hold the start id, cells after its
last one the stop id:

    column      0    1    2    3    4    5          (T = 3, Q = 2)
    codebook 0  bos  f0   f1   f2   eos  eos
    codebook 1  bos  bos  f0   f1   f2   eos

Codes are the codec's own numbers, 0 to codebook_size - 1. Ids are what the model sees: code k is id k +
codebook_offset.
"""

import torch

from .configuration_smalle import SmallEConfig


def apply_delay(codes: torch.Tensor, config: SmallEConfig) -> torch.Tensor:
    """Turns codec codes into the delayed ids that the model is trained on.

    Args:
        codes (`torch.LongTensor` of shape `(..., T, Q)`): Codes of one utterance, or of several of the same length.
        config ([`SmallEConfig`]): Gives delays, offset and special ids.

    Returns:
        `torch.LongTensor` of shape `(..., T + max_delay + 2, Q)`: Delayed ids.

    Raises:
        ValueError: The last dimension is not `num_codebooks`, or a code is out of range.
    """
    check_codes(codes, config)
    codes = codes.long()  # codes are often stored in a byte or two, where ids would overflow
    num_frames = codes.shape[-2]
    num_columns = num_frames + config.max_delay + 2
    ids = codes.new_full((*codes.shape[:-2], num_columns, config.num_codebooks), config.audio_eos_token_id)
    for codebook, delay in enumerate(config.delays):
        ids[..., : delay + 1, codebook] = config.audio_bos_token_id
        ids[..., delay + 1 : delay + 1 + num_frames, codebook] = codes[..., codebook] + config.codebook_offset
    return ids


def revert_delay(ids: torch.Tensor, config: SmallEConfig) -> torch.Tensor:
    """Aligns delayed ids by frame again: the inverse of [`apply_delay`] up to the special ids, which are kept.

    Args:
        ids (`torch.LongTensor` of shape `(..., C, Q)`): Consecutive delayed columns. The column before the first frame
            that shall come back is the first: for a whole utterance, the start column.
        config ([`SmallEConfig`]): Gives the delays.

    Returns:
        `torch.LongTensor` of shape `(..., max(C - 1 - max_delay, 0), Q)`: Ids by frame, for every frame of which all
        codebooks are present.
    """
    num_frames = max(ids.shape[-2] - 1 - config.max_delay, 0)
    rows = [ids[..., delay + 1 : delay + 1 + num_frames, codebook] for codebook, delay in enumerate(config.delays)]
    return torch.stack(rows, dim=-1)


def ids_to_codes(ids: torch.Tensor, config: SmallEConfig) -> torch.Tensor:
    """Maps audio ids to codec codes; special ids, which have no code, become code 0.

    Args:
        ids (`torch.LongTensor` of any shape): Audio ids.
        config ([`SmallEConfig`]): Gives the offset.

    Returns:
        `torch.LongTensor` of the same shape.
    """
    return (ids - config.codebook_offset).clamp_(min=0)


def check_codes(codes: torch.Tensor, config: SmallEConfig, name: str = "codes") -> None:
    """Refuses a tensor that does not hold codec codes.

    Args:
        codes (`torch.Tensor` of shape `(..., T, Q)`): What the caller passed.
        config ([`SmallEConfig`]): Gives the number of codebooks and of codes.
        name (`str`, defaults to `"codes"`): What the message calls the tensor.

    Raises:
        TypeError: The dtype is not an integer one.
        ValueError: The shape does not end in `num_codebooks`, or a code is out of range.
    """
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise TypeError(f"`{name}` must hold integer codes, got {codes.dtype}: encode the audio with the codec first.")
    if codes.ndim < 2 or codes.shape[-1] != config.num_codebooks:
        raise ValueError(
            f"`{name}` must have shape (..., frames, {config.num_codebooks}), got {tuple(codes.shape)}: transpose "
            f"it, or keep the first {config.num_codebooks} codebooks."
        )
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= config.codebook_size):
        raise ValueError(
            f"`{name}` must lie in 0..{config.codebook_size - 1}, got {int(codes.min())}..{int(codes.max())}."
        )


__all__ = ["apply_delay", "check_codes", "ids_to_codes", "revert_delay"]
