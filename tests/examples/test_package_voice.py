"""The folder that is shipped: half precision on disk, single precision in memory, voices, no code."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoProcessor

from smalle_hf import SmallCodecConfig, SmallEConfig, SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.data.token_cache import CodecInfo, shard_name, write_shard
from smalle_hf.voice_files import default_voice, list_voices, load_voice

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "voice"


@pytest.fixture
def package_voice(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("package_voice")


@pytest.fixture
def run_folder(tmp_path):
    """What a training run exports."""
    folder = tmp_path / "run"
    processor = SmallEProcessor.from_characters()
    codec = SmallCodecConfig(hidden_size=16, num_encoder_layers=1, num_decoder_layers=1, codebook_size=32)
    config = SmallEConfig.from_preset(
        "tiny", vocab_size=len(processor.tokenizer), codebook_size=32, codec_config=codec
    )
    torch.manual_seed(0)
    SmallEForSpeechGeneration(config).save_pretrained(folder)
    SmallEProcessor.from_characters(config=config).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A voice\n", encoding="utf-8")
    return folder


@pytest.fixture
def codes(tmp_path):
    folder = tmp_path / "codes"
    folder.mkdir()
    row = {"id": "anna-1", "codes": np.full((12, 4), 7, np.int16), "text": "Hello there.", "speaker": "anna"}
    codec = CodecInfo("test", "1", 16000, 50.0, 4, 32)
    write_shard(folder / shard_name(0, 1), [row], codec)
    return folder


def test_the_folder_speaks_with_its_voices_and_holds_no_code(package_voice, run_folder, codes, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    out = tmp_path / "voices" / "demo"
    arguments = [str(run_folder), str(out), "--codes", str(codes), "--voice", "anna=anna-1"]
    arguments += ["--generate", "temperature=0.5", "--generate", "num_sampled_codebooks=1"]
    assert package_voice.main(arguments) == 0
    assert not list(out.rglob("*.py"))
    assert not re.search("auto_map|_name_or_path", "".join(path.read_text() for path in out.glob("*.json")))
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} <= {torch.float16, torch.int64}  # noqa: SIM118

    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert (model.generation_config.temperature, model.generation_config.num_sampled_codebooks) == (0.5, 1)
    assert list_voices(out) == ["anna"]
    assert default_voice(out) == "anna"
    voice = load_voice(out, "anna")
    assert voice["audio_prompt_text"] == "Hello there."
    output = model.generate(**processor("Good day.", **voice), max_new_tokens=5)
    assert output.sequences.shape[1] <= 5
    assert (out / "README.md").read_text(encoding="utf-8").startswith("---")
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"
    assert [path.name for path in out.parent.iterdir()] == ["demo"]


def test_an_utterance_that_is_not_there_is_named_and_nothing_is_written(
    package_voice, run_folder, codes, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    arguments = [str(run_folder), str(tmp_path / "out"), "--codes", str(codes), "--voice", "anna"]
    assert package_voice.main(arguments) == 1
    assert "no utterance '' for --voice anna" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
