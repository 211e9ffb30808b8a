"""What `perpflow replay` reads: one file a format, each with where its layout is written down.

frames   recordings (ours and others'), Tardis raw lines          ingest.recording
tables   Tardis CSV, Binance Vision, OKX archives, Hyperliquid CSV
"""

import re
from collections.abc import Sequence

from ingest.words import shown
from publish.replay.sources import binance_vision, hyperliquid_csv, okx_archive, tardis_csv
from publish.replay.sources.base import Layout, SourceError
from publish.replay.sources.tables import Source

FRAMES = "recording"
SOURCES: dict[str, Source] = {
    source.format: source
    for source in (
        tardis_csv.SOURCE,
        binance_vision.SOURCE,
        okx_archive.SOURCE,
        hyperliquid_csv.SOURCE,
    )
}
_TABLES = (tardis_csv, okx_archive, hyperliquid_csv, binance_vision)
_FRAME = re.compile(rb"(\d{13}|\d{16}|\d{19}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z) ")


def recognise(url: str, lines: Sequence[bytes]) -> Layout:
    """What a file is, by its name and its first lines. Raises `SourceError`."""
    if not lines:
        raise SourceError(f"{url} is empty")
    if any(_FRAME.match(line) for line in lines):
        return Layout(FRAMES)
    for table in _TABLES:
        layout: Layout | None = table.recognise(url, lines)
        if layout is not None:
            return layout
    start = shown(lines[0][:80].decode("utf-8", "replace"))
    raise SourceError(
        f"{url} is in no format that is read (docs/replay.md lists them): its name is not that of "
        f"an archive, and it starts with {start}"
    )
