"""Weight bytes: published and derived values, then laws."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.configs import model

from vrameter.errors import RequestError, UnknownNameError
from vrameter.memory.weights import tensor_bytes, weight_bytes, weight_plan, weights_bytes
from vrameter.model.formats import AWQ, BLOCK_FP8, CHANNEL_FP8, MXFP4, NVFP4, Format, bnb, gptq, mlx
from vrameter.model.gguf_mixture import MIXTURES
from vrameter.model.schemes import SCHEMES
from vrameter.parallel import layer_split, tensor_share

GIB = 2**30
# A GGUF of Llama 3.1 also holds the 64 frequencies of its rotary scaling in fp32.
ROPE_FREQUENCIES = 64 * 4


@pytest.mark.parametrize(
    ("mixture", "imatrix", "expected"),
    [
        ("f16", False, 16_061_055_232), ("q8_0", False, 8_532_934_912), ("q6_k", False, 6_588_170_496),
        ("q5_k_m", False, 5_725_151_488), ("q5_k_s", False, 5_591_458_048), ("q4_k_m", False, 4_912_898_304),
        ("q4_k_s", False, 4_684_833_024), ("q3_k_l", False, 4_314_120_448), ("q3_k_s", False, 3_656_663_296),
        ("q2_k", False, 3_171_295_488), ("q2_k_s", True, 2_980_978_944),
    ],
)  # fmt: skip
def test_llama_31_8b_as_gguf(mixture: str, imatrix: bool, expected: int) -> None:
    """The table of llama.cpp's tools/quantize/README, to the byte."""
    got = weight_bytes(model("llama-3.1-8b"), quantization=mixture, imatrix=imatrix).total
    assert got + ROPE_FREQUENCIES == expected


@pytest.mark.parametrize(
    ("mixture", "imatrix", "bits"),
    [
        ("f16", False, 16.0005), ("q8_0", False, 8.5008), ("q6_k", False, 6.5633), ("q5_k_m", False, 5.7036),
        ("q5_k_s", False, 5.5704), ("q4_k_m", False, 4.8944), ("q4_k_s", False, 4.6672), ("q3_k_l", False, 4.2979),
        ("q3_k_s", False, 3.6429), ("q2_k", False, 3.1593), ("q2_k_s", True, 2.9697),
        ("iq4_nl", False, 4.6818), ("iq4_xs", False, 4.4597), ("iq4_nl", True, 4.6526), ("iq4_xs", True, 4.4231),
        ("iq3_m", True, 3.7628), ("iq3_s", True, 3.6606), ("iq3_xs", True, 3.4977), ("iq3_xxs", True, 3.2548),
        ("iq2_m", True, 2.9294), ("iq2_s", True, 2.7403), ("iq2_xs", True, 2.5882), ("iq2_xxs", True, 2.3824),
        ("iq1_m", True, 2.1460), ("iq1_s", True, 2.0042),
    ],
)  # fmt: skip
def test_llama_31_8b_bits_per_weight(mixture: str, imatrix: bool, bits: float) -> None:
    got = weight_bytes(model("llama-3.1-8b"), quantization=mixture, imatrix=imatrix)
    assert 8 * (got.total + ROPE_FREQUENCIES) / (got.num_params + 64) == pytest.approx(bits, abs=1e-4)


@pytest.mark.parametrize(
    ("mixture", "tensors", "file"),
    [
        ("q8_0", 74.967, 74.98), ("q6_k", 57.880, 57.89), ("q5_k_m", 49.942, 49.95), ("q4_k_m", 42.513, 42.52),
        ("q4_k_s", 40.339, 40.35), ("iq4_xs", 37.895, 37.90), ("q3_k_m", 34.260, 34.27), ("iq3_m", 31.929, 31.94),
    ],
)  # fmt: skip
def test_llama_31_70b_as_gguf(mixture: str, tensors: float, file: float) -> None:
    """Sizes of published files, made with an importance matrix; a file also holds its tokenizer."""
    got = weight_bytes(model("llama-3.1-70b"), quantization=mixture, imatrix=True).total / 1e9
    assert got == pytest.approx(tensors, abs=6e-4)
    assert got == pytest.approx(file, abs=0.02)


@pytest.mark.parametrize(
    ("name", "gigabytes"), [("llama-2-7b", 4.080), ("mistral-7b", 4.368), ("mixtral-8x7b", 28.448)]
)
def test_q4_k_m(name: str, gigabytes: float) -> None:
    assert weight_bytes(model(name), quantization="q4_k_m").total / 1e9 == pytest.approx(gigabytes, abs=0.01)


@pytest.mark.parametrize(
    ("name", "quantization", "expected"),
    [
        ("llama-2-7b", "awq", 3_889_307_648), ("llama-2-7b", "gptq", 3_893_862_400),
        ("llama-2-7b", "bnb-nf4", 4_167_573_504), ("llama-2-7b", "bnb-nf4-dq", 3_865_591_808),
        ("llama-3.1-70b", "awq", 39_767_785_472), ("llama-3.1-8b", "mxfp4", 5_809_643_520),
        ("llama-3.1-8b", "awq", 5_727_854_592), ("llama-3.1-8b", "bnb-nf4-dq", 5_702_295_552),
        ("gpt-oss-20b", "mxfp4", 13_761_264_768), ("gpt-oss-120b", "mxfp4", 65_248_815_744),
    ],
)  # fmt: skip
def test_quantised_by_name(name: str, quantization: str, expected: int) -> None:
    assert weight_bytes(model(name), quantization=quantization).total == expected


def test_scales_beside_the_published_sums() -> None:
    """The published sums leave out the fp32 scale of each output, or of each matrix."""
    fp8 = weight_bytes(model("llama-3.1-8b"), quantization="fp8")
    assert fp8.total - fp8.scales == 9_081_200_640
    outputs = 32 * (4096 + 1024 + 1024 + 4096 + 2 * 14336 + 4096)
    assert fp8.scales == 4 * outputs
    nvfp4 = weight_bytes(model("llama-3.1-8b"), quantization="nvfp4")
    assert nvfp4.total - 4 * 7 * 32 == 6_027_747_328


def test_llama_31_70b_w8a8_as_vllm_printed_it() -> None:
    rotary_cache = 131072 * 128 * 2
    got = weight_bytes(model("llama-3.1-70b"), quantization="w8a8")
    assert (got.quantized, got.scales, got.unquantized) == (68_451_041_280, 26_869_760, 4_205_330_432)
    assert (got.total + rotary_cache) / GIB == pytest.approx(67.7229, abs=2e-4)


def test_gpt_oss_from_its_own_configuration() -> None:
    small, large = weight_bytes(model("gpt-oss-20b")), weight_bytes(model("gpt-oss-120b"))
    assert (small.total, large.total) == (13_761_264_768, 65_248_815_744)
    assert small.by_role["experts"] > 0.7 * small.total


@pytest.mark.parametrize(("dtype", "size"), [("fp32", 4), ("tf32", 4), ("bf16", 2), ("half", 2), ("fp8", 1)])
def test_unquantised(dtype: str, size: int) -> None:
    got = weight_bytes(model("llama-3.1-8b"), dtype=dtype)
    assert got.total == got.unquantized == 8_030_261_248 * size
    assert got.num_params == 8_030_261_248


def test_deepseek_v3_counts_its_balancing_biases_in_fp32() -> None:
    got = weight_bytes(model("deepseek-v3"), quantization="none", dtype="bf16")
    assert got.buffers == 58 * 256 * 4
    assert got.total == 671_026_404_352 * 2 + got.buffers


def test_tied_matrices_count_once() -> None:
    tied = weight_bytes(model("llama-3.2-1b"))
    untied = weight_bytes(model("llama-3.2-1b", tie_word_embeddings=False))
    assert untied.total - tied.total == 128256 * 2048 * 2


def test_a_quantisation_asked_for_goes_before_the_configurations() -> None:
    plan = weight_plan(model("gpt-oss-20b"), quantization="awq")
    assert plan.quantization == "awq"
    assert "awq" in plan.warnings[0]
    assert "mxfp4" in plan.warnings[0]
    assert not weight_plan(model("gpt-oss-20b"), quantization="mxfp4").warnings


def test_unknown_names_say_what_is_near() -> None:
    with pytest.raises(UnknownNameError) as caught:
        weight_bytes(model("llama-2-7b"), quantization="bnb-nf5")
    assert caught.value.field == "quantization"
    assert "bnb-nf4" in (caught.value.hint or "")
    with pytest.raises(UnknownNameError) as caught:
        weight_bytes(model("llama-2-7b"), dtype="bfloat61")
    assert caught.value.field == "dtype"
    with pytest.raises(RequestError, match="UD-Q4_K_XL"):
        weight_bytes(model("llama-2-7b"), quantization="UD-Q4_K_XL")


def test_ledger_line() -> None:
    architecture = model("llama-2-7b")
    line = weight_plan(architecture, quantization="awq").item(architecture, ("prefill",))
    assert (line.term, line.bytes, line.basis) == ("weights", 3_889_307_648, "exact")
    assert sum(line.values.values()) == line.bytes
    assert line.formula == "quantized + scales + unquantized + buffers"
    assert "elements × 0.5" in line.note


def test_what_is_quantised_on_loading_stands_beside_its_copy() -> None:
    architecture = model("llama-2-7b")
    assert weight_plan(architecture, quantization="bnb-nf4").load_transient() == 4096 * 11008 * 2
    assert weight_plan(architecture, quantization="awq").load_transient() == 0
    assert weight_plan(architecture).load_transient() == 0


def test_weights_bytes_is_the_sum() -> None:
    assert weights_bytes(quantized=1, scales=2, unquantized=3, buffers=4) == 10


# -- laws ----------------------------------------------------------------------------------------------

FORMATS = [AWQ, BLOCK_FP8, CHANNEL_FP8, MXFP4, NVFP4, bnb(4), bnb(4, double=True), gptq(3), mlx(4)]
sizes = st.integers(min_value=1, max_value=3000)


@given(st.sampled_from(FORMATS), sizes, sizes, sizes)
def test_more_elements_never_take_less(form: Format, rows: int, columns: int, more: int) -> None:
    here = tensor_bytes((rows, columns), form).total
    assert here <= tensor_bytes((rows + more, columns), form).total
    assert here <= tensor_bytes((rows, columns + more), form).total


@given(st.sampled_from(FORMATS), sizes, sizes, st.integers(min_value=1, max_value=8))
def test_shards_sum_to_at_least_the_whole(form: Format, rows: int, columns: int, degree: int) -> None:
    whole = tensor_bytes((rows, columns), form).total
    by_rows = tensor_bytes((-(-rows // degree), columns), form).total
    by_columns = tensor_bytes((rows, -(-columns // degree)), form).total
    assert degree * by_rows >= whole
    assert degree * by_columns >= whole


@given(st.sampled_from(FORMATS), st.integers(min_value=1, max_value=64), sizes, sizes)
def test_stacked_matrices_take_what_they_take_apart(form: Format, count: int, rows: int, columns: int) -> None:
    assert tensor_bytes((count, rows, columns), form).total == count * tensor_bytes((rows, columns), form).total


@given(st.sampled_from([form for form in FORMATS if not form.super_group]), st.integers(min_value=1, max_value=40))
def test_bits_per_weight_is_what_whole_groups_take(form: Format, count: int) -> None:
    shape = (128 * count, 1024)
    bare = replace(form, row_bytes=0, column_bytes=0, matrix_bytes=0)
    assert Fraction(8 * tensor_bytes(shape, bare).total, shape[0] * shape[1]) == form.bits_per_weight


@pytest.mark.parametrize("quantization", [*SCHEMES, *MIXTURES])
@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v3"])
def test_every_quantisation_counts_every_parameter(name: str, quantization: str) -> None:
    architecture = model(name)
    got = weight_bytes(architecture, quantization=quantization)
    assert got.num_params == architecture.num_params
    assert got.total == sum(got.by_role.values()) == sum(got.by_component.values())
    assert got.total < weight_bytes(architecture, quantization="none", dtype="fp32").total * 1.001


@pytest.mark.parametrize("quantization", ["none", "awq", "q4_k_m", "fp8-block", None])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3"])
def test_layers_on_several_devices_sum_to_the_whole(name: str, quantization: str | None) -> None:
    architecture = model(name)
    plan = weight_plan(architecture, quantization=quantization)
    shares = layer_split(architecture, 4, plan.piece_bytes)
    assert sum(plan.of(share).total for share in shares) == plan.of().total


@pytest.mark.parametrize("quantization", ["none", "awq", "fp8", "bnb-nf4-dq"])
def test_tensor_parallel_shares_sum_to_at_least_the_whole(quantization: str) -> None:
    architecture = model("llama-3.1-70b")
    plan = weight_plan(architecture, quantization=quantization)
    whole, share = plan.of().total, plan.of(tensor_share(architecture, 4)).total
    assert whole <= 4 * share < 1.01 * whole
