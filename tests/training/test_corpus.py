"""Which utterances of a token cache are used, and in which batches."""

from dataclasses import replace

import pytest
from accelerate import Accelerator, DataLoaderConfiguration
from training_runs import CODEC, forget_accelerate, make_rows, write_cache

from smalle_hf import SmallEConfig
from smalle_hf.data.collator import SmallECollator
from smalle_hf.data.token_cache import TokenCacheError
from smalle_hf.training.arguments import ArgumentsError, TrainingArguments
from smalle_hf.training.corpus import StepLoader, hold_out, open_corpora, open_corpus

COLLATOR = SmallECollator(
    SmallEConfig.from_preset("tiny", codebook_size=64), lambda text: list(text.encode()), return_ids=True
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("caches") / "train", 40)


@pytest.fixture
def accelerator():
    forget_accelerate()
    yield Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(even_batches=False), rng_types=[])
    forget_accelerate()


def arguments(folder, **options):
    return TrainingArguments(train_data=str(folder), output_dir="run", **{"frames_per_batch": 300, **options})


def test_unusable_utterances_are_counted(tmp_path):
    rows = make_rows(20)
    rows[3]["text"] = None
    frames = [len(row["codes"]) for row in rows]
    folder = write_cache(tmp_path / "cache", rows=rows)
    corpus = open_corpus(str(folder), arguments(folder, min_frames=25, max_frames=50))
    expected = [index for index, length in enumerate(frames) if 25 <= length <= 50 and index != 3]
    assert corpus.rows.tolist() == expected
    assert corpus.num_frames.tolist() == [frames[index] for index in expected]
    assert corpus.texts() == [rows[index]["text"] for index in expected]
    assert corpus.left_out == {
        "no text": 1,
        "fewer than 25 frames": sum(length < 25 for length in frames),
        "more than 50 frames": sum(length > 50 for length in frames),
    }
    assert corpus.hours == pytest.approx(sum(frames[index] for index in expected) / 50 / 3600)


def test_texts_are_spread_evenly_over_the_corpus(folder):
    corpus = open_corpus(str(folder), arguments(folder))
    texts = corpus.texts(4)
    assert len(texts) == 4
    assert (texts[0], texts[-1]) == (corpus.texts()[0], corpus.texts()[-1])
    assert sum(corpus.counts("speaker").values()) == 40


def test_held_out_utterances_are_not_trained_on(folder):
    corpus = open_corpus(str(folder), arguments(folder))
    kept, held_out = hold_out(corpus, 7, seed=0)
    assert len(held_out.rows) == 7
    assert sorted([*kept.rows, *held_out.rows]) == corpus.rows.tolist()
    assert hold_out(corpus, 7, seed=0)[1].fingerprint() == held_out.fingerprint()
    assert hold_out(corpus, 7, seed=1)[1].fingerprint() != held_out.fingerprint()
    with pytest.raises(ArgumentsError, match="leaves nothing"):
        hold_out(corpus, 40, seed=0)


def test_what_is_no_cache_is_told(tmp_path, folder):
    with pytest.raises(ArgumentsError, match="There is no folder"):
        open_corpora(arguments(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenCacheError, match="no token cache"):
        open_corpora(arguments(tmp_path / "empty"))
    with pytest.raises(ArgumentsError, match="no usable utterance"):
        open_corpora(arguments(folder, min_frames=1000))
    with pytest.raises(ArgumentsError, match="empty token cache"):
        open_corpora(arguments(write_cache(tmp_path / "no rows", rows=[])))
    other = write_cache(tmp_path / "other codec", 4, codec=replace(CODEC, version="sha256:1"))
    with pytest.raises(ArgumentsError, match="different codecs"):
        open_corpora(arguments(folder, validation_data=str(other)))


def test_a_step_has_the_same_batches_however_they_are_accumulated(folder, accelerator):
    corpus = open_corpus(str(folder), arguments(folder))
    loader = StepLoader(corpus, COLLATOR, accelerator, arguments(folder), accumulation=2)
    steps = list(loader.epoch(0))
    assert len(steps) == loader.steps_per_epoch
    assert {len(step) for step in steps} == {2}
    seen = [name for step in steps for batch in step for name in batch["id"]]
    assert sorted(seen) == sorted(row["id"] for row in make_rows(40))


def test_training_goes_on_inside_an_epoch(folder, accelerator):
    corpus = open_corpus(str(folder), arguments(folder))

    def ids(first, count):
        loader = StepLoader(corpus, COLLATOR, accelerator, arguments(folder), accumulation=1)
        steps = loader.from_step(first)
        return [next(steps)[0]["id"] for _ in range(count)]

    per_epoch = StepLoader(corpus, COLLATOR, accelerator, arguments(folder), accumulation=1).steps_per_epoch
    whole = ids(0, 3 * per_epoch)
    assert whole[:per_epoch] != whole[per_epoch : 2 * per_epoch]
    for first in (1, per_epoch - 1, per_epoch, 2 * per_epoch + 1):
        assert ids(first, 3 * per_epoch - first) == whole[first:]


def test_too_little_data_for_the_processes_is_told(folder, accelerator):
    corpus = hold_out(open_corpus(str(folder), arguments(folder)), 3, seed=0)[1]
    with pytest.raises(ArgumentsError, match="take fewer replicas or more"):
        StepLoader(corpus, COLLATOR, accelerator, arguments(folder), accumulation=4)
