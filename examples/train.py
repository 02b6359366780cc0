"""Trains or fine-tunes Small-E on a token cache made by examples/encode_dataset.py.

    accelerate launch examples/train.py --config examples/configs/small_e_64m_librilight.yaml \\
        --train_data codes/train --validation_data codes/dev --codec facebook/encodec_24khz --output_dir runs/64m
    python examples/train.py --config examples/configs/tiny_cpu.yaml --train_data codes --output_dir runs/tiny
    accelerate launch --config_file examples/configs/accelerate_ddp.yaml examples/train.py --config X.yaml --seed 1
    python examples/train.py ... --init_from runs/64m/model --lora_rank 16 --learning_rate 1e-4 --max_steps 2000

Any argument can stand in the YAML file; the command line wins. A run that was stopped goes on from its newest
checkpoint when it is started again, with the same losses and weights as without the interruption. It ends in
OUTPUT_DIR/model, a folder that `pipeline("text-to-speech", model=...)` speaks from; beside it are checkpoints,
samples, log.jsonl and what the trackers write.

Exit codes: 0 done; 1 something is wrong with data or models; 2 wrong arguments; 3 the loss diverged; 128 + N stopped
by signal N, with a checkpoint.
"""

import functools
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import DistributedType, ProjectConfiguration, broadcast_object_list, gather_object
from torch import nn
from transformers.utils.logging import disable_progress_bar

from smalle_hf.data.collator import SmallECollator
from smalle_hf.data.token_cache import TokenCacheError
from smalle_hf.training.arguments import ArgumentsError, TrainingArguments, parse_arguments
from smalle_hf.training.checkpoint import (
    CheckpointError,
    checkpoint_weights,
    checkpoints,
    full_weights,
    load_checkpoint,
    prune_checkpoints,
    read_state,
    save_checkpoint,
)
from smalle_hf.training.corpus import Corpus, StepLoader, open_corpora
from smalle_hf.training.cpu_memory import keep_freed_memory
from smalle_hf.training.export import export_model, sample_texts
from smalle_hf.training.flops import peak_flops
from smalle_hf.training.input_noise import with_noise
from smalle_hf.training.logbook import Logbook
from smalle_hf.training.meter import Batch, Sums, batch_sums, count_labels, gpu_memory, reduce_sums
from smalle_hf.training.model_card import RunRecord
from smalle_hf.training.models import ModelParts, build_model, compile_layers, complete_model, load_parts
from smalle_hf.training.optimization import WeightAverage, build_optimizer, learning_rate_at, seed_step
from smalle_hf.training.speaker import speak
from smalle_hf.training.state import Interruption, RunState
from smalle_hf.training.text_ids import TextIds

CARD_TEMPLATE = Path(__file__).resolve().parents[1] / "model_cards" / "template.md"


class DivergedError(RuntimeError):
    """The loss or the gradient is no number, or far too large. The weights were not touched."""


@dataclass
class Run:
    """Everything that a step works with. `average` and `validation` are optional."""

    arguments: TrainingArguments
    accelerator: Accelerator
    corpora: dict[str, Corpus]
    parts: ModelParts
    loader: StepLoader
    validation: StepLoader | None
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    fingerprint: dict[str, Any]
    state: RunState = field(default_factory=RunState)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.arguments.max_steps or self.arguments.num_epochs * self.loader.steps_per_epoch

    @property
    def peak_flops(self) -> float | None:
        """Operations per second of all devices together, where that is known."""
        peak = peak_flops(self.accelerator.device, self.arguments.peak_tflops)
        return None if peak is None else peak * self.accelerator.num_processes

    @property
    def output(self) -> Path:
        """Folder of the run."""
        return Path(self.arguments.output_dir)

    @property
    def checkpoint_folder(self) -> Path:
        """Folder of its checkpoints."""
        return self.output / "checkpoints"

    def describe(self) -> None:
        """Says on stderr what is about to be trained on what."""
        parameters = sum(weight.numel() for weight in self.model.parameters()) / 1e6
        say = functools.partial(self.accelerator.print, file=sys.stderr)
        for name, corpus in self.corpora.items():
            left_out = "".join(f", {count} left out ({reason})" for reason, count in corpus.left_out.items())
            say(f"{name}: {len(corpus.rows)} utterances, {corpus.hours:.2f} hours{left_out}")
        say(f"model: {parameters:.2f}M parameters, {self.accelerator.num_processes} x {self.accelerator.device}")
        say(f"steps: {self.state.step} of {self.total_steps} done, {self.loader.steps_per_epoch} per epoch")


def train_step(run: Run, batches: Sequence[Batch]) -> Sums:
    """One optimizer step over the batches of this process; returns what all processes measured together.

    Raises:
        DivergedError: Before the weights are touched.
    """
    accelerator, model, step = run.accelerator, run.model, run.state.step
    seed_step(run.arguments.seed, step, accelerator.process_index)
    ids = [batch.pop("id") for batch in batches]
    # Every label weighs the same, whichever batch, process or accumulation step it falls into.
    num_labels = accelerator.reduce(count_labels(batches), reduction="sum")
    measured = []
    for index, batch in enumerate(batches):
        noisy_ids = with_noise(batch["decoder_input_ids"], run.arguments.input_noise, run.parts.config)
        is_last = index == len(batches) - 1
        with nullcontext() if is_last else accelerator.no_sync(model):
            output = model(**{**batch, "decoder_input_ids": noisy_ids}, num_items_in_batch=num_labels)
            # Processes average their gradients, but their losses are already shares of one mean.
            accelerator.backward(output.loss * accelerator.num_processes)
        measured.append(batch_sums(batch, output.codebook_losses))
    grad_norm = accelerator.clip_grad_norm_(model.parameters(), run.arguments.max_grad_norm)
    sums = reduce_sums(accelerator, torch.stack(measured).sum(dim=0), grad_norm)
    stop_if_diverged(run, sums, measured, ids)

    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate_at(step, run.total_steps, run.arguments)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.average is not None:
        run.average.update(step)
    return sums


def stop_if_diverged(run: Run, sums: Sums, measured: Sequence[torch.Tensor], ids: Sequence[list[str]]) -> None:
    """Raises `DivergedError`, naming the utterances of the batches that did it, where a step must not be taken."""
    limit = run.arguments.max_loss or 2 * math.log(run.parts.config.audio_vocab_size)
    if sums.loss <= limit and math.isfinite(sums.grad_norm):
        return
    losses = [Sums.of(values.tolist()).loss for values in measured]
    # Where the gradient alone overflowed, any batch may be the cause.
    bad = ids if sums.loss <= limit else [names for loss, names in zip(losses, ids, strict=True) if not loss <= limit]
    names = gather_object([name for batch in bad for name in batch])
    report = run.output / "diverged.json"
    if run.accelerator.is_main_process:
        found = {"step": run.state.step, "loss": str(sums.loss), "grad_norm": str(sums.grad_norm), "ids": names}
        report.write_text(json.dumps(found, indent=2), encoding="utf-8")
    raise DivergedError(
        f"Step {run.state.step}: loss {sums.loss:.4g} (limit {limit:.4g}), gradient norm {sums.grad_norm:.4g}; the "
        f"weights were not changed. Utterances of the batch: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''} "
        f"(all in {report}). Check them, lower --learning_rate, or raise --max_loss."
    )


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """Loss and perplexity on the validation data, of the averaged weights where there are any."""
    assert run.validation is not None
    run.model.eval()
    measured = []
    with nullcontext() if run.average is None else run.average.applied():
        for (batch,) in run.validation.epoch(0):
            batch.pop("id")
            measured.append(batch_sums(batch, run.model(**batch).codebook_losses))
    run.model.train()
    return reduce_sums(run.accelerator, torch.stack(measured).sum(dim=0), 0.0).losses()


def speak_samples(run: Run, book: Logbook) -> None:
    """Speaks the sample texts with the model as it would be exported now. All processes must call it."""
    weights = full_weights(run.model, run.average)
    if not run.accelerator.is_main_process:
        return
    model = complete_model(run.parts, run.arguments, weights).to(run.accelerator.device)
    for index, text in enumerate(sample_texts(run.arguments, run.corpora)):
        stem = run.output / "samples" / f"step-{run.state.step:08d}-{index}"
        sample = speak(model, run.parts.processor, text, run.arguments.sample_seconds, stem, run.arguments.seed)
        book.write_sample(f"sample_{index}", run.state.step, sample, model.config.sampling_rate)


def save(run: Run) -> None:
    """Writes a checkpoint and deletes those that are no longer wanted. All processes must call it."""
    raw_optimizer = getattr(run.optimizer, "optimizer", run.optimizer)
    is_main = run.accelerator.is_main_process
    state = run.state.to_json(run.fingerprint)
    save_checkpoint(run.checkpoint_folder, state, run.model, raw_optimizer, run.average, is_main)
    if is_main:
        prune_checkpoints(run.checkpoint_folder, run.arguments.keep_last, run.state.best_step)
    run.accelerator.wait_for_everyone()


def train(run: Run, book: Logbook, interruption: Interruption) -> int:
    """Trains to the last step. Returns 0, or the signal that stopped the run."""
    arguments, state = run.arguments, run.state
    run.model.train()
    started = time.perf_counter()
    for batches in run.loader.from_step(state.step):
        if state.step >= run.total_steps:
            break
        sums = train_step(run, batches)
        state.take(sums, time.perf_counter() - started)
        book.progress.update()
        is_end = state.step == run.total_steps

        if is_end or state.step % arguments.log_every == 0:
            learning_rate = run.optimizer.param_groups[0]["lr"]
            values = state.close_window(run.parts.config, run.peak_flops)
            state.training = {**values, "learning_rate": learning_rate, **gpu_memory()}
            book.write("train", state.step, state.training)
        is_best = False
        if run.validation is not None and (is_end or state.step % arguments.validate_every == 0):
            is_best = state.take_validation(validate(run))
            book.write("validation", state.step, state.validation)
        if arguments.sample_every and (is_end or state.step % arguments.sample_every == 0):
            speak_samples(run, book)
        stopped_by = interruption.agreed(run.accelerator)
        if is_end or is_best or stopped_by or state.step % arguments.save_every == 0:
            save(run)
        if stopped_by:
            return stopped_by
        started = time.perf_counter()
    return 0


def set_up(arguments: TrainingArguments, accelerator: Accelerator) -> Run:
    """Opens the data, checks that everything fits together, and builds what a run works with."""
    with accelerator.local_main_process_first():
        corpora = open_corpora(arguments)
    parts = load_parts(arguments, corpora["training"])
    text_ids = TextIds(parts.processor)
    collator = SmallECollator(
        parts.config, text_ids, arguments.pack_columns, arguments.pad_to_multiple_of, return_ids=True
    )
    loader = StepLoader(corpora["training"], collator, accelerator, arguments, arguments.gradient_accumulation)
    validation = None
    if "validation" in corpora:
        validation = StepLoader(corpora["validation"], collator, accelerator, arguments, 1)
    model = build_model(parts, arguments)
    if arguments.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if arguments.torch_compile:
        compile_layers(model, accelerator.device)
    model, optimizer = accelerator.prepare(model, build_optimizer(model, arguments))
    average = WeightAverage(model, arguments.ema_decay) if arguments.ema_decay else None
    fingerprint = {
        "training data": corpora["training"].fingerprint(),
        "batches per step": accelerator.num_processes * arguments.gradient_accumulation,
        "model": parts.fingerprint(),
        **{name: getattr(arguments, name) for name in ("frames_per_batch", "num_buckets", "seed", "lora_rank")},
        "ema_decay": bool(arguments.ema_decay),
    }
    return Run(arguments, accelerator, corpora, parts, loader, validation, model, optimizer, average, fingerprint)


def resume(run: Run) -> None:
    """Goes on from the newest checkpoint, if there is one. All processes must call it.

    Raises:
        ArgumentsError: There is one, but the run shall begin anew, or it had other data or sizes.
    """
    is_main = run.accelerator.is_main_process
    found = checkpoints(run.checkpoint_folder)[-1:] if is_main else []
    # Processes on other machines may not see the folder.
    newest = broadcast_object_list([[(path, read_state(path)) for path in found]])[0]
    for path, values in newest:
        if not run.arguments.resume:
            raise ArgumentsError(
                f"{run.output} holds checkpoints: leave out --no_resume or choose another --output_dir."
            )
        run.state = RunState.from_json(values, run.fingerprint)
        raw_optimizer = getattr(run.optimizer, "optimizer", run.optimizer)
        load_checkpoint(path, run.model, raw_optimizer, run.average, is_main)
    if is_main:
        run.output.mkdir(parents=True, exist_ok=True)
    run.accelerator.wait_for_everyone()


def export(run: Run) -> None:
    """Writes the folder that speaks. All processes must call it."""
    weights = full_weights(run.model, run.average)
    if not run.accelerator.is_main_process:
        return
    numbers = run.state.validation
    best_step = run.state.best_step
    if run.arguments.result_from == "best" and best_step not in (None, run.state.step):
        weights = checkpoint_weights(run.checkpoint_folder, best_step)
        numbers = run.state.best
    record = RunRecord(
        steps=int(numbers.get("step", run.state.step)),
        steps_per_epoch=run.loader.steps_per_epoch,
        seconds=run.state.seconds,
        processes=run.accelerator.num_processes,
        training=run.state.training,
        validation=numbers or None,
    )
    folder = export_model(run.output / "model", run.parts, run.arguments, weights, run.corpora, record, CARD_TEMPLATE)
    print(f"{folder}: done after {run.state.step} steps.", file=sys.stderr)


def start_accelerator(arguments: TrainingArguments) -> Accelerator:
    """Joins the other processes, as `accelerate launch` or `torchrun` started them.

    Raises:
        ArgumentsError: They were asked for what this machine cannot do, which Accelerate leaves out without a word.
    """
    accelerator = Accelerator(
        # Without this, processes on a machine without a GPU would not find each other.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=arguments.mixed_precision,
        log_with=arguments.trackers or None,
        project_config=ProjectConfiguration(arguments.output_dir, str(Path(arguments.output_dir) / "trackers")),
        dataloader_config=DataLoaderConfiguration(even_batches=False),
        rng_types=[],
    )
    asked_for_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked_for_fsdp and accelerator.distributed_type != DistributedType.FSDP:
        raise ArgumentsError("FSDP needs several processes with a GPU each: launch with DDP instead.")
    return accelerator


def run_training(arguments: TrainingArguments) -> int:
    """Everything from the arguments to the exported folder; returns the exit code."""
    accelerator = start_accelerator(arguments)
    torch.set_float32_matmul_precision(arguments.matmul_precision)
    if not sys.stderr.isatty():
        disable_progress_bar()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    run = set_up(arguments, accelerator)
    resume(run)
    run.describe()
    interruption = Interruption()
    book = Logbook(arguments, accelerator, run.state.step, run.total_steps)
    try:
        stopped_by = train(run, book, interruption)
        if stopped_by:
            accelerator.print(f"Stopped at step {run.state.step}; start it again to go on.", file=sys.stderr)
            return 128 + stopped_by
        export(run)
        return 0
    finally:
        interruption.close()
        book.close()


def main() -> int:
    """Command line; returns the exit code."""
    arguments = parse_arguments(__doc__ or "")
    try:
        return run_training(arguments)
    except (ArgumentsError, TokenCacheError, CheckpointError, DivergedError) as error:
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"train.py: error: {error}", file=sys.stderr)
        return 3 if isinstance(error, DivergedError) else 1


if __name__ == "__main__":
    sys.exit(main())
