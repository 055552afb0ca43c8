"""Where each tensor of a graph lies: ggml's allocator, which decides what a compute buffer needs.

Tensors are placed in the order of execution and freed after their last use. A free block other than the last is taken
where it fits best; else the last, open-ended block grows the buffer. An operation that can work in place takes over the
memory of a source that nothing else needs. The size of a buffer is the furthest byte ever used, so holes count.

References
----------
.. [1] llama.cpp at 0c1e57098, ``ggml/src/ggml-alloc.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from vrameter.engines.llama_cpp.graph.tensors import Node

IN_PLACE = frozenset(
    {"fill", "scale", "add", "add_id", "sub", "mul", "div", "sqr", "sqrt", "log", "unary", "sigmoid", "softplus", "rope",
     "rms_norm", "clamp", "soft_max"}
)  # fmt: skip
ENDLESS = 1 << 62


class Space:
    """One buffer: its free blocks in order of address, and the furthest byte used.

    Examples
    --------
    >>> space = Space(alignment=128)
    >>> first, second, third = space.take(1000), space.take(256), space.take(100)
    >>> space.give(first, 1000)
    >>> space.take(512), space.high_water
    (0, 1408)
    """

    __slots__ = ("alignment", "blocks", "high_water")

    def __init__(self, alignment: int) -> None:
        self.alignment = alignment
        self.blocks: list[list[int]] = [[0, ENDLESS]]  # [offset, size]
        self.high_water = 0

    def padded(self, size: int) -> int:
        """Return a size rounded up to the alignment. [bytes]."""
        return -(-size // self.alignment) * self.alignment

    def take(self, size: int) -> int:
        """Return the address of a tensor of `size` bytes."""
        size = self.padded(size)
        blocks = self.blocks
        best, best_size = len(blocks) - 1, ENDLESS + 1
        for index in range(len(blocks) - 1):
            held = blocks[index][1]
            if size <= held <= best_size:
                best, best_size = index, held
        block = blocks[best]
        address = block[0]
        block[0] += size
        block[1] -= size
        if block[1] == 0:
            del blocks[best]
        end = address + size
        if end > self.high_water:
            self.high_water = end
        return address

    def give(self, address: int, size: int) -> None:
        """Free the memory of a tensor and join it to its free neighbours."""
        size = self.padded(size)
        end = address + size
        blocks = self.blocks
        for index, block in enumerate(blocks):
            if block[0] + block[1] == address:
                block[1] += size
                if index + 1 < len(blocks) and blocks[index + 1][0] == end:
                    block[1] += blocks[index + 1][1]
                    del blocks[index + 1]
                return
            if block[0] == end:
                block[0] = address
                block[1] += size
                return
            if block[0] > address:
                blocks.insert(index, [address, size])
                return
        blocks.append([address, size])


def allocate(
    nodes: Sequence[Node],
    node_buffers: Sequence[int],
    leafs: Iterable[tuple[Node, int]],
    spaces: Sequence[Space],
    size_of: Callable[[Node, int], int],
) -> None:
    """Place a graph's tensors in the buffers `spaces`, whose `high_water` then tells what they need.

    Parameters
    ----------
    nodes, node_buffers
        The graph in order of execution, and the buffer of each node.
    leafs
        Tensors that are placed first, with their buffers.
    size_of
        What a tensor takes in a buffer, the working memory of its operation included. [bytes]
    """

    def place(node: Node, buffer: int) -> None:
        if node.allocated or node.home is not None or node.root is not None:
            return
        node.allocated = True
        if node.op in IN_PLACE and take_over(node):
            return
        node.buffer = buffer
        node.address = spaces[buffer].take(size_of(node, buffer))

    def take_over(node: Node) -> bool:
        """Work in place of the first source that nothing else needs; a view is never taken over."""
        for parent in node.src:
            if not parent.allocated or parent.output or parent.children != 1 or parent.views:
                continue
            if parent.type != node.type or parent.ne != node.ne or parent.nb != node.nb:
                continue
            node.buffer, node.address = parent.buffer, parent.address
            parent.allocated = False
            space = spaces[parent.buffer]
            whole, needed = space.padded(size_of(parent, parent.buffer)), space.padded(size_of(node, node.buffer))
            if whole > needed:
                space.give(parent.address + needed, whole - needed)
            return True
        return False

    def free(node: Node) -> None:
        if not node.output:
            spaces[node.buffer].give(node.address, size_of(node, node.buffer))
            node.allocated = False

    for node, buffer in leafs:
        place(node, buffer)
    for node, buffer in zip(nodes, node_buffers, strict=True):
        if node.root is not None and node.op != "none":
            node.root.views += 1
        if node.input:
            place(node, buffer)
        for source in node.src:
            source.children += 1
            if source.input:
                place(source, buffer)
    for node, buffer in zip(nodes, node_buffers, strict=True):
        for parent in node.src:
            if not parent.allocated:
                place(parent, buffer)
        place(node, buffer)
        for parent in node.src:
            parent.children -= 1
            if parent.children or parent.views:
                continue
            root = parent.root
            if root is not None:
                root.views -= 1
                if not root.views and not root.children and root.allocated:
                    free(root)
            elif parent.allocated:
                free(parent)
