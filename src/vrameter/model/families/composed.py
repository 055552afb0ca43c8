"""Encoder-decoders composed of an encoder and a decoder that each have a config of their own [1]_.

The encoder is read as what it is; the decoder as the class that writes, with cross-attention in every layer.

References
----------
.. [1] S. Rothe et al., "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks", 2019, arXiv:1907.12461;
       TrOCR, arXiv:2109.10282; Donut, arXiv:2111.15664; Nougat, arXiv:2308.13418.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component
from vrameter.model.config import Config
from vrameter.model.families.registry import Built, entry, model, read_part, within
from vrameter.model.families.speech_heads import output_size
from vrameter.model.read import build


def composed(cfg: Config, *, width: int | None = None) -> Built:
    """Return both sides, and a layer between them where their widths differ.

    `width` is what the encoder puts out, where that is not its hidden width.
    """
    encoder = read_part(cfg.nested("encoder"), "encoder")
    own = cfg.nested("decoder").over(is_decoder=True, add_cross_attention=True)
    found = entry(own.model_type)
    if found is None or found.kind == "model":
        raise own.fail("model_type", "'%(value)s' is not a kind of network that can stand here.", value=own.model_type)
    decoder = within("decoder", build(own, found, "ForCausalLM"))
    components = (*encoder, *decoder.components)
    hidden, wanted = encoder[0].hidden_size, decoder.components[0].hidden_size
    if (width or hidden) != wanted and own.integer("cross_attention_hidden_size", None) is None:
        tensors = parts.linear("enc_to_dec_proj", wanted, hidden, bias=True, role="projector")
        components += (Component(kind="projector", name="projector", hidden_size=wanted, tensors=tensors),)
    return Built(components, tied=decoder.tied)


@model("encoder-decoder", "vision-encoder-decoder")
def encoder_decoder(cfg: Config, class_name: str) -> Built:
    """Return an encoder of text or images and a decoder."""
    return composed(cfg)


@model("speech-encoder-decoder")
def speech_encoder_decoder(cfg: Config, class_name: str) -> Built:
    """Return an encoder of speech and a decoder."""
    heard = cfg.nested("encoder")
    return composed(cfg, width=output_size(heard))
