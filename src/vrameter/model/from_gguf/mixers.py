"""Mixers with a state of fixed size, as the tensors of a block and the keys of the file tell them.

Sizes of states are llama.cpp's [1]_: the last columns of the convolution and one matrix per head, whatever the kind.

References
----------
.. [1] llama.cpp, ``src/llama-hparams.cpp``, ``n_embd_r`` and ``n_embd_s``.
"""

from __future__ import annotations

from typing import NamedTuple

from vrameter.model.architecture import Recurrent, Tensor
from vrameter.model.from_gguf.keys import Keys
from vrameter.model.from_gguf.names import stem

MIXER_PREFIXES = ("ssm_", "time_mix_", "shortconv.")
# Matrices that attention would name so too, and what they make in a mixer.
_SHARED = {
    "attn_qkv": "qkv", "attn_gate": "z", "attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "ssm_out",
}  # fmt: skip
_DEFAULT_TOKEN_SHIFTS = 2
# Kinds whose state implementations keep in fp32 whatever the model's dtype; llama.cpp does so with all.
_FP32 = frozenset({"gated_delta_net", "kda", "rwkv"})


def recurrent(
    tensors: list[Tensor], keys: Keys, *, layer: int, hidden_size: int, name: str
) -> tuple[Recurrent | None, list[Tensor]]:
    """Return the mixer among a block's tensors, None where there is none, and the tensors that are not its own.

    Parameters
    ----------
    name
        The architecture's.
    """
    modules = {stem(tensor.name) for tensor in tensors}
    kind = _kind(modules, keys, layer=layer, name=name)
    if kind is None:
        return None, tensors
    borrows = kind in ("kda", "gated_delta_net", "linear_attention")
    own: list[Tensor] = []
    rest: list[Tensor] = []
    for tensor in tensors:
        module = stem(tensor.name)
        if module.startswith(MIXER_PREFIXES):
            own.append(tensor)
        elif borrows and module in _SHARED:
            own.append(tensor._replace(role="mixer", slot=_SHARED[module]))
        else:
            rest.append(tensor)
    return _sized(kind, tuple(own), keys, hidden_size=hidden_size), rest


def _kind(modules: set[str], keys: Keys, *, layer: int, name: str) -> str | None:
    if any(module.startswith("time_mix_") for module in modules):
        return "rwkv"
    if "shortconv.conv" in modules:
        return "short_conv"
    if "ssm_conv1d_q" in modules:
        return "kda"
    if "ssm_in" in modules:
        return "mamba" if "ssm_x" in modules else "mamba2"
    if "ssm_conv1d" in modules:
        return "gated_delta_net"
    if "attn_qkv" in modules and "attn_gate" in modules and _listed_recurrent(keys, layer, name):
        return "linear_attention"
    return None


def _listed_recurrent(keys: Keys, layer: int, name: str) -> bool:
    """Say whether a layer of an architecture without convolutions keeps a state."""
    listed = keys.get("attention.recurrent_layers")
    if isinstance(listed, list):
        return layer < len(listed) and bool(listed[layer])
    interval = keys.number("full_attention_interval", 8 if name == "minimax-01" else 0)
    return bool(interval) and (layer + 1) % interval != 0


def _sized(kind: str, tensors: tuple[Tensor, ...], keys: Keys, *, hidden_size: int) -> Recurrent:
    if kind == "rwkv":
        dim = keys.number("wkv.head_size", 64)
        shifts = keys.number("token_shift_count", _DEFAULT_TOKEN_SHIFTS)
        form = _Form(hidden_size // max(1, dim), dim, dim, hidden_size // max(1, dim), shifts * hidden_size, 2)
    elif kind == "short_conv":
        form = _Form(0, 0, 0, 0, hidden_size, keys.number("shortconv.l_cache", 3))
    elif kind in ("kda", "linear_attention"):
        heads = keys.first("attention.head_count") or keys.number("attention.head_count", 1)
        even = keys.number("attention.key_length", hidden_size // max(1, heads))
        dim = keys.number("kda.head_dim", 128) if kind == "kda" else even
        channels, kernel = (3 * heads * dim, keys.number("ssm.conv_kernel", 4)) if kind == "kda" else (0, 0)
        form = _Form(heads, dim, dim, heads, channels, kernel)
    else:
        inner, state, groups = (keys.number(f"ssm.{key}") for key in ("inner_size", "state_size", "group_count"))
        heads = inner if kind == "mamba" and not groups else max(1, keys.number("ssm.time_step_rank", 1))
        channels = inner + 2 * groups * state
        form = _Form(heads, inner // max(1, heads), state, max(1, groups), channels, keys.number("ssm.conv_kernel"))
    return Recurrent(
        tensors=tensors,
        kind=kind,
        conv_channels=form.channels,
        conv_kernel=form.kernel,
        state_elements=form.heads * form.head_dim * form.state_size,
        state_fp32=kind in _FP32,
        inner_size=form.heads * form.head_dim or hidden_size,
        num_heads=form.heads,
        head_dim=form.head_dim,
        state_size=form.state_size,
        num_groups=form.groups,
    )


class _Form(NamedTuple):
    """The sizes of a mixer: a matrix of `head_dim` by `state_size` per head, and its convolution."""

    heads: int
    head_dim: int
    state_size: int
    groups: int
    channels: int
    kernel: int


__all__ = ["MIXER_PREFIXES", "recurrent"]
