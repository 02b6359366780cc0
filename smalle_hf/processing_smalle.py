"""Processor of Small-E: text and voice prompts in, waveforms and audio files out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from .alignment import split_words
from .audio_files import as_recordings, check_audio_path, read_audio, resample_audio, write_audio
from .configuration_smalle import SmallEConfig
from .delay_pattern import check_codes
from .phonemes import IPA_CHARACTERS, phonemize
from .text_normalization import normalize_text
from .text_tokenizer import ENGLISH_CHARACTERS, character_tokenizer, train_tokenizer
from .written_text import match_rows, pad_rows, tokenize_texts, write_in_vocabulary

MASKS = {
    "input_ids": "attention_mask",
    "audio_prompt_codes": "audio_prompt_mask",
    "input_values": "input_values_mask",
}
"""What a batch may hold, and the name of the mask of each."""


class SmallEProcessor(ProcessorMixin):
    r"""
    Turns text and recordings into what [`SmallEForSpeechGeneration`] takes, and what it returns into waveforms.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): Text vocabulary; see [`SmallEProcessor.train`].
        language (`str`, defaults to `"en"`): Language of [`normalize_text`].
        sampling_rate (`int`, defaults to 24000): Rate of the model's audio in Hz.
        num_codebooks (`int`, defaults to 4): Codebooks Q of a voice prompt.
        codebook_size (`int`, defaults to 1024): Codes in each codebook.
        max_text_length (`int`, defaults to 2000): Longest text in tokens, begin and end included.
        phoneme_voice (`str`, *optional*): Voice of espeak-ng, such as `"en-us"`, whose phonemes the model reads in the
            place of letters; needs espeakng-loader. The model reads letters by default.

    Example:

    >>> from smalle_hf import SmallEProcessor

    >>> processor = SmallEProcessor.from_characters()
    >>> processor.normalize("Dr. Dolittle paid $3.")
    'doctor dolittle paid three dollars.'
    >>> inputs = processor(["Hello!", "How are you?"])
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        language: str = "en",
        sampling_rate: int = 24000,
        num_codebooks: int = 4,
        codebook_size: int = 1024,
        max_text_length: int = 2000,
        phoneme_voice: str | None = None,
    ) -> None:
        super().__init__(tokenizer)
        # Transformers notes here how it found the files, and would write that into the next copy of them.
        for note in ("is_local", "local_files_only"):
            tokenizer.init_kwargs.pop(note, None)
        self.language = language
        self.sampling_rate = sampling_rate
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.max_text_length = max_text_length
        self.phoneme_voice = phoneme_voice

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 256, language: str = "en", config: SmallEConfig | None = None
    ) -> "SmallEProcessor":
        """Learns a byte-pair vocabulary and builds a processor with it.

        Args:
            texts (`Iterable[str]`): Texts as they are written; they are normalised first. Given in the same order they
                yield the same vocabulary.
            vocab_size (`int`, defaults to 256): Entries; fewer come out of few texts.
            language (`str`, defaults to `"en"`): Language of the texts.
            config ([`SmallEConfig`], *optional*): The model's configuration, for rates and sizes.

        Raises:
            ValueError: There is no text, or `vocab_size` is too small, or larger than the model's.
        """
        tokenizer = train_tokenizer((normalize_text(text, language) for text in texts), vocab_size)
        return cls._for_model(tokenizer, language, config)

    @classmethod
    def from_characters(
        cls,
        characters: Iterable[str] = ENGLISH_CHARACTERS,
        language: str = "en",
        config: SmallEConfig | None = None,
    ) -> "SmallEProcessor":
        """Builds a processor whose vocabulary is single characters.

        Args:
            characters (`Iterable[str]`): Characters besides a-z, space and punctuation, which are always there.
            language (`str`, defaults to `"en"`): Language of the texts.
            config ([`SmallEConfig`], *optional*): The model's configuration, for rates and sizes.

        Raises:
            ValueError: An entry is not a single character, or there are more than the model has.
        """
        return cls._for_model(character_tokenizer(characters), language, config)

    @classmethod
    def from_phonemes(
        cls, phoneme_voice: str = "en-us", language: str = "en", config: SmallEConfig | None = None
    ) -> "SmallEProcessor":
        """Builds a processor that hands the model phonemes, a character of the phonetic alphabet each.

        Args:
            phoneme_voice (`str`, defaults to `"en-us"`): Voice of espeak-ng that says how words are pronounced.
            language (`str`, defaults to `"en"`): Language of the texts.
            config ([`SmallEConfig`], *optional*): The model's configuration, for rates and sizes.

        Raises:
            ImportError: espeakng-loader, which brings espeak-ng, is not installed.
            ValueError: espeak-ng has no such voice, or the vocabulary is larger than the model's.
        """
        phonemize("word", phoneme_voice)
        processor = cls._for_model(character_tokenizer(IPA_CHARACTERS), language, config)
        processor.phoneme_voice = phoneme_voice
        return processor

    @classmethod
    def _for_model(
        cls, tokenizer: PreTrainedTokenizerBase, language: str, config: SmallEConfig | None
    ) -> "SmallEProcessor":
        config = SmallEConfig(vocab_size=len(tokenizer)) if config is None else config
        processor = cls(
            tokenizer,
            language=language,
            sampling_rate=config.sampling_rate,
            num_codebooks=config.num_codebooks,
            codebook_size=config.codebook_size,
            max_text_length=config.max_text_length,
        )
        processor.check_model(config)
        return processor

    def check_model(self, config: SmallEConfig) -> None:
        """Refuses a model that this processor does not belong to.

        Args:
            config ([`SmallEConfig`]): The model's configuration.

        Raises:
            ValueError: The vocabulary is larger than the model's, or ids, rate or codebooks differ.
        """
        if len(self.tokenizer) > config.vocab_size:
            raise ValueError(
                f"Mismatched tokenizer: it has {len(self.tokenizer)} entries, the model {config.vocab_size}: load the "
                "processor from the model's own folder."
            )
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(self.tokenizer, name) != getattr(config, name):
                raise ValueError(
                    f"Mismatched tokenizer: its `{name}` is {getattr(self.tokenizer, name)}, the model's "
                    f"{getattr(config, name)}: load the processor from the model's own folder."
                )
        for name in ("sampling_rate", "num_codebooks", "codebook_size"):
            if getattr(self, name) != getattr(config, name):
                raise ValueError(
                    f"Mismatched processor: its `{name}` is {getattr(self, name)}, the model's "
                    f"{getattr(config, name)}: load the processor from the model's own folder."
                )

    def normalize(self, text: str) -> str:
        """Writes a text as the model reads it: spoken words, in the letters of the vocabulary or in phonemes.

        Args:
            text (`str`): Any text.

        Returns:
            `str`: What decoding the text's tokens gives back. A letter that the vocabulary lacks is replaced by its
            plain form (é by e) or dropped with a warning.

        Raises:
            ImportError: The model reads phonemes, and espeakng-loader is not installed.
        """
        return self._normalize_batch([text])[0]

    def num_tokens(self, text: str) -> int:
        """Length of a text in tokens, begin and end included."""
        return len(self.tokenizer(self.normalize(text))["input_ids"])

    def words(self, text: str) -> list[str]:
        """Words of a text as they are spoken, in letters: the n-th is the n-th word of [`SmallEProcessor.normalize`].

        Args:
            text (`str`): Any text.
        """
        return split_words(normalize_text(text, self.language))

    def _normalize_batch(self, texts: Sequence[str]) -> list[str]:
        tokenizer = self.tokenizer
        return write_in_vocabulary(
            texts, tokenizer.backend_tokenizer, self.language, self.phoneme_voice, tokenizer.unk_token_id
        )

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        audio: Any = None,
        sampling_rate: int | None = None,
        audio_prompt_codes: Any = None,
        audio_prompt_text: str | Sequence[str] | None = None,
        return_tensors: str | None = "pt",
        padding: bool = True,
    ) -> BatchFeature:
        """Prepares texts, and voices to speak them in, for `generate`.

        Args:
            text (`str` or `list[str]`, *optional*): What to say, B texts.
            audio (*optional*): Recording of the voice, or a list of them: a path, samples of shape `(samples,)` or
                `(channels, samples)`, or a dictionary with `array` and `sampling_rate`. Any rate and channel count.
                One recording serves every text.
            sampling_rate (`int`, *optional*): Rate in Hz of recordings given as samples.
            audio_prompt_codes (*optional*): The voice as codec codes instead: integers of shape `(T, Q)` or
                `(B, T, Q)`, or a list of `(T_i, Q)` arrays.
            audio_prompt_text (`str` or `list[str]`, *optional*): What is said in the recording. It is put before the
                text, for the model goes on where the recording ends; `""` if `text` holds it already.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"`, `"np"`, or `None` for lists.
            padding (`bool`, defaults to `True`): Whether to pad rows on the right to the longest one.

        Returns:
            [`BatchFeature`] with `input_ids` and `attention_mask` (B, S); for codes also `audio_prompt_codes`
            (B, T, Q) and `audio_prompt_mask` (B, T); for audio `input_values` (B, samples) at the model's rate and
            `input_values_mask`. Masks are 1 for content, 0 for padding.

        Raises:
            TypeError: A text, recording or code is of the wrong type.
            ValueError: There is nothing to do, a text is empty or too long, the numbers of texts and voices differ,
                codes are out of range or of a wrong shape, or audio is empty, not finite, or without a rate.
        """
        if text is None and audio is None and audio_prompt_codes is None:
            raise ValueError("There is nothing to process: pass `text`, `audio` or `audio_prompt_codes`.")
        if audio is not None and audio_prompt_codes is not None:
            raise ValueError("The voice is given twice: pass `audio` or `audio_prompt_codes`, not both.")
        if audio_prompt_text is not None and (text is None or (audio is None and audio_prompt_codes is None)):
            raise ValueError("`audio_prompt_text` needs `text` and the voice that says it: `audio` or its codes.")
        rows: dict[str, list[np.ndarray]] = {}
        recordings: list[Any] = []
        if audio_prompt_codes is not None:
            rows["audio_prompt_codes"] = self._check_prompt_codes(audio_prompt_codes)
        elif audio is not None:
            recordings = as_recordings(audio)
        if text is not None:
            has_voice = audio is not None or audio_prompt_codes is not None
            rows["input_ids"] = tokenize_texts(
                text,
                audio_prompt_text,
                has_voice,
                self._normalize_batch,
                lambda spoken: self.tokenizer(spoken)["input_ids"],
                self.max_text_length,
            )
        if audio is not None:
            decoded = [read_audio(recording, sampling_rate) for recording in recordings]
            rows["input_values"] = [resample_audio(*pair, self.sampling_rate) for pair in decoded]
        return self._collate(rows, return_tensors, padding)

    def _check_prompt_codes(self, codes: Any) -> list[np.ndarray]:
        config = SmallEConfig(num_codebooks=self.num_codebooks, codebook_size=self.codebook_size)
        try:
            is_batch = np.ndim(codes[0]) == 2 if isinstance(codes, list) and codes else np.ndim(codes) == 3
            prompts = [torch.as_tensor(row) for row in (codes if is_batch else [codes])]
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                "`audio_prompt_codes` must be integers of shape (T, Q) or a list of such arrays."
            ) from None
        for prompt in prompts:
            check_codes(prompt, config, "audio_prompt_codes")
            if prompt.ndim != 2 or not len(prompt):
                raise ValueError(
                    f"Each of `audio_prompt_codes` must have shape (frames, {self.num_codebooks}) with at least one "
                    f"frame, got {tuple(prompt.shape)}."
                )
        return [prompt.long().cpu().numpy() for prompt in prompts]

    def _collate(self, rows: dict[str, list[np.ndarray]], return_tensors: str | None, padding: bool) -> BatchFeature:
        num_texts = len(rows.get("input_ids", []))
        data: dict[str, Any] = {}
        for name, mask_name in MASKS.items():
            if name not in rows:
                continue
            batch = match_rows(rows[name], num_texts, "voices") if num_texts else rows[name]
            mask = [np.ones(len(row), dtype=np.int64) for row in batch]
            padding_value = self.tokenizer.pad_token_id if name == "input_ids" else 0
            data[name] = pad_rows(batch, padding_value) if padding else batch
            data[mask_name] = pad_rows(mask, 0) if padding else mask
        if return_tensors is None:
            data = {name: [row.tolist() for row in batch] for name, batch in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def batch_decode(self, audio: Any, audio_lengths: Any = None) -> list[np.ndarray]:
        """Separates a batch of waveforms.

        Args:
            audio (`SmallEGenerateOutput`, `torch.Tensor`, `np.ndarray` or a list of these): What `generate` returned
                with `output_audio=True`, or waveforms of shape `(B, samples)` or `(samples,)`.
            audio_lengths (`torch.Tensor` of shape `(B,)`, *optional*): Samples of each row; the output's own if it has
                any, else all.

        Returns:
            `list[np.ndarray]`: B waveforms of shape `(samples,)`, float32, without their padding.

        Raises:
            TypeError: The audio is no floating point waveform: codes are decoded by the model's `decode_audio`.
            ValueError: A `generate` output holds no audio, or the shape is wrong.
        """
        if isinstance(audio, Mapping) or hasattr(audio, "audio"):
            output = audio if isinstance(audio, Mapping) else vars(audio)
            audio = output.get("audio")
            audio_lengths = output.get("audio_lengths") if audio_lengths is None else audio_lengths
            if audio is None:
                raise ValueError("The output holds no audio: call `generate(..., output_audio=True)`.")
        batch = [_as_waveform(row) for row in (audio if isinstance(audio, (list, tuple)) else _as_rows(audio))]
        if audio_lengths is None:
            return batch
        lengths = [int(length) for length in audio_lengths]
        if len(lengths) != len(batch):
            raise ValueError(f"There are {len(lengths)} `audio_lengths` for {len(batch)} waveforms.")
        return [row[:length] for row, length in zip(batch, lengths, strict=True)]

    def decode(self, audio: Any) -> np.ndarray:
        """Takes one waveform out of a `generate` output or an array.

        Args:
            audio: As in [`SmallEProcessor.batch_decode`], one utterance.

        Returns:
            `np.ndarray` of shape `(samples,)`, float32.

        Raises:
            ValueError: There are several utterances.
        """
        waveforms = self.batch_decode(audio)
        if len(waveforms) != 1:
            raise ValueError(f"There are {len(waveforms)} waveforms: use `batch_decode`.")
        return waveforms[0]

    def save_audio(
        self, audio: Any, path: str | os.PathLike | Sequence[str | os.PathLike], sampling_rate: int | None = None
    ) -> list[Path]:
        """Writes waveforms to files, each first under a temporary name.

        Args:
            audio: As in [`SmallEProcessor.batch_decode`].
            path (`str`, `Path` or a list of them): A file for one waveform, a list of files, or a folder that receives
                `000.wav`, `001.wav`, ... The suffix .wav, .flac or .ogg says the format.
            sampling_rate (`int`, *optional*): Rate in Hz, the model's by default.

        Returns:
            `list[Path]`: The files.

        Raises:
            ValueError: The suffix is unknown, the numbers of waveforms and files differ, or a waveform is empty or not
                finite.
        """
        waveforms = self.batch_decode(audio)
        if not isinstance(path, (str, os.PathLike)):
            paths = [Path(entry) for entry in path]
        elif Path(path).is_dir() or not Path(path).suffix:
            paths = [Path(path) / f"{index:03d}.wav" for index in range(len(waveforms))]
        else:
            paths = [Path(path)]
        if len(paths) != len(waveforms):
            raise ValueError(f"There are {len(waveforms)} waveforms for {len(paths)} files: pass a folder or a list.")
        for entry in paths:
            check_audio_path(entry)
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        return [write_audio(waveform, entry, rate) for waveform, entry in zip(waveforms, paths, strict=True)]


def _as_rows(audio: Any) -> Iterable[Any]:
    """Rows of an array of shape `(B, samples)`, `(B, 1, samples)` or `(samples,)`."""
    return [audio] if np.ndim(audio) < 2 else audio


def _as_waveform(row: Any) -> np.ndarray:
    waveform = (
        row.detach().float().cpu().numpy() if torch.is_tensor(row) and row.is_floating_point() else np.asarray(row)
    )
    if not np.issubdtype(waveform.dtype, np.floating):
        raise TypeError(f"Waveforms are floating point, got {waveform.dtype}: decode codes with `model.decode_audio`.")
    if waveform.ndim == 2 and waveform.shape[0] == 1:
        waveform = waveform[0]
    if waveform.ndim != 1:
        raise ValueError(f"A waveform has shape (samples,), got {waveform.shape}: pass mono audio.")
    return waveform.astype(np.float32, copy=False)


# A saved folder carries this code along, for processes without the package.
SmallEProcessor.register_for_auto_class()

__all__ = ["SmallEProcessor"]
