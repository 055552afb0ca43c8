"""Where llama.cpp puts a model: layers on devices, weights in buffers.

References
----------
.. [1] llama.cpp at 0c1e57098, ``src/llama-model.cpp`` (``load_tensors``) and ``src/llama-model-loader.cpp``.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from vrameter.engines.llama_cpp.file import FileTensor, ModelFile
from vrameter.engines.llama_cpp.graph.kernels import padding_bytes

GPU_ALIGNMENT, HOST_ALIGNMENT = 128, 32
EXPERT_TENSORS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
_ROTARY = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_INPUT = ("token_embd.weight", "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight")
_NORMED_INPUT = ("token_embd_norm.weight", "token_embd_norm.bias")


def gpu_bytes(tensor: FileTensor) -> int:
    """Return what a tensor takes on a GPU: padded to 512 elements where it is quantised, and to 128 bytes. [bytes]."""
    return -(-(tensor.num_bytes + padding_bytes(tensor.type, tensor.ne[0])) // GPU_ALIGNMENT) * GPU_ALIGNMENT


def host_bytes(tensor: FileTensor) -> int:
    """Return what a tensor takes in host memory. [bytes]."""
    return -(-tensor.num_bytes // HOST_ALIGNMENT) * HOST_ALIGNMENT


def _single(value: float) -> float:
    """Return a number rounded to single precision."""
    found: float = struct.unpack("f", struct.pack("f", value))[0]
    return found


def layer_devices(num_layers: int, gpu_layers: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Return the device of every layer and, last, of the output; ``len(shares)`` is the host.

    The last `gpu_layers` of the layers and the output are on GPUs, split at the cumulative shares in single precision.

    >>> layer_devices(4, 3, [1.0, 1.0])
    (2, 2, 0, 0, 1)
    """
    host = len(shares)
    total = 0.0
    points: list[float] = []
    for share in shares:
        total = _single(total + _single(share))
        points.append(total)
    points = [_single(point / total) for point in points] if total else points
    start = max(num_layers + 1 - gpu_layers, 0)
    count = min(gpu_layers, num_layers + 1) if shares else 0
    found = []
    for number in range(num_layers + 1):
        if number < start or number - start >= count:
            found.append(host)
        else:
            found.append(min(bisect_right(points, _single((number - start) / count)), host - 1))
    return tuple(found)


@dataclass(frozen=True)
class Placement:
    """Layers on devices and the rule that moves single tensors to the host.

    Parameters
    ----------
    devices
        Device of every layer and, last, of the output; `num_gpus` is the host.
    overrides
        Patterns of names of tensors that go to host memory wherever their layer is.
    """

    file: ModelFile
    devices: tuple[int, ...]
    num_gpus: int
    overrides: tuple[str, ...] = ()

    @property
    def output(self) -> int:
        """Device of the output."""
        return self.devices[-1]

    def home(self, number: int, name: str) -> int:
        """Return the device that holds a tensor of a layer."""
        device = self.devices[number]
        if device != self.num_gpus and self.overrides and _matches(self.overrides, f"blk.{number}.{name}"):
            return self.num_gpus
        return device

    def outside_home(self, name: str) -> int:
        """Return the device that holds a tensor outside the layers."""
        if name in _INPUT:
            return self.num_gpus
        if name in _NORMED_INPUT:
            return self.devices[0]
        if self.overrides and self.output != self.num_gpus and _matches(self.overrides, name):
            return self.num_gpus
        return self.output

    def rotary_devices(self, layers: Sequence[bool]) -> set[int]:
        """Return the devices that hold the rotary tables: those of layers that use them."""
        return {device for device, uses in zip(self.devices, layers, strict=False) if uses}

    def weight_bytes(
        self,
        rotary_layers: Sequence[bool],
        *,
        has_output: bool = True,
        always_twice: bool = False,
        padded: bool = True,
    ) -> list[int]:
        """Return the weights of every device, the host last. [bytes].

        A tied embedding is held twice, as table and as output matrix, unless both are in host memory.
        """
        host = self.num_gpus

        def size_on(home: int, tensor: FileTensor) -> int:
            return tensor.num_bytes if not padded else host_bytes(tensor) if home == host else gpu_bytes(tensor)

        sums = [0] * (host + 1)
        known: dict[tuple[int, bool], int] = {}
        for number, tensors in enumerate(self.file.layers):
            device = self.devices[number]
            if device != host and self.overrides:
                for name, tensor in tensors.items():
                    home = self.home(number, name)
                    sums[home] += size_on(home, tensor)
                continue
            key = id(tensors), device == host
            if key not in known:
                known[key] = sum(size_on(device, tensor) for tensor in tensors.values())
            sums[device] += known[key]
        for name, tensor in self.file.outside.items():
            homes = self.rotary_devices(rotary_layers) if name in _ROTARY else {self.outside_home(name)}
            for home in homes:
                sums[home] += size_on(home, tensor)
        if has_output and self.file.tied and (self.output != host or always_twice):
            tensor = self.file.outside["token_embd.weight"]
            sums[self.output] += size_on(self.output, tensor)
        return sums


@lru_cache(maxsize=4096)
def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def expert_overrides(count: int) -> tuple[str, ...]:
    """Return the patterns of the expert tensors of the first `count` layers."""
    return tuple(rf"blk\.{number}{EXPERT_TENSORS}" for number in range(count))


__all__ = ["EXPERT_TENSORS", "Placement", "expert_overrides", "gpu_bytes", "host_bytes", "layer_devices"]
