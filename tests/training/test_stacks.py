"""What each stack assumes where a request is silent, release by release, and what its own losses and copies take."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter
from tests.training.scenes import LENGTH, SEQS, architecture
from vrameter.model.architecture import Tensor
from vrameter.training import losses
from vrameter.training.families import traits_of
from vrameter.training.graph import Graph, Value
from vrameter.training.programs.scene import Kernels, Numbers, Scene, Use
from vrameter.training.simulate import cost
from vrameter.training.stacks import release, stack

# stack, release -> a default of it, and where it stands
DEFAULTS: list[tuple[str, str | None, str, Any, str]] = [
    ("transformers", "4.45", "optimizer", "adamw_torch", "training_args.py: default_optim"),
    ("transformers", "4.57.1", "optimizer", "adamw_torch_fused", "training_args.py: default_optim with torch 2.8"),
    ("transformers", None, "optimizer", "adamw_torch_fused", "5.23, training_args.py"),
    ("llama-factory", "0.9.1", "optimizer", "adamw_torch", "setup.py: transformers 4.46.1 at most"),
    ("llama-factory", "0.9.5", "optimizer", "adamw_torch_fused", "pyproject.toml: transformers 4.55 at least"),
    ("axolotl", "0.9.2", "optimizer", "adamw_torch_fused", "utils/schemas/training.py"),
    ("trl", "1.12", "loss", "full", "trainer/dpo_trainer.py: logits"),
    ("trl", "1.16", "loss", "fused", "trainer/utils.py: add_fused_lm_head"),
    ("torchtitan", "0.2.0", "loss", "full", "components/loss.py"),
    ("torchtitan", "0.3.0", "loss", "chunked", "models/llama3/config_registry.py: ChunkedLossWrapper"),
    ("torchtitan", "9dec370", "loss", "full", "a commit of 2024"),
    ("torchtune", "0.6.1", "loss", "chunked", "recipes/configs/llama3_1/8B_full.yaml"),
    ("litgpt", "0.5.13", "loss", "chunked", "finetune/full.py: chunked_cross_entropy"),
    ("megatron", None, "optimizer", "adam", "arguments.py: --optimizer"),
    ("unsloth", None, "recompute", "full", "models/llama.py: use_gradient_checkpointing"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "version", "field", "expected", "source"), DEFAULTS)
def test_defaults(name: str, version: str | None, field: str, expected: Any, source: str) -> None:
    assert stack(name, version).defaults[field] == expected, source


@pytest.mark.parametrize(
    ("name", "version", "field", "expected"),
    [
        ("trl", "0.15.2", "unreferenced", ()),  # grpo_config.py: beta 0.04
        ("trl", "0.19.1", "unreferenced", ("grpo",)),  # beta 0.0
        ("transformers", "4.44.2", "repeats_kv", True),  # modeling_llama.py: repeat_kv
        ("transformers", "4.3x", "shifts_logits", True),
        ("transformers", "5.23", "shifts_logits", False),
        ("torchtune", None, "fsdp", "fsdp2"),  # recipes/full_finetune_distributed.py
        ("torchtitan", None, "fsdp", "fsdp2"),  # models/llama3/parallelize.py
        ("deepspeed", None, "zero_stage", 2),
    ],
)
def test_traits_by_release(name: str, version: str | None, field: str, expected: Any) -> None:
    assert getattr(stack(name, version), field) == expected


def test_releases_and_commits() -> None:
    assert release("v1.2.3") == (1, 2, 3)
    assert release("4.3x") == (4, 3)
    assert release("1234abc") is None
    assert release("") is None


# -- losses of a stack's own -----------------------------------------------------------------------------

TOKENS, WIDTH, VOCAB = SEQS * LENGTH, 256, 1000
HEAD = Tensor("lm_head.weight", (VOCAB, WIDTH), role="head", slot="head")


def loss_cost(run: Any, *, trained: bool = True) -> Any:
    """Return what a loss costs on the toy model's last hidden state."""
    model = architecture()

    def make(graph: Graph) -> Scene:
        return Scene(
            graph,
            SEQS,
            LENGTH,
            Numbers(2, 2),
            Kernels(),
            traits_of(model),
            lambda tensor: Use(2, trained, grad_element=2),
        )

    def program(scene: Scene, x: Value) -> None:
        run(scene, x)

    return cost(program, make, width=WIDTH, element=2, rows=TOKENS, accumulates=True, seeded=False)


def test_tiles_make_no_logits() -> None:
    """A copy of the positions is kept; backwards one tile and the fp32 sums of two gradients stand beside it."""
    made = loss_cost(lambda scene, x: losses.tiled(scene, x, HEAD, VOCAB))
    hidden, tile = TOKENS * WIDTH * 2, TOKENS * VOCAB * 2
    assert made.saved == pytest.approx(hidden + TOKENS * 16, abs=64)
    frozen = loss_cost(lambda scene, x: losses.tiled(scene, x, HEAD, VOCAB), trained=False)
    # The head's gradient: its sum in fp32, then cast to the weights' numbers beside it.
    assert made.backward - frozen.backward == (4 + 2) * VOCAB * WIDTH
    # The copy, its gradient's sum in fp32, a tile, and the gradient that is handed on.
    assert frozen.backward == pytest.approx(hidden + 2 * hidden + tile + hidden, rel=0.03)
    assert frozen.backward < loss_cost(lambda scene, x: losses.full(scene, x, HEAD, VOCAB), trained=False).backward


def test_pieces_of_a_sequence_make_an_eighth_of_the_logits() -> None:
    whole = loss_cost(lambda scene, x: losses.in_pieces(scene, x, HEAD, VOCAB, 1), trained=False)
    eighth = loss_cost(lambda scene, x: losses.in_pieces(scene, x, HEAD, VOCAB, 8), trained=False)
    assert whole.forward - eighth.forward == TOKENS * VOCAB * 18 * 7 // 8
    assert whole.saved == eighth.saved
    compiled = loss_cost(lambda scene, x: losses.in_pieces(scene, x, HEAD, VOCAB, 8, compiled=True), trained=False)
    assert eighth.forward - compiled.forward == TOKENS * VOCAB * 12 // 8


# -- models beside the policy ----------------------------------------------------------------------------


def others(engine: str = "trl", version: str | None = None, **settings: Any) -> int:
    """Return the bytes of models beside the one that is trained."""
    request = {
        "task": "training",
        "model": "llama-3.2-1b",
        "dtype": "bf16",
        "engine": engine,
        "settings": {"seq_len": 256, **settings},
    }
    answer = vrameter.estimate({**request, "engine_version": version} if version else request)
    return sum(
        each["bytes"]
        for each in answer["devices"][0]["items"]
        if each["term"] == "other_models" and "backward" in each["phases"]
    )


def test_a_reference_where_a_penalty_is_asked() -> None:
    """One copy in bf16: in TRL 0.15 and wherever it is asked; none with adapters, whose base is the reference."""
    one = 2 * 1_235_814_400
    assert others(objective="grpo") == 0
    assert others(objective="grpo", ref_model=True) == one
    assert others(objective="grpo", version="0.15.2") == one
    assert others(objective="dpo") == one
    assert others(objective="dpo", finetuning="lora") == 0
    assert others(objective="orpo") == others(objective="simpo") == 0


def test_a_reward_function_takes_no_memory() -> None:
    one = 2 * 1_235_814_400
    assert others(objective="ppo") - others(objective="ppo", reward_model="none") == one


# -- DeepSpeed's buckets ---------------------------------------------------------------------------------


def buckets(stage: int, **settings: Any) -> int:
    """Return the buffers of gradients on their way between devices."""
    answer = vrameter.estimate(
        {"task": "training", "model": "llama-3.2-1b", "dtype": "bf16", "engine": "transformers", "num_devices": 4,
         "parallelism": {"zero_stage": stage}, "settings": {"seq_len": 256, **settings}}
    )  # fmt: skip
    return sum(
        each["bytes"]
        for each in answer["devices"][0]["items"]
        if each["term"] == "communication" and "backward" in each["phases"]
    )


def test_a_bucket_stands_as_it_is_asked() -> None:
    """One buffer of so many numbers, and a second where reduction overlaps; nothing else of it depends on the model."""
    small, large = buckets(2, reduce_bucket_size=10**6), buckets(2, reduce_bucket_size=3 * 10**8)
    assert large - small == 2 * (3 * 10**8 - 10**6)
    double = buckets(2, reduce_bucket_size=3 * 10**8, overlap_grad_reduce=True)
    assert double - large == 2 * 3 * 10**8
    assert buckets(3, reduce_bucket_size=3 * 10**8) == buckets(
        3, reduce_bucket_size=3 * 10**8, overlap_grad_reduce=True
    )


# -- float8 ----------------------------------------------------------------------------------------------


def test_float8_products_keep_their_inputs_in_one_byte() -> None:
    """Per layer the inputs of four products stand in one byte: two of them replace 16-bit ones, the other two stand beside."""
    args: dict[str, Any] = {
        "num-layers": 8, "hidden-size": 1024, "num-attention-heads": 16, "seq-length": 1024, "max-position-embeddings": 1024,
        "use-mcore-models": True, "bf16": True, "attention-dropout": 0.0, "hidden-dropout": 0.0, "transformer-impl": "transformer_engine",
    }  # fmt: skip
    kept = {}
    for precision in ("bf16-mixed", "fp8"):
        answer = vrameter.estimate(
            {"task": "training", "engine": "megatron", "model": {"megatron_args": args},
             "settings": {"seq_len": 1024, "micro_batch": 2, "precision": precision, "finetuning": "pretrain"}}
        )  # fmt: skip
        kept[precision] = sum(
            each["bytes"] for each in answer["devices"][0]["items"]
            if each["term"] == "activations" and "forward" in each["phases"]
        )  # fmt: skip
    tokens = 2048
    # Two norm outputs lose a byte, the perceptron's product of four widths loses four, attention's output gains one.
    assert kept["bf16-mixed"] - kept["fp8"] == pytest.approx(8 * tokens * 1024 * (2 + 4 - 1), rel=0.02)
