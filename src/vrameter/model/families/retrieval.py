"""Models that turn pages into one short vector a token, for search: ColPali, ColQwen2, ColModernVBERT.

References
----------
.. [1] M. Faysse et al., "ColPali: Efficient Document Retrieval with Vision Language Models", 2024, arXiv:2407.01449.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component
from vrameter.model.config import Config
from vrameter.model.families.registry import Built, entry, model, within

INSIDE = {"colpali": "paligemma", "colqwen2": "qwen2_vl", "colmodernvbert": "modernvbert"}


@model("colpali", "colqwen2", "colmodernvbert")
def late_interaction(cfg: Config, class_name: str) -> Built:
    """Return a model that sees without its head, and one matrix behind it [1]_."""
    own = cfg.nested("vlm_config", INSIDE[cfg.model_type])
    found = entry(own.model_type)
    if found is None or found.kind != "model":
        raise own.fail("model_type", "'%(value)s' is not a kind of network that can stand here.", value=own.model_type)
    seen = within("vlm", found.read(own, "Model"))
    hidden = seen.components[0].hidden_size
    matrix = parts.linear("embedding_proj_layer", cfg.integer("embedding_dim", 128), hidden, bias=True, role="head")
    head = Component(kind="head", name="head", hidden_size=hidden, tensors=matrix)
    return Built((*seen.components, head), tied=seen.tied)
