"""Raw ticks of one instrument out of a raw area, in order of arrival, memory bounded.

An area is a store with the own archive (`raw/`, and `raw_open/` of days not over), or with what
sources were imported to (`raw_import/`).
"""

from dataclasses import dataclass

from publish.settings import PublishSettings
from publish.store import Store, open_store


@dataclass(frozen=True, slots=True)
class Area:
    """Where raw ticks are: the own archive of a store, or of its imports those named (digests)."""

    place: PublishSettings
    imports: tuple[str, ...] | None = None

    def open(self) -> Store:
        return open_store(self.place)
