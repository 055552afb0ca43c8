"""Building blocks of vision towers: patches, positions, encoder layers.

A tower is patches made by one convolution, positions, layers of attention and a perceptron that keep no cache, and a
final norm; families differ in names, in norms and in what stands around the layers.

References
----------
.. [1] A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929.
.. [2] H. Touvron et al., "Going deeper with Image Transformers", 2021, arXiv:2103.17239 (a learned scale per channel).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.image_input import ImageInput, Size


def pair(cfg: Config, name: str, default: int | None = None) -> Size:
    """Return height and width of a field that is one number or two."""
    value = cfg.integers(name, None if default is None else [default], least=1)
    if value is None or not 1 <= len(value) <= 3:
        raise cfg.fail(name, "is missing; a %(kind)s config needs it.", kind=cfg.model_type or "model")
    return (value[0], value[0]) if len(value) == 1 else (value[-2], value[-1])


def first(cfg: Config, name: str, default: int | None = None) -> int:
    """Return a field that is one number, or the first of several."""
    return listed_sizes(cfg, name, 1, None if default is None else [default])[0]


def listed_sizes(cfg: Config, name: str, least: int, default: Sequence[int] | None = None) -> list[int]:
    """Return a list of positive numbers with at least so many entries."""
    found: list[int] = cfg.integers(name, default, least=1) if default is not None else cfg.integers(name, least=1)
    if len(found) < least:
        raise cfg.fail(name, "%(value)s is not a list of whole numbers.", value=found)
    return found


def inverse(cfg: Config, name: str, default: float) -> int:
    """Return by how much an edge shrinks, where a config states the ratio."""
    ratio = cfg.number(name, default)
    if not 0 < ratio <= 1:
        raise cfg.fail(name, "%(value)s is not a number.", value=ratio)
    return int(1 / ratio)


def grid(cfg: Config, image: str = "image_size", patch: str = "patch_size") -> int:
    """Return the patches of the image size that a config states."""
    (height, width), (down, right) = pair(cfg, image), pair(cfg, patch)
    return (height // down) * (width // right)


def fixed_grid(cfg: Config, **traits: Any) -> ImageInput:
    """Return the rule of a tower that scales every image to its own size."""
    made = ImageInput(patch_size=pair(cfg, "patch_size"), image_size=pair(cfg, "image_size"), **traits)
    if not all(made.grid):
        raise cfg.fail("image_size", "%(value)s is smaller than a patch.", value=list(made.image_size))
    return made


def channels(cfg: Config) -> int:
    """Return the colours of an image."""
    found = cfg.integer("num_channels", None) or cfg.integer("in_channels", None) or cfg.integer("in_chans", None)
    return int(found or 3)


def patches(cfg: Config, name: str, width: int, *, bias: bool = True, frames: int | None = None) -> Tensors:
    """Return the convolution that turns patches, of several frames where there are, into vectors."""
    kernel = pair(cfg, "patch_size")
    return parts.conv(name, width, channels(cfg), *((frames,) if frames else ()), *kernel, bias=bias)


def flat_patches(cfg: Config, name: str, width: int, *, bias: bool = True, frames: int = 1) -> Tensors:
    """Return the linear layer that does the same to patches laid out as vectors."""
    down, right = pair(cfg, "patch_size")
    return parts.linear(name, width, channels(cfg) * frames * down * right, bias=bias)


def encoder_attention(cfg: Config, **traits: Any) -> Attention:
    """Return attention that keeps nothing, of the config's heads."""
    own: dict[str, Any] = {"hidden_size": cfg.hidden_size, "num_heads": cfg.num_heads, "bias": True, "scope": "encoder"}
    own.update(traits)
    if not own.get("head_dim") and own["hidden_size"] % own["num_heads"]:
        raise cfg.fail(
            "hidden_size",
            "%(value)s is not a multiple of the %(heads)s attention heads.",
            value=own["hidden_size"],
            heads=own["num_heads"],
        )
    return parts.attention(**own)


def encoder_layer(
    cfg: Config,
    *,
    hidden: int | None = None,
    norms: Sequence[str] = ("layer_norm1", "layer_norm2"),
    norm_bias: bool = True,
    attention: Mapping[str, Any] | None = None,
    mlp: Mapping[str, Any] | None = None,
    extra: Tensors = (),
) -> Layer:
    """Return one layer; `attention` and `mlp` hold the arguments of the parts that differ from CLIP's."""
    width = hidden or cfg.hidden_size
    feed: dict[str, Any] = {
        "gated": False,
        "bias": True,
        "up": "fc1",
        "down": "fc2",
        "hidden_size": width,
        **(mlp or {}),
    }
    if "intermediate_size" not in feed:
        feed["intermediate_size"] = cfg.integer("intermediate_size")
    feed_forward: FeedForward = parts.mlp(**feed)
    own_norms = tuple(tensor for name in norms for tensor in parts.norm(name, width, bias=norm_bias))
    own_attention = encoder_attention(cfg, **{"hidden_size": width, "o": "out_proj", **(attention or {})})
    return Layer((own_attention, feed_forward), (*own_norms, *extra))


def tower_of(
    cfg: Config,
    prefix: str,
    layers: Layer | tuple[Layer, ...],
    *,
    tensors: Tensors,
    image: ImageInput | None = None,
    hidden: int | None = None,
    count: int | None = None,
    layers_name: str = "encoder.layers",
    name: str = "vision tower",
) -> Component:
    """Return a vision tower of given layers; one layer stands for `count` equal ones."""
    return Component(
        kind="vision",
        name=name,
        hidden_size=hidden or cfg.hidden_size,
        layers=(layers,) * (cfg.num_layers if count is None else count) if isinstance(layers, Layer) else layers,
        tensors=tensors,
        prefix=prefix,
        layers_prefix=joined(prefix, layers_name),
        image=image,
    )


def attention_pooling(cfg: Config, name: str, hidden: int) -> Tensors:
    """Return SigLIP's pooling: one learned query that looks at all patches, and a perceptron."""
    return (
        *parts.parameter(f"{name}.probe", 1, 1, hidden),
        *parts.parameter(f"{name}.attention.in_proj_weight", 3 * hidden, hidden, role="attention", slot="qkv"),
        *parts.parameter(f"{name}.attention.in_proj_bias", 3 * hidden, role="attention", slot="qkv"),
        *parts.linear(f"{name}.attention.out_proj", hidden, hidden, bias=True, role="attention", slot="o"),
        *parts.norm(f"{name}.layernorm", hidden, bias=True),
        *plain_mlp(f"{name}.mlp", hidden, cfg.integer("intermediate_size"), up="fc1", down="fc2"),
    )


def plain_mlp(
    name: str,
    inputs: int,
    inner: int,
    outputs: int | None = None,
    *,
    up: str,
    down: str,
    bias: bool = True,
    role: Any = "mlp",
) -> Tensors:
    """Return two linear layers as tensors, where they are no part of a layer: a projector, a pooling head."""
    return (
        *parts.linear(joined(name, up), inner, inputs, bias=bias, role=role),
        *parts.linear(joined(name, down), outputs or inputs, inner, bias=bias, role=role),
    )


__all__ = [
    "attention_pooling", "channels", "encoder_attention", "encoder_layer", "first", "fixed_grid", "flat_patches", "grid",
    "inverse", "listed_sizes", "pair", "patches", "plain_mlp", "tower_of",
]  # fmt: skip
