"""What the runtime has to know of a model: plain values in `onnx_config.json`, read without Transformers."""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

CONFIG_NAME = "onnx_config.json"
FORMAT = 3


@dataclass(frozen=True)
class SmallEOnnxConfig:
    """Values of [`SmallEConfig`] of the same names, and what an exported folder adds to them.

    Args:
        state_shapes (`list[list[int]]`): Heads, key width and value width of every recurrent state.
        prefill_columns (`int`): Columns that the graphs of voice prompts take at once.
        has_codec (`bool`): Whether there is a graph that decodes codes.
        codec_state_shapes (`list[list[int]]`, *optional*): Shapes of the states of the codec's decoder without the
            batch; `None` where it decodes whole utterances only.
        codec_delay (`int`): Samples by which its audio lags behind the codes.
        codec_first_frames (`int`): Frames that the first piece of an utterance must have, if it is not the whole.
        has_codec_encoder (`bool`): Whether there is a graph that encodes recordings.
        num_parameters, num_codec_parameters (`int`): Numbers in the checkpoint, and those of them in the codec.
        quantization (`str`): `"int8"`, `"int4"` or `"none"`.
        language (`str`), phoneme_voice (`str`, *optional*): Of the processor.
        unknown_id (`int`, *optional*): Text id of what the vocabulary lacks.
        generation (`dict`): Defaults of `generate`.
    """

    vocab_size: int
    num_codebooks: int
    codebook_size: int
    codebook_offset: int
    delays: list[int]
    audio_pad_token_id: int
    audio_bos_token_id: int
    audio_eos_token_id: int
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int
    max_text_length: int
    max_frames_per_text_token: float
    sampling_rate: int
    frame_rate: float
    frame_length: int
    num_audio_encoder_layers: int
    state_shapes: list[list[int]]
    prefill_columns: int
    has_codec: bool
    codec_state_shapes: list[list[int]] | None = None
    codec_delay: int = 0
    codec_first_frames: int = 1
    has_codec_encoder: bool = False
    num_parameters: int = 0
    num_codec_parameters: int = 0
    quantization: str = "none"
    language: str = "en"
    phoneme_voice: str | None = None
    unknown_id: int | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def audio_vocab_size(self) -> int:
        """Audio ids per codebook: special ids, then codes."""
        return self.codebook_size + self.codebook_offset

    @property
    def max_delay(self) -> int:
        """Columns by which the last codebook lags behind the first."""
        return max(self.delays)

    @property
    def leader(self) -> int:
        """The codebook that ends the utterance: the first one without a delay."""
        return self.delays.index(0)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `onnx_config.json` into a folder."""
        (Path(folder) / CONFIG_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "SmallEOnnxConfig":
        """Reads it from an exported folder.

        Raises:
            FileNotFoundError: The folder is no exported one.
            ValueError: The file is damaged, or of another version of this package.
        """
        path = Path(folder) / CONFIG_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} is no exported model: it has no {CONFIG_NAME}; make one with `smalle export`."
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            is_known = values.get("format") == FORMAT and values.keys() <= {entry.name for entry in fields(cls)}
            return cls(**values) if is_known else _refuse(path)
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}): export the model again.") from error


def _refuse(path: Path) -> Any:
    raise ValueError(f"{path} was written by another version of this package: export the model again.")


__all__ = ["CONFIG_NAME", "SmallEOnnxConfig"]
