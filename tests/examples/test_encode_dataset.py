"""examples/encode_dataset.py: the right codes, shared out to any number of processes, and whole after any kill."""

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from transformers import EncodecConfig, EncodecModel

from smalle_hf.data import BrokenInputReport, load_speech, read_segment
from smalle_hf.data.token_cache import TokenCache, read_codec, shard_paths, verify_token_cache

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "encode_dataset.py"
NUM_ROWS = 24


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("encode_dataset", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def listing_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory):
    """An EnCodec of random weights whose codebooks are fitted to noise, so that its codes say something."""
    torch.manual_seed(0)
    config = EncodecConfig(num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=256, num_lstm_layers=1)
    codec = EncodecModel(config).eval()
    with torch.no_grad():
        residual = codec.encoder(0.1 * torch.randn(1, 1, 240_000))[0].T
        for layer in codec.quantizer.layers:
            layer.codebook.embed.copy_(residual[torch.randperm(len(residual))[:256]])
            residual = residual - layer.codebook.embed[torch.cdist(residual, layer.codebook.embed).argmin(-1)]
    folder = tmp_path_factory.mktemp("codec") / "tiny-encodec"
    codec.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Manifest of short recordings of noise."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    with open(folder / "manifest.jsonl", "w") as manifest:
        for index in range(NUM_ROWS):
            samples = 0.1 * rng.standard_normal(int(rng.integers(4_000, 24_000)))
            soundfile.write(folder / f"{index}.wav", samples, 16_000)
            row = {"id": f"utt-{index}", "audio": f"{index}.wav", "text": f"Text {index}.", "speaker": f"s{index % 3}"}
            manifest.write(json.dumps({**row, "language": "en", "licence": "CC0-1.0"}) + "\n")
    return folder / "manifest.jsonl"


@pytest.fixture
def run(script, corpus, codec_folder):
    """Runs the script on the corpus, in this process."""

    def call(output, *options, source=corpus):
        return script.main([str(source), str(output), "--cpu", "--codec", str(codec_folder), *options])

    return call


def tables(folder):
    return [pq.read_table(path) for path in shard_paths(folder)]


def assert_equal_caches(first, second):
    names = [path.name for path in shard_paths(first)]
    assert names == [path.name for path in shard_paths(second)]
    for left, right in zip(tables(first), tables(second), strict=True):
        assert left.equals(right, check_metadata=True)


@pytest.fixture(scope="module")
def expected(script, corpus, codec_folder, tmp_path_factory):
    """What an undisturbed run writes with one row to a shard."""
    output = tmp_path_factory.mktemp("expected") / "cache"
    assert script.main([str(corpus), str(output), "--cpu", "--codec", str(codec_folder), "--rows-per-shard", "1"]) == 0
    assert len(shard_paths(output)) == NUM_ROWS
    return output


def test_real_speech_gets_the_codes_of_the_codec(run, data_dir, codec_folder, tmp_path, capsys):
    tree = data_dir / "librilight_mini"
    manifest = str(tree / "libriheavy_cuts_mini.jsonl")
    options = ["--manifest", manifest, "--max-duration", "6", "--rows-per-shard", "5", "--num-codebooks", "3"]
    assert run(tmp_path / "cache", *options, source=tree) == 0
    assert "0 broken inputs skipped" in capsys.readouterr().out
    rows = {row["id"]: row for row in load_speech(tree, manifest=manifest, max_duration=6.0)}
    assert 3 < len(rows) < 30
    codec = EncodecModel.from_pretrained(codec_folder).eval()
    info = read_codec(shard_paths(tmp_path / "cache")[0])
    assert (info.name, info.num_codebooks, info.frame_rate) == ("tiny-encodec", 3, 75.0)
    cached = [row for table in tables(tmp_path / "cache") for row in table.to_pylist()]
    assert [row["id"] for row in cached] == sorted(rows)
    for row in cached:
        source = rows[row["id"]]
        for column in ("text", "speaker", "language", "licence"):
            assert row[column] == source[column]
        assert row["duration"] == pytest.approx(source["duration"], abs=1e-3)
        waveform = torch.from_numpy(read_segment(source, sampling_rate=24_000))
        frames = -(-len(waveform) // 320)
        waveform = torch.nn.functional.pad(waveform, (0, frames * 320 - len(waveform)))
        with torch.no_grad():
            codes = codec.encode(waveform[None, None], bandwidth=24.0).audio_codes[0, 0, :3]
        assert row["num_frames"] == frames
        assert row["codes"] == codes.T.flatten().tolist()
    codes = np.concatenate([row["codes"] for row in cached])
    assert len(np.unique(codes)) > 50


def test_training_reads_what_was_encoded(run, tmp_path):
    assert run(tmp_path / "cache") == 0
    cache = TokenCache(tmp_path / "cache", cache_dir=tmp_path / "arrow")
    assert len(cache) == NUM_ROWS
    assert cache[0]["text"] == "Text 0."
    report = BrokenInputReport.read(tmp_path / "cache" / "broken_input.json")
    assert (report.num_rows, report.num_broken) == (NUM_ROWS, 0)


def test_machines_share_the_work(run, expected, tmp_path, capsys):
    options = ["--rows-per-shard", "1", "--num-shards", "3"]
    for shard in (2, 0):
        assert run(tmp_path / "cache", *options, "--shard", str(shard)) == 0
        assert "the others are up to other processes" in capsys.readouterr().out
    assert not (tmp_path / "cache" / "broken_input.json").exists()
    assert run(tmp_path / "cache", *options, "--shard", "1") == 0
    assert f"{NUM_ROWS} rows" in capsys.readouterr().out
    assert_equal_caches(tmp_path / "cache", expected)


@pytest.mark.parametrize("batch_seconds", ["0.1", "3", "100"])
def test_batches_do_not_change_the_rows(run, expected, tmp_path, batch_seconds):
    assert run(tmp_path / "cache", "--rows-per-shard", "7", "--batch-seconds", batch_seconds) == 0
    rows = [row for table in tables(tmp_path / "cache") for row in table.to_pylist()]
    assert rows == [row for table in tables(expected) for row in table.to_pylist()]


def start(script, arguments, prepare=None):
    """Runs the script in a process that can be killed; forked, so that it need not import everything again."""

    def target():
        torch.set_num_threads(1)  # a forked process waits forever for OpenMP threads, which only its parent has
        if prepare is not None:
            prepare()
        sys.exit(script.main(arguments))

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    return process


def test_killed_at_random_it_ends_with_the_same_rows(script, corpus, codec_folder, expected, tmp_path):
    output = tmp_path / "cache"
    arguments = [str(corpus), str(output), "--cpu", "--codec", str(codec_folder), "--rows-per-shard", "1"]
    rng = random.Random(0)
    num_done = []
    for _ in range(30):
        process = start(script, arguments)
        before = len(list(output.glob("*.parquet")))
        while process.is_alive() and len(list(output.glob("*.parquet"))) <= before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        num_done.append(len(list(output.glob("*.parquet"))))
        for path in output.glob("*.parquet"):
            assert pq.read_table(path).num_rows == 1  # whatever has its name is whole
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert len(num_done) > 2, "it was over before it could be killed"
    assert script.main(arguments) == 0
    assert_equal_caches(output, expected)
    assert verify_token_cache(output)[0] == NUM_ROWS
    assert sorted(path.name for path in output.iterdir() if path.suffix != ".parquet") == ["broken_input.json"]


@pytest.mark.parametrize("num_writes", [1, 5, NUM_ROWS])
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_killed_while_writing_it_ends_with_the_same_rows(
    script, corpus, codec_folder, expected, tmp_path, num_writes, moment
):
    """Killed when a shard is written under its temporary name, and just after it was renamed."""
    output = tmp_path / "cache"
    arguments = [str(corpus), str(output), "--cpu", "--codec", str(codec_folder), "--rows-per-shard", "1"]

    def prepare():
        original, calls = getattr(os, moment), []

        def die(*values):
            original(*values)
            calls.append(moment == "fsync" or ".parquet" in str(values[0]))
            if sum(calls) == num_writes:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, moment, die)

    process = start(script, arguments, prepare)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(output.glob("*.parquet"))) == num_writes - (moment == "fsync")
    assert len(list(output.glob("*.tmp"))) == (moment == "fsync")
    assert script.main(arguments) == 0
    assert_equal_caches(output, expected)
    assert not list(output.glob("*.tmp"))


@pytest.mark.slow
def test_two_processes_share_the_work(corpus, codec_folder, expected, tmp_path):
    arguments = [str(corpus), str(tmp_path / "cache"), "--cpu", "--codec", str(codec_folder), "--rows-per-shard", "1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    result = subprocess.run(
        [*command, str(SCRIPT), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "datasets")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    for process in (0, 1):
        assert f"process {process}: {NUM_ROWS // 2} of {NUM_ROWS // 2} shards encoded" in result.stdout
    assert_equal_caches(tmp_path / "cache", expected)


def test_broken_recordings_are_skipped_counted_and_judged(run, corpus, tmp_path, capsys):
    lines = corpus.read_text().splitlines()
    soundfile.write(tmp_path / "silent.wav", np.zeros(8_000), 16_000)
    broken = {"id": "silent", "audio": str(tmp_path / "silent.wav"), "text": "Nothing."}
    missing = {"id": "missing", "audio": str(corpus.parent / "missing.wav"), "text": "Gone."}
    for index in range(3):
        (tmp_path / f"{index}.wav").write_bytes((corpus.parent / f"{index}.wav").read_bytes())
    rows = [*map(json.loads, lines[:3]), {**broken, "audio": "silent.wav"}, {**missing, "audio": "missing.wav"}]
    (tmp_path / "broken.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--rows-per-shard", "2", "--max-broken-fraction"]
    assert run(tmp_path / "cache", *options, "0.5", source=tmp_path / "broken.jsonl") == 0
    ids = [id for table in tables(tmp_path / "cache") for id in table.column("id").to_pylist()]
    assert ids == ["utt-0", "utt-1", "utt-2"]
    report = BrokenInputReport.read(tmp_path / "cache" / "broken_input.json")
    assert report.num_rows == 5
    assert report.counts == {"silence": 1, "text_without_audio": 1}
    capsys.readouterr()
    assert run(tmp_path / "cache", *options, "0.3", source=tmp_path / "broken.jsonl") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: 2 of 5 inputs are broken (40.0%)")
    assert len(error.splitlines()) == 1


def test_untranscribed_audio_is_kept_on_request(run, corpus, tmp_path):
    rows = [json.loads(line) for line in corpus.read_text().splitlines()[:3]]
    del rows[1]["text"]
    manifest = corpus.with_name("partly.jsonl")
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(tmp_path / "all", "--allow-untranscribed", source=manifest) == 0
    assert tables(tmp_path / "all")[0].column("text").to_pylist() == ["Text 0.", None, "Text 2."]
    assert run(tmp_path / "some", source=manifest) == 1  # a third is broken
    assert tables(tmp_path / "some")[0].column("id").to_pylist() == ["utt-0", "utt-2"]


def test_a_folder_of_other_rows_or_of_another_codec_is_refused(run, corpus, tmp_path, capsys):
    assert run(tmp_path / "cache", "--rows-per-shard", "10") == 0
    before = tables(tmp_path / "cache")
    changed = corpus.with_name("changed.jsonl")
    changed.write_text(corpus.read_text().replace("Text 3.", "Text three."))
    cases = [
        (["--rows-per-shard", "10", "--num-codebooks", "2"], corpus, "was made with"),
        (["--rows-per-shard", "9"], corpus, "choose another folder"),
        (["--rows-per-shard", "10"], changed, "choose another folder"),
    ]
    for options, source, message in cases:
        capsys.readouterr()
        assert run(tmp_path / "cache", *options, source=source) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert tables(tmp_path / "cache") == before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--shard", "2", "--num-shards", "2"], 2, "--shard 2 must lie in 0..1"),
        (["--rows-per-shard", "0"], 2, "--rows-per-shard must be positive"),
        (["--num-codebooks", "41"], 1, "40 codebooks, 41 are asked for"),
        (["--codec", "no/such/folder"], 1, "no/such/folder"),
        (["--min-snr", "3"], 1, "min_snr"),
    ],
)
def test_what_cannot_work_is_refused_at_once(run, tmp_path, capsys, options, code, message):
    try:
        result = run(tmp_path / "cache", *options)
    except SystemExit as error:
        result = error.code
    assert result == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
