"""Matching module names of checkpoints with ours.

A ``quantization_config`` lists modules as its checkpoint names them: with other prefixes (``language_model.model``),
older block names (``block_sparse_moe``, ``ffn``, ``w1``), experts one by one. Our names follow transformers 5, with all
experts of a layer in one tensor. Names are brought to common words, and a list entry matches a module that it names,
a module inside it, or, as a wildcard or regular expression, whatever it describes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import cached_property, lru_cache

from vrameter.errors import ConfigError
from vrameter.i18n import tr

# Words of one checkpoint's naming, and ours.
_WORDS = {
    "block_sparse_moe": "mlp", "ffn": "mlp", "feed_forward": "mlp", "moe": "mlp", "attn": "self_attn",
    "attention": "self_attn",
    "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj", "shared_expert": "shared_experts",
    "share_expert": "shared_experts",
    "head": "lm_head",
}  # fmt: skip
# What stands before the list of layers, and says nothing.
_WRAPPERS = frozenset(
    {"model", "language_model", "text_model", "transformer", "decoder", "backbone", "module", "llm", "base_model"}
)
_SPELLED_OUT = ("", "model.", "language_model.model.", "model.language_model.", "language_model.")
_LISTS = frozenset({"layers", "h", "blocks", "block"})
_OTHER_EXPERTS = re.compile(r"\.experts\.(?!0(?:\.|\Z))\d+(?:\.|\Z)")


@lru_cache(maxsize=65536)
def common(name: str) -> str:
    """Return a name in common words, the wrappers before its layers and a final ``.weight`` removed.

    >>> common("language_model.model.layers.3.block_sparse_moe.gate")
    'layers.3.mlp.gate'
    """
    words = name.removesuffix(".weight").replace(".indexers_proj", ".indexer.weights_proj").split(".")
    first = 0
    while first < len(words) - 1 and words[first] in _WRAPPERS:
        first += 1
    return ".".join(_WORDS.get(word, word) for word in words[first:])


@lru_cache(maxsize=65536)
def spellings(name: str) -> tuple[str, ...]:
    """Return the names under which a checkpoint may hold a tensor, in common words: each expert apart.

    >>> spellings("model.layers.0.mlp.experts.gate_up_proj")
    ('layers.0.mlp.experts.gate_up_proj', 'layers.0.mlp.experts.0.gate_proj', 'layers.0.mlp.experts.0.up_proj')
    """
    own = common(name)
    head, found, last = own.rpartition(".experts.")
    if not found or "." in last:
        return (own,)
    parts = {"gate_up_proj": ("gate_proj", "up_proj")}.get(last, (last,))
    return (own, *(f"{head}.experts.0.{part}" for part in parts))


class Names:
    """A list of modules, to ask whether it holds one.

    Parameters
    ----------
    patterns
        Module names, wildcards with ``*``, and regular expressions after ``re:``.
    field
        Where the list stands, for messages.
    """

    def __init__(self, patterns: Iterable[str], *, field: str = "quantization_config") -> None:
        self.exact: set[str] = set()
        # Spelled from the top of the model, such as model.ff_out: not the ff_out of a layer.
        self._from_top: set[str] = set()
        self.field = field
        self._wild: list[str] = []
        self._regex: list[str] = []
        for pattern in patterns:
            if pattern.startswith("re:"):
                self._regex.append(pattern[3:])
            elif "*" in pattern or "?" in pattern:
                self._wild.append(pattern)
            elif not _OTHER_EXPERTS.search(pattern):
                name = pattern.strip(".")
                self.exact.add(common(name))
                if len(common(name).split(".")) < len(name.removesuffix(".weight").split(".")):
                    self._from_top.add(common(name))

    def __bool__(self) -> bool:
        return bool(self.exact or self._wild or self._regex)

    @cached_property
    def _expressions(self) -> tuple[re.Pattern[str], ...]:
        wild = (translate(common(pattern)) for pattern in self._wild)
        return tuple(re.compile(each) for each in dict.fromkeys(wild))

    @cached_property
    def _raw_expressions(self) -> tuple[re.Pattern[str], ...]:
        compiled = []
        for pattern in self._regex:
            try:
                compiled.append(re.compile(pattern))
            except re.error as error:
                raise ConfigError(
                    tr("%(field)s: '%(value)s' is not a regular expression.", field=self.field, value=pattern[:60]),
                    field=self.field,
                    hint=str(error),
                ) from None
        return tuple(compiled)

    def __contains__(self, module: object) -> bool:
        return (isinstance(module, str) and any(self._holds(name) for name in spellings(module))) or self._raw(
            str(module)
        )

    def _holds(self, name: str) -> bool:
        if self.exact:
            words = name.split(".")
            for start, word in enumerate(words):
                for end in range(len(words), start, -1):
                    candidate = ".".join(words[start:end])
                    if candidate in self.exact and (
                        start == 0 or (word not in _LISTS and candidate not in self._from_top)
                    ):
                        return True
        return any(expression.match(name) for expression in self._expressions)

    def _raw(self, module: str) -> bool:
        if not self._regex:
            return False
        module = module.removesuffix(".weight")
        bare = re.sub(r"\A(?:(?:model|language_model|text_model|transformer)\.)+", "", module)
        names = [prefix + bare for prefix in _SPELLED_OUT]
        head, found, last = bare.rpartition(".experts.")
        if found and "." not in last:
            names += [f"model.{head}.experts.0.{part}" for part in ("gate_proj", "up_proj", last)]
        return any(expression.match(name) for expression in self._raw_expressions for name in (module, *names))


__all__ = ["Names", "common", "spellings"]
