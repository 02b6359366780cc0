"""Codec codes in safetensors files: recordings that were encoded, and the voices of a checkpoint.

A voice is what the model goes on from: codes of a short recording, and what is said in it. The voices of a checkpoint
lie in its folder as `voices/NAME.safetensors`; `processor(text, **load_voice(folder, "anna"))` speaks with one.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from .file_replacement import replace_file

if TYPE_CHECKING:  # reading needs no torch, so that exported models can be given voices where there is none
    import torch

VOICES_FOLDER = "voices"
CODES_NAME = "audio_codes"
PROMPT_NAME = "audio_prompt_codes"
TEXT_KEY = "text"
DEFAULT_KEY = "default"


def save_voice(
    folder: str | os.PathLike[str],
    name: str,
    audio_prompt_codes: "torch.Tensor",
    text: str,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Adds a voice to a checkpoint, or replaces it.

    Args:
        folder (`str` or `os.PathLike`): Folder of the checkpoint.
        name (`str`): What the voice is called: letters, digits, `_`, `-` and `.`.
        audio_prompt_codes (`torch.LongTensor` of shape `(T, Q)`): Codec codes of a recording of the voice.
        text (`str`): What is said in it; `""` if that is unknown.
        metadata (`Mapping[str, str]`, *optional*): More about the voice, such as its licence.

    Returns:
        `Path`: The file.

    Raises:
        TypeError: The codes are no integers.
        ValueError: The name cannot be a file name, or the codes have another shape.
    """
    content = encode_codes(audio_prompt_codes, {**(metadata or {}), TEXT_KEY: text})
    path = Path(folder) / _voice_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bytes(path, content)


def load_voice(folder: str | os.PathLike[str], name: str) -> dict[str, "torch.Tensor | str"]:
    """Reads a voice of a checkpoint.

    Args:
        folder (`str` or `os.PathLike`): Folder of the checkpoint, or its name on the Hub.
        name (`str`): One of [`list_voices`].

    Returns:
        `dict` of `audio_prompt_codes` (`torch.LongTensor` of shape `(T, Q)`) and `audio_prompt_text` (`str`), as the
        processor takes them.

    Raises:
        ValueError: There is no such voice, or its file holds no codes.
    """
    import torch

    arrays = load_voice_arrays(folder, name)
    return {**arrays, PROMPT_NAME: torch.from_numpy(arrays[PROMPT_NAME])}


def load_voice_arrays(folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """The same with codes as `np.ndarray` of shape `(T, Q)`, int64, for exported models."""
    path = Path(folder) / _voice_path(name)
    if not path.is_file() and not os.path.isdir(folder):
        from transformers.utils import cached_file

        # Not found on the Hub, or no network: both are `OSError` there, with a text that says which.
        path = Path(cached_file(os.fspath(folder), f"{VOICES_FOLDER}/{name}.safetensors"))
    if not path.is_file():
        known = ", ".join(list_voices(folder)) or "none"
        raise ValueError(f"{folder} has no voice {name!r}: it has {known}.")
    codes, metadata = read_arrays(path)
    return {PROMPT_NAME: codes, "audio_prompt_text": metadata.get(TEXT_KEY, "")}


def list_voices(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the voices that lie in the folder of a checkpoint, sorted; none if it has no folder `voices`."""
    return sorted(path.stem for path in (Path(folder) / VOICES_FOLDER).glob("*.safetensors"))


def default_voice(folder: str | os.PathLike[str]) -> str | None:
    """Name of the voice to speak in where none is named: the one with `default` among its metadata, or else the first.

    Args:
        folder (`str` or `os.PathLike`): Folder of the checkpoint; `None` is returned if it has no voices.
    """
    names = list_voices(folder)
    marked = (name for name in names if DEFAULT_KEY in read_arrays(Path(folder) / _voice_path(name))[1])
    return next(marked, names[0] if names else None)


def encode_codes(codes: "torch.Tensor", metadata: Mapping[str, str]) -> bytes:
    """Content of a safetensors file of codes; with a `text` among the metadata it is that of a voice.

    Args:
        codes (`torch.LongTensor` of shape `(T, Q)`): Codec codes. They are kept in two bytes each where these suffice.
        metadata (`Mapping[str, str]`): What the file says about them.

    Raises:
        TypeError: The codes are no integers.
        ValueError: They have another shape, or there are none.
    """
    import torch
    from safetensors.torch import save

    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise TypeError(f"Codes are integers, got {codes.dtype}: encode the audio with the codec first.")
    if codes.ndim != 2 or 0 in codes.shape:
        raise ValueError(f"Codes must have shape (frames, codebooks) with at least one frame, got {(*codes.shape,)}.")
    dtype = torch.int16 if int(codes.max()) <= torch.iinfo(torch.int16).max else torch.int32
    name = PROMPT_NAME if TEXT_KEY in metadata else CODES_NAME
    return save({name: codes.detach().to("cpu", dtype).contiguous()}, metadata=dict(metadata))


def read_codes(path: str | os.PathLike[str]) -> tuple["torch.Tensor", dict[str, str]]:
    """Reads a file of codes, or a voice.

    Args:
        path (`str` or `os.PathLike`): The file.

    Returns:
        Codes, a `torch.LongTensor` of shape `(T, Q)`, and the metadata.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or holds no codes.
    """
    import torch

    codes, metadata = read_arrays(path)
    return torch.from_numpy(codes), metadata


def read_arrays(path: str | os.PathLike[str]) -> tuple[np.ndarray, dict[str, str]]:
    """The same with codes as `np.ndarray` of shape `(T, Q)`, int64."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {os.fspath(path)}: check the path.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            name = next((name for name in file.keys() if name in (CODES_NAME, PROMPT_NAME)), None)  # noqa: SIM118
            codes = None if name is None else file.get_tensor(name)
    except (SafetensorError, TypeError) as error:  # numpy lacks some of the types
        raise ValueError(f"{os.fspath(path)} is damaged or no safetensors file ({error}): encode it again.") from error
    if codes is None or codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"{os.fspath(path)} holds no codes (frames, codebooks) named `{CODES_NAME}` or `{PROMPT_NAME}`."
        )
    return codes.astype(np.int64), metadata


def write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
    """Writes a file under a temporary name and renames it, so that nobody sees half of it."""
    with replace_file(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def _voice_path(name: str) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{name!r} cannot name a voice: use letters, digits, '_', '-' and '.'.")
    return Path(VOICES_FOLDER) / f"{name}.safetensors"


__all__ = [
    "default_voice",
    "encode_codes",
    "list_voices",
    "load_voice",
    "load_voice_arrays",
    "read_arrays",
    "read_codes",
    "save_voice",
    "write_bytes",
]
