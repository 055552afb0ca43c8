"""What vLLM answers: the figures of its log, what fits at most, and why it would not start."""

from __future__ import annotations

from typing import Any

from vrameter.engines.vllm.pool import pool_bytes
from vrameter.engines.vllm.profile import profile_peak_bytes
from vrameter.engines.vllm.resolved import MILLION
from vrameter.engines.vllm.server import Server
from vrameter.i18n import tr
from vrameter.search import largest_fitting
from vrameter.units import format_bytes

MOST_SEQUENCES, MOST_TOKENS = 2**16, 2**20


def refused(server: Server) -> str:
    """Return why vLLM would not start, in its own terms and with the nearest setting that does; empty where it starts."""
    device, pool = server.ask.device, server.pool
    if device is None or server.requested is None:
        return ""
    free = device.capacity_bytes - server.startup[1]
    if server.made.settings.kv_cache_memory_bytes is None and free < server.requested:
        return tr(
            "vLLM would not start: free memory on the device (%(free)s of %(total)s) is less than desired GPU memory "
            "utilization (%(utilization)s, %(requested)s). Use gpu_memory_utilization %(near)s or less.",
            free=format_bytes(free), total=format_bytes(device.capacity_bytes), requested=format_bytes(server.requested),
            utilization=server.made.utilization / MILLION, near=f"{int(free / device.capacity_bytes * 100) / 100:.2f}",
        )  # fmt: skip
    if pool is None:
        return ""
    if pool.bytes <= 0:
        return tr(
            "vLLM would not start: no available memory for the cache blocks (%(pool)s). %(next)s",
            pool=format_bytes(pool.bytes), next=_more_memory(server, -pool.bytes + pool.needed),
        )  # fmt: skip
    longest = pool.layout.longest(pool.blocks, pool.max_model_len)
    if longest < pool.max_model_len:
        return tr(
            "vLLM would not start: one request of max_model_len %(length)s needs %(needed)s of KV cache, and %(pool)s is "
            "available. The longest that fits is %(longest)s.",
            length=f"{pool.max_model_len:,}", needed=format_bytes(pool.needed), pool=format_bytes(pool.bytes),
            longest=f"{longest:,}",
        )  # fmt: skip
    return ""


def _more_memory(server: Server, missing: int) -> str:
    """Return the utilization that would do, or that none does."""
    device = server.ask.device
    assert device is not None
    assert server.requested is not None
    share = -(-(server.requested + missing) * 100 // device.capacity_bytes)
    if (device.capacity_bytes - server.startup[1]) * 100 >= share * device.capacity_bytes:
        return tr("Use gpu_memory_utilization %(share)s.", share=f"{share / 100:.2f}")
    return tr("No utilization of this device is enough: use more devices, a smaller max_num_seqs or a quantised model.")


def kv_cache(server: Server) -> dict[str, Any] | None:
    layout, pool = server.layout, server.pool
    if not layout.groups:
        return None
    found: dict[str, Any] = {
        "bytes_per_token": bytes_per_token(server),
        "block_size": layout.attention_tokens,
        "block_bytes": layout.block_bytes(),
        "num_groups": len(layout.groups),
        "dtype": server.made.cache.name,
    }
    if pool is not None:
        found |= {
            "pool_bytes": pool.bytes,
            "blocks": pool.blocks,
            "tokens": pool.tokens(by_concurrency=server.made.rules.tokens_by_concurrency),
            "max_concurrency": round(pool.concurrency, 2),
            "bytes_per_sequence": pool.needed,
            "max_model_len": pool.max_model_len,
        }
    return found


def bytes_per_token(server: Server) -> int:
    """Return what one more token adds on a rank, over the layers whose cache grows with the context. [bytes]."""
    growing = [
        spec.page // spec.tokens
        for group in server.layout.groups
        for spec in group.specs
        if spec.kind == "full"
    ]  # fmt: skip
    every = growing or [
        spec.page // spec.tokens for group in server.layout.groups for spec in group.specs if spec.kind != "state"
    ]
    return sum(every)


def report(server: Server) -> dict[str, Any]:
    """Return the figures of the log, of the rank with the smallest pool."""
    pools = {id(rank): pool_bytes(**server.pool_values(rank)) for rank in server.ranks} if server.requested else {}
    rank = max(server.ranks, key=lambda each: server.loaded(each).total)
    tight = min(server.ranks, key=lambda each: pools[id(each)]) if pools else rank
    rules = server.made.rules
    found: dict[str, Any] = {
        "weights_bytes": server.loaded(rank).total
        - server.offloaded(rank)
        + (server.draft.bytes if rank.is_last else 0),
        "activation_bytes": profile_peak_bytes(**server.peak_values(tight)),
        "non_torch_bytes": server.non_torch[1],
        "startup_bytes": server.startup[1],
        "cuda_graph_bytes": server.graphs(rank, estimated=False),
        "cuda_graph_estimated_bytes": server.graphs(rank, estimated=True),
    }
    if server.layout.groups:
        found["block_size"] = server.layout.attention_tokens
        found["kv_bytes_per_token"] = bytes_per_token(server)
        found["kv_block_bytes"] = server.layout.block_bytes()
    pool = server.pool
    if server.requested is not None:
        found["requested_bytes"] = server.requested
    if pool is not None:
        found |= {
            "kv_pool_bytes": pool.bytes,
            "kv_blocks": pool.blocks,
            "kv_tokens": pool.tokens(by_concurrency=rules.tokens_by_concurrency),
            "max_concurrency": round(pool.concurrency, 2),
            "max_concurrency_len": pool.max_model_len,
            "kv_needed": [{"tokens": pool.max_model_len, "bytes": pool.needed}],
        }
    return found


def limits(server: Server) -> dict[str, int]:
    """Return the largest settings that fit, each with the others as asked.

    The longest sequence is bounded by the model's positions; the most sequences are of full length at once.
    """
    pool = server.pool
    if pool is None:
        return {}
    positions = server.ask.architecture.main.max_positions or pool.max_model_len

    def left(other: Server, sequences: int) -> int:
        held = other.pool
        assert held is not None
        return held.blocks - held.layout.spare - sequences * held.layout.blocks_per_request(pool.max_model_len)

    tokens = server.made.max_num_batched_tokens
    found = {
        "max_model_len": pool.layout.longest(pool.blocks, positions),
        "max_num_seqs": largest_fitting(
            lambda count: left(server.at(num_seqs=count), count),
            most=min(MOST_SEQUENCES, tokens),
            start=max(1, int(pool.concurrency)),
        ),
    }
    if server.made.settings.kv_cache_memory_bytes is None:
        found["max_num_batched_tokens"] = largest_fitting(
            lambda count: left(server.at(num_tokens=count), 1), most=MOST_TOKENS, start=tokens
        )
    return {name: most for name, most in found.items() if most}


__all__ = ["kv_cache", "limits", "refused", "report"]
