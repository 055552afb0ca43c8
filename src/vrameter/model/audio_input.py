"""What an audio encoder hears, and how it thins it out: enough to count its frames and its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from vrameter.units import ceil_div


class Convolution(NamedTuple):
    """One convolution over time: what it makes of a number of frames, and how wide its output is."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def frames(self, length: int) -> int:
        """Return the frames that come out of `length` frames."""
        return max(0, (length + 2 * self.padding - self.kernel) // self.stride + 1)


@dataclass(frozen=True, slots=True)
class AudioInput:
    """The way from a recording to the frames of an encoder and the tokens of a decoder.

    Parameters
    ----------
    rate
        What comes in: samples of a waveform, or columns of a spectrogram. [1/s]
    features
        Numbers in each of them: 1 for a waveform, the mel bins of a spectrogram.
    convolutions
        The convolutions that thin them out, in order.
    stride
        Frames that are stacked or pooled into one before the layers, besides the convolutions.
    max_frames
        Positions of the encoder, 0 where nothing bounds them. [frames]
    padded
        Whether every recording is padded or cut to pieces of `max_frames`, as Whisper does.
    frames_per_token
        Frames that become one token of a decoder.
    """

    rate: float
    features: int = 1
    convolutions: tuple[Convolution, ...] = ()
    stride: int = 1
    max_frames: int = 0
    padded: bool = False
    frames_per_token: int = 1

    def frames(self, seconds: float) -> int:
        """Return the frames that the layers see.

        >>> AudioInput(100, 80, (Convolution(384, 3, 1, 1), Convolution(384, 3, 2, 1)), max_frames=1500).frames(10)
        500
        """
        length = ceil(seconds * self.rate)
        for convolution in self.convolutions:
            length = convolution.frames(length)
        length = ceil_div(length, self.stride)
        if self.padded and self.max_frames:
            return ceil_div(max(length, 1), self.max_frames) * self.max_frames
        return min(length, self.max_frames) if self.max_frames else length

    def tokens(self, seconds: float) -> int:
        """Return the tokens of a decoder that a recording takes."""
        return ceil_div(self.frames(seconds), self.frames_per_token)


__all__ = ["AudioInput", "Convolution"]
