"""How engines store cached keys and values: bytes of one vector under every KV data type.

A cache stores, per token and KV head, a key of `head_dim` and a value of `value_dim` elements; latent
attention stores one vector of ``kv_lora_rank + rope_dim``. Scales are counted with the vectors they belong to.

References
----------
.. [1] vLLM 0.33, ``v1/attention/backends/triton_attn.py`` (per-token-head scales), ``kv_cache_interface.py`` (NVFP4,
       TurboQuant, UltraQuant slots), ``fp8_ds_mla`` (656 bytes for rank 512 and rope 64).
.. [2] ggml block types: 32 elements in 34 (q8_0), 24 (q5_1), 22 (q5_0), 20 (q4_1), 18 bytes (q4_0, iq4_nl).
.. [3] Z. Liu et al., "KIVI", 2024, arXiv:2402.02750; transformers ``QuantizedCache``; mlx-lm ``QuantizedKVCache``.
.. [4] ExLlamaV2 cache modes Q4, Q6, Q8: one fp16 scale per 32 elements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.units import ceil_div


@dataclass(frozen=True, slots=True)
class CacheFormat:
    """One way to store a cache.

    Parameters
    ----------
    name
        As engines spell it.
    key, value
        Bytes of one key or value vector of a given width.
    residual_tokens
        Last tokens that stay in the model's own dtype. [tokens]
    whole_edge_layers
        Attention layers at either end that stay in the model's own dtype.
    latent
        Bytes of one latent entry of ``(kv_lora_rank, rope_dim)``; None where it is stored as one key vector.
    block
        Elements of a block that a row must be a multiple of.
    """

    name: str
    key: Callable[[int], int]
    value: Callable[[int], int]
    residual_tokens: int = 0
    whole_edge_layers: int = 0
    latent: Callable[[int, int], int] | None = None
    block: int = 1

    def pair(self, head_dim: int, value_dim: int) -> int:
        """Return the bytes of a key and a value of one head."""
        return self.key(head_dim) + self.value(value_dim)

    def latent_entry(self, kv_lora_rank: int, rope_dim: int) -> int:
        """Return the bytes of one token of latent attention."""
        if self.latent is not None:
            return self.latent(kv_lora_rank, rope_dim)
        return self.key(kv_lora_rank + rope_dim)


def _plain(bits: int) -> Callable[[int], int]:
    return lambda width: ceil_div(width * bits, 8)


def _grouped(bits: int, group: int, extra: int) -> Callable[[int], int]:
    """Packed codes and `extra` bytes for each started group."""
    return lambda width: ceil_div(width * bits, 8) + ceil_div(width, group) * extra


def _blocks(elements: int, size: int) -> Callable[[int], int]:
    return lambda width: ceil_div(width, elements) * size


def _per_vector(bits: int, extra: int) -> Callable[[int], int]:
    return lambda width: ceil_div(width * bits, 8) + extra


def _same(name: str, vector: Callable[[int], int], **facts: int) -> CacheFormat:
    return CacheFormat(name, vector, vector, **facts)  # type: ignore[arg-type]


def _latent_fp8(kv_lora_rank: int, rope_dim: int) -> int:
    """FP8 latent with an fp32 scale per 128 elements, rope part in bf16 [1]_."""
    return kv_lora_rank + ceil_div(kv_lora_rank, 128) * 4 + 2 * rope_dim


_FORMATS = (
    _same("fp32", _plain(32)),
    _same("bf16", _plain(16)),
    _same("fp16", _plain(16)),
    _same("fp8", _plain(8)),
    _same("int8", _plain(8)),
    CacheFormat("fp8_ds_mla", _plain(8), _plain(8), latent=_latent_fp8),
    _same("nvfp4", _grouped(4, 16, 1)),
    _same("int8_per_token_head", _per_vector(8, 4)),
    _same("fp8_per_token_head", _per_vector(8, 4)),
    _same("int4_per_token_head", _per_vector(4, 4)),
    CacheFormat("turboquant_k8v4", _plain(8), _per_vector(4, 4), whole_edge_layers=2),
    CacheFormat("turboquant_4bit_nc", _per_vector(4, 2), _per_vector(4, 4), whole_edge_layers=2),
    CacheFormat("turboquant_k3v4_nc", _per_vector(3, 2), _per_vector(4, 4), whole_edge_layers=2),
    CacheFormat("turboquant_3bit_nc", _per_vector(3, 2), _per_vector(3, 4), whole_edge_layers=2),
    _same("ultraquant_4bit", lambda width: ceil_div(width, 2) + ceil_div(width, 32)),
    _same("q8_0", _blocks(32, 34), block=32),
    _same("q5_1", _blocks(32, 24), block=32),
    _same("q5_0", _blocks(32, 22), block=32),
    _same("q4_1", _blocks(32, 20), block=32),
    _same("q4_0", _blocks(32, 18), block=32),
    _same("iq4_nl", _blocks(32, 18), block=32),
    _same("exl2-q8", _grouped(8, 32, 2)),
    _same("exl2-q6", _grouped(6, 32, 2)),
    _same("exl2-q4", _grouped(4, 32, 2)),
    _same("quanto-int8", _grouped(8, 64, 4), residual_tokens=128),
    _same("quanto-int4", _grouped(4, 64, 4), residual_tokens=128),
    _same("quanto-int2", _grouped(2, 64, 4), residual_tokens=128),
    _same("mlx-8bit", _grouped(8, 64, 4)),
    _same("mlx-4bit", _grouped(4, 64, 4)),
    _same("kivi-2bit", _grouped(2, 32, 4), residual_tokens=128),
)
FORMATS = {entry.name: entry for entry in _FORMATS}


def grouped_format(
    name: str, key_bits: int, value_bits: int, *, group: int, extra: int, residual_tokens: int = 0
) -> CacheFormat:
    """Return a format of so many bits an element and `extra` bytes for each group, as MLX, ExLlamaV3 and others set them.

    >>> grouped_format("mlx-4bit-g32", 4, 4, group=32, extra=4).pair(128, 128)
    160
    """
    key, value = _grouped(key_bits, group, extra), _grouped(value_bits, group, extra)
    return CacheFormat(name, key, value, residual_tokens=residual_tokens)


ALIASES = {
    "float32": "fp32", "f32": "fp32", "float16": "fp16", "f16": "fp16", "half": "fp16", "bfloat16": "bf16",
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "float8_e4m3fn": "fp8", "fp8_inc": "fp8", "turboquant_k3v4": "turboquant_k3v4_nc",
    "turboquant_4bit": "turboquant_4bit_nc", "turboquant_3bit": "turboquant_3bit_nc", "int4": "quanto-int4", "int2": "quanto-int2",
    "hqq-int4": "quanto-int4", "hqq-int2": "quanto-int2", "hqq-int8": "quanto-int8", "kivi": "kivi-2bit",
}  # fmt: skip


def cache_format(name: str, *, field: str = "settings.kv_cache_dtype") -> CacheFormat:
    """Return the format of a name.

    Raises
    ------
    UnknownNameError
        With the names that come near.
    """
    lowered = name.strip().lower()
    found = FORMATS.get(ALIASES.get(lowered, lowered))
    if found is None:
        raise UnknownNameError(
            tr("%(field)s: '%(value)s' is not a cache data type known here.", field=field, value=name),
            lowered,
            (*FORMATS, *ALIASES),
            field=field,
            otherwise=tr("Use one of: %(names)s.", names=", ".join(FORMATS)),
        )
    return found


def check_rows(found: CacheFormat, widths: tuple[int, ...], *, field: str = "settings.kv_cache_dtype") -> None:
    """Refuse a block format whose blocks do not divide the cached vectors."""
    for width in widths:
        if width % found.block:
            raise RequestError(
                tr(
                    "%(field)s: '%(value)s' stores blocks of %(block)s elements, which do not divide vectors of %(width)s.",
                    field=field, value=found.name, block=found.block, width=width,
                ),
                field=field,
                hint=tr("Use f16, bf16 or fp8 for this model."),
            )  # fmt: skip
