"""Texts and voice prompts as the graphs take them."""

from collections.abc import Sequence

import numpy as np

from .configuration import SmallEOnnxConfig


def check_text(
    config: SmallEOnnxConfig, input_ids: np.ndarray, attention_mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Text ids and their mask as the graphs take them.

    Raises:
        TypeError: The ids are no integers.
        ValueError: Their shape is wrong, or a text is empty, too long or of another vocabulary.
    """
    input_ids = np.asarray(input_ids)
    if not np.issubdtype(input_ids.dtype, np.integer):
        raise TypeError(f"`input_ids` must hold integers, got {input_ids.dtype}.")
    if input_ids.ndim != 2 or not len(input_ids):
        raise ValueError(f"`input_ids` must have shape (batch, tokens), got {input_ids.shape}.")
    mask = input_ids != config.pad_token_id if attention_mask is None else np.asarray(attention_mask).astype(bool)
    if mask.shape != input_ids.shape:
        raise ValueError(f"`attention_mask` {mask.shape} must have the shape of `input_ids` {input_ids.shape}.")
    if input_ids.shape[1] > config.max_text_length:
        raise ValueError(
            f"The text has {input_ids.shape[1]} tokens, more than `max_text_length` ({config.max_text_length}): split "
            "it into sentences."
        )
    if input_ids.size and not 0 <= input_ids.min() <= input_ids.max() < config.vocab_size:
        raise ValueError(f"Text ids exceed the vocabulary of {config.vocab_size}: use this model's processor.")
    is_text = ~np.isin(input_ids, (config.pad_token_id, config.bos_token_id, config.eos_token_id)) & mask
    if not is_text.any(axis=1).all():
        empty = np.flatnonzero(~is_text.any(axis=1)).tolist()
        raise ValueError(f"The text of rows {empty} is empty: pass at least one word.")
    return np.ascontiguousarray(input_ids, dtype=np.int64), mask.astype(np.int64)


def check_prompts(
    config: SmallEOnnxConfig, codes: np.ndarray | None, mask: np.ndarray | None, num_rows: int
) -> list[np.ndarray]:
    """Codes of the voice prompt of each row, `(T_i, Q)`, none where there is none.

    Raises:
        TypeError: The codes are no integers.
        ValueError: Shape or range is wrong.
    """
    if codes is None:
        return [np.zeros((0, config.num_codebooks), dtype=np.int64)] * num_rows
    codes = np.asarray(codes)
    if not np.issubdtype(codes.dtype, np.integer):
        raise TypeError(f"`audio_prompt_codes` must hold integer codes, got {codes.dtype}.")
    if codes.ndim != 3 or codes.shape[0] != num_rows or codes.shape[2] != config.num_codebooks or not codes.shape[1]:
        expected = f"({num_rows}, frames, {config.num_codebooks})"
        raise ValueError(f"`audio_prompt_codes` must have shape {expected}, got {codes.shape}.")
    if codes.min() < 0 or codes.max() >= config.codebook_size:
        raise ValueError(f"`audio_prompt_codes` must lie in 0..{config.codebook_size - 1}.")
    keep = np.ones(codes.shape[:2], dtype=bool) if mask is None else np.asarray(mask).astype(bool)
    if keep.shape != codes.shape[:2]:
        raise ValueError(f"`audio_prompt_mask` {keep.shape} must have shape {codes.shape[:2]}.")
    return [row[row_keep].astype(np.int64) for row, row_keep in zip(codes, keep, strict=True)]


def delayed_prompts(config: SmallEOnnxConfig, prompts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The columns that voice prompts fill wholly, `(B, T + 1, Q)` with the start column, and the ids that they put
    into the next ones, `(B, max_delay, Q)`, -1 where the model decides."""
    longest = max(len(prompt) for prompt in prompts)
    delayed = np.full((len(prompts), longest + 1 + config.max_delay, config.num_codebooks), -1, dtype=np.int64)
    for row, prompt in zip(delayed, prompts, strict=True):
        for codebook, delay in enumerate(config.delays):
            row[: delay + 1, codebook] = config.audio_bos_token_id
            row[delay + 1 : delay + 1 + len(prompt), codebook] = prompt[:, codebook] + config.codebook_offset
    following = np.stack(
        [
            row[len(prompt) + 1 : len(prompt) + 1 + config.max_delay]
            for row, prompt in zip(delayed, prompts, strict=True)
        ]
    )
    columns = np.where(delayed[:, : longest + 1] < 0, config.audio_pad_token_id, delayed[:, : longest + 1])
    return columns, np.where(following < config.codebook_offset, -1, following)


__all__ = ["check_prompts", "check_text", "delayed_prompts"]
