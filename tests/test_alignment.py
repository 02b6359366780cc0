"""What an alignment tells, on paths whose answer is known, and on any path at all."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from smalle_hf.alignment import (
    analyze_alignment,
    expected_positions,
    map_tokens_to_words,
    plot_alignment,
    split_words,
    token_times,
    word_times,
    words_with,
)

FRAMES_PER_TOKEN = 6


def aligned(tokens: list[int], num_tokens: int, frames_per_token: int = FRAMES_PER_TOKEN) -> torch.Tensor:
    """Alignment `(1, T, S)` that rests on each of `tokens` for some frames."""
    path = torch.tensor(tokens).repeat_interleave(frames_per_token)
    return functional.one_hot(path, num_tokens).float()[None]


def marked(mask: torch.Tensor) -> list[int]:
    return mask[0].nonzero().flatten().tolist()


def test_a_diagonal_is_monotonic_complete_and_ends_at_the_last_token():
    report = analyze_alignment(aligned(list(range(10)), 10))
    assert report.backward_total.item() == report.backward_max.item() == 0.0
    assert report.completeness.item() == 1.0
    assert not report.skipped.any()
    assert not report.repeated.any()
    assert not report.unfinished.any()
    assert report.skipped_runs.item() == report.repeated_runs.item() == 0
    assert report.ends_at_last_token.item()
    assert report.positions[0, ::FRAMES_PER_TOKEN].tolist() == list(range(10))


def test_one_frame_per_token_is_a_diagonal_too():
    report = analyze_alignment(aligned(list(range(12)), 12, frames_per_token=1))
    assert report.path[0].tolist() == list(range(12))
    assert report.completeness.item() == 1.0


def test_a_skip_is_the_tokens_jumped_over():
    report = analyze_alignment(aligned([0, 1, 2, 6, 7, 8], 9))
    assert marked(report.skipped) == [3, 4, 5]
    assert report.skipped_runs.item() == 1
    assert report.completeness.item() == pytest.approx(6 / 9)
    assert not report.repeated.any()
    assert report.ends_at_last_token.item()


def test_a_repeat_is_the_tokens_visited_twice():
    report = analyze_alignment(aligned([0, 1, 2, 3, 4, 2, 3, 4, 5, 6], 7))
    assert marked(report.repeated) == [2, 3, 4]
    assert report.repeated_runs.item() == 1
    assert report.backward_max.item() == report.backward_total.item() == 2.0
    assert not report.skipped.any()


def test_a_loop_counts_its_total_movement_and_one_run_per_place():
    report = analyze_alignment(aligned([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3], 8))
    assert marked(report.repeated) == [0, 1, 2, 3]
    assert report.backward_total.item() == 6.0
    assert report.backward_max.item() == 3.0
    assert marked(report.unfinished) == [4, 5, 6, 7]
    assert not report.ends_at_last_token.item()


def test_stopping_early_is_not_a_skip():
    report = analyze_alignment(aligned([0, 1, 2, 3], 8))
    assert marked(report.unfinished) == [4, 5, 6, 7]
    assert not report.skipped.any()
    assert not report.ends_at_last_token.item()
    assert report.completeness.item() == 0.5


def test_short_glitches_of_the_path_are_no_repeats():
    alignment = aligned(list(range(10)), 10)
    alignment[0, 20] = functional.one_hot(torch.tensor(0), 10)
    alignment[0, 40] = functional.one_hot(torch.tensor(9), 10)
    assert not analyze_alignment(alignment).repeated.any()
    assert analyze_alignment(alignment, median_window=1).repeated.any()


def test_a_wide_alignment_is_read_like_a_sharp_one():
    centers = torch.arange(20).repeat_interleave(FRAMES_PER_TOKEN)[:, None].float()
    wide = (-((centers - torch.arange(20)) ** 2) / 18).softmax(dim=-1)[None]
    assert wide.amax() < 0.25
    report = analyze_alignment(wide)
    assert report.completeness.item() == 1.0
    assert not report.repeated.any()
    kept = torch.cat([wide[:, :30], wide[:, 90:]], dim=1)
    assert analyze_alignment(kept).skipped_runs.item() == 1


def test_tokens_that_need_not_be_spoken_are_not_missed():
    required = torch.tensor([False, True, True, False, True, True, False])
    report = analyze_alignment(aligned([1, 2, 4, 5], 7), required_tokens=required)
    assert report.completeness.item() == 1.0
    assert report.ends_at_last_token.item()
    over_the_gap = analyze_alignment(aligned([1, 5], 7), required_tokens=required)
    assert marked(over_the_gap.skipped) == [2, 4]
    assert over_the_gap.skipped_runs.item() == 1


def test_padding_changes_nothing():
    short, long = aligned([0, 1, 3, 4], 5), aligned([0, 1, 2, 0, 1, 2, 3, 4, 5, 6], 7)
    batch = torch.full((2, long.shape[1], 9), 0.3)
    batch[0, : short.shape[1], :5] = short
    batch[1, :, :7] = long
    lengths, tokens = torch.tensor([short.shape[1], long.shape[1]]), torch.tensor([5, 7])
    together = analyze_alignment(batch, lengths, tokens)
    for row, alone in enumerate((analyze_alignment(short), analyze_alignment(long))):
        for name in ("backward_total", "backward_max", "completeness", "skipped_runs", "ends_at_last_token"):
            torch.testing.assert_close(getattr(together, name)[row], getattr(alone, name)[0])
        for name in ("attended", "skipped", "unfinished", "repeated"):
            mask = getattr(together, name)[row]
            assert mask[: tokens[row]].equal(getattr(alone, name)[0])
            assert not mask[tokens[row] :].any()
        assert together.path[row, : lengths[row]].equal(alone.path[0])


def test_expected_positions_weigh_the_tokens():
    assert expected_positions(torch.tensor([[[0.25, 0.75, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])).tolist() == [
        [0.75, 1.5, 0.0]
    ]


def test_times_of_tokens_and_words_follow_the_frame_rate():
    path = torch.tensor([[0, 0, 1, 1, 1, 3, 3, 4], [0, 1, 2, 2, 9, 9, 9, 9]])
    times = token_times(path, torch.tensor([8, 4]), 5, frame_rate=10.0)
    expected = torch.tensor([[0, 0.2], [0.2, 0.5], [0.5, 0.5], [0.5, 0.7], [0.7, 0.8]])
    torch.testing.assert_close(times[0], expected)
    torch.testing.assert_close(times[1, :3], torch.tensor([[0, 0.1], [0.1, 0.2], [0.2, 0.4]]))
    assert times[1, 3:].isnan().all()
    words = word_times(times, torch.tensor([-1, 0, 0, -1, 1]))
    torch.testing.assert_close(words[0], torch.tensor([[0.2, 0.5], [0.7, 0.8]]))
    torch.testing.assert_close(words[1, 0], torch.tensor([0.1, 0.4]))
    assert words[1, 1].isnan().all()


def test_a_repeat_delays_the_next_token_only():
    times = token_times(torch.tensor([[0, 1, 2, 1, 2, 3]]), None, 4, frame_rate=1.0)
    assert times[0].tolist() == [[0, 1], [1, 2], [2, 5], [5, 6]]


def test_a_word_is_marked_with_half_its_tokens():
    tokens = torch.tensor([[True, False, True, False, False, True]])
    assert words_with(tokens, torch.tensor([0, 0, 1, 1, 1, -1]), num_words=3).tolist() == [[True, False, False]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alignment": torch.ones(3, 4)}, "shape"),
        ({"alignment": torch.ones(1, 0, 4)}, "empty"),
        ({"frame_lengths": torch.tensor([7])}, "frame_lengths"),
        ({"token_lengths": torch.tensor([1, 2])}, "token_lengths"),
        ({"median_window": 4}, "odd"),
        ({"min_run": 0}, "min_run"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        analyze_alignment(**{"alignment": torch.ones(1, 3, 4), **arguments})


def test_plot_writes_a_png_and_nothing_else(tmp_path: Path):
    path = tmp_path / "alignment.png"
    plot_alignment(aligned([0, 1, 2], 3)[0], ["<s>", "$x_", "end"], path, frame_rate=50.0)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["alignment.png"]
    with pytest.raises(ValueError, match="labels"):
        plot_alignment(torch.ones(4, 3), ["a"], path)


def test_a_failed_plot_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from matplotlib.figure import Figure

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_alignment(torch.ones(4, 1), ["a"], tmp_path / "alignment.png")
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=15), st.integers(3, 6))
def test_masks_are_consistent_on_any_path(tokens, frames_per_token):
    report = analyze_alignment(aligned(tokens, 10, frames_per_token), median_window=3)
    path = torch.tensor(tokens)
    assert marked(report.attended) == sorted(set(tokens))
    assert marked(report.unfinished) == list(range(max(tokens) + 1, 10))
    assert (report.attended ^ report.skipped ^ report.unfinished).all()
    assert report.backward_total.item() == pytest.approx((path[:-1] - path[1:]).clamp(min=0).sum().item(), abs=1e-4)
    assert report.backward_max.item() == pytest.approx((path.cummax(0).values - path).max().item(), abs=1e-4)
    assert (report.repeated_runs > 0).item() == report.repeated.any().item() == (report.backward_max >= 2).item()
    assert report.ends_at_last_token.item() == (tokens[-1] >= 8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.sampled_from([1, 3, 5, 7]))
def test_any_monotonic_path_survives_the_filter_and_gives_contiguous_times(steps, window):
    path = torch.tensor(steps).cumsum(0)
    num_tokens = int(path.max()) + 1
    report = analyze_alignment(functional.one_hot(path, num_tokens).float()[None], median_window=window)
    assert report.path[0].equal(path)
    assert report.repeated_runs.item() == 0
    times = token_times(report.path, None, num_tokens, frame_rate=1.0)[0]
    assert times[0, 0] == 0
    assert times[-1, 1] == len(path)
    assert times[1:, 0].equal(times[:-1, 1])
    assert (times[:, 1] - times[:, 0]).sum() == len(path)


def test_tokens_belong_to_the_words_between_the_spaces():
    text = "don't - stop, mr x"
    assert split_words(text) == ["don't", "stop,", "mr", "x"]
    offsets = [(0, 0), (0, 3), (3, 5), (5, 6), (6, 7), (7, 12), (12, 13), (13, 16), (16, 18), (0, 0)]
    assert map_tokens_to_words(text, offsets).tolist() == [-1, 0, 0, -1, -1, 1, -1, 2, 3, -1]
