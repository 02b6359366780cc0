"""The golden tensors, computed with the authors' code: every number that this model gives has to agree with them."""

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smalle_hf import SmallECache, SmallEForSpeechGeneration, apply_delay
from smalle_hf.convert_lina_checkpoint import convert_checkpoint

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture(scope="module", params=["paca_small", "plain_cross_attention"])
def golden(
    request: pytest.FixtureRequest, golden_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SmallEForSpeechGeneration, dict[str, torch.Tensor]]:
    """The converted model, as `from_pretrained` loads it, and the reference's inputs and results."""
    folder = tmp_path_factory.mktemp(request.param)
    convert_checkpoint(golden_dir / f"{request.param}.weights.safetensors", folder)
    return SmallEForSpeechGeneration.from_pretrained(folder), load_file(golden_dir / f"{request.param}.io.safetensors")


def reference_columns(ids: torch.Tensor) -> torch.Tensor:
    """(Q, 1, N) -> (1, N, Q)."""
    return ids.permute(1, 2, 0)


def prompt_columns(model: SmallEForSpeechGeneration, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The forced prefix behind its start column, (1, N, Q)."""
    prompt = reference_columns(tensors["prompt"])
    return torch.cat([torch.full_like(prompt[:, :1], model.config.audio_bos_token_id), prompt], dim=1)


def test_delay_pattern(golden: tuple[SmallEForSpeechGeneration, dict[str, torch.Tensor]]) -> None:
    model, tensors = golden
    assert torch.equal(apply_delay(tensors["codes"].T[None], model.config), tensors["delayed"])


def test_text_encoder_logits_maps_and_loss(golden: tuple[SmallEForSpeechGeneration, dict[str, torch.Tensor]]) -> None:
    model, tensors = golden
    delayed = tensors["delayed"]
    with torch.no_grad():
        output = model(
            input_ids=tensors["text_ids"],
            decoder_input_ids=delayed[:, :-1],
            labels=delayed[:, 1:],
            output_attentions=True,
        )
    torch.testing.assert_close(output.encoder_last_hidden_state, tensors["text_encoder_output"], **TOLERANCE)
    torch.testing.assert_close(output.logits, tensors["logits"], **TOLERANCE)
    torch.testing.assert_close(output.cross_attentions, tensors["attention"], **TOLERANCE)
    torch.testing.assert_close(output.loss, tensors["loss"].squeeze(), **TOLERANCE)


@pytest.mark.parametrize("edges", [[0, 1, 2, 3], [0, 7, 39], [0, 16], [0, 33]], ids=str)
def test_in_chunks(golden: tuple[SmallEForSpeechGeneration, dict[str, torch.Tensor]], edges: list[int]) -> None:
    model, tensors = golden
    columns = tensors["delayed"][:, :-1]
    cache = SmallECache(model.config)
    edges = [*(edge for edge in edges if edge < columns.shape[1]), columns.shape[1]]
    with torch.no_grad():
        pieces = [
            model(
                input_ids=tensors["text_ids"],
                decoder_input_ids=columns[:, begin:end],
                past_key_values=cache,
                output_attentions=True,
            )
            for begin, end in itertools.pairwise(edges)
        ]
    logits = torch.cat([piece.logits for piece in pieces], dim=1)
    torch.testing.assert_close(logits, tensors["logits"], **TOLERANCE)
    maps = torch.cat([piece.cross_attentions for piece in pieces], dim=2)
    torch.testing.assert_close(maps, tensors["attention"], **TOLERANCE)


def test_frame_by_frame(golden: tuple[SmallEForSpeechGeneration, dict[str, torch.Tensor]]) -> None:
    model, tensors = golden
    columns, cache = tensors["delayed"][:, :-1], SmallECache(model.config)
    with torch.no_grad():
        steps = [
            model(input_ids=tensors["text_ids"], decoder_input_ids=columns[:, t : t + 1], past_key_values=cache).logits
            for t in range(columns.shape[1])
        ]
    torch.testing.assert_close(torch.cat(steps, dim=1), tensors["logits"], **TOLERANCE)


def test_in_a_padded_batch(golden: tuple[SmallEForSpeechGeneration, dict[str, torch.Tensor]]) -> None:
    """The reference knew no padding; beside a longer row, its numbers still have to come out."""
    model, tensors = golden
    text, columns = tensors["text_ids"], tensors["delayed"][:, :-1]
    row = torch.nn.functional.pad(text, (3, 2)), torch.nn.functional.pad(columns, (0, 0, 2, 4))
    other = torch.full_like(row[0], 5), torch.full_like(row[1], 7)
    text_mask, column_mask = (torch.ones_like(x[..., 0] if x.ndim == 3 else x) for x in row)
    text_mask[:, :3] = text_mask[:, -2:] = column_mask[:, :2] = column_mask[:, -4:] = 0
    with torch.no_grad():
        logits = model(
            input_ids=torch.cat([other[0], row[0]]),
            attention_mask=torch.cat([torch.ones_like(text_mask), text_mask]),
            decoder_input_ids=torch.cat([other[1], row[1]]),
            decoder_attention_mask=torch.cat([torch.ones_like(column_mask), column_mask]),
        ).logits
    torch.testing.assert_close(logits[1:, 2:-4], tensors["logits"], **TOLERANCE)


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_ids(golden: tuple[SmallEForSpeechGeneration, dict[str, torch.Tensor]], use_cache: bool) -> None:
    model, tensors = golden
    expected = reference_columns(tensors["greedy"])
    output = model.generate(
        tensors["text_ids"],
        do_sample=False,
        enforce_delay_pattern=False,
        max_new_tokens=expected.shape[1] - model.config.max_delay,
        use_cache=use_cache,
    )
    assert torch.equal(output.delayed_ids, expected)


@pytest.mark.parametrize("use_cache", [True, False])
def test_prompted_greedy_ids(
    golden: tuple[SmallEForSpeechGeneration, dict[str, torch.Tensor]], use_cache: bool
) -> None:
    """While the prompt is forced the reference notes what the model would have said; afterwards, what it says."""
    model, tensors = golden
    columns, expected = prompt_columns(model, tensors), reference_columns(tensors["greedy_prompted"])
    forced = columns.shape[1] - 1
    with torch.no_grad():
        would_say = model(input_ids=tensors["text_ids"], decoder_input_ids=columns[:, :-1]).logits.argmax(dim=-1)
    assert torch.equal(would_say, expected[:, :forced])
    output = model.generate(
        tensors["text_ids"],
        decoder_input_ids=columns,
        do_sample=False,
        enforce_delay_pattern=False,
        max_new_tokens=expected.shape[1] - forced - model.config.max_delay,
        use_cache=use_cache,
    )
    assert torch.equal(output.delayed_ids, expected[:, forced:])


@pytest.mark.parametrize("edges", [[0, 5], [0, 1, 2], [0, 17]], ids=str)
def test_prompt_in_chunks_then_greedy_ids_in_pieces(
    golden: tuple[SmallEForSpeechGeneration, dict[str, torch.Tensor]], edges: list[int]
) -> None:
    model, tensors = golden
    columns, expected = prompt_columns(model, tensors), reference_columns(tensors["greedy_prompted"])
    forced = columns.shape[1] - 1
    cache = SmallECache(model.config)
    with torch.no_grad():
        for begin, end in itertools.pairwise(edges):
            model(input_ids=tensors["text_ids"], decoder_input_ids=columns[:, begin:end], past_key_values=cache)
    options = {"do_sample": False, "enforce_delay_pattern": False}
    ids, more = [], {"decoder_input_ids": columns[:, edges[-1] :], "past_key_values": cache}
    remaining = expected.shape[1] - forced - model.config.max_delay
    for frames in (2, remaining - 2):
        output = model.generate(tensors["text_ids"], max_new_tokens=frames, **more, **options)
        ids.append(output.delayed_ids)
        more = {"past_key_values": output.past_key_values}
    assert torch.equal(torch.cat(ids, dim=1), expected[:, forced:])
