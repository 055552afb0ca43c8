"""Qwen's omni models [1]_: a thinker that hears, sees and reads, a talker that writes codes, and what turns codes into sound.

References
----------
.. [1] J. Xu et al., "Qwen2.5-Omni", 2025, arXiv:2503.20215; "Qwen3-Omni", 2025, arXiv:2509.17765.
.. [2] S. Lee et al., "BigVGAN", 2022, arXiv:2206.04658.
.. [3] B. Desplanques et al., "ECAPA-TDNN", 2020, arXiv:2005.07143.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.audio_input import AudioInput
from vrameter.model.config import Config
from vrameter.model.families.audio_language import plane_encoder
from vrameter.model.families.encoder_decoder import Style, language_head, side
from vrameter.model.families.encoder_heads import is_bare
from vrameter.model.families.listeners import MEL_RATE, mel_convolutions, mel_front
from vrameter.model.families.llama import dense_decoder, full_scopes, qwen2
from vrameter.model.families.mixtral import qwen3_moe, qwen_sparse
from vrameter.model.families.mixture import mixture, moe_decoder
from vrameter.model.families.registry import Built, Components, decoder, model, read_part, tower
from vrameter.model.families.vocoders import mixed_kernels, transposed


@decoder("qwen2_5_omni_text")
def qwen2_5_omni_text(cfg: Config, prefix: str) -> Component:
    """Qwen2.5 as the thinker reads with it."""
    return qwen2(cfg, prefix)


@decoder("qwen3_omni_moe_text")
def qwen3_omni_moe_text(cfg: Config, prefix: str) -> Component:
    """Qwen3's mixture as the thinker reads with it."""
    return qwen3_moe(cfg.over(head_dim=cfg.integer("head_dim", cfg.hidden_size // cfg.num_heads)), prefix)


@tower("qwen2_5_omni_audio_encoder", base="")
def qwen2_5_omni_audio_encoder(cfg: Config, prefix: str) -> Component:
    """Whisper's layers in windows of two seconds, frames averaged in pairs; positions are computed."""
    hidden, outputs = cfg.hidden_size, cfg.integer("output_dim")
    tensors = (
        *mel_front(cfg, hidden),
        *parts.embedding("audio_bos_eos_token", 2, outputs, slot="other"),
        *parts.linear("proj", outputs, hidden, bias=True, role="projector"),
    )
    style = Style(table=False, key_bias=False, final_norm="ln_post")
    body = side(cfg, prefix, style, decoder=False, positions=0, stack_name="", tensors=tensors)
    audio = AudioInput(MEL_RATE, cfg.integer("num_mel_bins"), mel_convolutions(hidden), frames_per_token=2)
    return replace(body, kind="audio", audio=audio, vocab_size=0)


@tower("qwen3_omni_moe_audio_encoder", base="")
def qwen3_omni_moe_audio_encoder(cfg: Config, prefix: str) -> Component:
    """Qwen3's audio encoder with its projector inside."""
    hidden = cfg.integer("d_model")
    projector = (
        *parts.linear("proj1", hidden, hidden, bias=True, role="projector"),
        *parts.linear("proj2", cfg.integer("output_dim"), hidden, bias=True, role="projector"),
    )
    return plane_encoder(cfg, prefix, tensors=projector)


def _merger(name: str, hidden: int, wide: int, outputs: int, *, normed: int, bias: bool) -> Tensors:
    return (
        *parts.norm(f"{name}.ln_q", normed, bias=bias),
        *parts.linear(f"{name}.mlp.0", wide, wide, bias=True, role="projector"),
        *parts.linear(f"{name}.mlp.2", outputs, wide, bias=True, role="projector"),
    )


@tower("qwen2_5_omni_vision_encoder", base="")
def qwen2_5_omni_vision_encoder(cfg: Config, prefix: str) -> Component:
    """Qwen2.5-VL's tower with separate queries, keys and values."""
    hidden, heads, patch = cfg.hidden_size, cfg.integer("num_heads"), cfg.integer("patch_size")
    wide = hidden * cfg.integer("spatial_merge_size") ** 2
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, name="attn", q="q", k="k", v="v", o="proj", bias=True, scope="encoder"
    )
    feed = parts.mlp(hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), bias=True)
    patches = parts.conv(
        "patch_embed.proj",
        hidden,
        cfg.integer("in_channels"),
        cfg.integer("temporal_patch_size"),
        patch,
        patch,
        bias=False,
    )
    return Component(
        kind="vision",
        name="vision",
        hidden_size=hidden,
        layers=(Layer((attention, feed), (*parts.norm("norm1", hidden), *parts.norm("norm2", hidden))),)
        * cfg.layers("depth"),
        tensors=(*patches, *_merger("merger", hidden, wide, cfg.integer("out_hidden_size"), normed=hidden, bias=False)),
        prefix=prefix,
        layers_prefix=joined(prefix, "blocks"),
    )


@tower("qwen3_omni_moe_vision_encoder", base="")
def qwen3_omni_moe_vision_encoder(cfg: Config, prefix: str) -> Component:
    """Qwen3-VL's tower: learned positions, and mergers half way whose output enters the decoder's first layers."""
    hidden, heads, patch = cfg.hidden_size, cfg.integer("num_heads"), cfg.integer("patch_size")
    wide, outputs = hidden * cfg.integer("spatial_merge_size") ** 2, cfg.integer("out_hidden_size")
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, name="attn", qkv="qkv", o="proj", bias=True, scope="encoder"
    )
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=True, up="linear_fc1",
        down="linear_fc2",
    )  # fmt: skip
    tensors = (
        *parts.conv("patch_embed.proj", hidden, cfg.integer("in_channels"), cfg.integer("temporal_patch_size"), patch, patch),
        *parts.embedding("pos_embed", cfg.integer("num_position_embeddings"), hidden, slot="position"),
        *_merger("merger", hidden, wide, outputs, normed=hidden, bias=True),
    )  # fmt: skip
    for index in range(len(cfg.sequence("deepstack_visual_indexes", ()))):
        tensors += _merger(f"merger_list.{index}", hidden, wide, outputs, normed=wide, bias=True)
    norms = (*parts.norm("norm1", hidden, bias=True), *parts.norm("norm2", hidden, bias=True))
    return Component(
        kind="vision",
        name="vision",
        hidden_size=hidden,
        layers=(Layer((attention, feed), norms),) * cfg.layers("depth"),
        tensors=tensors,
        prefix=prefix,
        layers_prefix=joined(prefix, "blocks"),
    )


def _thinker(cfg: Config, prefix: str, *, bare: bool = False) -> Built:
    text = cfg.nested("text_config")
    base = prefix if bare else joined(prefix, "model")
    body, *rest = read_part(text, joined(base, "language_model"))
    towers: Components = (
        *read_part(cfg.nested("audio_config"), joined(base, "audio_tower")),
        *read_part(cfg.nested("vision_config"), joined(base, "visual")),
    )
    if bare:
        return Built((body, *rest, *towers))
    name = joined(prefix, "lm_head")
    head = language_head(text.over(tie_word_embeddings=cfg.flag("tie_word_embeddings")), body.hidden_size, name=name)
    return Built((body, *rest, *towers, *head.components), tied=head.tied)


@model("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")
def thinker(cfg: Config, class_name: str) -> Built:
    """Return the thinker alone: what reads, hears and sees."""
    return _thinker(cfg, "", bare=is_bare(class_name))


def _extra(name: str, hidden: int, tensors: Tensors, prefix: str = "") -> Component:
    return Component(kind="other", name=name, hidden_size=hidden, tensors=tensors, prefix=prefix)


def _talking(body: Component, name: str) -> Component:
    """Return a decoder as one beside the main one: its cache is no part of the thinker's."""
    return replace(body, kind="other", name=name)


# -- Qwen2.5-Omni ---------------------------------------------------------------------------------------------------------


def _speaker(cfg: Config, name: str) -> Tensors:
    """Return the network that hears whose voice it is [3]_."""
    widths, kernels, bins = cfg.integers("enc_channels"), cfg.integers("enc_kernel_sizes"), cfg.integer("mel_dim")
    scale, squeeze, looks = (
        cfg.integer(f"enc_{field}") for field in ("res2net_scale", "se_channels", "attention_channels")
    )
    tensors = parts.conv(f"{name}.blocks.0.conv", widths[0], bins, kernels[0])
    for index in range(1, len(widths) - 1):
        block, inputs, width = f"{name}.blocks.{index}", widths[index - 1], widths[index]
        tensors += parts.conv(f"{block}.tdnn1.conv", width, inputs, 1)
        for branch in range(scale - 1):
            tensors += parts.conv(
                f"{block}.res2net_block.blocks.{branch}.conv", width // scale, width // scale, kernels[index]
            )
        tensors += parts.conv(f"{block}.tdnn2.conv", width, width, 1)
        tensors += parts.conv(f"{block}.se_block.conv1", squeeze, width, 1)
        tensors += parts.conv(f"{block}.se_block.conv2", width, squeeze, 1)
    last = widths[-1]
    return (
        *tensors,
        *parts.conv(f"{name}.mfa.conv", last, last, kernels[-1]),
        *parts.conv(f"{name}.asp.tdnn.conv", looks, 3 * last, 1),
        *parts.conv(f"{name}.asp.conv", last, looks, 1),
        *parts.conv(f"{name}.fc", cfg.integer("enc_dim"), 2 * last, 1),
    )


def _spectrum_transformer(cfg: Config, prefix: str) -> Component:
    """Return the diffusion transformer that turns codes into a spectrum."""
    hidden, heads, dim = cfg.hidden_size, cfg.num_heads, cfg.integer("head_dim")
    bins, inner = cfg.integer("mel_dim"), cfg.hidden_size * cfg.integer("ff_mult")
    inputs = bins + cfg.integer("enc_dim") + cfg.integer("enc_emb_dim") + cfg.integer("emb_dim")
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, head_dim=dim, name="attn", q="to_q", k="to_k", v="to_v", o="to_out.0", bias=True,
        scope="encoder",
    )  # fmt: skip
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=inner, gated=False, bias=True, name="ff", up="ff.0", down="ff.3"
    )
    layer = Layer((attention, feed), parts.linear("attn_norm.linear", 6 * hidden, hidden, bias=True))
    return Component(
        kind="other",
        name="spectrum transformer",
        hidden_size=hidden,
        layers=(layer,) * cfg.num_layers,
        tensors=(
            *parts.linear("time_embed.time_mlp.0", hidden, 256, bias=True),
            *parts.linear("time_embed.time_mlp.2", hidden, hidden, bias=True),
            *parts.embedding("text_embed.codec_embed", cfg.integer("num_embeds") + 1, cfg.integer("emb_dim")),
            *parts.linear("input_embed.proj", hidden, inputs, bias=True),
            *_speaker(cfg, "input_embed.spk_encoder"),
            *parts.linear("norm_out.linear", 2 * hidden, hidden, bias=True),
            *parts.linear("proj_out", bins, hidden, bias=True, role="head"),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "transformer_blocks"),
    )


def _scales(name: str, width: int) -> Tensors:
    return (*parts.parameter(f"{name}.alpha", width), *parts.parameter(f"{name}.beta", width))


def big_vgan(cfg: Config) -> Tensors:
    """Return BigVGAN [2]_: HiFi-GAN with periodic activations."""
    width = cfg.integer("upsample_initial_channel")
    tensors = parts.conv("conv_pre", width, cfg.integer("mel_dim"), 7)
    block, reaches = 0, mixed_kernels(cfg)
    for stage, kernel in enumerate(cfg.integers("upsample_kernel_sizes", least=1)):
        tensors += transposed(f"ups.{stage}.0", width, width // 2, kernel)
        width //= 2
        for reach, steps in reaches:
            for index in range(steps):
                tensors += parts.conv(f"resblocks.{block}.convs1.{index}", width, width, reach)
                tensors += parts.conv(f"resblocks.{block}.convs2.{index}", width, width, reach)
                for half in (2 * index, 2 * index + 1):
                    tensors += _scales(f"resblocks.{block}.activations.{half}.act", width)
            block += 1
    return (*tensors, *_scales("activation_post.act", width), *parts.conv("conv_post", 1, width, 7, bias=False))


@model("qwen2_5_omni")
def qwen2_5_omni(cfg: Config, class_name: str) -> Built:
    """Return Qwen2.5-Omni: thinker, and where it speaks, talker, spectrum transformer and vocoder."""
    thought = _thinker(cfg.nested("thinker_config"), "thinker")
    if not cfg.flag("enable_audio_output", True):
        return thought
    talk, sound = cfg.nested("talker_config"), cfg.nested("token2wav_config")
    hidden, width, vocab = talk.hidden_size, talk.integer("embedding_size"), talk.vocab_size
    body = qwen2(talk, "talker.model")
    table = parts.embedding("embed_tokens", vocab, width)
    body = replace(body, tensors=(*table, *body.tensors[1:]))
    between = (
        *parts.linear("thinker_to_talker_proj", hidden, width, bias=True, role="projector"),
        *parts.lm_head(vocab, hidden, name="codec_head"),
    )
    voice = sound.nested("bigvgan_config")
    bins = voice.integer("mel_dim")
    return Built(
        (
            *thought.components,
            _talking(body, "talker"),
            _extra("talker head", hidden, between, "talker"),
            _spectrum_transformer(sound.nested("dit_config"), "token2wav.code2wav_dit_model"),
            _extra("vocoder", bins, big_vgan(voice), "token2wav.code2wav_bigvgan_model"),
        ),
        tied=thought.tied,
    )


# -- Qwen3-Omni -----------------------------------------------------------------------------------------------------------


def _talker(cfg: Config, prefix: str) -> Built:
    text = cfg.nested("text_config", "qwen3_omni_moe_talker_text")
    ahead = cfg.nested("code_predictor_config", "qwen3_omni_moe_talker_code_predictor")
    text = text.over(head_dim=text.integer("head_dim", text.hidden_size // text.num_heads))
    hidden, inner = text.hidden_size, text.integer("intermediate_size")
    body = moe_decoder(
        text, joined(prefix, "model"), sparse=qwen_sparse(text), qk_norm="head",
        experts=lambda: mixture(
            text, shared_width=text.integer("shared_expert_intermediate_size"), shared_name="shared_expert",
            shared_gate="shared_expert_gate",
        ),
    )  # fmt: skip
    table = parts.embedding("codec_embedding", text.vocab_size, hidden)
    body = replace(body, tensors=(*table, *(item for item in body.tensors if item.name != "embed_tokens.weight")))
    heard = cfg.integer("thinker_hidden_size", 2048)
    between: Tensors = ()
    for name in ("text_projection", "hidden_projection"):
        between += parts.linear(f"{name}.linear_fc1", inner, heard, bias=True, role="projector")
        between += parts.linear(f"{name}.linear_fc2", hidden, inner, bias=True, role="projector")
    tied = cfg.flag("tie_word_embeddings")
    between += () if tied else parts.lm_head(text.vocab_size, hidden, name="codec_head")
    groups = ahead.integer("num_code_groups") - 1
    small = dense_decoder(
        ahead, joined(prefix, "code_predictor.model"), qk_norm="head", scopes=full_scopes(ahead), mlp_bias=False
    )
    tables = tuple(
        tensor
        for index in range(groups)
        for tensor in parts.embedding(f"codec_embedding.{index}", ahead.vocab_size, ahead.hidden_size)
    )
    small = replace(small, tensors=(*tables, *(item for item in small.tensors if item.name != "embed_tokens.weight")))
    heads = tuple(
        tensor
        for index in range(groups)
        for tensor in parts.lm_head(ahead.vocab_size, ahead.hidden_size, name=f"code_predictor.lm_head.{index}")
    )
    return Built(
        (
            _talking(body, "talker"),
            _talking(small, "code predictor"),
            _extra("talker heads", hidden, (*between, *heads), prefix),
        ),
        tied=(joined(prefix, "codec_head.weight"),) if tied else (),
    )


def _codes_to_wave(cfg: Config, prefix: str) -> Component:
    hidden, heads = cfg.integer("hidden_size", 1024), cfg.integer("num_attention_heads", 16)
    inner, count = cfg.integer("intermediate_size", 3072), cfg.layers("num_hidden_layers", 8)
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, num_kv_heads=cfg.integer("num_key_value_heads", 16),
        head_dim=cfg.integer("head_dim", hidden // heads), bias=cfg.flag("attention_bias"), scope="encoder",
        window=cfg.integer("sliding_window", 72),
    )  # fmt: skip
    feed = parts.mlp(hidden_size=hidden, intermediate_size=inner)
    norms = (
        *parts.norm("input_layernorm", hidden),
        *parts.norm("post_attention_layernorm", hidden),
        *parts.parameter("self_attn_layer_scale.scale", hidden),
        *parts.parameter("mlp_layer_scale.scale", hidden),
    )
    codes = cfg.integer("codebook_size", 2048) * cfg.integer("num_quantizers", 16)
    tensors = (*parts.norm("pre_transformer.norm", hidden), *parts.embedding("code_embedding", codes, hidden))
    for index, factor in enumerate(cfg.integers("upsampling_ratios", (2, 2), least=1)):
        tensors += transposed(f"upsample.{index}.0.conv", hidden, hidden, factor)
        name = f"upsample.{index}.1"
        tensors += parts.parameter(f"{name}.gamma", hidden)
        tensors += parts.conv(f"{name}.dwconv.conv", hidden, 1, 7)
        tensors += parts.norm(f"{name}.norm", hidden, bias=True)
        tensors += parts.linear(f"{name}.pwconv1", 4 * hidden, hidden, bias=True)
        tensors += parts.linear(f"{name}.pwconv2", hidden, 4 * hidden, bias=True)
    first = cfg.integer("decoder_dim", 1536)
    tensors += parts.conv("decoder.0.conv", first, hidden, 7)
    width, rates = first, cfg.integers("upsample_rates", (8, 5, 4, 3), least=1)
    for index, rate in enumerate(rates, 1):
        block, narrow = f"decoder.{index}.block", first // 2**index
        tensors += _scales(f"{block}.0", width)
        tensors += transposed(f"{block}.1.conv", width, narrow, 2 * rate)
        for unit in (2, 3, 4):
            for step, kernel in ((1, 7), (2, 1)):
                tensors += _scales(f"{block}.{unit}.act{step}", narrow)
                tensors += parts.conv(f"{block}.{unit}.conv{step}.conv", narrow, narrow, kernel)
        width = narrow
    tensors += _scales(f"decoder.{len(rates) + 1}", width)
    tensors += parts.conv(f"decoder.{len(rates) + 2}.conv", 1, width, 7)
    return Component(
        kind="other", name="vocoder", hidden_size=hidden, layers=(Layer((attention, feed), norms),) * count, tensors=tensors,
        prefix=prefix, layers_prefix=joined(prefix, "pre_transformer.layers"),
    )  # fmt: skip


@model("qwen3_omni_moe")
def qwen3_omni_moe(cfg: Config, class_name: str) -> Built:
    """Return Qwen3-Omni: thinker, and where it speaks, talker, predictor of further codes and vocoder."""
    thought = _thinker(cfg.nested("thinker_config"), "thinker")
    if not cfg.flag("enable_audio_output", True):
        return thought
    talking = _talker(cfg.nested("talker_config", "qwen3_omni_moe_talker"), "talker")
    voice = _codes_to_wave(cfg.nested("code2wav_config", "qwen3_omni_moe_code2wav"), "code2wav")
    return Built((*thought.components, *talking.components, voice), tied=(*thought.tied, *talking.tied))
