"""aMUSEd: a transformer that fills in masked tokens of a picture, between blocks of convolutions, and its autoencoder.

References
----------
.. [1] S. Patil et al., "aMUSEd: An Open MUSE Reproduction", 2024, arXiv:2401.01808.
.. [2] diffusers 0.42.1, ``models/unets/uvit_2d.py``, ``models/autoencoders/vq_model.py``.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward, Layer, Tensors
from vrameter.model.config import Config
from vrameter.model.diffusion.autoencoders import both_sides
from vrameter.model.diffusion.blocks import attention, embedder, feed_forward, linear
from vrameter.model.diffusion.registry import Components, reads
from vrameter.model.diffusion.unet import resnet


def _convolved(channels: int, hidden: int, *, bias: bool) -> Layer:
    """Return a block of a depthwise convolution and a perceptron over channels."""
    wide = 4 * channels
    perceptron = FeedForward(
        (
            *linear("channelwise_linear_1", wide, channels, bias=bias, role="mlp"),
            *parts.parameter("channelwise_norm.gamma", 1, 1, 1, wide),
            *parts.parameter("channelwise_norm.beta", 1, 1, 1, wide),
            *linear("channelwise_linear_2", channels, wide, bias=bias, role="mlp"),
        ),
        wide,
        gated=False,
    )
    return Layer(
        (perceptron,),
        (
            *parts.conv("depthwise", channels, 1, 3, 3, bias=bias),
            *parts.norm("norm", channels),
            *linear("cond_embeds_mapper", 2 * channels, hidden, bias=bias),
        ),
    )


def _attended(channels: int, hidden: int, heads: int, *, bias: bool) -> Layer:
    """Return a block of two attentions over the text."""
    dim = channels // heads
    mapper: Tensors = linear("kv_mapper", channels, hidden, bias=bias) if hidden != channels else ()
    attentions = (
        attention(name, channels, head_dim=dim, bias=bias, out_bias=bias, kv_inputs=channels)
        for name in ("attn1", "attn2")
    )
    return Layer(tuple(attentions), (*mapper, *parts.norm("norm1", channels), *parts.norm("norm2", channels)))


def _block(hidden: int, heads: int, inner: int, *, bias: bool) -> Layer:
    """Return a transformer block whose norms look at the pooled text."""
    dim = hidden // heads
    norms: Tensors = ()
    for index in (1, 2, 3):
        norms += linear(f"norm{index}.linear", 2 * hidden, hidden, bias=bias) + parts.norm(f"norm{index}.norm", hidden)
    return Layer(
        (
            attention("attn1", hidden, head_dim=dim, bias=bias, out_bias=bias),
            attention("attn2", hidden, head_dim=dim, bias=bias, out_bias=bias, kv_inputs=hidden),
            feed_forward("ff", hidden, inner, gated=True, bias=bias),
        ),
        norms,
    )


@reads("UVit2DModel")
def uvit(cfg: Config, prefix: str) -> Components:
    """Read aMUSEd's denoiser [1]_."""
    hidden, channels = cfg.integer("hidden_size", 1024), cfg.integer("block_out_channels", 768)
    inputs, bias = cfg.integer("in_channels", 768), cfg.flag("use_bias", False)
    own = linear("encoder_proj", hidden, cfg.integer("encoder_hidden_size", 768), bias=bias)
    own += parts.norm("encoder_proj_layer_norm", hidden)
    own += parts.embedding("embed.embeddings", cfg.integer("vocab_size", 8256), inputs, slot="token")
    own += parts.norm("embed.layer_norm", inputs) + parts.conv("embed.conv", channels, inputs, 1, 1, bias=bias)
    condition = cfg.integer("micro_cond_embed_dim", 1280) + cfg.integer("cond_embed_dim", 768)
    own += embedder("cond_embed", condition, hidden, bias=bias)
    for side, resampled in (("down_block.downsample", "downsample"), ("up_block.upsample", "upsample")):
        if cfg.flag(resampled, False):
            own += parts.norm(f"{side}.norm", channels) + parts.conv(
                f"{side}.conv", channels, channels, 2, 2, bias=bias
            )
    own += parts.norm("project_to_hidden_norm", channels) + linear("project_to_hidden", hidden, channels, bias=bias)
    own += parts.norm("project_from_hidden_norm", hidden) + linear("project_from_hidden", channels, hidden, bias=bias)
    own += parts.conv("mlm_layer.conv1", inputs, channels, 1, 1, bias=bias) + parts.norm("mlm_layer.layer_norm", inputs)
    own += parts.conv("mlm_layer.conv2", cfg.integer("codebook_size", 8192), inputs, 1, 1, bias=bias)
    block = _block(hidden, cfg.integer("num_attention_heads", 16), cfg.integer("intermediate_size", 2816), bias=bias)
    convolved = _convolved(channels, hidden, bias=bias)
    attended = _attended(channels, hidden, cfg.integer("block_num_heads", 12), bias=bias)
    count = cfg.integer("num_res_blocks", 3)

    def component(name: str, layers: tuple[Layer, ...], width: int, tensors: Tensors = ()) -> Component:
        place = f"{prefix}.{name}".strip(".")
        return Component(
            kind="denoiser", name=f"{prefix} {name}".strip() if not tensors else prefix, hidden_size=width, layers=layers,
            tensors=tensors, prefix=prefix, layers_prefix=place,
        )  # fmt: skip

    return (
        component("transformer_layers", (block,) * cfg.layers("num_hidden_layers", 22), hidden, own),
        *(
            component(f"{side}.{kind}", (layer,) * count, channels)
            for side in ("down_block", "up_block")
            for kind, layer in (("res_blocks", convolved), ("attention_blocks", attended))
        ),
    )


@reads("VQModel")
def vq_model(cfg: Config, prefix: str) -> Components:
    """Read an autoencoder whose latents are entries of a codebook."""
    channels = cfg.integers("block_out_channels", [64], least=1)
    latent = cfg.integer("latent_channels", 3)
    size = cfg.integer("vq_embed_dim", None) or latent
    tensors = both_sides(
        cfg, channels, cfg.integer("layers_per_block", 1), latent,
        lambda name, inputs, outputs: resnet(name, inputs, outputs, 0),
        down=lambda name, width: parts.conv(f"{name}.conv", width, width, 3, 3),
        up=lambda name, width: parts.conv(f"{name}.conv", width, width, 3, 3),
        edge=lambda name, outputs, inputs: parts.conv(
            name, latent if name == "encoder.conv_out" else outputs, inputs, 3, 3
        ),
    )  # fmt: skip
    tensors += parts.conv("quant_conv", size, latent, 1, 1) + parts.conv("post_quant_conv", latent, size, 1, 1)
    tensors += parts.embedding("quantize.embedding", cfg.integer("num_vq_embeddings", 256), size, slot="codebook")
    return (Component(kind="autoencoder", name=prefix, hidden_size=channels[-1], tensors=tensors, prefix=prefix),)
