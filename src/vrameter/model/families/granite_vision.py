"""IBM's Granite models that see: learned queries over windows, or neighbouring patches read together on two paths.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] Granite Vision Team, "Granite Vision", 2025, arXiv:2502.09927.
"""

from __future__ import annotations

from dataclasses import replace
from re import fullmatch

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.clip import siglip_vision_model
from vrameter.model.families.llama import dense_decoder, full_scopes, rounded_heads
from vrameter.model.families.multimodal import two_layers, vision_language
from vrameter.model.families.registry import Built, decoder, model, read_part, tower


@decoder("granite4_vision_text", "granite_docling_text")
def granite_text(cfg: Config, prefix: str) -> Component:
    """Granite's decoder, which takes features of the image before several layers."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, scopes=full_scopes(cfg))


def rate(cfg: Config) -> tuple[int, int]:
    """Return the edges of the queries and of the window of patches that they read: ``4/8``."""
    found = fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", cfg.text("downsample_rate", "4/8"))
    if found is None:
        raise cfg.fail(
            "downsample_rate", "%(value)s is not two numbers with a slash between.", value=cfg.get("downsample_rate")
        )
    return int(found[1]), int(found[2])


@model("granite4_vision")
def granite4_vision(cfg: Config, class_name: str) -> Built:
    """Granite 4 Vision: a Q-Former for each layer that is taken from the tower, and four for shifted windows."""
    edge, window = rate(cfg)
    taken = len(cfg.sequence("deepstack_layer_map") or ())
    if not taken:
        raise cfg.fail("deepstack_layer_map", "is missing; a %(kind)s config needs it.", kind=cfg.model_type)
    hidden = cfg.nested("vision_config").hidden_size

    def reader(base: str, body: Component) -> tuple[Component, ...]:
        own = read_part(cfg.nested("qformer_config"), joined(base, "qformer"))
        tensors = (
            *parts.parameter("query", 1, edge**2, hidden, role="projector"),
            *parts.parameter("image_positions", 1, window**2, hidden, role="projector"),
            *parts.norm("norm", hidden, bias=True),
            *parts.linear("out_linear", body.hidden_size, hidden, bias=True, role="projector"),
        )
        return (*own, Component(kind="projector", name="projector", hidden_size=hidden, tensors=tensors, prefix=base))

    def readers(own: Config, base: str, body: Component) -> tuple[Component, ...]:
        names = [f"layerwise_projectors.{index}" for index in range(taken)]
        names += [f"spatial_projectors.{index}" for index in range(4)]
        mark = parts.parameter("image_newline", body.hidden_size)
        return (
            *(component for name in names for component in reader(joined(base, name), body)),
            Component(kind="projector", name="marks", hidden_size=body.hidden_size, tensors=mark, prefix=base),
        )

    return vision_language(cfg, class_name, others=readers)


@tower("granite_docling_vision")
def granite_docling_vision(cfg: Config, prefix: str) -> Component:
    """Granite Docling's tower: SigLIP and a connector with a coarse and a fine path."""
    hidden, outputs = cfg.hidden_size, cfg.integer("out_hidden_size")
    body = siglip_vision_model(cfg.over(vision_use_head=False), prefix)
    factor = cfg.integer("scale_factor")
    mergers = len(cfg.integers("deepstack_visual_indexes", [3, 7, 10]))

    def path(name: str, scale: int) -> Tensors:
        wide = hidden * scale**2
        merger = (
            *parts.norm("layer_norm", wide, bias=True),
            *two_layers(cfg, wide, outputs),
        )
        return (
            *parts.linear(f"{name}.projection", outputs, wide, role="projector"),
            *(
                tensor
                for index in range(mergers)
                for tensor in parts.below(f"{name}.deepstack_mergers.{index}", merger)
            ),
        )

    connector = (
        *parts.norm("ln_in", hidden, bias=True),
        *path("coarse", factor),
        *(path("fine", factor // 2) if cfg.flag("use_fine_route", True) else ()),
        *parts.norm("ln_mid", outputs, bias=True),
        *parts.linear("mlp_fc2", outputs, outputs, role="projector"),
        *parts.norm("ln_out", outputs, bias=True),
    )
    assert body.image is not None
    tensors = (*body.tensors, *parts.below("connector", connector))
    return replace(body, tensors=tensors, image=body.image.bounded(merge=factor))


@model("granite_docling")
def granite_docling(cfg: Config, class_name: str) -> Built:
    """Granite Docling: a tower that brings tiles to the decoder's width itself, and on request a router between paths."""
    width = cfg.integer("density_router_hidden_size", None)
    hidden = cfg.nested("vision_config").hidden_size

    def router(own: Config, base: str, body: Component) -> tuple[Component, ...]:
        if not width:
            return ()
        tensors = (
            *parts.linear("att", 1, hidden, bias=True, role="router"),
            *parts.norm("norm", hidden, bias=True),
            *parts.linear("fc1", width, hidden, bias=True, role="router"),
            *parts.linear("fc2", 1, width, bias=True, role="router"),
        )
        name = joined(base, "density_router")
        return (Component(kind="projector", name="router", hidden_size=hidden, tensors=tensors, prefix=name),)

    return vision_language(cfg, class_name, tower="vision_model", text="text_model", others=router)
