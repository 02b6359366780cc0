"""Fills in the model card of an exported folder from what the run knows about itself."""

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData

from .. import __version__
from ..configuration_smalle import SmallEConfig
from ..file_replacement import replace_file
from .arguments import TrainingArguments
from .corpus import Corpus


@dataclass(frozen=True)
class RunRecord:
    """What a finished run is described by.

    Args:
        steps (`int`): Optimizer steps of the exported weights.
        steps_per_epoch (`int`): Steps of one pass over the data.
        seconds (`float`): Time spent training, over all resumed parts.
        processes (`int`): Processes that trained.
        training (mapping): Last numbers that were logged.
        validation (mapping, *optional*): Numbers of the validation of the exported weights, and its `step`.
    """

    steps: int
    steps_per_epoch: int
    seconds: float
    processes: int
    training: Mapping[str, float]
    validation: Mapping[str, float] | None


def write_model_card(
    folder: Path,
    template: Path,
    arguments: TrainingArguments,
    config: SmallEConfig,
    corpora: Mapping[str, Corpus],
    record: RunRecord,
    num_parameters: int,
) -> None:
    """Writes `folder/README.md`.

    Args:
        folder (`Path`): The exported folder.
        template (`Path`): Jinja template of the card, `model_cards/template.md` of the repository.
        arguments ([`TrainingArguments`]): Arguments of the run.
        config ([`SmallEConfig`]): Configuration of the exported model.
        corpora (mapping): Training and validation data by name.
        record ([`RunRecord`]): Numbers.
        num_parameters (`int`): Weights of the model, without the codec.
    """
    languages, licences = _values(corpora, "language"), _values(corpora, "licence")
    licence = arguments.licence or (licences[0].lower() if len(licences) == 1 else None)
    name = (arguments.push_to_hub or Path(arguments.output_dir).resolve().name).rpartition("/")[2]
    card_data = ModelCardData(
        language=languages or None,
        license=licence,
        library_name="transformers",
        pipeline_tag="text-to-speech",
        tags=["text-to-speech", "small-e", "linear-attention"],
    )
    fields: dict[str, Any] = {
        "name": name,
        "repository": arguments.push_to_hub or f"{name}/model",
        "parameters": f"{num_parameters / 1e6:.1f}M",
        "config": config,
        "codec": config.codec_config is not None,
        "codec_info": corpora["training"].codec,
        "init_from": arguments.init_from,
        "data": [_split_row(split, corpus) for split, corpus in corpora.items()],
        "languages": languages,
        "licences": licences,
        **_run_fields(record),
    }
    card = ModelCard.from_template(card_data, template_str=template.read_text(encoding="utf-8"), **fields)
    with replace_file(folder / "README.md") as temporary:
        temporary.write_text(card.content, encoding="utf-8")


def _split_row(split: str, corpus: Corpus) -> dict[str, Any]:
    speakers = len(corpus.counts("speaker"))
    return {"split": split, "utterances": len(corpus.rows), "hours": corpus.hours, "speakers": speakers}


def _run_fields(record: RunRecord) -> dict[str, Any]:
    return {
        "steps": record.steps,
        "epochs": record.steps / record.steps_per_epoch,
        "processes": record.processes,
        "machine": machine_name(),
        "hours_spent": record.seconds / 3600,
        "versions": {
            "smalle_hf": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "command": command_line(sys.argv),
        "validation": record.validation,
        "training": record.training,
    }


def _values(corpora: Mapping[str, Corpus], column: str) -> list[str]:
    return sorted({value for corpus in corpora.values() for value in corpus.counts(column)})


def machine_name() -> str:
    """The GPU, or the processor's architecture where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU ({torch.get_num_threads()} threads)"


def command_line(words: Sequence[str]) -> str:
    """The command as a person would type it, one option to a line; the home folder is not told."""
    lines = [f"accelerate launch {Path(words[0]).name}"]
    for word in words[1:]:
        quoted = shlex.quote(word.replace(str(Path.home()), "~") if str(Path.home()) != "/" else word)
        if word.startswith("--") or len(lines) == 1:
            lines.append(quoted)
        else:
            lines[-1] += f" {quoted}"
    return " \\\n    ".join(lines)


__all__ = ["RunRecord", "machine_name", "write_model_card"]
