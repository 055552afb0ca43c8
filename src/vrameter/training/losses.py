"""From the last hidden state to the loss, as programs.

References
----------
.. [1] transformers 5.23, ``loss/loss_utils.py``: logits in the model's dtype, an fp32 copy, cross-entropy.
.. [2] torchtune 0.6, ``modules/loss``: cross-entropy over chunks of tokens.
.. [3] LitGPT 0.4, ``utils.py``: ``chunked_cross_entropy``; Lightning Fabric hands half-precision outputs on in fp32.
.. [4] Liger-Kernel 0.8, ``ops/fused_linear_cross_entropy.py``; E. Wijmans et al., "Cut Your Losses", 2024, arXiv:2411.09009.
.. [5] Megatron-LM, ``core/tensor_parallel/cross_entropy.py`` and ``core/fusions/fused_cross_entropy.py``: vocabulary-parallel,
       in fp32, softmax kept, its steps under ``torch.compile``; Transformer Engine, ``pytorch/cross_entropy.py``.
.. [6] transformers 4.37, ``models/qwen2/modeling_qwen2.py``: ``logits.float()``, then ``shift_logits``; ``trainer.py``:
       ``compute_loss`` returns the loss alone.
.. [7] AnswerDotAI/fsdp_qlora, ``train.py``: ``output = model(...)`` stays until the next batch.
.. [8] torchtitan 0.3, ``components/loss.py``: ``ChunkedLossWrapper``.
.. [9] TRL 1.16, ``kernels/chunked_logprob.py``, ``trainer/utils.py``: ``add_fused_lm_head``.
"""

from __future__ import annotations

from vrameter.model.architecture import Tensor
from vrameter.training.graph import FIXED, Storage, Value
from vrameter.training.programs.scene import Scene
from vrameter.units import ceil_div

# Tokens and columns of the vocabulary in one tile of TRL's log-probabilities.
TILE = (4096, 32768)


def full(
    scene: Scene, x: Value, head: Tensor, vocab: int, *, shifts: bool = False, holds: bool = False, mixed: bool = True
) -> Value | None:
    """Run the plain loss: all logits, their fp32 copy, the log-softmax that is kept.

    Before version 4.45 transformers cut the last position off by a copy (`shifts`) [6]_. The output with the logits goes
    when the loss is handed on, as in transformers' Trainer, or stays through the backward pass where the loop still
    names it (`holds`) [7]_. Code of a model's own that does not widen its logits leaves that to autocast (`mixed`).
    """
    graph = scene.graph
    logits = scene.linear(x, head, outputs=vocab)
    if scene.traits.softcap:
        logits = graph.pointwise(logits, keeps="nothing")
        logits = graph.pointwise(logits, keeps="output")
        logits = graph.pointwise(logits, keeps="nothing")
    if shifts and not scene.traits.widens_logits:
        _narrow(scene, logits, mixed=mixed)
        return None
    upcast = graph.cast(logits, 4)
    if not shifts:
        finish(scene, graph.pointwise(upcast, keeps="output"))
        return None
    del logits
    copy = graph.op([upcast])
    logs = graph.pointwise(copy, keeps="output")
    del copy
    if not holds:
        del upcast
        finish(scene, logs)
        return None
    finish(scene, logs)
    return upcast


def _narrow(scene: Scene, logits: Value, *, mixed: bool) -> None:
    """Run a loss on logits as they are, the last position cut off by a copy; autocast alone widens them."""
    graph = scene.graph
    copy = graph.op([logits])
    wide = graph.cast(copy, 4) if mixed else copy
    logs = graph.pointwise(wide, keeps="output")
    del copy, wide, logits
    finish(scene, logs)


def finish(scene: Scene, logs: Value) -> None:
    """Pick the labels' log-probabilities: its gradient is as large as they are."""
    graph = scene.graph
    picked = graph.op([logs], 1, element=logs.element, saves=[logs])
    loss = graph.op([picked], 1, rows=1)
    graph.seed(loss)


def fabric(scene: Scene, x: Value, head: Tensor, vocab: int, chunk: int) -> Value:
    """Run LitGPT's loss: logits of all chunks, handed on in fp32, and their log-softmax, chunk by chunk.

    Under autocast each chunk's product turns a frozen matrix to half precision anew, and keeps it.
    """
    graph, use, auto = scene.graph, scene.use(head), scene.numbers.autocast
    logits = scene.head_linear(x, head, vocab)
    if graph.nodes and auto and not (use.trained or use.unpacked) and use.element != auto:
        again = ceil_div(scene.length, chunk or scene.length) - 1
        graph.nodes[-1].saved.append(Storage(graph, again * head.size * auto, FIXED))
    if scene.traits.softcap:
        logits = graph.pointwise(graph.pointwise(logits, keeps="nothing"), keeps="output")
        logits = graph.pointwise(logits, keeps="nothing")
    handed = graph.op([logits], element=4, piecewise=True)
    del logits
    logs = graph.new(handed.rows, vocab, 4)
    picked = graph.op([handed], 1, saves=[logs], piecewise=True, work=scene.use(head).unpacked)
    del logs
    graph.seed(graph.op([picked], 1, rows=1))
    return handed


def parallel(scene: Scene, x: Value, head: Tensor, vocab: int, *, compiled: bool = False) -> None:
    """Run Megatron's loss: an fp32 copy of the logits turned into the softmax in place, gradients in its place.

    Its fused form is the same, compiled: what the compiler makes functional stands beside the copy that it replaces.
    Transformer Engine's writes fp32 gradients beside the logits (since July 2026; over them before).
    """
    graph = scene.graph
    logits = scene.gathered(graph.linear(x, scene.weight(head), vocab))
    soft = graph.new(logits.rows, vocab, 4)
    if compiled:
        graph.touch(soft.bytes)
    loss = graph.op([logits], 1, element=4, saves=[soft])
    del logits, soft
    graph.seed(graph.op([loss], 1, rows=1))


def chunked(scene: Scene, x: Value, head: Tensor, vocab: int, chunk: int, *, compiled: bool = False) -> None:
    """Run the loss over chunks of tokens: logits whole in the model's dtype, fp32 copies one chunk at a time.

    The log-softmax of every chunk is kept in fp32; a compiled loss makes it again from the logits, which are its input, so that
    it cannot write a chunk's gradient over them. Each chunk's gradient of the head stands beside the sum of those before it.
    """
    graph = scene.graph
    logits = scene.linear(x, head, outputs=vocab)
    rows = min(chunk or x.rows, x.rows)
    space = rows * vocab * (logits.element if compiled else 8)
    again = head.size * scene.use(head).element if scene.use(head).trained and rows < x.rows else 0
    if not compiled:
        graph.touch(space)
    kept = logits if compiled else graph.new(logits.rows, vocab, 4)
    loss = graph.op([logits], 1, element=4, saves=[kept], work=space + again, piecewise=True)
    del logits, kept
    graph.seed(graph.op([loss], 1, rows=1))


def fused(scene: Scene, x: Value, head: Tensor, vocab: int) -> None:
    """Run a fused linear cross-entropy: logits of one chunk at a time, gradients made in the forward pass."""
    graph, use = scene.graph, scene.use(head)
    width = x.width
    rows = liger_chunk(x.rows, vocab, width)
    made = graph.new(x.rows, width, x.element)
    weight_grad = Storage(graph, vocab * width * x.element, FIXED) if use.trained else None
    graph.touch(rows * vocab * (x.element + 8) + (vocab * width * x.element if use.trained else 0))
    loss = graph.op([x], 1, rows=1, element=4, saves=[made])
    if weight_grad is not None and graph.nodes:
        graph.nodes[-1].saved.append(weight_grad)
    graph.seed(loss)


def tiled(scene: Scene, x: Value, head: Tensor, vocab: int) -> None:
    """Run TRL's log-probabilities: logits of one tile of tokens and vocabulary at a time, in both passes.

    The positions that count are copied and kept with four numbers each; their gradient and the head's are summed in fp32.
    """
    graph, use = scene.graph, scene.use(head)
    tile = min(x.rows, TILE[0]) * min(vocab, TILE[1]) * scene.numbers.compute
    copy = graph.op([x])
    graph.touch(tile)
    summed = 4 * (x.rows * x.width + (head.size if use.trained else 0))
    logs = graph.op(
        [copy], 1, element=4, saves=[copy, graph.new(x.rows, 4, 4)], work=tile + summed, weights=[scene.weight(head)]
    )
    graph.seed(graph.op([logs], 1, rows=1))


def in_pieces(scene: Scene, x: Value, head: Tensor, vocab: int, pieces: int, *, compiled: bool = False) -> None:
    """Run output layer and loss forwards and backwards for one piece of the tokens after another.

    The hidden state is copied to the pieces, its gradient gathered in fp32 and then cast; the head's gradient grows beside that of
    the piece. Of a piece stand its logits, their fp32 copy, the log-softmax and two gradients; compiled, the logits and one fp32.
    """
    graph, use = scene.graph, scene.use(head)
    rows = -(-x.rows // pieces)
    space = rows * vocab * (x.element + (4 if compiled else 16))
    space += 2 * head.size * use.grad_element if use.trained else 0
    graph.touch(x.bytes + x.rows * x.width * 4 + space)
    made = graph.new(x.rows, x.width, x.element)
    weight_grad = Storage(graph, head.size * use.grad_element, FIXED) if use.trained else None
    loss = graph.op([x], 1, rows=1, element=4, saves=[made])
    if weight_grad is not None and graph.nodes:
        graph.nodes[-1].saved.append(weight_grad)
    graph.seed(loss)


def liger_chunk(tokens: int, vocab: int, width: int) -> int:
    """Return the tokens that Liger's fused loss takes at a time. [tokens].

    >>> liger_chunk(4096, 128256, 4096)
    128
    """
    wanted = ceil_div(tokens, ceil_div(vocab, width))
    size = 1
    while size < wanted:
        size *= 2
    return size


__all__ = ["chunked", "fabric", "finish", "full", "fused", "in_pieces", "liger_chunk", "parallel", "tiled"]
