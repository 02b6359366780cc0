"""Text and voices in, waveforms out, for [`SmallEOnnxModel`]: what [`SmallEProcessor`] does, without torch."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ..audio_files import as_recordings, check_audio_path, read_audio, resample_audio, write_audio
from ..written_text import match_rows, pad_rows, tokenize_texts, write_in_vocabulary
from .codec_streams import check_encoder
from .configuration import SmallEOnnxConfig
from .outputs import SmallEOnnxOutput

TOKENIZER_NAME = "tokenizer.json"


class SmallEOnnxProcessor:
    """Turns texts into what [`SmallEOnnxModel.generate`] takes, and its output into waveforms.

    Args:
        tokenizer (`tokenizers.Tokenizer`): The vocabulary.
        config ([`SmallEOnnxConfig`]): Configuration of the model.
    """

    def __init__(self, tokenizer: Tokenizer, config: SmallEOnnxConfig) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self.config = tokenizer, config

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> "SmallEOnnxProcessor":
        """Reads the processor of an exported folder.

        Raises:
            FileNotFoundError: The folder is no exported model, or not a whole one.
            ValueError: A file is damaged.
        """
        config, path = SmallEOnnxConfig.load(folder), Path(folder) / TOKENIZER_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{folder} lacks {TOKENIZER_NAME}: export the model again.")
        try:
            return cls(Tokenizer.from_file(str(path)), config)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{path} is damaged ({error}): export the model again.") from error

    def normalize(self, text: str) -> str:
        """Writes a text as the model reads it, see [`SmallEProcessor.normalize`]."""
        return self._write([text])[0]

    def num_tokens(self, text: str) -> int:
        """Length of a text in tokens, begin and end included."""
        return len(self._encode([self.normalize(text)])[0])

    def _write(self, texts: list[str]) -> list[str]:
        config = self.config
        return write_in_vocabulary(texts, self.tokenizer, config.language, config.phoneme_voice, config.unknown_id)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def __call__(
        self,
        text: str | list[str] | None = None,
        audio_prompt_codes: Any = None,
        audio_prompt_text: str | list[str] | None = None,
        audio: Any = None,
        sampling_rate: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Prepares texts, and voices to speak them in, for `generate`.

        Args:
            text (`str` or `list[str]`, *optional*): What to say, B texts.
            audio_prompt_codes (*optional*): The voice as codec codes: integers of shape `(T, Q)` or `(B, T, Q)`, or a
                list of `(T_i, Q)` arrays. One voice serves every text.
            audio_prompt_text (`str` or `list[str]`, *optional*): What is said in it; `""` if `text` holds it already.
            audio (*optional*): Recording of the voice in the place of its codes, or a list of them, as
                [`SmallEProcessor`] takes them. Not every exported model can encode it.
            sampling_rate (`int`, *optional*): Rate in Hz of recordings given as samples.

        Returns:
            `dict` of `input_ids` and `attention_mask` (B, S); with codes also `audio_prompt_codes` (B, T, Q) and
            `audio_prompt_mask` (B, T), with recordings `input_values` (B, samples), float32 at the model's rate, and
            `input_values_mask`. All others int64; masks are 1 for content, 0 for padding.

        Raises:
            TypeError: A text is no string, codes are no integers, or a recording is of the wrong type.
            ValueError: There is nothing to do, a text is empty or too long, the numbers of texts and voices differ,
                the voice is given twice, codes have no possible shape, or the model cannot encode recordings.
        """
        if text is None and audio is None and audio_prompt_codes is None:
            raise ValueError("There is nothing to process: pass `text`, `audio` or `audio_prompt_codes`.")
        if audio is not None and audio_prompt_codes is not None:
            raise ValueError("The voice is given twice: pass `audio` or `audio_prompt_codes`, not both.")
        has_voice = audio is not None or audio_prompt_codes is not None
        if audio_prompt_text is not None and (text is None or not has_voice):
            raise ValueError("`audio_prompt_text` needs `text` and the voice that says it: `audio` or its codes.")
        voices: dict[str, list[np.ndarray]] = {}
        if audio_prompt_codes is not None:
            voices["audio_prompt"] = self._prompts(audio_prompt_codes)
        elif audio is not None:
            check_encoder(self.config)
            recordings = [read_audio(recording, sampling_rate) for recording in as_recordings(audio)]
            voices["input_values"] = [resample_audio(*pair, self.config.sampling_rate) for pair in recordings]
        data: dict[str, np.ndarray] = {}
        if text is not None:
            ids = tokenize_texts(
                text, audio_prompt_text, has_voice, self._write, self._encode, self.config.max_text_length
            )
            data |= {"input_ids": pad_rows(ids, self.config.pad_token_id), "attention_mask": _mask(ids)}
            voices = {name: match_rows(rows, len(ids), "voices") for name, rows in voices.items()}
        for name, rows in voices.items():
            key = f"{name}_codes" if name == "audio_prompt" else name
            data |= {key: pad_rows(rows, 0), f"{name}_mask": _mask(rows)}
        return data

    def _prompts(self, codes: Any) -> list[np.ndarray]:
        is_batch = np.ndim(codes[0]) == 2 if isinstance(codes, list) and codes else np.ndim(codes) == 3
        prompts = [np.asarray(row) for row in (codes if is_batch else [codes])]
        for prompt in prompts:
            if not np.issubdtype(prompt.dtype, np.integer):
                raise TypeError(f"`audio_prompt_codes` must hold integer codes, got {prompt.dtype}.")
            if prompt.ndim != 2 or prompt.shape[1] != self.config.num_codebooks or not len(prompt):
                raise ValueError(
                    f"Each of `audio_prompt_codes` must have shape (frames, {self.config.num_codebooks}) with at "
                    f"least one frame, got {prompt.shape}."
                )
        return [prompt.astype(np.int64) for prompt in prompts]

    def batch_decode(self, output: SmallEOnnxOutput) -> list[np.ndarray]:
        """Waveforms of an output, B arrays of shape `(samples,)`, float32, without their padding.

        Raises:
            ValueError: The output holds no audio.
        """
        if output.audio is None or output.audio_lengths is None:
            raise ValueError("The output holds no audio: call `generate(..., output_audio=True)`.")
        return [row[:length] for row, length in zip(output.audio, output.audio_lengths, strict=True)]

    def decode(self, output: SmallEOnnxOutput) -> np.ndarray:
        """The waveform of an output of one utterance, of shape `(samples,)`, float32.

        Raises:
            ValueError: There are several utterances, or no audio.
        """
        waveforms = self.batch_decode(output)
        if len(waveforms) != 1:
            raise ValueError(f"There are {len(waveforms)} waveforms: use `batch_decode`.")
        return waveforms[0]

    def save_audio(self, output: SmallEOnnxOutput, path: str | os.PathLike[str]) -> list[Path]:
        """Writes the waveforms of an output.

        Args:
            output ([`SmallEOnnxOutput`]): Output with audio.
            path (`str` or `os.PathLike`): A .wav, .flac or .ogg file for one waveform, or a folder that receives
                `000.wav`, `001.wav`, ...

        Raises:
            ValueError: The suffix is unknown, there are several waveforms for a file, or one is empty.
        """
        waveforms = self.batch_decode(output)
        path = Path(path)
        paths = [path / f"{index:03d}.wav" for index in range(len(waveforms))]
        if path.suffix and not path.is_dir():
            paths = [check_audio_path(path)]
        if len(paths) != len(waveforms):
            raise ValueError(f"There are {len(waveforms)} waveforms for one file: pass a folder.")
        rate = self.config.sampling_rate
        return [write_audio(waveform, entry, rate) for waveform, entry in zip(waveforms, paths, strict=True)]


def _mask(rows: list[np.ndarray]) -> np.ndarray:
    return pad_rows([np.ones(len(row), dtype=np.int64) for row in rows], 0)


__all__ = ["SmallEOnnxProcessor"]
