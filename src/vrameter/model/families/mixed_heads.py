"""Mixtures whose layers differ in their attention: other heads under a window, or an indexer in some.

The windowed layers of MiMo, Step and Inkling have head counts of their own; MiniMax-M3 adds to some layers an indexer
that chooses blocks of tokens and keeps one key of its own a token. Shapes follow the classes of transformers 5.23.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Recurrent, Tensors
from vrameter.model.config import Config
from vrameter.model.families.mixture import (
    balanced,
    block,
    decoder_of,
    grouped_attention,
    head_as,
    layer_changes,
    listed,
    mixture,
    next_token_layers,
    perceptron,
    sparse_layers,
    untied_head,
)
from vrameter.model.families.registry import LayerScope, decoder, stack

SLIDING, FULL = "sliding_attention", "full_attention"


def checked(cfg: Config, kinds: list[str], known: tuple[str, ...]) -> list[str]:
    """Return kinds of layers after a look whether all are known."""
    for kind in kinds:
        if kind not in known:
            raise cfg.fail("layer_types", "'%(value)s' is not a kind of layer known here.", value=kind)
    return kinds


@decoder("mimo_v2_flash")
def mimo_v2_flash(cfg: Config, prefix: str) -> Component:
    """MiMo-V2-Flash: windowed layers have twice the key-value heads, and sinks; values are narrower than keys."""
    count = cfg.num_layers
    pattern = listed(cfg, "hybrid_layer_pattern", count)
    kinds = listed(cfg, "layer_types", count)
    if kinds is None and pattern is not None:
        kinds = [SLIDING if entry else FULL for entry in pattern]
    kinds = checked(
        cfg, kinds or [FULL if at == 0 or (at + 1) % 6 == 0 else SLIDING for at in range(count)], (SLIDING, FULL)
    )
    size = cfg.integer("sliding_window_size", None)
    window = cfg.integer("sliding_window", None) if size is None else size + 1

    def attention(kind: str) -> Attention:
        local = kind == SLIDING
        named = "swa_" if local else ""
        kv_heads = cfg.integer("swa_num_key_value_heads", 2 * cfg.num_kv_heads) if local else cfg.num_kv_heads
        sinks = cfg.flag(f"add_{'swa' if local else 'full'}_attention_sink_bias", local)
        return parts.attention(
            hidden_size=cfg.hidden_size,
            num_heads=cfg.integer(f"{named}num_attention_heads", cfg.num_heads),
            num_kv_heads=kv_heads,
            head_dim=cfg.integer(f"{named}head_dim", cfg.head_dim),
            value_dim=cfg.integer(f"{named}v_head_dim", cfg.integer("v_head_dim")),
            bias=cfg.flag("attention_bias", False),
            o_bias=False,
            sinks="sinks" if sinks else None,
            scope="sliding" if local else "full",
            window=window if local else None,
        )

    def build(kind: tuple[str, bool]) -> Layer:
        return block(cfg, attention(kind[0]), balanced(cfg, shared_width=0) if kind[1] else perceptron(cfg))

    return decoder_of(cfg, prefix, stack(list(zip(kinds, sparse_layers(cfg, 1), strict=True)), build))


@decoder("step3p5")
def step3p5(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Step-3.5 and 3.7: more heads under a window, a gate per head, dense layers for multi-token prediction."""
    count, hidden = cfg.num_layers, cfg.hidden_size
    ahead = cfg.layers("num_nextn_predict_layers", 0, least=0)
    given = cfg.sequence("layer_types")
    kinds = checked(cfg, listed(cfg, "layer_types", count) or [FULL] * count, (SLIDING, FULL))
    later = list(given[count:] if given else ()) or list(cfg.sequence("mtp_layer_types") or [])
    window = cfg.integer("sliding_window", None)
    other = cfg.get("attention_other_setting")
    wide = cfg.integer("num_sliding_attention_heads", None)
    if wide is None and isinstance(other, dict):
        wide = cfg.over(num_sliding_attention_heads=other.get("num_attention_heads")).integer(
            "num_sliding_attention_heads", None
        )
    wide = wide or cfg.num_heads
    changes = layer_changes(cfg, count)
    heads = [
        changes[at].get("num_attention_heads", cfg.num_heads) if changes else wide if kind == SLIDING else cfg.num_heads
        for at, kind in enumerate(kinds)
    ]
    enumerated = cfg.get("moe_layers_enum")
    if isinstance(enumerated, str):
        enumerated = [int(item) for item in enumerated.split(",") if item.strip().isdigit()]
    numbers = cfg.over(moe_layers_enum=enumerated).integers("moe_layers_enum", None)
    sparse_set = set(range(3, count) if numbers is None else numbers)
    mlps = listed(cfg, "mlp_layer_types", count)
    sparse = [kind == "sparse" for kind in mlps] if mlps else [at in sparse_set for at in range(count)]
    bias = cfg.flag("mlp_bias", False)
    per_head = cfg.get("gating", True) in (True, "per-head")

    def build(kind: tuple[str, int, bool]) -> Layer:
        name, own_heads, is_sparse = kind
        own = cfg.over(num_attention_heads=own_heads)
        scope: LayerScope = ("sliding", window) if name == SLIDING and window else ("full", None)
        width = own_heads if per_head else own_heads * own.head_dim
        gate = parts.linear("self_attn.g_proj", width, hidden, role="attention", slot="gate")
        mlp = (
            balanced(cfg, shared_width=cfg.integer("share_expert_dim"), shared_bias=bias)
            if is_sparse
            else perceptron(cfg, bias=bias)
        )
        return block(cfg, grouped_attention(own, scope, qk_norm="head", extra=gate), mlp)

    body = decoder_of(cfg, prefix, stack(list(zip(kinds, heads, sparse, strict=True)), build))
    kind = str(later[0]) if later and ahead else FULL
    extra = next_token_layers(
        cfg, prefix, build((kind, wide if kind == SLIDING else cfg.num_heads, False)), tables=("head",)
    )
    return (body,) if extra is None else (body, extra)


@decoder("minimax_m3_vl_text")
def minimax_m3_text(cfg: Config, prefix: str) -> Component:
    """MiniMax-M3: an indexer for blocks of tokens in some layers, gate and up in one matrix, one shared expert."""
    count, hidden = cfg.num_layers, cfg.hidden_size
    legacy = cfg.nested("sparse_attention_config") if cfg.has_nested("sparse_attention_config") else Config({})
    kinds = listed(cfg, "layer_types", count)
    pattern = listed(legacy, "sparse_attention_freq", count)
    indexed = (
        [kind == "minimax_m3_sparse" for kind in kinds] if kinds else [bool(item) for item in pattern or [0] * count]
    )
    heads = legacy.integer("sparse_num_index_heads", None) or cfg.integer("index_n_heads", 4)
    dim = legacy.integer("sparse_index_dim", None) or cfg.integer("index_head_dim", 128)

    def wide(width: int, name: str) -> FeedForward:
        return parts.mlp(hidden_size=hidden, intermediate_size=width, gate_up="gate_up_proj", name=name)

    def attention(has_indexer: bool) -> Attention:
        name = "self_attn.indexer"
        extra: Tensors = (
            *parts.linear(f"{name}.q_proj", heads * dim, hidden, role="attention", slot="index"),
            *parts.linear(f"{name}.k_proj", dim, hidden, role="attention", slot="index"),
            *parts.norm(f"{name}.q_norm", dim),
            *parts.norm(f"{name}.k_norm", dim),
        )
        made = grouped_attention(cfg, bias=False, qk_norm="head", extra=extra if has_indexer else ())
        return replace(made, index_dim=dim) if has_indexer else made

    def experts() -> FeedForward:
        shared = wide(cfg.integer("shared_intermediate_size"), "mlp.shared_experts")
        made = mixture(
            cfg,
            width="intermediate_size",
            count="num_local_experts",
            balance_bias="gate.e_score_correction_bias",
            extra=parts.with_role("shared_experts", shared.tensors),
        )
        return replace(made, shared_size=shared.intermediate_size)

    def build(kind: tuple[bool, bool]) -> Layer:
        mlp = experts() if kind[1] else wide(cfg.integer("dense_intermediate_size"), "mlp")
        return block(cfg, attention(kind[0]), mlp)

    sparse = sparse_layers(cfg.over(first_k_dense_replace=None))
    return decoder_of(cfg, prefix, stack(list(zip(indexed, sparse, strict=True)), build))


@decoder("minimax_m3", heads=head_as("minimax_m3_vl_text"))
def minimax_m3(cfg: Config, prefix: str) -> Component:
    """MiniMax-M3 without its vision tower, in the name of its published text config."""
    return minimax_m3_text(cfg.as_type("minimax_m3_vl_text"), prefix)


# -- Inkling ----------------------------------------------------------------------------------------


def inkling_kinds(cfg: Config) -> list[str]:
    """Return which layers of an Inkling model have a window: all but every sixth, or as listed."""
    count = cfg.num_layers
    kinds = listed(cfg, "layer_types", count)
    local = cfg.integers("local_layer_ids", None)
    if kinds is None:
        kinds = [
            "hybrid_sliding" if ((at + 1) % 6 if local is None else at in local) else "hybrid" for at in range(count)
        ]
    return checked(cfg, kinds, ("hybrid", "hybrid_sliding"))


def relative_attention(cfg: Config, kind: str, *, norms: bool, extra: Tensors = ()) -> Attention:
    """Return Inkling's attention: learned scores by distance, and head counts that depend on the window."""
    local = kind == "hybrid_sliding"
    named = "swa_" if local else ""
    heads, kv_heads, dim = (
        cfg.integer(f"{named}{field}") for field in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    window = cfg.integer("sliding_window_size")
    rank, reach = cfg.integer("d_rel"), window if local else cfg.integer("rel_extent")
    return parts.attention(
        hidden_size=cfg.hidden_size,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        qk_norm=dim if norms else None,
        extra=(
            *parts.linear("self_attn.r_proj", heads * rank, cfg.hidden_size, role="attention", slot="r"),
            *parts.parameter("self_attn.rel_logits_proj.proj", rank, reach, role="attention"),
            *extra,
        ),
        scope="sliding" if local else "full",
        window=window if local else None,
    )


def short_convolutions(
    cfg: Config, attention: Attention, after: tuple[str, str], *, dynamic: bool = False
) -> Recurrent:
    """Return the four short convolutions of a layer: on keys, on values, after attention, after the perceptron.

    `dynamic` ones add to their taps some that each token projects.
    """
    hidden, kernel = cfg.hidden_size, cfg.integer("conv_kernel_size")
    width = attention.num_kv_heads * attention.head_dim
    tensors: Tensors = ()
    for name in ("self_attn.k_sconv", "self_attn.v_sconv"):
        if dynamic:
            tensors += parts.parameter(f"{name}.static_weight", kernel, width, role="mixer", slot="conv")
            tensors += parts.linear(f"{name}.weight_proj", attention.num_kv_heads * kernel, hidden, role="mixer")
        else:
            tensors += parts.conv(f"{name}.conv1d", width, 1, kernel, bias=False, role="mixer", slot="conv")
    for name in after:
        tensors += parts.conv(f"{name}.conv1d", hidden, 1, kernel, bias=False, role="mixer", slot="conv")
    return Recurrent(
        tensors=tensors, kind="short_conv", conv_channels=2 * width + 2 * hidden, conv_kernel=kernel, inner_size=hidden
    )


@decoder("inkling_text", heads=untied_head)
def inkling_text(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Inkling: short convolutions around attention and experts; shared experts take part in the routing."""
    count, hidden = cfg.num_layers, cfg.hidden_size
    dense = cfg.integer("dense_intermediate_size", None)
    own = (
        cfg
        if dense is None
        else cfg.over(moe_intermediate_size=cfg.integer("intermediate_size"), intermediate_size=dense)
    )
    mlps = listed(cfg, "mlp_layer_types", count)
    first = cfg.integer("dense_mlp_idx", 0, least=0)
    sparse = [kind == "sparse" for kind in mlps] if mlps else [at >= first for at in range(count)]
    shared = own.integer("n_shared_experts", 0, least=0)

    def experts() -> FeedForward:
        width, number = own.integer("moe_intermediate_size"), own.integer("n_routed_experts")
        name = "mlp.shared_experts"
        extra: Tensors = (
            *parts.parameter(f"{name}.gate_proj", shared, width, hidden, role="shared_experts", slot="gate"),
            *parts.parameter(f"{name}.up_proj", shared, width, hidden, role="shared_experts", slot="up"),
            *parts.parameter(f"{name}.down_proj", shared, hidden, width, role="shared_experts", slot="down"),
            *parts.parameter("mlp.gate.global_scale", 1, role="router"),
        )
        made = balanced(own, shared_width=0, extra=extra)
        tensors = tuple(
            tensor._replace(shape=(number + shared, hidden)) if tensor.slot == "router" else tensor
            for tensor in made.tensors
        )
        return replace(made, tensors=tensors, shared_size=shared * width)

    def build(kind: tuple[str, bool]) -> Layer:
        attention = relative_attention(cfg, kind[0], norms=True)
        plain = perceptron(own)
        mlp = (
            experts()
            if kind[1]
            else replace(plain, tensors=(*plain.tensors, *parts.parameter("mlp.global_scale", 1, role="mlp")))
        )
        return block(cfg, attention, short_convolutions(cfg, attention, ("attn_sconv", "mlp_sconv")), mlp)

    layers = stack(list(zip(inkling_kinds(cfg), sparse, strict=True)), build)
    body = decoder_of(cfg, prefix, layers, extra=parts.norm("embed_tokens.embed_norm", hidden))
    number = cfg.layers("num_mtp_layers", 0, least=0)
    if not number:
        return (body,)
    local = cfg.integers("mtp_local_layer_ids", [])
    inputs = (
        *parts.norm("enorm", hidden),
        *parts.norm("hnorm", hidden),
        *parts.linear("eh_proj", hidden, 2 * hidden),
    )

    def ahead(kind: str) -> Layer:
        plain = build((kind, False))
        return Layer(plain.parts, (*plain.tensors, *inputs))

    extra = Component(
        kind="mtp",
        name="mtp",
        hidden_size=hidden,
        layers=stack(["hybrid_sliding" if at in local else "hybrid" for at in range(number)], ahead),
        tensors=parts.norm("shared_post_norm", hidden) if cfg.flag("chain_hidden_post_norm", False) else (),
        prefix="mtp",
        layers_prefix="mtp.layers",
        loaded=False,
    )
    return body, extra


@decoder("inkling2_text", heads=untied_head)
def inkling2_text(cfg: Config, prefix: str) -> Component:
    """Inkling 2: gated attention with clipped scores, learned reading of earlier blocks, all layers sparse."""
    hidden, rank = cfg.hidden_size, cfg.integer("d_rel")

    def build(kind: tuple[str, bool]) -> Layer:
        name, is_first = kind
        local = name == "hybrid_sliding"
        bare = relative_attention(cfg, name, norms=False)
        heads, dim = bare.num_heads, bare.head_dim
        own = "self_attn"
        extra: Tensors = (
            *parts.linear(f"{own}.gate_proj", heads * dim, hidden, role="attention", slot="gate"),
            *parts.linear(f"{own}.sink_proj", heads, hidden, role="attention", slot="sinks"),
            *parts.parameter(f"{own}.q_l2_clip.scale", heads, dim, role="attention"),
            *parts.parameter(f"{own}.rel_l2_clip.scale", heads, rank, role="attention"),
        )
        attention = replace(bare, tensors=(*bare.tensors, *extra))
        after = ("post_attention_convolution", "post_mlp_convolution")
        reading = (
            *(() if is_first else parts.parameter("attention_input.query", *([] if local else [3]), hidden)),
            *parts.parameter("mlp_input.query", hidden),
        )
        inputs = ["input_layernorm"] if local else [f"{which}_input_layernorm" for which in "qkv"]
        return block(
            cfg,
            attention,
            short_convolutions(cfg, attention, after, dynamic=not local),
            balanced(cfg, shared_width=0),
            norms=[*inputs, "post_attention_layernorm"],
            extra=reading,
        )

    layers = stack([(kind, at == 0) for at, kind in enumerate(inkling_kinds(cfg))], build)
    extra = (*parts.norm("embed_tokens.embed_norm", hidden), *parts.parameter("final_input.query", hidden))
    return decoder_of(cfg, prefix, layers, extra=extra)
