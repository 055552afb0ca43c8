"""How each training stack spends a step.

`estimate` resolves a request, takes the share of the fullest device, runs its layers on a graph of sizes, and adds up
what is alive in each phase of a step.
"""

from __future__ import annotations

from vrameter.training.answer import estimate

__all__ = ["estimate"]
