"""What an audio encoder hears, and how it thins it out: enough to count its frames and its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from vrameter.units import ceil_div


class Convolution(NamedTuple):
    """One convolution over time: what it makes of a number of frames, and how wide its output is.

    `padding` frames are added at both ends together; `fills` says that the end is filled up to a whole stride besides.
    """

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    fills: bool = False

    def frames(self, length: int) -> int:
        """Return the frames that come out of `length` frames."""
        if self.fills:
            return ceil_div(length, self.stride)
        return max(0, (length + self.padding - self.kernel) // self.stride + 1)


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
        Whether every recording is filled up to `max_frames`, as Whisper does.
    pieces
        Whether a longer recording goes on in further pieces of `max_frames`, all read at once; else piece by piece.
    frames_per_token
        Frames that become one token of a decoder.
    """

    rate: float
    features: int = 1
    convolutions: tuple[Convolution, ...] = ()
    stride: int = 1
    max_frames: int = 0
    padded: bool = False
    pieces: bool = False
    frames_per_token: int = 1

    def frames(self, seconds: float) -> int:
        """Return the frames that the layers see.

        >>> AudioInput(100, 80, (Convolution(384, 3, 1, 2), Convolution(384, 3, 2, 2)), max_frames=1500).frames(10)
        500
        """
        length = ceil(seconds * self.rate)
        for convolution in self.convolutions:
            length = convolution.frames(length)
        length = ceil_div(length, self.stride)
        if not self.max_frames:
            return length
        if self.pieces:
            return ceil_div(max(length, 1), self.max_frames) * self.max_frames if self.padded else length
        return self.max_frames if self.padded else min(length, self.max_frames)

    def tokens(self, seconds: float) -> int:
        """Return the tokens of a decoder that a recording takes."""
        return ceil_div(self.frames(seconds), self.frames_per_token)


__all__ = ["AudioInput", "Convolution"]
