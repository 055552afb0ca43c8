"""Check a built wheel: the embedded facts take less than 400 kB in it, and it holds what it needs.

python tools/check_wheel.py dist/vrameter-0.1.0-py3-none-any.whl
"""

from __future__ import annotations

import sys
import zipfile

LIMIT = 400_000
NEEDED = ("vrameter/py.typed", "vrameter/locale/ko/LC_MESSAGES/vrameter.mo", "vrameter/data/config_defaults.json")


def main() -> int:
    wheel = zipfile.ZipFile(sys.argv[1])
    names = wheel.namelist()
    missing = [name for name in NEEDED if name not in names]
    data = sum(entry.compress_size for entry in wheel.infolist() if entry.filename.startswith("vrameter/data/"))
    print(
        f"wheel: {sum(entry.compress_size for entry in wheel.infolist()):,} bytes, of which facts {data:,} (limit {LIMIT:,})"
    )
    if missing:
        print(f"missing: {', '.join(missing)}")
    return 1 if missing or data > LIMIT else 0


if __name__ == "__main__":
    raise SystemExit(main())
