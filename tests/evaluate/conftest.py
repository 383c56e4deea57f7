"""Counts what XLA compiles."""

import jax
import pytest


@pytest.fixture
def jit_compilations():
    """A function that says how many programs were compiled so far."""
    count = []

    def listen(event, duration, **more):
        if event == "/jax/core/compile/backend_compile_duration":
            count.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(count)
    jax.monitoring.unregister_event_duration_listener(listen)
