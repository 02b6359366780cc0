"""Judges by name: the ones from the Hub with small checkpoints in a folder, and what they say without a network."""

import json
import sys

import numpy as np
import pytest
import torch
from transformers import (
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMForXVector,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from smalle_hf.metrics import create_mos_model, create_recognizer, create_speaker_model


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    vocabulary = {
        "<|endoftext|>": 0,
        "<|startoftranscript|>": 1,
        "a": 2,
        "b": 3,
        "Ġ": 4,
        "ab": 5,
        "<|notimestamps|>": 6,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    config = WhisperConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_mel_bins=80,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
        suppress_tokens=[],
        begin_suppress_tokens=[0],
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    model.generation_config.no_timestamps_token_id = 6
    model.generation_config.max_length = 8
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wavlm_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wavlm")
    config = WavLMConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_conv_pos_embedding_groups=4,
        tdnn_dim=(16,) * 5,
        xvector_output_dim=12,
    )
    torch.manual_seed(0)
    WavLMForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def noise(seconds: float, rate: int) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(int(seconds * rate)) * 0.1).astype(np.float32)


def test_whisper_from_a_folder_transcribes(whisper_folder):
    recognizer = create_recognizer(f"whisper:{whisper_folder}")
    text = recognizer(noise(0.5, 24000), 24000)
    assert text
    assert set(text) <= set("ab ")
    assert recognizer(noise(0.5, 24000), 24000) == text
    assert recognizer(np.zeros(0), 24000) == ""


def test_wavlm_from_a_folder_embeds(wavlm_folder):
    model = create_speaker_model(f"wavlm:{wavlm_folder}")
    for seconds in (0.01, 1.5):
        embedding = model(noise(seconds, 22050), 22050)
        assert embedding.shape == (12,)
        assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-5)
    assert not model(np.zeros(100), 16000).any()


@pytest.mark.parametrize(
    ("create", "name", "instead"),
    [
        (create_recognizer, "whisper:missing/checkpoint", "pocketsphinx"),
        (create_speaker_model, "wavlm:missing/checkpoint", "resemblyzer"),
    ],
)
def test_without_a_network_one_line_says_what_to_use_instead(create, name, instead):
    with pytest.raises(RuntimeError, match=instead) as error:
        create(name)
    assert "missing/checkpoint" in str(error.value)
    assert "\n" not in str(error.value)


def test_utmos_without_a_network_says_what_to_use_instead(monkeypatch, tmp_path):
    def unreachable(*_args, **_kwargs):
        raise OSError("<urlopen error no network>")

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(RuntimeError, match="speechmos"):
        create_mos_model("utmos")


@pytest.mark.parametrize("create", [create_recognizer, create_speaker_model, create_mos_model])
def test_unknown_names_are_answered_with_the_known_ones(create):
    with pytest.raises(ValueError, match="choose one of"):
        create("nothing")


def test_pocketsphinx_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="English"):
        create_recognizer("pocketsphinx", language="de")
    with pytest.raises(ValueError, match="texts"):
        create_recognizer("pocketsphinx:words")
    with pytest.raises(ValueError, match="language model"):
        create_recognizer("pocketsphinx:trigrams")


@pytest.mark.parametrize(
    ("package", "create", "name"),
    [
        ("pocketsphinx", create_recognizer, "pocketsphinx"),
        ("resemblyzer", create_speaker_model, "resemblyzer"),
        ("speechmos", create_mos_model, "speechmos"),
    ],
)
def test_a_missing_package_is_named(package, create, name, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="pip install"):
        create(name)


def test_words_that_can_never_be_heard_are_reported():
    recognizer = create_recognizer("pocketsphinx:words", texts=["the zzyx walks"])
    assert recognizer.unknown_words == ["zzyx"]


def test_transcriptions_do_not_depend_on_what_was_heard_before(recordings):
    recognizer = create_recognizer("pocketsphinx:sentences", texts=[recording.text for recording in recordings])
    first = recognizer(recordings[1].samples, 16000)
    recognizer(recordings[4].samples * 0.1, 16000)
    assert recognizer(recordings[1].samples, 16000) == first
    assert recognizer(np.zeros(0), 16000) == ""
