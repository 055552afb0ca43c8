"""Commands and shell scripts as words, of which nothing is run.

Variables that a script sets are put in, and sums of whole numbers (``$((8 * 2))``, ``$(expr 16 / 4)``) are worked out; what else
a script computes stays as it is.

>>> flags("--bf16 --lr 1e-4 --names a b".split())[0]
{'bf16': True, 'lr': '1e-4', 'names': ['a', 'b']}
"""

from __future__ import annotations

import ast
import operator
import re
import shlex
from collections.abc import Iterable, Sequence

_ASSIGNMENT = re.compile(r"(?:export\s+|local\s+)?([A-Za-z_]\w*)=(.*)", re.S)
_ARRAY = re.compile(r"(?<![\w$-])([A-Za-z_]\w*)(\+?)=\(")
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?:\[[@*]\])?(?::?[-=]([^{}]*))?\}|\$([A-Za-z_]\w*)")
_DOCUMENT = re.compile(
    r"(?ms)^[ \t]*read -r -d '' ([A-Za-z_]\w*) <<-?[ \t]*['\"]?(\w+)['\"]?[ \t]*\n(.*?)^[ \t]*\2[ \t]*$"
)
_SUM = re.compile(r"\$\(\(([^()]*(?:\([^()]*\)[^()]*)*)\)\)|\$\(expr ([^()`$]*)\)|`expr ([^`$]*)`")
_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
MAX_WORDS, MAX_COMMANDS, MAX_VARIABLES, MAX_TEXT = 20_000, 1_000, 1_000, 2**18
Words = list[str]


def commands(text: str) -> list[tuple[dict[str, str], Words]]:
    """Return the commands of a text, each with the variables that are set before it."""
    text = re.sub(r"\\\r?\n", " ", text)
    variables: dict[str, str] = {}

    text = _without_arrays(_without_documents(text, variables), variables)
    found: list[tuple[dict[str, str], Words]] = []
    for line in _logical_lines(text):
        for part in re.split(r"\s(?:&&|\|\||;)\s|;\s*$", line):
            words = _words(_filled(part, variables))
            own: dict[str, str] = {}
            while words and len(own) < MAX_VARIABLES and (match := _ASSIGNMENT.fullmatch(words[0])):
                own[match[1]] = match[2]
                words = words[1:]
            if words and words[0] in ("export", "set", "local"):
                for word in words[1:]:
                    if match := _ASSIGNMENT.fullmatch(word):
                        variables[match[1]] = match[2]
            elif words:
                found.append(({**variables, **own}, words))
            else:
                variables.update(own)
            if len(found) >= MAX_COMMANDS or len(variables) > MAX_VARIABLES:
                return found
    return found


def _without_documents(text: str, variables: dict[str, str]) -> str:
    """Return a text without the documents that ``read`` puts into variables."""

    def document(match: re.Match[str]) -> str:
        variables[match[1]] = " ".join(match[3].split())
        return ""

    return _DOCUMENT.sub(document, text)


def _without_arrays(text: str, variables: dict[str, str]) -> str:
    """Return a text without its arrays, whose words become variables; remarks and quotes in them may hold parentheses."""
    kept: list[str] = []
    start = 0
    while match := _ARRAY.search(text, start):
        inner, end = _enclosed(text, match.end())
        if end < 0:
            break
        kept.append(text[start : match.start()])
        held = variables.get(match[1], "")
        words = " ".join(inner.split())
        for own in (f'"${{{match[1]}[@]}}"', f"${{{match[1]}[@]}}"):
            words = words.replace(own, held)[:MAX_TEXT]
        variables[match[1]] = f"{held} {words}".strip() if match[2] else words
        start = end
    return "".join([*kept, text[start:]])


def _enclosed(text: str, start: int) -> tuple[str, int]:
    """Return what stands before the parenthesis that closes one opened at `start`, without remarks, and where it ends."""
    kept: list[str] = []
    quote, depth, place = "", 1, start
    while place < len(text):
        mark = text[place]
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "\"'":
            quote = mark
        elif mark == "#" and text[place - 1 : place].isspace():
            place = text.find("\n", place)
            if place < 0:
                break
            continue
        elif mark in "()":
            depth += 1 if mark == "(" else -1
            if not depth:
                return "".join(kept), place + 1
        kept.append(mark)
        place += 1
    return "", -1


def lists_of_flags(text: str) -> str:
    """Return the flags that a script keeps in its variables, those in its arrays included, one after another."""
    found = commands(f"{text}\n:")
    variables = found[-1][0] if found else {}
    return " ".join(_filled(value, variables) for value in variables.values() if value.lstrip("\\ \n").startswith("--"))


def _logical_lines(text: str) -> Iterable[str]:
    """Yield lines, those whose quotes are open joined with the next."""
    held = ""
    for line in text.splitlines():
        if not held and line.lstrip().startswith("#"):
            continue  # a remark may hold an apostrophe
        held = f"{held}\n{line}" if held else line
        if (held.count('"') % 2 == 0 and held.count("'") % 2 == 0) or len(held) > 2**14:
            if held.strip() and not held.lstrip().startswith("#"):
                yield held
            held = ""
    if held.strip() and not held.lstrip().startswith("#"):
        yield held


def _filled(text: str, variables: dict[str, str]) -> str:
    """Return a text with variables put in; those that are not set stay."""
    room = MAX_TEXT

    def put(match: re.Match[str]) -> str:
        nonlocal room
        value = _value(match, variables)
        room -= len(value)
        return value if room > 0 else match[0]

    for _ in range(4):
        filled = _VARIABLE.sub(put, text)
        filled = _SUM.sub(lambda match: _summed(match, variables), filled)
        if filled == text:
            break
        text = filled
    return text


def _summed(match: re.Match[str], variables: dict[str, str]) -> str:
    """Return a sum of whole numbers worked out; as it stands where it is anything else."""
    text = next(group for group in match.groups() if group is not None).replace("\\*", "*").strip()
    if len(text) > 200:
        return match[0]
    try:
        return str(_number(ast.parse(text, mode="eval").body, variables))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return match[0]


def _number(node: ast.expr, variables: dict[str, str]) -> int:
    """Return the value of a sum: whole numbers, variables that hold them, and the four operations."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        found = node.value
    elif isinstance(node, ast.Name):
        found = int(variables.get(node.id, ""))
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        found = _OPERATORS[type(node.op)](_number(node.left, variables), _number(node.right, variables))
    else:
        raise ValueError
    if abs(found) >= 2**62:
        raise ValueError
    return int(found)


def _value(match: re.Match[str], variables: dict[str, str]) -> str:
    name = match[1] or match[3]
    if name in variables:
        return variables[name]
    return match[2] if match[2] is not None else match[0]


def _words(text: str) -> Words:
    try:
        words = shlex.split(text, comments=True)[:MAX_WORDS]
        # A quoted flag with its value falls apart when its variable is put in without quotes.
        return [each for word in words for each in (word.split() if word[:2] == "--" and "=" not in word else [word])]
    except ValueError:
        return text.replace('"', " ").replace("'", " ").split()[:MAX_WORDS]


def is_flag(word: str) -> bool:
    """Say whether a word is a flag, not a negative number."""
    return len(word) > 1 and word[0] == "-" and not word[1].isdigit() and word[1] != "."


def flags(words: Sequence[str]) -> tuple[dict[str, object], Words]:
    """Return flags with their values, under names with underscores, and the words before the first flag.

    A flag without a value is True; one with several has a list. Of a flag that stands twice the last counts.
    """
    found: dict[str, object] = {}
    loose: Words = []
    current: str | None = None
    for word in words:
        if is_flag(word):
            name, equals, value = word.lstrip("-").partition("=")
            current = name.replace("-", "_")
            found[current] = value if equals else True
            current = None if equals else current
        elif current is None:
            loose.append(word)
        else:
            held = found[current]
            found[current] = word if held is True else [*held, word] if isinstance(held, list) else [held, word]
    return found, loose
