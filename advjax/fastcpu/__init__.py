"""Gradient loops at full speed on CPU: a traced program rewritten into forms that XLA's CPU backend runs well."""

from advjax.fastcpu.accelerate import accelerate
from advjax.fastcpu.compiled import compiled, compiler_options

__all__ = ["accelerate", "compiled", "compiler_options"]
