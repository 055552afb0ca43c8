"""What frozen modules hold while they encode a batch: prompts, and pictures or videos into latents.

An autoencoder's encoder mirrors its decoder: its widest maps stand at full resolution, where a residual block holds its
input, the norm of it and the activation of that, and a convolution its input, its result and what cuDNN keeps of both.

References
----------
.. [1] diffusers 0.42.1, ``models/autoencoders``: ``AutoencoderKLCogVideoX`` takes 8 frames at once,
       ``AutoencoderKLHunyuanVideo`` 17, ``AutoencoderKLWan`` 4 after the first, ``AutoencoderKLLTXVideo`` a video whole.
"""

from __future__ import annotations

from vrameter.engines.diffusers.decode import convolution_bytes, residual_bytes
from vrameter.engines.diffusers.encode import encode_bytes
from vrameter.engines.diffusers.shape import Shape
from vrameter.model.diffusion.pipeline import AUTOENCODERS, Module
from vrameter.training.diffusion.run import Run

# Frames of one pass of an encoder; others take a video whole.
FRAMES = {
    "AutoencoderKLCogVideoX": 8, "AutoencoderKLHunyuanVideo": 17, "AutoencoderKLWan": 4, "AutoencoderKLQwenImage": 4,
}  # fmt: skip


def encoder_stages(module: Module) -> list[tuple[int, int]]:
    """Return the widths of an encoder's stages from full resolution down, each with how much smaller its maps are along an edge."""
    cfg = module.cfg
    if "z_dim" in cfg.values or module.class_name in ("AutoencoderKLWan", "AutoencoderKLQwenImage"):
        base = cfg.integer("base_dim", 96)
        widths = [base * times for times in cfg.integers("dim_mult", [1, 2, 4, 4], least=1)]
        start = cfg.integer("patch_size", None) or 1
    else:
        widths = [*cfg.integers("block_out_channels", [128, 256, 512, 512], least=1)]
        start = cfg.integer("patch_size", 4) if module.class_name == "AutoencoderKLLTXVideo" else 1
    return [(width, start * 2**index) for index, width in enumerate(widths)]


def map_bytes(module: Module, shape: Shape, element_bytes: int, thousandths: int) -> int:
    """Return what an autoencoder holds at its fullest moment while it makes latents of pixels. [bytes]."""
    frames = min(shape.frames, FRAMES.get(module.class_name, shape.frames))
    found = [0]
    before = 0
    for width, smaller in encoder_stages(module):
        pixels = shape.samples * frames * (shape.height // smaller) * (shape.width // smaller)
        found.append(residual_bytes(pixels=pixels, inputs=max(width, before), beside=0, element_bytes=element_bytes))
        found.append(
            convolution_bytes(
                pixels=pixels, inputs=max(width, before), outputs=width, beside=before or width, element_bytes=element_bytes,
                thousandths=thousandths,
            )
        )  # fmt: skip
        before = width
    whole = shape.samples * shape.frames * shape.height * shape.width * 3
    return max(found) + whole * element_bytes


def phases(run: Run, thousandths: int) -> dict[str, int]:
    """Return what each phase in which frozen modules encode a batch holds at its fullest moment. [bytes]."""
    found = {"text_encode": 0, "vae_encode": 0}
    if run.settings.precompute:
        return found
    for module, plan in run.frozen():
        if module.name in AUTOENCODERS:
            found["vae_encode"] = map_bytes(module, run.shape, plan.compute_bytes, thousandths)
        elif module.name.startswith("text_encoder"):
            found["text_encode"] = max(found["text_encode"], encode_bytes(module, run.shape, plan.compute_bytes))
    return found


def prompt_width(run: Run) -> int:
    """Return the numbers of one token of an embedded prompt, as the denoiser is given them. [elements]."""
    cfg = run.module.cfg
    names = (
        "joint_attention_dim",
        "cross_attention_dim",
        "caption_channels",
        "text_embed_dim",
        "text_dim",
        "cap_feat_dim",
    )
    found = [cfg.integer(name, None) for name in names if isinstance(cfg.get(name), int)]
    return max((value for value in found if value), default=0)


def batch_bytes(run: Run, samples: int) -> int:
    """Return the latents and embedded prompts of some samples. [bytes]."""
    frames, rows, columns = run.shape.latent
    cfg = run.module.cfg
    packed = run.module.class_name.startswith(("Flux", "Chroma", "QwenImage"))
    channels: int = cfg.integer("in_channels", 4)
    latents = frames * rows * columns * channels // (4 if packed else 1)
    return samples * (latents + run.shape.text_tokens * prompt_width(run)) * run.asked.recipe.numbers.compute


__all__ = ["batch_bytes", "map_bytes", "phases", "prompt_width"]
