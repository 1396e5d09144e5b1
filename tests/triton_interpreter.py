"""Repairs of Triton's interpreter, which the tests of its kernels on the CPU need. Imported where it is chosen."""

from __future__ import annotations

from triton.runtime import interpreter

_patch_tensor = interpreter._patch_lang_tensor


def _with_loop_bounds(tensor, scope):
    """Triton 3.6 makes a loop's bound an integer in a way that numpy >= 2.4 refuses."""
    _patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))


interpreter._patch_lang_tensor = _with_loop_bounds


def _with_boolean_mask(access, place):
    """Triton 3.9 takes two comparisons together for integers, and then refuses them as a mask."""

    def repaired(*arguments):
        mask = arguments[place].astype(bool)
        return access(*arguments[:place], mask, *arguments[place + 1 :])

    return repaired


_memory = interpreter._interpreter
_memory.load, _memory.store = _with_boolean_mask(_memory.load, 1), _with_boolean_mask(_memory.store, 2)
