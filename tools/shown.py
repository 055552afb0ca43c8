"""Write the outputs that the documentation shows, or check that they are what the tool says.

A block between ``<!-- shown: COMMAND -->`` and ``<!-- /shown -->`` holds the output of COMMAND. The files and the repository that
commands name beside the catalogue are those of `sample_files`.

    python tools/shown.py           # rewrite the blocks
    python tools/shown.py --check   # fail where one has fallen behind
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT), str(ROOT / "tools")]
BLOCK = re.compile(r"<!-- shown: (?P<command>[^\n]+?) -->\n.*?<!-- /shown -->", re.S)
LANGUAGE = {"console": "console", "md": "", "json": "json"}


def output_of(command: str, language: str) -> str:
    """Return what a command prints, stdout and then stderr, in a language."""
    from vrameter.cli import main

    words = shlex.split(command)
    if words[:2] == ["python", "-c"]:
        captured = io.StringIO()
        with contextlib.redirect_stdout(captured):
            exec(words[2], {})
        return captured.getvalue().rstrip()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main([*words[1:], *([] if "--lang" in command else ["--lang", language])])
    return (out.getvalue() + err.getvalue()).rstrip()


def rewritten(path: Path) -> str:
    """Return a page with every block as the tool would write it now."""
    language = "ko" if path.stem.endswith(".ko") else "en"

    def block(match: re.Match[str]) -> str:
        command = match["command"]
        shown = output_of(command, language)
        if "--format md" in command or command.startswith("python -c"):
            return f"<!-- shown: {command} -->\n{shown}\n<!-- /shown -->"
        visible = command
        return f"<!-- shown: {command} -->\n```console\n$ {visible}\n{shown}\n```\n<!-- /shown -->"

    return BLOCK.sub(block, path.read_text(encoding="utf-8"))


def main() -> int:
    os.environ["COLUMNS"] = "120"
    from sample_files import sample_files

    with sample_files():
        return rewrite()


def rewrite() -> int:
    """Rewrite the pages, or say which have fallen behind."""
    behind = []
    for path in [ROOT / "README.md", ROOT / "README.ko.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = rewritten(path)
        if text != path.read_text(encoding="utf-8"):
            behind.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    print(
        f"{len(behind)} pages {'have fallen behind' if '--check' in sys.argv else 'rewritten'}: {', '.join(behind) or 'none'}"
    )
    return 1 if behind and "--check" in sys.argv else 0


if __name__ == "__main__":
    raise SystemExit(main())
