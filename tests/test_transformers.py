"""Every type that is read here against transformers itself, on the meta device: names, shapes and counts.

Not run by default: ``pytest -m oracle tests/test_transformers.py`` needs torch and transformers. Each type is built by
default and under seeded random perturbations of its sizes, in every class of transformers' tables, and its config is read
whole and as transformers saves it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.transformers_oracle import Comparison, comparisons, quiet
from vrameter.model.families.index import MODULES

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

PERTURBATIONS = int(os.environ.get("ORACLE_PERTURBATIONS", "1"))

INTEGERS = "copies of the weights as integers, which I-BERT keeps as buffers, are not read; parameters agree"

# Classes that differ and stay so, with the reason.
EXCEPTIONS: dict[str, str] = {
    "IBertModel": INTEGERS,
    "IBertForMaskedLM": INTEGERS,
    "IBertForQuestionAnswering": INTEGERS,
    "IBertForSequenceClassification": INTEGERS,
    "xLSTMForCausalLM": "widths of embeddings and layers that contradict each other are refused",
    "xLSTMModel": "widths of embeddings and layers that contradict each other are refused",
}
# Types that transformers does not build from a config of its own making, with the reason.
NOT_BUILT: dict[str, str] = {
    "dbrx": "its attention's config lacks what the class reads",
    "fast_vlm": "needs timm and an imaging library",
    "gemma4_assistant": "transformers refuses a model all of whose layers read another's cache",
    "gemma4_unified_assistant": "transformers refuses a model all of whose layers read another's cache",
    "gemma3n": "needs timm and an imaging library",
    "gemma3n_vision": "needs timm",
    "hunyuan_vl": "its nested config lacks head_dim",
    "qwen4_exp": "its nested config lacks widths of its linear attention",
    "qwen4_exp_text": "needs widths of its linear attention",
    "t5gemma2_encoder": "its nested config lacks a dropout rate; compared inside t5gemma2",
    "voxtral_realtime_text": "no public class; compared inside voxtral_realtime",
}

Tally = dict[str, list[Comparison]]


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Collect every comparison, and print the share of exact ones at the end."""
    seen: Tally = {}
    yield seen
    compared = [found for each in seen.values() for found in each if not found.failed]
    exact = sum(found.same for found in compared)
    counted = sum(found.theirs == found.ours for found in compared if not found.refused)
    types = [name for name, each in seen.items() if any(not found.failed for found in each)]
    exact_types = sum(all(found.same or found.failed for found in seen[name]) for name in types)
    share = exact / max(1, len(compared))
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(
            f"\n{exact:,} of {len(compared):,} comparisons exact ({share:.2%}), {counted:,} counts; "
            f"{exact_types} of {len(types)} model types exact in every class"
        )


@pytest.mark.parametrize("model_type", sorted(MODULES))
def test_as_transformers_builds_it(model_type: str, tally: Tally) -> None:
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    if model_type not in auto.CONFIG_MAPPING:
        pytest.skip("transformers has no such type")
    quiet()
    tally[model_type] = found = list(comparisons(model_type, PERTURBATIONS))
    if not found:
        pytest.skip("transformers builds it only as a part of others")
    kept = [each for each in found if each.class_name in EXCEPTIONS and not each.failed]
    assert not kept or any(not each.same for each in kept), "no exception any more: take it off the list"
    if all(each.failed for each in found):
        assert model_type in NOT_BUILT, found[0]
    different = [each for each in found if not (each.same or each.failed or each in kept)]
    assert not different, "\n".join(str(line) for each in different[:3] for line in (each, *each.lines[:6]))
