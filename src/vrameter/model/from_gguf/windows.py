"""Which layers of an architecture look at a window only, as llama.cpp loads it.

A file may list its windowed layers or state a period; else the architecture's own period holds. Architectures that are
not in the table cache the whole context whatever the file says of a window: Mistral 7B v0.1, Phi-3, StarCoder2.

References
----------
.. [1] llama.cpp, ``src/models/*.cpp``, ``load_arch_hparams`` (release of llama-cpp-python 0.3.36).
"""

from __future__ import annotations

from dataclasses import dataclass

from vrameter.model.architecture import Scope
from vrameter.model.from_gguf.keys import Keys


@dataclass(frozen=True, slots=True)
class Windowed:
    """Layers of an architecture that look at a window.

    Parameters
    ----------
    period
        One layer of so many looks at everything; 0 where only the file's own list says which, 1 where none does.
    full_first
        Whether that is the first of them rather than the last.
    window
        Its width where the file does not say; 0 where the file then has none. [tokens]
    forced
        Whether the file's own width is passed over.
    """

    period: int
    full_first: bool = False
    window: int = 0
    forced: bool = False
    scope: Scope = "sliding"


_EVERY = Windowed(period=-1)
WINDOWED: dict[str, Windowed] = {
    "afmoe": Windowed(4), "cohere2": Windowed(4), "cohere2moe": Windowed(4, full_first=True), "dots3note": Windowed(0),
    "exaone-moe": Windowed(4, window=128), "exaone4": Windowed(4, window=4096), "gemma2": Windowed(2, window=4096),
    "gemma3": Windowed(6), "gemma3n": Windowed(5), "gemma4": Windowed(0), "gemma4-assistant": Windowed(0),
    "gemma-embedding": Windowed(6), "gpt-oss": Windowed(2), "granite_swa": Windowed(0),
    "laguna": Windowed(4, full_first=True), "maple": Windowed(0), "lfm2": _EVERY, "lfm2moe": _EVERY,
    "llama4": Windowed(4, window=8192, forced=True, scope="chunked"), "mellum": Windowed(4), "mimo2": Windowed(0),
    "modern-bert": Windowed(3, full_first=True), "muse-glimmer": Windowed(4), "olmo2": Windowed(4),
    "plamo3": Windowed(8), "smallthinker": Windowed(4, full_first=True, window=4096, forced=True),
    "spark2_5": Windowed(0), "step35": Windowed(0),
}  # fmt: skip
_EXAONE4_WITH_WINDOWS = 64
_OPTIONAL = frozenset({"smallthinker"})


def windows(architecture: str, keys: Keys, count: int) -> list[tuple[Scope, int | None]]:
    """Return what each of `count` layers looks at."""
    whole: tuple[Scope, int | None] = ("full", None)
    rule = WINDOWED.get(architecture)
    stated = keys.get("attention.sliding_window")
    if rule is None or stated == 0 or (stated is None and architecture in _OPTIONAL):
        return [whole] * count
    if architecture == "exaone4" and count != _EXAONE4_WITH_WINDOWS:
        return [whole] * count
    window = rule.window if rule.forced else keys.number("attention.sliding_window", rule.window)
    if not window:
        return [whole] * count
    bounded: tuple[Scope, int | None] = (rule.scope, window)
    pattern = keys.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return [bounded if index < len(pattern) and pattern[index] else whole for index in range(count)]
    period = keys.number("attention.sliding_window_pattern", rule.period) if rule.period > 0 else rule.period
    if period < 0:
        return [bounded] * count
    if period == 0:
        return [whole] * count
    full_at = 0 if rule.full_first else period - 1
    return [whole if index % period == full_at else bounded for index in range(count)]


__all__ = ["WINDOWED", "Windowed", "windows"]
