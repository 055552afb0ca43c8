"""The best-known rule: parameters x bytes per value, and a factor.

Weights are ``N x bytes``; inference needs 1.3 to 1.5 times that, training 3 times and more. The rule is reproduced
exactly, in both of the conventions under which it circulates: divided by 1024**3 (GiB) and by 10**9 (GB).
It knows nothing of batch size, sequence length or architecture, all of which change the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from vrameter.errors import UnknownNameError
from vrameter.i18n import tr

# Bytes per value; tf32 uses 19 bits and is stored in 32.
BYTES_PER_VALUE: dict[str, Fraction] = {
    "fp32": Fraction(4),
    "tf32": Fraction(4),
    "fp16": Fraction(2),
    "bf16": Fraction(2),
    "fp8": Fraction(1),
    "int8": Fraction(1),
    "int4": Fraction(1, 2),
}
INFERENCE_LOW, INFERENCE_HIGH, TRAINING = Fraction(13, 10), Fraction(15, 10), Fraction(3)
# Bytes per parameter of the leanest Adam recipe: bf16 weights, gradients and both moments.
LEANEST_ADAM = 8


@dataclass(frozen=True, slots=True)
class RuleOfThumb:
    """What the rule says of one data type. [bytes]."""

    dtype: str
    num_params: int
    weights: int
    inference_low: int
    inference_high: int
    training: int

    @property
    def training_is_short(self) -> bool:
        """Whether 3 x the weights is less than any Adam recipe needs for weights, gradients and moments."""
        return self.training < LEANEST_ADAM * self.num_params


def rule_of_thumb(num_params: int, dtype: str = "bf16") -> RuleOfThumb:
    """Return weights, inference and training by the rule of thumb.

    Parameters
    ----------
    num_params
        Parameters of the model.
    dtype
        One of `BYTES_PER_VALUE`.

    Raises
    ------
    UnknownNameError
        For a data type that the rule does not list.

    Examples
    --------
    >>> rule = rule_of_thumb(8_800_000_000, "fp16")
    >>> rule.weights / 10**9, rule.training / 10**9
    (17.6, 52.8)
    """
    per_value = BYTES_PER_VALUE.get(dtype)
    if per_value is None:
        raise UnknownNameError(
            tr("dtype: the rule of thumb has no bytes per value for '%(value)s'.", value=dtype),
            dtype,
            BYTES_PER_VALUE,
            field="dtype",
            otherwise=tr("Use one of: %(names)s.", names=", ".join(BYTES_PER_VALUE)),
        )
    weights = num_params * per_value
    return RuleOfThumb(
        dtype=dtype,
        num_params=num_params,
        weights=int(weights),
        inference_low=int(weights * INFERENCE_LOW),
        inference_high=int(weights * INFERENCE_HIGH),
        training=int(weights * TRAINING),
    )


def weights_by_rule(*, num_params: int, half_bytes: int) -> int:
    """Return the weights by the rule, in half bytes so that int4 is a whole number.

    Formula::

        num_params * half_bytes // 2
    """
    return num_params * half_bytes // 2


def scaled_tenths(*, weights: int, tenths: int) -> int:
    """Return the weights times a factor given in tenths.

    Formula::

        weights * tenths // 10
    """
    return weights * tenths // 10
