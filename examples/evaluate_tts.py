"""Evaluates a text-to-speech model, or speech files that exist: error rates, skips and repeats, voice, quality, speed.

    python examples/evaluate_tts.py sentences.txt results/ --model checkpoints/my-small-e
    python examples/evaluate_tts.py manifest.jsonl results/ --model checkpoints/my-small-e --limit 100 --batch-size 16
    python examples/evaluate_tts.py sentences.tsv results/ --model DIR --voice voice.wav --voice-text "What it says."
    python examples/evaluate_tts.py manifest.jsonl results/ --audio-dir resynthesized/
    python examples/evaluate_tts.py sentences.txt results/ --model DIR --recognizer whisper --mos-model utmos

SENTENCES is a .txt file (one sentence per line), a .tsv file or a .jsonl file with `text` and optionally `id`,
`reference` (or `path`: the original recording of the text, for comparison), and a voice: `prompt` and `prompt_text` (a
recording to go on from) or `voice` (a voice of the checkpoint by its name). With --audio-dir, the speech of a sentence
is the file ID.wav, ID.flac or ID.ogg in that folder.

RESULTS gets results.json, report.html (open it in a browser), the speech and the alignment pictures. What a sentence
sounds like depends on the model, the text, the voice and the seed, not on the other sentences or the batch size.

With pocketsphinx only differences mean something: compare with the original recordings or with another system. The
default here expects the very sentences: it hears words that are missing or said twice, but forgives a bad
pronunciation. `--recognizer pocketsphinx` knows nothing of the sentences.

Exit codes: 0 done; 1 something is wrong with the input, a model or a package (one line on stderr); 2 wrong arguments.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from evaluation_report import format_summary, write_results
from evaluation_scores import Scores
from evaluation_sentences import Sentence, read_sentences
from evaluation_speech import Speaker, Utterance, listen, progress
from transformers.utils import logging as transformers_logging

from smalle_hf.alignment import plot_alignment
from smalle_hf.audio_files import FORMATS, read_audio, write_audio
from smalle_hf.metrics import MeanOpinionScore, SpeakerSimilarity, SpeechRecognizer, create_recognizer
from smalle_hf.voice_files import load_voice


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line; `--help` describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", type=Path, metavar="SENTENCES", help="list of sentences: .txt, .tsv or .jsonl")
    parser.add_argument("output", type=Path, metavar="RESULTS", help="folder to write; earlier results are replaced")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="DIR", help="checkpoint folder or Hub id: speak the sentences with it")
    source.add_argument("--audio-dir", type=Path, metavar="DIR", help="judge the files ID.wav, ID.flac or ID.ogg here")
    parser.add_argument("--limit", type=int, help="only the first so many sentences")
    parser.add_argument("--language", default="en", help="language of the sentences (default: %(default)s)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s"
    )
    _add_speaking_arguments(parser.add_argument_group("speaking (with --model)"))
    _add_judging_arguments(parser.add_argument_group("judging"))
    options = parser.parse_args(arguments)
    for name in ("limit", "batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def _add_speaking_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--batch-size", type=int, default=8, help="sentences at a time (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="sentence number i gets seed + i (default: %(default)s)")
    group.add_argument("--voice", help="a voice of the checkpoint, or a recording, for the sentences without one")
    group.add_argument("--voice-text", default="", help="what is said in --voice")
    group.add_argument(
        "--generate",
        action="append",
        default=[],
        type=_generate_option,
        metavar="NAME=VALUE",
        help="option of generate(), such as temperature=0.8 or max_new_tokens=500; may be given several times",
    )


def _add_judging_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--recognizer",
        default="pocketsphinx:sentences",
        help="pocketsphinx, pocketsphinx:words, pocketsphinx:sentences, whisper or whisper:CHECKPOINT "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--speaker-model",
        default="resemblyzer",
        help="resemblyzer, wavlm, wavlm:CHECKPOINT or none (default: %(default)s)",
    )
    group.add_argument("--mos-model", default="speechmos", help="speechmos, utmos or none (default: %(default)s)")


def _generate_option(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def batches(sentences: Sequence[Sentence], size: int) -> Iterator[list[tuple[int, Sentence]]]:
    """Sentences with their place in the list, `size` at a time; the rows of a batch have the same kind of voice."""
    for kind in ((False, False), (False, True), (True, False), (True, True)):
        rows = [item for item in enumerate(sentences) if (bool(item[1].prompt), bool(item[1].voice)) == kind]
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def speak_sentences(speaker: Speaker, sentences: Sequence[Sentence], size: int, output: Path) -> list[Utterance]:
    """Speaks all sentences and writes audio and alignment pictures below `output`, in the order of the list."""
    spoken: dict[int, Utterance] = {}
    frame_rate = float(speaker.model.config.frame_rate)
    with progress((), "speaking", total=len(sentences)) as bar:
        for batch in batches(sentences, size):
            for (number, sentence), (utterance, audio) in zip(batch, speaker.speak(batch), strict=True):
                if len(audio):
                    path = write_audio(audio, output / "audio" / f"{sentence.id}.wav", speaker.processor.sampling_rate)
                    utterance.files["audio"] = path.relative_to(output).as_posix()
                if len(utterance.alignment):
                    picture = output / "alignments" / f"{sentence.id}.png"
                    picture.parent.mkdir(exist_ok=True)
                    plot_alignment(utterance.alignment, speaker.labels(sentence), picture, frame_rate)
                    utterance.files["alignment"] = picture.relative_to(output).as_posix()
                spoken[number] = utterance
            bar.update(len(batch))
    return [spoken[number] for number in range(len(sentences))]


def find_speech(folder: Path, sentences: Sequence[Sentence]) -> list[Path]:
    """The audio file of each sentence in a folder.

    Raises:
        FileNotFoundError: A sentence has none.
    """
    candidates = ((sentence.id, folder / f"{sentence.id}{suffix}") for sentence in sentences for suffix in FORMATS)
    files = {id_: path for id_, path in candidates if path.is_file()}
    if missing := [sentence.id for sentence in sentences if sentence.id not in files]:
        raise FileNotFoundError(
            f"{folder} lacks the speech of {len(missing)} of {len(sentences)} sentences, such as {missing[0]}.wav."
        )
    return [files[sentence.id] for sentence in sentences]


def read_speech(files: Sequence[Path], sentences: Sequence[Sentence], output: Path) -> list[Utterance]:
    """Reads the speech of all sentences and copies it below `output`.

    Raises:
        ValueError: A file is no audio, or empty.
    """
    utterances = []
    for file, sentence in zip(progress(files, "reading"), sentences, strict=True):
        waveform, rate = read_audio(file)
        path = write_audio(waveform, output / "audio" / f"{sentence.id}.wav", rate)
        files_below = {"audio": path.relative_to(output).as_posix()}
        utterances.append(Utterance(sentence, listen(waveform, rate), files=files_below))
    return utterances


def add_references(utterances: Sequence[Utterance], output: Path) -> None:
    """Reads the original recordings and copies them below `output`."""
    for utterance in utterances:
        if utterance.sentence.reference:
            waveform, rate = read_audio(utterance.sentence.reference)
            utterance.reference = listen(waveform, rate)
            path = write_audio(waveform, output / "reference" / f"{utterance.sentence.id}.wav", rate)
            utterance.files["reference"] = path.relative_to(output).as_posix()


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Speaks or reads, judges, and writes the results; see `parse_arguments` for the options.

    Returns:
        `dict`: What results.json holds: `settings`, `summary` and `sentences`.
    """
    sentences, left_out = read_sentences(options.sentences, options.language, options.limit)
    sentences = with_voice(sentences, options.voice, options.voice_text, options.model)
    files = find_speech(options.audio_dir, sentences) if options.audio_dir else []
    # The judges first: they fail in seconds, the speaking may take hours.
    texts = [sentence.text for sentence in sentences]
    recognizer = create_recognizer(options.recognizer, texts=texts, language=options.language, device=options.device)
    warn_of_unknown_words(recognizer)
    memory = {"device": options.device, "keep_in_memory": True}
    voices = None if options.speaker_model == "none" else SpeakerSimilarity(options.speaker_model, **memory)
    opinions = None if options.mos_model == "none" else MeanOpinionScore(options.mos_model, **memory)
    speaker = Speaker(options.model, options.device, options.seed, dict(options.generate)) if options.model else None

    for name in ("audio", "alignments", "reference"):
        shutil.rmtree(options.output / name, ignore_errors=True)
    if speaker:
        utterances = speak_sentences(speaker, sentences, options.batch_size, options.output)
    else:
        utterances = read_speech(files, sentences, options.output)
    add_references(utterances, options.output)

    scores = Scores(utterances)
    scores.add_words(recognizer, options.language)
    # A metric without stored examples is false.
    if voices is not None:
        scores.add_voices(voices)
    if opinions is not None:
        scores.add_opinions(opinions)
    if speaker:
        scores.add_alignments(float(speaker.model.config.frame_rate))
        scores.summary |= speaker.speed.compute()
        if originals := [utterance for utterance in utterances if utterance.reference is not None]:
            scores.summary |= speaker.perplexity(originals)
    scores.summary["num_left_out"] = left_out
    names = ("model", "audio_dir", "sentences", "recognizer", "speaker_model", "mos_model", "seed", "batch_size")
    settings: dict[str, Any] = {name: str(value) for name in names if (value := getattr(options, name)) is not None}
    settings |= {"voice": Path(options.voice).name} if options.voice else {}
    settings |= {"generate": dict(options.generate)} if options.generate else {}
    results = {"settings": settings, "summary": scores.summary, "sentences": scores.rows}
    write_results(options.output, results)
    return results


def with_voice(sentences: list[Sentence], voice: str | None, text: str, model: str | None) -> list[Sentence]:
    """Gives a voice, by name or as a recording, to the sentences that have none.

    Raises:
        FileNotFoundError: A recording does not exist.
        ValueError: The model has no voice of a name.
    """
    given: dict[str, Any]
    if voice and Path(voice).is_file():
        given = {"prompt": Path(voice), "prompt_text": text}
    elif voice and Path(voice).suffix:
        raise FileNotFoundError(f"The voice {voice} does not exist.")
    else:
        given = {"voice": voice}
    sentences = [item if item.prompt or item.voice else replace(item, **given) for item in sentences]
    if model is not None:
        for name in {item.voice for item in sentences if item.voice and not item.prompt}:
            load_voice(model, name)
    return sentences


def warn_of_unknown_words(recognizer: SpeechRecognizer) -> None:
    """Says on stderr which words of the sentences the recognizer can never hear."""
    if unknown := getattr(recognizer, "unknown_words", []):
        shown = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        print(
            f"The recognizer's dictionary lacks {len(unknown)} words, which count as errors: {shown}", file=sys.stderr
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = parse_arguments(arguments)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        results = evaluate(options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"evaluate_tts.py: {error}", file=sys.stderr)
        return 1
    print(format_summary(results["summary"]))
    print(f"\nReport: {options.output / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
