"""Serving commands: an engine's own flags -> its settings.

Flags that an engine's struct knows go to it under their own names; the tables hold what bears another name here, what makes a
degree of parallelism, and what a server takes besides.

References
----------
.. [1] vLLM, ``vllm serve --help``; SGLang, ``server_args.py``; llama.cpp, ``common/arg.cpp``; TensorRT-LLM, ``trtllm-serve``;
       Text Generation Inference, "Launcher"; Ollama, ``docs/modelfile.mdx``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Rule, Table, ignored, reason_text, to
from vrameter.reading.values import Unfit, choice, dtype, name, positive, real, switch, whole
from vrameter.settings import struct_of

_SIZES = {"k": 10**3, "m": 10**6, "g": 10**9}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30}
_QUANTIZATION = choice(
    awq="awq", awq_marlin="awq", gptq="gptq", gptq_marlin="gptq", fp8="fp8", bitsandbytes="bnb-nf4", mxfp4="mxfp4", modelopt="fp8",
    modelopt_fp4="nvfp4", compressed_tensors=None, w8a8_fp8="fp8", w8a8_int8="w8a8", none=None, gguf=None, bitsandbytes_nf4="bnb-nf4",
    eetq="eetq", marlin="gptq", int8="int8",
)  # fmt: skip


def tokens(value: Any) -> int:
    """Return tokens; ``32k`` is 32,000 and ``32K`` is 32,768, as vLLM reads them.

    >>> tokens("32k"), tokens("32K")
    (32000, 32768)
    """
    text = str(value).strip()
    if text[:-1].replace(".", "", 1).isdigit() and text[-1:].lower() in _SIZES:
        table = _BINARY if text[-1].isupper() else _SIZES
        return int(float(text[:-1]) * table[text[-1].lower()])
    return whole(value)


_NETWORK = (
    "host port api_key served_model_name uvicorn_log_level log_level allowed_origins allow_credentials chat_template "
    "chat_template_content_format tool_call_parser enable_auto_tool_choice reasoning_parser enable_reasoning disable_log_requests "
    "disable_log_stats trust_remote_code download_dir tokenizer tokenizer_mode revision seed ssl_keyfile ssl_certfile root_path "
    "response_role generation_config override_generation_config max_log_len guided_decoding_backend enable_log_requests watchdog_timeout "
    "schedule_policy random_seed metrics enable_metrics tokenizer_path hostname json_output otlp_endpoint max_client_batch_size "
    "shard_uds_path master_addr master_port dist_init_addr node_rank nccl_port skip_server_warmup enable_request_id_headers "
    "middleware lora_modules load_format config_format hf_token hf_config_path allowed_local_media_path log_requests show_time_cost "
    "tool_server model_loader_extra_config disable_custom_all_reduce code_revision backend async_engine warmups structured_outputs_config "
    "allowed_methods allowed_headers disable_frontend_multiprocessing disable_access_log api_server_count enable_log_outputs"
)
_SERVERS: Table = {
    **ignored("serving", _NETWORK),
    **ignored("unmodelled", "rope_scaling rope_theta hf_overrides attention_backend prefill_attention_backend decode_attention_backend "
              "moe_runner_backend sampling_backend enable_torch_compile torch_compile_max_bs compilation_config kv_transfer_config "
              "swap_space distributed_executor_backend scheduling_policy preemption_mode json_model_override_args enable_mixed_chunk "
              "num_continuous_decode_steps lora_paths speculative_algorithm speculative_draft_model_path "
              "speculative_num_steps speculative_eagle_topk speculative_num_draft_tokens speculative_token_map disaggregation_mode moe_a2a_backend "
              "enable_dp_lm_head enable_eplb enable_hierarchical_cache hicache_ratio enable_memory_saver max_parallel_loading_workers O "
              "optimization_level mm_processor_kwargs mm_processor_cache_gb runner convert task max_seq_len_to_capture"),
}  # fmt: skip
_VLLM: Table = {
    **_SERVERS,
    "model": to("model", name), "dtype": to("dtype", dtype), "quantization": to("quantization", _QUANTIZATION), "q": to("quantization", _QUANTIZATION),
    "tensor_parallel_size": to("parallelism.tensor", positive), "tp": to("parallelism.tensor", positive),
    "pipeline_parallel_size": to("parallelism.pipeline", positive), "pp": to("parallelism.pipeline", positive),
    "data_parallel_size": to("parallelism.data", positive), "dp": to("parallelism.data", positive),
    "ep": to("settings.enable_expert_parallel", switch), "max_model_len": to("settings.max_model_len", tokens),
    "max_num_batched_tokens": to("settings.max_num_batched_tokens", tokens), "max_num_seqs": to("settings.max_num_seqs", tokens),
}  # fmt: skip
_SGLANG: Table = {
    **_SERVERS,
    "model_path": to("model", name), "model": to("model", name), "dtype": to("dtype", dtype), "quantization": to("quantization", _QUANTIZATION),
    "tp": to("parallelism.tensor", positive), "tp_size": to("parallelism.tensor", positive),
    "tensor_parallel_size": to("parallelism.tensor", positive), "dp": to("parallelism.data", positive),
    "dp_size": to("parallelism.data", positive), "data_parallel_size": to("parallelism.data", positive),
    "pp_size": to("parallelism.pipeline", positive), "pipeline_parallel_size": to("parallelism.pipeline", positive),
    "ep_size": to("parallelism.expert", positive), "ep": to("parallelism.expert", positive),
    "expert_parallel_size": to("parallelism.expert", positive),
    **ignored("launch", "nnodes dist_timeout base_gpu_id gpu_id_step"),
}  # fmt: skip
_TENSORRT: Table = {
    **_SERVERS,
    "model": to("model", name), "tp_size": to("parallelism.tensor", positive), "pp_size": to("parallelism.pipeline", positive),
    "ep_size": to("parallelism.expert", positive), "kv_cache_free_gpu_memory_fraction": to("settings.free_gpu_memory_fraction", real),
    **ignored("unmodelled", "extra_llm_api_options config gpus_per_node cluster_size"),
}  # fmt: skip
_TGI: Table = {
    **_SERVERS,
    "model_id": to("model", name), "dtype": to("dtype", dtype), "num_shard": to("parallelism.tensor", positive),
    "quantize": to("quantization", _QUANTIZATION), "max_input_length": to("settings.max_input_tokens", positive),
    **ignored("serving", "sharded max_best_of max_stop_sequences waiting_served_ratio max_waiting_tokens validation_workers huggingface_hub_cache "
              "weights_cache_override"),
    **ignored("unmodelled", "speculate cuda_graphs max_batch_size lora_adapters disable_custom_kernels rope_factor"),
}  # fmt: skip
_ON_OFF = choice(on=True, off=False, true=True, false=False, auto=None, **{"1": True, "0": False})
_LLAMA: Table = {
    "m": to("model", name), "model": to("model", name), "hf": Rule(), "hf_repo": Rule(), "hfr": Rule(),
    "c": to("settings.n_ctx", whole), "ctx_size": to("settings.n_ctx", whole), "b": to("settings.n_batch", whole),
    "batch_size": to("settings.n_batch", whole), "ub": to("settings.n_ubatch", whole), "ubatch_size": to("settings.n_ubatch", whole),
    "np": to("settings.n_parallel", whole), "parallel": to("settings.n_parallel", whole), "kvu": to("settings.kv_unified", switch),
    "kv_unified": to("settings.kv_unified", switch), "fa": to("settings.flash_attn", _ON_OFF), "flash_attn": to("settings.flash_attn", _ON_OFF),
    "ctk": to("settings.cache_type_k", name), "cache_type_k": to("settings.cache_type_k", name), "ctv": to("settings.cache_type_v", name),
    "cache_type_v": to("settings.cache_type_v", name), "ngl": Rule(), "gpu_layers": Rule(),
    "n_gpu_layers": Rule(), "sm": to("settings.split_mode", name), "split_mode": to("settings.split_mode", name),
    "mg": to("settings.main_gpu", whole), "main_gpu": to("settings.main_gpu", whole), "ts": Rule(), "tensor_split": Rule(),
    "ncmoe": to("settings.n_cpu_moe", whole), "n_cpu_moe": to("settings.n_cpu_moe", whole), "cmoe": to("settings.cpu_moe", switch),
    "cpu_moe": to("settings.cpu_moe", switch), "ot": Rule(), "override_tensor": Rule(),
    "no_mmap": to("settings.no_mmap", switch), "swa_full": to("settings.swa_full", switch), "nkvo": to("settings.no_kv_offload", switch),
    "no_kv_offload": to("settings.no_kv_offload", switch), "mm": to("settings.mmproj", lambda value: True),
    "mmproj": to("settings.mmproj", lambda value: True), "md": to("settings.model_draft", name), "model_draft": to("settings.model_draft", name),
    "draft_max": to("settings.draft_max", whole), "draft": to("settings.draft_max", whole), "ngld": to("settings.n_gpu_layers_draft", whole),
    "gpu_layers_draft": to("settings.n_gpu_layers_draft", whole), "embeddings": to("settings.embeddings", switch),
    "embedding": to("settings.embeddings", switch), "no_op_offload": to("settings.op_offload", lambda value: not switch(value)),
    **ignored("serving", "t threads tb threads_batch host port api_key alias a jinja chat_template chat_template_file metrics slots log_file v verbose cb cont_batching "
              "no_webui path log_disable log_verbosity timeout to reasoning_format reasoning_budget hf_token hft mlock no_warmup no_context_shift "
              "context_shift numa prio cache_reuse props endpoint_props threads_http"),
    **ignored("sampling", "n predict n_predict temp temperature top_k top_p min_p repeat_penalty repeat_last_n seed s presence_penalty frequency_penalty "
              "p prompt f file cnv conversation no_cnv i interactive sys sys_prompt ignore_eos color e draft_min draft_p_min samplers grammar"),
    **ignored("unmodelled", "rope_scaling rope_scale rope_freq_base rope_freq_scale yarn_orig_ctx lora lora_scaled cram cache_ram device dev rpc fit fitt fit_ctx "
              "hff hf_file no_repack control_vector pooling defrag_thold dt"),
}  # fmt: skip
_OLLAMA: Table = {
    "from": Rule(),
    "num_ctx": to("settings.num_ctx", whole), "num_batch": to("settings.num_batch", whole), "num_gpu": to("settings.num_gpu", whole),
    "main_gpu": to("settings.main_gpu", whole), "use_mmap": to("settings.use_mmap", switch),
    "ollama_context_length": to("settings.OLLAMA_CONTEXT_LENGTH", whole), "ollama_num_parallel": to("settings.OLLAMA_NUM_PARALLEL", whole),
    "ollama_flash_attention": to("settings.OLLAMA_FLASH_ATTENTION", switch), "ollama_kv_cache_type": to("settings.OLLAMA_KV_CACHE_TYPE", name),
    "ollama_gpu_overhead": to("settings.OLLAMA_GPU_OVERHEAD", whole), "ollama_sched_spread": to("settings.OLLAMA_SCHED_SPREAD", switch),
    **ignored("sampling", "temperature top_k top_p min_p repeat_penalty repeat_last_n seed stop num_predict mirostat mirostat_eta mirostat_tau tfs_z "
              "num_keep template system message license presence_penalty frequency_penalty"),
    **ignored("serving", "num_thread ollama_host ollama_models ollama_keep_alive ollama_debug ollama_origins ollama_max_queue numa requires"),
    **ignored("unmodelled", "adapter ollama_max_loaded_models low_vram draft"),
}  # fmt: skip
TABLES: dict[str, Table] = {
    "vllm": _VLLM, "sglang": _SGLANG, "tensorrt-llm": _TENSORRT, "tgi": _TGI, "llama.cpp": _LLAMA, "ollama": _OLLAMA,
}  # fmt: skip


def read(draft: Draft, flags: Mapping[str, Any], engine: str) -> None:
    """Read a server's flags into a draft."""
    draft.request["engine"] = engine
    if engine not in ("llama.cpp", "ollama") and draft.request.pop("num_devices", None):
        # These servers take as many devices as their degrees of parallelism ask for, however many they see.
        draft.understood.pop("CUDA_VISIBLE_DEVICES", None)
        draft.ignore("CUDA_VISIBLE_DEVICES", None, reason_text("unused"))
    draft.take(flags, _with_struct(engine))
    if engine == "llama.cpp":
        with draft.refusing():
            _llama(draft)
    if engine == "ollama" and draft.has("from"):
        source = str(draft.get("from"))
        local = source.startswith((".", "/", "~")) or source.endswith(".gguf")
        draft.settle("from", "model", source if local else f"ollama:{source}")
    if struct_of(engine) is None:
        draft.note(
            tr("%(engine)s is not modelled in this version: the request stands, the answer does not.", engine=engine)
        )


def is_switch(engine: str, flag: str, value: str) -> bool:
    """Say whether a flag is a switch of an engine, so that a word behind it is not its value."""
    struct = struct_of(engine)
    hints = get_type_hints(struct) if struct is not None else {}
    if flag not in hints or _kinds(hints[flag]) != {bool}:
        return False
    try:
        switch(value)
    except Unfit:
        return True
    return False


def _with_struct(engine: str) -> Table:
    """Return an engine's table with the fields of its settings that the table does not name."""
    table = dict(TABLES[engine])
    struct = struct_of(engine)
    hints = get_type_hints(struct, include_extras=False) if struct is not None else {}
    for setting, hint in hints.items():
        known = table.get(setting)
        if known is None or known.reason:
            table[setting] = Rule(f"settings.{setting}", _converter(hint))
            if _kinds(hint) == {bool}:
                table.setdefault(f"no_{setting}", Rule(f"settings.{setting}", lambda value: not switch(value)))
    return table


def _kinds(hint: Any) -> set[Any]:
    return {kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)}


def _converter(hint: Any) -> Any:
    """Return the converter of a setting's type."""
    kinds = _kinds(hint)
    if kinds == {bool}:
        return switch
    if kinds == {int}:
        return whole
    if kinds <= {int, float}:
        return real
    if kinds == {str} or all(isinstance(kind, str) for kind in kinds):
        return name
    return _json


def _json(value: Any) -> Any:
    """Return a list or an object that a flag writes as JSON, or as ``image=4,video=0``."""
    import msgspec

    if not isinstance(value, str):
        return [whole(each) for each in value] if isinstance(value, list) else value
    if value[:1] in "[{":
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            raise Unfit(tr("JSON")) from None
    if "=" in value:
        return {key: whole(number) for key, _, number in (each.partition("=") for each in value.split(","))}
    return [whole(each) for each in value.split()]


def _llama(draft: Draft) -> None:
    for key in ("hf", "hf_repo", "hfr"):
        if draft.has(key):
            repository, _, packing = str(draft.get(key)).partition(":")
            draft.settle(key, "model", repository)
            if packing:
                draft.put("quantization", packing.lower())
    for key in ("ngl", "gpu_layers", "n_gpu_layers"):
        if draft.has(key):
            value = draft.get(key)
            count = -1 if str(value).lower() in ("all", "auto") else min(draft.number(key) or 0, 2**16)
            draft.settle(key, "settings.n_gpu_layers", count)
    for key in ("ts", "tensor_split"):
        if draft.has(key):
            draft.settle(
                key, "settings.tensor_split", [real(each) for each in str(draft.get(key)).replace("/", ",").split(",")]
            )
    for key in ("ot", "override_tensor"):
        if draft.has(key):
            value = draft.get(key)
            parts = [part for each in (value if isinstance(value, list) else [value]) for part in str(each).split(",")]
            draft.settle(key, "settings.override_tensor", parts)
