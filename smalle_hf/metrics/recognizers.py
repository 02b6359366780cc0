"""Speech recognizers for word error rates: pocketsphinx offline, Whisper online."""

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from .registry import SAMPLING_RATE, create_judge, downloading, listen
from .text import scoring_text


class SpeechRecognizer(Protocol):
    """Turns speech into text."""

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Transcribes mono speech `(samples,)`, full scale 1.0, at `sampling_rate` Hz; `""` where it hears nothing."""


class PocketsphinxRecognizer:
    """English recognizer whose models are part of the `pocketsphinx` package: no network, about 0.1 x real time.

    Its errors on clean read speech are many (generic: 20-45 %), so compare rates, never take one for itself. What it
    expects to hear decides how sharp it is:

    - `"generic"`: the package's English language model.
    - `"words"`: any order of the words of `texts`, each as likely as the other.
    - `"sentences"`: a trigram model of `texts`, with half of the probability for unexpected words of the same texts.
      By far the sharpest: it still hears words that are left out or doubled, but a wrong word that sounds similar
      may be read as the right one, so a low rate says "everything there, in order" more than "well pronounced".

    Args:
        language_model (`"generic"`, `"words"` or `"sentences"`, defaults to `"generic"`): What it expects to hear.
        texts (`Sequence[str]`): The sentences that will be heard; needed unless `"generic"`.

    Attributes:
        unknown_words (`list[str]`): Words of `texts` that the pronunciation dictionary lacks; they can never be heard.

    Raises:
        ImportError: pocketsphinx is not installed.
        ValueError: Unknown language model, or `texts` is needed and has no known word.
    """

    def __init__(
        self, language_model: Literal["generic", "words", "sentences"] = "generic", texts: Sequence[str] = ()
    ) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise ImportError("The recognizer pocketsphinx is not installed: pip install pocketsphinx.") from error
        if language_model not in ("generic", "words", "sentences"):
            raise ValueError(f"Unknown language model {language_model!r}: choose generic, words or sentences.")
        # Batch cepstral mean: the live one would let a transcription depend on the utterances before it.
        settings: dict[str, Any] = {"samprate": SAMPLING_RATE, "loglevel": "FATAL", "cmn": "batch"}
        self.decoder = Decoder(**settings) if language_model == "generic" else Decoder(lm=None, **settings)
        sentences = [scoring_text(text).split() for text in texts]
        self.unknown_words = sorted({word for words in sentences for word in words if not self._knows(word)})
        if language_model != "generic":
            known = [[word for word in words if self._knows(word)] for words in sentences]
            self._expect([words for words in known if words], language_model)

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Transcribes one utterance; see [`SpeechRecognizer`]."""
        speech = listen(waveform, sampling_rate)
        if not len(speech):
            return ""
        self.decoder.start_utt()
        self.decoder.process_raw((speech * 32767).astype("<i2").tobytes(), full_utt=True)
        self.decoder.end_utt()
        hypothesis = self.decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""

    def _knows(self, word: str) -> bool:
        return self.decoder.lookup_word(word) is not None

    def _expect(self, sentences: list[list[str]], language_model: str) -> None:
        if not sentences:
            raise ValueError(f"pocketsphinx:{language_model} needs the sentences that will be heard in `texts`.")
        arpa = _unigram_model(sentences) if language_model == "words" else _trigram_model(sentences)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "expected.arpa"
            path.write_text(arpa, encoding="utf-8")
            self.decoder.add_lm_file("expected", str(path))
        self.decoder.activate_search("expected")


def _unigram_model(sentences: list[list[str]]) -> str:
    words = sorted({word for words in sentences for word in words})
    share = math.log10(1 / (len(words) + 1))
    entries = ["-99 <s>", f"{share:.4f} </s>", *(f"{share:.4f} {word}" for word in words)]
    return "\n".join(["\\data\\", f"ngram 1={len(entries)}", "", "\\1-grams:", *entries, "", "\\end\\", ""])


def _trigram_model(sentences: list[list[str]]) -> str:
    from io import StringIO

    from pocketsphinx.lm import ArpaBoLM

    model = ArpaBoLM(text="\n".join(" ".join(words) for words in sentences), add_start=True)
    model.compute()
    arpa = StringIO()
    model.write(arpa)
    return arpa.getvalue()


class WhisperRecognizer:
    """Whisper through the Transformers pipeline: downloaded once from the Hub, or read from a folder.

    Args:
        checkpoint (`str`, defaults to `"openai/whisper-large-v3"`): Hub id or folder of a Whisper model.
        language (`str`, defaults to `"en"`): Language code given to multilingual checkpoints.
        device (`str`, defaults to `"cpu"`): Where it runs.

    Raises:
        RuntimeError: The checkpoint is neither local nor can it be downloaded.
    """

    def __init__(self, checkpoint: str = "openai/whisper-large-v3", language: str = "en", device: str = "cpu") -> None:
        from transformers import pipeline

        with downloading(f"Whisper {checkpoint!r}", "--recognizer pocketsphinx"):
            self.pipeline = pipeline("automatic-speech-recognition", model=checkpoint, device=device)
        generation = self.pipeline.model.generation_config
        self.generate_kwargs: dict[str, Any] = {}
        if getattr(generation, "is_multilingual", False):
            self.generate_kwargs = {"language": language, "task": "transcribe"}

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Transcribes one utterance; see [`SpeechRecognizer`]."""
        speech = listen(waveform, sampling_rate)
        if not len(speech):
            return ""
        # Whisper hears 30 s at a time; with time stamps the pipeline joins longer speech.
        long_form = len(speech) > 30 * SAMPLING_RATE
        result = self.pipeline(
            {"raw": speech, "sampling_rate": SAMPLING_RATE},
            return_timestamps=long_form,
            generate_kwargs=self.generate_kwargs,
        )
        return result["text"].strip()


RECOGNIZERS: dict[str, Callable[..., SpeechRecognizer]] = {
    "pocketsphinx": PocketsphinxRecognizer,
    "whisper": WhisperRecognizer,
}
"""Recognizers by name; `"pocketsphinx:words"` names a language model, `"whisper:DIR"` a checkpoint."""


def create_recognizer(
    name: str = "pocketsphinx", *, texts: Sequence[str] = (), language: str = "en", device: str = "cpu"
) -> SpeechRecognizer:
    """Builds a recognizer by name.

    Args:
        name (`str`, defaults to `"pocketsphinx"`): `"pocketsphinx"`, `"pocketsphinx:words"`,
            `"pocketsphinx:sentences"`, `"whisper"` or `"whisper:CHECKPOINT"`.
        texts (`Sequence[str]`): Sentences that will be heard, for the closed vocabularies of pocketsphinx.
        language (`str`, defaults to `"en"`): Language of the speech; pocketsphinx hears English only.
        device (`str`, defaults to `"cpu"`): Where Whisper runs.

    Raises:
        ImportError, RuntimeError, ValueError: The recognizer is unknown, not installed, not to be had, or does not
            hear this language.
    """
    if name.partition(":")[0] == "pocketsphinx":
        if language.split("-")[0] != "en":
            raise ValueError(f"pocketsphinx hears English only, not {language!r}: use --recognizer whisper.")
        return create_judge("recognizer", RECOGNIZERS, name, texts=texts)
    return create_judge("recognizer", RECOGNIZERS, name, language=language, device=device)


__all__ = ["RECOGNIZERS", "PocketsphinxRecognizer", "SpeechRecognizer", "WhisperRecognizer", "create_recognizer"]
