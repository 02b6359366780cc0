"""Counted operations against those that PyTorch sees."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration
from smalle_hf.training.flops import PEAK_TFLOPS, forward_flops, peak_flops, training_flops


def in_place_product(out: Any, first: Any, second: Any, **options: Any) -> int:
    """Operations of `baddbmm_`, which PyTorch does not count, from shapes."""
    return 2 * first[0] * first[1] * first[2] * second[2]


@pytest.mark.parametrize("preset", ["tiny", pytest.param("small-e-64m", marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", [{}, {"cross_attention": "standard"}], ids=["paca", "standard"])
def test_operations_are_those_that_are_computed(preset: str, options: dict[str, str]) -> None:
    """Whole chunks, mild decays, no padding: nothing is computed that would not have to be."""
    torch.manual_seed(0)
    rows, columns, tokens = 2, 128, 20
    config = SmallEConfig.from_preset(preset, **options)
    model = SmallEForSpeechGeneration(config)
    text = torch.randint(3, config.vocab_size, (rows, tokens))
    labels = torch.randint(3, config.audio_vocab_size, (rows, columns, config.num_codebooks))
    sizes = rows * columns, rows * tokens, rows * tokens**2, rows * columns * tokens
    in_place = {torch.ops.aten.baddbmm_: in_place_product}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        loss = model(input_ids=text, labels=labels).loss
    assert counter.get_total_flops() == pytest.approx(forward_flops(config, *sizes), rel=0.01)
    with FlopCounterMode(display=False, custom_mapping=in_place) as backward:
        loss.backward()
    total = counter.get_total_flops() + backward.get_total_flops()
    assert total == pytest.approx(training_flops(config, *sizes), rel=0.01)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA TITAN V", None),
    ],
)
def test_peaks_by_name(monkeypatch: pytest.MonkeyPatch, name: str, tflops: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    peak = peak_flops(torch.device("cuda"))
    assert peak == (None if tflops is None else tflops * 1e12)
    assert peak_flops(torch.device("cuda"), 2.5) == 2.5e12


def test_every_peak_is_found_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, tflops in PEAK_TFLOPS.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: f"NVIDIA {name}")
        assert peak_flops(torch.device("cuda")) == tflops * 1e12


def test_the_peak_of_a_cpu_has_to_be_told() -> None:
    assert peak_flops(torch.device("cpu")) is None
    assert peak_flops(torch.device("cpu"), 0.25) == 2.5e11
