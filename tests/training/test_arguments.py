"""Arguments: the YAML file, the command line over it, and what is said about wrong ones."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from smalle_hf.training.arguments import ArgumentsError, TrainingArguments, model_overrides, parse_arguments

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    path for path in (REPOSITORY / "examples" / "configs").glob("*.yaml") if not path.name.startswith("accelerate_")
)
REQUIRED = ["--train_data", "codes", "--output_dir", "run"]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("learning_rate: 1.0e-3\nmodel_options: {hidden_size: 192}\nreport_to: [tensorboard, wandb]\n")
    return path


def test_the_command_line_wins_over_the_file(config):
    arguments = parse_arguments("", [*REQUIRED, "--config", str(config), "--learning-rate", "1e-4", "--ema_decay=0.9"])
    assert arguments.learning_rate == 1e-4
    assert arguments.ema_decay == 0.9
    assert model_overrides(arguments.model_options) == {"hidden_size": 192}
    assert arguments.report_to == ["tensorboard", "wandb"]
    assert arguments.weight_decay == TrainingArguments(train_data="a", output_dir="b").weight_decay


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path):
    arguments = parse_arguments("", [*REQUIRED, "--config", str(path), "--validation_data", "dev"])
    assert set(yaml.safe_load(path.read_text())) <= set(vars(arguments))


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "multi_node"])
def test_shipped_accelerate_configurations_are_read(name):
    path = REPOSITORY / "examples" / "configs" / f"accelerate_{name}.yaml"
    values = yaml.safe_load(path.read_text())
    config = load_config_from_file(str(path))
    assert config.num_processes == values["num_processes"]
    assert config.distributed_type == {"fsdp2": "FSDP"}.get(name, "MULTI_GPU")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning_rte", "1"], "unrecognized arguments: --learning_rte"),
        (["--learning_rate", "fast"], "invalid float value"),
        (["--mixed_precision", "fp4"], "invalid choice"),
        (["--matmul_precision", "low"], "invalid choice"),
        (["--peak_tflops", "0"], "`peak_tflops` must be above 0"),
        (["--max_steps", "0"], "`max_steps` must be at least 1"),
        (["--ema_decay", "1.5"], "`ema_decay` must be at least 0"),
        (["--lora_rank", "4"], "name it with --init_from"),
        (["--validation_data", "a", "--held_out", "4"], "not on both"),
        (["--result_from", "best"], "needs `validation_data`"),
        (["--sample_every", "5"], "needs `sample_texts`"),
        (["--config", "nowhere.yaml"], "Cannot read the configuration nowhere.yaml"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments("", [*REQUIRED, *options])
    errors = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in errors
    assert errors.count("\n") == 1


def test_missing_data_and_misspelt_keys_are_told(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("learning_rat: 1")
    for options, message in (([], "`train_data` is missing"), (["--config", str(config)], "mean `learning_rate`?")):
        with pytest.raises(SystemExit):
            parse_arguments("", options)
        assert message in capsys.readouterr().err


def test_help_shows_examples_and_every_argument(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments("Trains.\n\n    train.py --example", ["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "    train.py --example" in shown
    for name in TrainingArguments.__dataclass_fields__:
        assert f"--{name}" in shown


def test_model_options_are_numbers_lists_or_text():
    assert model_overrides(["hidden_size=8", "delays=[0, 1]", "cross_attention=standard", "dropout=1e-1"]) == {
        "hidden_size": 8,
        "delays": [0, 1],
        "cross_attention": "standard",
        "dropout": 0.1,
    }
    with pytest.raises(ArgumentsError, match="name=value"):
        model_overrides(["hidden_size"])
