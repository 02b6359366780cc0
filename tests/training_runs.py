"""Token caches, codecs and runs of `examples/train.py` for the tests of training."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState

from smalle_hf import SmallCodecConfig, SmallCodecModel
from smalle_hf.data.codec_encoder import weights_fingerprint
from smalle_hf.data.token_cache import CodecInfo, shard_name, write_shard

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TRAIN = EXAMPLES / "train.py"
FSDP = Path(__file__).parent / "training" / "fsdp_on_cpu.py"
WORDS = "the quick brown fox jumps over a lazy dog".split()  # noqa: SIM905
CODEC = CodecInfo("synthetic", "sha256:0", 16000, 50.0, 4, 64)
SMALL_RUN = {
    "preset": "tiny",
    "model_options": ["hidden_size=32", "position_size=16", "dropout=0.1"],
    "text_units": "characters",
    "frames_per_batch": 400,
    "max_steps": 10,
    "learning_rate": 3e-3,
    "warmup_steps": 2,
    "log_every": 1,
    "save_every": 3,
    "validate_every": 4,
    "report_to": ["none"],
}


def make_rows(count, seed=0, codebook_size=64):
    """Utterances whose codes follow from the text and the time, with some noise: there is something to learn."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        words = rng.choice(len(WORDS), rng.integers(2, 6))
        frames = rng.integers(20, 60)
        word_at_frame = words[np.arange(frames) * len(words) // frames]
        codes = (word_at_frame[:, None] * 3 + np.arange(4) * 5 + rng.integers(0, 2, (frames, 4))) % codebook_size
        rows.append(
            {
                "id": f"utterance-{seed}-{index}",
                "codes": codes,
                "text": " ".join(WORDS[word] for word in words),
                "duration": frames / 50,
                "speaker": f"speaker-{index % 3}",
                "language": "en",
                "licence": "CC-BY-4.0",
            }
        )
    return rows


def write_cache(folder, count=60, seed=0, codec=CODEC, rows=None):
    """Writes a token cache of one shard and returns its folder."""
    folder.mkdir(parents=True)
    write_shard(
        folder / shard_name(0, 1), make_rows(count, seed, codec.codebook_size) if rows is None else rows, codec
    )
    return folder


def make_codec(folder, seed=0):
    """Saves a very small codec of random weights and returns its description."""
    torch.manual_seed(seed)
    config = SmallCodecConfig(
        codebook_size=64,
        codebook_dim=8,
        encoder_hidden_size=8,
        num_encoder_layers=1,
        decoder_hidden_size=8,
        num_decoder_layers=1,
    )
    codec = SmallCodecModel(config)
    codec.save_pretrained(folder)
    version = f"sha256:{weights_fingerprint(codec)}"
    return CodecInfo(folder.name, version, config.sampling_rate, config.frame_rate, 4, config.codebook_size)


def load_train():
    """Imports `examples/train.py`."""
    spec = importlib.util.spec_from_file_location("train", TRAIN)
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up by name.
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


def forget_accelerate():
    """Puts Accelerate's process-wide state back to where a new process has it."""
    for state in (AcceleratorState, PartialState):
        state._reset_state()
    GradientState._reset_state()


def write_config(path, options):
    """Writes arguments as the YAML file that `--config` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    path.write_text(yaml.safe_dump(plain))
    return path


def start(config, *options, processes=1, script=TRAIN):
    """Starts training in processes of its own."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, str(script), "--config", str(config), *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Waits for a run, which must succeed."""
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-4000:]


def kill_at(process, log, step):
    """Kills a run once it has logged a step."""
    deadline = time.monotonic() + 240
    while not any(entry["step"] >= step for entry in complete_lines(log)):
        assert process.poll() is None, process.stderr.read()[-4000:]
        assert time.monotonic() < deadline, "the run did not get there"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


def complete_lines(log):
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def logged(output, kind="train", name="loss"):
    """Values of a log by step."""
    return {entry["step"]: entry[name] for entry in complete_lines(output / "log.jsonl") if entry["kind"] == kind}
