"""Checkpoints of many layouts: their bytes are those of their headers, wherever they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoints import (
    LLAMA,
    LLAMA_PARAMS,
    MIXTRAL,
    PACKED,
    File,
    Tensors,
    document,
    llama,
    mixtral,
    num_bytes,
    packed,
    safetensors,
    sharded,
    write,
)  # fmt: skip
from tests.hub_server import COMMIT, Hub, Repository, running

from vrameter.errors import SourceError
from vrameter.inspection import inspect
from vrameter.memory.weights import weight_plan
from vrameter.parallel import layer_split, tensor_share
from vrameter.response import estimate
from vrameter.sources import hub_model, resolve

FLUX = {
    "_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"], "scheduler": ["diffusers", "S"],
}  # fmt: skip
BLOCKS = {f"transformer_blocks.{n}.attn.to_q.weight": ("BF16", (8, 8)) for n in range(3)}
ENCODER = {
    "text_model.embeddings.token_embedding.weight": ("F16", (10, 4)),
    "text_model.encoder.layers.0.mlp.fc1.weight": ("F16", (8, 4)),
}
VAE = {"decoder.conv_in.weight": ("F32", (4, 4, 3, 3))}
LORA = {
    f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight": ("F32", shape)
    for layer in range(2) for side, shape in (("A", (8, 64)), ("B", (64, 8)))
}  # fmt: skip
TIED = {**LLAMA, "tie_word_embeddings": True}


def layouts() -> dict[str, tuple[dict[str, File], Tensors]]:
    """Return repositories with the tensors that a loader would load, once each."""
    config = {"config.json": document(LLAMA)}
    whole = {**config, "model.safetensors": safetensors(llama())}
    made: dict[str, tuple[dict[str, File], Tensors]] = {
        "single": (whole, llama()),
        "shards": ({**config, **sharded(llama(), 4)}, llama()),
        "shards without index": ({**config, **sharded(llama(), 3, index=False)}, llama()),
        "experts one by one": ({"config.json": document(MIXTRAL), **sharded(mixtral(), 2)}, mixtral()),
        "the authors' own shards beside": (
            {**whole, "consolidated.safetensors": safetensors({"x": ("BF16", (9, 9))}), "original/consolidated.00.pth": b"PK"}, llama(),
        ),
        "pickles beside": ({**whole, "pytorch_model.bin": b"\x80\x02" * 100}, llama()),
        "variant beside": ({**whole, "model.fp16.safetensors": safetensors(llama("F16"))}, llama()),
        "variant alone": ({**config, "model.fp16.safetensors": safetensors(llama("F16"))}, llama("F16")),
        "bare model": ({**config, "model.safetensors": safetensors(llama(prefix=""))}, llama(prefix="")),
        "no config": ({"model.safetensors": safetensors(llama())}, llama()),
        "another config": ({"config.json": b'{"model_type": "never-heard-of"}', "model.safetensors": safetensors(llama())}, llama()),
        "pipeline": (
            {"model_index.json": document(FLUX), "transformer/diffusion_pytorch_model.safetensors": safetensors(BLOCKS),
             "vae/diffusion_pytorch_model.safetensors": safetensors(VAE), "text_encoder/model.safetensors": safetensors(ENCODER),
             "flux.safetensors": safetensors({"x": ("F32", (99,))})},
            {**BLOCKS, **VAE, **ENCODER},
        ),
        "sentence encoder": (
            {**whole, "modules.json": document([{"path": ""}, {"path": "2_Dense"}]),
             "2_Dense/model.safetensors": safetensors({"linear.weight": ("F32", (32, 64))})},
            {**llama(), "linear.weight": ("F32", (32, 64))},
        ),
    }  # fmt: skip
    for method in PACKED:
        settings, tensors = packed(method)
        made[method] = ({"config.json": document(settings), "model.safetensors": safetensors(tensors)}, tensors)
    settings, tensors = packed("gptq")
    old = {name: value for name, value in settings.items() if name != "quantization_config"}
    made["gptq stated apart"] = (
        {"config.json": document(old), "quantize_config.json": document({"bits": 4, "group_size": 32}),
         "model.safetensors": safetensors(tensors)}, tensors,
    )  # fmt: skip
    return made


LAYOUTS = layouts()


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with running(
        {f"org/{name.replace(' ', '-')}".replace("'", ""): Repository(files) for name, (files, _) in LAYOUTS.items()}
    ) as hub:
        yield hub


@pytest.mark.parametrize("name", LAYOUTS)
def test_bytes_are_those_of_the_headers_here_and_on_the_hub(
    name: str, tmp_path: Path, fresh: Path, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, tensors = LAYOUTS[name]
    folder = resolve(str(write(tmp_path / "model", files)))
    assert folder.table is not None
    assert folder.table.num_bytes == num_bytes(tensors)
    seen = inspect(str(tmp_path / "model"))
    assert seen["bytes"] == sum(each["bytes"] for each in seen["components"]) == num_bytes(tensors)
    assert seen["tensors"] == len(tensors)
    assert estimate({"model": str(tmp_path / "model")})["report"]["weights_bytes"] == seen["loaded_bytes"]

    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    hub = resolve(f"org/{name.replace(' ', '-')}".replace("'", ""))
    assert hub.table == folder.table
    assert hub.num_params == folder.num_params
    assert hub.notes == folder.notes


@pytest.mark.parametrize("method", [*PACKED, "gptq stated apart"])
def test_packed_elements_are_no_parameters(method: str, tmp_path: Path) -> None:
    files, tensors = LAYOUTS[method]
    write(tmp_path, files)
    model = resolve(str(tmp_path))
    assert model.num_params == LLAMA_PARAMS
    answer = estimate({"model": str(tmp_path)})
    assert answer["report"]["weights_bytes"] == num_bytes(tensors)
    assert next(item for item in answer["devices"][0]["items"] if item["term"] == "weights")["basis"] == "exact"
    assert answer["request"]["quantization"]
    assert inspect(str(tmp_path))["num_params"] == LLAMA_PARAMS
    (tmp_path / "config.json").unlink()
    assert inspect(str(tmp_path))["num_params"] == LLAMA_PARAMS, "recovered from the layout alone"


def weights(model: Path, **asked: Any) -> int:
    return int(estimate({"model": str(model), **asked})["report"]["weights_bytes"])


def put(tmp_path: Path, config: dict[str, Any], tensors: Tensors, **more: File) -> Path:
    return write(tmp_path, {"config.json": document(config), "model.safetensors": safetensors(tensors), **more})


def test_a_tied_head_that_is_stored_is_not_loaded(tmp_path: Path) -> None:
    model = put(tmp_path, TIED, llama())
    assert weights(model) == num_bytes(llama()) - 96 * 64 * 2
    seen = inspect(str(model))
    assert seen["bytes"] == num_bytes(llama())
    assert [each["bytes"] for each in seen["components"] if not each["loaded"]] == [96 * 64 * 2]


def test_rotary_tables_and_masks_are_not_loaded(tmp_path: Path) -> None:
    buffers: Tensors = {
        **{f"model.layers.{n}.self_attn.rotary_emb.inv_freq": ("F32", (8,)) for n in range(2)},
        "model.embeddings.position_ids": ("I64", (1, 512)),
    }
    assert weights(put(tmp_path, LLAMA, {**llama(), **buffers})) == num_bytes(llama())


def test_multi_token_prediction_is_not_loaded(tmp_path: Path) -> None:
    extra: Tensors = {"mtp.layers.0.self_attn.q_proj.weight": ("BF16", (64, 64)), "mtp.fc.weight": ("BF16", (64, 128))}
    assert weights(put(tmp_path, LLAMA, {**llama(), **extra})) == num_bytes(llama())


def test_single_precision_loads_as_what_is_asked_for(tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    model = put(tmp_path, config, llama("F32"))
    assert weights(model) == num_bytes(llama("F32"))
    assert weights(model, dtype="bf16") == num_bytes(llama("BF16"))
    assert estimate({"model": str(model)})["request"]["dtype"] == "fp32"


def test_loaders_follow_the_configs_number_format_and_it_is_said(tmp_path: Path) -> None:
    model = put(tmp_path, LLAMA, llama("F32"))
    answer = estimate({"model": str(model)})
    assert answer["report"]["weights_bytes"] == num_bytes(llama("BF16"))
    assert answer["model"]["stored_bytes"] == num_bytes(llama("F32"))
    assert any("fp32" in warning for warning in answer["warnings"])


def test_single_tensors_of_another_format_stay_so(tmp_path: Path) -> None:
    mixed = {**llama(), "model.norm.weight": ("F32", (64,))}
    assert weights(put(tmp_path, LLAMA, mixed)) == num_bytes(mixed)


def test_quantising_what_was_read(tmp_path: Path) -> None:
    model = put(tmp_path, LLAMA, llama())
    by_config = write(tmp_path / "config-only", {"config.json": document(LLAMA)})
    for quantization in ("bnb-nf4", "awq", "q4_k_m"):
        assert weights(model, quantization=quantization) == weights(by_config, quantization=quantization)


def test_shares_of_a_packed_model_sum_to_the_whole(tmp_path: Path) -> None:
    settings, tensors = packed("bnb-4bit")
    model = resolve(str(put(tmp_path, settings, tensors)))
    assert model.architecture is not None
    plan = weight_plan(model.architecture, table=model.table)
    whole = plan.of().total
    assert whole == num_bytes(tensors)
    assert sum(plan.of(share).total for share in layer_split(model.architecture, 2, plan.piece_bytes)) == whole
    half = plan.of(tensor_share(model.architecture, 2)).total
    assert whole / 2 <= half < whole


def test_files_and_config_that_disagree(tmp_path: Path) -> None:
    tensors = {**llama(), "model.embed_tokens.weight": ("BF16", (128, 64)), "model.extra.weight": ("BF16", (5, 7))}
    del tensors["model.layers.1.mlp.up_proj.weight"]
    model = put(tmp_path, LLAMA, tensors)
    answer = estimate({"model": str(model)})
    assert answer["report"]["weights_bytes"] == num_bytes(tensors)
    said = " ".join(answer["warnings"])
    assert "[128, 64] in the file, [96, 64] by the config" in said
    assert "files lack" in said
    assert "mlp.up_proj.weight" in said
    assert "model.extra.weight" in said


def test_layers_beyond_the_config_count(tmp_path: Path) -> None:
    tensors = llama(layers=range(3))
    answer = estimate({"model": str(put(tmp_path, LLAMA, tensors))})
    assert answer["report"]["weights_bytes"] == num_bytes(tensors)
    assert any("does not describe" in warning for warning in answer["warnings"])


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    size = num_bytes(llama("F32"))
    bomb = b"cos\nsystem\n(S'touch /tmp/opened'\ntR."
    config = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    whole = replace(safetensors({"x": ("U8", (size + 900,))}), head=bomb)
    model = write(
        tmp_path / "whole", {"config.json": document(config), "pytorch_model.bin": replace(whole, size=size + 900)}
    )
    answer = estimate({"model": str(model)})
    assert answer["report"]["weights_bytes"] == size
    assert answer["request"]["dtype"] == "fp32"
    assert any("never opened" in warning for warning in answer["warnings"])
    shards = {f"pytorch_model-0000{n}-of-00002.bin": bomb for n in (1, 2)}
    index = {
        "metadata": {"total_size": size},
        "weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"},
    }
    model = write(
        tmp_path / "shards",
        {"config.json": document(config), **shards, "pytorch_model.bin.index.json": document(index)},
    )
    seen = inspect(str(model))
    assert (seen["bytes"], seen["basis"]) == (size, "modelled")
    (model / "config.json").unlink()
    assert inspect(str(model))["bytes"] == size


def test_an_adapter_on_its_base(tmp_path: Path) -> None:
    base = put(tmp_path / "base", LLAMA, llama())
    adapter = write(
        tmp_path / "adapter",
        {
            "adapter_config.json": document({"base_model_name_or_path": str(base)}),
            "adapter_model.safetensors": safetensors(LORA),
        },
    )
    assert weights(adapter) == num_bytes(llama()) + num_bytes(LORA)
    names = {each["name"]: each["bytes"] for each in inspect(str(adapter))["components"]}
    assert names["adapter"] == num_bytes(LORA)
    missing = {"base_model_name_or_path": "./nowhere"}
    (adapter / "adapter_config.json").write_bytes(document(missing))
    with pytest.raises(SourceError, match=r"adapter.*nowhere"):
        resolve(str(adapter))


def test_an_adapter_on_a_model_of_the_catalogue(tmp_path: Path) -> None:
    adapter = write(
        tmp_path,
        {
            "adapter_config.json": document({"base_model_name_or_path": "gpt2"}),
            "adapter_model.safetensors": safetensors(LORA),
        },
    )
    assert weights(adapter) == weights(Path("gpt2")) + num_bytes(LORA)
    assert estimate({"model": str(adapter)})["kv_cache"] == estimate({"model": "gpt2"})["kv_cache"]


def test_one_file_and_one_shard(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"config.json": document(LLAMA), **sharded(llama(), 3), "other.safetensors": safetensors({"x": ("F32", (3,))})},
    )
    shard = resolve(str(tmp_path / "model-00002-of-00003.safetensors"))
    index = resolve(str(tmp_path / "model.safetensors.index.json"))
    assert shard.source == "file"
    for model in (shard, index):
        assert model.table is not None
        assert model.table.num_bytes == num_bytes(llama())
    (tmp_path / "model-00001-of-00003.safetensors").unlink()
    with pytest.raises(SourceError, match="2 of 3"):
        resolve(str(tmp_path / "model-00002-of-00003.safetensors"))


def test_a_hub_caches_folder(tmp_path: Path) -> None:
    root = tmp_path / "models--org--small"
    blobs = write(root / "blobs", {"a": safetensors(llama()), "b": document(LLAMA)})
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blobs / "a")
    (snapshot / "config.json").symlink_to(blobs / "b")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    for place in (root, snapshot):
        model = resolve(str(place))
        assert model.name == "org/small"
        assert model.table is not None
        assert model.table.num_bytes == num_bytes(llama())


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    put(tmp_path, LLAMA, llama())
    assert resolve(str(tmp_path)) is resolve(str(tmp_path))
    put(tmp_path, LLAMA, llama("F32"))
    model = resolve(str(tmp_path))
    assert model.table is not None
    assert model.table.num_bytes == num_bytes(llama("F32"))


def test_what_needs_a_network_is_refused_where_only_tensors_are_known(tmp_path: Path) -> None:
    from vrameter.errors import RequestError

    write(tmp_path, {"thing.safetensors": safetensors(llama())})
    answer = estimate({"model": str(tmp_path / "thing.safetensors"), "device": "rtx-4090", "num_devices": 2})
    assert answer["model"]["architecture"] is None
    assert num_bytes(llama()) / 2 <= answer["report"]["weights_bytes"] < num_bytes(llama())
    with pytest.raises(RequestError, match="context_length"):
        estimate({"model": str(tmp_path / "thing.safetensors"), "settings": {"context_length": 4096}})


def test_without_weights_the_config_answers(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": document(LLAMA), "model.onnx": b"x", "training_args.bin": b"x"})
    assert resolve(str(tmp_path)).num_params == LLAMA_PARAMS
    (tmp_path / "config.json").unlink()
    with pytest.raises(SourceError, match="no weights that are read here"):
        resolve(str(tmp_path))


def test_inspect_adds_up(tmp_path: Path) -> None:
    seen = inspect(str(put(tmp_path, MIXTRAL, mixtral())))
    for each in seen["components"]:
        for field in ("tensors", "num_params", "bytes"):
            assert each[field] == sum(part[field] for part in each["dtypes"].values())
            assert each[field] == sum(role[field] for role in each["roles"].values())
    experts = seen["components"][0]["roles"]["experts"]
    assert (experts["tensors"], experts["layers"]) == (24, [0, 1])
    assert json.loads(json.dumps(seen)) == seen


def test_inspect_of_the_catalogue() -> None:
    seen = inspect("llama-3.1-8b")
    assert seen["bytes"] == seen["loaded_bytes"] == 16_060_522_496
    assert seen["num_params"] == 8_030_261_248


def test_nothing_is_kept_of_a_forgotten_answer(fresh: Path) -> None:
    hub_model.forget()
    with pytest.raises(SourceError):
        resolve("org/name")
