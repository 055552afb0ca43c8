"""Parameter counts: published ones, then every trusted config of the catalogue."""

from __future__ import annotations

import pytest

from vrameter.errors import VrameterError
from vrameter.sources import catalogue

PUBLISHED = [
    ("openai-community/gpt2", 124_439_808), ("openai-community/gpt2-xl", 1_557_611_200),
    ("meta-llama/Llama-2-7b-hf", 6_738_415_616), ("meta-llama/Llama-2-13b-hf", 13_015_864_320),
    ("meta-llama/Llama-2-70b-hf", 68_976_648_192), ("meta-llama/Llama-3.1-8B", 8_030_261_248),
    ("meta-llama/Llama-3.1-70B", 70_553_706_496), ("meta-llama/Llama-3.1-405B", 405_853_388_800),
    ("meta-llama/Llama-3.2-1B", 1_235_814_400), ("meta-llama/Llama-3.2-3B", 3_212_749_824),
    ("mistralai/Mistral-7B-v0.1", 7_241_732_096), ("mistralai/Mixtral-8x7B-v0.1", 46_702_792_704),
    ("mistralai/Mixtral-8x22B-v0.1", 140_620_634_112), ("Qwen/Qwen2.5-0.5B", 494_032_768),
    ("Qwen/Qwen2.5-7B", 7_615_616_512), ("Qwen/Qwen2.5-72B", 72_706_203_648), ("Qwen/Qwen3-0.6B", 596_049_920),
    ("Qwen/Qwen3-8B", 8_190_735_360), ("Qwen/Qwen3-30B-A3B", 30_532_122_624), ("Qwen/Qwen3-235B-A22B", 235_093_634_560),
    ("google/gemma-2b", 2_506_172_416), ("google/gemma-7b", 8_537_680_896), ("google/gemma-2-9b", 9_241_705_984),
    ("google/gemma-2-27b", 27_227_128_320), ("google/gemma-3-1b-it", 999_885_952),
    ("microsoft/Phi-3-mini-4k-instruct", 3_821_079_552), ("microsoft/phi-4", 14_659_507_200),
    ("deepseek-ai/DeepSeek-V2-Lite", 15_706_484_224), ("deepseek-ai/DeepSeek-V2", 235_741_434_880),
    ("deepseek-ai/DeepSeek-V3", 671_026_404_352), ("moonshotai/Kimi-K2-Instruct", 1_026_408_209_408),
    ("openai/gpt-oss-20b", 20_914_757_184), ("openai/gpt-oss-120b", 116_829_156_672),
    ("state-spaces/mamba-2.8b-hf", 2_768_345_600), ("state-spaces/mamba2-2.7b", 2_702_599_680),
    ("ai21labs/Jamba-v0.1", 51_570_323_328), ("tiiuae/falcon-mamba-7b", 7_272_665_088),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", 79_674_391_296), ("tiiuae/falcon-7b", 6_921_720_704),
    ("facebook/opt-6.7b", 6_658_473_984), ("bigscience/bloom-7b1", 7_069_016_064),
    ("EleutherAI/pythia-6.9b", 6_857_302_016), ("google-bert/bert-base-uncased", 109_482_240),
    ("google-bert/bert-large-uncased", 335_141_888), ("BAAI/bge-m3", 567_754_752), ("google-t5/t5-base", 222_903_552),
    ("google-t5/t5-11b", 11_307_321_344), ("google/flan-t5-xxl", 11_135_332_352),
    ("openai/whisper-large-v3", 1_543_490_560), ("openai/whisper-tiny", 37_760_640),
    ("google/vit-base-patch16-224", 86_567_656), ("openai/clip-vit-large-patch14", 427_616_513),
    ("llava-hf/llava-1.5-7b-hf", 7_063_427_072),
]  # fmt: skip

# Entries whose count is not the one of the list, with the reason. Everything else must agree to the parameter.
EXPLAINED: dict[str, str] = {}


@pytest.mark.parametrize(("name", "expected"), PUBLISHED, ids=[name for name, _ in PUBLISHED])
def test_published_counts(name: str, expected: int) -> None:
    """Counts of the published checkpoints, tied matrices once, buffers left out."""
    assert catalogue.find(name).architecture().num_params == expected


def test_balancing_biases_are_buffers() -> None:
    """58 routers of DeepSeek-V3 with 256 experts, 60 of Kimi-K2 with 384: stored, no parameters."""
    assert catalogue.find("deepseek-ai/DeepSeek-V3").architecture().num_buffer_elements == 14_848
    assert catalogue.find("moonshotai/Kimi-K2-Instruct").architecture().num_buffer_elements == 23_040


def test_every_model_of_the_catalogue_has_its_count() -> None:
    """Every entry can be read, and where the list has a count of loaded parameters it is ours."""
    wrong, compared = {}, 0
    for entry in catalogue.entries():
        try:
            count: object = entry.architecture().num_params
        except VrameterError as error:
            count = error.message
        if entry.computed_params is None and isinstance(count, int):
            continue
        compared += 1
        if count != entry.computed_params and entry.id not in EXPLAINED:
            wrong[entry.id] = (entry.model_type, count, entry.computed_params)
    assert compared > 2000
    assert not wrong, f"{len(wrong)} of {compared}: {dict(list(wrong.items())[:8])}"


@pytest.mark.parametrize(
    ("name", "active"),
    [("mistralai/Mixtral-8x7B-v0.1", 12_879_925_248), ("Qwen/Qwen3-30B-A3B", 3_353_032_704)],
)
def test_active_parameters(name: str, active: int) -> None:
    """Two of eight experts of Mixtral, eight of 128 of Qwen3: attention, embeddings and routers count whole."""
    assert catalogue.find(name).architecture().num_active_params == active


def test_parts_sum_to_the_whole() -> None:
    for name in ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "t5-base", "bert-base-uncased"):
        architecture = catalogue.find(name).architecture()
        assert sum(architecture.params_by_role.values()) == architecture.num_params
        assert sum(tensor.size for _, _, tensor in architecture.named_tensors() if not tensor.buffer) == (
            architecture.num_params
        )
        names = [name for name, _, _ in architecture.named_tensors()]
        assert len(set(names)) == len(names)


def test_tied_heads_are_stored_twice_in_some_files() -> None:
    """Qwen3-0.6B's file holds its head again: 751,632,384 elements for 596,049,920 parameters."""
    entry = catalogue.find("Qwen/Qwen3-0.6B")
    assert entry.published_params == 751_632_384
    assert entry.architecture().num_params == 596_049_920
