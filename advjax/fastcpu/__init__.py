"""Gradient loops at full speed on CPU: a traced program rewritten into forms that XLA's CPU backend runs well."""

from advjax.fastcpu.accelerate import accelerate

__all__ = ["accelerate"]
