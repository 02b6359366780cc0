"""Perplexity per codebook: against its definition, over batches, and over processes."""

import math
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from smalle_hf.metrics import CodebookPerplexity, codebook_nats


def random_batch(seed: int, frames: int):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, frames, 3, 11, generator=generator)
    labels = torch.randint(0, 11, (2, frames, 3), generator=generator)
    labels[1, frames // 2 :] = -100
    return logits, labels


def test_uniform_and_certain_predictions_have_known_perplexities():
    logits = torch.zeros(1, 5, 2, 8)
    labels = torch.full((1, 5, 2), 3)
    logits[..., 1, 3] = 1e4
    nats, counts = codebook_nats(logits, labels)
    result = CodebookPerplexity().compute(nats=[nats.tolist()], counts=[counts.tolist()])
    assert result["perplexity_per_codebook"] == pytest.approx([8.0, 1.0])
    assert result["perplexity"] == pytest.approx(math.sqrt(8))
    assert result["nats_per_code"] == pytest.approx(math.log(8) / 2)
    assert result["num_codes"] == 10


def test_batches_of_different_size_weigh_by_their_codes():
    batches = [random_batch(0, 4), random_batch(1, 20)]
    metric = CodebookPerplexity()
    for logits, labels in batches:
        nats, counts = codebook_nats(logits, labels)
        metric.add(nats=nats.tolist(), counts=counts.tolist())
    result = metric.compute()
    for codebook in range(3):
        chosen = [
            logits[..., codebook, :]
            .log_softmax(-1)
            .gather(-1, labels[..., codebook, None].clamp(min=0))[..., 0][labels[..., codebook] != -100]
            for logits, labels in batches
        ]
        assert result["perplexity_per_codebook"][codebook] == pytest.approx(
            math.exp(-torch.cat(chosen).mean()), rel=1e-5
        )


def test_the_loss_of_the_model_is_the_same_number(tiny_model):
    config = tiny_model.config
    ids = torch.randint(0, config.audio_vocab_size, (2, 9, config.num_codebooks))
    labels = ids[:, 1:].clone()
    labels[0, 5:] = -100
    with torch.no_grad():
        output = tiny_model(input_ids=torch.randint(3, 50, (2, 6)), decoder_input_ids=ids[:, :-1], labels=labels)
    nats, counts = codebook_nats(output.logits, labels)
    result = CodebookPerplexity().compute(nats=[nats.tolist()], counts=[counts.tolist()])
    assert result["perplexity"] == pytest.approx(math.exp(output.loss), rel=1e-4)
    assert result["perplexity_per_codebook"] == pytest.approx(output.codebook_losses.exp().tolist(), rel=1e-4)


def test_a_codebook_without_codes_and_an_exploded_one_do_not_raise():
    result = CodebookPerplexity().compute(nats=[[0.0, 1e6]], counts=[[0, 2]])
    assert math.isnan(result["perplexity_per_codebook"][0])
    assert result["perplexity_per_codebook"][1] == math.inf


def _rank(rank: int, port: int, results) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    nats, counts = codebook_nats(*random_batch(rank, 4 + 8 * rank))
    result = CodebookPerplexity(keep_in_memory=True).compute(nats=[nats.tolist()], counts=[counts.tolist()])
    results[rank] = result
    dist.destroy_process_group()


@pytest.mark.slow
def test_every_rank_gets_the_result_of_all():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with multiprocessing.get_context("spawn").Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(_rank, args=(port, results), nprocs=2)
        together = CodebookPerplexity()
        for rank in range(2):
            nats, counts = codebook_nats(*random_batch(rank, 4 + 8 * rank))
            together.add(nats=nats.tolist(), counts=counts.tolist())
        expected = together.compute()
        for rank in range(2):
            assert results[rank]["perplexity_per_codebook"] == pytest.approx(expected["perplexity_per_codebook"])
            assert results[rank]["num_codes"] == expected["num_codes"]
