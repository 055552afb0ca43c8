"""timm's VisionTransformer: ViT [1]_, DeiT, DINOv2 [2]_, the towers of CLIP and SigLIP.

References
----------
.. [1] A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929.
.. [2] M. Oquab et al., "DINOv2", 2023, arXiv:2304.07193.
.. [3] timm 1.0.31, ``models/vision_transformer.py``, ``layers/attention.py``, ``layers/mlp.py``, ``layers/attention_pool.py``.
"""

from __future__ import annotations

from vrameter.model.vision.net import Map, Net
from vrameter.model.vision.nets.timm.common import Facts, branch


def attention(net: Net, x: Map, heads: int, facts: Facts) -> Map:
    """Run attention over all tokens: one matrix for queries, keys and values."""
    width = x.channels
    qkv = net.linear(x, "qkv", 3 * width, bias=facts["qkv_bias"], role="attention", slot="qkv")
    q, k, v = net.split(qkv, [width] * 3)
    del qkv, x
    if facts["qk_norm"]:
        q = net.layer_norm(q, "q_norm", width=width // heads)
        k = net.layer_norm(k, "k_norm", width=width // heads)
    x = net.attend(q, k, v, heads)
    del q, k, v
    return net.linear(x, "proj", width, role="attention", slot="o")


def perceptron(net: Net, x: Map, hidden: int, facts: Facts) -> Map:
    """Run the perceptron: plain, gated with one matrix for both halves (``packed``), or gated with two."""
    width, kind = x.channels, facts["mlp"]
    if kind == "packed":
        gate, x = net.split(net.linear(x, "fc1", hidden, role="mlp", slot="gate_up"), [hidden // 2] * 2)
        x = net.mul(net.act(gate, "silu"), x)
        del gate
    elif kind == "swiglu":
        gate = net.linear(x, "fc1_g", hidden, role="mlp", slot="gate")
        x = net.linear(x, "fc1_x", hidden, role="mlp", slot="up")
        x = net.mul(net.act(gate, "silu"), x)
        del gate
    else:
        x = net.act(net.linear(x, "fc1", hidden, role="mlp", slot="up"), facts["act"])
    return net.linear(x, "fc2", width, role="mlp", slot="down")


def block(net: Net, x: Map, *, facts: Facts) -> Map:
    """Run one block: attention and a perceptron, each behind a norm and a scale."""
    y = net.layer_norm(x, "norm1")
    with net.within("attn"):
        y = attention(net, y, facts["heads"], facts)
    if facts["scaled"]:
        y = net.scale(y, "ls1.gamma")
    x = net.add(x, net.drop_path(y, facts["drop_path"]))
    y = net.layer_norm(x, "norm2")
    with net.within("mlp"):
        y = perceptron(net, y, facts["hidden"], facts)
    if facts["scaled"]:
        y = net.scale(y, "ls2.gamma")
    return branch(net, x=y, shortcut=x, rate=facts["drop_path"])


def pooled(net: Net, x: Map, facts: Facts) -> Map:
    """Make one vector of the tokens: the class token, their mean, or attention to a learned query."""
    if facts["pool"] == "map":
        with net.within("attn_pool"):
            width = x.channels
            latent = net.learned("latent", 1, width)
            q = net.linear(latent, "q", width, role="attention")
            k, v = net.split(net.linear(x, "kv", 2 * width, role="attention"), [width] * 2)
            y = net.linear(net.attend(q, k, v, facts["heads"]), "proj", width, role="attention")
            del q, k, v, x
            z = net.layer_norm(y, "norm")
            with net.within("mlp"):
                z = net.linear(
                    net.act(net.linear(z, "fc1", facts["hidden"], role="mlp"), facts["act"]), "fc2", width, role="mlp"
                )
            return net.add(y, z)
    prefix = facts["class_token"] + facts["registers"]
    if facts["pool"] == "avg":
        return net.mean(net.tokens(x, prefix) if prefix else x)
    return net.tokens(x, 0, 1)


def model(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a vision transformer."""
    width = facts["width"]
    x = net.conv(
        x, "patch_embed.proj", width, facts["patch"], stride=facts["patch"], padding=0, bias=facts["patch_bias"]
    )
    x = net.view(x, width, x.places)
    marks: list[str | tuple[str, int]] = []
    if facts["class_token"]:
        marks.append("cls_token")
    if facts["registers"]:
        marks.append(("reg_token", facts["registers"]))
    grid, prefix = x.places, facts["class_token"] + facts["registers"]
    positions = facts["positions"]
    if positions == "patches":
        x = net.positions(x, "pos_embed", 1, grid, width)
    if marks:
        x = net.prepended(x, *marks)
    if positions == "all":
        x = net.positions(x, "pos_embed", 1, grid + prefix, width)
    if facts["norm_pre"]:
        x = net.layer_norm(x, "norm_pre")
    x = net.chain("blocks", facts["depth"], block, x, facts=facts)
    if facts["norm"]:
        x = net.layer_norm(x, "norm")
    x = pooled(net, x, facts)
    if facts["fc_norm"]:
        x = net.layer_norm(x, "fc_norm")
    return net.linear(x, "head", classes, role="head") if classes else x
