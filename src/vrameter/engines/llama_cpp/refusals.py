"""What llama.cpp refuses to start with, in its terms, and what would do instead.

References
----------
.. [1] llama.cpp at 0c1e57098, ``src/llama-context.cpp`` (``llama_init_from_model``) and ``src/llama-kv-cache.cpp``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import Attention
from vrameter.model.gguf_types import BLOCKS

if TYPE_CHECKING:
    from vrameter.engines.llama_cpp.buffers import Context, Planned


def check_context(planned: Planned, context: Context, *, flash_asked: bool | None) -> None:
    """Refuse a context that the program refuses.

    Parameters
    ----------
    flash_asked
        Flash attention as it was asked for; None leaves it to the program, which then checks block sizes as if it were on.

    Raises
    ------
    RequestError
        With the program's reason and the nearest setting that it takes.
    """
    keys, values = context.cache_type_k, context.cache_type_v
    if planned.latent and keys != values:
        raise RequestError(
            tr("settings.cache_type_v: this model does not support different K (%(k)s) and V (%(v)s) cache types.", k=keys, v=values),
            field="settings.cache_type_v",
            hint=tr('Give "cache_type_v": "%(type)s", or "cache_type_k": "%(other)s".', type=keys, other=values),
        )  # fmt: skip
    if BLOCKS[values][0] > 1 and flash_asked is False and not planned.encoder:
        raise RequestError(
            tr("settings.cache_type_v: a quantised V cache (%(type)s) requires flash attention.", type=values),
            field="settings.cache_type_v",
            hint=tr('Give "flash_attn": true, or "cache_type_v": "f16".'),
        )
    if flash_asked is not False:
        _check_blocks(planned, context)
    if context.n_outputs_max < context.n_parallel:
        raise RequestError(
            tr(
                "settings.n_outputs_max: %(value)s rows are fewer than the %(parallel)s sequences that each need one.",
                value=context.n_outputs_max,
                parallel=context.n_parallel,
            ),
            field="settings.n_outputs_max",
            hint=tr('Give "n_outputs_max": %(least)s or more.', least=context.n_parallel),
        )


def _check_blocks(planned: Planned, context: Context) -> None:
    """Refuse quantised caches whose blocks do not divide a head, which only models with attention can have."""
    parts = [
        part
        for layer in planned.layers
        for part in layer.parts
        if isinstance(part, Attention) and part.scope not in ("encoder", "cross")
    ]
    for name, kind, widths in (
        ("k", context.cache_type_k, {part.head_dim for part in parts}),
        ("v", context.cache_type_v, {part.value_dim for part in parts}),
    ):
        block = BLOCKS[kind][0]
        for width in sorted(widths):
            if width % block:
                raise RequestError(
                    tr(
                        "settings.cache_type_%(name)s: %(type)s with its blocks of %(block)s does not divide the model's heads of %(width)s.",
                        name=name, type=kind, block=block, width=width,
                    ),
                    field=f"settings.cache_type_{name}",
                    hint=tr('Give "cache_type_%(name)s": "f16".', name=name),
                )  # fmt: skip


__all__ = ["check_context"]
