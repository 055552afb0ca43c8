"""Inference with LitGPT: everything a sequence can need is allocated before the first pass.

The cache has room for the prompt and all tokens to come, and a mask over them stands beside it. An output layer is never
the token table. bitsandbytes is applied to every linear layer, the output layer included: from fp16 copies, so that a
matrix is unpacked to fp16 while a prompt is read and copied to the model's dtype where that is another. One token more
is computed on packed matrices.

References
----------
.. [1] LitGPT 0.5.13, ``generate/base.py`` (`main`), ``model.py`` (`set_kv_cache`, `build_mask_cache`).
.. [2] Lightning Fabric 2.6, ``plugins/precision/bitsandbytes.py``: `quantize` copies to ``torch.half`` first.
.. [3] bitsandbytes 0.50, ``autograd/_functions.py`` (`MatMul4Bit`): ``dequantize_4bit(...).to(A.dtype)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec

from vrameter.engines import Answer, Ask, check_answer, default_length
from vrameter.engines.generation import Generation, check_one_device, limits
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Item, Ledger, item
from vrameter.memory import activations as act
from vrameter.memory import kv_cache as kv
from vrameter.memory import runtime
from vrameter.memory.weights import WeightPlan
from vrameter.model.architecture import Architecture, Attention, LatentAttention
from vrameter.model.output_layer import untied
from vrameter.settings.litgpt import LitgptSettings
from vrameter.spec import check

PHASES = ("load", "prefill", "decode")
PACKED = "bnb"
BF16_SINCE = 8.0  # compute capability
GENERATE = "LitGPT 0.5.13, generate/base.py"
MODEL = "LitGPT 0.5.13, model.py"


def unpacked_bytes(*, num_params: int, element_bytes: int) -> int:
    """Return one matrix unpacked for a product: in fp16, and in the model's dtype where that is another. [bytes].

    Formula::

        num_params * (2 if element_bytes == 0 else 2 + element_bytes)

    Parameters
    ----------
    element_bytes
        Of the copy in the model's dtype; 0 where that is fp16. [bytes]
    """
    return num_params * (2 if element_bytes == 0 else 2 + element_bytes)


def packing_bytes(*, num_params: int, packed: int) -> int:
    """Return what packing one matrix takes beside the matrix that was packed when the model was built. [bytes].

    Formula::

        num_params * 2 + packed
    """
    return num_params * 2 + packed


@dataclass(frozen=True)
class Run:
    """A model and how its weights are stored: what does not change with sequences and tokens."""

    ask: Ask
    model: Architecture
    plan: WeightPlan

    @cached_property
    def packs(self) -> bool:
        """Whether bitsandbytes packs matrices while they load."""
        return (self.plan.quantization or "").startswith(PACKED) and not self.plan.from_config

    @cached_property
    def entry_bytes(self) -> int:
        """Keys and values of one token in all layers: latent ones multiplied out, windows as long as the rest. [bytes]."""
        width = 0
        for layer, places in self.model.main.layer_groups:
            for part in layer.parts:
                if isinstance(part, LatentAttention):
                    width += len(places) * part.num_heads * (part.nope_dim + part.rope_dim + part.value_dim)
                elif isinstance(part, Attention):
                    width += len(places) * part.num_kv_heads * (part.head_dim + part.value_dim)
        return width * self.plan.compute_bytes

    @cached_property
    def largest_packed(self) -> tuple[int, int]:
        """The elements of the largest packed matrix, and what it takes packed. [elements], [bytes]."""
        found = (0, 0)
        for component in self.model.loaded:
            groups = [(component.tensors, None), *((layer.all_tensors, at[0]) for layer, at in component.layer_groups)]
            for tensors, place in groups:
                for tensor in tensors:
                    stored = self.plan.stored(component, place, tensor)
                    if any(not form.plain for form, _ in stored):
                        packed = sum(form.bytes_of(shape).total for form, shape in stored)
                        found = max(found, (tensor.size, packed))
        return found

    def ledger(self, shape: Generation) -> Ledger:
        """Return all that lives on the device."""
        element, main = self.plan.compute_bytes, self.model.main
        items = [
            self.plan.item(self.model, PHASES),
            item(
                "kv_cache", kv.kv_cache_bytes, phases=PHASES, basis="exact", note=self.plan.compute_dtype,
                source=f"{MODEL}: set_kv_cache, before the weights are read, for all tokens to come",
                num_seqs=shape.num_seqs, num_tokens=shape.total, bytes_per_token=self.entry_bytes,
                num_window_tokens=0, window_bytes_per_token=0, fixed_bytes=0,
            ),
            item(
                "temporary", act.attention_mask_bytes, phases=PHASES, basis="exact",
                source=f"{MODEL}: build_mask_cache, one byte for each pair of tokens",
                num_masks=1, num_seqs=1, num_queries=shape.total, num_keys=shape.total, element_bytes=1,
            ),
            item(
                "logits", act.generated_logits_bytes, phases=("prefill",), basis="exact",
                source=f"{GENERATE}: logits of every position of the prompt",
                num_rows=shape.num_seqs * shape.prompt, num_seqs=0, vocab_size=main.vocab_size, element_bytes=element, copies=0,
            ),
        ]  # fmt: skip
        if self.packs:
            items += self._packing()
        items += self._pass("prefill", shape.num_seqs, shape.prompt, shape.total)
        items += self._pass("decode", shape.num_seqs, 1, shape.total)
        items = [each for each in items if each.bytes]
        return Ledger(PHASES, (*items, *runtime.items(self.ask.device, phases=PHASES, first="prefill", alive=items)))

    def _packing(self) -> list[Item]:
        size, packed = self.largest_packed
        element = self.plan.compute_bytes
        found = [
            item(
                "temporary", packing_bytes, phases=("load",), basis="modelled",
                source="Lightning Fabric, plugins/precision/bitsandbytes.py: each matrix is packed from an fp16 copy",
                num_params=size, packed=packed,
            )
        ]  # fmt: skip
        if "int8" not in (self.plan.quantization or ""):
            found.append(
                item(
                    "temporary", unpacked_bytes, phases=("prefill",), basis="modelled",
                    source="bitsandbytes, MatMul4Bit: the largest matrix unpacked to fp16, then in the model's dtype",
                    num_params=size, element_bytes=0 if self.plan.compute_dtype == "fp16" else element,
                )
            )  # fmt: skip
        return found

    def _pass(self, phase: str, num_seqs: int, queries: int, keys: int) -> list[Item]:
        """Return one layer's tensors, keys and values of all positions repeated for its heads, and its mask as a sum."""
        main, element = self.model.main, self.plan.compute_bytes
        widths = act.widest(main)
        size = act.activation_bytes(
            num_tokens=num_seqs * queries, block_width=widths.block, rotary_width=widths.rotary, element_bytes=element
        )
        found = [
            item(
                "activations", act.activation_bytes, phases=(phase,), basis="modelled", low=size * 4 // 5, high=size * 3 // 2,
                source="one layer's tensors alive at once, as an eager program has them",
                num_tokens=num_seqs * queries, block_width=widths.block, rotary_width=widths.rotary, element_bytes=element,
            ),
            item(
                "temporary", act.attention_mask_bytes, phases=(phase,), basis="modelled", low=0,
                source=f"{MODEL}: the rows of the mask for these positions, and a kernel's sum of the model's dtype",
                num_masks=1, num_seqs=1, num_queries=queries, num_keys=keys, element_bytes=1 + element,
            ),
        ]  # fmt: skip
        grouped = [
            part
            for layer, _ in main.layer_groups
            for part in layer.parts
            if isinstance(part, Attention) and 1 < part.num_kv_heads < part.num_heads
        ]
        if grouped:
            part = max(grouped, key=lambda each: each.num_heads * (each.head_dim + each.value_dim))
            found.append(
                item(
                    "temporary", act.repeated_kv_bytes, phases=(phase,), basis="modelled",
                    source=f"{MODEL}: keys and values repeated for every query head",
                    num_seqs=num_seqs, num_tokens=keys, num_heads=part.num_heads, head_dim=part.head_dim,
                    value_dim=part.value_dim, element_bytes=element,
                )
            )  # fmt: skip
        return found


def _check(ask: Ask) -> None:
    check_one_device(ask, "litgpt")
    if ask.architecture.decoder is None or ask.architecture.component("encoder") is not None:
        raise RequestError(
            tr("engine: LitGPT runs models that generate from tokens alone, and this one does not."),
            field="engine",
            hint=tr('Use "engine": "transformers".'),
        )


def _plan(ask: Ask, model: Architecture) -> WeightPlan:
    """Return how weights are stored: in bf16 where the device computes in it and nothing else is asked for."""
    request = ask.request
    if request.dtype is None:
        old = ask.device is not None and float(ask.device.compute_capability or BF16_SINCE) < BF16_SINCE
        request = msgspec.structs.replace(request, dtype="fp16" if old else "bf16")
    plan = replace(ask, architecture=model, request=request).weight_plan()
    if plan.quantization and (plan.from_config or not plan.quantization.startswith(PACKED)):
        raise RequestError(
            tr("quantization: LitGPT does not run '%(value)s'.", value=plan.quantization),
            field="quantization",
            hint=tr("Use one of: %(names)s.", names="bnb-nf4, bnb-nf4-dq, bnb-fp4, bnb-int8"),
        )
    return plan.packing_head()


def estimate(ask: Ask) -> Answer:
    """Return the ledger of the device and what fits at most."""
    settings: LitgptSettings = check(LitgptSettings, ask.request.settings, path="settings.")
    _check(ask)
    warnings: list[str] = []
    length = default_length(ask.architecture, settings.context_length, warnings)
    new = settings.max_new_tokens
    check_answer(length, new, "max_new_tokens")
    model = untied(ask.architecture)
    run = Run(ask, model, _plan(ask, model))
    shape = Generation(settings.batch_size, length - new, length)
    ledger = run.ledger(shape)
    pool = run.entry_bytes * shape.total * shape.num_seqs
    return Answer(
        ledgers=((ledger, 1),),
        settings={name: getattr(settings, name) for name in settings.__struct_fields__} | {"context_length": length},
        resolved={"dtype": run.plan.dtype, "quantization": run.plan.quantization},
        kv_cache={
            "bytes_per_token": run.entry_bytes,
            "bytes_per_sequence": run.entry_bytes * shape.total,
            "pool_bytes": pool,
            "tokens": shape.total * shape.num_seqs,
            "max_concurrency": float(shape.num_seqs),
            "dtype": run.plan.compute_dtype,
        },
        report=_report(run, ledger, pool),
        limits=limits(ask, shape, run.ledger),
        warnings=(*run.plan.warnings, *warnings),
    )


def _report(run: Run, ledger: Ledger, pool: int) -> dict[str, Any]:
    peak = ledger.peak()
    return {
        "weights_bytes": run.plan.of(run.model).total,
        "activation_bytes": max(line.bytes for line in ledger.items if line.term == "activations"),
        "kv_cache_bytes": pool,
        "kv_bytes_per_token": run.entry_bytes,
        "peak_allocated_bytes": peak.allocated,
        "peak_reserved_bytes": peak.reserved,
        "peak_used_bytes": peak.used,
    }


__all__ = ["estimate", "packing_bytes", "unpacked_bytes"]
