"""Full-speed gradient loops on CPU: rewrite the traced program of any function into forms XLA's CPU backend runs well."""

from advjax.fastcpu.accelerate import accelerate

__all__ = ["accelerate"]
