"""Models as GGUF files hold them: names and shapes as llama.cpp loads them, written by hand from its loaders.

Every function returns the architecture, the keys and the shapes of one model; `tests.gguf_hybrids` has those that keep
states.
"""

from __future__ import annotations

from typing import Any

Shapes = dict[str, tuple[int, ...]]
Made = tuple[str, dict[str, Any], Shapes]


def outside(vocab: int, hidden: int, *, tied: bool = False, norm_bias: bool = False) -> Shapes:
    """Return the embedding, the last norm and the head."""
    shapes: Shapes = {"token_embd.weight": (vocab, hidden), "output_norm.weight": (hidden,)}
    if norm_bias:
        shapes["output_norm.bias"] = (hidden,)
    if not tied:
        shapes["output.weight"] = (vocab, hidden)
    return shapes


def norms(number: int, hidden: int, *names: str) -> Shapes:
    """Return norms of a block."""
    return {f"blk.{number}.{name}.weight": (hidden,) for name in names}


def attention(
    number: int,
    hidden: int,
    heads: int,
    kv: int,
    dim: int,
    *,
    bias: str = "",
    qk_norm: bool = False,
    gated: bool = False,
) -> Shapes:
    """Return grouped-query attention; `bias` lists which of q, k, v, o have one."""
    rows = {"q": heads * dim * (2 if gated else 1), "k": kv * dim, "v": kv * dim}
    shapes: Shapes = {f"blk.{number}.attn_{name}.weight": (out, hidden) for name, out in rows.items()}
    shapes[f"blk.{number}.attn_output.weight"] = (hidden, heads * dim)
    shapes |= {f"blk.{number}.attn_{name}.bias": (rows[name],) for name in "qkv" if name in bias}
    if "o" in bias:
        shapes[f"blk.{number}.attn_output.bias"] = (hidden,)
    if qk_norm:
        shapes |= norms(number, dim, "attn_q_norm", "attn_k_norm")
    return shapes


def perceptron(number: int, hidden: int, width: int, *, gated: bool = True, suffix: str = "") -> Shapes:
    """Return a perceptron."""
    names = ("gate", "up") if gated else ("up",)
    shapes: Shapes = {f"blk.{number}.ffn_{name}{suffix}.weight": (width, hidden) for name in names}
    return {**shapes, f"blk.{number}.ffn_down{suffix}.weight": (hidden, width)}


def experts(number: int, hidden: int, width: int, count: int, *, gated: bool = True) -> Shapes:
    """Return stacked experts with their router."""
    names = ("gate", "up") if gated else ("up",)
    shapes: Shapes = {f"blk.{number}.ffn_{name}_exps.weight": (count, width, hidden) for name in names}
    shapes[f"blk.{number}.ffn_down_exps.weight"] = (count, hidden, width)
    return {**shapes, f"blk.{number}.ffn_gate_inp.weight": (count, hidden)}


def keys(layers: int, hidden: int, heads: int, kv: Any, **more: Any) -> dict[str, Any]:
    """Return the keys that every model has."""
    return {
        "block_count": layers, "embedding_length": hidden, "attention.head_count": heads,
        "attention.head_count_kv": kv, "context_length": 4096, **{name.replace("__", "."): value for name, value in more.items()},
    }  # fmt: skip


def llama(
    layers: int = 32,
    hidden: int = 4096,
    width: int = 14336,
    heads: int = 32,
    kv: int = 8,
    vocab: int = 128256,
    rope: bool = True,
) -> Made:
    """Llama 3.1 8B, with the factors of its rotary positions that converters add."""
    shapes = {**outside(vocab, hidden), **({"rope_freqs.weight": (hidden // heads // 2,)} if rope else {})}
    for number in range(layers):
        shapes |= norms(number, hidden, "attn_norm", "ffn_norm")
        shapes |= attention(number, hidden, heads, kv, hidden // heads) | perceptron(number, hidden, width)
    return (
        "llama",
        keys(layers, hidden, heads, kv, feed_forward_length=width, rope__dimension_count=hidden // heads),
        shapes,
    )


def qwen2() -> Made:
    """Qwen2.5 0.5B: biases, tied."""
    shapes = outside(151936, 896, tied=True)
    for number in range(24):
        shapes |= norms(number, 896, "attn_norm", "ffn_norm")
        shapes |= attention(number, 896, 14, 2, 64, bias="qkv") | perceptron(number, 896, 4864)
    return "qwen2", keys(24, 896, 14, 2, feed_forward_length=4864), shapes


def qwen3moe() -> Made:
    """Qwen3 30B-A3B: heads wider than the model, experts."""
    shapes = outside(151936, 2048)
    for number in range(48):
        shapes |= norms(number, 2048, "attn_norm", "ffn_norm")
        shapes |= attention(number, 2048, 32, 4, 128, qk_norm=True) | experts(number, 2048, 768, 128)
    made = keys(48, 2048, 32, 4, attention__key_length=128, attention__value_length=128, expert_count=128,
                expert_used_count=8, expert_feed_forward_length=768, feed_forward_length=6144)  # fmt: skip
    return "qwen3moe", made, shapes


def gemma2() -> Made:
    """Gemma 2 2B: every other layer with a window, four norms a layer."""
    shapes = outside(256000, 2304, tied=True)
    for number in range(26):
        shapes |= norms(number, 2304, "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm")
        shapes |= attention(number, 2304, 8, 4, 256) | perceptron(number, 2304, 9216)
    made = keys(26, 2304, 8, 4, attention__key_length=256, attention__value_length=256, attention__sliding_window=4096)
    return "gemma2", made, shapes


def gemma3() -> Made:
    """Gemma 3 1B: five layers with a window for one without."""
    shapes = outside(262144, 1152, tied=True)
    for number in range(26):
        shapes |= norms(number, 1152, "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm")
        shapes |= attention(number, 1152, 4, 1, 256, qk_norm=True) | perceptron(number, 1152, 6912)
    made = keys(26, 1152, 4, 1, attention__key_length=256, attention__value_length=256, attention__sliding_window=512)
    return "gemma3", made, shapes


def gemma4() -> Made:
    """Gemma 4 31B: wider heads and no value matrix on the layers without a window."""
    hidden, full = 5376, [number % 6 == 5 for number in range(60)]
    shapes = outside(262144, hidden, tied=True) | {"rope_freqs.weight": (256,)}
    for number in range(60):
        kv, dim = (4, 512) if full[number] else (16, 256)
        shapes |= norms(number, hidden, "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm")
        shapes |= attention(number, hidden, 32, kv, dim, qk_norm=True) | perceptron(number, hidden, 21504)
        shapes[f"blk.{number}.layer_output_scale.weight"] = (1,)
        if full[number]:
            del shapes[f"blk.{number}.attn_v.weight"]
    made = keys(60, hidden, 32, [4 if whole else 16 for whole in full], attention__key_length=512, attention__value_length=512,
                attention__key_length_swa=256, attention__value_length_swa=256, attention__sliding_window=1024,
                attention__sliding_window_pattern=[not whole for whole in full], attention__shared_kv_layers=0)  # fmt: skip
    return "gemma4", made, shapes


def gpt_oss() -> Made:
    """gpt-oss 20B: windows on every other layer, sinks, biases everywhere."""
    hidden, count = 2880, 32
    shapes = outside(201088, hidden)
    for number in range(24):
        shapes |= norms(number, hidden, "attn_norm", "post_attention_norm")
        shapes |= attention(number, hidden, 64, 8, 64, bias="qkvo") | experts(number, hidden, hidden, count)
        shapes[f"blk.{number}.attn_sinks.weight"] = (64,)
        shapes[f"blk.{number}.ffn_gate_inp.bias"] = (count,)
        shapes |= {f"blk.{number}.ffn_{name}_exps.bias": (count, hidden) for name in ("gate", "up", "down")}
    made = keys(24, hidden, 64, 8, attention__key_length=64, attention__value_length=64, attention__sliding_window=128,
                expert_count=count, expert_used_count=4, expert_feed_forward_length=hidden)  # fmt: skip
    return "gpt-oss", made, shapes


def llama4() -> Made:
    """Llama 4 Scout: three layers that attend in chunks for one that attends to everything."""
    hidden = 5120
    shapes = outside(202048, hidden) | {"rope_freqs.weight": (64,)}
    for number in range(48):
        shapes |= norms(number, hidden, "attn_norm", "ffn_norm") | attention(number, hidden, 40, 8, 128)
        shapes |= experts(number, hidden, 8192, 16) | perceptron(number, hidden, 8192, suffix="_shexp")
    made = keys(48, hidden, 40, 8, attention__key_length=128, attention__value_length=128, expert_count=16,
                expert_used_count=1, expert_feed_forward_length=8192)  # fmt: skip
    return "llama4", made, shapes


def deepseek2(*, latent: bool = True) -> Made:
    """DeepSeek V3; `latent` as converted since 2025-04, else as before, without what a latent cache needs."""
    hidden, heads = 7168, 128
    shapes = outside(129280, hidden)
    for number in range(61):
        block = f"blk.{number}."
        shapes |= norms(number, hidden, "attn_norm", "ffn_norm")
        shapes |= {
            f"{block}attn_q_a.weight": (1536, hidden), f"{block}attn_q_a_norm.weight": (1536,),
            f"{block}attn_q_b.weight": (heads * 192, 1536), f"{block}attn_kv_a_mqa.weight": (576, hidden),
            f"{block}attn_kv_a_norm.weight": (512,), f"{block}attn_output.weight": (hidden, heads * 128),
        }  # fmt: skip
        if latent:
            shapes |= {f"{block}attn_k_b.weight": (heads, 512, 128), f"{block}attn_v_b.weight": (heads, 128, 512)}
        else:
            shapes[f"{block}attn_kv_b.weight"] = (heads * 256, 512)
        if number < 3:
            shapes |= perceptron(number, hidden, 18432)
        else:
            shapes |= experts(number, hidden, 2048, 256) | perceptron(number, hidden, 2048, suffix="_shexp")
            shapes[f"{block}exp_probs_b.bias"] = (256,)
    made = keys(61, hidden, heads, 1 if latent else heads, rope__dimension_count=64, attention__q_lora_rank=1536,
                attention__kv_lora_rank=512, expert_count=256, expert_used_count=8, expert_shared_count=1,
                expert_feed_forward_length=2048, leading_dense_block_count=3,
                attention__key_length=576 if latent else 192, attention__value_length=512 if latent else 128)  # fmt: skip
    if latent:
        made |= {"attention.key_length_mla": 192, "attention.value_length_mla": 128}
    return "deepseek2", made, shapes


def deepseek32() -> Made:
    """DeepSeek V3.2: latent attention with an indexer that chooses what to look at."""
    _, made, shapes = deepseek2()
    for number in range(61):
        block = f"blk.{number}.indexer."
        shapes |= {
            f"{block}attn_q_b.weight": (64 * 128, 1536), f"{block}attn_k.weight": (128, 7168),
            f"{block}k_norm.weight": (128,), f"{block}k_norm.bias": (128,), f"{block}proj.weight": (64, 7168),
        }  # fmt: skip
    return "deepseek32", {**made, "attention.indexer.head_count": 64, "attention.indexer.key_length": 128}, shapes


def deepseek4() -> Made:
    """DeepSeek V4 Flash: a window and pooled older tokens, routers by token in the first layers."""
    hidden, heads, dim, rank, streams, count = 4096, 64, 512, 1024, 4, 256
    ratios = [0, 0, *(4 if number % 2 == 0 else 128 for number in range(41))]
    mixed = (2 + streams) * streams
    shapes = outside(129280, hidden) | {
        "output_hc_fn.weight": (streams, streams * hidden), "output_hc_base.weight": (streams,), "output_hc_scale.weight": (1,),
    }  # fmt: skip
    for number, ratio in enumerate(ratios):
        block = f"blk.{number}."
        shapes |= norms(number, hidden, "attn_norm", "ffn_norm") | experts(number, hidden, 2048, count)
        shapes |= perceptron(number, hidden, 2048, suffix="_shexp")
        shapes |= {
            f"{block}attn_sinks.weight": (heads,), f"{block}attn_q_a.weight": (rank, hidden), f"{block}attn_q_a_norm.weight": (rank,),
            f"{block}attn_q_b.weight": (heads * dim, rank), f"{block}attn_kv.weight": (dim, hidden),
            f"{block}attn_kv_a_norm.weight": (dim,), f"{block}attn_output_a.weight": (8 * 1024, heads * dim // 8),
            f"{block}attn_output_b.weight": (hidden, 8 * 1024),
        }  # fmt: skip
        for name in ("hc_attn", "hc_ffn"):
            shapes |= {f"{block}{name}_fn.weight": (mixed, streams * hidden), f"{block}{name}_base.weight": (mixed,),
                       f"{block}{name}_scale.weight": (3,)}  # fmt: skip
        for name, width in (("attn_compressor", dim), ("indexer_compressor", 128)):
            if not ratio or (ratio != 4 and name == "indexer_compressor"):
                continue
            rows = 2 * width if ratio == 4 else width
            shapes |= {f"{block}{name}_kv.weight": (rows, hidden), f"{block}{name}_gate.weight": (rows, hidden),
                       f"{block}{name}_ape.weight": (ratio, rows), f"{block}{name}_norm.weight": (width,)}  # fmt: skip
        if ratio == 4:
            shapes |= {f"{block}indexer.proj.weight": (64, hidden), f"{block}indexer.attn_q_b.weight": (64 * 128, rank)}
        shapes[f"{block}ffn_gate_tid2eid.weight" if number < 3 else f"{block}exp_probs_b.bias"] = (
            (129280, 6) if number < 3 else (count,)
        )
    made = keys(43, hidden, heads, 1, rope__dimension_count=64, attention__q_lora_rank=rank, attention__key_length=dim,
                attention__value_length=dim, attention__sliding_window=128, attention__compress_ratios=ratios,
                attention__indexer__head_count=64, attention__indexer__key_length=128, expert_count=count,
                expert_used_count=6, expert_shared_count=1, expert_feed_forward_length=2048)  # fmt: skip
    return "deepseek4", made, shapes


def glm4moe() -> Made:
    """GLM-4.5 Air with the layer that predicts further tokens, which is stored and not loaded."""
    hidden = 4096
    shapes = outside(151552, hidden)
    for number in range(47):
        shapes |= norms(number, hidden, "attn_norm", "post_attention_norm") | attention(
            number, hidden, 96, 8, 128, bias="qkv"
        )
        if number < 1:
            shapes |= perceptron(number, hidden, 10944)
        else:
            shapes |= experts(number, hidden, 1408, 128) | perceptron(number, hidden, 1408, suffix="_shexp")
            shapes[f"blk.{number}.exp_probs_b.bias"] = (128,)
    last = "blk.46.nextn."
    shapes |= {f"{last}eh_proj.weight": (hidden, 2 * hidden), f"{last}enorm.weight": (hidden,), f"{last}hnorm.weight": (hidden,),
               f"{last}embed_tokens.weight": (151552, hidden), f"{last}shared_head_head.weight": (151552, hidden),
               f"{last}shared_head_norm.weight": (hidden,)}  # fmt: skip
    made = keys(47, hidden, 96, 8, attention__key_length=128, attention__value_length=128, expert_count=128,
                expert_used_count=8, expert_shared_count=1, expert_feed_forward_length=1408, leading_dense_block_count=1,
                nextn_predict_layers=1)  # fmt: skip
    return "glm4moe", made, shapes


def phi3() -> Made:
    """Phi-3 mini: fused queries, keys and values; fused gate and up; a window that llama.cpp passes over."""
    shapes = outside(32064, 3072)
    for number in range(32):
        block = f"blk.{number}."
        shapes |= norms(number, 3072, "attn_norm", "ffn_norm")
        shapes |= {f"{block}attn_qkv.weight": (9216, 3072), f"{block}attn_output.weight": (3072, 3072),
                   f"{block}ffn_up.weight": (16384, 3072), f"{block}ffn_down.weight": (3072, 8192)}  # fmt: skip
    return "phi3", keys(32, 3072, 32, 32, attention__sliding_window=2047), shapes


def bert() -> Made:
    """BGE base: an encoder."""
    hidden = 768
    shapes: Shapes = {"token_embd.weight": (30522, hidden), "position_embd.weight": (512, hidden),
                      "token_types.weight": (2, hidden), "token_embd_norm.weight": (hidden,), "token_embd_norm.bias": (hidden,)}  # fmt: skip
    for number in range(12):
        block = f"blk.{number}."
        shapes |= attention(number, hidden, 12, 12, 64, bias="qkvo") | perceptron(number, hidden, 3072, gated=False)
        shapes |= {f"{block}ffn_up.bias": (3072,), f"{block}ffn_down.bias": (hidden,)}
        for name in ("attn_output_norm", "layer_output_norm"):
            shapes |= {f"{block}{name}.weight": (hidden,), f"{block}{name}.bias": (hidden,)}
    return "bert", keys(12, hidden, 12, 12, attention__causal=False), shapes


def t5() -> Made:
    """T5 small v1.1 style: two stacks, position biases in the first layer of each."""
    hidden, heads, dim, width = 512, 6, 64, 1024
    shapes: Shapes = {"token_embd.weight": (32128, hidden), "enc.output_norm.weight": (hidden,), "dec.output_norm.weight": (hidden,),
                      "output.weight": (32128, hidden)}  # fmt: skip
    for side, kinds in (("enc", ("attn",)), ("dec", ("attn", "cross_attn"))):
        for number in range(8):
            block = f"{side}.blk.{number}."
            for kind in kinds:
                shapes |= {f"{block}{kind}_{name}.weight": (heads * dim, hidden) for name in "qkv"}
                shapes |= {f"{block}{kind}_o.weight": (hidden, heads * dim), f"{block}{kind}_norm.weight": (hidden,)}
            shapes |= {f"{block}ffn_gate.weight": (width, hidden), f"{block}ffn_up.weight": (width, hidden),
                       f"{block}ffn_down.weight": (hidden, width), f"{block}ffn_norm.weight": (hidden,)}  # fmt: skip
        shapes[f"{side}.blk.0.attn_rel_b.weight"] = (32, heads)
    made = keys(8, hidden, heads, heads, attention__key_length=dim, attention__value_length=dim)
    return "t5", made, shapes


def mmproj() -> Made:
    """Return a projector file: CLIP ViT-L/14 at 336 pixels and a perceptron of two layers (LLaVA 1.5)."""
    hidden, width = 1024, 4096
    shapes: Shapes = {
        "v.class_embd": (hidden,),
        "v.patch_embd.weight": (hidden, 3, 14, 14),
        "v.position_embd.weight": (577, hidden),
    }
    shapes |= {f"v.{name}.{kind}": (hidden,) for name in ("pre_ln",) for kind in ("weight", "bias")}
    for number in range(23):
        block = f"v.blk.{number}."
        for name in ("q", "k", "v", "out"):
            shapes |= {f"{block}attn_{name}.weight": (hidden, hidden), f"{block}attn_{name}.bias": (hidden,)}
        shapes |= {f"{block}{name}.{kind}": (hidden,) for name in ("ln1", "ln2") for kind in ("weight", "bias")}
        shapes |= {f"{block}ffn_up.weight": (width, hidden), f"{block}ffn_up.bias": (width,),
                   f"{block}ffn_down.weight": (hidden, width), f"{block}ffn_down.bias": (hidden,)}  # fmt: skip
    shapes |= {"mm.0.weight": (4096, hidden), "mm.0.bias": (4096,), "mm.2.weight": (4096, 4096), "mm.2.bias": (4096,)}
    made = {"clip.has_vision_encoder": True, "clip.vision.block_count": 23, "clip.vision.embedding_length": hidden,
            "clip.vision.feed_forward_length": width, "clip.vision.attention.head_count": 16, "clip.vision.image_size": 336,
            "clip.vision.patch_size": 14}  # fmt: skip
    return "clip", made, shapes
