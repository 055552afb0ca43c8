"""Serving with SGLang: the static share, its pools, and what is left for a step and its graphs.

SGLang measures the free memory before it loads the weights. A share of that is static: weights, keys and values, states.
The rest is for what a step needs and for CUDA graphs, and is not measured beforehand.

References
----------
.. [1] SGLang 0.5.23, ``mem_cache/kv_cache_configurator.py``, ``model_executor/model_runner.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from vrameter.engines import Answer, Ask, Values, grouped, held_layers
from vrameter.engines.constants import constants
from vrameter.engines.loaded import Kernels, Loaded, loaded, loaded_bytes, served_plan
from vrameter.engines.ranks import Degrees, Rank, check_heads, check_places, linked, ranks, tensor_degree
from vrameter.engines.sglang import pools
from vrameter.engines.sglang.resolved import Resolved, resolve
from vrameter.engines.vllm.graphs import bounds, graph_bytes
from vrameter.engines.vllm.profile import forward_bytes
from vrameter.i18n import tr
from vrameter.ledger import Item, Ledger, item
from vrameter.memory.activations import logits_bytes
from vrameter.memory.kv_cache import cache_shape
from vrameter.memory.runtime import context_bytes
from vrameter.memory.state_cache import recurrent_state_bytes
from vrameter.memory.weights import WeightPlan
from vrameter.model.architecture import FeedForward, Recurrent
from vrameter.settings.sglang import SglangSettings
from vrameter.spec import check
from vrameter.units import format_bytes

PHASES = ("load", "serve")
KERNELS = Kernels(rotary_bytes=4)
STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_SOURCE = "SGLang 0.5.23, mem_cache/kv_cache_configurator.py"


@dataclass(frozen=True)
class Server:
    """A model laid out over ranks under SGLang's rules."""

    ask: Ask
    plan: WeightPlan
    made: Resolved

    @cached_property
    def ranks(self) -> tuple[Rank, ...]:
        """One rank of every pipeline stage."""
        return ranks(self.ask.architecture, self.made.degrees)

    def loaded(self, rank: Rank) -> Loaded:
        """Return what a rank's weights take; their tables of rotary angles are in fp32."""
        return loaded(self.plan, rank.share, KERNELS)

    @cached_property
    def runtime(self) -> tuple[int, int, int]:
        """What a process takes before the weights are loaded: its context and its communicators. [bytes]."""
        degrees = self.made.degrees
        spans = constants().sglang.runtime
        found = spans.of(group=degrees.tensor > 1, linked=linked(self.ask.device), stages=degrees.pipeline > 1)
        return found.bytes

    @cached_property
    def at_start(self) -> int | None:
        """Free memory before the weights are loaded, None where no device is named. [bytes]."""
        device = self.ask.device
        return device.capacity_bytes - self.runtime[1] if device is not None else None

    def cells(self, rank: Rank) -> tuple[int, int]:
        """Return what one token takes in layers that keep everything, and in those with a window. [bytes]."""
        cache = cache_shape(rank.share, kv_dtype=self.made.cache.name, own_dtype=self.plan.compute_dtype)
        whole = sum(group.count * group.entry_bytes for group in cache.self_layers if group.limit is None)
        window = sum(group.count * group.entry_bytes for group in cache.self_layers if group.limit is not None)
        return (whole, window) if self.made.windows and whole else (whole + window, 0)

    def slot(self, rank: Rank) -> int:
        """Return the recurrent states of one sequence on a rank. [bytes]."""
        state = STATE_BYTES.get(self.made.settings.mamba_ssm_dtype)
        return sum(
            recurrent_state_bytes(
                conv_channels=part.conv_channels,
                conv_columns=max(0, part.conv_kernel - 1),
                conv_element_bytes=self.plan.compute_bytes,
                state_elements=part.state_elements,
                state_element_bytes=state or (4 if part.state_fp32 else self.plan.compute_bytes),
            )
            for layer in rank.share.main.layers
            for part in layer.parts
            if isinstance(part, Recurrent)
        )

    def rest(self, rank: Rank) -> int:
        """Return what the pools of a rank share. [bytes]."""
        assert self.at_start is not None
        return pools.pool_bytes(
            at_start=self.at_start, fraction_thousandths=self.made.fraction, weights=self.loaded(rank).reserved
        )

    def slots(self, rank: Rank) -> int:
        """Return the slots of recurrent states."""
        size = self.slot(rank)
        if not size:
            return 0
        settings = self.made.settings
        if settings.max_mamba_cache_size is not None:
            return settings.max_mamba_cache_size
        if settings.disable_radix_cache and self.made.requests is not None:
            return self.made.requests
        ratio = round(settings.mamba_full_memory_ratio * 1000)
        return pools.state_slots(rest=self.rest(rank), ratio_thousandths=ratio, slot_bytes=size)

    @cached_property
    def tokens(self) -> int | None:
        """Tokens of the KV pool that every rank holds, None where no device is named."""
        if self.at_start is None:
            return self.made.settings.max_total_tokens
        found = []
        for rank in self.ranks:
            whole, window = self.cells(rank)
            states = (
                pools.state_pool_bytes(num_slots=self.slots(rank), slot_bytes=self.slot(rank)) if self.slot(rank) else 0
            )
            thousandths = 1000 * whole + round(self.made.settings.swa_full_tokens_ratio * 1000) * window
            left = self.rest(rank) - states
            found.append(max(0, left) * 1000 // thousandths if thousandths else 0)
        page = self.made.settings.page_size
        most = self.made.settings.max_total_tokens
        return min(*found, most) // page * page if most else min(found) // page * page

    def token_pool(self, rank: Rank) -> Values:
        """Return the arguments of `token_pool_bytes`."""
        whole, window = self.cells(rank)
        tokens = self.tokens or 0
        kept = round(self.made.settings.swa_full_tokens_ratio * 1000) * tokens // 1000 if window else 0
        return {"num_tokens": tokens, "bytes_per_token": whole, "window_tokens": kept, "window_bytes_per_token": window}

    def ledger(self, rank: Rank) -> Ledger:
        """Return the ledger of one rank."""
        values: Values = dict(self.loaded(rank).values)
        values["uncut"] = self.loaded(rank).reserved - self.loaded(rank).total + values["uncut"]
        items = [
            item(
                "weights", loaded_bytes, phases=PHASES, basis="exact",
                source="shapes of the rank's tensors; whole segments of PyTorch's CUDACachingAllocator", **values,
            ),
            *self._pool_items(rank),
            *self._step_items(rank),
        ]  # fmt: skip
        return Ledger(PHASES, tuple(items), holds=held_layers(rank.share) if len(self.ranks) > 1 else "")

    def _pool_items(self, rank: Rank) -> list[Item]:
        if self.tokens is None:
            return []
        items = [
            item(
                "kv_cache", pools.token_pool_bytes, phases=("serve",), basis="modelled", source=_SOURCE,
                **self.token_pool(rank),
            )
        ]  # fmt: skip
        if self.slot(rank) and self.at_start is not None:
            items.append(
                item(
                    "state_cache", pools.state_pool_bytes, phases=("serve",), basis="modelled", source=_SOURCE,
                    num_slots=self.slots(rank), slot_bytes=self.slot(rank),
                )
            )  # fmt: skip
        return items

    def _step_items(self, rank: Rank) -> list[Item]:
        main, element = rank.share.main, self.plan.compute_bytes
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
            "num_tokens": self.made.chunk,
            "mlp_width": width,
            "residual_hundredths": constants().vllm.residual_hundredths["v0"],
            "hidden_size": main.hidden_size,
            "element_bytes": element,
        }
        size = forward_bytes(**forward)
        items = [
            item(
                "activations", forward_bytes, phases=("serve",), basis="modelled", low=size * 7 // 10, high=size * 2,
                source="tensors of one layer alive at once while a chunk of prompts is read", **forward,
            )
        ]  # fmt: skip
        if rank.is_last and main.vocab_size:
            items.append(
                item(
                    "logits", logits_bytes, phases=("serve",), basis="modelled",
                    source="SGLang, layers/logits_processor.py: of the last token of every sequence",
                    num_rows=self.made.largest_batch, vocab_size=main.vocab_size, element_bytes=element,
                )
            )  # fmt: skip
        if self.made.graphs:
            captured = self.graph_values(rank)
            low, high = bounds(graph_bytes(**captured), constants().sglang.graphs)
            items.append(
                item(
                    "cuda_graphs", graph_bytes, phases=("serve",), basis="calibrated", held="driver", low=low, high=high,
                    source="fitted to start-up logs: data/engine_constants.json", **captured,
                )
            )  # fmt: skip
        low, typical, high = self.runtime
        items.append(
            item(
                "runtime", context_bytes, phases=PHASES, basis="calibrated", held="driver", low=low, high=high,
                source="fitted to start-up logs: data/engine_constants.json", context=typical,
            )
        )  # fmt: skip
        return items

    def graph_values(self, rank: Rank) -> Values:
        """Return the arguments of `graph_bytes`."""
        law = constants().sglang.graphs
        return {
            "fixed_kib": law.fixed_kib,
            "split_kib": law.split_kib,
            "tensor_parallel": self.made.degrees.tensor,
            "num_layers": len(rank.share.main.layers),
            "num_sizes": self.made.graphs,
            "layer_kib": law.layer_kib,
        }


def estimate(ask: Ask) -> Answer:
    """Return the ledger of every kind of rank, the figures of the log, and what fits at most."""
    check_places(ask.request.settings)
    settings: SglangSettings = check(SglangSettings, ask.request.settings, path="settings.")
    warnings: list[str] = []
    plan = served_plan(ask, warnings)
    given = ask.request.parallelism
    tensor = tensor_degree(ask, warnings)
    check_heads(ask.architecture, tensor)
    degrees = Degrees(tensor, given.pipeline, tensor, given.expert > 1)
    made = resolve(ask, settings, degrees, plan)
    server = Server(ask, plan, made)
    if settings.enable_dp_attention and given.data > 1:
        server = Server(ask, plan, replace(made, degrees=replace(degrees, experts=tensor * given.data)))
    ledgers = sorted((server.ledger(rank) for rank in server.ranks), key=lambda each: each.used, reverse=True)
    return Answer(
        ledgers=grouped(ledgers, ask.num_devices // len(ledgers)),
        settings=made.shown(),
        resolved={"dtype": plan.dtype, "quantization": plan.quantization, "parallelism": {"tensor": tensor}},
        kv_cache=_kv_cache(server),
        report=_report(server),
        limits=_limits(server),
        warnings=(*plan.warnings, *warnings),
        refusal=_refused(server),
    )


def _refused(server: Server) -> str:
    """Return why SGLang would not start, with the nearest share that does; empty where it starts."""
    if server.at_start is None:
        return ""
    rank = min(server.ranks, key=server.rest)
    rest = server.rest(rank)
    if rest > 0 and server.tokens:
        return ""
    least = -(-server.loaded(rank).reserved * 1000 // server.at_start)
    if least >= 1000:
        return tr(
            "SGLang would not start: the weights take %(weights)s, and %(free)s are free. Use more devices or a quantised "
            "model.",
            weights=format_bytes(server.loaded(rank).reserved), free=format_bytes(server.at_start),
        )  # fmt: skip
    return tr(
        "SGLang would not start: loaded weights leave no memory for the KV cache under mem_fraction_static %(share)s. Raise it "
        "above %(least)s.",
        share=server.made.fraction / 1000, least=least / 1000,
    )  # fmt: skip


def _kv_cache(server: Server) -> dict[str, Any] | None:
    rank = server.ranks[0]
    whole = sum(server.cells(each)[0] for each in server.ranks)
    window = sum(server.cells(each)[1] for each in server.ranks)
    if not whole + window:
        return None
    found: dict[str, Any] = {
        "bytes_per_token": whole,
        "window_bytes_per_token": window,
        "dtype": server.made.cache.name,
    }
    if server.tokens is not None:
        found |= {
            "pool_bytes": pools.token_pool_bytes(**server.token_pool(rank)),
            "tokens": server.tokens,
            "max_concurrency": round(server.tokens / server.made.context, 2),
            "block_size": server.made.settings.page_size,
        }
    return found


def _report(server: Server) -> dict[str, Any]:
    rank = max(server.ranks, key=lambda each: server.loaded(each).total)
    found: dict[str, Any] = {
        "weights_bytes": server.loaded(rank).reserved,
        "startup_bytes": server.runtime[1],
        "cuda_graph_bytes": graph_bytes(**server.graph_values(rank)) if server.made.graphs else 0,
        "kv_bytes_per_token": sum(server.cells(each)[0] for each in server.ranks),
        "block_size": server.made.settings.page_size,
    }
    if server.tokens is not None:
        found |= {
            "kv_pool_bytes": pools.token_pool_bytes(**server.token_pool(rank)),
            "kv_tokens": server.tokens,
            "max_concurrency": round(server.tokens / server.made.context, 2),
            "max_concurrency_len": server.made.context,
        }
    if server.at_start is not None and server.slot(rank):
        found["state_bytes"] = pools.state_pool_bytes(num_slots=server.slots(rank), slot_bytes=server.slot(rank))
        found["state_slots"] = server.slots(rank)
    return found


def _limits(server: Server) -> dict[str, int]:
    """Return the longest sequence and the most sequences of full length that the pools hold."""
    if server.tokens is None or server.at_start is None:
        return {}
    positions = server.ask.architecture.main.max_positions or server.made.context
    count = server.tokens // server.made.context
    slots = min((server.slots(rank) for rank in server.ranks if server.slot(rank)), default=count)
    found = {"context_length": min(positions, server.tokens), "max_running_requests": min(count, slots)}
    return {name: most for name, most in found.items() if most}


__all__ = ["Server", "estimate"]
