"""The evaluation of a codec: nothing lost shows as nothing lost, and what is lost shows."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from smalle_hf.configuration_small_codec import SmallCodecConfig
from smalle_hf.modeling_small_codec import SmallCodecModel

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "voice"


@pytest.fixture
def evaluate_codec(monkeypatch):
    pytest.importorskip("pocketsphinx")
    monkeypatch.syspath_prepend(str(FOLDER))
    import evaluate_codec

    return evaluate_codec


@pytest.fixture
def speech(data_dir):
    """Short utterances with transcripts, at 16 kHz: `(text, waveform)`."""
    rows = [json.loads(line) for line in (data_dir / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = [row for row in rows if row["path"].startswith("librispeech") and row["text"] and row["duration"] < 4][:2]
    return [(row["text"], soundfile.read(data_dir / row["path"], dtype="float32")[0]) for row in chosen]


@pytest.mark.slow
def test_only_what_is_lost_counts(evaluate_codec, speech):
    def pairs(damage):
        return [evaluate_codec.Pair(str(i), text, "a", audio, damage(audio)) for i, (text, audio) in enumerate(speech)]

    same = evaluate_codec.word_errors(pairs(lambda audio: audio), "pocketsphinx:words", 16000)
    assert same["difference"] == same["difference_a"] == 0.0
    assert same["difference_interval"] == [0.0, 0.0]
    lost = evaluate_codec.word_errors(pairs(np.zeros_like), "pocketsphinx:words", 16000)
    assert lost["original"] == same["original"]
    assert lost["resynthesis"] > 90.0  # in silence the recogniser may hear a word
    assert lost["difference"] == pytest.approx(lost["resynthesis"] - same["original"])
    config = SmallCodecConfig()
    codec = SmallCodecModel(config)
    assert evaluate_codec.mel_distance(pairs(lambda audio: audio), codec) == 0.0
    quieter, silent = (evaluate_codec.mel_distance(pairs(d), codec) for d in (lambda audio: audio / 2, np.zeros_like))
    assert quieter == pytest.approx(np.log(2), abs=0.05)
    assert silent > quieter


@pytest.mark.slow
def test_the_script_writes_report_picture_and_audio(tmp_path, speech):
    torch.manual_seed(0)
    SmallCodecModel(SmallCodecConfig(num_encoder_layers=1, num_decoder_layers=1)).save_pretrained(tmp_path / "codec")
    text, audio = speech[0]
    soundfile.write(tmp_path / "a.wav", audio, 16000)
    (tmp_path / "m.jsonl").write_text(json.dumps({"id": "a", "path": "a.wav", "text": text, "speaker": "s"}) + "\n")
    command = [sys.executable, FOLDER / "evaluate_codec.py", "codec", "m.jsonl", "--recognizers", "pocketsphinx:words"]
    command += ["--spectrogram", "picture.png", "--audio", "out", "--threads", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    report = json.loads(result.stdout)
    assert report["utterances"] == 1
    assert report["decoding_x_real_time"] > 0
    assert {"original", "resynthesis"} <= set(report["dnsmos"])
    assert report["wer pocketsphinx:words"]["resynthesis"] > report["wer pocketsphinx:words"]["original"]
    assert (tmp_path / "picture.png").stat().st_size > 1000
    assert soundfile.info(tmp_path / "out" / "a.wav").frames == len(audio)
