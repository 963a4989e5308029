"""What the template imports though nobody named it (`preload="auto"`): what the functions of the first calls need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parmap._travel.code.needs.modules import is_pure, modules_needed
from parmap.backends._base import AUTO

if TYPE_CHECKING:
    from parmap._calls.options import Options


class Guess:
    """The modules that will be of use to all workers of a pool."""

    def __init__(self, options: Options) -> None:
        # Fresh interpreters share nothing: there it would only be done in vain.
        self._is_wanted = options.preload == AUTO and options.start_method == "forkserver"
        self._needed: set[str] = set()

    def add(self, function: Any) -> None:
        """A function will be called. By any thread."""
        if self._is_wanted:
            self._needed = self._needed | modules_needed(function)  # another one: `modules` may be reading this

    def modules(self, variables: dict[str, str]) -> list[str]:
        """The modules to import in a template with these environment variables.

        A numeric library starts its threads when it is imported, and a fork has none of them: it is imported here only
        where it may have but one, as it has when all cores have a worker.
        """
        alone = variables["OMP_NUM_THREADS"] == "1"
        return sorted(name for name in self._needed if alone or is_pure(name)) if self._is_wanted else []

    def give_up(self) -> bool:
        """A template died before it had begun, of a module that was guessed maybe; false if there were none."""
        guessed, self._is_wanted = self._is_wanted and bool(self._needed), False
        return guessed
