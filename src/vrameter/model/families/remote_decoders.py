"""Dense decoders whose classes come with the checkpoint instead of with transformers.

Where the config is silent the defaults are those of the published configuration classes.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward
from vrameter.model.config import Config
from vrameter.model.families.gpt import head_named
from vrameter.model.families.llama import dense_decoder, full_scopes, qwen2_scopes
from vrameter.model.families.registry import Built, decoder
from vrameter.model.read import with_head

# -- Baichuan, InternLM, Orion -------------------------------------------------------------------------


@decoder("baichuan", heads=head_named(untied=True))
def baichuan(cfg: Config, prefix: str) -> Component:
    """Baichuan 1 and 2: Llama with one matrix for queries, keys and values."""
    return dense_decoder(
        cfg, prefix, qkv_bias=False, o_bias=False, mlp_bias=False, scopes=full_scopes(cfg),
        attention_traits={"qkv": "W_pack"},
    )  # fmt: skip


@decoder("internlm", heads=head_named(untied=True))
def internlm(cfg: Config, prefix: str) -> Component:
    """InternLM: Llama with biases in attention."""
    bias = cfg.flag("bias", True)
    return dense_decoder(cfg, prefix, qkv_bias=bias, o_bias=bias, mlp_bias=False, scopes=full_scopes(cfg))


def _internlm2_heads(cfg: Config, class_name: str) -> Built | None:
    body = internlm2(cfg, "model")
    if class_name.endswith("ForRewardModel"):
        value = parts.linear("v_head", 1, body.hidden_size, role="head")
        return Built((body, Component(kind="head", name="head", hidden_size=body.hidden_size, tensors=value)))
    return head_named(name="output", untied=True)(cfg, class_name)


@decoder("internlm2", heads=_internlm2_heads)
def internlm2(cfg: Config, prefix: str) -> Component:
    """InternLM2: grouped heads, one matrix for queries, keys and values, other names."""
    bias = cfg.flag("bias", True)
    return dense_decoder(
        cfg,
        prefix,
        norms=("attention_norm", "ffn_norm"),
        embed="tok_embeddings",
        scopes=full_scopes(cfg),
        attention_traits={"name": "attention", "qkv": "wqkv", "o": "wo", "bias": bias, "o_bias": bias},
        mlp_traits={"name": "feed_forward", "gate": "w1", "up": "w3", "down": "w2", "bias": False},
    )


@decoder("orion", heads=head_named(untied=True))
def orion(cfg: Config, prefix: str) -> Component:
    """Orion: Llama with layer norms."""
    return dense_decoder(cfg, prefix, norm_bias=True, scopes=full_scopes(cfg))


# -- Qwen 1, MiniCPM, MiMo, EXAONE 3 -------------------------------------------------------------------


@decoder("qwen", base="transformer", heads=head_named(untied=True))
def qwen(cfg: Config, prefix: str) -> Component:
    """Qwen: the perceptron is half as wide as `intermediate_size` says, gate and up counted together."""
    dim = cfg.integer("kv_channels", cfg.hidden_size // cfg.num_heads)
    cfg = cfg.over(head_dim=dim, num_key_value_heads=None)
    bias = not cfg.flag("no_bias", True)
    return dense_decoder(
        cfg,
        prefix,
        norms=("ln_1", "ln_2"),
        final_norm="ln_f",
        embed="wte",
        layers_name="h",
        scopes=full_scopes(cfg),
        attention_traits={"name": "attn", "qkv": "c_attn", "o": "c_proj", "bias": True, "o_bias": bias},
        mlp_traits={
            "gate": "w2", "up": "w1", "down": "c_proj", "bias": bias,
            "intermediate_size": cfg.integer("intermediate_size") // 2,
        },
    )  # fmt: skip


@decoder("minicpm")
def minicpm(cfg: Config, prefix: str) -> Component:
    """MiniCPM: Llama with scaled residuals, which have no tensors; its mixture replaces every perceptron."""

    def mixture(cfg: Config) -> FeedForward:
        return parts.experts(
            hidden_size=cfg.hidden_size,
            intermediate_size=cfg.integer("intermediate_size"),
            num_experts=cfg.integer("num_experts"),
            num_experts_per_token=cfg.integer("num_experts_per_tok", 2),
        )

    is_mixture = bool(cfg.integer("num_experts", 0, least=0))
    return dense_decoder(cfg, prefix, mlp_bias=False, scopes=full_scopes(cfg), make_mlp=mixture if is_mixture else None)


@decoder("mimo")
def mimo(cfg: Config, prefix: str) -> Component | tuple[Component, ...]:
    """MiMo: Qwen2's layers, and layers that predict further tokens.

    Such a layer joins the embedding of the next token and the last hidden state by one matrix.
    """
    body = dense_decoder(cfg, prefix, qkv_bias=True, o_bias=False, mlp_bias=False, scopes=qwen2_scopes(cfg))
    further = cfg.layers("num_nextn_predict_layers", 0, least=0)
    if not further:
        return body
    hidden = cfg.hidden_size
    one = dense_decoder(
        cfg.over(num_hidden_layers=1),
        prefix,
        qkv_bias=True,
        o_bias=False,
        mlp_bias=False,
        scopes=[("full", None)],
        layer_tensors=(
            *parts.linear("input_proj", hidden, 2 * hidden, role="other"),
            *(tensor for name in ("token", "hidden", "final") for tensor in parts.norm(f"{name}_layernorm", hidden)),
        ),
    ).layers
    prediction = Component(
        kind="mtp",
        name="multi-token prediction",
        hidden_size=hidden,
        layers=one * further,
        prefix=prefix,
        layers_prefix=f"{prefix}.mtp_layers" if prefix else "mtp_layers",
        loaded=False,
    )
    return body, prediction


@decoder("exaone", base="transformer", heads=head_named())
def exaone(cfg: Config, prefix: str) -> Component:
    """EXAONE 3: Llama under GPT-2's names."""
    return dense_decoder(
        cfg,
        prefix,
        norms=("ln_1", "ln_2"),
        final_norm="ln_f",
        embed="wte",
        layers_name="h",
        scopes=full_scopes(cfg),
        attention_traits={"name": "attn.attention", "o": "out_proj", "bias": False, "o_bias": False},
        mlp_traits={"gate": "c_fc_0", "up": "c_fc_1", "down": "c_proj", "bias": False},
    )


# -- ChatGLM -------------------------------------------------------------------------------------------

GLM_NAMES = {"up": "dense_h_to_4h", "down": "dense_4h_to_h"}


def _chatglm_heads(cfg: Config, class_name: str) -> Built | None:
    """Return the head for every class: since ChatGLM2 the one named after the model holds it too."""
    body = chatglm(cfg, "transformer")
    name = class_name if "SequenceClassification" in class_name else "ChatGLMForConditionalGeneration"
    if body.tensors[0].name == "word_embeddings.weight":
        return with_head(cfg, (body,), name, bias=False)
    return with_head(cfg.over(tie_word_embeddings=False), (body,), name, name="transformer.output_layer")


@decoder("chatglm", base="transformer", heads=_chatglm_heads)
def chatglm(cfg: Config, prefix: str) -> Component:
    """ChatGLM 1 to 3 and the first GLM-4."""
    if cfg.given("inner_hidden_size") or not cfg.given("ffn_hidden_size"):
        return _first_chatglm(cfg, prefix)
    dim = cfg.integer("kv_channels", 128)
    groups = cfg.integer("multi_query_group_num", 1) if cfg.flag("multi_query_attention") else cfg.num_heads
    plain = not cfg.flag("rmsnorm", True)
    linear_bias = cfg.flag("add_bias_linear")
    cfg = cfg.over(head_dim=dim, num_key_value_heads=groups)
    return dense_decoder(
        cfg.over(vocab_size=cfg.get("padded_vocab_size") or cfg.get("vocab_size")),
        prefix,
        norm_bias=plain,
        final_norm="encoder.final_layernorm" if cfg.flag("post_layer_norm", True) else "",
        embed="embedding.word_embeddings",
        layers_name="encoder.layers",
        scopes=full_scopes(cfg),
        attention_traits={
            "name": "self_attention", "qkv": "query_key_value", "o": "dense",
            "bias": linear_bias or cfg.flag("add_qkv_bias"), "o_bias": linear_bias,
        },
        mlp_traits={
            "gate_up": "dense_h_to_4h", "down": "dense_4h_to_h", "bias": linear_bias,
            "intermediate_size": cfg.integer("ffn_hidden_size"),
        },
    )  # fmt: skip


def _first_chatglm(cfg: Config, prefix: str) -> Component:
    """Return the first ChatGLM: layer norms, plain perceptrons, biases everywhere."""
    width = cfg.integer("inner_hidden_size", 4 * cfg.hidden_size)
    return dense_decoder(
        cfg.over(num_key_value_heads=None, head_dim=None),
        prefix,
        gated=False,
        norm_bias=True,
        final_norm="final_layernorm",
        embed="word_embeddings",
        scopes=full_scopes(cfg),
        attention_traits={"name": "attention", "qkv": "query_key_value", "o": "dense", "bias": True, "o_bias": True},
        mlp_traits={**GLM_NAMES, "bias": True, "intermediate_size": width},
    )
