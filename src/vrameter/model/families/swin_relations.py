"""Swin's relations under BERT's names: Donut's tower and Swin V2.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] G. Kim et al., "OCR-free Document Understanding Transformer" (Donut), 2021, arXiv:2111.15664.
.. [2] Z. Liu et al., "Swin Transformer V2", 2021, arXiv:2111.09883.
"""

from __future__ import annotations

from collections.abc import Callable

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Part, Tensors
from vrameter.model.config import Config
from vrameter.model.families.registry import tower
from vrameter.model.families.vision_parts import fixed_grid, grid, listed_sizes, pair, patches, tower_of
from vrameter.model.families.vit import image_heads

# Width of the small perceptron that makes Swin V2's position biases. [transformers 5.23 modeling_swinv2]
BIAS_WIDTH = 512


def windowed(cfg: Config, prefix: str, places: Callable[[str, int], Tensors], *, newer: bool, final: bool) -> Component:
    """Return Swin's stages; `places` gives the position biases of one attention from its name and heads."""
    first_width, ratio, bias = cfg.integer("embed_dim"), cfg.number("mlp_ratio", 4.0), cfg.flag("qkv_bias", True)
    depths = cfg.integers("depths", least=1)
    heads = listed_sizes(cfg, "num_heads", len(depths))
    layers: list[Layer] = []
    width = first_width
    for number, depth in enumerate(depths):
        width = first_width * 2 ** min(number, 16)
        if width % heads[number]:
            raise cfg.fail("num_heads", "%(value)s does not divide %(whole)s.", value=heads[number], whole=width)
        members: list[Part] = []
        tensors: Tensors = ()
        for index in range(depth):
            name = f"blocks.{index}"
            members.append(
                parts.attention(
                    hidden_size=width, num_heads=heads[number], name=f"{name}.attention", q="self.query", k="self.key",
                    v="self.value", o="output.dense", bias=bias, k_bias=bias and not newer, o_bias=True, scope="encoder",
                    extra=places(f"{name}.attention.self", heads[number]),
                )
            )  # fmt: skip
            members.append(
                parts.mlp(
                    hidden_size=width, intermediate_size=int(ratio * width), gated=False, bias=True, name=name,
                    up="intermediate.dense", down="output.dense",
                )
            )  # fmt: skip
            tensors += parts.norm(f"{name}.layernorm_before", width, bias=True)
            tensors += parts.norm(f"{name}.layernorm_after", width, bias=True)
        if number < len(depths) - 1:
            tensors += parts.linear("downsample.reduction", 2 * width, 4 * width)
            tensors += parts.norm("downsample.norm", (2 if newer else 4) * width, bias=True)
        layers.append(Layer(tuple(members), tensors))
    table = parts.parameter(
        "embeddings.position_embeddings", 1, grid(cfg), first_width, role="embedding", slot="position"
    )
    around = (
        *patches(cfg, "embeddings.patch_embeddings.projection", first_width),
        *parts.norm("embeddings.norm", first_width, bias=True),
        *(table if cfg.flag("use_absolute_embeddings", False) else ()),
        *(parts.norm("layernorm", width, bias=True) if final else ()),
    )
    return tower_of(
        cfg, prefix, tuple(layers), tensors=around, hidden=width, layers_name="encoder.layers", image=fixed_grid(cfg)
    )


@tower("donut-swin", base="donut", heads=image_heads())
def donut_swin(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """Donut's tower [1]_: Swin without a last norm."""
    window = pair(cfg, "window_size")
    reach, area = (2 * window[0] - 1) * (2 * window[1] - 1), window[0] * window[1]

    def places(name: str, heads: int) -> Tensors:
        return (
            *parts.parameter(f"{name}.relative_position_bias_table", reach, heads, role="attention", slot="position"),
            *parts.buffer(f"{name}.relative_position_index", area, area, role="attention"),
        )

    return windowed(cfg, prefix, places, newer=False, final=False)


@tower("swinv2", base="swinv2", heads=image_heads())
def swinv2(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """Swin V2 [2]_: scores of unit length, biases from a small perceptron on distances."""

    def places(name: str, heads: int) -> Tensors:
        return (
            *parts.parameter(f"{name}.logit_scale", heads, 1, 1, role="attention"),
            *parts.linear(f"{name}.continuous_position_bias_mlp.0", BIAS_WIDTH, 2, bias=True, role="attention"),
            *parts.linear(f"{name}.continuous_position_bias_mlp.2", heads, BIAS_WIDTH, role="attention"),
        )

    return windowed(cfg, prefix, places, newer=True, final=True)
