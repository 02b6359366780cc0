"""Codes of a batch are those of the rows alone, for codecs that hear padding and for those that do not."""

import numpy as np
import pytest
import torch
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel

from smalle_hf.configuration_small_codec import SmallCodecConfig
from smalle_hf.data.codec_encoder import CodecEncoder, codebook_options, weights_fingerprint
from smalle_hf.modeling_small_codec import SmallCodecModel


def noise(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in lengths]


def fit(codebooks, latents):
    """Puts entries near what is to be quantised, `(frames, size)`: or random weights give the same code everywhere."""
    for entries in codebooks:
        entries.copy_(latents[torch.randperm(len(latents))[: len(entries)]])  # no two alike
        latents = latents - entries[torch.cdist(latents, entries).argmin(-1)]


@torch.no_grad()
def tiny_encodec(**overrides):
    torch.manual_seed(0)
    codec = EncodecModel(
        EncodecConfig(
            num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=256, num_lstm_layers=1, **overrides
        )
    ).eval()
    latents = codec.encoder(torch.from_numpy(noise([240_000])[0])[None, None])[0].T
    fit([layer.codebook.embed for layer in codec.quantizer.layers], latents)
    return codec


@torch.no_grad()
def tiny_small_codec():
    torch.manual_seed(0)
    codec = SmallCodecModel(SmallCodecConfig())
    fit(codec.quantizer.codebooks, codec.embed(torch.from_numpy(noise([240_000])[0])[None])[0])
    return codec


def tiny_dac():
    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=8,
        decoder_hidden_size=32,
        downsampling_ratios=[2, 4, 8, 5],
        n_codebooks=4,
        codebook_size=64,
        codebook_dim=4,
        sampling_rate=24_000,
    )
    return DacModel(config)


@torch.no_grad()
def tiny_mimi():
    torch.manual_seed(0)
    config = MimiConfig(
        num_filters=4,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_hidden_layers=1,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_quantizers=8,
    )
    codec = MimiModel(config).eval()
    for layer in codec.modules():
        if hasattr(layer, "embed_sum"):
            layer.embed_sum.normal_(std=0.01)
    return codec


CODECS = {
    "encodec": (tiny_encodec, False),
    "encodec, not causal": (lambda: tiny_encodec(use_causal_conv=False), True),
    "encodec, normalised over time": (lambda: tiny_encodec(norm_type="time_group_norm"), True),
    "small codec": (tiny_small_codec, False),
    "dac": (tiny_dac, True),
    "mimi": (tiny_mimi, False),
}


@pytest.mark.parametrize("name", CODECS)
def test_batches_give_what_rows_give_alone(name):
    build, hears_padding = CODECS[name]
    encoder = CodecEncoder(build(), 4, name, batched=True)
    assert encoder.hears_padding == hears_padding
    # float64: float32 rounds differently in batches of different shapes, and tips a code now and then.
    encoder.codec.double()
    frames = [1, 2, 6, 9, 10, 31, 40, 40, 77]
    samples = [count * encoder.frame_length - 7 * place for place, count in enumerate(frames)]
    waveforms = [waveform.astype(np.float64) for waveform in noise(samples)]
    batch = encoder.encode(waveforms)
    assert [codes.shape for codes in batch] == [(count, 4) for count in frames]
    assert batch[0].dtype == np.int16
    for waveform, codes in zip(waveforms, batch, strict=True):
        assert (encoder.encode([waveform])[0] == codes).all()
    assert len({tuple(row) for codes in batch for row in codes.tolist()}) > 20  # the codes say something


def test_codes_are_those_of_the_codec_itself():
    codec = tiny_encodec()
    encoder = CodecEncoder(codec, 4, "tiny")
    assert not encoder.batched
    waveforms = noise([320 * 30, 320 * 30 + 200])
    codes = encoder.encode(waveforms)
    with torch.no_grad():
        whole, part = (codec.encode(torch.from_numpy(w)[None, None], bandwidth=24.0).audio_codes for w in waveforms)
    assert (codes[0] == whole[0, 0, :4].T.numpy()).all()
    # EnCodec mirrors the end of a frame that is not whole; nothing before it changes.
    assert (codes[1][:-1] == part[0, 0, :4, :-1].T.numpy()).all()


def test_rounding_rarely_changes_a_code_of_a_float32_batch():
    encoder = CodecEncoder(tiny_encodec(), 4, "tiny", batched=True)
    waveforms = noise(range(5_000, 60_000, 5_000))
    batch = np.concatenate(encoder.encode(waveforms))
    encoder.batched = False
    assert (batch != np.concatenate(encoder.encode(waveforms))).mean() < 0.05


def test_information_names_the_codec_and_fingerprints_its_weights(tmp_path):
    codec = tiny_encodec()
    codec.save_pretrained(tmp_path / "my-codec")
    encoder = CodecEncoder.from_pretrained(tmp_path / "my-codec", 2)
    info = encoder.info
    assert (info.name, info.sampling_rate, info.frame_rate) == ("my-codec", 24_000, 75.0)
    assert (info.num_codebooks, info.codebook_size) == (2, 256)
    assert info.version == f"sha256:{weights_fingerprint(codec)}"
    with torch.no_grad():
        codec.quantizer.layers[0].codebook.embed[3, 3] += 1e-6
    assert info.version != f"sha256:{weights_fingerprint(codec)}"
    assert encoder.encode(noise([1000]))[0].shape == (4, 2)


def test_only_the_codebooks_that_are_needed_are_computed():
    codec = tiny_encodec()  # 8 bits, 75 frames a second: 0.6 kbit/s per codebook
    assert codebook_options(codec, 2) == {"bandwidth": 1.5}
    assert codebook_options(codec, 3) == {"bandwidth": 3.0}
    assert codebook_options(codec, 32) == {"bandwidth": 24.0}
    assert codebook_options(tiny_dac(), 3) == {"n_quantizers": 3}
    assert codebook_options(tiny_mimi(), 3) == {"num_quantizers": 3}


@pytest.mark.parametrize(
    ("build", "num_codebooks", "message"),
    [
        (tiny_encodec, 0, "0 are asked for"),
        (tiny_dac, 5, "4 codebooks, 5 are asked for"),
        (lambda: tiny_encodec(normalize=True), 4, "scales its input"),
        (lambda: tiny_encodec(chunk_length_s=1.0, overlap=0.01), 4, "cuts it into chunks"),
        (lambda: torch.nn.Linear(1, 1), 4, "is a Linear and no codec"),
    ],
)
def test_codecs_that_cannot_be_used_are_refused(build, num_codebooks, message):
    with pytest.raises(ValueError, match=message):
        CodecEncoder(build(), num_codebooks, "codec")


def test_stereo_codecs_and_empty_waveforms_are_refused():
    stereo = EncodecModel(EncodecConfig(num_filters=4, hidden_size=16, codebook_dim=16, audio_channels=2))
    with pytest.raises(ValueError, match="2 audio channels"):
        CodecEncoder(stereo, 4, "stereo")
    with pytest.raises(ValueError, match="Waveform 1 is empty"):
        CodecEncoder(tiny_encodec(), 4, "tiny").encode([*noise([500]), np.zeros(0, np.float32)])
