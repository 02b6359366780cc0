"""Speaker similarity, MOS prediction and real-time factor on speech whose order is known."""

import numpy as np
import pytest

from smalle_hf.metrics import MeanOpinionScore, RealTimeFactor, SpeakerSimilarity


@pytest.mark.parametrize(
    ("folder", "speakers"), [("vctk_sample", ("p225", "p226")), ("librispeech_sample", ("1688", "1998"))]
)
def test_one_speaker_is_more_similar_to_himself_than_to_another(speech, folder, speakers):
    first, second = (speech(folder, speaker, 2) for speaker in speakers)
    rate = first[0][1]
    pairs = [(first[0], first[1]), (second[0], second[1]), (first[0], second[0]), (first[1], second[1])]
    result = SpeakerSimilarity().compute(
        predictions=[pair[0][0] for pair in pairs], references=[pair[1][0] for pair in pairs], sampling_rate=rate
    )
    same, different = result["speaker_similarity"][:2], result["speaker_similarity"][2:]
    assert min(same) > 0.8
    assert max(different) < 0.75
    assert result["speaker_similarity_mean"] == pytest.approx(np.mean(same + different))


def test_a_recording_is_itself_at_any_rate_and_silence_is_nobody(speech):
    [(samples, rate)] = speech("vctk_sample", "p225", 1)
    result = SpeakerSimilarity(keep_in_memory=True).compute(
        predictions=[samples, samples, np.zeros(rate), []],
        references=[samples, samples[: len(samples) // 2 * 2 : 2], samples, samples],
        sampling_rate=rate,
    )
    assert result["speaker_similarity"][0] == pytest.approx(1.0, abs=1e-4)
    assert result["speaker_similarity"][1] < 0.9  # an octave too high
    assert result["speaker_similarity"][2:] == [0.0, 0.0]
    resampled = SpeakerSimilarity().compute(
        predictions=[samples], references=[samples[::2]], sampling_rate=rate, reference_sampling_rate=rate // 2
    )
    assert resampled["speaker_similarity_mean"] > 0.85


def test_noise_lowers_the_predicted_opinion(speech):
    [(clean, rate)] = speech("vctk_sample", "p227", 1)
    noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32) * np.sqrt(np.mean(clean**2))
    speeches = [clean, clean + noise * 10 ** (-20 / 20), clean + noise]
    result = MeanOpinionScore().compute(predictions=speeches, sampling_rate=rate)
    assert 5 > result["mos"][0] > result["mos"][1] + 0.3 > result["mos"][2] + 0.6 > 1
    assert np.all(np.diff(result["mos_background"]) < 0)
    assert np.all(np.diff(result["mos_p808"]) < 0)
    assert result["mos_mean"] == pytest.approx(np.mean(result["mos"]))


def test_no_audio_is_rated_like_silence():
    result = MeanOpinionScore().compute(predictions=[[], np.zeros(16000)], sampling_rate=16000)
    assert result["mos"][0] == result["mos"][1] < 2


@pytest.mark.parametrize("samples", [[0.1, float("nan")], [float("inf")]])
def test_broken_audio_is_refused(samples):
    with pytest.raises(ValueError, match="finite"):
        MeanOpinionScore().compute(predictions=[samples], sampling_rate=16000)


def test_real_time_factor_divides_the_sums():
    metric = RealTimeFactor()
    metric.add(generation_seconds=1.0, audio_seconds=1.0)
    metric.add(generation_seconds=1.0, audio_seconds=9.0)
    assert metric.compute() == {"real_time_factor": 0.2, "generation_seconds": 2.0, "audio_seconds": 10.0}
    assert metric.compute(generation_seconds=[1.0], audio_seconds=[0.0])["real_time_factor"] == float("inf")
