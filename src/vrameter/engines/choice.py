"""Which program runs a model, where the request names none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vrameter.engines import ENGINES
from vrameter.errors import RequestError, VrameterError
from vrameter.i18n import tr
from vrameter.settings import canonical, struct_of

if TYPE_CHECKING:
    from vrameter.devices import Device
    from vrameter.model.architecture import Architecture
    from vrameter.spec import Request

USUAL = "transformers"
# what runs a diffusion pipeline, by task
PIPELINES = {"inference": ("diffusers",), "training": ("diffusers", "finetrainers")}
# first letters of a format's name -> the program that computes on it
FORMATS = {"gguf": "llama.cpp", "mlx": "mlx", "exl": "exllama"}


def default_engine(
    request: Request,
    architecture: Architecture | None,
    device: Device | None = None,
    *,
    files: str = "",
    source: str = "",
) -> str:
    """Return the engine of a request that names none.

    Formats that one program computes on decide: GGUF is llama.cpp's, MLX formats are MLX's where the device is not
    another vendor's, as are plain 4 or 8 bits on an Apple device, EXL2 and EXL3 are ExLlama's; a pipeline is diffusers'. Everything else is transformers', and so is
    a request whose settings the other does not know.

    Parameters
    ----------
    files
        What kind of weight files were read: ``gguf``.
    source
        Where the model was found; one in Ollama's store is Ollama's.
    """
    if architecture is None:
        return USUAL
    check_picture(request, architecture)
    if request.task != "inference":
        library = architecture.network.library if architecture.network is not None else USUAL
        return "diffusers" if architecture.model_type == "diffusion" else library
    if architecture.model_type == "diffusion":
        found = "diffusers"
    elif files == "gguf" and request.quantization is None:
        found = "ollama" if source == "ollama" else FORMATS["gguf"]
    else:
        found = _by_format(request, architecture, device)
    if found == FORMATS["gguf"] and not _has_graph(architecture):
        return USUAL
    struct = struct_of(found) if found in ENGINES else None
    if struct is None or not set(request.settings) <= set(struct.__struct_fields__):
        return USUAL
    return found


def check_pipeline(request: Request, architecture: Architecture) -> None:
    """Refuse an engine that runs no diffusion pipelines for one."""
    check_picture(request, architecture)
    if (
        architecture.model_type == "diffusion"
        and request.task in PIPELINES
        and canonical(request.engine or "") not in PIPELINES[request.task]
    ):
        raise RequestError(
            tr("engine: '%(value)s' runs no diffusion pipelines.", value=request.engine),
            field="engine",
            hint=tr("Use one of: %(names)s.", names=", ".join(PIPELINES[request.task])),
        )


def check_picture(request: Request, architecture: Architecture) -> None:
    """Refuse inference of image models that no engine here runs."""
    network = architecture.network
    counted = request.method == "rule-of-thumb"
    if network is not None and network.library != USUAL and request.task == "inference" and not counted:
        raise RequestError(
            tr("task: inference of %(library)s models is not modelled; their training is.", library=network.library),
            field="task",
            hint=tr('Give {"task": "training"}.'),
        )


def _has_graph(architecture: Architecture) -> bool:
    """Say whether llama.cpp computes such a model: layers over a token table that attend to no encoder."""
    main = architecture.main
    return (
        bool(main.layers)
        and main.kind in ("decoder", "encoder")
        and any(tensor.slot == "token" for tensor in main.tensors)
        and not any(getattr(part, "scope", "") == "cross" for layer, _ in main.layer_groups for part in layer.parts)
    )


def _by_format(request: Request, architecture: Architecture, device: Device | None) -> str:
    name = _format_name(request, architecture)
    apple = device is not None and device.vendor == "apple"
    if apple and name in ("int4", "int8"):
        return "mlx"
    found = next((engine for start, engine in FORMATS.items() if name.startswith(start)), USUAL)
    return USUAL if found == "mlx" and device is not None and not apple and device.vendor else found


def _format_name(request: Request, architecture: Architecture) -> str:
    """Return the name of the quantisation that is asked for or that the model has; ``gguf`` for a mixture of block types."""
    if request.quantization is None:
        config = architecture.quantization_config
        if not config:
            return ""
        from vrameter.model.quantization_config import read_quantization_config

        try:
            return read_quantization_config(config, model_type=architecture.model_type).name
        except VrameterError:  # the engine says what is wrong with it
            return ""
    from vrameter.model.schemes import parse

    try:
        scheme = parse(request.quantization)
    except VrameterError:
        return ""
    return "gguf" if isinstance(scheme, str) else scheme.name if scheme else ""


__all__ = ["default_engine"]
