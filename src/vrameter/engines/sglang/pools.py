"""SGLang's memory: the static share, and the pools that it is cut into.

References
----------
.. [1] SGLang 0.5.23, ``mem_cache/kv_cache_configurator.py`` (``_profile_available_bytes``, ``_handle_max_mamba_cache``),
       ``model_executor/pool_configurator.py``; ``arg_groups/memory_hook.py`` (defaults by device).
.. [2] SGLang 0.4.6, 0.5.6, 0.5.10, ``server_args.py``: earlier defaults.
"""

from __future__ import annotations

THOUSAND = 1000
# Captured numbers of tokens of a prompt: first, last and step of each stretch. [1]
PREFILL_SIZES = ((4, 32, 4), (48, 256, 16), (288, 512, 32), (576, 1024, 64), (1280, 4096, 256), (4608, 1 << 30, 512))


def pool_bytes(*, at_start: int, fraction_thousandths: int, weights: int) -> int:
    """Return what the pools share: what is left of the static share after the weights. [bytes].

    Formula::

        at_start * fraction_thousandths // 1000 - weights

    Parameters
    ----------
    at_start
        Free memory before the weights are loaded. [bytes]
    fraction_thousandths
        Share of it for weights and pools (``mem_fraction_static``). [thousandths]
    weights
        What loading the weights took from the device. [bytes]

    Examples
    --------
    A 24 GB card with 22.76 GiB at the start, 8.37 GiB after the weights of a 7B model, and 0.88:

    >>> round(pool_bytes(at_start=24438365880, fraction_thousandths=880, weights=15451144848) / 2**30, 2)
    5.64
    """
    return at_start * fraction_thousandths // 1000 - weights


def state_slots(*, rest: int, ratio_thousandths: int, slot_bytes: int) -> int:
    """Return the slots of recurrent states, the padding slot left out. [sequences].

    Formula::

        max(0, (rest * ratio_thousandths // (1000 + ratio_thousandths) - slot_bytes) // slot_bytes)

    Parameters
    ----------
    rest
        What states and keys and values share. [bytes]
    ratio_thousandths
        Memory of states over that of keys and values (``mamba_full_memory_ratio``). [thousandths]
    """
    return max(0, (rest * ratio_thousandths // (1000 + ratio_thousandths) - slot_bytes) // slot_bytes)


def state_pool_bytes(*, num_slots: int, slot_bytes: int) -> int:
    """Return the pool of recurrent states, one slot of padding with it. [bytes].

    Formula::

        (num_slots + 1) * slot_bytes
    """
    return (num_slots + 1) * slot_bytes


def token_pool_bytes(*, num_tokens: int, bytes_per_token: int, window_tokens: int, window_bytes_per_token: int) -> int:
    """Return the pools of keys and values. [bytes].

    Formula::

        num_tokens * bytes_per_token + window_tokens * window_bytes_per_token

    Examples
    --------
    >>> token_pool_bytes(num_tokens=105531, bytes_per_token=57344, window_tokens=0, window_bytes_per_token=0)
    6051569664
    """
    return num_tokens * bytes_per_token + window_tokens * window_bytes_per_token


def defaults(memory_mib: int, tensor: int) -> tuple[int, int]:
    """Return tokens of a prompt read at once, and the largest captured batch, by the device's memory [1]_.

    >>> defaults(81559, 1), defaults(24564, 4)
    ((8192, 256), (4096, 160))
    """
    wide = tensor >= 4
    if memory_mib < 20 * 1024:
        return 2048, 8
    if memory_mib < 35 * 1024:
        return 4096, 160 if wide else 48
    if memory_mib < 60 * 1024:
        return 4096, 160 if wide else 32
    if memory_mib < 160 * 1024:
        return 8192, 512 if wide else 256
    return 16384, 512


def prefill_sizes(most: int) -> int:
    """Return how many numbers of tokens are captured for reading prompts.

    >>> prefill_sizes(8192)
    58
    """
    return sum(len(range(first, min(last, most) + 1, step)) for first, last, step in PREFILL_SIZES)


def default_fraction(
    *,
    memory_mib: int,
    chunk: int,
    ranks: int,
    largest_batch: int,
    prefill_graphs: int,
    latent: bool,
    data_attention: int,
) -> int:
    """Return the static share that SGLang chooses by default. [thousandths].

    Parameters
    ----------
    memory_mib
        As nvidia-smi prints it. [MiB]
    chunk
        Tokens of a prompt read at once. [tokens]
    ranks
        Tensor ranks times pipeline stages.
    prefill_graphs
        Captured numbers of tokens; 0 where prompts are read without graphs.
    data_attention
        Data ranks with attention of their own, 0 for none.

    Examples
    --------
    >>> default_fraction(memory_mib=81559, chunk=8192, ranks=1, largest_batch=256, prefill_graphs=0, latent=False,
    ...                  data_attention=0)
    835
    """
    halves = 2 * (512 + 128 * ranks + 2 * largest_batch) + 3 * max(chunk, 2048)
    if data_attention:
        halves += largest_batch * data_attention * (9 if largest_batch > 300 else 6)
    if prefill_graphs:
        halves += 3 * 1024 if latent else 16 * prefill_graphs
    if memory_mib > 60 * 1024:
        halves = max(halves, 2 * 10 * 1024)
    return round(THOUSAND * (2 * memory_mib - halves) / (2 * memory_mib))


def early_fraction(memory_mib: int, tensor: int) -> int:
    """Return the static share that releases before 0.5 choose by default [2]_. [thousandths].

    >>> early_fraction(81559, 1)
    880
    """
    if memory_mib > 81920:
        return THOUSAND * (memory_mib - 13 * 1024) // memory_mib
    return 790 if tensor >= 16 else 810 if tensor >= 8 else 850 if tensor >= 4 else 870 if tensor >= 2 else 880


def image_factor(num_layers: int, hidden_size: int) -> float:
    """Return by what a model with an encoder of images multiplies its share: less for a larger encoder [1]_.

    >>> image_factor(24, 1024)
    0.95
    """
    ratio = num_layers * hidden_size**2 / (24 * 1024**2)
    return 0.95 * max(0.8, min(1.05, 1.0 - 0.1 * (ratio - 1.0)))


__all__ = [
    "THOUSAND", "default_fraction", "defaults", "early_fraction", "image_factor", "pool_bytes", "prefill_sizes",
    "state_pool_bytes", "state_slots", "token_pool_bytes",
]  # fmt: skip
