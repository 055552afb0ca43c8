"""Bad input: one clear message with field, value and next step; exit status 2, no traceback; a batch goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vrameter
from vrameter.cli import main
from vrameter.errors import VrameterError
from vrameter.model.families.index import MODULES
from vrameter.spec import Request

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100,
}  # fmt: skip


def config(**changes: Any) -> dict[str, Any]:
    return {"config": {**LLAMA, **changes}}


NESTED: dict[str, Any] = {}
NESTED["text_config"] = NESTED

BAD: list[tuple[Any, str]] = [
    ({"model": "llama-3.1-8bb"}, "model"),
    ({"model": ""}, "model"),
    ({"model": "8.8B", "method": "\ud800"}, "method"),
    ({}, "model"),
    ({"model": None}, "model"),
    ({"model": True}, "model"),
    ({"model": []}, "model"),
    ({"model": 0}, "model"),
    ({"model": -8e9}, "model"),
    ({"model": math.nan}, "model"),
    ({"model": math.inf}, "model"),
    ({"model": 1.5}, "model"),
    ({"model": 10**30}, "model"),
    ({"model": "-8B"}, "model"),
    ({"model": "0B"}, "model"),
    ({"model": {"config": LLAMA, "path": "x"}}, "model"),
    ({"model": LLAMA}, "model"),
    ({"model": {}}, "model"),
    ({"model": "llama-3.1-8b", "device": "rtx-4091"}, "device"),
    ({"model": "llama-3.1-8b", "device": "0xh100"}, "device"),
    ({"model": "llama-3.1-8b", "device": {"name": "x", "capacity_bytes": 0}}, "device.capacity_bytes"),
    ({"model": "llama-3.1-8b", "device": {"name": "x", "capacity_bytes": -1}}, "device.capacity_bytes"),
    ({"model": "llama-3.1-8b", "device": {"name": "x", "capacity_bytes": "24GB"}}, "device.capacity_bytes"),
    ({"model": "llama-3.1-8b", "device": 24}, "device"),
    ({"model": "llama-3.1-8b", "dtype": "bf17"}, "dtype"),
    ({"model": "llama-3.1-8b", "quantization": "awqq"}, "quantization"),
    ({"model": "llama-3.1-8b", "engine": "vlllm"}, "engine"),
    ({"model": "llama-3.1-8b", "task": "infer"}, "task"),
    ({"model": "llama-3.1-8b", "method": "guess"}, "method"),
    ({"model": "llama-3.1-8b", "num_devices": 0}, "num_devices"),
    ({"model": "llama-3.1-8b", "num_devices": 2.5}, "num_devices"),
    ({"model": "llama-3.1-8b", "num_devices": "two"}, "num_devices"),
    ({"model": "llama-3.1-8b", "devise": "rtx-4090"}, "devise"),
    ({"model": "llama-3.1-8b", "batch_size": 4}, "batch_size"),
    ({"model": "llama-3.1-8b", "device": "2xl40s", "num_devices": 4}, "device"),
    ({"model": "llama-3.1-8b", "parallelism": {"tensor": 3}}, "parallelism.tensor"),
    ({"model": "llama-3.1-8b", "parallelism": {"tensors": 2}}, "parallelism.tensors"),
    ({"model": "llama-3.1-8b", "parallelism": {"tensor": 0}}, "parallelism.tensor"),
    ({"model": "llama-3.1-8b", "parallelism": {"zero_stage": 5}}, "parallelism.zero_stage"),
    ({"model": "llama-3.1-8b", "parallelism": 2}, "parallelism"),
    ({"model": "llama-3.1-8b", "settings": {"batch_size": 0}}, "settings.batch_size"),
    ({"model": "llama-3.1-8b", "settings": {"batch_size": -1}}, "settings.batch_size"),
    ({"model": "llama-3.1-8b", "settings": {"batch_size": 1.5}}, "settings.batch_size"),
    ({"model": "llama-3.1-8b", "settings": {"batch_size": math.nan}}, "settings.batch_size"),
    ({"model": "llama-3.1-8b", "settings": {"batch_size": 10**40}}, "settings.batch_size"),
    ({"model": "llama-3.1-8b", "settings": {"context_length": "8k"}}, "settings.context_length"),
    ({"model": "llama-3.1-8b", "settings": {"context": 8}}, "settings.context"),
    ({"model": "llama-3.1-8b", "settings": {"context_length": 100, "max_new_tokens": 100}}, "settings.max_new_tokens"),
    ({"model": "llama-3.1-8b", "settings": {"kv_cache_dtype": "fp9"}}, "settings.kv_cache_dtype"),
    ({"model": "llama-3.1-8b", "settings": {"attn_implementation": "flash"}}, "settings.attn_implementation"),
    ({"model": "llama-3.1-8b", "settings": []}, "settings"),
    ({"model": "8B", "settings": {"context_length": 8192}}, "settings.context_length"),
    ({"model": "8B", "parallelism": {"tensor": 2}}, "parallelism"),
    ({"model": "8B", "method": "architecture"}, "method"),
    ({"model": "8B", "dtype": "fp12"}, "dtype"),
    ("llama-3.1-8b", "request"),
    (None, "request"),
    ([], "request"),
    ({"model": {"config": {}}}, "config"),
    ({"model": {"config": []}}, "config"),
    ({"model": {"config": "llama"}}, "config"),
    ({"model": config(hidden_size="64")}, "config.hidden_size"),
    ({"model": config(hidden_size=0)}, "config.hidden_size"),
    ({"model": config(hidden_size=-64)}, "config.hidden_size"),
    ({"model": config(hidden_size=1.5)}, "config.hidden_size"),
    ({"model": config(hidden_size=None)}, "config.hidden_size"),
    ({"model": config(num_hidden_layers=1_000_000)}, "config.num_hidden_layers"),
    ({"model": config(num_hidden_layers=10**30)}, "config.num_hidden_layers"),
    ({"model": config(vocab_size=2**60)}, "config.vocab_size"),
    ({"model": config(num_attention_heads=3, num_key_value_heads=3)}, "config.hidden_size"),
    ({"model": config(num_key_value_heads=3)}, "config.num_key_value_heads"),
    ({"model": config(model_type="no-such-network", num_attention_heads=None)}, "config.model_type"),
    ({"model": config(model_type="qwen3", layer_types=["full_attention"])}, "config.layer_types"),
    ({"model": {"config": NESTED}}, "config"),
    ({"model": config(model_type=["llama"])}, "config.model_type"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "field"), BAD, ids=[f"{index}-{field}" for index, (_, field) in enumerate(BAD)])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_message_names_field_and_next_step(request_: Any, field: str, language: str) -> None:
    from vrameter.i18n import set_language

    set_language(language)
    try:
        with pytest.raises(VrameterError) as caught:
            vrameter.estimate(request_)
    finally:
        set_language("en")
    error = caught.value
    assert error.field is not None
    assert error.field == field or error.field.startswith(f"{field}."), error
    assert error.message.strip()
    assert error.exit_code == 2
    assert "%(" not in error.message
    assert "Traceback" not in error.message
    assert len(error.message) < 600
    assert error.hint, error.message


def test_values_stand_in_the_message() -> None:
    with pytest.raises(VrameterError, match=r"settings\.batch_size: -3 is not a whole number from 1"):
        vrameter.estimate({"model": "llama-3.1-8b", "settings": {"batch_size": -3}})
    with pytest.raises(VrameterError, match="rtx-4091") as caught:
        vrameter.estimate({"model": "llama-3.1-8b", "device": "rtx-4091"})
    assert "rtx-4090" in (caught.value.hint or "")


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["llama-3.1-8bb"], ["llama-3.1-8b", "--device", "rtx-4091"], ["llama-3.1-8b", "--dtype", "bf17"],
        ["llama-3.1-8b", "--devise", "x"], ["llama-3.1-8b", "--batch-size", "many"], ["llama-3.1-8b", "--batch-size"],
        ["llama-3.1-8b", "--set", "x"], ["8B", "--context-length", "8192"], ["estimate"], ["explain", "llama-3.1-8b", "--term", "x"],
        ["llama-3.1-8b", "--config", "config.json"], ["llama-3.1-8b", "--check"], ["models", "no-such-model"], ["devices", "no-such-card"],
        ["dtypes", "fp99"], ["--config", "/no/such/config.json"], ["llama-3.1-8b", "--lang", "xx"], ["llama-3.1-8b", "extra"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_command_line_refuses(arguments: list[str], language: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main([*arguments, *([] if "--lang" in arguments else ["--lang", language])])
    shown = capsys.readouterr()
    assert status in (2, 3)
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) == 2, shown.err
    assert "Traceback" not in shown.err
    if language == "ko" and "--lang" not in arguments:
        assert any("가" <= sign <= "힣" for sign in shown.err), shown.err


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "[1, 2]", "null", '"llama"', '{"model_type": "llama"', "\x00\x01", "{}", "[" * 5000, '{"a": NaN}'],
)
def test_broken_config_files(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    assert main(["--config", str(file), "--lang", "en"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")


def test_a_truncated_config_at_every_byte(tmp_path: Path) -> None:
    whole = json.dumps({**LLAMA, "architectures": ["LlamaForCausalLM"]})
    file = tmp_path / "config.json"
    for end in range(0, len(whole), 7):
        file.write_text(whole[:end])
        with pytest.raises(VrameterError):
            vrameter.estimate({"model": str(file)})


def test_a_batch_goes_on(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    lines = [
        '{"model": "llama-3.1-8b"}', "not json", "[]", '{"model": "nope-nope"}', "", '{"model": "8.8B"}', "\xff", '{"model": "llama-3.1-8b"',
    ]  # fmt: skip
    file = tmp_path / "requests.jsonl"
    file.write_bytes("\n".join(lines).encode("latin-1"))
    assert main(["batch", str(file)]) == 1
    answers = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert len(answers) == 7
    assert ["error" in answer for answer in answers] == [False, True, True, True, False, True, True]
    for answer in answers:
        if "error" in answer:
            assert set(answer["error"]) >= {"kind", "message", "field"}


def answer_or_message(request: dict[str, Any]) -> vrameter.Response | None:
    """Return the answer, None where a message says why there is none. Any other exception is a defect."""
    try:
        return vrameter.estimate(request)
    except VrameterError as error:
        if not error.message:
            raise
        return None


WORDS = st.sampled_from(
    ["llama-3.1-8b", "8.8B", "rtx-4090", "bf16", "awq", "transformers", "x", "", "\n", "한국어", "-1", "1e9"]
)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), WORDS, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_requests_answer_or_explain(data: st.DataObject) -> None:
    request: dict[str, Any] = {
        "model": data.draw(st.sampled_from(["llama-3.1-8b", "qwen3-30b-a3b", "t5-base", "8.8B"]))
    }
    for name in data.draw(st.lists(st.sampled_from(list(Request.__struct_fields__)), max_size=3, unique=True)):
        request[name] = data.draw(PLAIN)
    if data.draw(st.booleans()):
        names = ["batch_size", "context_length", "max_new_tokens", "num_beams", "logits_to_keep", "kv_cache_dtype"]
        request["settings"] = data.draw(st.dictionaries(st.sampled_from(names), PLAIN, max_size=2))
    answer = answer_or_message(request)
    if answer is None:
        return
    assert all(isinstance(item["bytes"], int) and item["bytes"] >= 0 for item in answer["devices"][0]["items"])


FIELDS = [
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "head_dim", "layer_types", "sliding_window", "num_experts", "num_local_experts", "num_experts_per_tok", "architectures",
    "text_config", "vision_config", "quantization_config", "tie_word_embeddings", "torch_dtype", "max_position_embeddings",
    "kv_lora_rank", "q_lora_rank", "moe_intermediate_size", "rope_scaling", "id2label", "d_model", "encoder_layers",
]  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_configs_answer_or_explain(data: st.DataObject) -> None:
    values: dict[str, Any] = {**LLAMA, "model_type": data.draw(st.sampled_from(sorted(MODULES)))}
    for name in data.draw(st.lists(st.sampled_from(FIELDS), max_size=4)):
        values[name] = data.draw(st.one_of(PLAIN, st.integers(-2, 300)))
    answer = answer_or_message({"model": {"config": values}})
    assert answer is None or answer["devices"][0]["peak"]["used_bytes"] > 0
