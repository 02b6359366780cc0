"""Importing the package is light, and registers its classes whatever is imported first."""

import subprocess
import sys

import pytest

import smalle_hf

REGISTERED = """
from transformers import AutoConfig, AutoModel, AutoModelForTextToWaveform, AutoProcessor
import smalle_hf
config = AutoConfig.for_model("small_e", **smalle_hf.configuration_smalle.PRESETS["tiny"])
assert type(config) is smalle_hf.SmallEConfig
for auto_class in (AutoModel, AutoModelForTextToWaveform):
    assert type(auto_class.from_config(config)) is smalle_hf.SmallEForSpeechGeneration
assert AutoModel._model_mapping[smalle_hf.SmallCodecConfig] is smalle_hf.SmallCodecModel
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
assert PROCESSOR_MAPPING[smalle_hf.SmallEConfig] is smalle_hf.SmallEProcessor
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


def test_importing_the_package_and_its_runtime_imports_neither_torch_nor_transformers() -> None:
    run(
        "import sys, smalle_hf, smalle_hf.onnx\n"
        "assert not {'torch', 'transformers', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
        "assert 'SmallEProcessor' in dir(smalle_hf)"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import smalle_hf",
        "import transformers",
        "from transformers import AutoProcessor, pipeline",
        "from smalle_hf import SmallEProcessor",
        "from smalle_hf.modeling_smalle import SmallEForSpeechGeneration",
        "import smalle_hf.cli.speak",
    ],
)
def test_classes_are_registered_in_any_order_of_imports(first: str) -> None:
    run(f"{first}\n{REGISTERED}")


@pytest.mark.slow
def test_transformers_alone_is_no_reason_to_need_torch() -> None:
    run("import sys; sys.modules['torch'] = None\nimport smalle_hf, transformers")


def test_public_names_are_those_of_their_modules() -> None:
    assert set(smalle_hf.__all__) == set(smalle_hf._MODULES)
    for name in smalle_hf.__all__:
        assert getattr(smalle_hf, name).__name__ == name
    with pytest.raises(AttributeError, match="SmallEModle"):
        _ = smalle_hf.SmallEModle
