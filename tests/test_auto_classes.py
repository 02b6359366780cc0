"""Auto classes: with the package imported, and as remote code where it cannot be; the text-to-speech pipeline."""

import json
import os
import site
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from core_models import lively_model, random_text, small_config
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextToWaveform,
    AutoProcessor,
    EncodecConfig,
    Pipeline,
    pipeline,
)

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, SmallEProcessor

TEXT = "Hello world."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with everything in it: model, codec, processor."""
    torch.manual_seed(0)
    codec = EncodecConfig(
        num_filters=2, hidden_size=8, codebook_dim=8, codebook_size=32, num_lstm_layers=1, target_bandwidths=[6.0]
    )
    config = small_config(vocab_size=100, codebook_size=32, codec_config=codec)
    model = lively_model(config)
    for layer in model.codec_model.quantizer.layers:
        layer.codebook.embed.normal_()
    with torch.no_grad():  # never the best id: speech goes on to its limit
        heads = model.lm_heads.weight.view(config.num_codebooks, -1, config.hidden_size)
        heads[0, config.audio_eos_token_id] = heads[0, config.codebook_offset :].mean(dim=0)
    model.generation_config.do_sample, model.generation_config.top_k = False, None
    path = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(path)
    SmallEProcessor.from_characters(config=config).save_pretrained(path)
    return path


def test_configuration(folder: Path) -> None:
    assert isinstance(AutoConfig.from_pretrained(folder), SmallEConfig)
    assert isinstance(AutoConfig.for_model("small_e", hidden_size=64), SmallEConfig)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForTextToWaveform])
def test_models_can_generate(folder: Path, auto_class: type) -> None:
    model = auto_class.from_pretrained(folder)
    assert isinstance(model, SmallEForSpeechGeneration)
    assert not model.training
    assert model.can_generate()
    text = random_text(model.config, 5)
    expected = SmallEForSpeechGeneration.from_pretrained(folder).generate(text, max_new_tokens=4)
    found = model.generate(text, max_new_tokens=4)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(found.audio, expected.audio)
    assert isinstance(auto_class.from_config(model.config), SmallEForSpeechGeneration)


def test_processor(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, SmallEProcessor)
    model = AutoModel.from_pretrained(folder)
    output = model.generate(**processor(TEXT), max_new_tokens=4)
    assert processor.decode(output).shape == (4 * model.config.frame_length,)


def test_no_pickle_in_a_checkpoint(folder: Path) -> None:
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".py", ".md", ".jinja", ".txt"}


# Remote code

PRELUDE = """
    import importlib.abc, json, sys

    class Hidden(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "smalle_hf":
                raise ImportError("smalle_hf is hidden from this process")

    sys.meta_path.insert(0, Hidden())
    import torch
    torch.set_num_threads(1)
    from transformers import AutoConfig, AutoModel, AutoModelForTextToWaveform, AutoProcessor, pipeline
    folder, copy = sys.argv[1:]
"""


def run_without_package(code: str, folder: Path, tmp_path: Path) -> dict:
    """Runs code in a fresh process that cannot import the package; returns the JSON object that it prints last."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    # The libraries that this process uses, where they are not the environment's own.
    used = {str(Path(module.__file__).parents[1]) for module in (transformers, huggingface_hub)}
    environment["PYTHONPATH"] = os.pathsep.join(sorted(used - set(site.getsitepackages())))
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(code)
    command = [sys.executable, "-W", "ignore", "-c", source, str(folder), str(tmp_path / "copy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_remote_code(folder: Path, tmp_path: Path) -> None:
    """Loads, speaks, saves, and loads what it saved, without the package."""
    report = run_without_package(
        """
        try:
            import smalle_hf
            imported = True
        except ImportError:
            imported = False
        text = torch.tensor([[1, 5, 6, 7, 2]])
        results = {}
        for auto_class in (AutoModel, AutoModelForTextToWaveform):
            model = auto_class.from_pretrained(folder, trust_remote_code=True)
            output = model.generate(text, max_new_tokens=4)
            results[auto_class.__name__] = output.sequences.tolist()
        model.save_pretrained(copy)
        again = AutoModel.from_pretrained(copy, trust_remote_code=True).generate(text, max_new_tokens=4)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        processor.save_pretrained(copy)
        processor = AutoProcessor.from_pretrained(copy, trust_remote_code=True)
        speak = pipeline("text-to-speech", model=copy, trust_remote_code=True)
        spoken = speak("Hello world.", generate_kwargs={"max_new_tokens": 4})
        print(json.dumps({
            "imported": imported,
            "results": results,
            "again": again.sequences.tolist(),
            "config": type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__module__,
            "model": type(model).__module__,
            "processor": type(processor).__module__,
            "ids": processor("Hello world.").input_ids.tolist(),
            "audio": list(spoken["audio"].shape),
        }))
        """,
        folder,
        tmp_path,
    )
    assert not report["imported"]
    model = SmallEForSpeechGeneration.from_pretrained(folder)
    expected = model.generate(torch.tensor([[1, 5, 6, 7, 2]]), max_new_tokens=4).sequences.tolist()
    assert report["results"] == {"AutoModel": expected, "AutoModelForTextToWaveform": expected}
    assert report["again"] == expected
    for name in ("config", "model", "processor"):
        assert report[name].startswith("transformers_modules."), report[name]
    assert report["ids"] == SmallEProcessor.from_pretrained(folder)(TEXT).input_ids.tolist()
    assert report["audio"][-1] == 4 * model.config.frame_length


@pytest.mark.slow
def test_remote_code_is_not_run_without_consent(folder: Path, tmp_path: Path) -> None:
    report = run_without_package(
        """
        try:
            AutoModel.from_pretrained(folder, trust_remote_code=False)
            message = ""
        except ValueError as error:
            message = str(error)
        print(json.dumps({"message": message}))
        """,
        folder,
        tmp_path,
    )
    assert "trust_remote_code=True" in report["message"]


def test_checkpoint_holds_the_code_that_remote_code_needs(folder: Path) -> None:
    """Every file that a stored file imports lies beside it."""
    maps = [json.loads((folder / name).read_text())["auto_map"] for name in ("config.json", "processor_config.json")]
    assert set(maps[0]) >= {"AutoConfig", "AutoModel", "AutoModelForTextToWaveform"}
    assert set(maps[1]) == {"AutoProcessor"}
    stored = {path.name for path in folder.glob("*.py")}
    for target in {target for auto_map in maps for target in auto_map.values()}:
        assert f"{target.split('.')[0]}.py" in stored
    for path in folder.glob("*.py"):
        imported = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("from .")]
        assert {f"{name[1:]}.py" for name in imported} <= stored, path.name


# Pipeline


@pytest.fixture(scope="module")
def speak(folder: Path) -> Pipeline:
    return pipeline("text-to-speech", model=str(folder), device="cpu")


def assert_speech(spoken: dict, frames: int | None = None) -> None:
    assert spoken["sampling_rate"] == 24000
    audio = spoken["audio"]
    assert isinstance(audio, np.ndarray)
    assert audio.dtype == np.float32
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() > 0
    if frames is not None:
        assert audio.shape[-1] == frames * 320


def test_pipeline_speaks_a_string(speak: Pipeline) -> None:
    assert_speech(speak(TEXT, generate_kwargs={"max_new_tokens": 5}), 5)
    assert_speech(speak(TEXT, forward_params={"max_new_tokens": 5}), 5)


def test_pipeline_speaks_a_list(speak: Pipeline) -> None:
    spoken = speak([TEXT, "A longer text."], generate_kwargs={"max_new_tokens": 5})
    assert len(spoken) == 2
    for one in spoken:
        assert_speech(one, 5)


def test_pipeline_speaks_a_batch(speak: Pipeline) -> None:
    """With the same result as one by one."""
    texts = [TEXT, "A longer text than the first."]
    options = {"generate_kwargs": {"max_new_tokens": 20}}
    together, apart = speak(texts, batch_size=2, **options), speak(texts, **options)
    for found, expected in zip(together, apart, strict=True):
        assert_speech(found)
        length = expected["audio"].shape[-1]
        np.testing.assert_allclose(found["audio"][..., :length], expected["audio"], rtol=1e-3, atol=1e-4)
        assert (found["audio"][..., length:] == 0).all()


def test_pipeline_does_not_cut_speech_at_its_own_default(speak: Pipeline) -> None:
    """Its default of 256 new tokens would be 3.4 seconds of speech."""
    ids = SmallEProcessor.from_characters()(TEXT).input_ids
    limit = int(ids.shape[1] * speak.model.config.max_frames_per_text_token)
    assert limit > 256
    assert_speech(speak(TEXT), limit)


def test_pipeline_from_loaded_parts(folder: Path) -> None:
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    speak = pipeline("text-to-speech", model=model, processor=processor, tokenizer=processor.tokenizer)
    assert_speech(speak(TEXT, generate_kwargs={"max_new_tokens": 3}), 3)
