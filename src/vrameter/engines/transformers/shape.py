"""What a request means for transformers: sequences, tokens, and which splits it can have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vrameter.engines import Ask, check_answer, default_length
from vrameter.engines.transformers.inputs import Input, images_of, sounds_of
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import Architecture, Attention, Component
from vrameter.settings.transformers import TransformersSettings

DEFAULT_ANSWER = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """Sequences and tokens of the request.

    Parameters
    ----------
    prompt
        Tokens that the first pass reads of one sequence. [tokens]
    total
        Tokens that the cache ends with. [tokens]
    encoder
        Positions of an encoder that the decoder attends to; 0 where there is none. [tokens]
    answers
        Whether the model generates.
    fixed_length
        Whether the architecture or what it is given decides how long the context is.
    inputs
        Images and sounds of one sequence.
    """

    num_seqs: int
    prompt: int
    total: int
    encoder: int
    answers: bool
    fixed_length: bool = False
    inputs: tuple[Input, ...] = ()

    @property
    def length(self) -> int:
        """What the request calls the context: the encoder's tokens where there is one, else all of a sequence."""
        return self.encoder or self.total

    def of_length(self, tokens: int, answer: int) -> Shape:
        """Return the same with another context, `answer` of whose tokens are generated."""
        if self.encoder:
            return replace(self, encoder=tokens)
        return replace(self, prompt=max(1, tokens - answer), total=tokens)

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt that images and sounds become. [tokens]."""
        return sum(each.tokens for each in self.inputs)


def shape_of(
    architecture: Architecture, settings: TransformersSettings, warnings: list[str]
) -> tuple[Shape, dict[str, Any]]:
    """Return sequences and tokens, every default filled in."""
    decoder = architecture.decoder
    main = architecture.main
    limit = main.max_positions
    length = default_length(architecture, settings.context_length, warnings)
    beams = settings.num_beams
    inputs = tuple(each for each in (images_of(architecture, settings), sounds_of(architecture, settings)) if each)
    if decoder is None:
        read = next((each for each in inputs if each.tower is main), None)
        length = read.positions if read else length
        made = Shape(
            settings.batch_size * (read.pieces if read else 1), length, length, 0,
            answers=False, fixed_length=read is not None, inputs=inputs,
        )  # fmt: skip
        return made, {"context_length": length, "max_new_tokens": 0}
    encoder = architecture.component("encoder") or listening(architecture)
    if encoder is not None:
        heard = next((each.positions for each in inputs if each.tower is encoder), 0)
        fixed = cross_tokens(decoder) or heard
        answer = settings.max_new_tokens
        if answer is None:
            answer = min(DEFAULT_ANSWER, limit or DEFAULT_ANSWER)
        resolved = {"context_length": fixed or length, "max_new_tokens": answer}
        made = Shape(
            settings.batch_size * beams, 1, max(1, answer), fixed or length,
            answers=True, fixed_length=bool(fixed), inputs=inputs,
        )  # fmt: skip
        return made, resolved
    new = settings.max_new_tokens or 0
    tokens = sum(each.tokens for each in inputs)
    if settings.context_length is None:
        length = max(length, tokens + new + 1)
    elif tokens and tokens + new >= length:
        raise RequestError(
            tr(
                "settings.context_length: %(value)s is too short for %(tokens)s tokens of images and sound.",
                value=length,
                tokens=tokens,
            ),
            field="settings.context_length",
            hint=tr("Give at least %(least)s, or smaller or fewer images.", least=tokens + new + 1),
        )
    check_answer(length, new, "max_new_tokens")
    made = Shape(settings.batch_size * beams, length - new, length, 0, answers=True, inputs=inputs)
    return made, {
        "context_length": length,
        "max_new_tokens": new,
    }


def listening(architecture: Architecture) -> Component | None:
    """Return the audio encoder of a model whose decoder attends to it."""
    decoder = architecture.decoder
    return architecture.component("audio") if decoder is not None and has_cross(decoder) else None


def has_cross(component: Component) -> bool:
    return any(
        isinstance(part, Attention) and part.scope == "cross"
        for layer, _ in component.layer_groups
        for part in layer.parts
    )


def cross_tokens(decoder: Component) -> int:
    for layer, _ in decoder.layer_groups:
        for part in layer.parts:
            if isinstance(part, Attention) and part.cross_tokens:
                return part.cross_tokens
    return 0


def check_parallelism(ask: Ask) -> None:
    """Refuse degrees that make no sense for transformers or do not multiply to the number of devices."""
    degrees = ask.request.parallelism
    for name in ("context", "expert"):
        if getattr(degrees, name) > 1:
            raise RequestError(
                tr("parallelism.%(name)s: transformers does not split inference this way.", name=name),
                field=f"parallelism.{name}",
                hint=tr("Use parallelism.tensor, or give num_devices alone for a split by layers."),
            )
    if ask.num_devices % (degrees.tensor * degrees.data * degrees.pipeline):
        raise RequestError(
            tr(
                "parallelism: %(degrees)s devices do not divide num_devices %(count)s.",
                degrees=degrees.tensor * degrees.data * degrees.pipeline, count=ask.num_devices,
            ),
            field="parallelism",
            hint=tr("Give num_devices as a multiple of tensor x pipeline x data."),
        )  # fmt: skip
