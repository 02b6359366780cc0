"""Codecs decoded piece by piece give what they make of the whole, whatever the pieces are."""

import pytest
import torch
from codec_models import CODECS, random_codec_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EncodecConfig, EncodecModel, MimiConfig, MimiModel

from smalle_hf.codec_smalle import decode_codes
from smalle_hf.codec_streams import chunk_decoder, select_rows


def tensors_of(state):
    """All tensors of a state."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, (list, tuple)):
        return [tensor for entry in state for tensor in tensors_of(entry)]
    return [tensor for entry in getattr(state, "__dict__", {}).values() for tensor in tensors_of(entry)]


def frame_length(codec):
    return codec.config.hop_length


def decode_in_pieces(codec, codes, sizes):
    decoder, state, pieces = chunk_decoder(codec, frame_length(codec)), None, []
    for piece in codes.split(sizes, dim=1):
        audio, state = decoder.decode_chunk(piece, state)
        pieces.append(audio)
    pieces.append(decoder.decode_chunk(codes[:, :0], state, is_last=True)[0])
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("name", CODECS)
@settings(deadline=None, max_examples=15)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8), seed=st.integers(0, 99))
@torch.no_grad()
def test_pieces_add_up_to_the_whole(name, sizes, seed):
    codec = CODECS[name]()
    codes = random_codec_codes(codec, sum(sizes), batch_size=2, seed=seed)
    whole = torch.cat([decode_codes(codec, row[None], None, frame_length(codec)) for row in codes])
    audio = decode_in_pieces(codec, codes, sizes)
    # The last samples that a codec leaves out at the very end are zeros in `whole`.
    audio = torch.nn.functional.pad(audio, (0, whole.shape[1] - audio.shape[1]))
    assert whole.abs().max() > 0.01
    assert (audio - whole).abs().max() <= 1e-5 * max(1.0, whole.abs().max().item())


@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_no_piece_waits_longer_than_announced(name):
    codec = CODECS[name]()
    decoder = chunk_decoder(codec, frame_length(codec))
    for num_frames in (1, 4, 20):
        needed = decoder.frames_needed(num_frames)
        audio, _ = decoder.decode_chunk(random_codec_codes(codec, needed))
        assert audio.shape[1] >= num_frames * frame_length(codec)
        assert needed - num_frames < 40


@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_the_state_stays_small(name):
    codec = CODECS[name]()
    decoder, state, sizes = chunk_decoder(codec, frame_length(codec)), None, []
    for piece in random_codec_codes(codec, 240).split(20, dim=1):
        _, state = decoder.decode_chunk(piece, state)
        sizes.append([tensor.shape for tensor in tensors_of(state)])
    assert sizes[0]
    assert all(size == sizes[3] for size in sizes[3:])


@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_rows_part_ways(name):
    """A row that ends is taken out of the batch, and the others go on."""
    codec = CODECS[name]()
    codes = random_codec_codes(codec, 24, batch_size=3)
    decoder = chunk_decoder(codec, frame_length(codec))
    first, state = decoder.decode_chunk(codes[:, :16])
    ended, _ = decoder.decode_chunk(codes[[1], :0], select_rows(state, [1]), is_last=True)
    others, _ = decoder.decode_chunk(codes[[0, 2], 16:], select_rows(state, [0, 2]), is_last=True)
    for row, rest, num_frames in ((0, others[:1], 24), (1, ended, 16), (2, others[1:], 24)):
        whole = decode_codes(codec, codes[row : row + 1, :num_frames], None, frame_length(codec))
        audio = torch.cat([first[row : row + 1], rest], dim=1)
        torch.testing.assert_close(audio, whole[:, : audio.shape[1]], rtol=1e-4, atol=1e-5)


def test_codecs_that_need_the_whole_are_refused():
    mimi = MimiConfig(
        num_hidden_layers=1,
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        num_filters=2,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        codebook_size=8,
        head_dim=8,
        upsample_groups=16,
    )
    with pytest.raises(ValueError, match="MimiModel cannot be decoded piece by piece: generate whole"):
        chunk_decoder(MimiModel(mimi), 1920)
    for options in ({"norm_type": "time_group_norm"}, {"pad_mode": "circular"}):
        codec = EncodecModel(EncodecConfig(num_filters=2, hidden_size=8, codebook_dim=8, codebook_size=8, **options))
        with pytest.raises(ValueError, match="needs the whole utterance"):
            chunk_decoder(codec, 320)
