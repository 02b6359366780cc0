"""What is exported: the parts of a model as functions of tensors, and the names of these tensors in the graphs.

B batch, S text tokens, Q codebooks, V audio ids per codebook, C = 64 columns; those of the codec: `codec_graphs.py`

| graph           | in                                             | out                                          |
|-----------------|------------------------------------------------|----------------------------------------------|
| text_encoder    | input_ids (B, S), attention_mask (B, S)        | text_0, ...                                  |
| decoder_step    | audio_ids (B, Q), *more*                       | logits (B, Q, V), alignment (B, S), *states* |
| decoder_prefill | audio_ids (B, C, Q), audio_mask (B, C), *more* | *states*                                     |

*more* is frame_index (B,), attention_mask (B, S), text_0, ... and state_0, ..., of which the decoder gives *states*
back, new_state_0, ...: those of [`SmallECache`]. text_0, ... is what the cross-attention computes of the text, once:
keys, values and, with PACA, the sinusoids of the positions.
"""

import torch
from torch import nn

from ..cache_smalle import SmallECache
from ..chunked_recurrence import CHUNK_SIZE
from ..generation_smalle import _alignment
from ..layers_smalle import positions_in_segments
from ..modeling_smalle import SmallEForSpeechGeneration, SmallEModel

PREFILL_COLUMNS = CHUNK_SIZE
"""Columns that `decoder_prefill` takes at once: a chunk of the recurrence."""


class TextEncoderGraph(nn.Module):
    """Text ids to what the cross-attention reads."""

    def __init__(self, model: SmallEForSpeechGeneration) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        encoded = self.model.text_encoder(input_ids, attention_mask).last_hidden_state
        return self.model.cross_attention.project_text(encoded, positions_in_segments(attention_mask, None))


class DecoderGraph(nn.Module):
    """What the two decoder graphs share: columns of audio ids through all blocks.

    Args:
        model ([`SmallEForSpeechGeneration`]): Gives configuration and heads.
        decoder ([`SmallEModel`]): Gives the blocks: the model's own, or fused ones.
        num_text_tensors (`int`): How many tensors there are of the text.
    """

    def __init__(self, model: SmallEForSpeechGeneration, decoder: SmallEModel, num_text_tensors: int) -> None:
        super().__init__()
        self.model, self.decoder = model, decoder
        self.num_text_tensors = num_text_tensors

    def run_blocks(
        self,
        audio_ids: torch.Tensor,
        audio_mask: torch.Tensor | None,
        frame_index: torch.Tensor,
        attention_mask: torch.Tensor,
        tensors: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Hidden states, attention maps and new states; `tensors` are the text and the old states."""
        model = self.decoder
        cache = SmallECache(self.model.config, batch_size=0)
        text, cache.states = tensors[: self.num_text_tensors], list(tensors[self.num_text_tensors :])
        positions = frame_index[:, None]
        if audio_mask is not None:
            positions = positions + positions_in_segments(audio_mask, None)
        hidden_states, attentions, states, _ = model._run_blocks(
            model._embed(audio_ids), cache, text, positions, attention_mask.bool()[:, None, :], audio_mask, None
        )
        return hidden_states, attentions, states


class DecoderStepGraph(DecoderGraph):
    """One column in, the scores of the next one out."""

    def forward(
        self,
        audio_ids: torch.Tensor,
        frame_index: torch.Tensor,
        attention_mask: torch.Tensor,
        tensors: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, ...]:
        hidden_states, attentions, states = self.run_blocks(
            audio_ids[:, None], None, frame_index, attention_mask, tensors
        )
        # The heads as a product of three dimensions, as all others: it is put into 8 bits with them.
        logits = self.model.compute_logits(hidden_states)[:, 0]
        return logits, _alignment(attentions[:, :, 0], self.model.config), *states


class DecoderPrefillGraph(DecoderGraph):
    """A chunk of known columns in, nothing but the new states out. Columns of padding change nothing."""

    def forward(
        self,
        audio_ids: torch.Tensor,
        audio_mask: torch.Tensor,
        frame_index: torch.Tensor,
        attention_mask: torch.Tensor,
        tensors: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, ...]:
        return tuple(self.run_blocks(audio_ids, audio_mask, frame_index, attention_mask, tensors)[2])


__all__ = [
    "PREFILL_COLUMNS",
    "DecoderPrefillGraph",
    "DecoderStepGraph",
    "TextEncoderGraph",
]
