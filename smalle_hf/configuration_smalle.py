"""Configuration of Small-E (arXiv 2406.04467): every size, id and delay that model, data and generation share."""

import difflib
from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils.type_validators import interval, positive_int_field


@strict
class SmallEConfig(PreTrainedConfig):
    r"""
    Configuration of a [`SmallEForSpeechGeneration`]. The defaults are the paper's 64M model (section 3.2 of the
    paper).

    Args:
        vocab_size (`int`, defaults to 256): Entries of the text vocabulary (byte-pair encoding over lower-cased text).
        hidden_size (`int`, defaults to 512): Model width D.
        num_audio_encoder_layers (`int`, defaults to 6): LCLM blocks before the cross-attention.
        num_audio_decoder_layers (`int`, defaults to 6): LCLM blocks after the cross-attention.
        num_attention_heads (`int`, defaults to 2): Heads H of every LCLM block (and of the standard cross-attention).
        num_text_encoder_layers (`int`, defaults to 9): Blocks of the non-causal text encoder.
        num_text_encoder_attention_heads (`int`, defaults to 8): Heads of the text encoder.
        cross_attention (`"paca"` or `"standard"`, defaults to `"paca"`): Position-aware cross-attention, or the
            paper's ablation: multi-head cross-attention with rotary embeddings and no position stream.
        position_size (`int`, defaults to 64): Width P of PACA's position stream; even and divisible by the heads.
        key_expand (`float`, defaults to 1.0): Key width of an LCLM block over its input width.
        value_expand (`float`, defaults to 2.0): Value width of an LCLM block over its input width.
        gate_low_rank_size (`int`, defaults to 16): Rank of the bottleneck that predicts the decay.
        gate_logit_normalizer (`float`, defaults to 16.0): Divisor of the log decay (its logsigmoid).
        rope_theta (`float`, defaults to 10000.0): Base of the rotary embeddings and of PACA's sinusoids.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of every LayerNorm.
        rms_norm_eps (`float`, defaults to 1e-5): Epsilon of the per-head RMSNorm at the output of the recurrence.
        dropout (`float`, defaults to 0.0): Dropout at the end of every LCLM block.
        text_encoder_dropout (`float`, defaults to 0.1): Dropout at the end of every text encoder block.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the initial linear and embedding weights.
        num_codebooks (`int`, defaults to 4): Codebooks Q that are modelled; a codec with more is truncated to these.
        codebook_size (`int`, defaults to 1024): Codes in each codebook.
        codebook_offset (`int`, defaults to 3): Audio id of code 0; the ids below it are special.
        delays (`list[int]`, *optional*): Columns by which each codebook lags; `[0, 1, ..., Q - 1]` by default.
        codebook_loss_weights (`list[float]`, *optional*): Weight of each codebook in the loss, of which only the
            ratios count; all weigh the same by default, as in the paper.
        audio_pad_token_id (`int`, defaults to 0): Audio id of padding.
        audio_bos_token_id (`int`, defaults to 1): Audio id that starts an utterance ("head" in the paper's code).
        audio_eos_token_id (`int`, defaults to 2): Audio id that stops an utterance ("tail" in the paper's code).
        pad_token_id (`int`, defaults to 0): Text id of padding.
        bos_token_id (`int`, defaults to 1): Text id that begins a text.
        eos_token_id (`int`, defaults to 2): Text id that ends a text.
        max_text_length (`int`, defaults to 2000): Longest text in tokens that `generate` takes in one piece.
        max_frames_per_text_token (`float`, defaults to 25.0): Frames that `generate` allows per text token when it is
            given no `max_new_tokens`, so that no utterance runs for ever.
        sampling_rate (`int`, *optional*): Sampling rate of the audio in Hz; by default the codec's, or else 24000.
        frame_rate (`float`, *optional*): Code frames per second; by default the codec's, or 75.0 without one.
        use_cache (`bool`, defaults to `True`): Whether `generate` carries the recurrent state from step to step.
        codec_config (`PreTrainedConfig` or `dict`, *optional*): Configuration of the neural codec that is kept inside
            the checkpoint (EnCodec, or any with `encode`, `decode` and `audio_codes`). `None`: codes in, codes out.

    Raises:
        huggingface_hub.errors.StrictDataclassError: A value is of the wrong type, or inconsistent with another one.
        ValueError: A name is misspelt, or follows from other values.

    Example:

    ```python
    >>> from smalle_hf import SmallEConfig, SmallEForSpeechGeneration

    >>> config = SmallEConfig.from_preset("tiny")
    >>> model = SmallEForSpeechGeneration(config)
    ```
    """

    model_type = "small_e"
    keys_to_ignore_at_inference = ["past_key_values", "encoder_last_hidden_state", "cross_attentions"]
    # `codec_config` may be absent, so the base class must not fill it with a default: `__post_init__` resolves it.
    sub_configs: ClassVar[dict[str, Any]] = {"codec_config": AutoConfig}

    vocab_size: int = positive_int_field(default=256)
    hidden_size: int = positive_int_field(default=512)
    num_audio_encoder_layers: int = positive_int_field(default=6)
    num_audio_decoder_layers: int = positive_int_field(default=6)
    num_attention_heads: int = positive_int_field(default=2)
    num_text_encoder_layers: int = positive_int_field(default=9)
    num_text_encoder_attention_heads: int = positive_int_field(default=8)
    cross_attention: Literal["paca", "standard"] = "paca"
    position_size: int = positive_int_field(default=64)
    key_expand: int | float = interval(min=0.0)(default=1.0)
    value_expand: int | float = interval(min=0.0)(default=2.0)
    gate_low_rank_size: int = positive_int_field(default=16)
    gate_logit_normalizer: int | float = interval(min=0.0)(default=16.0)
    rope_theta: int | float = interval(min=0.0)(default=10000.0)
    layer_norm_eps: int | float = interval(min=0.0)(default=1e-5)
    rms_norm_eps: int | float = interval(min=0.0)(default=1e-5)
    dropout: int | float = interval(min=0.0, max=1.0)(default=0.0)
    text_encoder_dropout: int | float = interval(min=0.0, max=1.0)(default=0.1)
    initializer_range: int | float = interval(min=0.0, max=1.0)(default=0.02)
    num_codebooks: int = positive_int_field(default=4)
    codebook_size: int = positive_int_field(default=1024)
    codebook_offset: int = positive_int_field(default=3)
    delays: list[int] = field(default_factory=list)
    codebook_loss_weights: list[int | float] | None = None
    audio_pad_token_id: int = 0
    audio_bos_token_id: int = 1
    audio_eos_token_id: int = 2
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2
    decoder_start_token_id: int | None = None
    max_text_length: int = positive_int_field(default=2000)
    max_frames_per_text_token: int | float = interval(min=0.0)(default=25.0)
    sampling_rate: int = 0
    frame_rate: int | float = 0
    use_cache: bool = True
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False
    codec_config: dict | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._reject_misspelt(kwargs)
        if isinstance(self.codec_config, dict):
            codec_config = dict(self.codec_config)
            model_type = codec_config.pop("model_type", None)
            if model_type is None:
                raise ValueError('`codec_config` needs a "model_type", for example "encodec".')
            self.codec_config = AutoConfig.for_model(model_type, **codec_config)
        if not self.delays:
            self.delays = list(range(self.num_codebooks))
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.audio_bos_token_id
        if not self.sampling_rate:
            self.sampling_rate = getattr(self.codec_config, "sampling_rate", None) or 24000
        if not self.frame_rate:
            # Some codecs round their frame rate; the hop length is exact.
            hop_length = getattr(self.codec_config, "hop_length", None)
            codec_rate = getattr(self.codec_config, "frame_rate", None)
            self.frame_rate = self.sampling_rate / hop_length if hop_length else float(codec_rate or 75.0)
        super().__post_init__(**kwargs)

    def _reject_misspelt(self, kwargs: dict[str, Any]) -> None:
        # Transformers keeps unknown keys as attributes, so a misspelt one would be ignored without a word.
        fields = [name for name in type(self).__dataclass_fields__ if not name.startswith("_")]
        for key in kwargs:
            if isinstance(type(self).__dict__.get(key), property):
                raise ValueError(f"`{key}` follows from other configuration values: set those instead.")
            if not hasattr(type(self), key) and (close := difflib.get_close_matches(key, fields, n=1, cutoff=0.85)):
                raise ValueError(f"Unknown configuration value `{key}`: did you mean `{close[0]}`?")

    def validate_architecture(self) -> None:
        """Checks that the values fit together. Part of the `@strict` validation.

        Raises:
            ValueError: Two values contradict each other; the message says which and what would fit.
        """
        self._require_heads("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)
        self._require_heads(
            "hidden_size", self.hidden_size, "num_text_encoder_attention_heads", self.num_text_encoder_attention_heads
        )
        if self.cross_attention == "paca":
            self._require_heads("position_size", self.position_size, "num_attention_heads", self.num_attention_heads)
        rotary_head_sizes = {
            "hidden_size": self.hidden_size,
            "hidden_size / num_text_encoder_attention_heads": self.hidden_size
            // self.num_text_encoder_attention_heads,
        }
        if self.cross_attention == "standard":
            rotary_head_sizes["hidden_size / num_attention_heads"] = self.hidden_size // self.num_attention_heads
        for name, size in rotary_head_sizes.items():
            if size % 4:
                raise ValueError(f"`{name}` ({size}) must be a multiple of 4: half of it is rotated in pairs.")
        if self.position_size % 2:
            raise ValueError(f"`position_size` ({self.position_size}) must be even: it holds sines and cosines.")
        for expand in ("key_expand", "value_expand"):
            width = self.hidden_size * getattr(self, expand)
            if width != int(width) or int(width) % self.num_attention_heads or width <= 0:
                raise ValueError(
                    f"`hidden_size * {expand}` ({width}) must be a positive multiple of `num_attention_heads` "
                    f"({self.num_attention_heads})."
                )
        self._validate_audio_ids()

    def _validate_audio_ids(self) -> None:
        special = {
            "audio_pad_token_id": self.audio_pad_token_id,
            "audio_bos_token_id": self.audio_bos_token_id,
            "audio_eos_token_id": self.audio_eos_token_id,
        }
        for name, value in special.items():
            if not 0 <= value < self.codebook_offset:
                raise ValueError(f"`{name}` ({value}) must be below `codebook_offset` ({self.codebook_offset}).")
        if len(set(special.values())) != len(special):
            raise ValueError(f"The audio pad, bos and eos ids must differ, got {special}.")
        if len(self.delays) != self.num_codebooks:
            raise ValueError(f"`delays` {self.delays} needs one entry per codebook ({self.num_codebooks}).")
        if min(self.delays) != 0:
            raise ValueError(f"`delays` {self.delays} must be non-negative and contain a 0.")
        weights = self.codebook_loss_weights
        if weights is not None and (len(weights) != self.num_codebooks or min(weights) < 0 or not sum(weights)):
            raise ValueError(
                f"`codebook_loss_weights` {weights} needs one weight for each of {self.num_codebooks} codebooks, "
                "none below 0."
            )
        codec_rate = getattr(self.codec_config, "sampling_rate", None)
        if codec_rate is not None and self.sampling_rate != codec_rate:
            raise ValueError(f"`sampling_rate` ({self.sampling_rate}) differs from the codec's ({codec_rate}).")

    def _require_heads(self, size_name: str, size: int, heads_name: str, heads: int) -> None:
        if size % heads:
            raise ValueError(f"`{size_name}` ({size}) must be a multiple of `{heads_name}` ({heads}).")

    @property
    def audio_vocab_size(self) -> int:
        """Audio ids per codebook: special ids, then codes."""
        return self.codebook_size + self.codebook_offset

    @property
    def num_hidden_layers(self) -> int:
        """LCLM blocks of the audio stack, PACA's position net not counted."""
        return self.num_audio_encoder_layers + self.num_audio_decoder_layers

    @property
    def max_delay(self) -> int:
        """Columns by which the last codebook lags behind the first."""
        return max(self.delays)

    @property
    def frame_length(self) -> int:
        """Samples per code frame."""
        return round(self.sampling_rate / self.frame_rate)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "SmallEConfig":
        """Builds a named configuration.

        Args:
            name (`str`): `"small-e-64m"`, the paper's model, or `"tiny"`, for tests and demonstrations.
            overrides: Any configuration value that shall differ from the preset.

        Raises:
            ValueError: There is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"Unknown preset {name!r}: choose one of {', '.join(sorted(PRESETS))}.")
        return cls(**{**PRESETS[name], **overrides})


PRESETS: dict[str, dict[str, Any]] = {
    "small-e-64m": {},
    "tiny": {
        "hidden_size": 64,
        "num_audio_encoder_layers": 2,
        "num_audio_decoder_layers": 2,
        "num_text_encoder_layers": 2,
        "num_text_encoder_attention_heads": 4,
        "position_size": 32,
        "text_encoder_dropout": 0.0,
    },
}
"""Named configurations for [`SmallEConfig.from_preset`]: only what differs from the defaults."""

SmallEConfig.register_for_auto_class()

__all__ = ["PRESETS", "SmallEConfig"]
