"""What the models and `generate` return. Symbols as in the glossary of `modeling_smalle.py`."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from .alignment import word_times
from .cache_smalle import SmallECache


@dataclass
class SmallEModelOutput(ModelOutput):
    """Output of [`SmallEModel`].

    Args:
        last_hidden_state (`torch.Tensor` of shape `(B, T, D)`): Output of the audio decoder.
        past_key_values ([`SmallECache`], *optional*): State after the last column; with `use_cache`.
        cross_attentions (`torch.Tensor`, *optional*): Attention maps, float32: `(B, 2, T, S)` with PACA (a1, a2), `(B,
            H, T, S)` with standard cross-attention; with `output_attentions`.
        decoder_hidden_states (`tuple[torch.Tensor]` of shape `(B, T, D)`, *optional*): Audio embeddings, then the
            output of every LCLM block; with `output_hidden_states`.
        encoder_last_hidden_state (`torch.Tensor` of shape `(B, S, D)`): Encoded text.
        encoder_hidden_states (`tuple[torch.Tensor]` of shape `(B, S, D)`, *optional*): Text embeddings, then the
            output of every text encoder block; with `output_hidden_states`.
    """

    last_hidden_state: torch.Tensor | None = None
    past_key_values: SmallECache | None = None
    cross_attentions: torch.Tensor | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class SmallEOutput(ModelOutput):
    """Output of [`SmallEForSpeechGeneration`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): Mean cross-entropy in nats over all labels that are not -100,
            or their sum over `num_items_in_batch`; with `labels`.
        codebook_losses (`torch.Tensor` of shape `(Q,)`, *optional*): Mean cross-entropy of each codebook; with
            `labels`.
        logits (`torch.Tensor` of shape `(B, T, Q, V)`): Scores of the next column's ids.
        past_key_values ([`SmallECache`], *optional*): State after the last column; with `use_cache`.
        cross_attentions, decoder_hidden_states, encoder_last_hidden_state, encoder_hidden_states: See
            [`SmallEModelOutput`].
    """

    loss: torch.Tensor | None = None
    codebook_losses: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: SmallECache | None = None
    cross_attentions: torch.Tensor | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class SmallEGenerateOutput(ModelOutput):
    """Output of `SmallEForSpeechGeneration.generate`. A voice prompt is not part of it.

    Args:
        sequences (`torch.LongTensor` of shape `(B, T, Q)`): Codec codes by frame; 0 behind the end of a row.
        sequence_lengths (`torch.LongTensor` of shape `(B,)`): Frames of each row.
        is_finished (`torch.BoolTensor` of shape `(B,)`): Rows that ended by themselves; the others met their limit.
        delayed_ids (`torch.LongTensor` of shape `(B, C, Q)`): The ids as they were emitted, column by column.
        alignments (`torch.Tensor` of shape `(B, T, S)`, *optional*): Weight of every text token at every frame (PACA's
            second attention map; the heads' mean with standard cross-attention); with `return_alignments`.
        audio (`torch.Tensor` of shape `(B, samples)`, *optional*): Waveforms at `config.sampling_rate`; with a codec.
        audio_lengths (`torch.LongTensor` of shape `(B,)`, *optional*): Samples of each row.
        scores (`tuple[torch.Tensor]` of shape `(B, Q, V)`, *optional*): Processed scores, one per column; with
            `output_scores`.
        logits (`tuple[torch.Tensor]` of shape `(B, Q, V)`, *optional*): Raw scores; with `output_logits`.
        past_key_values ([`SmallECache`], *optional*): State to continue from.
        candidate_scores (`torch.FloatTensor` of shape `(B, N)`, *optional*): Score of every candidate, of which the
            best one is returned, at most 1; with `num_candidates`.
    """

    sequences: torch.Tensor | None = None
    sequence_lengths: torch.Tensor | None = None
    is_finished: torch.Tensor | None = None
    delayed_ids: torch.Tensor | None = None
    alignments: torch.Tensor | None = None
    audio: torch.Tensor | None = None
    audio_lengths: torch.Tensor | None = None
    scores: tuple[torch.Tensor, ...] | None = None
    logits: tuple[torch.Tensor, ...] | None = None
    past_key_values: SmallECache | None = None
    candidate_scores: torch.Tensor | None = None


@dataclass
class SmallEColumn:
    """One emitted column: `ids` (B, Q), the `alignment` (B, S) of the frame that begins in it, `scores` and `logits`
    (B, Q, V), and the rows (B,) that were still `running` when it was emitted."""

    ids: torch.Tensor
    alignment: torch.Tensor
    scores: torch.Tensor
    logits: torch.Tensor
    running: torch.Tensor


@dataclass
class SmallEAudioChunk:
    """Speech as it comes: what [`SmallEForSpeechGeneration.stream`] yields and streamers are given.

    Args:
        audio (`torch.FloatTensor` of shape `(B, samples)`): The next samples at `config.sampling_rate`; zeros behind a
            row's own.
        audio_lengths (`torch.LongTensor` of shape `(B,)`): Samples of each row; 0 for those that have ended.
        start (`float`): Seconds from the beginning of the utterances to the chunk's first sample.
        token_times (`torch.FloatTensor` of shape `(B, S, 2)`): Start and end in seconds of every text token, as far as
            the alignment has come, which is a little farther than the audio; NaN for tokens that are not reached. The
            token reached last ends where the alignment does; all else stays as it is.
        sequences (`torch.LongTensor` of shape `(B, T, Q)`): Codec codes of the frames that were decoded for this
            chunk, ahead of its audio by what the codec has to know; 0 behind the end of a row.
        sequence_lengths (`torch.LongTensor` of shape `(B,)`): Frames of each row.
        is_finished (`torch.BoolTensor` of shape `(B,)`): Rows that have ended by themselves.
        is_last (`bool`): Whether no chunk follows.
        past_key_values ([`SmallECache`], *optional*): State to continue from; with the last chunk.
    """

    audio: torch.Tensor
    audio_lengths: torch.Tensor
    start: float
    token_times: torch.Tensor
    sequences: torch.Tensor
    sequence_lengths: torch.Tensor
    is_finished: torch.Tensor
    is_last: bool = False
    past_key_values: SmallECache | None = None

    def word_times(self, token_to_word: torch.Tensor) -> torch.Tensor:
        """Start and end of every word in seconds, `(B, W, 2)`, NaN for words that are not reached.

        Args:
            token_to_word (`torch.LongTensor` of shape `(B, S)` or `(S,)`): Word of each token, -1 for tokens of no
                word; see [`map_tokens_to_words`].
        """
        return word_times(self.token_times, token_to_word)


__all__ = ["SmallEAudioChunk", "SmallEColumn", "SmallEGenerateOutput", "SmallEModelOutput", "SmallEOutput"]
