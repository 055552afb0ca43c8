"""Serving with vLLM: what the log prints at start-up, and whether it starts.

vLLM asks for a share of the device. From that it takes the weights, the peak of a profile run and what libraries hold
outside torch; the rest becomes the KV pool, in whole blocks. The device's context and its communicators come on top, and
so do CUDA graphs before release 0.20.

References
----------
.. [1] vLLM 0.19 and 0.33, ``v1/worker/gpu_worker.py`` (``determine_available_memory``), ``utils/mem_utils.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from vrameter.engines import Answer, Ask, Values
from vrameter.engines.constants import Span, Spans, constants
from vrameter.engines.loaded import Kernels, Loaded, loaded, loaded_bytes
from vrameter.engines.ranks import Rank, linked, ranks
from vrameter.engines.vllm import graphs
from vrameter.engines.vllm.blocks import Layout, pool_of_blocks
from vrameter.engines.vllm.extras import Draft, adapted_widths, adapter_bytes, draft_bytes, draft_of
from vrameter.engines.vllm.kernels import kernels_of, multiprocessors, without_towers, workspace
from vrameter.engines.vllm.layers import layout_of
from vrameter.engines.vllm.pool import Pool, num_blocks, pool_bytes, requested_bytes
from vrameter.engines.vllm.profile import Step, peak_parts, profile_peak_bytes
from vrameter.engines.vllm.resolved import MILLION, Resolved, resolve
from vrameter.engines.vllm.versions import NEWEST, parse_version, rules_of
from vrameter.i18n import tr
from vrameter.ledger import Item, Ledger, item
from vrameter.memory.runtime import context_bytes
from vrameter.memory.weights import WeightPlan, weight_plan
from vrameter.search import largest_fitting
from vrameter.settings.vllm import VllmSettings
from vrameter.spec import check
from vrameter.units import GIB, format_bytes

PHASES = ("load", "profile", "serve")
MOST_SEQUENCES, MOST_TOKENS = 2**16, 2**20
_WORKER = "vLLM, v1/worker/gpu_worker.py"
_LOGS = "fitted to start-up logs: data/engine_constants.json"


@dataclass(frozen=True)
class Server:
    """A model laid out over ranks under vLLM's rules."""

    ask: Ask
    plan: WeightPlan
    made: Resolved

    @cached_property
    def ranks(self) -> tuple[Rank, ...]:
        """One rank of every pipeline stage."""
        architecture = self.ask.architecture
        if self.made.settings.language_model_only:
            architecture = without_towers(architecture)
        return ranks(architecture, self.made.degrees)

    @cached_property
    def kernels(self) -> Kernels:
        return kernels_of(self.ask.device, self.made)

    @cached_property
    def draft(self) -> Draft:
        return draft_of(self.ask.architecture, self.plan, self.ranks[-1].share, self.made)

    @cached_property
    def layout(self) -> Layout:
        """The groups of the KV pool, over all layers as one tensor rank holds them."""
        whole = ranks(self.ask.architecture, replace(self.made.degrees, pipeline=1))[0].share
        return layout_of(whole, self.made, self.plan.compute_dtype, self.plan.compute_bytes, self.draft.components)

    @cached_property
    def requested(self) -> int | None:
        """What vLLM asks of a device, None where there is none. [bytes]."""
        device = self.ask.device
        if device is None:
            return None
        return requested_bytes(capacity=device.capacity_bytes, utilization_millionths=self.made.utilization)

    def loaded(self, rank: Rank) -> Loaded:
        """Return what a rank's weights take."""
        return loaded(self.plan, rank.share, self.kernels)

    def offloaded(self, rank: Rank) -> int:
        """Return the weights of a rank that stay in host memory. [bytes]."""
        return min(int(self.made.settings.cpu_offload_gb * GIB), self.loaded(rank).tensors)

    def adapters(self, rank: Rank) -> Values:
        """Return the arguments of `adapter_bytes`."""
        settings = self.made.settings
        return {
            "num_slots": settings.max_loras if settings.enable_lora else 0,
            "rank": settings.max_lora_rank,
            "widths": adapted_widths(rank.share),
            "element_bytes": self.plan.compute_bytes,
        }

    def peak_values(self, rank: Rank, *, num_seqs: int | None = None, num_tokens: int | None = None) -> Values:
        """Return the arguments of `profile_peak_bytes`."""
        step = Step(
            num_tokens=num_tokens or self.made.max_num_batched_tokens,
            num_seqs=num_seqs or self.made.max_num_seqs,
            images=self.made.images,
            multiprocessors=multiprocessors(self.ask.device),
            workspace=workspace(self.ask.device),
            drafts=self.made.drafts,
            max_model_len=self.made.max_model_len,
        )
        return peak_parts(rank.share, self.plan, self.made.rules, step, stages=len(self.ranks), is_last=rank.is_last)

    def spans(self, found: Spans) -> Span:
        """Return the span for a device alone, in a tensor-parallel group on its own link or over PCIe, or a stage."""
        degrees = self.made.degrees
        return found.of(
            group=degrees.tensor > 1 or self.made.data > 1,
            linked=linked(self.ask.device),
            stages=degrees.pipeline > 1,
        )

    @cached_property
    def non_torch(self) -> tuple[int, int, int]:
        """What libraries take outside torch, after start-up. [bytes]."""
        version = parse_version(self.ask.request.engine_version or NEWEST)
        rows = [row for row in constants().vllm.non_torch if parse_version(row.version) <= version]
        return self.spans(rows[-1].spans).bytes

    @cached_property
    def startup(self) -> tuple[int, int, int]:
        """What a process takes before vLLM looks at the free memory: its context and its communicators. [bytes]."""
        return self.spans(constants().vllm.startup).bytes

    def graphs(self, rank: Rank, *, estimated: bool) -> int:
        """Return what CUDA graphs take, or what vLLM estimates that they will. [bytes]."""
        if not self.made.sizes:
            return 0
        values, _ = graphs.graph_values(
            rank.share, self.made.rules, self.made.sizes, tensor=self.made.degrees.tensor, estimated=estimated
        )
        return graphs.graph_bytes(**values)

    def pool_values(self, rank: Rank, *, num_seqs: int | None = None, num_tokens: int | None = None) -> Values:
        """Return the arguments of `pool_bytes`."""
        assert self.requested is not None
        return {
            "requested": self.requested,
            "weights": self.loaded(rank).total - self.offloaded(rank),
            "adapters": adapter_bytes(**self.adapters(rank)),
            "draft": self.draft.bytes if rank.is_last else 0,
            "activations": profile_peak_bytes(**self.peak_values(rank, num_seqs=num_seqs, num_tokens=num_tokens)),
            "non_torch": self.non_torch[1],
            "graphs": self.graphs(rank, estimated=True) if self.made.rules.graphs_counted else 0,
        }

    def blocks(self, *, num_seqs: int | None = None, num_tokens: int | None = None) -> tuple[int, int]:
        """Return the smallest pool of all ranks and the whole blocks that every rank holds. [bytes], [blocks]."""
        settings = self.made.settings
        pools, counts = [], []
        for rank in self.ranks:
            size = settings.kv_cache_memory_bytes
            if size is None:
                size = pool_bytes(**self.pool_values(rank, num_seqs=num_seqs, num_tokens=num_tokens))
            block = self.layout.block_bytes(rank.first, rank.last)
            pools.append(size)
            counts.append(num_blocks(pool=size, block_bytes=block) if block else 0)
        least = min(counts)
        return pools[counts.index(least)], settings.num_gpu_blocks_override or least

    @cached_property
    def pool(self) -> Pool | None:
        """The KV pool, None where no device is named or nothing is cached."""
        if not self.layout.groups or self.requested is None:
            return None
        size, count = self.blocks()
        length = self.made.max_model_len
        if self.made.fitted:
            length = max(1, self.layout.longest(count, length))
        return Pool(self.layout, size, count, length)

    def ledger(self, rank: Rank) -> Ledger:
        """Return the ledger of one rank."""
        from vrameter.engines.transformers import held_layers

        items = [*self._model_items(rank), *self._profile_items(rank), *self._pool_items(rank)]
        return Ledger(PHASES, tuple(items), holds=held_layers(rank.share) if len(self.ranks) > 1 else "")

    def _model_items(self, rank: Rank) -> list[Item]:
        values: Values = dict(self.loaded(rank).values)
        offloaded = self.offloaded(rank)
        values["tensors"] -= offloaded
        named = "; ".join(f"{form.name}: {form.formula}" for form in self.plan.formats if not form.plain)
        items = [
            item(
                "weights", loaded_bytes, phases=PHASES, basis="modelled" if offloaded else "exact", note=named,
                source="shapes of the rank's tensors as vLLM builds them; PyTorch's CUDACachingAllocator", **values,
            )
        ]  # fmt: skip
        adapters = self.adapters(rank)
        if adapters["num_slots"]:
            items.append(
                item("adapters", adapter_bytes, phases=PHASES, basis="modelled", source="vLLM, lora/layers", **adapters)
            )
        if self.draft.bytes and rank.is_last:
            items.append(
                item(
                    "draft", draft_bytes, phases=PHASES, basis="modelled", source=self.draft.source,
                    draft_weights=self.draft.bytes,
                )
            )  # fmt: skip
        return items

    def _profile_items(self, rank: Rank) -> list[Item]:
        values = self.peak_values(rank)
        size = profile_peak_bytes(**values)
        drawn = values["drawing"] + values["hidden_states"] >= values["forward"]
        sure = drawn and not values["images"] and not self.made.drafts
        low, typical, high = self.non_torch
        items = [
            item(
                "activations", profile_peak_bytes, phases=("profile", "serve"), basis="modelled" if drawn else "calibrated",
                low=size * 98 // 100 if sure else size * 90 // 100, high=size * 102 // 100 if sure else size * 115 // 100,
                source="tensors alive at the peak of vLLM's profile run: v1/sample, v1/worker/gpu_model_runner.py", **values,
            ),
            item(
                "non_torch", context_bytes, phases=("profile", "serve"), basis="calibrated", held="driver",
                low=low, high=high, source=_LOGS, context=typical,
            ),
        ]  # fmt: skip
        if self.made.sizes:
            captured, law = graphs.graph_values(
                rank.share, self.made.rules, self.made.sizes, tensor=self.made.degrees.tensor, estimated=False
            )
            low, high = graphs.bounds(graphs.graph_bytes(**captured), law)
            items.append(
                item(
                    "cuda_graphs", graphs.graph_bytes, phases=("serve",), basis="calibrated", held="driver",
                    low=low, high=high, source=_LOGS, **captured,
                )
            )  # fmt: skip
        low, typical, high = self.startup
        items.append(
            item(
                "runtime", context_bytes, phases=PHASES, basis="calibrated", held="driver", low=low, high=high,
                source=_LOGS, context=typical,
            )
        )  # fmt: skip
        return items

    def _pool_items(self, rank: Rank) -> list[Item]:
        if not self.layout.groups:
            return []
        block = self.layout.block_bytes(rank.first, rank.last)
        count = self.pool.blocks if self.pool is not None else self.layout.blocks_per_request(self.made.max_model_len)
        return [
            item(
                "kv_cache", pool_of_blocks, phases=("serve",), basis="modelled", note=self._groups_in_words(),
                source="vLLM, v1/core/kv_cache_utils.py" if self.pool is not None
                else "vLLM, v1/core/kv_cache_utils.py: one sequence of max_model_len, the least it starts with",
                num_blocks=count, block_bytes=block,
            )
        ]  # fmt: skip

    def _groups_in_words(self) -> str:
        """Return the groups of layers that share blocks, a clause each."""
        counts: dict[tuple[int, int, str], int] = {}
        for group in self.layout.groups:
            key = (len(group.places), group.specs[0].tokens, group.specs[0].kind)
            counts[key] = counts.get(key, 0) + 1
        return "; ".join(
            tr("%(groups)s x %(layers)s layers, blocks of %(tokens)s tokens, %(kind)s",
               groups=number, layers=layers, tokens=tokens, kind=kind)
            for (layers, tokens, kind), number in counts.items()
        )  # fmt: skip


def estimate(ask: Ask) -> Answer:
    """Return the ledger of every kind of rank, the figures of the log, and what fits at most."""
    settings: VllmSettings = check(VllmSettings, ask.request.settings, path="settings.")
    rules = rules_of(ask.request.engine_version)
    plan = _plan(ask)
    warnings: list[str] = []
    made = resolve(ask, settings, rules, plan, warnings)
    server = Server(ask, plan, made)
    ledgers = sorted((server.ledger(rank) for rank in server.ranks), key=lambda each: each.used, reverse=True)
    shown = made.shown()
    if server.pool is not None:
        shown["max_model_len"] = server.pool.max_model_len
    from vrameter.engines.transformers import grouped

    return Answer(
        ledgers=grouped(ledgers, ask.num_devices // len(ledgers)),
        settings=shown,
        resolved={
            "dtype": plan.dtype,
            "quantization": plan.quantization,
            "engine_version": ask.request.engine_version or NEWEST,
            "parallelism": {"tensor": made.degrees.tensor},
        },
        kv_cache=_kv_cache(server),
        report=report(server),
        limits=limits(server),
        warnings=(*plan.warnings, *warnings),
        refusal=refused(server),
    )


def _plan(ask: Ask) -> WeightPlan:
    """Return how weights are stored: bitsandbytes on loading also quantises its scales."""
    request, name = ask.request, (ask.request.quantization or "").lower()
    if name in ("bnb-nf4", "bnb-fp4") and not ask.architecture.quantization_config:
        return weight_plan(ask.architecture, dtype=request.dtype, quantization=f"{name}-dq")
    return ask.weight_plan()


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


def _kv_cache(server: Server) -> dict[str, Any] | None:
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
    needed = pool.layout.blocks_per_request(pool.max_model_len)
    spare = pool.layout.spare

    def left(count: int) -> int:
        _, blocks = server.blocks(num_seqs=count)
        return blocks - spare - count * needed

    def least(tokens: int) -> int:
        _, blocks = server.blocks(num_tokens=tokens)
        return blocks - spare - needed

    tokens = server.made.max_num_batched_tokens
    found = {
        "max_model_len": pool.layout.longest(pool.blocks, positions),
        "max_num_seqs": largest_fitting(left, most=min(MOST_SEQUENCES, tokens), start=max(1, int(pool.concurrency))),
    }
    if server.made.settings.kv_cache_memory_bytes is None:
        found["max_num_batched_tokens"] = largest_fitting(least, most=MOST_TOKENS, start=tokens)
    return {name: most for name, most in found.items() if most}


__all__ = ["Server", "estimate", "limits", "refused", "report"]
