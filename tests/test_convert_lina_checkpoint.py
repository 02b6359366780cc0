"""The converter: every kind of file it reads, what it checks, and that its folder gives back the same numbers."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import EncodecConfig, EncodecModel

from smalle_hf import SmallEForSpeechGeneration
from smalle_hf.convert_lina_checkpoint import convert_checkpoint, convert_name, infer_config, main

NAMES = ["paca_small", "plain_cross_attention"]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def weights(golden_dir: Path, name: str) -> Path:
    return golden_dir / f"{name}.weights.safetensors"


@pytest.fixture
def paca_weights(golden_dir: Path) -> Path:
    return golden_dir / "paca_small.weights.safetensors"


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def logits_of(model: SmallEForSpeechGeneration) -> torch.Tensor:
    columns = torch.arange(3, 3 + 40).view(1, 10, 4)
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 9, 8, 7, 2]]), decoder_input_ids=columns).logits


def test_folder_gives_back_the_same_numbers(weights: Path, tmp_path: Path) -> None:
    model = convert_checkpoint(weights, tmp_path)
    assert not model.training
    assert torch.equal(logits_of(SmallEForSpeechGeneration.from_pretrained(tmp_path)), logits_of(model))
    assert {"config.json", "generation_config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}


def test_sizes_are_read_off_the_weights(weights: Path, tmp_path: Path) -> None:
    """Without its metadata, and as the metadata says."""
    metadata = json.loads(metadata_of(weights)["config"])
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(weights), bare)
    config = convert_checkpoint(bare, tmp_path / "out").config
    assert config.to_dict() == convert_checkpoint(weights, tmp_path / "out2").config.to_dict()
    assert config.hidden_size == metadata["d_model"]
    assert config.num_audio_encoder_layers == config.num_audio_decoder_layers == metadata["n_layer"]
    assert config.num_text_encoder_layers == metadata["encoder_layers"]
    assert config.num_attention_heads == metadata["heads"]
    assert config.num_codebooks == metadata["n_quant"]
    assert config.codebook_size == metadata["n_codebook"]
    assert config.vocab_size == metadata["n_txt_vocab"]
    assert config.cross_attention == ("paca" if metadata["blind"] else "standard")
    if metadata["blind"]:
        assert config.position_size == metadata["d_blind"]


@pytest.mark.parametrize(
    ("suffix", "wrap"),
    [
        (".pt", lambda tensors: tensors),
        (".ckpt", lambda tensors: {"state_dict": {f"model.{key}": value for key, value in tensors.items()}}),
        (
            ".ckpt",
            lambda tensors: {
                "epoch": 3,
                "hyper_parameters": {"lr": 1e-3},
                "state_dict": {f"lina.module.{key}": value for key, value in tensors.items()}
                | {"ema_decay": torch.ones(1)},
            },
        ),
    ],
    ids=["state dict", "Lightning", "Lightning with more"],
)
def test_files_of_torch(paca_weights: Path, tmp_path: Path, suffix: str, wrap: Callable[[dict], dict]) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save(wrap(load_file(paca_weights)), path)
    expected = logits_of(convert_checkpoint(paca_weights, tmp_path / "expected"))
    assert torch.equal(logits_of(convert_checkpoint(path, tmp_path / "out")), expected)


def test_prefix_is_stripped_from_safetensors(paca_weights: Path, tmp_path: Path) -> None:
    save_file({f"model.{key}": value for key, value in load_file(paca_weights).items()}, tmp_path / "m.safetensors")
    expected = logits_of(convert_checkpoint(paca_weights, tmp_path / "expected"))
    assert torch.equal(logits_of(convert_checkpoint(tmp_path / "m.safetensors", tmp_path / "out")), expected)


def test_half_precision_weights_become_float32(paca_weights: Path, tmp_path: Path) -> None:
    save_file({key: value.half() for key, value in load_file(paca_weights).items()}, tmp_path / "m.safetensors")
    model = convert_checkpoint(tmp_path / "m.safetensors", tmp_path / "out")
    assert model.dtype == torch.float32
    expected = logits_of(convert_checkpoint(paca_weights, tmp_path / "expected"))
    assert (logits_of(model) - expected).abs().max() < 0.05 * expected.abs().max()


def test_codec_goes_into_the_folder(paca_weights: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = EncodecModel(
        EncodecConfig(num_filters=4, hidden_size=16, num_lstm_layers=1, target_bandwidths=[3.0], codebook_size=1024)
    )
    for layer in codec.quantizer.layers:
        layer.codebook.embed.normal_()
    codec.save_pretrained(tmp_path / "codec")
    convert_checkpoint(paca_weights, tmp_path / "out", codec=str(tmp_path / "codec"))
    model = SmallEForSpeechGeneration.from_pretrained(tmp_path / "out")
    state = model.codec_model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in codec.state_dict().items())
    codes = torch.randint(0, 1024, (1, 5, 4))
    expected = codec.decode(codes.transpose(1, 2)[None], [None]).audio_values[0]
    torch.testing.assert_close(model.decode_audio(codes), expected)


# Refusals


def damaged(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:5000])


def without(key: str) -> Callable[[dict[str, torch.Tensor], Path], None]:
    return lambda tensors, path: save_file({k: v for k, v in tensors.items() if k != key}, path)


def added(key: str, shape: tuple[int, ...]) -> Callable[[dict[str, torch.Tensor], Path], None]:
    return lambda tensors, path: save_file({**tensors, key: torch.zeros(shape)}, path)


class Anything:
    """An object that a pickle would have to build."""


BAD_FILES = {
    "truncated safetensors": ("m.safetensors", damaged, "m.safetensors is damaged.* download it again"),
    "empty safetensors": ("m.safetensors", lambda _, p: p.write_bytes(b""), "m.safetensors is damaged"),
    "text as safetensors": ("m.safetensors", lambda _, p: p.write_text("hello " * 99), "m.safetensors is damaged"),
    "pickle as safetensors": ("m.safetensors", lambda t, p: torch.save(t, p), "m.safetensors is damaged"),
    "pickled object": ("m.pt", lambda t, p: torch.save({**t, "x": Anything()}, p), "holds pickled objects"),
    "truncated pickle": (
        "m.ckpt",
        lambda t, p: (torch.save(t, p), p.write_bytes(p.read_bytes()[:9999])),
        "m.ckpt is damaged",
    ),
    "empty pickle": ("m.ckpt", lambda _, p: p.write_bytes(b""), "m.ckpt is damaged"),
    "text as pickle": ("m.pt", lambda _, p: p.write_text("hello " * 99), "m.pt is damaged"),
    "one tensor": ("m.pt", lambda _, p: torch.save(torch.zeros(3), p), "m.pt .*no Small-E checkpoint"),
    "a list": ("m.pt", lambda _, p: torch.save([1, 2], p), "m.pt .*no Small-E checkpoint"),
    "another model": ("m.safetensors", lambda _, p: save_file({"a": torch.zeros(1)}, p), "no Small-E checkpoint"),
    "unknown tensor": ("m.safetensors", added("attentive_rnn.new.weight", (2,)), "Unknown tensor `attentive_rnn.new"),
    "unknown part of a block": (
        "m.safetensors",
        added("attentive_rnn.encoder.0.tmix.q_conv.weight", (2, 2)),
        "Unknown tensor `attentive_rnn.encoder.0.tmix.q_conv.weight`",
    ),
    "lacks a tensor": ("m.safetensors", without("logits_head.weight"), "logits_head|lm_heads"),
    "lacks a tensor that tells a size": ("m.safetensors", without("rvq_embed.weight"), "rvq_embed"),
    "lacks the text encoder": (
        "m.safetensors",
        lambda t, p: save_file({k: v for k, v in t.items() if not k.startswith("txt_encoder")}, p),
        "txt_encoder",
    ),
    "a tensor of another shape": (
        "m.safetensors",
        lambda t, p: save_file({**t, "logits_head.weight": torch.zeros(4, 5, 64)}, p),
        "lm_heads|logits_head",
    ),
    "learnt rotary frequencies": (
        "m.safetensors",
        lambda t, p: save_file({k: v * 2 if "rotary" in k else v for k, v in t.items()}, p),
        "learnt frequencies",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_refused_in_one_line(
    case: str, paca_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filename, write, message = BAD_FILES[case]
    write(load_file(paca_weights), tmp_path / filename)
    assert main(["--weights", str(tmp_path / filename), "--output", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_pickled_object_is_never_built(paca_weights: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({**load_file(paca_weights), "trap": Trap()}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="pickled objects, which are not loaded"):
        convert_checkpoint(tmp_path / "m.pt", tmp_path / "out")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 512}, "says d_model = 512, the weights 64: they do not belong together"),
        ({"heads": 2}, "heads = 2"),
        ({"n_layer": 6}, "n_layer = 6"),
        ({"encoder_layers": 9}, "encoder_layers = 9"),
        ({"n_quant": 8}, "n_quant = 8"),
        ({"blind": False}, "blind = False"),
        ({"d_blind": 64}, "d_blind = 64"),
        ({"n_txt_vocab": 100}, "n_txt_vocab = 100"),
    ],
    ids=str,
)
def test_configuration_of_other_weights(paca_weights: Path, tmp_path: Path, changes: dict, message: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(metadata_of(paca_weights)["config"]), **changes}))
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(paca_weights, tmp_path / "out", config)


@pytest.mark.parametrize("text", ["{not json", "[1, 2]", ""])
def test_configuration_that_is_no_json_object(
    paca_weights: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    arguments = ["--weights", str(paca_weights), "--config", str(config), "--output", str(tmp_path / "out")]
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "config.json" in error
    assert len(error.splitlines()) == 1


def test_matching_configuration_is_accepted(weights: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(metadata_of(weights)["config"])
    convert_checkpoint(weights, tmp_path / "out", config)


def test_output_that_is_a_file(paca_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert main(["--weights", str(paca_weights), "--output", str(tmp_path / "out")]) == 1
    assert "out" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_name_of_an_unknown_tensor() -> None:
    with pytest.raises(ValueError, match=r"Unknown tensor `a\.b\.weight`: this is another architecture"):
        convert_name("a.b.weight")


def test_inference_needs_no_configuration(weights: Path) -> None:
    tensors = load_file(weights)
    assert infer_config(tensors) == infer_config(tensors, json.loads(metadata_of(weights)["config"]))


# Command line


def run_cli(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-m", "smalle_hf.convert_lina_checkpoint", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_command_line(paca_weights: Path, tmp_path: Path) -> None:
    done = run_cli("--weights", str(paca_weights), "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "0.8M parameters" in done.stderr
    SmallEForSpeechGeneration.from_pretrained(tmp_path / "out")


def test_command_line_without_weights(tmp_path: Path) -> None:
    done = run_cli("--weights", str(tmp_path / "none.ckpt"), "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: {tmp_path / 'none.ckpt'} does not exist."


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 2), (["--wieghts", "x"], 2)], ids=str)
def test_usage(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code
    printed = capsys.readouterr()
    assert ("example:" in printed.out) == (code == 0)
