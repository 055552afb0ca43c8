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
FREE_TEXT = ("act_fn", "feedforward_modules")
SHARES = ("weight_tying", "sparse_rate", "sparsity")
# Options whose value must divide widths: of inputs, of outputs, or of both.
DIVIDES = {
    "boft_block_size": ("inputs",), "boft_block_num": ("inputs",), "block_size": ("inputs", "outputs"),
    "vector_length": ("inputs", "outputs"), "gralora_k": ("inputs", "outputs"),
}  # fmt: skip
# Fields of peft's configurations that change no size.
IGNORED = frozenset(
    (
        "use_rslora", "init_lora_weights", "lora_alpha", "scaling", "random_loc_seed", "init_weights", "fan_in_fan_out", "bias",
        "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step", "d_initial", "projection_prng_key",
        "save_projection", "init_ia3_weights", "task_type", "inference_mode", "group_size", "alpha", "randlora_alpha", "psoft_alpha",
        "gralora_alpha", "delora_lambda", "init_r", "r", "eps", "coft", "mask_type", "random_seed", "loftq_config", "eva_config",
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
