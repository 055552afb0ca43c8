"""What stacks do beside the layers: values worked by hand from their source."""

from __future__ import annotations

from typing import Any

import pytest

from tests.configs import CONFIGS
from tests.training.test_estimates import LLAMA, ask, phase
from vrameter.units import GIB, MIB

# 8192 tokens by 128,256 words in bf16.
LOGITS = 8192 * 128256 * 2


def megatron(**more: Any) -> dict[str, Any]:
    """Return the arguments of a small transformer of Megatron."""
    plain = {
        "num-layers": 6, "hidden-size": 512, "num-attention-heads": 8, "seq-length": 1024, "max-position-embeddings": 1024,
        "use-mcore-models": True, "bf16": True, "attention-dropout": 0.0, "hidden-dropout": 0.0,
    }  # fmt: skip
    return {"megatron_args": plain | {name.replace("_", "-"): value for name, value in more.items()}}


def run(model: dict[str, Any], *, num_devices: int = 1, parallelism: dict[str, Any] | None = None, **more: Any) -> Any:
    """Return the report of Megatron on such a transformer, 4 sequences at a time."""
    answer = ask(
        model, engine="megatron", num_devices=num_devices, parallelism=parallelism or {}, micro_batch=4, seq_len=1024,
        **more,
    )  # fmt: skip
    return answer["report"]


# -- losses ----------------------------------------------------------------------------------------------


def test_a_compiled_loss_makes_the_gradient_of_its_logits_beside_them() -> None:
    """Checkpoints, logits, their gradient, and that of the output layer."""
    answer = ask(
        engine="torchtitan", num_devices=64, parallelism={"data": 64}, compile=True, seq_len=8192, recompute="full",
        device="h100",
    )  # fmt: skip
    kept = phase(answer, "activations", "forward")
    moving = phase(answer, "activations", "backward") + phase(answer, "temporary", "backward")
    assert moving == pytest.approx(kept + 2 * LOGITS + 128256 * 4096 * 2, rel=0.01)


# -- Megatron --------------------------------------------------------------------------------------------


def test_what_stands_between_steps_of_a_published_run() -> None:
    """510,689,792 bytes in Megatron's own log: state, workspaces, buffers of the pipeline, and what is not cut off blocks."""
    model = megatron(
        num_layers=12,
        vocab_size=50257,
        no_gradient_accumulation_fusion=True,
        attention_backend="flash",
        tensor_model_parallel_size=2,
    )
    degrees = {"tensor": 2, "pipeline": 2, "context": 2, "sequence": True}
    report = run(model, num_devices=8, parallelism=degrees, grad_accumulation=8, device="h100-sxm-80gb")
    assert report["steady_bytes"] == pytest.approx(510_689_792, rel=0.005)


def test_the_buffer_of_scores_of_local_attention() -> None:
    """4 sequences of 8 heads of 1024 by 1024 scores in bf16, half of the heads on each of two devices."""
    local = megatron(transformer_impl="local")
    assert phase_of_buffer(local, {}) == 64 * MIB
    assert phase_of_buffer(local, {"tensor": 2}) == 32 * MIB


def phase_of_buffer(model: dict[str, Any], parallelism: dict[str, Any]) -> int:
    """Return the buffer that stays between steps."""
    count = parallelism.get("tensor", 1)
    answer = ask(
        model, engine="megatron", num_devices=count, parallelism=parallelism, micro_batch=4, seq_len=1024,
        attn_implementation="eager",
    )  # fmt: skip
    return phase(answer, "communication", "save")


def test_a_layer_less_in_the_last_turn() -> None:
    """Four stages of two turns: the last keeps four micro-batches of its first turn, and its second has the loss alone."""
    counted = {"account_for_embedding_in_pipeline_split": True, "account_for_loss_in_pipeline_split": True}
    turns = megatron(num_virtual_stages_per_pipeline_rank=2, untie_embeddings_and_output_weights=True, **counted)
    settings = {"num_devices": 4, "parallelism": {"pipeline": 4}, "grad_accumulation": 8}
    whole = run(turns, **settings)
    one = run(megatron(num_layers=1, untie_embeddings_and_output_weights=True))
    two = run(megatron(num_layers=2, untie_embeddings_and_output_weights=True))
    layer = two["forward_bytes"] - one["forward_bytes"] - (two["steady_bytes"] - one["steady_bytes"])
    head = one["loss_bytes"] - one["forward_bytes"]
    kept = whole["loss_bytes"] - whole["steady_bytes"]
    assert kept == pytest.approx(4 * layer + head, rel=0.05)


def test_a_predictor_of_further_tokens_embeds_on_the_last_stage() -> None:
    """50,304 words by 512, beside the layer, its projection of two vectors to one, and three norms."""
    settings = {"num_devices": 2, "parallelism": {"pipeline": 2}, "grad_accumulation": 4}
    untied = {"untie_embeddings_and_output_weights": True, "position_embedding_type": "rope"}
    with_it = run(megatron(mtp_num_layers=1, **untied), **settings)["weights_bytes"]
    alone = run(megatron(**untied), **settings)["weights_bytes"]
    layer = 12 * 512 * 512 + 13 * 512
    assert with_it - alone == 2 * (50304 * 512 + layer + 2 * 512 * 512 + 6 * 512)


# -- shards ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "version", "whole"),
    [("transformers", None, True), ("litgpt", None, True), ("torchtitan", None, False), ("fsdp_qlora", None, False)],
)
def test_gradients_wait_whole_for_the_last_micro_batch(engine: str, version: str | None, whole: bool) -> None:
    settings = {"engine": engine, "num_devices": 8, "parallelism": {"data": 8, "fsdp": "full_shard"}, "seq_len": 512,
                "precision": "bf16", "dtype": "bf16", "recompute": "full"}  # fmt: skip
    one = ask(grad_accumulation=1, **settings)
    four = ask(grad_accumulation=4, **settings)
    params = four["model"]["num_params"]
    assert phase(four, "gradients", "step") == phase(one, "gradients", "step")
    assert (phase(four, "gradients", "backward") >= 2 * params) == whole


def test_gradients_of_fsdps_outermost_group_are_put_together_last() -> None:
    """Llama 3.1's embedding and output layer, 128,256 by 4096 each: the output layer's gradient, and both and the norm's again."""
    common = {"num_devices": 64, "parallelism": {"data": 64, "fsdp": "fsdp2"}, "seq_len": 16, "recompute": "full"}
    joined = ask(engine="torchtitan", device="h100", **common)
    side = 128256 * 4096
    assert phase(joined, "temporary", "backward") >= 2 * side + 4 * (2 * side + 4096)
    apart = ask(engine="torchtune", device="h100", precision="bf16", dtype="bf16", **common)
    assert phase(apart, "temporary", "backward") < 2 * side + 2 * (2 * side + 4096)


def test_all_tokens_meet_within_a_part_under_sequence_parallelism() -> None:
    """Eight times the tokens of one device's share: the normed input alone is whole, twice in a layer."""
    common = {"engine": "torchtitan", "num_devices": 8, "seq_len": 8192, "recompute": "none", "device": "h100"}
    split = ask(parallelism={"tensor": 8, "sequence": True}, **common)
    normed = 8192 * 4096 * 2
    assert phase(split, "activations", "forward") > 32 * 2 * normed


def test_keys_and_values_of_all_devices_are_gathered_under_context_parallelism() -> None:
    """Four devices' keys and values of 32 heads of 128, 2048 tokens each, in bf16."""
    common = {"engine": "torchtitan", "seq_len": 8192, "recompute": "full", "device": "h100"}
    ring = ask(num_devices=4, parallelism={"context": 4, "data": 1}, **common)
    pair = 2 * 2048 * 4096 * 2
    assert phase(ring, "temporary", "forward") >= 4 * pair


# -- LitGPT ----------------------------------------------------------------------------------------------


def test_litgpts_output_layer_is_cast_for_each_chunk() -> None:
    """1024 tokens are eight chunks of 128: eight copies of 32,000 by 4096 numbers in bf16, and one without chunks."""
    common = {"engine": "litgpt", "finetuning": "lora", "precision": "bf16-mixed", "dtype": "fp32", "seq_len": 1024}
    model = {"config": CONFIGS["llama-2-7b"], "name": "llama-2-7b"}
    many = ask(model, loss_chunk_tokens=128, **common)
    one = ask(model, loss_chunk_tokens=1024, **common)
    gap = phase(many, "activations", "loss") - phase(one, "activations", "loss")
    assert gap == 7 * 32000 * 4096 * 2


def test_no_graph_below_the_first_prompt() -> None:
    """LLaMA-Adapter's prompts start in the third layer: the first two keep nothing."""
    common = {"engine": "litgpt", "precision": "bf16", "dtype": "bf16", "seq_len": 1024, "finetuning": "peft"}
    first = ask(LLAMA, adapter={"method": "adapter"}, **common)
    second = ask(LLAMA, adapter={"method": "adapter_v2"}, **common)
    layers = phase(second, "activations", "forward") / 32
    assert phase(first, "activations", "forward") < 30 * layers
    assert phase(second, "activations", "forward") > 4 * GIB
