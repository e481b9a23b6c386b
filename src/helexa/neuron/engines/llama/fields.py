"""The fields of a request that llama.cpp's server honours. What is not here is named in a warning."""

from __future__ import annotations

SPELLINGS = {"repetition_penalty": "repeat_penalty", "typical": "typical_p"}
"""What others call a field, and what llama.cpp calls it."""

_OPENAI = (
    "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "stop", "temperature",
    "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "seed",
    "response_format", "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort",
    "input", "encoding_format", "query", "documents", "top_n",
)  # fmt: skip
_SAMPLING = (
    "top_k", "min_p", "top_n_sigma", "typical_p", "repeat_penalty", "repeat_last_n", "dry_multiplier", "dry_base",
    "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "xtc_probability", "xtc_threshold",
    "dynatemp_range", "dynatemp_exponent", "mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target",
    "adaptive_decay", "samplers", "min_keep", "ignore_eos", "n_predict", "n_probs", "post_sampling_probs",
)  # fmt: skip
_OTHERS = (
    "json_schema", "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "reasoning_format",
    "thinking_budget_tokens", "cache_prompt", "n_keep", "n_discard", "n_indent", "t_max_predict_ms",
    "timings_per_token", "return_tokens", "return_progress", "response_fields", "id_slot", "preserved_tokens",
    "content", "add_special", "parse_special", "with_pieces", "tokens", "embd_normalize",
)  # fmt: skip

KNOWN = (*_OPENAI, *_SAMPLING, *_OTHERS)
