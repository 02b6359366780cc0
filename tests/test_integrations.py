"""Saving, half precision, PEFT, torch.compile, Trainer conventions: what users of Transformers do with a model."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from core_models import assert_close, lively_model, random_columns, random_text, small_config
from transformers import CompileConfig, GenerationConfig

from smalle_hf import SmallECache, SmallEForSpeechGeneration, SmallEModel

CROSS_ATTENTIONS = ["paca", "standard"]


@pytest.fixture(params=CROSS_ATTENTIONS)
def model(request: pytest.FixtureRequest) -> SmallEForSpeechGeneration:
    return lively_model(small_config(cross_attention=request.param))


def batch_of(model: SmallEForSpeechGeneration, columns: int = 40, batch: int = 2) -> dict[str, torch.Tensor]:
    delayed = random_columns(model.config, columns + 1, batch=batch)
    text = random_text(model.config, 7, batch=batch)
    mask = torch.ones(batch, columns, dtype=torch.long)
    mask[-1, -5:] = 0
    return {
        "input_ids": text,
        "attention_mask": torch.ones_like(text),
        "decoder_input_ids": delayed[:, :-1],
        "decoder_attention_mask": mask,
        "labels": delayed[:, 1:].masked_fill(mask[..., None] == 0, -100),
    }


# Saving


def assert_same_weights(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    wanted = expected.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    for name, tensor in found.state_dict().items():
        assert tensor.dtype == wanted[name].dtype
        assert torch.equal(tensor, wanted[name]), name


@pytest.mark.parametrize("shard_size", ["5GB", "30KB"])
def test_saving_and_loading_is_bit_exact(model: SmallEForSpeechGeneration, tmp_path: Path, shard_size: str) -> None:
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    shards = list(tmp_path.glob("*.safetensors"))
    assert (len(shards) > 1) == (shard_size == "30KB")
    loaded, info = SmallEForSpeechGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert_same_weights(loaded, model)
    batch = batch_of(model)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert (
        loaded.config.to_dict().items()
        >= {"model_type": "small_e", "cross_attention": model.config.cross_attention}.items()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints(model: SmallEForSpeechGeneration, tmp_path: Path, dtype: torch.dtype) -> None:
    model.to(dtype).save_pretrained(tmp_path)
    assert_same_weights(SmallEForSpeechGeneration.from_pretrained(tmp_path, dtype=dtype), model)
    assert SmallEForSpeechGeneration.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_saving_twice_gives_the_same_files(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a")
    SmallEForSpeechGeneration.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_bare_model_loads_from_the_same_folder(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert_same_weights(SmallEModel.from_pretrained(tmp_path), model.model)


def test_weights_that_the_file_lacks_are_initialised(tmp_path: Path) -> None:
    """The initialisation covers every parameter, none is left as memory happens to be."""
    torch.manual_seed(0)
    model = SmallEForSpeechGeneration(small_config())
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif parameter.ndim == 1:
            assert (parameter == 0).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.25), name
            assert abs(parameter.mean().item()) < 0.005, name


def damaged_folder(model: SmallEForSpeechGeneration, path: Path, damage: str) -> Path:
    model.save_pretrained(path)
    file = path / "model.safetensors"
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "text":
        file.write_text("<html>404</html>" * 20)
    elif damage == "pickle":
        torch.save(model.state_dict(), file)
    elif damage == "missing":
        file.unlink()
    elif damage == "only a pickle":
        file.unlink()
        torch.save(model.state_dict(), path / "pytorch_model.bin")
    return path


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "pickle", "missing", "only a pickle"])
def test_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    folder = damaged_folder(lively_model(), tmp_path, damage)
    with pytest.raises((OSError, ValueError)) as caught:
        SmallEForSpeechGeneration.from_pretrained(folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    assert str(tmp_path) in message


def test_pickled_object_in_a_checkpoint_is_never_built(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    lively_model().save_pretrained(tmp_path / "model")
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / "model" / "model.safetensors").unlink(missing_ok=True)
        (tmp_path / "model" / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises((OSError, ValueError)):
            SmallEForSpeechGeneration.from_pretrained(tmp_path / "model")
    assert not (tmp_path / "sprung").exists()


def test_checkpoint_of_another_architecture_says_so(tmp_path: Path) -> None:
    lively_model().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "num_codebooks": 2, "delays": [0, 1]}))
    with pytest.raises((RuntimeError, ValueError), match=r"lm_heads|embed_audio|mismatch"):
        SmallEForSpeechGeneration.from_pretrained(tmp_path)


# Half precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_generates(model: SmallEForSpeechGeneration, dtype: torch.dtype) -> None:
    model.to(dtype)
    text = random_text(model.config, 7, batch=2)
    for options in ({"do_sample": False}, {"do_sample": True, "num_sampled_codebooks": 4, "seed": 0}):
        output = model.generate(
            text, max_new_tokens=40, min_new_tokens=40, output_logits=True, return_alignments=True, **options
        )
        assert output.sequences.shape == (2, 40, 4)
        assert ((output.sequences >= 0) & (output.sequences < model.config.codebook_size)).all()
        assert all(torch.isfinite(logits).all() for logits in output.logits)
        torch.testing.assert_close(output.alignments.sum(dim=-1), torch.ones(2, 40), rtol=0, atol=1e-2)
        assert all(state.dtype == torch.float32 for state in output.past_key_values.states)


# PEFT


LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "g_proj", "o_proj"]


def test_lora_trains_merges_and_generates(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    batch = batch_of(model)
    frozen = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        before = model(**batch)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=LORA_TARGETS, lora_alpha=16))
    with torch.no_grad():
        torch.testing.assert_close(adapted(**batch).logits, before.logits)
    trainable = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    for _ in range(8):
        loss = adapted(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        after = adapted(**batch)
    assert after.loss < before.loss - 0.1
    options = {"input_ids": batch["input_ids"], "max_new_tokens": 8, "do_sample": False}
    spoken = adapted.generate(**options).sequences

    adapted.save_pretrained(tmp_path)
    base = lively_model(model.config)
    again = peft.PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(again.generate(**options).sequences, spoken)

    merged = adapted.merge_and_unload()
    assert isinstance(merged, SmallEForSpeechGeneration)
    assert merged.state_dict().keys() == frozen.keys()
    changed = {name for name, parameter in merged.named_parameters() if not torch.equal(parameter, frozen[name])}
    assert changed == {name for name in frozen if name.rsplit(".", 2)[-2] in LORA_TARGETS and name.endswith("weight")}
    with torch.no_grad():
        assert_close(merged(**batch).logits, after.logits, tolerance=1e-3)
    assert torch.equal(merged.generate(**options).sequences, spoken)


# torch.compile


@pytest.fixture
def compiler() -> Iterator[None]:
    """Leaves no compiled code behind: caches are per process, and limits count over all tests."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def training_results(
    model: SmallEForSpeechGeneration, call: Any, batch: dict
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    model.zero_grad()
    output = call(**batch)
    output.loss.backward()
    return output.loss.detach(), output.logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


def assert_same_training(found: tuple, expected: tuple) -> None:
    assert_close(found[0], expected[0])
    assert_close(found[1], expected[1])
    for name, gradient in found[2].items():
        assert (gradient - expected[2][name]).norm() <= 1e-3 * expected[2][name].norm() + 1e-7, name


def compact_model(cross_attention: str, **overrides: Any) -> SmallEForSpeechGeneration:
    """One layer of each kind: compiling takes time for every one."""
    sizes = {"num_audio_encoder_layers": 1, "num_text_encoder_layers": 1, "num_codebooks": 2}
    return lively_model(small_config(cross_attention=cross_attention, **sizes, **overrides))


def add_segments(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Two utterances packed into each row."""
    num_rows, num_columns = batch["labels"].shape[:2]
    segments = torch.tensor([[1, 1, 1, 2, 2, 2, 2]]).expand(num_rows, -1)
    columns = 1 + (torch.arange(num_columns) >= 17).long()
    return {**batch, "segment_ids": segments, "decoder_segment_ids": columns[None].expand(num_rows, -1)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cross_attention", "packed", "checkpointing"), [("paca", True, False), ("standard", False, True)]
)
def test_compiled_training_step(cross_attention: str, packed: bool, checkpointing: bool, compiler: None) -> None:
    model = compact_model(cross_attention).train()
    batch = batch_of(model)
    if packed:
        batch = add_segments(batch)
    expected = training_results(model, model, batch)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same_training(training_results(model, compiled, batch), expected)


def cached_logits(model: SmallEForSpeechGeneration, call: Any, steps: int) -> tuple[torch.Tensor, SmallECache]:
    """Logits of a prefill of five columns and of single steps, the steps through `call`, and the state after them."""
    text, columns = random_text(model.config, 7, batch=2), random_columns(model.config, steps + 5, batch=2)
    cache = SmallECache(model.config, batch_size=2)
    with torch.no_grad():
        encoded = model.get_encoder()(text)
        arguments = {"encoder_outputs": encoded, "past_key_values": cache, "use_cache": True}
        logits = [model(decoder_input_ids=columns[:, :5], **arguments).logits]
        for t in range(5, steps + 5):
            logits.append(call(decoder_input_ids=columns[:, t : t + 1], **arguments).logits)
    return torch.cat(logits, dim=1), cache


@pytest.mark.parametrize("cross_attention", CROSS_ATTENTIONS)
def test_step_is_compiled_once(cross_attention: str, compiler: None) -> None:
    """One graph serves every step: what changes from step to step is in tensors."""
    model = compact_model(cross_attention)
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list) -> Any:
        graphs.append(graph)
        return graph.forward

    expected, state = cached_logits(model, model, 12)
    found, compiled_state = cached_logits(model, torch.compile(model, fullgraph=True, backend=count), 12)
    assert_close(found, expected)
    assert torch.equal(compiled_state.frame_index, state.frame_index)
    for tensor, wanted in zip(compiled_state.states, state.states, strict=True):
        assert_close(tensor, wanted)
    assert len(graphs) == 1


@pytest.mark.slow
def test_inductor_compiles_the_step(compiler: None) -> None:
    """The default backend writes C++ and needs a compiler; the other tests check the graph."""
    model = compact_model("paca")
    expected, _ = cached_logits(model, model, 4)
    assert_close(cached_logits(model, torch.compile(model, fullgraph=True), 4)[0], expected)


def test_generate_compiles_its_step_where_it_is_told_to(compiler: None) -> None:
    """As it does by itself on CUDA; rows that end make it mask, which is a second graph and no more."""
    model = compact_model("paca")
    with torch.no_grad():
        model.lm_heads.weight[model.config.audio_eos_token_id] *= 3
    text = random_text(model.config, 7, batch=4)
    expected = model.generate(text, max_new_tokens=30, do_sample=False)
    assert len(set(expected.sequence_lengths.tolist())) > 1
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list) -> Any:
        graphs.append(graph)
        return graph.forward

    config = CompileConfig(fullgraph=True, backend=count, mode=None)
    config._compile_all_devices = True
    found = model.generate(text, max_new_tokens=30, do_sample=False, compile_config=config)
    assert torch.equal(found.sequences, expected.sequences)
    assert 1 <= len(graphs) <= 2


# Conventions


def test_trainer_conventions(model: SmallEForSpeechGeneration) -> None:
    """What `transformers.Trainer` looks for."""
    import inspect

    parameters = inspect.signature(model.forward).parameters
    assert "num_items_in_batch" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert model.main_input_name == "input_ids"
    assert model.supports_gradient_checkpointing
    assert model.get_input_embeddings() is model.model.text_encoder.embed_tokens
    assert model.can_generate()


def test_vocabulary_may_grow(model: SmallEForSpeechGeneration) -> None:
    """For a tokenizer with more entries; the old ones keep their rows."""
    old = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(60)
    assert model.config.vocab_size == 60
    assert torch.equal(model.get_input_embeddings().weight[:40], old)
    text = torch.tensor([[1, 59, 2]])
    assert model.generate(text, max_new_tokens=3).sequences.shape == (1, 3, 4)


def test_generation_config_is_saved_with_the_model(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    config = GenerationConfig.from_pretrained(tmp_path)
    assert (config.do_sample, config.top_k, config.temperature) == (True, 100, 1.0)
