"""A longer, coverage-guided search for headers that crash, hang or blow up.

    python tools/fuzz_headers.py [FOLDER OF INPUTS] -max_total_time=600 -rss_limit_mb=1024 -timeout=10

Needs atheris, which is in no extra of the package. Every input must end in a table or in an error of ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

with atheris.instrument_imports(include=["vrameter"]):
    from vrameter.errors import VrameterError
    from vrameter.model.from_tensors import components_of
    from vrameter.model.packing import parameters
    from vrameter.sources.byte_source import Growing
    from vrameter.sources.repository import choose
    from vrameter.sources.safetensors import parse_header, read_header

SEEDS = (
    b'{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}',
    b'{"a.qweight":{"dtype":"I32","shape":[2,4],"data_offsets":[0,32]},"a.scales":{"dtype":"F16","shape":[1,4],"data_offsets":[32,40]}}',
    b'{"m.experts.0.w1.weight":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]},"m.experts.0.w1.weight_scale_inv":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}',
)


def one_input(content: bytes) -> None:
    """Read one input as a file, as a header, and as names of files."""
    for read in (_as_file, _as_header, _as_names):
        said = "read"
        try:
            read(content)
        except VrameterError as error:
            said = error.message
        assert 0 < len(said) < 1000, said


def _as_file(content: bytes) -> None:
    source = Growing(lambda offset, length: content[offset : offset + length], name="x", size=len(content), first=16)
    read_header(source)


def _as_header(content: bytes) -> None:
    header = parse_header(content, name="x")
    held = parameters(header.tensors)
    assert sum(each.num_bytes for each in held) == sum(tensor.num_bytes for tensor in header.tensors)
    components_of(held)


def _as_names(content: bytes) -> None:
    names = content.decode("utf-8", "replace").splitlines()
    choose(dict.fromkeys(names, 1), lambda path: {"weight_map": dict.fromkeys(names, path)}, name="x")


if __name__ == "__main__":
    for seed in SEEDS:
        one_input(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
