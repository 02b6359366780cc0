"""Checkpoints of a run: written whole or not at all, without pickle, readable with any number of processes.

    step-00001000/model.safetensors        weights by name
                  average.safetensors      their moving average, if there is one
                  optimizer.safetensors    AdamW's moments and step count, as `weight name | moment`
                  state.json               step, best validation, what is being logged, fingerprint of the data

A folder gets its name once everything in it is on the disk: whatever else lies beside such folders was interrupted and
is ignored.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from .optimization import WeightAverage

NAME = re.compile(r"step-(\d{8,})")
SEPARATOR = " | "
GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or belongs to another run."""


def full_weights(model: nn.Module, average: WeightAverage | None = None) -> dict[str, torch.Tensor]:
    """Gathers all weights, or their average, on the CPU of the first process; empty on the others.

    All processes must call it.
    """
    with nullcontext() if average is None else average.applied():
        weights: Any = get_model_state_dict(model, options=GATHERED)
        # On one process the tensors are the model's own, which the average leaves again.
        return weights if average is None else {name: weight.clone() for name, weight in weights.items()}


def save_checkpoint(
    folder: Path,
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    is_main_process: bool,
) -> None:
    """Writes `folder/step-N`. All processes must call it; the first one writes.

    Args:
        folder (`Path`): Folder of all checkpoints.
        state (mapping): What goes into `state.json`; `state["step"]` is N.
        model (`nn.Module`): Prepared model.
        optimizer (`torch.optim.Optimizer`): Its optimizer, without Accelerate's wrapper.
        average ([`WeightAverage`], *optional*): Average of the weights.
        is_main_process (`bool`): Whether this is the first process.
    """
    tensors = {"model": full_weights(model), "optimizer": _flat_moments(model, optimizer)}
    if average is not None:
        tensors["average"] = full_weights(model, average)
    if not is_main_process:
        return
    target = checkpoint_path(folder, state["step"])
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, content in tensors.items():
        save_file({key: tensor.contiguous() for key, tensor in content.items()}, temporary / f"{name}.safetensors")
    (temporary / "state.json").write_text(json.dumps(dict(state), indent=2), encoding="utf-8")
    for path in [*temporary.iterdir(), temporary]:
        _flush_to_disk(path)
    if target.exists():
        remove_checkpoint(target)
    temporary.rename(target)
    _flush_to_disk(folder)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    is_main_process: bool,
) -> None:
    """Reads a checkpoint into model, optimizer and average. All processes must call it; the first one reads.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    if average is not None:
        load_weights(path / "average.safetensors", model, is_main_process)
        average.restart()
    load_weights(path / "model.safetensors", model, is_main_process)
    moments: dict[str, Any] = {}
    for key, tensor in (_read(path / "optimizer.safetensors") if is_main_process else {}).items():
        name, _, moment = key.partition(SEPARATOR)
        moments.setdefault(name, {})[moment] = tensor
    groups = get_optimizer_state_dict(model, optimizer)["param_groups"]
    set_optimizer_state_dict(
        model, optimizer, optim_state_dict={"state": moments, "param_groups": groups}, options=_scattered()
    )


def load_weights(path: Path, model: nn.Module, is_main_process: bool) -> None:
    """Reads weights into a prepared model. All processes must call it; the first one reads."""
    weights: dict[str, Any] = {**_read(path)} if is_main_process else {}
    set_model_state_dict(model, weights, options=_scattered())


def checkpoint_weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights that the checkpoint of a step would be exported with: averaged ones where there are any."""
    path = checkpoint_path(folder, step)
    averaged = path / "average.safetensors"
    return _read(averaged if averaged.is_file() else path / "model.safetensors")


def read_state(path: Path) -> dict[str, Any]:
    """Returns what [`save_checkpoint`] was given as `state`."""
    try:
        return json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: delete it to go on from the one before.") from error


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, the oldest first."""
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step that a checkpoint's name tells."""
    return int(path.name.removeprefix("step-"))


def remove_checkpoint(path: Path) -> None:
    """Deletes a checkpoint; renamed first, so that no half of it is taken for a whole one."""
    doomed = path.with_name(f".{path.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def prune_checkpoints(folder: Path, keep_last: int, best_step: int | None) -> None:
    """Deletes all but the newest checkpoints and the best one, and what interrupted runs left behind."""
    for path in checkpoints(folder)[:-keep_last]:
        if step_of(path) != best_step:
            remove_checkpoint(path)
    for path in folder.glob(".step-*"):
        shutil.rmtree(path)


def _scattered() -> StateDictOptions:
    return StateDictOptions(full_state_dict=True, broadcast_from_rank0=torch.distributed.is_initialized())


def _flat_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    moments: Any = get_optimizer_state_dict(model, optimizer, options=GATHERED).get("state", {})
    return {
        f"{name}{SEPARATOR}{moment}": torch.as_tensor(value)
        for name, of_weight in moments.items()
        for moment, value in of_weight.items()
    }


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or missing: delete its folder to go on from another one.") from error


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = [
    "CheckpointError",
    "checkpoint_path",
    "checkpoint_weights",
    "checkpoints",
    "full_weights",
    "load_checkpoint",
    "load_weights",
    "prune_checkpoints",
    "read_state",
    "save_checkpoint",
    "step_of",
]
