"""Learned tokens: prompts before the input, keys and values before those of each layer.

References
----------
.. [1] peft 0.21.2, ``peft_model.py``: ``get_prompt``, ``PeftModelForCausalLM.forward``; ``tuners/prompt_tuning``,
       ``prefix_tuning``, ``p_tuning``, ``multitask_prompt_tuning``, ``cpt``, ``cartridge``, ``adaption_prompt``.
.. [2] LitGPT 0.4, ``adapter.py``: a prompt of ten tokens in all layers but the first two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vrameter.memory import adapters as sizes
from vrameter.model.architecture import Architecture, Attention
from vrameter.settings.training import AdapterSettings

# Methods, and the options that each has.
PROMPTS: dict[str, tuple[str, ...]] = {
    "prompt_tuning": (), "p_tuning": ("encoder_hidden_size", "encoder_reparameterization_type", "encoder_num_layers"),
    "multitask_prompt_tuning": ("num_tasks", "num_ranks"), "cpt": (), "prefix_tuning": ("prefix_projection", "encoder_hidden_size"),
    "cartridge": ("num_frozen_tokens",), "adaption_prompt": ("adapter_len", "adapter_layers"), "adapter": (),
}  # fmt: skip
TOKENS = {"adapter": 10, "adaption_prompt": 10}


@dataclass(frozen=True, slots=True)
class Prompt:
    """Learned tokens.

    Parameters
    ----------
    place
        Where they stand: ``input`` (before the tokens of each sequence), ``keys`` (before the keys and values of each
        layer) or ``beside`` (an attention of their own in the last layers).
    tokens
        How many. [tokens]
    layers
        How many layers have some of their own.
    """

    place: str
    tokens: int
    layers: int
    num_params: int


def prompt(architecture: Architecture, method: str, settings: AdapterSettings, options: Mapping[str, Any]) -> Prompt:
    """Return the learned tokens of a method; their number follows from that of the parameters where only this is known."""
    decoder = architecture.main
    mixers = [part for layer in decoder.layers for part in layer.parts if isinstance(part, Attention)]
    width, hidden = (
        (mixers[0].num_kv_heads * mixers[0].head_dim if mixers else decoder.hidden_size),
        decoder.hidden_size,
    )
    layers = len(mixers)
    if method == "adaption_prompt":
        layers = min(layers, int(options.get("adapter_layers") or layers))
    elif method == "adapter":
        layers = max(0, layers - 2)
    asked = settings.num_virtual_tokens or options.get("adapter_len")
    encoder = int(options.get("encoder_hidden_size") or (width if method == "prefix_tuning" else hidden))

    def params(tokens: int) -> int:
        return _params(method, tokens, layers=layers, width=width, hidden=hidden, encoder=encoder, options=options,
                       heads=mixers[0].num_heads if mixers else 0)  # fmt: skip

    known = settings.trainable_params
    tokens = int(asked) if asked else TOKENS.get(method, 20)
    if known is not None and not asked:
        each = params(1) - params(0)
        rest = known - params(0)
        tokens = rest // each if each > 0 and rest > 0 and rest % each == 0 else tokens
    place = (
        "keys"
        if method in ("prefix_tuning", "cartridge")
        else "beside"
        if method in ("adapter", "adaption_prompt")
        else "input"
    )
    return Prompt(place, tokens, layers, params(tokens) if known is None else known)


def _params(
    method: str,
    tokens: int,
    *,
    layers: int,
    width: int,
    hidden: int,
    encoder: int,
    heads: int,
    options: Mapping[str, Any],
) -> int:
    if method == "prefix_tuning":
        if options.get("prefix_projection"):
            return sizes.projected_prefix_params(num_tokens=tokens, num_layers=layers, kv_width=width, hidden_size=width,
                                                 encoder_size=encoder)  # fmt: skip
        return sizes.prefix_params(num_tokens=tokens, num_layers=layers, kv_width=width)
    if method == "cartridge":
        learned = max(0, tokens - int(options.get("num_frozen_tokens", 1)))
        return sizes.prefix_params(num_tokens=learned, num_layers=layers, kv_width=width)
    if method == "adaption_prompt":
        return sizes.adaption_prompt_params(num_tokens=tokens, num_layers=layers, hidden_size=hidden)
    if method == "adapter":
        return layers * (tokens * hidden + heads)
    if method == "multitask_prompt_tuning":
        return sizes.multitask_prompt_params(num_tokens=tokens, hidden_size=hidden, num_tasks=int(options.get("num_tasks", 1)),
                                             num_ranks=int(options.get("num_ranks", 1)))  # fmt: skip
    if method == "p_tuning":
        if str(options.get("encoder_reparameterization_type", "MLP")).upper() == "LSTM":
            return sizes.recurrent_prompt_encoder_params(num_tokens=tokens, hidden_size=hidden, encoder_size=encoder,
                                                         num_layers=int(options.get("encoder_num_layers", 2)))  # fmt: skip
        return sizes.prompt_encoder_params(num_tokens=tokens, hidden_size=hidden, encoder_size=encoder)
    return sizes.prompt_params(num_tokens=tokens, hidden_size=hidden)


__all__ = ["PROMPTS", "Prompt", "prompt"]
