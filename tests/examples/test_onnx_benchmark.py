"""The benchmark of exported models runs and compares each with its checkpoint. How fast anything is, is not tested."""

import importlib
import json
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
pytest.importorskip("onnxscript", reason="needs the exporter: pip install onnx onnxscript")

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"


@pytest.mark.slow
def test_quick_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    before, threads = set(sys.modules), torch.get_num_threads()
    try:
        benchmark = importlib.import_module("onnx_runtime")
        arguments = ["--quick", "--threads", "1", "--output", str(tmp_path / "out"), "--folder", str(tmp_path)]
        assert benchmark.main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
        for name in {"onnx_runtime", "comparison", "rivals", "decoder_only"} - before:
            sys.modules.pop(name, None)
    phases = json.loads((tmp_path / "out" / "onnx_runtime.json").read_text())
    speed, exports = phases["speed"]["rows"], {row["system"]: row for row in phases["exports"]["rows"]}
    systems = ["PyTorch", "ONNX float32", "ONNX int8", "ONNX int4"]
    assert [(row["batch_size"], row["system"]) for row in speed] == list(product([1, 8], systems))
    times = ("step_ms", "codec_ms_per_second", "real_time_factor", "step_speed_over_torch", "speech_speed_over_torch")
    assert all(row[name] > 0 for row in speed for name in times)
    assert exports["ONNX float32"]["max_logit_difference"] < 1e-3 * exports["ONNX float32"]["mean_logit"]
    assert exports["ONNX float32"]["max_logit_difference"] < exports["ONNX int8"]["max_logit_difference"]
    assert exports["ONNX int8"]["max_logit_difference"] < exports["ONNX int4"]["max_logit_difference"]
    sizes = [exports[f"ONNX {kind}"]["megabytes"] for kind in ("float32", "int8", "int4")]
    assert sizes == sorted(sizes, reverse=True)
    assert (tmp_path / "out" / "onnx_runtime.png").read_bytes().startswith(b"\x89PNG")
    assert "real-time factor of demo in 8 bits" in capsys.readouterr().out
