"""`smalle speak --stream`: raw samples, players and files, as the speech comes."""

import io
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from codec_models import lively_codec, small_codec_config

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.cli import audio_sinks, command_line
from smalle_hf.voice_files import save_voice

SHORT = ["--max-seconds", "0.6"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model with a small codec and one voice."""
    torch.manual_seed(0)
    codec = small_codec_config(codebook_size=32, sampling_rate=4000, hop_length=80, istft_size=160, mel_fft_size=160)
    processor = SmallEProcessor.from_characters()
    config = SmallEConfig.from_preset(
        "tiny", vocab_size=len(processor.tokenizer), codec_config=codec, codebook_size=32, max_text_length=60
    )
    processor = SmallEProcessor.from_characters(config=config)
    model = SmallEForSpeechGeneration(config).eval()
    lively_codec(model.codec_model)
    with torch.no_grad():  # so that the best id is never the end
        heads = model.lm_heads.weight.view(config.num_codebooks, -1, config.hidden_size)
        heads[:, config.audio_eos_token_id] = heads[:, config.codebook_offset :].mean(dim=1)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_voice(folder, "ann", torch.randint(32, (20, 4)), "one two")
    return folder


def run(*arguments: object) -> int:
    return command_line.main([str(argument) for argument in arguments])


def speak(checkpoint: Path, text: str, output: object, *more: object) -> np.ndarray:
    assert run("speak", text, "-o", output, "--model", checkpoint, *SHORT, *more) == 0
    return soundfile.read(output)[0]


def as_samples(content: bytes) -> np.ndarray:
    return np.frombuffer(content, dtype="<i2") / 32767


def make_player(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An `aplay` that does what the shell script says."""
    player = folder / "aplay"
    player.write_text(f"#!/bin/sh\n{script}\n")
    player.chmod(player.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_raw_samples_on_stdout(
    checkpoint: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those that come without --stream."""
    text = "Hello world. And again?"
    expected = speak(checkpoint, text, tmp_path / "a.wav", "--temperature", 0)
    capfdbinary.readouterr()
    writes = []
    write = audio_sinks.AudioSinks.write
    monkeypatch.setattr(
        audio_sinks.AudioSinks, "write", lambda self, samples: writes.append(len(samples)) or write(self, samples)
    )
    more = ["--temperature", 0, "--stream", "--chunk-ms", 40]
    assert run("speak", text, "-o", "-", "--model", checkpoint, *SHORT, *more) == 0
    captured = capfdbinary.readouterr()
    np.testing.assert_allclose(as_samples(captured.out), expected, atol=1e-4)
    assert captured.err.startswith(b"stdout (16-bit mono, 4000 Hz): 0.")
    assert len(writes) > 4
    assert max(writes) <= 0.25 * 4000 + 4 * 80  # a pause and a chunk


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_files_are_written_as_they_come(checkpoint: Path, tmp_path: Path, suffix: str) -> None:
    expected = speak(checkpoint, "Hello.", tmp_path / f"a.{suffix}")
    path = tmp_path / f"new/b.{suffix}"
    streamed = speak(checkpoint, "Hello.", path, "--stream")
    assert soundfile.info(path).format.lower() == suffix
    assert len(streamed) == len(expected)
    if suffix != "ogg":
        np.testing.assert_allclose(streamed, expected, atol=1e-4)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_player_is_given_the_samples(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_player(tmp_path, monkeypatch, f'echo "$@" > "{tmp_path}/options"; cat > "{tmp_path}/played"')
    expected = speak(checkpoint, "Hello.", tmp_path / "a.wav", "--stream", "--play")
    np.testing.assert_allclose(as_samples((tmp_path / "played").read_bytes()), expected, atol=1e-4)
    assert (tmp_path / "options").read_text().strip() == "-q -t raw -f S16_LE -c 1 -r 4000"


@pytest.mark.parametrize(
    ("script", "message", "is_complete"),
    [
        ("echo 'no sound card' >&2; exit 3", "aplay could not play the speech: no sound card", False),
        ("cat > /dev/null; echo 'late' >&2; exit 1", "aplay could not play the speech: late", True),
        ("exit 0", "aplay ended before the speech did", False),
    ],
)
def test_a_player_that_fails(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    script: str,
    message: str,
    is_complete: bool,
) -> None:
    make_player(tmp_path, monkeypatch, script)
    arguments = ["speak", "Hello.", "--stream", "--play", "-o", tmp_path / "a.wav", "--model", checkpoint]
    assert run(*arguments, "--max-seconds", 4, "--chunk-ms", 20) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("smalle: error: ")
    assert message in line
    assert [path.name for path in tmp_path.glob("*.wav")] == ["a.wav"] * is_complete


def test_text_is_spoken_while_it_arrives(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence that runs over two lines is one; the next line is not read before it has been spoken."""
    read, spoken = [], []

    def lines() -> Any:
        for line in (b"\xef\xbb\xbfH\xc3\xa9llo\n", b"world. And\n", b"so on.\n"):
            read.append(line)
            yield line

    class Standard:
        buffer = lines()

    call = SmallEProcessor.__call__

    def note(self: Any, text: str, **more: Any) -> Any:
        spoken.append((text, len(read)))
        return call(self, text, **more)

    monkeypatch.setattr(sys, "stdin", Standard())
    monkeypatch.setattr(SmallEProcessor, "__call__", note)
    path = tmp_path / "a.wav"
    assert run("speak", "-", "--stream", "-o", path, "--model", checkpoint, "--max-seconds", 30) == 0
    assert spoken == [("Héllo\nworld. ", 2), ("And\nso on.\n", 3)]


def test_an_interrupt_leaves_no_file(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Any, samples: np.ndarray) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(audio_sinks.AudioSinks, "write", interrupt)
    assert run("speak", "Hello.", "--stream", "-o", tmp_path / "a.wav", "--model", checkpoint) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speak", "Hi", "-o", "a.mp3", "--stream", "--model", "MODEL"], "use one of the suffixes .wav, .flac, .ogg"),
        (["speak", "...", "-o", "a.wav", "--stream", "--model", "MODEL"], "nothing to say"),
        (["speak", "Hi", "--play", "--stream", "--model", "MODEL"], "install one of aplay"),
    ],
)
def test_errors(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(audio_sinks.shutil, "which", lambda name: None)
    assert run(*[str(checkpoint) if argument == "MODEL" else argument for argument in arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_text_on_stdin_that_is_no_utf8(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Grüße".encode("latin-1"))))
    assert run("speak", "-", "--stream", "-o", tmp_path / "a.wav", "--model", checkpoint) == 1
    assert "not UTF-8" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_wrong_command_lines_exit_with_2(capsys: pytest.CaptureFixture) -> None:
    for more in (["--num-candidates", "2"], ["--chunk-ms", "0"]):
        with pytest.raises(SystemExit) as ended:
            run("speak", "Hi", "-o", "a.wav", "--stream", *more)
        assert ended.value.code == 2
        assert "usage: smalle" in capsys.readouterr().err
