"""How a row of catalog/models.jsonl becomes a config: corrections, shapes by name, quantisation by name, compaction."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from vrameter.model.config import class_facts

Config = dict[str, Any]

# Fields that change neither a tensor's shape, nor a cache, nor a data type.
JUNK = re.compile(
    r"dropout|_drop$|pdrop|token_id$|token_ids$|token_index$|initializer|^init_(std|range|method)|layerdrop|"
    r"_eps$|epsilon|^mask_|_loss|loss_|_coef$|transformers_version|use_cache|rope_theta|rotary_emb_base|"
    r"suppress_tokens|begin_suppress|forced_|task_specific|temperature|sampling_rate|pretraining_tp|"
    r"length_penalty|early_stopping|no_repeat|num_return|repetition|chunk_size_feed_forward|auto_map|"
    r"_name_or_path|tokenizer|gradient_checkpointing|scoring_func|topk_method|norm_topk_prob|routed_scaling|"
    r"softcap|logits_scaling|^swiglu|residual_multiplier|"
    r"^time_step|_placeholder$|^attn_implementation$|^_attn|^producer$|mm_tunable|"
    r"^output_(router|attentions|hidden)|return_dict|^problem_type$"
)
ROPE = frozenset({"type", "rope_type", "factor", "original_max_position_embeddings", "llama_4_scaling_beta"})
NEVER_QUANTISED = re.compile(r"(norm|layernorm|ln_\w+|e_score_correction_bias|\.bias|A_log|dt_bias)$")
# Positions that are rows of a table, or none: their number is not to be set from a listed context length.
FIXED_POSITIONS = frozenset({
    "albert", "bart", "bert", "bloom", "clip", "deberta-v2", "dia", "dinov2", "distilbert", "falcon_mamba", "fuyu",
    "gpt2", "gpt_bigcode", "gptj", "hubert", "jamba", "jina_embeddings_v3", "kosmos-2.5", "mamba", "mamba2",
    "modernbert", "mpnet", "mpt", "nomic_bert", "opt", "roberta", "t5", "vit", "vits", "voxtral", "wav2vec2-bert",
    "whisper", "xcodec2", "xlm-roberta", "zamba",
})  # fmt: skip
SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size",
    "kv_lora_rank", "q_lora_rank",
)  # fmt: skip
FORM = (
    r"fp8|fp4|awq|gptq|int[48]|[1-8]bits?|1\.58bit|mlx|gguf|nvfp4|mxfp[48]|bnb|nf4|unsloth|w\d+a\d+|bf16|auto-?round|"
    r"quantized|mtp|ov|onnx|128g|4b"
)
FORMS = re.compile(
    rf"([-._](?:{FORM}|dynamic|block|tensorwise|static|pertensor|modelopt|turbo|q8|xs|llmcompressor|prequantized))+$"
)
STATED = re.compile(rf"(?:^|[-._])(?:{FORM})(?=$|[-._])")


def text_level(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the level of a config that describes the decoder."""
    nested = config.get("text_config") or config.get("llm_config")
    return nested if isinstance(nested, Mapping) else config


def kind_of(config: Mapping[str, Any]) -> str:
    return str(config.get("model_type", ""))


def text_kind(config: Mapping[str, Any]) -> str:
    """Return the `model_type` of the decoder's level."""
    text = text_level(config)
    known = class_facts(kind_of(config)).nested.get("text_config", {})
    return str(text.get("model_type") or known.get("model_type") or kind_of(config))


def sizes(config: Mapping[str, Any]) -> str:
    """Return what two configs of the same sizes have in common."""
    text, facts = text_level(config), class_facts(text_kind(config))
    names = {**facts.aliases, **{own: name for name, own in facts.aliases.items()}}
    found = [text.get(name, text.get(names.get(name, name), facts.defaults.get(name))) for name in SIZES]
    tower = config.get("vision_config") or {}
    seen = (
        [tower.get(name) for name in ("hidden_size", "depth", "num_hidden_layers")]
        if isinstance(tower, Mapping)
        else []
    )
    return json.dumps([kind_of(config), *found, *seen])


def is_tied(config: Mapping[str, Any]) -> bool:
    """Say whether head and embedding share one matrix, as the class has it where the config is silent."""
    for level, kind in ((config, kind_of(config)), (text_level(config), text_kind(config))):
        if "tie_word_embeddings" in level:
            return bool(level["tie_word_embeddings"])
        if "tie_word_embeddings" in class_facts(kind).defaults:
            return bool(class_facts(kind).defaults["tie_word_embeddings"])
    return True


def is_headless(config: Mapping[str, Any]) -> bool:
    classes = config.get("architectures") or [""]
    return str(classes[0]).endswith("Model") and not str(classes[0]).endswith("LMHeadModel")


def stem(model: str) -> str:
    """Return a model's name without organisation and without what says how its weights are stored."""
    return FORMS.sub("", model.rpartition("/")[2].lower())


def matches(rule: Mapping[str, Any], model: str, config: Mapping[str, Any]) -> bool:
    """Say whether a correction speaks of a model."""
    kinds = rule.get("model_type")
    if kinds is not None and not {kind_of(config), text_kind(config)} & set(
        [kinds] if isinstance(kinds, str) else kinds
    ):
        return False
    if "models" in rule and not any(fnmatchcase(model.lower(), pattern.lower()) for pattern in rule["models"]):
        return False
    text = text_level(config)
    return all(text.get(name) in allowed for name, allowed in rule.get("config", {}).items())


def corrected(config: Config, model: str, rules: Iterable[Mapping[str, Any]]) -> tuple[Config, list[str]]:
    """Return a config with the fields that rules fill in, and the codes of their notes."""
    notes = []
    for rule in rules:
        if not matches(rule, model, config):
            continue
        filled = False
        for name, value in rule["set"].items():
            nested = name != "dtype" and text_level(config) is not config
            stated = {"dtype", "torch_dtype"} if name == "dtype" else {name}
            if stated & {*config, *text_level(config)} and not rule.get("replace"):
                continue
            filled = True
            if nested:
                outer = "text_config" if "text_config" in config else "llm_config"
                config = {**config, outer: {**config[outer], name: value}}
            else:
                config = {**config, name: value}
        if rule.get("note") and (filled or (not rule["set"] and "sliding_window" not in text_level(config))):
            notes.append(rule["note"])
    return config, notes


def quantization(model: str, listed: str | None, config: Mapping[str, Any]) -> tuple[Config, str]:
    """Return the fields that a repository's name says of its quantisation, and the code of the note about it.

    Parameters
    ----------
    listed
        The file format that the list gives: ``awq``, ``gptq``, ``autoround``, ``mlx``.
    """
    organisation, _, name = model.lower().partition("/")
    if re.search(r"unquantized|(^|[-._])bf16($|[-._])", name) and not re.search(r"w\d+a\d+", name):
        return {}, ""
    if "gguf" in name:
        return {}, "gguf-repository"
    if re.search(r"onnx|[-_]ov$|openvino|npu", f"{organisation}/{name}"):
        return {}, "quantization-not-recorded:ONNX/OpenVINO" if re.search(r"int\d|[-_]ov$|npu", name) else ""
    bits = _bits(name)

    def stated(method: str, **fields: Any) -> tuple[Config, str]:
        return {"quantization_config": {"quant_method": method, **fields}}, f"quantization-from-name:{method}"

    if "mlx" in model.lower() or listed == "mlx":
        if re.search(r"mxfp|fp8|nvfp", name) or bits not in (2, 3, 4, 5, 6, 8):
            return {}, "quantization-not-recorded:MLX" if re.search(r"\dbit|mxfp|nvfp|int\d", name) else ""
        return {"quantization": {"group_size": 64, "bits": bits}}, f"quantization-from-name:MLX {bits}-bit"
    if "nvfp4" in name:
        return stated("modelopt", quant_algo="NVFP4", ignore=["lm_head"])
    if "mxfp4" in name and kind_of(config) == "gpt_oss":
        return stated(
            "mxfp4",
            modules_to_not_convert=[
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        )
    if re.search(r"mxfp\d|1\.58bit|[123]bit|quark|fp4(?!.*bnb)", name) and "bnb" not in name:
        return {}, f"quantization-not-recorded:{re.search(r'mxfp.|1.58bit|.bit|quark|fp4', name)[0]}"  # type: ignore[index]
    if re.search(r"bnb|nf4|bitsandbytes", name):
        if bits == 8:
            return stated("bitsandbytes", load_in_8bit=True)
        return stated(
            "bitsandbytes",
            load_in_4bit=True,
            bnb_4bit_quant_type="fp4" if "fp4" in name else "nf4",
            bnb_4bit_use_double_quant=True,
        )
    if re.search(r"auto-?round", name) or listed == "autoround":
        return stated("auto-round", bits=bits or 4, group_size=128, sym=True)
    if "awq" in name or (listed == "awq" and "gptq" not in name):
        return stated("awq", bits=4, group_size=128, zero_point=True)
    if "gptq" in name or listed == "gptq":
        return stated("gptq", bits=bits or 4, group_size=128, sym=True, desc_act=False)
    if re.search(r"w4a16|int4|[-_]4bit", name):
        return _compressed("int", 4, "pack-quantized", group_size=128, strategy="group")
    if re.search(r"w8a8|int8|w8a16|smoothquant", name) and "fp8" not in name:
        return _compressed("int", 8, "int-quantized", strategy="channel")
    if re.search(r"fp8", name):
        if organisation in ("qwen", "deepseek-ai", "minimaxai", "stepfun-ai") or "fp8-block" in name:
            return stated("fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[128, 128])
        if organisation == "nvidia":
            return stated("modelopt", quant_algo="FP8", ignore=["lm_head"])
        return _compressed("float", 8, "float-quantized", strategy="channel")
    return {}, ""


def _bits(name: str) -> int | None:
    found = re.search(r"(?:int|q)(\d)\b|(\d)bits?\b|w(\d+)a", name)
    return int(next(group for group in found.groups() if group)) if found else None


def _compressed(kind: str, bits: int, form: str, **weights: Any) -> tuple[Config, str]:
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": kind, "symmetric": True, **weights}}
    fields = {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    return {"quantization_config": fields}, f"quantization-from-name:compressed-tensors {kind}{bits}"


def states_form(model: str) -> bool:
    """Say whether a name says how its weights are stored."""
    return bool(STATED.search(model.rpartition("/")[2].lower()))


def without_quantization(config: Config) -> Config:
    slim = {name: value for name, value in config.items() if name not in ("quantization_config", "quantization")}
    text = slim.get("text_config")
    if isinstance(text, dict) and "quantization_config" in text:
        slim["text_config"] = {name: value for name, value in text.items() if name != "quantization_config"}
    return slim


def compact(config: Mapping[str, Any], kind: str = "", *, keep_defaults: bool = False) -> Config:
    """Return a config without what cannot matter to memory and without what its class assumes anyway.

    null stays, because it overrules the class. Nested configs are compacted by their own classes and stay even where
    empty. `keep_defaults` drops only what cannot matter.
    """
    kind = kind_of(config) or kind
    facts = class_facts(kind)
    slim: Config = {}
    for name, value in config.items():
        if JUNK.search(name) or (name == "torch_dtype" and "dtype" in config):
            continue
        if name in ("quantization_config", "quantization") and isinstance(value, Mapping):
            slim[name] = _quantization_facts(value)
        elif name in ("rope_scaling", "rope_parameters") and isinstance(value, Mapping):
            slim[name] = {key: item for key, item in value.items() if key in ROPE and item is not None}
        elif isinstance(value, Mapping) and (name.endswith("_config") or name in facts.nested):
            slim[name] = compact(
                value, str(facts.nested.get(name, {}).get("model_type", "")), keep_defaults=keep_defaults
            )
        elif (
            not keep_defaults
            and name in facts.defaults
            and facts.defaults[name] == value
            and type(facts.defaults[name]) is type(value)
        ):
            continue
        else:
            slim[name] = value
    return slim


def _quantization_facts(config: Mapping[str, Any]) -> Config:
    """Return a quantisation's facts; of the modules left alone those that would not be left alone anyway."""
    slim: Config = {}
    for name, value in config.items():
        if name == "producer":
            continue
        if name in ("ignore", "modules_to_not_convert", "exclude_modules") and isinstance(value, list):
            slim[name] = sorted(item for item in value if not NEVER_QUANTISED.search(item.rstrip("*")))
        else:
            slim[name] = value
    return slim
