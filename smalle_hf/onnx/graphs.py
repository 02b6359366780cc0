"""What is exported: the parts of a model as functions of tensors, and the names of these tensors in the graphs.

B batch, S text tokens, Q codebooks, V audio ids per codebook, D model width, C = 64 columns; those of the codec:
`codec_graphs.py`

| graph           | in                                                  | out                                        |
|-----------------|-----------------------------------------------------|--------------------------------------------|
| text_encoder    | input_ids (B, S), attention_mask (B, S)             | text_0, ...                                |
| decoder_step    | audio_ids (B, Q), *text*, states                    | logits (B, Q, V), alignment (B, S), states |
| prompt_encoder  | audio_ids (B, C, Q), audio_mask (B, C), states      | hidden_states (B, C, D), states            |
| decoder_prefill | hidden_states (B, C, D), audio_mask, *text*, states | states                                     |

States are state_0, ..., which come back as new_state_0, ...: those of [`SmallECache`]. The step has all of them. Of
known columns, `prompt_encoder` has those of the blocks before the cross-attention, which know nothing of the text, and
`decoder_prefill` the others. *text* is frame_index (B,), attention_mask (B, S) and text_0, ..., what the
cross-attention computes of the text, once: keys, values and, with PACA, the sinusoids of the positions.
"""

import copy

import torch
from torch import nn

from ..cache_smalle import SmallECache
from ..chunked_recurrence import CHUNK_SIZE
from ..generation_smalle import _alignment
from ..layers_smalle import positions_in_segments
from ..modeling_smalle import SmallEForSpeechGeneration, SmallEModel

PREFILL_COLUMNS = CHUNK_SIZE
"""Columns that `prompt_encoder` and `decoder_prefill` take at once: a chunk of the recurrence."""


class TextEncoderGraph(nn.Module):
    """Text ids to what the cross-attention reads."""

    def __init__(self, model: SmallEForSpeechGeneration) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        encoded = self.model.text_encoder(input_ids, attention_mask).last_hidden_state
        return self.model.cross_attention.project_text(encoded, positions_in_segments(attention_mask, None))


class DecoderGraph(nn.Module):
    """What the two decoder graphs share: columns through all blocks of a decoder.

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
        hidden_states: torch.Tensor,
        audio_mask: torch.Tensor | None,
        frame_index: torch.Tensor,
        attention_mask: torch.Tensor,
        tensors: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Hidden states, attention maps and new states; `tensors` are the text and the old states."""
        cache = SmallECache(self.model.config, batch_size=0)
        text, cache.states = tensors[: self.num_text_tensors], list(tensors[self.num_text_tensors :])
        positions = frame_index[:, None]
        if audio_mask is not None:
            positions = positions + positions_in_segments(audio_mask, None)
        hidden_states, attentions, states, _ = self.decoder._run_blocks(
            hidden_states, cache, text, positions, attention_mask.bool()[:, None, :], audio_mask, None
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
            self.decoder._embed(audio_ids[:, None]), None, frame_index, attention_mask, tensors
        )
        # The heads as a product of three dimensions, as all others: it is put into 8 bits with them.
        logits = self.model.compute_logits(hidden_states)[:, 0]
        return logits, _alignment(attentions[:, :, 0], self.model.config), *states


class PromptEncoderGraph(nn.Module):
    """A chunk of known columns through the blocks before the cross-attention. Columns of padding change no state."""

    def __init__(self, decoder: SmallEModel) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, audio_ids: torch.Tensor, audio_mask: torch.Tensor, states: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        hidden_states, new_states = self.decoder._embed(audio_ids), []
        for block, state in zip(self.decoder.audio_encoder, states, strict=True):
            hidden_states, new_state = block(hidden_states, state, audio_mask, None)
            new_states.append(new_state)
        return hidden_states, *new_states


class DecoderPrefillGraph(DecoderGraph):
    """What [`PromptEncoderGraph`] gives through all other blocks; nothing but their new states comes out."""

    def __init__(self, model: SmallEForSpeechGeneration, decoder: SmallEModel, num_text_tensors: int) -> None:
        rest = copy.deepcopy(decoder, {id(weight): weight for weight in decoder.parameters()})
        rest.audio_encoder = nn.ModuleList()
        super().__init__(model, rest, num_text_tensors)

    def forward(
        self,
        hidden_states: torch.Tensor,
        audio_mask: torch.Tensor,
        frame_index: torch.Tensor,
        attention_mask: torch.Tensor,
        tensors: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, ...]:
        return tuple(self.run_blocks(hidden_states, audio_mask, frame_index, attention_mask, tensors)[2])


__all__ = [
    "PREFILL_COLUMNS",
    "DecoderPrefillGraph",
    "DecoderStepGraph",
    "PromptEncoderGraph",
    "TextEncoderGraph",
]
