"""Check the facts of catalog/ and write the embedded data of src/vrameter/data/.

    python tools/build_catalogue.py            write the files and print a table
    python tools/build_catalogue.py --check    write nothing; exit with status 1 where they differ

Every model gets a config: its own, or that of a model of the same sizes; facts that the list lacks come from
catalog/corrections.json; what cannot matter to memory or equals the default of the config's class is dropped. The
project's own reader must see the same architecture before and after.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tools")]

import msgspec  # noqa: E402

from catalogue_rules import (  # noqa: E402
    FIXED_POSITIONS,
    Config,
    compact,
    corrected,
    is_headless,
    is_tied,
    kind_of,
    quantization,
    sizes,
    states_form,
    stem,
    text_kind,
    text_level,
    without_quantization,
)  # fmt: skip
from device_table import build_devices  # noqa: E402
from pipeline_table import pipelines  # noqa: E402
from vrameter.errors import VrameterError  # noqa: E402
from vrameter.model.architecture import Architecture  # noqa: E402
from vrameter.model.config import SPELLINGS, class_facts  # noqa: E402
from vrameter.model.families.index import MODULES  # noqa: E402
from vrameter.model.read import read_config  # noqa: E402
from vrameter.sources.catalogue import CONFIGS, INDEX, MODELS, Row, normalised, overlaid  # noqa: E402

CATALOG, DATA = ROOT / "catalog", ROOT / "src" / "vrameter" / "data"
BUDGET = 400_000
UNRECORDED_CONTEXT = 4096  # what the list says where it knows nothing
COUNT_TOLERANCE = 50  # a count is said to differ from 1/50 on
POSITIONS = frozenset({"max_position_embeddings", *SPELLINGS["max_position_embeddings"]})
VARIANTS = ("hf", "it", "instruct", "chat", "base", "pt", "bf16")
PREFIXES = ("meta-", "nvidia-", "c4ai-", "deepseek-ai-")


@dataclass
class Model:
    """A model on its way into the catalogue."""

    row: dict[str, Any]
    config: Config
    same_shape_as: str = ""
    computed: int | None = None
    trust: str = ""
    notes: list[str] = field(default_factory=list)
    overlay: Config = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.row["id"])

    @property
    def published(self) -> int | None:
        return self.row.get("published_params")


def load() -> tuple[list[dict[str, Any]], dict[str, Config], list[dict[str, Any]], dict[str, Any]]:
    """Return rows, configs by file, correction rules and names, checked."""
    rows = [json.loads(line) for line in (CATALOG / "models.jsonl").read_text().splitlines()]
    configs = {
        each["file"]: each["config"] for each in map(json.loads, (CATALOG / "configs.jsonl").read_text().splitlines())
    }
    rules = json.loads((CATALOG / "corrections.json").read_text())["rules"]
    names = json.loads((CATALOG / "names.json").read_text())
    for row in rows:
        if row["config"] not in configs:
            raise SystemExit(f"{row['id']}: there is no config {row['config']}")
    if len({row["id"] for row in rows}) != len(rows):
        raise SystemExit("an id stands twice in models.jsonl")
    for rule in rules:
        if not rule.get("source") or not rule.get("date"):
            raise SystemExit(f"a correction lacks its source or date: {rule}")
    unknown = sorted(set(names["aliases"].values()) - {row["id"] for row in rows})
    if unknown:
        raise SystemExit(f"aliases of models that are not listed: {unknown}")
    return rows, configs, rules, names


class Shapes:
    """The models with a config of their own, by sizes; they stand in for those without."""

    def __init__(self, rows: list[dict[str, Any]], configs: dict[str, Config], official: set[str]) -> None:
        self.official = official
        self.own = [
            Model(row, configs[row["config"]], computed=row.get("computed_params"))
            for row in rows
            if row["config_is_own"]
        ]
        self.by_file = {model.row["config"]: model for model in self.own}
        self.by_sizes: dict[str, list[Model]] = defaultdict(list)
        for model in self.own:
            self.by_sizes[sizes(model.config)].append(model)
        for model in self.own:
            model.trust = str(model.row["trust"])
            self._settle_tie(model)

    def _settle_tie(self, model: Model) -> None:
        """Take from a real config of the same sizes whether the head is tied, where the count leaves it open."""
        if model.trust == "full" or model.published is None:
            return
        text = text_level(model.config)
        for other in self.by_sizes[sizes(model.config)]:
            if other.row["trust"] != "full" or other.computed is None or is_headless(other.config):
                continue
            if is_tied(other.config) == is_tied(model.config) or is_headless(model.config):
                continue
            head = int(text.get("vocab_size", 0)) * int(text.get("hidden_size", 0))
            if model.published in (other.computed, other.computed + head):
                tied = is_tied(other.config)
                config = {**model.config, "tie_word_embeddings": tied}
                if "tie_word_embeddings" in text and text is not model.config:
                    config["text_config"] = {**text, "tie_word_embeddings": tied}
                model.config, model.computed = config, other.computed
                return

    def for_row(self, row: dict[str, Any]) -> Model:
        """Return the model whose config stands in for a row's: the same name, the same count, the most trusted."""
        listed = self.by_file[row["config"]]
        published, organisation = row.get("published_params"), row["id"].partition("/")[0]

        def worth(other: Model) -> tuple[Any, ...]:
            twin = stem(other.id) == stem(row["id"])
            same_file = other.published is not None and other.published == published
            exact = other.computed is not None and other.computed == published
            return (
                twin, same_file and not twin, exact, not is_headless(other.config) or exact, other.trust == "full",
                other.id.partition("/")[0] == organisation, other.id.partition("/")[0] in self.official,
                not states_form(other.id), other.row.get("hf_downloads") or 0, other is listed, other.id,
            )  # fmt: skip

        return max(self.by_sizes[sizes(listed.config)], key=worth)


def resolve(rows: list[dict[str, Any]], shapes: Shapes, rules: list[dict[str, Any]]) -> list[Model]:
    """Return every model with its config, what it sets otherwise, and its notes."""
    own = {model.id: model for model in shapes.own}
    return [_resolved(own.get(row["id"]), row, shapes, rules) for row in rows]


def _resolved(own: Model | None, row: dict[str, Any], shapes: Shapes, rules: list[dict[str, Any]]) -> Model:
    donor = own or shapes.for_row(row)
    model = Model(
        row, donor.config, same_shape_as="" if own else donor.id, computed=donor.computed,
        trust=str(row["trust"]) if own else "same-shape",
    )  # fmt: skip
    stated = "quantization_config" in {**text_level(model.config), **model.config}
    named, note = quantization(model.id, row.get("repo_format"), model.config)
    if stated and not own:
        native = not states_form(donor.id)
        same = bool(named) and _method(named) == _method({**text_level(model.config), **model.config})
        if not same and (named or note or states_form(model.id) or not native):
            model.config, stated = without_quantization(model.config), False
    if not stated:
        model.overlay.update(named)
        if note:
            model.notes.append(note)
    model.config, notes = corrected(model.config, model.id, rules)
    model.notes += notes
    _set_context(model)
    packed = stated or bool(named) or bool(note) or row.get("difference_reason")
    if not packed and not _explained(model, donor):
        model.notes.append("count-differs")
    return model


def _explained(model: Model, donor: Model) -> bool:
    """Say whether the listed count is the shape's, but for what is known to be stored beside it."""
    published, computed, text = model.published, model.computed, text_level(model.config)
    if not published or not computed or abs(published - computed) * COUNT_TOLERANCE <= computed:
        return True
    if model.row.get("match") not in (None, "differs", "mismatch"):
        return True
    if is_tied(model.config) and published == computed + int(text.get("vocab_size") or 0) * int(
        text.get("hidden_size") or 0
    ):
        return True
    known = (
        donor.published
        if donor.row.get("difference_reason") or str(donor.row.get("match", "")).startswith("exact_")
        else None
    )
    return known is not None and abs(published - known) * COUNT_TOLERANCE <= known


def _method(config: Config) -> str:
    found = config.get("quantization_config") or {}
    algorithm = str(found.get("quant_algo") or "")
    return f"{found.get('quant_method', 'modelopt')} {'NVFP4' if algorithm == 'MIXED_PRECISION' else algorithm}".strip()


def _set_context(model: Model) -> None:
    """Let a listed context length stand where the config does not say its number of positions."""
    text, kind = text_level(model.config), text_kind(model.config)
    if kind_of(model.config) in FIXED_POSITIONS or not POSITIONS.isdisjoint(text):
        return
    listed = model.row.get("context_length")
    assumed = class_facts(kind).defaults.get("max_position_embeddings")
    if not listed or (listed == UNRECORDED_CONTEXT and (assumed or 0) >= listed):
        model.notes.append("context-not-recorded")
        return
    if listed == UNRECORDED_CONTEXT:
        model.notes.append("context-not-recorded")
    if listed != assumed:
        where = "" if text is model.config else "text_config." if "text_config" in model.config else "llm_config."
        model.overlay[f"{where}max_position_embeddings"] = listed


def read(config: Config) -> Architecture | str:
    """Return the architecture without what a quantisation adds, or why it cannot be read.

    A class that transformers knows and no reader does is not read by its likeness to another.
    """
    kind = kind_of(config)
    if kind not in MODULES and class_facts(kind).defaults:
        return "no reader yet"
    try:
        return replace(read_config(config, name="model"), quantization_config=None)
    except VrameterError as error:
        return error.message
    except Exception as error:  # a reader that is being written
        return f"{type(error).__name__}: {error}"


@dataclass
class Report:
    """What the build found."""

    readable: int = 0
    verbatim: list[str] = field(default_factory=list)
    unreadable: Counter[str] = field(default_factory=Counter)
    counted: int = 0
    miscounted: list[str] = field(default_factory=list)
    context: list[str] = field(default_factory=list)


def compacted(models: list[Model], report: Report) -> tuple[list[bytes], list[int]]:
    """Return the distinct configs, and for every model the number of its own."""
    lines: dict[bytes, int] = {}
    done: dict[str, bytes] = {}
    numbers = []
    for model in models:
        original = json.dumps(model.config)
        if original not in done:
            small = compact(model.config)
            before = read(model.config)
            if isinstance(before, str):
                report.unreadable[f"{kind_of(model.config)}: {before[:90]}"] += 1
            else:
                report.readable += 1
                small = next(
                    (each for each in (small, compact(model.config, keep_defaults=True)) if read(each) == before),
                    model.config,
                )
                if small is model.config:
                    report.verbatim.append(f"{model.id} ({kind_of(model.config)})")
                report_count(model, before, report)
            done[original] = msgspec.json.encode(small) + b"\n"
        line = done[original]
        numbers.append(lines.setdefault(line, len(lines)))
        if any(name.endswith("max_position_embeddings") for name in model.overlay):
            _check_context(model, json.loads(line), report)
    return list(lines), numbers


def report_count(model: Model, seen: Architecture, report: Report) -> None:
    if model.computed is not None:
        if seen.num_params == model.computed:
            report.counted += 1
        else:
            report.miscounted.append(
                f"{model.id} ({seen.model_type} {seen.class_name}): read {seen.num_params:,}, listed {model.computed:,}"
            )


def _check_context(model: Model, small: Config, report: Report) -> None:
    before, after = read(small), read(overlaid(small, model.overlay))
    if isinstance(before, Architecture) and (isinstance(after, str) or before.num_params != after.num_params):
        report.context.append(f"{model.id} ({kind_of(small)})")


def indexed(models: list[Model], names: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return normalised names and short names with their rows, the one that is meant first."""
    official = set(names["official"])

    def standing(number: int) -> tuple[Any, ...]:
        model = models[number]
        return (
            model.id.partition("/")[0] not in official, bool(model.same_shape_as), model.trust not in ("full", "mlc"),
            -(model.row.get("hf_downloads") or 0), model.id,
        )  # fmt: skip

    full: dict[str, list[int]] = defaultdict(list)
    for number, model in enumerate(models):
        full[normalised(model.id)].append(number)
        if "/" in model.id:
            full[normalised(model.id.rpartition("/")[2])].append(number)
    owned = {key for key, found in full.items() if any(models[item].id.partition("/")[0] in official for item in found)}
    short: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for number, model in enumerate(models):
        if model.id.partition("/")[0] in official:
            for name, dropped in _shortened(model.id.rpartition("/")[2].lower()):
                key = normalised(name)
                if key not in owned:
                    short[key].append((dropped, *standing(number), number))
    numbers = {model.id: number for number, model in enumerate(models)}
    shorts = {key: list(dict.fromkeys(item[-1] for item in sorted(found))) for key, found in short.items()}
    for name, target in names["aliases"].items():
        key = normalised(name)
        if key in owned:
            raise SystemExit(f"the alias {name} is a model's name")
        shorts[key] = [numbers[target], *(item for item in shorts.get(key, []) if item != numbers[target])]
    for key in shorts:  # a copy's own name gives way to the original's short one
        shorts[key] = list(dict.fromkeys([*shorts[key], *sorted(full.pop(key, []), key=standing)]))[:4]
    return (
        {key: _one_or_more(sorted(found, key=standing)) for key, found in sorted(full.items())},
        {key: _one_or_more(found) for key, found in sorted(shorts.items())},
    )


def _one_or_more(found: list[int]) -> int | list[int]:
    return found[0] if len(found) == 1 else found


def _shortened(name: str) -> list[tuple[str, int]]:
    """Return shorter forms of a name and how much each leaves out."""
    forms, dropped = [], 0
    for prefix in PREFIXES:
        if name.startswith(prefix):
            name, dropped = name.removeprefix(prefix), dropped + 1
            forms.append((name, dropped))
    while True:
        head, _, last = name.rpartition("-")
        version = last[:1] == "v" and last[1:].replace(".", "").isdigit()
        date = last.isdigit() and len(last) == 4
        if not head or not (last in VARIANTS or version or date):
            return forms
        name, dropped = head, dropped + 1
        forms.append((name, dropped))


def build(report: Report | None = None) -> dict[str, bytes]:
    """Return the files of the embedded data by name."""
    report = report or Report()
    rows, configs, rules, names = load()
    models = resolve(rows, Shapes(rows, configs, set(names["official"])), rules)
    models += [
        Model(row, config, computed=row["computed_params"], trust=trust) for row, config, trust in pipelines(CATALOG)
    ]
    models.sort(key=lambda model: model.id)
    lines, numbers = compacted(models, report)
    encoded = [
        msgspec.json.encode(
            Row(
                id=model.id, config=number, trust=model.trust, family=model.row["family"],
                published_params=model.published, computed_params=model.computed,
                notes=tuple(dict.fromkeys(model.notes)), overlay=model.overlay,
                context_length=model.row.get("context_length"), license=model.row.get("license") or "",
                release_date=model.row.get("release_date") or "", num_downloads=model.row.get("hf_downloads"),
                same_shape_as=model.same_shape_as, difference_reason=model.row.get("difference_reason") or "",
            )
        ) + b"\n"
        for model, number in zip(models, numbers, strict=True)
    ]  # fmt: skip
    full, short = indexed(models, names)
    index = {"names": full, "short": short, "models": [*map(len, encoded)], "configs": [*map(len, lines)]}
    return {
        INDEX: msgspec.json.encode(index) + b"\n",
        MODELS: b"".join(encoded),
        CONFIGS: b"".join(lines),
        "config_defaults.json": (CATALOG / "config_defaults.json").read_bytes(),
        **build_devices(CATALOG),
    }


def compressed_size(files: dict[str, bytes]) -> int:
    """Return the size of the files in a wheel. [bytes]."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(name, content)
    return len(buffer.getvalue())


def main() -> None:
    report = Report()
    files = build(report)
    if "--check" in sys.argv:
        stale = [
            name
            for name, content in files.items()
            if not (DATA / name).is_file() or (DATA / name).read_bytes() != content
        ]
        if stale:
            raise SystemExit(f"not as the build writes them: {', '.join(stale)}. Run: python tools/build_catalogue.py")
        return
    for name, content in files.items():
        (DATA / name).write_bytes(content)
    print(f"{'file':<24}{'bytes':>12}{'in a wheel':>12}")
    for name, content in sorted(files.items()):
        print(f"{name:<24}{len(content):>12,}{compressed_size({name: content}):>12,}")
    total = compressed_size(files)
    print(f"{'together':<24}{sum(map(len, files.values())):>12,}{total:>12,}")
    print(f"configs: {report.readable} read alike before and after; {len(report.verbatim)} kept as they are; "
          f"{sum(report.unreadable.values())} cannot be read yet")  # fmt: skip
    print(f"counts: {report.counted} as listed, {len(report.miscounted)} not")
    for title, lines in (
        ("kept as they are", report.verbatim), ("count differs", report.miscounted),
        ("a context length changes the count", report.context),
        ("cannot be read", [f"{number} x {why}" for why, number in report.unreadable.most_common()]),
    ):  # fmt: skip
        if lines:
            print(f"\n{title}:", *lines[: None if "-v" in sys.argv else 25], sep="\n  ")
    if total > BUDGET:
        raise SystemExit(f"{total:,} bytes are more than {BUDGET:,}")


if __name__ == "__main__":
    main()
