"""Triton's interpreter as the tests need it; without a GPU, tests/conftest.py chooses it."""

from functools import cache

import pytest
import torch


@cache
def allow_loop_bounds() -> None:
    """Let loaded values bound a loop: they are arrays of one element, which numpy 2.4 turns into
    integers no more. Skips the test, or the module, that calls it where there is no Triton.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch


def interpret_kernels() -> None:
    """For tests that hand kernels CPU tensors; skips them where there is no Triton, or a GPU."""
    if torch.cuda.is_available():
        pytest.skip("with a GPU Triton compiles for it, and reads no CPU memory; see tests/gpu")
    allow_loop_bounds()
