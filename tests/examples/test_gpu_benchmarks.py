"""The quick forms of the benchmarks that are meant for a GPU, on whatever is there."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], Any]]:
    """Imports a module of examples/benchmarks as its scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module
    for name in [*(path.stem for path in BENCHMARKS.glob("*.py")), "decoder_only"]:
        sys.modules.pop(name, None)


def run(module: Any, folder: Path, *options: str) -> Any:
    """Results of the quick form."""
    name = module.__name__
    assert module.main(["--quick", "--threads", "1", "--output", str(folder), *options]) == 0
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / f"{name}.json").read_text())


def test_training_throughput(load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = load("training_throughput")
    results = run(module, tmp_path, "--no-compile", "--peak-tflops", "1")["training"]
    rows = results["rows"]
    assert [(row["system"], row["frames"]) for row in rows] == [
        (name, frames) for frames in (32, 64) for name in module.SYSTEMS
    ]
    assert all(row["frames_per_step"] == 128 for row in rows)
    assert all(row["frames_per_second"] > 0 and 0 < row["mfu"] < 1 for row in rows)
    printed = capsys.readouterr().out
    assert printed.count("1.00x") >= 2
    if not torch.cuda.is_available():
        assert results["device"] == "CPU"
        assert results["targets"] == []


def test_without_a_peak_there_is_no_mfu(load: Any, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("the peak of a GPU may be known")
    options = ["--systems", "Small-E", "--lengths", "32"]
    rows = run(load("training_throughput"), tmp_path, *options)["training"]["rows"]
    assert len(rows) == 1
    assert "mfu" not in rows[0]


@pytest.mark.parametrize("is_packed", [False, True])
def test_batches_hold_the_same_utterances(load: Any, is_packed: bool) -> None:
    module = load("training_throughput")
    config = module.SmallEConfig.from_preset("tiny")
    batch = module.random_batch(16, 6, is_packed, config)
    rows = 2 if is_packed else 6
    assert batch["labels"].shape == (rows, 96 // rows, config.num_codebooks)
    if is_packed:
        changes = batch["decoder_segment_ids"].diff(dim=1) != 0
        assert changes.nonzero()[:, 1].tolist() == [15, 31] * 2
        assert batch["segment_ids"].shape == batch["input_ids"].shape


def test_targets_of_training(load: Any) -> None:
    module = load("training_throughput")
    speeds = {module.OURS: 700_000.0, module.PAPER: 500_000.0}
    rows = [{"system": name, "frames": 2048, "frames_per_second": speed} for name, speed in speeds.items()]
    assert [target.is_met for target in module.judge(rows)] == [True, False]


def test_operations_of_the_baseline(load: Any) -> None:
    """Against what PyTorch counts, which takes the pairs of which none reads the other for computed as well."""
    from torch.utils.flop_counter import FlopCounterMode

    module = load("training_throughput")
    model = module.build(True)[module.EQUAL]
    batch = module.random_batch(64, 2, False, model.config)
    with FlopCounterMode(display=False) as counter:
        model(**batch)
    positions = 64 + batch["input_ids"].shape[1]
    llama = model.transformer.config
    pairs = 2 * llama.num_hidden_layers * llama.hidden_size * positions**2 * 2
    found = module.step_flops(model, batch, 64, 2) / 3
    # On a CPU the counter does not know attention.
    assert counter.get_total_flops() == pytest.approx(found - pairs, rel=0.02)


def test_gpu_generation(load: Any, tmp_path: Path) -> None:
    module = load("gpu_generation")
    results = run(module, tmp_path)["generation"]
    ways = [module.WITH, module.WITHOUT] if torch.cuda.is_available() else [module.WITHOUT]
    assert [(row["batch_size"], row["step"]) for row in results["rows"]] == [(n, way) for n in (1, 4) for way in ways]
    assert all(row["real_time_multiple"] > 0 and row["step_ms"] > 0 for row in results["rows"])
    assert all(row["state_mib_per_stream"] > 0 for row in results["rows"])
    if not torch.cuda.is_available():
        assert results["targets"] == []


def test_targets_of_generation(load: Any) -> None:
    module = load("gpu_generation")
    rows = [
        {"batch_size": size, "step": way, "real_time_multiple": 30.0}
        for size in (1, 16, 256)
        for way in (module.WITH, module.WITHOUT)
    ]
    assert [(target.limit, target.is_met) for target in module.judge(rows)] == [(25, True), (2000, False)]
