"""Of a list of files, those that a loader would load."""

from __future__ import annotations

from typing import Any

import pytest

from vrameter.errors import SourceError
from vrameter.sources.repository import NoWeightsError, Selection, choose


def chosen(*files: str, documents: dict[str, Any] | None = None, **options: Any) -> Selection:
    return choose(
        {path: number + 1 for number, path in enumerate(files)}, (documents or {}).get, name="org/name", **options
    )


def names(selection: Selection) -> list[tuple[str, ...]]:
    return [part.files for part in selection.sets]


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
ONE = [
    # what is there, what is loaded
    (("model.safetensors", "config.json"), ("model.safetensors",)),
    (("model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"), ("model.safetensors",)),
    (("model.safetensors", "model.fp16.safetensors"), ("model.safetensors",)),
    (("model.fp16.safetensors",), ("model.fp16.safetensors",)),
    (("model.safetensors", "original/consolidated.00.pth", "original/params.json"), ("model.safetensors",)),
    ((*SHARDS, INDEX), SHARDS),
    ((*SHARDS, INDEX, "consolidated.safetensors"), SHARDS),
    ((*SHARDS, INDEX, "consolidated-00001-of-00001.safetensors", "params.json"), SHARDS),
    (("model.safetensors", *SHARDS, INDEX), ("model.safetensors",)),
    ((*SHARDS,), SHARDS),
    (("consolidated.safetensors", "params.json"), ("consolidated.safetensors",)),
    (("original/consolidated.00.pth", "original/consolidated.01.pth"), ("original/consolidated.00.pth", "original/consolidated.01.pth")),
    (("pytorch_model.bin", "training_args.bin", "optimizer.bin"), ("pytorch_model.bin",)),
    (("flux1-dev.safetensors",), ("flux1-dev.safetensors",)),
    (("Qwen3-14B-MLX-4bit/model.safetensors", "Qwen3-14B-MLX-4bit/config.json"), ("Qwen3-14B-MLX-4bit/model.safetensors",)),
    (("model.safetensors", "adapter_config.json", "adapter_model.safetensors"), ("model.safetensors",)),
    (("model.safetensors", "onnx/model.onnx", "model-q8_0.gguf"), ("model.safetensors",)),
]  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), ONE, ids=lambda value: "+".join(value)[:70])
def test_one_set(files: tuple[str, ...], expected: tuple[str, ...]) -> None:
    selection = chosen(*files)
    assert names(selection) == [expected]
    assert not set(selection.left) & set(expected)


def test_an_index_decides_between_two_sets_of_shards() -> None:
    old = tuple(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))
    documents = {INDEX: {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}}
    assert names(chosen(*old, *SHARDS, INDEX, documents=documents)) == [SHARDS]


def test_the_larger_of_several_unusual_files_is_taken_and_said() -> None:
    selection = chosen("small.safetensors", "large.safetensors")
    assert names(selection) == [("large.safetensors",)]
    assert "small.safetensors" in selection.notes[0]


@pytest.mark.parametrize(
    ("files", "documents", "said"),
    [
        ((SHARDS[0], INDEX), {INDEX: {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}}, "1 of 2 files are missing"),
        ((SHARDS[0],), {}, "only 1 of 2"),
        ((SHARDS[0], INDEX), {INDEX: {"weight_map": {}}}, "lists no weight files"),
        ((SHARDS[0], INDEX), {INDEX: ["what"]}, "lists no weight files"),
        ((SHARDS[0], INDEX), {INDEX: {"weight_map": {"a": "../../etc/passwd"}}}, "is not there"),
    ],
)
def test_missing_shards(files: tuple[str, ...], documents: dict[str, Any], said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        chosen(*files, documents=documents)
    assert caught.value.hint


def test_nothing_to_read() -> None:
    with pytest.raises(NoWeightsError, match=r"only \.onnx") as caught:
        chosen("model.onnx", "config.json")
    assert caught.value.kinds == (".onnx",)
    with pytest.raises(NoWeightsError, match="no weights and no"):
        chosen("README.md")


def test_a_pipeline_has_a_set_for_each_entry_with_weights() -> None:
    index = {
        "_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": ["diffusers", "WanTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"],
        "scheduler": ["diffusers", "UniPC"], "image_encoder": [None, None], "boundary_ratio": 0.9,
    }  # fmt: skip
    shards = tuple(f"transformer/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2))
    selection = chosen(
        "model_index.json", *shards, "transformer/diffusion_pytorch_model.safetensors.index.json",
        "transformer_2/diffusion_pytorch_model.safetensors", "transformer_2/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "text_encoder/pytorch_model.bin",
        "tokenizer/spiece.model", "whole-pipeline.safetensors",
        documents={"model_index.json": index},
    )  # fmt: skip
    assert {part.component: part.files for part in selection.sets} == {
        "transformer": shards,
        "transformer_2": ("transformer_2/diffusion_pytorch_model.safetensors",),
        "vae": ("vae/diffusion_pytorch_model.safetensors",),
        "text_encoder": ("text_encoder/model.safetensors",),
    }
    assert "whole-pipeline.safetensors" in selection.left


def test_modules_of_a_sentence_encoder() -> None:
    modules = [
        {"path": "", "type": "Transformer"},
        {"path": "1_Pooling", "type": "Pooling"},
        {"path": "2_Dense", "type": "Dense"},
    ]
    selection = chosen(
        "modules.json", "model.safetensors", "2_Dense/model.safetensors", documents={"modules.json": modules}
    )
    assert [(part.component, part.files) for part in selection.sets] == [
        ("", ("model.safetensors",)), ("2_Dense", ("2_Dense/model.safetensors",)),
    ]  # fmt: skip


def test_an_adapter_names_its_base() -> None:
    documents = {"adapter_config.json": {"base_model_name_or_path": "org/base"}}
    selection = chosen("adapter_config.json", "adapter_model.safetensors", documents=documents)
    assert (selection.layout, selection.base) == ("adapter", "org/base")


GGUF = (
    "mmproj-F16.gguf", "model-Q4_K_M.gguf", "model-Q8_0-00001-of-00002.gguf", "model-Q8_0-00002-of-00002.gguf",
    "UD-Q2_K_XL/model-UD-Q2_K_XL.gguf", "model.imatrix.gguf",
)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, ("model-Q4_K_M.gguf",)),
        ("Q8_0", ("model-Q8_0-00001-of-00002.gguf", "model-Q8_0-00002-of-00002.gguf")),
        ("ud-q2_k_xl", ("UD-Q2_K_XL/model-UD-Q2_K_XL.gguf",)),
    ],
)
def test_gguf_files_by_quantisation(asked: str | None, expected: tuple[str, ...]) -> None:
    selection = chosen(*GGUF, quantization=asked)
    assert names(selection) == [expected]
    assert set(selection.quantizations) == {"q4_k_m", "q8_0", "ud-q2_k_xl"}


def test_a_quantisation_that_is_not_there_is_said() -> None:
    selection = chosen(*GGUF, quantization="q5_0")
    assert names(selection) == [("model-Q4_K_M.gguf",)]
    assert "q5_0" in selection.notes[0]
    assert "q8_0" in selection.notes[0]


def test_a_gguf_file_beside_safetensors_is_taken_only_where_it_is_asked_for() -> None:
    assert names(chosen("model.safetensors", "m-q4_0.gguf", quantization="q4_0")) == [("m-q4_0.gguf",)]
    assert names(chosen("model.safetensors", "m-q4_0.gguf", quantization="awq")) == [("model.safetensors",)]


def test_a_named_file_is_the_set_it_belongs_to() -> None:
    assert names(chosen(*SHARDS, "model.safetensors", only=SHARDS[1])) == [SHARDS]
    assert names(chosen(*SHARDS, "model.safetensors", only="model.safetensors")) == [("model.safetensors",)]
