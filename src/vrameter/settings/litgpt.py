"""Inference with LitGPT, under the names of `litgpt generate`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class LitgptSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inference with LitGPT, under the names of `litgpt generate`."""

    batch_size: Annotated[int, Meta(ge=1, le=2**20, description="sequences at once [sequences]")] = 1
    context_length: (
        Annotated[
            int, Meta(ge=1, le=2**30, description="tokens of one sequence at its end, prompt and answer [tokens]")
        ]
        | None
    ) = None
    max_new_tokens: Annotated[
        int, Meta(ge=0, le=2**30, description="tokens of these that are generated; the rest is the prompt [tokens]")
    ] = 50
