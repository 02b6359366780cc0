"""Codecs as graphs: pieces add up to the whole, and codes of recordings are the codec's own."""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from codec_models import CODECS, random_codec_codes
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="needs ONNX: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
pytest.importorskip("onnxscript", reason="needs the exporter: pip install onnxscript")

import onnxruntime

from smalle_hf.codec_smalle import decode_codes as decode_in_torch
from smalle_hf.codec_smalle import encode_audio as encode_in_torch
from smalle_hf.onnx.codec_graphs import codec_jobs, streaming_decoder
from smalle_hf.onnx.codec_streams import CodecStream, decode_codes, encode_audio
from smalle_hf.onnx.export import export_graph

STREAMED = ["small", "small with more look-ahead", "encodec", "encodec, identity shortcut", "encodec, zeros"]
WHOLE = ["encodec, not causal", "dac"]
ENCODED = ["small", "encodec", "encodec, not causal"]


@functools.cache
def graphs_of(name: str) -> Any:
    """What [`OnnxGraphs`] has of a codec."""
    codec = CODECS[name]()
    config = SimpleNamespace(num_codebooks=4, codebook_size=30, frame_length=codec.config.hop_length)
    jobs = codec_jobs(codec, config, with_encoder=name in ENCODED)  # type: ignore[arg-type]
    sessions = {
        key: onnxruntime.InferenceSession(export_graph(key, *job).SerializeToString()) for key, job in jobs.items()
    }
    decoder = streaming_decoder(codec)
    config.codec_state_shapes = None if decoder is None else decoder.state_shapes()
    config.codec_delay, config.codec_first_frames = getattr(decoder, "delay", 0), getattr(decoder, "first_frames", 1)
    config.has_codec_encoder = name in ENCODED
    return SimpleNamespace(config=config, **sessions)


def whole_audio(name: str, codes: np.ndarray) -> np.ndarray:
    codec = CODECS[name]()
    with torch.no_grad():
        return decode_in_torch(codec, torch.from_numpy(codes), None, codec.config.hop_length).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMED)
@settings(deadline=None, max_examples=15)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8), rows=st.integers(1, 2), seed=st.integers(0, 99))
def test_pieces_add_up_to_the_whole(name: str, sizes: list[int], rows: int, seed: int) -> None:
    graphs = graphs_of(name)
    if len(sizes) > 1:
        sizes[0] = max(sizes[0], graphs.config.codec_first_frames)
    codes = random_codec_codes(CODECS[name](), sum(sizes), rows, seed).numpy()
    stream, end = CodecStream(graphs, rows), 0
    pieces = []
    for index, size in enumerate(sizes):
        pieces.append(stream.decode(codes[:, end : end + size], is_last=index == len(sizes) - 1))
        end += size
    whole = whole_audio(name, codes)
    assert np.abs(whole).max() > 0.01
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STREAMED, *WHOLE])
def test_whole_utterances_of_any_length_are_the_codecs(name: str) -> None:
    """Also those that are shorter than the padding of a convolution."""
    for frames in (1, 2, 3, 7, 31):
        codes = random_codec_codes(CODECS[name](), frames, 2, seed=frames).numpy()
        np.testing.assert_allclose(decode_codes(graphs_of(name), codes), whole_audio(name, codes), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMED)
def test_no_piece_waits_longer_than_announced(name: str) -> None:
    graphs = graphs_of(name)
    for num_frames in (1, 4, 20):
        stream = CodecStream(graphs)
        needed = stream.frames_needed(num_frames)
        audio = stream.decode(random_codec_codes(CODECS[name](), needed).numpy())
        assert audio.shape[1] >= num_frames * graphs.config.frame_length
        if needed > max(num_frames, graphs.config.codec_first_frames):
            fewer = CodecStream(graphs).decode(random_codec_codes(CODECS[name](), needed - 1).numpy())
            assert fewer.shape[1] < num_frames * graphs.config.frame_length


@pytest.mark.slow
def test_an_utterance_that_ends_at_once_is_silent() -> None:
    for name in ("small", "encodec"):
        stream = CodecStream(graphs_of(name))
        assert stream.decode(np.zeros((1, 0, 4), dtype=np.int64), is_last=True).shape == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODED)
def test_codes_of_recordings_are_the_codecs(name: str) -> None:
    graphs, codec = graphs_of(name), CODECS[name]()
    hop = graphs.config.frame_length
    lengths = np.array([1, 5 * hop - 3, 40 * hop, 2 * hop])
    generator = np.random.default_rng(0)
    # Loud and soft frames, for random weights tell little else apart.
    loudness = np.repeat(10.0 ** generator.uniform(-6, 1, size=(len(lengths), 40)), hop, axis=1)
    audio = (loudness * generator.normal(size=(len(lengths), 40 * hop))).astype(np.float32)
    mask = (np.arange(audio.shape[1]) < lengths[:, None]).astype(np.int64)
    config: Any = SimpleNamespace(num_codebooks=4, frame_length=hop)
    expected, expected_mask = encode_in_torch(codec, torch.from_numpy(audio), torch.from_numpy(mask), config)
    codes, codes_mask = encode_audio(graphs, audio, mask)
    np.testing.assert_array_equal(codes_mask, expected_mask)
    np.testing.assert_array_equal(codes, expected)
    assert len(np.unique(codes[2], axis=0)) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("audio", "mask", "error", "message"),
    [
        (np.zeros((1, 9), dtype=int), None, TypeError, "floating point"),
        (np.zeros(9), None, ValueError, "mono"),
        (np.zeros((1, 9)), np.ones((1, 8)), ValueError, "one value per sample"),
        (np.zeros((2, 9)), np.array([[1] * 9, [0] * 9]), ValueError, "empty"),
        (np.full((1, 9), np.nan), None, ValueError, "NaN"),
    ],
)
def test_wrong_recordings_are_refused(audio: Any, mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        encode_audio(graphs_of("small"), audio, mask)


@pytest.mark.slow
def test_the_codec_itself_stays_as_it_is() -> None:
    codec = CODECS["encodec"]()
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    graphs_of("encodec")
    assert before.keys() == codec.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in codec.state_dict().items())
