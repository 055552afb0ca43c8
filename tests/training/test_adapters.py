"""Adapters: which matrices get them, what they count, what a step keeps of them, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.scenes import TOY
from vrameter import VrameterError, estimate
from vrameter.memory.adapter_methods import METHODS, VARIANTS, factors, near_divisor
from vrameter.memory.adapters import Matrix, adapter_size, rank_of
from vrameter.settings.training import RANKS, AdapterSettings
from vrameter.training.programs.adapters import PROGRAMS, AdapterUse, beside

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "tie_word_embeddings": False,
    **TOY,
    "num_hidden_layers": 4,
}
TIED = {**CONFIG, "tie_word_embeddings": True}
QKV = {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], **TOY}
EXPERTS = {
    "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], **TOY, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}  # fmt: skip


def ask(adapter: dict[str, Any], config: dict[str, Any] = CONFIG, **settings: Any) -> dict[str, Any]:
    """Return the answer for a step with an adapter."""
    plain = {"finetuning": "peft", "precision": "bf16", "seq_len": 64, "optimizer": "adamw_torch", **settings}
    answer: dict[str, Any] = estimate(
        {"task": "training", "model": {"config": config}, "engine": "transformers", "device": "a100-sxm-80gb", "dtype": "bf16",
         "settings": {**plain, "adapter": adapter}}
    )  # fmt: skip
    return answer


def term(answer: dict[str, Any], name: str, phase: str = "step") -> int:
    """Return the bytes of a term in a phase."""
    items = answer["devices"][0]["items"]
    return sum(item["bytes"] for item in items if item["term"] == name and phase in item["phases"])


def trained(adapter: dict[str, Any], config: dict[str, Any] = CONFIG) -> int:
    """Return trained parameters: the optimizer's two moments in fp32."""
    return term(ask({"dtype": "fp32", **adapter}, config), "optimizer_state") // 8


def test_every_method_has_a_program_and_a_rank() -> None:
    assert set(PROGRAMS) == set(METHODS)
    assert set(RANKS) <= {*METHODS, *VARIANTS}
    assert AdapterSettings(method="vera").rank == 256
    assert AdapterSettings(method="lora", rank=3).rank == 3


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_is_estimated(method: str) -> None:
    """With its own defaults, blocks made small enough for the toy."""
    small = {"c3a": {"block_size": 32}, "vblora": {"vector_length": 32}, "lora": {}}.get(method, {})
    targets = ["q_proj", "v_proj"]
    rank = 8 if method not in ("adamss",) else 20
    answer = ask({"method": method, "rank": rank, "targets": targets, "options": small, "dtype": "fp32"})
    assert answer["report"]["peak_allocated_bytes"] > 0


@given(st.sampled_from(sorted(METHODS)), st.integers(1, 4), st.integers(1, 3))
def test_more_rows_never_keep_less(method: str, rows: int, more: int) -> None:
    use = AdapterUse(4, 4, method=method, options={"block_size": 8, "vector_length": 8})
    one = beside(use, inputs=64, outputs=64, rows=16 * rows, element=2)
    two = beside(use, inputs=64, outputs=64, rows=16 * (rows + more), element=2)
    assert two.saved >= one.saved >= 0
    assert two.fixed == one.fixed
    assert two.forward >= one.forward >= one.saved


@pytest.mark.parametrize(
    ("method", "saved", "fixed"),
    [
        # bytes per token of 64 inputs and 48 outputs, measured on peft 0.21.2; bytes whatever the number of tokens
        ("lora", 4 * 64 + 4 * 4, 0), ("vera", 4 * 48 + 4 * 4, 0), ("ia3", 2 * 48, 4 * 48), ("loha", 4 * 64, 4 * 64 * 48 + 4),
        ("hra", 4 * 64, 5 * 4 * 64 * 64 + 2 * 4 * 64 * 48 + 2 * 4 * 64 * 4 + 4 * 4), ("glora", 0, 2 * 64 * 48), ("beft", 0, 0),
        ("hira", 4 * 64, 4 * 64 * 48), ("peanut", 4 * 64, 2 * 4 * 64 * 48 + 4 * 64 * 4),
    ],
)  # fmt: skip
def test_what_methods_keep(method: str, saved: int, fixed: int) -> None:
    made = beside(AdapterUse(4, 4, method=method), inputs=64, outputs=48, rows=20, element=2)
    assert (made.saved, made.fixed) == (20 * saved + fixed, fixed)


def test_a_matrix_in_the_adapters_own_numbers_is_not_copied() -> None:
    wide = beside(AdapterUse(4, 4), inputs=64, outputs=48, rows=20, element=2)
    same = beside(AdapterUse(4, 2), inputs=64, outputs=48, rows=20, element=2)
    assert wide.saved - same.saved == 20 * (4 * 64 + 4 * 4) - 20 * 2 * 4
    assert same.keeps_input
    assert not wide.keeps_input


def test_a_frozen_first_matrix_needs_no_input() -> None:
    plain = beside(AdapterUse(4, 4), inputs=64, outputs=48, rows=20, element=2)
    frozen = beside(AdapterUse(4, 4, method="lorafa"), inputs=64, outputs=48, rows=20, element=2)
    assert plain.saved - frozen.saved == 20 * 4 * 64
    assert trained({"method": "lorafa", "targets": ["q_proj"], "rank": 4}) == 4 * 4 * 256


def test_rank_follows_from_a_stated_number_of_parameters() -> None:
    matrices = [Matrix(3072, 3072, 28), Matrix(3072, 1024, 28)]
    known = adapter_size("adalora", matrices, rank=64, element=4).trained
    assert rank_of(known, "adalora", matrices, rank=12) == 64
    assert rank_of(known + 1, "adalora", matrices, rank=12) == 12


@given(st.integers(1, 5000), st.integers(1, 200))
def test_divisors(size: int, wanted: int) -> None:
    assert size % near_divisor(size, wanted) == 0
    low, high = factors(size, -1)
    assert low * high == size
    assert low <= high


# -- where they stand -----------------------------------------------------------------------------------


def test_layers_below_the_first_adapter_keep_nothing() -> None:
    last = ask({"targets": ["q_proj"], "layers": [3], "dtype": "fp32"})
    every = ask({"targets": ["q_proj"], "dtype": "fp32"})
    assert trained({"targets": ["q_proj"], "layers": [3]}) * 4 == trained({"targets": ["q_proj"]})
    kept = {name: term(answer, "activations", "backward") for name, answer in (("last", last), ("every", every))}
    assert kept["last"] < kept["every"]


def test_patterns_choose_modules_by_their_whole_names() -> None:
    pattern = r"model\.layers\.(0|2)\..*\.(q|v)_proj"
    assert trained({"targets": pattern}) == trained({"targets": ["q_proj", "v_proj"], "layers": [0, 2]})
    assert trained({"targets": ["layers.1.self_attn.q_proj"]}) * 4 == trained({"targets": ["q_proj"]})
    assert trained({"targets": "all-linear", "exclude": ["down_proj"]}) < trained({"targets": "all-linear"})


def test_fused_matrices_stand_for_their_parts() -> None:
    assert trained({"targets": ["qkv_proj"], "rank": 4}, QKV) == 2 * 4 * (256 + 512)
    assert trained({"targets": ["gate_up_proj"], "rank": 4}, QKV) == 2 * 4 * (256 + 2 * 704)


def test_stacked_experts_answer_to_their_older_names() -> None:
    """Gate and up are one stack, whose rank doubles; the router is adapted too."""
    attention = trained({"targets": ["q_proj", "k_proj", "v_proj", "o_proj"], "rank": 4}, EXPERTS)
    stacks = 4 * (8 * (256 + 64) + 4 * (32 + 256)) + 4 * (256 + 4)
    assert trained({"targets": "all-linear", "rank": 4}, EXPERTS) == attention + 2 * stacks
    named = trained({"targets": ["gate_proj", "up_proj", "down_proj"], "rank": 4}, EXPERTS)
    assert named == 2 * 4 * (8 * (256 + 64) + 4 * (32 + 256))


def test_a_targeted_stack_is_made_anew_in_each_pass() -> None:
    adapter = {"targets": ["q_proj"], "rank": 4, "dtype": "fp32"}
    stack = 2 * 4 * 256 * 64
    plain = term(ask(adapter, EXPERTS), "activations", "backward")
    folded = term(ask({**adapter, "target_parameters": ["experts.gate_up_proj"]}, EXPERTS), "activations", "backward")
    assert folded >= plain + 2 * stack


@pytest.mark.parametrize(("config", "tables"), [(CONFIG, 1), (TIED, 1)])
def test_a_saved_module_stands_beside_the_frozen_one(config: dict[str, Any], tables: int) -> None:
    plain = ask({"targets": ["q_proj"], "dtype": "fp32"}, config)
    saved = ask({"targets": ["q_proj"], "dtype": "fp32", "modules_to_save": ["lm_head"]}, config)
    table = 2 * TOY["vocab_size"] * TOY["hidden_size"]
    assert term(saved, "weights") == term(plain, "weights")
    assert term(saved, "adapters") - term(plain, "adapters") == tables * table
    assert term(saved, "gradients") - term(plain, "gradients") == tables * table
    assert term(saved, "optimizer_state") - term(plain, "optimizer_state") == 2 * tables * table


def test_a_prompt_lengthens_the_sequence() -> None:
    prompted = ask({"method": "prompt_tuning", "num_virtual_tokens": 32, "dtype": "fp32"}, seq_len=64)
    longer = ask({"method": "prompt_tuning", "num_virtual_tokens": 1, "dtype": "fp32"}, seq_len=95)
    assert term(prompted, "activations", "backward") == term(longer, "activations", "backward")
    known = ask({"method": "prompt_tuning", "trainable_params": 32 * 256, "dtype": "fp32"}, seq_len=64)
    assert term(known, "activations", "backward") == term(prompted, "activations", "backward")


def test_keys_before_the_sequence_are_copied_out_to_every_head() -> None:
    without = ask({"targets": ["q_proj"], "dtype": "bf16"})
    prefixed = ask({"method": "prefix_tuning", "num_virtual_tokens": 8, "dtype": "fp32"})
    assert term(prefixed, "activations", "backward") > term(without, "activations", "backward")


def test_int8_keeps_the_input_of_every_matrix() -> None:
    def kept(quantization: str) -> int:
        answer = estimate(
            {"task": "training", "model": {"config": CONFIG}, "engine": "transformers", "device": "a100-sxm-80gb", "dtype": "bf16",
             "quantization": quantization,
             "settings": {"finetuning": "lora", "precision": "bf16", "seq_len": 512, "adapter": {"targets": ["q_proj"], "dtype": "bf16"}}}
        )  # fmt: skip
        return term(answer, "activations", "backward")

    assert kept("bnb-int8") > kept("bnb-nf4")


def test_preparation_for_quantised_bases_widens_the_rest() -> None:
    def weights(**adapter: Any) -> int:
        answer = estimate(
            {"task": "training", "model": {"config": CONFIG}, "engine": "transformers", "device": "a100-sxm-80gb", "dtype": "bf16",
             "quantization": "bnb-nf4", "settings": {"finetuning": "lora", "seq_len": 64, "adapter": {"targets": ["q_proj"], **adapter}}}
        )  # fmt: skip
        return term(answer, "weights")

    rest = 2 * TOY["vocab_size"] * TOY["hidden_size"] + 9 * TOY["hidden_size"]
    assert weights(prepare_kbit=True) - weights() == 2 * rest


def test_methods_that_read_the_matrix_take_no_packed_one() -> None:
    request = {
        "task": "training", "model": {"config": CONFIG}, "engine": "transformers", "device": "a100-sxm-80gb", "dtype": "bf16",
        "quantization": "bnb-nf4", "settings": {"finetuning": "peft", "seq_len": 64, "adapter": {"method": "loha"}},
    }  # fmt: skip
    with pytest.raises(VrameterError, match="loha") as caught:
        estimate(request)
    assert "vera" in str(caught.value.hint)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"targets": ["q_porj"]}, "settings.adapter.targets", "q_proj"),
    ({"targets": ".*[qv_proj"}, "settings.adapter.targets", "regular expression"),
    ({"targets": ".*self_atn.*"}, "settings.adapter.targets", "model.layers.0."),
    ({"targets": ["q_proj"], "layers": [9]}, "settings.adapter.layers", "0 to 3"),
    ({"targets": ["q_proj"], "target_parameters": ["experts.gate"]}, "settings.adapter.target_parameters", ""),
    ({"rank": 0}, "settings.adapter.rank", "1 to"),
    (
        {"method": "boft", "options": {"boft_blok_size": 8}},
        "settings.adapter.options.boft_blok_size",
        "boft_block_size",
    ),
    (
        {"method": "boft", "options": {"boft_block_size": "a"}},
        "settings.adapter.options.boft_block_size",
        "whole number",
    ),
    ({"method": "boft", "options": {"boft_block_size": 3}}, "settings.adapter.options.boft_block_size", "divisor"),
    ({"method": "vblora", "options": {"vector_length": 0}}, "settings.adapter.options.vector_length", "whole number"),
    ({"method": "road", "options": {"variant": "road_3"}}, "settings.adapter.options.variant", "road_1"),
    ({"method": "lora", "options": {"use_dora": "maybe"}}, "settings.adapter.options.use_dora", "true or false"),
    ({"method": "supertuning", "options": {"sparsity": 2}}, "settings.adapter.options.sparsity", "0 to 1"),
    ({"method": "osf", "options": {"effective_rank": -1}}, "settings.adapter.options.effective_rank", "positive"),
    ({"method": "peanut", "options": {"act_fn": 3}}, "settings.adapter.options.act_fn", "text"),
]


@pytest.mark.parametrize(("adapter", "where", "hint"), REFUSED)
def test_what_cannot_be_is_refused(adapter: dict[str, Any], where: str, hint: str) -> None:
    with pytest.raises(VrameterError) as caught:
        ask(adapter)
    assert caught.value.field == where
    assert hint in f"{caught.value} {caught.value.hint}"
