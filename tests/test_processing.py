"""Contracts of the processor: what goes in comes out again, and what cannot work is refused in one line."""

import json
import math
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from smalle_hf import SmallEConfig
from smalle_hf.processing_smalle import SmallEProcessor
from smalle_hf.text_normalization import normalize_text

RATE = 24000
SENTENCES = [
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background.",
    "It's easy to tell the depth of a well; isn't it?",
    "These days a chicken leg is a rare dish - or so they say.",
]


def tone(rate: int, frequency: float = 440.0, seconds: float = 0.5, channels: int = 1) -> np.ndarray:
    wave = 0.5 * np.sin(2 * math.pi * frequency * np.arange(int(rate * seconds)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1)) if channels > 1 else wave.astype(np.float32)


def codes(frames: int, codebooks: int = 4) -> np.ndarray:
    return np.random.default_rng(frames).integers(0, 1024, (frames, codebooks))


@pytest.fixture(scope="module")
def characters() -> SmallEProcessor:
    return SmallEProcessor.from_characters()


@pytest.fixture(scope="module")
def trained() -> SmallEProcessor:
    return SmallEProcessor.train(SENTENCES * 2, vocab_size=100)


# Text


@pytest.mark.parametrize("kind", ["characters", "trained"])
@given(text=st.one_of(st.text(max_size=60), st.text(" abcdefgh.,'-é5", max_size=60), st.sampled_from(SENTENCES)))
@settings(max_examples=150, deadline=None)
def test_decoding_gives_the_normalized_text_back(request: pytest.FixtureRequest, kind: str, text: str) -> None:
    processor: SmallEProcessor = request.getfixturevalue(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normalized = processor.normalize(text)
        if not any(map(str.isalnum, normalized)):
            with pytest.raises(ValueError, match="nothing to say"):
                processor(text)
            return
        ids = processor(text).input_ids[0].tolist()
    assert ids[0] == 1
    assert ids[-1] == 2
    assert min(ids[1:-1]) > 2
    assert max(ids) < len(processor.tokenizer)
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == normalized


def test_padding_is_on_the_right_and_changes_no_row(trained: SmallEProcessor) -> None:
    batch = trained(SENTENCES)
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert batch.input_ids.dtype == torch.int64
    for row, mask, sentence in zip(batch.input_ids, batch.attention_mask, SENTENCES, strict=True):
        alone = trained(sentence).input_ids[0]
        assert row[: len(alone)].equal(alone)
        assert not row[len(alone) :].any()
        assert mask.tolist() == [1] * len(alone) + [0] * (len(row) - len(alone))


def test_tensors_arrays_and_lists_agree(characters: SmallEProcessor) -> None:
    tensors, arrays = characters(SENTENCES), characters(SENTENCES, return_tensors="np")
    lists = characters(SENTENCES, return_tensors=None, padding=False)
    assert isinstance(arrays["input_ids"], np.ndarray)
    assert tensors["input_ids"].tolist() == arrays["input_ids"].tolist()
    assert lists["input_ids"] == [characters(sentence).input_ids[0].tolist() for sentence in SENTENCES]
    assert list(map(len, lists["attention_mask"])) == list(map(len, lists["input_ids"]))


def test_foreign_letters_are_mapped_or_dropped_with_one_warning(characters: SmallEProcessor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert characters.normalize("Café, Ærø, Łódź, Straße, naïve") == "cafe, aero, lodz, strasse, naive"
    with pytest.warns(UserWarning, match="漢 💡") as caught:
        ids = characters(["hello 漢字 world", "漢 and 💡"]).input_ids
    assert len([warning for warning in caught if warning.category is UserWarning]) == 1
    assert characters.tokenizer.decode(ids[0], skip_special_tokens=True) == "hello world"


def test_a_vocabulary_with_accents_keeps_them() -> None:
    german = SmallEProcessor.from_characters("äöüß", language="de")
    assert german.normalize("Zwölf Füße für 5") == "zwölf füße für fünf"
    trained = SmallEProcessor.train(["schöne grüße", "schöne füße"], vocab_size=60, language="de")
    assert trained.tokenizer.decode(trained("Schöne Füße").input_ids[0], skip_special_tokens=True) == "schöne füße"


def test_names_of_special_tokens_in_a_text_are_words(characters: SmallEProcessor) -> None:
    ids = characters("a <pad> b <eos> c").input_ids[0].tolist()
    assert characters.tokenizer.decode(ids, skip_special_tokens=True) == "a, pad, b, eos, c"


def test_hard_and_multilingual_texts_are_read(trained: SmallEProcessor, data_dir: Path) -> None:
    lines = (data_dir / "hard_texts/hard_en.txt").read_text("utf-8").splitlines()
    batch = trained(lines)
    decoded = trained.tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True)
    assert decoded == [normalize_text(line) for line in lines]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for file in sorted((data_dir / "hard_texts").glob("*/*.txt")):
            for line in file.read_text("utf-8").splitlines():
                trained.normalize(line)


# Vocabulary


def test_vocabulary_has_special_tokens_then_characters_then_merges(data_dir: Path) -> None:
    sentences = (data_dir / "hard_texts/harvard_sentences.txt").read_text("utf-8").splitlines()
    processor = SmallEProcessor.train(sentences)
    entries = sorted(processor.tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in entries]
    assert [index for _, index in entries] == list(range(256))
    assert tokens[:3] == ["<pad>", "<bos>", "<eos>"]
    assert set(" abcdefghijklmnopqrstuvwxyz.,!?'-;:\"") == set(tokens[3:39])
    assert all(len(token) > 1 for token in tokens[39:])
    assert processor.tokenizer.unk_token is None
    shorter = processor(sentences, padding=False, return_tensors=None)["input_ids"]
    longer = SmallEProcessor.from_characters()(sentences, padding=False, return_tensors=None)["input_ids"]
    assert sum(map(len, shorter)) < 0.6 * sum(map(len, longer))


def test_training_is_deterministic_and_takes_a_generator(trained: SmallEProcessor) -> None:
    again = SmallEProcessor.train((text for text in SENTENCES * 2), vocab_size=100)
    assert again.tokenizer.backend_tokenizer.to_str() == trained.tokenizer.backend_tokenizer.to_str()


def test_training_on_a_script_with_many_letters_stays_within_the_vocabulary() -> None:
    text = "".join(chr(0x4E00 + index % 400) for index in range(1200))
    processor = SmallEProcessor.train([text], vocab_size=64, language="zh")
    assert len(processor.tokenizer) == 64


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SmallEProcessor.train([]), "no text"),
        (lambda: SmallEProcessor.train(["", " "]), "no text"),
        (lambda: SmallEProcessor.train(["a"], vocab_size=20), "at least 39"),
        (lambda: SmallEProcessor.from_characters(["ab"]), "not a single character"),
        (lambda: SmallEProcessor.from_characters("ä", config=SmallEConfig(vocab_size=39)), "Mismatched tokenizer"),
    ],
)
def test_impossible_vocabularies_are_refused(build, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_processor_of_another_model_is_refused(characters: SmallEProcessor) -> None:
    characters.check_model(SmallEConfig.from_preset("tiny"))
    for overrides, message in [
        ({"vocab_size": 30}, "Mismatched tokenizer: it has 39 entries, the model 30"),
        ({"bos_token_id": 5}, "Mismatched tokenizer: its `bos_token_id`"),
        ({"sampling_rate": 16000}, "Mismatched processor: its `sampling_rate` is 24000"),
        ({"num_codebooks": 8}, "`num_codebooks`"),
        ({"codebook_size": 2048}, "`codebook_size`"),
    ]:
        with pytest.raises(ValueError, match=message):
            characters.check_model(SmallEConfig.from_preset("tiny", **overrides))


# Voice prompts


def test_ragged_codes_are_padded_and_the_transcript_comes_first(characters: SmallEProcessor) -> None:
    prompts = [codes(7), torch.from_numpy(codes(3)), codes(5).tolist()]
    batch = characters(["One", "Two", "Three"], audio_prompt_codes=prompts, audio_prompt_text=["Eins.", "Zwei.", ""])
    assert batch.audio_prompt_codes.shape == (3, 7, 4)
    assert batch.audio_prompt_mask.tolist() == [[1] * 7, [1] * 3 + [0] * 4, [1] * 5 + [0] * 2]
    for row, prompt in zip(batch.audio_prompt_codes, prompts, strict=True):
        assert row[: len(prompt)].equal(torch.as_tensor(prompt))
        assert not row[len(prompt) :].any()
    texts = characters.tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True)
    assert texts == ["eins. one", "zwei. two", "three"]


@pytest.mark.parametrize("shape", [(6, 4), (1, 6, 4)])
def test_one_voice_serves_every_text(characters: SmallEProcessor, shape: tuple[int, ...]) -> None:
    batch = characters(["One", "Two"], audio_prompt_codes=codes(6).reshape(shape), audio_prompt_text="Hello.")
    assert batch.audio_prompt_codes.shape == (2, 6, 4)
    assert batch.audio_prompt_codes[0].equal(batch.audio_prompt_codes[1])
    texts = characters.tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True)
    assert texts == ["hello. one", "hello. two"]


def test_voice_without_transcript_is_reported(characters: SmallEProcessor) -> None:
    with pytest.warns(UserWarning, match="no transcript"):
        characters("One", audio_prompt_codes=codes(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        characters("One", audio_prompt_codes=codes(6), audio_prompt_text="")


def test_real_codes_pass(characters: SmallEProcessor, data_dir: Path) -> None:
    files = sorted((data_dir / "encodec_codes/bark_v2").glob("*.npz"))[:5]
    assert files
    prompts = [np.load(file)["fine_prompt"][:4].T for file in files]
    batch = characters(["Ask not."] * 5, audio_prompt_codes=prompts, audio_prompt_text="")
    for row, mask, prompt in zip(batch.audio_prompt_codes, batch.audio_prompt_mask, prompts, strict=True):
        np.testing.assert_array_equal(row[mask.bool()], prompt)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_of_any_rate_is_mixed_and_resampled(characters: SmallEProcessor, rate: int, channels: int) -> None:
    batch = characters(audio=tone(rate, channels=channels), sampling_rate=rate)
    waveform = batch.input_values[0].numpy()
    assert batch.input_values.dtype == torch.float32
    assert len(waveform) == pytest.approx(RATE / 2, abs=2)
    inner = slice(1000, -1000)  # a resampler's filter rings at the ends
    np.testing.assert_allclose(waveform[inner], tone(RATE)[: len(waveform)][inner], atol=2e-3)


def test_every_form_of_a_recording_gives_the_same_samples(characters: SmallEProcessor, tmp_path: Path) -> None:
    stereo = np.stack([tone(16000), -0.5 * tone(16000)])
    file = tmp_path / "voice.wav"
    soundfile.write(file, stereo.T, 16000, subtype="PCM_16")
    forms = [
        file,
        str(file),
        {"path": str(file), "array": None},
        {"bytes": file.read_bytes(), "path": None},
        {"array": stereo, "sampling_rate": 16000, "path": None},
        SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(stereo), sample_rate=16000)),
    ]
    batch = characters(audio=forms)
    samples = [stereo, torch.from_numpy(stereo), stereo.astype(np.float64), (stereo * 32767).round().astype(np.int16)]
    samples += [stereo.mean(0).tolist()]
    rows = [*batch.input_values, *characters(audio=samples, sampling_rate=16000).input_values]
    rows.append(characters(audio=stereo.mean(0).tolist(), sampling_rate=16000).input_values[0])
    assert len(rows) == 12
    for row in rows:
        torch.testing.assert_close(row, rows[0], atol=2e-4, rtol=0)


def test_recordings_of_different_length_are_padded(characters: SmallEProcessor) -> None:
    short, long = tone(RATE, seconds=0.1), tone(RATE, seconds=0.2)
    batch = characters(["a", "b"], audio=[short, long], sampling_rate=RATE, audio_prompt_text=["x", "y"])
    assert batch.input_values_mask.sum(dim=1).tolist() == [2400, 4800]
    assert batch.input_values[0, :2400].equal(torch.from_numpy(short))
    assert not batch.input_values[0, 2400:].any()


@pytest.mark.parametrize(
    "pattern",
    [
        "fsdd/**/0_*_0.wav",
        "ljspeech_sample/**/*.wav",
        "libritts_pairs/**/*.flac",
        "multilingual/de_kerstin/*.flac",
        "multilingual/common_voice/*.mp3",
        "multilingual/mls/*.opus",
        "librispeech_sample/test-clean/**/*.flac",
    ],
)
def test_real_recordings_are_read(characters: SmallEProcessor, data_dir: Path, pattern: str) -> None:
    files = sorted(data_dir.glob(pattern))[:3]
    assert files
    batch = characters(audio=files)
    for file, mask, row in zip(files, batch.input_values_mask, batch.input_values, strict=True):
        samples, rate = soundfile.read(file)
        assert mask.sum().item() == pytest.approx(len(samples) * RATE / rate, abs=3)
        assert row.abs().max().item() == pytest.approx(np.abs(samples).max(), rel=0.2)


# Refusals


@pytest.mark.filterwarnings("ignore:The voice prompt has no transcript")
@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "nothing to process", {}),
        (ValueError, "nothing to say", {"text": ""}),
        (ValueError, "nothing to say", {"text": ["fine", " \n "]}),
        (ValueError, "nothing to say", {"text": "... !?"}),
        (TypeError, "string or a list", {"text": []}),
        (TypeError, "string or a list", {"text": ["a", 5]}),
        (ValueError, "max_text_length", {"text": "long " * 500}),
        (ValueError, "given twice", {"text": "a", "audio": tone(RATE), "audio_prompt_codes": codes(3)}),
        (ValueError, "needs `text` and the voice", {"text": "a", "audio_prompt_text": "b"}),
        (TypeError, "integer codes", {"text": "a", "audio_prompt_codes": codes(3).astype(np.float32)}),
        (TypeError, "integer codes", {"text": "a", "audio_prompt_codes": codes(3) > 5}),
        (TypeError, "integers of shape", {"text": "a", "audio_prompt_codes": "codes"}),
        (TypeError, "integer codes", {"text": "a", "audio_prompt_codes": []}),
        (TypeError, "integers of shape", {"text": "a", "audio_prompt_codes": [[1, 2, 3, 4], [5]]}),
        (ValueError, "shape", {"text": "a", "audio_prompt_codes": codes(3, codebooks=8)}),
        (ValueError, "shape", {"text": "a", "audio_prompt_codes": codes(3).T}),
        (ValueError, "shape", {"text": "a", "audio_prompt_codes": codes(4)[None, None]}),
        (ValueError, "at least one frame", {"text": "a", "audio_prompt_codes": codes(4)[:0]}),
        (ValueError, "0..1023", {"text": "a", "audio_prompt_codes": codes(3) + 1024}),
        (ValueError, "0..1023", {"text": "a", "audio_prompt_codes": codes(3) - 1024}),
        (ValueError, "2 voices for 3 texts", {"text": list("abc"), "audio_prompt_codes": [codes(3)] * 2}),
        (
            ValueError,
            "2 transcripts",
            {"text": list("abc"), "audio_prompt_codes": codes(3), "audio_prompt_text": ["a", "b"]},
        ),
        (ValueError, "pass `sampling_rate`", {"audio": tone(RATE)}),
        (ValueError, "rate in Hz", {"audio": tone(RATE), "sampling_rate": 0}),
        (ValueError, "pass `sampling_rate`", {"audio": {"array": tone(RATE)}}),
        (ValueError, "NaN", {"audio": np.full(100, np.nan), "sampling_rate": RATE}),
        (ValueError, "NaN", {"audio": np.full((2, 100), np.inf), "sampling_rate": RATE}),
        (ValueError, "empty", {"audio": np.zeros(0), "sampling_rate": RATE}),
        (ValueError, "empty", {"audio": np.zeros((2, 0)), "sampling_rate": RATE}),
        (ValueError, "empty list", {"audio": []}),
        (ValueError, "too short", {"audio": np.ones(1), "sampling_rate": 10_000_000}),
        (ValueError, "transpose", {"audio": tone(RATE)[:, None], "sampling_rate": RATE}),
        (ValueError, "shape", {"audio": np.zeros((1, 1, 9)), "sampling_rate": RATE}),
        (TypeError, "floating point or integer", {"audio": np.zeros(9, bool), "sampling_rate": RATE}),
        (TypeError, "unknown", {"audio": 5, "sampling_rate": RATE}),
        (TypeError, "unknown", {"audio": {"sampling_rate": RATE}}),
        (FileNotFoundError, "no audio file", {"audio": "absent.wav"}),
    ],
)
def test_bad_input_is_refused_in_one_line(
    characters: SmallEProcessor, error: type[Exception], message: str, arguments: dict
) -> None:
    with pytest.raises(error, match=message) as caught:
        characters(**arguments)
    assert "\n" not in str(caught.value)


def test_broken_files_are_refused(characters: SmallEProcessor, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF and no more")
    with pytest.raises(ValueError, match=r"Cannot decode .*broken\.wav"):
        characters(audio=broken)
    with pytest.raises(ValueError, match="Cannot decode the bytes"):
        characters(audio={"bytes": b"no audio"})


# Checkpoints


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_saving_and_loading_changes_no_byte(tmp_path: Path) -> None:
    config = SmallEConfig.from_preset("tiny", sampling_rate=16000, num_codebooks=8, max_text_length=99)
    processor = SmallEProcessor.train(SENTENCES, vocab_size=80, language="en-GB", config=config)
    processor.save_pretrained(tmp_path / "once")
    loaded = SmallEProcessor.from_pretrained(tmp_path / "once")
    loaded.save_pretrained(tmp_path / "twice")
    assert folder_bytes(tmp_path / "once") == folder_bytes(tmp_path / "twice")
    assert {"tokenizer.json", "tokenizer_config.json", "processor_config.json"} <= set(os.listdir(tmp_path / "once"))
    assert loaded.to_dict() == processor.to_dict()
    assert (loaded.language, loaded.sampling_rate, loaded.num_codebooks) == ("en-GB", 16000, 8)
    assert loaded.max_text_length == 99
    assert loaded(SENTENCES).input_ids.equal(processor(SENTENCES).input_ids)
    loaded.check_model(config)


def test_auto_classes_load_the_folder(trained: SmallEProcessor, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    SmallEConfig.from_preset("tiny").save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is SmallEProcessor
    assert loaded(SENTENCES).input_ids.equal(trained(SENTENCES).input_ids)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    # Without the processor, too, case is no obstacle and begin and end are set.
    assert tokenizer("The DEPTH of a well").input_ids == trained("the depth of a well").input_ids[0].tolist()


REMOTE_PROCESS = """
import json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "smalle_hf":
            raise ImportError("smalle_hf is hidden")

sys.meta_path.insert(0, Hidden())
from transformers import AutoProcessor

folder, sentences = sys.argv[1], json.loads(sys.argv[2])
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
processor.save_pretrained(folder + "-copy")
AutoProcessor.from_pretrained(folder + "-copy", trust_remote_code=True)
assert "smalle_hf" not in sys.modules
again = type(processor).train(sentences * 2, vocab_size=100)
print(json.dumps({
    "class": type(processor).__name__,
    "ids": processor(sentences).input_ids.tolist(),
    "trained": again.tokenizer.backend_tokenizer.to_str(),
}))
"""


@pytest.mark.slow
def test_folder_loads_where_the_package_is_not_installed(trained: SmallEProcessor, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "voice")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", REMOTE_PROCESS, str(tmp_path / "voice"), json.dumps(SENTENCES)]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["class"] == "SmallEProcessor"
    assert result["ids"] == trained(SENTENCES).input_ids.tolist()
    # Neither the hash seed nor the process has a say in what is learnt.
    assert result["trained"] == trained.tokenizer.backend_tokenizer.to_str()


def test_threads_share_a_processor(trained: SmallEProcessor) -> None:
    batches = [SENTENCES[: 1 + index % 4] for index in range(64)]
    expected = [trained(batch).input_ids for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda batch: trained(batch).input_ids, batches))
    assert all(result.equal(wanted) for result, wanted in zip(results, expected, strict=True))
