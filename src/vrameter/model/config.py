"""A config.json, read with care.

transformers saves a configuration as its differences from the class, under names that differ from
family to family. `Config` fills in the defaults of the class and follows its aliases (both listed as
facts in ``data/config_defaults.json``), and checks every value it hands out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from vrameter.data import read_bytes
from vrameter.errors import ConfigError
from vrameter.i18n import tr

MAX_LAYERS = 4096
MAX_SIZE = 2**40
MAX_DEPTH = 24
MAX_ITEMS = 1_000_000

# Other spellings of the standard field names, tried after a class's own aliases. [config.json files of remote-code models]
SPELLINGS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "d_model", "dim", "model_dim", "n_embed"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("n_kv_heads", "num_kv_heads", "multi_query_group_num"),
    "intermediate_size": ("n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "inter_dim"),
    "max_position_embeddings": (
        "n_positions",
        "n_ctx",
        "max_seq_len",
        "max_sequence_length",
        "seq_length",
        "model_max_length",
    ),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": (
        "num_experts_per_token",
        "moe_topk",
        "moe_k",
        "num_selected_experts",
        "n_activated_experts",
    ),
    "vocab_size": ("padded_vocab_size", "n_vocab"),
    "num_local_experts": ("num_experts", "n_routed_experts"),
    "n_routed_experts": ("num_experts", "num_local_experts"),
}

_REQUIRED: Any = object()


class ClassFacts(msgspec.Struct, frozen=True):
    """What a configuration class assumes: defaults, aliases, kinds of nested configurations."""

    defaults: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    nested: dict[str, dict[str, Any]] = {}


class _Table(msgspec.Struct):
    model_types: dict[str, msgspec.Raw]


@lru_cache(maxsize=1)
def _table() -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(read_bytes("config_defaults.json"), type=_Table).model_types


@lru_cache(maxsize=256)
def class_facts(model_type: str) -> ClassFacts:
    """Return the facts of one configuration class; none for an unknown `model_type`."""
    raw = _table().get(model_type)
    return msgspec.json.decode(raw, type=ClassFacts) if raw is not None else ClassFacts()


class Config:
    """One level of a config.json.

    Parameters
    ----------
    values
        The object as it was parsed.
    path
        Where it stands, for messages: ``config`` or ``config.text_config``.
    model_type
        The class whose defaults and aliases hold, where `values` does not say.
    assumed
        Values below those of the file and above those of the class: what a parent assumes of its nested config.
    """

    __slots__ = ("assumed", "facts", "model_type", "names", "notes", "path", "values")

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        path: str = "config",
        model_type: str = "",
        assumed: Mapping[str, Any] | None = None,
        notes: list[str] | None = None,
    ) -> None:
        self.values = values
        self.path = path
        given = values.get("model_type")
        self.model_type: str = given if isinstance(given, str) and given else model_type
        self.facts = class_facts(self.model_type)
        self.assumed = assumed or {}
        self.notes: list[str] = [] if notes is None else notes
        # canonical name -> the class's own name, and back: both spellings are accepted
        self.names = {**self.facts.aliases, **{own: name for name, own in self.facts.aliases.items()}}

    # -- raw access -------------------------------------------------------------------------------

    def spellings(self, name: str) -> tuple[str, ...]:
        """Return every name under which a field may stand, the likeliest first."""
        other = self.names.get(name)
        return (name, *((other,) if other else ()), *SPELLINGS.get(name, ()))

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field as it stands: the file's value, else the parent's, the class's, then `default`.

        null in a file overrules the class, as it does in transformers, and leaves `default`.
        """
        spellings = self.spellings(name)
        for level in (self.values, self.assumed, self.facts.defaults):
            null = False
            for spelling in spellings:
                if spelling in level:
                    value = level[spelling]
                    if value is not None:
                        return value
                    null = True
            if null:
                return default
        return default

    def given(self, name: str) -> bool:
        """Say whether the file itself sets a field."""
        return any(self.values.get(spelling) is not None for spelling in self.spellings(name))

    def has(self, name: str) -> bool:
        """Say whether a field has a value from anywhere."""
        return self.get(name) is not None

    # -- checked access ---------------------------------------------------------------------------

    def where(self, name: str) -> str:
        """Return the full path of a field, for messages."""
        for spelling in self.spellings(name):
            if spelling in self.values:
                return f"{self.path}.{spelling}"
        return f"{self.path}.{name}"

    def fail(self, name: str, message: str, **values: object) -> ConfigError:
        """Return the error that says what is wrong with a field."""
        field = self.where(name)
        return ConfigError(
            tr("%(field)s: ", field=field) + tr(message, **values),
            field=field,
            hint=tr("Correct this field of the config.json, or name the model: vrameter models"),
        )

    def integer(self, name: str, default: int | None = _REQUIRED, *, least: int = 1, most: int = MAX_SIZE) -> Any:
        """Return a whole number within bounds.

        A missing field without a `default` is an error; `default=None` makes it optional.
        """
        value = self.get(name, None if default is _REQUIRED else default)
        if value is None:
            if default is None:
                return None
            raise self.fail(name, "is missing; a %(kind)s config needs it.", kind=self.model_type or "model")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(name, "%(value)s is not a whole number.", value=shown(value))
        if value < least or value > most:
            raise self.fail(
                name, "%(value)s is not between %(least)s and %(most)s.", value=value, least=least, most=most
            )
        return value

    def number(self, name: str, default: float = _REQUIRED, *, least: float = 0.0) -> Any:
        """Return a finite number of at least `least`."""
        value = self.get(name, None if default is _REQUIRED else default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) > MAX_SIZE:
            raise self.fail(name, "%(value)s is not a number.", value=shown(value))
        if value < least:
            raise self.fail(name, "%(value)s is not at least %(least)s.", value=value, least=least)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.get(name, default)
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
        raise self.fail(name, "%(value)s is not true or false.", value=shown(value))

    def text(self, name: str, default: str | None = _REQUIRED) -> Any:
        """Return a text."""
        value = self.get(name, None if default is _REQUIRED else default)
        if default is None and value is None:
            return None
        if not isinstance(value, str):
            raise self.fail(name, "%(value)s is not a text.", value=shown(value))
        return value

    def sequence(self, name: str, default: Sequence[Any] | None = None) -> Any:
        """Return a list, or `default` where there is none."""
        value = self.get(name, default)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)):
            raise self.fail(name, "%(value)s is not a list.", value=shown(value))
        return value

    def integers(self, name: str, default: Sequence[int] | None = _REQUIRED, *, least: int = 0) -> Any:
        """Return a list of whole numbers; one number stands for a list of one."""
        value = self.get(name, None if default is _REQUIRED else default)
        if value is None:
            if default is _REQUIRED:
                raise self.fail(name, "is missing; a %(kind)s config needs it.", kind=self.model_type or "model")
            return None
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int) or not least <= item <= MAX_SIZE:
                raise self.fail(name, "%(value)s is not a list of whole numbers.", value=shown(value))
        return items

    def layers(self, name: str = "num_hidden_layers", default: int = _REQUIRED, *, least: int = 1) -> Any:
        """Return a number of layers."""
        return self.integer(name, default, least=least, most=MAX_LAYERS)

    # -- what nearly every family needs -------------------------------------------------------------

    @property
    def hidden_size(self) -> Any:
        return self.integer("hidden_size")

    @property
    def num_layers(self) -> Any:
        return self.layers()

    @property
    def num_heads(self) -> Any:
        return self.integer("num_attention_heads")

    @property
    def num_kv_heads(self) -> Any:
        """Key-value heads; as many as query heads where the config is silent."""
        heads = self.num_heads
        kv_heads = self.integer("num_key_value_heads", heads)
        if heads % kv_heads:
            raise self.fail(
                "num_key_value_heads",
                "%(value)s does not divide the %(heads)s attention heads.",
                value=kv_heads,
                heads=heads,
            )
        return kv_heads

    @property
    def head_dim(self) -> Any:
        """Width of a head: as given, else ``hidden_size / num_attention_heads``."""
        given = self.integer("head_dim", None)
        if given is not None:
            return given
        if self.hidden_size % self.num_heads:
            raise self.fail(
                "hidden_size",
                "%(value)s is not a multiple of the %(heads)s attention heads, and there is no head_dim.",
                value=self.hidden_size,
                heads=self.num_heads,
            )
        return self.hidden_size // self.num_heads

    @property
    def vocab_size(self) -> Any:
        return self.integer("vocab_size")

    @property
    def tied(self) -> Any:
        return self.flag("tie_word_embeddings", True)

    def per_layer(self, name: str, count: int) -> Any:
        """Return a list with one entry per layer, or None where the config has none."""
        value = self.sequence(name)
        if value is None:
            return None
        if len(value) != count:
            if not self.given(name) and name not in self.assumed:
                return None
            raise self.fail(name, "has %(length)s entries for %(count)s layers.", length=len(value), count=count)
        return value

    # -- nested configs -----------------------------------------------------------------------------

    def nested(self, name: str, model_type: str = "") -> Config:
        """Return a nested config such as ``text_config``; the class's default one where the file has none."""
        value = self.values.get(name)
        if value is None:
            value = self.assumed.get(name)
        known = self.facts.nested.get(name, {})
        if value is not None and not isinstance(value, Mapping):
            raise self.fail(name, "%(value)s is not an object.", value=shown(value))
        kind = str(known.get("model_type") or "") or model_type
        if value is None:
            if not known:
                raise self.fail(name, "is missing; a %(kind)s config needs it.", kind=self.model_type or "model")
            assumed = {key: item for key, item in known.items() if key != "model_type"}
            return Config({}, path=f"{self.path}.{name}", model_type=kind, assumed=assumed, notes=self.notes)
        return Config(value, path=f"{self.path}.{name}", model_type=kind, notes=self.notes)

    def has_nested(self, name: str) -> bool:
        """Say whether there is a nested config of that name, in the file or by the class."""
        value = self.values.get(name)
        return isinstance(value, Mapping) or (value is None and bool(self.facts.nested.get(name)))

    def over(self, **values: Any) -> Config:
        """Return the same config with some fields set."""
        return Config(
            {**self.values, **values},
            path=self.path,
            model_type=self.model_type,
            assumed=self.assumed,
            notes=self.notes,
        )

    def as_type(self, model_type: str) -> Config:
        """Return the same fields read as another class."""
        values = {key: value for key, value in self.values.items() if key != "model_type"}
        return Config(values, path=self.path, model_type=model_type, assumed=self.assumed, notes=self.notes)

    def warn(self, message: str, **values: object) -> None:
        """Note something that the reader should know."""
        self.notes.append(tr(message, **values))


def shown(value: object) -> str:
    """Return a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_json(value: Any, *, path: str = "config") -> None:
    """Refuse what no config.json holds: too deep, too large, or containing itself.

    Raises
    ------
    ConfigError
        With the path of the offending part.
    """
    items = 0

    def visit(node: Any, where: str, depth: int) -> None:
        nonlocal items
        items += 1
        if depth > MAX_DEPTH or items > MAX_ITEMS:
            raise ConfigError(
                tr("%(field)s: nested too deeply or too large to be a model's configuration.", field=where),
                field=where,
                hint=tr("Give the config.json of one model."),
            )
        if isinstance(node, Mapping):
            for key, item in node.items():
                visit(item, f"{where}.{key}", depth + 1)
        elif isinstance(node, (list, tuple)):
            for item in node:
                visit(item, where, depth + 1)

    visit(value, path, 0)


Reader = Callable[[Config], Any]
