"""Kinds of caches, inputs and decoding under transformers: what transformers 5.23 keeps, in closed form."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter
from vrameter.errors import RequestError

MIB = 2**20


def ask(model: str = "llama-3.1-8b", **settings: Any) -> vrameter.Response:
    return vrameter.estimate({"model": model, "engine": "transformers", "settings": settings})


def lines(response: vrameter.Response, term: str, phase: str) -> list[int]:
    items = response["devices"][0]["items"]
    return [item["bytes"] for item in items if item["term"] == term and phase in item["phases"]]


def cache(response: vrameter.Response, phase: str = "decode") -> int:
    return sum(lines(response, "kv_cache", phase))


def test_a_static_cache_has_its_length_at_once() -> None:
    answer = ask(cache_implementation="static", context_length=4096, max_new_tokens=2048)
    assert cache(answer, "prefill") == cache(answer) == 4096 * 131_072
    dynamic = ask(context_length=4096, max_new_tokens=2048)
    assert cache(dynamic, "prefill") == 2048 * 131_072


def test_static_windows_keep_only_the_window() -> None:
    """Gemma 2 9B: 21 layers keep 4,096 tokens, 21 all; keys and values of 8 heads of 256 each."""
    answer = ask("gemma-2-9b", cache_implementation="hybrid", context_length=8192)
    element = 4 if answer["request"]["dtype"] == "fp32" else 2
    assert cache(answer) == 21 * (8192 + 4096) * 2 * 8 * 256 * element


def test_an_offloaded_cache_keeps_two_layers() -> None:
    whole = cache(ask(context_length=8192))
    assert cache(ask(cache_implementation="offloaded", context_length=8192)) == whole * 2 // 32


def test_offloaded_static_keeps_windows_on_the_device() -> None:
    answer = ask("gemma-2-9b", cache_implementation="offloaded_static", context_length=8192)
    whole = cache(ask("gemma-2-9b", cache_implementation="static", context_length=8192))
    full = whole * 8192 // (8192 + 4096)
    assert cache(answer) == whole - full + full * 2 // 21


def test_a_quantised_cache_keeps_up_to_its_residual_whole() -> None:
    """4 bits and two 16-bit numbers for every 64: 4.5 bits; after 256 new tokens at most 127 are whole."""
    answer = ask(cache_implementation="quantized", context_length=8192, max_new_tokens=256)
    token = 131_072 * 4.5 / 16
    assert cache(answer, "prefill") == (8192 - 256) * token
    assert cache(answer) == (8192 - 127) * token + 127 * 131_072
    few = ask(cache_implementation="quantized", context_length=8192, max_new_tokens=10, q_group_size=32)
    assert cache(few) == (8192 - 10) * 131_072 * 5 / 16 + 10 * 131_072


def test_a_quantised_cache_is_unpacked_layer_by_layer() -> None:
    answer = ask(cache_implementation="quantized", context_length=8192)
    assert 2 * 8192 * 131_072 // 32 in lines(answer, "temporary", "decode")


@pytest.mark.parametrize("model", ["gemma-2-9b", "t5-base"])
def test_caches_that_are_not_quantised(model: str) -> None:
    with pytest.raises(RequestError, match="attend to all"):
        ask(model, cache_implementation="quantized")


def test_beams_choose_from_logarithms_of_every_token() -> None:
    answer = ask(num_beams=4, max_new_tokens=16, context_length=1024)
    assert lines(answer, "logits", "decode") == [4 * 128256 * (2 + 12)]


def test_padded_batches_have_a_mask() -> None:
    """One byte for each pair of tokens of every sequence; none for one sequence, none for flash attention."""
    assert 4 * 2048**2 in lines(ask(batch_size=4, context_length=2048), "temporary", "prefill")
    assert not lines(ask(context_length=2048), "temporary", "prefill")
    flash = ask(batch_size=4, context_length=2048, attn_implementation="flash_attention_2")
    assert not lines(flash, "temporary", "prefill")


def test_windows_shorter_than_the_prompt_have_a_mask() -> None:
    assert 8192**2 in lines(ask("gemma-3-4b", context_length=8192), "temporary", "prefill")
    assert 1024**2 not in lines(ask("gemma-3-4b", context_length=1024), "temporary", "prefill")


def test_heads_with_sinks_are_eager() -> None:
    answer = ask("gpt-oss-20b", context_length=2048)
    assert answer["request"]["settings"]["attn_implementation"] == "eager"
    assert 2048**2 * 2 * (3 * 64 + 1) in lines(answer, "temporary", "prefill")


def test_an_assistant_has_weights_and_a_cache() -> None:
    answer = ask(assistant_model="llama-3.2-1b", context_length=4096)
    alone = ask("llama-3.2-1b", context_length=4096)
    assert alone["report"]["weights_bytes"] in lines(answer, "weights", "decode")
    assert cache(answer) == cache(ask(context_length=4096)) + cache(alone)
    with pytest.raises(RequestError, match="one sequence"):
        ask(assistant_model="llama-3.2-1b", batch_size=2)
    with pytest.raises(RequestError, match="generate"):
        ask(assistant_model="bert-base-uncased")


def test_images_become_tokens_of_the_prompt() -> None:
    """LLaVA-1.5: 576 tokens an image, embeddings of 4,096, pixels of 336 x 336."""
    answer = ask("llava-1.5-7b", num_images=2, context_length=2048)
    assert 2 * 576 * 4096 * 2 in lines(answer, "temporary", "prefill")
    assert cache(answer) == 2048 * 2 * 32 * 4096 * 2
    with pytest.raises(RequestError, match="too short"):
        ask("llava-1.5-7b", num_images=2, context_length=1024)


def test_a_tower_can_need_more_than_the_decoder() -> None:
    few = ask("qwen2-vl-7b", num_images=1, context_length=2048)
    many = ask("qwen2-vl-7b", num_images=12, context_length=20000)
    tower = many["report"]["activation_bytes"]
    assert tower > few["report"]["activation_bytes"]


def test_towers_alone_read_images() -> None:
    """ViT-B/16: 197 positions, 2 x 3072 + 4 x 768 numbers each."""
    answer = ask("vit-base-patch16-224", batch_size=8)
    element = 4 if answer["request"]["dtype"] == "fp32" else 2
    assert answer["report"]["activation_bytes"] == 8 * 197 * ((2 * 3072 + 4 * 768) * element + 8)


def test_a_recording_is_heard_through() -> None:
    """Whisper hears 30 seconds whatever it is given: 1,500 positions for each decoder layer."""
    answer = ask("whisper-large-v3", audio_seconds=10, max_new_tokens=100)
    assert cache(answer) == 32 * 2 * 1280 * 2 * (1500 + 100)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"num_images": 1}, "settings.num_images"),
        ({"image_size": 336}, "settings.image_size"),
        ({"audio_seconds": 1.0}, "settings.audio_seconds"),
    ],
)
def test_what_a_model_cannot_take_is_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        ask(**settings)
    assert caught.value.field == field


def test_experts_are_stacked_while_they_load() -> None:
    answer = ask("qwen3-30b-a3b")
    assert lines(answer, "temporary", "load") == [128 * 2 * 768 * 2048 * 2]


def test_masks_are_filled_from_logits_of_all_positions() -> None:
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 30522, "dtype": "bfloat16"}
    asked = {"batch_size": 8, "context_length": 512}

    def logits(**settings: int) -> list[int]:
        answer = vrameter.estimate({"model": {"config": config}, "settings": {**asked, **settings}})
        return lines(answer, "logits", "forward")

    assert logits(logits_to_keep=0) == [8 * 512 * 30522 * 2]
    assert not logits()


def test_latent_vectors_are_expanded_at_every_step() -> None:
    """DeepSeek-V2-Lite: 16 heads of 128 + 64 and 128."""
    answer = ask("deepseek-v2-lite", context_length=4096)
    assert 4096 * 16 * (2 * 128 + 64 + 128) * 2 in lines(answer, "temporary", "decode")
