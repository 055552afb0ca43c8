"""What transformers itself builds, to hold the readers against: names and shapes on the meta device.

    python tests/transformers_oracle.py qwen3 llava             # default configuration of each class of these types
    python tests/transformers_oracle.py --random 20 qwen3       # and 20 randomly perturbed shapes
    python tests/transformers_oracle.py --all --quiet           # every type that transformers knows: a table of what differs

Needs torch and transformers; nothing else in the tests does.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from vrameter.errors import ConfigError
from vrameter.model.families.index import MODULES
from vrameter.model.read import read_config

MAPPINGS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_CTC_MAPPING_NAMES",
    "MODEL_FOR_RNNT_MAPPING_NAMES",
    "MODEL_FOR_TDT_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES",
    "MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING_NAMES",
    "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES",
    "MODEL_FOR_RETRIEVAL_MAPPING_NAMES",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)
PER_KIND = {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")}
# Fields that a class needs and does not assume.
NEEDED: dict[str, dict[str, Any]] = {
    "chameleon": {"vocabulary_map": {"<image>": 8711}},
    "cohere_compass": {"text_config": {"rope_parameters": PER_KIND}},
    "cohere_compass_text": {"rope_parameters": PER_KIND},
    "deepseek_ocr2": {
        "text_config": {
            "num_hidden_layers": 4,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "num_experts_per_tok": 6,
            "n_group": 1,
            "topk_group": 1,
        },
    },
    "diffusion_gemma": {"text_config": {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 704}},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "emu3": {"vocabulary_map": {"<image>": 151848}},
    "granite4_vision": {"downsample_rate": "4/8", "deepstack_layer_map": [[-2, 0], [-5, 3]]},
    "dots1": {"n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 8},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "hunyuan_vl_text": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 48},
    "encoder-decoder": {
        "encoder": {"model_type": "bert", "num_hidden_layers": 2},
        "decoder": {
            "model_type": "bert",
            "num_hidden_layers": 2,
            "hidden_size": 384,
            "is_decoder": True,
            "add_cross_attention": True,
        },
    },
    "speech-encoder-decoder": {
        "encoder": {"model_type": "wav2vec2"},
        "decoder": {"model_type": "mbart", "is_decoder": True, "add_cross_attention": True},
    },
    "vision-encoder-decoder": {
        "encoder": {"model_type": "vit"},
        "decoder": {
            "model_type": "trocr",
            "is_decoder": True,
            "add_cross_attention": True,
            "cross_attention_hidden_size": 768,
        },
    },
    "moonshine_streaming": {"num_key_value_heads": 8},
    "qwen3_omni_moe": {
        "talker_config": {"spatial_merge_size": 2, "text_config": {"shared_expert_intermediate_size": 768}},
    },
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
}
# Whole numbers that set shapes without having to divide one another in ways only the class knows.
SIZES = {
    "hidden_size", "n_embd", "d_model", "intermediate_size", "ffn_dim", "d_ff", "num_hidden_layers", "n_layer", "num_layers",
    "encoder_layers", "decoder_layers", "vocab_size", "moe_intermediate_size", "num_experts", "num_local_experts",
    "n_routed_experts", "shared_expert_intermediate_size", "shared_intermediate_size", "kv_lora_rank", "q_lora_rank",
    "head_dim", "max_position_embeddings", "encoder_ffn_dim", "decoder_ffn_dim", "depth", "mlp_dim", "n_shared_experts",
    "num_attention_heads", "num_key_value_heads", "image_size", "patch_size", "state_size", "first_k_dense_replace",
    "mamba_d_state", "conv_kernel", "linear_num_value_heads", "linear_num_key_heads", "linear_key_head_dim",
    "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "type_vocab_size", "projection_dim", "num_mel_bins",
    "encoder_attention_heads", "decoder_attention_heads", "classifier_proj_size", "conv_depthwise_kernel_size",
    "subsampling_conv_channels", "conv_channels", "num_conv_pos_embeddings", "adapter_kernel_size", "tgt_vocab_size",
}  # fmt: skip
FLAGS = {
    "tie_word_embeddings", "attention_bias", "mlp_bias", "use_qk_norm", "qkv_bias", "use_bias", "do_stable_layer_norm",
    "conv_bias", "convolution_bias", "add_adapter", "use_prompt", "use_weighted_layer_sum", "feat_proj_layer_norm",
    "use_learned_position_embeddings", "layernorm_embedding", "share_encoder_decoder_embeddings", "conv_pos_batch_norm",
    "share_att_key", "tie_codebooks_embeddings", "use_intermediate_ffn_before_adapter", "projector_bias",
}  # fmt: skip
CHOICES: dict[str, tuple[Any, ...]] = {
    "feat_extract_norm": ("group", "layer"),
    "position_embeddings_type": ("relative", "relative_key", "rotary"),
}


def classes_of(model_type: str) -> list[str]:
    """Return the class names that transformers builds for a type, those with a head first."""
    from transformers.models.auto import modeling_auto

    names: list[str] = []
    for mapping in MAPPINGS:
        found = getattr(modeling_auto, mapping, {}).get(model_type)
        for name in (found,) if isinstance(found, str) else found or ():
            if name not in names:
                names.append(name)
    return names


def built(config: Any, class_name: str) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Return name -> (shape, is parameter) of a class on the meta device; tied names once, buffers if stored."""
    import torch
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, class_name)(copy.deepcopy(config))
        model.tie_weights()
    tensors = {name: (tuple(value.shape), True) for name, value in model.named_parameters()}
    stored = set(model.state_dict())
    for name, value in model.named_buffers():
        if name in stored:
            tensors[name] = (tuple(value.shape), False)
    return tensors


class Comparison(NamedTuple):
    """One class under one configuration: what transformers builds, and what the reader says.

    `lines` are the names whose shapes differ (``+`` theirs, ``-`` ours), `refused` the reader's message, and `failed` why
    transformers does not build it.
    """

    model_type: str
    class_name: str
    label: str
    theirs: int = 0
    ours: int = 0
    lines: tuple[str, ...] = ()
    refused: str = ""
    failed: str = ""

    @property
    def same(self) -> bool:
        """Whether names, shapes and the count agree."""
        return not (self.refused or self.failed or self.lines) and self.theirs == self.ours

    def __str__(self) -> str:
        title = f"{self.model_type:24} {self.class_name:44} {self.label}"
        if self.failed:
            return f"not built {title}: {self.failed}"
        if self.refused:
            return f"REFUSED   {title}: {self.refused}"
        if self.same:
            return f"same      {title}: {self.theirs:,}"
        mark = "COUNT" if self.theirs != self.ours else "names"
        return f"{mark:9} {title}: transformers {self.theirs:,} here {self.ours:,} ({self.ours - self.theirs:+,})"


def compare(
    theirs: Mapping[str, tuple[tuple[int, ...], bool]], values: dict[str, Any], comparison: Comparison
) -> Comparison:
    """Return a comparison filled in: the reader on `values` against what transformers built."""
    try:
        architecture = read_config({**values, "architectures": [comparison.class_name]})
    except ConfigError as error:
        return comparison._replace(refused=error.message)
    ours = {name: (tensor.shape, not tensor.buffer) for name, _, tensor in architecture.named_tensors()}
    for (
        name
    ) in architecture.tied:  # of two names for one tensor, the class that comes first is the one that torch gives
        if name in theirs and name not in ours:
            other = next((own for own in ours if own not in theirs and ours[own] == theirs[name]), None)
            if other is not None:
                ours[name] = ours.pop(other)
    lines = [
        f"{sign} {name} {shape}{'' if is_parameter else ' buffer'}"
        for sign, left, right in (("+", theirs, ours), ("-", ours, theirs))
        for name, (shape, is_parameter) in left.items()
        if right.get(name) != (shape, is_parameter)
    ]
    total = sum(math.prod(shape) for shape, is_parameter in theirs.values() if is_parameter)
    return comparison._replace(theirs=total, ours=architecture.num_params, lines=tuple(lines))


def comparisons(model_type: str, count: int, seed: int = 0) -> Iterator[Comparison]:
    """Yield every class of a type, by default and under `count` perturbations, each config whole and as saved."""
    for label, config in variants(model_type, count, seed):
        for class_name in classes_of(model_type):
            plain = Comparison(model_type, class_name, label)
            try:
                theirs = built(config, class_name)
            except Exception as error:  # transformers refuses the combination, or needs what the class does not assume
                yield plain._replace(failed=f"{type(error).__name__}: {str(error)[:120]}")
                continue
            yield compare(theirs, json_of(config, difference=False), plain)
            yield compare(theirs, json_of(config, difference=True), plain._replace(label=f"{label} saved"))


def perturbed(values: Any, rng: random.Random) -> Any:
    """Return a copy of a configuration with a few of its sizes changed."""
    if isinstance(values, dict):
        changed = {}
        for key, value in values.items():
            if (
                key in SIZES
                and isinstance(value, int)
                and not isinstance(value, bool)
                and value > 1
                and rng.random() < 0.4
            ):
                if "layers" in key or key in {"n_layer", "depth"}:
                    value = rng.randint(2, max(3, min(value, 12)))
                elif key == "vocab_size":
                    value += rng.randint(0, 300)
                elif key == "first_k_dense_replace":
                    value = rng.randint(0, 3)
                else:
                    value = value * rng.choice((1, 2, 3)) // (2 if value % 2 == 0 and rng.random() < 0.5 else 1)
            elif key in FLAGS and isinstance(value, bool):
                value = rng.random() < 0.5
            elif key in CHOICES and value in CHOICES[key]:
                value = rng.choice(CHOICES[key])
            elif isinstance(value, (dict, list)) and key not in ("rope_parameters", "rope_scaling"):
                value = perturbed(value, rng) if isinstance(value, dict) else value
            changed[key] = value
        width = changed.get("hidden_size") or changed.get("d_model")
        for heads in (
            key for key in changed if isinstance(key, str) and key.endswith(("attention_heads", "num_heads"))
        ):
            if width and changed[heads] and not changed.get("head_dim") and changed[heads] != values[heads]:
                changed[heads] = max(size for size in range(1, changed[heads] + 1) if width % size == 0)
        if changed.get("share_encoder_decoder_embeddings"):
            changed["decoder_vocab_size"] = changed["vocab_size"]
        for heads, kv_heads in (
            ("num_attention_heads", "num_key_value_heads"),
            ("linear_num_value_heads", "linear_num_key_heads"),
        ):
            if changed.get(heads) and changed.get(kv_heads):
                divisors = [size for size in range(1, changed[heads] + 1) if changed[heads] % size == 0]
                changed[kv_heads] = (
                    rng.choice(divisors)
                    if changed[kv_heads] != values[kv_heads]
                    else max(size for size in divisors if size <= changed[kv_heads])
                )
        return changed
    return values


def variants(model_type: str, count: int, seed: int) -> Iterator[tuple[str, Any]]:
    """Yield the default configuration of a type and `count` perturbed ones, as ``(label, config)``."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    default = config_class(**copy.deepcopy(NEEDED.get(model_type, {})))
    yield "default", default
    rng = random.Random(f"{model_type}{seed}")
    plain = default.to_dict()
    for index in range(count):
        values = perturbed(plain, rng)
        for key in ("layer_types", "mlp_layer_types"):
            for level in (values, *(item for item in values.values() if isinstance(item, dict))):
                level.pop(key, None)
        try:
            yield f"random-{index}", config_class.from_dict(values)
        except Exception:  # transformers refuses the combination: nothing to compare
            continue


def json_of(config: Any, *, difference: bool) -> dict[str, Any]:
    """Return what config.json would say: all of it, or as saved, only what differs from the class."""
    text = config.to_json_string(use_diff=difference)
    return json.loads(text.replace("Infinity", "1e30").replace("NaN", "0"))


def quiet() -> None:
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore")


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("types", nargs="*")
    arguments.add_argument("--all", action="store_true")
    arguments.add_argument("--known", action="store_true", help="every type that vrameter reads")
    arguments.add_argument("--random", type=int, default=0)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--quiet", action="store_true")
    arguments.add_argument("--names", type=int, default=12, help="differing names to show")
    given = arguments.parse_args()
    quiet()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    types = given.types or [name for name in CONFIG_MAPPING if given.all or name in MODULES]
    same = different = refused = 0
    for model_type in types:
        for found in comparisons(model_type, given.random, given.seed):
            same += found.same
            refused += bool(found.refused)
            different += bool(found.lines) or found.theirs != found.ours
            if not given.quiet or not (found.same or found.failed or (found.refused and given.all)):
                print(found)
                print("".join(f"    {line}\n" for line in found.lines[: given.names]), end="")
    print(f"{same} same, {different} different, {refused} not read")
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
