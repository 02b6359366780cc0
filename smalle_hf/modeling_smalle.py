"""Small-E, a text-to-speech language model (Lemerle, Obin, Roebel: arXiv 2406.04467).

    text ids -> text encoder ----------------------------- c
    audio ids -> audio encoder (LCLM blocks) -> y
    y + cross-attention(y, c) -> audio decoder (LCLM blocks) -> logits

| symbol | meaning                                             | name in code                                  |
|--------|-----------------------------------------------------|-----------------------------------------------|
| B      | batch                                               |                                               |
| S      | text tokens                                         | `input_ids` (B, S)                            |
| T      | columns of the delayed audio sequence               | `decoder_input_ids` (B, T, Q)                 |
| Q      | codebooks                                           | `num_codebooks`                               |
| D      | model width                                         | `hidden_size`                                 |
| H      | heads                                               | `num_attention_heads`                         |
| P      | width of the position stream                        | `position_size`                               |
| c      | encoded text                                        | `encoder_hidden_states` (B, S, D)             |
| a1, a2 | PACA's two attention maps; a2 is the alignment      | `cross_attentions` (B, 2, T, S)               |
| E      | sinusoids of the text positions                     | `text_positions` (B, S, P)                    |
| S_t    | recurrent state                                     | `state` (B, H, K, V), see the attention op    |

Training, prefill, chunk and single step are one path: `forward` reads the state before its first column from
`past_key_values`, if given, and leaves the state after its last column there. A step is T = 1. Modules hold no state.
"""

from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .cache_smalle import SmallECache
from .codec_smalle import build_codec, decode_codes, encode_audio
from .configuration_smalle import SmallEConfig
from .delay_pattern import check_codes
from .generation_smalle import SmallEGenerationMixin
from .layers_smalle import (
    SmallELCLMBlock,
    SmallEPositionAwareCrossAttention,
    SmallEStandardCrossAttention,
    SmallETextEncoderLayer,
    positions_in_segments,
    segment_starts,
)
from .loss_smalle import compute_loss
from .outputs_smalle import SmallEModelOutput, SmallEOutput


class SmallEPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what Transformers needs to know about the architecture."""

    config: SmallEConfig
    config_class = SmallEConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    output_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SmallELCLMBlock", "SmallETextEncoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True  # the text encoder; PACA needs its attention maps and computes them itself
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The only place where weights are initialised.

        Linear and embedding weights are drawn from N(0, `initializer_range`), biases are 0, norms start as the
        identity. A decay starts at logsigmoid(0) / 16 = -0.043 per frame: a memory of about 23 frames.
        """
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            init.ones_(module.weight)
        if getattr(module, "bias", None) is not None and isinstance(module, nn.Linear | nn.LayerNorm):
            init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> "SmallEPreTrainedModel":
        """Loads a checkpoint folder or Hub repository; arguments as Transformers'. Pickled weights are not loaded.

        Raises:
            OSError: The weights are missing, damaged, or no safetensors.
        """
        kwargs.setdefault("use_safetensors", True)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"The weights in {pretrained_model_name_or_path} are damaged or no safetensors ({error}): download or "
                "save them again."
            ) from error


class SmallETextEncoder(nn.Module):
    """Embedding and non-causal blocks over the text; no final norm.

    `forward(input_ids (B, S), attention_mask (B, S), segment_ids (B, S))` returns `last_hidden_state` (B, S, D).
    """

    main_input_name = "input_ids"

    def __init__(self, config: SmallEConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(SmallETextEncoderLayer(config) for _ in range(config.num_text_encoder_layers))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        positions = positions_in_segments(attention_mask, segment_ids)
        mask = attention_mask.bool()[:, None, :]
        if segment_ids is not None:
            mask = mask & (segment_ids[:, :, None] == segment_ids[:, None, :])
        hidden_states = self.embed_tokens(input_ids.long())  # ids of a byte would not do as an index
        all_hidden_states = [hidden_states]
        for layer in self.layers:
            hidden_states = layer(hidden_states, positions, mask)
            all_hidden_states.append(hidden_states)
        return BaseModelOutput(
            last_hidden_state=hidden_states, hidden_states=tuple(all_hidden_states) if output_hidden_states else None
        )


class SmallEModel(SmallEPreTrainedModel):
    """Text encoder, audio encoder, cross-attention and audio decoder, without the heads."""

    def __init__(self, config: SmallEConfig) -> None:
        super().__init__(config)
        self.text_encoder = SmallETextEncoder(config)
        # One table for all codebooks: the ids of codebook q begin at q * audio_vocab_size.
        self.embed_audio = nn.Embedding(config.num_codebooks * config.audio_vocab_size, config.hidden_size)
        self.audio_encoder = nn.ModuleList(
            SmallELCLMBlock(config, config.hidden_size) for _ in range(config.num_audio_encoder_layers)
        )
        self.cross_attention: SmallEPositionAwareCrossAttention | SmallEStandardCrossAttention
        if config.cross_attention == "paca":
            self.cross_attention = SmallEPositionAwareCrossAttention(config)
        else:
            self.cross_attention = SmallEStandardCrossAttention(config)
        self.audio_decoder = nn.ModuleList(
            SmallELCLMBlock(config, config.hidden_size) for _ in range(config.num_audio_decoder_layers)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.text_encoder.embed_tokens = value

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.text_encoder

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        past_key_values: SmallECache | None = None,
        use_cache: bool | None = None,
        segment_ids: torch.Tensor | None = None,
        decoder_segment_ids: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> SmallEModelOutput:
        """Runs columns of delayed audio ids over a text. Arguments as [`SmallEForSpeechGeneration.forward`]."""
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        decoder_input_ids = require_decoder_input_ids(decoder_input_ids, self.config)
        cache = past_key_values
        if cache is None and use_cache:
            cache = SmallECache(self.config, len(decoder_input_ids), decoder_input_ids.device)
        if cache is not None and cache.batch_size != len(decoder_input_ids):
            raise ValueError(
                f"The cache holds {cache.batch_size} utterances, the inputs {len(decoder_input_ids)}: select its rows."
            )
        if (segment_ids is None) != (decoder_segment_ids is None) or (segment_ids is not None and cache is not None):
            raise ValueError("Packed rows need both `segment_ids` and `decoder_segment_ids`, and no cache.")
        if encoder_outputs is None:
            encoder_outputs = self.text_encoder(input_ids, attention_mask, segment_ids, output_hidden_states)
        encoded = encoder_outputs[0]

        is_column = decoder_attention_mask
        if is_column is None:
            is_column = torch.ones_like(decoder_input_ids[..., 0])
        positions = positions_in_segments(is_column, decoder_segment_ids)
        if cache is not None:
            positions = positions + cache.frame_index[:, None]
        resets = None if decoder_segment_ids is None else segment_starts(decoder_segment_ids)
        text, text_mask = self._project_text(encoded, attention_mask, cache, segment_ids, decoder_segment_ids)
        hidden_states = self._embed(decoder_input_ids)
        hidden_states, attentions, states, all_hidden_states = self._run_blocks(
            hidden_states, cache, text, positions, text_mask, decoder_attention_mask, resets
        )
        if cache is not None:
            cache.states, cache.text, cache.text_source = states, text, encoded
            cache.frame_index = cache.frame_index + is_column.long().sum(dim=-1)
        return SmallEModelOutput(
            last_hidden_state=hidden_states,
            past_key_values=cache,
            cross_attentions=attentions if output_attentions else None,
            decoder_hidden_states=all_hidden_states if output_hidden_states else None,
            encoder_last_hidden_state=encoded,
            encoder_hidden_states=getattr(encoder_outputs, "hidden_states", None) if output_hidden_states else None,
        )

    def _project_text(
        self,
        encoded: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cache: SmallECache | None,
        segment_ids: torch.Tensor | None,
        decoder_segment_ids: torch.Tensor | None,
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """The cross-attention's view of the text, from the cache if it is of this text, and who may read what."""
        is_text = torch.ones_like(encoded[..., 0], dtype=torch.long) if attention_mask is None else attention_mask
        if cache is not None and cache.text is not None and cache.text_source is encoded:
            text = cache.text
        else:
            text = self.cross_attention.project_text(encoded, positions_in_segments(is_text, segment_ids))
        if segment_ids is not None and decoder_segment_ids is not None:
            return text, is_text.bool()[:, None, :] & (decoder_segment_ids[:, :, None] == segment_ids[:, None, :])
        return text, None if attention_mask is None else is_text.bool()[:, None, :]

    def _embed(self, decoder_input_ids: torch.Tensor) -> torch.Tensor:
        """(B, T, Q) ids -> (B, T, D): the sum of the codebooks' embeddings."""
        first_id = torch.arange(self.config.num_codebooks, device=decoder_input_ids.device)
        return self.embed_audio(decoder_input_ids + first_id * self.config.audio_vocab_size).sum(dim=-2)

    def _run_blocks(
        self,
        hidden_states: torch.Tensor,
        cache: SmallECache | None,
        text: tuple[torch.Tensor, ...],
        positions: torch.Tensor,
        text_mask: torch.Tensor | None,
        mask: torch.Tensor | None,
        resets: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], tuple[torch.Tensor, ...]]:
        """Audio encoder, cross-attention, audio decoder; the states in the order of [`SmallECache`]."""
        old_states = iter(cache.states) if cache is not None else None

        def next_state() -> torch.Tensor | None:
            return None if old_states is None else next(old_states)

        states: list[torch.Tensor] = []
        all_hidden_states = [hidden_states]
        for block in self.audio_encoder:
            hidden_states, state = block(hidden_states, next_state(), mask, resets)
            states.append(state)
            all_hidden_states.append(hidden_states)
        old_state = next_state() if self.config.cross_attention == "paca" else None
        fetched, attentions, state = self.cross_attention(
            hidden_states, text, positions, text_mask, old_state, mask, resets
        )
        if state is not None:
            states.append(state)
        hidden_states = hidden_states + fetched
        for block in self.audio_decoder:
            hidden_states, state = block(hidden_states, next_state(), mask, resets)
            states.append(state)
            all_hidden_states.append(hidden_states)
        return hidden_states, attentions, states, tuple(all_hidden_states)


class SmallEForSpeechGeneration(SmallEPreTrainedModel, SmallEGenerationMixin):
    """Small-E with one head per codebook and, where `config.codec_config` is set, the codec that makes them sound.

    Args:
        config ([`SmallEConfig`]): Configuration.
    """

    def __init__(self, config: SmallEConfig) -> None:
        super().__init__(config)
        self.model = SmallEModel(config)
        self.lm_heads = nn.Linear(config.hidden_size, config.num_codebooks * config.audio_vocab_size, bias=False)
        self.codec_model = None if config.codec_config is None else build_codec(config)
        self.post_init()
        # The paper's sampling (section 3.3): top-k 100 at temperature 1. A set `max_length` keeps the text-to-speech
        # pipeline from cutting every utterance at a limit of its own; it is 22 minutes at 75 frames per second.
        self.generation_config.update(do_sample=True, top_k=100, temperature=1.0, max_length=100_000)
        self.generation_config._from_model_config = False  # such files are read without the options that are ours

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.model.text_encoder

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> "SmallEForSpeechGeneration":
        super().train(mode)
        if self.codec_model is not None:  # frozen, also after a loader has replaced its parameters
            self.codec_model.requires_grad_(False).eval()
        return self

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        labels: torch.Tensor | None = None,
        past_key_values: SmallECache | None = None,
        use_cache: bool | None = None,
        segment_ids: torch.Tensor | None = None,
        decoder_segment_ids: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SmallEOutput:
        r"""Scores the next column of delayed audio ids.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): Text ids, BOS and EOS included.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*): 1 for text, 0 for padding on any side.
            decoder_input_ids (`torch.LongTensor` of shape `(B, T, Q)`, *optional*): Delayed audio ids, start column
                first (see `delay_pattern.py`). Made from `labels` when only those are given.
            decoder_attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for columns, 0 for padding on any
                side. A masked column changes neither state nor position.
            encoder_outputs (`BaseModelOutput`, *optional*): Encoded text, instead of `input_ids`.
            labels (`torch.LongTensor` of shape `(B, T, Q)`, *optional*): Ids of the next column (not shifted here);
                -100 is ignored.
            past_key_values ([`SmallECache`], *optional*): State before the first column. It is updated in place.
            use_cache (`bool`, *optional*): Whether to return the state; by default outside training if the config says
                so.
            segment_ids (`torch.LongTensor` of shape `(B, S)`, *optional*): Which of several packed utterances a token
                belongs to. Attention stays inside it and positions begin anew.
            decoder_segment_ids (`torch.LongTensor` of shape `(B, T)`, *optional*): The same for columns; the recurrent
                state begins anew as well.
            output_attentions (`bool`, *optional*): Whether to return `cross_attentions`.
            output_hidden_states (`bool`, *optional*): Whether to return `decoder_hidden_states` and
                `encoder_hidden_states`.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): Score only the last columns, or those of the given
                indices; 0 scores all.
            num_items_in_batch (`int`, *optional*): Divisor of the summed loss, for gradient accumulation.

        Returns:
            [`SmallEOutput`].

        Raises:
            ValueError: Neither ids nor encoded text are given, or a shape is wrong.
        """
        if input_ids is None and encoder_outputs is None:
            raise ValueError("Pass the text as `input_ids` or `encoder_outputs`.")
        if decoder_input_ids is None and labels is not None:
            decoder_input_ids = self._shift_right(labels)
        if use_cache is None:
            use_cache = self.config.use_cache and labels is None and segment_ids is None and not self.training
        outputs: SmallEModelOutput = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            use_cache=use_cache,
            segment_ids=segment_ids,
            decoder_segment_ids=decoder_segment_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.compute_logits(outputs[0][:, kept])
        loss = codebook_losses = None
        if labels is not None:
            weights = self.config.codebook_loss_weights
            loss, codebook_losses = compute_loss(logits, labels, num_items_in_batch, weights)
        return SmallEOutput(
            loss=loss,
            codebook_losses=codebook_losses,
            logits=logits,
            past_key_values=outputs.past_key_values,
            cross_attentions=outputs.cross_attentions,
            decoder_hidden_states=outputs.decoder_hidden_states,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
        )

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., Q, V): the heads."""
        return self.lm_heads(hidden_states).unflatten(-1, (self.config.num_codebooks, -1))

    def _shift_right(self, labels: torch.Tensor) -> torch.Tensor:
        start = labels.new_full((labels.shape[0], 1, labels.shape[2]), self.config.audio_bos_token_id)
        ids = torch.cat([start, labels[:, :-1]], dim=1)
        return ids.masked_fill(ids == -100, self.config.audio_pad_token_id)

    @torch.no_grad()
    def encode_audio(
        self, input_values: torch.Tensor, input_values_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of waveforms, each encoded as if it were alone.

        Args:
            input_values (`torch.Tensor` of shape `(B, samples)`): Mono audio at `config.sampling_rate`, right padded.
            input_values_mask (`torch.Tensor` of shape `(B, samples)`, *optional*): 1 for audio, 0 for padding.

        Returns:
            Codes of shape `(B, T, Q)` and their mask of shape `(B, T)`.

        Raises:
            ValueError: The checkpoint holds no codec, or the audio is empty or not finite.
        """
        return encode_audio(self._require_codec(), input_values, input_values_mask, self.config)

    @torch.no_grad()
    def decode_audio(self, codes: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Waveforms of codes, each decoded as if it were alone.

        Args:
            codes (`torch.LongTensor` of shape `(B, T, Q)`): Codec codes, right padded.
            lengths (`torch.LongTensor` of shape `(B,)`, *optional*): Frames of each row; all if `None`.

        Returns:
            `torch.Tensor` of shape `(B, T * frame_length)` at `config.sampling_rate`; zeros behind a row's end.

        Raises:
            ValueError: The checkpoint holds no codec, or the codes are of a wrong shape or out of range.
        """
        check_codes(codes, self.config)
        if codes.ndim != 3:
            raise ValueError(f"`codes` must have shape (batch, frames, codebooks), got {tuple(codes.shape)}.")
        if lengths is not None and (len(lengths) != len(codes) or (lengths > codes.shape[1]).any()):
            raise ValueError(f"`lengths` {lengths.tolist()} must be one per row, at most {codes.shape[1]} frames.")
        return decode_codes(self._require_codec(), codes, lengths, self.config.frame_length)

    def _require_codec(self) -> PreTrainedModel:
        if self.codec_model is None:
            raise ValueError(
                "This checkpoint holds no codec: set `config.codec_config`, or decode the codes with the codec that "
                "made the training data."
            )
        return self.codec_model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Saves weights, configuration and the code that `trust_remote_code=True` loads, as Transformers does."""
        # `register_for_auto_class` names one Auto class per model; `AutoModel` has to find this one as well.
        target = "modeling_smalle.SmallEForSpeechGeneration"
        self.config.auto_map = {
            **(getattr(self.config, "auto_map", None) or {}),
            "AutoConfig": "configuration_smalle.SmallEConfig",
            "AutoModel": target,
            "AutoModelForTextToWaveform": target,
        }
        super().save_pretrained(save_directory, *args, **kwargs)


def require_decoder_input_ids(decoder_input_ids: torch.Tensor | None, config: SmallEConfig) -> torch.Tensor:
    """The audio ids, if they have shape `(B, T, Q)`.

    Raises:
        ValueError: They are missing or of a wrong shape.
    """
    if decoder_input_ids is None:
        raise ValueError("Pass `decoder_input_ids` of shape (batch, columns, codebooks), or `labels`.")
    if decoder_input_ids.ndim != 3 or decoder_input_ids.shape[-1] != config.num_codebooks:
        raise ValueError(
            f"`decoder_input_ids` must have shape (batch, columns, {config.num_codebooks}), got "
            f"{tuple(decoder_input_ids.shape)}: build them with `apply_delay`."
        )
    return decoder_input_ids


SmallEForSpeechGeneration.register_for_auto_class("AutoModelForTextToWaveform")

__all__ = [
    "SmallEForSpeechGeneration",
    "SmallEModel",
    "SmallEPreTrainedModel",
]
