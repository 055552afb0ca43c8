"""Write src/vrameter/model/families/index.py: which module holds the reader of each `model_type`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

FAMILIES = Path(__file__).parent.parent / "src" / "vrameter" / "model" / "families"


def registered(path: Path) -> dict[str, str]:
    """Return `model_type` -> module for the decorators of one module, read without importing it."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        for mark in getattr(node, "decorator_list", []):
            if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") in {"decoder", "tower", "model"}:
                for argument in mark.args:
                    name = ast.literal_eval(argument)
                    if name in found:
                        raise SystemExit(f"{path.name}: {name} is registered twice")
                    found[name] = path.stem
    return found


def main() -> None:
    modules: dict[str, str] = {}
    for path in sorted(FAMILIES.glob("*.py")):
        for name, module in registered(path).items():
            if name in modules:
                raise SystemExit(f"{name} is registered in {modules[name]} and {module}")
            modules[name] = module
    lines = "".join(f'    "{name}": "{module}",\n' for name, module in sorted(modules.items()))
    text = (
        '"""Which module holds the reader of each `model_type`. Written by tools/index_families.py; do not edit."""\n\n'
        f"MODULES: dict[str, str] = {{\n{lines}}}\n"
    )
    path = FAMILIES / "index.py"
    if "--check" in sys.argv:
        if path.read_text() != text:
            raise SystemExit("index.py has fallen behind: run python tools/index_families.py")
    else:
        path.write_text(text)
    print(len(modules), "model types")


if __name__ == "__main__":
    main()
