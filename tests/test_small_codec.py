"""The codec: EnCodec's interface, padding that changes nothing, look-ahead as promised, chunks that add up."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EncodecConfig, EncodecModel

from smalle_hf.configuration_small_codec import SmallCodecConfig
from smalle_hf.layers_small_codec import InverseStft, LogMelSpectrogram, ResidualVectorQuantizer
from smalle_hf.modeling_small_codec import SmallCodecModel

SMALL = {
    "hop_length": 32,
    "istft_size": 128,
    "mel_fft_size": 128,
    "num_mel_bins": 16,
    "codebook_size": 16,
    "codebook_dim": 8,
    "encoder_hidden_size": 12,
    "num_encoder_layers": 2,
    "decoder_hidden_size": 16,
    "num_decoder_layers": 3,
}


def make_model(seed=0, **options):
    torch.manual_seed(seed)
    model = SmallCodecModel(SmallCodecConfig(**{**SMALL, **options})).eval()
    with torch.no_grad():  # so that norms, biases and layer scales take part
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (1.0 if "codebooks" in name else 0.3))
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def random_codes(model, num_frames, batch_size=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, batch_size, model.config.num_codebooks, num_frames)
    return torch.randint(model.config.codebook_size, shape, generator=generator)


def test_layout_is_that_of_encodec():
    model = make_model()
    encodec = EncodecModel(
        EncodecConfig(num_filters=4, hidden_size=8, codebook_size=16, upsampling_ratios=[8, 4], num_lstm_layers=1)
    ).eval()
    audio = torch.randn(2, 1, 320) * 0.1
    with torch.no_grad():
        theirs, ours = encodec.encode(audio, bandwidth=6.0), model.encode(audio)
        assert ours.audio_codes.ndim == theirs.audio_codes.ndim == 4
        assert ours.audio_codes.shape == (1, 2, model.config.num_codebooks, 10)
        assert theirs.audio_codes.shape[:2] == (1, 2)
        assert theirs.audio_codes.shape[3] == 10
        for codec, encoded in ((encodec, theirs), (model, ours)):
            audio_values = codec.decode(encoded.audio_codes, encoded.audio_scales).audio_values
            assert audio_values.shape == (2, 1, 320)


@torch.no_grad()
def test_a_partial_last_frame_counts(model):
    assert model.encode(torch.randn(1, 1, 321)).audio_codes.shape[-1] == 11
    assert model(torch.randn(1, 1, 321)).audio_values.shape == (1, 1, 321)


@settings(deadline=None, max_examples=20)
@given(length=st.integers(1, 400), surplus=st.integers(1, 300), seed=st.integers(0, 100))
@torch.no_grad()
def test_padding_changes_nothing(model, length, surplus, seed):
    torch.manual_seed(seed)
    audio = torch.randn(1, 1, length)
    padded = torch.cat([audio, torch.randn(1, 1, surplus)], dim=-1)
    mask = torch.arange(length + surplus)[None] < length
    alone, together = model.encode(audio).audio_codes, model.encode(padded, mask).audio_codes
    num_frames = alone.shape[-1]
    assert torch.equal(together[..., :num_frames], alone)
    assert not together[..., num_frames:].any()
    expected = model.decode(alone).audio_values[..., :length]
    decoded = model.decode(together, padding_mask=mask).audio_values
    assert decoded.shape[-1] == length + surplus
    torch.testing.assert_close(decoded[..., :length], expected, rtol=1e-4, atol=1e-5)
    assert not decoded[..., num_frames * model.config.hop_length :].any()


@pytest.mark.parametrize("lookaheads", [(2, 0), (0, 0), (3, 1), (3, 3)])
@pytest.mark.parametrize("istft_size", [32, 64, 128])
@torch.no_grad()
def test_lookahead_is_what_the_configuration_says_and_no_less(lookaheads, istft_size):
    model = make_model(
        decoder_input_lookahead=lookaheads[0], decoder_layer_lookahead=lookaheads[1], istft_size=istft_size
    )
    for layer in model.decoder.layers:  # so that the farthest frame, which comes through all layers, is heard
        layer.depthwise.weight.mul_(10)
        layer.scale.mul_(10)
    num_frames, needed = 5, model.config.lookahead_frames
    codes = random_codes(model, num_frames + needed + 10)
    samples = num_frames * model.config.hop_length
    whole = model.decode(codes).audio_values[..., :samples]
    enough = model.decode(codes[..., : num_frames + needed]).audio_values[..., :samples]
    torch.testing.assert_close(enough, whole, rtol=1e-5, atol=1e-6)
    if needed:
        too_few = model.decode(codes[..., : num_frames + needed - 1]).audio_values[..., :samples]
        assert (too_few - whole).abs().max() > 1e-5


@settings(deadline=None, max_examples=25)
@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=12), lookahead=st.sampled_from([0, 2]))
@torch.no_grad()
def test_chunks_add_up_to_the_whole(chunks, lookahead):
    model = make_model(decoder_layer_lookahead=lookahead)
    codes = random_codes(model, sum(chunks), batch_size=2)
    pieces, state = [], None
    for index, chunk in enumerate(codes.split(chunks, dim=-1)):
        audio, state = model.decode_chunk(chunk, state)
        pieces.append(audio)
        complete = sum(chunks[: index + 1]) - model.config.lookahead_frames
        assert sum(piece.shape[-1] for piece in pieces) >= complete * model.config.hop_length
    pieces.append(model.decode_chunk(codes[..., :0], state, is_last=True)[0])
    torch.testing.assert_close(torch.cat(pieces, -1), model.decode(codes).audio_values, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_state_stays_small(model):
    codes = random_codes(model, 100)
    sizes, state = [], None
    for chunk in codes.split(10, dim=-1):
        _, state = model.decode_chunk(chunk, state)
        sizes.append([tensor.shape for tensor in (*state.contexts, state.overlap, state.weight)])
    assert all(size == sizes[0] for size in sizes)


@torch.no_grad()
def test_the_inverse_stft_undoes_the_stft():
    config = SmallCodecConfig(**SMALL)
    head = InverseStft(config)
    audio = torch.randn(1, 40 * config.hop_length)
    margin = (config.istft_size - config.hop_length) // 2
    padded = torch.nn.functional.pad(audio, (margin, margin))
    spectrum = torch.stft(
        padded,
        config.istft_size,
        config.hop_length,
        window=torch.hann_window(config.istft_size),
        center=False,
        return_complex=True,
    )
    head.out_proj = torch.nn.Identity()
    predicted = torch.cat([spectrum.abs().clamp(min=1e-9).log(), spectrum.angle()], dim=1).transpose(1, 2)
    restored, *_ = head(predicted)
    torch.testing.assert_close(restored[:, 1:], audio[:, 1:], rtol=1e-3, atol=1e-4)  # sample 0: the window is 0


@torch.no_grad()
def test_mel_bands_follow_a_tone():
    config = SmallCodecConfig()
    time = torch.arange(config.sampling_rate) / config.sampling_rate
    mel = LogMelSpectrogram(config)
    loudest = [int(mel(torch.sin(2 * torch.pi * pitch * time)[None]).mean(-1).argmax()) for pitch in (200, 800, 3200)]
    assert loudest == sorted(set(loudest))
    assert mel(time[None]).shape == (1, config.num_mel_bins, 50)


@torch.no_grad()
def test_every_codebook_brings_the_quantised_vector_nearer():
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(SmallCodecConfig(**SMALL))
    torch.nn.init.normal_(quantizer.codebooks)
    quantizer.codebooks *= torch.tensor([1.0, 0.6, 0.4, 0.25])[:, None, None]
    latents = torch.randn(3, 50, 8)
    codes = quantizer.encode(latents)
    errors = [(latents - quantizer.decode(codes[:, :count])).square().mean() for count in range(1, 5)]
    assert errors == sorted(errors, reverse=True)
    distances = (latents[:, :, None] - quantizer.codebooks[0]).square().sum(-1)
    assert torch.equal(codes[:, 0], distances.argmin(-1))


@torch.no_grad()
def test_bandwidth_chooses_the_number_of_codebooks(model):
    audio = torch.randn(1, 1, 320)
    everything = model.encode(audio).audio_codes
    for count, bandwidth in enumerate(model.config.target_bandwidths, start=1):
        assert torch.equal(model.encode(audio, bandwidth=bandwidth).audio_codes, everything[:, :, :count])
    with pytest.raises(ValueError, match="bandwidth"):
        model.encode(audio, bandwidth=123.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.no_grad()
def test_save_and_load(model, tmp_path, dtype):
    make_model().to(dtype).save_pretrained(tmp_path)
    loaded = SmallCodecModel.from_pretrained(tmp_path, dtype=dtype).eval()
    audio = torch.randn(1, 1, 640)
    expected = make_model().to(dtype)
    codes = expected.encode(audio.to(dtype)).audio_codes
    assert torch.equal(loaded.encode(audio.to(dtype)).audio_codes, codes)
    assert torch.equal(loaded.decode(codes).audio_values, expected.decode(codes).audio_values)


def test_gradients_reach_encoder_and_decoder(model):
    audio = torch.randn(2, 320)
    model.zero_grad()
    model.synthesize(model.embed(audio)).square().mean().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == ["quantizer.codebooks"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 6}, "odd"),
        ({"decoder_input_lookahead": 7}, "decoder_input_lookahead"),
        ({"istft_size": 16}, "istft_size"),
        ({"num_encoder_layers": -1}, "num_encoder_layers"),
        ({"conditioning_num_codebooks": [2, 8]}, "conditioning_num_codebooks"),
    ],
)
def test_inconsistent_configurations_are_refused(options, message):
    with pytest.raises(Exception, match=message):
        SmallCodecConfig(**{**SMALL, **options})


@torch.no_grad()
def test_wrong_input_is_refused_in_one_line(model):
    with pytest.raises(ValueError, match=r"batch, 1, samples"):
        model.encode(torch.randn(1, 2, 320))
    with pytest.raises(ValueError, match=r"codebooks <= 4"):
        model.decode(torch.zeros(1, 1, 5, 10, dtype=torch.long))
    decoder_only = make_model(num_encoder_layers=0, conditioning_num_codebooks=[2, 4])
    with pytest.raises(ValueError, match="no encoder"):
        decoder_only.encode(torch.randn(1, 1, 320))
    with pytest.raises(ValueError, match=r"trained with \[2, 4\]"):
        decoder_only.decode(random_codes(model, 5)[:, :, :3])


@pytest.mark.slow
def test_remote_code_loads_without_the_package(tmp_path):
    save = """
from smalle_hf import SmallCodecConfig, SmallCodecModel
SmallCodecConfig.register_for_auto_class()
SmallCodecModel.register_for_auto_class("AutoModel")
SmallCodecModel(SmallCodecConfig()).save_pretrained("codec")
"""
    load = """
import sys, torch
from transformers import AutoModel
codec = AutoModel.from_pretrained("codec", trust_remote_code=True)
codes = codec.encode(torch.zeros(1, 1, 640)).audio_codes
assert codec.decode(codes).audio_values.shape == (1, 1, 640)
assert "smalle_hf" not in sys.modules
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    for code in (save, load):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
