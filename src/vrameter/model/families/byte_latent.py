"""The Byte Latent Transformer: a small encoder and decoder of bytes around a large decoder of patches.

A patcher, itself a small language model, says where a patch ends. The decoder of patches runs once per patch; here
its cache is counted as if every token were a patch.

References
----------
.. [1] A. Pagnoni et al., "Byte Latent Transformer: Patches Scale Better Than Tokens", 2024, arXiv:2412.09871.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, ComponentKind, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.llama import rounded_heads
from vrameter.model.families.registry import Built, LayerScope, model


def stack_of(
    cfg: Config, kind: ComponentKind, name: str, prefix: str, scope: LayerScope, tensors: Tensors, vocab: int = 0
) -> Component:
    """Return equal layers in Llama's order with other tensors around them."""
    cfg = rounded_heads(cfg.over(head_dim=None))
    hidden = cfg.hidden_size
    layer = Layer(
        (
            parts.attention(
                hidden_size=hidden,
                num_heads=cfg.num_heads,
                num_kv_heads=cfg.num_kv_heads,
                head_dim=cfg.head_dim,
                scope=scope[0],
                window=scope[1],
            ),
            parts.mlp(hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size", 8 * hidden // 3)),
        ),
        (*parts.norm("input_layernorm", hidden), *parts.norm("post_attention_layernorm", hidden)),
    )
    return Component(
        kind=kind,
        name=name,
        hidden_size=hidden,
        layers=(layer,) * cfg.num_layers,
        tensors=tensors,
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        vocab_size=vocab,
        max_positions=cfg.integer("max_position_embeddings", 0, least=0),
    )


def crossings(cfg: Config) -> Tensors:
    """Return the attention between bytes and patches, in every layer or in one."""
    cfg = rounded_heads(cfg.over(head_dim=None))
    hidden = cfg.hidden_size
    one = parts.attention(
        hidden_size=hidden,
        num_heads=cfg.num_heads,
        num_kv_heads=cfg.num_kv_heads,
        head_dim=cfg.head_dim,
        name="attention",
        qk_norm=hidden,
        role="cross_attention",
        scope="cross",
    ).tensors
    count = cfg.num_layers if cfg.flag("cross_attn_all_layers") else 1
    return tuple(
        tensor._replace(name=f"cross_attn_layers.{index}.{tensor.name.removeprefix('attention.')}")
        for index in range(count)
        for tensor in one
    )


@model("blt")
def blt(cfg: Config, class_name: str) -> Built:
    """Byte Latent Transformer: patcher, encoder of bytes, decoder of patches, decoder of bytes."""
    has_head = not class_name.endswith("Model")
    base = "model" if has_head else ""
    encoder, decoder, patches = (cfg.nested(f"{name}_config") for name in ("encoder", "decoder", "global"))
    width = encoder.hidden_size
    window = cfg.integer("local_attention_window_len", None)
    local: LayerScope = ("sliding", window) if window else ("full", None)
    sizes = cfg.integers("encoder_hash_byte_group_size", None) or [3, 4, 5, 6, 7, 8]
    functions = cfg.integer("encoder_hash_byte_group_nb_functions", 1)
    rows = cfg.integer("encoder_hash_byte_group_vocab") * functions * len(sizes)
    crossing = width * cfg.integer("cross_attn_k", 2)
    tied = has_head and cfg.flag("tie_word_embeddings")
    table = (cfg.vocab_size, decoder.hidden_size) if tied else (encoder.vocab_size, width)
    outward = (
        *parts.linear("patch_embedding_projection", width * encoder.integer("cross_attn_k", 2), width),
        *parts.embedding("embed_tokens", *table),
        *crossings(encoder),
    )
    inward = (
        *parts.linear(
            "patch_embedding_projection",
            decoder.hidden_size * decoder.integer("cross_attn_k", 2),
            decoder.integer("hidden_size_global", 2048),
        ),
        *parts.norm("norm", decoder.hidden_size),
        *crossings(decoder),
    )
    joint: Tensors = ()
    if crossing != patches.hidden_size:
        joint = parts.linear("token_embedding_projection", patches.hidden_size, crossing)
    components = [
        stack_of(
            patches, "decoder", "decoder", joined(base, "global_transformer"), ("full", None), joint, cfg.vocab_size
        ),
        stack_of(encoder, "decoder", "byte encoder", joined(base, "local_encoder"), local, outward),
        stack_of(decoder, "decoder", "byte decoder", joined(base, "local_decoder"), local, inward),
        Component(
            kind="other",
            name="hashed byte groups",
            hidden_size=width,
            tensors=parts.embedding("encoder_hash_tok_embedding", rows, width),
            prefix=base,
        ),
    ]
    if cfg.flag("patch_in_forward", True):
        own = cfg.nested("patcher_config")
        tensors = (
            *parts.embedding("embed_tokens", own.vocab_size, own.hidden_size),
            *parts.norm("norm", own.hidden_size),
            *parts.lm_head(own.vocab_size, own.hidden_size),
        )
        components.append(stack_of(own, "other", "patcher", joined(base, "patcher"), ("encoder", None), tensors))
    if has_head and not tied:
        head = parts.lm_head(cfg.vocab_size, decoder.hidden_size)
        components.append(Component(kind="head", name="head", hidden_size=decoder.hidden_size, tensors=head))
    return Built(tuple(components), tied=("lm_head.weight",) if tied else ())
