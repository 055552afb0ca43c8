"""Which known family a config of an unknown `model_type` looks like.

New models often are a known network under a new name. Two things give that away: the class that the config names, and
its fields, of which some are decisive: only a latent-attention model has `kv_lora_rank`, only a hybrid lists layers
without attention. The fields are asked first. A reading counts only where it accounts for every decisive field: a class
that merely shares the beginning of its name with a dense family is not read as one if its config speaks of experts,
states or towers. Where nothing fits, nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from vrameter.errors import VrameterError
from vrameter.model.architecture import Component, FeedForward, LatentAttention, Recurrent
from vrameter.model.config import Config
from vrameter.model.families.index import MODULES
from vrameter.model.families.registry import Built, as_tuple, entry

# What a config can say that changes the kind of network, by the fields that say it.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_SHARED = (
    "n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "shared_expert_intermediate_size",
    "shared_intermediate_size", "share_expert_dim", "moe_shared_expert_intermediate_size",
)  # fmt: skip
_DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
_DENSE_BETWEEN = ("decoder_sparse_step", "moe_layer_freq", "expert_layer_period", "moe_layer_interval")
_LATENT = ("kv_lora_rank",)
_STATES = (
    "mamba_d_state", "mamba_d_ssm", "ssm_state_size", "state_size", "ssm_cfg", "hybrid_override_pattern",
    "linear_key_head_dim", "linear_num_value_heads", "linear_attn_config", "linear_num_heads", "conv_L_cache",
    "conv1d_width", "lru_width", "mamba_num_heads", "mamba_n_heads", "rwkv_version", "head_size_divisor",
)  # fmt: skip
_TOWERS = (
    "vision_config",
    "audio_config",
    "text_config",
    "llm_config",
    "thinker_config",
    "vision_tower",
    "mm_vision_tower",
)
_TOWER_NAMES = re.compile(r"vision|visual|audio|speech|multi_modal|mm_projector")
_WITHOUT_ATTENTION = frozenset(
    {"linear_attention", "mamba", "mamba2", "recurrent", "conv", "hybrid", "moe", "mlp", "M", "rwkv"}
)
# Ends of a class name after what names the family.
_TASK = re.compile(r"(For[A-Z].*|LMHeadModel.*|DoubleHeads.*|WithLMHead.*|Model|Decoder)\Z")
# Words in a class name that make it another kind of network than the family whose name it begins with.
_OTHER_KINDS = re.compile(r"VL|Vision|Omni|Audio|Speech|Image|Video|OCR|Ocr|Linear|Hybrid|Mamba|Rwkv|RWKV|MLA")
# Families by fields alone, the most telling first: what the config must state beside the sizes that all have.
_BY_FIELDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("kv_lora_rank", "n_routed_experts"), "deepseek_v3"),
    (("linear_key_head_dim", "moe_intermediate_size"), "qwen3_next"),
    (("linear_key_head_dim", "intermediate_size"), "qwen3_5_text"),
    (("mamba_n_heads", "mamba_d_ssm"), "falcon_h1"),
    (("mamba_n_heads", "attn_layer_indices"), "bamba"),
    (("mamba_n_heads", "shared_intermediate_size"), "granitemoehybrid"),
    (("mamba_num_heads", "hybrid_override_pattern"), "nemotron_h"),
    (("mamba_d_state", "attn_layer_period"), "jamba"),
    (("conv_L_cache", "num_experts"), "lfm2_moe"),
    (("conv_L_cache",), "lfm2"),
    (("shared_expert_intermediate_size", "moe_intermediate_size"), "qwen2_moe"),
    (("n_shared_experts", "moe_intermediate_size"), "deepseek"),
    (("num_experts", "moe_intermediate_size"), "qwen3_moe"),
    (("num_local_experts", "intermediate_size"), "mixtral"),
    (("type_vocab_size", "intermediate_size"), "bert"),
    (("intermediate_size",), "llama"),
)
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def likely_type(cfg: Config) -> str | None:
    """Return the known `model_type` that a config's fields and class point to, or None.

    A config that names a known class but lacks a field of it is of that type: reading it tells which field.
    """
    said, incomplete = kinds_said(cfg), None
    for model_type, exact in class_types(cfg):
        read = kinds_read(cfg, model_type)
        if read is not None and "towers" in read - said and class_of(cfg).endswith("ForCausalLM"):
            continue
        if read is None and exact:
            incomplete = incomplete or model_type
        elif read is not None and said <= read and (exact or read == said):
            return model_type
    if incomplete is not None:
        return incomplete
    if not all(cfg.given(name) for name in _SIZES) or _OTHER_KINDS.search(class_of(cfg)):
        return None
    for fields, model_type in _BY_FIELDS:
        if not all(cfg.given(name) for name in fields) or (model_type == "bert" and cfg.given("num_key_value_heads")):
            continue
        if kinds_read(cfg, model_type) == said:
            return model_type
    return None


def kinds_said(cfg: Config) -> frozenset[str]:
    """Return what a config's own fields say of its network.

    ``experts``, and then ``shared`` where every token passes some and ``dense`` where some layers have none;
    ``latent``, ``states``, ``towers``.
    """
    found = set()
    values = cfg.values

    def above(least: int, names: tuple[str, ...]) -> bool:
        return any(isinstance(values.get(name), int) and values[name] > least for name in names)

    if above(1, _EXPERTS):
        found.add("experts")
        if above(0, _SHARED):
            found.add("shared")
        if above(0, _DENSE_FIRST) or above(1, _DENSE_BETWEEN) or values.get("mlp_only_layers"):
            found.add("dense")
    if any(values.get(name) for name in _LATENT):
        found.add("latent")
    if any(values.get(name) for name in _STATES) or _lists_other_layers(cfg):
        found.add("states")
    if any(values.get(name) for name in _TOWERS) or _skips_towers(cfg):
        found.add("towers")
    return frozenset(found)


def _skips_towers(cfg: Config) -> bool:
    """Say whether bitsandbytes left modules alone that bear a tower's name; other methods list what might be there."""
    from vrameter.model.configured import mapping, strings

    skipped = strings(mapping(cfg.values, "quantization_config"), "llm_int8_skip_modules")
    return any(_TOWER_NAMES.search(module) for module in skipped)


def _lists_other_layers(cfg: Config) -> bool:
    """Say whether a list of layers holds one without attention; MiniMax's is of ones and zeros."""
    ones = cfg.values.get("attn_type_list")
    if isinstance(ones, (list, tuple)) and 0 in ones:
        return True
    for name in ("layer_types", "layers_block_type", "block_types"):
        listed = cfg.values.get(name)
        if isinstance(listed, (list, tuple)) and any(
            isinstance(kind, str) and kind in _WITHOUT_ATTENTION for kind in listed
        ):
            return True
    return False


def kinds_read(cfg: Config, model_type: str) -> frozenset[str] | None:
    """Return what a config read as a known type turns out to have; None where that reader refuses it."""
    found = entry(model_type)
    assert found is not None
    values = {name: value for name, value in cfg.values.items() if name != "model_type"}
    own = Config(values, path=cfg.path, model_type=model_type)
    try:
        if found.kind == "model":
            built = found.read(own, class_of(cfg))
            components = built.components if isinstance(built, Built) else ()
        else:
            components = as_tuple(found.read(own, ""))
    except VrameterError:
        return None
    return kinds_of(components) | ({"towers"} if found.kind == "model" else frozenset())


def kinds_of(components: tuple[Component, ...]) -> frozenset[str]:
    """Return the kinds of a network's parts that a config has to say."""
    found, dense = set(), False
    for component in components:
        for layer, _ in component.layer_groups:
            for part in layer.parts:
                if isinstance(part, Recurrent):
                    found.add("states")
                elif isinstance(part, LatentAttention):
                    found.add("latent")
                elif isinstance(part, FeedForward) and part.num_experts > 1:
                    found |= {"experts", "shared"} if part.shared_size else {"experts"}
                elif isinstance(part, FeedForward):
                    dense = True
    return frozenset(found | {"dense"} if dense and "experts" in found else found)


def class_of(cfg: Config) -> str:
    """Return the class that a config names first; empty where it names none."""
    classes = cfg.values.get("architectures")
    if isinstance(classes, (list, tuple)) and classes and isinstance(classes[0], str):
        return classes[0]
    return ""


def class_types(cfg: Config) -> Iterator[tuple[str, bool]]:
    """Yield the known types that a config's class is named after, the longest name first, and whether it is the whole name.

    A name that goes on with a number (``Qwen3_5`` after ``Qwen3``) or with another modality or kind of layer is another
    network's.
    """
    name = _TASK.sub("", class_of(cfg))
    whole = _plain(name)
    for end in range(len(name), 1, -1):
        rest = name[end:].lstrip("_")
        if rest and (not rest[0].isupper() or _OTHER_KINDS.search(rest)):
            continue
        for model_type in _types_by_stem().get(_plain(name[:end]), ()):
            yield model_type, _plain(name[:end]) == whole


def type_of_class(class_name: str) -> str | None:
    """Return the known `model_type` that a class is named after, or None.

    >>> type_of_class("Mistral3ForConditionalGeneration")
    'mistral3'
    """
    return next(iter(_types_by_stem().get(_plain(_TASK.sub("", class_name)), ())), None)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]", "", name).lower()


@lru_cache(maxsize=1)
def _types_by_stem() -> dict[str, tuple[str, ...]]:
    """Return the known types by the name that their classes begin with; a text decoder bears its whole model's name."""
    stems: dict[str, list[str]] = {}
    for model_type in MODULES:
        stems.setdefault(_plain(model_type), []).insert(0, model_type)
        for ending in ("_text", "-text"):
            if model_type.endswith(ending):
                stems.setdefault(_plain(model_type.removesuffix(ending)), []).append(model_type)
    return {stem: tuple(types) for stem, types in stems.items()}


__all__ = ["class_of", "class_types", "kinds_of", "kinds_read", "kinds_said", "likely_type", "type_of_class"]
