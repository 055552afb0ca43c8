"""Mixers with a state of fixed size, as the tensors of a block and the keys of the file tell them.

Sizes of states are llama.cpp's [1]_: the last columns of the convolution and one matrix per head, whatever the kind.

References
----------
.. [1] llama.cpp, ``src/llama-hparams.cpp``, ``n_embd_r`` and ``n_embd_s``.
"""

from __future__ import annotations

from vrameter.model.architecture import Recurrent, Tensor
from vrameter.model.from_gguf.keys import Keys
from vrameter.model.from_gguf.names import stem

MIXER_PREFIXES = ("ssm_", "time_mix_", "shortconv.")
# Matrices that attention would name so too, and what they make in a mixer.
_SHARED = {
    "attn_qkv": "qkv", "attn_gate": "z", "attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "ssm_out",
}  # fmt: skip
_DEFAULT_TOKEN_SHIFTS = 2


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
    return _sized(kind, tuple(own), keys, layer=layer, hidden_size=hidden_size), rest


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


def _sized(kind: str, tensors: tuple[Tensor, ...], keys: Keys, *, layer: int, hidden_size: int) -> Recurrent:
    kernel = keys.number("ssm.conv_kernel")
    inner, state = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    channels, elements = inner + 2 * keys.number("ssm.group_count") * state, inner * state
    heads = keys.first("attention.head_count") or keys.number("attention.head_count", 1)
    if kind == "rwkv":
        kernel = keys.number("token_shift_count", _DEFAULT_TOKEN_SHIFTS) + 1
        channels, inner = hidden_size, hidden_size
        elements = hidden_size * keys.number("wkv.head_size", 64)
    elif kind == "short_conv":
        kernel, channels, inner, elements = keys.number("shortconv.l_cache", 3), hidden_size, hidden_size, 0
    elif kind == "kda":
        dim = keys.number("kda.head_dim", 128)
        kernel = kernel or 4
        channels, elements, inner = 3 * heads * dim, dim * dim * heads, heads * dim
    elif kind == "linear_attention":
        dim = keys.number("attention.key_length", hidden_size // max(1, heads))
        kernel, channels, elements, inner = 0, 0, dim * dim * heads, dim * heads
    return Recurrent(
        tensors=tensors,
        kind=kind,
        conv_channels=channels,
        conv_kernel=kernel,
        state_elements=elements,
        state_fp32=kind in ("gated_delta_net", "kda"),
        inner_size=inner,
    )


__all__ = ["MIXER_PREFIXES", "recurrent"]
