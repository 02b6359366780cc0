"""Segments: the samples of the file, read by seek, or a typed error that names the file."""

import io
import math

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_files import RATE, truncate, write_noise, write_tone

from smalle_hf.data import BrokenInputError, BrokenReason, audio_segments, read_header, read_segment


def row_of(path, start=0.0, duration=1.0, **changes):
    row = {"id": "a", "audio_path": str(path), "audio_bytes": None, "sampling_rate": RATE}
    return {**row, "start": start, "duration": duration, **changes}


def reason_of(row):
    with pytest.raises(BrokenInputError) as caught:
        read_segment(row)
    assert caught.value.broken.id == row["id"]
    assert caught.value.broken.file in (row["audio_path"], "embedded audio of a")
    return caught.value.broken.reason


@pytest.fixture(scope="module")
def chapter(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("chapter") / "chapter.flac", seconds=20.0)


@settings(deadline=None, max_examples=50)
@given(first=st.integers(0, 19 * RATE), length=st.integers(1, RATE))
def test_segment_equals_slice_of_whole_file(chapter, first, length):
    whole, _ = soundfile.read(chapter, dtype="float32")

    segment = read_segment(row_of(chapter, first / RATE, length / RATE))

    assert segment.dtype == np.float32
    np.testing.assert_array_equal(segment, whole[first : first + length])


def test_segment_of_a_chapter_reads_only_its_part_of_the_file(tmp_path, monkeypatch):
    path = write_noise(tmp_path / "chapter.flac", seconds=600.0)
    content = path.read_bytes()
    num_read = []

    class CountingFile(io.BytesIO):
        def readinto(self, buffer):
            count = super().readinto(buffer)
            num_read.append(count)
            return count

    monkeypatch.setattr(audio_segments, "_open", lambda audio: CountingFile(content))
    segment = read_segment(row_of(path, start=400.0, duration=2.0))

    assert len(segment) == 2 * RATE
    assert len(content) > 10_000_000
    assert 0 < sum(num_read) < len(content) / 20


def test_header_of_real_speech_matches_the_samples(data_dir):
    path = data_dir / "ljspeech_sample" / "wavs" / "LJ001-0002.wav"
    samples, rate = soundfile.read(path)

    header = read_header(path)

    assert (header.sampling_rate, header.num_samples) == (rate, len(samples))


def test_bytes_give_what_the_path_gives(chapter):
    row = row_of(chapter, 3.0, 0.5)

    embedded = read_segment({**row, "audio_path": None, "audio_bytes": chapter.read_bytes()})

    np.testing.assert_array_equal(embedded, read_segment(row))


def test_channels_are_averaged(tmp_path):
    left, right = np.full(RATE, 0.5), np.full(RATE, -0.25)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), RATE)

    np.testing.assert_allclose(read_segment(row_of(tmp_path / "stereo.wav")), 0.125, atol=1e-4)


def test_resampling_keeps_the_tone(tmp_path):
    path = write_tone(tmp_path / "tone.wav", seconds=1.0)

    resampled = read_segment(row_of(path), sampling_rate=24_000)

    assert resampled.shape == (24_000,)
    assert np.abs(np.fft.rfft(resampled)).argmax() == 300


def test_segment_that_ends_a_rounding_error_behind_the_file_is_read(tmp_path):
    path = write_tone(tmp_path / "tone.wav", seconds=1.0)

    assert len(read_segment(row_of(path, 0.5, 0.5005))) == RATE // 2


@pytest.mark.parametrize(
    ("start", "duration"),
    [(0.5, 0.6), (1.5, 0.1), (-0.1, 0.5), (0.2, 0.0), (0.2, -0.1), (math.nan, 0.5), (0, math.nan)],
)
def test_cut_outside_the_file(tmp_path, start, duration):
    path = write_tone(tmp_path / "tone.wav", seconds=1.0)

    assert reason_of(row_of(path, start, duration)) is BrokenReason.CUT_OUTSIDE_FILE


def test_missing_file(tmp_path):
    assert reason_of(row_of(tmp_path / "none.wav")) is BrokenReason.TEXT_WITHOUT_AUDIO


def test_neither_path_nor_bytes():
    with pytest.raises(BrokenInputError, match="text_without_audio"):
        read_segment(row_of("", audio_path=None))


def test_text_file_named_like_audio(tmp_path):
    (tmp_path / "text.flac").write_text("no audio at all")

    with pytest.raises(BrokenInputError, match=r"text\.flac: unreadable_audio"):
        read_header(tmp_path / "text.flac")


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_truncated_stream_is_found_when_its_end_is_read(tmp_path, suffix):
    path = truncate(write_noise(tmp_path / f"noise.{suffix}", seconds=10.0))
    assert read_header(path).duration == pytest.approx(10.0)  # the header still promises everything

    assert len(read_segment(row_of(path, 0.0, 1.0))) == RATE
    assert reason_of(row_of(path, 8.0, 1.0)) is BrokenReason.TRUNCATED_AUDIO


def test_truncated_wav_is_found_in_its_header(tmp_path):
    path = truncate(write_noise(tmp_path / "noise.wav", seconds=1.0))

    with pytest.raises(BrokenInputError, match="truncated_audio"):
        read_header(path)


def test_wrong_sampling_rate(tmp_path):
    path = write_tone(tmp_path / "tone.wav", rate=22_050)

    assert reason_of(row_of(path)) is BrokenReason.WRONG_SAMPLING_RATE


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_not_finite(tmp_path, value):
    samples = np.full(RATE, 0.1)
    samples[RATE // 2] = value
    soundfile.write(tmp_path / "bad.wav", samples, RATE, subtype="FLOAT")

    assert reason_of(row_of(tmp_path / "bad.wav")) is BrokenReason.NOT_FINITE
    assert len(read_segment(row_of(tmp_path / "bad.wav", 0.0, 0.4))) == round(0.4 * RATE)


def test_silence(tmp_path):
    soundfile.write(tmp_path / "silence.flac", np.random.default_rng(0).uniform(-5e-4, 5e-4, RATE), RATE)

    assert reason_of(row_of(tmp_path / "silence.flac")) is BrokenReason.SILENCE
