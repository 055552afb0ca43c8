"""Pyramids of attention: PVT and LeViT, which shrink the image between stages.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] W. Wang et al., "Pyramid Vision Transformer", 2021, arXiv:2102.12122.
.. [2] B. Graham et al., "LeViT: a Vision Transformer in ConvNet's Clothing", 2021, arXiv:2104.01136.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Part, Role, Tensors
from vrameter.model.config import Config
from vrameter.model.families.conv_vision import staged, stages
from vrameter.model.families.encoder_heads import task_of
from vrameter.model.families.registry import Built, num_labels, tower
from vrameter.model.families.vision_parts import channels, listed_sizes, pair
from vrameter.model.families.vit import image_heads


@tower("pvt", base="pvt", heads=image_heads())
def pvt(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """PVT [1]_: attention to an image shrunk by a convolution, positions at every stage."""
    found = stages(cfg)
    count = len(found)
    sizes, ratios, heads, inner = (
        listed_sizes(cfg, name, count)
        for name in ("patch_sizes", "sequence_reduction_ratios", "num_attention_heads", "mlp_ratios")
    )
    layers: list[Layer] = []
    around: Tensors = ()
    before, edge = channels(cfg), pair(cfg, "image_size")[0]
    for number, (depth, width) in enumerate(found):
        if width % heads[number]:
            raise cfg.fail(
                "hidden_sizes", "%(value)s is not a multiple of the %(heads)s attention heads.", value=width,
                heads=heads[number],
            )  # fmt: skip
        last, shrink, name = number == count - 1, ratios[number], f"encoder.patch_embeddings.{number}"
        rows = (edge if number == 0 else edge // 2 ** (number + 1)) // sizes[number]
        around += parts.parameter(
            f"{name}.position_embeddings", 1, rows * rows + last, width, role="embedding", slot="position"
        )
        around += parts.parameter(f"{name}.cls_token", 1, 1, width, role="embedding") if last else ()
        around += parts.conv(f"{name}.projection", width, before, sizes[number], sizes[number])
        around += parts.norm(f"{name}.layer_norm", width, bias=True)
        members: list[Part] = []
        tensors: Tensors = ()
        for index in range(depth):
            own = f"{index}.attention.self"
            shrinking = (
                *parts.conv(f"{own}.sequence_reduction", width, width, shrink, shrink),
                *parts.norm(f"{own}.layer_norm", width, bias=True),
            )
            members.append(
                parts.attention(
                    hidden_size=width, num_heads=heads[number], name=f"{index}.attention", q="self.query", k="self.key",
                    v="self.value", o="output.dense", bias=cfg.flag("qkv_bias", True), o_bias=True, scope="encoder",
                    extra=shrinking if shrink > 1 else (),
                )
            )  # fmt: skip
            members.append(
                parts.mlp(
                    hidden_size=width, intermediate_size=width * inner[number], gated=False, bias=True,
                    name=f"{index}.mlp", up="dense1", down="dense2",
                )
            )  # fmt: skip
            tensors += parts.norm(f"{index}.layer_norm_1", width, bias=True)
            tensors += parts.norm(f"{index}.layer_norm_2", width, bias=True)
        layers.append(Layer(tuple(members), tensors))
        before = width
    around += parts.norm("encoder.layer_norm", before, bias=True)
    return staged(cfg, prefix, layers, around, before, layers_name="encoder.block", patch=4)


def _normed(name: str, outputs: int, inputs: int, role: Role, slot: str = "") -> Tensors:
    """Return a linear layer without a bias, and its batch norm."""
    return (
        *parts.linear(f"{name}.linear", outputs, inputs, role=role, slot=slot),
        *parts.batch_norm(f"{name}.batch_norm", outputs),
    )


def _levit_heads(cfg: Config, class_name: str) -> Built | None:
    task = task_of(class_name)
    if not task.startswith("ImageClassification"):
        return None
    body = levit(cfg, "levit")
    names = ("classifier", "classifier_distill") if task.endswith("WithTeacher") else ("classifier",)
    tensors = tuple(
        tensor
        for name in names
        for tensor in (
            *parts.batch_norm(f"{name}.batch_norm", body.hidden_size),
            *parts.linear(f"{name}.linear", num_labels(cfg), body.hidden_size, bias=True, role="head"),
        )
    )
    return Built((body, Component(kind="head", name="head", hidden_size=body.hidden_size, tensors=tensors)))


@tower("levit", base="levit", heads=_levit_heads)
def levit(cfg: Config, prefix: str) -> Component:
    """LeViT [2]_: batch norms behind every matrix, a bias for each distance, attention that halves the grid."""
    found = stages(cfg)
    count = len(found)
    heads, keys, ratios, wider = (
        listed_sizes(cfg, name, count) for name in ("num_attention_heads", "key_dim", "attention_ratio", "mlp_ratio")
    )
    rows = pair(cfg, "image_size")[0] // pair(cfg, "patch_size")[0]
    shrinking = cfg.sequence("down_ops", None) or [
        ["Subsample", keys[0], found[stage][1] // keys[0], 4, 2, 2] for stage in range(count - 1)
    ]

    def feed(name: str, width: int, ratio: int) -> FeedForward:
        up, down = f"{name}.module.linear_up", f"{name}.module.linear_down"
        tensors = (*_normed(up, width * ratio, width, "mlp", "up"), *_normed(down, width, width * ratio, "mlp", "down"))
        return FeedForward(tensors, width * ratio, gated=False)

    layers: list[Layer] = []
    for stage, (depth, width) in enumerate(found):
        members: list[Part] = []
        number, dim, ratio = heads[stage], keys[stage], ratios[stage]
        for _ in range(depth):
            name = f"layers.{len(members)}.module"
            tensors = (
                *parts.parameter(f"{name}.attention_biases", number, rows * rows, role="attention", slot="position"),
                *_normed(f"{name}.queries_keys_values", (ratio + 2) * dim * number, width, "attention", "qkv"),
                *_normed(f"{name}.projection", width, ratio * dim * number, "attention", "o"),
            )
            members.append(Attention(tensors, number, number, dim, ratio * dim, scope="encoder"))
            members.append(feed(f"layers.{len(members)}", width, wider[stage]))
        step = shrinking[stage] if stage < min(count - 1, len(shrinking)) else ()
        if step:
            if not (
                isinstance(step, (list, tuple))
                and len(step) == 6
                and all(type(item) is int and 0 < item < 2**20 for item in step[1:])
            ):
                raise cfg.fail("down_ops", "%(value)s is not a list of whole numbers.", value=step)
            dim, number, ratio, grown, stride = step[1:]
            name, following = f"layers.{len(members)}", found[stage + 1][1]
            tensors = (
                *parts.parameter(f"{name}.attention_biases", number, rows * rows, role="attention", slot="position"),
                *_normed(f"{name}.keys_values", (ratio + 1) * dim * number, width, "attention", "kv"),
                *_normed(f"{name}.queries", dim * number, width, "attention", "q"),
                *_normed(f"{name}.projection", following, ratio * dim * number, "attention", "o"),
            )
            members.append(Attention(tensors, number, number, dim, ratio * dim, scope="encoder"))
            members.append(feed(f"layers.{len(members)}", following, grown))
            rows = (rows - 1) // stride + 1
        layers.append(Layer(tuple(members)))
    first, kernel = found[0][1], cfg.integer("kernel_size", 3)
    around: Tensors = ()
    inputs = channels(cfg)
    for index, part in enumerate((8, 4, 2, 1), 1):
        name = f"patch_embeddings.embedding_layer_{index}"
        around += parts.conv(f"{name}.convolution", first // part, inputs, kernel, kernel, bias=False)
        around += parts.batch_norm(f"{name}.batch_norm", first // part)
        inputs = first // part
    return staged(cfg, prefix, layers, around, found[-1][1], layers_name="encoder.stages", patch=16)
