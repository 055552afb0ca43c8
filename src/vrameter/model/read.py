"""config.json -> Architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vrameter.errors import ConfigError, closest
from vrameter.i18n import tr
from vrameter.model import parts
from vrameter.model.architecture import Architecture, Component, Tensors
from vrameter.model.config import Config, check_json, shown
from vrameter.model.families.index import MODULES
from vrameter.model.families.registry import Built, Entry, as_tuple, entry, num_labels
from vrameter.model.likeness import class_of, likely_type, type_of_class
from vrameter.model.read_wiring import wiring_of
from vrameter.model.rotary import rotary_axes, rotary_tables
from vrameter.model.vision import timm
from vrameter.model.vision.transformers import network_of

MAX_TENSORS = 2_000_000
# Decoders whose class that answers from a text keeps the body under ``transformer``. [transformers 5.23]
QUESTION_ANSWERERS = frozenset({
    "arcee", "diffllama", "exaone4", "llama", "ministral", "nemotron", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "seed_oss",
    "smollm3",
})  # fmt: skip
DTYPES = {
    "float32": "fp32", "float": "fp32", "fp32": "fp32", "float16": "fp16", "half": "fp16", "fp16": "fp16",
    "bfloat16": "bf16", "bf16": "bf16", "float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "float64": "fp64",
}  # fmt: skip


def read_config(values: Mapping[str, Any], *, name: str = "") -> Architecture:
    """Return the architecture that a config.json describes.

    Parameters
    ----------
    values
        The parsed object.
    name
        What to call the model; the config's own ``_name_or_path`` or class where it is empty.

    Raises
    ------
    ConfigError
        Naming the field that is missing, wrong or contradictory, or a kind of network not known here.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(
            tr("config: %(value)s is not an object.", value=shown(values)),
            field="config",
            hint=tr("Give the config.json of one model."),
        )
    check_json(values)
    cfg = Config(values)
    if not values:
        raise ConfigError(tr("config: is empty."), field="config", hint=tr("Give the config.json of one model."))
    if "_class_name" in values or "components" in values:
        from vrameter.model.diffusion.pipeline import is_pipeline, read_pipeline

        if is_pipeline(values):
            return read_pipeline(values, name=name)
    if timm.is_config(values):
        return timm.read_config(values, name=name)
    stated = values.get("model_type")
    if stated is not None and not isinstance(stated, str):
        raise cfg.fail("model_type", "%(value)s is not a text.", value=shown(stated))
    found = entry(cfg.model_type)
    if found is not None and found.kind != "model" and isinstance(values.get("vision_config"), Mapping):
        cfg = _as_whole(cfg)  # a file that calls a whole model by the name of its decoder
        found = entry(cfg.model_type)
    if found is None:
        cfg = _as_known(cfg)
        found = entry(cfg.model_type)
        assert found is not None
    class_name = _class_name(values, found)
    built = build(cfg, found, class_name)
    decoder = next((component for component in built.components if component.kind == "decoder"), None)
    return Architecture(
        name=name or str(values.get("_name_or_path") or (class_name if class_name != found.task else cfg.model_type)),
        model_type=cfg.model_type,
        class_name=class_name,
        components=tuple(
            _activated(cfg, component) for component in built.components if component.layers or component.tensors
        ),
        tied=built.tied,
        dtype=_dtype(values),
        quantization_config=_quantization(values),
        stored_extra=built.stored_extra,
        notes=tuple(dict.fromkeys(cfg.notes)),
        rotary_tables=rotary_tables(values, decoder) if decoder is not None else (),
        rotary_axes=rotary_axes(values, cfg.model_type),
        wiring=wiring_of(values),
        network=network_of(cfg, class_name, built.components),
    )


ACTIVATIONS = (
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "mlp_hidden_act",
    "feed_forward_proj",
    "dense_act_fn",
    "activation",
)
LEVELS = {"vision": "vision_config", "audio": "audio_config", "decoder": "text_config", "encoder": "text_config"}


def _activated(cfg: Config, component: Component) -> Component:
    """Return a component with the name of its activation, where its level of the config says one."""
    if not component.layers:
        return component
    level = LEVELS.get(component.kind, "")
    own = cfg.nested(level) if level and cfg.has_nested(level) else cfg
    name = next((value for value in map(own.get, ACTIVATIONS) if isinstance(value, str)), "")
    return replace(component, activation=name) if name else component


def build(cfg: Config, found: Entry, class_name: str) -> Built:
    """Return the components of a model: its body and the head that its class puts on it."""
    if found.kind == "model":
        return found.read(cfg, class_name)  # type: ignore[no-any-return]
    if found.heads is not None:
        special = found.heads(cfg, class_name)
        if special is not None:
            return special
    has_head = not class_name.endswith("Model") or class_name.endswith("LMHeadModel")
    if found.kind == "tower" and "For" not in class_name:  # such as HunYuanVLVisionTransformer
        has_head = class_name.endswith("LMHeadModel")
    base = found.base if has_head else ""
    if cfg.model_type in QUESTION_ANSWERERS and class_name.endswith("ForQuestionAnswering"):
        base = "transformer"
    body = as_tuple(found.read(cfg, base))
    if not has_head:
        return Built(body)
    return with_head(cfg, body, class_name)


def with_head(
    cfg: Config, body: tuple[Component, ...], class_name: str, *, name: str = "lm_head", bias: bool = False
) -> Built:
    """Return a body with the head that its class puts on it."""
    hidden, vocab = body[0].hidden_size, body[0].vocab_size
    if class_name.endswith(("ForSequenceClassification", "ForRewardModel", "ForTextClassification")):
        return Built((*body, _head(parts.linear("score", num_labels(cfg), hidden, role="head"), hidden)))
    if class_name.endswith("ForTokenClassification"):
        return Built((*body, _head(parts.linear("score", num_labels(cfg), hidden, bias=True, role="head"), hidden)))
    if class_name.endswith("ForQuestionAnswering"):
        return Built((*body, _head(parts.linear("qa_outputs", 2, hidden, bias=True, role="head"), hidden)))
    if not vocab:
        return Built(body)
    tensors = parts.lm_head(vocab, hidden, name=name, bias=bias)
    if cfg.tied:
        return Built((*body, _head(tensors[1:], hidden)), tied=(f"{name}.weight",))
    return Built((*body, _head(tensors, hidden)))


def _head(tensors: Tensors, hidden: int) -> Component:
    return Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)


def _class_name(values: Mapping[str, Any], found: Entry) -> str:
    classes = values.get("architectures")
    if isinstance(classes, (list, tuple)) and classes and isinstance(classes[0], str):
        name: str = classes[0]
        if not name.startswith("Auto"):
            return name
        return name.replace("AutoModelFor", "For") if name.startswith("AutoModelFor") else found.task
    return found.task


def _quantization(values: Mapping[str, Any]) -> dict[str, object] | None:
    """Return the config's quantisation; DeepSeek-V4 states the format of its experts beside it."""
    found = values.get("quantization_config") or values.get("quantization")
    if found is None and isinstance(values.get("text_config"), Mapping):
        found = values["text_config"].get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    experts = values.get("expert_dtype")
    return {**found, "expert_dtype": experts} if isinstance(experts, str) else dict(found)


def _dtype(values: Mapping[str, Any]) -> str | None:
    for level in (values, values.get("text_config"), values.get("llm_config")):
        if isinstance(level, Mapping):
            stated = level.get("dtype") or level.get("torch_dtype")
            if isinstance(stated, str):
                return DTYPES.get(stated.removeprefix("torch."))
    return None


def _as_whole(cfg: Config) -> Config:
    """Return a config read as the whole model that its class is named after, where there is one."""
    named = type_of_class(class_of(cfg))
    found = entry(named) if named else None
    return cfg.as_type(named) if named and found is not None and found.kind == "model" else cfg


def _as_known(cfg: Config) -> Config:
    """Return a config of an unknown `model_type` read as the known one that it looks like."""
    likely = likely_type(cfg)
    if likely is None:
        near = closest(cfg.model_type, MODULES) if cfg.model_type else []
        raise ConfigError(
            tr("config.model_type: '%(value)s' is not a kind of network known here, and its fields look like none that is.",
               value=cfg.model_type or ""),
            field="config.model_type",
            hint=tr("Did you mean %(names)s?", names=", ".join(near)) if near
            else tr("List the kinds with: vrameter models --types"),
        )  # fmt: skip
    read = cfg.as_type(likely)
    if cfg.model_type:
        read.warn(
            "model_type '%(given)s' is not known; its fields are read as '%(read)s'.", given=cfg.model_type, read=likely
        )
    else:
        read.warn("The config has no model_type; its fields are read as '%(read)s'.", read=likely)
    return read
