"""Building blocks of decoders with a mixture of experts.

A layer is norm, attention, norm, and either a plain perceptron or a router with its experts; families differ in which
layers are sparse, what every token passes besides the chosen experts, and in norms and biases. Shapes follow the
classes of transformers 5.23, which hold the experts of a layer in one tensor each for gate and up, and for down.

References
----------
.. [1] W. Fedus et al., "Switch Transformers", 2021, arXiv:2101.03961.
.. [2] D. Dai et al., "DeepSeekMoE", 2024, arXiv:2401.06066 (shared experts).
.. [3] L. Wang et al., "Auxiliary-Loss-Free Load Balancing", 2024, arXiv:2408.15664 (the balancing bias).
.. [4] DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, arXiv:2412.19437, section 2.2 (multi-token prediction).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Part, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.llama import full_scopes
from vrameter.model.families.registry import Built, LayerScope, stack


def decoder_of(
    cfg: Config,
    prefix: str,
    layers: tuple[Layer, ...],
    *,
    embed: str = "embed_tokens",
    norm: str = "norm",
    norm_bias: bool = False,
    layers_name: str = "layers",
    extra: Tensors = (),
) -> Component:
    """Return a decoder of given layers: token table, layers, final norm."""
    hidden = cfg.hidden_size
    return Component(
        kind="decoder",
        name="decoder",
        hidden_size=hidden,
        layers=layers,
        tensors=(
            *parts.embedding(embed, cfg.vocab_size, hidden),
            *parts.norm(norm, hidden, bias=norm_bias),
            *extra,
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, layers_name),
        vocab_size=cfg.vocab_size,
        max_positions=cfg.integer("max_position_embeddings", 0, least=0),
    )


def block(
    cfg: Config,
    *members: Part,
    norms: Sequence[str] = ("input_layernorm", "post_attention_layernorm"),
    norm_bias: bool = False,
    extra: Tensors = (),
) -> Layer:
    """Return a layer of given parts with norms of the hidden width."""
    hidden = cfg.hidden_size
    own = tuple(tensor for name in norms for tensor in parts.norm(name, hidden, bias=norm_bias))
    return Layer(members, (*own, *extra))


def grouped_attention(
    cfg: Config,
    scope: LayerScope = ("full", None),
    *,
    bias: bool | None = None,
    o_bias: bool | None = None,
    qk_norm: str | None = None,
    **traits: Any,
) -> Attention:
    """Return attention of the config's heads; `qk_norm` is ``"head"`` or ``"full"`` as in `dense_decoder`."""
    heads, kv_heads, dim = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
    widths = {None: None, "head": dim, "full": (heads * dim, kv_heads * dim)}[qk_norm]
    own_bias = cfg.flag("attention_bias", False) if bias is None else bias
    return parts.attention(
        hidden_size=cfg.hidden_size,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        bias=own_bias,
        o_bias=o_bias,
        qk_norm=widths,
        scope=scope[0],
        window=scope[1],
        **traits,
    )


def perceptron(cfg: Config, width: int | None = None, *, name: str = "mlp", bias: bool = False) -> FeedForward:
    """Return a gated perceptron of `width`, by default the config's own."""
    return parts.mlp(
        hidden_size=cfg.hidden_size,
        intermediate_size=cfg.integer("intermediate_size") if width is None else width,
        bias=bias,
        name=name,
    )


def mixture(
    cfg: Config,
    *,
    width: str = "moe_intermediate_size",
    count: str = "num_experts",
    chosen: str = "num_experts_per_tok",
    shared_width: int = 0,
    shared_name: str = "shared_experts",
    shared_bias: bool = False,
    name: str = "mlp",
    **traits: Any,
) -> FeedForward:
    """Return a mixture of experts; the texts name the config's fields, and `traits` go on to `parts.experts`."""
    shared = perceptron(cfg, shared_width, name=f"{name}.{shared_name}", bias=shared_bias) if shared_width else None
    return parts.experts(
        hidden_size=cfg.hidden_size,
        intermediate_size=cfg.integer(width),
        num_experts=cfg.integer(count),
        num_experts_per_token=cfg.integer(chosen, 1),
        name=name,
        shared=shared,
        **traits,
    )


def shared_experts_width(cfg: Config, field: str = "n_shared_experts", width: str = "moe_intermediate_size") -> int:
    """Return the width of the shared experts as one perceptron; 0 for none."""
    number = cfg.integer(field, 0, least=0)
    return int(number * cfg.integer(width)) if number else 0


def first_dense(cfg: Config, default: int = 0, *, field: str = "first_k_dense_replace") -> list[bool]:
    """Return which layers are sparse where the first few are dense."""
    dense = cfg.integer(field, default, least=0)
    return [index >= dense for index in range(cfg.num_layers)]


def balanced(cfg: Config, **traits: Any) -> FeedForward:
    """Return a mixture in DeepSeek's manner: shared experts [2]_, and a balancing bias [3]_ beside the router."""
    return mixture(
        cfg,
        **{
            "count": "n_routed_experts",
            "shared_width": shared_experts_width(cfg),
            "balance_bias": "gate.e_score_correction_bias",
            **traits,
        },
    )


def listed(cfg: Config, name: str, count: int) -> list[Any] | None:
    """Return a list with an entry per layer, None where there is none; entries for layers beyond are left out."""
    value = cfg.sequence(name)
    if value is None:
        return None
    if len(value) < count:
        raise cfg.fail(name, "has %(length)s entries for %(count)s layers.", length=len(value), count=count)
    return list(value)[:count]


def layer_changes(cfg: Config, count: int) -> list[dict[str, Any]] | None:
    """Return what ``per_layer_config`` changes in each layer, None where there is none."""
    given = cfg.get("per_layer_config")
    if not given:
        return None
    changes: list[dict[str, Any]] = [{} for _ in range(count)]
    if not isinstance(given, dict) or not all(
        str(key).isdigit() and isinstance(item, dict) for key, item in given.items()
    ):
        raise cfg.fail("per_layer_config", "%(value)s is not an object with one object per layer.", value=given)
    for key, item in given.items():
        if int(key) < count:
            changes[int(key)] = {name: value for name, value in item.items() if not isinstance(value, (dict, list))}
    return changes


def sparse_layers(cfg: Config, default: int = 0) -> list[bool]:
    """Return which layers are sparse: by ``mlp_layer_types``, else all after the first `default` or as the config says.

    ``moe_layer_freq`` makes only every so-manieth of the others sparse, or is itself a list of zeros and ones.
    """
    count = cfg.num_layers
    kinds = listed(cfg, "mlp_layer_types", count)
    if kinds is not None:
        for kind in kinds:
            if kind not in ("dense", "sparse"):
                raise cfg.fail("mlp_layer_types", "'%(value)s' is not a kind of layer known here.", value=kind)
        return [kind == "sparse" for kind in kinds]
    if isinstance(cfg.get("moe_layer_freq"), (list, tuple)):
        return [bool(item) for item in listed(cfg, "moe_layer_freq", count) or ()]
    every = cfg.integer("moe_layer_freq", 1)
    return [sparse and index % every == 0 for index, sparse in enumerate(first_dense(cfg, default))]


def moe_decoder(
    cfg: Config,
    prefix: str,
    *,
    sparse: Sequence[bool] | None = None,
    scopes: Sequence[LayerScope] | None = None,
    attention: Callable[[LayerScope], Attention] | None = None,
    dense: Callable[[], FeedForward] | None = None,
    experts: Callable[[], FeedForward],
    norms: Sequence[str] = ("input_layernorm", "post_attention_layernorm"),
    norm_bias: bool = False,
    layer_tensors: Tensors = (),
    **traits: Any,
) -> Component:
    """Return a decoder whose layers differ in scope and in whether they are sparse.

    Parameters
    ----------
    sparse, scopes
        Per layer; by default all are sparse and see everything.
    attention, dense, experts
        Makers of the parts; `traits` go to `grouped_attention` where there is no `attention`.
    """
    count = cfg.num_layers

    def layer(kind: tuple[LayerScope, bool]) -> Layer:
        scope, is_sparse = kind
        own_attention = attention(scope) if attention else grouped_attention(cfg, scope, **traits)
        own_mlp = experts() if is_sparse else dense() if dense else perceptron(cfg)
        return block(cfg, own_attention, own_mlp, norms=norms, norm_bias=norm_bias, extra=layer_tensors)

    kinds = list(zip(scopes or full_scopes(cfg), sparse or [True] * count, strict=True))
    return decoder_of(cfg, prefix, stack(kinds, layer), norm_bias=norm_bias)


def next_token_layers(
    cfg: Config, prefix: str, layer: Layer, *, tables: Collection[str] = ("token", "head")
) -> Component | None:
    """Return the layers for multi-token prediction [4]_ that a file says it has, or None.

    Each is a whole layer with norms of its two inputs and a projection of both; `tables` says whether it stores copies
    of the token table and of the head. Their numbers go on from the decoder's.
    """
    field = "num_nextn_predict_layers"
    number = cfg.layers(field, 0, least=0) if cfg.given(field) else 0
    if not number:
        return None
    hidden, vocab = cfg.hidden_size, cfg.vocab_size
    own = (
        *parts.norm("enorm", hidden),
        *parts.norm("hnorm", hidden),
        *parts.linear("eh_proj", hidden, 2 * hidden),
        *(parts.embedding("embed_tokens", vocab, hidden) if "token" in tables else ()),
        *parts.norm("shared_head.norm", hidden),
        *(parts.lm_head(vocab, hidden, name="shared_head.head") if "head" in tables else ()),
    )
    whole = Layer(layer.parts, (*layer.tensors, *own))
    return Component(
        kind="mtp",
        name="mtp",
        hidden_size=hidden,
        layers=(whole,) * number,
        layers_prefix=joined(prefix, "layers"),
        loaded=False,
        first_layer=cfg.num_layers,
    )


def with_next_token(
    cfg: Config, prefix: str, body: Component, *, tables: Collection[str] = ("token", "head")
) -> tuple[Component, ...]:
    """Return a decoder with the multi-token prediction layers that its file says it has, like its last layer."""
    extra = next_token_layers(cfg, prefix, body.layers[-1], tables=tables)
    return (body,) if extra is None else (body, extra)


def biased_head(field: str) -> Callable[[Config, str], Built | None]:
    """Return heads whose output matrix has a bias if the config's `field` says so."""

    def heads(cfg: Config, class_name: str) -> Built | None:
        if not class_name.endswith("ForCausalLM") or not cfg.flag(field, False):
            return None
        return own_head(cfg, class_name, bias=True)

    return heads


def untied_head(cfg: Config, class_name: str) -> Built | None:
    """Return heads whose output matrix is never the token table, whatever the config says."""
    return own_head(cfg.over(tie_word_embeddings=False), class_name) if class_name.endswith("ForCausalLM") else None


def head_as(model_type: str) -> Callable[[Config, str], Built | None]:
    """Return heads of a type that is another under a name of its own, with that one's defaults."""

    def heads(cfg: Config, class_name: str) -> Built | None:
        return own_head(cfg.as_type(model_type), class_name) if class_name.endswith("ForCausalLM") else None

    return heads


def own_head(cfg: Config, class_name: str, *, bias: bool = False) -> Built | None:
    """Return a decoder with its language-model head."""
    from vrameter.model.families.registry import as_tuple, entry
    from vrameter.model.read import with_head

    found = entry(cfg.model_type)
    return with_head(cfg, as_tuple(found.read(cfg, found.base)), class_name, bias=bias) if found else None
