"""The recorder beside the pipeline: frames as they arrived, written between batches of ticks."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import structlog

from ingest import metrics
from ingest.instruments import Instrument
from ingest.recorder import Recorder
from ingest.recording import RecordingError, RecordingHeader
from ingest.records import Coverage
from ingest.venues import Frame

FLUSH_RECORDING_NS = 1_000_000_000

_log = structlog.get_logger(__name__)


class FrameRecording:
    """One session's in `directory`. What fails here is told and never stops the ticks."""

    def __init__(self, directory: Path, header: RecordingHeader) -> None:
        self._recorder = Recorder(directory, header)
        self._exchange = header.exchange
        self._frames: list[Frame] = []
        self._flush_at = 0
        self._failing = False

    def add(self, frames: list[Frame]) -> None:
        self._frames += frames

    def covered(self, coverage: Coverage) -> None:
        self.write()
        self._try(lambda: self._recorder.covered(coverage))

    def changed(self, instruments: Sequence[Instrument], gone: Collection[str]) -> None:
        """What was added so far is of the instruments before, what follows of these."""
        self.write()
        self._try(lambda: self._recorder.changed(instruments, gone))

    def write(self) -> None:
        """Write what was added; make it safe from kill -9 once a second."""
        frames, self._frames = self._frames, []
        if not frames:
            return
        self._failing = not self._try(lambda: self._recorder.write(frames))
        if frames[-1][0] >= self._flush_at:
            self._flush_at = frames[-1][0] + FLUSH_RECORDING_NS
            self._try(self._recorder.flush)

    def close(self) -> None:
        self.write()
        self._try(self._recorder.close)

    def _try(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except RecordingError as error:
            metrics.RECORDING_FAILURES.labels(self._exchange).inc()
            if not self._failing:
                _log.error("recording failed", exchange=self._exchange, error=str(error))
            return False
        return True
