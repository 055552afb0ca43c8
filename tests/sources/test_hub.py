"""The Hub as a local server speaks it: what is asked, what is kept, what goes wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from tests.checkpoints import LLAMA, LLAMA_PARAMS, document, llama, num_bytes, safetensors, sharded, write
from tests.hub_server import COMMIT, Hub, Repository, running

from vrameter.errors import RequestError, SourceError, UnknownNameError, VrameterError
from vrameter.sources import Model, http, hub_cache, hub_model, progress, resolve
from vrameter.sources.hub import parse_reference

NAME = "org/small"
FILES = {**sharded(llama(), 3), "config.json": document(LLAMA), "generation_config.json": b"{}", "README.md": b"#"}


@pytest.fixture
def hub(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(http, "sleep", lambda seconds: None)
    with running({NAME: Repository(FILES)}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def bytes_of(model: Model) -> int:
    assert model.table is not None
    return model.table.num_bytes


def again(name: str = NAME, **options: bool) -> Model:
    """Ask as a new process would."""
    hub_model.forget()
    return resolve(name, **options)


def test_headers_are_read_and_nothing_else(hub: Hub) -> None:
    model = resolve(NAME)
    assert bytes_of(model) == num_bytes(llama())
    assert (model.source, model.revision, model.num_params) == ("hub", COMMIT, LLAMA_PARAMS)
    assert model.notes == ()
    assert max(Counter(each.path for each in hub.weights()).values()) == 1
    assert all(each.span.startswith("bytes=0-") for each in hub.weights())
    assert not any(each.path.endswith("README.md") for each in hub.asked)


def test_a_long_header_takes_two_requests(hub: Hub) -> None:
    tensors = {f"model.layers.{number}.{'x' * 80}.weight": ("BF16", (2, 2)) for number in range(2000)}
    hub.repositories[NAME] = Repository({"model.safetensors": safetensors(tensors)})
    assert bytes_of(resolve(NAME)) == num_bytes(tensors)
    spans = [each.span for each in hub.weights()]
    assert len(spans) == 2
    assert spans[1].startswith("bytes=98304-")
    assert sum(each.sent for each in hub.weights()) == len(safetensors(tensors).head)


def test_a_second_question_needs_no_network(hub: Hub) -> None:
    first = resolve(NAME)
    hub.asked.clear()
    second = again()
    assert hub.asked == []
    assert second.table == first.table


def test_a_branch_is_asked_again_once_its_answer_is_old(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(NAME)
    hub.asked.clear()
    monkeypatch.setattr(hub_cache.time, "time", lambda: time.monotonic() + 10**10)
    again()
    assert len(hub.asked) == 1  # the list of files; documents and headers are those of the same commit
    again(f"{NAME}@{COMMIT}")
    assert len(hub.asked) == 1  # a commit stays what it is


def test_online_asks_where_the_catalogue_knows_the_model(hub: Hub) -> None:
    hub.repositories["gpt2"] = hub.repositories["openai-community/gpt2"] = Repository(FILES)
    assert resolve("openai-community/gpt2").source == "catalogue"
    assert hub.asked == []
    assert resolve("openai-community/gpt2", online=True).source == "hub"
    hub.asked.clear()
    again("openai-community/gpt2", online=True)
    assert [each.path for each in hub.asked] == ["/api/models/openai-community/gpt2/revision/main"]


def test_what_is_kept_answers_while_the_hub_does_not(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(NAME)
    hub.busy = (10**6, 503)
    model = again(online=True)
    assert bytes_of(model) == num_bytes(llama())
    assert "does not answer" in model.notes[0] or "earlier" in model.notes[0]


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE") as caught:
        resolve(NAME)
    assert caught.value.exit_code == 3
    assert hub.asked == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    again()
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert bytes_of(again()) == num_bytes(llama())
    assert hub.asked == []


def test_offline_reads_what_was_downloaded(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fresh / "hub" / "models--org--small"
    write(folder / "snapshots" / COMMIT, FILES)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = resolve(NAME)
    assert bytes_of(model) == num_bytes(llama())
    assert "downloaded" in model.notes[0]


def test_a_damaged_cache_is_asked_again(hub: Hub, fresh: Path) -> None:
    resolve(NAME)
    for file in fresh.rglob("*.msgpack"):
        file.write_bytes(b"\xc1 damaged")
    assert bytes_of(again()) == num_bytes(llama())


def test_a_cache_that_cannot_be_written_is_done_without(hub: Hub, fresh: Path) -> None:
    fresh.parent.mkdir(exist_ok=True)
    fresh.write_text("a file where a folder should be")
    assert bytes_of(resolve(NAME)) == num_bytes(llama())
    assert bytes_of(again()) == num_bytes(llama())


def test_lists_without_sizes_come_from_the_tree_page_by_page(hub: Hub) -> None:
    hub.sizes = False
    hub.page = 2
    assert bytes_of(resolve(NAME)) == num_bytes(llama())
    assert sum("/tree/" in each.path for each in hub.asked) == 4


# -- redirects and tokens -------------------------------------------------------------------------------


def test_the_token_does_not_follow_to_another_host(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.redirects = True
    assert bytes_of(resolve(NAME)) == num_bytes(llama())
    for each in hub.asked:
        assert each.token == ("hf_secret" if each.host in hub.endpoint else "")
    assert any(each.host in hub.elsewhere for each in hub.asked)


def test_the_rest_of_a_long_header_is_asked_where_its_start_came_from(hub: Hub) -> None:
    hub.redirects = True
    tensors = {f"model.layers.{number}.{'x' * 80}.weight": ("BF16", (2, 2)) for number in range(2000)}
    hub.repositories[NAME] = Repository({"model.safetensors": safetensors(tensors)})
    resolve(NAME)
    assert [each.host in hub.elsewhere for each in hub.weights()] == [False, True, True]


def test_a_renamed_repository_is_followed_and_said(hub: Hub) -> None:
    hub.repositories["org/old"] = Repository({}, moved=NAME)
    model = resolve("org/old")
    assert bytes_of(model) == num_bytes(llama())
    assert "'org/old' is now called 'org/small'" in model.notes[0]


def test_redirects_without_end(hub: Hub) -> None:
    hub.fault = "loop"
    with pytest.raises(SourceError, match="redirects"):
        resolve(NAME)


# -- refusals -----------------------------------------------------------------------------------------


def test_a_gated_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[NAME] = Repository(FILES, gated=True)
    with pytest.raises(SourceError, match="gated") as caught:
        resolve(NAME)
    assert f"{hub.endpoint}/{NAME}" in str(caught.value.hint)
    assert "HF_TOKEN" in str(caught.value.hint)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(SourceError, match="gated") as caught:
        again()
    assert "account" in str(caught.value.hint)


def test_a_private_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[NAME] = Repository(FILES, token="hf_right")
    with pytest.raises(SourceError, match="private") as caught:
        resolve(NAME)
    assert caught.value.exit_code == 3
    assert "HF_TOKEN" in str(caught.value.hint)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SourceError, match="token"):
        again()
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert bytes_of(again()) == num_bytes(llama())


def test_a_repository_that_is_not_there(hub: Hub) -> None:
    with pytest.raises(UnknownNameError, match=r"no 'meta-llama/Llama-3\.1-8BB' on the Hub") as caught:
        resolve("meta-llama/Llama-3.1-8BB")
    assert caught.value.exit_code == 2
    assert "meta-llama/Llama-3.1-8B" in str(caught.value.hint)


def test_a_revision_that_is_not_there(hub: Hub) -> None:
    with pytest.raises(RequestError, match="no revision 'v9'"):
        resolve(f"{NAME}@v9")


def test_a_busy_hub_is_asked_again(hub: Hub) -> None:
    for status in (429, 500, 503):
        hub.busy = (2, status)
        assert bytes_of(again(online=True)) == num_bytes(llama())


@pytest.mark.parametrize(("status", "said"), [(429, "too often"), (500, "answers 500"), (503, "answers 503")])
def test_a_hub_that_stays_busy(hub: Hub, status: int, said: str) -> None:
    hub.busy = (10**6, status)
    with pytest.raises(SourceError, match=said) as caught:
        resolve(NAME)
    assert len(hub.asked) == http.ATTEMPTS
    assert caught.value.hint


def test_nobody_there(fresh: Path) -> None:
    with pytest.raises(SourceError, match="the Hub cannot be asked") as caught:
        resolve("meta-llama/Llama-3.1-8BB")
    assert caught.value.exit_code == 3
    assert "meta-llama/Llama-3.1-8B" in str(caught.value.hint)


def test_a_list_of_requests_does_not_wait_for_each(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError):
        resolve("nobody/first")
    monkeypatch.setattr(hub_model, "HubPlace", lambda *_, **__: pytest.fail("asked again"))
    with pytest.raises(SourceError):
        resolve("nobody/second")


# -- a server that does not keep to the protocol ----------------------------------------------------------


def test_a_server_that_sends_all_of_it_is_left_early(hub: Hub) -> None:
    hub.whole = True
    tensors = {"a": ("F32", (2**24,))}
    hub.repositories[NAME] = Repository({"model.safetensors": safetensors(tensors)})
    assert bytes_of(resolve(NAME)) == num_bytes(tensors)
    time.sleep(0.05)
    assert sum(each.sent for each in hub.weights()) < 2**25


@pytest.mark.parametrize("fault", ["short", "cut", "elsewhere"])
def test_a_faulty_part_is_an_error(hub: Hub, fault: str) -> None:
    hub.fault = fault
    with pytest.raises(SourceError, match="does not answer as it should") as caught:
        resolve(NAME)
    assert caught.value.hint


def test_a_body_without_end_is_read_no_further_than_needed(hub: Hub) -> None:
    hub.fault = "endless"
    assert bytes_of(resolve(NAME)) == num_bytes(llama())


def test_a_body_that_drips_ends_in_time(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SECONDS", 0.2)
    monkeypatch.setattr(http, "SECONDS_PER_MB", 0.0)
    hub.fault = "drip"
    with pytest.raises(SourceError, match="does not end"):
        resolve(NAME)


@pytest.mark.parametrize("answer", [b"[]", b"<html>", b'{"siblings": 3}', b"\xff", b"[" * 100_000])
def test_a_list_that_is_none(hub: Hub, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.Host, "get", lambda self, path, **_: http.Reply(200, {}, answer, path))
    with pytest.raises(SourceError, match="cannot be read"):
        resolve(NAME)


def test_a_file_of_another_size_than_listed(hub: Hub) -> None:
    files = dict(FILES)
    whole = safetensors(llama())
    files["model.safetensors"] = type(whole)(whole.head, whole.size + 1)
    hub.repositories[NAME] = Repository(files)
    with pytest.raises(SourceError, match="overlong"):
        resolve(NAME)


def test_progress_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        shown = StringIO()
        monkeypatch.setattr(shown, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(progress.sys, "stderr", shown)
        monkeypatch.setattr(progress, "PATIENCE_SECONDS", -1)
        with progress.Progress("reading", 2) as line:
            line.advance()
            line.advance()
        assert ("reading 2/2" in shown.getvalue()) is terminal
        assert shown.getvalue().endswith("\033[K" if terminal else "")


# -- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", ("org/name", None)),
        ("org/name@main", ("org/name", "main")),
        ("org/name@refs/pr/7", ("org/name", "refs/pr/7")),
        ("https://huggingface.co/org/name", ("org/name", None)),
        ("hf.co/org/name/", ("org/name", None)),
        ("org/na me", None),
        ("org/../name", None),
        ("a/b/c", None),
        ("org/name@", None),
        ("", None),
        ("org/" + "n" * 200, None),
    ],
)
def test_references(text: str, expected: tuple[str, str | None] | None) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize("text", ["org/name@ ", "@main", "a/b/c@main", "org/na me@x", "x" * 300 + "/y@z"])
def test_names_that_are_none(fresh: Path, text: str) -> None:
    with pytest.raises(VrameterError) as caught:
        resolve(text)
    assert caught.value.exit_code in (2, 3)
