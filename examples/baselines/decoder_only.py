"""The paper's baseline: a decoder-only transformer over text and delayed audio codes, with every advantage.

    text ids | columns of delayed audio ids  ->  Transformers' LlamaModel  ->  logits of the next column

It takes the batches of [`SmallECollator`], packed ones too, and gives the loss of [`SmallEForSpeechGeneration`]: any
loop that trains the one trains the other. Its advantages: rows are put together without gaps, so that attention is
plainly causal and runs in its fastest form, without a mask; the memory of its key-value cache is allocated once; the
loop around a step does no more than it must. With CUDA, compile the transformer and pass Transformers' `StaticCache`:

    model = DecoderOnlyForSpeechGeneration.from_preset("86m").cuda()
    model.transformer.compile(mode="reduce-overhead")
    output = model.generate(ids, 1000, cache=StaticCache(model.transformer.config, max_cache_len=2048))

Shapes: B batch, S text tokens, T columns of the delayed sequence, Q codebooks, V audio ids, L = S + T.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import Cache, LlamaConfig, LlamaModel
from transformers.cache_utils import DynamicLayer

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, SmallEGenerateOutput
from smalle_hf.delay_pattern import ids_to_codes, revert_delay
from smalle_hf.layers_smalle import positions_in_segments
from smalle_hf.loss_smalle import compute_loss
from smalle_hf.outputs_smalle import SmallEOutput

PRESETS: dict[str, dict[str, int]] = {
    "86m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1856},
    "64m": {"hidden_size": 640, "num_hidden_layers": 12, "num_attention_heads": 10, "intermediate_size": 1504},
}
"""The paper's baseline, and one with the parameters of the preset `small-e-64m`; see [`equal_size`]."""

HEAD_SIZE = 64


def equal_size(config: SmallEConfig) -> dict[str, int]:
    """Sizes of the baseline with as many blocks, and as nearly as possible as many parameters, as a Small-E.

    Args:
        config ([`SmallEConfig`]): The Small-E that it shall be compared with.

    Returns:
        Arguments of `LlamaConfig`.
    """
    with torch.device("meta"):
        small_e = SmallEForSpeechGeneration(config)
    target = sum(w.numel() for part in (small_e.model, small_e.lm_heads) for w in part.parameters())
    num_layers = config.num_hidden_layers
    head_size = min(HEAD_SIZE, config.hidden_size // 4)
    audio_ids = config.num_codebooks * config.audio_vocab_size

    def inner_size(width: int) -> int:
        """What is left for the feed-forward layers at a width."""
        embeddings_and_heads = (config.vocab_size + 2 * audio_ids) * width
        rest = target - embeddings_and_heads - num_layers * (4 * width**2 + 2 * width) - width
        return 16 * round(rest / (3 * width * num_layers) / 16)  # matrix products like it round

    # The usual proportion of a SwiGLU block is 8/3.
    widths = range(head_size, 8 * config.hidden_size, head_size)
    width = min(widths, key=lambda width: abs(inner_size(width) / width - 8 / 3))
    return {
        "hidden_size": width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": width // head_size,
        "intermediate_size": inner_size(width),
    }


class PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer as views into memory that is allocated once: nothing is copied as they grow.

    Transformers' `DynamicCache` copies everything at every step, its `StaticCache` attends to all that was allocated.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        batch_size, num_heads, _, head_size = key_states.shape
        self.memory = key_states.new_empty(2, batch_size, num_heads, self.max_length, head_size)
        self.keys, self.values = self.memory[..., :0, :].unbind()
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.keys.shape[-2]
        end = begin + key_states.shape[-2]
        if end > self.max_length:
            raise ValueError(f"The cache has room for {self.max_length} positions, {end} are needed: allocate more.")
        self.memory[0, :, :, begin:end] = key_states
        self.memory[1, :, :, begin:end] = value_states
        self.keys, self.values = self.memory[..., :end, :].unbind()
        return self.keys, self.values


class PreallocatedCache(Cache):
    """A key-value cache of fixed capacity.

    Args:
        config (`LlamaConfig`): Configuration of the transformer.
        max_length (`int`): Positions, text and columns together, that it has room for.
    """

    def __init__(self, config: LlamaConfig, max_length: int) -> None:
        super().__init__(layers=[PreallocatedLayer(max_length) for _ in range(config.num_hidden_layers)])

    def truncate(self, length: int) -> None:
        """Forgets everything behind the first `length` positions."""
        for layer in self.layers:
            layer.keys, layer.values = layer.memory[..., :length, :].unbind()

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values that are in use: they grow with every position."""
        return sum(x.nbytes for layer in self.layers if layer.is_initialized for x in (layer.keys, layer.values))


class DecoderOnlyForSpeechGeneration(nn.Module):
    """A `LlamaModel` over text and audio, with one head per codebook.

    Args:
        config ([`SmallEConfig`]): Vocabularies, delays and ids; its sizes are not looked at.
        sizes (`dict`): Sizes as `LlamaConfig` names them.
    """

    def __init__(self, config: SmallEConfig, sizes: dict[str, int]) -> None:
        super().__init__()
        self.config = config
        llama = LlamaConfig(vocab_size=config.vocab_size, initializer_range=config.initializer_range, **sizes)
        llama._attn_implementation = "sdpa"
        self.transformer = LlamaModel(llama)
        num_audio_ids = config.num_codebooks * config.audio_vocab_size
        self.embed_audio = nn.Embedding(num_audio_ids, llama.hidden_size)
        self.lm_heads = nn.Linear(llama.hidden_size, num_audio_ids, bias=False)
        for weight in (self.embed_audio.weight, self.lm_heads.weight):
            nn.init.normal_(weight, std=config.initializer_range)

    @classmethod
    def from_preset(cls, name: str, config: SmallEConfig | None = None) -> "DecoderOnlyForSpeechGeneration":
        """Builds a named baseline.

        Args:
            name (`str`): `"86m"`, the paper's, or `"64m"`, with the parameters of the preset `small-e-64m`.
            config ([`SmallEConfig`], *optional*): Vocabularies, delays and ids.

        Raises:
            ValueError: There is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"Unknown preset {name!r}: choose one of {', '.join(sorted(PRESETS))}.")
        return cls(SmallEConfig() if config is None else config, PRESETS[name])

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
        decoder_segment_ids: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> SmallEOutput:
        """Scores the next column of delayed audio ids. Arguments as [`SmallEForSpeechGeneration.forward`].

        Returns:
            [`SmallEOutput`] with `logits` of shape `(B, T, Q, V)` and, with `labels`, the losses.

        Raises:
            ValueError: There are no audio ids, or a row is packed on one side only.
        """
        if decoder_input_ids is None:
            raise ValueError("Pass `decoder_input_ids` of shape (batch, columns, codebooks).")
        if (segment_ids is None) != (decoder_segment_ids is None):
            raise ValueError("Packed rows need both `segment_ids` and `decoder_segment_ids`.")
        embedded = torch.cat([self.transformer.embed_tokens(input_ids), self.embed_columns(decoder_input_ids)], dim=1)
        num_tokens, positions, order = input_ids.shape[1], None, None
        if attention_mask is not None or decoder_attention_mask is not None or segment_ids is not None:
            text = _segments(input_ids, attention_mask, segment_ids)
            audio = _segments(decoder_input_ids[..., 0], decoder_attention_mask, decoder_segment_ids)
            segments, order = torch.cat([text, audio], dim=1).sort(dim=1, stable=True)
            embedded = _take(embedded, order)
            if segment_ids is not None:  # Transformers keeps positions that begin anew apart from those before them
                positions = positions_in_segments(segments != PADDING, segments)
        hidden_states = self.transformer(inputs_embeds=embedded, position_ids=positions, use_cache=False)[0]
        if order is None:
            hidden_states = hidden_states[:, num_tokens:]
        else:
            hidden_states = _take(hidden_states, order.argsort(dim=1)[:, num_tokens:])
        logits = self.compute_logits(hidden_states)
        if labels is None:
            return SmallEOutput(logits=logits)
        loss, codebook_losses = compute_loss(logits, labels, num_items_in_batch)
        return SmallEOutput(loss=loss, codebook_losses=codebook_losses, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        max_new_tokens: int,
        attention_mask: torch.Tensor | None = None,
        min_new_tokens: int = 0,
        top_k: int | None = 100,
        generator: torch.Generator | None = None,
        cache: Cache | None = None,
    ) -> SmallEGenerateOutput:
        """Speaks texts: codebook 0 is sampled, the others take the best code (paper section 3.3).

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): Text ids.
            max_new_tokens (`int`): Frames at most.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*): 1 for text, 0 for padding.
            min_new_tokens (`int`, defaults to 0): Frames at least.
            top_k (`int`, *optional*, defaults to 100): Ids that codebook 0 is sampled from; `None` takes the best.
            generator (`torch.Generator`, *optional*): Source of randomness.
            cache (`Cache`, *optional*): Empty cache with room for `S + max_new_tokens + max_delay + 1` positions; a
                [`PreallocatedCache`] of that size by default.

        Returns:
            [`SmallEGenerateOutput`] with `sequences`, `sequence_lengths` and `is_finished`.
        """
        decode = DelayedDecoding(self.config, len(input_ids), min_new_tokens, max_new_tokens, input_ids.device)
        input_ids, mask = _pad_left(input_ids, attention_mask)
        num_positions = input_ids.shape[1] + max_new_tokens + self.config.max_delay + 1
        if cache is None:
            cache = PreallocatedCache(self.transformer.config, num_positions)
        positions = None
        if mask is not None:
            mask = nn.functional.pad(mask, (0, num_positions - mask.shape[1]), value=1)
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        embedded = torch.cat([self.transformer.embed_tokens(input_ids), self.embed_columns(decode.ids)], dim=1)
        begin, end = 0, embedded.shape[1]
        while not decode.is_done():
            hidden_states = self.transformer(
                inputs_embeds=embedded,
                attention_mask=None if mask is None else mask[:, :end],
                position_ids=None if positions is None else positions[:, begin:end],
                past_key_values=cache,
                use_cache=True,
            )[0]
            decode.advance(self.compute_logits(hidden_states[:, -1]), top_k, generator)
            embedded = self.embed_columns(decode.ids)
            begin, end = end, end + 1
        return decode.output()

    def embed_columns(self, audio_ids: torch.Tensor) -> torch.Tensor:
        """(B, T, Q) ids -> (B, T, D): the sum of the codebooks' embeddings."""
        first_id = torch.arange(self.config.num_codebooks, device=audio_ids.device) * self.config.audio_vocab_size
        return self.embed_audio(audio_ids + first_id).sum(dim=-2)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., Q, V)."""
        return self.lm_heads(hidden_states).unflatten(-1, (self.config.num_codebooks, -1))


class DelayedDecoding:
    """Columns of one generation: what is chosen, what the delay pattern dictates, where each row ends.

    Args:
        config ([`SmallEConfig`]): Delays and ids.
        num_rows (`int`): Utterances B.
        min_frames, max_frames (`int`): Limits of every row.
        device (`torch.device`): Where the ids live.
    """

    def __init__(
        self, config: SmallEConfig, num_rows: int, min_frames: int, max_frames: int, device: torch.device
    ) -> None:
        self.config, self.min_frames, self.max_frames = config, max(min_frames, 1), max_frames
        self.delays = torch.tensor(config.delays, device=device)
        self.leader = config.delays.index(0)  # the codebook that ends the utterance
        self.ids = torch.full((num_rows, 1, config.num_codebooks), config.audio_bos_token_id, device=device)
        self.columns = [self.ids]
        self.end = torch.full((num_rows, 1), max_frames, device=device)  # first frame that is not spoken
        # Only the leading codebook may stop, and nothing else is special.
        self.bias = torch.zeros(config.num_codebooks, config.audio_vocab_size, device=device)
        self.bias[:, : config.codebook_offset] = -math.inf
        self.may_stop = self.bias.clone()
        self.may_stop[self.leader, config.audio_eos_token_id] = 0.0

    def advance(self, logits: torch.Tensor, top_k: int | None, generator: torch.Generator | None) -> None:
        """Chooses the next column from its scores, (B, Q, V)."""
        frame = len(self.columns) - 1 - self.delays
        scores = logits.float() + (self.bias if len(self.columns) <= self.min_frames else self.may_stop)
        ids = scores.argmax(dim=-1)
        if top_k is not None:
            best, candidates = scores[:, 0].topk(min(top_k, scores.shape[-1]), dim=-1)
            drawn = torch.multinomial(best.softmax(dim=-1), 1, generator=generator)
            ids[:, :1] = candidates.gather(1, drawn)
        stops = ids[:, self.leader, None] == self.config.audio_eos_token_id
        self.end = torch.where(stops, self.end.clamp(max=len(self.columns) - 1), self.end)
        ids = ids.masked_fill(frame < 0, self.config.audio_bos_token_id)
        ids = ids.masked_fill(frame >= self.end, self.config.audio_eos_token_id)
        self.ids = ids[:, None]
        self.columns.append(self.ids)

    def is_done(self) -> bool:
        """Whether every codebook of every row has come to its end."""
        return len(self.columns) - 1 >= int(self.end.max()) + self.config.max_delay

    def output(self) -> SmallEGenerateOutput:
        """Codes by frame, 0 behind a row's end."""
        ids = revert_delay(torch.cat(self.columns, dim=1), self.config)
        is_frame = torch.arange(ids.shape[1], device=ids.device) < self.end
        return SmallEGenerateOutput(
            sequences=(ids_to_codes(ids, self.config) * is_frame[..., None])[:, : int(self.end.max())],
            sequence_lengths=self.end[:, 0],
            is_finished=self.end[:, 0] < self.max_frames,
        )


PADDING = torch.iinfo(torch.long).max
"""Segment of padding: it is sorted behind everything else."""


def _segments(ids: torch.Tensor, mask: torch.Tensor | None, segment_ids: torch.Tensor | None) -> torch.Tensor:
    """(B, N) ids -> the utterance that each belongs to, or `PADDING`."""
    segments = torch.ones_like(ids) if segment_ids is None else segment_ids.long()
    return segments if mask is None else segments.masked_fill(~mask.bool(), PADDING)


def _take(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """(B, L, D), (B, N) -> (B, N, D)."""
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


def _pad_left(ids: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Moves padding to the left, where no column comes to stand between text and audio; no mask if there is none."""
    if mask is None or bool(mask.all()):
        return ids, None
    order = mask.long().argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.long().gather(1, order)
