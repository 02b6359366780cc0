"""Speech for an evaluation: sentences spoken by a model, with their alignments and the time it takes."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from evaluation_sentences import Sentence
from tqdm import tqdm

from smalle_hf import SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.alignment import map_tokens_to_words, split_words
from smalle_hf.audio_files import read_audio, resample_audio
from smalle_hf.data.collator import SmallECollator
from smalle_hf.metrics import CodebookPerplexity, RealTimeFactor, codebook_nats
from smalle_hf.voice_files import load_voice

LISTENING_RATE = 16000
"""Rate in Hz to which all speech is brought before it is judged."""


@dataclass
class Utterance:
    """The speech of one sentence.

    Attributes:
        sentence ([`Sentence`]): What should have been said.
        speech (`np.ndarray` of shape `(samples,)`): At 16 kHz; empty if none came out.
        reference (`np.ndarray` of shape `(samples,)`, *optional*): The original recording at 16 kHz.
        ended (`bool`, *optional*): Whether the model ended by itself, and not at its limit of frames; `None` for
            files.
        alignment (`torch.Tensor` of shape `(T, S)`): The model's alignment; empty if there is none.
        token_to_word (`torch.LongTensor` of shape `(S,)`): Word of each token; -1 for none and for the prompt's.
        words (`list[str]`): The words that `token_to_word` numbers.
        files (`dict[str, str]`): Paths below the output folder, for the report.
    """

    sentence: Sentence
    speech: np.ndarray
    reference: np.ndarray | None = None
    ended: bool | None = None
    alignment: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    token_to_word: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    words: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def listen(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Speech `(samples,)` at the rate of the judges; empty speech stays empty."""
    return resample_audio(waveform, sampling_rate, LISTENING_RATE) if len(waveform) else waveform


def progress(steps: Iterable[Any], description: str, total: int | None = None) -> tqdm:
    """Progress bar on stderr; silent where that is not a terminal."""
    return tqdm(steps, desc=description, total=total, disable=None)


class Speaker:
    """Speaks sentences with a model and measures how long it takes.

    Args:
        folder (`str`): Checkpoint folder or Hub id, with a codec inside.
        device (`str`): Where it runs.
        seed (`int`): Sentence number i is sampled with `seed + i`.
        options (`Mapping[str, Any]`): Further options of `generate`.

    Attributes:
        speed ([`RealTimeFactor`]): Collects what every batch takes, the decoding of the codes included.

    Raises:
        OSError: The checkpoint cannot be read.
        ValueError: It holds no codec, or a processor of another model.
    """

    def __init__(self, folder: str, device: str, seed: int, options: Mapping[str, Any]) -> None:
        try:
            self.model = SmallEForSpeechGeneration.from_pretrained(folder).to(device).eval()
            self.processor = SmallEProcessor.from_pretrained(folder)
        except OSError as error:
            reason = str(error).partition("\n")[0]
            raise OSError(
                f"Cannot load model and processor from {folder!r}, as a folder or Hub id: {reason}"
            ) from error
        self.processor.check_model(self.model.config)
        if self.model.codec_model is None:
            raise ValueError(f"{folder} holds no codec, so it cannot be heard: save one with the model.")
        self.folder = folder
        self.seed = seed
        self.options = dict(options)
        self.speed = RealTimeFactor(keep_in_memory=True)

    def speak(self, numbered: Sequence[tuple[int, Sentence]]) -> list[tuple[Utterance, np.ndarray]]:
        """Speaks one batch: all of it with a recorded prompt, with a voice of the checkpoint, or with neither.

        Args:
            numbered (`Sequence[tuple[int, Sentence]]`): Sentences with their place in the list, which gives the seed.

        Returns:
            The utterances, and each one's waveform at the model's rate.
        """
        sentences = [sentence for _, sentence in numbered]
        inputs: dict[str, Any] = {"text": [sentence.text for sentence in sentences]}
        if sentences[0].prompt:
            inputs["audio"] = [sentence.prompt for sentence in sentences]
            inputs["audio_prompt_text"] = [sentence.prompt_text for sentence in sentences]
        elif sentences[0].voice:
            voices = [self.voice(sentence) for sentence in sentences]
            inputs |= {name: [voice[name] for voice in voices] for name in voices[0]}
        batch = self.processor(**inputs).to(self.model.device)
        start = time.perf_counter()
        output = self.model.generate(
            **batch, seed=[self.seed + number for number, _ in numbered], return_alignments=True, **self.options
        )
        lengths = output.audio_lengths.tolist()
        audio = [row[:length].float().cpu().numpy() for row, length in zip(output.audio, lengths, strict=True)]
        seconds = sum(lengths) / self.model.config.sampling_rate
        self.speed.add(generation_seconds=time.perf_counter() - start, audio_seconds=seconds)
        utterances = []
        for index, sentence in enumerate(sentences):
            tokens = int(batch["attention_mask"][index].sum())
            frames = int(output.sequence_lengths[index])
            utterance = Utterance(sentence, listen(audio[index], self.model.config.sampling_rate))
            utterance.ended = bool(output.is_finished[index])
            utterance.alignment = output.alignments[index, :frames, :tokens].float().cpu()
            utterance.token_to_word = self.token_to_word(sentence)
            utterance.words = self.processor.words(sentence.text)
            utterances.append(utterance)
        return list(zip(utterances, audio, strict=True))

    def voice(self, sentence: Sentence) -> dict[str, Any]:
        """The checkpoint's voice that a sentence names, as the processor takes it."""
        return dict(load_voice(self.folder, str(sentence.voice)))

    def token_to_word(self, sentence: Sentence) -> torch.Tensor:
        """Word of each text token of a sentence, `(S,)`; -1 for tokens of the prompt's text."""
        prompt, text = self._model_text(sentence)
        offsets = self.processor.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        return (map_tokens_to_words(text, offsets) - len(split_words(prompt))).clamp(min=-1)

    def _model_text(self, sentence: Sentence) -> tuple[str, str]:
        """Transcript of the voice prompt, and the whole text, as the processor hands them to the tokenizer."""
        said = sentence.prompt_text if sentence.prompt else ""
        if sentence.voice and not sentence.prompt:
            said = self.voice(sentence)["audio_prompt_text"]
        prompt = self.processor.normalize(said) if said else ""
        return prompt, f"{prompt} {self.processor.normalize(sentence.text)}".strip()

    def labels(self, sentence: Sentence) -> list[str]:
        """Text of each token, for the alignment picture."""
        ids = self.processor.tokenizer(self._model_text(sentence)[1])["input_ids"]
        return self.processor.tokenizer.convert_ids_to_tokens(ids)

    def perplexity(self, utterances: Sequence[Utterance]) -> dict[str, Any]:
        """Perplexity of the codes of the original recordings, teacher-forced, one recording at a time."""
        metric = CodebookPerplexity(keep_in_memory=True)
        collator = SmallECollator(self.model.config, self.processor)
        for utterance in progress(utterances, "perplexity"):
            waveform = resample_audio(*read_audio(utterance.sentence.reference), self.model.config.sampling_rate)
            codes, _ = self.model.encode_audio(torch.from_numpy(waveform)[None].to(self.model.device))
            batch = collator([{"codes": codes[0].cpu().numpy(), "text": utterance.sentence.text}])
            with torch.inference_mode():
                output = self.model(**{name: value.to(self.model.device) for name, value in batch.items()})
            nats, counts = codebook_nats(output.logits, batch["labels"].to(output.logits.device))
            metric.add(nats=nats.tolist(), counts=counts.tolist())
        return metric.compute()


__all__ = ["LISTENING_RATE", "Speaker", "Utterance", "listen", "progress"]
