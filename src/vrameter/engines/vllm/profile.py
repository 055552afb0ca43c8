"""The peak of vLLM's profile run: what torch holds beyond the weights while a full step is tried.

The run passes `max_num_batched_tokens` tokens through the model, then draws a token for each of `max_num_seqs` rows.
Drawing usually needs more than the layers: logits in the model's dtype, in fp32, their probabilities, and as much noise;
older releases sort them. Buffers that stay (the matrix library's, those of experts, the images of the profile) count
in both.

References
----------
.. [1] vLLM 0.19, ``v1/worker/gpu_model_runner.py`` (``profile_run``, ``_dummy_sampler_run``), ``v1/sample/sampler.py``,
       ``v1/sample/ops/topk_topp_sampler.py`` and ``topk_topp_triton.py`` (a buffer of a row for each multiprocessor).
.. [2] PyTorch, ``aten/src/ATen/native/cuda/Sort.cu``: indices, a copy of them, and double buffers of keys and values; with
       fewer than 128 rows pairs of row and index instead.
.. [3] vLLM 0.19, ``model_executor/layers/fused_moe/fused_moe.py`` (``workspace_shapes``).
"""

from __future__ import annotations

from dataclasses import dataclass

from vrameter.engines import Values
from vrameter.engines.constants import constants
from vrameter.engines.vllm.versions import Rules
from vrameter.memory.weight_plan import WeightPlan
from vrameter.model.architecture import (
    Architecture,
    Component,
    FeedForward,
    LatentAttention,
    Recurrent,
    remembered,
)

SORT_BYTES, FULL_SORT_BYTES, FULL_SORT_ROWS = 36, 48, 128
DRAW_BYTES = 12
TRITON_ROWS = 8
LATENT_TOKENS = 65536
MULTIPROCESSORS = 132


def draw_bytes(*, num_rows: int, vocab_size: int, bytes_per_logit: int, buffer_rows: int) -> int:
    """Return what drawing a token for every row holds at its peak. [bytes].

    Formula::

        vocab_size * (num_rows * bytes_per_logit + buffer_rows * 4)

    Parameters
    ----------
    num_rows
        Sequences of the dummy batch. [rows]
    bytes_per_logit
        Logits in the model's dtype; then in fp32, their probabilities and noise: 12; or sorted: 36. [bytes]
    buffer_rows
        Rows of the kernel that cuts the distribution. [rows]

    Examples
    --------
    Llama 3.1 with 1024 sequences on an H100, 1.78 GiB of the 1.89 that the log shows:

    >>> draw_bytes(num_rows=1024, vocab_size=128256, bytes_per_logit=14, buffer_rows=132)
    1906397184
    """
    return vocab_size * (num_rows * bytes_per_logit + buffer_rows * 4)


def forward_bytes(
    *, num_tokens: int, mlp_width: int, residual_hundredths: int, hidden_size: int, element_bytes: int
) -> int:
    """Return what the layers hold at their peak. [bytes].

    Formula::

        num_tokens * (100 * mlp_width + residual_hundredths * hidden_size) * element_bytes // 100

    Parameters
    ----------
    mlp_width
        Elements per token while a feed-forward runs: both halves and their product. [elements]
    residual_hundredths
        Hidden widths alive beside it. [hundredths]
    """
    return num_tokens * (100 * mlp_width + residual_hundredths * hidden_size) * element_bytes // 100


def expert_buffer_bytes(
    *, num_tokens: int, experts_per_token: int, expert_width: int, hidden_size: int, element_bytes: int
) -> int:
    """Return the two work buffers of fused experts. [bytes].

    Formula::

        num_tokens * experts_per_token * (max(2 * expert_width, hidden_size) + max(expert_width, hidden_size)) * element_bytes
    """
    return (
        num_tokens
        * experts_per_token
        * (max(2 * expert_width, hidden_size) + max(expert_width, hidden_size))
        * element_bytes
    )


def profile_peak_bytes(
    *, drawing: int, hidden_states: int, forward: int, expert_buffers: int, workspace: int, images: int, encoder: int
) -> int:
    """Return the increase of torch's peak over the profile run. [bytes].

    Formula::

        max(max(drawing + hidden_states, forward) + expert_buffers + workspace + images, encoder)

    Parameters
    ----------
    drawing
        Of a token for every row (`draw_bytes`). [bytes]
    hidden_states
        Of all tokens, and twice of the rows drawn. [bytes]
    forward
        Of the layers (`forward_bytes`). [bytes]
    expert_buffers, workspace
        Buffers that stay: of experts, of the matrix library. [bytes]
    images
        Pixels of the dummy images and what the encoder makes of them, both kept until the end. [bytes]
    encoder
        Of the encoder of images, before the layers run. [bytes]
    """
    return max(max(drawing + hidden_states, forward) + expert_buffers + workspace + images, encoder)


@dataclass(frozen=True)
class Step:
    """The step that the profile tries.

    Parameters
    ----------
    num_tokens, num_seqs
        Tokens and sequences of one step.
    images
        Images in the dummy batch.
    multiprocessors
        Of the device, which size the buffer of the drawing kernel.
    workspace
        Of the matrix library. [bytes]
    drafts
        Tokens that a draft proposes for each sequence.
    max_model_len
        Tokens of the longest sequence.
    """

    num_tokens: int
    num_seqs: int
    images: int = 0
    multiprocessors: int = MULTIPROCESSORS
    workspace: int = 33_554_432
    drafts: int = 0
    max_model_len: int = 0


def logit_bytes(rules: Rules, num_rows: int, element_bytes: int, drafts: int) -> int:
    """Return what one logit takes at the peak of drawing. [bytes].

    Speculative decoding draws once more with logits of two rows a sequence at hand.
    """
    if drafts:
        element_bytes *= 3
    if rules.sampler == "sort" or num_rows < TRITON_ROWS:
        return element_bytes + (SORT_BYTES if num_rows >= FULL_SORT_ROWS else FULL_SORT_BYTES)
    return element_bytes + DRAW_BYTES


def buffer_rows(rules: Rules, num_rows: int, multiprocessors: int) -> int:
    """Return the rows of the drawing kernel's buffer: one a program, rounded to a power of two within the device."""
    if rules.sampler != "triton" or num_rows < TRITON_ROWS:
        return 0
    programs = min(multiprocessors, num_rows)
    return min(1 << (programs - 1).bit_length(), multiprocessors)


def peak_parts(
    share: Architecture, plan: WeightPlan, rules: Rules, step: Step, *, stages: int, is_last: bool
) -> Values:
    """Return the arguments of `profile_peak_bytes` on one rank."""
    main, element = share.main, plan.compute_bytes
    hidden, tokens = main.hidden_size, step.num_tokens
    rows = min(step.num_seqs, tokens)
    between = 2 * tokens * hidden * element if stages > 1 else 0
    draws = is_last and share.decoder is not None and main.vocab_size > 0
    width, experts = _widths(main)
    law = "v1_int8" if rules.engine == "v1" and _quantizes(plan) else rules.engine
    residual = constants().vllm.residual_hundredths[law]
    forward = forward_bytes(
        num_tokens=tokens, mlp_width=width, residual_hundredths=residual, hidden_size=hidden, element_bytes=element
    )
    if rules.engine == "v1":
        forward = max(forward, tokens * 3 * hidden * element + _latent_bytes(main, step, element))
    buffers = 0
    if experts and not any(form.name == "mxfp4" for form in plan.formats):
        buffers = expert_buffer_bytes(
            num_tokens=tokens,
            experts_per_token=experts[0],
            expert_width=experts[1],
            hidden_size=hidden,
            element_bytes=element,
        )
    if not rules.buffers_stay:
        forward, buffers = forward + buffers, 0
    images, encoder = _image_bytes(share, step, element, residual)
    return {
        "drawing": draw_bytes(
            num_rows=rows, vocab_size=main.vocab_size, bytes_per_logit=logit_bytes(rules, rows, element, step.drafts),
            buffer_rows=buffer_rows(rules, rows, step.multiprocessors),
        ) if draws else 0,
        "hidden_states": (tokens + 2 * rows) * hidden * element + between,
        "forward": forward + between,
        "expert_buffers": buffers,
        "workspace": step.workspace,
        "images": images,
        "encoder": encoder + step.workspace if encoder else 0,
    }  # fmt: skip


def _quantizes(plan: WeightPlan) -> bool:
    """Say whether inputs of matrices are quantised to int8, by kernels that write tensors of their own."""
    return any(form.name in ("int8", "w8a8") for form in plan.formats)


@remembered
def _widths(main: Component) -> tuple[int, tuple[int, int] | None]:
    """Return the widest feed-forward or mixer, and the experts per token and their width where there are some."""
    width, experts = 0, None
    for layer, _ in main.layer_groups:
        for part in layer.parts:
            if isinstance(part, FeedForward):
                dense = part.shared_size if part.num_experts else part.intermediate_size
                width = max(width, (3 if part.gated else 2) * dense)
                if part.num_experts:
                    found = (part.num_experts_per_token, part.intermediate_size)
                    experts = max(experts or found, found, key=lambda each: each[0] * each[1])
            elif isinstance(part, Recurrent):
                width = max(width, 2 * part.conv_channels + 3 * part.inner_size)
            elif isinstance(part, LatentAttention):
                width = max(width, part.num_heads * (part.nope_dim + part.rope_dim + part.value_dim))
            else:
                width = max(width, 2 * (part.num_heads + 2 * part.num_kv_heads) * part.head_dim)
    return width, experts


def _latent_bytes(main: Component, step: Step, element: int) -> int:
    """Return what latent attention unfolds of a cached context, which the profile allocates. [bytes]."""
    most = max(
        (
            part.num_heads * (part.nope_dim + part.value_dim)
            for layer, _ in main.layer_groups
            for part in layer.parts
            if isinstance(part, LatentAttention)
        ),
        default=0,
    )
    tokens = min(max(8 * step.max_model_len, 64 * step.num_seqs), LATENT_TOKENS)
    return most * tokens * element


@remembered
def largest_image(tower: Component) -> tuple[int, int]:
    """Return the patches and the tokens of the largest image that a tower takes."""
    assert tower.image is not None
    return tower.image.max_patches, tower.image.max_tokens


def _image_bytes(share: Architecture, step: Step, element: int, residual: int) -> tuple[int, int]:
    """Return what dummy images keep, and the peak of their encoder with it. [bytes]."""
    tower = share.component("vision")
    if tower is None or tower.image is None or not step.images:
        return 0, 0
    image = tower.image
    patches, most_tokens = largest_image(tower)
    pixels = (patches - image.extra_patches) * image.patch_size[0] * image.patch_size[1] * image.temporal_patch * 3
    tokens = step.images * most_tokens
    kept = step.images * pixels * element
    inner, _ = _widths(tower)
    encoder = forward_bytes(
        num_tokens=step.images * patches, mlp_width=inner, residual_hundredths=residual, hidden_size=tower.hidden_size,
        element_bytes=element,
    )  # fmt: skip
    return kept + tokens * share.main.hidden_size * element, kept + encoder


__all__ = [
    "Step", "buffer_rows", "draw_bytes", "expert_buffer_bytes", "forward_bytes", "largest_image", "logit_bytes", "peak_parts", "profile_peak_bytes",
]  # fmt: skip
