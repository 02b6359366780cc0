"""The log of a run: one JSON object per line in `log.jsonl`, and the same numbers in Accelerate's trackers."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from ..file_replacement import replace_file
from .arguments import TrainingArguments
from .speaker import SpokenSample

LOG_NAME = "log.jsonl"


class Logbook:
    """Writes on the first process only; elsewhere every method does nothing.

    Args:
        arguments ([`TrainingArguments`]): Trackers and output folder.
        accelerator (`Accelerator`): Owner of the trackers.
        step (`int`): Steps that were done before. Later lines, left by a run that was interrupted after its last
            checkpoint, are cut off, so that the log is that of one uninterrupted run.
        total_steps (`int`): Steps of the whole run.
    """

    def __init__(self, arguments: TrainingArguments, accelerator: Accelerator, step: int, total_steps: int) -> None:
        self._accelerator = accelerator
        self._is_main = accelerator.is_main_process
        self._path = Path(arguments.output_dir) / LOG_NAME
        if self._is_main:
            cut_log(self._path, step)
        if accelerator.log_with:
            settings = {
                name: value for name, value in asdict(arguments).items() if isinstance(value, int | float | str)
            }
            purge = {"tensorboard": {"purge_step": step}} if step else {}
            accelerator.init_trackers(arguments.project, settings, init_kwargs=purge)
        disable = not self._is_main or not sys.stderr.isatty()
        self.progress = tqdm(total=total_steps, initial=step, unit="step", disable=disable, dynamic_ncols=True)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Logs the numbers of `kind`, train or validation, after `step` steps."""
        if not self._is_main:
            return
        with self._path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)
        if self.progress.disable:
            print(f"{kind} step {step}: {summary(values)}", file=sys.stderr, flush=True)
        else:
            self.progress.set_postfix_str(summary(values))

    def write_sample(self, name: str, step: int, sample: SpokenSample, sampling_rate: int) -> None:
        """Shows a sample and its alignment in the trackers that can; first process only."""
        for tracker in self._accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.writer.add_image(f"{name}/alignment", sample.picture, step, dataformats="HWC")
                tracker.writer.add_text(f"{name}/text", sample.text, step)
                if sample.waveform is not None:
                    tracker.writer.add_audio(f"{name}/audio", sample.waveform[None], step, sampling_rate)
            elif hasattr(tracker, "log_images"):
                tracker.log_images({f"{name}/alignment": sample.picture[None]}, step=step)
            if tracker.name == "wandb" and sample.waveform is not None:
                import wandb

                audio = wandb.Audio(sample.waveform.numpy(), sampling_rate, caption=sample.text)
                tracker.run.log({f"{name}/audio": audio}, step=step)

    def close(self) -> None:
        """Ends the progress bar and the trackers."""
        self.progress.close()
        self._accelerator.end_training()


def summary(values: Mapping[str, float]) -> str:
    """The numbers that a person at a terminal looks at."""
    shown = ("loss", "perplexity", "learning_rate", "grad_norm", "frames_per_second", "mfu", "padding")
    return ", ".join(f"{name} {values[name]:.4g}" for name in shown if name in values)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads a log; a last line that a killed run left half written is dropped."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def cut_log(path: Path, step: int) -> None:
    """Drops the lines of later steps than `step`, and a half line at the end."""
    if not path.is_file():
        return
    kept = [entry for entry in read_log(path) if entry["step"] <= step]
    with replace_file(path) as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")


__all__ = ["LOG_NAME", "Logbook", "cut_log", "read_log", "summary"]
