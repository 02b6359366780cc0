"""Checkpoints: exact, whole or not at all, and the right ones kept."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration
from smalle_hf.training import checkpoint
from smalle_hf.training.arguments import TrainingArguments
from smalle_hf.training.checkpoint import (
    CheckpointError,
    checkpoint_weights,
    checkpoints,
    load_checkpoint,
    prune_checkpoints,
    read_state,
    save_checkpoint,
    step_of,
)
from smalle_hf.training.optimization import WeightAverage, build_optimizer, seed_step

ARGUMENTS = TrainingArguments(train_data="codes", output_dir="run", learning_rate=1e-2)


class Trainee:
    """A tiny model in training, with dropout."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        config = SmallEConfig.from_preset("tiny", hidden_size=32, position_size=16, dropout=0.2, codebook_size=16)
        self.model = SmallEForSpeechGeneration(config).train()
        self.optimizer = build_optimizer(self.model, ARGUMENTS)
        self.average = WeightAverage(self.model, 0.9)

    def train(self, first, last):
        for step in range(first, last):
            seed_step(0, step, 0)
            labels, text = torch.randint(3, 19, (2, 9, 4)), torch.randint(3, 99, (2, 5))
            self.model(input_ids=text, labels=labels).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.average.update(step)

    def save(self, folder, step, **state):
        save_checkpoint(folder, {"step": step, **state}, self.model, self.optimizer, self.average, True)

    def load(self, path):
        load_checkpoint(path, self.model, self.optimizer, self.average, True)

    def tensors(self):
        moments = [
            value for group in self.optimizer.state.values() for value in group.values() if torch.is_tensor(value)
        ]
        return [*self.model.state_dict().values(), *moments, *self.average._averages]


def test_training_goes_on_exactly(tmp_path):
    trainee, resumed = Trainee(0), Trainee(1)
    trainee.train(0, 3)
    trainee.save(tmp_path, 3, loss=0.1 + 0.2)
    trainee.train(3, 6)
    (path,) = checkpoints(tmp_path)
    assert read_state(path) == {"step": 3, "loss": 0.1 + 0.2}
    resumed.load(path)
    resumed.train(3, 6)
    assert all(torch.equal(a, b) for a, b in zip(trainee.tensors(), resumed.tensors(), strict=True))


def test_nothing_is_pickled(tmp_path):
    trainee = Trainee(0)
    trainee.train(0, 1)
    trainee.save(tmp_path, 1)
    assert {path.name for path in checkpoints(tmp_path)[0].iterdir()} == {
        "average.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }


class Killed(BaseException):
    """The process ends here."""


def die_after(monkeypatch, calls):
    """Lets so many operations on files happen, then ends the process."""
    left = iter([None] * calls)

    def counted(operation):
        def call(*args, **kwargs):
            if next(left, "none") == "none":
                raise Killed
            return operation(*args, **kwargs)

        return call

    monkeypatch.setattr(checkpoint, "save_file", counted(checkpoint.save_file))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    for name in ("rename", "write_text", "mkdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))


def test_a_kill_at_any_moment_leaves_a_usable_checkpoint(tmp_path):
    """Saves step 2 and deletes step 1, ending after 0, 1, 2, ... operations on files."""
    folder = tmp_path / "checkpoints"
    trainee = Trainee(0)
    trainee.train(0, 1)
    found = set()
    for calls in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        trainee.save(folder, 1)
        with pytest.MonkeyPatch.context() as monkeypatch:
            die_after(monkeypatch, calls)
            try:
                trainee.save(folder, 2)
                prune_checkpoints(folder, 1, None)
                is_killed = False
            except Killed:
                is_killed = True
        newest = checkpoints(folder)[-1]
        found.add(step_of(newest))
        assert read_state(newest)["step"] == step_of(newest)
        Trainee(1).load(newest)
        if not is_killed:
            break
        # The next save after the restart clears away what was left.
        trainee.save(folder, 3)
        prune_checkpoints(folder, 1, None)
        assert [path.name for path in folder.iterdir()] == ["step-00000003"]
    assert not is_killed
    assert calls > 10
    assert found == {1, 2}
    assert [path.name for path in folder.iterdir()] == ["step-00000002"]


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step in range(1, 7):
        (tmp_path / f"step-{step:08d}").mkdir()
    prune_checkpoints(tmp_path, 2, best_step=3)
    assert [step_of(path) for path in checkpoints(tmp_path)] == [3, 5, 6]


def test_averaged_weights_are_exported_where_there_are_any(tmp_path):
    trainee = Trainee(0)
    trainee.train(0, 4)
    trainee.save(tmp_path, 4)
    with trainee.average.applied():
        averaged = {name: weight.clone() for name, weight in trainee.model.state_dict().items()}
    stored = checkpoint_weights(tmp_path, 4)
    assert all(torch.equal(stored[name], weight) for name, weight in averaged.items())
    (tmp_path / "step-00000004" / "average.safetensors").unlink()
    stored = checkpoint_weights(tmp_path, 4)
    assert all(torch.equal(stored[name], weight) for name, weight in trainee.model.state_dict().items())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damage_is_told(tmp_path, name):
    trainee = Trainee(0)
    trainee.train(0, 1)
    trainee.save(tmp_path, 1)
    (path,) = checkpoints(tmp_path)
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])
    read = read_state if name == "state.json" else trainee.load
    with pytest.raises(CheckpointError, match="damaged"):
        read(path)
