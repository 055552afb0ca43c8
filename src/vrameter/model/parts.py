"""The parts that layers are made of, from widths to tensors.

Each function writes the tensors of one kind of module under its usual names; a family whose module differs
passes other names or writes its own tensors. Shapes are torch's: outputs before inputs. Mixers with a state stand in
`mixers`.

References
----------
.. [1] J. Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
       Checkpoints", 2023, arXiv:2305.13245.
.. [2] DeepSeek-AI, "DeepSeek-V2", 2024, arXiv:2405.04434 (latent attention).
"""

from __future__ import annotations

from collections.abc import Iterable

from vrameter.model.architecture import (
    Attention,
    FeedForward,
    LatentAttention,
    Role,
    Scope,
    Tensor,
    Tensors,
)


def linear(
    name: str, outputs: int, inputs: int, *, bias: bool = False, role: Role = "other", slot: str = ""
) -> Tensors:
    """Return the matrix of a linear layer and, where it has one, its bias."""
    weight = Tensor(f"{name}.weight", (outputs, inputs), role, slot, linear=True)
    return (weight, Tensor(f"{name}.bias", (outputs,), role, slot)) if bias else (weight,)


def conv1d_linear(
    name: str, outputs: int, inputs: int, *, bias: bool = True, role: Role = "other", slot: str = ""
) -> Tensors:
    """Return the matrix of GPT-2's Conv1D, which is a linear layer stored inputs first."""
    weight = Tensor(f"{name}.weight", (inputs, outputs), role, slot, linear=True)
    return (weight, Tensor(f"{name}.bias", (outputs,), role, slot)) if bias else (weight,)


def conv(
    name: str, outputs: int, inputs: int, *kernel: int, bias: bool = True, role: Role = "convolution", slot: str = ""
) -> Tensors:
    """Return the kernel of a convolution of any number of dimensions; `inputs` is per group."""
    weight = Tensor(f"{name}.weight", (outputs, inputs, *kernel), role, slot)
    return (weight, Tensor(f"{name}.bias", (outputs,), role, slot)) if bias else (weight,)


def norm(name: str, size: int, *, bias: bool = False, weight: bool = True) -> Tensors:
    """Return the scale of a norm and, for a LayerNorm with one, its shift."""
    scale = (Tensor(f"{name}.weight", (size,), "norm"),) if weight else ()
    return (*scale, Tensor(f"{name}.bias", (size,), "norm")) if bias else scale


def batch_norm(name: str, size: int) -> Tensors:
    """Return scale and shift of a batch norm, and its running statistics, which are buffers."""
    return (
        *norm(name, size, bias=True),
        Tensor(f"{name}.running_mean", (size,), "norm", buffer=True),
        Tensor(f"{name}.running_var", (size,), "norm", buffer=True),
        Tensor(f"{name}.num_batches_tracked", (), "norm", buffer=True),
    )


def embedding(name: str, rows: int, width: int, *, slot: str = "token") -> Tensors:
    """Return a lookup table: ``token``, ``position``, ``type`` or another."""
    return (Tensor(f"{name}.weight", (rows, width), "embedding", slot),)


def parameter(name: str, *shape: int, role: Role = "other", slot: str = "") -> Tensors:
    """Return a bare parameter."""
    return (Tensor(name, shape, role, slot),)


def buffer(name: str, *shape: int, role: Role = "other", slot: str = "") -> Tensors:
    """Return a tensor that is stored but is no parameter."""
    return (Tensor(name, shape, role, slot, buffer=True),)


def lm_head(vocab_size: int, hidden_size: int, *, name: str = "lm_head", bias: bool = False) -> Tensors:
    """Return the matrix from the last hidden state to the vocabulary."""
    return linear(name, vocab_size, hidden_size, bias=bias, role="head", slot="head")


def below(prefix: str, tensors: Iterable[Tensor]) -> Tensors:
    """Return tensors with a module path put before their names."""
    return tuple(tensor._replace(name=f"{prefix}.{tensor.name}") for tensor in tensors)


def with_role(role: Role, tensors: Iterable[Tensor]) -> Tensors:
    """Return tensors counted under another role."""
    return tuple(tensor._replace(role=role) for tensor in tensors)


def attention(
    *,
    hidden_size: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    value_dim: int | None = None,
    name: str = "self_attn",
    q: str = "q_proj",
    k: str = "k_proj",
    v: str = "v_proj",
    o: str = "o_proj",
    qkv: str | None = None,
    bias: bool = False,
    q_bias: bool | None = None,
    k_bias: bool | None = None,
    v_bias: bool | None = None,
    o_bias: bool | None = None,
    qk_norm: int | tuple[int, int] | None = None,
    q_norm: str = "q_norm",
    k_norm: str = "k_norm",
    qk_norm_bias: bool = False,
    gated: bool = False,
    sinks: str | None = None,
    extra: Tensors = (),
    kv_size: int | None = None,
    out_size: int | None = None,
    role: Role = "attention",
    scope: Scope = "full",
    window: int | None = None,
    shares_cache: bool = False,
    cross_tokens: int | None = None,
    conv_style: bool = False,
) -> Attention:
    """Return grouped-query attention [1]_ with separate or fused projections.

    Parameters
    ----------
    qkv
        Name of one matrix that makes queries, keys and values; None for three.
    bias, q_bias, k_bias, v_bias, o_bias
        Biases: `bias` of all that are not set apart.
    qk_norm
        Width of the norms on queries and keys: ``head_dim`` where heads share one, a pair where widths differ.
    gated
        Whether the query matrix also makes an output gate, twice as wide.
    sinks
        Name of one learned number per head.
    kv_size
        Width of what keys and values are made from, where it is not `hidden_size` (cross-attention).
    shares_cache
        Whether the layer reads another's keys and values: it then has no key and value matrices.
    conv_style
        Whether matrices are stored inputs first (GPT-2).
    """
    kv_heads = num_kv_heads or num_heads
    dim = head_dim or hidden_size // num_heads
    v_dim = value_dim or dim
    make = conv1d_linear if conv_style else linear
    source = kv_size or hidden_size
    prefix = f"{name}." if name else ""
    q_out = num_heads * dim * (2 if gated else 1)
    q_biased, k_biased, v_biased = (bias if own is None else own for own in (q_bias, k_bias, v_bias))
    if qkv:
        projections = make(
            f"{prefix}{qkv}", q_out + kv_heads * (dim + v_dim), hidden_size, bias=q_biased, role=role, slot="qkv"
        )
    else:
        projections = make(f"{prefix}{q}", q_out, hidden_size, bias=q_biased, role=role, slot="q")
        if not shares_cache:
            projections += make(f"{prefix}{k}", kv_heads * dim, source, bias=k_biased, role=role, slot="k")
            projections += make(f"{prefix}{v}", kv_heads * v_dim, source, bias=v_biased, role=role, slot="v")
    o_biased = bias if o_bias is None else o_bias
    projections += make(f"{prefix}{o}", out_size or hidden_size, num_heads * v_dim, bias=o_biased, role=role, slot="o")
    if qk_norm:
        q_width, k_width = qk_norm if isinstance(qk_norm, tuple) else (qk_norm, qk_norm)
        projections += norm(f"{prefix}{q_norm}", q_width, bias=qk_norm_bias)
        if not shares_cache:
            projections += norm(f"{prefix}{k_norm}", k_width, bias=qk_norm_bias)
    if sinks:
        projections += parameter(f"{prefix}{sinks}", num_heads, role=role, slot="sinks")
    return Attention(
        tensors=projections + extra,
        num_heads=num_heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        value_dim=v_dim,
        scope=scope,
        window=window,
        shares_cache=shares_cache,
        cross_tokens=cross_tokens,
    )


def latent_attention(
    *,
    hidden_size: int,
    num_heads: int,
    q_lora_rank: int | None,
    kv_lora_rank: int,
    nope_dim: int,
    rope_dim: int,
    value_dim: int,
    name: str = "self_attn",
    bias: bool = False,
    index_heads: int = 0,
    index_dim: int = 0,
    extra: Tensors = (),
    scope: Scope = "full",
    window: int | None = None,
) -> LatentAttention:
    """Return multi-head latent attention [2]_, with or without a compressed query and an indexer."""
    key_dim = nope_dim + rope_dim
    tensors: Tensors = ()
    if q_lora_rank:
        tensors += linear(f"{name}.q_a_proj", q_lora_rank, hidden_size, bias=bias, role="attention", slot="q_a")
        tensors += norm(f"{name}.q_a_layernorm", q_lora_rank)
        tensors += linear(f"{name}.q_b_proj", num_heads * key_dim, q_lora_rank, role="attention", slot="q_b")
    else:
        tensors += linear(f"{name}.q_proj", num_heads * key_dim, hidden_size, role="attention", slot="q")
    tensors += linear(
        f"{name}.kv_a_proj_with_mqa", kv_lora_rank + rope_dim, hidden_size, bias=bias, role="attention", slot="kv_a"
    )
    tensors += norm(f"{name}.kv_a_layernorm", kv_lora_rank)
    tensors += linear(
        f"{name}.kv_b_proj", num_heads * (nope_dim + value_dim), kv_lora_rank, role="attention", slot="kv_b"
    )
    tensors += linear(f"{name}.o_proj", hidden_size, num_heads * value_dim, bias=bias, role="attention", slot="o")
    if index_heads:
        indexer = f"{name}.indexer"
        tensors += linear(
            f"{indexer}.wq_b", index_heads * index_dim, q_lora_rank or hidden_size, role="attention", slot="index"
        )
        tensors += linear(f"{indexer}.wk", index_dim, hidden_size, role="attention", slot="index")
        tensors += norm(f"{indexer}.k_norm", index_dim, bias=True)
        tensors += linear(f"{indexer}.weights_proj", index_heads, hidden_size, role="attention", slot="index")
    return LatentAttention(
        tensors=tensors + extra,
        num_heads=num_heads,
        q_lora_rank=q_lora_rank,
        kv_lora_rank=kv_lora_rank,
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        value_dim=value_dim,
        index_heads=index_heads,
        index_dim=index_dim,
        scope=scope,
        window=window,
    )


def mlp(
    *,
    hidden_size: int,
    intermediate_size: int,
    gated: bool = True,
    bias: bool = False,
    down_bias: bool | None = None,
    name: str = "mlp",
    gate: str = "gate_proj",
    up: str = "up_proj",
    down: str = "down_proj",
    gate_up: str | None = None,
    role: Role = "mlp",
    out_size: int | None = None,
    conv_style: bool = False,
    extra: Tensors = (),
) -> FeedForward:
    """Return a gated (SwiGLU, GeGLU) or plain perceptron."""
    make = conv1d_linear if conv_style else linear
    prefix = f"{name}." if name else ""
    if gate_up:
        tensors = make(prefix + gate_up, 2 * intermediate_size, hidden_size, bias=bias, role=role, slot="gate_up")
    else:
        tensors = (
            make(prefix + gate, intermediate_size, hidden_size, bias=bias, role=role, slot="gate") if gated else ()
        )
        tensors += make(prefix + up, intermediate_size, hidden_size, bias=bias, role=role, slot="up")
    tensors += make(
        prefix + down,
        out_size or hidden_size,
        intermediate_size,
        bias=bias if down_bias is None else down_bias,
        role=role,
        slot="down",
    )
    return FeedForward(tensors=tensors + extra, intermediate_size=intermediate_size, gated=gated)


def experts(
    *,
    hidden_size: int,
    intermediate_size: int,
    num_experts: int,
    num_experts_per_token: int,
    name: str = "mlp",
    router: str = "gate",
    router_bias: bool = False,
    balance_bias: str | None = None,
    balance_is_parameter: bool = False,
    gated: bool = True,
    bias: bool = False,
    stacked: str = "experts",
    gate_up: str = "gate_up_proj",
    up: str = "up_proj",
    down: str = "down_proj",
    inputs_first: bool = False,
    shared: FeedForward | None = None,
    shared_gate: str | None = None,
    extra: Tensors = (),
    expert_hidden_size: int | None = None,
) -> FeedForward:
    """Return a mixture of experts, its router, and what every token passes besides.

    Parameters
    ----------
    balance_bias
        Name of the aux-loss-free balancing bias, one number per expert; a buffer unless `balance_is_parameter`.
    stacked
        Name of the module that holds all experts in one three-dimensional tensor each, as transformers 5 loads them.
    inputs_first
        Whether the stacked matrices are stored inputs before outputs (gpt-oss, Llama 4).
    shared
        The shared experts as one perceptron, with their names.
    shared_gate
        Name of the vector that scales the shared expert's output.
    expert_hidden_size
        Width that experts see, where it is projected down before them (latent experts).
    """
    width = expert_hidden_size or hidden_size
    in_rows = 2 * intermediate_size if gated else intermediate_size
    first, second = (in_rows, width), (width, intermediate_size)
    if inputs_first:
        first, second = (width, in_rows), (intermediate_size, width)
    module = f"{name}.{stacked}"
    slots = ("gate_up" if gated else "up", "down")
    tensors: Tensors = (
        Tensor(f"{module}.{gate_up if gated else up}", (num_experts, *first), "experts", slots[0], linear=True),
        Tensor(f"{module}.{down}", (num_experts, *second), "experts", slots[1], linear=True),
    )
    if bias:
        tensors += (
            Tensor(f"{module}.{gate_up if gated else up}_bias", (num_experts, in_rows), "experts", slots[0]),
            Tensor(f"{module}.{down}_bias", (num_experts, width), "experts", slots[1]),
        )
    tensors += (Tensor(f"{name}.{router}.weight", (num_experts, hidden_size), "router", "router"),)
    if router_bias:
        tensors += (Tensor(f"{name}.{router}.bias", (num_experts,), "router"),)
    if balance_bias:
        tensors += (Tensor(f"{name}.{balance_bias}", (num_experts,), "router", buffer=not balance_is_parameter),)
    if shared:
        tensors += with_role("shared_experts", shared.tensors)
    if shared_gate:
        tensors += (Tensor(f"{name}.{shared_gate}.weight", (1, hidden_size), "router", "shared_gate"),)
    return FeedForward(
        tensors=tensors + extra,
        intermediate_size=intermediate_size,
        gated=gated,
        num_experts=num_experts,
        num_experts_per_token=min(num_experts_per_token, num_experts),
        shared_size=shared.intermediate_size if shared else 0,
    )
