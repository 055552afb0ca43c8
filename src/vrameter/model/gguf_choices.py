"""What llama.cpp's quantiser gives each kind of tensor: more bits where they matter, fewer where they do not.

One function for each category, ``(mixture, base type, place, facts of the model, importance matrix, columns) -> type``.

References
----------
.. [1] llama.cpp, ``src/llama-quant.cpp`` at commit 007dbbf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vrameter.model.gguf_types import BLOCKS

LOWEST = frozenset({"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m"})
_SMALL_TABLE = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs"), "q2_k"),
    **dict.fromkeys(("iq2_s", "iq2_m", "iq3_xxs"), "iq3_s"),
    **dict.fromkeys(("tq1_0", "tq2_0", "q2_0"), "q4_k"),
}  # fmt: skip
_OUTPUT_OF_EIGHT = frozenset(
    {"q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "iq3_xs", "iq3_xxs", "iq3_s", "iq3_m", "iq4_nl", "iq4_xs"}
)
_ATTENTION_OUTPUT = {"q2_k": "q3_k", "iq3_xxs": "iq3_s", "q3_k_m": "q4_k", "q3_k_l": "q5_k", "iq3_m": "q4_k"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What of a model the quantiser looks at.

    Parameters
    ----------
    num_layers, num_values
        Layers, and tensors that make values. Both are what "the first eighth" is an eighth of.
    gqa
        Query heads per key-value head of the first layer; 0 where that has no attention.
    seventy
        Whether the quantiser calls it a 70B: 80 layers of Llama's or Qwen2's kind.
    """

    num_layers: int
    num_values: int
    num_experts: int
    gqa: int
    falcon: bool
    seventy: bool
    tied: bool


Choice = Callable[[str, str, int, Facts, bool, int], str]


def more_bits(index: int, count: int) -> bool:
    """Say whether a layer is among the first or last eighth, or every third between.

    >>> [index for index in range(16) if more_bits(index, 16)]
    [0, 1, 4, 7, 10, 13, 14, 15]
    """
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


def base_type(mixture: str, base: str, index: int, facts: Facts, imatrix: bool, columns: int) -> str:
    return base


def _output(mixture: str, base: str, index: int, facts: Facts, imatrix: bool, columns: int) -> str:
    if mixture == "mxfp4_moe" or facts.falcon or columns % BLOCKS[base][0]:
        return "q8_0"
    if mixture in LOWEST or mixture == "iq3_xxs":
        return "q5_k"
    return "q8_0" if base == "q8_0" else "q6_k"


def _token(mixture: str, base: str, index: int, facts: Facts, imatrix: bool, columns: int) -> str:
    if facts.tied:
        return _output(mixture, base, index, facts, imatrix, columns)
    return "q8_0" if mixture == "mxfp4_moe" else _SMALL_TABLE.get(mixture, base)


def _value(mixture: str, base: str, index: int, facts: Facts, imatrix: bool, columns: int) -> str:
    shared = facts.gqa >= 4
    if mixture in LOWEST:
        if shared or facts.num_experts >= 4:
            return "q4_k"
        return "iq3_s" if mixture in ("iq2_s", "iq2_m") else "q2_k"
    if facts.num_experts == 8:
        return "q8_0"
    chosen = base
    if mixture == "q2_k":
        chosen = "q4_k" if shared else "q3_k"
    elif mixture == "iq3_xxs":
        chosen = "q4_k" if shared else "iq3_xxs" if imatrix else "iq3_s"
    elif mixture == "iq3_m" or (shared and mixture in ("q2_k_s", "iq3_xs", "iq3_s")):
        chosen = "q4_k"
    elif mixture == "q3_k_m":
        chosen = "q5_k" if index < 2 else "q4_k"
    elif mixture == "q3_k_l" or (shared and mixture in ("iq4_nl", "iq4_xs")) or (mixture == "q4_k_s" and index < 4):
        chosen = "q5_k"
    elif mixture in ("q4_k_m", "q5_k_m") and more_bits(index, facts.num_values):
        chosen = "q6_k"
    return "q5_k" if facts.seventy and chosen in ("q3_k", "q4_k") else chosen


def _key(mixture: str, base: str, index: int, facts: Facts, imatrix: bool, columns: int) -> str:
    if facts.num_experts == 8:
        return "q4_k" if mixture in LOWEST else "q8_0"
    return _query(mixture, base, index, facts, imatrix, columns)


def _query(mixture: str, base: str, index: int, facts: Facts, imatrix: bool, columns: int) -> str:
    return {"iq3_xs": "iq3_xxs", "iq3_xxs": "iq2_s"}.get(mixture, base)


def _down(mixture: str, base: str, index: int, facts: Facts, imatrix: bool, columns: int) -> str:
    count = facts.num_layers
    early, more = index < count // 8, more_bits(index, count)
    if mixture in LOWEST:
        raised = "iq3_s" if mixture in ("iq2_s", "iq2_m") else "q2_k"
        return raised if early else base
    if mixture == "q3_k_m":
        if index < count // 16:
            return "q5_k"
        return "q4_k" if more or not facts.falcon else "q3_k"
    if mixture == "q4_k_m" and facts.falcon:
        return "q6_k" if index < count // 16 else "q5_k" if more else "q4_k"
    if mixture in ("q4_k_m", "q5_k_m"):
        return "q6_k" if more else base
    if mixture == "q3_k_l":
        return "q4_k" if facts.falcon else "q5_k"
    if mixture == "iq3_m":
        return "q4_k" if early or (facts.num_experts == 8 and more) else base
    if mixture == "iq3_xxs" and not imatrix:
        return "q4_k" if early else "q3_k"
    if mixture == "q2_k":
        return "q3_k"
    if not early:
        return base
    if mixture == "q4_k_s":
        return base if facts.falcon else "q5_k"
    if mixture in ("iq4_nl", "iq4_xs"):
        return base if imatrix else "q5_k"
    raised_by = {"q2_k_s": "q4_k", **({"q4_0": "q4_1", "q5_0": "q5_1"} if imatrix else {})}
    return raised_by.get(mixture, base)


def _attention_output(mixture: str, base: str, index: int, facts: Facts, imatrix: bool, columns: int) -> str:
    if mixture in LOWEST:
        if facts.num_experts == 8:
            return "q5_k"
        return {"iq1_s": "iq2_xxs", "iq1_m": "iq2_xxs", "iq2_s": "iq3_s", "iq2_m": "iq3_s"}.get(mixture, base)
    if facts.falcon:
        return "q4_k" if mixture == "q3_k_l" else base
    if facts.num_experts == 8:
        return "q5_k" if mixture in _OUTPUT_OF_EIGHT else base
    return _ATTENTION_OUTPUT.get(mixture, base)


def _gate_up(mixture: str, base: str, index: int, facts: Facts, imatrix: bool, columns: int) -> str:
    count = facts.num_layers
    return "iq3_xxs" if mixture == "iq3_xs" and count // 8 <= index < 7 * count // 8 else base


CHOICES: dict[str, Choice] = {
    "output": _output, "token_embd": _token, "attn_v": _value, "attn_k": _key, "attn_q": _query, "ffn_down": _down,
    "attn_output": _attention_output, "ffn_gate": _gate_up, "ffn_up": _gate_up,
}  # fmt: skip

__all__ = ["CHOICES", "LOWEST", "Choice", "Facts", "base_type", "more_bits"]
