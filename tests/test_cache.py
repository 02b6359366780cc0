"""The state is data: fixed size, copied, cut, joined, moved, saved and loaded like any tensor."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from core_models import assert_close, lively_model, random_codes, random_columns, random_text, small_config
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from smalle_hf import SmallECache, SmallEForSpeechGeneration
from smalle_hf.cache_smalle import state_shapes


@pytest.fixture(params=["paca", "standard"])
def model(request: pytest.FixtureRequest) -> SmallEForSpeechGeneration:
    return lively_model(small_config(cross_attention=request.param))


def tensors_of(cache: SmallECache) -> dict[str, torch.Tensor]:
    """What the state consists of; the text's projection is derived from the text and made anew when absent."""
    named = {f"states.{i}": state for i, state in enumerate(cache.states)}
    named |= {"frame_index": cache.frame_index, "is_finished": cache.is_finished}
    for name in ("last_ids", "last_alignments"):
        if getattr(cache, name) is not None:
            named[name] = getattr(cache, name)
    return named


def assert_equal(found: SmallECache, expected: SmallECache) -> None:
    wanted = tensors_of(expected)
    assert tensors_of(found).keys() == wanted.keys()
    for name, tensor in tensors_of(found).items():
        assert tensor.dtype == wanted[name].dtype
        assert torch.equal(tensor, wanted[name]), name


def spoken(model: SmallEForSpeechGeneration, batch: int = 3, frames: int = 5) -> SmallECache:
    """The state in the middle of an utterance, with everything in it that a state can hold."""
    text = random_text(model.config, 6, batch=batch)
    output = model.generate(text, max_new_tokens=frames, do_sample=False, min_new_tokens=frames)
    assert output.past_key_values.last_ids is not None
    return output.past_key_values


def logits_after(model: SmallEForSpeechGeneration, cache: SmallECache, columns: torch.Tensor) -> torch.Tensor:
    text = random_text(model.config, 6, batch=cache.batch_size)
    with torch.no_grad():
        return model(input_ids=text, decoder_input_ids=columns, past_key_values=cache.clone()).logits


def test_one_state_per_block_and_one_for_the_position_net() -> None:
    paca, standard = state_shapes(small_config()), state_shapes(small_config(cross_attention="standard"))
    assert paca == [(2, 16, 32), (2, 16, 32), (2, 8, 16), (2, 16, 32)]
    assert standard == [(2, 16, 32)] * 3
    assert [tuple(state.shape) for state in SmallECache(small_config(), 5).states] == [(5, *shape) for shape in paca]


def test_the_position_net_is_recurrent() -> None:
    """Were its state left out, a step would forget where in the text it was."""
    model = lively_model()
    cache = SmallECache(model.config)
    text, columns = random_text(model.config, 6), random_columns(model.config, 8)
    with torch.no_grad():
        model(input_ids=text, decoder_input_ids=columns, past_key_values=cache)
    expected = logits_after(model, cache, columns[:, :1])
    cache.states[2] = torch.zeros_like(cache.states[2])
    assert (logits_after(model, cache, columns[:, :1]) - expected).abs().max() > 1e-2


def test_size_does_not_grow(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 6)
    output = model.generate(text, max_new_tokens=10, min_new_tokens=10, do_sample=False)
    expected = output.past_key_values.nbytes
    cache = SmallECache(model.config)
    with torch.no_grad():
        model(input_ids=text, decoder_input_ids=random_columns(model.config, 2000), past_key_values=cache)
    cache.last_ids, cache.last_alignments = output.past_key_values.last_ids, output.past_key_values.last_alignments
    assert cache.get_seq_length() == 2000
    output = model.generate(text, past_key_values=cache, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert output.past_key_values.nbytes == expected
    assert sum(tensor.nbytes for tensor in tensors_of(cache).values()) == expected


def test_a_step_writes_the_new_state_over_the_old_one(model: SmallEForSpeechGeneration) -> None:
    """New memory for all states in every step costs more time than their arithmetic."""
    cache, columns = spoken(model), random_columns(model.config, 1, batch=3)
    old_states, old_values = list(cache.states), [state.clone() for state in cache.states]
    text = random_text(model.config, 6, batch=3)
    model(input_ids=text, decoder_input_ids=columns, past_key_values=cache)  # keeps the old ones for the gradients
    assert all(torch.equal(state, value) for state, value in zip(old_states, old_values, strict=True))
    old_states, old_values = [state.detach() for state in cache.states], [state.clone() for state in cache.states]
    cache.states = list(old_states)
    with torch.no_grad():
        model(input_ids=text, decoder_input_ids=columns, past_key_values=cache)
    assert [state.data_ptr() for state in cache.states] == [state.data_ptr() for state in old_states]
    assert not any(torch.equal(state, value) for state, value in zip(cache.states, old_values, strict=True))


def test_training_runs_a_step_again_from_the_same_state(model: SmallEForSpeechGeneration) -> None:
    """Reentrant checkpointing computes without gradients first, and everything once more in the backward pass."""
    cache, columns, text = (
        spoken(model),
        random_columns(model.config, 1, batch=3),
        random_text(model.config, 6, batch=3),
    )
    model.train()
    gradients = []
    for is_checkpointing in (False, True):
        if is_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": True})
        model.zero_grad()
        model(
            input_ids=text, decoder_input_ids=columns, past_key_values=cache.clone()
        ).logits.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    for found, expected in zip(*gradients, strict=True):
        assert_close(found, expected)


def test_frames_are_counted_without_padding(model: SmallEForSpeechGeneration) -> None:
    cache = SmallECache(model.config, batch_size=2)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    with torch.no_grad():
        model(
            input_ids=random_text(model.config, 6, batch=2),
            decoder_input_ids=random_columns(model.config, 4, batch=2),
            decoder_attention_mask=mask,
            past_key_values=cache,
        )
    assert cache.frame_index.tolist() == [3, 1]
    assert cache.get_seq_length() == 3


def test_save_and_load_in_the_middle_of_an_utterance(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    cache = spoken(model)
    cache.save(tmp_path / "state.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    loaded = SmallECache.load(tmp_path / "state.safetensors", model.config)
    assert_equal(loaded, cache)
    columns = random_columns(model.config, 7, batch=3)
    assert torch.equal(logits_after(model, loaded, columns), logits_after(model, cache, columns))


def test_a_new_state_is_saved_too(tmp_path: Path) -> None:
    config = small_config()
    SmallECache(config, 2).save(str(tmp_path / "new.safetensors"))
    assert_equal(SmallECache.load(str(tmp_path / "new.safetensors"), config), SmallECache(config, 2))


@pytest.mark.parametrize(
    "copy",
    [
        lambda cache: cache.clone(),
        lambda cache: cache.to(cache.device),
        lambda cache: cache[:],
        lambda cache: cache[[0, 1, 2]],
    ],
    ids=["clone", "to", "slice", "list"],
)
def test_copies_share_no_memory(model: SmallEForSpeechGeneration, copy: Callable[[SmallECache], SmallECache]) -> None:
    cache = spoken(model)
    clone = copy(cache)
    assert_equal(clone, cache)
    clone.reset()
    for tensor in tensors_of(clone).values():
        tensor.fill_(1)
    assert_equal(cache, spoken(model))


@pytest.mark.parametrize(
    "rows", [1, -1, [2, 0], slice(0, 2), torch.tensor([1, 1]), torch.tensor([True, False, True])], ids=str
)
def test_rows_are_selected_from_everything(model: SmallEForSpeechGeneration, rows: object) -> None:
    cache = spoken(model)
    expected = torch.arange(3)[rows].reshape(-1).tolist()
    chosen = cache[rows]
    assert chosen.batch_size == len(expected)
    for name, tensor in tensors_of(cache).items():
        assert torch.equal(tensors_of(chosen)[name], torch.stack([tensor[i] for i in expected])), name


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
        (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
        (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
    ],
    ids=["reorder", "repeat", "select"],
)
def test_rows_are_rearranged_in_place(model: SmallEForSpeechGeneration, change: object, rows: list[int]) -> None:
    cache = spoken(model)
    expected = cache[rows]
    assert change(cache) is None
    assert_equal(cache, expected)


def test_reset_gives_a_new_state(model: SmallEForSpeechGeneration) -> None:
    cache = spoken(model)
    cache.reset()
    assert_equal(cache, SmallECache(model.config, 3))


def test_rows_of_a_batch_are_independent(model: SmallEForSpeechGeneration) -> None:
    """A batch put together from states at different frames goes on as each would alone."""
    short, long = spoken(model, 1, frames=2), spoken(model, 1, frames=9)
    both = short.clone()
    both.states = [torch.cat(pair) for pair in zip(short.states, long.states, strict=True)]
    both.frame_index = torch.cat([short.frame_index, long.frame_index])
    both.is_finished = torch.cat([short.is_finished, long.is_finished])
    columns = random_columns(model.config, 6, batch=2)
    found = logits_after(model, both, columns)
    text = random_text(model.config, 6, batch=2)
    for row, cache in enumerate((short, long)):
        with torch.no_grad():
            alone = model(
                input_ids=text[row : row + 1],
                decoder_input_ids=columns[row : row + 1],
                past_key_values=cache.clone(),
            ).logits
        assert_close(found[row : row + 1], alone)


def test_to_moves_every_tensor(model: SmallEForSpeechGeneration) -> None:
    moved = spoken(model).to("meta")
    assert moved.device.type == "meta"
    assert {tensor.device.type for tensor in tensors_of(moved).values()} == {"meta"}


def test_generate_leaves_the_given_state_as_it_is(model: SmallEForSpeechGeneration) -> None:
    cache = spoken(model)
    before = cache.clone()
    model.generate(random_text(model.config, 6, batch=3), past_key_values=cache, max_new_tokens=4)
    assert_equal(cache, before)


def test_length_and_representation(model: SmallEForSpeechGeneration) -> None:
    cache = SmallECache(model.config, 2)
    assert len(cache) == len(cache.states) > 0
    assert cache.is_initialized
    assert "batch_size=2" in repr(cache)


# Errors


def test_damaged_file(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    spoken(model).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"state\.safetensors is damaged or no safetensors file .*save the state again"
    ):
        SmallECache.load(path, model.config)


def test_pickle_is_not_read(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    torch.save({"states.0": torch.zeros(1)}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="no safetensors file"):
        SmallECache.load(tmp_path / "state.pt", model.config)


def test_missing_file(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SmallECache.load(tmp_path / "none.safetensors", model.config)


def test_other_safetensors(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds no Small-E state: pass a file that `SmallECache\.save` wrote"):
        SmallECache.load(tmp_path / "model.safetensors", model.config)


def test_file_that_lacks_a_tensor(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    spoken(model).save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for name in ("frame_index", "states.1"):
        save_file({key: value for key, value in tensors.items() if key != name}, path, metadata=metadata)
        with pytest.raises(ValueError, match="state"):
            SmallECache.load(path, model.config)


@pytest.mark.parametrize("overrides", [{"num_audio_encoder_layers": 1}, {"hidden_size": 64}])
def test_state_of_another_model(model: SmallEForSpeechGeneration, tmp_path: Path, overrides: dict) -> None:
    spoken(model).save(tmp_path / "state.safetensors")
    other = small_config(cross_attention=model.config.cross_attention, **overrides)
    with pytest.raises(ValueError, match="it belongs to another model"):
        SmallECache.load(tmp_path / "state.safetensors", other)


def test_state_of_a_model_with_other_codebooks(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    """The recurrent states fit; the ids that generation kept do not."""
    spoken(model).save(tmp_path / "state.safetensors")
    other = small_config(cross_attention=model.config.cross_attention, num_codebooks=2)
    with pytest.raises(ValueError, match="it belongs to another model"):
        SmallECache.load(tmp_path / "state.safetensors", other)


def test_generate_refuses_the_state_of_another_model() -> None:
    cache = spoken(lively_model())
    other = lively_model(small_config(num_audio_encoder_layers=1))
    with pytest.raises(ValueError, match="it belongs to another model"):
        other.generate(random_text(other.config, 6, batch=3), past_key_values=cache, max_new_tokens=3)


def test_voice_prompt_needs_a_new_state(model: SmallEForSpeechGeneration) -> None:
    with pytest.raises(ValueError, match="A voice prompt begins an utterance"):
        model.generate(
            random_text(model.config, 6, batch=3),
            past_key_values=spoken(model),
            audio_prompt_codes=random_codes(model.config, 4, batch=3),
        )
