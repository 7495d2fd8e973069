"""Machine code: the ways in which the loop's functions are compiled.

Only ``loop.run`` is kept in numba's cache and called from Python; these are compiled into it.

numba makes machine code of every function by itself, with all that it calls, before it does so for
who calls it: a function ten calls deep is optimised ten times, and all but the last are thrown
away. ``compiled`` leaves its functions as they are until the loop takes them in, and has them
optimised there, once; that takes less than half the time and gives the same loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from numba import njit

__all__ = ["compiled", "hot", "inlined"]

Function = TypeVar("Function", bound=Callable[..., Any])


def _options() -> dict[str, Any]:
    """How to compile a function that only other compiled functions call."""
    alone = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    try:
        from numba.core import codegen, compiler
    except ImportError:
        # These are numba's own and may move; without them it compiles longer.
        return alone
    library: Any = codegen.JITCodeLibrary
    pipeline: Any = compiler.Compiler

    class NoEnvironment:
        """Machine code that is not there needs no environment to run in."""

        def __init__(self, codegen: Any) -> None:
            self._codegen = codegen

        def __getattr__(self, name: str) -> Any:
            return getattr(self._codegen, name)

        def set_env(self, name: str, env: Any) -> None:
            pass

    class Part(library):  # type: ignore[misc]
        """The code of a function as it is linked into its callers, and never run by itself."""

        @property
        def codegen(self) -> NoEnvironment:
            return NoEnvironment(self._codegen)

        def get_pointer_to_function(self, name: str) -> int:
            self._ensure_finalized()
            return 0

        def _optimize_functions(self, module: Any) -> None:
            module.data_layout = self._codegen._data_layout

        def _optimize_final_module(self) -> None:
            pass

        def _finalize_final_module(self) -> None:
            self._finalize_dynamic_globals()
            self._finalized = True

    class PartCompiler(pipeline):  # type: ignore[misc]
        """Puts what it compiles into a ``Part``."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            if self.state.library is None:
                self.state.library = Part(self.state.targetctx.codegen(), "part")
                self.state.library.enable_object_caching()

    return {**alone, "pipeline_class": PartCompiler}


_OPTIONS: Final = _options()


def compiled(function: Function) -> Function:
    """Compile a function that only other compiled functions call."""
    return cast(Function, njit(**_OPTIONS)(function))


def hot(function: Function) -> Function:
    """Compile a function that each quote goes through: its machine code goes where it is called."""
    return cast(Function, njit(forceinline=True, **_OPTIONS)(function))


def inlined(function: Function) -> Function:
    """Put a function in its place where it is called from: that saves compiling it by itself."""
    return cast(Function, njit(inline="always")(function))
