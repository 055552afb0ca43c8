"""What others may rely on."""

from __future__ import annotations

from importlib.resources import files

import vrameter


def test_public_names() -> None:
    assert dir(vrameter) == [
        "Architecture",
        "DeviceSpec",
        "Parallelism",
        "Request",
        "Response",
        "VrameterError",
        "__version__",
        "batch",
        "estimate",
        "inspect",
        "read",
        "read_config",
        "rule_of_thumb",
    ]
    for name in dir(vrameter):
        assert getattr(vrameter, name) is not None


def test_functions_stay_functions() -> None:
    """Importing a module of the same name must not hide a public function."""
    import vrameter.jsonlines
    import vrameter.response

    assert callable(vrameter.estimate)
    assert callable(vrameter.batch)
    assert vrameter.response.estimate is vrameter.estimate


def test_typed() -> None:
    assert files("vrameter").joinpath("py.typed").is_file()


def test_typed_request() -> None:
    request = vrameter.Request(model="llama-3.1-8b", device="rtx-4090", settings={"context_length": 4096})
    typed = vrameter.estimate(request)
    plain = vrameter.estimate({"model": "llama-3.1-8b", "device": "rtx-4090", "settings": {"context_length": 4096}})
    assert typed == plain


def test_a_resolved_request_can_be_asked_again() -> None:
    first = vrameter.estimate({"model": "llama-3.1-8b", "device": "2xl40s", "quantization": "awq"})
    again = vrameter.estimate(first["request"])
    assert again["devices"] == first["devices"]


def test_notebook_table() -> None:
    table = vrameter.estimate({"model": "llama-3.1-8b", "device": "rtx-4090"})._repr_html_()
    assert table.count("<tr>") > 4
    assert "llama" in table.lower()
    assert "<script" not in table


def test_a_name_cannot_break_out_of_the_table() -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "intermediate_size": 128, "vocab_size": 100}  # fmt: skip
    answer = vrameter.estimate({"model": {"config": config, "name": "<script>alert(1)</script>"}})
    assert "<script" not in answer._repr_html_()
