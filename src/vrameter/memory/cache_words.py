"""A cache in words: how many layers keep how many vectors of which width."""

from __future__ import annotations

from vrameter.i18n import tr
from vrameter.memory.cache_formats import FORMATS
from vrameter.model.architecture import Architecture, Attention, LatentAttention, remembered


@remembered
def cache_in_words(architecture: Architecture, kv_dtype: str, _language: str) -> str:
    """Return what makes up the bytes of one token, a clause for each kind of layer.

    Parameters
    ----------
    kv_dtype
        A key of `vrameter.memory.cache_formats.FORMATS`.
    _language
        The language in use: answers are remembered for each.
    """
    form = FORMATS[kv_dtype]
    counts: dict[str, int] = {}
    decoder = architecture.decoder
    for layer, places in decoder.layer_groups if decoder else ():
        for part in layer.parts:
            if isinstance(part, LatentAttention):
                clause = tr(
                    "one latent vector of %(rank)s + %(rope)s elements in %(size)s B",
                    rank=part.kv_lora_rank, rope=part.rope_dim, size=form.latent_entry(part.kv_lora_rank, part.rope_dim),
                )  # fmt: skip
            elif isinstance(part, Attention) and part.scope != "encoder" and not part.shares_cache:
                clause = tr(
                    "%(heads)s KV heads x (key of %(key)s + value of %(value)s elements in %(size)s B)",
                    heads=part.num_kv_heads, key=part.head_dim, value=part.value_dim,
                    size=form.pair(part.head_dim, part.value_dim),
                )  # fmt: skip
                if part.window and part.scope in ("sliding", "chunked"):
                    clause += tr(", the last %(tokens)s tokens", tokens=part.window)
                elif part.scope == "cross":
                    clause += tr(", of the encoder's tokens")
            else:
                continue
            counts[clause] = counts.get(clause, 0) + len(places)
    return "; ".join(tr("%(count)s layers x %(what)s", count=count, what=clause) for clause, count in counts.items())
