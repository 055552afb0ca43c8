"""A text -> a reading: the format is told by the content, or forced."""

from __future__ import annotations

import re

from vrameter.errors import RequestError
from vrameter.reading import launching, serving
from vrameter.reading.configurations import format_named, format_of, read_tree, unknown_format
from vrameter.reading.documents import check_size, parse
from vrameter.reading.draft import Draft, Opener, Reading
from vrameter.reading.shell import commands, flags, is_flag, lists_of_flags

_MODELFILE = re.compile(r"(?im)^FROM\s+\S+")
_INSTRUCTION = re.compile(r"(?im)^(FROM|PARAMETER|ADAPTER|TEMPLATE|SYSTEM|MESSAGE|LICENSE|REQUIRES|DRAFT)\s+(.*)$")


def read_text(text: str, *, name: str = "FILE", format: str | None = None, open: Opener | None = None) -> Reading:
    """Return what a configuration or a command asks for.

    Parameters
    ----------
    text
        A document in JSON, YAML or TOML, a command, a shell script, an argument list, or a Modelfile.
    name
        What messages call it; its ending tells JSON, YAML and TOML apart.
    format
        The format, where its content does not tell.
    open
        Returns the text of a file that the source names, or raises `FileNotFoundError`.

    Raises
    ------
    RequestError
        For a text that is none of these, or one that contradicts itself.
    """
    check_size(text, name)
    forced = format_named(format) if format else None
    draft = Draft(forced or "", open=open)
    if (
        forced is None
        and name.lower().rpartition(".")[2] not in ("json", "yaml", "yml", "toml")
        and _by_words(draft, text)
    ):
        return draft.done()
    first = text.lstrip()[:1]
    if forced and first == "-" and is_flag(text.split()[0]):
        return _arguments(draft, text, forced)
    try:
        tree = parse(text, name=name)
    except RequestError:
        if forced is None and name.lower().endswith((".sh", ".bash", ".slurm", ".sbatch")):
            raise unknown_format(name) from None
        if forced is None or not commands(text):
            raise
        return _arguments(draft, text, forced)
    if tree is None:
        if forced:
            return _arguments(draft, text, forced)
        raise unknown_format(name)
    kind = forced or format_of(tree)
    if kind is None:
        raise unknown_format(name)
    read_tree(draft, tree, kind)
    return draft.done()


def _arguments(draft: Draft, text: str, kind: str) -> Reading:
    """Read a text as a list of flags of a known format, a script's variables put in."""
    words = [word for _, part in commands(text) for word in part]
    given, _ = flags(words)
    read_tree(draft, dict(given), kind)
    return draft.done()


def _by_words(draft: Draft, text: str) -> bool:
    """Read a Modelfile, a command or a bare argument list; False where the text is none."""
    if _MODELFILE.search(text) and not text.lstrip().startswith(("{", "[")):
        given: dict[str, object] = {}
        for match in _INSTRUCTION.finditer(text):
            instruction, rest = match[1].lower(), match[2].strip()
            if instruction == "parameter":
                key, _, value = rest.partition(" ")
                given[key.lower()] = value.strip().strip('"')
            else:
                given.setdefault(instruction, rest)
        draft.format = "ollama"
        serving.read(draft, given, "ollama")
        return True
    found = commands(text)
    chosen = launching.best(found)
    if chosen is not None and launching.read(draft, chosen):
        return True
    if _by_variables(draft, text):
        return True
    words = text.replace("\\\n", " ").split()
    if words and is_flag(words[0]):
        given_flags, _ = flags(found[0][1] if len(found) == 1 else [word for _, part in found for word in part])
        kind = format_of(given_flags)
        if kind is not None:
            read_tree(draft, given_flags, kind)
            return True
    return False


def _by_variables(draft: Draft, text: str) -> bool:
    """Read the lists of flags that a script keeps in variables, where none of its commands is known; Megatron's are."""
    given, _ = flags([word for _, part in commands(lists_of_flags(text)) for word in part])
    if format_of(given) != "megatron":
        return False
    read_tree(draft, given, "megatron")
    return True


__all__ = ["read_text"]
