"""Megatron's steps by its own arguments: buffers, shares and what its layers keep, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter
from vrameter.errors import RequestError
from vrameter.model.megatron import Arguments
from vrameter.units import GIB, MIB

DENSE: dict[str, Any] = {
    "num-layers": 2, "hidden-size": 512, "num-attention-heads": 8, "seq-length": 1024, "max-position-embeddings": 1024,
    "use-mcore-models": True, "bf16": True, "transformer-impl": "transformer_engine", "attention-dropout": 0.0,
    "hidden-dropout": 0.0, "vocab-size": 50304,
}  # fmt: skip
MIXED: dict[str, Any] = {
    **DENSE, "num-experts": 8, "moe-router-topk": 2, "moe-ffn-hidden-size": 1024, "disable-bias-linear": True,
    "moe-grouped-gemm": True,
}  # fmt: skip
TOKENS, WIDTH, VOCAB = 4096, 512, 50304


def ask(args: dict[str, Any], *, device: str = "h100-sxm-80gb", num_devices: int = 1, **more: Any) -> dict[str, Any]:
    """Return the response to Megatron's arguments; degrees and settings by keyword."""
    names = ("tensor", "pipeline", "data", "expert", "expert_tensor", "context", "sequence", "zero_stage")
    degrees = {name: more.pop(name) for name in names if name in more}
    settings = {"micro_batch": 4, "seq_len": 1024, "finetuning": "pretrain", **more}
    return vrameter.estimate(
        {"task": "training", "engine": "megatron", "model": {"megatron_args": args}, "device": device, "num_devices": num_devices,
         "parallelism": degrees, "settings": settings}
    )  # fmt: skip


def steady(*args: Any, **more: Any) -> int:
    """Return the memory between steps. [bytes]."""
    found: int = ask(*args, **more)["report"]["steady_bytes"]
    return found


def peak(*args: Any, **more: Any) -> int:
    """Return the allocated peak. [bytes]."""
    found: int = ask(*args, **more)["report"]["peak_allocated_bytes"]
    return found


def term(answer: dict[str, Any], name: str, phase: str = "step") -> int:
    """Return the bytes of a term in a phase."""
    return sum(
        each["bytes"] for each in answer["devices"][0]["items"] if each["term"] == name and phase in each["phases"]
    )


# -- the loss --------------------------------------------------------------------------------------------


def test_a_fused_loss_makes_one_more_fp32_copy_of_the_logits() -> None:
    plain = peak(DENSE, loss="full")
    # Before the losses of the tokens themselves are there.
    assert peak(DENSE, loss="fused") - plain == pytest.approx(TOKENS * VOCAB * 4 - TOKENS * 4, abs=512)
    assert peak({**DENSE, "cross-entropy-fusion-impl": "te"}, loss="fused") == plain


# -- state -----------------------------------------------------------------------------------------------


def test_each_instance_of_the_optimizer_holds_all_state() -> None:
    """Masters and moments, 12 bytes a parameter, among 8 devices or among 4."""
    one = ask(DENSE, num_devices=8, data=8, zero_stage=1)
    two = ask({**DENSE, "num-distributed-optimizer-instances": 2}, num_devices=8, data=8, zero_stage=1)
    params = one["model"]["num_params"]
    assert term(two, "master_weights") + term(two, "optimizer_state") == pytest.approx(params * 12 / 4, rel=1e-4)
    assert term(one, "master_weights") + term(one, "optimizer_state") == pytest.approx(params * 12 / 8, rel=1e-4)


def test_whole_tensors_are_dealt_out_where_muon_has_no_layout() -> None:
    """One of eight devices gets the embedding, with a master and Adam's two moments."""
    more: dict[str, Any] = {"num_devices": 8, "data": 8, "zero_stage": 1, "optimizer": "muon"}
    args = {**DENSE, "optimizer": "muon"}
    laid, dealt = ask(args, **more), ask({**args, "no-use-layer-wise-param-layout": True}, **more)
    held = term(dealt, "master_weights") + term(dealt, "optimizer_state")
    assert VOCAB * WIDTH * 12 <= held < VOCAB * WIDTH * 12 + 8 * WIDTH * 4 * WIDTH
    assert held > 5 * (term(laid, "master_weights") + term(laid, "optimizer_state"))


def test_float8_parameters_alone_take_two_bytes() -> None:
    """Two copies in float8 beside bf16, or in its place; norms, embeddings and biases stay as they are."""
    matrices = 2 * 12 * WIDTH * WIDTH
    both, alone = ({**DENSE, **more} for more in ({}, {"fp8-param-gather": True}))
    assert term(ask(both, precision="fp8"), "weights") - term(ask(DENSE), "weights") == 2 * matrices
    assert term(ask(alone, precision="fp8"), "weights") == term(ask(DENSE), "weights")


# -- what stands between steps ---------------------------------------------------------------------------


def test_the_dispatcher_that_gathers_keeps_the_tokens_of_all_devices() -> None:
    more: dict[str, Any] = {"num_devices": 8, "data": 8, "expert": 8}
    gathers, sends = (
        steady({**MIXED, "moe-token-dispatcher-type": kind}, **more) for kind in ("allgather", "alltoall")
    )
    assert gathers - sends == 8 * TOKENS * WIDTH * 2


def test_sequence_parallelism_keeps_the_tokens_before_the_output_layer() -> None:
    more: dict[str, Any] = {"num_devices": 2, "tensor": 2}
    assert steady(DENSE, **more, sequence=True) - steady(DENSE, **more) == TOKENS * WIDTH * 2


def test_own_attention_keeps_its_scores() -> None:
    """All heads of four sequences, and no workspace of Transformer Engine."""
    local = steady({**DENSE, "transformer-impl": "local"})
    assert local - steady(DENSE) == 4 * 8 * 1024**2 * 2 - 32 * MIB


@pytest.mark.parametrize(
    ("args", "handles"),
    [(DENSE, 1), (MIXED, 5), ({**MIXED, "transformer-impl": "local", "moe-grouped-gemm": False}, 1),
     ({**DENSE, "tp-comm-overlap": True}, 4)],
)  # fmt: skip
def test_workspaces_follow_the_device(args: dict[str, Any], handles: int) -> None:
    """32 MiB of Transformer Engine's from Hopper on, 4 before; PyTorch's two as large as Hopper's where kernels are fixed."""
    fixed = {**args, "deterministic-mode": True}
    assert steady(fixed) - steady(fixed, device="a100-sxm-80gb") == handles * 28 * MIB
    assert steady(args) - steady(args, device="a100-sxm-80gb") == handles * 28 * MIB + 2 * (32 * MIB - 8_519_680)
    assert steady(args) == steady(fixed)


def test_further_predictions_embed_on_the_last_stage() -> None:
    """Two bytes and four of gradient, and 12 of state, for an embedding of its own."""
    args = {**DENSE, "untie-embeddings-and-output-weights": True, "position-embedding-type": "rope"}
    more: dict[str, Any] = {"num_devices": 2, "pipeline": 2}
    with_ = ask({**args, "mtp-num-layers": 1}, **more)["report"]["weights_bytes"]
    without = ask(args, **more)["report"]["weights_bytes"]
    layer = 12 * WIDTH**2 + 13 * WIDTH
    assert with_ - without == 2 * (VOCAB * WIDTH + layer + 2 * WIDTH * WIDTH + 6 * WIDTH)


# -- layers ----------------------------------------------------------------------------------------------


def test_experts_without_a_gate_keep_what_their_probability_multiplies() -> None:
    """Input of the activation, its output, and the product, which the second matrix takes; gates are fused."""
    plain, gated = (ask({**MIXED, **more, "num-layers": 8}) for more in ({}, {"swiglu": True}))
    copies = 2 * TOKENS * 1024 * 2
    # Gated: both halves and the product; not gated: three tensors of the same size. The vector of probabilities is the same.
    assert term(gated, "activations", "forward") == term(plain, "activations", "forward")
    fewer = ask({**MIXED, "num-layers": 7})
    layer = term(plain, "activations", "forward") - term(fewer, "activations", "forward")
    assert layer > 3 * copies


def test_experts_of_several_devices_get_uneven_shares() -> None:
    more: dict[str, Any] = {"num_devices": 8, "data": 8, "expert": 8}
    args = {**MIXED, "moe-token-dispatcher-type": "alltoall", "num-layers": 8}
    uneven, even = ask(args, **more), ask({**args, "moe-expert-capacity-factor": 1.0}, **more)
    assert term(uneven, "activations", "forward") > term(even, "activations", "forward")
    alone = ask(args)
    assert term(alone, "activations", "forward") == term(ask({**args, "moe-expert-capacity-factor": 1.0}),
                                                         "activations", "forward")  # fmt: skip


def test_turned_queries_leave_their_projection() -> None:
    """Queries and keys that were turned stand alone: the values are copied out of the projection, which goes."""
    turned = {**DENSE, "position-embedding-type": "rope"}
    for args in (DENSE, turned):
        few, many = (ask({**args, "num-layers": count}, attn_implementation="flash_attention_2") for count in (2, 3))
        layer = term(many, "activations", "forward") - term(few, "activations", "forward")
        # Input and output of two norms, queries, keys and values, attention's output, 4 + 4 inside the perceptron; statistics.
        assert layer == TOKENS * (WIDTH * 2 * (4 + 3 + 1 + 8) + 2 * 2 * 4 + 8 * 4), args


@pytest.mark.parametrize(
    ("device", "args", "copies"),
    [("h100-sxm-80gb", {}, 0), ("a100-sxm-80gb", {}, 1), ("h100-sxm-80gb", {"attention-backend": "flash"}, 1),
     ("gb200", {"deterministic-mode": True}, 1), ("gb200", {}, 0)],
)  # fmt: skip
def test_flash_attention_keeps_an_output_of_its_own(device: str, args: dict[str, Any], copies: int) -> None:
    few, many = (
        ask({**DENSE, **args, "num-layers": count}, device=device, attn_implementation="flash_attention_2")
        for count in (2, 3)
    )
    layer = term(many, "activations", "forward") - term(few, "activations", "forward")
    assert layer == TOKENS * (WIDTH * 2 * (16 + copies) + 2 * 2 * 4 + 8 * 4)


def test_gated_norms_of_mamba_keep_their_own_input() -> None:
    """Under Megatron the norm runs behind the scan: input, scan, the norm's input and its output, of 1024 channels each."""
    args = {**DENSE, "normalization": "RMSNorm", "mamba-state-dim": 128, "mamba-num-groups": 8}
    one, two = (ask({**args, "hybrid-layer-pattern": "M" * count}) for count in (1, 2))
    inner, streams = 1024, 2 * 1024 + 2 * 8 * 128 + 16
    layer = term(two, "activations", "forward") - term(one, "activations", "forward")
    # Beside them the residual stream and its norm, and the statistics of both norms.
    assert layer == TOKENS * (2 * (streams + 3 * inner + 2 * WIDTH) + 2 * 4)


# -- offloading ------------------------------------------------------------------------------------------


def test_offloaded_parts_keep_the_last_layer_alone() -> None:
    """The projection's input of one layer, 16 MiB at four heads of 128, leaves with every layer but the last."""
    args = {**DENSE, "num-layers": 4, "fine-grained-activation-offloading": True, "attention-backend": "unfused"}
    kept = {
        parts: term(ask({**args, "offload-modules": f"[{parts}]"}, attn_implementation="eager"), "activations", "loss")
        for parts in ("", "core_attn", "core_attn attn_proj", "core_attn attn_proj qkv_linear attn_norm")
    }
    sizes = list(kept.values())
    assert sizes == sorted(sizes, reverse=True)
    scores, projected = 4 * 8 * 1024**2 * 2, 3 * TOKENS * WIDTH * 2
    assert kept[""] - kept["core_attn"] == 3 * (scores + projected)
    assert kept["core_attn"] - kept["core_attn attn_proj"] == 3 * TOKENS * WIDTH * 2


# -- reinforcement ---------------------------------------------------------------------------------------


def test_own_inference_stands_beside_training() -> None:
    args = {**DENSE, "perform-rl-step": True, "inference-dynamic-batching-buffer-size-gb": 2}
    assert steady(args) - steady(DENSE) == 2 * GIB
    assert steady({**args, "rl-kv-cache-management-mode": "offload"}) == steady(DENSE)
    apart = {**args, "rl-inference-tensor-model-parallel-size": 2}
    assert steady(apart, num_devices=2, data=2) - steady(args, num_devices=2, data=2) == pytest.approx(
        ask(DENSE)["model"]["num_params"], rel=0.02
    )
    # Graphs write logits of as many requests as there are blocks of 256 tokens: keys and values of two layers.
    requests = 2 * GIB // (2 * 2 * WIDTH * 2 * 256)
    assert steady({**args, "cuda-graph-impl": "local"}) - steady(args) == 2 * requests * VOCAB * 2


@pytest.mark.parametrize("value", ["many", 0, -1, True, float("nan"), 1e30])
def test_a_buffer_that_is_no_size_is_refused(value: object) -> None:
    args = {**DENSE, "perform-rl-step": True, "inference-dynamic-batching-buffer-size-gb": value}
    with pytest.raises(RequestError, match="inference-dynamic-batching-buffer-size-gb"):
        ask(args)


@pytest.mark.parametrize("written", ["[core_attn attn_proj]", "core_attn attn_proj", ["core_attn", "attn_proj"]])
def test_parts_are_read_however_they_are_written(written: object) -> None:
    assert Arguments({"offload-modules": written}).words("offload-modules") == ["core_attn", "attn_proj"]


def test_fused_gradient_accumulation_keeps_an_empty_gradient_of_each_shape() -> None:
    """Four matrices of a layer and the output layer, however many layers there are."""
    shapes = 3 * WIDTH**2 + WIDTH**2 + 4 * WIDTH**2 + 4 * WIDTH**2 + VOCAB * WIDTH
    for layers in (2, 4):
        args = {**DENSE, "num-layers": layers}
        assert steady(args) - steady({**args, "no-gradient-accumulation-fusion": True}) == shapes * 2


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ({"num-layers": 10**30}, "num-layers"),
        ({"num-layers": 0}, "num-layers"),
        ({"num-attention-heads": 0}, "num-attention-heads"),
        ({"hidden-size": 2.5}, "hidden-size"),
        ({"hidden-size": 1e308}, "hidden-size"),
        ({"hidden-dropout": "auto"}, "hidden-dropout"),
        ({"attention-dropout": 2}, "attention-dropout"),
        ({"hybrid-layer-pattern": "M*", "mamba-head-dim": 4096}, "mamba-head-dim"),
    ],
)
def test_an_argument_that_is_no_such_number_is_named(args: dict[str, Any], name: str) -> None:
    with pytest.raises(RequestError) as caught:
        ask({**DENSE, **args})
    assert caught.value.field == f"model.megatron_args.{name}"
    assert caught.value.hint
