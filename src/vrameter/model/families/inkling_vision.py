"""Models that see and hear through towers of their own: Inkling and dots.note.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] H. Touvron et al., "Three things everyone should know about Vision Transformers", 2022, arXiv:2203.09795
       (patches made in several steps of linear layers).
"""

from __future__ import annotations

from math import ceil, isqrt, log, prod

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.mixture import layer_changes, listed
from vrameter.model.families.multimodal import vision_language
from vrameter.model.families.qwen_vl import merged_grid
from vrameter.model.families.registry import Built, model, stack, tower
from vrameter.model.families.vision_parts import (
    channels,
    encoder_attention,
    encoder_layer,
    flat_patches,
    patches,
    plain_mlp,
    tower_of,
)
from vrameter.model.image_input import AreaBounded, ImageInput

Scale = tuple[int, int, int, int]


def prime_factors(number: int) -> list[int]:
    """Return the prime factors, the smallest first.

    >>> prime_factors(40)
    [2, 2, 2, 5]
    """
    found: list[int] = []
    divisor = 2
    while divisor <= isqrt(number):
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return [*found, number] if number > 1 else found


def scales_of(frames: int, edge: int, count: int, colours: int) -> list[Scale]:
    """Return what each of `count` steps makes of a patch: frames, rows and columns folded, and channels.

    The steps fold prime factors, the largest first, at sizes spread evenly on a logarithmic scale; where there are more
    steps than sizes, some keep the size.

    >>> scales_of(2, 4, 4, 3)
    [(1, 1, 1, 3), (1, 2, 2, 64), (1, 4, 4, 64), (2, 4, 4, 6144), (2, 4, 4, 6144)]
    """
    known: list[Scale] = [(1, 1, 1, colours)]
    size = 1
    for factor in reversed(prime_factors(edge)):
        size *= factor
        known.append((1, size, size, ceil(size * size * colours / 64) * 64))
    folded = 1
    for factor in reversed(prime_factors(frames)):
        folded *= factor
        known.append((folded, size, size, size * size * colours * folded * 64))
    end = log(edge * edge * frames * colours)
    costs = [[abs(end * step / count - log(prod(scale[:3]))) for scale in known] for step in range(count + 1)]
    if count >= len(known):
        chosen = [row.index(min(row)) for row in costs]
    else:
        chosen = _in_order(costs)
    chosen[0], chosen[-1] = 0, len(known) - 1
    return [known[index] for index in chosen]


def _in_order(costs: list[list[float]]) -> list[int]:
    """Return a different column for each row at the least total cost, columns rising with rows."""
    width = len(costs[0])
    best: list[tuple[float, list[int]]] = [(0.0, [])] * (width + 1)
    for row in costs:
        following: list[tuple[float, list[int]]] = [(float("inf"), [])]
        for column in range(width):
            total, path = best[column]
            following.append(min(following[-1], (total + row[column], [*path, column])))
        best = following
    return best[-1][1]


@tower("inkling_vision")
def inkling_vision(cfg: Config, prefix: str) -> Component:
    """Inkling's tower [1]_: linear layers that fold neighbouring pixels and frames until a patch is one vector."""
    count, outputs = cfg.layers(), cfg.integer("text_hidden_size")
    edge, frames = cfg.integer("patch_size", most=4096), cfg.integer("temporal_patch_size", most=4096)
    scales = scales_of(frames, edge, count, channels(cfg))
    tensors: Tensors = ()
    for index in range(count):
        before, after = scales[index], scales[index + 1]
        folded = prod(now // was for now, was in zip(after[:3], before[:3], strict=True))
        width = after[3] if index < count - 1 else outputs
        tensors += parts.linear(f"encoder_layers.{index}.projection", width, before[3] * folded, role="mlp")
        tensors += parts.norm(f"encoder_layers.{index}.layer_norm", width) if index < count - 1 else ()
    tensors += parts.norm("final_norm", outputs)
    # Bounds of an image's edge are the processor's: a patch is a token, the image is not scaled by default.
    image = AreaBounded(patch_size=(edge, edge), temporal_patch=frames, min_pixels=edge * edge, max_pixels=4096 * 4096)
    return tower_of(cfg, prefix, (), tensors=tensors, hidden=outputs, image=image)


@tower("inkling_audio")
def inkling_audio(cfg: Config, prefix: str) -> Component:
    """Inkling's audio: a table of the values of each mel bin, summed."""
    width = cfg.integer("text_hidden_size")
    rows = cfg.integer("n_mel_bins") * cfg.integer("mel_vocab_size")
    tensors = (
        *parts.embedding("embed_audio_tokens.embed_audio_tokens", rows, width),
        *parts.norm("norm", width),
    )
    return Component(kind="audio", name="audio table", hidden_size=width, tensors=tensors, prefix=prefix)


@tower("inkling2_vision")
def inkling2_vision(cfg: Config, prefix: str) -> Component:
    """Inkling 2's tower: a scale per channel after each part, and a merger."""
    hidden, bias = cfg.hidden_size, cfg.flag("projector_bias", False)
    inner = cfg.integer("intermediate_size", None) or int(hidden * cfg.number("mlp_ratio", 4.0))
    layer = encoder_layer(
        cfg,
        norms=("layernorm_before", "layernorm_after"),
        mlp={"intermediate_size": inner},
        extra=(*parts.parameter("lambda_1", hidden), *parts.parameter("lambda_2", hidden)),
    )
    merge, rows = cfg.integer("spatial_merge_size"), cfg.integer("posemb_grid_size")
    merger = plain_mlp(
        "merger", hidden * merge**2, cfg.integer("projection_hidden_dim"), cfg.integer("text_hidden_size"), up="linear_1",
        down="linear_2", bias=bias, role="projector",
    )  # fmt: skip
    tensors = (
        *parts.parameter("embeddings.class_embedding", hidden, role="embedding"),
        *parts.parameter("embeddings.cls_position_embedding", hidden, role="embedding", slot="position"),
        *flat_patches(cfg, "embeddings.patch_embedding", hidden, bias=False),
        *parts.embedding("embeddings.position_embedding", rows**2, hidden, slot="position"),
        *parts.norm("pre_layernorm", hidden, bias=True),
        *merger,
    )
    edge = cfg.integer("patch_size")
    image = ImageInput(patch_size=(edge, edge), image_size=(edge * rows, edge * rows), merge=merge, extra_patches=1)
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="layers", image=image)


@model("inkling2")
def inkling2(cfg: Config, class_name: str) -> Built:
    """Inkling 2: the tower brings images to the decoder's width itself."""
    return vision_language(cfg, class_name, is_tied=False)


@model("inkling_mm_model")
def inkling(cfg: Config, class_name: str) -> Built:
    """Inkling: patches and sounds become vectors without attention."""
    later = cfg.get("mtp_config")
    if isinstance(later, dict) and isinstance(cfg.values.get("text_config"), dict):
        names = {
            "num_nextn_predict_layers": "num_mtp_layers", "chain_hidden_post_norm": "chain_hidden_post_norm",
            "local_layer_ids": "mtp_local_layer_ids",
        }  # fmt: skip
        moved = {own: later[name] for name, own in names.items() if later.get(name) is not None}
        cfg = cfg.over(text_config={**moved, **cfg.values["text_config"]})

    def sound(own: Config, base: str, body: Component) -> tuple[Component, ...]:
        return (inkling_audio(own.nested("audio_config", "inkling_audio"), joined(base, "audio_tower")),)

    return vision_language(cfg, class_name, others=sound, is_tied=False)


# -- dots.note -----------------------------------------------------------------------------------------


@tower("dots3_note_vision_encoder")
def dots3_note_vision(cfg: Config, prefix: str) -> Component:
    """dots.note's tower: its last layers have experts, more and more of them."""
    count = cfg.num_layers
    hidden = cfg.integer("embed_dim", None) or cfg.hidden_size
    heads, bias = cfg.num_heads, cfg.flag("attention_bias", False)
    kinds, changes = listed(cfg, "mlp_layer_types", count), layer_changes(cfg, count)
    routed = listed(cfg, "pyramid_num_routed", count)
    if routed is None and kinds is None:
        routed = [-1] * 25 + list(range(4, 65, 4)) + [64]
        if len(routed) < count:
            raise cfg.fail("mlp_layer_types", "is missing; a %(kind)s config needs it.", kind=cfg.model_type)
    if routed is None:
        own = [change.get("num_local_experts", cfg.integer("num_local_experts")) for change in changes or [{}] * count]
        routed = [number if kind == "sparse" else 0 for number, kind in zip(own, kinds or (), strict=True)]
    for number in routed:
        if isinstance(number, bool) or not isinstance(number, int):
            raise cfg.fail("pyramid_num_routed", "%(value)s is not a list of whole numbers.", value=routed)
    chosen = cfg.integer("num_experts_per_tok", None) or cfg.integer("capacity_factor", 2)

    def build(number: int) -> Layer:
        attention = encoder_attention(
            cfg, hidden_size=hidden, num_heads=heads, name="attn", qkv="qkv", o="proj", bias=bias,
            qk_norm=hidden // heads,
        )  # fmt: skip
        feed: FeedForward
        if number > 0:
            feed = parts.experts(
                hidden_size=hidden, intermediate_size=cfg.integer("moe_intermediate_size"), num_experts=number,
                num_experts_per_token=chosen, balance_bias="e_score_correction_bias",
            )  # fmt: skip
        else:
            feed = parts.mlp(
                hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), bias=cfg.flag("mlp_bias", False)
            )
        return Layer((attention, feed), (*parts.norm("norm1", hidden), *parts.norm("norm2", hidden)))

    wide = hidden * cfg.integer("adapter_merge_size", 2) ** 2
    tensors = (
        *patches(cfg, "patch_embed.proj", hidden),
        *parts.norm("patch_embed.norm", hidden),
        *parts.norm("merger.ln_q", hidden, bias=True),
        *plain_mlp("merger.mlp", wide, wide, cfg.integer("adapter_out_dim"), up="0", down="2", role="projector"),
        *parts.norm("norm", hidden),
    )
    layers = stack(routed[:count], build)
    image = merged_grid(cfg)
    return tower_of(cfg, prefix, layers, tensors=tensors, hidden=hidden, layers_name="blocks", image=image)


@tower("dots3_note_audio_encoder")
def dots3_note_audio(cfg: Config, prefix: str) -> Component:
    """dots.note's audio tower: three convolutions over mel columns, Llama's layers with biases, an adapter."""
    hidden, narrow = cfg.hidden_size, cfg.integer("downsample_hidden_size")
    heads, inner, outputs = cfg.num_heads, cfg.integer("intermediate_size"), cfg.integer("adapter_out_dim")
    bins = narrow * ((cfg.integer("feature_size") + 7) // 8)
    attention = encoder_attention(cfg, bias=cfg.flag("attention_bias", True), k_bias=False, num_heads=heads)
    feed = parts.mlp(hidden_size=hidden, intermediate_size=inner, gate_up="gate_up_proj", bias=True)
    norms = ("input_layernorm", "post_attention_layernorm")
    layer = Layer((attention, feed), tuple(tensor for name in norms for tensor in parts.norm(name, hidden)))
    tensors = (
        *parts.conv("conv_stem.convs.0", narrow, 1, 3, 3),
        *parts.conv("conv_stem.convs.1", narrow, narrow, 3, 3),
        *parts.conv("conv_stem.convs.2", narrow, narrow, 3, 3),
        *parts.linear("conv_stem.conv_out", hidden, bins),
        *parts.norm("layer_norm", hidden),
        *parts.norm("adapter.norm", cfg.integer("adapter_input_size", hidden), bias=True),
        *plain_mlp(
            "adapter",
            cfg.integer("adapter_input_size", hidden),
            outputs,
            outputs,
            up="fc1",
            down="fc2",
            role="projector",
        ),
    )
    return Component(
        kind="audio",
        name="audio tower",
        hidden_size=hidden,
        layers=(layer,) * cfg.num_layers,
        tensors=tensors,
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
    )


@model("dots3_note")
def dots3_note(cfg: Config, class_name: str) -> Built:
    """dots.note: a decoder with towers for images and sound."""

    def sound(own: Config, base: str, body: Component) -> tuple[Component, ...]:
        audio = own.nested("audio_config", "dots3_note_audio_encoder")
        return (dots3_note_audio(audio, joined(base, "audio_tower")),)

    return vision_language(cfg, class_name, others=sound)


__all__ = ["prime_factors", "scales_of"]
