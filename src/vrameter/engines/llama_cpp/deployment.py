"""A model in llama.cpp over its devices: ledgers, report and what fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vrameter.engines.llama_cpp import terms
from vrameter.engines.llama_cpp.buffers import Buffers, Context, Planned
from vrameter.engines.llama_cpp.caches import CacheSum
from vrameter.engines.llama_cpp.closed_form import closed_form_bytes, closed_form_values, host_values
from vrameter.engines.llama_cpp.largest import largest_deployment
from vrameter.engines.llama_cpp.options import Backend
from vrameter.engines.llama_cpp.placement import Placement, layer_devices
from vrameter.ledger import HOST, Item, Ledger, item
from vrameter.memory.runtime import ANY_DEVICE, context_bytes

if TYPE_CHECKING:
    from vrameter.devices import Device

PHASES = ("inference",)
SOURCE = "llama.cpp at 0c1e57098"
# Most sequences that are looked for.
MOST_SEQUENCES = 2**12


@dataclass(frozen=True)
class Deployment:
    """A model, a context and where both go.

    Parameters
    ----------
    devices
        One per GPU, or none where none is named.
    main_gpu
        Which GPU the first of `placement` is.
    reserved
        What is left alone on every GPU. [bytes]
    extra
        Items of further models on the first GPU and in host memory, each with whether it is in host memory.
    """

    planned: Planned
    context: Context
    placement: Placement
    backend: Backend
    devices: tuple[Device, ...] = ()
    main_gpu: int = 0
    mapped: bool = True
    reserved: int = 0
    extra: tuple[tuple[Item, int | None], ...] = ()

    @cached_property
    def buffers(self) -> Buffers:
        """What is allocated beside compute buffers."""
        return self.planned.buffers(self.context, self.placement)

    @cached_property
    def compute(self) -> tuple[int, ...]:
        """Compute buffers, the host's last. [bytes]."""
        return self.planned.compute(self.context, self.placement)

    @property
    def host(self) -> int:
        """Index of the host."""
        return self.placement.num_gpus

    def gpu(self, number: int) -> int:
        """Return which of the devices a GPU of the placement is."""
        return number + self.main_gpu if self.host == 1 else number

    # -- ledgers ------------------------------------------------------------------------------------

    def ledgers(self) -> list[Ledger]:
        """Return the ledger of every GPU, that with the least room first, and of the host."""
        found = [self._gpu_ledger(number) for number in range(self.host)]
        found.sort(key=lambda ledger: ledger.used - self._capacity(ledger.place), reverse=True)
        return [*found, self._host_ledger()]

    def _capacity(self, place: int) -> int:
        return self.devices[place].capacity_bytes if self.devices else 0

    def headroom(self, compute: Sequence[int] | None = None) -> int:
        """Return what the GPU with the least room has left. [bytes].

        Parameters
        ----------
        compute
            Compute buffers to take instead of those that are planned. [bytes]
        """
        found = self.compute if compute is None else compute
        return min(
            self._capacity(self.gpu(number)) - self._beside_compute(number) - found[number]
            for number in range(self.host)
        )

    def _beside_compute(self, number: int) -> int:
        """Return what a GPU holds beside the compute buffer. [bytes]."""
        return (
            self.buffers.model[number]
            + self.buffers.context(number)
            + sum(each.bytes for each, where in self.extra if where == number)
            + sum(each.bytes for each in self._driver_items(self.gpu(number)))
        )

    def _gpu_ledger(self, number: int) -> Ledger:
        name, place = self.backend.gpu(self.gpu(number)), self.gpu(number)
        found = [
            *self._model_items(number, name), *self._context_items(number, name), *self._compute_items(number, name),
            *(each for each, where in self.extra if where == number),
            *self._driver_items(place),
        ]  # fmt: skip
        return Ledger(PHASES, tuple(found), holds=self._holds(number), place=place)

    def _host_ledger(self) -> Ledger:
        host = self.host
        found = [
            *self._model_items(host, self.model_buffer), *self._context_items(host, "CPU"),
            *self._compute_items(host, self.backend.pinned), self._output_item(),
            *(each for each, where in self.extra if where is None),
        ]  # fmt: skip
        return Ledger(PHASES, tuple(found), holds=self._holds(host), place=HOST)

    @property
    def model_buffer(self) -> str:
        """Name of the buffer of weights in host memory: mapped from the file or pinned."""
        return "CPU" if self.mapped else self.backend.pinned

    def _holds(self, device: int) -> str:
        layers = [number for number, home in enumerate(self.placement.devices[:-1]) if home == device]
        parts = [f"layers {layers[0]}-{layers[-1]}"] if layers else []
        if self.placement.output == device:
            parts.append("output")
        return ", ".join(parts)

    def _model_items(self, device: int, buffer: str) -> list[Item]:
        whole, tensors = self.buffers.model[device], self.buffers.tensors[device]
        if not whole:
            return []
        return [
            item(
                "weights", terms.model_bytes, phases=PHASES, buffer=buffer,
                source=f"{SOURCE}: tensors of the file by layer and device", note=self.planned.types_note,
                tensors=tensors, padding=whole - tensors,
            )
        ]  # fmt: skip

    def _context_items(self, device: int, buffer: str) -> list[Item]:
        found = [
            item(
                "kv_cache", terms.cache_bytes, phases=PHASES, buffer=buffer, source=f"{SOURCE}, src/llama-kv-cache.cpp",
                cells=each.cells, streams=each.streams, cell_bytes=each.cell_bytes, padding=each.padding,
            )
            for each in self.buffers.caches[device]
        ]  # fmt: skip
        found += [
            item(
                "state_cache", terms.state_bytes, phases=PHASES, buffer=buffer,
                source=f"{SOURCE}, src/llama-memory-recurrent.cpp",
                rows=each.cells, row_bytes=each.cell_bytes, padding=each.padding,
            )
            for each in self.buffers.states[device]
            if each.num_bytes
        ]  # fmt: skip
        return found

    def _compute_items(self, device: int, buffer: str) -> list[Item]:
        if not self.compute[device]:
            return []
        if not self.planned.graphed:
            return [self._compute_about(device, buffer)]
        planned = self.compute[device]
        return [
            item(
                "compute", terms.compute_buffer_bytes, phases=PHASES, basis="modelled", buffer=buffer,
                low=min(planned, self.least_compute[device]),
                source=f"{SOURCE}: ggml's scheduler and allocator over the tensors of the largest graph", planned=planned,
            )
        ]  # fmt: skip

    def _compute_about(self, device: int, buffer: str) -> Item:
        values = closed_form_values(self.planned, self.context, self.placement)
        if device == self.host:
            values = host_values(values)
        size = closed_form_bytes(**values)
        return item(
            "compute", closed_form_bytes, phases=PHASES, basis="assumed", buffer=buffer, low=size // 2, high=2 * size,
            source="the largest moments of a layer; there is no graph of this kind of layer here", **values,
        )  # fmt: skip

    @cached_property
    def least_compute(self) -> tuple[int, ...]:
        """Compute buffers where operations stay on the devices that the first plan told them to run on.

        The figures that the program prints before it loads forget that; what it allocates then does not.
        """
        if self.host == 1 and not self.context.no_kv_offload:
            return self.compute
        return self.planned.compute(self.context, self.placement, pins=True)

    def _output_item(self) -> Item:
        main = self.planned.architecture.main
        return item(
            "logits", terms.output_bytes, phases=PHASES, buffer=self.backend.pinned,
            source=f"{SOURCE}, src/llama-context.cpp: one row per sequence",
            rows=self.buffers.output_rows, vocab_size=main.vocab_size,
            hidden_size=main.hidden_size if self.context.embeddings else 0,
        )  # fmt: skip

    def _driver_items(self, place: int) -> list[Item]:
        device = self.devices[place] if self.devices else None
        low, typical, high = ANY_DEVICE if device is None else device.runtime_overhead
        found = []
        if high:
            found.append(
                item(
                    "runtime", context_bytes, phases=PHASES, basis="assumed", held="driver", low=low, high=high,
                    source="assumed by class of device; 451 to 456 MiB were measured on RTX 4090 (llama.cpp issue 15860)",
                    context=typical,
                )
            )  # fmt: skip
        tokens = min(self.planned.physical_batch(self.context), self.context.n_ctx)
        width, used = self.planned.widest_row, self.planned.most_experts_used
        scratch = terms.pool_bytes(tokens=tokens, width=width, used=used)
        found.append(
            item(
                "workspace", terms.pool_bytes, phases=PHASES, basis="assumed", held="driver", low=0, high=2 * scratch,
                source="assumed from ggml-cuda: inputs of the largest matrix product, quantised to 8 bits",
                tokens=tokens, width=width, used=used,
            )
        )  # fmt: skip
        if self.reserved:
            found.append(
                item(
                    "reserved", terms.overhead_bytes, phases=PHASES, held="driver", source="OLLAMA_GPU_OVERHEAD",
                    reserved=self.reserved,
                )
            )  # fmt: skip
        return found

    # -- the response's other objects -----------------------------------------------------------------

    def kv_cache(self) -> dict[str, Any] | None:
        """Return the object of the response that tells of the cache."""
        sums = [each for device in self.buffers.caches for each in device]
        whole = sum(each.num_bytes for each in sums)
        if not whole:
            return None
        cells = self.planned.cells(self.context)
        growing = _cell_bytes(sums, cells.context)
        tokens = cells.context * cells.streams
        types = {self.context.cache_type_k, self.context.cache_type_v}
        found = {
            "bytes_per_token": growing or _cell_bytes(sums, cells.window),
            "pool_bytes": whole,
            "tokens": tokens,
            "max_concurrency": float(self.context.n_parallel),
            "dtype": types.pop() if len(types) == 1 else f"{self.context.cache_type_k}/{self.context.cache_type_v}",
        }
        if cells.window != cells.context:
            found["window_bytes_per_token"] = _cell_bytes(sums, cells.window)
        return found

    def report(self, fullest: Ledger) -> dict[str, Any]:
        """Return what the program prints: every buffer, their sums, and the fullest GPU's figures."""
        host, sums = self.host, self.buffers
        buffers = {
            self.backend.gpu(self.gpu(number)): {
                "model_bytes": sums.model[number],
                "context_bytes": sums.context(number),
                "compute_bytes": self.compute[number],
            }
            for number in range(host)
        }
        pinned = {
            "model_bytes": 0 if self.mapped else sums.model[host],
            "context_bytes": 0,
            "compute_bytes": self.compute[host],
        }
        plain = {
            "model_bytes": sums.model[host] if self.mapped else 0,
            "context_bytes": sums.context(host),
            "compute_bytes": 0,
        }
        buffers[self.backend.pinned] = pinned
        if any(plain.values()):
            buffers["CPU"] = plain
        peak = fullest.peak()
        report: dict[str, Any] = {
            "buffers": buffers,
            "weights_bytes": _of(fullest, "weights"),
            "compute_bytes": _of(fullest, "compute"),
            "kv_cache_bytes": sum(each.num_bytes for device in sums.caches for each in device),
            "output_bytes": self._output_item().bytes,
            "peak_allocated_bytes": peak.allocated,
            "peak_used_bytes": peak.used,
        }
        state = sum(each.num_bytes for device in sums.states for each in device)
        if state:
            report["state_bytes"] = state
        return report

    # -- what fits ------------------------------------------------------------------------------------

    def limits(self) -> dict[str, int]:
        """Return the longest context and the most sequences that fit, each with the other as asked.

        Where the model does not fit as asked, also how many layers do.
        """
        if not self.devices or self.planned.encoder:
            return {}
        context = self.context
        step = 256 * (1 if context.kv_unified else context.n_parallel)
        asked = -(-context.n_ctx // step)
        known = self.planned.architecture.main.max_positions or 2**24
        longest = max(asked, known * (1 if context.kv_unified else context.n_parallel) // step)
        found = {
            "n_ctx": step * largest_deployment(lambda count: self._resized(count * step), most=longest, start=asked),
            "n_parallel": largest_deployment(self._with_sequences, most=MOST_SEQUENCES, start=context.n_parallel),
        }
        if self.host == 1 and self.headroom() < 0:
            layers = len(self.planned.layers)
            found["n_gpu_layers"] = largest_deployment(self._with_layers, most=layers, start=layers // 2)
        return found

    def _resized(self, n_ctx: int) -> Deployment:
        return replace(self, context=replace(self.context, n_ctx=n_ctx))

    def _with_sequences(self, count: int) -> Deployment:
        """Return the same with more sequences, each of which may be as long as one is now."""
        context = self.context
        each = context.n_ctx if context.kv_unified else -(-context.n_ctx // context.n_parallel)
        rows = context.n_outputs_max if context.n_outputs_max != context.n_parallel else count
        wider = replace(context, n_parallel=count, n_ctx=count * each, n_outputs_max=max(rows, count))
        return replace(self, context=wider)

    def _with_layers(self, count: int) -> Deployment:
        devices = layer_devices(len(self.planned.layers), count, [1.0])
        return replace(self, placement=replace(self.placement, devices=devices))


def _cell_bytes(sums: list[CacheSum], cells: int) -> int:
    return sum(each.cell_bytes for each in sums if each.cells == cells)


def _of(ledger: Ledger, term: str) -> int:
    return sum(each.bytes for each in ledger.items if each.term == term)


__all__ = ["PHASES", "Deployment"]
