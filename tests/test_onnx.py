"""Exported models: what they say is what the checkpoint says, and they need no torch for it."""

import copy
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from core_models import lively_model, random_codes, random_text, small_config
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

pytest.importorskip("onnx", reason="needs ONNX: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
pytest.importorskip("onnxscript", reason="needs the exporter: pip install onnxscript")

import onnx

from smalle_hf import SmallCodecConfig, SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.cli import command_line
from smalle_hf.gated_linear_attention import recurrent_gated_linear_attention
from smalle_hf.onnx import SmallEOnnxModel, SmallEOnnxProcessor
from smalle_hf.onnx import export as export_module
from smalle_hf.onnx.export import QUANTIZATIONS, write_model
from smalle_hf.onnx.fused_layers import chunk_recurrence
from smalle_hf.onnx.sampling import Sampling, choose_ids
from smalle_hf.onnx.sessions import OnnxGraphs, OnnxState, default_num_threads
from smalle_hf.voice_files import save_voice

RATE = 4000
TEXTS = ["one two three", "four"]
PROMPT_FRAMES = [70, 9]  # one longer than a chunk of the prefill, one shorter


def exported_model(cross_attention: str, has_codec: bool) -> SmallEForSpeechGeneration:
    """A model wide enough to be quantised, with as few blocks as there can be. The one without codec soon stops."""
    sizes = {"hidden_size": 64, "num_audio_encoder_layers": 1, "num_audio_decoder_layers": 1}
    codec = SmallCodecConfig(
        sampling_rate=RATE,
        hop_length=20,
        istft_size=80,
        codebook_size=30,
        codebook_dim=4,
        num_mel_bins=8,
        mel_fft_size=80,
        encoder_hidden_size=8,
        num_encoder_layers=1,
        decoder_hidden_size=8,
        num_decoder_layers=2,
        decoder_layer_lookahead=1,
    )
    config = small_config(
        vocab_size=50,
        num_text_encoder_layers=1,
        cross_attention=cross_attention,
        max_frames_per_text_token=4.0,
        codec_config=codec if has_codec else None,
        **sizes,
    )
    model = lively_model(config)
    if not has_codec:
        with torch.no_grad():
            model.lm_heads.weight[config.audio_eos_token_id] *= 2.0
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[SmallEForSpeechGeneration, Path]]:
    """A model with PACA and a codec, in float32, 8 bits and 4, and one with standard attention and no codec; with the
    folder that each was exported to."""
    root = tmp_path_factory.mktemp("exported")
    found = {}
    for name, cross_attention, has_codec in (("paca", "paca", True), ("standard", "standard", False)):
        model = exported_model(cross_attention, has_codec)
        processor = SmallEProcessor.from_characters(config=model.config)
        graphs = export_module.export_graphs(model)
        model.save_pretrained(root / f"{name}-checkpoint")
        processor.save_pretrained(root / f"{name}-checkpoint")
        save_voice(root / f"{name}-checkpoint", "ann", random_codes(model.config, 9)[0], "hi")
        (root / f"{name}-checkpoint" / "README.md").write_text("# A card\n")
        for quantization in QUANTIZATIONS if has_codec else ("none",):
            folder = root / f"{name}-{quantization}"
            write_model(copy.deepcopy(graphs), model, processor, folder, quantization, root / f"{name}-checkpoint")
            found[f"{name}-{quantization}"] = (model, folder)
    return found


@pytest.fixture(scope="module")
def folder(models: dict[str, Any]) -> Path:
    return models["paca-none"][1]


@pytest.fixture(scope="module")
def model(folder: Path) -> SmallEOnnxModel:
    return SmallEOnnxModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(folder: Path) -> SmallEOnnxProcessor:
    return SmallEOnnxProcessor.from_pretrained(folder)


def arrays(inputs: Any) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in inputs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paca-none", "standard-none"])
@pytest.mark.parametrize("has_voice", [False, True])
def test_greedy_speech_is_the_checkpoints(models: dict[str, Any], name: str, has_voice: bool) -> None:
    torch_model, folder = models[name]
    config = torch_model.config
    inputs = dict(SmallEProcessor.from_characters(config=config)(TEXTS))
    if has_voice:
        prompts = [random_codes(config, frames, seed=frames)[0] for frames in PROMPT_FRAMES]
        inputs["audio_prompt_codes"] = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
        inputs["audio_prompt_mask"] = torch.tensor(
            [[1] * frames + [0] * (max(PROMPT_FRAMES) - frames) for frames in PROMPT_FRAMES]
        )
    expected = torch_model.generate(**inputs, do_sample=False, return_alignments=True)
    found = SmallEOnnxModel.from_pretrained(folder).generate(**arrays(inputs), do_sample=False, return_alignments=True)
    assert expected.sequences.shape[1] > 5
    np.testing.assert_array_equal(found.sequences, expected.sequences)
    np.testing.assert_array_equal(found.sequence_lengths, expected.sequence_lengths)
    np.testing.assert_array_equal(found.is_finished, expected.is_finished)
    np.testing.assert_allclose(found.alignments, expected.alignments, atol=1e-4)
    if config.codec_config is not None:
        np.testing.assert_allclose(found.audio, expected.audio, atol=1e-4)
        np.testing.assert_array_equal(found.audio_lengths, expected.audio_lengths)


@pytest.mark.slow
def test_both_ways_to_end_were_compared(models: dict[str, Any]) -> None:
    ends = set()
    for name in ("paca-none", "standard-none"):
        inputs = SmallEProcessor.from_characters(config=models[name][0].config)(TEXTS)
        output = SmallEOnnxModel.from_pretrained(models[name][1]).generate(**arrays(inputs), do_sample=False)
        ends |= set(output.is_finished.tolist())
    assert ends == {False, True}


@pytest.mark.slow
def test_rows_are_what_they_are_alone(model: SmallEOnnxModel, processor: SmallEOnnxProcessor) -> None:
    options = {"num_sampled_codebooks": 4, "top_k": 20}
    together = model.generate(**processor(TEXTS), seed=5, **options)
    again = model.generate(**processor(TEXTS), seed=5, **options)
    np.testing.assert_array_equal(together.sequences, again.sequences)
    for row, text in enumerate(TEXTS):
        single = model.generate(**processor(text), seed=5 + row, **options)
        length = together.sequence_lengths[row]
        assert single.sequence_lengths.tolist() == [length]
        np.testing.assert_array_equal(together.sequences[row, :length], single.sequences[0])
        np.testing.assert_allclose(processor.batch_decode(together)[row], processor.batch_decode(single)[0], atol=1e-6)
        assert not together.sequences[row, length:].any()
    other = model.generate(**processor(TEXTS), seed=6, **options)
    assert other.sequences.shape != together.sequences.shape or (other.sequences != together.sequences).any()


@pytest.mark.slow
def test_threads_share_a_model(model: SmallEOnnxModel, processor: SmallEOnnxProcessor) -> None:
    def speak(seed: int) -> np.ndarray:
        return model.generate(**processor(TEXTS), seed=seed).sequences

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(speak, range(4)))
    for seed, sequences in enumerate(together):
        np.testing.assert_array_equal(sequences, speak(seed))


@pytest.mark.slow
@pytest.mark.parametrize("chunk_ms", [5, 60, 10_000])
def test_streamed_audio_is_the_whole_audio(
    model: SmallEOnnxModel, processor: SmallEOnnxProcessor, chunk_ms: float
) -> None:
    inputs = processor("one two three four five", random_codes_array(model), "hi")
    whole = (model.generate(**inputs, seed=seed, max_new_tokens=60) for seed in range(100))
    seed, output = next((seed, output) for seed, output in enumerate(whole) if output.sequence_lengths[0] > 25)
    expected = processor.batch_decode(output)[0]
    chunks = list(model.stream(**inputs, seed=seed, max_new_tokens=60, chunk_ms=chunk_ms))
    np.testing.assert_allclose(np.concatenate([chunk.audio[0] for chunk in chunks]), expected, atol=1e-4)
    np.testing.assert_array_equal(np.concatenate([chunk.sequences[0] for chunk in chunks]), output.sequences[0])
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].is_finished.tolist() == output.is_finished.tolist()
    starts = np.cumsum([0, *(chunk.audio_lengths[0] for chunk in chunks[:-1])]) / RATE
    np.testing.assert_allclose([chunk.start for chunk in chunks], starts)
    if chunk_ms == 5:
        assert max(chunk.audio_lengths[0] for chunk in chunks[1:-1]) == model.config.frame_length


def random_codes_array(model: SmallEOnnxModel, frames: int = 9) -> np.ndarray:
    size = (frames, model.config.num_codebooks)
    return np.random.default_rng(0).integers(0, model.config.codebook_size, size)


@pytest.mark.slow
def test_fewer_bits_are_less_near_and_smaller(models: dict[str, Any]) -> None:
    logits, sizes, texts = {}, {}, {}
    for name in QUANTIZATIONS:
        torch_model, folder = models[f"paca-{name}"]
        graphs = SmallEOnnxModel.from_pretrained(folder).graphs
        ids = random_text(torch_model.config, 12).numpy()
        texts[name] = graphs.encode_text(ids, np.ones_like(ids))
        state = graphs.start(texts[name])
        columns = random_codes(torch_model.config, 20)[0].numpy() + 3
        logits[name] = np.stack([state.step(column[None])[0][0].copy() for column in columns])
        sizes[name] = (folder / "weights.bin").stat().st_size
    size = np.abs(logits["none"]).mean()
    distances = {name: np.abs(array - logits["none"]).mean() / size for name, array in logits.items()}
    assert 0 < distances["int8"] < 0.05
    assert 3 * distances["int8"] < distances["int4"] < 0.5
    assert sizes["int8"] < 0.6 * sizes["none"]
    assert sizes["int4"] < sizes["int8"]
    for name, tensor in texts["int4"].items():  # what is computed once for a text stays in 8 bits
        np.testing.assert_array_equal(tensor, texts["int8"][name])


@pytest.mark.slow
def test_runtimes_without_the_fused_operator_compute_the_same(folder: Path, tmp_path: Path) -> None:
    renamed = Path(shutil.copytree(folder, tmp_path / "renamed"))
    graph = onnx.load(renamed / "decoder_step.onnx", load_external_data=False)
    fused = [node for node in graph.graph.node if node.op_type == "LinearAttention"]
    # Under a name that no runtime has an operator for, the definition in the file is what counts.
    for item in (*fused, *graph.functions):
        item.domain = "elsewhere"
    graph.opset_import.add(domain="elsewhere", version=1)
    onnx.save(graph, renamed / "decoder_step.onnx")
    spoken = [
        SmallEOnnxModel.from_pretrained(path).generate(np.array([[1, 5, 6, 2]]), seed=0, return_alignments=True)
        for path in (folder, renamed)
    ]
    assert len(fused) == len(json.loads((folder / "onnx_config.json").read_text())["state_shapes"])
    assert spoken[0].sequences.shape[1] > 5
    np.testing.assert_array_equal(spoken[0].sequences, spoken[1].sequences)
    np.testing.assert_allclose(spoken[0].alignments, spoken[1].alignments, atol=1e-5)


@pytest.mark.slow
def test_a_step_overwrites_its_state_as_if_it_were_elsewhere(models: dict[str, Any]) -> None:
    for name in ("paca-int8", "standard-none"):
        graphs = SmallEOnnxModel.from_pretrained(models[name][1]).graphs
        ids = random_text(models[name][0].config, 12).numpy()
        state = graphs.start(graphs.encode_text(ids, np.ones_like(ids)))
        elsewhere = [array.copy() for array in state.states]
        for frame, column in enumerate(random_codes(models[name][0].config, 5)[0].numpy() + 3):
            inputs = {"audio_ids": column[None], "frame_index": np.array([frame]), **state.text}
            inputs |= {f"state_{index}": array for index, array in enumerate(elsewhere)}
            expected, _, *elsewhere = graphs.decoder_step.run(None, inputs)
            np.testing.assert_array_equal(state.step(column[None])[0], expected)
        for found, array in zip(state.states, elsewhere, strict=True):
            np.testing.assert_array_equal(found, array)
            assert array.any()


def prefilled(graphs: OnnxGraphs, ids: np.ndarray, lengths: list[int]) -> OnnxState:
    """The state behind the first columns of each row, where every row has another text."""
    text = np.arange(4, 4 + 6 * len(ids)).reshape(-1, 6)
    state = graphs.start(graphs.encode_text(text, np.ones_like(text)))
    state.prefill(ids, (np.arange(ids.shape[1]) < np.array(lengths)[:, None]).astype(np.int64))
    return state


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paca-none", "paca-int8", "standard-none"])
def test_remembered_voices_are_what_they_were(models: dict[str, Any], name: str) -> None:
    """To the bit, in any row, and whatever was said with them meanwhile."""
    torch_model, folder = models[name]
    ids, lengths = random_codes(torch_model.config, 70, batch=3).numpy() + 3, [70, 0, 9]
    graphs, runs = SmallEOnnxModel.from_pretrained(folder).graphs, []
    run = graphs.prompt_encoder.run
    graphs.prompt_encoder = SimpleNamespace(run=lambda *inputs: runs.append(1) or run(*inputs))
    first = prefilled(graphs, ids, lengths)
    assert len(runs) == 3  # two chunks and one
    expected = [state.copy() for state in first.states]
    first.step(ids[:, 0])
    again, swapped = prefilled(graphs, ids, lengths), prefilled(graphs, ids[[2, 0, 1]], [9, 70, 0])
    assert len(runs) == 3
    anew = prefilled(SmallEOnnxModel.from_pretrained(folder).graphs, ids, lengths)
    for index, state in enumerate(expected):
        np.testing.assert_array_equal(again.states[index], state)
        np.testing.assert_array_equal(anew.states[index], state)
        assert (first.states[index] != state).any()
        assert [row.any() for row in state] == [True, False, True]
        if index < graphs.config.num_audio_encoder_layers:
            np.testing.assert_array_equal(swapped.states[index], state[[2, 0, 1]])
    for row, count in ((1, 5), (0, 5), (2, 6)):  # the new voice drives out the one that was not used for longest
        prefilled(graphs, ids[row, None, : (70, 70, 9)[row]], [(70, 70, 9)[row]])
        assert len(runs) == count
    with pytest.raises(RuntimeError, match="come first"):
        again.prefill(ids, np.ones(ids.shape[:2], dtype=np.int64))


@pytest.mark.slow
def test_weights_are_stored_once_and_graphs_tell_nothing_of_their_machine(folder: Path) -> None:
    graphs = b"".join(path.read_bytes() for path in folder.glob("*.onnx"))
    assert b".py" not in graphs
    assert sorted(path.name for path in folder.glob("*.onnx")) == [
        "codec_decoder.onnx",
        "codec_encoder.onnx",
        "decoder_prefill.onnx",
        "decoder_step.onnx",
        "prompt_encoder.onnx",
        "text_encoder.onnx",
    ]
    checkpoint = folder.parent / "paca-checkpoint" / "model.safetensors"
    assert (folder / "weights.bin").stat().st_size < 1.1 * checkpoint.stat().st_size
    assert not list(folder.glob("*.py"))


@pytest.mark.slow
def test_speaks_without_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'onnxscript'): sys.modules[name] = None\n"
        "from smalle_hf.cli import command_line\n"
        "sys.exit(command_line.main(sys.argv[1:]))"
    )
    arguments = ["speak", "Two words. And three more.", "-o", "out.wav", "--model", str(folder)]
    for more in ([], ["--stream"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, *more], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        samples, rate = soundfile.read(tmp_path / "out.wav")
        assert rate == RATE
        assert samples.size


@pytest.mark.slow
def test_command_exports_and_refuses_what_is_there(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    checkpoint, folder = models["paca-none"][1].parent / "paca-checkpoint", models["paca-none"][1]
    names = ("text_encoder", "decoder_step", "prompt_encoder", "decoder_prefill", "codec_decoder", "codec_encoder")
    graphs = {name: onnx.load(folder / f"{name}.onnx") for name in names}
    monkeypatch.setattr(export_module, "export_graphs", lambda *_: graphs)
    out = tmp_path / "out"
    assert command_line.main(["export", str(checkpoint), str(out), "--quantize", "none"]) == 0
    assert (out / "weights.bin").read_bytes() == (folder / "weights.bin").read_bytes()
    assert (out / "voices" / "ann.safetensors").is_file()
    assert (out / "README.md").read_text() == "# A card\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert command_line.main(["export", str(checkpoint), str(out)]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.slow
def test_command_speaks_with_a_voice(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    base = ["speak", "Four five.", "--model", str(folder), "-o", str(tmp_path / "a.wav")]
    assert command_line.main([*base, "--voice", "ann", "--max-seconds", "0.05"]) == 0
    assert len(soundfile.read(tmp_path / "a.wav")[0]) <= 0.05 * RATE + 20
    capsys.readouterr()
    for more, message in (
        (["--voice", "bob"], "it has ann"),
        (["--device", "cuda"], "--device"),
    ):
        assert command_line.main([*base, *more]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_processor_gives_what_the_models_own_one_gives(models: dict[str, Any], processor: SmallEOnnxProcessor) -> None:
    config = models["paca-none"][0].config
    expected = SmallEProcessor.from_characters(config=config)
    texts = ["Dr. Café paid $3!", "No."]
    codes = [row[0] for row in (random_codes(config, 4), random_codes(config, 7))]
    assert processor.normalize(texts[0]) == expected.normalize(texts[0])
    wanted = expected(texts, audio_prompt_codes=codes, audio_prompt_text=["One.", "two"])
    found = processor(texts, [row.numpy() for row in codes], ["One.", "two"])
    assert found.keys() == dict(wanted).keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input_ids": np.zeros((1, 3))}, TypeError, "integers"),
        ({"input_ids": np.array([1, 5, 2])}, ValueError, "shape"),
        ({"input_ids": np.array([[1, 500, 2]])}, ValueError, "vocabulary"),
        ({"input_ids": np.array([[1, 2]])}, ValueError, "empty"),
        ({"input_ids": np.full((1, 3000), 5)}, ValueError, "split"),
        ({"attention_mask": np.ones((1, 1))}, ValueError, "attention_mask"),
        ({"audio_prompt_codes": np.zeros((1, 4, 4))}, TypeError, "integer codes"),
        ({"audio_prompt_codes": np.zeros((1, 4, 3), int)}, ValueError, "shape"),
        ({"audio_prompt_codes": np.full((1, 4, 4), 30)}, ValueError, "0..29"),
        ({"temperature": 0.0}, ValueError, "do_sample=False"),
        ({"top_p": 1.5}, ValueError, "top_p"),
        ({"num_sampled_codebooks": 5}, ValueError, "0..4"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens"),
        ({"seed": [1, 2]}, ValueError, "one seed"),
    ],
)
def test_wrong_inputs_are_refused(
    model: SmallEOnnxModel, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.generate(**{"input_ids": np.array([[1, 5, 6, 2]]), **changes})


@pytest.mark.slow
def test_damaged_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="smalle export"):
        SmallEOnnxModel.from_pretrained(tmp_path)
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "decoder_step.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        SmallEOnnxModel.from_pretrained(broken).generate(np.array([[1, 5, 2]]))
    (broken / "decoder_step.onnx").unlink()
    with pytest.raises(FileNotFoundError, match="decoder_step"):
        SmallEOnnxModel.from_pretrained(broken)
    values = json.loads((broken / "onnx_config.json").read_text())
    (broken / "onnx_config.json").write_text(json.dumps({**values, "format": 0}))
    with pytest.raises(ValueError, match="another version"):
        SmallEOnnxModel.from_pretrained(broken)
    (broken / "onnx_config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        SmallEOnnxModel.from_pretrained(broken)


@pytest.mark.slow
def test_codes_without_a_codec(models: dict[str, Any]) -> None:
    model = SmallEOnnxModel.from_pretrained(models["standard-none"][1])
    output = model.generate(np.array([[1, 5, 6, 2]]), seed=0, max_new_tokens=5)
    assert output.audio is None
    with pytest.raises(ValueError, match="without a codec"):
        model.generate(np.array([[1, 5, 6, 2]]), output_audio=True)
    with pytest.raises(ValueError, match="exported without a codec"):
        model.stream(np.array([[1, 5, 6, 2]]))


@pytest.mark.parametrize(("version", "cores", "expected"), [("1.23.2", 4, 1), ("1.26.0", 4, 2), ("2.0.1", 1, 1)])
def test_threads_are_no_more_than_cores_and_one_where_they_cannot_wait(
    monkeypatch: pytest.MonkeyPatch, version: str, cores: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert default_num_threads(version) == expected


@pytest.mark.parametrize("strongest", [0.05, 3.0, 20.0])
@pytest.mark.parametrize("length", [64, 33, 9])
def test_a_chunk_of_the_recurrence_is_its_frames(length: int, strongest: float) -> None:
    generator = torch.Generator().manual_seed(length)
    query, key = torch.randn(2, 2, length, 3, 8, generator=generator)
    value, state = torch.randn(2, length, 3, 16, generator=generator), torch.randn(2, 3, 8, 16, generator=generator)
    log_decay = -strongest * torch.rand(2, length, 3, 8, generator=generator)
    expected = recurrent_gated_linear_attention(query, key, value, log_decay, state)
    for found, wanted in zip(chunk_recurrence(query, key, value, log_decay, state), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def scores(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 2, 12)).astype(np.float32) * 2


@pytest.mark.parametrize("sampling", [Sampling(2, 0.7, 5), Sampling(2, 1.3, 0, 0.6), Sampling(2, 1.0, 8, 0.9)])
def test_samples_follow_the_distribution_of_the_warpers(sampling: Sampling) -> None:
    wanted = torch.from_numpy(scores()[0])
    warpers: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    for warper in warpers:
        wanted = warper(None, wanted)
    count = 5000
    generators = [np.random.default_rng(seed) for seed in range(count)]
    drawn = choose_ids(np.repeat(scores(), count, axis=0), sampling, generators)
    shares = np.stack([np.bincount(column, minlength=12) / count for column in drawn.T])
    expected = wanted.softmax(dim=-1).numpy()
    assert not shares[expected == 0].any()
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / count**0.5)


def test_later_codebooks_take_the_best_id_and_ruled_out_ids_never_come() -> None:
    table = scores()
    table[0, 0, :11] = -np.inf
    ids = [choose_ids(table, Sampling(1, 5.0), [np.random.default_rng(seed)])[0] for seed in range(50)]
    assert {tuple(row) for row in ids} == {(11, int(table[0, 1].argmax()))}
