"""The fullest moments of a step of small denoisers, against what lives while diffusers' own code runs (``-m oracle``)."""

from __future__ import annotations

from typing import Any

import pytest

from vrameter import estimate

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.oracle

B, TEXT, EDGE = 2, 128, 32  # samples, tokens of text, tokens along an edge
HEADS = {"num_attention_heads": 4, "attention_head_dim": 64}
TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


def _map(*frames: int) -> dict[str, Any]:
    return {"hidden_states": torch.randn(B, *frames, 2 * EDGE, 2 * EDGE), "encoder_hidden_states": torch.randn(B, TEXT, 64),
            "timestep": torch.tensor([1, 2])}  # fmt: skip


# name: class, config, pixels of an edge that make those tokens, further settings, inputs
CASES: dict[str, tuple[str, dict[str, Any], int, dict[str, Any], Any]] = {
    "flux": ("FluxTransformer2DModel", {**HEADS, "in_channels": 16, "joint_attention_dim": 64, "axes_dims_rope": [16, 24, 24],
             "num_layers": 2, "num_single_layers": 2, "pooled_projection_dim": 32}, 512, {},
             lambda: {"hidden_states": torch.randn(B, EDGE**2, 16), "encoder_hidden_states": torch.randn(B, TEXT, 64),
                      "timestep": torch.rand(B), "img_ids": torch.zeros(EDGE**2, 3), "txt_ids": torch.zeros(TEXT, 3),
                      "pooled_projections": torch.randn(B, 32)}),
    "wan": ("WanTransformer3DModel", {**HEADS, "in_channels": 4, "out_channels": 4, "text_dim": 64, "freq_dim": 64, "ffn_dim": 1024,
            "num_layers": 3}, 1024, {"num_frames": 1}, lambda: _map(4, 1)),
    "cogvideox": ("CogVideoXTransformer3DModel", {**HEADS, "in_channels": 4, "out_channels": 4, "time_embed_dim": 64,
                  "text_embed_dim": 64, "sample_width": 64, "sample_height": 64, "sample_frames": 1, "max_text_seq_length": TEXT,
                  "num_layers": 3}, 512, {"num_frames": 1}, lambda: _map(1, 4)),
    "unet": ("UNet2DConditionModel", {"sample_size": 64, "block_out_channels": [64, 128], "layers_per_block": 1,
             "cross_attention_dim": 64, "attention_head_dim": 4, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
             "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}, 512, {},
             lambda: {"sample": torch.randn(B, 4, 64, 64), "encoder_hidden_states": torch.randn(B, TEXT, 64),
                      "timestep": torch.tensor([1, 2])}),
}  # fmt: skip


def lived(name: str, *, adapted: bool, recomputes: bool) -> tuple[int, int]:
    """Return the most that lives in the forward and in the backward pass, weights left out."""
    from peft import LoraConfig, inject_adapter_in_model

    from tests.live_bytes import LiveBytes
    from tests.training.denoisers import cuda_norms

    class_name, config, _, _, inputs = CASES[name]
    model = getattr(diffusers, class_name)(**config).to(torch.bfloat16).train()
    if adapted:
        model.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=8, lora_alpha=8, target_modules=TARGETS), model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if recomputes:
        model.enable_gradient_checkpointing()
    given = {key: value.bfloat16() if value.is_floating_point() else value for key, value in inputs().items()}
    with cuda_norms(), LiveBytes([*model.parameters(), *model.buffers(), *given.values()]) as live:
        out = model(**given)[0]
        forward = live.most
        loss = ((out.float() - torch.zeros_like(out, dtype=torch.float32)) ** 2).mean()
        del out
        live.most = live.now
        loss.backward()
    return forward, live.most


def counted(name: str, *, adapted: bool, recomputes: bool) -> tuple[int, int]:
    """Return the same by our answer."""
    class_name, config, edge, more, _ = CASES[name]
    settings: dict[str, Any] = {
        "finetuning": "lora" if adapted else "full", "recompute": "full" if recomputes else "none", "precision": "bf16",
        "micro_batch": B, "image_size": edge, "text_len": TEXT, "precompute": True, **more,
    }  # fmt: skip
    if adapted:
        settings["adapter"] = {"rank": 8, "dtype": "fp32", "targets": TARGETS}
    answer = estimate({"task": "training", "engine": "diffusers", "settings": settings,
                       "model": {"config": {"_class_name": class_name, **config}}})  # fmt: skip
    items = answer["devices"][0]["items"]

    def passing(phase: str) -> int:
        terms = ("activations", "temporary", "gradients")
        return sum(item["bytes"] for item in items if phase in item["phases"] and item["term"] in terms)

    return passing("forward"), passing("backward")


@pytest.mark.parametrize("recomputes", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_fullest_moments(name: str, adapted: bool, recomputes: bool) -> None:
    """Within 6 %; a checkpointed UNet's forward pass, which is far from being the fullest moment, within 13 %."""
    forward, backward = lived(name, adapted=adapted, recomputes=recomputes)
    ours = counted(name, adapted=adapted, recomputes=recomputes)
    assert ours[1] == pytest.approx(backward, rel=0.06)
    assert ours[0] == pytest.approx(forward, rel=0.13 if name == "unet" and recomputes else 0.06)
