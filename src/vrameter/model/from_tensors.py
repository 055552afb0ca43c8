"""Components read off the names of tensors, where nothing else describes them.

A weight file alone tells sizes; what its tensors are for shows in their names, well enough to sort bytes by component,
layer and role. What a cache or an activation takes does not show in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vrameter.model.architecture import Component, ComponentKind, Layer, Role, Tensor
from vrameter.model.packing import Parameter

_NUMBER = re.compile(r"(?:\A|\.)(\d+)\.")
_TOWERS: tuple[tuple[ComponentKind, re.Pattern[str]], ...] = (
    ("projector", re.compile(r"\A(?:model\.)?(?:\w+\.)?(?:multi_modal_projector|mm_projector|projector|connector|aligner|"
                             r"resampler|merger|vision_projection|image_newline|mlp1|embed_vision|embed_audio)\b")),
    ("vision", re.compile(r"\A(?:model\.)?(?:visual|vision_tower|vision_model|vision_backbone|vision_encoder|vision|vpm|"
                          r"image_encoder|img_processor|vit|sam_model)\b")),
    ("audio", re.compile(r"\A(?:model\.)?(?:audio_tower|audio_model|audio_encoder|speech_encoder|audio)\b")),
    ("mtp", re.compile(r"\A(?:model\.)?(?:mtp|mtp_layers|nextn)\b")),
)  # fmt: skip
_ROLES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("norm", re.compile(r"norm|(?:\A|[._])ln(?:[._]|\d|\Z)|layer_?scale|(?:\A|\.)ls\d|logit_scale")),
    ("head", re.compile(r"lm_head|(?:\A|\.)(?:output|score|classifier|head|embed_out)\.(?:weight|bias)\Z|qa_outputs")),
    ("shared_experts", re.compile(r"shared_?experts?")),
    ("router", re.compile(r"router|(?:mlp|moe|ffn|block_sparse_moe|feed_forward)\.gate\.(?:weight|bias|e_score)|gate\.wg")),
    ("experts", re.compile(r"experts?\b|switch_mlp")),
    ("cross_attention", re.compile(r"cross_?att|crossattention|encoder_attn|encdecattention|attn2\b")),
    ("mixer", re.compile(r"mamba|mixer|ssm|linear_attn|a_log\b|dt_(?:bias|proj)|conv1d|short_?conv|time_(?:mix|decay)")),
    ("attention", re.compile(r"att(?:n|ention)|(?:[qkvo]|qkv|out)_proj\b|query|key|value|c_attn|wqkv|\bw[qkvo]\b|to_[qkv]|qkv")),
    ("mlp", re.compile(r"mlp|ffn|ff\b|feed_?forward|fc\d?\b|(?:gate|up|down)(?:_up)?_proj|ff_|\bw[123]\b|intermediate|dense")),
    ("embedding", re.compile(r"embed|wte|wpe|pos_emb|token")),
    ("projector", re.compile(r"projector|merger|connector|aligner|resampler")),
    ("convolution", re.compile(r"conv")),
)  # fmt: skip
_MATRICES = frozenset(
    {"attention", "cross_attention", "mixer", "mlp", "experts", "shared_experts", "head", "projector"}
)


def role_of(name: str) -> Role:
    """Return what a tensor seems to be for.

    >>> role_of("model.layers.3.self_attn.q_proj.weight"), role_of("blk.weight"), role_of("h.0.ln_1.bias")
    ('attention', 'other', 'norm')
    """
    lowered = name.lower()
    return next((role for role, pattern in _ROLES if pattern.search(lowered)), "other")


def kind_of(name: str) -> ComponentKind:
    """Return the kind of component that a tensor seems to belong to; ``other`` for the model itself."""
    return next((kind for kind, pattern in _TOWERS if pattern.search(name)), "other")


def tensor_of(parameter: Parameter, name: str) -> Tensor:
    """Return a parameter as a tensor of an architecture, named below its layer or component."""
    role = role_of(parameter.name)
    matrix = len(parameter.shape) > 1 or bool(parameter.method)
    linear = matrix and role in _MATRICES and not name.endswith("bias")
    slot = "token" if role == "embedding" and len(parameter.shape) == 2 and "pos" not in name else ""
    buffer = parameter.dtype in ("i64", "i32", "bool") and not parameter.method
    return Tensor(name, parameter.shape, role, slot, linear, buffer)


def components_of(parameters: Iterable[Parameter], *, name: str = "model") -> tuple[Component, ...]:
    """Return the components that names of parameters show, each with its layers.

    Parameters
    ----------
    name
        What to call the component of what belongs to no tower.
    """
    groups: dict[ComponentKind, list[Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(kind_of(parameter.name), []).append(parameter)
    return tuple(_component(kind, name if kind == "other" else kind, group) for kind, group in groups.items())


def _component(kind: ComponentKind, name: str, group: Sequence[Parameter]) -> Component:
    prefix, layers = _layer_list(group)
    plain = [parameter for parameter in group if not prefix or not _below(parameter.name, prefix)]
    return Component(
        kind=kind,
        name=name,
        hidden_size=_width(group),
        layers=layers,
        tensors=tuple(tensor_of(parameter, parameter.name) for parameter in plain),
        layers_prefix=prefix or "layers",
        loaded=kind != "mtp",
    )


def _below(name: str, prefix: str) -> bool:
    rest = name[len(prefix) + 1 :]
    return name.startswith(f"{prefix}.") and rest.partition(".")[0].isdigit() and "." in rest


def _layer_list(group: Sequence[Parameter]) -> tuple[str, tuple[Layer, ...]]:
    """Return the longest numbered list among names, as layers, where its numbers are 0, 1, 2, ... without a gap."""
    lists: dict[str, dict[int, list[tuple[str, Parameter]]]] = {}
    for parameter in group:
        match = _NUMBER.search(parameter.name)
        if match and match.start() > 0 and len(match[1]) < 6:
            rest = parameter.name[match.end() :]
            lists.setdefault(parameter.name[: match.start()], {}).setdefault(int(match[1]), []).append(
                (rest, parameter)
            )
    whole = [prefix for prefix, layers in lists.items() if len(layers) > 1 and max(layers) == len(layers) - 1]
    if not whole:
        return "", ()
    prefix = max(whole, key=lambda each: (len(lists[each]), each))
    made: dict[tuple[Tensor, ...], Layer] = {}
    layers = []
    for _, held in sorted(lists[prefix].items()):
        tensors = tuple(tensor_of(parameter, rest) for rest, parameter in held)
        layers.append(made.setdefault(tensors, Layer((), tensors)))
    return prefix, tuple(layers)


def _width(group: Sequence[Parameter]) -> int:
    """Return the commonest length of vectors, which are norms for the most part."""
    counts: dict[int, int] = {}
    for parameter in group:
        if len(parameter.shape) == 1 and not parameter.method:
            counts[parameter.shape[0]] = counts.get(parameter.shape[0], 0) + 1
    return max(counts, key=lambda size: counts[size]) if counts else 0


__all__ = ["components_of", "kind_of", "role_of", "tensor_of"]
