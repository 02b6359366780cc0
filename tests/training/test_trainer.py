"""`transformers.Trainer` with model and collator of this package."""

import pytest
import torch
from training_runs import make_rows
from transformers import Trainer, TrainingArguments

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.data.collator import SmallECollator


@pytest.fixture
def trainer(tmp_path):
    torch.manual_seed(0)
    config = SmallEConfig.from_preset("tiny", hidden_size=32, position_size=16, codebook_size=64)
    processor = SmallEProcessor.from_characters(config=config)
    rows = [{**row, "num_codebooks": 4} for row in make_rows(24)]
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=30,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=3e-3,
        logging_steps=1,
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    return Trainer(
        SmallEForSpeechGeneration(config),
        arguments,
        data_collator=SmallECollator(config, lambda text: processor.tokenizer(text)["input_ids"]),
        train_dataset=rows,
        eval_dataset=rows[:4],
        processing_class=processor,
    )


def test_trainer_learns_saves_and_evaluates(trainer, tmp_path):
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # The accumulated loss is the mean over all labels, as from a model that guesses among 67 ids at the beginning.
    assert losses[0] == pytest.approx(4.2, abs=0.15)
    assert trainer.evaluate()["eval_loss"] < before - 0.7
    trainer.save_model(str(tmp_path / "model"))
    SmallEForSpeechGeneration.from_pretrained(tmp_path / "model")
    SmallEProcessor.from_pretrained(tmp_path / "model")
