"""Keep the Korean catalogue in step with the messages in the code.

    python tools/translations.py           # extract messages, update ko.po, compile ko.mo
    python tools/translations.py --check   # fail where a message has no translation, a placeholder differs, or the .mo is old

Needs Babel (the extra ``dev``).
"""

from __future__ import annotations

import io
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "vrameter"
PO = SOURCE / "locale" / "ko" / "LC_MESSAGES" / "vrameter.po"
MO = PO.with_suffix(".mo")
FIXED = datetime(2026, 11, 24, tzinfo=timezone.utc)
PLACEHOLDER = re.compile(r"%\((\w+)\)[sdrf]")


def declared() -> list[str]:
    """Return messages that stand in data and pass through `tr` when they are shown."""
    sys.path.insert(0, str(ROOT / "src"))
    from vrameter.cli.options import described_messages
    from vrameter.model.dtypes import DTYPES
    from vrameter.model.schemes import SCHEMES

    found = [*described_messages(), *(scheme.summary for scheme in SCHEMES.values())]
    for entry in DTYPES.values():
        found += [entry.purpose, entry.hardware]
    return [message for message in found if message]


def extracted() -> Catalog:
    """Return every message of the code."""
    catalog = Catalog(locale="ko", project="vrameter", header_comment="# Korean translation of vrameter's messages.")
    keywords = {"tr": None, "fail": (2,), "warn": (1,)}
    options = {"**.py": {}}
    for filename, line, message, comments, _ in extract_from_dir(
        str(SOURCE), method_map=[("**.py", "python")], options_map=options, keywords=keywords
    ):
        if message and not isinstance(message, tuple):
            catalog.add(message, locations=[(filename, line)], user_comments=comments)
    for message in declared():
        catalog.add(message, locations=[("declared", 0)])
    return catalog


def compiled(catalog: Catalog) -> bytes:
    buffer = io.BytesIO()
    write_mo(buffer, catalog)
    return buffer.getvalue()


def main() -> int:
    known = read_po(io.BytesIO(PO.read_bytes()), locale="ko") if PO.exists() else Catalog(locale="ko")
    wanted = extracted()
    problems: list[str] = []
    merged = Catalog(locale="ko", project="vrameter", header_comment="# Korean translation of vrameter's messages.")
    for message in sorted((item for item in wanted if item.id), key=lambda item: str(item.id)):
        old = known.get(message.id)
        text = str(old.string) if old and old.string else ""
        merged.add(message.id, string=text)
        if not text:
            problems.append(f"no translation: {message.id}")
        elif set(PLACEHOLDER.findall(str(message.id))) != set(PLACEHOLDER.findall(text)):
            problems.append(f"placeholders differ: {message.id} | {text}")
    buffer = io.BytesIO()
    merged.revision_date = merged.creation_date = FIXED  # so that the file changes only where a message does
    write_po(buffer, merged, omit_header=False, width=0, no_location=True, sort_output=True)
    if "--check" in sys.argv:
        if not MO.exists() or read_mo_messages(MO) != {str(m.id): str(m.string) for m in merged if m.id and m.string}:
            problems.append("vrameter.mo is older than vrameter.po: run python tools/translations.py")
        stale = [item.id for item in known if item.id and item.id not in wanted]
        problems += [f"no longer used: {item}" for item in stale]
    else:
        PO.parent.mkdir(parents=True, exist_ok=True)
        PO.write_bytes(buffer.getvalue())
        MO.write_bytes(compiled(merged))
    print("\n".join(problems))
    print(f"{len([m for m in merged if m.id])} messages, {len(problems)} problems")
    return 1 if problems and "--check" in sys.argv else 0


def read_mo_messages(path: Path) -> dict[str, str]:
    """Return the messages of a compiled catalogue."""
    from gettext import GNUTranslations

    with path.open("rb") as file:
        catalogue = GNUTranslations(file)
    return {key: value for key, value in catalogue._catalog.items() if key}  # type: ignore[attr-defined]


if __name__ == "__main__":
    raise SystemExit(main())
