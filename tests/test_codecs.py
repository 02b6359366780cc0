"""The codec that comes with the package loads without network, encodes speech and goes into checkpoints."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration
from smalle_hf.audio_files import read_audio, resample_audio
from smalle_hf.codecs import codec_path


@pytest.fixture(scope="module")
def codec() -> torch.nn.Module:
    return AutoModel.from_pretrained(codec_path()).eval()


def test_weights_are_computed_in_single_precision(codec: torch.nn.Module) -> None:
    assert {parameter.dtype for parameter in codec.parameters()} == {torch.float32}


def test_unknown_codec_is_named() -> None:
    with pytest.raises(ValueError, match=r"no codec 'opus': choose one of small_codec_16khz\."):
        codec_path("opus")


@torch.no_grad()
def test_real_speech_stays_recognisable(codec: torch.nn.Module, data_dir: Path) -> None:
    samples, rate = read_audio(data_dir / "ljspeech_sample" / "wavs" / "LJ001-0002.wav")
    audio = torch.as_tensor(resample_audio(samples, rate, codec.config.sampling_rate)).flatten()
    codes = codec.encode(audio[None, None]).audio_codes
    spoken = codec.decode(codes).audio_values.flatten()[: len(audio)]

    def log_envelope(waveform: torch.Tensor) -> torch.Tensor:
        """Bands of 250 Hz: the sounds of speech, without the harmonics of the voice."""
        window = torch.hann_window(512)
        spectrum = torch.stft(waveform, 512, 160, window=window, return_complex=True).abs()
        return torch.nn.functional.avg_pool1d(spectrum.T, 8).T.clamp(min=1e-2).log()

    # Per band, how well the rise and fall of the copy follows the original's.
    bands = [
        torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(log_envelope(audio), log_envelope(spoken), strict=True)
    ]
    assert codes.unique().numel() > 100
    assert torch.stack(bands).mean() > 0.6  # it has only heard synthetic voices: see its card


def test_it_goes_into_a_checkpoint(codec: torch.nn.Module, tmp_path: Path) -> None:
    config = SmallEConfig.from_preset(
        "tiny", codebook_size=codec.config.codebook_size, codec_config=AutoConfig.from_pretrained(codec_path())
    )
    assert (config.sampling_rate, config.frame_rate, config.frame_length) == (16000, 50.0, 320)
    model = SmallEForSpeechGeneration(config)
    model.codec_model.load_state_dict(codec.state_dict())
    model.save_pretrained(tmp_path)
    loaded = SmallEForSpeechGeneration.from_pretrained(tmp_path)
    codes = torch.randint(config.codebook_size, (2, 10, config.num_codebooks))
    expected = codec.decode(codes.transpose(1, 2)).audio_values[:, 0]
    torch.testing.assert_close(loaded.decode_audio(codes), expected, atol=1e-5, rtol=0)
