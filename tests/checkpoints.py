"""Synthetic checkpoints with real headers and no weights: files that are sparse on disk and zeros on the wire."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from vrameter.sources.safetensors import BITS

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Names with type and shape, as a header spells them."""


@dataclass(frozen=True)
class Sparse:
    """A file that is a header and then zeros."""

    head: bytes
    size: int

    def part(self, offset: int, length: int) -> bytes:
        end = min(self.size, offset + length)
        found = self.head[offset:end]
        return found + bytes(max(0, end - offset - len(found)))


File = bytes | Sparse


def num_bytes(tensors: Tensors) -> int:
    """Return what tensors take together, worked out apart from the code under test."""
    return sum(-(-prod(shape) * BITS[dtype] // 8) for dtype, shape in tensors.values())


def safetensors(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Sparse:
    """Return a file as the library would write it."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + -(-prod(shape) * BITS[dtype] // 8)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return Sparse(len(text).to_bytes(8, "little") + text, 8 + len(text) + offset)


def sharded(tensors: Tensors, count: int, *, stem: str = "model", index: bool = True) -> dict[str, File]:
    """Return shards of equal numbers of tensors, and their index."""
    names = list(tensors)
    files: dict[str, File] = {}
    places: dict[str, str] = {}
    for number in range(count):
        path = f"{stem}-{number + 1:05}-of-{count:05}.safetensors"
        part = {name: tensors[name] for name in names[number::count]}
        places.update(dict.fromkeys(part, path))
        files[path] = safetensors(part)
    if index:
        document = {"metadata": {"total_size": num_bytes(tensors)}, "weight_map": places}
        files[f"{stem}.safetensors.index.json"] = json.dumps(document).encode()
    return files


def write(folder: Path, files: Mapping[str, File]) -> Path:
    """Write files below a folder, weights as holes."""
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Sparse):
            with file.open("wb") as stream:
                stream.write(content.head)
                stream.truncate(content.size)
        else:
            file.write_bytes(content)
    return folder


def document(values: Any) -> bytes:
    return json.dumps(values).encode()


# -- models -------------------------------------------------------------------------------------------

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
MIXTRAL: dict[str, Any] = {
    **LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4,
    "num_experts_per_tok": 2,
}  # fmt: skip
LINEAR = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
SHAPES = dict(zip(LINEAR, ((64, 64), (32, 64), (32, 64), (64, 64), (128, 64), (128, 64), (64, 128)), strict=True))


def llama(
    dtype: str = "BF16", *, prefix: str = "model.", layers: Iterable[int] = range(2)
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the tensors of the small Llama under their published names."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {f"{prefix}embed_tokens.weight": (dtype, (96, 64))}
    for layer in layers:
        for name, shape in SHAPES.items():
            found[f"{prefix}layers.{layer}.{name}.weight"] = (dtype, shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}layers.{layer}.{name}.weight"] = (dtype, (64,))
    found[f"{prefix}norm.weight"] = (dtype, (64,))
    found["lm_head.weight"] = (dtype, (96, 64))
    return found


LLAMA_PARAMS = 2 * 96 * 64 + 64 + 2 * (sum(prod(shape) for shape in SHAPES.values()) + 2 * 64)


def mixtral() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the tensors of the small Mixtral, experts one by one under the old names."""
    found = {name: value for name, value in llama().items() if ".mlp." not in name}
    for layer in range(2):
        block = f"model.layers.{layer}.block_sparse_moe"
        found[f"{block}.gate.weight"] = ("BF16", (4, 64))
        for expert in range(4):
            for name, shape in (("w1", (128, 64)), ("w2", (64, 128)), ("w3", (128, 64))):
                found[f"{block}.experts.{expert}.{name}.weight"] = ("BF16", shape)
    return found


def _packed(replaced: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the small Llama with each linear layer replaced; values may be functions of outputs and inputs."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (dtype, shape) in llama("F16").items():
        module = name.removesuffix(".weight")
        if not any(module.endswith(linear) for linear in LINEAR):
            found[name] = (dtype, shape)
            continue
        for end, (kind, sizes) in replaced.items():
            found[f"{module}{end}"] = (kind, sizes(*shape))
    return found


def packed(method: str) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...]]]]:
    """Return the config and tensors of the small Llama quantised by a method, in groups of 32."""
    cells = {
        "awq": (
            {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True},
            {".qweight": ("I32", lambda o, i: (i, o // 8)), ".qzeros": ("I32", lambda o, i: (i // 32, o // 8)),
             ".scales": ("F16", lambda o, i: (i // 32, o))},
        ),
        "gptq": (
            {"quant_method": "gptq", "bits": 4, "group_size": 32},
            {".qweight": ("I32", lambda o, i: (i // 8, o)), ".qzeros": ("I32", lambda o, i: (i // 32, o // 8)),
             ".scales": ("F16", lambda o, i: (i // 32, o)), ".g_idx": ("I32", lambda o, i: (i,))},
        ),
        "compressed-tensors": (
            {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
             "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
                 "num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}}}},
            {".weight_packed": ("I32", lambda o, i: (o, i // 8)), ".weight_scale": ("BF16", lambda o, i: (o, i // 32)),
             ".weight_shape": ("I64", lambda o, i: (2,))},
        ),
        "bnb-4bit": (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
             "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "float16"},
            {".weight": ("U8", lambda o, i: (o * i // 2, 1)), ".weight.absmax": ("U8", lambda o, i: (o * i // 64,)),
             ".weight.quant_map": ("F32", lambda o, i: (16,)), ".weight.nested_absmax": ("F32", lambda o, i: (1,)),
             ".weight.nested_quant_map": ("F32", lambda o, i: (256,)),
             ".weight.quant_state.bitsandbytes__nf4": ("U8", lambda o, i: (80,))},
        ),
        "fp8": (
            {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
            {".weight": ("F8_E4M3", lambda o, i: (o, i)),
             ".weight_scale_inv": ("F32", lambda o, i: (-(-o // 128), -(-i // 128)))},
        ),
        "nvfp4": (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["lm_head"]},
            {".weight": ("U8", lambda o, i: (o, i // 2)), ".weight_scale": ("F8_E4M3", lambda o, i: (o, i // 16)),
             ".weight_scale_2": ("F32", lambda o, i: ()), ".input_scale": ("F32", lambda o, i: ())},
        ),
        "mlx": (
            {"group_size": 32, "bits": 4},
            {".weight": ("U32", lambda o, i: (o, i // 8)), ".scales": ("F16", lambda o, i: (o, i // 32)),
             ".biases": ("F16", lambda o, i: (o, i // 32))},
        ),
    }  # fmt: skip
    settings, replaced = cells[method]
    key = "quantization" if method == "mlx" else "quantization_config"
    return {**LLAMA, "torch_dtype": "float16", key: settings}, _packed(replaced)


PACKED = ("awq", "gptq", "compressed-tensors", "bnb-4bit", "fp8", "nvfp4", "mlx")
