"""Engines that load, try a step, and take a share of what is then free for the KV cache.

What a step takes in these engines is not documented and was not measured: it is an interval, marked assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vrameter.engines import Answer, Ask, Values, grouped, held_layers
from vrameter.engines.constants import constants
from vrameter.engines.loaded import Kernels, loaded, loaded_bytes
from vrameter.engines.ranks import Degrees, Rank, check_heads, linked, ranks, tensor_degree
from vrameter.engines.vllm.blocks import pool_of_blocks
from vrameter.engines.vllm.profile import forward_bytes
from vrameter.errors import UnknownNameError
from vrameter.i18n import tr
from vrameter.ledger import Item, Ledger, item
from vrameter.memory.activations import logits_bytes
from vrameter.memory.cache_formats import FORMATS, CacheFormat
from vrameter.memory.kv_cache import cache_shape
from vrameter.memory.runtime import context_bytes
from vrameter.memory.weights import WeightPlan
from vrameter.model.architecture import FeedForward
from vrameter.units import ceil_div, format_bytes

PHASES = ("load", "serve")
RESIDUAL = 400


@dataclass(frozen=True, slots=True)
class Plan:
    """What one engine asks for.

    Parameters
    ----------
    name, source
        The engine's name in messages, and where its budget is documented.
    num_tokens, num_seqs
        Tokens and sequences of one step.
    length, length_name
        Longest sequence, and the setting that says it. [tokens]
    most_tokens
        Tokens of the KV cache at most, None for what fits.
    share
        Function ``(free, capacity) -> bytes``: what of the free memory is for the KV cache.
    """

    name: str
    source: str
    num_tokens: int
    num_seqs: int
    length: int
    length_name: str
    seqs_name: str
    block_tokens: int
    most_tokens: int | None
    cache: CacheFormat
    share: Callable[[int, int], int]
    settings: dict[str, Any]


def cache_of(name: str, known: dict[str, str], own_dtype: str, engine: str) -> CacheFormat:
    """Return the storage of a cache under an engine's name for it.

    Raises
    ------
    UnknownNameError
        For a name that the engine does not know.
    """
    lowered = name.strip().lower()
    if lowered not in known:
        raise UnknownNameError(
            tr(
                "settings.kv_cache_dtype: '%(value)s' is not a cache data type of %(engine)s.",
                value=name,
                engine=engine,
            ),
            lowered,
            known,
            field="settings.kv_cache_dtype",
            otherwise=tr("Use one of: %(names)s.", names=", ".join(known)),
        )
    return FORMATS[own_dtype if known[lowered] == "auto" else known[lowered]]


@dataclass(frozen=True)
class Server:
    """A model laid out over ranks."""

    ask: Ask
    weights: WeightPlan
    plan: Plan
    degrees: Degrees

    @cached_property
    def ranks(self) -> tuple[Rank, ...]:
        """One rank of every pipeline stage."""
        return ranks(self.ask.architecture, self.degrees)

    @cached_property
    def runtime(self) -> tuple[int, int, int]:
        """Context and communicators. [bytes]."""
        spans = constants().sglang.runtime
        group, stages = self.degrees.tensor > 1, self.degrees.pipeline > 1
        return spans.of(group=group, linked=linked(self.ask.device), stages=stages).bytes

    def step(self, rank: Rank) -> tuple[Values, Values]:
        """Return the arguments of `forward_bytes` and of `logits_bytes`."""
        main, element = rank.share.main, self.weights.compute_bytes
        width = max(
            (
                (3 if part.gated else 2)
                * (part.intermediate_size * max(1, part.num_experts_per_token) + part.shared_size)
                for layer, _ in main.layer_groups
                for part in layer.parts
                if isinstance(part, FeedForward)
            ),
            default=0,
        )
        forward: Values = {
            "num_tokens": self.plan.num_tokens, "mlp_width": width, "residual_hundredths": RESIDUAL,
            "hidden_size": main.hidden_size, "element_bytes": element,
        }  # fmt: skip
        rows = self.plan.num_seqs if rank.is_last else 0
        return forward, {"num_rows": rows, "vocab_size": main.vocab_size, "element_bytes": element}

    def block_bytes(self, rank: Rank) -> int:
        """Return what one block takes on a rank: all layers keep sequences whole. [bytes]."""
        cache = cache_shape(rank.share, kv_dtype=self.plan.cache.name, own_dtype=self.weights.compute_dtype)
        return sum(group.count * group.entry_bytes for group in cache.self_layers) * self.plan.block_tokens

    def free(self, rank: Rank) -> int:
        """Return what is free after loading and trying a step. [bytes]."""
        assert self.ask.device is not None
        forward, logits = self.step(rank)
        held = loaded(self.weights, rank.share, Kernels()).reserved
        return (
            self.ask.device.capacity_bytes - self.runtime[1] - held - forward_bytes(**forward) - logits_bytes(**logits)
        )

    @cached_property
    def pool(self) -> int | None:
        """The smallest KV cache of all ranks, None where no device is named. [bytes]."""
        device = self.ask.device
        if device is None or not any(self.block_bytes(rank) for rank in self.ranks):
            return None
        return min(self.plan.share(self.free(rank), device.capacity_bytes) for rank in self.ranks)

    @cached_property
    def blocks(self) -> int:
        """Whole blocks that every rank holds; of one sequence where no device is named."""
        device, plan = self.ask.device, self.plan
        if device is None:
            return ceil_div(plan.length, plan.block_tokens)
        counts = [
            max(0, plan.share(self.free(rank), device.capacity_bytes)) // size
            for rank in self.ranks
            if (size := self.block_bytes(rank))
        ]
        most = ceil_div(plan.most_tokens, plan.block_tokens) if plan.most_tokens else None
        found = min(counts, default=0)
        return found if most is None else min(found, most)

    def ledger(self, rank: Rank) -> Ledger:
        """Return the ledger of one rank."""
        forward, logits = self.step(rank)
        size = forward_bytes(**forward)
        rows = logits_bytes(**logits)
        low, typical, high = self.runtime
        held = loaded(self.weights, rank.share, Kernels())
        values: Values = dict(held.values)
        values["uncut"] += held.reserved - held.total
        source = "assumed: tensors of one layer alive at once while a step runs"
        items: list[Item] = [
            item(
                "weights", loaded_bytes, phases=PHASES, basis="modelled", low=held.tensors * 99 // 100, high=held.reserved * 102 // 100,
                source="shapes of the rank's tensors; whole segments of the allocator", **values,
            ),
            item(
                "activations", forward_bytes, phases=("serve",), basis="assumed", low=size // 2, high=3 * size, source=source,
                **forward,
            ),
            item(
                "logits", logits_bytes, phases=("serve",), basis="assumed", low=rows // 2, high=4 * rows,
                source="assumed: logits of every sequence and what draws from them", **logits,
            ),
            item(
                "kv_cache", pool_of_blocks, phases=("serve",), basis="assumed", source=self.plan.source,
                num_blocks=self.blocks, block_bytes=self.block_bytes(rank),
            ),
            item(
                "runtime", context_bytes, phases=PHASES, basis="assumed", held="driver", low=low, high=2 * high,
                source="assumed from other engines' logs", context=typical,
            ),
        ]  # fmt: skip
        return Ledger(PHASES, tuple(items), holds=held_layers(rank.share) if len(self.ranks) > 1 else "")


def answer(ask: Ask, plan: Plan, weights: WeightPlan, warnings: list[str]) -> Answer:
    """Return what an engine of this kind answers."""
    tensor = tensor_degree(ask, warnings)
    check_heads(ask.architecture, tensor)
    given = ask.request.parallelism
    server = Server(ask, weights, plan, Degrees(tensor, given.pipeline, tensor, given.expert > 1))
    ledgers = sorted((server.ledger(rank) for rank in server.ranks), key=lambda each: each.used, reverse=True)
    rank = max(server.ranks, key=lambda each: loaded(weights, each.share, Kernels()).total)
    per_token = sum(server.block_bytes(each) for each in server.ranks) // plan.block_tokens
    report: dict[str, Any] = {
        "weights_bytes": loaded(weights, rank.share, Kernels()).reserved,
        "kv_bytes_per_token": per_token,
        "block_size": plan.block_tokens,
    }
    kv_cache: dict[str, Any] = {"bytes_per_token": per_token, "dtype": plan.cache.name, "block_size": plan.block_tokens}
    limits: dict[str, int] = {}
    refusal = ""
    if server.pool is not None:
        tokens = server.blocks * plan.block_tokens
        pool = (
            pool_of_blocks(num_blocks=server.blocks, block_bytes=server.block_bytes(rank))
            if server.pool > 0
            else server.pool
        )
        report |= {
            "kv_pool_bytes": pool, "kv_blocks": server.blocks, "kv_tokens": tokens,
            "max_concurrency": round(tokens / plan.length, 2), "max_concurrency_len": plan.length,
        }  # fmt: skip
        kv_cache |= {"pool_bytes": pool, "tokens": tokens, "max_concurrency": round(tokens / plan.length, 2)}
        positions = ask.architecture.main.max_positions or plan.length
        limits = {plan.length_name: min(positions, tokens), plan.seqs_name: tokens // plan.length}
        if tokens < plan.length:
            refusal = tr(
                "%(engine)s would not serve %(name)s %(length)s: the KV cache holds %(tokens)s tokens (%(pool)s).",
                engine=plan.name, name=plan.length_name, length=f"{plan.length:,}", tokens=f"{tokens:,}",
                pool=format_bytes(pool),
            )  # fmt: skip
    return Answer(
        ledgers=grouped(ledgers, ask.num_devices // len(ledgers)),
        settings=plan.settings,
        resolved={"dtype": weights.dtype, "quantization": weights.quantization, "parallelism": {"tensor": tensor}},
        kv_cache=kv_cache if per_token else None,
        report=report,
        limits={name: most for name, most in limits.items() if most},
        warnings=(*weights.warnings, *warnings),
        refusal=refusal,
    )


__all__ = ["Plan", "Server", "answer", "cache_of"]
