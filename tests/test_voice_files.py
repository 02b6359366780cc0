"""Voices are files in the folder of a checkpoint, and come back as they were saved."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from smalle_hf import SmallEProcessor
from smalle_hf.voice_files import (
    default_voice,
    encode_codes,
    list_voices,
    load_voice,
    read_codes,
    save_voice,
    write_bytes,
)


def test_a_voice_comes_back(tmp_path: Path) -> None:
    codes = torch.randint(1024, (7, 4))
    path = save_voice(tmp_path, "anna-2", codes, "what she says", {"licence": "cc0"})
    assert path == tmp_path / "voices" / "anna-2.safetensors"
    voice = load_voice(tmp_path, "anna-2")
    assert torch.equal(voice["audio_prompt_codes"], codes)
    assert voice["audio_prompt_text"] == "what she says"
    assert read_codes(path)[1]["licence"] == "cc0"
    assert list_voices(tmp_path) == ["anna-2"]
    assert list_voices(tmp_path / "absent") == []
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_processor_takes_a_voice(tmp_path: Path) -> None:
    save_voice(tmp_path, "anna", torch.randint(1024, (7, 4)), "what she says")
    inputs = SmallEProcessor.from_characters()("hello", **load_voice(tmp_path, "anna"))
    assert inputs.audio_prompt_codes.shape == (1, 7, 4)
    assert inputs.input_ids.shape == (1, len("what she says hello") + 2)


def test_wrong_voices_are_refused(tmp_path: Path) -> None:
    codes = torch.randint(1024, (7, 4))
    for name in ("../x", "", ".hidden", "a/b"):
        with pytest.raises(ValueError, match="cannot name a voice"):
            load_voice(tmp_path, name)
    with pytest.raises(TypeError, match="integers"):
        save_voice(tmp_path, "x", codes.float(), "")
    with pytest.raises(ValueError, match="shape"):
        save_voice(tmp_path, "x", codes[None], "")
    with pytest.raises(ValueError, match="at least one frame"):
        save_voice(tmp_path, "x", codes[:0], "")
    save_voice(tmp_path, "anna", codes, "")
    with pytest.raises(ValueError, match="has no voice 'bob': it has anna"):
        load_voice(tmp_path, "bob")
    assert list_voices(tmp_path) == ["anna"]


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_bytes(path, encode_codes(torch.ones(3, 2, dtype=torch.uint8), {})[:20])
    with pytest.raises(ValueError, match="damaged"):
        read_codes(path)
    save_file({"audio_codes": torch.rand(3, 2)}, path)
    with pytest.raises(ValueError, match="holds no codes"):
        read_codes(path)
    with pytest.raises(FileNotFoundError, match="check the path"):
        read_codes(tmp_path / "absent.safetensors")


def test_large_codes_keep_their_values(tmp_path: Path) -> None:
    codes = torch.tensor([[0, 70_000]])
    path = write_bytes(tmp_path / "a.safetensors", encode_codes(codes, {}))
    assert torch.equal(read_codes(path)[0], codes)


def test_the_default_voice_is_the_marked_one_or_else_the_first(tmp_path):
    assert default_voice(tmp_path) is None
    codes = torch.zeros(3, 4, dtype=torch.long)
    save_voice(tmp_path, "ann", codes, "one")
    save_voice(tmp_path, "bob", codes, "two")
    assert default_voice(tmp_path) == "ann"
    save_voice(tmp_path, "bob", codes, "two", {"default": "yes"})
    assert default_voice(tmp_path) == "bob"
