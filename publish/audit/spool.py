"""Days of bars kept on local disk until they are written, one file each: a month may be large."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa

from publish.layout import Series


class Spool:
    """Tables by series and day, in an existing directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._paths: dict[Series, dict[date, Path]] = {}

    def put(self, series: Series, day: date, table: pa.Table) -> None:
        path = self._directory / f"{sum(map(len, self._paths.values()))}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        self._paths.setdefault(series, {})[day] = path

    def schema(self, series: Series) -> pa.Schema:
        """Its columns, the same of all days."""
        with pa.OSFile(str(next(iter(self._paths[series].values())))) as source:
            return pa.ipc.open_file(source).schema

    def days(self, series: Series, wanted: set[date]) -> Iterator[tuple[date, pa.Table]]:
        """Those that are wanted, in order of time."""
        for day, path in sorted(self._paths[series].items()):
            if day in wanted:
                with pa.OSFile(str(path)) as source:
                    yield day, pa.ipc.open_file(source).read_all()
