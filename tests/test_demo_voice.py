"""The voice in the box: it is whole, small, loads like any checkpoint, and says what it is told."""

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModel, AutoProcessor, pipeline

import smalle_hf
from smalle_hf import SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.alignment import analyze_alignment, map_tokens_to_words
from smalle_hf.audio_files import write_audio
from smalle_hf.voice_files import default_voice, list_voices, load_voice

pytest.importorskip("espeakng_loader", reason="the voice reads phonemes, and espeak-ng is not installed")

FOLDER = smalle_hf.voice_path()
VOICES = ["awb", "rms", "slt"]
SENTENCE = "The quick brown fox jumps over the lazy dog."


@pytest.fixture(scope="module")
def model() -> SmallEForSpeechGeneration:
    return SmallEForSpeechGeneration.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def processor() -> SmallEProcessor:
    return SmallEProcessor.from_pretrained(FOLDER)


def test_the_folder_is_small_and_holds_no_code_and_no_paths():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
    assert max(path.stat().st_size for path in files) < 16e6
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}
    assert not any(re.search("auto_map|_name_or_path", path.read_text()) for path in FOLDER.glob("*.json"))


def test_the_card_says_what_one_has_to_know():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert "license:" in card
    for heading in ("## Data", "## Training", "## Figures", "## Limits"):
        assert heading in card
    source = Path(__file__).resolve().parents[1] / "model_cards" / "demo_voice.md"
    assert source.read_text(encoding="utf-8") == card


def test_auto_classes_load_it_in_single_precision():
    model, processor = AutoModel.from_pretrained(FOLDER), AutoProcessor.from_pretrained(FOLDER)
    assert isinstance(model, SmallEForSpeechGeneration)
    assert isinstance(processor, SmallEProcessor)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert list_voices(FOLDER) == VOICES
    assert default_voice(FOLDER) == "rms"


def test_a_pipeline_speaks():
    speech = pipeline("text-to-speech", model=str(FOLDER))("Hello world.")
    assert speech["sampling_rate"] == 16000
    assert 0.4 < np.squeeze(speech["audio"]).shape[0] / 16000 < 5


@pytest.mark.parametrize("voice", VOICES)
def test_every_voice_reads_a_sentence_to_its_end_without_skips(model, processor, voice):
    prompt = load_voice(FOLDER, voice)
    output = model.generate(**processor(SENTENCE, **prompt), seed=0, return_alignments=True)
    assert output.is_finished.all()
    assert 1.5 < output.audio_lengths[0] / 16000 < 5
    text = processor.normalize(f"{prompt['audio_prompt_text']} {SENTENCE}")
    offsets = processor.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    required = map_tokens_to_words(text, offsets) >= len(processor.words(prompt["audio_prompt_text"]))
    report = analyze_alignment(output.alignments, required_tokens=required)
    assert report.skipped_runs.tolist() == [0]
    assert report.ends_at_last_token.all()


def test_a_recognizer_hears_most_of_the_words(model, processor):
    pocketsphinx = pytest.importorskip("smalle_hf.metrics.recognizers", reason="evaluation is not installed")
    pytest.importorskip("pocketsphinx", reason="the recognizer is not installed")
    texts = [SENTENCE, "She bought four tickets for the train on Monday.", "Please call the doctor in the morning."]
    listen = pocketsphinx.PocketsphinxRecognizer("words", texts)
    voice = load_voice(FOLDER, "slt")
    heard = 0
    for index, text in enumerate(texts):
        output = model.generate(**processor(text, **voice), seed=index)
        words = set(listen(processor.decode(output), 16000).split())
        heard += len(words & set(re.findall("[a-z]+", text.lower())))
    assert heard >= 20


def test_rows_of_a_batch_are_what_they_are_alone(model, processor):
    texts = [SENTENCE, "Good morning.", "One, two, three."]
    prompts = [load_voice(FOLDER, voice) for voice in VOICES]
    batch = {name: [prompt[name] for prompt in prompts] for name in prompts[0]}
    together = model.generate(**processor(texts, **batch), seed=5)
    for row, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        alone = model.generate(**processor(text, **prompt), seed=5 + row)
        length = int(alone.sequence_lengths[0])
        assert int(together.sequence_lengths[row]) == length
        assert torch.equal(together.sequences[row, :length], alone.sequences[0, :length])
        samples = int(alone.audio_lengths[0])
        assert torch.allclose(together.audio[row, :samples], alone.audio[0, :samples], atol=1e-4)


def test_the_command_speaks_without_a_model_named(tmp_path):
    path = tmp_path / "speech.wav"
    started = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "smalle_hf.cli.command_line",
        "speak",
        SENTENCE,
        "-o",
        str(path),
        "--voice",
        "slt",
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    print(f"cold start to file: {time.perf_counter() - started:.1f} s")
    waveform, rate = soundfile.read(path)
    assert rate == 16000
    assert 1.5 < len(waveform) / rate < 6
    assert np.abs(waveform).max() > 0.05


def test_a_recording_of_a_voice_serves_as_a_prompt(model, processor, tmp_path):
    voice = load_voice(FOLDER, "rms")
    recording = tmp_path / "rms.wav"
    spoken = model.decode_audio(voice["audio_prompt_codes"][None])
    audio = spoken[0] if isinstance(spoken, tuple) else spoken
    write_audio(audio.reshape(-1).numpy(), recording, 16000)
    inputs = processor("Good morning.", audio=str(recording), audio_prompt_text=voice["audio_prompt_text"])
    assert model.generate(**inputs, seed=0).is_finished.all()
