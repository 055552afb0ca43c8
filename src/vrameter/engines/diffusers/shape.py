"""What a pipeline is asked to make: latents, tokens, passes.

References
----------
.. [1] diffusers 0.42.1, ``pipelines``: default sizes, lengths of prompts, and which pipelines run both halves of
       classifier-free guidance as one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.diffusion.pipeline import DENOISERS, Module, Pipeline
from vrameter.settings.diffusers import DiffusersSettings
from vrameter.units import ceil_div

# Pipelines that double the batch for guidance; others pass twice, or their guidance is distilled. [diffusers 0.42.1]
DOUBLED = (
    "StableDiffusion", "PixArt", "CogVideoX", "LTX", "AuraFlow", "Mochi", "Sana",
)  # fmt: skip
# Tokens of a prompt: (start of the pipeline's class, tokens). [diffusers 0.42.1: max_sequence_length]
PROMPTS = (
    ("Flux", 512), ("QwenImage", 512), ("ZImage", 512), ("StableDiffusion3", 333), ("StableDiffusion", 77), ("PixArt", 300),
    ("Sana", 300), ("CogVideoX", 226), ("LTX", 128), ("HunyuanVideo", 256), ("Wan", 512), ("Mochi", 256), ("Lumina", 256),
    ("AuraFlow", 256), ("Amused", 77), ("Chroma", 512), ("HunyuanImage", 1000),
)  # fmt: skip
# Frames and edges that a video pipeline makes where nothing else is said: frames, height, width.
VIDEOS = (
    ("CogVideoX", (49, 480, 720)), ("LTX", (161, 512, 704)), ("HunyuanVideo", (129, 720, 1280)), ("Wan", (81, 480, 832)),
    ("Mochi", (19, 480, 848)), ("StableVideo", (25, 576, 1024)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """One call of a pipeline.

    Parameters
    ----------
    samples
        Pictures at once; `passes` times as many in the denoiser.
    space, time
        Pixels per latent along an edge, frames per latent.
    patch
        Latents per token along an edge and in time.
    """

    samples: int
    passes: int
    height: int
    width: int
    frames: int
    space: int
    time: int
    patch: tuple[int, int]
    text_tokens: int

    @property
    def latent(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the latents."""
        frames = (self.frames - 1) // self.time + 1
        return frames, ceil_div(self.height, self.space), ceil_div(self.width, self.space)

    @property
    def tokens(self) -> int:
        """Tokens of one picture in a transformer."""
        frames, rows, columns = self.latent
        edge, depth = self.patch
        return ceil_div(frames, depth) * ceil_div(rows, edge) * ceil_div(columns, edge)


def shape_of(pipeline: Pipeline, settings: DiffusersSettings) -> Shape:
    """Return what a call makes, with the pipeline's own defaults where the settings are silent."""
    kind = pipeline.class_name
    main = next((pipeline.module(name) for name in DENOISERS if pipeline.module(name)), None)
    space, time = _scales(pipeline, kind)
    video = next((value for start, value in VIDEOS if kind.startswith(start)), None)
    frames, height, width = video or (1, *([_edge(main, space)] * 2))
    prompt = next((value for start, value in PROMPTS if kind.startswith(start)), 512)
    guided = settings.guidance_scale is None or settings.guidance_scale > 1
    doubled = kind.startswith(DOUBLED) and guided
    if settings.num_frames and settings.num_frames > 1 and video is None and main is not None:
        raise RequestError(
            tr("settings.num_frames: %(name)s makes pictures, not videos.", name=pipeline.name),
            field="settings.num_frames",
            hint=tr("Leave it out; ask for several pictures with batch_size."),
        )
    return Shape(
        samples=settings.batch_size,
        passes=2 if doubled else 1,
        height=settings.height or height,
        width=settings.width or width,
        frames=settings.num_frames or frames,
        space=space,
        time=time,
        patch=_patch(main),
        text_tokens=settings.max_sequence_length or settings.text_len or prompt,
    )


def _scales(pipeline: Pipeline, kind: str) -> tuple[int, int]:
    """Return pixels and frames per latent: of the autoencoder, or of the pipeline whose autoencoder is not recorded."""
    vae = pipeline.autoencoder
    if vae is None:
        known = {"LTX": (32, 8), "Mochi": (8, 6), "Sana": (32, 1), "HunyuanImage": (32, 1), "HunyuanVideo15": (16, 4)}
        wan = {"Wan": (16, 4)}
        return next((value for start, value in {**known, **wan}.items() if kind.startswith(start)), (8, 1))
    cfg = vae.cfg
    if "z_dim" in cfg.values:
        return 2 ** (len(cfg.integers("dim_mult", [1, 2, 4, 4])) - 1), 2 ** sum(
            map(bool, cfg.sequence("temperal_downsample", [False, True, True]))
        )
    if vae.class_name == "AutoencoderKLLTXVideo":
        steps = 2 ** sum(map(bool, cfg.sequence("spatio_temporal_scaling", [True, True, True, False])))
        return cfg.integer("patch_size", 4) * steps, cfg.integer("patch_size_t", 1) * steps
    edge = 2 ** (len(cfg.integers("block_out_channels", [128, 256, 512, 512])) - 1)
    video = "HunyuanVideo" in vae.class_name or "CogVideoX" in vae.class_name
    return edge, cfg.integer("temporal_compression_ratio", 4) if video else 1


def _patch(main: Module | None) -> tuple[int, int]:
    """Return latents per token along an edge and in time; classes that are fed packed latents take 2 by 2."""
    if main is None or main.name == "unet":
        return 1, 1
    cfg, kind = main.cfg, main.class_name
    if kind == "UVit2DModel":
        return 2 if cfg.flag("downsample", False) else 1, 1
    given = cfg.get("patch_size", 1 if kind.startswith(("Flux", "Chroma")) else 2)
    if isinstance(given, (list, tuple)):
        return int(given[-1]), int(given[0]) if len(given) == 3 else 1
    if kind.startswith(("Flux", "Chroma")):
        return 2 * int(given), 1
    return int(given), int(cfg.integer("patch_size_t", None) or 1)


def _edge(main: Module | None, space: int) -> int:
    """Return the edge of the pictures that a pipeline makes by default. [pixels]."""
    size = main.cfg.integer("sample_size", None) if main is not None else None
    return int(size) * space if size else 1024
