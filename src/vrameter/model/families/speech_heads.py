"""Heads of speech encoders: transcription by CTC, classes of a recording or of each frame, a speaker's vector."""

from __future__ import annotations

from collections.abc import Callable

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors
from vrameter.model.config import Config
from vrameter.model.families.encoder_heads import Heads, linear, task_of
from vrameter.model.families.lists import filled, several
from vrameter.model.families.registry import ENTRIES, Built, num_labels

XVECTOR_SIZE = 512  # of every configuration class with this head
Pretraining = Callable[[Config], Tensors]


def quantizer(cfg: Config, inputs: int) -> Tensors:
    """Return the Gumbel quantiser of pre-training: codewords, and the layer that chooses among them."""
    groups, entries = cfg.integer("num_codevector_groups"), cfg.integer("num_codevectors_per_group")
    return (
        *parts.parameter(
            "quantizer.codevectors", 1, groups * entries, cfg.integer("codevector_dim") // groups, role="head"
        ),
        *linear("quantizer.weight_proj", groups * entries, inputs),
    )


def contrastive(cfg: Config) -> Tensors:
    """Return wav2vec 2.0's pre-training head."""
    width = cfg.integer("proj_codevector_dim")
    return (
        *quantizer(cfg, filled(cfg, "conv_dim")[-1]),
        *linear("project_hid", width, cfg.hidden_size),
        *linear("project_q", width, cfg.integer("codevector_dim")),
    )


def _speaker(cfg: Config) -> Tensors:
    widths, kernels = several(cfg, "tdnn_dim", "tdnn_kernel")
    size = cfg.integer("xvector_output_dim", XVECTOR_SIZE)
    tensors = linear("projector", widths[0], cfg.hidden_size)
    for index, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
        tensors += linear(f"tdnn.{index}.kernel", width, (widths[index - 1] if index else widths[0]) * kernel)
    return (
        *tensors,
        *linear("feature_extractor", size, 2 * widths[-1]),
        *linear("classifier", size, size),
        *parts.parameter("objective.weight", size, num_labels(cfg), role="head"),
    )


def output_size(cfg: Config) -> int:
    """Return the width that heads see: the adapter's where there is one."""
    hidden: int = cfg.hidden_size
    return int(cfg.integer("output_hidden_size", hidden)) if cfg.flag("add_adapter") else hidden


def speech_heads(pretraining: Pretraining | None = None) -> Heads:
    """Return the function that puts the heads of speech encoders on a base model."""

    def heads(cfg: Config, class_name: str) -> Built:
        task, found = task_of(class_name), ENTRIES[cfg.model_type]
        body = found.read(cfg, "" if task == "Model" else found.base)
        tensors: Tensors = ()
        if task == "CTC":
            tensors = linear("lm_head", cfg.vocab_size, output_size(cfg))
        elif task == "PreTraining" and pretraining is not None:
            tensors = pretraining(cfg)
        elif task in ("SequenceClassification", "AudioFrameClassification", "XVector"):
            if task == "XVector":
                tensors = _speaker(cfg)
            elif task == "AudioFrameClassification":
                tensors = linear("classifier", num_labels(cfg), cfg.hidden_size)
            else:
                width = cfg.integer("classifier_proj_size")
                tensors = (
                    *linear("projector", width, cfg.hidden_size),
                    *linear("classifier", num_labels(cfg), width),
                )
            if cfg.flag("use_weighted_layer_sum"):
                tensors += parts.parameter("layer_weights", cfg.num_layers + 1, role="head")
        return Built((body, Component(kind="head", name="head", hidden_size=cfg.hidden_size, tensors=tensors)))

    return heads


__all__ = ["contrastive", "output_size", "quantizer", "speech_heads"]
