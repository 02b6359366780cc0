"""Which layers are compiled."""

import pytest
import torch
from torch import nn

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration
from smalle_hf.training import models


@pytest.mark.parametrize(
    ("device", "has_kernels", "kinds"),
    [
        ("cpu", True, {"SmallEMLP", "SmallETextAttention"}),
        ("cuda", False, {"SmallEMLP", "SmallETextAttention"}),
        ("cuda", True, {"SmallELCLMBlock", "SmallETextEncoderLayer"}),
    ],
)
def test_blocks_are_compiled_whole_where_the_recurrence_is_a_kernel(
    device: str, has_kernels: bool, kinds: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(models, "kernels_are_installed", lambda: has_kernels)
    monkeypatch.setattr(nn.Module, "compile", lambda self, dynamic: compiled.append(type(self).__name__))
    models.compile_layers(SmallEForSpeechGeneration(SmallEConfig.from_preset("tiny")), torch.device(device))
    assert set(compiled) == kinds
