"""Language models that see: a vision tower, what brings its output to the decoder's width, and a decoder.

Most are one call of `vision_language`: which nested config is read under which name, and the projector. The head
belongs to the whole, and whether it is tied stands in the whole's config.

References
----------
.. [1] H. Liu et al., "Visual Instruction Tuning", 2023, arXiv:2304.08485 (tower, projector, decoder).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.registry import Built, Components, entry, num_labels, read_part
from vrameter.model.image_input import ImageInput

Projector = Callable[[Config, Component, Component], Tensors]
Imaging = Callable[[Config, Component], ImageInput]


def is_headless(class_name: str) -> bool:
    """Say whether a class is a body without a head."""
    return class_name.endswith("Model")


def text_config(cfg: Config, name: str = "text_config", model_type: str = "") -> Config:
    """Return the decoder's config; a file from before there were nested ones holds its fields beside the others."""
    if name not in cfg.values and any(field in cfg.values for field in ("hidden_size", "num_hidden_layers")):
        return cfg.as_type(str(cfg.facts.nested.get(name, {}).get("model_type") or model_type))
    return nested_as(cfg, name, model_type, kind="decoder")


def nested_as(cfg: Config, name: str, model_type: str = "", *, kind: Literal["decoder", "tower"] = "tower") -> Config:
    """Return a nested config as its own kind.

    A class with a tower or decoder of its own name takes no other, whatever a file calls it; and older files call a
    part by the name of the whole.
    """
    own = cfg.nested(name, model_type)
    assumed = str(cfg.facts.nested.get(name, {}).get("model_type") or model_type)
    found = entry(own.model_type)
    fixed = assumed.startswith(cfg.model_type) or found is None or found.kind != kind
    return own.as_type(assumed) if fixed and entry(assumed) is not None else own


def tied(cfg: Config, text: Config, *, text_says: bool = False) -> bool:
    """Say whether the head is the token table: as the whole says; with `text_says`, also as its decoder's config does."""
    return bool(cfg.flag("tie_word_embeddings", False) or (text_says and text.flag("tie_word_embeddings", False)))


def head_of(body: Component, *, is_tied: bool, name: str = "lm_head", vocab_size: int | None = None) -> Built:
    """Return the language-model head of a whole as components and tied names."""
    matrix = parts.lm_head(vocab_size or body.vocab_size, body.hidden_size, name=name)
    if is_tied:
        return Built((), tied=(f"{name}.weight",))
    return Built((Component(kind="head", name="head", hidden_size=body.hidden_size, tensors=matrix),))


def projector_of(body: Component, tensors: Tensors, prefix: str, *, name: str = "projector") -> Component:
    """Return what stands between tower and decoder."""
    return Component(kind="projector", name=name, hidden_size=body.hidden_size, tensors=tensors, prefix=prefix)


def text_alone(text: Config, class_name: str) -> Built | None:
    """Return the decoder with its own head, where a class reads no images; None where it does."""
    found = entry(text.model_type)
    if found is None or not class_name.endswith("ForCausalLM"):
        return None
    from vrameter.model.read import build

    return build(text, found, class_name)


def vision_language(
    cfg: Config,
    class_name: str,
    *,
    tower: str = "vision_tower",
    vision: str = "vision_config",
    vision_type: str = "",
    text: str = "language_model",
    text_name: str = "text_config",
    text_type: str = "",
    projector: Projector | None = None,
    projector_name: str = "multi_modal_projector",
    imaging: Imaging | None = None,
    others: Callable[[Config, str, Component], Sequence[Component]] | None = None,
    base: str = "model",
    head: str = "lm_head",
    is_tied: bool | None = None,
    text_ties: bool = False,
) -> Built:
    """Return a vision tower, a projector and a decoder with its head.

    Parameters
    ----------
    tower, text, projector_name
        Names of the modules.
    vision, text_name
        Names of the nested configs.
    vision_type, text_type
        What a nested config is where neither it nor the class says.
    projector
        Function ``(cfg, vision, decoder) -> tensors``.
    imaging
        Function ``(cfg, vision) -> ImageInput``: what the whole makes of an image, where the tower does not say it all.
    others
        Function ``(cfg, prefix, decoder) -> components`` for what stands besides.
    base, head
        Name of the body in a model with a head, and of the head.
    is_tied
        Whether the head is tied, where the config is not asked.
    text_ties
        Whether the decoder's config may say so too.
    """
    own_text = text_config(cfg, text_name, text_type)
    alone = text_alone(own_text, class_name)
    if alone is not None:
        return alone
    has_head = not is_headless(class_name)
    base = base if has_head else ""
    decoder, *further = read_part(own_text, joined(base, text))
    seen = read_part(nested_as(cfg, vision, vision_type), joined(base, tower))
    if imaging is not None:
        seen = (replace(seen[0], image=imaging(cfg, seen[0])), *seen[1:])
    components: Components = (decoder, *further, *seen)
    if projector is not None:
        components += (projector_of(decoder, projector(cfg, seen[0], decoder), joined(base, projector_name)),)
    if others is not None:
        components += tuple(others(cfg, base, decoder))
    if not has_head:
        return Built(components)
    if class_name.endswith("ForSequenceClassification"):
        matrix = parts.linear("score", num_labels(cfg), decoder.hidden_size, role="head")
        return Built(
            (*components, Component(kind="head", name="head", hidden_size=decoder.hidden_size, tensors=matrix))
        )
    if is_tied is None:
        is_tied = tied(cfg, own_text, text_says=text_ties)
    last = head_of(decoder, is_tied=is_tied, name=head)
    return Built((*components, *last.components), tied=last.tied)


def two_layers(
    cfg: Config, inputs: int, outputs: int, *, bias: bool = True, inner: int | None = None,
    first: str = "linear_1", second: str = "linear_2",
) -> Tensors:  # fmt: skip
    """Return LLaVA's projector [1]_."""
    width = inner or outputs
    return (
        *parts.linear(first, width, inputs, bias=bias, role="projector"),
        *parts.linear(second, outputs, width, bias=bias, role="projector"),
    )


__all__ = [
    "head_of", "is_headless", "nested_as", "projector_of", "text_alone", "text_config", "tied", "two_layers",
    "vision_language",
]  # fmt: skip
