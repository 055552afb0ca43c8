"""What a request may ask of an image model, and which other settings would need less."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from vrameter.engines import Ask
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import Architecture, Component, Tensor
from vrameter.model.vision.network import Network, architecture
from vrameter.settings.training import TrainingSettings
from vrameter.training.stacks import Stack

ENGINES = {"timm": ("timm",), "ultralytics": ("ultralytics",), "transformers": ("transformers", "deepspeed")}
LEAST, MOST = 32, 2**14
# Settings that have no meaning for an image model.
FOREIGN = ("seq_len", "packing", "padding_free", "loss_chunk_tokens", "fused_kernels", "activation_offload")


def is_picture(ask: Ask, found: Stack) -> bool:
    """Say whether an image model is to be trained."""
    if ask.architecture.network is not None or found.program == "images":
        return True
    return ask.architecture.main.kind == "vision"


def prepared(ask: Ask, settings: TrainingSettings, found: Stack, trained: str) -> Architecture:
    """Return the model as it is trained: for the asked images and classes, trained parts set apart.

    Raises
    ------
    RequestError
        Where the request does not go with the model, or the model's program is not known.
    """
    network = ask.architecture.network
    if network is None:
        raise _unknown(ask)
    _check_engine(ask, network)
    _check_settings(settings, network)
    _check_degrees(ask)
    size = _size(settings, network)
    classes = network.classes if settings.num_classes is None else settings.num_classes
    shape = ask.architecture
    if size != network.image_size or classes != network.classes:
        shape = _resized(shape, size, classes)
    if settings.finetuning == "freeze":
        return last_blocks(shape, settings.num_trainable_layers or 0, trained)
    return shape


@lru_cache(maxsize=64)
def _resized(shape: Architecture, size: tuple[int, int], classes: int) -> Architecture:
    """Return a model for other images or classes: learned positions follow where the library makes them anew."""
    network = shape.network
    assert network is not None
    changed = network.sized(size, classes)
    if network.library != "transformers":
        return replace(architecture(changed), name=shape.name)
    components = tuple(
        replace(component, tensors=tuple(_relabelled(tensor, network.classes, classes) for tensor in component.tensors))
        if component.kind == "head"
        else component
        for component in shape.components
    )
    return replace(shape, network=changed, components=components)


def _relabelled(tensor: Tensor, before: int, after: int) -> Tensor:
    """Return a classifier's tensor for another number of classes."""
    return tensor._replace(shape=(after, *tensor.shape[1:])) if tensor.shape[:1] == (before,) else tensor


@lru_cache(maxsize=64)
def last_blocks(shape: Architecture, count: int, trained: str) -> Architecture:
    """Return a model whose head and last blocks stand apart, so that they alone can be trained."""
    found: list[Component] = []
    for component in shape.components:
        if component.kind == "head":
            found.append(replace(component, name=trained))
        elif component is shape.main and count:
            if not component.layers:
                raise RequestError(
                    tr("settings.num_trainable_layers: %(model)s has no list of equal blocks; only its classifier can be set apart.",
                       model=shape.name),
                    field="settings.num_trainable_layers",
                    hint=tr("Leave it out to train the classifier alone, or train the whole model."),
                )  # fmt: skip
            start = max(0, len(component.layers) - count)
            found.append(replace(component, layers=component.layers[:start]))
            found.append(replace(component, name=trained, tensors=(), layers=component.layers[start:],
                                 first_layer=component.first_layer + start))  # fmt: skip
        else:
            found.append(component)
    if not any(component.name == trained for component in found):
        raise RequestError(
            tr("settings.finetuning: %(model)s has no classifier that could be trained alone.", model=shape.name),
            field="settings.finetuning", hint=tr('Give {"num_classes": 1000}, or {"num_trainable_layers": 2}.'),
        )  # fmt: skip
    return replace(shape, components=tuple(found))


def _unknown(ask: Ask) -> RequestError:
    shape = ask.architecture
    if shape.main.kind != "vision":
        return RequestError(
            tr("engine: %(engine)s trains image models, and %(model)s is none known here.", engine=ask.request.engine, model=shape.name),
            field="engine", hint=tr("Use transformers, or name an image model such as timm/resnet50 or yolov8n."),
        )  # fmt: skip
    from vrameter.model.vision.transformers import KINDS

    if shape.model_type in KINDS:
        return RequestError(
            tr("model: %(model)s is a tower beside others; only towers of images alone, with or without a classifier, are trained here.",
               model=shape.name),
            field="model", hint=tr('Give its config.json with {"architectures": ["...ForImageClassification"]}.'),
        )  # fmt: skip
    return RequestError(
        tr("model: training is not modelled for image models of kind '%(kind)s'.", kind=shape.model_type),
        field="model", hint=tr("Known kinds: %(names)s; timm/NAME; YOLO.", names=", ".join(sorted(KINDS))),
    )  # fmt: skip


def _check_engine(ask: Ask, network: Network) -> None:
    known = ENGINES[network.library]
    if (ask.request.engine or "").lower() not in known:
        raise RequestError(
            tr("engine: '%(value)s' does not train %(library)s image models.", value=ask.request.engine, library=network.library),
            field="engine", hint=tr("Use one of: %(names)s.", names=", ".join(known)),
        )  # fmt: skip


def _check_settings(settings: TrainingSettings, network: Network) -> None:
    plain = TrainingSettings()
    for name in FOREIGN:
        if getattr(settings, name) != getattr(plain, name):
            raise RequestError(
                tr("settings.%(name)s: it has no meaning for an image model.", name=name), field=f"settings.{name}",
                hint=tr("The size of a step follows from micro_batch and image_size."),
            )  # fmt: skip
    if settings.recompute == "selective":
        raise RequestError(
            tr("settings.recompute: 'selective' is not known for image models."), field="settings.recompute",
            hint=tr("Use none or full."),
        )  # fmt: skip
    if settings.recompute == "full" and not network.checkpoints:
        raise RequestError(
            tr("settings.recompute: %(library)s cannot checkpoint %(model)s.", library=network.library, model=network.name),
            field="settings.recompute", hint=tr("Use none."),
        )  # fmt: skip
    if settings.objective != "sft":
        raise RequestError(
            tr("settings.objective: '%(value)s' compares texts.", value=settings.objective), field="settings.objective",
            hint=tr("Leave it out: the loss follows from the model."),
        )  # fmt: skip


def _check_degrees(ask: Ask) -> None:
    asked = ask.request.parallelism
    for name in ("tensor", "pipeline", "context", "expert"):
        if getattr(asked, name) > 1:
            raise RequestError(
                tr("parallelism.%(name)s: image models are trained with data parallelism alone here.", name=name),
                field=f"parallelism.{name}", hint=tr("Use parallelism.data with zero_stage or fsdp."),
            )  # fmt: skip


def _size(settings: TrainingSettings, network: Network) -> tuple[int, int]:
    """Return height and width of the images."""
    asked = settings.image_size
    if asked is None:
        return network.image_size
    edges = [asked, asked] if isinstance(asked, int) else asked
    if len(edges) != 2 or not all(LEAST <= edge <= MOST for edge in edges):
        raise RequestError(
            tr("settings.image_size: %(value)s is no height and width from %(least)s to %(most)s pixels.",
               value=asked, least=LEAST, most=MOST),
            field="settings.image_size", hint=tr("Give one edge or [height, width]: 224, or [480, 640]."),
        )  # fmt: skip
    step = network.multiple
    if any(edge % step for edge in edges):
        nearest = [max(1, round(edge / step)) * step for edge in edges]
        raise RequestError(
            tr("settings.image_size: %(value)s is no multiple of %(step)s pixels, which %(model)s cuts images into.",
               value=asked, step=step, model=network.name),
            field="settings.image_size", hint=tr("Give %(value)s.", value=nearest[0] if nearest[0] == nearest[1] else nearest),
        )  # fmt: skip
    return edges[0], edges[1]


__all__ = ["is_picture", "last_blocks", "prepared"]
