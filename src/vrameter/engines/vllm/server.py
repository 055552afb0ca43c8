"""A model laid out over ranks under vLLM's rules: the ledger of each and the blocks that all hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from vrameter.engines import Ask, Values, held_layers
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
from vrameter.engines.vllm.resolved import Resolved
from vrameter.engines.vllm.versions import NEWEST, parse_version
from vrameter.i18n import tr
from vrameter.ledger import Item, Ledger, item
from vrameter.memory.runtime import context_bytes
from vrameter.memory.weights import WeightPlan
from vrameter.units import GIB

PHASES = ("load", "profile", "serve")
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

    def at(self, *, num_seqs: int | None = None, num_tokens: int | None = None) -> Server:
        """Return the same server with other steps."""
        made = self.made.at(
            self.ask.architecture,
            num_seqs=num_seqs or self.made.max_num_seqs,
            num_tokens=num_tokens or self.made.max_num_batched_tokens,
        )
        other = Server(self.ask, self.plan, made)
        vars(other).update(  # what steps do not change
            ranks=self.ranks, kernels=self.kernels, draft=self.draft, requested=self.requested, non_torch=self.non_torch,
            layout=replace(self.layout, in_flight=made.in_flight),
        )  # fmt: skip
        return other

    def peak_values(self, rank: Rank) -> Values:
        """Return the arguments of `profile_peak_bytes`."""
        step = Step(
            num_tokens=self.made.max_num_batched_tokens,
            num_seqs=self.made.max_num_seqs,
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

    def pool_values(self, rank: Rank) -> Values:
        """Return the arguments of `pool_bytes`."""
        assert self.requested is not None
        return {
            "requested": self.requested,
            "weights": self.loaded(rank).total - self.offloaded(rank),
            "adapters": adapter_bytes(**self.adapters(rank)),
            "draft": self.draft.bytes if rank.is_last else 0,
            "activations": profile_peak_bytes(**self.peak_values(rank)),
            "non_torch": self.non_torch[1],
            "graphs": self.graphs(rank, estimated=True) if self.made.rules.graphs_counted else 0,
        }

    def blocks(self) -> tuple[int, int]:
        """Return the smallest pool of all ranks and the whole blocks that every rank holds. [bytes], [blocks]."""
        settings = self.made.settings
        pools, counts = [], []
        for rank in self.ranks:
            size = settings.kv_cache_memory_bytes
            if size is None:
                size = pool_bytes(**self.pool_values(rank))
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
        notes = [self._groups_in_words()]
        if self.pool is not None and self.made.settings.kv_cache_memory_bytes is None:
            left = " - ".join(f"{name} {size:,}" for name, size in self.pool_values(rank).items() if size)
            notes.append(tr("the pool is %(left)s", left=left))
        count = self.pool.blocks if self.pool is not None else self.layout.blocks_per_request(self.made.max_model_len)
        return [
            item(
                "kv_cache", pool_of_blocks, phases=("serve",), basis="modelled", note="; ".join(notes),
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


__all__ = ["Server"]
