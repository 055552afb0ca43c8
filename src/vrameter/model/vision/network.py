"""What an image model computes: its program, the facts that it runs on, and the images that it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import import_module
from typing import Any

from vrameter.model.architecture import Architecture, Component, Layer, Tensor
from vrameter.model.image_input import ImageInput
from vrameter.model.vision.net import HEAD, Map, Net, Size, Step


@dataclass(frozen=True)
class Network:
    """An image model as a program.

    Parameters
    ----------
    library
        Whose modules it stands for: ``timm``, ``transformers`` or ``ultralytics``.
    name
        Of the model there.
    module, function
        Where the program is.
    facts
        What it runs on.
    image_size
        Height and width of the images that it was made for. [pixels]
    multiple
        What both must be a multiple of. [pixels]
    classes
        Outputs of its classifier, 0 without one.
    checkpoints
        Whether its library can recompute its blocks.
    task
        ``classify``, ``detect`` or ``segment``.
    convolves
        Whether convolutions make most of its maps.
    """

    library: str
    name: str
    module: str
    function: str
    facts: Mapping[str, Any] = field(hash=False, compare=False)
    image_size: Size = (224, 224)
    multiple: int = 1
    classes: int = 0
    checkpoints: bool = True
    task: str = "classify"
    convolves: bool = True

    def run(self, net: Net, image: Map) -> Map:
        """Run the program."""
        program: Step = getattr(import_module(f"vrameter.model.vision.nets.{self.module}"), self.function)
        return program(net, image, self.facts, self.classes)

    def sized(self, size: Size | None = None, classes: int | None = None) -> Network:
        """Return the same model for other images, or with another number of classes."""
        return replace(self, image_size=size or self.image_size, classes=self.classes if classes is None else classes)


@lru_cache(maxsize=64)
def architecture(network: Network) -> Architecture:
    """Return the parameters that a program makes, as components: blocks of one list are layers."""
    net = Net()
    network.run(net, Map(3, *network.image_size))
    blocks: dict[str, list[Tensor]] = {name: [] for name in net.blocks}
    head: list[Tensor] = []
    rest: list[Tensor] = []
    for block, tensor in net.tensors:
        if tensor.role == "head" or block == HEAD:
            head.append(tensor)
        elif block:
            blocks[block].append(tensor)
        else:
            rest.append(tensor)
    prefix = _list_of(net.blocks)
    layers: tuple[Layer, ...] = ()
    if prefix:
        known: dict[tuple[Tensor, ...], Layer] = {}
        found = []
        for name, tensors in blocks.items():
            inner = tuple(tensor._replace(name=tensor.name.removeprefix(f"{name}.")) for tensor in tensors)
            found.append(known.setdefault(inner, Layer((), inner)))
        layers = tuple(found)
    else:
        rest += [tensor for tensors in blocks.values() for tensor in tensors]
    image = ImageInput(patch_size=(network.multiple, network.multiple), image_size=network.image_size)
    body = Component(
        kind="vision", name="vision", hidden_size=_width(head, rest), layers=layers, tensors=tuple(rest), layers_prefix=prefix or "layers",
        image=image,
    )  # fmt: skip
    components = [body]
    if head:
        components.append(Component(kind="head", name="head", hidden_size=body.hidden_size, tensors=tuple(head)))
    return Architecture(
        name=network.name, model_type=network.library, class_name=network.name.rpartition("/")[2], components=tuple(components), network=network,
        dtype="fp32",
    )  # fmt: skip


def _list_of(blocks: list[str]) -> str:
    """Return the name of the one list that all blocks are members of, if there is one."""
    prefixes = {name.rpartition(".")[0] for name in blocks}
    numbered = [name.rpartition(".")[2] for name in blocks] == [str(index) for index in range(len(blocks))]
    return prefixes.pop() if len(prefixes) == 1 and numbered else ""


def _width(head: list[Tensor], rest: list[Tensor]) -> int:
    """Return the width of what the classifier reads, or of the last parameter without one."""
    for tensor in head:
        if len(tensor.shape) > 1:
            return tensor.shape[1]
    return rest[-1].shape[0] if rest else 1


__all__ = ["Network", "architecture"]
