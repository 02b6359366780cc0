"""The benchmarks run, say what they compare with their targets, and keep what was measured before.

How fast anything is, is not tested.
"""

import importlib
import json
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "examples" / "benchmarks"
MODULES = sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.fixture(scope="module")
def load():
    """Imports a module of examples/benchmarks as its scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module
    for name in [*MODULES, "decoder_only"]:
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(load, name, folder, *options):
    """Results of a benchmark's quick form, by phase."""
    assert load(name).main(["--quick", "--output", str(folder), *options]) == 0
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert {path.suffix for path in folder.iterdir()} == {".json", ".png"}
    return json.loads((folder / f"{name}.json").read_text())


def test_linear_cost(load, tmp_path, capsys):
    phases = run(load, "linear_cost", tmp_path, "--phases", "training", "generation")
    printed = capsys.readouterr().out
    for phase in ("training", "generation"):
        rows = phases[phase]["rows"]
        assert {row["model"] for row in rows} == {"Small-E", "decoder-only"}
        assert all(value > 0 for row in rows for value in row.values() if isinstance(value, float))
    cache = {(row["model"], row["frames"]): row["cache_mib"] for row in phases["generation"]["rows"]}
    assert cache["Small-E", 50] == cache["Small-E", 100]
    assert cache["decoder-only", 50] < cache["decoder-only", 100]
    targets = [target for phase in phases.values() for target in phase["targets"]]
    assert [target["limit"] for target in targets] == [1.15, 1.05, 1.0]
    assert all(target["name"] in printed for target in targets)


@pytest.mark.slow
def test_memory_of_generations(load, tmp_path):
    phase = run(load, "linear_cost", tmp_path, "--phases", "memory")["memory"]
    assert [row["frames"] for row in phase["rows"]] == [50, 150, 50, 150]
    assert all(row["peak_mib"] > 50 for row in phase["rows"])
    assert [target["limit"] for target in phase["targets"]] == [5.0, 5.0]


def test_lengths_measured_in_two_goes_are_put_together(load, tmp_path):
    options = ["--phases", "training", "--models", "Small-E", "--frames-per-step", "64", "--lengths"]
    for length in ("64", "32"):
        phases = run(load, "linear_cost", tmp_path, *options, length)
    assert [row["frames"] for row in phases["training"]["rows"]] == [64, 32]
    assert phases["training"]["targets"][0]["name"].endswith("at 64 frames over that at 32")
    assert {row["frames_per_step"] for row in phases["training"]["rows"]} == {64}


def test_cpu_generation(load, tmp_path, capsys):
    options = ["--threads", "1", "--systems", "Small-E", "Pocket TTS", "decoder-only"]
    phases = run(load, "cpu_generation", tmp_path, *options)
    printed = capsys.readouterr().out
    rows = phases["speech"]["rows"]
    systems = {row["system"] for row in rows}
    assert {"Small-E", "decoder-only"} <= systems
    assert len(rows) == 2 * len(systems)
    assert all(row["real_time_factor"] > 0 for row in rows)
    assert all(target["name"] in printed for target in phases["speech"]["targets"])
    limits = {target["name"]: target["limit"] for target in phases["speech"]["targets"]}
    assert limits["real-time factor of Small-E, batch 1"] == 0.5


@pytest.mark.slow
def test_cpu_generation_with_onnx(load, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("smalle_hf.onnx.export")
    folder = tmp_path / "exported"
    options = ["--threads", "1", "--batch-sizes", "1", "--systems", "Small-E int8", "--onnx", str(folder)]
    rows = run(load, "cpu_generation", tmp_path / "results", *options)["speech"]["rows"]
    assert [row["system"] for row in rows] == ["Small-E int8"]
    assert (folder / "decoder_step.onnx").is_file()


def test_a_system_that_transformers_does_not_have_is_left_out(load, tmp_path, capsys, monkeypatch):
    def missing(**options):
        raise ImportError("Not there.")

    monkeypatch.setattr(load("cpu_generation"), "PocketTTS", missing)
    options = ["--threads", "1", "--batch-sizes", "1", "--systems", "Pocket TTS", "decoder-only"]
    rows = run(load, "cpu_generation", tmp_path, *options)["speech"]["rows"]
    assert [row["system"] for row in rows] == ["decoder-only"]
    assert "Pocket TTS is left out. Not there." in capsys.readouterr().err


def test_lclm_replacements(load, tmp_path):
    phases = run(load, "lclm_replacements", tmp_path, "--threads", "1", "--width", "64")
    for phase in ("training", "step"):
        rows = phases[phase]["rows"]
        assert {row["mixer"] for row in rows} == {"gated linear attention", "Mamba2", "attention"}
        ours = [row for row in rows if row["mixer"] == "gated linear attention"]
        assert all(row["over_gated_linear_attention"] == 1.0 for row in ours)


@pytest.mark.parametrize("name", ["GatedLinearAttention", "Mamba2", "Attention"])
def test_a_step_is_what_the_whole_sequence_gives(load, name):
    torch.manual_seed(0)
    mixer = getattr(load("lclm_replacements"), name)(64).eval()
    hidden_states = torch.randn(1, 21, 64)
    with torch.no_grad():
        step = mixer.stepper(hidden_states[:, :20])
        torch.testing.assert_close(step(hidden_states[:, 20:]), mixer(hidden_states)[:, -1:], atol=1e-4, rtol=1e-4)


def test_codec_decoders(load, tmp_path):
    rows = run(load, "codec_decoders", tmp_path, "--threads", "1")["decoding"]["rows"]
    assert [row["decoder"] for row in rows] == ["EnCodec", "Vocos", "small codec, 16 kHz"]
    assert rows[0]["times_as_fast_as_encodec"] == 1.0


def test_recurrence(load, tmp_path):
    phase = run(load, "recurrence", tmp_path)["training"]
    assert [row["frames"] for row in phase["rows"]] == [512, 1024]
    assert all(value > 0 for row in phase["rows"] for value in row.values())
    assert [target["limit"] for target in phase["targets"]] == [1.9, 2.6, 1.1]


def test_generation_step(load, tmp_path):
    phases = run(load, "generation_step", tmp_path, "--threads", "1", "--phases", "step")
    rows = phases["step"]["rows"]
    assert [(row["model"], row["batch_size"]) for row in rows] == list(product(["tiny", "small voice"], [1, 8]))
    assert all(row["step_ms"] == pytest.approx(row["forward_ms"] + row["rest_ms"]) for row in rows)
    assert all(row["rest_ms"] > 0 for row in rows)
    assert [target["limit"] for target in phases["step"]["targets"]] == [1.0, 1.0]


@pytest.mark.slow
def test_processes_that_generate_side_by_side(load, tmp_path):
    rows = run(load, "generation_step", tmp_path, "--threads", "1", "--phases", "processes")["processes"]["rows"]
    assert [(row["waiting"], row["processes"]) for row in rows] == list(product(["active", "passive"], [1, 2]))
    assert all(row["step_ms"] > 0 for row in rows)


def test_systems_speak_as_long_as_they_are_told(load):
    rivals = load("rivals")
    config = rivals.SmallEConfig.from_preset("tiny", codec_config=rivals.vocos_config())
    for system in (rivals.SmallE(config), rivals.DecoderOnly(config)):
        assert system.speak(0.4, 2).shape == (2, 9600)


def test_alternation_measures_every_step_in_turn(load):
    calls = []
    steps = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    times = load("comparison").alternate(steps, repeats=2, warm_ups=1)
    assert calls == list("ababab")
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_ratios_are_taken_pair_by_pair(load):
    assert load("comparison").median_ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


@pytest.mark.parametrize(("value", "at_least", "is_met"), [(1, False, True), (3, False, False), (3, True, True)])
def test_targets(load, value, at_least, is_met):
    target = load("comparison").Target("speed", value, 2, at_least)
    assert target.is_met == is_met
    assert ("MISSED" in str(target)) != is_met


def test_results_of_other_settings_are_not_kept(load, tmp_path):
    def report(settings, frames, value):
        load("comparison").report(tmp_path, "x", "phase", settings, [{"frames": frames, "value": value}])
        return json.loads((tmp_path / "x.json").read_text())["phase"]["rows"]

    report({"size": 1}, 1, 1.0)
    assert report({"size": 1}, 2, 2.0) == [{"frames": 1, "value": 1.0}, {"frames": 2, "value": 2.0}]
    assert report({"size": 1}, 1, 3.0) == [{"frames": 1, "value": 3.0}, {"frames": 2, "value": 2.0}]
    assert report({"size": 2}, 1, 4.0) == [{"frames": 1, "value": 4.0}]
