"""Exported models as they are used: streams, long texts, recordings as voices, candidates."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from core_models import random_codes, stopping_model
from hypothesis import given, settings
from hypothesis import strategies as st
from streamed_speech import speaking_model

pytest.importorskip("onnx", reason="needs ONNX: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
pytest.importorskip("onnxscript", reason="needs the exporter: pip install onnxscript")

from smalle_hf import SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.candidates_smalle import score_alignments
from smalle_hf.cli import command_line
from smalle_hf.narration import Narrator
from smalle_hf.onnx import SmallEOnnxModel, SmallEOnnxProcessor, stream_speech
from smalle_hf.onnx.export import export_model
from smalle_hf.sentences import join_speech, pause_after
from smalle_hf.voice_files import load_voice_arrays, save_voice

SAMPLED = {"top_k": 20, "num_sampled_codebooks": 4}
TEXT = "Mr. Smith paid. He said: it is late!\n\nWas it?"


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[SmallEForSpeechGeneration, Path]]:
    """Models that end by themselves with the two kinds of codec, and the folders that they were exported to."""
    found = {}
    for codec in ("small", "encodec"):
        sizes = {"vocab_size": 50, "max_text_length": 60, "max_frames_per_text_token": 2.0}
        model = speaking_model(codec, build=stopping_model, num_text_encoder_layers=1, **sizes)
        checkpoint = tmp_path_factory.mktemp(codec)
        save_voice(checkpoint, "ann", random_codes(model.config, 8)[0], "one two")
        processor = SmallEProcessor.from_characters(config=model.config)
        found[codec] = model, export_model(model, processor, checkpoint / "onnx", "none", checkpoint)
    return found


def opened(speakers: dict[str, Any], codec: str) -> tuple[SmallEOnnxModel, SmallEOnnxProcessor, dict[str, Any]]:
    folder = speakers[codec][1]
    voice = load_voice_arrays(folder, "ann")
    return SmallEOnnxModel.from_pretrained(folder), SmallEOnnxProcessor.from_pretrained(folder), voice


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["small", "encodec"])
@settings(deadline=None, max_examples=12)
@given(chunk_frames=st.integers(1, 30), seed=st.integers(0, 999), limit=st.integers(1, 60))
def test_streamed_audio_is_the_whole_audio(
    speakers: dict[str, Any], codec: str, chunk_frames: int, seed: int, limit: int
) -> None:
    model, processor, voice = opened(speakers, codec)
    inputs = {**processor("three four five", **voice), "seed": seed, "max_new_tokens": limit, **SAMPLED}
    output = model.generate(**inputs)
    chunks = list(model.stream(**inputs, chunk_ms=1000 * chunk_frames / model.config.frame_rate))
    audio = np.concatenate([chunk.audio[0] for chunk in chunks])
    np.testing.assert_allclose(audio, processor.decode(output), atol=1e-4)
    np.testing.assert_array_equal(np.concatenate([chunk.sequences[0] for chunk in chunks]), output.sequences[0])
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    np.testing.assert_array_equal(chunks[-1].is_finished, output.is_finished)
    position = 0
    for chunk in chunks:
        assert chunk.start == pytest.approx(position / model.config.sampling_rate)
        assert chunk.audio.shape == (1, chunk.audio_lengths[0])
        position += chunk.audio.shape[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The model found no end")
@pytest.mark.parametrize("has_voice", [True, False])
@pytest.mark.parametrize("as_sentences", [True, False])
def test_a_long_text_is_its_sentences_joined(speakers: dict[str, Any], has_voice: bool, as_sentences: bool) -> None:
    """Without a voice, in that of the first one that ends."""
    model, processor, voice = opened(speakers, "encodec")
    narrator = Narrator(model, processor, voice if has_voice else None)
    pieces = narrator.split(TEXT)
    assert len(pieces) >= 3
    outputs = [narrator.generate(piece, np.inf, 7 + index, SAMPLED) for index, piece in enumerate(pieces)]
    waveforms = [processor.decode(output) for output in outputs]
    expected = join_speech(waveforms, [pause_after(piece) for piece in pieces], model.config.sampling_rate)
    text = iter(pieces) if as_sentences else TEXT
    chunks = list(
        stream_speech(text, model, processor, voice if has_voice else None, seed=7, chunk_ms=0.01, **SAMPLED)
    )
    np.testing.assert_allclose(np.concatenate([chunk.audio for chunk in chunks]), expected, atol=1e-4)
    assert list(dict.fromkeys(chunk.text for chunk in chunks)) == pieces
    assert any(output.is_finished[0] for output in outputs)


@pytest.mark.slow
def test_streams_refuse_what_is_about_whole_utterances(speakers: dict[str, Any]) -> None:
    model, processor, _ = opened(speakers, "small")
    with pytest.raises(ValueError, match="`num_candidates`"):
        model.stream(**processor("one"), num_candidates=2)
    with pytest.raises(ValueError, match="`return_alignments`"):
        stream_speech("one", model, processor, return_alignments=True)
    for chunk_ms in (0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="chunk_ms"):
            stream_speech("one", model, processor, chunk_ms=chunk_ms)
    with pytest.raises(ValueError, match="One text"):
        model.stream(**processor(["one", "two"]))
    with pytest.raises(ValueError, match="nothing to say"):
        stream_speech("...", model, processor)


def recording(config: Any, frames: int = 30) -> np.ndarray:
    return 0.3 * np.random.default_rng(1).normal(size=frames * config.frame_length - 5).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["small", "encodec"])
def test_recordings_are_voices_as_for_the_checkpoint(speakers: dict[str, Any], codec: str) -> None:
    torch_model = speakers[codec][0]
    model, processor, _ = opened(speakers, codec)
    rate, audio = model.config.sampling_rate, recording(model.config)
    inputs = processor(["three", "four"], audio=audio, sampling_rate=rate, audio_prompt_text="one two")
    wanted = SmallEProcessor.from_characters(config=torch_model.config)(
        ["three", "four"], audio=audio, sampling_rate=rate, audio_prompt_text="one two"
    )
    assert inputs.keys() == dict(wanted).keys()
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, wanted[name])
    codes, mask = model.encode_audio(inputs["input_values"], inputs["input_values_mask"])
    expected, expected_mask = torch_model.encode_audio(wanted["input_values"], wanted["input_values_mask"])
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(mask, expected_mask)
    spoken = model.generate(**inputs, do_sample=False)
    np.testing.assert_array_equal(spoken.sequences, torch_model.generate(**wanted, do_sample=False).sequences)
    named = model.generate(**processor(["three", "four"], codes[0], "one two"), do_sample=False)
    np.testing.assert_array_equal(spoken.sequences, named.sequences)
    with pytest.raises(ValueError, match="given twice"):
        model.generate(**inputs, audio_prompt_codes=codes)
    with pytest.raises(ValueError, match="given twice"):
        processor("three", audio_prompt_codes=codes[0], audio=audio)


@pytest.mark.slow
def test_without_the_encoder_recordings_are_refused_at_once(speakers: dict[str, Any], tmp_path: Path) -> None:
    torch_model = speakers["small"][0]
    processor = SmallEProcessor.from_characters(config=torch_model.config)
    folder = export_model(torch_model, processor, tmp_path / "onnx", with_encoder=False)
    assert not (folder / "codec_encoder.onnx").exists()
    with pytest.raises(ValueError, match="cannot encode recordings"):
        SmallEOnnxProcessor.from_pretrained(folder)("one", audio="voice.wav")


@pytest.mark.slow
@pytest.mark.parametrize("has_voice", [True, False])
def test_the_best_candidate_is_kept(speakers: dict[str, Any], has_voice: bool) -> None:
    """By the scores of the checkpoint, and each candidate is what its seed gives."""
    model, processor, voice = opened(speakers, "small")
    texts, count = ["one two three four", "five"], 4
    inputs = processor(texts, **(voice if has_voice else {}))
    options: dict[str, Any] = {**SAMPLED, "max_new_tokens": 40, "return_alignments": True}
    output = model.generate(**inputs, **options, seed=[3, 90], num_candidates=count)
    assert output.candidate_scores is not None
    assert output.candidate_scores.shape == (2, count)
    for row, seed in enumerate((3, 90)):
        chosen = int(output.candidate_scores[row].argmax())
        alone = model.generate(
            **{name: array[row : row + 1] for name, array in inputs.items()}, **options, seed=seed + 1_000_003 * chosen
        )
        length = output.sequence_lengths[row]
        np.testing.assert_array_equal(output.sequences[row, :length], alone.sequences[0])
        np.testing.assert_allclose(output.audio[row, : output.audio_lengths[row]], alone.audio[0], atol=1e-5)
        if not has_voice:  # with one, the place where the candidates begin decides as well
            required = torch.from_numpy(inputs["attention_mask"][row : row + 1]).bool()
            required[:, [0, int(required.sum()) - 1]] = False
            alignments, ends = torch.from_numpy(alone.alignments), torch.from_numpy(alone.is_finished)
            score = score_alignments(alignments, torch.from_numpy(alone.sequence_lengths), ends, required)
            assert output.candidate_scores[row, chosen] == pytest.approx(float(score), abs=1e-5)
    assert len(set(output.candidate_scores.ravel().tolist())) > 2
    assert model.generate(**inputs, **SAMPLED, seed=3, num_candidates=2).alignments is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": 0}, "at least 1"),
        ({"num_candidates": 2, "do_sample": False}, "do_sample"),
        ({"num_candidates": 2, "seed": [1, 2]}, "one seed"),
    ],
)
def test_candidates_that_make_no_sense(speakers: dict[str, Any], options: dict[str, Any], message: str) -> None:
    model, processor, _ = opened(speakers, "small")
    with pytest.raises(ValueError, match=message):
        model.generate(**processor("one"), **options)


@pytest.fixture(scope="module")
def voice_file(speakers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("voice") / "me.wav"
    config = speakers["small"][0].config
    soundfile.write(path, recording(config), config.sampling_rate)
    return path


def commands(folder: Path, text: str, output: Path, voice_file: Path) -> Iterator[list[str]]:
    base = ["speak", text, "--model", str(folder), "-o", str(output)]
    yield base
    yield [*base, "--stream", "--voice", "ann"]
    yield [*base, "--voice", str(voice_file), "--voice-text", "one two"]
    yield [*base, "--voice", str(voice_file), "--voice-text", "one two", "--stream", "--chunk-ms", "3"]
    yield [*base, "--num-candidates", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["small", "encodec"])
def test_command_speaks_in_every_way(
    speakers: dict[str, Any], codec: str, tmp_path: Path, voice_file: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, path = speakers[codec][1], tmp_path / "out.wav"
    for arguments in commands(folder, "Three four. Five, six and seven.", path, voice_file):
        assert command_line.main(arguments) == 0, capsys.readouterr().err
        samples, rate = soundfile.read(path)
        assert rate == speakers[codec][0].config.sampling_rate
        assert np.abs(samples).max() > 0
        path.unlink()


@pytest.mark.slow
def test_mistakes_get_one_line(
    speakers: dict[str, Any], tmp_path: Path, voice_file: Path, capsys: pytest.CaptureFixture
) -> None:
    base = ["speak", "Hi.", "--model", str(speakers["small"][1]), "-o", str(tmp_path / "a.wav")]
    (tmp_path / "noise.wav").write_bytes(b"noise")
    for more, message in (
        (["--voice", "bob"], "it has ann"),
        (["--voice", "gone.wav"], "check the path"),
        (["--voice", str(tmp_path / "noise.wav")], "Cannot decode"),
        (["--voice", "ann", "--voice-text", "hi"], "goes with a recording"),
        (["--device", "cuda"], "leave out --device"),
    ):
        assert command_line.main([*base, *more]) == 1
        message_lines = capsys.readouterr().err.strip().splitlines()
        assert message in message_lines[-1]
        assert len(message_lines) == 1
    for other in (
        ["export", str(speakers["small"][1]), str(tmp_path / "again")],
        ["encode", str(voice_file), "-o", str(tmp_path / "a.safetensors"), "--codec", str(speakers["small"][1])],
    ):
        assert command_line.main(other) == 1
        assert "is an exported model" in capsys.readouterr().err
    assert command_line.main([*base[:1], "?!", *base[2:]]) == 1
    assert "nothing to say" in capsys.readouterr().err
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.slow
def test_info_says_what_the_folder_is(speakers: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    for codec in ("small", "encodec"):
        model, folder = speakers[codec]
        assert command_line.main(["info", str(folder), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        tensors = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}
        assert facts["parameters"] == sum(tensors.values())
        assert 0 < facts["codec_parameters"] < facts["parameters"]
        assert facts["codec"] == model.config.codec_config.model_type
        assert facts["quantization"] == "none"
        assert facts["streams"] is facts["encodes_recordings"] is True
        assert list(facts["voices"]) == ["ann"]
        assert facts["graphs"]["weights.bin"] == (folder / "weights.bin").stat().st_size
        assert "codec_encoder.onnx" in facts["graphs"]
    assert command_line.main(["info", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["quantization", "none"] for line in lines)
