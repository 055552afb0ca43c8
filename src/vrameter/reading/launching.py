"""Commands: servers, launchers with a training script, and the programs of training stacks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from vrameter.errors import SourceError
from vrameter.i18n import tr
from vrameter.reading import serving
from vrameter.reading.configurations import format_of, read_tree
from vrameter.reading.documents import parse
from vrameter.reading.draft import Draft, Opener
from vrameter.reading.formats import accelerate, deepspeed
from vrameter.reading.shell import Words, flags, is_flag
from vrameter.reading.values import Unfit, whole

Command = tuple[dict[str, str], Words]
_SERVERS = {
    "trtllm-serve": "tensorrt-llm", "text-generation-launcher": "tgi", "llama-server": "llama.cpp", "llama-cli": "llama.cpp",
    "llama-bench": "llama.cpp", "llama-completion": "llama.cpp", "llama-embedding": "llama.cpp",
}  # fmt: skip
_MODULES = {
    "vllm.entrypoints.openai.api_server": "vllm", "vllm.entrypoints.api_server": "vllm", "sglang.launch_server": "sglang",
    "sglang_router.launch_server": "sglang",
}  # fmt: skip
_IMAGES = (("vllm/vllm-openai", "vllm"), ("text-generation-inference", "tgi"), ("llama.cpp:server", "llama.cpp"))
_TRL = {
    "sft": "sft",
    "dpo": "dpo",
    "kto": "kto",
    "orpo": "orpo",
    "grpo": "grpo",
    "rloo": "rloo",
    "reward": "reward",
    "gkd": "gkd",
}
# Flags of launchers that take a value, so that the script after them is found.
_ALONE = {
    "standalone", "no_python", "m", "module", "multi_gpu", "use_deepspeed", "use_fsdp", "cpu", "quiet", "tpu", "debug", "no_local_rank",
    "bind_cores_to_rank", "same_network", "use_megatron_lm", "no_ssh", "dynamo_use_fullgraph", "dynamo_use_dynamic",
}  # fmt: skip


def program(words: Sequence[str]) -> str:
    """Return what a command runs: the name of the program, or of the module after ``python -m``."""
    first = PurePath(words[0]).name if words else ""
    if re.fullmatch(r"python[\d.]*", first) and len(words) > 2 and words[1] == "-m":
        return words[2]
    return first


def is_command(words: Sequence[str]) -> bool:
    """Say whether words start a program known here."""
    return _score(words) > 0


def _score(words: Sequence[str]) -> int:
    name = program(words)
    if (
        name in _SERVERS
        or name in _MODULES
        or name in ("vllm", "sglang", "llamafactory-cli", "swift", "megatron", "trl", "axolotl", "tune", "litgpt")
    ):
        return 3
    if name.startswith("$") or not name:
        return _score(words[1:]) if len(words) > 1 else 0
    if name in ("torchrun", "deepspeed", "accelerate", "torch.distributed.run", "torch.distributed.launch"):
        return 3
    if name in ("docker", "podman") and any(image in word for word in words for image, _ in _IMAGES):
        return 3
    if name in ("srun", "nohup", "exec", "time", "sudo", "uv", "ollama", "axolotl.cli.train"):
        return 2
    if name.startswith(("verl.", "openrlhf.")):
        return 3
    return 1 if name.startswith("python") or name.endswith((".py", ".sh")) or "pretrain" in name else 0


def best(found: list[Command]) -> Command | None:
    """Return the command of a script that most likely does the work: the last of the surest ones."""
    chosen, score = None, 0
    for command in found:
        if (mark := _score(command[1])) >= max(score, 1):
            chosen, score = command, mark
    return chosen


def read(draft: Draft, command: Command) -> bool:
    """Read a command into a draft; False where it starts nothing known."""
    variables, words = command
    while words and (not words[0] or words[0].startswith("$")):
        words = words[1:]  # a prefix that is not set
    while words and program(words) in ("srun", "nohup", "exec", "time", "sudo", "uv"):
        words = words[1:]
        while words and (is_flag(words[0]) or words[0] == "run"):
            words = words[1:]
    if not words:
        return False
    _visible_devices(draft, variables)
    name = program(words)
    rest = list(words[3:] if words[2:3] == [name] and words[1] == "-m" else words[1:])
    if name in ("docker", "podman"):
        return _container(draft, rest)
    if name in ("vllm", "sglang") and rest[:1] == ["serve"]:
        return _serve(draft, name, rest[1:])
    if name in _SERVERS or name in _MODULES:
        engine = _SERVERS.get(name) or _MODULES[name]
        return _serve(draft, engine, rest[1:] if engine == "tensorrt-llm" and rest[:1] == ["serve"] else rest)
    if name == "ollama" and rest[:1] == ["run"] and len(rest) > 1:
        own = {key.lower(): value for key, value in variables.items() if key.startswith("OLLAMA_")}
        draft.format = "ollama"
        serving.read(draft, {"from": rest[1], **own}, "ollama")
        return True
    if name in ("torchrun", "torch.distributed.run", "torch.distributed.launch"):
        return _launched(draft, variables, rest, _torchrun)
    if name == "deepspeed":
        return _launched(draft, variables, rest, _deepspeed)
    if name == "accelerate" and rest[:1] == ["launch"]:
        return _launched(draft, variables, rest[1:], _accelerate)
    return _program(draft, variables, name, rest, words)


def _program(draft: Draft, variables: Mapping[str, str], name: str, rest: Words, words: Words) -> bool:
    """Read the program of a training stack, or a training script."""
    if name == "swift" or name == "megatron":
        _processes(draft, variables.get("NPROC_PER_NODE"), variables.get("NNODES"), "NPROC_PER_NODE")
        kind = "ms-swift" if name == "swift" else "megatron-swift"
        return _script(draft, rest[1:], kind)
    if name == "llamafactory-cli" and rest[:1] == ["train"]:
        return _script(draft, rest[1:], "llama-factory")
    if name == "trl" and rest and rest[0] in _TRL:
        draft.put("settings.objective", _TRL[rest[0]], f"trl {rest[0]}")
        return _script(draft, rest[1:], "trl")
    if name == "axolotl" and rest:
        return _script(draft, list(rest[1:]), "axolotl")
    if name == "axolotl.cli.train":
        return _script(draft, rest, "axolotl")
    if name == "tune" and rest[:1] == ["run"]:
        given, _loose = flags(rest[1:])
        _processes(draft, given.pop("nproc_per_node", None), given.pop("nnodes", None), "--nproc_per_node")
        return _script(
            draft, [word for word in rest[1:] if "=" in word or word.endswith((".yaml", ".yml"))], "torchtune"
        )
    if name == "litgpt" and rest:
        draft.values["finetune_method"] = rest[0]
        return _script(draft, rest[1:], "litgpt")
    if name.startswith("verl."):
        return _script(draft, rest, "verl")
    if name.startswith("openrlhf."):
        draft.values["rlhf_kind"] = name.rpartition(".")[2]
        return _script(draft, rest, "openrlhf")
    if name.startswith("python") or name.endswith(".py"):
        script = [word for word in words if word.endswith(".py")][:1]
        return _script(draft, words[words.index(script[0]) + 1 :] if script else rest, None)
    return False


def _script(draft: Draft, words: Words, kind: str | None) -> bool:
    """Read a training script's arguments: flags, ``key=value``, and configuration files among them."""
    given, loose = flags(words)
    tree: dict[str, Any] = {}
    files = [word for word in loose if word.endswith((".yaml", ".yml", ".json", ".toml")) and "=" not in word]
    for key in ("config", "config_file", "job.config_file"):
        value = given.get(key)
        if isinstance(value, str) and value.endswith((".yaml", ".yml", ".json", ".toml")):
            files.append(value)
            del given[key]
    for file in files[:4]:
        if draft.open is not None:
            tree.update(_document(draft.open, file))
    for word in words:
        name, equals, value = word.lstrip("+").partition("=")
        if equals and not is_flag(word) and re.fullmatch(r"[\w.]+", name):
            _put_dotted(tree, name, value)
    own = format_of(tree) if tree else None
    kind = kind or own or format_of(given)
    if kind is None:
        return False
    for name, flag in given.items():
        _put_dotted(tree, name, flag) if kind in ("torchtitan", "litgpt", "torchtune", "openrlhf") else tree.update(
            {name: flag}
        )
    read_tree(draft, tree, kind)
    return True


def _document(open: Opener, file: str) -> dict[str, Any]:
    """Return a configuration that a command names, or say that it is not there."""
    try:
        text = open(file)
    except FileNotFoundError:
        raise SourceError(
            tr("FILE: '%(value)s' cannot be read (%(reason)s).", value=file[:80], reason=tr("there is no such file")), field="FILE",
            hint=tr("Run it beside the file, or give the configuration file itself."),
        ) from None  # fmt: skip
    return parse(text, name=PurePath(file).name) or {}


def _put_dotted(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")[:16]
    for parent in parents:
        inner = tree.get(parent)
        tree[parent] = tree = inner if isinstance(inner, dict) else {}
    tree[last] = value


def _serve(draft: Draft, engine: str, words: Words) -> bool:
    given, loose = flags(words)
    for key, value in given.items():
        # A model behind a switch: vllm serve --enforce-eager MODEL.
        if not loose and isinstance(value, str) and serving.is_switch(engine, key, value):
            given[key], loose = True, [value]
    if loose and not {"model", "model_path", "model_id", "m"} & set(given):
        given["m" if engine == "llama.cpp" else "model_id" if engine == "tgi" else "model"] = loose[0]
    draft.format = engine
    serving.read(draft, given, engine)
    return True


def _container(draft: Draft, words: Words) -> bool:
    """Read ``docker run ... IMAGE arguments``."""
    for index, word in enumerate(words):
        engine = next((engine for image, engine in _IMAGES if image in word), None)
        if engine is not None:
            return _serve(draft, engine, words[index + 1 :])
        if "sglang" in word and "launch_server" in words[index:]:
            return False
    for index, word in enumerate(words):
        if is_command(words[index:]) and word != "docker":
            return read(draft, ({}, words[index:]))
    return False


def _launched(draft: Draft, variables: Mapping[str, str], words: Words, reader: Any) -> bool:
    """Read a launcher's flags, then the script behind them."""
    index = 0
    while index < len(words) and is_flag(words[index]):
        name = words[index].lstrip("-").partition("=")[0].replace("-", "_")
        alone = "=" in words[index] or name in _ALONE
        index += 1 if alone else 2
    own, _ = flags(words[:index])
    script, rest = (words[index] if index < len(words) else ""), list(words[index + 1 :])
    reader(draft, own)
    if script in ("axolotl.cli.train", "-m") or own.get("m") == "axolotl.cli.train":
        return _script(draft, rest, "axolotl")
    if script.startswith("torchtitan."):
        return _script(draft, rest, "torchtitan")
    if script.startswith(("verl.", "openrlhf.")):
        return _program(draft, variables, script, rest, [script, *rest])
    if "litgpt" in script and rest:
        return _program(draft, variables, "litgpt", rest, rest)
    return _script(draft, rest, None)


def _count(value: Any) -> int | None:
    # A launcher's flag may be followed by the script's name.
    value = value[0] if isinstance(value, list) and value else value
    try:
        return max(0, whole(value))
    except Unfit:
        return None


def _processes(draft: Draft, each: Any, nodes: Any, key: str) -> None:
    """Set the number of devices from processes per machine and machines."""
    local, machines = _count(each), _count(nodes) if nodes is not None else 1
    if local:
        if machines is None:
            draft.note(tr("The number of machines is computed by the script: one is assumed."))
        draft.put("num_devices", local * (machines or 1), key)
        if machines is None:
            draft.assumed["num_devices"] = {"value": local, "why": tr("one machine")}


def _torchrun(draft: Draft, own: Mapping[str, Any]) -> None:
    _processes(draft, own.get("nproc_per_node", 1), own.get("nnodes"), "--nproc_per_node")
    _started(draft, own, ("nproc_per_node", "nnodes"))


def _deepspeed(draft: Draft, own: Mapping[str, Any]) -> None:
    listed = str(own.get("include", "")).partition(":")[2]
    _processes(
        draft, own.get("num_gpus") or (len(listed.split(",")) if listed else None), own.get("num_nodes"), "--num_gpus"
    )
    _started(draft, own, ("num_gpus", "num_nodes", "include"))


def _accelerate(draft: Draft, own: Mapping[str, Any]) -> None:
    file = own.get("config_file")
    if isinstance(file, str) and draft.open is not None:
        accelerate.read(draft, _document(draft.open, file), prefix=f"{PurePath(file).name}: ")
    if own.get("num_processes") is not None and (count := _count(own["num_processes"])):
        draft.put("num_devices", count, "--num_processes")
    if own.get("mixed_precision") in ("bf16", "fp16", "fp8"):
        half = str(own["mixed_precision"])
        draft.put("settings.precision", half if half == "fp8" else f"{half}-mixed", "--mixed_precision")
    stage = _count(own.get("zero_stage"))
    if stage is not None and own.get("use_deepspeed"):
        draft.put("parallelism.zero_stage", min(stage, 3), "--zero_stage")
    if isinstance(own.get("deepspeed_config_file"), str):
        deepspeed.read_named(draft, own["deepspeed_config_file"], "--deepspeed_config_file")
    if own.get("use_fsdp"):
        draft.put("parallelism.fsdp", "full_shard", "--use_fsdp")
    _started(
        draft,
        own,
        (
            "config_file",
            "num_processes",
            "mixed_precision",
            "zero_stage",
            "use_deepspeed",
            "deepspeed_config_file",
            "use_fsdp",
        ),
    )


def _started(draft: Draft, own: Mapping[str, Any], known: Sequence[str]) -> None:
    for name, value in own.items():
        if name not in known:
            draft.ignore(f"--{name}", value, tr("concerns how processes start"))


def _visible_devices(draft: Draft, variables: Mapping[str, str]) -> None:
    """Take the number of devices that a process may see, until a launcher says otherwise."""
    listed = variables.get("CUDA_VISIBLE_DEVICES", "")
    if re.fullmatch(r"\d+(,\d+)*", listed):
        draft.put("num_devices", len(listed.split(",")), "CUDA_VISIBLE_DEVICES")


__all__ = ["best", "is_command", "read"]
