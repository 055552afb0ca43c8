"""Recurrent and hybrid models as GGUF files hold them, and every model of both modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests import gguf_models as other
from tests.gguf_models import Made, Shapes, attention, experts, keys, norms, outside, perceptron


def mamba(layers: int = 64, hidden: int = 2560, inner: int = 5120, state: int = 16, rank: int = 160) -> Made:
    """Mamba 2.8B."""
    shapes = outside(50280, hidden, tied=True)
    for number in range(layers):
        block = f"blk.{number}."
        shapes |= norms(number, hidden, "attn_norm") | mamba_mixer(block, hidden, inner, state, rank)
    made = keys(
        layers, hidden, 0, 0, ssm__conv_kernel=4, ssm__inner_size=inner, ssm__state_size=state, ssm__time_step_rank=rank
    )
    return "mamba", made, shapes


def mamba_mixer(block: str, hidden: int, inner: int, state: int, rank: int) -> Shapes:
    """Return the tensors of a Mamba-1 mixer."""
    return {
        f"{block}ssm_in.weight": (2 * inner, hidden), f"{block}ssm_conv1d.weight": (inner, 4), f"{block}ssm_conv1d.bias": (inner,),
        f"{block}ssm_x.weight": (rank + 2 * state, inner), f"{block}ssm_dt.weight": (inner, rank), f"{block}ssm_dt.bias": (inner,),
        f"{block}ssm_a": (inner, state), f"{block}ssm_d": (inner,), f"{block}ssm_out.weight": (hidden, inner),
    }  # fmt: skip


def mamba2_mixer(block: str, hidden: int, inner: int, state: int, groups: int, heads: int) -> Shapes:
    """Return the tensors of a Mamba-2 mixer."""
    channels = inner + 2 * groups * state
    return {
        f"{block}ssm_in.weight": (inner + channels + heads, hidden), f"{block}ssm_conv1d.weight": (channels, 4),
        f"{block}ssm_conv1d.bias": (channels,), f"{block}ssm_dt.bias": (heads,), f"{block}ssm_a": (heads, 1),
        f"{block}ssm_d": (heads, 1), f"{block}ssm_norm.weight": (groups, inner // groups), f"{block}ssm_out.weight": (hidden, inner),
    }  # fmt: skip


def mamba2() -> Made:
    """Mamba-Codestral 7B."""
    shapes = outside(32768, 4096)
    for number in range(64):
        shapes |= norms(number, 4096, "attn_norm") | mamba2_mixer(f"blk.{number}.", 4096, 8192, 128, 8, 128)
    made = keys(64, 4096, 0, 0, ssm__conv_kernel=4, ssm__inner_size=8192, ssm__state_size=128, ssm__time_step_rank=128,
                ssm__group_count=8)  # fmt: skip
    return "mamba2", made, shapes


def falcon_h1() -> Made:
    """Falcon-H1 0.5B: attention and a mixer side by side in every layer."""
    hidden = 1024
    shapes = outside(32784, hidden)
    for number in range(36):
        shapes |= norms(number, hidden, "attn_norm", "ffn_norm") | attention(number, hidden, 8, 2, 64)
        shapes |= mamba2_mixer(f"blk.{number}.", hidden, 1536, 128, 1, 24) | perceptron(number, hidden, 2048)
    made = keys(36, hidden, 8, 2, attention__key_length=64, attention__value_length=64, ssm__conv_kernel=4,
                ssm__inner_size=1536, ssm__state_size=128, ssm__time_step_rank=24, ssm__group_count=1)  # fmt: skip
    return "falcon-h1", made, shapes


def nemotron_h() -> Made:
    """Nemotron-H like: layers that are a mixer, attention or a perceptron, one each."""
    hidden, pattern = 4096, "M-M*-M-M*-"
    shapes = outside(131072, hidden)
    for number, kind in enumerate(pattern):
        shapes |= norms(number, hidden, "attn_norm")
        if kind == "M":
            shapes |= mamba2_mixer(f"blk.{number}.", hidden, 8192, 128, 8, 128)
        elif kind == "*":
            shapes |= attention(number, hidden, 32, 8, 128)
        else:
            shapes |= perceptron(number, hidden, 21504, gated=False)
    made = keys(len(pattern), hidden, 32, [8 if kind == "*" else 0 for kind in pattern], attention__key_length=128,
                attention__value_length=128, ssm__conv_kernel=4, ssm__inner_size=8192, ssm__state_size=128,
                ssm__time_step_rank=128, ssm__group_count=8)  # fmt: skip
    return "nemotron_h", made, shapes


def jamba() -> Made:
    """Jamba Mini: attention on one layer of eight, experts on every other."""
    hidden = 4096
    shapes = outside(65536, hidden)
    for number in range(32):
        block = f"blk.{number}."
        shapes |= norms(number, hidden, "attn_norm", "ffn_norm")
        if number % 8 == 4:
            shapes |= attention(number, hidden, 32, 8, 128)
        else:
            shapes |= mamba_mixer(block, hidden, 8192, 16, 256)
            shapes |= {
                f"{block}ssm_dt_norm.weight": (256,),
                f"{block}ssm_b_norm.weight": (16,),
                f"{block}ssm_c_norm.weight": (16,),
            }
        shapes |= experts(number, hidden, 14336, 16) if number % 2 else perceptron(number, hidden, 14336)
    made = keys(32, hidden, 32, [8 if number % 8 == 4 else 0 for number in range(32)], ssm__conv_kernel=4, ssm__inner_size=8192,
                ssm__state_size=16, ssm__time_step_rank=256, expert_count=16, expert_used_count=2)  # fmt: skip
    return "jamba", made, shapes


def granite_hybrid() -> Made:
    """Granite 4.0 H Small: attention on four of forty layers, experts everywhere."""
    hidden, attending = 4096, (5, 15, 25, 35)
    shapes = outside(100352, hidden, tied=True)
    for number in range(40):
        shapes |= norms(number, hidden, "attn_norm", "ffn_norm")
        if number in attending:
            shapes |= attention(number, hidden, 32, 8, 128)
        else:
            shapes |= mamba2_mixer(f"blk.{number}.", hidden, 8192, 128, 1, 128)
        shapes |= experts(number, hidden, 768, 72) | perceptron(number, hidden, 1536, suffix="_shexp")
    made = keys(40, hidden, 32, [8 if number in attending else 0 for number in range(40)], ssm__conv_kernel=4,
                ssm__inner_size=8192, ssm__state_size=128, ssm__time_step_rank=128, ssm__group_count=1, expert_count=72,
                expert_used_count=10, expert_shared_feed_forward_length=1536)  # fmt: skip
    return "granitehybrid", made, shapes


def qwen3next(*, layers: int = 48, hidden: int = 2048, count: int = 512, fused: bool = True) -> Made:
    """Qwen3-Next 80B-A3B: three layers of gated delta nets for one of gated attention; `fused` as converters packed it first."""
    shapes = outside(151936, hidden)
    channels, values = 2 * 16 * 128 + 32 * 128, 32 * 128
    for number in range(layers):
        block = f"blk.{number}."
        shapes |= norms(number, hidden, "attn_norm", "post_attention_norm")
        if (number + 1) % 4:
            shapes |= {
                f"{block}attn_qkv.weight": (channels, hidden), f"{block}attn_gate.weight": (values, hidden),
                f"{block}ssm_conv1d.weight": (channels, 4), f"{block}ssm_dt.bias": (32,), f"{block}ssm_a": (32,),
                f"{block}ssm_norm.weight": (128,), f"{block}ssm_out.weight": (hidden, values),
            }  # fmt: skip
            shapes |= {f"{block}ssm_ba.weight": (64, hidden)} if fused else {
                f"{block}ssm_alpha.weight": (32, hidden), f"{block}ssm_beta.weight": (32, hidden)}  # fmt: skip
        else:
            shapes |= attention(number, hidden, 16, 2, 256, qk_norm=True, gated=True)
        shapes |= experts(number, hidden, 512, count) | perceptron(number, hidden, 512, suffix="_shexp")
        shapes[f"{block}ffn_gate_inp_shexp.weight"] = (hidden,)
    made = keys(layers, hidden, 16, 2, attention__key_length=256, attention__value_length=256, expert_count=count,
                expert_used_count=10, expert_feed_forward_length=512, expert_shared_feed_forward_length=512,
                ssm__conv_kernel=4, ssm__inner_size=values, ssm__state_size=128, ssm__time_step_rank=32, ssm__group_count=16,
                full_attention_interval=4)  # fmt: skip
    return "qwen3next", made, shapes


def lfm2() -> Made:
    """LFM2 1.2B: short convolutions, attention on six of sixteen layers."""
    hidden, attending = 2048, (2, 5, 8, 10, 12, 14)
    shapes: Shapes = {"token_embd.weight": (65536, hidden), "token_embd_norm.weight": (hidden,)}
    for number in range(16):
        block = f"blk.{number}."
        shapes |= norms(number, hidden, "attn_norm", "ffn_norm") | perceptron(number, hidden, 8192)
        if number in attending:
            shapes |= attention(number, hidden, 32, 8, 64, qk_norm=True)
        else:
            shapes |= {f"{block}shortconv.conv.weight": (hidden, 3), f"{block}shortconv.in_proj.weight": (3 * hidden, hidden),
                       f"{block}shortconv.out_proj.weight": (hidden, hidden)}  # fmt: skip
    made = keys(16, hidden, 32, [8 if number in attending else 0 for number in range(16)], shortconv__l_cache=3)
    return "lfm2", made, shapes


def rwkv7() -> Made:
    """RWKV-7 0.1B like: no attention at all."""
    hidden = 768
    shapes = outside(65536, hidden, norm_bias=True) | {
        "token_embd_norm.weight": (hidden,),
        "token_embd_norm.bias": (hidden,),
    }
    for number in range(12):
        block = f"blk.{number}."
        shapes |= norms(number, hidden, "attn_norm", "attn_norm_2")
        shapes |= {
            f"{block}time_mix_{name}.weight": (hidden, hidden) for name in ("key", "value", "receptance", "output")
        }
        shapes |= {f"{block}time_mix_{name}1.weight": (64, hidden) for name in "wavg"}
        shapes |= {f"{block}time_mix_{name}2.weight": (hidden, 64) for name in "wavg"}
        shapes |= {f"{block}time_mix_lerp_fused.weight": (6, 1, 1, hidden), f"{block}time_mix_ln.weight": (hidden,),
                   f"{block}channel_mix_lerp_k.weight": (1, 1, hidden), f"{block}channel_mix_key.weight": (3072, hidden),
                   f"{block}channel_mix_value.weight": (hidden, 3072)}  # fmt: skip
    return "rwkv7", keys(12, hidden, 0, 0, wkv__head_size=64), shapes


def kimi_linear() -> Made:
    """Kimi Linear like: delta attention on three of four layers, latent attention on the fourth."""
    hidden, heads = 2304, 32
    shapes = outside(163840, hidden)
    for number in range(8):
        block = f"blk.{number}."
        shapes |= norms(number, hidden, "attn_norm", "ffn_norm") | perceptron(number, hidden, 9216)
        if (number + 1) % 4:
            shapes |= {f"{block}attn_{name}.weight": (heads * 128, hidden) for name in "qkv"}
            shapes |= {f"{block}ssm_conv1d_{name}.weight": (heads * 128, 4) for name in "qkv"}
            shapes |= {
                f"{block}ssm_f_a.weight": (128, hidden), f"{block}ssm_f_b.weight": (heads * 128, 128),
                f"{block}ssm_g_a.weight": (128, hidden), f"{block}ssm_g_b.weight": (heads * 128, 128),
                f"{block}ssm_beta.weight": (heads, hidden), f"{block}ssm_a": (heads, 1), f"{block}ssm_dt.bias": (heads * 128,),
                f"{block}ssm_norm.weight": (128,), f"{block}attn_output.weight": (hidden, heads * 128),
            }  # fmt: skip
        else:
            shapes |= {
                f"{block}attn_q.weight": (heads * 192, hidden), f"{block}attn_kv_a_mqa.weight": (576, hidden),
                f"{block}attn_kv_a_norm.weight": (512,), f"{block}attn_k_b.weight": (heads, 512, 128),
                f"{block}attn_v_b.weight": (heads, 128, 512), f"{block}attn_output.weight": (hidden, heads * 128),
            }  # fmt: skip
    made = keys(8, hidden, heads, [0 if (number + 1) % 4 else 1 for number in range(8)], rope__dimension_count=64,
                attention__kv_lora_rank=512, attention__key_length_mla=192, attention__value_length_mla=128,
                ssm__conv_kernel=4, kda__head_dim=128)  # fmt: skip
    return "kimi-linear", made, shapes


HYBRIDS: dict[str, Callable[[], Made]] = {
    "mamba": mamba, "mamba2": mamba2, "jamba": jamba, "granitehybrid": granite_hybrid, "falcon-h1": falcon_h1,
    "nemotron_h": nemotron_h, "qwen3next": qwen3next, "lfm2": lfm2, "rwkv7": rwkv7, "kimi-linear": kimi_linear,
}  # fmt: skip


def every() -> Iterator[Made]:
    """Yield every model."""
    dense = (
        other.llama, other.qwen2, other.qwen3moe, other.gemma2, other.gemma3, other.gemma4, other.gpt_oss, other.llama4,
        other.deepseek2, other.deepseek32, other.deepseek4, other.glm4moe, other.phi3, other.bert, other.t5, other.mmproj,
    )  # fmt: skip
    for make in (*dense, *HYBRIDS.values()):
        yield make()
