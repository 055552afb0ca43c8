"""What the CUDA backend says of an operation: whether it has a kernel, what working memory that takes, what it fuses.

Working memory lies behind the result: flash attention keeps fp16 copies of keys and values that are stored otherwise, and
rows of quantised tensors are padded to 512 elements. Operations that are fused run at the end of their group, so what
they read has to live until then.

References
----------
.. [1] llama.cpp at 0c1e57098, ``ggml/src/ggml-cuda/ggml-cuda.cu`` and ``fattn.cu``; the kernels of compute capability 8.9
       and later.
"""

from __future__ import annotations

from vrameter.engines.llama_cpp.graph.scheduler import Split
from vrameter.engines.llama_cpp.graph.tensors import Node, row_bytes
from vrameter.model.gguf_types import BLOCKS

ROW_PADDING = 512
KEY_STRIDE = 256
_SAME_WIDTH = frozenset({40, 64, 72, 80, 96, 112, 128, 256})
# width of a key: width of the value, and what the ratio of heads has to be a multiple of
_OTHER_WIDTHS = {192: (128, 8), 320: (256, 32), 512: (512, 1), 576: (512, 1)}
_CACHE_TYPES = frozenset({"f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"})
_WIDE_ROWS = frozenset({"iq4_nl", "mxfp4"})
_NO_ROWS = frozenset({"nvfp4", "q8_k"})
_FUSED_EXPERTS = range(2, 16)
_SCAN_STATES = frozenset({96, 128, 256})


def padding_bytes(kind: str, width: int) -> int:
    """Return what a quantised tensor gets so that its last row is a multiple of 512 elements. [bytes].

    >>> padding_bytes("q8_0", 896), padding_bytes("q8_0", 1024), padding_bytes("f16", 100)
    (136, 0, 0)
    """
    if BLOCKS[kind][0] == 1 or width % ROW_PADDING == 0:
        return 0
    return row_bytes(kind, ROW_PADDING - width % ROW_PADDING)


def _padded(size: int) -> int:
    return -(-size // 128) * 128


def size_of(node: Node) -> int:
    """Return what a tensor takes in a GPU's buffer. [bytes]."""
    size = node.num_bytes
    if node.op == "flash_attn":
        keys, values = node.src[1], node.src[2]
        copies = _copies_keys(node)
        if copies and keys.type != "f16":
            size = _padded(size) + 2 * keys.num_elements
        same = values.root is not None and values.root is (keys.root or keys) and values.offset == keys.offset
        if copies and values.type != "f16" and not same:
            size = _padded(size) + 2 * values.num_elements
    return size + padding_bytes(node.type, node.ne[0])


def _shares_heads(node: Node) -> bool:
    """Say whether flash attention works on several query heads of one key head at once."""
    query, keys, values, mask = node.src[:4]
    ratio = query.ne[2] // keys.ne[2]
    if ratio < 2 or keys.ne[1] % KEY_STRIDE:
        return False
    plain = [each for each in (query, keys, values, mask) if BLOCKS[each.type][0] == 1]
    return all(step % 16 == 0 for each in plain for step in each.nb[1:])


def flash_attention_runs(node: Node) -> bool:
    """Say whether there is a flash attention kernel for widths and types."""
    query, keys, values = node.src[:3]
    width, value_width = keys.ne[0], values.ne[0]
    if width in _SAME_WIDTH:
        fits = value_width == width
    elif width in _OTHER_WIDTHS:
        wanted, multiple = _OTHER_WIDTHS[width]
        fits = value_width == wanted and (query.ne[2] // keys.ne[2]) % multiple == 0 and _shares_heads(node)
    else:
        fits = False
    return fits and keys.type in _CACHE_TYPES and values.type in _CACHE_TYPES


def _copies_keys(node: Node) -> bool:
    """Say whether flash attention copies keys and values that are not fp16: all but the kernel for single tokens do."""
    if not flash_attention_runs(node):
        return False
    query, keys, values = node.src[:3]
    width, rows = query.ne[0], query.ne[1]
    one_token_kernel = width <= 256 and width % 64 == 0 and width != 192 and keys.ne[1] % KEY_STRIDE == 0
    if not one_token_kernel:
        return True
    blocks = BLOCKS[keys.type][0] > 1 or BLOCKS[values.type][0] > 1
    if blocks:
        return rows > 2
    ratio = query.ne[2] // keys.ne[2]
    single = rows == 1 and query.ne[3] == 1 and not (ratio > 4 and (width >= 256 or keys.ne[1] >= 8192))
    return not (single or (rows == 1 and not _shares_heads(node)))


def supports(node: Node) -> bool:
    """Say whether a GPU has a kernel for an operation."""
    if node.op == "flash_attn":
        return flash_attention_runs(node)
    if node.op == "get_rows":
        kind, width = node.src[0].type, node.src[0].ne[0]
        return kind not in _NO_ROWS and (kind not in _WIDE_ROWS or width % 256 == 0)
    if node.op == "ssm_scan":
        held, decay, writes = node.src[0], node.src[3], node.src[4]
        if decay.ne[0] == 1:
            return held.ne[0] in _SCAN_STATES and held.ne[1] % 16 == 0
        return held.ne[0] == 16 and held.ne[1] == 1 and held.ne[2] % 128 == 0 and writes.ne[1] == 1
    if node.op == "ssm_conv":
        return node.src[0].ne[1] % 128 == 0
    if node.op == "mul_mat":
        return not (node.src[1].type == "f16" and node.src[0].type != "f16")
    if node.op == "set_rows":
        return node.type in _CACHE_TYPES or node.type == "iq4_nl"
    return True


# -- fused groups -------------------------------------------------------------------------------------


def kept(split: Split) -> dict[int, list[Node]]:
    """Return which tensors have to live until a node has been computed, by the id of that node."""
    nodes = split.nodes
    found: dict[int, list[Node]] = {}

    def keep(node: Node, until: Node) -> None:
        held = found.setdefault(id(until), [])
        if all(each is not node for each in held):
            held.append(node)

    index = 0
    while index < len(nodes):
        length, read = _weighted_sum(nodes, index)
        if length:
            for source in read:
                keep(source, nodes[index + length - 1])
            index += length - 1
        length = _choice_of_experts(nodes, index)
        if length and index + length < len(nodes):
            until = nodes[index + length]
            for node in nodes[index : index + length]:
                keep(node, until)
                for source in node.src:
                    keep(source, until)
            index += length - 1
        index += 1
    return found


def _weighted_sum(nodes: list[Node], start: int) -> tuple[int, tuple[Node, ...]]:
    """Return how many operations weigh and add the outputs of experts from here on, and what they read.

    The outputs may be scaled by expert before they are weighed. 0 where other operations stand here.
    """
    first = nodes[start]
    read = _weighed(first)
    if not read:
        return 0, ()
    count = 1
    if start + 1 < len(nodes) and nodes[start + 1].op == "mul" and nodes[start + 1].src[0] is first:
        second = _weighed(nodes[start + 1])
        if second:
            first, read, count = nodes[start + 1], (*read, second[1]), 2
    used = first.ne[1]
    if used not in _FUSED_EXPERTS:
        return 0, ()
    length = 2 * used + count - 1
    if start + length > len(nodes):
        return 0, ()
    middle = start + count + used
    views, sums = nodes[start + count : middle], nodes[middle : start + length]
    if any(each.op != "view" or each.src[0] is not first for each in views) or any(each.op != "add" for each in sums):
        return 0, ()
    return length, read


def _weighed(node: Node) -> tuple[Node, ...]:
    """Return outputs of experts and their weights where an operation multiplies them, else nothing."""
    if node.op != "mul" or node.type != "f32" or len(node.src) != 2:
        return ()
    outputs, weights = node.src
    if weights.ne != (1, *node.ne[1:]) or outputs.ne != node.ne or not (outputs.contiguous and weights.contiguous):
        return ()
    return outputs, weights


_NORMALISED = ("reshape", "sum_rows", "clamp", "div", "reshape")


def _choice_of_experts(nodes: list[Node], start: int) -> int:
    """Return how many operations choose experts and weigh them from here on; 0 where others stand here."""
    if nodes[start].op not in ("sigmoid", "soft_max"):
        return 0
    probs = nodes[start]
    if probs.op == "soft_max" and len(probs.src) > 1:
        return 0
    names = [node.op for node in nodes[start : start + 14]]
    at = 1
    if names[at : at + 1] != ["reshape"] or nodes[start + 1].src[0] is not probs:
        return 0
    at += 1
    selection = probs
    if names[at : at + 1] == ["add"] and nodes[start + at].src[0] is probs:
        selection = nodes[start + at]
        at += 1
    if names[at : at + 3] != ["argsort", "view", "get_rows"] or nodes[start + at].src[0] is not selection:
        return 0
    experts = nodes[start + at].ne[0]
    if not ((experts & (experts - 1) == 0 and experts <= 512) or experts in (288, 576)):
        return 0
    chosen = nodes[start + at + 2]
    if chosen.src[0] is not nodes[start + 1]:
        return 0
    at += 3
    if tuple(names[at : at + 5]) == _NORMALISED and nodes[start + at].src[0] is chosen:
        at += 5
    if names[at : at + 1] == ["scale"] and nodes[start + at].src[0] is nodes[start + at - 1]:
        at += 1
    return at
