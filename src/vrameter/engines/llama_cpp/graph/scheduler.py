"""Which device runs which operation, and what is copied between them: ggml's scheduler.

Operations go where their weights are; the rest follows its neighbours, GPUs first. Where the device changes a new split
begins, and what it reads from elsewhere is copied into its buffer: inputs of the graph, results of other devices, and
weights that stay in host memory while a large batch is computed on a GPU. With pipeline parallelism every copy exists
four times.

References
----------
.. [1] llama.cpp at 0c1e57098, ``ggml/src/ggml-backend.cpp``, ``ggml_backend_sched_split_graph``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vrameter.engines.llama_cpp.graph.allocator import Space, allocate
from vrameter.engines.llama_cpp.graph.tensors import VIEWS, Node

PIPELINE_COPIES = 4
OFFLOAD_ROWS = 32
GPU_ALIGNMENT, HOST_ALIGNMENT = 128, 32


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of a context: `num_gpus` GPUs, then the host, which is the last.

    Parameters
    ----------
    supports
        Whether a GPU has a kernel for an operation.
    size_of
        What a tensor takes in a GPU's buffer. [bytes]
    op_offload
        Whether operations on weights in host memory are computed on the first GPU for large batches.
    pipeline
        Whether every input of a split exists four times.
    """

    num_gpus: int
    supports: Callable[[Node], bool]
    size_of: Callable[[Node], int]
    op_offload: bool = True
    pipeline: bool = False

    @property
    def host(self) -> int:
        """Index of the host."""
        return self.num_gpus


class Graph:
    """A compute graph: operations in order of execution, and the leafs that they read.

    `expand` appends what a node needs and the node itself, sources first and from the left, as
    ``ggml_build_forward_expand`` does: the order decides lifetimes.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.leafs: list[Node] = []
        self.alike: dict[int, int] = {}
        """By the id of a leaf, how many more like it there are that nothing here reads."""
        self._seen: set[int] = set()

    def expand(self, node: Node) -> Node:
        """Append a node after all it depends on, and return it."""
        seen = self._seen
        if id(node) in seen:
            return node
        seen.add(id(node))
        for source in node.src:
            if id(source) not in seen:
                self.expand(source)
        (self.leafs if node.op == "none" else self.nodes).append(node)
        return node


def batch_rows(node: Node) -> int:
    """Return how many tokens an operation works on, as the offloading rule counts them."""
    if node.op == "get_rows":
        return 0
    if node.op == "mul_mat":
        return node.ne[1]
    if node.op in ("mul_mat_id", "rope"):
        return node.ne[2]
    return node.num_rows


@dataclass(slots=True)
class Split:
    """A run of operations on one device, and what has to be copied to it."""

    device: int
    nodes: list[Node]
    inputs: list[Node]


class Scheduler:
    """Splits one graph over devices and sizes their compute buffers."""

    def __init__(self, graph: Graph, devices: Devices) -> None:
        self.graph = graph
        self.devices = devices
        self.copies: dict[tuple[int, int], list[Node]] = {}
        self.splits: list[Split] = []

    # -- where operations run -----------------------------------------------------------------------

    def _runs(self, node: Node, device: int) -> bool:
        """Say whether a device can run an operation: it has the kernel, and no source lies on another GPU."""
        if device == self.devices.host:
            return True
        for source in node.src:
            if source.home is not None and source.home != device and source.home != self.devices.host:
                return False
        return self.devices.supports(node)

    def _home(self, tensor: Node, operation: Node) -> int | None:
        """Return the device of a placed tensor's buffer, if that can run the operation on it; else None."""
        home = (tensor.root or tensor).home
        return home if home is not None and self._runs(operation, home) else None

    def _first_choice(self, node: Node) -> int | None:
        placed = self._home(node, node)
        if placed is not None:
            return placed
        if node.input:
            return self.devices.host
        if node.op in ("rope", "flash_attn"):
            return None
        for source in node.src:
            if source.weight:
                home = self._home(source, node)
                if home == self.devices.host and self.devices.op_offload and batch_rows(node) >= OFFLOAD_ROWS:
                    for gpu in range(self.devices.num_gpus):
                        if self._runs(node, gpu):
                            return gpu
                return home
        return None

    def assign(self) -> None:
        """Give every operation a device."""
        host = self.devices.host
        for node in (*self.graph.leafs, *self.graph.nodes):
            choice = node.pinned if node.pinned is not None else self._first_choice(node)
            if choice is not None:
                node.device = choice
        nodes = [node for node in self.graph.nodes if node.op not in VIEWS]
        backwards = nodes[::-1]
        for order, gpus_only in ((nodes, True), (backwards, True), (nodes, False), (backwards, False)):
            current = -1
            for node in order:
                at = node.device
                if at >= 0:
                    current = -1 if gpus_only and at == host else at
                elif current >= 0 and self._runs(node, current):
                    node.device = current
        for node in nodes:
            if node.device < 0:
                node.device = self._most_inputs(node)
        for node in self.graph.nodes:
            if node.device < 0 and node.root is not None:
                node.device = node.root.device
            for source in node.src:
                if source.device < 0:
                    source.device = (source.root if source.root is not None else node).device
            if node.device < 0:
                node.device = next(device for device in range(host + 1) if self._runs(node, device))

    def _most_inputs(self, node: Node) -> int:
        best, most = self.devices.host, -1
        for device in range(self.devices.num_gpus + 1):
            if not self._runs(node, device):
                continue
            known = sum(
                (source.device >= 0 or (source.root is not None and source.root.device >= 0))
                and self._reads(source, device)
                for source in node.src
            )
            if known > most:
                best, most = device, known
        return best

    def _reads(self, source: Node, device: int) -> bool:
        """Say whether a device reads a tensor where it lies."""
        root = source.root
        home = (root or source).home
        if home is None:
            home = source.device
            if home < 0 and root is not None:
                home = root.device
        return home == device

    # -- splits and copies --------------------------------------------------------------------------

    def split(self) -> None:
        """Cut the graph where the device changes and note what each piece has to copy."""
        nodes = self.graph.nodes
        first = next(index for index, node in enumerate(nodes) if node.op not in VIEWS)
        current = Split(nodes[first].device, list(nodes[:first]), [])
        self.splits = [current]
        for node in nodes[first:]:
            if node.op in VIEWS:
                current.nodes.append(node)
                continue
            at = node.device
            fresh_weights = (
                at == current.device
                and bool(current.inputs)
                and any(source.weight and source.device != at and not self._reads(source, at) for source in node.src)
            )
            if at != current.device or fresh_weights:
                current = Split(at, [], [])
                self.splits.append(current)
            current.nodes.append(node)
            for source in node.src:
                if source.device != at and not self._reads(source, at):
                    node.src = tuple(self._local(each, current) for each in node.src)
                    break

    def _local(self, source: Node, split: Split) -> Node:
        """Return a source as a split reads it: itself, or its copy."""
        if source.device == split.device or self._reads(source, split.device):
            return source
        key = id(source), split.device
        if key not in self.copies:
            copies = [_like(source) for _ in range(PIPELINE_COPIES if self.devices.pipeline else 1)]
            for copy in copies if self.devices.pipeline else ():
                copy.input = copy.output = True
            self.copies[key] = copies
            split.inputs.append(source)
        return self.copies[key][0]

    # -- sizes --------------------------------------------------------------------------------------

    def sizes(self, keep: Callable[[Split], dict[int, list[Node]]] | None = None) -> list[int]:
        """Return the compute buffer of every device, the host last. [bytes].

        Parameters
        ----------
        keep
            Which tensors a split keeps until a node has been computed, by the id of that node.
        """
        self.assign()
        self.split()
        host, pipeline = self.devices.host, self.devices.pipeline
        nodes: list[Node] = []
        buffers: list[int] = []
        graph_inputs: list[tuple[list[Node], int]] = []
        if pipeline:
            for leaf in self.graph.leafs:
                if leaf.input:
                    key = id(leaf), leaf.device
                    if key not in self.copies:
                        others = [_like(leaf) for _ in range(PIPELINE_COPIES - 1)]
                        self.copies[key] = [leaf, *others]
                        for copy in self.copies[key]:
                            copy.input = copy.output = True
                    graph_inputs.append((self.copies[key], leaf.device))
        for split in self.splits:
            held = keep(split) if keep is not None and split.device != host else {}
            for source in split.inputs:
                watch = Node("none", source.type, source.ne, source.nb, (source,), source.root or source)
                nodes += (watch, self.copies[id(source), split.device][0])
                buffers += (source.device, split.device)
            for node in split.nodes:
                nodes.append(node)
                buffers.append(node.device)
                for kept in _chunks(held[id(node)]) if id(node) in held else ():
                    nodes.append(
                        Node("none", kept[0].type, kept[0].ne, kept[0].nb, tuple(kept), kept[0].root or kept[0])
                    )
                    buffers.append(split.device)
        leafs: list[tuple[Node, int]] = []
        for copies, device in graph_inputs:
            leafs += [(copy, device) for copy in copies]
        if pipeline:
            for split in self.splits:
                for source in split.inputs:
                    leafs += [(copy, split.device) for copy in self.copies[id(source), split.device]]
        for leaf in self.graph.leafs:
            leafs.append((leaf, leaf.device))
            leafs += [(_like(leaf), leaf.device) for _ in range(self.graph.alike.get(id(leaf), 0))]
        spaces = [Space(GPU_ALIGNMENT) for _ in range(self.devices.num_gpus)] + [Space(HOST_ALIGNMENT)]
        gpu_size = self.devices.size_of

        def size_of(node: Node, buffer: int) -> int:
            return node.num_bytes if buffer == host else gpu_size(node)

        allocate(nodes, buffers, leafs, spaces, size_of)
        return [space.high_water for space in spaces]


def _like(source: Node) -> Node:
    """Return a tensor of the same layout with memory of its own."""
    return Node("none", source.type, source.ne, source.nb)


def _chunks(nodes: list[Node], size: int = 10) -> list[list[Node]]:
    return [nodes[start : start + size] for start in range(0, len(nodes), size)]
