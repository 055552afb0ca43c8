"""Broken, hostile and contradictory sources."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vrameter.errors import RequestError, VrameterError
from vrameter.reading import read, read_text, serving
from vrameter.reading.configurations import FORMATS
from vrameter.reading.draft import Draft
from vrameter.reading.serving import TABLES

LORA = "base_model: qwen3-8b\nsequence_len: 2048\nmicro_batch_size: 1\n"


def refusal(text: str, **options: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read_text(text, **options)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("text", "format", "field"),
    [
        (LORA + "load_in_4bit: true\n", "axolotl", "load_in_4bit"),
        (LORA + "load_in_4bit: true\nload_in_8bit: true\nadapter: lora\n", "axolotl", "load_in_8bit"),
        (LORA + "bf16: true\nfp16: true\n", "axolotl", "fp16"),
        (LORA + "optimizer: adamw_tortch\n", "axolotl", "optim"),
        ("model_name_or_path: x\nfinetuning_type: full\nquantization_bit: 4\n", "llama-factory", "quantization_bit"),
        ("model_name_or_path: x\nfinetuning_type: lora\nquantization_bit: 3\n", "llama-factory", "quantization_bit"),
        ("model_name_or_path: x\nstage: sftt\n", "llama-factory", "stage"),
        ("per_device_train_batch_size: many\noutput_dir: x\n", "transformers", "per_device_train_batch_size"),
        ("fsdp: sharded\noutput_dir: x\n", "transformers", "fsdp"),
        ('{"zero_optimization": {"stage": 5}}', "deepspeed", "zero_optimization.stage"),
        ('{"zero_optimization": {"stage": 1}, "bf16": {"enabled": true}, "fp16": {"enabled": true}}', "deepspeed", "fp16.enabled"),
        ('{"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2}', "deepspeed", "train_batch_size"),
        ("checkpoint_dir: a/b\nquantize: bnb.nf4\nout_dir: x\n", "litgpt", "quantize"),
        ("[model]\nname = 'llama3'\nflavor = '8B'\n[activation_checkpoint]\nmode = 'some'\n", "torchtitan", "activation_checkpoint.mode"),
        ("optimizer:\n  _component_: my.Own\n", "torchtune", "optimizer._component_"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(text: str, format: str, field: str) -> None:
    assert refusal(text, format=format).field == field


def test_stages_that_differ_are_refused() -> None:
    text = "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 3\n  deepspeed_config_file: ds.json\nnum_processes: 8\n"
    with pytest.raises(RequestError, match="zero_stage"):
        read_text(text, open=lambda name: '{"zero_optimization": {"stage": 2}}')


def test_unknown_keys_are_told_with_the_nearest_name() -> None:
    reading = read_text(LORA + "flash_atention: true\nblorp: 1\n", format="axolotl")
    told = {entry["key"]: entry["reason"] for entry in reading.ignored}
    assert "'flash_attention'" in told["flash_atention"]
    assert "blorp" in told
    assert len(reading.notes) == 2


def test_sharding_without_a_number_of_devices_is_told() -> None:
    reading = read_text("output_dir: x\nfsdp: full_shard\nper_device_train_batch_size: 1\n")
    assert reading.assumed["num_devices"]["value"] == 1
    assert any("--num-devices" in note for note in reading.notes)


def test_beta_alone_is_an_assumption() -> None:
    reading = read_text("output_dir: x\nper_device_train_batch_size: 1\nbeta: 0.1\n", format="trl")
    assert reading.assumed["settings.objective"]["value"] == "dpo"
    assert reading.request["settings"]["objective"] == "dpo"


def test_alias_bombs_are_refused() -> None:
    levels = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    levels += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "aliases" in refusal("\n".join(levels), name="bomb.yaml").message
    merged = ["b0: &b0 {k: v, l: w}"]
    merged += [f"b{n}: &b{n} {{<<: [{','.join([f'*b{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    refusal("\n".join(merged), name="bomb.yaml")
    refusal("a: &a\n  b: *a\n", name="loop.yaml")


def test_variables_cannot_grow_without_bound() -> None:
    text = (
        "A=" + "x" * 5000 + "\nB=" + "$A" * 500 + "\nC=" + "$B" * 500 + "\nvllm serve qwen3-8b --api-key " + "$C" * 500
    )
    assert read_text(text).request["model"] == "qwen3-8b"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a: " + "[" * 5000, "deep.yaml"),
        ('{"a":' * 5000, "deep.json"),
        ("a: " + "{b: " * 60 + "1" + "}" * 60, "deep.yaml"),
        ('{"a":' * 60 + "1" + "}" * 60, "deep.json"),
        ("x" * 2**19, "large.yaml"),
        ("a = [", "broken.toml"),
        ("!!python/object/apply:os.system ['true']", "code.yaml"),
        ("base_model: !!python/name:os.system ''", "code.yaml"),
        ("just words", "notes.txt"),
        ("", "empty.yaml"),
        ("hello: world", "other.yaml"),
    ],
)
def test_what_is_no_configuration_is_refused(text: str, name: str) -> None:
    refusal(text, name=name)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(VrameterError) as caught:
        read_text("a: 1", format="axolotle")
    assert "axolotl" in (caught.value.hint or "")


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["auto", "true", "1e400", "full"])
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def known_keys(format: str) -> list[str]:
    from importlib import import_module

    return sorted(import_module(f"vrameter.reading.formats.{FORMATS[format][0]}").TABLE)


@given(data=st.data(), format=st.sampled_from(sorted(FORMATS)))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_values_are_read_or_refused(data: st.DataObject, format: str) -> None:
    """Whatever stands behind the keys of a format: a reading or an error of ours."""
    keys = data.draw(st.lists(st.sampled_from(known_keys(format)), max_size=8, unique=True))
    tree: dict[str, object] = {}
    for key in keys:
        place = tree
        *parents, last = key.split(".")
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                break
            place = inner
        else:
            place[last] = data.draw(VALUES)
    with contextlib.suppress(VrameterError):
        reading = read_text(json.dumps(tree), name="x.json", format=format)
        assert reading.format == format
        assert json.dumps(reading.to_dict())
        assert not {entry["key"] for entry in reading.ignored} & set(reading.understood)


@given(data=st.data(), engine=st.sampled_from(sorted(TABLES)))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_flags_are_read_or_refused(data: st.DataObject, engine: str) -> None:
    """Whatever stands behind the flags of a server: a reading or an error of ours."""
    keys = data.draw(st.lists(st.sampled_from(sorted(TABLES[engine])), max_size=8, unique=True))
    flags = {
        key: data.draw(st.just(True) | st.text(max_size=8) | st.lists(st.text(max_size=4), min_size=2, max_size=3))
        for key in keys
    }
    draft = Draft(engine)
    with contextlib.suppress(VrameterError):
        serving.read(draft, flags, engine)
        reading = draft.done()
        assert reading.request["engine"] == engine
        assert {entry["key"] for entry in reading.ignored} | set(reading.understood) == set(keys)


@given(
    st.text(alphabet=st.sampled_from("abm-_=:,.{}[]\"'$\\#&*<>|!%@ \n0123456789"), max_size=80),
    st.sampled_from(["a.yaml", "a.json", "a.toml", "a.sh"]),
)
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_or_refused(text: str, name: str) -> None:
    with contextlib.suppress(VrameterError):
        assert read_text(text, name=name).format


def test_what_cannot_be_answered_is_told_under_the_files_own_key() -> None:
    source = "model_name_or_path: llama-3.1-8b\nstage: sft\nfinetuning_type: lora\nlora_rank: 4\nlora_target: qproj\nbf16: true\n"
    with pytest.raises(VrameterError) as caught:
        read(source, format="llama-factory")
    assert caught.value.field == "lora_target"
    assert caught.value.message.startswith("lora_target: the model has no linear layer qproj")
    with pytest.raises(VrameterError) as caught:
        read(source, format="llama-factory", settings={"adapter": {"targets": ["zproj"]}})
    assert caught.value.field == "settings.adapter.targets"
    answer = read(source, format="llama-factory", settings={"adapter": {"targets": ["q_proj"]}})
    assert answer["request"]["settings"]["adapter"] == {"rank": 4, "targets": ["q_proj"]}


def test_a_reading_for_a_person_says_what_fits_at_most() -> None:
    source = "model_name_or_path: llama-3.2-1b\nstage: sft\nfinetuning_type: lora\nbf16: true\n"
    plain = read(source, format="llama-factory", device="rtx-4090")
    advised = read(source, format="llama-factory", device="rtx-4090", advise=True)
    assert "limits" not in plain["response"]
    assert advised["response"]["limits"]["micro_batch"] >= 1
    assert advised["request"] == plain["request"]
