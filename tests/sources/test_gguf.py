"""GGUF files as models: split sets, answers, what is no model."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.gguf_files import stored, table, write
from tests.gguf_models import llama

import vrameter
from vrameter.cli import main
from vrameter.errors import ConfigError, SourceError, VrameterError
from vrameter.memory.weights import weight_plan
from vrameter.model.from_gguf import architecture_of, file_mixture
from vrameter.model.gguf_mixture import mixture_types
from vrameter.parallel import layer_split, tensor_share
from vrameter.sources import resolve
from vrameter.sources.gguf import read_gguf_path, split_names

SMALL = llama(layers=4, hidden=256, width=512, heads=4, kv=2, vocab=1000)


def full(made: tuple[str, dict[str, Any], Any], **more: Any) -> dict[str, Any]:
    """Return the metadata of a model under whole keys."""
    return {"general.architecture": made[0], **{f"{made[0]}.{key}": value for key, value in made[1].items()}, **more}


def small(path: Path, types: str = "q8_0", **more: Any) -> Path:
    return write(path, full(SMALL, **more), stored(SMALL[2], types))


def quantised(name: str, *, imatrix: bool = False) -> Any:
    """Return the table of Llama 3.1 8B as llama.cpp quantises it."""
    made = llama()
    architecture = architecture_of(table(*made))
    types = {}
    for (key, layer, tensor), pieces in mixture_types(architecture, name, imatrix=imatrix).items():
        prefix = f"blk.{layer}." if layer is not None and key.startswith("decoder") else ""
        types[prefix + tensor] = pieces[0].type
    return table(*made, types)


PUBLISHED = {
    "f16": 16_061_055_232, "q8_0": 8_532_934_912, "q6_k": 6_588_170_496, "q5_k_m": 5_725_151_488, "q5_k_s": 5_591_458_048,
    "q4_k_m": 4_912_898_304, "q4_k_s": 4_684_833_024, "q3_k_l": 4_314_120_448, "q3_k_s": 3_656_663_296,
    "q2_k": 3_171_295_488,
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), PUBLISHED.items())
def test_llama_31_8b(name: str, expected: int) -> None:
    """The table of llama.cpp's tools/quantize/README, to the byte: the sum of the header, and the plan's."""
    held = quantised(name)
    assert held.num_bytes == expected
    assert weight_plan(architecture_of(held), table=held).of().total == expected


@pytest.mark.parametrize(
    ("name", "imatrix", "bits"),
    [
        ("iq4_nl", False, 4.6818), ("iq4_nl", True, 4.6526), ("iq4_xs", False, 4.4597), ("iq4_xs", True, 4.4231),
        ("iq3_m", True, 3.7628), ("iq3_s", True, 3.6606), ("iq3_xs", True, 3.4977), ("iq3_xxs", True, 3.2548),
        ("iq2_m", True, 2.9294), ("iq2_s", True, 2.7403), ("iq2_xs", True, 2.5882), ("iq2_xxs", True, 2.3824),
        ("iq1_m", True, 2.1460), ("iq1_s", True, 2.0042),
    ],
)  # fmt: skip
def test_llama_31_8b_bits(name: str, imatrix: bool, bits: float) -> None:
    """Bits per weight of the same table for the mixtures that it gives so."""
    held = quantised(name, imatrix=imatrix)
    elements = sum(tensor.shape[0] * (tensor.shape[1] if len(tensor.shape) > 1 else 1) for tensor in held.tensors)
    assert 8 * held.num_bytes / elements == pytest.approx(bits, abs=1e-4)


# -- files ---------------------------------------------------------------------------------------------


def test_weights_are_the_sum_of_the_header(tmp_path: Path) -> None:
    """An answer about a file: its tensors, exactly, whatever the file says of its mixture."""
    path = small(tmp_path / "small-q8_0.gguf", **{"general.file_type": 7, "general.name": "Small"})
    found = vrameter.estimate({"model": str(path), "device": "rtx-4090", "engine": "transformers"})
    weights = next(item for item in found["devices"][0]["items"] if item["term"] == "weights")
    assert weights["bytes"] == read_gguf_path(path).num_bytes
    assert weights["basis"] == "exact"
    assert found["request"]["quantization"] == "q8_0"
    assert found["model"]["name"] == "small-q8_0"
    assert found["model"]["source"] == "gguf"
    assert found["devices"][0]["fits"]


def test_shares_of_a_file_sum_to_the_whole() -> None:
    """Split by layers every tensor lies on one device, mixed types and all."""
    held = quantised("q4_k_m")
    architecture = architecture_of(held)
    plan = weight_plan(architecture, table=held)
    shares = layer_split(architecture, 3, plan.piece_bytes)
    assert sum(plan.of(share).total for share in shares) == held.num_bytes
    halves = plan.of(tensor_share(architecture, 2)).total
    assert held.num_bytes / 2 < halves < 0.51 * held.num_bytes


def test_another_quantisation_of_a_file(tmp_path: Path) -> None:
    """Asked for in another mixture the same model is counted in that, and the answer says so."""
    path = small(tmp_path / "small.gguf", "f16")
    own = vrameter.estimate({"model": str(path), "engine": "transformers"})
    other = vrameter.estimate({"model": str(path), "quantization": "q4_0", "engine": "transformers"})
    assert other["report"]["weights_bytes"] < own["report"]["weights_bytes"] / 3
    assert any("q4_0" in warning for warning in other["warnings"])
    assert own["request"]["quantization"] is None
    assert own["request"]["dtype"] == "fp16"


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The path of a file is a model."""
    path = small(tmp_path / "small.gguf")
    assert main([str(path), "--device", "rtx-4090", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["architecture"] == "llama"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """What is remembered goes by the file's size and time."""
    path = small(tmp_path / "small.gguf")
    first = resolve(str(path))
    assert resolve(str(path)) is first
    write(path, full(SMALL), stored(SMALL[2], "f16"))
    assert resolve(str(path)).table != first.table


def split(folder: Path, count: int, **wrong: Any) -> list[Path]:
    """Write a set as llama.cpp's gguf-split does: keys in the first file, a share of the tensors in each."""
    tensors = stored(SMALL[2], "q8_0")
    step = -(-len(tensors) // count)
    paths = []
    for number in range(count):
        keys = {"split.no": number, "split.count": count, "split.tensors.count": len(tensors), **wrong}
        path = folder / f"small-{number + 1:05}-of-{count:05}.gguf"
        share = tensors[number * step : (number + 1) * step]
        paths.append(write(path, full(SMALL, **keys) if number == 0 else keys, share))
    return paths


@pytest.mark.parametrize("given", [0, 1, 2])
def test_split_sets(tmp_path: Path, given: int) -> None:
    """Any file of a set stands for the set, which holds what the whole file would."""
    paths = split(tmp_path, 3)
    found = resolve(str(paths[given]))
    whole = read_gguf_path(small(tmp_path / "whole.gguf"))
    assert found.table is not None
    assert found.table.num_bytes == whole.num_bytes
    assert len(found.table.files) == 3
    assert {tensor.file for tensor in found.table.tensors} == {0, 1, 2}
    assert found.num_params == architecture_of(whole).num_params


def test_a_set_that_is_not_whole(tmp_path: Path) -> None:
    """A missing file is named; a file under a wrong name, in a wrong place or of another set is refused."""
    paths = split(tmp_path, 3)
    paths[1].rename(tmp_path / "away.gguf")
    with pytest.raises(SourceError, match="small-00002-of-00003"):
        resolve(str(paths[0]))
    with pytest.raises(SourceError, match="set of 3 files"):
        resolve(str(tmp_path / "away.gguf"))
    (tmp_path / "away.gguf").rename(paths[1])
    paths[0].rename(tmp_path / "x.gguf")
    paths[1].rename(paths[0])
    (tmp_path / "x.gguf").rename(paths[1])
    with pytest.raises(SourceError, match="file 1 of its set, not 0"):
        resolve(str(paths[0]))


def test_a_set_that_lacks_tensors(tmp_path: Path) -> None:
    """The number of tensors that a set states is checked."""
    paths = split(tmp_path, 2, **{"split.tensors.count": 999})
    with pytest.raises(SourceError, match="999"):
        resolve(str(paths[0]))


def test_names_of_sets() -> None:
    """Only a name with its place and the number of files is one of a set."""
    assert split_names("m-00001-of-00001.gguf") == ["m-00001-of-00001.gguf"]
    assert split_names("m-00009-of-00002.gguf") == ["m-00009-of-00002.gguf"]
    assert split_names("m-00001-of-99999.gguf") == ["m-00001-of-99999.gguf"]


def test_what_is_no_model(tmp_path: Path) -> None:
    """Missing files, adapters, vocabularies and architectures of other programs are told apart."""
    with pytest.raises(SourceError, match="no-such"):
        resolve(str(tmp_path / "no-such.gguf"))
    lora = write(
        tmp_path / "lora.gguf", {"general.architecture": "llama", "general.type": "adapter"}, stored({"x": (4, 4)})
    )
    with pytest.raises(ConfigError, match="adapter"):
        resolve(str(lora))
    vocabulary = write(tmp_path / "vocab.gguf", {"general.architecture": "llama"}, [])
    with pytest.raises(ConfigError, match="no tensors"):
        resolve(str(vocabulary))
    nameless = write(tmp_path / "nameless.gguf", {}, stored({"x": (4, 4)}))
    with pytest.raises(ConfigError, match=r"general\.architecture"):
        resolve(str(nameless))
    flux = write(
        tmp_path / "flux.gguf",
        {"general.architecture": "flux"},
        stored({"double_blocks.0.img_attn.qkv.weight": (4, 4)}),
    )
    with pytest.raises(ConfigError, match="flux"):
        resolve(str(flux))


def test_a_file_that_is_not_there_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(VrameterError, match="there is no file"):
        vrameter.estimate({"model": str(tmp_path / "a.gguf")})


def test_blocks_that_are_missing(tmp_path: Path) -> None:
    """A file that counts more blocks than it holds is cut, and says which is missing."""
    path = write(tmp_path / "cut.gguf", full(SMALL, **{"llama.block_count": 9}), stored(SMALL[2]))
    with pytest.raises(ConfigError, match="block 4 is missing"):
        resolve(str(path))


@pytest.mark.parametrize("key", ["block_count", "attention.head_count", "embedding_length", "expert_count"])
@pytest.mark.parametrize("value", ["many", [], -1, True, 1.5, 2**31])
def test_keys_that_lie(key: str, value: Any) -> None:
    """A key of a wrong kind or size ends in an answer or one clear error."""
    with suppress(VrameterError):
        assert architecture_of(table(SMALL[0], {**SMALL[1], key: value}, SMALL[2])).num_params > 0


def test_mixture_of_a_file() -> None:
    """The name that a file gives its mixture, unless its tensors are of another kind."""
    assert file_mixture(table(SMALL[0], {"general.file_type": 15}, SMALL[2], "q4_k")) == "q4_k_m"
    assert file_mixture(table(SMALL[0], {"general.file_type": 1}, SMALL[2], "q4_k")) == "q4_k"
    assert file_mixture(table(SMALL[0], {}, SMALL[2], "q5_0")) == "q5_0"
    assert file_mixture(table(SMALL[0], {"general.file_type": 999}, SMALL[2], "f16")) == "f16"
