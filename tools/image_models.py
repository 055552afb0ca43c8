"""Write what timm's registered models are built of to src/vrameter/data/timm_models.json: widths, depths, kinds of blocks.

Needs torch and timm. A model is listed only where the program of its family makes the very parameters of timm's own module,
by name and shape; the rest is printed.

    python tools/image_models.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import efficientnet, mobilenetv3, regnet, resnet, swin_transformer, vgg, vision_transformer
from timm.models.convnext import ConvNeXt
from timm.models.densenet import DenseNet
from timm.models.swin_transformer import SwinTransformer

from vrameter.model.vision.timm import parameters

OUT = Path(__file__).parent.parent / "src/vrameter/data/timm_models.json"
PATTERNS = (
    "vit_*", "deit*", "swin_*", "convnext*", "resnet*", "resnext*", "wide_resnet*", "seresne*", "ecaresne*", "tv_resnet*", "gernet*",
    "efficientnet*", "tf_efficientnet*", "mobilenetv2*", "mobilenetv3*", "tf_mobilenetv3*", "mnasnet*", "fbnet*", "regnet*",
    "densenet*", "vgg*", "flexivit*", "mixnet*", "lcnet*", "spnasnet*", "tinynet*", "hardcorenas*", "rexnet*", "test_*",
)  # fmt: skip
ACTS = {
    "ReLU": "relu", "ReLU6": "relu6", "SiLU": "silu", "GELU": "gelu", "Hardswish": "hardswish", "Sigmoid": "sigmoid", "Swish": "silu",
    "Hardsigmoid": "hardsigmoid", "HardSwish": "hardswish", "HardSigmoid": "hardsigmoid", "GELUTanh": "gelu", "QuickGELU": "quick_gelu",
}  # fmt: skip
Facts = dict[str, Any]


class Unknown(Exception):
    """A model with a part that no program has."""


def act(module: torch.nn.Module) -> str:
    """Return the name of an activation."""
    name = type(module).__name__
    if name not in ACTS:
        raise Unknown(name)
    return ACTS[name]


def need(condition: object, what: str) -> None:
    """Refuse a model with a part that no program has."""
    if not condition:
        raise Unknown(what)


def vit(model: Any) -> Facts:
    """Return the facts of a VisionTransformer."""
    blocks = model.blocks
    first = blocks[0]
    need(type(first) is vision_transformer.Block, type(first).__name__)
    need(type(first.attn) is vision_transformer.Attention, type(first.attn).__name__)
    need(first.attn.gate is None and isinstance(first.attn.norm, torch.nn.Identity), "attention")
    need(type(model.norm).__name__ in ("LayerNorm", "Identity"), type(model.norm).__name__)
    need(type(model.patch_embed).__name__ == "PatchEmbed", type(model.patch_embed).__name__)
    kind = {"Mlp": "plain", "GluMlp": "packed", "SwiGLU": "swiglu"}.get(type(first.mlp).__name__)
    need(kind, type(first.mlp).__name__)
    need(isinstance(first.mlp.norm, torch.nn.Identity), "mlp.norm")
    positions = "none" if model.pos_embed is None else "patches" if model.no_embed_class else "all"
    need(model.global_pool in ("token", "avg", "map", ""), model.global_pool)
    hidden = first.mlp.fc1_g.out_features if kind == "swiglu" else first.mlp.fc1.out_features
    if model.attn_pool is not None:
        need(model.attn_pool.mlp.fc1.out_features == hidden and model.attn_pool.pos_embed is None, "attn_pool")
    return {
        "patch": model.patch_embed.patch_size[0], "width": model.embed_dim, "depth": len(blocks), "heads": first.attn.num_heads,
        "hidden": hidden, "mlp": kind, "act": act(first.mlp.act), "qkv_bias": first.attn.qkv.bias is not None,
        "qk_norm": not isinstance(first.attn.q_norm, torch.nn.Identity), "scaled": not isinstance(first.ls1, torch.nn.Identity),
        "class_token": int(model.cls_token is not None), "registers": model.num_reg_tokens, "positions": positions,
        "norm_pre": not isinstance(model.norm_pre, torch.nn.Identity), "norm": not isinstance(model.norm, torch.nn.Identity),
        "fc_norm": not isinstance(model.fc_norm, torch.nn.Identity), "pool": model.global_pool or "token",
        "patch_bias": model.patch_embed.proj.bias is not None, "image": list(model.patch_embed.img_size),
    }  # fmt: skip


def residual(model: Any) -> Facts:
    """Return the facts of a ResNet."""
    first = model.layer1[0]
    deep = type(first) is resnet.Bottleneck
    need(deep or type(first) is resnet.BasicBlock, type(first).__name__)
    need(isinstance(model.maxpool, torch.nn.MaxPool2d), "stem pool")
    need(all(isinstance(block.aa or torch.nn.Identity(), torch.nn.Identity) for block in model.layer2), "anti-aliasing")
    gates = {type(block.se).__name__ for layer in (model.layer1, model.layer2) for block in layer}
    need(gates in ({"NoneType"}, {"SEModule"}), str(gates))
    stem = (
        [model.conv1.out_channels]
        if isinstance(model.conv1, torch.nn.Conv2d)
        else [model.conv1[i].out_channels for i in (0, 3, 6)]
    )
    layers = (model.layer1, model.layer2, model.layer3, model.layer4)
    down = model.layer2[0].downsample
    planes = [layer[0].conv3.out_channels // 4 if deep else layer[0].conv2.out_channels for layer in layers]
    groups = first.conv2.groups
    width = first.conv2.out_channels // groups if deep else 64
    averaged = down is not None and not isinstance(down[0], torch.nn.Conv2d)
    gate = model.layer4[0].se
    se = gate.fc1.in_channels // gate.fc1.out_channels if gate is not None else 0
    return {
        "bottleneck": deep, "depths": [len(layer) for layer in layers], "planes": planes, "groups": groups,
        "base_width": width * 64 // planes[0], "stem": stem, "act": act(model.act1), "se": se,
        "avg_down": averaged, "down_kernel": 1 if down is None or averaged else down[0].kernel_size[0],
    }  # fmt: skip


def convnext(model: Any) -> Facts:
    """Return the facts of a ConvNeXt."""
    first = model.stages[0].blocks[0]
    need(type(first.norm).__name__ in ("LayerNorm", "LayerNorm2d"), type(first.norm).__name__)
    stem = model.stem
    patch = len(stem) == 2
    grn = hasattr(first.mlp, "grn") and not isinstance(first.mlp.grn, torch.nn.Identity)
    widths = [stage.blocks[0].conv_dw.out_channels for stage in model.stages]
    need(not isinstance(model.head, object) or hasattr(model.head, "fc"), "head")
    hidden = getattr(getattr(model.head, "pre_logits", None), "fc", None)
    fc1 = first.mlp.fc1
    return {
        "depths": [len(stage.blocks) for stage in model.stages], "widths": widths, "kernel": first.conv_dw.kernel_size[0],
        "conv_mlp": isinstance(fc1, torch.nn.Conv2d), "ratio": fc1.weight.shape[0] // widths[0], "act": act(first.mlp.act),
        "responses": grn, "scaled": first.gamma is not None, "stem": "patch" if patch else "overlap",
        "patch": stem[0].kernel_size[0], "stem_width": stem[0].out_channels,
        "norm_first": not isinstance(model.norm_pre, torch.nn.Identity), "head_hidden": hidden.out_features if hidden is not None else 0,
    }  # fmt: skip


BLOCKS = {"ConvBnAct": "cn", "DepthwiseSeparableConv": "ds", "InvertedResidual": "ir", "EdgeResidual": "er"}


def efficient(model: Any) -> Facts:
    """Return the facts of an EfficientNet or a MobileNetV3."""
    need(type(model.bn1).__name__ == "BatchNormAct2d", type(model.bn1).__name__)
    stages, gates, acts, same = [], set(), set(), False
    skips = True
    for module in model.modules():
        same = same or type(module).__name__ == "Conv2dSame"
        need(type(module).__name__ not in ("BlurPool2d", "MixedConv2d", "CondConv2d"), type(module).__name__)
    for stage in model.blocks:
        rows = []
        for block in stage:
            kind = BLOCKS.get(type(block).__name__)
            need(kind, type(block).__name__)
            convs = {"cn": "conv", "ds": "conv_dw", "ir": "conv_dw", "er": "conv_exp"}
            main = getattr(block, convs[kind])
            last = getattr(block, {"cn": "conv", "ds": "conv_pw", "ir": "conv_pwl", "er": "conv_pwl"}[kind])
            need(getattr(block, "conv_s2d", None) is None, "space to depth")
            need(main.groups in (1, main.in_channels), "groups")
            se = getattr(block, "se", None)
            reduced = 0
            if se is not None and not isinstance(se, torch.nn.Identity):
                need(hasattr(se, "conv_reduce"), type(se).__name__)
                reduced = se.conv_reduce.out_channels
                gates.add(act(se.gate))
                acts.add(act(se.act1))
            if kind == "cn" and main.in_channels == main.out_channels and main.stride[0] == 1:
                skips = block.has_skip
            if kind == "ds":
                need(isinstance(block.bn2.act, torch.nn.Identity), "activation after the last convolution")
            rows.append(
                [
                    kind,
                    main.kernel_size[0],
                    main.stride[0],
                    main.out_channels,
                    last.out_channels,
                    reduced,
                    act(block.bn1.act),
                ]
            )
        stages.append(rows)
    own = act(model.bn1.act)
    pools_first = isinstance(model, mobilenetv3.MobileNetV3)
    if pools_first:
        need(isinstance(getattr(model, "norm_head", torch.nn.Identity()), torch.nn.Identity), "norm_head")
        need(act(model.act2) == own, "act2")
    else:
        need(act(model.bn2.act) == own, "bn2")
    need(len(gates) < 2 and len(acts) < 2, "gates")
    return {
        "stem": model.conv_stem.out_channels, "stages": stages, "head": model.conv_head.out_channels, "act": own, "same": same,
        "gate": next(iter(gates), "sigmoid"), "se_act": next(iter(acts), ""), "pools_first": pools_first,
        "head_bias": model.conv_head.bias is not None, "plain_skip": skips,
    }  # fmt: skip


def regular(model: Any) -> Facts:
    """Return the facts of a RegNet."""
    stages = [model.s1, model.s2, model.s3, model.s4]
    firsts = [next(stage.children()) for stage in stages]
    need(type(firsts[0]) is regnet.Bottleneck, type(firsts[0]).__name__)
    need(isinstance(model.final_conv, torch.nn.Identity), "final_conv")
    se = firsts[0].se
    share = 0.0 if isinstance(se, torch.nn.Identity) else se.fc1.out_channels / firsts[0].conv1.conv.in_channels
    return {
        "stem": model.stem.conv.out_channels, "depths": [len(list(stage.children())) for stage in stages],
        "widths": [first.conv3.conv.out_channels for first in firsts],
        "group_widths": [first.conv2.conv.out_channels // first.conv2.conv.groups for first in firsts], "se": share,
    }  # fmt: skip


def dense(model: Any) -> Facts:
    """Return the facts of a DenseNet."""
    features = model.features
    need(isinstance(features.pool0, torch.nn.MaxPool2d) and not hasattr(features, "conv1"), "stem")
    depths = [len(block) for name, block in features.named_children() if name.startswith("denseblock")]
    return {"growth": features.denseblock1.denselayer1.conv2.out_channels, "depths": depths}


def plain(model: Any) -> Facts:
    """Return the facts of a VGG."""
    layers = [
        0 if isinstance(module, torch.nn.MaxPool2d) else module.out_channels
        for module in model.features if isinstance(module, (torch.nn.Conv2d, torch.nn.MaxPool2d))
    ]  # fmt: skip
    return {"layers": layers, "norm": model.use_norm}


def swin(model: Any) -> Facts:
    """Return the facts of a Swin Transformer."""
    layers = model.layers
    first = layers[0].blocks[0]
    need(type(first) is swin_transformer.SwinTransformerBlock, type(first).__name__)
    return {
        "patch": model.patch_embed.patch_size[0], "width": model.embed_dim, "depths": [len(layer.blocks) for layer in layers],
        "heads": [layer.blocks[0].attn.num_heads for layer in layers],
        "windows": [layer.blocks[0].window_size[0] for layer in layers],
        "ratio": first.mlp.fc1.out_features / first.dim, "image": list(model.patch_embed.img_size),
    }  # fmt: skip


READERS: dict[type, tuple[str, Callable[[Any], Facts]]] = {
    vision_transformer.VisionTransformer: ("vit", vit), resnet.ResNet: ("resnet", residual), ConvNeXt: ("convnext", convnext),
    efficientnet.EfficientNet: ("efficientnet", efficient), mobilenetv3.MobileNetV3: ("efficientnet", efficient),
    regnet.RegNet: ("regnet", regular), DenseNet: ("densenet", dense), vgg.VGG: ("vgg", plain), SwinTransformer: ("swin", swin),
}  # fmt: skip


def drop_rate(model: Any) -> float:
    """Return the largest rate of stochastic depth."""
    return max(
        (module.drop_prob or 0.0 for module in model.modules() if type(module).__name__ == "DropPath"), default=0.0
    )


def read(name: str) -> tuple[str, Facts]:
    """Return the family and the facts of a registered model."""
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    reader = READERS.get(type(model))
    if reader is None:
        raise Unknown(type(model).__name__)
    family, function = reader
    facts = function(model)
    cfg = model.pretrained_cfg
    facts.setdefault("image", list(cfg.get("input_size", (3, 224, 224))[1:]))
    facts["classes"] = model.num_classes
    facts["drop_path"] = drop_rate(model)
    ours = {tensor.name: tensor.shape for tensor in parameters(family, facts) if not tensor.buffer}
    theirs = {name: tuple(value.shape) for name, value in model.named_parameters()}
    if ours != theirs:
        different = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        raise Unknown(f"parameters differ: {len(different)}, {sorted(different)[:3]}")
    return family, facts


def main() -> None:
    """Write the file."""
    found: dict[str, dict[str, Facts]] = {}
    for name in sorted({name for pattern in PATTERNS for name in timm.list_models(pattern)}):
        try:
            family, facts = read(name)
        except (Unknown, RuntimeError, AttributeError, AssertionError) as error:
            print(name, "-", str(error)[:120])
            continue
        found.setdefault(family, {})[name] = facts
    source = f"timm {timm.__version__}, the modules that timm.create_model builds (Apache-2.0)"
    lines = [f'  "source": {json.dumps(source)}']
    for family, models in sorted(found.items()):
        rows = ",\n".join(
            f"    {json.dumps(name)}: {json.dumps(facts, separators=(',', ':'))}" for name, facts in models.items()
        )
        lines.append(f'  "{family}": {{\n{rows}\n  }}')
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print({family: len(models) for family, models in found.items()})


if __name__ == "__main__":
    main()
