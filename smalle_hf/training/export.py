"""The result of a run: one folder with model, processor, codec, generation config and model card."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import HfApi

from .arguments import TrainingArguments
from .corpus import Corpus
from .model_card import RunRecord, write_model_card
from .models import ModelParts, build_model, complete_model

SAMPLES = 2
"""Validation texts that are spoken where no others are given."""


def export_model(
    folder: Path,
    parts: ModelParts,
    arguments: TrainingArguments,
    weights: dict[str, torch.Tensor],
    corpora: Mapping[str, Corpus],
    record: RunRecord,
    card_template: Path,
) -> Path:
    """Writes `folder`, in place of what was there, and uploads it where that was asked for.

    Args:
        folder (`Path`): Folder to write.
        parts ([`ModelParts`]): Configuration, processor and codec.
        arguments ([`TrainingArguments`]): Arguments of the run.
        weights (`dict`): Weights of the trained model by name.
        corpora (mapping): Training and validation data by name.
        record ([`RunRecord`]): Numbers for the model card.
        card_template (`Path`): Template of the model card.

    Returns:
        `folder`.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model = complete_model(parts, arguments, weights)
    num_parameters = sum(w.numel() for name, w in model.named_parameters() if not name.startswith("codec_model."))
    if arguments.lora_rank and arguments.lora_result == "adapter":
        adapted = build_model(parts, arguments)
        adapted.load_state_dict(weights)
        adapted.save_pretrained(temporary)
    else:
        model.to(getattr(torch, arguments.result_dtype)).save_pretrained(temporary)
    parts.processor.save_pretrained(temporary)
    write_model_card(temporary, card_template, arguments, model.config, corpora, record, num_parameters)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    if arguments.push_to_hub is not None:
        api = HfApi()
        api.create_repo(arguments.push_to_hub, exist_ok=True)
        api.upload_folder(repo_id=arguments.push_to_hub, folder_path=folder)
    return folder


def sample_texts(arguments: TrainingArguments, corpora: Mapping[str, Corpus]) -> list[str]:
    """Texts that are spoken during training."""
    return arguments.sample_texts or corpora["validation"].texts()[:SAMPLES]


__all__ = ["export_model", "sample_texts"]
