"""Wrong codes among the input: in generation, the past is the model's own and holds errors."""

import torch

from ..configuration_smalle import SmallEConfig


def with_noise(decoder_input_ids: torch.Tensor, share: float, config: SmallEConfig) -> torch.Tensor:
    """Replaces a share of the codes by random ones; what is no code (start, stop, padding) stays.

    A model that has seen only true codes copies its past and loses the text with its first errors; one that has learnt
    to doubt them finds its way back. Draws from torch's default generator.

    Args:
        decoder_input_ids (`torch.LongTensor` of shape `(B, T, Q)`): Delayed audio ids.
        share (`float`): Probability of a code to be replaced; 0 changes nothing and draws nothing.
        config ([`SmallEConfig`]): Ids and codebook size.
    """
    if not share:
        return decoder_input_ids
    chosen = torch.rand(decoder_input_ids.shape, device=decoder_input_ids.device) < share
    wrong = torch.randint_like(decoder_input_ids, config.codebook_offset, config.audio_vocab_size)
    return torch.where(chosen & (decoder_input_ids >= config.codebook_offset), wrong, decoder_input_ids)


__all__ = ["with_noise"]
