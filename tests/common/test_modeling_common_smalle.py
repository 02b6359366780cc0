"""Transformers' own common model tests (`ModelTesterMixin`) on a tiny Small-E.

They come from the source distribution of the installed release: see `fetch_transformers_tests.py`. Many of them skip
themselves, for want of a GPU or of what they test. Those that are skipped here say why.
"""

import importlib
import sys
import types
import unittest
import unittest.mock

import pytest
import torch
from fetch_transformers_tests import tests_folder

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, SmallEModel

if not tests_folder().is_dir():
    pytest.skip(
        "the common tests of this release of Transformers are absent: run tests/common/fetch_transformers_tests.py",
        allow_module_level=True,
    )


# The source distribution leaves out subfolders of `tests`, from which two more mixins are imported. Neither fits: one
# drives `generate` with ids of two dimensions, the other exports models to ONNX and ExecuTorch.
LEFT_OUT = {"generation.test_utils": "GenerationTesterMixin", "exporters.test_export": "ExportTesterMixin"}


def load_common_tests() -> types.ModuleType:
    sys.path.append(str(tests_folder()))
    for module, mixin in LEFT_OUT.items():
        name = f"transformers_tests.{module}"
        package = name.rpartition(".")[0]
        sys.modules[package] = types.ModuleType(package)
        sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[name], mixin, type(mixin, (), {}))
    return importlib.import_module("transformers_tests.test_modeling_common")


common = load_common_tests()


class SmallEModelTester:
    """Sizes and inputs for the mixin, under the attribute names that it looks up."""

    batch_size = 3
    seq_length = 7
    encoder_seq_length = 7
    decoder_seq_length = 11
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 2
    is_training = True

    def get_config(self) -> SmallEConfig:
        return SmallEConfig.from_preset(
            "tiny",
            vocab_size=99,
            hidden_size=self.hidden_size,
            num_audio_encoder_layers=1,
            num_audio_decoder_layers=1,
            num_text_encoder_layers=self.num_hidden_layers,
            num_text_encoder_attention_heads=self.num_attention_heads,
            num_attention_heads=self.num_attention_heads,
            position_size=16,
            codebook_size=32,
            num_codebooks=2,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[SmallEConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        audio_shape = (self.batch_size, self.decoder_seq_length, config.num_codebooks)
        attention_mask = torch.ones(self.batch_size, self.seq_length, dtype=torch.long)
        attention_mask[1:, -2:] = 0
        decoder_attention_mask = torch.ones(self.batch_size, self.decoder_seq_length, dtype=torch.long)
        decoder_attention_mask[1:, -3:] = 0
        return config, {
            "input_ids": torch.randint(3, config.vocab_size, (self.batch_size, self.seq_length)),
            "attention_mask": attention_mask,
            "decoder_input_ids": torch.randint(config.codebook_offset, config.audio_vocab_size, audio_shape),
            "decoder_attention_mask": decoder_attention_mask,
        }


def raise_epsilons(config: SmallEConfig) -> None:
    # Stands in for a helper that sets every name that any model gives its epsilons; `SmallEConfig` refuses those that
    # are almost, but not quite, a name of its own.
    config.layer_norm_eps = config.rms_norm_eps = 1.0


class SmallEModelTest(common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (SmallEForSpeechGeneration, SmallEModel)
    is_encoder_decoder = True
    # The mixin means maps of every layer and a choice of kernels. Here only the cross-attention has maps:
    # `test_cross_attentions` checks them.
    has_attentions = False
    # The mixin reads the year in which a model was added from its copyright line, which these files do not have.
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self) -> None:
        self.model_tester = SmallEModelTester()
        for patch in (
            unittest.mock.patch.object(common, "set_config_for_less_flaky_test", raise_epsilons),
            # Tells the mixin that `SmallEModel` is the model without heads, which has no loss.
            unittest.mock.patch.dict(common.MODEL_MAPPING_NAMES, {SmallEConfig.model_type: "SmallEModel"}),
        ):
            patch.start()
            self.addCleanup(patch.stop)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            inputs["labels"] = inputs["decoder_input_ids"].roll(-1, dims=1)
        return inputs

    @property
    def all_generative_model_classes(self) -> tuple:
        # Audio ids have three dimensions and `generate` returns codes: its own tests are in tests/test_generation*.py.
        return ()

    def test_cross_attentions(self) -> None:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        shape = (self.model_tester.batch_size, 2, self.model_tester.decoder_seq_length, self.model_tester.seq_length)
        model = SmallEForSpeechGeneration._from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            assert model(**inputs).cross_attentions is None
            by_argument = model(**inputs, output_attentions=True).cross_attentions
            model.config.output_attentions = True
            by_config = model(**inputs).cross_attentions
        assert by_argument.shape == shape
        torch.testing.assert_close(by_argument.sum(dim=-1), torch.ones(shape[:-1]))
        torch.testing.assert_close(by_config, by_argument)
