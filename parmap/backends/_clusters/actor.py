"""On a node of a Ray cluster: what Ray runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parmap.backends._clusters.wire import Order, Told


class Actor:
    """One worker."""

    def facts(self, find: Callable[..., Any], needed: tuple[str, ...]) -> Any:
        """That it has started, and what with. Where a task uses Ray, that connects to this cluster, and starts none."""
        import os

        import ray

        os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        return find(needed)

    def run(self, order: Order) -> Told:
        """Run a chunk."""
        from parmap.backends._clusters import pilot

        return pilot.run(order, 1, self.fetch)

    def tell(self, what: str, *args: Any) -> Any:
        """Call a function of `pilot`."""
        from parmap.backends._clusters import pilot

        return getattr(pilot, what)(*args)

    @staticmethod
    def fetch(place: Any) -> memoryview:
        """The bytes that a place stands for, where Ray has them."""
        import ray
        from ray.exceptions import RayError

        try:
            return memoryview(ray.get(place))
        except RayError as error:
            raise LookupError(place) from error


for _each in (Actor, Actor.facts, Actor.run, Actor.tell, Actor.fetch):
    _each.__module__ = "__main__"  # so that it travels by value, to where there may be no parmap
