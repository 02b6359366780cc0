"""What `generate()` refuses, with a line that says what to do. Nothing here computes anything heavy."""

from typing import Any

import torch

from .configuration_smalle import SmallEConfig
from .delay_pattern import check_codes

UNSUPPORTED_OPTIONS = {
    "assistant_model": "assisted generation",
    "prefix_allowed_tokens_fn": "constrained generation",
    "negative_prompt_ids": "guidance by a negative prompt",
    "guidance_scale": "classifier-free guidance",
    "stop_strings": "stop strings",
    "inputs_embeds": "text embeddings as input",
    "cache_implementation": "another cache: the state of Small-E has one form, `SmallECache`",
    "min_length": "a length in columns: use `min_new_tokens`, which counts frames",
    "output_hidden_states": "hidden states of every step: call the model instead",
}


def check_generation_options(options: dict[str, Any]) -> None:
    """Refuses options of Transformers' `generate` that have no meaning here.

    Args:
        options (`dict`): Arguments of `generate` on top of those of its generation configuration.

    Raises:
        ValueError: One of them is set.
    """
    for name, meaning in UNSUPPORTED_OPTIONS.items():
        value = options.get(name)
        is_set = isinstance(value, torch.Tensor) or bool(value)
        if is_set and not (name == "guidance_scale" and value == 1):
            raise ValueError(f"Small-E cannot generate with `{name}` ({meaning}): leave it out.")
    if options.get("temperature") is not None and options["temperature"] <= 0:
        raise ValueError("`temperature` must be above 0: pass `do_sample=False` for the best id of every codebook.")
    if options.get("num_return_sequences") == 0:
        raise ValueError("`num_return_sequences` must be at least 1.")
    limit = options.get("max_new_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"`max_new_tokens` must be a whole number of at least 1, got {limit}.")


def check_generation_inputs(config: SmallEConfig, kwargs: dict[str, Any]) -> int:
    """Refuses texts that cannot be spoken.

    Args:
        config ([`SmallEConfig`]): The model's configuration.
        kwargs (`dict`): Arguments of `generate`.

    Returns:
        Number of texts.

    Raises:
        TypeError: The ids are no integers.
        ValueError: There is no text, or it is empty, too long, or of another tokenizer, or a mask or cache does not
        fit.
    """
    for name in ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask"):
        require_tensor(name, kwargs.get(name))
    input_ids: Any = kwargs.get("input_ids")
    encoder_outputs = kwargs.get("encoder_outputs")
    if input_ids is None and encoder_outputs is None:
        raise ValueError("There is no text: pass `input_ids`, for example `model.generate(**processor(text))`.")
    if input_ids is not None:
        _check_text(config, input_ids, kwargs.get("attention_mask"))
    num_rows = len(encoder_outputs[0] if encoder_outputs is not None else input_ids)
    decoder_input_ids = kwargs.get("decoder_input_ids")
    if decoder_input_ids is not None:
        expected = f"(batch, columns, {config.num_codebooks})"
        if decoder_input_ids.ndim != 3 or decoder_input_ids.shape[-1] != config.num_codebooks:
            raise ValueError(f"`decoder_input_ids` must have shape {expected}, got {tuple(decoder_input_ids.shape)}.")
        if len(decoder_input_ids) != num_rows:
            raise ValueError(f"`decoder_input_ids` holds {len(decoder_input_ids)} rows for {num_rows} texts.")
        if decoder_input_ids.min() < 0 or decoder_input_ids.max() >= config.audio_vocab_size:
            raise ValueError(f"`decoder_input_ids` must lie in 0..{config.audio_vocab_size - 1}.")
        if kwargs.get("past_key_values") is None and (decoder_input_ids[:, 0] != config.audio_bos_token_id).any():
            raise ValueError(
                f"`decoder_input_ids` must begin with a column of start ids ({config.audio_bos_token_id})."
            )
    cache = kwargs.get("past_key_values")
    if cache is not None:
        cache.check(config)
    if cache is not None and cache.last_ids is None and decoder_input_ids is None and cache.get_seq_length() > 0:
        raise ValueError("The cache was filled by `forward`: pass `decoder_input_ids`, the columns that follow.")
    if cache is not None and cache.batch_size != num_rows:
        raise ValueError(
            f"The cache holds {cache.batch_size} utterances, the text {num_rows}: select rows of the cache."
        )
    return num_rows


def require_tensor(name: str, value: Any) -> None:
    """Refuses lists and strings where a tensor belongs.

    Raises:
        TypeError: The value is given and no tensor.
    """
    if value is not None and not isinstance(value, torch.Tensor):
        raise TypeError(f"`{name}` must be a tensor, got {type(value).__name__}: use `torch.tensor` or the processor.")


def _check_text(config: SmallEConfig, input_ids: torch.Tensor, mask: torch.Tensor | None) -> None:
    if input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise TypeError(f"`input_ids` must hold integers, got {input_ids.dtype}.")
    if input_ids.ndim != 2:
        raise ValueError(f"`input_ids` must have shape (batch, tokens), got {tuple(input_ids.shape)}.")
    if mask is not None and mask.shape != input_ids.shape:
        raise ValueError(
            f"`attention_mask` {tuple(mask.shape)} must have the shape of `input_ids` {tuple(input_ids.shape)}."
        )
    if input_ids.shape[1] > config.max_text_length:
        raise ValueError(
            f"The text has {input_ids.shape[1]} tokens, more than `config.max_text_length` "
            f"({config.max_text_length}): split it into sentences."
        )
    if input_ids.numel() and (input_ids.min() < 0 or input_ids.max() >= config.vocab_size):
        raise ValueError(
            f"Text ids {int(input_ids.min())}..{int(input_ids.max())} exceed the vocabulary of {config.vocab_size}: "
            "use the processor of this checkpoint."
        )
    frame = torch.tensor([config.pad_token_id, config.bos_token_id, config.eos_token_id], device=input_ids.device)
    is_text = ~torch.isin(input_ids, frame)
    if mask is not None:
        is_text = is_text & mask.bool()
    empty = (~is_text.any(dim=-1)).nonzero().flatten().tolist()
    if empty or not len(input_ids):
        raise ValueError(f"The text of rows {empty} is empty: pass at least one word.")


def check_voice_prompt(
    config: SmallEConfig, codes: torch.Tensor, mask: torch.Tensor | None, num_rows: int, kwargs: dict[str, Any]
) -> None:
    """Refuses voice prompts that do not fit the model or the other arguments.

    Args:
        config ([`SmallEConfig`]): The model's configuration.
        codes (`torch.Tensor` of shape `(B, T, Q)`): Codes of the prompt.
        mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for frames, 0 for padding.
        num_rows (`int`): Number of texts.
        kwargs (`dict`): Arguments of `generate`.

    Raises:
        TypeError: The codes are no integers.
        ValueError: Shape or range is wrong, or the prompt comes together with a state or with decoder ids.
    """
    for other in ("past_key_values", "decoder_input_ids"):
        if kwargs.get(other) is not None:
            raise ValueError(f"A voice prompt begins an utterance: pass it without `{other}`.")
    require_tensor("audio_prompt_codes", codes)
    require_tensor("audio_prompt_mask", mask)
    check_codes(codes, config, "audio_prompt_codes")
    if codes.ndim != 3 or codes.shape[0] != num_rows:
        raise ValueError(
            f"`audio_prompt_codes` {tuple(codes.shape)} needs one prompt for each of the {num_rows} texts."
        )
    if mask is not None and mask.shape != codes.shape[:2]:
        raise ValueError(f"`audio_prompt_mask` {tuple(mask.shape)} must have shape {tuple(codes.shape[:2])}.")
    if codes.numel() == 0 or (mask is not None and not mask.any()):
        raise ValueError("`audio_prompt_codes` holds no frames: leave it out, or pass a longer recording.")


__all__ = ["check_generation_inputs", "check_generation_options", "check_voice_prompt"]
