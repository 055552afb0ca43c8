"""Saved activations of diffusers' own blocks, byte for byte: needs torch, diffusers and peft (``-m oracle``)."""

from __future__ import annotations

from typing import Any

import pytest

from vrameter.model.config import Config
from vrameter.model.diffusion.pipeline import read_pipeline
from vrameter.training.diffusion.blocks import bench_maker, block_cost, kind_of
from vrameter.training.programs.scene import AdapterUse, Use

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.oracle

B, TEXT = 2, 24  # samples, tokens of text
HEADS = {"num_attention_heads": 4, "attention_head_dim": 32}
WIDTH = 128
IMAGE = 48  # tokens of a picture
SOUND = 12  # tokens of sound


def _ids(rows: int, axes: int) -> Any:
    return torch.arange(rows * axes).reshape(rows, axes).float() % 7


def _flat(channels: int, text: int, axes: int = 3, **more: Any) -> dict[str, Any]:
    return {"hidden_states": torch.randn(B, IMAGE, channels), "encoder_hidden_states": torch.randn(B, TEXT, text),
            "timestep": torch.rand(B), "img_ids": _ids(IMAGE, axes), "txt_ids": _ids(TEXT, axes), **more}  # fmt: skip


def _map(*shape: int, text: int, **more: Any) -> dict[str, Any]:
    return {"hidden_states": torch.randn(B, *shape), "encoder_hidden_states": torch.randn(B, TEXT, text),
            "timestep": torch.tensor([1, 2]), **more}  # fmt: skip


FLUX = {**HEADS, "in_channels": 16, "joint_attention_dim": 64, "axes_dims_rope": (8, 12, 12)}
FLUX2 = {**FLUX, "axes_dims_rope": (8, 8, 8, 8), "timestep_guidance_channels": 64, "guidance_embeds": False}
HUNYUAN = {**HEADS, "in_channels": 4, "out_channels": 4, "text_embed_dim": 64, "pooled_projection_dim": 32, "rope_axes_dim": (8, 12, 12),
           "num_refiner_layers": 1, "guidance_embeds": False}  # fmt: skip
AMUSED = {"hidden_size": WIDTH, "block_out_channels": 64, "in_channels": 64, "num_attention_heads": 4, "block_num_heads": 2,
          "intermediate_size": 352, "encoder_hidden_size": 32, "cond_embed_dim": 32, "micro_cond_embed_dim": 160,
          "micro_cond_encode_dim": 32, "vocab_size": 100, "codebook_size": 64, "use_bias": False}  # fmt: skip


def _tokens() -> dict[str, Any]:
    return {"input_ids": torch.randint(0, 99, (B, 8, 8)), "encoder_hidden_states": torch.randn(B, TEXT, 32),
            "pooled_text_emb": torch.randn(B, 32), "micro_conds": torch.randn(B, 5)}  # fmt: skip


# name: class, config, the count that varies, the others, list of blocks, tokens of picture, inputs
CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, int], str, int, Any]] = {
    "flux double": ("FluxTransformer2DModel", {**FLUX, "pooled_projection_dim": 32}, "num_layers", {"num_single_layers": 1},
                    "transformer_blocks", IMAGE, lambda: _flat(16, 64, pooled_projections=torch.randn(B, 32))),
    "flux single": ("FluxTransformer2DModel", {**FLUX, "pooled_projection_dim": 32}, "num_single_layers", {"num_layers": 1},
                    "single_transformer_blocks", IMAGE, lambda: _flat(16, 64, pooled_projections=torch.randn(B, 32))),
    "flux2 double": ("Flux2Transformer2DModel", FLUX2, "num_layers", {"num_single_layers": 1}, "transformer_blocks", IMAGE,
                     lambda: _flat(16, 64, 4)),
    "flux2 single": ("Flux2Transformer2DModel", FLUX2, "num_single_layers", {"num_layers": 1}, "single_transformer_blocks", IMAGE,
                     lambda: _flat(16, 64, 4)),
    "sd3": ("SD3Transformer2DModel", {**HEADS, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 64, "sample_size": 16,
            "caption_projection_dim": WIDTH, "pooled_projection_dim": 32, "pos_embed_max_size": 16}, "num_layers", {},
            "transformer_blocks", 64, lambda: _map(4, 16, 16, text=64, pooled_projections=torch.randn(B, 32))),
    "sd3.5": ("SD3Transformer2DModel", {**HEADS, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 64, "sample_size": 16,
              "caption_projection_dim": WIDTH, "pooled_projection_dim": 32, "pos_embed_max_size": 16, "qk_norm": "rms_norm",
              "dual_attention_layers": [0, 1, 2, 3]}, "num_layers", {},
              "transformer_blocks", 64, lambda: _map(4, 16, 16, text=64, pooled_projections=torch.randn(B, 32))),
    "qwen-image": ("QwenImageTransformer2DModel", {**FLUX, "out_channels": 4}, "num_layers", {}, "transformer_blocks", IMAGE,
                   lambda: {"hidden_states": torch.randn(B, IMAGE, 16), "encoder_hidden_states": torch.randn(B, TEXT, 64),
                            "timestep": torch.rand(B), "img_shapes": [[(1, 6, 8)]] * B}),
    "hunyuan double": ("HunyuanVideoTransformer3DModel", HUNYUAN, "num_layers", {"num_single_layers": 1}, "transformer_blocks", 64,
                       lambda: _map(4, 1, 16, 16, text=64, pooled_projections=torch.randn(B, 32),
                                    encoder_attention_mask=torch.ones(B, TEXT, dtype=torch.long))),
    "hunyuan single": ("HunyuanVideoTransformer3DModel", HUNYUAN, "num_single_layers", {"num_layers": 1},
                       "single_transformer_blocks", 64,
                       lambda: _map(4, 1, 16, 16, text=64, pooled_projections=torch.randn(B, 32),
                                    encoder_attention_mask=torch.ones(B, TEXT, dtype=torch.long))),
    "cogvideox": ("CogVideoXTransformer3DModel", {**HEADS, "in_channels": 4, "out_channels": 4, "time_embed_dim": 64,
                  "text_embed_dim": 64, "sample_width": 16, "sample_height": 16, "sample_frames": 1, "max_text_seq_length": TEXT},
                  "num_layers", {}, "transformer_blocks", 64,
                  lambda: {**_map(1, 4, 16, 16, text=64)}),
    "wan": ("WanTransformer3DModel", {**HEADS, "in_channels": 4, "out_channels": 4, "text_dim": 64, "freq_dim": 64, "ffn_dim": 352},
            "num_layers", {}, "blocks", 64, lambda: _map(4, 1, 16, 16, text=64)),
    "ltx": ("LTXVideoTransformer3DModel", {**HEADS, "in_channels": 16, "out_channels": 16, "cross_attention_dim": WIDTH,
            "caption_channels": 64}, "num_layers", {}, "transformer_blocks", IMAGE,
            lambda: {"hidden_states": torch.randn(B, IMAGE, 16), "encoder_hidden_states": torch.randn(B, TEXT, 64),
                     "timestep": torch.tensor([[1], [2]]), "encoder_attention_mask": torch.ones(B, TEXT, dtype=torch.long),
                     "num_frames": 1, "height": 6, "width": 8}),
    "pixart": ("PixArtTransformer2DModel", {**HEADS, "in_channels": 4, "out_channels": 8, "cross_attention_dim": WIDTH,
               "caption_channels": 64, "sample_size": 16}, "num_layers", {}, "transformer_blocks", 64,
               lambda: _map(4, 16, 16, text=64, added_cond_kwargs={"resolution": None, "aspect_ratio": None})),
    "sana": ("SanaTransformer2DModel", {**HEADS, "in_channels": 4, "out_channels": 4, "num_cross_attention_heads": 2,
             "cross_attention_head_dim": 64, "cross_attention_dim": WIDTH, "caption_channels": 64, "sample_size": 8}, "num_layers", {},
             "transformer_blocks", 64, lambda: _map(4, 8, 8, text=64)),
    "z-image": ("ZImageTransformer2DModel", {"in_channels": 4, "dim": WIDTH, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4,
                "cap_feat_dim": 64, "axes_dims": [8, 12, 12]}, "n_layers", {}, "layers", 64,
                lambda: {"x": [torch.randn(4, 1, 16, 16) for _ in range(B)], "t": torch.rand(B),
                         "cap_feats": [torch.randn(32, 64) for _ in range(B)]}),
    "auraflow joint": ("AuraFlowTransformer2DModel", {**HEADS, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 64,
                       "caption_projection_dim": WIDTH, "sample_size": 16, "pos_embed_max_size": 64}, "num_mmdit_layers",
                       {"num_single_dit_layers": 1}, "joint_transformer_blocks", 64, lambda: _map(4, 16, 16, text=64)),
    "auraflow single": ("AuraFlowTransformer2DModel", {**HEADS, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 64,
                        "caption_projection_dim": WIDTH, "sample_size": 16, "pos_embed_max_size": 64}, "num_single_dit_layers",
                        {"num_mmdit_layers": 1}, "single_transformer_blocks", 64, lambda: _map(4, 16, 16, text=64)),
    "lumina2": ("Lumina2Transformer2DModel", {"in_channels": 4, "hidden_size": WIDTH, "num_refiner_layers": 1, "num_attention_heads": 4,
                "num_kv_heads": 2, "cap_feat_dim": 64, "axes_dim_rope": (8, 12, 12), "axes_lens": (30, 32, 32), "sample_size": 16,
                "multiple_of": 32, "ffn_dim_multiplier": None}, "num_layers", {}, "layers", 64,
                lambda: _map(4, 16, 16, text=64, encoder_attention_mask=torch.ones(B, TEXT, dtype=torch.bool))),
    "ltx2": ("LTX2VideoTransformer3DModel", {**HEADS, "in_channels": 16, "out_channels": 16, "cross_attention_dim": WIDTH,
             "audio_in_channels": 8, "audio_out_channels": 8, "audio_num_attention_heads": 4, "audio_attention_head_dim": 16,
             "audio_cross_attention_dim": 64, "caption_channels": 64}, "num_layers", {}, "transformer_blocks", IMAGE,
             lambda: {"hidden_states": torch.randn(B, IMAGE, 16), "audio_hidden_states": torch.randn(B, SOUND, 8),
                      "encoder_hidden_states": torch.randn(B, TEXT, 64), "audio_encoder_hidden_states": torch.randn(B, TEXT, 64),
                      "timestep": torch.tensor([[1], [2]]), "encoder_attention_mask": torch.ones(B, TEXT, dtype=torch.long),
                      "audio_encoder_attention_mask": torch.ones(B, TEXT, dtype=torch.long), "num_frames": 1, "height": 6,
                      "width": 8, "audio_num_frames": SOUND}),
    "amused": ("UVit2DModel", AMUSED, "num_hidden_layers", {"num_res_blocks": 1}, "transformer_layers", 64, _tokens),
    "amused blocks": ("UVit2DModel", AMUSED, "num_res_blocks", {"num_hidden_layers": 1}, "res_blocks", 64, _tokens),
}  # fmt: skip
NUMBERS = {"bf16": ("bfloat16", 2, 0), "fp32": ("float32", 4, 0), "autocast": ("float32", 4, 2)}
# Streams that change their numbers on the way through a block under autocast: within these shares.
LOOSER = {("auraflow joint", "autocast", False): 0.025, ("lumina2", "autocast", False): 0.015}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def counted(name: str, numbers: str, *, adapted: bool) -> int:
    """Return what our programs say that the blocks keep which one more of a count brings."""
    class_name, config, varied, others, blocks, tokens, _ = CASES[name]
    values = {"_class_name": class_name, **config, varied: 3, **others}
    module = read_pipeline(values).modules[0]
    lists = [each for each in module.architecture.components if each.layers_prefix.rpartition(".")[2] == blocks]
    if name == "amused blocks":
        lists = [each for each in module.architecture.components if each.layers_prefix != "transformer_layers"]
    cfg = Config(values, path="config.")
    return sum(_kept(name, class_name, component, cfg, tokens, numbers, adapted=adapted) for component in lists)


def _kept(name: str, class_name: str, component: Any, cfg: Config, tokens: int, numbers: str, *, adapted: bool) -> int:
    """Return what one block of a list keeps."""
    _, element, auto = NUMBERS[numbers]
    kind = kind_of(class_name, component, cfg)
    assert kind is not None
    adapter = AdapterUse(4, 4)

    def use(tensor: Any) -> Use:
        stem = tensor.name.removesuffix(".weight")
        hit = adapted and any(stem.endswith(f".{target}") for target in TARGETS)
        return Use(element, not adapted, adapter=adapter if hit else None)

    text = 32 if name == "z-image" or name.startswith("auraflow") else TEXT  # registers, padding
    width = component.hidden_size
    make = bench_maker(component.layers[0], use, samples=B, kind=kind, width=width, auto=auto, element=auto or element,
                       steered=not adapted, time_width=min(WIDTH, 256) if name != "cogvideox" else 64,
                       read=(B * text, WIDTH, not adapted))  # fmt: skip
    rows = B * (tokens + (text if kind.streams == "both" else 0))
    beside = {"joint": (B * text, 0), "sound": (B * SOUND, 64)}.get(kind.streams, (0, 0))
    return block_cost(kind.program, make, rows=rows, text_rows=beside[0], width=width, text_width=beside[1],
                      element=kind.element(auto, auto or element)).saved  # fmt: skip


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_saved_bytes(name: str, numbers: str, adapted: bool) -> None:
    from tests.training.denoisers import one_more

    class_name, config, varied, others, _, _, inputs = CASES[name]
    kind = getattr(diffusers, class_name)

    def make(count: int) -> Any:
        return kind(**config, **others, **{varied: count})

    dtype, _, autocast = NUMBERS[numbers]
    torch.manual_seed(0)
    expected = one_more(
        make, inputs(), dtype=getattr(torch, dtype), autocast=bool(autocast), targets=TARGETS if adapted else []
    )
    within = LOOSER.get((name, numbers, adapted), 0.0)
    assert counted(name, numbers, adapted=adapted) == pytest.approx(expected, rel=within, abs=0)


UNET = {"sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 64, "norm_num_groups": 32,
        "attention_head_dim": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}  # fmt: skip
UNETS = {
    "sd1": UNET,
    "sdxl": {
        **UNET, "use_linear_projection": True, "transformer_layers_per_block": (1, 2), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
}  # fmt: skip


def map_bytes(config: dict[str, Any], numbers: str, *, adapted: bool) -> int:
    """Return what our programs say that a whole UNet keeps."""
    from vrameter.model.diffusion.unet import unet_plan
    from vrameter.training.diffusion.maps import steps
    from vrameter.training.diffusion.unets import step_cost, tensors_of

    _, element, auto = NUMBERS[numbers]
    values = {
        "_class_name": "UNet2DConditionModel",
        **{name: list(value) if isinstance(value, tuple) else value for name, value in config.items()},
    }
    module = read_pipeline(values).modules[0]
    plan = unet_plan(Config(values, path="config."))
    adapter = AdapterUse(4, 4)

    def use(tensor: Any) -> Use:
        hit = adapted and any(tensor.name.removesuffix(".weight").endswith(f".{target}") for target in TARGETS)
        return Use(element, not adapted, adapter=adapter if hit else None)

    total, grad = 0, not adapted
    for step in steps(plan):
        cost = step_cost(
            step, plan, tensors_of(step, module.architecture.main.tensors), use, samples=B, latents=16 * 16, auto=auto, element=auto or element,
            steered=not adapted, text=(TEXT, plan.cross, False), input_grad=grad and step.kind != "first",
        )  # fmt: skip
        total += cost.saved
        grad = grad or step.kind == "block"
    return total


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("name", UNETS)
@pytest.mark.filterwarnings("ignore")
def test_saved_bytes_of_unets(name: str, numbers: str, adapted: bool) -> None:
    """A whole UNet but for what its time step takes, which is the same whatever the size of the picture."""
    from tests.training.denoisers import whole

    dtype, _, autocast = NUMBERS[numbers]
    config = UNETS[name]
    inputs = {
        "sample": torch.randn(B, 4, 16, 16),
        "timestep": torch.tensor([1, 2]),
        "encoder_hidden_states": torch.randn(B, TEXT, 64),
    }
    if autocast:
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].bfloat16()

    def steps_in_time(model: Any) -> Any:
        made = model.time_embedding(model.time_proj(inputs["timestep"]).to(getattr(torch, dtype)))
        return torch.nn.functional.silu(made)

    expected = whole(lambda: diffusers.UNet2DConditionModel(**config), inputs, dtype=getattr(torch, dtype), autocast=bool(autocast),
                     targets=TARGETS if adapted else [], outside=steps_in_time)  # fmt: skip
    assert map_bytes(config, numbers, adapted=adapted) == expected
