"""`generate()`: the delay pattern, voice prompts, sampling per codebook, stopping.

One generation is a sequence of columns of delayed ids. Rows of a batch are independent: each has its own voice prompt,
frame index, limit and end; a row that is done is frozen, so its state is the one that it would have alone.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerationMode, MaxTimeCriteria
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

from .cache_smalle import SmallECache
from .candidates_smalle import check_candidate_options, expand_randomness, keep_best
from .column_blocks import ColumnBlocks
from .decoding_step import decoding_step
from .delay_pattern import apply_delay, ids_to_codes, revert_delay
from .delayed_rows import DelayedRows
from .generation_checks import check_generation_inputs, check_generation_options, check_voice_prompt
from .outputs_smalle import SmallEColumn, SmallEGenerateOutput
from .sampling_smalle import Generators, choose_ids, make_generators
from .streaming_smalle import AudioAssembler, SmallEStreamingMixin, feeds_streamer

logger = logging.get_logger(__name__)


class SmallEGenerationMixin(SmallEStreamingMixin, GenerationMixin):
    """`generate()` of [`SmallEForSpeechGeneration`]."""

    @feeds_streamer
    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        audio_prompt_codes: torch.Tensor | None = None,
        audio_prompt_mask: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        input_values_mask: torch.Tensor | None = None,
        generator: Generators = None,
        seed: int | list[int] | None = None,
        **kwargs: Any,
    ) -> SmallEGenerateOutput | torch.Tensor:
        r"""Speaks texts.

        Args:
            inputs or input_ids (`torch.LongTensor` of shape `(B, S)`): Text ids from [`SmallEProcessor`]; with a voice
                prompt, the ids of its transcript followed by the new text.
            generation_config (`GenerationConfig`, *optional*): Sampling options, instead of the model's.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*): 1 for text, 0 for padding.
            audio_prompt_codes (`torch.LongTensor` of shape `(B, T, Q)`, *optional*): Codec codes of a voice to go on
                with.
            audio_prompt_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for frames, 0 for padding.
            input_values (`torch.Tensor` of shape `(B, samples)`, *optional*): The voice as audio at
                `config.sampling_rate`, instead of codes; with `input_values_mask` of the same shape.
            generator (`torch.Generator` or a list of B of them, *optional*): Source of randomness. With a list, a row
                draws the same numbers in any batch.
            seed (`int` or `list[int]`, *optional*): Shorthand for a list of generators seeded `seed, seed + 1, ...`.
            do_sample (`bool`), temperature (`float`), top_k (`int`), top_p (`float`), ...: As in Transformers. By
                default the paper's: sampling from the 100 best at temperature 1.
            num_sampled_codebooks (`int`, defaults to 1): Codebooks that are sampled; the later ones take the best id.
            max_new_tokens (`int`, *optional*): Frames to return at most. By default `config.max_frames_per_text_token`
                per text token of each row.
            num_return_sequences (`int`, defaults to 1): Utterances per text.
            num_candidates (`int`, defaults to 1): Utterances that are sampled of each text, of which the one is
                returned whose alignment reads the text best; see `score_alignments`.
            enforce_delay_pattern (`bool`, defaults to `True`): Rule out ids that contradict the delay pattern and end
                with the first codebook's stop id. `False`: emit whatever the model prefers, and end when all codebooks
                emit the stop id in one column, as the paper's released code does.
            logits_processor, stopping_criteria: As in Transformers. They see ids of shape `(B * Q, C)` and `(B, C,
                Q)`, the last input column and the emitted ones, and scores of shape `(B * Q, V)` and `(B, Q, V)`.
            return_alignments (`bool`, defaults to `False`): Whether to return `alignments`.
            output_audio (`bool`, *optional*): Whether to decode the codes; by default if the checkpoint holds a codec.
            past_key_values ([`SmallECache`], *optional*): State returned by an earlier call with the same text, to
                continue it. It is not changed.
            streamer (`BaseStreamer`, *optional*): Is given the speech while it is generated, as [`SmallEAudioChunk`]s;
                see [`AudioStreamer`]. The output has no audio then, unless `output_audio` asks for it.
            disable_compile (`bool`), compile_config (`CompileConfig`): As in Transformers. On a GPU the step is
                recorded as a CUDA graph, once per batch size and 64 tokens of text; the first turns that off, the
                second compiles the step instead.
            output_scores, output_logits, return_dict_in_generate (`bool`): As in Transformers; the last defaults to
                `True`.

        Returns:
            [`SmallEGenerateOutput`]; without `return_dict_in_generate`, the waveforms, or the codes where there is no
            codec.

        Raises:
            ValueError: The text is empty, too long or of another tokenizer; the prompt does not fit the model; a mode
                is asked for that this model does not have. Raised before any heavy work.
            TypeError: Ids or codes are no integers.
        """
        if inputs is not None:
            if kwargs.get("input_ids") is not None:
                raise ValueError("Pass the text once: as `inputs` or as `input_ids`.")
            kwargs["input_ids"] = inputs
        if kwargs.get("max_length") is not None:
            raise ValueError("Small-E counts the frames it returns: use `max_new_tokens` instead of `max_length`.")
        options = self._options(generation_config, kwargs)
        check_generation_options(options)
        num_candidates = check_candidate_options(options)
        num_rows = check_generation_inputs(self.config, kwargs)
        if input_values is not None:
            if audio_prompt_codes is not None:
                raise ValueError("Pass the voice once: as `audio_prompt_codes` or as `input_values`.")
            if input_values.ndim > 1 and len(input_values) != num_rows:
                raise ValueError(f"`input_values` needs one prompt for each of the {num_rows} texts.")
            self._prepare_generation_config(generation_config, **kwargs)  # for its checks, before the codec runs
            audio_prompt_codes, audio_prompt_mask = self.encode_audio(input_values, input_values_mask)
        if audio_prompt_codes is not None:
            check_voice_prompt(self.config, audio_prompt_codes, audio_prompt_mask, num_rows, kwargs)
            kwargs |= self._voice_prompt_columns(audio_prompt_codes, audio_prompt_mask)
        if kwargs.get("attention_mask") is None and kwargs.get("input_ids") is not None:
            kwargs["attention_mask"] = (kwargs["input_ids"] != self.config.pad_token_id).long()
            options["attention_mask"] = kwargs["attention_mask"]
        kwargs.setdefault("return_dict_in_generate", True)
        kwargs |= self._frame_limits(num_rows, options)
        if num_candidates > 1:
            kwargs["num_return_sequences"] = num_candidates
            generator, seed = expand_randomness(generator, seed, num_rows, num_candidates)
        num_generated = num_rows * (kwargs.get("num_return_sequences") or options.get("num_return_sequences") or 1)
        kwargs["generators"] = make_generators(generator, seed, num_generated, self.device)
        return super().generate(generation_config=generation_config, **kwargs)

    def _options(self, generation_config: GenerationConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What applies to this call: the model's generation configuration, the caller's, the caller's arguments."""
        sources = (self.generation_config.to_dict(), {} if generation_config is None else generation_config.to_dict())
        return {name: value for source in (*sources, kwargs) for name, value in source.items() if value is not None}

    def _voice_prompt_columns(
        self, codes: torch.Tensor, mask: torch.Tensor | None
    ) -> dict[str, torch.Tensor | torch.Tensor]:
        """The columns that a prompt fills wholly, as decoder inputs, and the ids that it puts into the next ones."""
        codes = codes.to(self.device)
        keep = torch.ones_like(codes[..., 0], dtype=torch.bool) if mask is None else mask.bool().to(codes.device)
        delayed = [apply_delay(row[row_keep], self.config) for row, row_keep in zip(codes, keep, strict=True)]
        lengths = keep.sum(dim=-1).tolist()
        max_delay, offset = self.config.max_delay, self.config.codebook_offset
        full = [row[: length + 1] for row, length in zip(delayed, lengths, strict=True)]
        partial = [row[length + 1 : length + 1 + max_delay] for row, length in zip(delayed, lengths, strict=True)]
        pad_sequence = torch.nn.utils.rnn.pad_sequence
        prompt_ids = torch.stack(partial)
        return {
            "decoder_input_ids": pad_sequence(full, batch_first=True, padding_value=self.config.audio_pad_token_id),
            "decoder_attention_mask": pad_sequence([torch.ones_like(row[:, 0]) for row in full], batch_first=True),
            "prompt_ids": prompt_ids.masked_fill(prompt_ids < offset, -1),
        }

    def _frame_limits(self, num_rows: int, options: dict[str, Any]) -> dict[str, Any]:
        """Frames that each row may return: the caller's limit, or one that follows from the row's text."""
        limit = options.get("max_new_tokens")
        if limit is not None:
            return {"frame_limits": torch.full((num_rows,), limit, device=self.device)}
        mask = options.get("attention_mask")
        if mask is None:
            text = options["input_ids"] if "input_ids" in options else options["encoder_outputs"][0][..., 0]
            mask = torch.ones_like(text)
        limits = (mask.sum(dim=-1) * self.config.max_frames_per_text_token).ceil().long().to(self.device)
        limits = limits.clamp(max=options.get("max_length", torch.iinfo(limits.dtype).max))
        return {"frame_limits": limits, "is_default_limit": True}

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        own = {
            "num_sampled_codebooks": 1,
            "enforce_delay_pattern": True,
            "return_alignments": False,
            "output_audio": self.codec_model is not None,
            "is_default_limit": False,
            "num_candidates": 1,
            "generators": None,
            "streaming": None,
        }
        given = {name: kwargs.pop(name) for name in own if kwargs.get(name) is not None}
        kwargs = {name: value for name, value in kwargs.items() if name not in own}
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        for name, default in own.items():
            stored = getattr(generation_config, name, None)
            setattr(generation_config, name, given.get(name, default if stored is None else stored))
        mode = generation_config.get_generation_mode()
        if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            raise ValueError(
                f"Small-E cannot generate by {mode.value.replace('_', ' ')}: leave `num_beams`, `penalty_alpha`, "
                "`dola_layers` and assistants at their defaults."
            )
        if generation_config.output_audio:
            self._require_codec()
        if not 0 <= generation_config.num_sampled_codebooks <= self.config.num_codebooks:
            raise ValueError(f"`num_sampled_codebooks` must lie in 0..{self.config.num_codebooks}.")
        return generation_config, model_kwargs

    def _prepare_generated_length(self, generation_config: GenerationConfig, **kwargs: Any) -> GenerationConfig:
        # Limits are kept per row and in frames (`_frame_limits`); Transformers' are per batch and in columns.
        return generation_config

    def _validate_generated_length(self, *args: Any, **kwargs: Any) -> None:
        # As above: there is no common length to check.
        return

    def _prepare_decoder_input_ids_for_generation(
        self, batch_size: int, model_kwargs: dict[str, Any], device: torch.device | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        ids = model_kwargs.pop("decoder_input_ids", None)
        cache = model_kwargs.get("past_key_values")
        if ids is None and cache is not None and cache.last_ids is not None:
            ids = cache.last_ids[:, -1:]
        if ids is None:
            shape = (batch_size, 1, self.config.num_codebooks)
            ids = torch.full(shape, self.config.audio_bos_token_id, device=self.device)
        return ids.to(self.device), model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        num_rows = model_kwargs["encoder_outputs"][0].shape[0]
        cache = model_kwargs.get("past_key_values")
        if cache is not None:
            cache = cache.to(self.device)
            if cache.batch_size != num_rows:
                cache.batch_repeat_interleave(num_rows // cache.batch_size)
        elif generation_config.use_cache is not False:
            cache = SmallECache(self.config, num_rows, self.device)
        model_kwargs["past_key_values"] = cache

    def _get_logits_processor(
        self, generation_config: GenerationConfig, *args: Any, **kwargs: Any
    ) -> LogitsProcessorList:
        # Transformers' own minimum length would count columns of every codebook; `DelayedRows.restrict` counts frames.
        minimum = generation_config.min_length, generation_config.min_new_tokens
        generation_config.min_length = generation_config.min_new_tokens = None
        processors = super()._get_logits_processor(generation_config, *args, **kwargs)
        generation_config.min_length, generation_config.min_new_tokens = minimum
        return processors

    def _get_stopping_criteria(
        self, generation_config: GenerationConfig, stopping_criteria: StoppingCriteriaList | None, **kwargs: Any
    ) -> StoppingCriteriaList:
        # Length and end are known per row, so of Transformers' criteria only the time limit is left.
        criteria = StoppingCriteriaList()
        if generation_config.max_time is not None:
            criteria.append(MaxTimeCriteria(max_time=generation_config.max_time))
        criteria.extend(stopping_criteria or [])
        return criteria

    def prepare_inputs_for_generation(
        self,
        decoder_input_ids: torch.Tensor,
        prompt_ids: torch.Tensor | None = None,
        frame_limits: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of the next forward pass. `prompt_ids` and `frame_limits` are generation's own and stay out of it."""
        return {"decoder_input_ids": decoder_input_ids, **kwargs}

    def _sample(
        self,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        prompt_ids: torch.Tensor | None = None,
        *,
        frame_limits: torch.Tensor,
        **model_kwargs: Any,
    ) -> Any:
        """Turns the columns of `_columns` into codes and sound, or yields their sound as they come."""
        cache: SmallECache | None = model_kwargs.get("past_key_values")
        rows = self._start_rows(input_ids, model_kwargs, frame_limits, prompt_ids, generation_config)
        is_continued = cache is not None and cache.last_ids is not None
        # What the first frames need from before: their leading codebooks and alignments, if this is a continuation.
        ids_before = rows.history if is_continued else rows.history[:, -1:]
        alignments_before = rows.alignments if is_continued else None
        columns = self._columns(
            input_ids, rows, logits_processor, stopping_criteria, generation_config, synced_gpus, model_kwargs
        )
        streaming = generation_config.streaming
        if streaming is not None:
            assembler = AudioAssembler(self.config, rows, ids_before, alignments_before, streaming)
            if streaming.streamer is None:
                return self._yield_chunks(columns, assembler, cache, generation_config)
            columns = assembler.play(columns, cache)
        goes_on = is_continued or input_ids.shape[1] > 1
        return self._collect(columns, rows, ids_before, alignments_before, goes_on, generation_config, model_kwargs)

    def _collect(
        self,
        columns: Iterator[SmallEColumn],
        rows: DelayedRows,
        ids_before: torch.Tensor,
        alignments_before: torch.Tensor | None,
        goes_on: bool,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
    ) -> SmallEGenerateOutput | torch.Tensor | None:
        """What `generate` returns of the columns."""
        needs_alignments = generation_config.return_alignments or generation_config.num_candidates > 1
        ids, scores, logits = ColumnBlocks(ids_before), [], []
        alignments = ColumnBlocks(rows.alignments[:, :0] if alignments_before is None else alignments_before)
        for column in columns:
            ids.append(column.ids)
            if needs_alignments:
                alignments.append(column.alignment)
            if generation_config.output_scores:
                scores.append(column.scores)
            if generation_config.output_logits:
                logits.append(column.logits)
        cache: SmallECache | None = model_kwargs.get("past_key_values")
        rows.save_to(cache)

        lengths = rows.lengths()
        is_frame = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
        delayed_ids = ids.join()
        codes = ids_to_codes(revert_delay(delayed_ids, self.config)[:, : is_frame.shape[1]], self.config)
        output = SmallEGenerateOutput(
            sequences=codes.mul_(is_frame[..., None]),
            sequence_lengths=lengths,
            is_finished=rows.is_finished,
            delayed_ids=delayed_ids[:, ids_before.shape[1] :],
            scores=tuple(scores) if generation_config.output_scores else None,
            logits=tuple(logits) if generation_config.output_logits else None,
            past_key_values=cache,
        )
        if needs_alignments:
            aligned = alignments.join()[:, : is_frame.shape[1]]
            output.alignments = aligned * is_frame[..., None]
        output, limits = keep_best(output, rows.limits, model_kwargs.get("attention_mask"), goes_on, generation_config)
        self._report_limit(output.is_finished, output.sequence_lengths, limits, generation_config)
        if generation_config.output_audio:
            output.audio = self.decode_audio(output.sequences, output.sequence_lengths)
            output.audio_lengths = output.sequence_lengths * self.config.frame_length
        if generation_config.return_dict_in_generate:
            return output
        return output.sequences if output.audio is None else output.audio

    def _start_rows(
        self,
        input_ids: torch.Tensor,
        model_kwargs: dict[str, Any],
        frame_limits: torch.Tensor,
        prompt_ids: torch.Tensor | None,
        generation_config: GenerationConfig,
    ) -> DelayedRows:
        cache: SmallECache | None = model_kwargs.get("past_key_values")
        mask = model_kwargs.get("decoder_attention_mask")
        size = self.config.max_delay + 1
        num_rows, num_columns = input_ids.shape[:2]
        lengths = torch.full((num_rows,), num_columns, device=input_ids.device) if mask is None else mask.sum(dim=-1)
        is_finished = torch.zeros(num_rows, dtype=torch.bool, device=input_ids.device)
        num_text_tokens = model_kwargs["encoder_outputs"][0].shape[1]
        alignments = torch.zeros(num_rows, self.config.max_delay, num_text_tokens, device=input_ids.device)
        if cache is not None and cache.last_ids is not None:
            history, is_finished = cache.last_ids, cache.is_finished
            alignments = _fit_alignments(cast(torch.Tensor, cache.last_alignments), num_text_tokens)
            next_column = cache.frame_index + lengths
            first_frame = next_column - 1 - self.config.max_delay
        else:
            # The last columns of each row, wherever its padding is; short rows repeat their start column.
            order = input_ids.new_zeros(num_rows, num_columns) if mask is None else -mask.long()
            index = lengths[:, None] - size + torch.arange(size, device=input_ids.device)
            index = order.argsort(dim=-1, stable=True).gather(1, index.clamp(min=0))
            history = input_ids.gather(1, index[..., None].expand(-1, -1, input_ids.shape[-1]))
            consumed = 0 if cache is None else cache.frame_index
            next_column = consumed + lengths
            first_frame = next_column - 1
        return DelayedRows(
            self.config,
            next_column,
            history,
            alignments,
            first_frame,
            frame_limits,
            prompt_ids,
            generation_config.enforce_delay_pattern,
            is_finished,
        )

    def _columns(
        self,
        input_ids: torch.Tensor,
        rows: DelayedRows,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool,
        model_kwargs: dict[str, Any],
    ) -> Iterator[SmallEColumn]:
        """Emits column after column until every row is done. `rows` stands behind the column that is emitted."""
        cache = model_kwargs.get("past_key_values")
        forward: Callable[..., Any] = self.__call__  # the first call may have any length
        mask = model_kwargs.pop("decoder_attention_mask", None)
        model_kwargs.pop("logits_to_keep", None)
        num_sampled = generation_config.num_sampled_codebooks if generation_config.do_sample else 0
        # What processors and criteria are shown: the last input column, then the emitted ones.
        seen = input_ids[:, -1:]
        needs_ids = bool(stopping_criteria) or not all(isinstance(p, _ID_FREE_WARPERS) for p in logits_processor)
        num_done = int(rows.is_done.sum())
        if mask is None and cache is not None and num_done:
            mask = (~rows.is_done)[:, None].long()
        with decoding_step(self, model_kwargs, generation_config) as step:
            while self._has_unfinished_sequences(num_done == len(input_ids), synced_gpus, input_ids.device):
                inputs = self.prepare_inputs_for_generation(input_ids, decoder_attention_mask=mask, **model_kwargs)
                outputs = forward(**inputs, output_attentions=True, logits_to_keep=_last_columns(mask))
                forward = step
                raw = _take_last(outputs.logits, mask).float()
                alignment = _alignment(_take_last(outputs.cross_attentions.transpose(1, 2), mask), self.config)
                scores = rows.restrict(raw, generation_config.min_new_tokens or 0)
                flat_ids, flat_scores = seen.transpose(1, 2).flatten(0, 1), scores.flatten(0, 1)
                for processor in logits_processor:  # calling the list itself would look up their signatures every time
                    flat_scores = processor(flat_ids, flat_scores)
                scores = flat_scores.view_as(raw)
                ids = rows.dictate(choose_ids(scores, num_sampled, generation_config.generators))
                running = ~rows.is_done
                rows.advance(ids, alignment)
                if num_done < len(running):
                    yield SmallEColumn(ids, alignment, scores, raw, running)
                if needs_ids:
                    seen = torch.cat([seen, ids[:, None]], dim=1)
                    # Not before a whole frame is there: what a generation leaves behind can then be continued.
                    if rows.num_columns > self.config.max_delay:
                        rows.is_done = rows.is_done | stopping_criteria(seen, scores)
                num_done = int(rows.is_done.sum())  # the only time that a step waits for the device
                if cache is None:  # everything anew, frozen rows included: their columns are masked
                    mask = torch.ones_like(input_ids[..., 0]) if mask is None else mask
                    mask = torch.cat([mask, (~rows.is_done)[:, None].to(mask.dtype)], dim=1)
                    input_ids = torch.cat([input_ids, ids[:, None]], dim=1)
                else:
                    mask = (~rows.is_done)[:, None].long() if num_done else None
                    input_ids = ids[:, None]

    def _report_limit(
        self, is_finished: Any, lengths: Any, limits: torch.Tensor, generation_config: GenerationConfig
    ) -> None:
        is_cut = ~is_finished & (lengths >= limits)
        met = is_cut.nonzero().flatten().tolist()
        if met and generation_config.is_default_limit:
            logger.warning(
                f"Rows {met} were cut at their limit of {limits[met].tolist()} frames before they ended: the "
                "model lost the text, or speaks slower than `config.max_frames_per_text_token`; set `max_new_tokens`."
            )


_ID_FREE_WARPERS = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)
"""Processors that do not look at the ids: with these alone, no history has to be put together."""


def _last_columns(mask: torch.Tensor | None) -> int:
    """How many columns have to be scored: the last one, or all where rows end in different ones."""
    return 1 if mask is None else 0


def _take_last(x: Any, mask: torch.Tensor | None) -> torch.Tensor:
    """(B, T, ...) -> (B, ...): what belongs to the last column that the mask keeps."""
    if mask is None or mask.shape[1] == 1:
        return x[:, -1]
    last = mask.shape[1] - 1 - mask.flip(1).long().argmax(dim=-1)
    return x[torch.arange(len(x), device=x.device), last]


def _alignment(attentions: torch.Tensor, config: Any) -> torch.Tensor:
    """(B, maps, S) -> (B, S): PACA's second map, or the mean over the heads."""
    return attentions[:, 1] if config.cross_attention == "paca" else attentions.mean(dim=1)


def _fit_alignments(alignments: torch.Tensor, num_text_tokens: int) -> torch.Tensor:
    """Alignments to as many text tokens as there are now, zeros where there were none."""
    return torch.nn.functional.pad(alignments, (0, num_text_tokens - alignments.shape[-1]))


__all__ = ["SmallEGenerationMixin"]
