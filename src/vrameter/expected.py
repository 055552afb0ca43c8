"""What a field takes, in words: read from its one declaration when a value was refused."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from msgspec import Meta, inspect

from vrameter.i18n import tr


def kinds_of(hint: Any) -> list[Any]:
    """Return the types that a field takes, None left out."""
    found = []
    waiting = [inspect.type_info(hint)]
    while waiting:
        kind = waiting.pop(0)
        if isinstance(kind, inspect.Metadata):
            waiting.insert(0, kind.type)
        elif isinstance(kind, inspect.UnionType):
            waiting = [*kind.types, *waiting]
        elif not isinstance(kind, inspect.NoneType):
            found.append(kind)
    return found


def choices(hint: Any) -> list[str]:
    """Return the words that a field takes, in the order of its declaration.

    >>> choices(Literal["none", "full"] | None)
    ['none', 'full']
    """
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    return [word for part in get_args(hint) if not isinstance(part, Meta) for word in choices(part)]


def struct_of(hint: Any) -> type[Any] | None:
    """Return the struct that a field takes; None for a plain value."""
    return next((kind.cls for kind in kinds_of(hint) if isinstance(kind, inspect.StructType)), None)


def expected(hint: Any) -> str:
    """Return what a field takes, in words.

    >>> from typing import Annotated
    >>> from msgspec import Meta
    >>> expected(Annotated[int, Meta(ge=1, le=8)] | None)
    'a whole number from 1 to 8'
    >>> expected(Annotated[float, Meta(ge=0, lt=1)])
    'a number from 0 to below 1'
    """
    words = [
        tr("one of %(names)s", names=", ".join(choices(hint)))
        if isinstance(kind, inspect.LiteralType)
        else _words(kind)
        for kind in kinds_of(hint)
    ]
    return tr(" or ").join(dict.fromkeys(words))


def _words(kind: Any) -> str:
    if isinstance(kind, inspect.IntType):
        if kind.ge is None or kind.le is None:
            return tr("a whole number")
        return tr("a whole number from %(least)s to %(most)s", least=kind.ge, most=kind.le)
    if isinstance(kind, inspect.FloatType):
        return _number(kind)
    if isinstance(kind, inspect.BoolType):
        return tr("true or false")
    if isinstance(kind, inspect.StrType):
        return tr("a text")
    if isinstance(kind, inspect.ListType):
        inner = kinds_of_item(kind)
        return tr("a list of whole numbers") if inner == "int" else tr("a list of texts")
    if isinstance(kind, inspect.StructType):
        return tr("an object such as %(example)s", example=f'{{"{kind.fields[0].name}": ...}}')
    return tr("an object")


def kinds_of_item(kind: inspect.ListType) -> str:
    """Return what a list holds: ``int`` or ``str``."""
    item = kind.item_type.type if isinstance(kind.item_type, inspect.Metadata) else kind.item_type
    return "int" if isinstance(item, inspect.IntType) else "str"


def _number(kind: inspect.FloatType) -> str:
    least = kind.ge
    if least is None:
        return tr("a number")
    if kind.le is not None:
        return tr("a number from %(least)s to %(most)s", least=f"{least:g}", most=f"{kind.le:g}")
    if kind.lt is not None:
        return tr("a number from %(least)s to below %(most)s", least=f"{least:g}", most=f"{kind.lt:g}")
    return tr("a number of at least %(least)s", least=f"{least:g}")


__all__ = ["choices", "expected", "struct_of"]
