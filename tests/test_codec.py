"""The codec inside a checkpoint: frozen, saved with it, each row encoded and decoded as if it were alone."""

from pathlib import Path

import pytest
import torch
from core_models import lively_model, pad, random_codes, random_text, small_config
from transformers import DacConfig, EncodecConfig, MimiConfig, PreTrainedConfig

from smalle_hf import SmallEForSpeechGeneration

NAMES = ["encodec", "dac", "mimi"]


def codec_config(name: str) -> PreTrainedConfig:
    """Tiny codecs of 8 codebooks of 32 codes, 16 kHz, 50 frames per second or nearly so."""
    if name == "encodec":
        return EncodecConfig(
            sampling_rate=16000,
            num_filters=2,
            hidden_size=8,
            codebook_dim=8,
            codebook_size=32,
            num_lstm_layers=1,
            target_bandwidths=[1.0, 2.0],
        )
    if name == "dac":
        return DacConfig(
            sampling_rate=16000,
            encoder_hidden_size=4,
            decoder_hidden_size=32,
            downsampling_ratios=[2, 4, 5, 8],
            upsampling_ratios=[8, 5, 4, 2],
            n_codebooks=8,
            codebook_size=32,
            codebook_dim=4,
        )
    return MimiConfig(
        sampling_rate=16000,
        frame_rate=25.0,
        num_filters=2,
        hidden_size=32,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        codebook_size=32,
        num_quantizers=8,
        num_semantic_quantizers=1,
        num_hidden_layers=1,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=8,
        upsample_groups=32,
        upsampling_ratios=[8, 5, 4, 2],
    )


def build(name: str) -> SmallEForSpeechGeneration:
    """A model with a codec whose codebooks hold something: Transformers leaves those of EnCodec and Mimi empty."""
    torch.manual_seed(0)
    model = lively_model(small_config(codebook_size=32, codec_config=codec_config(name)))
    for key, tensor in [*model.codec_model.named_buffers(), *model.codec_model.named_parameters()]:
        if key.endswith(("codebook.embed", "codebook.embed_sum", "codebook.weight")):
            tensor.data.normal_()
    return model.eval()


MODELS: dict[str, SmallEForSpeechGeneration] = {}


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> SmallEForSpeechGeneration:
    """Building one takes a second: they are kept. Nothing may change them."""
    if request.param not in MODELS:
        MODELS[request.param] = build(request.param)
    return MODELS[request.param]


@pytest.fixture
def encodec() -> SmallEForSpeechGeneration:
    """A model of its own, for tests that change it."""
    return build("encodec")


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(1, samples, generator=torch.Generator().manual_seed(seed))


def test_rates_are_the_codecs(model: SmallEForSpeechGeneration) -> None:
    assert model.config.sampling_rate == 16000
    assert model.config.frame_length * model.config.frame_rate == pytest.approx(16000)
    audio = noise(model.config.frame_length * 30)
    codes, mask = model.encode_audio(audio)
    assert codes.shape == (1, 30, 4)
    assert mask.shape == (1, 30)
    assert model.decode_audio(codes).shape == audio.shape


def test_codes_are_the_codecs_first_codebooks(encodec: SmallEForSpeechGeneration) -> None:
    audio = noise(6400)
    expected = encodec.codec_model.encode(audio[:, None], bandwidth=2.0).audio_codes[0]
    assert expected.shape[1] > 4
    assert torch.equal(encodec.encode_audio(audio)[0], expected[:, :4].transpose(1, 2))
    assert len(expected[:, :4].unique()) > 4


def test_waveform_is_the_codecs(encodec: SmallEForSpeechGeneration) -> None:
    codes = random_codes(encodec.config, 20)
    expected = encodec.codec_model.decode(codes.transpose(1, 2)[None], [None]).audio_values[:, 0]
    torch.testing.assert_close(encodec.decode_audio(codes), expected)


def test_rows_are_encoded_as_alone(model: SmallEForSpeechGeneration) -> None:
    rows = [noise(samples, samples) for samples in (700, 6400, 3201, 12800)]
    audio, mask = pad(rows)
    codes, code_mask = model.encode_audio(audio, mask)
    for row, waveform in enumerate(rows):
        alone, _ = model.encode_audio(waveform)
        assert code_mask[row].sum() == alone.shape[1]
        assert torch.equal(codes[row, code_mask[row].bool()], alone[0])
        assert (codes[row, ~code_mask[row].bool()] == 0).all()


@pytest.mark.parametrize("lengths", [[3, 40, 17, 40], [1, 2, 6, 7, 8, 20], [5, 0, 30]], ids=str)
def test_rows_are_decoded_as_alone(model: SmallEForSpeechGeneration, lengths: list[int]) -> None:
    rows = [random_codes(model.config, length, seed) for seed, length in enumerate(lengths)]
    codes, _ = pad(rows)
    audio = model.decode_audio(codes, torch.tensor(lengths))
    size = model.config.frame_length
    assert audio.shape == (len(rows), max(lengths) * size)
    assert audio.dtype == torch.float32
    for row, length in enumerate(lengths):
        if length:
            alone = model.decode_audio(rows[row])[0]
            torch.testing.assert_close(audio[row, : length * size], alone, rtol=1e-4, atol=1e-4)
            assert alone.abs().max() > 0
        assert (audio[row, length * size :] == 0).all()


def test_codec_survives_saving(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = SmallEForSpeechGeneration.from_pretrained(tmp_path)
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())
    codes = random_codes(model.config, 12)
    assert torch.equal(loaded.decode_audio(codes), model.decode_audio(codes))
    audio = noise(6400)
    assert torch.equal(loaded.encode_audio(audio)[0], model.encode_audio(audio)[0])


def assert_frozen(model: SmallEForSpeechGeneration) -> None:
    assert not any(parameter.requires_grad for parameter in model.codec_model.parameters())
    assert not any(module.training for module in model.codec_model.modules())


def test_codec_is_frozen(encodec: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    """In training too: its batch statistics and moving codebooks must not move."""
    assert_frozen(encodec.train())
    assert encodec.model.training
    encodec.save_pretrained(tmp_path)
    assert_frozen(SmallEForSpeechGeneration.from_pretrained(tmp_path).train())


def test_training_leaves_the_codec_as_it_is(encodec: SmallEForSpeechGeneration) -> None:
    before = {key: tensor.clone() for key, tensor in encodec.codec_model.state_dict().items()}
    optimizer = torch.optim.AdamW(encodec.parameters(), lr=0.1, weight_decay=0.1)
    labels = random_codes(encodec.config, 6) + encodec.config.codebook_offset
    encodec.train()(input_ids=random_text(encodec.config, 5), labels=labels).loss.backward()
    optimizer.step()
    encodec.encode_audio(noise(6400))
    assert all(torch.equal(tensor, before[key]) for key, tensor in encodec.codec_model.state_dict().items())


def test_no_gradient_through_the_codec(encodec: SmallEForSpeechGeneration) -> None:
    audio = encodec.decode_audio(random_codes(encodec.config, 5))
    assert not audio.requires_grad
    assert not audio.is_inference()


def test_generate_returns_audio(model: SmallEForSpeechGeneration) -> None:
    text, mask = pad([random_text(model.config, 4), random_text(model.config, 7)])
    with torch.no_grad():  # rows of different lengths
        model.lm_heads.weight[model.config.audio_eos_token_id] *= 2
    output = model.generate(text, attention_mask=mask, max_new_tokens=20, seed=0)
    with torch.no_grad():
        model.lm_heads.weight[model.config.audio_eos_token_id] /= 2
    assert torch.equal(output.audio_lengths, output.sequence_lengths * model.config.frame_length)
    assert output.audio.shape == (2, output.audio_lengths.max())
    torch.testing.assert_close(output.audio, model.decode_audio(output.sequences, output.sequence_lengths))
    for row in range(2):
        alone = model.decode_audio(output.sequences[row : row + 1, : output.sequence_lengths[row]])
        torch.testing.assert_close(output.audio[row, : output.audio_lengths[row]], alone[0], rtol=1e-4, atol=1e-4)


def test_audio_only_when_wanted(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 4)
    output = model.generate(text, max_new_tokens=3, output_audio=False, do_sample=False)
    assert output.audio is None
    assert output.audio_lengths is None
    audio = model.generate(text, max_new_tokens=3, return_dict_in_generate=False, do_sample=False)
    torch.testing.assert_close(audio, model.decode_audio(output.sequences))


def test_voice_prompt_as_audio_is_the_prompt_as_codes(model: SmallEForSpeechGeneration) -> None:
    audio, mask = pad([noise(3200, 1), noise(6400, 2)])
    text = random_text(model.config, 5, batch=2)
    codes, code_mask = model.encode_audio(audio, mask)
    expected = model.generate(
        text, audio_prompt_codes=codes, audio_prompt_mask=code_mask, max_new_tokens=4, do_sample=False
    )
    found = model.generate(text, input_values=audio, input_values_mask=mask, max_new_tokens=4, do_sample=False)
    assert torch.equal(found.sequences, expected.sequences)


def test_audio_with_a_channel_dimension(model: SmallEForSpeechGeneration) -> None:
    audio = noise(6400)
    assert torch.equal(model.encode_audio(audio[:, None])[0], model.encode_audio(audio)[0])


def test_half_precision(encodec: SmallEForSpeechGeneration) -> None:
    codes = random_codes(encodec.config, 20)
    expected = encodec.decode_audio(codes)
    encodec.half()
    audio = encodec.decode_audio(codes)
    assert audio.dtype == torch.float32
    assert (audio - expected).abs().max() < 0.02 * expected.abs().max()
    assert encodec.encode_audio(noise(6400))[0].shape == (1, 20, 4)


def test_no_frames_no_audio(encodec: SmallEForSpeechGeneration) -> None:
    assert encodec.decode_audio(random_codes(encodec.config, 0)).shape == (1, 0)


# Absent


def test_without_codec_there_is_none() -> None:
    model = lively_model()
    assert model.codec_model is None
    assert not any("codec" in key for key in model.state_dict())
    output = model.generate(random_text(model.config, 4), max_new_tokens=3)
    assert output.audio is None


@pytest.mark.parametrize("call", ["encode_audio", "decode_audio"])
def test_without_codec_the_error_says_what_to_do(call: str) -> None:
    model = lively_model()
    argument = noise(100) if call == "encode_audio" else random_codes(model.config, 3)
    with pytest.raises(ValueError, match=r"holds no codec: set `config\.codec_config`"):
        getattr(model, call)(argument)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": 30}, r"`codebook_size` \(30\) differs from the codec's \(32\)"),
        ({"num_codebooks": 12}, r"`num_codebooks` \(12\) exceeds the codec's \(8\)"),
        ({"codec_config": EncodecConfig(codebook_size=32, chunk_length_s=1.0)}, "without `chunk_length_s`"),
    ],
    ids=["codebook size", "codebooks", "chunks"],
)
def test_codec_that_does_not_fit(changes: dict, message: str) -> None:
    values = {"codebook_size": 32, "codec_config": codec_config("dac"), **changes}
    with pytest.raises(ValueError, match=message):
        SmallEForSpeechGeneration(small_config(**values))


def test_encodec_with_too_few_codebooks() -> None:
    """EnCodec's follow from its highest bandwidth."""
    config = codec_config("encodec")
    assert config.num_quantizers == 8
    with pytest.raises(ValueError, match=r"`num_codebooks` \(9\) exceeds the codec's \(8\)"):
        SmallEForSpeechGeneration(small_config(codebook_size=32, num_codebooks=9, codec_config=config))


@pytest.mark.parametrize(
    ("codes", "lengths", "message"),
    [
        (torch.zeros(5, 4, dtype=torch.long), None, "shape"),
        (torch.zeros(1, 5, 8, dtype=torch.long), None, "transpose it, or keep the first 4"),
        (torch.full((1, 5, 4), 32), None, r"0\.\.31, got 32\.\.32"),
        (torch.zeros(2, 5, 4, dtype=torch.long), torch.tensor([5]), "lengths"),
        (torch.zeros(1, 5, 4, dtype=torch.long), torch.tensor([6]), "lengths"),
    ],
    ids=["no batch", "8 codebooks", "out of range", "other number of lengths", "length beyond the end"],
)
def test_codes_that_cannot_be_decoded(
    model: SmallEForSpeechGeneration, codes: torch.Tensor, lengths: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.decode_audio(codes, lengths)


def test_audio_that_cannot_be_encoded(model: SmallEForSpeechGeneration) -> None:
    for audio, message in [
        (torch.zeros(1, 0), "The audio is empty"),
        (torch.zeros(0, 10), "The audio is empty"),
        (torch.full((1, 10), float("nan")), "NaN"),
        (torch.zeros(1, 2, 10), "mono"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.encode_audio(audio)
    with pytest.raises(ValueError, match="mask"):
        model.encode_audio(torch.zeros(1, 10), torch.ones(1, 9))
    with pytest.raises(TypeError, match="float"):
        model.encode_audio(torch.ones(1, 1000, dtype=torch.int16))
