"""Mixers with a state of fixed size per sequence, from widths to tensors.

As in `parts`, each function writes the tensors of one kind of module under its usual names. Beside its tensors a mixer
says what it keeps of a sequence: the last columns of a short convolution, and a matrix per head.

References
----------
.. [1] A. Gu, T. Dao, "Mamba", 2023, arXiv:2312.00752.
.. [2] T. Dao, A. Gu, "Transformers are SSMs", 2024, arXiv:2405.21060 (Mamba-2).
.. [3] S. Yang et al., "Gated Delta Networks", 2024, arXiv:2412.06464.
.. [4] Z. Qin et al., "Lightning Attention-2", 2024, arXiv:2401.04658.
"""

from __future__ import annotations

from vrameter.model.architecture import Recurrent, Tensors
from vrameter.model.parts import conv, linear, norm, parameter


def mamba(
    *,
    hidden_size: int,
    inner_size: int,
    state_size: int,
    conv_kernel: int,
    dt_rank: int,
    name: str = "mixer",
    conv_bias: bool = True,
    bias: bool = False,
    inner_norms: bool = False,
    state_fp32: bool = False,
) -> Recurrent:
    """Return a Mamba-1 mixer [1]_; `inner_norms` are Jamba's, on the step and on what writes and reads the state."""
    norms: Tensors = ()
    if inner_norms:
        norms = (
            *norm(f"{name}.dt_layernorm", dt_rank),
            *norm(f"{name}.b_layernorm", state_size),
            *norm(f"{name}.c_layernorm", state_size),
        )
    tensors = (
        *parameter(f"{name}.A_log", inner_size, state_size, role="mixer", slot="a"),
        *parameter(f"{name}.D", inner_size, role="mixer", slot="d"),
        *conv(f"{name}.conv1d", inner_size, 1, conv_kernel, bias=conv_bias, role="mixer", slot="conv"),
        *linear(f"{name}.in_proj", 2 * inner_size, hidden_size, bias=bias, role="mixer", slot="ssm_in"),
        *linear(f"{name}.x_proj", dt_rank + 2 * state_size, inner_size, role="mixer", slot="ssm_x"),
        *linear(f"{name}.dt_proj", inner_size, dt_rank, bias=True, role="mixer", slot="ssm_dt"),
        *linear(f"{name}.out_proj", hidden_size, inner_size, bias=bias, role="mixer", slot="ssm_out"),
        *norms,
    )
    return Recurrent(
        tensors=tensors,
        kind="mamba",
        conv_channels=inner_size,
        conv_kernel=conv_kernel,
        state_elements=inner_size * state_size,
        state_fp32=state_fp32,
        inner_size=inner_size,
        num_heads=inner_size,
        head_dim=1,
        state_size=state_size,
        num_groups=1,
    )


def mamba2(
    *,
    hidden_size: int,
    inner_size: int,
    state_size: int,
    num_heads: int,
    num_groups: int,
    conv_kernel: int,
    head_dim: int | None = None,
    name: str = "mixer",
    conv_bias: bool = True,
    bias: bool = False,
    out_bias: bool | None = None,
    gated_norm: bool = True,
    state_fp32: bool = False,
) -> Recurrent:
    """Return a Mamba-2 mixer [2]_; `head_dim` is by default what makes the heads as wide as the mixer."""
    channels = inner_size + 2 * num_groups * state_size
    width = head_dim or inner_size // num_heads
    tensors = (
        *parameter(f"{name}.dt_bias", num_heads, role="mixer", slot="a"),
        *parameter(f"{name}.A_log", num_heads, role="mixer", slot="a"),
        *parameter(f"{name}.D", num_heads, role="mixer", slot="d"),
        *conv(f"{name}.conv1d", channels, 1, conv_kernel, bias=conv_bias, role="mixer", slot="conv"),
        *linear(
            f"{name}.in_proj", inner_size + channels + num_heads, hidden_size, bias=bias, role="mixer", slot="ssm_in"
        ),
        *(norm(f"{name}.norm", inner_size) if gated_norm else ()),
        *linear(
            f"{name}.out_proj",
            hidden_size,
            inner_size,
            bias=bias if out_bias is None else out_bias,
            role="mixer",
            slot="ssm_out",
        ),
    )
    return Recurrent(
        tensors=tensors,
        kind="mamba2",
        conv_channels=channels,
        conv_kernel=conv_kernel,
        state_elements=num_heads * width * state_size,
        state_fp32=state_fp32,
        inner_size=inner_size,
        num_heads=num_heads,
        head_dim=width,
        state_size=state_size,
        num_groups=num_groups,
    )


def delta_net(
    tensors: Tensors,
    *,
    num_key_heads: int,
    num_value_heads: int,
    key_dim: int,
    value_dim: int,
    conv_kernel: int,
    kind: str = "gated_delta_net",
    state_fp32: bool = True,
) -> Recurrent:
    """Return what a delta net [3]_ of these tensors keeps: queries, keys and values pass one short convolution."""
    keys, values = num_key_heads * key_dim, num_value_heads * value_dim
    return Recurrent(
        tensors=tensors,
        kind=kind,
        conv_channels=2 * keys + values,
        conv_kernel=conv_kernel,
        state_elements=values * key_dim,
        state_fp32=state_fp32,
        inner_size=values,
        num_heads=num_value_heads,
        head_dim=value_dim,
        state_size=key_dim,
        num_groups=num_key_heads,
    )


def gated_delta_net(
    *,
    hidden_size: int,
    num_key_heads: int,
    num_value_heads: int,
    key_dim: int,
    value_dim: int,
    conv_kernel: int,
    name: str = "linear_attn",
    fused: bool = True,
    state_fp32: bool = True,
) -> Recurrent:
    """Return a gated delta net [3]_; `fused` is Qwen3-Next's packing of its projections, else Qwen3.5's."""
    keys, values = num_key_heads * key_dim, num_value_heads * value_dim
    channels = 2 * keys + values
    if fused:
        projections = (
            *linear(f"{name}.in_proj_qkvz", channels + values, hidden_size, role="mixer", slot="qkvz"),
            *linear(f"{name}.in_proj_ba", 2 * num_value_heads, hidden_size, role="mixer", slot="ba"),
        )
    else:
        projections = (
            *linear(f"{name}.in_proj_qkv", channels, hidden_size, role="mixer", slot="qkv"),
            *linear(f"{name}.in_proj_z", values, hidden_size, role="mixer", slot="z"),
            *linear(f"{name}.in_proj_b", num_value_heads, hidden_size, role="mixer", slot="b"),
            *linear(f"{name}.in_proj_a", num_value_heads, hidden_size, role="mixer", slot="a"),
        )
    tensors = (
        *parameter(f"{name}.dt_bias", num_value_heads, role="mixer", slot="a"),
        *parameter(f"{name}.A_log", num_value_heads, role="mixer", slot="a"),
        *conv(f"{name}.conv1d", channels, 1, conv_kernel, bias=False, role="mixer", slot="conv"),
        *projections,
        *norm(f"{name}.norm", value_dim),
        *linear(f"{name}.out_proj", hidden_size, values, role="mixer", slot="ssm_out"),
    )
    return delta_net(
        tensors,
        num_key_heads=num_key_heads,
        num_value_heads=num_value_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        conv_kernel=conv_kernel,
        state_fp32=state_fp32,
    )


def linear_attention(
    tensors: Tensors, *, num_heads: int, head_dim: int, inner_size: int, state_fp32: bool = False
) -> Recurrent:
    """Return what linear attention [4]_ of these tensors keeps: a square per head, and no convolution."""
    return Recurrent(
        tensors=tensors,
        kind="linear_attention",
        state_elements=num_heads * head_dim * head_dim,
        state_fp32=state_fp32,
        inner_size=inner_size,
        num_heads=num_heads,
        head_dim=head_dim,
        state_size=head_dim,
        num_groups=num_heads,
    )


def short_conv(*, hidden_size: int, conv_kernel: int, bias: bool = False, name: str = "conv") -> Recurrent:
    """Return LFM2's mixer: a convolution over a few tokens between two gates."""
    tensors = (
        *conv(f"{name}.conv", hidden_size, 1, conv_kernel, bias=bias, role="mixer", slot="conv"),
        *linear(f"{name}.in_proj", 3 * hidden_size, hidden_size, bias=bias, role="mixer", slot="ssm_in"),
        *linear(f"{name}.out_proj", hidden_size, hidden_size, bias=bias, role="mixer", slot="ssm_out"),
    )
    return Recurrent(
        tensors=tensors,
        kind="short_conv",
        conv_channels=hidden_size,
        conv_kernel=conv_kernel,
        inner_size=hidden_size,
    )


__all__ = ["delta_net", "gated_delta_net", "linear_attention", "mamba", "mamba2", "short_conv"]
