"""Adapters against peft's own classes on CPU: parameters, frozen tensors, what stays after a forward pass, what passes.

Needs torch, transformers and peft (``-m oracle``); AdaMSS needs scikit-learn as well.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.scenes import TOY
from vrameter import estimate
from vrameter.memory.adapters import Matrix, adapter_size
from vrameter.settings.training import RANKS
from vrameter.training.adapting import READS_NUMBERS
from vrameter.training.programs.adapters import AdapterUse, beside

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
live_bytes = pytest.importorskip("tests.live_bytes")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

LAYERS = 2
WIDTHS = {
    "q_proj": (256, 256), "k_proj": (256, 128), "v_proj": (256, 128), "o_proj": (256, 256), "gate_proj": (256, 704),
    "up_proj": (256, 704), "down_proj": (704, 256),
}  # fmt: skip
FEW, ALL = ["q_proj", "v_proj"], list(WIDTHS)
# method, fields of its configuration
COUNTED: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"r": 4}), ("lora", {"r": 16, "use_dora": True}), ("lora", {"r": 8, "init_lora_weights": "pissa"}),
    ("lora", {"r": 8, "lora_bias": True}), ("adalora", {"init_r": 12, "total_step": 9}), ("adalora", {"init_r": 5, "total_step": 9}),
    ("vera", {"r": 16}), ("pvera", {"r": 8}), ("loha", {"r": 4}), ("lokr", {"r": 4}), ("lokr", {"r": 16, "decompose_factor": 4}),
    ("lokr", {"r": 2, "decompose_both": True}), ("oft", {"oft_block_size": 32}), ("oft", {"r": 8, "oft_block_size": 0}),
    ("oft", {"oft_block_size": 32, "block_share": True}), ("oft", {"oft_block_size": 48}), ("boft", {"boft_block_size": 4}),
    ("boft", {"boft_block_num": 8, "boft_block_size": 0}), ("hra", {"r": 4}), ("fourierft", {"n_frequency": 100}),
    ("waveft", {"n_frequency": 100}), ("waveft", {"n_frequency": 100, "proportional_parameters": True}),
    ("vblora", {"r": 2, "num_vectors": 16, "vector_length": 64}), ("miss", {"r": 8}), ("miss", {"r": 8, "init_weights": "bat"}),
    ("miss", {"r": 8, "mini_r": 4, "init_weights": "mini"}), ("randlora", {"r": 16}), ("randlora", {"r": 30}),
    ("road", {"variant": "road_1"}), ("road", {"variant": "road_2"}), ("road", {"variant": "road_4"}), ("shira", {"r": 4}),
    ("osf", {}), ("osf", {"effective_rank": 100}), ("osf", {"effective_rank": 0.7}), ("psoft", {"r": 8, "psoft_svd": "lowrank"}),
    ("psoft", {"r": 8, "psoft_svd": "lowrank", "psoft_orth": False, "psoft_mag_a": False}), ("gralora", {"r": 8}),
    ("gralora", {"r": 8, "hybrid_r": 4}), ("delora", {"r": 8}), ("lily", {"r": 4}), ("lily", {"r": 4, "stride_A": 2, "num_B": 3}),
    ("hira", {"r": 4}), ("glora", {"r": 4}), ("glora", {"r": 4, "config_A_B": "vector"}), ("glora", {"r": 4, "config_A_B": "constant"}),
    ("glora", {"r": 4, "config_A_B": "none"}), ("peanut", {"r": 4}), ("peanut", {"r": 4, "depth": 2}), ("beft", {}), ("unilora", {"r": 4}),
    ("tinylora", {}), ("tinylora", {"weight_tying": 0.5}), ("deft", {"r": 4}), ("deft", {"r": 4, "para": True}),
    ("supertuning", {}), ("supertuning", {"r": 4, "sparsity": 0.9, "lora_alpha": 4}), ("poly", {"r": 4, "n_tasks": 2, "n_skills": 3}),
    ("adamss", {"r": 20, "num_subspaces": 3, "subspace_rank": 2}), ("c3a", {"block_size": 32}),
]  # fmt: skip
# Fields of a configuration that size nothing.
QUIET = ("total_step", "init_lora_weights", "lora_alpha", "r", "init_r", "group_size", "feedforward_modules")
INPUTS, OUTPUTS, ROWS, SEQS = 64, 48, 20, 2


def config_of(method: str, fields: dict[str, Any], targets: list[str]) -> Any:
    """Return peft's configuration of a method."""
    found = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[method.upper()]]
    return found(target_modules=targets, **fields)


def rank_of(method: str, fields: dict[str, Any]) -> int:
    """Return the rank that a configuration names."""
    own = method in ("oft", "supertuning")
    named = None if own else fields.get("init_r", fields.get("r"))
    return named if named is not None else RANKS.get(method, 8)


def options_of(method: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return what a configuration says beyond its rank."""
    own = ("r",) if method in ("oft", "supertuning") else ()
    return {name: value for name, value in fields.items() if name not in QUIET or name in own}


def toy(**sizes: Any) -> Any:
    """Return a small Llama in bf16."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**TOY, "num_hidden_layers": LAYERS, **sizes})
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16)


def trained(model: Any) -> int:
    """Return the parameters that get gradients, shared ones once."""
    return sum({id(each): each.numel() for each in model.parameters() if each.requires_grad}.values())


@pytest.mark.parametrize(("targets", "cast"), [(FEW, True), (ALL, False)], ids=["few-fp32", "all-bf16"])
@pytest.mark.parametrize(
    ("method", "fields"), COUNTED, ids=[f"{m}-{'-'.join(map(str, f.values()))}" for m, f in COUNTED]
)
def test_parameters(method: str, fields: dict[str, Any], targets: list[str], cast: bool) -> None:
    if method == "adamss":
        pytest.importorskip("sklearn")
    if targets is ALL and (method in ("osf", "adamss") or fields.get("init_lora_weights") == "pissa"):
        pytest.skip("its decompositions take long")
    model = toy()
    own = {id(each) for each in model.buffers()}
    adapted = peft.get_peft_model(model, config_of(method, fields, targets), autocast_adapter_dtype=cast)
    matrices = [Matrix(*WIDTHS[name], count=LAYERS, target=name) for name in targets]
    size = adapter_size(
        method, matrices, rank=rank_of(method, fields), element=4 if cast else 2, options=options_of(method, fields)
    )
    assert size.trained == trained(adapted)
    if method in ("shira", "adalora"):
        return  # places and averages that are no buffers
    # BOFT's permutations wait in host memory until a pass needs them.
    kept = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for name, each in adapted.named_buffers()
        if id(each) not in own and "boft_P" not in name
    }
    assert size.frozen == sum(kept.values())


def test_ia3_scales_inputs_of_the_way_down() -> None:
    model = peft.get_peft_model(
        toy(), peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    )
    settings = {"finetuning": "peft", "adapter": {"method": "ia3", "dtype": "fp32"}}
    assert adapters_of(settings) == 4 * trained(model)


SAVED: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"r": 4}), ("lora", {"r": 4, "lora_dropout": 0.1}), ("lora", {"r": 4, "use_dora": True}),
    ("lora", {"r": 4, "use_dora": True, "lora_dropout": 0.1}), ("adalora", {"init_r": 4, "total_step": 10}),
    ("vera", {"r": 4}), ("vera", {"r": 4, "vera_dropout": 0.1}), ("pvera", {"r": 4}), ("ia3", {"feedforward_modules": []}),
    ("ia3", {"feedforward_modules": ["linear"]}), ("loha", {"r": 4}), ("lokr", {"r": 2}), ("lokr", {"r": 16}),
    ("lokr", {"r": 2, "decompose_both": True, "decompose_factor": 8}), ("oft", {"oft_block_size": 8}),
    ("oft", {"oft_block_size": 8, "num_cayley_neumann_terms": 7}), ("oft", {"oft_block_size": 8, "block_share": True}),
    ("boft", {"boft_block_size": 4}), ("hra", {"r": 4}), ("fourierft", {"n_frequency": 100}), ("waveft", {"n_frequency": 100}),
    ("waveft", {"n_frequency": 100, "use_idwt": False}), ("vblora", {"r": 2, "num_vectors": 16, "vector_length": 8}),
    ("miss", {"r": 8}), ("miss", {"r": 24}), ("miss", {"r": 8, "init_weights": "bat"}),
    ("miss", {"r": 8, "mini_r": 4, "init_weights": "mini"}), ("randlora", {"r": 4}), ("c3a", {"block_size": 16}),
    ("road", {"variant": "road_1", "group_size": 8}), ("road", {"variant": "road_2", "group_size": 8}),
    ("road", {"variant": "road_4", "group_size": 8}), ("osf", {"effective_rank": 40}), ("psoft", {"r": 8}),
    ("psoft", {"r": 8, "use_cayley_neumann": True}), ("gralora", {"r": 8}), ("gralora", {"r": 8, "hybrid_r": 4}),
    ("delora", {"r": 4}), ("lily", {"r": 4}), ("hira", {"r": 4}), ("hira", {"r": 4, "hira_dropout": 0.1}), ("glora", {"r": 4}),
    ("peanut", {"r": 4}), ("peanut", {"r": 4, "depth": 2}), ("beft", {}), ("unilora", {"r": 4, "theta_d_length": 32}),
    ("tinylora", {}), ("deft", {"r": 4}), ("deft", {"r": 4, "para": True}), ("supertuning", {"sparsity": 0.9}),
    ("adamss", {"r": 20, "num_subspaces": 4}),
]  # fmt: skip
# dtype of the base, whether adapters are in fp32, whether autocast to bf16 is on
NUMBERS = {
    "half": ("bfloat16", True, False), "all-half": ("bfloat16", False, False), "full": ("float32", True, False),
    "autocast": ("bfloat16", True, True),
}  # fmt: skip
# What a CPU does otherwise than a GPU: half-precision weights widened first, permutations that need no copy.
ELSEWHERE = {
    "all-half": ("randlora", "psoft", "miss-bat"), "full": ("boft",), "autocast": ("lily",), "half": (),
}  # fmt: skip


class Bare(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A linear layer in a model of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(INPUTS, OUTPUTS, bias=False)

    def forward(self, x: Any) -> Any:
        """Run it."""
        return self.linear(x)


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize(("method", "fields"), SAVED, ids=[f"{m}-{'-'.join(map(str, f.values()))}" for m, f in SAVED])
def test_what_stays_and_what_passes(method: str, fields: dict[str, Any], numbers: str) -> None:
    """After peft's forward pass as much is alive as the program keeps; its peak is near."""
    name = f"{method}-{fields.get('init_weights', '')}"
    if any(name.startswith(each) for each in ELSEWHERE[numbers]):
        pytest.skip("a CPU does this otherwise")
    if method == "adamss":
        pytest.importorskip("sklearn")
    dtype, cast, autocast = NUMBERS[numbers]
    torch.manual_seed(0)
    net = Bare().to(getattr(torch, dtype))
    model = peft.get_peft_model(net, config_of(method, fields, ["linear"]), autocast_adapter_dtype=cast).train()
    x = torch.randn(SEQS, ROWS // SEQS, INPUTS, dtype=getattr(torch, dtype), requires_grad=True).clone()
    known = [*model.parameters(), *model.buffers(), x]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), live_bytes.LiveBytes(known) as alive:
        y = model(x)
        kept, most = alive.now - y.nbytes, alive.most - y.nbytes
    element = x.element_size()
    own = 4 if cast else element
    options = options_of(method, fields)
    dropout = next((options.pop(each) for each in list(options) if each.endswith("dropout")), 0.0)
    use = AdapterUse(
        rank_of(method, fields), own, dropout=dropout, method=method, options=options,
        feedforward=bool(fields.get("feedforward_modules")),
    )  # fmt: skip
    ours = beside(
        use,
        inputs=INPUTS,
        outputs=OUTPUTS,
        rows=ROWS,
        element=element,
        autocast=2 if autocast else 0,
        seqs=SEQS,
        mask_element=own,
    )
    assert ours.saved == kept
    if numbers == "half":
        assert ours.forward == pytest.approx(most, rel=0.2)


# -- whole models ---------------------------------------------------------------------------------------


def config() -> dict[str, Any]:
    """Return the toy's configuration."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": False,
        **TOY,
        "num_hidden_layers": LAYERS,
    }


def adapters_of(settings: dict[str, Any], **sizes: Any) -> int:
    """Return the bytes of optimizer state over two moments: what is trained, in its own numbers."""
    answer = estimate(
        {"task": "training", "model": {"config": {**config(), **sizes}}, "engine": "transformers", "device": "a100-sxm-80gb",
         "dtype": "bf16", "settings": {"precision": "bf16", "seq_len": 16, "optimizer": "adamw_torch", **settings}}
    )  # fmt: skip
    return sum(item["bytes"] for item in answer["devices"][0]["items"] if item["term"] == "optimizer_state") // 2


PROMPTED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("prompt_tuning", {"num_virtual_tokens": 7}, {}), ("p_tuning", {"num_virtual_tokens": 7}, {}),
    ("p_tuning", {"num_virtual_tokens": 7, "encoder_hidden_size": 40}, {}),
    ("p_tuning", {"num_virtual_tokens": 7, "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 24}, {}),
    ("prefix_tuning", {"num_virtual_tokens": 7}, {}), ("prefix_tuning", {"num_virtual_tokens": 7, "prefix_projection": True}, {}),
    ("multitask_prompt_tuning", {"num_virtual_tokens": 7, "num_tasks": 3, "num_ranks": 2}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "fields", "more"), PROMPTED)
def test_learned_tokens(method: str, fields: dict[str, Any], more: dict[str, Any]) -> None:
    found = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[method.upper()]]
    model = peft.get_peft_model(toy(), found(task_type="CAUSAL_LM", **fields))
    options = {name: value for name, value in fields.items() if name != "num_virtual_tokens"}
    settings = {"adapter": {"method": method, "dtype": "fp32", "num_virtual_tokens": 7, "options": options}}
    assert adapters_of({"finetuning": "peft", **settings}) == 4 * trained(model)


def test_llama_adapter_is_in_the_last_layers() -> None:
    made = peft.AdaptionPromptConfig(adapter_len=5, adapter_layers=2, task_type="CAUSAL_LM")
    model = peft.get_peft_model(toy(), made)
    adapter = {"method": "adaption_prompt", "num_virtual_tokens": 5, "dtype": "bf16", "options": {"adapter_layers": 2}}
    assert adapters_of({"finetuning": "peft", "adapter": adapter}) == 2 * trained(model)


@pytest.mark.parametrize(
    ("fields", "adapter"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, {"targets": ["q_proj", "embed_tokens"]}),
        ({"target_modules": ["q_proj", "lm_head"]}, {"targets": ["q_proj", "lm_head"]}),
        ({"target_modules": r".*\.layers\.[1]\..*(q|v)_proj"}, {"targets": r".*\.layers\.[1]\..*(q|v)_proj"}),
        (
            {"target_modules": ["layers.1.self_attn.q_proj", "down_proj"]},
            {"targets": ["layers.1.self_attn.q_proj", "down_proj"]},
        ),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, {"targets": ["q_proj"], "layers": [1]}),
        ({"target_modules": "all-linear"}, {"targets": "all-linear"}),
        (
            {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
            {"targets": "all-linear", "exclude": ["o_proj"]},
        ),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_targets(fields: dict[str, Any], adapter: dict[str, Any], tied: bool) -> None:
    model = peft.get_peft_model(toy(tie_word_embeddings=tied), peft.LoraConfig(r=4, task_type="CAUSAL_LM", **fields))
    settings = {"finetuning": "lora", "adapter": {"rank": 4, "dtype": "fp32", **adapter}}
    assert adapters_of(settings, tie_word_embeddings=tied) == 4 * trained(model)


@pytest.mark.parametrize("saved", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_copies_keep_the_base_numbers(saved: list[str]) -> None:
    """A module to save is a copy in the base's dtype; the frozen original stays."""
    model = peft.get_peft_model(toy(), peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=saved))
    expected = sum(each.nbytes for each in model.parameters() if each.requires_grad)
    adapter = {"rank": 4, "dtype": "fp32", "targets": ["q_proj"], "modules_to_save": saved}
    assert adapters_of({"finetuning": "lora", "adapter": adapter}) == expected
    frozen = sum(each.numel() for each in model.parameters() if not each.requires_grad)
    assert frozen == toy().num_parameters()


def test_trained_rows_of_the_vocabulary() -> None:
    made = peft.TrainableTokensConfig(token_indices=[1, 2, 3], target_modules=["embed_tokens"])
    model = peft.get_peft_model(toy(), made)
    expected = sum(each.nbytes for each in model.parameters() if each.requires_grad)
    adapter = {"method": "trainable_tokens", "num_virtual_tokens": 3, "dtype": "fp32"}
    assert adapters_of({"finetuning": "peft", "adapter": adapter}) == expected


def test_norms() -> None:
    model = peft.get_peft_model(
        toy(), peft.LNTuningConfig(target_modules=["input_layernorm", "post_attention_layernorm", "norm"])
    )
    answer = adapters_of({"finetuning": "peft", "adapter": {"method": "ln_tuning"}})
    assert answer == 2 * trained(model)


SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
    "vocab_size": 128, "head_dim": 16,
}  # fmt: skip
GPT = {"n_embd": 64, "n_head": 4, "n_layer": 2, "vocab_size": 128}
MIXED = {**SMALL, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# model type, its sizes, targets, target parameters
NAMED: list[tuple[str, dict[str, Any], Any, list[str]]] = [
    ("phi3", {**SMALL, "pad_token_id": 0}, ["qkv_proj", "gate_up_proj"], []), ("phi3", {**SMALL, "pad_token_id": 0}, "all-linear", []),
    ("gpt2", GPT, ["c_attn", "c_proj", "c_fc"], []), ("gpt2", GPT, ["wte", "lm_head"], []),
    ("gpt_neox", {**SMALL, "num_key_value_heads": 4}, ["query_key_value", "dense"], []),
    ("falcon", {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 128}, ["query_key_value"], []),
    ("gemma3_text", SMALL, "all-linear", []), ("qwen3_moe", MIXED, "all-linear", []),
    ("qwen3_moe", MIXED, ["q_proj", "gate_proj", "up_proj", "down_proj"], []),
    ("qwen3_moe", MIXED, [], ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    ("mixtral", {**SMALL, "num_local_experts": 4}, [], ["experts.gate_up_proj"]),
    ("gpt_oss", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": ["full_attention"] * 2}, [],
     ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "sizes", "targets", "parameters"), NAMED)
def test_names_of_other_families(model_type: str, sizes: dict[str, Any], targets: Any, parameters: list[str]) -> None:
    made = transformers.AutoConfig.for_model(model_type, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(made)
    values = {name: value for name, value in made.to_dict().items() if value is not None}
    values["architectures"] = [type(model).__name__]
    lora = peft.LoraConfig(r=4, target_modules=targets, target_parameters=parameters or None, task_type="CAUSAL_LM")
    expected = trained(peft.get_peft_model(model, lora))
    adapter = {"rank": 4, "dtype": "fp32", "targets": targets, "target_parameters": parameters}
    answer = estimate(
        {"task": "training", "model": {"config": values}, "engine": "transformers", "device": "a100-sxm-80gb", "dtype": "bf16",
         "settings": {"finetuning": "lora", "precision": "bf16", "seq_len": 16, "adapter": adapter}}
    )  # fmt: skip
    assert sum(item["bytes"] for item in answer["devices"][0]["items"] if item["term"] == "adapters") == 4 * expected


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_beside_a_four_bit_matrix(dropout: float) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    net = Bare()
    net.linear = bnb.nn.Linear4bit(INPUTS, OUTPUTS, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16)
    net.is_loaded_in_4bit = True
    model = peft.get_peft_model(
        net.to("cpu"), peft.LoraConfig(r=4, target_modules=["linear"], lora_dropout=dropout)
    ).train()
    x = torch.randn(SEQS, ROWS // SEQS, INPUTS, dtype=torch.bfloat16, requires_grad=True).clone()
    with live_bytes.LiveBytes([*model.parameters(), *model.buffers(), x]) as alive:
        y = model(x)
        kept = alive.now - y.nbytes
    use = AdapterUse(4, 4, dropout=dropout)
    ours = beside(
        use, inputs=INPUTS, outputs=OUTPUTS, rows=ROWS, element=2, unpacked=2 * INPUTS * OUTPUTS, mask_element=4
    )
    assert ours.saved == kept


WHOLE: list[tuple[str, Any, dict[str, Any]]] = [
    ("lora", lambda m: peft.LoraConfig(r=4, target_modules=FEW), {"rank": 4, "targets": FEW, "dtype": "fp32"}),
    ("all", lambda m: peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
     {"rank": 4, "targets": "all-linear", "dtype": "fp32"}),
    ("oft", lambda m: peft.OFTConfig(oft_block_size=32, target_modules=FEW), {"method": "oft", "targets": FEW, "dtype": "fp32"}),
    ("norms", lambda m: peft.LNTuningConfig(target_modules=["input_layernorm", "post_attention_layernorm", "norm"]),
     {"method": "ln_tuning"}),
    ("prompt", lambda m: peft.PromptTuningConfig(num_virtual_tokens=16, task_type="CAUSAL_LM"),
     {"method": "prompt_tuning", "num_virtual_tokens": 16, "dtype": "fp32"}),
    ("prefix", lambda m: peft.PrefixTuningConfig(num_virtual_tokens=16, task_type="CAUSAL_LM"),
     {"method": "prefix_tuning", "num_virtual_tokens": 16, "dtype": "fp32"}),
    ("beside", lambda m: peft.AdaptionPromptConfig(adapter_len=5, adapter_layers=m.config.num_hidden_layers, task_type="CAUSAL_LM"),
     {"method": "adaption_prompt", "num_virtual_tokens": 5}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "made", "adapter"), WHOLE, ids=[each[0] for each in WHOLE])
def test_what_a_layer_keeps(name: str, made: Any, adapter: dict[str, Any]) -> None:
    """The third layer of a model in training adds as much as the estimate says."""
    alive, kept = [], []
    for layers in (2, 3):
        model = toy(num_hidden_layers=layers)
        model.config.use_cache = False
        model = peft.get_peft_model(model, made(model)).train()
        ids = torch.randint(0, 100, (SEQS, 64))
        with live_bytes.LiveBytes([*model.parameters(), *model.buffers(), ids]) as counted:
            held = model(input_ids=ids, labels=ids)
            alive.append(counted.now)
        del held
        answer = estimate(
            {"task": "training", "model": {"config": {**config(), "num_hidden_layers": layers}}, "engine": "transformers",
             "device": "a100-sxm-80gb", "dtype": "bf16",
             "settings": {"finetuning": "peft", "precision": "bf16", "seq_len": 64, "micro_batch": SEQS, "adapter": adapter}}
        )  # fmt: skip
        items = answer["devices"][0]["items"]
        kept.append(
            sum(item["bytes"] for item in items if item["term"] == "activations" and "backward" in item["phases"])
        )
    assert kept[1] - kept[0] == alive[1] - alive[0]


@pytest.mark.parametrize("method", ["vera", "oft", "miss", "loha", "hra", "peanut", "delora", "osf", "tinylora"])
def test_which_methods_take_a_packed_matrix(method: str) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    net = Bare()
    net.linear = bnb.nn.Linear4bit(INPUTS, OUTPUTS, bias=False, compute_dtype=torch.bfloat16)
    net.is_loaded_in_4bit = True
    net = net.to("cpu")
    fails = False
    try:
        rank = {} if method in ("oft", "osf") else {"r": 4}
        model = peft.get_peft_model(net, config_of(method, rank, ["linear"]))
        model(torch.randn(2, INPUTS, dtype=torch.bfloat16))
    except (RuntimeError, ValueError, TypeError):
        fails = True
    assert fails == (method in READS_NUMBERS)
