"""Contracts of the processor's way out: waveforms of a generation, and audio files."""

import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from smalle_hf.processing_smalle import SmallEProcessor

RATE = 24000


def tone(rate: int, frequency: float = 440.0, seconds: float = 0.5) -> np.ndarray:
    wave = 0.5 * np.sin(2 * math.pi * frequency * np.arange(int(rate * seconds)) / rate)
    return wave.astype(np.float32)


@pytest.fixture(scope="module")
def characters() -> SmallEProcessor:
    return SmallEProcessor.from_characters()


def test_waveforms_are_cut_to_their_lengths(characters: SmallEProcessor) -> None:
    audio = torch.arange(12, dtype=torch.float32).reshape(2, 6) / 12
    output = SimpleNamespace(audio=audio, audio_lengths=torch.tensor([4, 6]))
    first, second = characters.batch_decode(output)
    assert first.tolist() == audio[0, :4].tolist()
    assert second.tolist() == audio[1].tolist()
    for form in (audio, audio.numpy(), audio[:, None], list(audio), {"audio": audio}):
        assert [len(row) for row in characters.batch_decode(form)] == [6, 6]
    assert [len(row) for row in characters.batch_decode(audio.bfloat16(), [2, 3])] == [2, 3]
    assert characters.decode(audio[0]).shape == (6,)


@pytest.mark.parametrize(
    ("error", "message", "audio", "lengths"),
    [
        (TypeError, "decode_audio", torch.zeros(2, 9, dtype=torch.long), None),
        (ValueError, "output_audio=True", {"audio": None}, None),
        (ValueError, "mono", np.zeros((1, 2, 9)), None),
        (ValueError, "audio_lengths", np.zeros((2, 9)), [1]),
    ],
)
def test_what_is_no_waveform_is_refused(characters: SmallEProcessor, error, message: str, audio, lengths) -> None:
    with pytest.raises(error, match=message):
        characters.batch_decode(audio, lengths)


def test_decode_takes_one_waveform_only(characters: SmallEProcessor) -> None:
    with pytest.raises(ValueError, match="2 waveforms"):
        characters.decode(np.zeros((2, 9)))


@pytest.mark.parametrize(("suffix", "tolerance"), [(".wav", 1e-4), (".flac", 1e-4), (".ogg", 0.05), (".WAV", 1e-4)])
def test_audio_files_hold_the_waveform(
    characters: SmallEProcessor, tmp_path: Path, suffix: str, tolerance: float
) -> None:
    path = tmp_path / "new" / f"speech{suffix}"
    assert characters.save_audio(tone(RATE), path) == [path]
    samples, rate = soundfile.read(path)
    assert rate == RATE
    np.testing.assert_allclose(samples, tone(RATE), atol=tolerance)
    assert os.listdir(path.parent) == [path.name]
    characters.save_audio(torch.from_numpy(tone(8000)), path, sampling_rate=8000)
    assert soundfile.info(path).samplerate == 8000


def test_long_vorbis_files_are_written(characters: SmallEProcessor, tmp_path: Path) -> None:
    [path] = characters.save_audio(tone(RATE, seconds=120), tmp_path / "long.ogg")
    assert soundfile.info(path).duration == pytest.approx(120, abs=0.1)


def test_batches_go_to_a_folder_or_a_list_of_files(characters: SmallEProcessor, tmp_path: Path) -> None:
    output = SimpleNamespace(audio=torch.from_numpy(np.stack([tone(RATE)] * 2)), audio_lengths=[600, 1200])
    paths = characters.save_audio(output, tmp_path / "folder")
    assert [path.name for path in paths] == ["000.wav", "001.wav"]
    assert [soundfile.info(path).frames for path in paths] == [600, 1200]
    files = [tmp_path / "a.wav", str(tmp_path / "b.flac")]
    assert characters.save_audio(output, files) == [tmp_path / "a.wav", tmp_path / "b.flac"]


def test_loud_audio_is_made_quieter_not_clipped(characters: SmallEProcessor, tmp_path: Path) -> None:
    [path] = characters.save_audio(4 * tone(RATE), tmp_path / "loud.wav")
    samples, _ = soundfile.read(path)
    np.testing.assert_allclose(samples, 2 * tone(RATE), atol=1e-3)


@pytest.mark.parametrize(
    ("message", "audio", "path"),
    [
        (r"\.wav, \.flac, \.ogg", tone(RATE), "speech.mp4"),
        ("NaN", np.full(9, np.nan, np.float32), "speech.wav"),
        ("empty", np.zeros(0, np.float32), "speech.wav"),
        ("2 waveforms for 1 files", np.zeros((2, 9)), "speech.wav"),
    ],
)
def test_nothing_is_written_that_cannot_be(
    characters: SmallEProcessor, tmp_path: Path, message: str, audio: np.ndarray, path: str
) -> None:
    with pytest.raises(ValueError, match=message):
        characters.save_audio(audio, tmp_path / path)
    assert not os.listdir(tmp_path)


def test_interrupted_write_leaves_the_old_file(
    characters: SmallEProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = characters.save_audio(tone(RATE), tmp_path / "speech.wav")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        characters.save_audio(0.1 * tone(RATE), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["speech.wav"]
