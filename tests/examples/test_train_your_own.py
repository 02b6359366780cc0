"""The commands of "Train your own" in README.md, on a sample Libri-Light tree of real speech, with a kill between."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_runs import complete_lines, logged, make_codec

REPOSITORY = Path(__file__).resolve().parents[2]
# What is different from the real thing: a small codec and model, and few sentences and frames to judge.
SUBSTITUTES = {
    "facebook/encodec_24khz": "codec",
    "examples/configs/small_e_64m_librilight.yaml": "examples/configs/tiny_cpu.yaml",
    "--held_out 500": "--held_out 4",
}
ADDITIONS = {
    "encode_dataset": "--cpu",
    "train": "--save_every 7",
    "evaluate_tts": "--generate max_new_tokens=60 --speaker-model none --mos-model none",
}


def documented_commands():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## Train your own.*?```bash\n(.*?)```", text, re.DOTALL)[1]
    for real, small in SUBSTITUTES.items():
        assert real in block
        block = block.replace(real, small)
    commands = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    return {Path(next(word for word in command if word.endswith(".py"))).stem: command for command in commands}


@pytest.fixture
def folder(data_dir, tmp_path):
    """Working folder in which the documented names exist."""
    tree = data_dir / "librilight_mini"
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    (tmp_path / "librilight").symlink_to(tree)
    (tmp_path / "libriheavy_cuts.jsonl").symlink_to(tree / "libriheavy_cuts_mini.jsonl")
    (tmp_path / "sentences.txt").write_text("Being comparatively modern.\nI knew you could not choose.\n")
    make_codec(tmp_path / "codec")
    return tmp_path


def start(command, folder):
    programs = {"python": [sys.executable], "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}
    name = Path(next(word for word in command if word.endswith(".py"))).stem
    words = [*programs[command[0]], *command[1:], *ADDITIONS[name].split()]
    # A session of its own: a kill reaches the launcher and what it has launched.
    return subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "datasets")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process):
    shown, _ = process.communicate(timeout=300)
    assert process.returncode == 0, shown[-4000:]
    return shown


@pytest.mark.slow
def test_three_commands_lead_from_speech_to_a_report(folder):
    commands = documented_commands()
    finish(start(commands["encode_dataset"], folder))

    log = folder / "runs" / "my-voice" / "log.jsonl"
    training = start(commands["train"], folder)
    while not any(entry["step"] >= 10 for entry in complete_lines(log)):
        assert training.poll() is None, training.stdout.read()[-4000:]
        time.sleep(0.05)
    os.killpg(training.pid, signal.SIGKILL)
    training.communicate()
    shown = finish(start(commands["train"], folder))
    resumed = int(re.search(r"steps: (\d+) of 40 done", shown)[1])
    assert resumed in range(7, 36, 7)

    assert list(logged(log.parent)) == list(range(5, 41, 5))
    perplexities = logged(log.parent, "validation", "perplexity")
    assert list(perplexities) == [20, 40]
    # An untrained model has the size of the audio vocabulary, 67.
    assert perplexities[40] < perplexities[20] < 67 / 2

    finish(start(commands["evaluate_tts"], folder))
    results = json.loads((folder / "results" / "results.json").read_text())
    assert "being comparatively modern" in json.dumps(results).lower()
    assert "<audio" in (folder / "results" / "report.html").read_text()
