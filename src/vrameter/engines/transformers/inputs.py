"""What a request gives a model besides tokens: images and sounds, the towers that read them, the tokens they become."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import Architecture, Component
from vrameter.settings.transformers import TransformersSettings


@dataclass(frozen=True, slots=True)
class Input:
    """Images or sounds of one sequence.

    Parameters
    ----------
    tower
        The component that reads them.
    pieces
        How many of them a sequence has, each read as a sequence of its own.
    positions
        Positions of the tower for one. [tokens]
    tokens
        Tokens of the decoder that all of a sequence's become. [tokens]
    values
        Pixels and colours, or numbers of sound, of all of them.
    """

    tower: Component
    pieces: int
    positions: int
    tokens: int
    values: int


def images_of(architecture: Architecture, settings: TransformersSettings) -> Input | None:
    """Return the images of a sequence; a model of nothing but a tower has one.

    Raises
    ------
    RequestError
        Where the model sees none, or a size is given of no image.
    """
    tower = next((each for each in architecture.loaded if each.image is not None), None)
    alone = tower is not None and architecture.decoder is None and tower is architecture.main
    count = settings.num_images or (1 if alone else 0)
    sized = [name for name in ("image_size", "image_height", "image_width") if getattr(settings, name) is not None]
    if tower is None or tower.image is None:
        if count or sized:
            name = "num_images" if count else sized[0]
            raise RequestError(
                tr("settings.%(name)s: this model sees no images, as far as its shape is known.", name=name),
                field=f"settings.{name}",
                hint=tr("Leave it out, or name a model with a vision tower."),
            )
        return None
    if sized and not count:
        raise RequestError(
            tr("settings.%(name)s: has no effect without images.", name=sized[0]),
            field=f"settings.{sized[0]}",
            hint=tr("Give num_images as well."),
        )
    if not count:
        return None
    rule = tower.image
    edge = settings.image_size
    largest = rule.largest if all(rule.largest) else (1024, 1024)
    height = settings.image_height or edge or largest[0]
    width = settings.image_width or edge or largest[1]
    patches = rule.patches_of(height, width)
    values = patches * rule.patch_size[0] * rule.patch_size[1] * 3 * rule.temporal_patch
    tokens = 0 if alone else count * rule.tokens_of(height, width)
    return Input(tower, count, patches, tokens, count * values)


def sounds_of(architecture: Architecture, settings: TransformersSettings) -> Input | None:
    """Return the recording of a sequence.

    Raises
    ------
    RequestError
        Where the model hears none.
    """
    seconds = settings.audio_seconds
    if seconds is None:
        return None
    tower = next((each for each in architecture.loaded if each.audio is not None), None)
    if tower is None or tower.audio is None:
        raise RequestError(
            tr("settings.%(name)s: this model hears nothing, as far as its shape is known.", name="audio_seconds"),
            field="settings.audio_seconds",
            hint=tr("Leave it out, or name a model with an audio encoder."),
        )
    rule = tower.audio
    frames = rule.frames(seconds)
    length = ceil(max(seconds, 30.0 if rule.padded else 0.0) * rule.rate)
    return Input(tower, 1, frames, rule.tokens(seconds), length * rule.features)


__all__ = ["Input", "images_of", "sounds_of"]
