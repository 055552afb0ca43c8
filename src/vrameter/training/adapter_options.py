"""Methods of adapters and what their configurations can say.

References
----------
.. [1] peft 0.21.2, ``tuners/*/config.py`` and what ``update_layer`` refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.memory.adapter_methods import METHODS as PEFT
from vrameter.memory.adapter_methods import VARIANTS, canonical
from vrameter.memory.adapters import Matrix
from vrameter.settings.training import AdapterSettings
from vrameter.training.prompts import PROMPTS

# Methods whose classes read the numbers of the frozen matrix itself, and fail where these are packed.
READS_NUMBERS = frozenset(
    (
        "adamss", "deft", "delora", "frod", "glora", "hra", "loha", "lokr", "osf", "peanut", "psoft", "supertuning", "tinylora",
    )
)  # fmt: skip
# Methods that peft does not have, or that train modules of the model itself.
OTHERS = ("adapter", "adapter_v2", "ln_tuning", "trainable_tokens", "llamapro")
METHODS = (*PEFT, *VARIANTS, *PROMPTS, *OTHERS)
# Options that may be 0 where another is given in their stead.
INSTEAD = {"boft_block_size": "boft_block_num", "oft_block_size": "r"}
PROMPT_DEFAULTS = {"prefix_projection": False, "encoder_reparameterization_type": "MLP"}
# What a text option can say.
CHOICES = {
    "config_A_B": ("lora", "vector", "constant", "none"), "config_C": ("lora", "vector", "none"),
    "config_D_E": ("vector", "constant", "none"), "variant": ("road_1", "road_2", "road_4"),
    "psoft_svd": ("full", "lowrank"), "ab_svd_init": ("psoft_init", "pissa_init"),
    "encoder_reparameterization_type": ("MLP", "LSTM"), "init_weights": (True, False, "bat", "mini"),
}  # fmt: skip
FREE_TEXT = ("act_fn",)
SHARES = ("weight_tying", "sparse_rate", "sparsity")
# Options whose value must divide widths: of inputs, of outputs, or of both.
DIVIDES = {
    "boft_block_size": ("inputs",), "boft_block_num": ("inputs",), "block_size": ("inputs", "outputs"),
    "vector_length": ("inputs", "outputs"), "gralora_k": ("inputs", "outputs"),
}  # fmt: skip
# Fields of peft's configurations: those that change no size are passed over.
IGNORED = frozenset(
    (
        "ab_svd_init", "act_fn", "adapter_layers", "adapter_len", "adapters", "alora_invocation_tokens", "alpha",
        "alpha_pattern", "apply_GS", "arrow_config", "asa_importance_beta", "asa_schedule_exponent",
        "asa_target_subspaces", "asa_uncertainty_beta", "auto_mapping", "auxiliary_loss_weight",
        "base_model_name_or_path", "beta1", "beta2", "bias", "block_share", "block_size", "block_size_pattern",
        "boft_block_num", "boft_block_size", "boft_dropout", "boft_n_butterfly_factor", "cayley_neumann_eps", "coft",
        "config_A_B", "config_C", "config_D_E", "corda_config", "cpt_mask", "cpt_token_ids", "cpt_tokens_type_mask",
        "d_initial", "decompose_both", "decompose_factor", "decomposition_method", "deft_dropout", "delora_lambda",
        "deltaT", "depth", "effective_rank", "enable_softmax", "enable_softmax_topk", "encoder_dropout",
        "encoder_hidden_size", "encoder_num_layers", "encoder_reparameterization_type", "ensure_weight_tying", "eps",
        "eva_config", "exclude_modules", "fan_in_fan_out", "feedforward_modules", "final_warmup", "frod_dropout",
        "generator_seed", "global_scaling_weight", "gralora_alpha", "gralora_dropout", "gralora_k", "group_size",
        "hidden_size", "hira_dropout", "hybrid_r", "inference_mode", "init_ia3_weights", "init_logits_std",
        "init_lora_weights", "init_r", "init_scale", "init_theta_d_bound", "init_v_bound", "init_vector_bank_bound",
        "init_warmup", "init_weights", "kasa_config", "lambda_pattern", "layer_replication", "layers_pattern",
        "layers_to_transform", "layerwise_scalings", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout",
        "lora_ga_config", "mask_interval", "mask_type", "megatron_config", "megatron_core", "mini_r", "miss_dropout",
        "module_dropout", "modules_to_save", "monteclora_config", "n_frequency", "n_frequency_pattern", "n_skills",
        "n_splits", "n_tasks", "num_B", "num_attention_heads", "num_cayley_neumann_terms", "num_frozen_tokens",
        "num_layers", "num_ranks", "num_subspaces", "num_tasks", "num_transformer_submodules", "num_vectors",
        "num_virtual_tokens", "oft_block_size", "opt_loss_decay_factor", "opt_projection_epsilon",
        "opt_projection_format_epsilon", "opt_weighted_loss_type", "orth_reg_weight", "para", "peft_type",
        "peft_version", "poly_type", "prefix_projection", "progressbar", "proj_seed", "projection_prng_key",
        "projection_seed", "prompt_tuning_init", "prompt_tuning_init_state_dict_path", "prompt_tuning_init_task",
        "prompt_tuning_init_text", "proportional_parameters", "psoft_alpha", "psoft_dropout", "psoft_mag_a",
        "psoft_mag_b", "psoft_orth", "psoft_svd", "psoft_svd_lowrank_niter", "pvera_dropout", "qalora_group_size",
        "r", "randlora_alpha", "randlora_dropout", "random_loc_seed", "random_seed", "rank_dropout",
        "rank_dropout_scale", "rank_pattern", "regularization_alpha", "revision", "runtime_config",
        "runtime_offload_base_weight", "sample_at_inference", "save_indices", "save_only_topk_weights",
        "save_precomputed_indices", "save_projection", "scaling", "scaling_pass_value", "select_top", "shadow_alpha",
        "shadow_dropout", "shadow_hidden_size", "shadow_intermediate_size", "shadow_model",
        "shadow_num_attention_heads", "shadow_num_hidden_layers", "share_embeddings", "softmax_temperature", "sparse",
        "sparse_rate", "sparsity", "stride_A", "subspace_rank", "svd_threshold", "target_modules",
        "target_parameters", "target_r", "target_svd_config", "task_type", "tfinal", "theta_d_length", "tinit",
        "tinylora_dropout", "token_dim", "token_indices", "tokenizer_kwargs", "tokenizer_name_or_path", "top_k_lora",
        "topk", "total_step", "trainable_token_indices", "u", "unilora_dropout", "update_hidden_size", "use_asa",
        "use_bdlora", "use_cayley_neumann", "use_dora", "use_dynamic_rank", "use_effective_conv2d", "use_idwt",
        "use_qalora", "use_rslora", "use_trainable_adapters", "variant", "vblora_dropout", "vector_length",
        "velora_config", "vera_dropout", "very_sparse", "wavelet_family", "weight_tying", "xlora_depth",
        "xlora_dropout_p", "xlora_size",
    )
)  # fmt: skip


def canonical_of(method: str) -> str:
    """Return a method's own name; that of one which peft does not have is its own."""
    return canonical(method)[0] if method in PEFT or method in VARIANTS else method


def asked_options(method: str, settings: AdapterSettings) -> dict[str, Any]:
    """Return the options that matter here, or refuse those that no configuration has."""
    known = set(PEFT[canonical_of(method)].defaults) if canonical_of(method) in PEFT else set(PROMPTS.get(method, ()))
    known |= {"num_new_blocks"} if method == "llamapro" else set()
    known |= {"feedforward_modules"} if method == "ia3" else set()
    unknown = [name for name in settings.options if name not in known and name not in IGNORED]
    if unknown:
        raise UnknownNameError(
            tr("settings.adapter.options: %(method)s has no option '%(value)s'.", method=method, value=unknown[0]),
            unknown[0], sorted(known), field=f"settings.adapter.options.{unknown[0]}",
            otherwise=tr("Use one of: %(names)s.", names=", ".join(sorted(known)) or "-"),
        )  # fmt: skip
    found = {name: value for name, value in settings.options.items() if name in known}
    defaults = PEFT[canonical_of(method)].defaults if canonical_of(method) in PEFT else {}
    for name, value in found.items():
        least = 0 if found.get(INSTEAD.get(name, "")) else None
        _check_option(name, value, defaults.get(name, PROMPT_DEFAULTS.get(name)), least)
    return found


def _check_option(name: str, value: object, default: object, least: int | None) -> None:
    """Refuse a value that an option cannot have."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in CHOICES:
        good, expected = value in CHOICES[name], tr("one of: %(names)s", names=", ".join(map(str, CHOICES[name])))
    elif name in FREE_TEXT:
        good, expected = isinstance(value, str), tr("a text")
    elif name == "feedforward_modules":
        names = value if isinstance(value, list) else [value]
        good, expected = all(isinstance(each, str) for each in names), tr("a name or a list of names")
    elif isinstance(default, bool):
        good, expected = isinstance(value, bool), tr("true or false")
    elif name in SHARES:
        good, expected = number and 0 <= float(value) <= 1, tr("a number from 0 to 1")  # type: ignore[arg-type]
    elif name == "effective_rank":
        good, expected = value is None or (number and float(value) > 0), tr("a positive number")  # type: ignore[arg-type]
    else:
        least = least if least is not None else 0 if default == 0 or default is None else 1
        whole = isinstance(value, int) and not isinstance(value, bool) and least <= value <= 2**24
        good, expected = (
            whole or (value is None and default is None),
            tr("a whole number of %(least)s or more", least=least),
        )
    if not good:
        raise RequestError(
            tr(
                "settings.adapter.options.%(name)s: %(value)s is not %(expected)s.",
                name=name,
                value=repr(value),
                expected=expected,
            ),
            field=f"settings.adapter.options.{name}",
            hint=tr("Give %(expected)s.", expected=expected),
        )


def refuse_uneven(method: str, matrices: list[Matrix], options: Mapping[str, Any]) -> None:
    """Refuse blocks that do not divide a matrix, as peft does."""
    name = canonical_of(method)
    if name not in PEFT:
        return
    values = {**PEFT[name].defaults, **options}
    for option, sides in DIVIDES.items():
        value = values.get(option)
        if not value:
            continue
        for matrix in matrices:
            for side in sides:
                width = getattr(matrix, side)
                if width % int(value):
                    common = gcd(*(getattr(each, s) for each in matrices for s in sides))
                    raise RequestError(
                        tr("settings.adapter.options.%(name)s: %(value)s does not divide the %(width)s of %(target)s.",
                           name=option, value=value, width=width, target=matrix.target),
                        field=f"settings.adapter.options.{option}",
                        hint=tr("Use a divisor of %(common)s, or other targets.", common=common),
                    )  # fmt: skip


__all__ = ["METHODS", "READS_NUMBERS", "asked_options", "canonical_of", "refuse_uneven"]
