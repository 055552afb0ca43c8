"""The tensors of a compute graph: shapes, strides, views and sizes, as ggml derives them.

Nothing is computed. A `Node` knows its type, its extents (`ne`, the fastest first) and its strides in bytes (`nb`); an
operation makes a node from its sources. Views share the memory of the tensor they look into (`root`). Weights and caches
have a `home`: the device whose buffer holds them.

References
----------
.. [1] llama.cpp at 0c1e57098, ``ggml/src/ggml.c``: the shape of every operation's result.
"""

from __future__ import annotations

from vrameter.model.gguf_types import BLOCKS

Shape = tuple[int, int, int, int]
VIEWS = frozenset({"view", "reshape", "permute", "transpose"})


class Node:
    """One tensor of a graph.

    Parameters
    ----------
    op
        What makes it; ``none`` for inputs, weights and caches.
    src
        Its sources, in the order in which a graph visits them.
    root
        The tensor whose memory it looks into, None where it has its own.
    home
        Index of the device whose buffer holds it already; None where the planner places it.
    weight
        Whether that buffer holds weights.
    pinned
        Index of the device that it is told to run on, None where the scheduler chooses.
    device
        Index of the device that the scheduler gave it, -1 before.
    children, views, allocated, address, buffer
        What the allocator knows of it while it walks the graph.
    """

    __slots__ = (
        "address",
        "allocated",
        "buffer",
        "children",
        "device",
        "home",
        "input",
        "nb",
        "ne",
        "offset",
        "op",
        "output",
        "pinned",
        "root",
        "src",
        "type",
        "views",
        "weight",
    )  # fmt: skip

    def __init__(
        self,
        op: str,
        kind: str,
        ne: Shape,
        nb: Shape,
        src: tuple[Node, ...] = (),
        root: Node | None = None,
        offset: int = 0,
    ) -> None:
        self.op = op
        self.type = kind
        self.ne = ne
        self.nb = nb
        self.src = src
        self.root = root
        self.offset = offset
        self.home: int | None = None
        self.weight = False
        self.input = False
        self.output = False
        self.pinned: int | None = None
        self.device = -1
        self.children = 0
        self.views = 0
        self.allocated = False
        self.address = 0
        self.buffer = 0

    @property
    def num_elements(self) -> int:
        """Elements."""
        a, b, c, d = self.ne
        return a * b * c * d

    @property
    def num_bytes(self) -> int:
        """Bytes from its first element to its last."""
        ne, nb = self.ne, self.nb
        if 0 in ne:
            return 0
        block, size = BLOCKS[self.type]
        if block == 1:
            total = size + (ne[0] - 1) * nb[0]
        else:
            total = ne[0] * nb[0] // block
        return total + (ne[1] - 1) * nb[1] + (ne[2] - 1) * nb[2] + (ne[3] - 1) * nb[3]

    @property
    def num_rows(self) -> int:
        """Rows."""
        return self.ne[1] * self.ne[2] * self.ne[3]

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie one after the other."""
        return self.nb == strides(self.type, self.ne)


def row_bytes(kind: str, width: int) -> int:
    """Return what a row of a type takes. [bytes].

    >>> row_bytes("q8_0", 128), row_bytes("f16", 128)
    (136, 256)
    """
    block, size = BLOCKS[kind]
    return width // block * size


def strides(kind: str, ne: Shape) -> Shape:
    """Return the strides of a contiguous tensor. [bytes]."""
    size = BLOCKS[kind][1]
    first = row_bytes(kind, ne[0])
    second = first * ne[1]
    return size, first, second, second * ne[2]


def shape(*ne: int) -> Shape:
    """Return extents with ones for those not given."""
    a, b, c, d = (*ne, 1, 1, 1, 1)[:4]
    return a, b, c, d


def new(op: str, kind: str, ne: Shape, *src: Node) -> Node:
    """Return a tensor with memory of its own."""
    return Node(op, kind, ne, strides(kind, ne), src)


def leaf(kind: str, *ne: int) -> Node:
    """Return an input, a weight or a cache."""
    extents = shape(*ne)
    return Node("none", kind, extents, strides(kind, extents))


def same(op: str, first: Node, *others: Node) -> Node:
    """Return a tensor of its first source's type and extents."""
    return new(op, first.type, first.ne, first, *others)


def view(source: Node, ne: Shape, nb: Shape, offset: int = 0, op: str = "view", src: tuple[Node, ...] = ()) -> Node:
    """Return a look into another tensor."""
    root = source.root or source
    return Node(op, source.type, ne, nb, src or (source,), root, offset + source.offset)


def view_1d(source: Node, width: int, offset: int = 0) -> Node:
    """Return a run of elements."""
    ne = shape(width)
    size = row_bytes(source.type, width)
    return view(source, ne, (source.nb[0], size, size, size), offset)


def view_2d(source: Node, width: int, rows: int, nb1: int, offset: int = 0) -> Node:
    """Return rows at a stride."""
    return view(source, shape(width, rows), (source.nb[0], nb1, nb1 * rows, nb1 * rows), offset)


def view_3d(source: Node, ne: tuple[int, int, int], nb1: int, nb2: int, offset: int = 0) -> Node:
    """Return a box at strides."""
    return view(source, shape(*ne), (source.nb[0], nb1, nb2, nb2 * ne[2]), offset)


def view_4d(source: Node, ne: Shape, nb1: int, nb2: int, nb3: int, offset: int = 0) -> Node:
    """Return a box of four dimensions at strides."""
    return view(source, ne, (source.nb[0], nb1, nb2, nb3), offset)


def reshape(source: Node, *ne: int) -> Node:
    """Return the same elements under other extents."""
    extents = shape(*ne)
    return view(source, extents, strides(source.type, extents), op="reshape")


def permute(source: Node, *axes: int) -> Node:
    """Return the same elements with axis i at place ``axes[i]``."""
    ne, nb = [0] * 4, [0] * 4
    for index, axis in enumerate(axes):
        ne[axis] = source.ne[index]
        nb[axis] = source.nb[index]
    return view(source, (ne[0], ne[1], ne[2], ne[3]), (nb[0], nb[1], nb[2], nb[3]), op="permute")


def transpose(source: Node) -> Node:
    """Return the same elements, rows and columns exchanged."""
    ne, nb = source.ne, source.nb
    return view(source, (ne[1], ne[0], ne[2], ne[3]), (nb[1], nb[0], nb[2], nb[3]), op="transpose")


def cont(source: Node, *ne: int) -> Node:
    """Return a contiguous copy, under other extents where they are given."""
    return new("cont", source.type, shape(*ne) if ne else source.ne, source)


def cast(source: Node, kind: str) -> Node:
    """Return a copy in another type."""
    return new("cpy", kind, source.ne, source)


def copy_into(source: Node, target: Node) -> Node:
    """Return `target` with `source` written into it."""
    return view(target, target.ne, target.nb, op="cpy", src=(source, target))


def set_rows(target: Node, source: Node, rows: Node) -> Node:
    """Return `target` with some rows written."""
    return view(target, target.ne, target.nb, op="set_rows", src=(source, rows, target))


def inplace(op: str, source: Node) -> Node:
    """Return an operation that writes over its source."""
    return view(source, source.ne, source.nb, op=op)


def mul_mat(weight: Node, source: Node) -> Node:
    """Return a product: rows of `weight` by columns of `source`."""
    return new("mul_mat", "f32", (weight.ne[1], source.ne[1], source.ne[2], source.ne[3]), weight, source)


def mul_mat_id(weights: Node, source: Node, ids: Node) -> Node:
    """Return a product with the matrices that `ids` choose."""
    return new("mul_mat_id", "f32", (weights.ne[1], ids.ne[0], source.ne[2], 1), weights, source, ids)


def get_rows(source: Node, rows: Node) -> Node:
    """Return chosen rows, in f32."""
    kind = "i32" if source.type == "i32" else "f32"
    return new("get_rows", kind, (source.ne[0], rows.ne[0], rows.ne[1], rows.ne[2]), source, rows)


def concat(first: Node, second: Node, axis: int) -> Node:
    """Return two tensors one after the other."""
    ne = list(first.ne)
    ne[axis] += second.ne[axis]
    return new("concat", first.type, (ne[0], ne[1], ne[2], ne[3]), first, second)


def repeat(source: Node, *ne: int) -> Node:
    """Return a tensor repeated to larger extents."""
    return new("repeat", source.type, shape(*ne), source)


def sum_rows(source: Node) -> Node:
    """Return the sum of each row."""
    return new("sum_rows", source.type, (1, *source.ne[1:]), source)


def glu(gate: Node, up: Node) -> Node:
    """Return a gated activation of two tensors."""
    return new("glu", gate.type, gate.ne, gate, up)


def glu_fused(source: Node) -> Node:
    """Return a gated activation of one tensor that holds both halves."""
    return new("glu", source.type, (source.ne[0] // 2, *source.ne[1:]), source)


def soft_max(source: Node, mask: Node | None = None, sinks: Node | None = None) -> Node:
    """Return the softmax of each row."""
    return same("soft_max", source, *(each for each in (mask, sinks) if each is not None))


def top_k(source: Node, count: int) -> Node:
    """Return the places of the largest elements: a view of a whole sort."""
    order = new("argsort", "i32", source.ne, source)
    return view(order, (count, *order.ne[1:]), order.nb)


def flash_attention(query: Node, key: Node, value: Node, mask: Node, sinks: Node | None) -> Node:
    """Return attention in one operation."""
    ne = (value.ne[0], query.ne[2], query.ne[1], query.ne[3])
    return new("flash_attn", "f32", ne, query, key, value, mask, *((sinks,) if sinks is not None else ()))
