"""The `smalle` command, run in this process with a tiny random checkpoint, and once as it is installed."""

import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from transformers import EncodecConfig

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.cli import checkpoints, command_line, delivery
from smalle_hf.voice_files import encode_codes, list_voices, load_voice, read_codes, save_voice, write_bytes

RATE = 24000
SHORT = ["--max-seconds", "0.3"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model with a tiny codec and one voice."""
    torch.manual_seed(0)
    processor = SmallEProcessor.from_characters()
    codec = EncodecConfig(
        num_filters=4, hidden_size=32, codebook_dim=32, num_lstm_layers=1, target_bandwidths=[3.0], sampling_rate=RATE
    )
    config = SmallEConfig.from_preset("tiny", vocab_size=len(processor.tokenizer), codec_config=codec)
    config.max_frames_per_text_token = 3.0
    config.max_text_length = processor.max_text_length = 60
    model = SmallEForSpeechGeneration(config).eval()
    for layer in model.codec_model.quantizer.layers:
        layer.codebook.embed.normal_()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_voice(folder, "ann", torch.randint(1024, (20, 4)), "one two")
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Tiny\n")
    return folder


@pytest.fixture(scope="module")
def codec_folder(checkpoint: Path) -> Path:
    """The codec of the checkpoint in a folder of its own."""
    folder = checkpoint.parent / "codec"
    SmallEForSpeechGeneration.from_pretrained(checkpoint).codec_model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of stereo at another rate than the model's."""
    time = np.arange(8000) / 16000
    path = tmp_path_factory.mktemp("recordings") / "me.flac"
    soundfile.write(path, np.stack([np.sin(400 * time), np.sin(900 * time)], axis=1) * 0.3, 16000)
    return path


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch):
    """Function that puts bytes on standard input."""
    return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def run(*arguments: object) -> int:
    return command_line.main([str(argument) for argument in arguments])


def speak(checkpoint: Path, text: str, output: object, *more: object) -> np.ndarray:
    assert run("speak", text, "-o", output, "--model", checkpoint, *SHORT, *more) == 0
    return soundfile.read(output)[0]


def error_line(capsys: pytest.CaptureFixture) -> str:
    """The one line that an error is."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("smalle: error: ")
    return lines[0]


@pytest.mark.parametrize("command", ["", "speak", "info", "encode", "decode", "convert"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*command.split(), "--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: smalle {command}".strip() in text
    assert "example" in text


def test_help_and_usage_errors_do_not_load_torch() -> None:
    code = (
        "import sys\nfrom smalle_hf.cli import command_line\n"
        "for arguments in (['--help'], ['speak', '--help'], ['speak', 'hi'], ['--version']):\n"
        "    try: command_line.main(arguments)\n"
        "    except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "sing",
        "speak",
        "speak hello",
        "speak hello -o a.wav --voice-text hi",
        "speak hello -o a.wav --num-candidates 0",
        "speak hello -o a.wav --num-candidates 2 --temperature 0",
        "speak hello -o a.wav --temperature -1",
        "speak hello -o a.wav --temperature nan",
        "speak hello -o a.wav --max-seconds 0",
        "speak hello -o a.wav --top-k 1.5",
        "speak hello -o a.wav --threads 0",
        "speak hello -o a.wav --seed one",
        "encode a.wav",
        "encode a.wav -o a.safetensors --num-codebooks 0",
        "decode a.safetensors",
        "info",
        "convert --weights a.pt",
    ],
)
def test_wrong_command_lines_exit_with_2(arguments: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments.split())
    assert ended.value.code == 2
    assert "usage: smalle" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_speak_writes_what_the_suffix_says(checkpoint: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"new/speech.{suffix}"
    audio = speak(checkpoint, "Hello world.", path)
    facts = soundfile.info(path)
    assert (facts.format.lower(), facts.samplerate, facts.channels) == (suffix, RATE, 1)
    assert len(audio) == pytest.approx(0.3 * RATE, abs=RATE / 75)
    assert np.abs(audio).max() > 0


def test_the_seed_decides(checkpoint: Path, tmp_path: Path) -> None:
    first, again, other = (
        speak(checkpoint, "Hello world.", tmp_path / f"{index}.wav", "--seed", seed)
        for index, seed in enumerate([1, 1, 2])
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_speak_is_generate(checkpoint: Path, tmp_path: Path) -> None:
    more = ["--seed", 7, "--temperature", 0.7, "--top-k", 20, "--num-candidates", 3]
    audio = speak(checkpoint, "Hello world.", tmp_path / "a.wav", *more)
    model, processor = checkpoints.load_speaker(str(checkpoint), "cpu")
    inputs = processor("Hello world.", **load_voice(checkpoint, "ann"))
    output = model.generate(**inputs, seed=7, temperature=0.7, top_k=20, num_candidates=3, max_new_tokens=23)
    np.testing.assert_allclose(audio, processor.decode(output), atol=1e-4)


def test_temperature_0_takes_the_best(checkpoint: Path, tmp_path: Path) -> None:
    audio = [
        speak(checkpoint, "Hello.", tmp_path / f"{seed}.wav", "--temperature", 0, "--seed", seed) for seed in (1, 2)
    ]
    np.testing.assert_array_equal(*audio)


def test_long_text_is_spoken_in_pieces(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = []
    call = SmallEProcessor.__call__
    monkeypatch.setattr(
        SmallEProcessor, "__call__", lambda self, text, **more: spoken.append(text) or call(self, text, **more)
    )
    text = "One. Two!\n\nThis sentence is far too long to be spoken at once, so it is cut where it has a comma. …"
    assert run("speak", text, "-o", tmp_path / "a.wav", "--model", checkpoint, "--max-seconds", 60) == 0
    assert "".join(spoken) == text
    assert [piece.strip() for piece in spoken[:2]] == ["One.", "Two!"]
    assert len(spoken) >= 4
    tokenizer = checkpoints.load_speaker(str(checkpoint), "cpu")[1].tokenizer
    assert max(len(tokenizer(piece)["input_ids"]) for piece in spoken) <= 60
    assert f"{len(spoken)} of {len(spoken)} sentences" in capsys.readouterr().err


def test_an_utterance_without_an_end_is_reported(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    # Greedy ids of this random model never end.
    assert run("speak", "Hello.", "-o", tmp_path / "a.wav", "--model", checkpoint, "--temperature", 0) == 0
    warning, summary = capsys.readouterr().err.splitlines()
    assert warning.startswith("smalle: warning: The model found no end of 'Hello.'")
    assert "1 of 1 sentences" in summary


def test_max_seconds_holds_for_the_whole_text(checkpoint: Path, tmp_path: Path) -> None:
    audio = speak(checkpoint, "One two three. " * 20, tmp_path / "a.wav", "--max-seconds", 1)
    assert 0.9 * RATE <= len(audio) <= 1.0 * RATE + 3 * 0.25 * RATE


def test_text_from_stdin_and_wav_to_stdout(
    checkpoint: Path, tmp_path: Path, stdin, capsysbinary: pytest.CaptureFixture
) -> None:
    stdin("\ufeffHéllo world.\n".encode())
    assert run("speak", "-", "-o", "-", "--model", checkpoint, *SHORT) == 0
    captured = capsysbinary.readouterr()
    audio, rate = soundfile.read(io.BytesIO(captured.out))
    assert rate == RATE
    np.testing.assert_array_equal(audio, speak(checkpoint, "Hello world.\n", tmp_path / "a.wav"))
    assert captured.err.startswith(b"stdout: 0.3")


def test_voices(checkpoint: Path, tmp_path: Path, recording: Path, capsys: pytest.CaptureFixture) -> None:
    default = speak(checkpoint, "Hello.", tmp_path / "a.wav")
    np.testing.assert_array_equal(default, speak(checkpoint, "Hello.", tmp_path / "b.wav", "--voice", "ann"))
    voice_file = checkpoint / "voices" / "ann.safetensors"
    np.testing.assert_array_equal(default, speak(checkpoint, "Hello.", tmp_path / "c.wav", "--voice", voice_file))
    capsys.readouterr()
    mine = speak(checkpoint, "Hello.", tmp_path / "d.wav", "--voice", recording, "--voice-text", "I say this")
    assert "warning" not in capsys.readouterr().err
    assert not np.array_equal(default, mine)
    speak(checkpoint, "Hello. And again.", tmp_path / "e.wav", "--voice", recording)
    assert capsys.readouterr().err.count("smalle: warning: The voice prompt has no transcript") == 1


def test_a_recording_becomes_a_voice(checkpoint: Path, tmp_path: Path, recording: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    path = folder / "voices" / "me.safetensors"
    assert run("encode", recording, "--text", "I say this", "-o", path, "--codec", folder) == 0
    assert list_voices(folder) == ["ann", "me"]
    named = speak(folder, "Hello.", tmp_path / "a.wav", "--voice", "me")
    heard = speak(folder, "Hello.", tmp_path / "b.wav", "--voice", recording, "--voice-text", "I say this")
    np.testing.assert_array_equal(named, heard)


def test_what_the_vocabulary_cannot_write_is_left_out_with_a_warning(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    speak(checkpoint, "Hello. 你好。 World. Æther 你.", tmp_path / "a.wav", "--max-seconds", 30)
    lines = capsys.readouterr().err.splitlines()
    assert "3 of 3 sentences" in lines.pop()
    assert [line for line in lines if "vocabulary" in line] == [
        "smalle: warning: The vocabulary cannot write these parts, which are left out: ['你好。']",
        "smalle: warning: The vocabulary lacks these characters, which are left out: 你",
    ]


@pytest.mark.parametrize("code", [0, 3])
def test_play(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, code: int
) -> None:
    player = tmp_path / "aplay"
    player.write_text(f'#!/bin/sh\ncp "$2" "{tmp_path}/played.wav"\necho "no sound card" >&2\nexit {code}\n')
    player.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert run("speak", "Hello.", "--play", "--model", checkpoint, *SHORT) == min(code, 1)
    played = soundfile.read(tmp_path / "played.wav")[0]
    error = capsys.readouterr().err
    assert ("aplay could not play the speech: no sound card" in error) == bool(code)
    if code == 0:
        np.testing.assert_array_equal(played, speak(checkpoint, "Hello.", tmp_path / "a.wav", "--play"))


def test_threads(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One by default: small matrices are faster on one core, and programs that share the cores do not wait."""
    counts: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    speak(checkpoint, "Hello.", tmp_path / "a.wav")
    speak(checkpoint, "Hello.", tmp_path / "a.wav", "--threads", 2)
    assert counts == [1, 2]


def test_no_player(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(delivery.shutil, "which", lambda name: None)
    assert run("speak", "Hello.", "--play", "--model", "nowhere/there/is") == 1
    assert "install one of aplay" in error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speak", "Hi", "-o", "a.mp3", "--model", "MODEL"], "use one of the suffixes .wav, .flac, .ogg"),
        (["speak", "...", "-o", "a.wav", "--model", "MODEL"], "nothing to say"),
        (["speak", "你好", "-o", "a.wav", "--model", "MODEL"], "cannot write these letters"),
        (["speak", "Hi", "-o", "a.wav", "--model", "./nowhere"], "There is no folder ./nowhere"),
        (["speak", "Hi", "-o", "a.wav", "--model", "EMPTY"], "no config.json"),
        (["speak", "Hi", "-o", "a.wav", "--model", "CODEC"], "is a encodec model, and no Small-E"),
        (["speak", "Hi", "-o", "a.wav", "--model", "BARE"], "has no codec inside"),
        (["speak", "Hi", "-o", "a.wav", "--model", "MODEL", "--voice", "bob"], "has no voice 'bob': it has ann"),
        (["speak", "Hi", "-o", "a.wav", "--model", "MODEL", "--voice", "b.wav"], "There is no recording b.wav"),
        (["speak", "Hi", "-o", "a.wav", "--model", "MODEL", "--voice", "ann", "--voice-text", "x"], "have their own"),
        (["speak", "Hi", "-o", "a.wav", "--model", "MODEL", "--voice", "README"], "Cannot decode"),
        (["speak", "Hi", "-o", "README/a.wav", "--model", "MODEL", *SHORT], "README"),
        (["speak", "Hi", "-o", "a.wav", "--model", "MODEL", "--device", "toaster"], "device"),
        (["info", "EMPTY"], "no checkpoint"),
        (["encode", "nowhere.wav", "-o", "a.safetensors", "--codec", "MODEL"], "There is no audio file"),
        (["encode", "WAV", "-o", "a.pt", "--codec", "MODEL"], "safetensors"),
        (["encode", "WAV", "-o", "a.safetensors", "--codec", "BARE"], "no codec inside"),
        (["encode", "WAV", "-o", "a.safetensors", "--codec", "CODEC", "--num-codebooks", "33"], "has 4 codebooks"),
        (["decode", "README", "-o", "a.wav", "--codec", "MODEL"], "no safetensors file"),
        (["decode", "nowhere", "-o", "a.wav", "--codec", "MODEL"], "There is no file nowhere"),
        (["decode", "WEIGHTS", "-o", "a.wav", "--codec", "MODEL"], "holds no codes"),
        (["convert", "--weights", "nowhere.pt", "--output", "a"], "nowhere.pt does not exist"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_errors_are_one_line_and_exit_with_1(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    codec_folder: Path,
    recording: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    if "BARE" in arguments:
        SmallEForSpeechGeneration(SmallEConfig.from_preset("tiny")).save_pretrained(tmp_path / "bare")
    places = {
        "MODEL": checkpoint,
        "CODEC": codec_folder,
        "WAV": recording,
        "EMPTY": tmp_path / "empty",
        "BARE": tmp_path / "bare",
        "README": checkpoint / "README.md",
        "WEIGHTS": checkpoint / "model.safetensors",
    }
    arguments = [str(places.get(argument, argument)) for argument in arguments]
    arguments = [argument.replace("README/", f"{places['README']}/") for argument in arguments]
    capfd.readouterr()
    assert run(*arguments) == 1
    captured = capfd.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) == 1, lines
    assert "error: " in lines[0]
    assert message in lines[0]
    assert not (tmp_path / "a.wav").exists()
    assert not (tmp_path / "a.safetensors").exists()


def test_text_that_is_no_utf8(stdin, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stdin("Grüße".encode("latin-1"))
    assert run("speak", "-", "-o", tmp_path / "a.wav", "--model", checkpoint) == 1
    assert "not UTF-8" in error_line(capsys)


def test_bytes_are_not_written_to_a_terminal(
    checkpoint: Path, recording: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("speak", "Hello.", "-o", "-", "--model", checkpoint) == 1
    assert "terminal" in error_line(capsys)
    assert run("encode", recording, "-o", "-", "--codec", checkpoint) == 1
    assert "terminal" in error_line(capsys)


def test_a_damaged_checkpoint(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert run("info", folder) == 1
    assert "is damaged" in error_line(capsys)
    assert run("speak", "Hello.", "-o", tmp_path / "a.wav", "--model", folder) == 1
    assert "damaged" in error_line(capsys)


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 1), (OSError("x\ny"), 1)]
)
def test_interrupts_and_broken_pipes(
    raised: BaseException, code: int, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(options: object) -> int:
        raise raised

    monkeypatch.setattr("smalle_hf.cli.info.run", fail)
    monkeypatch.setattr(os, "dup2", lambda *numbers: None)
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1, raising=False)
    assert run("info", checkpoint) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_mistake_in_the_program_is_not_dressed_up(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smalle_hf.cli.info.describe_checkpoint", lambda folder: folder["x"]["y"])
    monkeypatch.setattr("smalle_hf.cli.info.run", lambda options: {}["absent"])
    with pytest.raises(KeyError):
        run("info", checkpoint)


def test_info(checkpoint: Path, codec_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("info", checkpoint, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    model = SmallEForSpeechGeneration.from_pretrained(checkpoint)
    stored = sum(tensor.numel() for tensor in model.state_dict().values())
    assert facts["parameters"] == stored
    assert facts["codec_parameters"] == sum(tensor.numel() for tensor in model.codec_model.state_dict().values())
    expected = {
        "type": "small_e",
        "codec": "encodec",
        "sampling_rate": RATE,
        "frame_rate": 75.0,
        "licence": "cc-by-4.0",
        "voices": {"ann": 0.27},
        "bytes": sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()),
    }
    assert {name: facts[name] for name in expected} == expected
    assert run("info", checkpoint) == 0
    text = capsys.readouterr().out
    assert "ann (0.27 s)" in text
    assert f"{stored:,}" in text
    assert run("info", codec_folder) == 0
    assert "encodec" in capsys.readouterr().out


def test_encode_and_decode(checkpoint: Path, codec_folder: Path, recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "codes.safetensors"
    assert run("encode", recording, "-o", path, "--codec", checkpoint) == 0
    codes, metadata = read_codes(path)
    model, processor = checkpoints.load_speaker(str(checkpoint), "cpu")
    expected = model.encode_audio(processor(audio=str(recording)).input_values)[0][0]
    assert torch.equal(codes, expected)
    assert metadata == {"codec": "encodec", "sampling_rate": "24000", "frame_rate": "75", "samples": "12000"}
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("audio_codes").dtype == torch.int16
    for codec in (checkpoint, codec_folder):
        assert run("decode", path, "-o", tmp_path / "a.wav", "--codec", codec) == 0
        audio, rate = soundfile.read(tmp_path / "a.wav")
        assert (len(audio), rate) == (12000, RATE)
        np.testing.assert_allclose(audio, model.decode_audio(codes[None])[0, :12000].numpy(), atol=1e-4)


def test_fewer_codebooks(codec_folder: Path, recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    assert run("encode", recording, "-o", path, "--codec", codec_folder, "--num-codebooks", 2) == 0
    assert read_codes(path)[0].shape[1] == 2
    assert run("decode", path, "-o", tmp_path / "a.wav", "--codec", codec_folder) == 0


def test_codes_through_a_pipe(
    checkpoint: Path, recording: Path, tmp_path: Path, stdin, capsysbinary: pytest.CaptureFixture
) -> None:
    stdin(recording.read_bytes())
    assert run("encode", "-", "-o", "-", "--codec", checkpoint) == 0
    stdin(capsysbinary.readouterr().out)
    assert run("decode", "-", "-o", "-", "--codec", checkpoint) == 0
    audio, rate = soundfile.read(io.BytesIO(capsysbinary.readouterr().out))
    assert (len(audio), rate) == (12000, RATE)


def test_codes_of_another_codec_are_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "codes.safetensors"
    cases = {
        "sampling rate is 16000": ((5, 4), 0, {"sampling_rate": "16000"}),
        "codec is mimi": ((5, 4), 0, {"codec": "mimi"}),
        "5 codebooks": ((5, 5), 0, {}),
        "0..1023": ((5, 4), 2000, {}),
    }
    for message, (shape, value, metadata) in cases.items():
        write_bytes(path, encode_codes(torch.full(shape, value), metadata))
        assert run("decode", path, "-o", tmp_path / "a.wav", "--codec", checkpoint) == 1
        assert message in error_line(capsys)


def test_convert(golden_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = sorted(golden_dir.glob("*.weights.safetensors"))
    if not weights:
        pytest.skip("there are no weights among the test material")
    code = run("convert", "--weights", weights[0], "--output", tmp_path / "converted")
    assert code == 0, capsys.readouterr().err
    assert run("info", tmp_path / "converted") == 0
    assert "small_e" in capsys.readouterr().out


def test_the_installed_command_in_a_pipe(checkpoint: Path) -> None:
    script = Path(sysconfig.get_path("scripts")) / "smalle"
    if not script.is_file():
        pytest.skip("the package is not installed with its command")
    arguments = ["speak", "-", "-o", "-", "--model", str(checkpoint), *SHORT]
    done = subprocess.run([script, *arguments], input=b"Hello world.", capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    audio, rate = soundfile.read(io.BytesIO(done.stdout))
    assert (len(audio), rate) == (23 * 320, RATE)
    assert done.stderr.count(b"\n") == 1  # no progress bar where there is no terminal
