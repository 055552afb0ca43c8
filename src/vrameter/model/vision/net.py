"""An image model as a program: its operations in order, on sizes, with its parameters by name.

A program is a function of a `Net` and a `Map` that reads like the module it stands for. Run on a plain `Net` it lists
the parameters; `vrameter.training.vision` runs the same program on one that counts what autograd keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vrameter.model.architecture import Role, Tensor

Size = tuple[int, int]
Step = Callable[..., "Map"]
HEAD = "head"


@dataclass(slots=True)
class Map:
    """A feature map of one image: channels on a grid, or tokens in a column.

    Parameters
    ----------
    heads
        Heads into which the channels are cut, where they are.
    value
        The tensor on a graph of sizes, where the program runs on one.
    """

    channels: int
    height: int
    width: int = 1
    value: Any = None

    @property
    def places(self) -> int:
        """Positions of the grid."""
        return self.height * self.width

    def like(self, channels: int | None = None, height: int | None = None, width: int | None = None) -> Map:
        """Return the shape with some sizes changed."""
        return Map(
            self.channels if channels is None else channels,
            self.height if height is None else height,
            self.width if width is None else width,
        )


def pair(value: int | Sequence[int]) -> Size:
    """Return a size along both edges."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def outputs(length: int, kernel: int, stride: int, padding: int, dilation: int = 1, *, ceil: bool = False) -> int:
    """Return the positions along one edge after a convolution or a pooling.

    >>> outputs(224, 7, 2, 3)
    112
    """
    reach = length + 2 * padding - dilation * (kernel - 1) - 1
    return (-(-reach // stride) if ceil else reach // stride) + 1


@dataclass
class Net:
    """Where a program runs: it follows shapes and lists parameters.

    Parameters
    ----------
    tensors
        Every parameter with the block that it belongs to, empty outside blocks.
    """

    tensors: list[tuple[str, Tensor]] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    path: str = ""
    piece: str = ""

    # -- names ---------------------------------------------------------------------------------------

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Put a module's name before those of its parameters."""
        before, self.path = self.path, f"{self.path}.{name}" if self.path and name else self.path or name
        yield
        self.path = before

    def parameter(
        self, name: str, *shape: int, role: Role = "other", linear: bool = False, slot: str = "", buffer: bool = False
    ) -> Tensor:
        """Add a parameter."""
        full = f"{self.path}.{name}" if self.path else name
        tensor = Tensor(full, shape, role, slot, linear, buffer)
        self.tensors.append((self.piece, tensor))
        return tensor

    def block(self, name: str, run: Step, *inputs: Map, **facts: Any) -> Map:
        """Run a block: what checkpointing takes as one."""
        self.piece = f"{self.path}.{name}" if self.path and name else self.path or name
        self.blocks.append(self.piece)
        with self.within(name):
            out = run(self, *inputs, **facts)
        self.piece = ""
        return out

    def chain(self, name: str, count: int, run: Step, x: Map, **facts: Any) -> Map:
        """Run equal blocks one after another: ``name.0``, ``name.1``, ..."""
        for index in range(count):
            x = self.block(f"{name}.{index}", run, x, **facts)
        return x

    def emit(self, kind: str, out: Map, inputs: Sequence[Map], weights: Sequence[Tensor] = (), **facts: Any) -> Map:
        """Run an operation of known output; a plain net has nothing to do."""
        return out

    # -- operations with parameters --------------------------------------------------------------------

    def conv(
        self,
        x: Map,
        name: str,
        channels: int,
        kernel: int | Sequence[int] = 1,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | None = None,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = False,
        same: bool = False,
        copies: bool = False,
        role: Role = "convolution",
    ) -> Map:
        """Convolve; padding is half the kernel unless given, and that of TensorFlow where `same`.

        With `copies` that padding is a copy of its own whatever it adds; without, only where it is uneven.
        """
        (down, right), (stride_down, stride_right) = pair(kernel), pair(stride)
        if padding is None:
            padding = (dilation * (down - 1) // 2, dilation * (right - 1) // 2)
        pad_down, pad_right = pair(padding)
        weights = [self.parameter(f"{name}.weight", channels, x.channels // groups, down, right, role=role)]
        if bias:
            weights.append(self.parameter(f"{name}.bias", channels, role=role))
        if same:
            out = Map(channels, -(-x.height // stride_down), -(-x.width // stride_right))
            even = stride_down == 1 and down % 2
            if copies or not even:
                x = self.padded(x, max(0, (out.height - 1) * stride_down + down - x.height),
                                max(0, (out.width - 1) * stride_right + right - x.width), copies=copies)  # fmt: skip
        else:
            out = Map(
                channels,
                outputs(x.height, down, stride_down, pad_down, dilation),
                outputs(x.width, right, stride_right, pad_right, dilation),
            )
        return self.emit("conv", out, [x], weights)

    def padded(self, x: Map, rows: int, columns: int, *, copies: bool = False) -> Map:
        """Pad with zeros, which copies; with nothing to add only where told to."""
        if not rows and not columns and not copies:
            return x
        return self.emit("copy", x.like(height=x.height + rows, width=x.width + columns), [x])

    def cropped(self, x: Map, height: int, width: int) -> Map:
        """Cut rows and columns off, into a fresh map."""
        return self.emit("copy", x.like(height=height, width=width), [x])

    def deconv(self, x: Map, name: str, channels: int, kernel: int, *, stride: int, bias: bool = True) -> Map:
        """Convolve transposed, without padding."""
        weights = [self.parameter(f"{name}.weight", x.channels, channels, kernel, kernel, role="convolution")]
        if bias:
            weights.append(self.parameter(f"{name}.bias", channels, role="convolution"))
        out = Map(channels, (x.height - 1) * stride + kernel, (x.width - 1) * stride + kernel)
        return self.emit("conv", out, [x], weights)

    def batch_norm(self, x: Map, name: str) -> Map:
        """Normalise over the batch; running statistics are buffers."""
        weights = [self.parameter(f"{name}.{leaf}", x.channels, role="norm") for leaf in ("weight", "bias")]
        for leaf in ("running_mean", "running_var"):
            self.parameter(f"{name}.{leaf}", x.channels, role="norm", buffer=True)
        return self.emit("batch_norm", x.like(), [x], weights)

    def layer_norm(self, x: Map, name: str, *, bias: bool = True, width: int = 0) -> Map:
        """Normalise each position over its channels, or over heads of `width`."""
        leaves = ("weight", "bias") if bias else ("weight",)
        weights = [self.parameter(f"{name}.{leaf}", width or x.channels, role="norm") for leaf in leaves]
        return self.emit("layer_norm", x.like(), [x], weights, groups=x.channels // width if width else 1)

    def group_norm(self, x: Map, name: str, groups: int) -> Map:
        """Normalise each image over groups of channels."""
        weights = [self.parameter(f"{name}.{leaf}", x.channels, role="norm") for leaf in ("weight", "bias")]
        return self.emit("group_norm", x.like(), [x], weights, groups=groups)

    def linear(
        self, x: Map, name: str, channels: int, *, bias: bool = True, role: Role = "other", slot: str = ""
    ) -> Map:
        """Multiply every position by a matrix."""
        weights = [self.parameter(f"{name}.weight", channels, x.channels, role=role, linear=True, slot=slot)]
        if bias:
            weights.append(self.parameter(f"{name}.bias", channels, role=role))
        return self.emit("linear", x.like(channels), [x], weights)

    def scale(self, x: Map, name: str, *shape: int) -> Map:
        """Multiply by a learned scale of each channel."""
        weight = self.parameter(name, *(shape or (x.channels,)), role="other")
        return self.emit("scale", x.like(), [x], [weight])

    def positions(self, x: Map, name: str, *shape: int) -> Map:
        """Add learned positions."""
        weight = self.parameter(name, *(shape or (1, x.places, x.channels)), role="embedding", slot="position")
        return self.emit("shift", x.like(), [x], [weight])

    def prepended(self, x: Map, *names: str | tuple[str, int], shape: str = "row") -> Map:
        """Put learned tokens before the others; a single one may be stored as a plain ``vector``."""
        more = 0
        weights = []
        for each in names:
            name, count = (each, 1) if isinstance(each, str) else each
            sizes = (x.channels,) if shape == "vector" else (1, count, x.channels)
            weights.append(self.parameter(name, *sizes, role="embedding"))
            more += count
        return self.emit("join", Map(x.channels, x.places + more), [x], weights)

    def learned(self, name: str, count: int, channels: int) -> Map:
        """Return learned tokens, the same for every image."""
        weight = self.parameter(name, 1, count, channels)
        return self.emit("learned", Map(channels, count), [], [weight])

    # -- operations without parameters ------------------------------------------------------------------

    def act(self, x: Map, kind: str, *, inplace: bool = False) -> Map:
        """Run an activation: relu, relu6, gelu, silu, hardswish, hardsigmoid, sigmoid, leaky_relu."""
        return self.emit("act", x.like(), [x], function=kind, inplace=inplace)

    def add(self, x: Map, y: Map, *, into: bool = False) -> Map:
        """Add two maps; `into` writes over the first."""
        return self.emit("add", x.like(), [x, y], into=into)

    def mul(self, x: Map, y: Map) -> Map:
        """Multiply two maps; the second may have one position only."""
        return self.emit("mul", x.like(), [x, y])

    def join(self, maps: Sequence[Map]) -> Map:
        """Concatenate along the channels."""
        return self.emit("join", maps[0].like(sum(each.channels for each in maps)), maps)

    def split(self, x: Map, widths: Sequence[int]) -> list[Map]:
        """Cut the channels into views."""
        return [x.like(width) for width in widths]

    def view(self, x: Map, channels: int, height: int, width: int = 1) -> Map:
        """See the same numbers under another shape."""
        return self.emit("view", Map(channels, height, width), [x])

    def copy(self, x: Map) -> Map:
        """Copy, as ``contiguous`` and most reshapes of permuted maps do."""
        return self.emit("copy", x.like(), [x])

    def pool(self, x: Map, kind: str, kernel: int, stride: int, padding: int = 0, *, ceil: bool = False) -> Map:
        """Take the maximum (``max``) or the mean (``avg``) of windows."""
        out = x.like(
            height=outputs(x.height, kernel, stride, padding, ceil=ceil),
            width=outputs(x.width, kernel, stride, padding, ceil=ceil),
        )
        return self.emit(f"{kind}_pool", out, [x])

    def mean(self, x: Map) -> Map:
        """Take the mean over all positions."""
        return self.emit("mean", x.like(height=1, width=1), [x])

    def upsample(self, x: Map, factor: int) -> Map:
        """Repeat every position."""
        return self.emit("copy", x.like(height=x.height * factor, width=x.width * factor), [x])

    def tokens(self, x: Map, first: int = 0, count: int | None = None) -> Map:
        """See some of the tokens."""
        return self.emit("tokens", Map(x.channels, x.places - first if count is None else count), [x])

    def attend(
        self, q: Map, k: Map, v: Map, heads: int, *, keys: int = 0, table: Tensor | None = None, masked: bool = False,
        wide: bool = False, written: bool = False, heads_first: bool = False,
    ) -> Map:  # fmt: skip
        """Attend.

        Parameters
        ----------
        keys
            Positions that each one attends to, where that is not all of them.
        table
            Learned biases for the pairs of a window.
        masked
            Whether pairs are masked window by window.
        wide
            Whether a softmax of its own, without a fused kernel, is computed in fp32.
        written
            Whether the module writes its products out, so that no fused kernel can run.
        heads_first
            Whether queries lie heads before positions, as the kernel's output then does too.
        """
        weights = () if table is None else (table,)
        return self.emit("attend", q.like(v.channels), [q, k, v], weights, heads=heads, keys=keys or k.places, masked=masked,
                         wide=wide, written=written, heads_first=heads_first)  # fmt: skip

    def rotation(self, places: int, channels: int) -> tuple[Map, Map]:
        """Return cosines and sines of positions, one table for all layers and images."""
        tables = [self.emit("table", Map(channels, places), []) for _ in range(2)]
        return tables[0], tables[1]

    def rotate(self, x: Map, tables: tuple[Map, Map], first: int) -> Map:
        """Turn the heads of all tokens but the first few by their positions."""
        return self.emit("rotate", x.like(), [x, *tables], first=first)

    def picked(self, x: Map, places: int) -> Map:
        """Copy some of the positions out."""
        return self.emit("copy", Map(x.channels, places), [x])

    def attend_eagerly(self, q: Map, k: Map, v: Map, heads: int) -> Map:
        """Attend by plain products, keys and values being parts of one map."""
        return self.emit("products", q.like(v.channels), [q, k, v], heads=heads)

    def stack(self, maps: Sequence[Map]) -> Map:
        """Concatenate along the positions."""
        return self.emit("join", Map(maps[0].channels, sum(each.places for each in maps)), maps)

    def begin(self) -> None:
        """Begin what is counted as one piece outside blocks."""

    def detection_loss(
        self, maps: Sequence[Map], classes: int, *, proto: Map | None, mixed: Map | None, anchored: bool
    ) -> Map:
        """Compare boxes, scores and masks with labels; a plain net has no labels."""
        return maps[0]

    def strength(self, x: Map) -> Map:
        """Take the Euclidean norm of each channel over all positions."""
        return self.emit("strength", x.like(height=1, width=1), [x])

    def relative(self, x: Map) -> Map:
        """Divide by the mean over the channels."""
        return self.emit("relative", x.like(), [x])

    def affine(self, x: Map, name: str, *shape: int) -> Map:
        """Multiply by a learned scale and add a learned bias."""
        weights = [
            self.parameter(f"{name}.{leaf}", *(shape or (x.channels,)), role="norm") for leaf in ("weight", "bias")
        ]
        return self.emit("affine", x.like(), [x], weights)

    def pointwise_conv(self, x: Map, name: str, channels: int, *, bias: bool = True, role: Role = "other") -> Map:
        """Convolve each position by itself."""
        return self.conv(x, name, channels, bias=bias, role=role)

    def drop_path(self, x: Map, rate: float) -> Map:
        """Drop whole branches at random, one number for each image."""
        return self.emit("drop_path", x.like(), [x]) if rate else x


__all__ = ["HEAD", "Map", "Net", "outputs", "pair"]
