"""Decoders that mix Mamba with attention: Jamba, Bamba, Falcon-H1, Granite 4, Nemotron-H.

A layer has a mixer, attention, or both; then a perceptron or a mixture. Nemotron-H makes each of them a layer of its
own. Shapes follow the classes of transformers 5.23.

References
----------
.. [1] O. Lieber et al., "Jamba", 2024, arXiv:2403.19887.
.. [2] NVIDIA, "Nemotron-H", 2025, arXiv:2504.03624.
.. [3] Falcon LLM team, "Falcon-H1", 2025, arXiv:2507.22448.
"""

from __future__ import annotations

from vrameter.model import mixers, parts
from vrameter.model.architecture import Component, FeedForward, Layer, Part, Recurrent, Tensors
from vrameter.model.config import Config
from vrameter.model.families.layer_kinds import (
    FULL,
    LINEAR,
    checked_kinds,
    layer_kinds,
    renamed,
    size_or_auto,
    state_in_fp32,
)
from vrameter.model.families.mixtral import granite_experts
from vrameter.model.families.mixture import block, decoder_of, grouped_attention, mixture, perceptron, untied_head
from vrameter.model.families.registry import decoder, stack
from vrameter.units import ceil_div


@decoder("jamba")
def jamba(cfg: Config, prefix: str) -> Component:
    """Jamba [1]_: Mamba-1 with inner norms, attention in one layer of a period, experts in every other."""
    hidden, count = cfg.hidden_size, cfg.num_layers
    attends, sparse = (
        [index % cfg.integer(f"{name}_period") == cfg.integer(f"{name}_offset", least=0) for index in range(count)]
        for name in ("attn_layer", "expert_layer")
    )
    any_experts = cfg.integer("num_experts") > 1
    mixer = mixers.mamba(
        hidden_size=hidden,
        inner_size=cfg.integer("mamba_expand") * hidden,
        state_size=cfg.integer("mamba_d_state"),
        conv_kernel=cfg.integer("mamba_d_conv"),
        dt_rank=size_or_auto(cfg, "mamba_dt_rank", ceil_div(hidden, 16)),
        name="mamba",
        conv_bias=cfg.flag("mamba_conv_bias", True),
        bias=cfg.flag("mamba_proj_bias", False),
        inner_norms=True,
        state_fp32=state_in_fp32(cfg),
    )

    def build(kind: tuple[bool, bool]) -> Layer:
        first = grouped_attention(cfg, bias=False) if kind[0] else mixer
        if kind[1] and any_experts:
            second = mixture(cfg, width="intermediate_size", name="feed_forward", router="router")
        else:
            second = perceptron(cfg, name="feed_forward")
        return block(cfg, first, second, norms=("input_layernorm", "pre_ff_layernorm"))

    layers = stack(list(zip(attends, sparse, strict=True)), build)
    return decoder_of(cfg, prefix, layers, norm="final_layernorm")


def mamba2_of(cfg: Config, inner: int, *, gated_norm: bool = True, out_bias: bool | None = None) -> Recurrent:
    """Return the Mamba-2 mixer of Bamba's fields."""
    heads = cfg.integer("mamba_n_heads")
    return mixers.mamba2(
        hidden_size=cfg.hidden_size,
        inner_size=inner,
        state_size=cfg.integer("mamba_d_state"),
        num_heads=heads,
        num_groups=cfg.integer("mamba_n_groups"),
        conv_kernel=cfg.integer("mamba_d_conv"),
        head_dim=size_or_auto(cfg, "mamba_d_head", inner // heads),
        name="mamba",
        conv_bias=cfg.flag("mamba_conv_bias", True),
        bias=cfg.flag("mamba_proj_bias", False),
        out_bias=out_bias,
        gated_norm=gated_norm,
        state_fp32=state_in_fp32(cfg),
    )


def expanded(cfg: Config) -> int:
    """Return the width of a mixer that widens the model's by a factor."""
    return int(cfg.number("mamba_expand", 2) * cfg.hidden_size)


@decoder("bamba")
def bamba(cfg: Config, prefix: str) -> Component:
    """Bamba: Mamba-2, attention in the layers listed by number."""
    attends = set(cfg.integers("attn_layer_indices", []))

    def build(kind: str) -> Layer:
        first: Part = grouped_attention(cfg) if kind == FULL else mamba2_of(cfg, expanded(cfg))
        second = perceptron(cfg, name="feed_forward", bias=cfg.flag("mlp_bias", False))
        return block(cfg, first, second, norms=("input_layernorm", "pre_ff_layernorm"))

    kinds = [FULL if index in attends else LINEAR for index in range(cfg.num_layers)]
    return decoder_of(cfg, prefix, stack(kinds, build), norm="final_layernorm")


@decoder("falcon_h1")
def falcon_h1(cfg: Config, prefix: str) -> Component:
    """Falcon-H1 [3]_: attention and Mamba-2 side by side in every layer."""
    layer = block(
        cfg,
        grouped_attention(cfg),
        mamba2_of(
            cfg,
            cfg.integer("mamba_d_ssm", None) or expanded(cfg),
            gated_norm=cfg.flag("mamba_rms_norm", False),
            out_bias=cfg.flag("projectors_bias", False),
        ),
        perceptron(cfg, name="feed_forward", bias=cfg.flag("mlp_bias", False)),
        norms=("input_layernorm", "pre_ff_layernorm"),
    )
    return decoder_of(cfg, prefix, (layer,) * cfg.num_layers, norm="final_layernorm")


@decoder("granitemoehybrid")
def granitemoehybrid(cfg: Config, prefix: str) -> Component:
    """Granite 4: Mamba-2 in most layers, a shared perceptron in all, with experts beside it in the larger ones."""
    kinds = layer_kinds(cfg, cfg.num_layers, lambda index: LINEAR)

    def build(kind: str) -> Layer:
        first: Part = grouped_attention(cfg) if kind == FULL else mamba2_of(cfg, expanded(cfg))
        return block(cfg, first, granite_experts(cfg))

    return decoder_of(cfg, prefix, stack(kinds, build))


# -- Nemotron-H -------------------------------------------------------------------------------------

_LETTERS = {"M": LINEAR, "E": "moe", "*": FULL, "-": "mlp"}
_BLOCKS = (LINEAR, "moe", FULL, "mlp")


def nemotron_kinds(cfg: Config, listed: str, pattern: str, default: list[str]) -> list[str]:
    """Return the kinds of Nemotron-H's layers, from a list, from a text of M, E, * and -, or by default."""
    names = cfg.sequence(listed)
    letters = cfg.text(pattern, None)
    if names is None and letters is not None:
        unknown = [letter for letter in letters if letter not in _LETTERS]
        if unknown:
            raise cfg.fail(pattern, "'%(value)s' is not a kind of layer known here.", value=unknown[0])
        return [_LETTERS[letter] for letter in letters]
    if names is None:
        return default
    return checked_kinds(cfg, renamed(names), _BLOCKS)


def nemotron_mixer(cfg: Config, kind: str) -> Part:
    """Return the one part of a layer of Nemotron-H."""
    hidden = cfg.hidden_size
    if kind == LINEAR:
        heads = cfg.integer("mamba_num_heads")
        return mixers.mamba2(
            hidden_size=hidden,
            inner_size=heads * cfg.integer("mamba_head_dim"),
            state_size=cfg.integer("ssm_state_size"),
            num_heads=heads,
            num_groups=cfg.integer("mamba_n_groups", None) or cfg.integer("n_groups"),
            conv_kernel=cfg.integer("mamba_d_conv", None) or cfg.integer("conv_kernel"),
            conv_bias=cfg.flag("use_conv_bias", True),
            bias=cfg.flag("use_bias", False),
            state_fp32=state_in_fp32(cfg, True),
        )
    if kind == FULL:
        return grouped_attention(cfg, bias=False, name="mixer")
    bias = cfg.flag("mlp_bias", False)
    if kind == "mlp":
        return parts.mlp(
            hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=bias, name="mixer"
        )
    return nemotron_experts(cfg, bias)


def nemotron_experts(cfg: Config, bias: bool) -> FeedForward:
    """Return plain experts, which may work in a narrower space, beside a plain shared one."""
    hidden = cfg.hidden_size
    latent = cfg.integer("moe_latent_size", None)
    around: Tensors = ()
    if latent:
        around = (
            *parts.linear("mixer.fc1_latent_proj", latent, hidden, bias=bias, role="other", slot="latent"),
            *parts.linear("mixer.fc2_latent_proj", hidden, latent, bias=bias, role="other", slot="latent"),
        )
    shared = parts.mlp(
        hidden_size=hidden,
        intermediate_size=cfg.integer("moe_shared_expert_intermediate_size"),
        gated=False,
        bias=bias,
        name="mixer.shared_experts",
    )
    return parts.experts(
        hidden_size=hidden,
        intermediate_size=cfg.integer("moe_intermediate_size"),
        num_experts=cfg.integer("n_routed_experts"),
        num_experts_per_token=cfg.integer("num_experts_per_tok"),
        name="mixer",
        gated=False,
        balance_bias="gate.e_score_correction_bias",
        shared=shared,
        expert_hidden_size=latent,
        extra=around,
    )


@decoder("nemotron_h", heads=untied_head)
def nemotron_h(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Nemotron-H [2]_ and Nemotron 3: every mixer, attention, perceptron and mixture a layer of its own."""
    hidden = cfg.hidden_size

    def build(kind: str) -> Layer:
        return block(cfg, nemotron_mixer(cfg, kind), norms=("norm",))

    kinds = nemotron_kinds(cfg, "layers_block_type", "hybrid_override_pattern", list(_BLOCKS))
    body = decoder_of(cfg, prefix, stack(kinds, build), embed="embeddings", norm="norm_f")
    number = cfg.layers("num_nextn_predict_layers", 0, least=0)
    if not number:
        return (body,)
    own = nemotron_kinds(cfg, "mtp_layers_block_type", "mtp_hybrid_override_pattern", [FULL, "moe"])
    extra = [build(kind) for kind in own]
    first = (
        *parts.norm("enorm", hidden),
        *parts.norm("hnorm", hidden),
        *parts.linear("eh_proj", hidden, 2 * hidden),
    )
    extra[0] = Layer(extra[0].parts, (*extra[0].tensors, *first))
    extra[-1] = Layer(extra[-1].parts, (*extra[-1].tensors, *parts.norm("final_layernorm", hidden)))
    return body, Component(
        kind="mtp",
        name="mtp",
        hidden_size=hidden,
        layers=tuple(extra) * number,
        layers_prefix="mtp.layers",
        loaded=False,
    )
