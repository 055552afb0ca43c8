"""Dense decoders a few traits away from Llama: other norms, biases, windows, fused matrices, small extra tensors.

Each is a call of `dense_decoder`. Shapes and patterns of windows follow the classes of transformers 5.23.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, Tensor, Tensors
from vrameter.model.config import Config
from vrameter.model.families.llama import dense_decoder, full_scopes, rounded_heads
from vrameter.model.families.registry import LayerScope, decoder, layer_scopes

POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
FUSED_MLP = {"gate_up": "gate_up_proj"}


def every(cfg: Config, period: int, full: int) -> list[LayerScope]:
    """Return full attention for layers whose number is `full` modulo `period`, a window for the rest."""
    return layer_scopes(cfg, cfg.num_layers, pattern=lambda index: index % period != full)


def width_by_heads(cfg: Config) -> Config:
    """Return the config without `head_dim`, for classes that always divide the hidden width among the heads."""
    return cfg.over(head_dim=None)


# -- norms, biases and windows in other places -------------------------------------------------------


@decoder("granite")
def granite(cfg: Config, prefix: str) -> Component:
    """Granite: Llama with multipliers, which have no tensors."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, scopes=full_scopes(cfg))


@decoder("granite_swa")
def granite_swa(cfg: Config, prefix: str) -> Component:
    """Granite with a window on three of four layers and a learned sink per head."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, scopes=every(cfg, 4, 0), attention_traits={"sinks": "sinks"})


@decoder("hyperclovax")
def hyperclovax(cfg: Config, prefix: str) -> Component:
    """HyperCLOVA X: norms after attention and perceptron too."""
    after = ("post_norm1", "post_norm2") if cfg.flag("use_post_norm", True) else ()
    norms = ("input_layernorm", "post_attention_layernorm", *after)
    return dense_decoder(cfg, prefix, norms=norms, scopes=full_scopes(cfg))


@decoder("seed_oss")
def seed_oss(cfg: Config, prefix: str) -> Component:
    """Seed-OSS: the bias of the output projection is set apart."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, o_bias=cfg.flag("attention_out_bias"), scopes=full_scopes(cfg))


@decoder("ernie4_5")
def ernie4_5(cfg: Config, prefix: str) -> Component:
    """ERNIE 4.5: one flag for all biases."""
    cfg = rounded_heads(cfg)
    bias = cfg.flag("use_bias")
    return dense_decoder(cfg, prefix, qkv_bias=bias, o_bias=bias, mlp_bias=bias, scopes=full_scopes(cfg))


@decoder("smollm3")
def smollm3(cfg: Config, prefix: str) -> Component:
    """SmolLM3: layers without rotary positions slide where windows are on."""
    cfg = rounded_heads(cfg)
    if not cfg.flag("use_sliding_window"):
        return dense_decoder(cfg, prefix, scopes=full_scopes(cfg))
    interval = cfg.integer("no_rope_layer_interval", 4)
    rotary = cfg.per_layer("no_rope_layers", cfg.num_layers)

    def slides(index: int) -> bool:
        return not rotary[index] if rotary else (index + 1) % interval == 0

    return dense_decoder(cfg, prefix, scopes=layer_scopes(cfg, cfg.num_layers, pattern=slides))


@decoder("cwm")
def cwm(cfg: Config, prefix: str) -> Component:
    """Code World Model: a window on three of four layers, no attention biases."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, qkv_bias=False, o_bias=False, scopes=every(cfg, 4, 0))


@decoder("helium")
def helium(cfg: Config, prefix: str) -> Component:
    """Helium: the output projection is square, whatever the heads' width, and has no bias."""
    square = parts.linear("self_attn.o_proj", cfg.hidden_size, cfg.hidden_size, role="attention", slot="o")

    def attention(cfg: Config, scope: LayerScope) -> Attention:
        made = parts.attention(
            hidden_size=cfg.hidden_size,
            num_heads=cfg.num_heads,
            num_kv_heads=cfg.num_kv_heads,
            head_dim=cfg.head_dim,
            bias=cfg.flag("attention_bias"),
            scope=scope[0],
        )
        return replace(made, tensors=(*(tensor for tensor in made.tensors if tensor.slot != "o"), *square))

    return dense_decoder(cfg, prefix, make_attention=attention, scopes=full_scopes(cfg))


@decoder("arcee")
def arcee(cfg: Config, prefix: str) -> Component:
    """AFM: a plain perceptron with squared ReLU."""
    return dense_decoder(cfg, prefix, gated=False, scopes=full_scopes(cfg))


@decoder("jais2", "nemotron")
def nemotron(cfg: Config, prefix: str) -> Component:
    """Nemotron-4 and Jais 2: a plain perceptron with squared ReLU, and norms with a shift."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, gated=False, norm_bias=True, scopes=full_scopes(cfg))


@decoder("olmo")
def olmo(cfg: Config, prefix: str) -> Component:
    """OLMo: norms without parameters."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, mlp_bias=False, norm_weight=False, scopes=full_scopes(cfg))


@decoder("olmo2")
def olmo2(cfg: Config, prefix: str) -> Component:
    """OLMo 2: norms after attention and perceptron, and over all queries and keys."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, mlp_bias=False, qk_norm="full", norms=POST_NORMS, scopes=full_scopes(cfg))


@decoder("olmo3")
def olmo3(cfg: Config, prefix: str) -> Component:
    """OLMo 3: OLMo 2 with a window on three of four layers."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, mlp_bias=False, qk_norm="full", norms=POST_NORMS, scopes=every(cfg, 4, 3))


@decoder("exaone4")
def exaone4(cfg: Config, prefix: str) -> Component:
    """EXAONE 4: norms after attention and perceptron, and a window on the layers that its pattern names.

    The pattern is a period whose last layer sees all, or letters: ``LLLG``.
    """
    cfg = rounded_heads(cfg)
    pattern = cfg.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:
        last = cfg.num_layers - 1
        scopes = layer_scopes(
            cfg, cfg.num_layers, pattern=lambda index: index != last and pattern[index % len(pattern)] == "L"
        )
    else:
        period = cfg.integer("sliding_window_pattern", 0, least=0)
        scopes = every(cfg, period, period - 1) if period else layer_scopes(cfg, cfg.num_layers)
    return dense_decoder(
        cfg, prefix, qkv_bias=False, o_bias=False, mlp_bias=False, qk_norm="head", norms=POST_NORMS, scopes=scopes
    )


@decoder("cohere")
def cohere(cfg: Config, prefix: str) -> Component:
    """Command R: attention and perceptron side by side below one norm; a norm per head of queries and keys."""
    cfg = rounded_heads(cfg)
    extra: Tensors = ()
    if cfg.flag("use_qk_norm"):
        extra = (
            Tensor("self_attn.q_norm.weight", (cfg.num_heads, cfg.head_dim), "norm"),
            Tensor("self_attn.k_norm.weight", (cfg.num_kv_heads, cfg.head_dim), "norm"),
        )
    return dense_decoder(
        cfg,
        prefix,
        mlp_bias=False,
        norms=("input_layernorm",),
        scopes=full_scopes(cfg),
        attention_traits={"extra": extra},
    )


@decoder("cohere_compass_text")
def cohere_compass_text(cfg: Config, prefix: str) -> Component:
    """North: Command R's order without norms on heads; windows only where the file lists them."""
    scopes = layer_scopes(cfg, cfg.num_layers, pattern=lambda index: False)
    return dense_decoder(cfg, prefix, mlp_bias=False, norms=("input_layernorm",), scopes=scopes)


@decoder("cohere2")
def cohere2(cfg: Config, prefix: str) -> Component:
    """Command R7B and Command A: Command R with a window on all but every fourth layer."""
    cfg = rounded_heads(cfg)
    period = cfg.integer("sliding_window_pattern", 4)
    scopes = every(cfg, period, period - 1)
    return dense_decoder(cfg, prefix, mlp_bias=False, norms=("input_layernorm",), scopes=scopes)


# -- fused matrices ----------------------------------------------------------------------------------


@decoder("phi3")
def phi3(cfg: Config, prefix: str) -> Component:
    """Phi-3 and Phi-4: one matrix for queries, keys and values, one for gate and up."""
    cfg = rounded_heads(cfg)
    return dense_decoder(
        cfg,
        prefix,
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
        attention_traits={"qkv": "qkv_proj"},
        mlp_traits=FUSED_MLP,
    )


@decoder("glm")
def glm(cfg: Config, prefix: str) -> Component:
    """GLM-4: biases on queries, keys and values, gate and up in one matrix."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, o_bias=False, mlp_bias=False, scopes=full_scopes(cfg), mlp_traits=FUSED_MLP)


@decoder("glm4")
def glm4(cfg: Config, prefix: str) -> Component:
    """GLM-4-0414: GLM-4 with norms after attention and perceptron too."""
    cfg = rounded_heads(cfg)
    norms = ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")
    return dense_decoder(
        cfg, prefix, o_bias=False, mlp_bias=False, norms=norms, scopes=full_scopes(cfg), mlp_traits=FUSED_MLP
    )


# -- layer norms and plain perceptrons ---------------------------------------------------------------


@decoder("starcoder2")
def starcoder2(cfg: Config, prefix: str) -> Component:
    """StarCoder2: a plain perceptron, layer norms, one flag for all biases, a window on every layer."""
    cfg = rounded_heads(cfg)
    bias = cfg.flag("use_bias", True)
    return dense_decoder(
        cfg,
        prefix,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        gated=False,
        norm_bias=True,
        mlp_traits={"up": "c_fc", "down": "c_proj"},
    )


@decoder("stablelm", "stablelm_epoch")
def stablelm(cfg: Config, prefix: str) -> Component:
    """StableLM: layer norms; with side-by-side parts one of them; optional norms for each single head."""
    cfg = width_by_heads(cfg)
    extra: Tensors = ()
    if cfg.flag("qk_layernorm"):
        extra = tuple(
            tensor
            for name, heads in (("q", cfg.num_heads), ("k", cfg.num_kv_heads))
            for head in range(heads)
            for tensor in parts.norm(f"self_attn.{name}_layernorm.norms.{head}", cfg.head_dim)
        )
    after = () if cfg.flag("use_parallel_residual") else ("post_attention_layernorm",)
    return dense_decoder(
        cfg,
        prefix,
        qkv_bias=cfg.flag("use_qkv_bias"),
        o_bias=False,
        mlp_bias=False,
        norms=("input_layernorm", *after),
        norm_bias=True,
        scopes=full_scopes(cfg),
        attention_traits={"extra": extra},
    )


@decoder("persimmon")
def persimmon(cfg: Config, prefix: str) -> Component:
    """Persimmon: one matrix for queries, keys and values; squared ReLU; layer norms, also on heads."""
    cfg = width_by_heads(cfg.over(num_key_value_heads=None))
    qk_norm = cfg.head_dim if cfg.flag("qk_layernorm", True) else None
    return dense_decoder(
        cfg,
        prefix,
        gated=False,
        norm_bias=True,
        final_norm="final_layernorm",
        scopes=full_scopes(cfg),
        attention_traits={
            "qkv": "query_key_value", "o": "dense", "bias": True, "o_bias": True,
            "qk_norm": qk_norm, "qk_norm_bias": True, "q_norm": "q_layernorm", "k_norm": "k_layernorm",
        },
        mlp_traits={"up": "dense_h_to_4h", "down": "dense_4h_to_h", "bias": True},
    )  # fmt: skip


# -- small extra tensors -----------------------------------------------------------------------------


@decoder("apertus")
def apertus(cfg: Config, prefix: str) -> Component:
    """Apertus: norms on heads and a plain perceptron whose activation (xIELU) learns two numbers."""
    cfg = rounded_heads(cfg)
    learned: Tensors = ()
    if cfg.text("hidden_act", "xielu") == "xielu":
        learned = (
            *parts.parameter("mlp.act_fn.alpha_p", 1, role="mlp"),
            *parts.parameter("mlp.act_fn.alpha_n", 1, role="mlp"),
            *parts.buffer("mlp.act_fn.beta", role="mlp"),
            *parts.buffer("mlp.act_fn.eps", role="mlp"),
        )
    return dense_decoder(
        cfg,
        prefix,
        mlp_bias=False,
        gated=False,
        qk_norm="head",
        norms=("attention_layernorm", "feedforward_layernorm"),
        scopes=full_scopes(cfg),
        mlp_traits={"extra": learned},
    )


@decoder("bitnet")
def bitnet(cfg: Config, prefix: str) -> Component:
    """BitNet b1.58: norms before the output and the down projection."""
    return dense_decoder(
        cfg,
        prefix,
        mlp_bias=False,
        scopes=full_scopes(cfg),
        attention_traits={"extra": parts.norm("self_attn.attn_sub_norm", cfg.hidden_size)},
        mlp_traits={"extra": parts.norm("mlp.ffn_sub_norm", cfg.integer("intermediate_size"))},
    )


@decoder("diffllama")
def diffllama(cfg: Config, prefix: str) -> Component:
    """Differential Transformer: four vectors that weigh one half of the heads against the other."""
    cfg = rounded_heads(cfg)
    names = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
    weights = tuple(Tensor(f"self_attn.{name}", (cfg.head_dim,), "attention") for name in names)
    return dense_decoder(cfg, prefix, mlp_bias=False, scopes=full_scopes(cfg), attention_traits={"extra": weights})


@decoder("hunyuan_v1_dense")
def hunyuan_v1_dense(cfg: Config, prefix: str) -> Component:
    """Hunyuan dense: norms on heads, after the rotation."""
    cfg = rounded_heads(cfg)
    names = {"q_norm": "query_layernorm", "k_norm": "key_layernorm"}
    return dense_decoder(cfg, prefix, mlp_bias=False, qk_norm="head", scopes=full_scopes(cfg), attention_traits=names)


@decoder("nanochat")
def nanochat(cfg: Config, prefix: str) -> Component:
    """nanochat: norms without parameters, a plain perceptron."""
    cfg = rounded_heads(cfg)
    return dense_decoder(
        cfg,
        prefix,
        mlp_bias=False,
        gated=False,
        norm_weight=False,
        scopes=full_scopes(cfg),
        mlp_traits={"up": "fc1", "down": "fc2"},
    )
