"""Which pages each layer of a model has in vLLM's KV pool.

References
----------
.. [1] vLLM 0.19 and 0.33, ``v1/kv_cache_interface.py``; ``model_executor/layers/mamba/mamba_utils.py`` (states);
       ``model_executor/models/config.py`` and ``platforms/interface.py`` (blocks of models with states);
       ``model_executor/models/deepseek_v2.py`` (the indexer's own pages).
"""

from __future__ import annotations

from math import lcm

from vrameter.engines.vllm.blocks import Layout, Spec, attention_block, grouped, page_bytes
from vrameter.engines.vllm.resolved import BLOCK, Resolved
from vrameter.memory.cache_formats import FORMATS, CacheFormat
from vrameter.memory.state_cache import recurrent_state_bytes
from vrameter.model.architecture import Architecture, Attention, Component, LatentAttention, Recurrent

CHUNK = 256
# Width of a head of latent attention before release 0.7.1. [vLLM 0.6.6, model_executor/models/deepseek_v2.py]
UNFOLDED_HEAD = 256
LATENT_BLOCK = 128
INDEX_SCALE = 4
STATE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Mixers whose recurrent state vLLM keeps in fp32 whatever is asked. [mamba_utils.py, kda_state_dtype]
ALWAYS_FP32 = ("kda",)


def token_bytes(part: Attention | LatentAttention, stored: CacheFormat, *, latent: bool = True) -> int:
    """Return what one layer keeps of one token on a rank. [bytes]."""
    if isinstance(part, LatentAttention):
        if not latent:
            return part.num_heads * stored.pair(UNFOLDED_HEAD, UNFOLDED_HEAD)
        return stored.latent_entry(part.kv_lora_rank, part.rope_dim)
    return part.num_kv_heads * stored.pair(part.head_dim, part.value_dim)


def state_page(part: Recurrent, plan: Resolved, element_bytes: int) -> int:
    """Return the state that one layer keeps of one sequence. [bytes]."""
    settings = plan.settings
    conv = STATE_BYTES.get(settings.mamba_cache_dtype, element_bytes)
    state = STATE_BYTES.get(settings.mamba_ssm_cache_dtype, 4 if part.state_fp32 else conv)
    return recurrent_state_bytes(
        conv_channels=part.conv_channels,
        conv_columns=max(0, part.conv_kernel - 1 + (plan.drafts if part.conv_kernel else 0)),
        conv_element_bytes=conv,
        state_elements=part.state_elements,
        state_element_bytes=4 if part.kind in ALWAYS_FP32 else state,
    )


def layout_of(
    share: Architecture, plan: Resolved, own_dtype: str, element_bytes: int, drafts: tuple[Component, ...] = ()
) -> Layout:
    """Return the pool's groups for a rank's share of a model, all layers of it, and those of a draft.

    Parameters
    ----------
    drafts
        Components of a draft model that share the pool; their layers are the last rank's.
    """
    own = FORMATS[own_dtype]
    entries: list[tuple[int, Attention | LatentAttention | Recurrent]] = []
    for component in (share.main, *drafts) if share.decoder is not None else ():
        base = 0 if component is share.main else len(share.main.layers) - 1
        for index, layer in enumerate(component.layers):
            place = base + index if component is share.main else base
            entries += [
                (place, part)
                for part in layer.parts
                if isinstance(part, (LatentAttention, Recurrent))
                or (isinstance(part, Attention) and part.scope != "encoder" and not part.shares_cache)
            ]
    attending = [part for _, part in entries if not isinstance(part, Recurrent)]
    states = [part for _, part in entries if isinstance(part, Recurrent)]
    edges = 0 if states else plan.cache.whole_edge_layers
    block, pad = _block_and_state(attending, states, plan, element_bytes)
    specs: list[Spec] = []
    places: list[int] = []
    seen = 0
    for place, part in entries:
        if isinstance(part, Recurrent):
            tokens = block if plan.state_mode != "none" else plan.max_model_len
            page = max(state_page(part, plan, element_bytes), pad)
            specs.append(Spec("state", tokens, page, states=plan.state_blocks))
            places.append(place)
            continue
        stored = own if seen < edges or seen >= len(attending) - edges else plan.cache
        seen += 1
        for spec in _attention_specs(part, stored, block, plan):
            specs.append(spec)
            places.append(place)
    groups = grouped(
        specs,
        places=places,
        slack=plan.rules.group_slack,
        split=plan.rules.groups and not plan.settings.disable_hybrid_kv_cache_manager,
    )
    return Layout(
        groups,
        in_flight=plan.in_flight,
        context_parallel=plan.settings.decode_context_parallel_size,
        spare=1 if plan.rules.null_block else 0,
    )


def _attention_specs(part: Attention | LatentAttention, stored: CacheFormat, block: int, plan: Resolved) -> list[Spec]:
    """Return the pages of one attention layer, and of its indexer where it has one."""
    page = page_bytes(block_tokens=block, bytes_per_token=token_bytes(part, stored, latent=plan.latent))
    if isinstance(part, LatentAttention):
        found = [Spec("full", block, page)]
        if part.scope == "sliding" and part.window:
            found = [Spec("sliding", block, page, window=part.window)]
        if part.index_dim:
            found.append(
                Spec("full", block, page_bytes(block_tokens=block, bytes_per_token=part.index_dim + INDEX_SCALE))
            )
        return found
    whole = plan.rules.engine == "v0"
    if part.scope == "cross" and not whole:
        return [Spec("cross", block, page, window=part.cross_tokens or plan.max_num_batched_tokens)]
    if part.window and part.scope in ("sliding", "chunked") and not whole:
        return [Spec("sliding" if part.scope == "sliding" else "chunked", block, page, window=part.window)]
    return [Spec("full", block, page)]


def _block_and_state(
    attending: list[Attention | LatentAttention], states: list[Recurrent], plan: Resolved, element_bytes: int
) -> tuple[int, int]:
    """Return the tokens of a block, and the bytes to which states are padded.

    Where there are states and attention, a block is made so large that a layer's page holds a state.
    """
    if not states:
        return plan.block_size, 0
    state = max(state_page(part, plan, element_bytes) for part in states)
    if not attending or not state:
        return plan.block_size, 0
    per_token = max(token_bytes(part, plan.cache) for part in attending)
    alignment = max(BLOCK, plan.block_size)
    if any(isinstance(part, LatentAttention) for part in attending):
        alignment = max(alignment, LATENT_BLOCK if plan.rules.null_block else plan.block_size)
    if plan.state_mode == "all":
        alignment = lcm(alignment, plan.settings.mamba_block_size or CHUNK)
    needed = attention_block(state_bytes=state, bytes_per_token=per_token, alignment=alignment)
    block = max(plan.block_size, needed)
    return block, page_bytes(block_tokens=block, bytes_per_token=per_token)


__all__ = ["layout_of", "state_page", "token_bytes"]
