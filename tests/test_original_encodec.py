"""The original EnCodec package and Transformers' `EncodecModel` give the same codes from the same weights."""

import re

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

try:
    import encodec
except (ImportError, OSError) as error:  # its torchaudio may be missing, or not fit the torch that is installed
    pytest.skip(f"the original EnCodec package cannot be imported: {error}", allow_module_level=True)

RENAMED = (
    (r"\.model\.", ".layers."),
    (r"\.vq\.layers\.(\d+)\._codebook\.", r".layers.\1.codebook."),
    (r"\.(?:conv\.conv|convtr\.convtr)\.", ".conv."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)


def transformers_name(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


@torch.no_grad()
def test_same_codes_and_audio() -> None:
    torch.manual_seed(0)
    original = encodec.EncodecModel.encodec_model_24khz(pretrained=False).eval()
    original.set_target_bandwidth(3.0)
    audio = torch.randn(1, 1, 12_345) * 0.1
    residual = original.encoder(audio)
    for layer in original.quantizer.vq.layers[:4]:  # they begin as zeros, which would make every code alike
        table = layer._codebook.embed
        vectors = residual[0].T
        table.copy_(
            vectors[torch.randint(len(vectors), (len(table),))] + 0.1 * vectors.std() * torch.randn_like(table)
        )
        residual = residual - layer.decode(layer.encode(residual))

    ours = EncodecModel(EncodecConfig()).eval()
    weights = {transformers_name(name): tensor for name, tensor in original.state_dict().items()}
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith((".stride", ".kernel_size", ".padding_total")) for name in missing)

    expected = original.encode(audio)[0][0]
    codes = ours.encode(audio, bandwidth=3.0).audio_codes
    assert expected.unique().numel() > 100
    assert torch.equal(codes[0], expected)
    torch.testing.assert_close(ours.decode(codes, [None]).audio_values, original.decode([(expected, None)]))
