"""What a user asks: requests, declared once.

One field declaration gives the check, its error message, the command-line option and the JSON Schema. Names are
those of the request seam; an engine's settings carry the engine's own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from vrameter.errors import RequestError, UnknownNameError, VrameterError, closest
from vrameter.i18n import tr

Count = Annotated[int, Meta(ge=1, le=2**20)]
Tokens = Annotated[int, Meta(ge=1, le=2**30, description="[tokens]")]
MAX_PARAMS = 10**18
MAX_CAPACITY = 2**60

Task = Literal["inference", "training"]
Method = Literal["architecture", "rule-of-thumb"]

INFERENCE_ENGINES = (
    "transformers",
    "vllm",
    "sglang",
    "llama.cpp",
    "ollama",
    "tensorrt-llm",
    "diffusers",
    "mlx",
    "exllama",
    "tgi",
    "litgpt",
)
TRAINING_ENGINES = (
    "transformers", "trl", "deepspeed", "torchtune", "torchtitan", "litgpt", "megatron", "axolotl", "llama-factory",
    "ms-swift", "unsloth", "fsdp_qlora", "megatron-swift", "megatron-bridge", "diffusers", "finetrainers", "timm", "ultralytics",
)  # fmt: skip


class Parallelism(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """How many devices share the work, and how."""

    tensor: Annotated[int, Meta(ge=1, le=4096, description="devices that split every matrix")] = 1
    pipeline: Annotated[int, Meta(ge=1, le=4096, description="devices that split the layers")] = 1
    data: Annotated[int, Meta(ge=1, le=65536, description="copies that serve different sequences")] = 1
    expert: Annotated[int, Meta(ge=1, le=4096, description="devices that split the experts")] = 1
    expert_tensor: Annotated[int, Meta(ge=1, le=4096, description="devices that split each expert")] | None = None
    virtual_pipeline: Annotated[int, Meta(ge=1, le=4096, description="turns that a stage takes in a pipeline")] = 1
    context: Annotated[int, Meta(ge=1, le=4096, description="devices that split the tokens")] = 1
    sequence: Annotated[
        bool, Meta(description="whether tensor-parallel devices split the tokens outside the matrices")
    ] = False
    zero_stage: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=3,
                description="what data-parallel copies share: 1 optimizer state, 2 gradients too, 3 weights too",
            ),
        ]
        | None
    ) = None
    fsdp: (
        Annotated[str, Meta(description="fully sharded data parallel: full_shard, shard_grad_op, hybrid_shard, ...")]
        | None
    ) = None
    offload: Annotated[str, Meta(description="what is kept in host memory: optimizer, parameters, ...")] | None = None

    @property
    def num_devices(self) -> int:
        """Devices that these degrees make together; experts are split inside them."""
        return self.tensor * self.pipeline * self.data * self.context


class DeviceSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device by its capacity; the name is then a label."""

    name: str = "custom"
    capacity_bytes: Annotated[int, Meta(ge=1, le=MAX_CAPACITY)] | None = None


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question."""

    model: str | int | float | dict[str, Any]
    task: Task = "inference"
    method: Method | None = None
    dtype: str | None = None
    quantization: str | None = None
    device: str | DeviceSpec | None = None
    num_devices: Annotated[int, Meta(ge=1, le=65536, description="devices of that kind")] | None = None
    parallelism: Parallelism = Parallelism()
    engine: str | None = None
    engine_version: str | None = None
    settings: dict[str, Any] = {}
    online: bool = False


def parse(values: object) -> Request:
    """Return a request from plain data.

    Raises
    ------
    RequestError
        Naming the field, its value, and what would be valid.
    """
    if isinstance(values, Request):
        return values
    if not isinstance(values, Mapping):
        raise RequestError(
            tr("request: %(value)s is not an object.", value=_shown(values)),
            field="request",
            hint=tr('Give an object such as {"model": "llama-3.1-8b", "device": "rtx-4090"}.'),
        )
    if "model" not in values or values["model"] is None or values["model"] == "":
        raise RequestError(
            tr("model: is missing."),
            field="model",
            hint=tr('Name one: {"model": "llama-3.1-8b"}. List them with: vrameter models'),
        )
    values = {key: value for key, value in values.items() if value is not None or key not in _NULLABLE}
    request: Request = check(Request, values, path="")
    return request


_NULLABLE = {
    "method",
    "dtype",
    "quantization",
    "device",
    "num_devices",
    "engine_version",
    "parallelism",
    "settings",
    "engine",
    "task",
}
Checked = Any


def check(struct: type[Any], values: Mapping[str, Any], *, path: str) -> Checked:
    """Return `values` as a struct, or say which field is wrong and what would be right."""
    known = struct.__struct_fields__
    for key in values:
        if key not in known:
            raise _unknown(struct, str(key), f"{path}{key}")
    try:
        return msgspec.convert(values, struct)
    except (msgspec.ValidationError, RecursionError, UnicodeEncodeError) as error:
        raise _explained(struct, values, path, str(error)) from None


def _unknown(struct: type[Any], key: str, field: str) -> VrameterError:
    """Return the error of a field that there is not: what it is called here, or which name looks like it."""
    message = tr("%(field)s: there is no such field.", field=field)
    called = getattr(struct, "CALLED", {}).get(key.lower().replace("-", "_"))
    if called == "":
        hint = tr("It steers how training goes, not its memory: leave it out.")
    elif called:
        hint = tr("It is called %(name)s here.", name=called)
    else:
        known = struct.__struct_fields__
        otherwise = _elsewhere(key) or tr("Use one of: %(names)s.", names=", ".join(known))
        return UnknownNameError(message, key, known, field=field, otherwise=otherwise)
    return RequestError(message, field=field, hint=hint)


def _explained(struct: type[Any], values: Mapping[str, Any], path: str, message: str) -> VrameterError:
    """Return the error of the first field that does not convert."""
    from vrameter.expected import choices, expected, struct_of

    hints = get_type_hints(struct, include_extras=True)
    for key, value in values.items():
        nested = struct_of(hints[key])
        if isinstance(value, Mapping) and nested is not None:
            try:
                check(nested, value, path=f"{path}{key}.")
            except VrameterError as error:
                return error
        try:
            msgspec.convert(value, hints[key])
        except (msgspec.ValidationError, RecursionError, UnicodeEncodeError):
            field, wanted = f"{path}{key}", expected(hints[key])
            near: list[str] = []
            if isinstance(value, (str, bool, int)):
                meant = getattr(struct, "MEANT", {}).get(key, {}).get(str(value).lower())
                near = [meant] if meant else closest(str(value), choices(hints[key]))
            return RequestError(
                tr("%(field)s: %(value)s is not %(expected)s.", field=field, value=_shown(value), expected=wanted),
                field=field,
                hint=tr("Did you mean %(names)s?", names=", ".join(f"'{name}'" for name in near))
                if near
                else tr("Give %(expected)s.", expected=wanted),
            )
    return RequestError(message, field=path.rstrip(".") or None)


def _elsewhere(name: str) -> str | None:
    """Return a hint for a field that stands at another level of the request."""
    if name in Parallelism.__struct_fields__:
        return tr('It is a degree of parallelism: {"parallelism": {"%(name)s": ...}}.', name=name)
    if name in Request.__struct_fields__:
        return tr("It stands at the top of the request, not in here.")
    from vrameter.settings import owners

    engines = owners(name)
    if engines:
        return tr(
            'It is a setting of %(engines)s: {"engine": "%(engine)s", "settings": {"%(name)s": ...}}.',
            engines=", ".join(engines), engine=engines[0], name=name,
        )  # fmt: skip
    return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


__all__ = [
    "INFERENCE_ENGINES", "TRAINING_ENGINES", "UNSET", "DeviceSpec", "Parallelism", "Request", "UnsetType",
    "check", "parse",
]  # fmt: skip
