"""torchtitan: FSDP2 over fp32 parameters, bf16 compute, selective recompute by operation.

References
----------
.. [1] pytorch/torchtitan, ``torchtitan/models``, ``parallelize_llama.py``.
.. [2] torchtitan 0.2, ``config/job_config.py``: AdamW fused, parameters in fp32, bf16 compute, every second layer recomputed, the whole
       loss at once; 0.3, ``models/*/config_registry.py``: recompute by operation and ``ChunkedLossWrapper`` of eight pieces.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.training.stacks import Stack, release

_DEFAULTS = {"optimizer": "adamw_torch_fused", "precision": "bf16-mixed", "attn_implementation": "sdpa"}
STACK = Stack(
    "torchtitan", loss="upcast", fsdp="fsdp2", repeats_kv=True, fused_steps=True, loss_pieces=8,
    defaults={**_DEFAULTS, "loss": "chunked"},
)  # fmt: skip
WHOLE_LOSS = replace(STACK, defaults={**_DEFAULTS, "loss": "full"}, loss_pieces=0)


def stack(name: str, version: str | None = None) -> Stack:
    """Return the stack; before 0.3 the loss was whole, and at the commit of its first report it was not compiled."""
    number = release(version)
    if version is None or (number is not None and number >= (0, 3)):
        return STACK
    return replace(WHOLE_LOSS, compiles_loss=False) if version.startswith("9dec370") else WHOLE_LOSS
