"""Learning rate, weight decay, weight average and seeds as functions of the step."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

from smalle_hf.training.arguments import TrainingArguments
from smalle_hf.training.optimization import WeightAverage, build_optimizer, learning_rate_at, seed_step


def arguments(**options):
    return TrainingArguments(train_data="codes", output_dir="run", **options)


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    chosen = arguments(learning_rate=1.0, min_learning_rate=0.1, warmup_steps=4)
    rates = [learning_rate_at(step, 24, chosen) for step in range(25)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[14] == pytest.approx(0.55)  # half way down
    assert rates[24] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[4:]))


def test_only_matrices_decay():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    model[0].requires_grad_(True)
    optimizer = build_optimizer(model, arguments(weight_decay=0.1))
    decayed = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert decayed[id(model[0].weight)] == 0.1
    assert {decayed[id(weight)] for weight in (model[0].bias, model[1].weight, model[1].bias)} == {0.0}


def test_frozen_weights_are_left_out():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    trained = [id(weight) for group in build_optimizer(model, arguments()).param_groups for weight in group["params"]]
    assert set(trained) == {id(weight) for weight in model[1].parameters()}


def test_weight_average_follows_its_definition_and_is_put_back():
    model = nn.Linear(2, 2, bias=False)
    average = WeightAverage(model, decay=0.5)
    expected = model.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    present = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, present)


def test_a_seed_belongs_to_a_step_and_a_process():
    def draw(*key):
        seed_step(*key)
        return torch.rand(1).item(), np.random.rand(), random.random()

    assert draw(0, 5, 1) == draw(0, 5, 1)
    drawn = [draw(seed, step, process) for seed in (0, 1) for step in (0, 1, 2) for process in (0, 1)]
    assert len(set(drawn)) == len(drawn)
