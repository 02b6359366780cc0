"""The converter of the Vocos vocoder, against a plain reading of its definition (arXiv 2306.00814, section 3)."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from smalle_hf.convert_vocos_checkpoint import convert_checkpoint, main
from smalle_hf.modeling_small_codec import SmallCodecModel

SIZE, INNER, WIDTH, LAYERS, FFT, HOP = 12, 36, 8, 3, 1280, 320


def vocos_weights(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator) * 0.2

    weights = {
        "feature_extractor.codebook_weights": normal(16 * 1024, WIDTH),
        "backbone.embed.weight": normal(SIZE, WIDTH, 7),
        "backbone.embed.bias": normal(SIZE),
        "backbone.norm.scale.weight": normal(4, SIZE),
        "backbone.norm.shift.weight": normal(4, SIZE),
        "backbone.final_layer_norm.weight": normal(SIZE),
        "backbone.final_layer_norm.bias": normal(SIZE),
        "head.out.weight": normal(FFT + 2, SIZE),
        "head.out.bias": normal(FFT + 2),
        "head.istft.window": torch.hann_window(FFT),
    }
    for layer in range(LAYERS):
        shapes = {
            "dwconv.weight": (SIZE, 1, 7),
            "dwconv.bias": (SIZE,),
            "norm.scale.weight": (4, SIZE),
            "norm.shift.weight": (4, SIZE),
            "pwconv1.weight": (INNER, SIZE),
            "pwconv1.bias": (INNER,),
            "pwconv2.weight": (SIZE, INNER),
            "pwconv2.bias": (SIZE,),
            "gamma": (SIZE,),
        }
        weights |= {f"backbone.convnext.{layer}.{name}": normal(*shape) for name, shape in shapes.items()}
    return weights


def vocos_decode(weights, codes, condition):
    """Codes `(Q, T)` to audio: the published model, step by step, with a loop over the frames for the overlap-add."""

    def norm(hidden, name):
        scale, shift = weights[f"{name}.scale.weight"][condition], weights[f"{name}.shift.weight"][condition]
        return F.layer_norm(hidden, (SIZE,), eps=1e-6) * scale + shift

    def affine(hidden, name):
        return F.linear(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"])

    offsets = 1024 * torch.arange(len(codes))[:, None]
    features = weights["feature_extractor.codebook_weights"][codes + offsets].sum(0)
    hidden = F.conv1d(features.T[None], weights["backbone.embed.weight"], weights["backbone.embed.bias"], padding=3)
    hidden = norm(hidden.transpose(1, 2), "backbone.norm")
    for layer in range(LAYERS):
        name = f"backbone.convnext.{layer}"
        kernel, bias = weights[f"{name}.dwconv.weight"], weights[f"{name}.dwconv.bias"]
        mixed = F.conv1d(hidden.transpose(1, 2), kernel, bias, padding=3, groups=SIZE).transpose(1, 2)
        mixed = affine(F.gelu(affine(norm(mixed, f"{name}.norm"), f"{name}.pwconv1")), f"{name}.pwconv2")
        hidden = hidden + weights[f"{name}.gamma"] * mixed
    final = "backbone.final_layer_norm"
    hidden = F.layer_norm(hidden, (SIZE,), weights[f"{final}.weight"], weights[f"{final}.bias"], 1e-6)
    magnitude, phase = affine(hidden, "head.out")[0].chunk(2, dim=-1)
    frames = torch.fft.irfft(magnitude.exp().clip(max=100) * torch.exp(1j * phase))
    window = torch.hann_window(FFT)
    audio, weight = torch.zeros(len(frames) * HOP + FFT - HOP), torch.zeros(len(frames) * HOP + FFT - HOP)
    for index, frame in enumerate(frames):
        audio[index * HOP : index * HOP + FFT] += frame * window
        weight[index * HOP : index * HOP + FFT] += window**2
    margin = (FFT - HOP) // 2
    return (audio / weight.clamp(min=1e-11))[margin:-margin]


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@torch.no_grad()
def test_decodes_what_vocos_decodes(tmp_path, suffix):
    weights, path = vocos_weights(), tmp_path / f"weights{suffix}"
    torch.save(weights, path) if suffix == ".bin" else save_file(weights, path)
    convert_checkpoint(path, tmp_path / "converted")
    model = SmallCodecModel.from_pretrained(tmp_path / "converted").eval()
    assert (model.config.sampling_rate, model.config.frame_rate) == (24000, 75.0)
    for condition, num_codebooks in enumerate((2, 4, 8, 16)):
        codes = torch.randint(1024, (num_codebooks, 20), generator=torch.Generator().manual_seed(condition))
        audio = model.decode(codes[None, None]).audio_values[0, 0]
        torch.testing.assert_close(audio, vocos_decode(weights, codes, condition), rtol=1e-4, atol=1e-5)


def test_other_checkpoints_are_refused_in_one_line(tmp_path, capsys):
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "damaged.bin").write_bytes(b"no checkpoint")
    unknown = vocos_weights() | {"backbone.extra.weight": torch.zeros(1)}
    save_file(unknown, tmp_path / "unknown.safetensors")
    for name, message in [
        ("other.safetensors", "backbone.embed.weight"),
        ("damaged.bin", "damaged"),
        ("absent.bin", "does not exist"),
        ("unknown.safetensors", "backbone.extra.weight"),
    ]:
        assert main(["--weights", str(tmp_path / name), "--output", str(tmp_path / "out")]) == 1
        shown = capsys.readouterr().err.strip()
        assert message in shown
        assert "\n" not in shown
