"""What diffusers' transformers are made of, under diffusers' names.

References
----------
.. [1] W. Peebles and S. Xie, "Scalable Diffusion Models with Transformers", 2022, arXiv:2212.09748.
.. [2] P. Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024, arXiv:2403.03206.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Attention, FeedForward, Role, Tensors
from vrameter.model.config import Config


def width(cfg: Config, *, heads: int, head_dim: int) -> int:
    """Return the width of a transformer: its heads side by side; `heads` and `head_dim` are its class's defaults."""
    count: int = cfg.integer("num_attention_heads", heads)
    return count * int(cfg.integer("attention_head_dim", head_dim))


def linear(name: str, outputs: int, inputs: int, *, bias: bool = True, role: Role = "other") -> Tensors:
    """Return a linear layer; diffusers' have biases."""
    return parts.linear(name, outputs, inputs, bias=bias, role=role)


def embedder(name: str, inputs: int, hidden: int, outputs: int | None = None, *, bias: bool = True) -> Tensors:
    """Return two linear layers that embed a time step, a pooled text or a caption."""
    return (
        *linear(f"{name}.linear_1", hidden, inputs, bias=bias),
        *linear(f"{name}.linear_2", outputs or hidden, hidden, bias=bias),
    )


def attention(
    name: str,
    inner: int,
    *,
    head_dim: int,
    inputs: int | None = None,
    kv_inputs: int | None = None,
    outputs: int | None = None,
    bias: bool = True,
    out: str | None = "to_out.0",
    out_bias: bool = True,
    qk_norm: int = 0,
    qk_norm_bias: bool = False,
    added: int = 0,
    added_bias: bool = True,
    added_out: bool = True,
    added_norm: bool = True,
    kv_heads: int | None = None,
) -> Attention:
    """Return attention over one stream, or over two that are joined [2]_.

    Parameters
    ----------
    inner
        Width of all query heads.
    out
        Name of the output matrix; None where the block has another.
    qk_norm
        Width of the norms on queries and keys: a head's, or all heads'.
    added
        Width of the second stream, which has projections of its own; 0 for none.
    added_out, added_norm
        Whether the second stream has an output matrix and norms of its own.
    """
    source, prefix = inputs or inner, f"{name}." if name else ""
    kv_width = (kv_heads or inner // head_dim) * head_dim
    role: Role = "cross_attention" if kv_inputs else "attention"
    kv_source = kv_inputs or source
    tensors = (
        *linear(f"{prefix}to_q", inner, source, bias=bias, role=role),
        *linear(f"{prefix}to_k", kv_width, kv_source, bias=bias, role=role),
        *linear(f"{prefix}to_v", kv_width, kv_source, bias=bias, role=role),
    )
    if out:
        tensors += linear(f"{prefix}{out}", outputs or source, inner, bias=out_bias, role=role)
    norms: tuple[str, ...] = ("norm_q", "norm_k") if qk_norm else ()
    if added:
        for which in ("q", "k", "v"):
            tensors += linear(f"{prefix}add_{which}_proj", inner, added, bias=added_bias, role=role)
        if added_out:
            tensors += linear(f"{prefix}to_add_out", added, inner, bias=out_bias, role=role)
        norms += ("norm_added_q", "norm_added_k") if qk_norm and added_norm else ()
    for each in norms:
        tensors += parts.norm(f"{prefix}{each}", qk_norm, bias=qk_norm_bias)
    return Attention(
        tensors, num_heads=inner // head_dim, num_kv_heads=kv_width // head_dim, head_dim=head_dim, value_dim=head_dim,
        scope="encoder",
    )  # fmt: skip


def feed_forward(name: str, size: int, inner: int, *, gated: bool = False, bias: bool = True) -> FeedForward:
    """Return diffusers' ``FeedForward``: one matrix in, twice as wide where it is gated, one out."""
    return FeedForward(
        (
            *linear(f"{name}.net.0.proj", inner * (2 if gated else 1), size, bias=bias, role="mlp"),
            *linear(f"{name}.net.2", size, inner, bias=bias, role="mlp"),
        ),
        inner,
        gated=gated,
    )


def gated_triple(name: str, size: int, inner: int, names: tuple[str, str, str]) -> FeedForward:
    """Return a gated perceptron of three matrices without biases: two in, one out."""
    first, second, last = names
    return FeedForward(
        (
            *linear(f"{name}.{first}", inner, size, bias=False, role="mlp"),
            *linear(f"{name}.{second}", inner, size, bias=False, role="mlp"),
            *linear(f"{name}.{last}", size, inner, bias=False, role="mlp"),
        ),
        inner,
    )


def modulation(name: str, size: int, times: int, *, inputs: int | None = None, bias: bool = True) -> Tensors:
    """Return the matrix that makes a block's shifts, scales and gates from the time step [1]_."""
    return linear(name, times * size, inputs or size, bias=bias)
