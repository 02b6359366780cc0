"""Reading checkpoints of other projects: tensors only, whatever the file holds."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads a `.safetensors` file, or a file that `torch.save` wrote, and unpickles no objects.

    Args:
        path (`str` or `os.PathLike`): The file.

    Returns:
        What it holds by name (nothing if that is no mapping), and the metadata of a safetensors file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file surfaces as almost any error, from whichever layer meets it first
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise ValueError(
            f"{path} is damaged, or holds pickled objects, which are not loaded ({reason}): download it again, or "
            "save its state dict as safetensors."
        ) from error
    return dict(tensors) if isinstance(tensors, Mapping) else {}, metadata


__all__ = ["read_tensors"]
