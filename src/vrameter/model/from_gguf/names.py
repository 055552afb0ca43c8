"""What a tensor of a GGUF file is for, by its name.

llama.cpp gives a module of every architecture the same name [1]_: ``blk.3.attn_q.weight`` makes queries wherever there
are any. A name that is not listed is read by its words (a norm says so), so that a new module counts in the right line.

References
----------
.. [1] llama.cpp, ``gguf-py/gguf/constants.py`` and ``src/llama-arch.cpp`` (names of tensors).
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from vrameter.model.architecture import Role, Tensor

SUFFIXES = (".weight", ".bias", ".input_scale", ".scale", ".scales")


class Use(NamedTuple):
    """Role and slot of a tensor; `matrix` says whether it multiplies, so that it may be quantised."""

    role: Role
    slot: str = ""
    matrix: bool = True


def _uses(role: Role, *slots: str, matrix: bool = True, **named: str) -> dict[str, Use]:
    return {name: Use(role, slot, matrix) for name, slot in (*((slot, slot) for slot in slots), *named.items())}


# Modules of a block, by the part of the name between its number and ".weight".
ATTENTION: dict[str, Use] = {
    **_uses("attention", attn_q="q", attn_k="k", attn_v="v", attn_qkv="qkv", attn_output="o", attn_out="o", attn_o="o",
            attn_gate="gate", attn_q_a="q_a", attn_q_b="q_b", attn_kv_a_mqa="kv_a", attn_kv="kv_a", attn_kv_b="kv_b",
            attn_k_b="k_b", attn_v_b="v_b", attn_output_a="o_a", attn_output_b="o", vis_attn_qkv="qkv",
            vis_attn_output="o"),
    **_uses("attention", attn_sinks="sinks", attn_rot_embd="", attn_rel_b="", attn_compressor_ape="", matrix=False),
    **_uses("attention", attn_compressor_kv="pool", attn_compressor_gate="pool"),
    **_uses("cross_attention", cross_attn_q="q", cross_attn_k="k", cross_attn_v="v", cross_attn_o="o",
            cross_attn_out="o"),
    **_uses("cross_attention", cross_attn_rel_b="", matrix=False),
}  # fmt: skip
MIXER: dict[str, Use] = {
    **_uses("mixer", "ssm_in", "ssm_x", "ssm_dt", "ssm_out", ssm_ba="ba", ssm_alpha="a", ssm_beta="b", ssm_f_a="a_a",
            ssm_f_b="a_b", ssm_g_a="z_a", ssm_g_b="z_b", ssm_g="z"),
    **_uses("mixer", ssm_a="a", ssm_d="d", ssm_conv1d="conv", ssm_conv1d_q="conv", ssm_conv1d_k="conv",
            ssm_conv1d_v="conv", matrix=False),
    **{f"shortconv.{name}": Use("mixer", slot) for name, slot in (("in_proj", "ssm_in"), ("out_proj", "ssm_out"))},
    "shortconv.conv": Use("mixer", "conv", False),
    **{f"time_mix_{name}": Use("mixer", slot) for name, slot in (
        ("key", "k"), ("value", "v"), ("receptance", "r"), ("gate", "gate"), ("output", "ssm_out"))},
}  # fmt: skip
_EXPERT_KINDS: dict[str, Role] = {"exps": "experts", "chexps": "experts", "shexp": "shared_experts"}
FEED_FORWARD: dict[str, Use] = {
    **_uses("mlp", ffn_gate="gate", ffn_up="up", ffn_down="down", vis_gate="gate", vis_up="up", vis_down="down",
            channel_mix_key="up", channel_mix_value="down", channel_mix_receptance="gate", ffn="up"),
    **{f"ffn_{name}_{kind}": Use(role, name)
       for name in ("gate", "up", "down")
       for kind, role in _EXPERT_KINDS.items()},
    "ffn_gate_up_exps": Use("experts", "gate_up"),
    "ffn_gate_inp": Use("router", "router", False), "ffn_gate_inp_shexp": Use("router", "shared_gate", False),
    "exp_probs_b": Use("router", "", False), "exp_probs_b_vl": Use("router", "", False),
    "ffn_gate_tid2eid": Use("router", "", False), "ffn.act": Use("mlp", "", False), "ffn_act": Use("mlp", "", False),
    "ffn_latent_down": Use("other", "latent"), "ffn_latent_up": Use("other", "latent"),
    "ffn_routed_down": Use("other", "latent"), "ffn_routed_up": Use("other", "latent"),
}  # fmt: skip
OTHERS: dict[str, Use] = {
    **_uses("other", inp_gate="", proj="", laurel_l="", laurel_r="", ple_key="", ple_value=""),
    **_uses("other", altup_correct_coef="", altup_predict_coef="", altup_correct_scale="", altup_router="",
            layer_output_scale="", ple_conv1d="conv", matrix=False),
    **{f"nextn.{name}": Use("other") for name in ("eh_proj", "pre_projection", "post_projection")},
    "nextn.embed_tokens": Use("embedding", "token"), "nextn.shared_head_head": Use("head", "head"),
}  # fmt: skip
# Modules outside blocks.
OUTSIDE: dict[str, Use] = {
    "token_embd": Use("embedding", "token"), "per_layer_token_embd": Use("embedding", "per_layer"),
    "position_embd": Use("embedding", "position", False), "token_types": Use("embedding", "type", False),
    "output": Use("head", "head"), "cls": Use("head", "cls"), "cls.output": Use("head", "cls_out"),
    "per_layer_model_proj": Use("other"), "altup_proj": Use("other"), "altup_unembd_proj": Use("other"),
    "dense_2": Use("other"), "dense_3": Use("other"), "fc": Use("other"), "d2t": Use("other", "", False),
    "nextn.pre_projection": Use("other"), "nextn.post_projection": Use("other"), "conv1d": Use("convolution", "", False),
}  # fmt: skip

KNOWN: dict[str, Use] = {**ATTENTION, **MIXER, **FEED_FORWARD, **OTHERS, **OUTSIDE}
# Stored and loaded, but no parameters: factors of rotary positions, a router's balancing bias, tables of numbers.
_BUFFERS = frozenset({"rope_freqs", "rope_factors_long", "rope_factors_short", "exp_probs_b", "exp_probs_b_vl",
                      "ffn_gate_tid2eid", "d2t", "masked_embd_ordering"})  # fmt: skip
_NORM = re.compile(r"norm|(?:^|[._])ln\d?(?:$|[._])|_lnq?$|^ln_|\bbn\b")
_EXPERT = re.compile(r"(ffn_(?:gate|up|down))\.\d+\Z")


def stem(name: str) -> str:
    """Return a tensor's name without its kind: ``attn_q`` of ``attn_q.weight``.

    >>> stem("ffn_gate_exps.weight"), stem("ssm_a"), stem("exp_probs_b.bias")
    ('ffn_gate_exps', 'ssm_a', 'exp_probs_b')
    """
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return name


@cache
def use_of(module: str) -> Use | None:
    """Return what a module is for, None where its name is not known.

    >>> use_of("attn_q"), use_of("attn_q_norm")
    (Use(role='attention', slot='q', matrix=True), Use(role='norm', slot='', matrix=False))
    >>> use_of("ffn_up.7")
    Use(role='experts', slot='up', matrix=True)
    """
    expert = _EXPERT.match(module)
    if expert:
        return FEED_FORWARD[f"{expert[1]}_exps"]
    if module in KNOWN:
        return KNOWN[module]
    if module in _BUFFERS:
        return Use("other", "", False)
    if _NORM.search(module):
        return Use("norm", "", False)
    if module.startswith("indexer"):
        return Use("attention", "index", not module.endswith("_ape"))
    if module.startswith(("time_mix_", "channel_mix_")):
        return Use("mixer", "", module.endswith(("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")))
    if module.startswith(("hc_", "output_hc_", "hrm.", "attn_res", "ffn_res", "output_res")):
        return Use("other", "", False)
    if module.startswith(("convnext.", "posnet.")):
        return Use("convolution", "", False)
    return None


def tensor_of(name: str, shape: tuple[int, ...], *, otherwise: Role = "other") -> Tensor:
    """Return a tensor of a file, named relative to its block, with its role and slot.

    >>> tensor_of("attn_k.weight", (1024, 4096))
    Tensor(name='attn_k.weight', shape=(1024, 4096), role='attention', slot='k', linear=True, buffer=False)
    """
    module = stem(name)
    use = use_of(module) or Use(otherwise, "", otherwise != "convolution")
    linear = use.matrix and name.endswith(".weight") and len(shape) > 1 and use.role != "embedding"
    return Tensor(name, shape, use.role, use.slot, linear=linear, buffer=module in _BUFFERS)


__all__ = ["KNOWN", "Use", "stem", "tensor_of", "use_of"]
