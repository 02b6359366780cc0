"""The configuration: presets, what it derives, what it refuses, and that it survives saving."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from core_models import small_config
from huggingface_hub.errors import StrictDataclassError
from transformers import DacConfig, EncodecConfig

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration
from smalle_hf.configuration_smalle import PRESETS


def message_of(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error))


def test_defaults_are_the_papers_model() -> None:
    """Section 3.2 of the paper: width 512, 6 + 6 blocks, 2 heads, text encoder of 9 layers, P = 64, Q = 4."""
    config = SmallEConfig()
    assert (config.hidden_size, config.num_audio_encoder_layers, config.num_audio_decoder_layers) == (512, 6, 6)
    assert (config.num_attention_heads, config.position_size, config.num_codebooks) == (2, 64, 4)
    assert (config.num_text_encoder_layers, config.num_text_encoder_attention_heads) == (9, 8)
    assert (config.sampling_rate, config.frame_rate, config.audio_vocab_size) == (24000, 75.0, 1027)
    assert config.delays == [0, 1, 2, 3]
    assert SmallEConfig.from_preset("small-e-64m").to_dict() == config.to_dict()


def test_paper_model_has_about_60_million_parameters() -> None:
    """The paper says 64M, the authors call their released checkpoint of these sizes 60M."""
    with torch.device("meta"):
        model = SmallEForSpeechGeneration(SmallEConfig.from_preset("small-e-64m"))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(60e6, rel=0.01)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_take_overrides(name: str) -> None:
    assert SmallEConfig.from_preset(name, num_codebooks=8).delays == list(range(8))


def test_saved_and_loaded_configuration_is_equal(tmp_path: Path) -> None:
    config = small_config(
        cross_attention="standard", delays=[0, 2, 1, 0], codec_config=EncodecConfig(codebook_size=30, num_filters=4)
    )
    config.save_pretrained(tmp_path)
    loaded = SmallEConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert isinstance(loaded.codec_config, EncodecConfig)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "small_e"


def test_configuration_without_codec_survives_saving(tmp_path: Path) -> None:
    small_config().save_pretrained(tmp_path)
    assert SmallEConfig.from_pretrained(tmp_path).codec_config is None


def test_unknown_keys_of_transformers_are_kept() -> None:
    config = SmallEConfig(architectures=["X"], _name_or_path="y", torch_dtype="float32", id2label={0: "a"})
    assert config.architectures == ["X"]


def test_rates_follow_the_codec() -> None:
    codec = EncodecConfig(sampling_rate=16000, upsampling_ratios=[8, 5, 4, 2], codebook_size=30)
    config = small_config(codec_config=codec)
    assert (config.sampling_rate, config.frame_rate) == (16000, 50.0)
    config = small_config(codec_config={"model_type": "encodec", "sampling_rate": 16000, "codebook_size": 30})
    assert isinstance(config.codec_config, EncodecConfig)
    assert config.sampling_rate == 16000


def test_frame_length_is_the_codecs_hop_where_it_does_not_divide_the_rate() -> None:
    """44.1 kHz in hops of 512 samples: 86.13 frames per second, which some configurations round to 87."""
    config = small_config(codebook_size=1024, codec_config=DacConfig(sampling_rate=44100, codebook_size=1024))
    assert config.frame_length == 512


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hiden_size": 64}, "`hiden_size`: did you mean `hidden_size`"),
        ({"num_codebook": 4}, "did you mean `num_codebooks`"),
        ({"cross_attention": "pacca"}, r"cross_attention.*'paca', 'standard'.*pacca"),
        ({"hidden_size": "64"}, "hidden_size.*int"),
        ({"hidden_size": 0}, "hidden_size.*positive"),
        ({"num_codebooks": 0}, "num_codebooks.*positive"),
        ({"dropout": 1.5}, "dropout"),
        ({"hidden_size": 33}, r"`hidden_size` \(33\) must be a multiple of `num_attention_heads` \(2\)"),
        ({"num_text_encoder_attention_heads": 3}, "multiple of `num_text_encoder_attention_heads`"),
        ({"num_text_encoder_attention_heads": 16}, "must be a multiple of 4"),
        ({"position_size": 15}, "position_size"),
        ({"value_expand": 0.01}, "value_expand"),
        ({"key_expand": 0.0}, "key_expand"),
        ({"delays": [0, 1]}, r"one entry per codebook \(4\)"),
        ({"codebook_loss_weights": [1.0, 2.0]}, "one weight for each of 4 codebooks"),
        ({"codebook_loss_weights": [1.0, 2.0, 0.5, -1.0]}, "none below 0"),
        ({"codebook_loss_weights": [0.0, 0.0, 0.0, 0.0]}, "one weight for each"),
        ({"delays": [1, 2, 3, 4]}, "contain a 0"),
        ({"delays": [0, -1, 2, 3]}, "non-negative"),
        ({"audio_eos_token_id": 3}, r"below `codebook_offset` \(3\)"),
        ({"audio_eos_token_id": 1}, "must differ"),
        ({"codec_config": {"sampling_rate": 16000}}, 'needs a "model_type"'),
        (
            {"codec_config": {"model_type": "encodec", "sampling_rate": 16000}, "sampling_rate": 24000},
            "differs from the codec's",
        ),
        ({"codec_config": {"model_type": "encodek"}}, "encodek"),
    ],
)
def test_refuses_values_that_cannot_work(values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, StrictDataclassError)) as caught:
        small_config(**values)
    assert re.search(message, message_of(caught.value)), message_of(caught.value)


def test_refuses_an_inconsistent_file(tmp_path: Path) -> None:
    small_config().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "hidden_size": 30}))
    with pytest.raises(StrictDataclassError, match="multiple of"):
        SmallEConfig.from_pretrained(tmp_path)


def test_unknown_preset_names_those_that_exist() -> None:
    with pytest.raises(ValueError, match="'large': choose one of small-e-64m, tiny"):
        SmallEConfig.from_preset("large")


@pytest.mark.parametrize("head_size", [2, 6])
def test_standard_attention_checks_its_rotary_heads(head_size: int) -> None:
    with pytest.raises(StrictDataclassError, match="multiple of 4"):
        small_config(cross_attention="standard", hidden_size=4 * head_size, num_attention_heads=4)
