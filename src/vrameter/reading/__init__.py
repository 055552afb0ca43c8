"""What people already have -> a request: configuration files of training stacks and commands of servers.

`read_text` is pure but for the files that a text names, which it asks its caller for. Every key ends in exactly one place:
understood, assumed (a default that was filled in), ignored with a reason, or refused with an error.

>>> reading = read_text("vllm serve Qwen/Qwen3-8B --max-model-len 8192")
>>> reading.request["model"], reading.request["settings"]
('Qwen/Qwen3-8B', {'max_model_len': 8192})
"""

from __future__ import annotations

from vrameter.errors import RequestError
from vrameter.reading.answer import read
from vrameter.reading.draft import Opener, Reading
from vrameter.reading.texts import read_text

__all__ = ["Opener", "Reading", "RequestError", "read", "read_text"]
