"""Metrics of speech synthesis as `evaluate.Metric` classes.

They are constructed directly (`WordErrorRate()`), so nothing is looked up on a network. What listens is chosen by
name:

| role          | offline, from PyPI                                              | online                         |
|---------------|-----------------------------------------------------------------|--------------------------------|
| recognizer    | `pocketsphinx`, `pocketsphinx:words`, `pocketsphinx:sentences`  | `whisper`, `whisper:CHECKPOINT` |
| speaker model | `resemblyzer`                                                   | `wavlm`, `wavlm:CHECKPOINT`     |
| MOS model     | `speechmos`                                                     | `utmos`                         |
"""

from .judged_speech import MeanOpinionScore, RealTimeFactor, SpeakerSimilarity
from .mos_models import MOS_MODELS, MosModel, create_mos_model
from .perplexity import CodebookPerplexity, codebook_nats
from .recognizers import RECOGNIZERS, SpeechRecognizer, create_recognizer
from .skip_repeat import AlignmentSkipRepeat, RecognizerSkipRepeat, WordRuns, find_word_runs
from .speaker_models import SPEAKER_MODELS, SpeakerModel, create_speaker_model
from .text import scoring_text
from .word_error_rate import WordErrorRate

__all__ = [
    "MOS_MODELS",
    "RECOGNIZERS",
    "SPEAKER_MODELS",
    "AlignmentSkipRepeat",
    "CodebookPerplexity",
    "MeanOpinionScore",
    "MosModel",
    "RealTimeFactor",
    "RecognizerSkipRepeat",
    "SpeakerModel",
    "SpeakerSimilarity",
    "SpeechRecognizer",
    "WordErrorRate",
    "WordRuns",
    "codebook_nats",
    "create_mos_model",
    "create_recognizer",
    "create_speaker_model",
    "find_word_runs",
    "scoring_text",
]
