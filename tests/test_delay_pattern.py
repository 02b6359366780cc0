"""The delay pattern: what it looks like, that it can be undone, what it refuses."""

import re

import pytest
import torch
from core_models import random_codes, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from smalle_hf import apply_delay, delay_pattern, revert_delay
from smalle_hf.delay_pattern import ids_to_codes

any_delays = st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(lambda delays: 0 in delays)


def picture(text: str) -> list[list[str]]:
    """Cells of the picture in the module's docstring, one list per codebook."""
    rows = re.findall(r"^\s+codebook \d(.*)$", text, flags=re.MULTILINE)
    return [row.split() for row in rows]


def test_matches_the_picture_in_the_docstring() -> None:
    config = small_config(num_codebooks=2)
    frames = {f"f{t}": 10 + t for t in range(3)}
    names = {"bos": config.audio_bos_token_id, "eos": config.audio_eos_token_id}
    names |= {name: code + config.codebook_offset for name, code in frames.items()}
    expected = [[names[cell] for cell in row] for row in picture(delay_pattern.__doc__)]
    assert len(expected) == 2
    codes = torch.tensor(list(frames.values()))[:, None].expand(3, 2)
    assert apply_delay(codes, config).T.tolist() == expected


def test_one_frame_of_four_codebooks() -> None:
    assert apply_delay(torch.tensor([[5, 6, 7, 8]]), small_config()).tolist() == [
        [1, 1, 1, 1],
        [8, 1, 1, 1],
        [2, 9, 1, 1],
        [2, 2, 10, 1],
        [2, 2, 2, 11],
        [2, 2, 2, 2],
    ]


def test_special_ids_and_offset_come_from_the_configuration() -> None:
    config = small_config(
        num_codebooks=2, codebook_offset=7, audio_bos_token_id=5, audio_eos_token_id=6, audio_pad_token_id=4
    )
    assert apply_delay(torch.tensor([[0, 1]]), config).tolist() == [[5, 5], [7, 5], [6, 8], [6, 6]]


@settings(deadline=None)
@given(delays=any_delays, frames=st.integers(0, 12), batch=st.integers(1, 3), seed=st.integers(0, 100))
def test_round_trip(delays: list[int], frames: int, batch: int, seed: int) -> None:
    config = small_config(num_codebooks=len(delays), delays=delays)
    codes = random_codes(config, frames, seed, batch)
    delayed = apply_delay(codes, config)
    assert delayed.shape == (batch, frames + max(delays) + 2, len(delays))
    assert torch.equal(ids_to_codes(revert_delay(delayed, config)[:, :frames], config), codes)
    # What is left behind the last frame are stop ids, which mark the end.
    assert (revert_delay(delayed, config)[:, frames:] == config.audio_eos_token_id).all()


@settings(deadline=None)
@given(delays=any_delays, frames=st.integers(0, 12))
def test_codebook_q_holds_frame_t_minus_1_minus_its_delay(delays: list[int], frames: int) -> None:
    config = small_config(num_codebooks=len(delays), delays=delays)
    codes = random_codes(config, frames)[0]
    delayed = apply_delay(codes, config)
    for column in range(delayed.shape[0]):
        for codebook, delay in enumerate(delays):
            frame = column - 1 - delay
            if frame < 0:
                expected = config.audio_bos_token_id
            elif frame >= frames:
                expected = config.audio_eos_token_id
            else:
                expected = codes[frame, codebook] + config.codebook_offset
            assert delayed[column, codebook] == expected


def test_first_column_is_all_start_and_last_all_stop() -> None:
    config = small_config(delays=[2, 0, 1, 5])
    delayed = apply_delay(random_codes(config, 4)[0], config)
    assert (delayed[0] == config.audio_bos_token_id).all()
    assert (delayed[-1] == config.audio_eos_token_id).all()
    assert (delayed[-2] != config.audio_eos_token_id).any()


def test_revert_begins_anywhere() -> None:
    """Consecutive columns from the middle of an utterance give the frames that they hold wholly."""
    config = small_config()
    codes = random_codes(config, 9)
    delayed = apply_delay(codes, config)
    assert torch.equal(ids_to_codes(revert_delay(delayed[:, 3:10], config), config), codes[:, 3:6])


@pytest.mark.parametrize("columns", [0, 1, 4])
def test_revert_of_too_few_columns_is_empty(columns: int) -> None:
    config = small_config()
    assert revert_delay(torch.ones(2, columns, 4, dtype=torch.long), config).shape == (2, 0, 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_highest_code_of_every_integer_type_survives(dtype: torch.dtype) -> None:
    """255 + 3 does not fit into 8 bits."""
    config = small_config(codebook_size=256)
    codes = torch.full((2, 4), 255).to(dtype)
    delayed = apply_delay(codes, config)
    assert torch.equal(ids_to_codes(revert_delay(delayed, config)[:2], config).long(), codes.long())


def test_input_is_not_changed() -> None:
    config = small_config()
    codes = random_codes(config, 5)
    before = codes.clone()
    revert_delay(apply_delay(codes, config), config)
    assert torch.equal(codes, before)


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (torch.zeros(5, 4), TypeError, r"integer codes, got torch\.float32: encode the audio"),
        (torch.zeros(5, 4, dtype=torch.bool), TypeError, "integer codes"),
        (
            torch.zeros(5, 8, dtype=torch.long),
            ValueError,
            r"got \(5, 8\): transpose it, or keep the first 4 codebooks",
        ),
        (torch.zeros(4, 5, dtype=torch.long), ValueError, "transpose it"),
        (torch.zeros(4, dtype=torch.long), ValueError, "must have shape"),
        (torch.full((5, 4), 30), ValueError, r"0\.\.29, got 30\.\.30"),
        (torch.full((5, 4), -1), ValueError, r"0\.\.29, got -1\.\.-1"),
    ],
)
def test_refuses_what_is_no_codes(codes: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        apply_delay(codes, small_config())
    assert "\n" not in str(caught.value)
