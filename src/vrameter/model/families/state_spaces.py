"""Mamba and its relations: every layer a norm and a mixer with a state, no attention and no perceptron.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] A. Gu, T. Dao, "Mamba", 2023, arXiv:2312.00752.
.. [2] T. Dao, A. Gu, "Transformers are SSMs", 2024, arXiv:2405.21060.
.. [3] J. Zuo et al., "Falcon Mamba", 2024, arXiv:2410.05355.
"""

from __future__ import annotations

from vrameter.model import mixers
from vrameter.model.architecture import Component, Recurrent
from vrameter.model.config import Config
from vrameter.model.families.layer_kinds import size_or_auto, state_in_fp32
from vrameter.model.families.mixture import block, decoder_of
from vrameter.model.families.registry import decoder
from vrameter.units import ceil_div


def only_mixers(cfg: Config, prefix: str, mixer: Recurrent) -> Component:
    """Return a decoder of equal layers, a norm and a mixer each."""
    layers = (block(cfg, mixer, norms=("norm",)),) * cfg.num_layers
    return decoder_of(cfg, prefix, layers, embed="embeddings", norm="norm_f")


@decoder("mamba", "falcon_mamba", base="backbone")
def mamba(cfg: Config, prefix: str) -> Component:
    """Mamba [1]_ and Falcon-Mamba [3]_, whose inner norms have no weights."""
    hidden = cfg.hidden_size
    mixer = mixers.mamba(
        hidden_size=hidden,
        inner_size=cfg.integer("intermediate_size", int(cfg.number("expand", 2) * hidden)),
        state_size=cfg.integer("state_size"),
        conv_kernel=cfg.integer("conv_kernel"),
        dt_rank=size_or_auto(cfg, "time_step_rank", ceil_div(hidden, 16)),
        conv_bias=cfg.flag("use_conv_bias", True),
        bias=cfg.flag("use_bias", False),
        state_fp32=state_in_fp32(cfg),
    )
    return only_mixers(cfg, prefix, mixer)


@decoder("mamba2", base="backbone")
def mamba2(cfg: Config, prefix: str) -> Component:
    """Mamba-2 [2]_."""
    hidden = cfg.hidden_size
    inner, heads = int(cfg.number("expand", 2) * hidden), cfg.integer("num_heads")
    if heads * cfg.integer("head_dim") != inner:
        raise cfg.fail(
            "num_heads",
            "%(value)s heads of %(width)s are not the %(inner)s channels of the mixer.",
            value=heads,
            width=cfg.integer("head_dim"),
            inner=inner,
        )
    mixer = mixers.mamba2(
        hidden_size=hidden,
        inner_size=inner,
        state_size=cfg.integer("state_size"),
        num_heads=heads,
        num_groups=cfg.integer("n_groups"),
        conv_kernel=cfg.integer("conv_kernel"),
        conv_bias=cfg.flag("use_conv_bias", True),
        bias=cfg.flag("use_bias", False),
        state_fp32=state_in_fp32(cfg),
    )
    return only_mixers(cfg, prefix, mixer)
