"""Small models and batches for the tests of the core."""

from typing import Any

import torch
from transformers import StoppingCriteria

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, SmallEGenerateOutput, apply_delay

GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "num_sampled_codebooks": 4, "top_k": 20}


def small_config(**overrides: Any) -> SmallEConfig:
    """Every part of the architecture, in sizes that run in milliseconds."""
    sizes = {
        "vocab_size": 40,
        "hidden_size": 32,
        "num_audio_encoder_layers": 2,
        "num_audio_decoder_layers": 1,
        "num_text_encoder_layers": 2,
        "num_text_encoder_attention_heads": 2,
        "position_size": 16,
        "codebook_size": 30,
        "text_encoder_dropout": 0.0,
    }
    return SmallEConfig(**{**sizes, **overrides})


def lively_model(config: SmallEConfig | None = None, seed: int = 0) -> SmallEForSpeechGeneration:
    """A random model whose attention, decays and logits vary far more than freshly initialised weights let them.

    The initial weights are so small that a wrong position, mask or state hardly shows in the logits.
    """
    model = SmallEForSpeechGeneration(small_config() if config is None else config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("codec_model"):
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * (1.0 if "embed" in name else 1.5 / parameter.shape[-1] ** 0.5))
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            else:  # biases; those of the decay spread from forgetting at once to forgetting never
                parameter.copy_(noise * (4.0 if "decay" in name else 0.3))
    return model


def random_text(config: SmallEConfig, length: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    """BOS, random text ids, EOS: `(batch, length)`."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, config.vocab_size, (batch, length), generator=generator)
    ids[:, 0], ids[:, -1] = config.bos_token_id, config.eos_token_id
    return ids


def random_codes(config: SmallEConfig, frames: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    """Random codes: `(batch, frames, Q)`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.codebook_size, (batch, frames, config.num_codebooks), generator=generator)


def random_columns(config: SmallEConfig, columns: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    """The first columns of delayed random codes: `(batch, columns, Q)`."""
    return apply_delay(random_codes(config, columns, seed, batch), config)[:, :columns]


def pad(rows: list[torch.Tensor], side: str = "right", value: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Batches tensors of shape `(1, L, ...)`; returns them padded and the mask `(B, L)`."""
    length = max(row.shape[1] for row in rows)
    padded, masks = [], []
    for row in rows:
        padding = row.new_full((1, length - row.shape[1], *row.shape[2:]), value)
        ones, zeros = torch.ones(1, row.shape[1], dtype=torch.long), torch.zeros(padding.shape[:2], dtype=torch.long)
        padded.append(torch.cat([row, padding] if side == "right" else [padding, row], dim=1))
        masks.append(torch.cat([ones, zeros] if side == "right" else [zeros, ones], dim=1))
    return torch.cat(padded), torch.cat(masks)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Largest difference, as a fraction of the largest value.

    A per-head RMSNorm amplifies the rounding of small outputs, so entries near zero have no relative precision.
    """
    assert found.shape == expected.shape
    if expected.numel():
        difference = (found.float() - expected.float()).abs().max().item()
        assert difference <= tolerance * expected.float().abs().max().item(), difference


def stopping_model(boost: float = 3.0, **overrides: Any) -> SmallEForSpeechGeneration:
    """A model whose first codebook prefers the stop id now and then, so that utterances end by themselves."""
    model = lively_model(small_config(**overrides))
    with torch.no_grad():
        model.lm_heads.weight[model.config.audio_eos_token_id] *= boost
    return model


def endless_model(**overrides: Any) -> SmallEForSpeechGeneration:
    """A model that never chooses the stop id."""
    model = lively_model(small_config(**overrides))
    with torch.no_grad():
        heads = model.lm_heads.weight.view(model.config.num_codebooks, -1, model.config.hidden_size)
        # A mean is never the largest.
        heads[:, model.config.audio_eos_token_id] = heads[:, model.config.codebook_offset :].mean(dim=1)
    return model


def row_codes(output: SmallEGenerateOutput, row: int) -> torch.Tensor:
    """A row's codes up to its end."""
    return output.sequences[row, : output.sequence_lengths[row]]


def assert_rows_equal(together: SmallEGenerateOutput, singles: list[SmallEGenerateOutput]) -> None:
    """Every row of a batch is what it is alone, and nothing stands behind its end."""
    assert together.sequence_lengths.tolist() == [int(single.sequence_lengths) for single in singles]
    assert together.is_finished.tolist() == [bool(single.is_finished) for single in singles]
    assert together.sequences.shape[1] == max(single.sequences.shape[1] for single in singles)
    for row, single in enumerate(singles):
        assert torch.equal(row_codes(together, row), single.sequences[0])
        assert (together.sequences[row, together.sequence_lengths[row] :] == 0).all()
        if single.alignments is not None:
            length, tokens = single.alignments.shape[1:]
            assert (together.alignments[row, length:] == 0).all()
            assert together.alignments.shape[2] >= tokens


class StopAfter(StoppingCriteria):
    """Stops all rows after so many columns."""

    def __init__(self, columns: int) -> None:
        self.columns = columns

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        assert input_ids.ndim == 3
        return torch.full((len(input_ids),), input_ids.shape[1] - 1 >= self.columns)
