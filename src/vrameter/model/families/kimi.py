"""Kimi Linear, Kimi K3 and Ling 2.5: layers with a delta-rule state for one of latent attention, a mixture of experts.

K3 adds experts that work in a narrower space, an output gate on attention, learned reading of earlier blocks, and a
vision tower. Kimi Linear follows the class of transformers 5.23, K3 the names of its published checkpoint.

References
----------
.. [1] Kimi Team, "Kimi Linear: An Expressive, Efficient Attention Architecture", 2025, arXiv:2510.26692.
.. [2] Kimi Team, "Kimi-VL Technical Report", 2025, arXiv:2504.07491.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from vrameter.model import mixers, parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Part, Recurrent, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.latent import latent
from vrameter.model.families.layer_kinds import FULL, every, layer_kinds
from vrameter.model.families.mixture import (
    balanced,
    block,
    decoder_of,
    listed,
    perceptron,
    shared_experts_width,
    sparse_layers,
    untied_head,
    with_next_token,
)
from vrameter.model.families.registry import Built, decoder, entry, model, stack, tower, within
from vrameter.model.families.vision_parts import first, pair
from vrameter.model.image_input import PaddedGrid


def delta_attention(cfg: Config, own: Config, *, flat_decay: bool = False) -> Recurrent:
    """Return Kimi's delta attention [1]_; `own` is the nested config that sizes it.

    `flat_decay` says that the decay of each head stands in a vector.
    """
    hidden = cfg.hidden_size
    dim = own.integer("head_dim", None) or cfg.integer("linear_head_dim", 128)
    heads = own.integer("num_heads", None) or cfg.integer("linear_num_heads", 32)
    kernel = own.integer("short_conv_kernel_size", None) or cfg.integer("linear_conv_kernel_dim", 4)
    width = heads * dim
    decay = (heads,) if flat_decay else (1, 1, heads, 1)
    name = "self_attn"
    if own.flag("use_full_rank_gate", False):
        gate = parts.linear(f"{name}.g_proj", width, hidden, role="mixer", slot="z")
    else:
        gate = (
            *parts.linear(f"{name}.g_a_proj", dim, hidden, role="mixer", slot="z_a"),
            *parts.linear(f"{name}.g_b_proj", width, dim, role="mixer", slot="z_b"),
        )
    tensors = (
        *(
            tensor
            for which in ("q", "k", "v")
            for tensor in parts.linear(f"{name}.{which}_proj", width, hidden, role="mixer", slot=which)
        ),
        *parts.conv(f"{name}.conv1d", 3 * width, 1, kernel, bias=False, role="mixer", slot="conv"),
        *parts.linear(f"{name}.forget_gate.f_a_proj", dim, hidden, role="mixer", slot="a_a"),
        *parts.linear(f"{name}.forget_gate.f_b_proj", width, dim, role="mixer", slot="a_b"),
        *parts.parameter(f"{name}.forget_gate.dt_bias", width, role="mixer"),
        *parts.parameter(f"{name}.forget_gate.A_log", *decay, role="mixer", slot="a"),
        *parts.linear(f"{name}.b_proj", heads, hidden, role="mixer", slot="b"),
        *gate,
        *parts.norm(f"{name}.o_norm", dim),
        *parts.linear(f"{name}.o_proj", hidden, width, role="mixer", slot="ssm_out"),
    )
    return mixers.delta_net(
        tensors,
        num_key_heads=heads,
        num_value_heads=heads,
        key_dim=dim,
        value_dim=dim,
        conv_kernel=kernel,
        kind="kda",
    )


def linear_layers(cfg: Config, own: Config) -> list[bool]:
    """Return which layers keep a state: by list, by numbers from 1 in the nested config, else all but every fourth."""
    count = cfg.num_layers
    kinds = listed(cfg, "layer_types", count)
    if kinds is not None:
        return [kind == "linear_attention" for kind in kinds]
    whole = own.integers("full_attn_layers", None)
    if whole is not None and own.has("kda_layers"):
        return [index + 1 not in whole for index in range(count)]
    return [not (index and index % 4 == 0) for index in range(count)]


def kimi_experts(cfg: Config) -> FeedForward:
    """Return the mixture, whose experts may work in a narrower space between two projections."""
    hidden = cfg.hidden_size
    width = cfg.integer("routed_expert_hidden_size", None)
    name = "block_sparse_moe" if width else "mlp"
    around: Tensors = ()
    if width:
        around = (
            *parts.linear(f"{name}.routed_expert_down_proj", width, hidden, role="other", slot="latent"),
            *parts.linear(f"{name}.routed_expert_up_proj", hidden, width, role="other", slot="latent"),
            *(parts.norm(f"{name}.routed_expert_norm", width) if cfg.flag("latent_moe_use_norm", False) else ()),
        )
    return balanced(
        cfg,
        count="num_local_experts",
        shared_width=shared_experts_width(cfg, "num_shared_experts"),
        name=name,
        expert_hidden_size=width,
        extra=around,
    )


@decoder("kimi_linear", heads=untied_head)
def kimi_linear(cfg: Config, prefix: str) -> Component:
    """Kimi Linear [1]_ and the text part of Kimi K3."""
    count, hidden = cfg.num_layers, cfg.hidden_size
    own = cfg.nested("linear_attn_config") if cfg.has_nested("linear_attn_config") else Config({}, notes=cfg.notes)
    kinds = listed(cfg, "mlp_layer_types", count)
    dense = cfg.integer("first_k_dense_replace", 1, least=0)
    sparse = [kind == "sparse" for kind in kinds] if kinds else [index >= dense for index in range(count)]
    gate = cfg.flag("mla_use_output_gate", False)
    residual: Tensors = ()
    last: Tensors = ()
    if cfg.integer("attn_res_block_size", None):
        residual = tuple(tensor for name in ("self_attention_res", "mlp_res") for tensor in _reading(name, hidden))
        last = _reading("output_attn_res", hidden)

    def build(kind: tuple[bool, bool]) -> Layer:
        is_linear, is_sparse = kind
        if is_linear:
            mixer: Recurrent | object = delta_attention(cfg, own)
        else:
            width = cfg.num_heads * cfg.integer("v_head_dim")
            extra = parts.linear("self_attn.g_proj", width, hidden, role="attention", slot="gate") if gate else ()
            mixer = latent(cfg, extra=extra)
        mlp = kimi_experts(cfg) if is_sparse else perceptron(cfg)
        return block(cfg, mixer, mlp, extra=residual)  # type: ignore[arg-type]

    return decoder_of(cfg, prefix, stack(list(zip(linear_layers(cfg, own), sparse, strict=True)), build), extra=last)


@decoder("bailing_hybrid", heads=untied_head)
def bailing_hybrid(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Ling and Ring 2.5: Kimi's delta attention with gates of full rank, latent attention with a gate per head."""
    hidden = cfg.hidden_size
    heads = cfg.integer("linear_num_heads", None) or cfg.num_heads
    dim = cfg.integer("linear_head_dim", None) or cfg.integer("head_dim")
    kernel = cfg.integer("linear_conv_kernel_dim", None) or cfg.integer("short_conv_kernel_size")
    width, name = heads * dim, "self_attn"
    tensors = (
        *(
            tensor
            for which, slot in (("q", "q"), ("k", "k"), ("v", "v"), ("g", "z"))
            for tensor in parts.linear(f"{name}.{which}_proj", width, hidden, role="mixer", slot=slot)
        ),
        *parts.conv(f"{name}.conv1d", 3 * width, 1, kernel, bias=False, role="mixer", slot="conv"),
        *parts.linear(f"{name}.forget_gate.f_proj", width, hidden, role="mixer", slot="a"),
        *parts.parameter(f"{name}.forget_gate.A_log", heads, role="mixer", slot="a"),
        *parts.parameter(f"{name}.forget_gate.dt_bias", width, role="mixer", slot="a"),
        *parts.linear(f"{name}.b_proj", heads, hidden, role="mixer", slot="b"),
        *parts.norm(f"{name}.o_norm", dim),
        *parts.linear(f"{name}.o_proj", hidden, width, role="mixer", slot="ssm_out"),
    )
    delta = mixers.delta_net(
        tensors,
        num_key_heads=heads,
        num_value_heads=heads,
        key_dim=dim,
        value_dim=dim,
        conv_kernel=kernel,
        kind="kda",
    )
    gate = parts.linear(f"{name}.g_proj", cfg.num_heads, hidden, role="attention", slot="gate")

    def build(kind: tuple[str, bool]) -> Layer:
        mixer: Part = latent(cfg, q_lora_rank=None, extra=gate) if kind[0] == FULL else delta
        return block(cfg, mixer, balanced(cfg, count="num_local_experts") if kind[1] else perceptron(cfg))

    kinds = layer_kinds(cfg, cfg.num_layers, every(cfg.integer("layer_group_size")))
    sparse = sparse_layers(cfg.over(moe_layer_freq=None), 2)
    body = decoder_of(cfg, prefix, stack(list(zip(kinds, sparse, strict=True)), build))
    return with_next_token(cfg, prefix, body, tables=())


def _reading(name: str, hidden: int) -> Tensors:
    """Return the norm and the score by which a part reads the outputs of earlier blocks."""
    return (*parts.norm(f"{name}_norm", hidden), *parts.linear(f"{name}_proj", 1, hidden))


def vision_tower(cfg: Config, prefix: str) -> Component:
    """Return K3's vision tower: patches, learned positions, attention and plain perceptrons without biases."""
    hidden, width = cfg.integer("vt_hidden_size"), cfg.integer("vt_intermediate_size")
    heads = cfg.integer("vt_num_attention_heads")
    inner = cfg.integer("qkv_hidden_size", None) or hidden
    attn_bias, bias = cfg.flag("attn_bias", True), cfg.flag("linear_bias", True)
    norm_bias = cfg.text("norm_type", "layernorm") != "rmsnorm"
    attention = Attention(
        tensors=(
            *parts.linear("wqkv", 3 * inner, hidden, bias=attn_bias, role="attention", slot="qkv"),
            *parts.linear("wo", hidden, inner, bias=attn_bias, role="attention", slot="o"),
        ),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=inner // heads,
        value_dim=inner // heads,
        scope="encoder",
    )
    mlp = parts.mlp(hidden_size=hidden, intermediate_size=width, gated=False, bias=bias, up="fc0", down="fc1")
    norms = tuple(tensor for name in ("norm0", "norm1") for tensor in parts.norm(name, hidden, bias=norm_bias))
    patch = cfg.integer("patch_size")
    rows, columns = cfg.integer("init_pos_emb_height"), cfg.integer("init_pos_emb_width")
    return Component(
        kind="vision",
        name="vision_tower",
        hidden_size=hidden,
        layers=(Layer((attention, mlp), norms),) * cfg.layers("vt_num_hidden_layers"),
        tensors=(
            *parts.conv("patch_embed.proj", hidden, 3, patch, patch, bias=cfg.flag("patch_embed_proj_bias", True)),
            *parts.parameter("patch_embed.pos_emb.weight", rows, columns, hidden, role="embedding", slot="position"),
            *parts.norm("encoder.final_layernorm", hidden, bias=norm_bias),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "encoder.blocks"),
    )


@tower("moonvit")
def moonvit(cfg: Config, prefix: str) -> Component:
    """MoonViT [2]_: a grid that follows the image, four patches to a token."""
    sizes = {name: cfg.integer(name) for name in ("hidden_size", "intermediate_size", "num_attention_heads")}
    own = cfg.over(**{f"vt_{name}": size for name, size in sizes.items()}, vt_num_hidden_layers=cfg.num_layers)
    # Most patches of an image by the processor's published files. [preprocessor_config.json of Kimi-VL-A3B-Instruct]
    image = PaddedGrid(
        patch_size=pair(cfg, "patch_size"), merge=first(cfg, "merge_kernel_size", 2), budget=4096, longest=512
    )
    return replace(vision_tower(own, prefix), image=image)


@model("kimi_vl")
def kimi_vl(cfg: Config, class_name: str) -> Built:
    """Kimi-VL [2]_: MoonViT, a norm, two layers on four patches, and a whole DeepSeek-V3 with its head."""
    from vrameter.model.read import build

    text, vision = cfg.nested("text_config", "deepseek_v3"), cfg.nested("vision_config", "moonvit")
    found = entry(text.model_type)
    if found is None or found.kind != "decoder":
        raise text.fail(
            "model_type", "'%(value)s' is not a kind of network that can stand here.", value=text.model_type
        )
    language = within("language_model", build(text, found, "ForCausalLM"))
    seen, hidden = moonvit(vision, "vision_tower"), text.hidden_size
    merged = seen.hidden_size * prod(vision.integers("merge_kernel_size", [2, 2], least=1))
    bridge = (
        *parts.norm("pre_norm", seen.hidden_size, bias=True),
        *parts.linear("linear_1", merged, merged, bias=True, role="projector"),
        *parts.linear("linear_2", hidden, merged, bias=True, role="projector"),
    )
    joint = Component(
        kind="projector", name="projector", hidden_size=hidden, tensors=bridge, prefix="multi_modal_projector"
    )
    return Built((*language.components, seen, joint), tied=language.tied)


@model("kimi_k3")
def kimi_k3(cfg: Config, class_name: str) -> Built:
    """Kimi K3: Kimi Linear's decoder with narrower experts, a vision tower, and a projector that merges patches."""
    text, vision = cfg.nested("text_config", "kimi_linear"), cfg.nested("vision_config")
    merged = vision.integer("vt_hidden_size") * prod(vision.integers("merge_kernel_size", [2, 2], least=1))
    hidden, vocab = text.hidden_size, text.vocab_size
    projector = Component(
        kind="projector",
        name="mm_projector",
        hidden_size=hidden,
        tensors=(
            *parts.linear("proj.0", merged, merged, role="projector"),
            *parts.linear("proj.2", hidden, merged, role="projector"),
            *parts.norm("post_norm", hidden),
        ),
        prefix="mm_projector",
    )
    head = parts.lm_head(vocab, hidden, name="language_model.lm_head")
    return Built(
        (
            kimi_linear(text, "language_model.model"),
            vision_tower(vision, "vision_tower"),
            projector,
            Component(kind="head", name="head", hidden_size=hidden, tensors=head),
        )
    )
