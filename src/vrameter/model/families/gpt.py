"""Decoders in the line of GPT: layer norms with a shift, plain perceptrons, often fused projections.

References
----------
.. [1] A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (GPT-2).
.. [2] S. Black et al., "GPT-NeoX-20B", 2022, arXiv:2204.06745.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensor
from vrameter.model.config import Config
from vrameter.model.families.llama import dense_decoder, full_scopes, rounded_heads
from vrameter.model.families.mixture import head_as
from vrameter.model.families.registry import Built, LayerScope, as_tuple, decoder, entry, num_labels
from vrameter.model.read import with_head


def equal_heads(cfg: Config) -> Config:
    """Return the config for classes whose heads all have their own keys and share the hidden width."""
    return cfg.over(num_key_value_heads=None, head_dim=None)


def inner_width(cfg: Config, field: str = "n_inner") -> int:
    """Return the perceptron's width; four times the hidden width where the config is silent."""
    return int(cfg.integer(field, 4 * cfg.hidden_size))


def head_named(
    *, name: str = "lm_head", bias: bool = False, classifier: str = "classifier", untied: bool = False
) -> Callable[[Config, str], Built | None]:
    """Return the reader of heads that bear another name or a bias, on the body that the type's own reader reads.

    `untied` heads are tied only where the file says so.
    """

    def heads(cfg: Config, class_name: str) -> Built | None:
        if class_name.endswith("Model") and not class_name.endswith("LMHeadModel"):
            return None
        found = entry(cfg.model_type)
        assert found is not None
        body = as_tuple(found.read(cfg, found.base))
        if class_name.endswith("ForTokenClassification"):
            hidden = body[0].hidden_size
            tensors = parts.linear(classifier, num_labels(cfg), hidden, bias=True, role="head")
            return Built((*body, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)))
        if untied and cfg.get("tie_word_embeddings") is None:
            cfg = cfg.over(tie_word_embeddings=False)
        return with_head(cfg, body, class_name, name=name, bias=bias)

    return heads


# -- GPT-2 and its stored-inputs-first matrices --------------------------------------------------------


def gpt2_body(cfg: Config, prefix: str, **traits: Any) -> Component:
    """Return GPT-2: learned positions, norms before each part, matrices stored inputs first."""
    cfg = equal_heads(cfg)
    hidden = cfg.hidden_size
    positions = cfg.integer("max_position_embeddings")
    fused = {"name": "attn", "qkv": "c_attn", "o": "c_proj", "bias": True, "o_bias": True, "conv_style": True}
    own: dict[str, Any] = {
        "norms": ("ln_1", "ln_2"),
        "final_norm": "ln_f",
        "embed": "wte",
        "embeddings": parts.embedding("wpe", positions, hidden, slot="position"),
        **traits,
        "attention_traits": {**fused, **traits.get("attention_traits", {})},
        "mlp_traits": {
            "up": "c_fc", "down": "c_proj", "bias": True, "conv_style": True, "intermediate_size": inner_width(cfg),
            **traits.get("mlp_traits", {}),
        },
    }  # fmt: skip
    return dense_decoder(cfg, prefix, gated=False, norm_bias=True, layers_name="h", scopes=full_scopes(cfg), **own)


def crossing(cfg: Config, conv_style: bool) -> dict[str, Any]:
    """Return the traits of layers that look at an encoder too, where the config asks for it."""
    if not cfg.flag("add_cross_attention"):
        return {}
    hidden, make = cfg.hidden_size, parts.conv1d_linear if conv_style else parts.linear
    own = parts.attention(
        hidden_size=hidden, num_heads=cfg.num_heads, role="cross_attention", scope="cross", name="crossattention"
    )
    tensors = (
        *make("crossattention.c_attn", 2 * hidden, hidden, bias=True, role="cross_attention", slot="kv"),
        *make("crossattention.q_attn", hidden, hidden, bias=True, role="cross_attention", slot="q"),
        *make("crossattention.c_proj", hidden, hidden, bias=True, role="cross_attention", slot="o"),
    )
    return {
        "extra_parts": (replace(own, tensors=tensors),),
        "layer_tensors": parts.norm("ln_cross_attn", hidden, bias=True),
    }


@decoder("gpt2", base="transformer", heads=head_named())
def gpt2(cfg: Config, prefix: str) -> Component:
    """GPT-2, with cross-attention where the config asks for it."""
    return gpt2_body(cfg, prefix, **crossing(equal_heads(cfg), conv_style=True))


@decoder("gpt-sw3", base="transformer", heads=head_as("gpt2"))
def gpt_sw3(cfg: Config, prefix: str) -> Component:
    """GPT-SW3: GPT-2 under a name of its own."""
    return gpt2(cfg.as_type("gpt2"), prefix)


@decoder("gpt_bigcode", base="transformer", heads=head_named())
def gpt_bigcode(cfg: Config, prefix: str) -> Component:
    """StarCoder: GPT-2 whose heads share one key and one value."""
    own = equal_heads(cfg)
    shared = {"num_kv_heads": 1} if cfg.flag("multi_query", True) else {}
    return gpt2_body(
        cfg,
        prefix,
        attention_traits={"conv_style": False, **shared},
        mlp_traits={"conv_style": False},
        **crossing(own, conv_style=False),
    )


@decoder("openai-gpt", base="transformer")
def openai_gpt(cfg: Config, prefix: str) -> Component:
    """GPT: norms after each part, so none at the end; the perceptron is always four times as wide."""
    embeddings = parts.embedding(
        "positions_embed", cfg.integer("max_position_embeddings"), cfg.hidden_size, slot="position"
    )
    return gpt2_body(
        cfg,
        prefix,
        embed="tokens_embed",
        embeddings=embeddings,
        final_norm="",
        mlp_traits={"intermediate_size": 4 * cfg.hidden_size},
    )


@decoder("jais", "btlm", base="transformer", heads=head_named())
def jais(cfg: Config, prefix: str) -> Component:
    """Jais and BTLM: GPT-2 with a gated perceptron and slopes for distances."""
    cfg = equal_heads(cfg)
    gated = cfg.text("activation_function", "swiglu") == "swiglu"
    learned = cfg.text("position_embedding_type", "learned") == "learned"
    positions = parts.embedding("wpe", cfg.integer("max_position_embeddings"), cfg.hidden_size, slot="position")
    gate = {"gated": True, "gate": "c_fc2"} if gated else {}
    return gpt2_body(cfg, prefix, embeddings=positions if learned else (), mlp_traits=gate)


# -- the line of EleutherAI ---------------------------------------------------------------------------


def local_scopes(cfg: Config) -> list[LayerScope]:
    """Return GPT-Neo's alternation of global and local layers."""
    count, window = cfg.num_layers, cfg.integer("window_size", 256)
    names: list[Any] = []
    for item in cfg.sequence("attention_types") or [[["global", "local"], count]]:
        if not isinstance(item, (list, tuple)) or len(item) != 2 or not isinstance(item[1], int):
            raise cfg.fail("attention_types", "is not a list of names and repetitions.")
        names += list(item[0]) * max(0, min(item[1], count))
    if len(names) != count:
        names = (names * count)[:count] if names and not cfg.given("attention_types") else names
    if len(names) != count:
        raise cfg.fail(
            "attention_types", "has %(length)s entries for %(count)s layers.", length=len(names), count=count
        )
    return [("sliding", window) if name == "local" else ("full", None) for name in names]


@decoder("gpt_neo", base="transformer", heads=head_named())
def gpt_neo(cfg: Config, prefix: str) -> Component:
    """GPT-Neo: global and local layers in turn."""
    cfg = equal_heads(cfg)
    return dense_decoder(
        cfg,
        prefix,
        gated=False,
        norms=("ln_1", "ln_2"),
        norm_bias=True,
        final_norm="ln_f",
        embed="wte",
        embeddings=parts.embedding("wpe", cfg.integer("max_position_embeddings"), cfg.hidden_size, slot="position"),
        layers_name="h",
        scopes=local_scopes(cfg),
        attention_traits={"name": "attn.attention", "o": "out_proj", "bias": False, "o_bias": True},
        mlp_traits={
            "up": "c_fc", "down": "c_proj", "bias": True, "intermediate_size": inner_width(cfg, "intermediate_size"),
        },
    )  # fmt: skip


def gptj_body(cfg: Config, prefix: str, **names: Any) -> Component:
    """Return GPT-J: attention and perceptron side by side below one norm, no biases in attention."""
    cfg = equal_heads(cfg)
    return dense_decoder(
        cfg,
        prefix,
        gated=False,
        norms=("ln_1",),
        norm_bias=True,
        final_norm="ln_f",
        embed="wte",
        layers_name="h",
        scopes=full_scopes(cfg),
        attention_traits={"name": "attn", "o": "out_proj", "bias": False, "o_bias": False, **names},
        mlp_traits={"up": "fc_in", "down": "fc_out", "bias": True, "intermediate_size": inner_width(cfg)},
    )


@decoder("codegen", base="transformer", heads=head_named(bias=True))
def codegen(cfg: Config, prefix: str) -> Component:
    """CodeGen: GPT-J with one matrix for queries, keys and values."""
    return gptj_body(cfg, prefix, qkv="qkv_proj")


@decoder("gptj", base="transformer", heads=head_named(bias=True))
def gptj(cfg: Config, prefix: str) -> Component:
    """GPT-J; its head has a bias."""
    return gptj_body(cfg, prefix)


FUSED = {"name": "attention", "qkv": "query_key_value", "o": "dense"}
FOURFOLD = {"up": "dense_h_to_4h", "down": "dense_4h_to_h"}


@decoder("gpt_neox", base="gpt_neox", heads=head_named())
def gpt_neox(cfg: Config, prefix: str) -> Component:
    """GPT-NeoX and Pythia: two norms a layer, whether its parts stand side by side or not."""
    cfg = equal_heads(cfg)
    return dense_decoder(
        cfg,
        prefix,
        gated=False,
        norm_bias=True,
        final_norm="final_layer_norm",
        embed="embed_in",
        scopes=full_scopes(cfg),
        attention_traits=FUSED,
        mlp_traits={**FOURFOLD, "bias": True},
    )


@decoder(
    "gpt_neox_japanese",
    base="gpt_neox_japanese",
    heads=head_named(name="embed_out"),
)
def gpt_neox_japanese(cfg: Config, prefix: str) -> Component:
    """Japanese GPT-NeoX: no biases but one, on the last layer's output."""
    cfg = equal_heads(cfg)
    width = int(cfg.number("intermediate_multiple_size", 4) * cfg.hidden_size)
    body = dense_decoder(
        cfg,
        prefix,
        gated=False,
        norm_bias=True,
        final_norm="final_layer_norm",
        embed="embed_in",
        scopes=full_scopes(cfg),
        attention_traits={**FUSED, "bias": False, "o_bias": False},
        mlp_traits={**FOURFOLD, "bias": False, "intermediate_size": width},
    )
    last = body.layers[-1]
    bias = Tensor("attention.dense_bias", (cfg.hidden_size,), "attention", "o")
    return replace(body, layers=(*body.layers[:-1], Layer(last.parts, (*last.tensors, bias))))


@decoder("phi", heads=head_named(bias=True, classifier="score"))
def phi(cfg: Config, prefix: str) -> Component:
    """Phi-1 and Phi-2: parts side by side below one norm, biases everywhere, also on the head."""
    cfg = rounded_heads(cfg)
    return dense_decoder(
        cfg,
        prefix,
        gated=False,
        norms=("input_layernorm",),
        norm_bias=True,
        final_norm="final_layernorm",
        scopes=full_scopes(cfg),
        attention_traits={
            "o": "dense", "bias": True, "o_bias": True, "q_norm": "q_layernorm", "k_norm": "k_layernorm",
            "qk_norm": cfg.hidden_size // cfg.num_heads if cfg.flag("qk_layernorm") else None, "qk_norm_bias": True,
        },
        mlp_traits={"up": "fc1", "down": "fc2", "bias": True},
    )  # fmt: skip
