"""`smalle speak`: text to speech, sentence by sentence."""

import argparse
import math
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .. import SmallEForSpeechGeneration, SmallEProcessor
from ..sentences import join_speech, pause_after, split_text
from ..voice_files import list_voices, load_voice, read_codes
from .checkpoints import find_checkpoint, load_speaker
from .delivery import STDOUT, check_delivery, deliver_audio


def run(options: argparse.Namespace) -> int:
    """Speaks what the command line says; returns the exit code.

    Raises:
        OSError: A file, a checkpoint or the player is not there or cannot be used.
        ValueError: An input makes no sense; the message says which.
    """
    text = read_text(options.text)
    player = check_delivery(options.output, options.play)
    checkpoint = find_checkpoint(options.model, "--model")
    model, processor = load_speaker(checkpoint, options.device)
    voice = choose_voice(model, processor, checkpoint, options)
    started = time.perf_counter()
    pieces = split_for_model(text, processor, str(voice.get("audio_prompt_text", "")))
    waveforms, pauses = [], []
    progress = tqdm(pieces, desc="speaking", unit="sentence", file=sys.stderr, disable=None, leave=False)
    for piece, waveform in zip(progress, speak_pieces(pieces, model, processor, voice, options), strict=False):
        waveforms.append(waveform)
        pauses.append(pause_after(piece))
    rate = model.config.sampling_rate
    speech = join_speech(waveforms, pauses, rate)
    if not speech.size:
        raise ValueError("The model said nothing: try another --seed, or a longer text.")
    took = time.perf_counter() - started
    deliver_audio(speech, rate, options.output, player)
    place = {None: "played", STDOUT: "stdout"}.get(options.output, options.output)
    print(
        f"{place}: {len(speech) / rate:.2f} s of speech, {len(waveforms)} of {len(pieces)} sentences, spoken in "
        f"{took:.1f} s",
        file=sys.stderr,
    )
    return 0


def read_text(argument: str) -> str:
    """The text of the command line, or that on standard input.

    Raises:
        ValueError: It is empty, or not UTF-8.
    """
    text = argument
    if argument == "-":
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"The text on standard input is not UTF-8 ({error.reason}): convert it.") from None
    if not any(map(str.isalnum, text)):
        raise ValueError("There is nothing to say: pass at least one word.")
    return text


def choose_voice(
    model: SmallEForSpeechGeneration, processor: SmallEProcessor, checkpoint: str, options: argparse.Namespace
) -> dict[str, Any]:
    """The voice that the command line names, as the processor takes it; empty if there is none.

    Raises:
        OSError: The recording is not there or cannot be read.
        ValueError: The checkpoint has no such voice, or a transcript is given for a voice that has its own.
    """
    name = options.voice
    if name is None:
        voices = list_voices(checkpoint)
        return dict(load_voice(checkpoint, voices[0])) if voices else {}
    path = Path(name).expanduser()
    is_recording = path.is_file() and path.suffix != ".safetensors"
    if options.voice_text is not None and not is_recording:
        raise ValueError(f"--voice-text goes with a recording, and {name} is none: the voices have their own texts.")
    if is_recording:
        codes, _ = model.encode_audio(processor(audio=str(path)).input_values.to(model.device))
        # Without a transcript the processor warns that speech may stumble; "" would silence that.
        voice = {"audio_prompt_codes": codes[0].cpu(), "audio_prompt_text": options.voice_text}
        return {key: value for key, value in voice.items() if value is not None}
    if path.is_file():
        codes, metadata = read_codes(path)
        return {"audio_prompt_codes": codes, "audio_prompt_text": metadata.get("text", "")}
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"There is no recording {name}: check the path.")
    return dict(load_voice(checkpoint, name))


def split_for_model(text: str, processor: SmallEProcessor, transcript: str = "") -> list[str]:
    """Sentences of a text, or parts of them, that the model can speak at once.

    Args:
        text (`str`): Any text.
        processor ([`SmallEProcessor`]): Gives the length of a text in tokens, and the longest that may be.
        transcript (`str`): Text of the voice, which goes before each.

    Raises:
        ValueError: Nothing of the text can be spoken, or the voice's text leaves no room.
    """

    def fits(piece: str) -> bool:
        normalized = processor.normalize(f"{transcript} {piece}")
        return len(processor.tokenizer(normalized)["input_ids"]) <= processor.max_text_length

    with warnings.catch_warnings():
        # What is left out of the vocabulary is reported when the piece is spoken.
        warnings.simplefilter("ignore")
        if not fits("a word"):
            raise ValueError("The voice's text leaves no room for another one: use a shorter recording.")
        pieces = split_text(text, fits)
        can_speak = [any(map(str.isalnum, processor.normalize(piece))) for piece in pieces]
    spoken = [piece for piece, can in zip(pieces, can_speak, strict=True) if can]
    if not spoken:
        raise ValueError(f"There is nothing to say in {text.strip()[:40]!r}: the model cannot write these letters.")
    if left_out := [piece.strip() for piece, can in zip(pieces, can_speak, strict=True) if not can]:
        warnings.warn(f"The vocabulary cannot write these parts, which are left out: {left_out}", stacklevel=2)
    return spoken


def speak_pieces(
    pieces: list[str],
    model: SmallEForSpeechGeneration,
    processor: SmallEProcessor,
    voice: dict[str, Any],
    options: argparse.Namespace,
) -> Iterator[np.ndarray]:
    """Waveforms of the pieces, each of shape `(samples,)`, until the time is up."""
    config = model.config
    left = math.inf if options.max_seconds is None else math.ceil(options.max_seconds * config.frame_rate)
    sampling = {"temperature": options.temperature, "top_k": options.top_k}
    sampling = {name: value for name, value in sampling.items() if value is not None}
    if options.temperature == 0:
        sampling = {"do_sample": False}
    for index, piece in enumerate(pieces):
        inputs = processor(piece, **voice).to(model.device)
        limit = math.ceil(inputs.input_ids.shape[1] * config.max_frames_per_text_token)
        output: Any = model.generate(
            **inputs,
            **sampling,
            max_new_tokens=int(min(limit, left)),
            num_candidates=options.num_candidates,
            seed=options.seed + index,
        )
        if int(output.sequence_lengths[0]) == limit and not output.is_finished[0]:
            warnings.warn(
                f"The model found no end of {piece.strip()[:40]!r}, so it was cut: try another --seed, or "
                "--num-candidates 4.",
                stacklevel=2,
            )
        yield processor.decode(output)
        left -= int(output.sequence_lengths[0])
        if left <= 0:
            return


__all__ = ["choose_voice", "read_text", "run", "speak_pieces", "split_for_model"]
