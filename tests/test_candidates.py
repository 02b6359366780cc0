"""Of several candidates the one is kept that reads its text in order, whole and to the end."""

from typing import Any

import pytest
import torch
from core_models import lively_model, pad, random_codes, random_text, small_config
from transformers import EncodecConfig, GenerationConfig

from smalle_hf import SmallEForSpeechGeneration
from smalle_hf.candidates_smalle import SEED_STRIDE, keep_best, score_alignments
from smalle_hf.outputs_smalle import SmallEGenerateOutput

TOKENS = 12
READ = [token for token in range(TOKENS) for _ in range(6)]
FAULTS = {
    "skip": [token for token in READ if token not in (5, 6, 7)],
    "repeat": [t for token in (*range(9), *range(5, TOKENS)) for t in [token] * 6],
    "early end": [token for token in READ if token < 8],
    "late start": [token for token in READ if token > 3],
    "stuck": [2] * len(READ),
}


def follow(path: list[int], frames: int = 100) -> torch.Tensor:
    """Alignment `(1, frames, TOKENS)` that attends to one token per frame, with a little to its neighbours."""
    weights = torch.zeros(1, frames, TOKENS)
    for frame, token in enumerate(path):
        weights[0, frame, token] = 1.0
        weights[0, frame, max(token - 1, 0)] += 0.1
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-9)


def score(path: list[int], finished: bool = True, start: int | None = None) -> float:
    where = None if start is None else torch.tensor([start])
    required = torch.ones(1, TOKENS, dtype=torch.bool)
    lengths, ends = torch.tensor([len(path)]), torch.tensor([finished])
    return float(score_alignments(follow(path), lengths, ends, required, where))


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_costs(fault: str) -> None:
    assert score(FAULTS[fault]) < score(READ) - 0.1


def test_a_faultless_reading_scores_almost_one() -> None:
    assert 0.97 < score(READ) <= 1.0
    assert score(READ) == pytest.approx(score(READ[::2]), abs=0.02)  # at any speed


def test_an_unfinished_utterance_loses_to_the_worst_finished_one() -> None:
    worst = [TOKENS - 1] * 5 + [0] * 60
    assert score(READ, finished=False) < min(score(worst), *map(score, FAULTS.values()))
    assert score([]) > score([], finished=False)


def test_worse_faults_cost_more() -> None:
    skips = [score([token for token in READ if not 3 <= token < 3 + count]) for count in (0, 2, 4, 6)]
    assert skips == sorted(skips, reverse=True)
    assert len(set(skips)) == 4


def test_what_stands_before_the_start_is_not_required_but_going_there_costs() -> None:
    goes_on = [token for token in READ if token >= 5]
    assert score(goes_on, start=5) > 0.95
    assert score(goes_on) < 0.7
    assert score([3] * 6 + [4] * 6 + goes_on, start=5) < score(goes_on, start=5) - 0.1


def test_padding_is_not_scored() -> None:
    alone = score_alignments(
        follow(READ, len(READ)),
        torch.tensor([len(READ)]),
        torch.tensor([True]),
        torch.ones(1, TOKENS, dtype=torch.bool),
    )
    padded = torch.nn.functional.pad(follow(READ), (0, 5))
    padded[:, len(READ) :] = 0.3
    required = torch.arange(TOKENS + 5)[None] < TOKENS
    together = score_alignments(padded, torch.tensor([len(READ)]), torch.tensor([True]), required)
    torch.testing.assert_close(alone, together)


def test_the_best_of_each_text_is_kept() -> None:
    bad, good = FAULTS["skip"], READ
    paths = [bad, good, FAULTS["repeat"], good, bad, bad]
    # Special tokens at both ends, as in every text.
    alignments = torch.nn.functional.pad(torch.cat([follow(path) for path in paths]), (1, 1))
    lengths = torch.tensor([len(path) for path in paths])
    output = SmallEGenerateOutput(
        sequences=torch.arange(6)[:, None, None].expand(6, 100, 4),
        sequence_lengths=lengths,
        is_finished=torch.tensor([True] * 6),
        delayed_ids=torch.arange(6)[:, None, None].expand(6, 104, 4),
        alignments=alignments,
        scores=(torch.arange(6)[:, None, None],) * 104,
    )
    config = GenerationConfig(num_candidates=3, return_alignments=True)
    best, limits = keep_best(output, torch.arange(6), torch.ones(6, TOKENS + 2), False, config)
    assert best.sequences is not None
    assert best.sequences[:, 0, 0].tolist() == [1, 3]
    assert limits.tolist() == [1, 3]
    assert best.scores is not None
    assert best.scores[50].flatten().tolist() == [1, 3]
    assert best.sequences.shape[1] == len(READ)
    assert best.candidate_scores is not None
    assert best.candidate_scores.shape == (2, 3)
    assert best.candidate_scores.argmax(dim=1).tolist() == [1, 0]


@pytest.fixture(scope="module")
def model() -> SmallEForSpeechGeneration:
    codec = EncodecConfig(
        num_filters=2, hidden_size=8, codebook_dim=8, codebook_size=32, num_lstm_layers=1, target_bandwidths=[1.5, 3.0]
    )
    return lively_model(small_config(codec_config=codec, codebook_size=32))


@pytest.fixture(scope="module")
def text(model: SmallEForSpeechGeneration) -> dict[str, torch.Tensor]:
    ids, mask = pad([random_text(model.config, 9, seed=1), random_text(model.config, 14, seed=2)])
    return {"input_ids": ids, "attention_mask": mask}


def speak(model: SmallEForSpeechGeneration, **kwargs: Any) -> Any:
    return model.generate(**{"max_new_tokens": 30, "output_audio": False, **kwargs})


def test_one_candidate_is_generation_without(model: SmallEForSpeechGeneration, text: dict[str, torch.Tensor]) -> None:
    plain, one = speak(model, **text, seed=5), speak(model, **text, seed=5, num_candidates=1)
    assert torch.equal(plain.delayed_ids, one.delayed_ids)
    assert one.candidate_scores is None


def test_the_candidates_are_the_utterances_of_their_seeds(
    model: SmallEForSpeechGeneration, text: dict[str, torch.Tensor]
) -> None:
    best = speak(model, **text, seed=5, num_candidates=4, return_alignments=True)
    assert best.candidate_scores.shape == (2, 4)
    for row in range(2):
        winner = int(best.candidate_scores[row].argmax())
        alone = {name: tensor[row : row + 1] for name, tensor in text.items()}
        single = speak(model, **alone, seed=5 + row + SEED_STRIDE * winner, return_alignments=True)
        length = int(best.sequence_lengths[row])
        assert single.sequence_lengths.tolist() == [length]
        assert torch.equal(best.sequences[row, :length], single.sequences[0])
        torch.testing.assert_close(best.alignments[row, :length], single.alignments[0])
        assert best.is_finished[row] == single.is_finished[0]
    assert best.candidate_scores[0].unique().numel() > 1


def test_a_text_gets_in_a_batch_what_it_gets_alone(
    model: SmallEForSpeechGeneration, text: dict[str, torch.Tensor]
) -> None:
    together = speak(model, **text, seed=3, num_candidates=3)
    alone = {name: tensor[1:] for name, tensor in text.items()}
    single = speak(model, **alone, seed=4, num_candidates=3)
    torch.testing.assert_close(together.candidate_scores[1:], single.candidate_scores)
    length = int(single.sequence_lengths[0])
    assert torch.equal(together.sequences[1, :length], single.sequences[0])


def test_generators_one_for_all_or_one_per_text(
    model: SmallEForSpeechGeneration, text: dict[str, torch.Tensor]
) -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    per_text = [speak(model, **text, generator=generators(1, 2), num_candidates=3) for _ in range(2)]
    assert torch.equal(per_text[0].sequences, per_text[1].sequences)
    alone = {name: tensor[1:] for name, tensor in text.items()}
    single = speak(model, **alone, generator=generators(2), num_candidates=3)
    torch.testing.assert_close(per_text[0].candidate_scores[1:], single.candidate_scores)
    pair = speak(model, **text, generator=tuple(generators(1, 2)), num_candidates=3)
    assert torch.equal(pair.sequences, per_text[0].sequences)
    one = [speak(model, **text, generator=generators(7)[0], num_candidates=3).sequences for _ in range(2)]
    assert torch.equal(*one)
    listed = speak(model, **text, seed=[5, 6], num_candidates=2)
    assert torch.equal(listed.sequences, speak(model, **text, seed=5, num_candidates=2).sequences)


def test_finished_candidates_win(model: SmallEForSpeechGeneration, text: dict[str, torch.Tensor]) -> None:
    plain = speak(model, **text, seed=0, num_return_sequences=8, max_new_tokens=20)
    assert plain.is_finished.any()
    assert not plain.is_finished.all()
    for seed in range(3):
        best = speak(model, **text, seed=seed, num_candidates=8, max_new_tokens=20)
        finishes = (best.candidate_scores > -3.0).any(dim=1)  # no finished one scores less
        assert torch.equal(best.is_finished, finishes)


def test_only_the_chosen_are_decoded(
    model: SmallEForSpeechGeneration, text: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = model.decode_audio
    monkeypatch.setattr(model, "decode_audio", lambda codes, *rest: decoded.append(codes) or decode(codes, *rest))
    output = speak(model, **text, seed=1, num_candidates=5, output_audio=True)
    assert [len(codes) for codes in decoded] == [2]
    assert output.audio.shape == (2, output.sequences.shape[1] * model.config.frame_length)
    assert torch.equal(output.audio_lengths, output.sequence_lengths * model.config.frame_length)
    assert output.alignments is None
    waveforms = speak(model, **text, seed=1, num_candidates=5, output_audio=True, return_dict_in_generate=False)
    assert torch.equal(waveforms, output.audio)


def test_every_field_is_reduced_and_the_state_goes_on(
    model: SmallEForSpeechGeneration, text: dict[str, torch.Tensor]
) -> None:
    first = speak(
        model,
        **text,
        seed=2,
        num_candidates=4,
        max_new_tokens=6,
        min_new_tokens=6,
        output_scores=True,
        output_logits=True,
    )
    for name in ("sequences", "sequence_lengths", "is_finished", "delayed_ids"):
        assert len(first[name]) == 2, name
    assert {len(entry) for entry in (*first.scores, *first.logits)} == {2}
    assert first.past_key_values.batch_size == 2
    # The state is that of the chosen rows: what was emitted last is in it.
    size = model.config.max_delay + 1
    assert torch.equal(first.past_key_values.last_ids, first.delayed_ids[:, -size:])
    rest = speak(model, **text, seed=2, num_candidates=3, past_key_values=first.past_key_values)
    assert rest.candidate_scores.shape == (2, 3)
    assert len(rest.sequences) == 2


def test_voice_prompts(model: SmallEForSpeechGeneration, text: dict[str, torch.Tensor]) -> None:
    codes, mask = pad([random_codes(model.config, 12, seed=1), random_codes(model.config, 7, seed=2)])
    prompt = {"audio_prompt_codes": codes, "audio_prompt_mask": mask}
    best = speak(model, **text, **prompt, seed=1, num_candidates=3)
    row = 1
    winner = int(best.candidate_scores[row].argmax())
    alone = {name: tensor[row : row + 1] for name, tensor in {**text, **prompt}.items()}
    single = speak(model, **alone, seed=1 + row + SEED_STRIDE * winner)
    assert torch.equal(best.sequences[row, : int(best.sequence_lengths[row])], single.sequences[0])


def test_the_number_may_come_from_the_generation_config(
    model: SmallEForSpeechGeneration, text: dict[str, torch.Tensor]
) -> None:
    config = GenerationConfig(**{**model.generation_config.to_dict(), "num_candidates": 3})
    output = speak(model, **text, generation_config=config, seed=1)
    assert output.candidate_scores.shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": 2, "num_return_sequences": 2}, "leave one of them out"),
        ({"num_candidates": -1}, "at least 1"),
        ({"num_candidates": 1.5}, "whole number"),
        ({"num_candidates": 2, "do_sample": False}, "do_sample=True"),
        ({"num_candidates": 2, "seed": [1, 2, 3]}, "each of the 2 texts, got 3"),
    ],
)
def test_wrong_options_are_refused(
    model: SmallEForSpeechGeneration, text: dict[str, torch.Tensor], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        speak(model, **text, **options)
