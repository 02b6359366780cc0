"""`examples/train.py`: exact resumption, several processes, divergence, fine-tuning, and a result that speaks."""

import json
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import (
    CODEC,
    FSDP,
    SMALL_RUN,
    TRAIN,
    finish,
    forget_accelerate,
    kill_at,
    load_train,
    logged,
    make_codec,
    start,
    write_cache,
    write_config,
)
from transformers import pipeline

from smalle_hf import SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.training.arguments import TrainingArguments
from smalle_hf.training.checkpoint import checkpoints, remove_checkpoint, step_of


@pytest.fixture(scope="module")
def train():
    return load_train()


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """Folder of a codec, and its description."""
    folder = tmp_path_factory.mktemp("codecs") / "small-codec"
    return folder, make_codec(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory, codec):
    """Arguments that name training and validation data made with the codec."""
    folder = tmp_path_factory.mktemp("caches")
    return {
        "train_data": str(write_cache(folder / "train", 60, 0, codec[1])),
        "validation_data": str(write_cache(folder / "dev", 8, 1, codec[1])),
    }


@pytest.fixture
def run(train, data):
    """Trains in this process; returns the exit code."""

    def call(output, **options):
        forget_accelerate()
        arguments = {**SMALL_RUN, **data, "output_dir": str(output), **options}
        code = train.run_training(TrainingArguments(**arguments))
        forget_accelerate()
        return code

    return call


@pytest.fixture
def failing(train, data, tmp_path, monkeypatch, capsys):
    """Runs the command line; returns exit code and messages."""

    def call(**options):
        forget_accelerate()
        config = write_config(
            tmp_path / "config.yaml", {**SMALL_RUN, **data, "output_dir": str(tmp_path / "run"), **options}
        )
        monkeypatch.setattr("sys.argv", ["train.py", "--config", str(config)])
        capsys.readouterr()
        code = train.main()
        forget_accelerate()
        return code, [line for line in capsys.readouterr().err.splitlines() if "error" in line]

    return call


def weights_of(output):
    return load_file(output / "model" / "model.safetensors")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_exactly(run, data, tmp_path):
    """With dropout, accumulation, weight average and validations, killed at a random step inside an epoch."""
    options = {"max_steps": 24, "gradient_accumulation": 2, "ema_decay": 0.9}
    assert run(tmp_path / "whole", **options) == 0
    output = tmp_path / "killed"
    config = write_config(tmp_path / "config.yaml", {**SMALL_RUN, **data, **options, "output_dir": output})
    process = start(config)
    kill_at(process, output / "log.jsonl", random.randint(4, 16))
    assert step_of(checkpoints(output / "checkpoints")[-1]) < 24
    assert not (output / "model").exists()
    assert run(output, **options) == 0
    assert logged(output) == logged(tmp_path / "whole")
    assert logged(output, "validation") == logged(tmp_path / "whole", "validation")
    assert_same_weights(weights_of(output), weights_of(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_like_one(run, data, tmp_path, kind):
    """Same losses with the same global batch. A checkpoint of two goes on in one, and one of FSDP in FSDP."""
    options = {"max_steps": 8, "model_options": ["hidden_size=32", "position_size=16"], "ema_decay": 0.9}
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(one, **options, gradient_accumulation=2) == 0
    config = write_config(tmp_path / "config.yaml", {**SMALL_RUN, **data, **options, "output_dir": two})
    script = {"ddp": TRAIN, "fsdp2": FSDP}[kind]
    finish(start(config, processes=2, script=script))
    for measured in ("train", "validation"):
        assert logged(two, measured) == pytest.approx(logged(one, measured), abs=1e-4)
    assert logged(two, name="grad_norm") == pytest.approx(logged(one, name="grad_norm"), rel=1e-3)

    *_, last = checkpoints(two / "checkpoints")
    remove_checkpoint(last)
    if kind == "ddp":
        assert run(two, **options, gradient_accumulation=2) == 0
    else:
        finish(start(config, processes=2, script=script))
    assert list(logged(two)) == list(range(1, 9))
    assert logged(two) == pytest.approx(logged(one), abs=1e-4)
    assert logged(two, "validation") == pytest.approx(logged(one, "validation"), abs=1e-4)


@pytest.mark.slow
def test_compiled_layers_train_alike(run, tmp_path):
    options = {"max_steps": 6, "model_options": ["hidden_size=32", "position_size=16"], "text_vocab_size": 64}
    assert run(tmp_path / "eager", **options) == 0
    assert run(tmp_path / "compiled", **options, torch_compile=True) == 0
    assert logged(tmp_path / "compiled") == pytest.approx(logged(tmp_path / "eager"), abs=1e-4)
    assert weights_of(tmp_path / "compiled").keys() == weights_of(tmp_path / "eager").keys()


def test_accumulated_batches_weigh_every_label_alike(train, data, tmp_path):
    """Gradients of 3 batches of different sizes are those of the mean loss over all their labels."""
    forget_accelerate()
    options = {**SMALL_RUN, **data, "model_options": ["hidden_size=32"], "gradient_accumulation": 3}
    arguments = TrainingArguments(**options, output_dir=str(tmp_path / "run"), max_grad_norm=1e9)
    run = train.set_up(arguments, train.start_accelerator(arguments))
    batches = next(run.loader.from_step(0))
    labels = [int((batch["labels"] != -100).sum()) for batch in batches]
    assert len(set(labels)) == 3
    expected = torch.zeros(())
    for batch, count in zip(batches, labels, strict=True):
        inputs = {name: value for name, value in batch.items() if name != "id"}
        expected = expected + run.model(**inputs).loss * count / sum(labels)
    expected.backward()
    gradients = [weight.grad.clone() for weight in run.model.parameters()]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    run.optimizer.zero_grad()
    sums = train.train_step(run, batches)
    assert sums.loss == pytest.approx(expected.item(), rel=1e-5)
    assert sums.grad_norm == pytest.approx(norm, rel=1e-4)
    forget_accelerate()


def test_a_result_speaks_and_says_what_it_is(run, codec, tmp_path, monkeypatch):
    output = tmp_path / "voice"
    monkeypatch.setattr("sys.argv", ["examples/train.py", "--config", "x.yaml"])
    assert run(output, codec=str(codec[0]), sample_every=5, sample_seconds=0.5, report_to=["tensorboard"]) == 0
    for step in (5, 10):
        assert {path.name for path in output.glob(f"samples/step-{step:08d}-*")} == {
            f"step-{step:08d}-{index}.{suffix}" for index in (0, 1) for suffix in ("png", "wav")
        }
    assert list(output.glob("trackers/**/events.*"))
    speech = pipeline("text-to-speech", model=str(output / "model"))("the quick brown fox")
    assert speech["sampling_rate"] == 16000
    assert np.asarray(speech["audio"]).size > 0
    trained = SmallEForSpeechGeneration.from_pretrained(output / "model")
    original = load_file(codec[0] / "model.safetensors")
    assert_same_weights(original, {name: trained.codec_model.state_dict()[name] for name in original})

    card = (output / "model" / "README.md").read_text()
    validation = logged(output, "validation", "perplexity")[10]
    for part in ("| training | 60 |", "CC-BY-4.0", f"{validation:.2f}", "train.py \\\n    --config x.yaml", "# voice"):
        assert part in card, card


def test_a_result_is_uploaded_where_that_is_asked_for(run, tmp_path, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, repo_id, exist_ok):
            calls.append((repo_id, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))

    monkeypatch.setattr("smalle_hf.training.export.HfApi", Hub)
    assert run(tmp_path / "run", max_steps=1, push_to_hub="someone/my-voice") == 0
    assert calls[0] == ("someone/my-voice", True)
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= set(
        calls[1][1]
    )
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert 'model="someone/my-voice"' in card


def test_the_log_holds_what_a_person_wants_to_know(run, tmp_path):
    assert run(tmp_path / "run") == 0
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    train = [entry for entry in entries if entry["kind"] == "train"]
    assert [entry["step"] for entry in train] == list(range(1, 11))
    for name in ("loss", "perplexity", "loss_codebook_3", "perplexity_codebook_0", "grad_norm", "learning_rate"):
        assert np.isfinite([entry[name] for entry in train]).all()
    assert all(entry["frames_per_second"] * 4 == pytest.approx(entry["tokens_per_second"]) for entry in train)
    assert all(0 <= entry["padding"] < 1 for entry in train)
    validation = [entry for entry in entries if entry["kind"] == "validation"]
    assert [entry["step"] for entry in validation] == [4, 8, 10]
    assert validation[-1]["perplexity"] < validation[0]["perplexity"]


@pytest.fixture
def same_matmul_precision():
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("packed", [None, 300])
def test_the_share_of_the_peak_is_logged_where_that_is_known(run, tmp_path, packed, same_matmul_precision, capsys):
    options = {"max_steps": 2, "pack_columns": packed, "matmul_precision": "medium"}
    assert run(tmp_path / "known", **options, peak_tflops=1.0) == 0
    assert torch.get_float32_matmul_precision() == "medium"
    assert capsys.readouterr().err.count(", mfu 0.0") == 2
    assert run(tmp_path / "unknown", **options) == 0
    shares = []
    for name in ("known", "unknown"):
        entries = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        shares += [entry.get("mfu") for entry in entries if entry["kind"] == "train"]
    assert all(0 < share < 1 for share in shares[:2])
    assert shares[2:] == [None, None]


def test_the_best_weights_are_kept_and_exported(run, tmp_path):
    """A learning rate that is too high in the end makes an early validation the best one."""
    output = tmp_path / "run"
    options = {"warmup_steps": 10, "learning_rate": 0.3, "max_loss": 1e9, "validate_every": 1, "keep_last": 1}
    assert run(output, **options, result_from="best") == 0
    losses = logged(output, "validation")
    best = min(losses, key=losses.get)
    assert best < 10
    assert [step_of(path) for path in checkpoints(output / "checkpoints")] == [best, 10]
    expected = load_file(output / "checkpoints" / f"step-{best:08d}" / "model.safetensors")
    assert_same_weights(weights_of(output), expected)


def test_an_exploding_run_stops_and_names_the_batch(failing, data, tmp_path):
    code, (message,) = failing(learning_rate=100.0, warmup_steps=1)
    assert code == 3
    names = json.loads((tmp_path / "run" / "diverged.json").read_text())["ids"]
    assert names
    assert all(name.startswith("utterance-0-") for name in names)
    assert names[0] in message
    assert "lower --learning_rate" in message


def test_a_nan_touches_no_weight(train, data, tmp_path):
    forget_accelerate()
    arguments = TrainingArguments(**{**SMALL_RUN, **data}, output_dir=str(tmp_path / "run"), ema_decay=0.9)
    run = train.set_up(arguments, train.start_accelerator(arguments))
    run.output.mkdir()
    steps = run.loader.from_step(0)
    train.train_step(run, next(steps))
    run.state.step = 1
    with torch.no_grad():
        run.model.lm_heads.weight[0, 0] = float("nan")
    before = [weight.detach().clone() for weight in run.model.parameters()]
    batches = next(steps)
    names = list(batches[0]["id"])
    with pytest.raises(train.DivergedError, match=f"Step 1: loss nan.*{names[0]}"):
        train.train_step(run, batches)
    assert json.loads((run.output / "diverged.json").read_text())["ids"] == names
    for weight, old in zip(run.model.parameters(), before, strict=True):
        assert torch.equal(weight.nan_to_num(), old.nan_to_num())
    forget_accelerate()


def test_only_projections_of_the_language_model_are_tuned_by_lora(run, codec, tmp_path):
    base = tmp_path / "base"
    assert run(base, max_steps=2, codec=str(codec[0])) == 0
    options = {"init_from": str(base / "model"), "lora_rank": 4, "max_steps": 4, "model_options": []}
    assert run(tmp_path / "merged", **options) == 0
    assert run(tmp_path / "adapter", **options, lora_result="adapter") == 0
    old, new = weights_of(base), weights_of(tmp_path / "merged")
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {
        name
        for name in old
        if ".attention." in name and name.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "g_proj", "o_proj")
    }

    from peft import PeftModel

    adapted = PeftModel.from_pretrained(
        SmallEForSpeechGeneration.from_pretrained(base / "model"), tmp_path / "adapter" / "model"
    )
    merged = SmallEForSpeechGeneration.from_pretrained(tmp_path / "merged" / "model")
    inputs = {"input_ids": torch.arange(3, 9)[None], "labels": torch.arange(3, 51).reshape(1, 12, 4)}
    torch.testing.assert_close(adapted.eval()(**inputs).logits, merged(**inputs).logits, rtol=1e-4, atol=1e-5)


def test_fine_tuning_begins_with_the_trained_weights(run, tmp_path):
    base = tmp_path / "base"
    assert run(base, max_steps=10) == 0
    options = {"init_from": str(base / "model"), "model_options": ["dropout=0.0"], "max_steps": 1}
    assert run(tmp_path / "tuned", **options, warmup_steps=1, learning_rate=1e-6) == 0
    assert logged(tmp_path / "tuned", "validation")[1] == pytest.approx(logged(base, "validation")[10], abs=1e-3)
    first, second = (SmallEProcessor.from_pretrained(path / "model") for path in (base, tmp_path / "tuned"))
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()


def test_runs_that_cannot_work_are_refused_in_one_line(failing, codec, tmp_path):
    other = tmp_path / "other-codec"
    make_codec(other, seed=1)
    wide = write_cache(tmp_path / "wide", 8, 0, replace(CODEC, codebook_size=128))
    processor = tmp_path / "processor"
    SmallEProcessor.from_characters("äöü").save_pretrained(processor)
    cases = [
        ({"train_data": tmp_path / "absent"}, "There is no folder"),
        ({"validation_data": wide}, "come from different codecs"),
        ({"codec": other}, "pass the codec that made the codes"),
        ({"codec": tmp_path / "absent" / "codec"}, "absent"),
        ({"processor": processor}, "Mismatched"),
        ({"model_options": ["hidden_size=31"]}, "`hidden_size`"),
        ({"model_options": ["hiden_size=32"]}, "did you mean `hidden_size`"),
        ({"preset": "huge"}, "Unknown preset"),
        ({"frames_per_batch": 10}, "no usable utterance"),
        ({"gradient_accumulation": 100}, "take fewer replicas or more data"),
        ({"init_from": tmp_path / "absent" / "model", "model_options": []}, "absent"),
    ]
    for options, message in cases:
        code, lines = failing(**options)
        assert code == 1, options
        assert len(lines) == 1, lines
        assert message in lines[0]
        assert not (tmp_path / "run").exists(), options


def test_another_run_in_the_same_folder_is_refused(run, failing, tmp_path):
    assert run(tmp_path / "run", max_steps=3) == 0
    for options, message in (
        ({"seed": 1}, "other seed"),
        ({"frames_per_batch": 500}, "other frames_per_batch"),
        ({"model_options": []}, "other model"),
        ({"resume": False}, "--no_resume"),
    ):
        code, (line,) = failing(max_steps=3, **options)
        assert code == 1
        assert message in line


def test_a_signal_ends_a_run_with_a_checkpoint(run, train, tmp_path, monkeypatch):
    steps = []
    step = train.train_step

    def interrupted(run, batches):
        steps.append(run.state.step)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGTERM)
        return step(run, batches)

    monkeypatch.setattr(train, "train_step", interrupted)
    output = tmp_path / "run"
    assert run(output, save_every=100, validate_every=100) == 128 + 15
    assert [step_of(path) for path in checkpoints(output / "checkpoints")] == [5]
    assert run(output, save_every=100, validate_every=100) == 0
    assert steps == list(range(10))
