"""`perpflow doctor`: every configured venue examined at once, a line for each step."""

import asyncio

from ingest.doctor import Check, Doctor, Patient
from ingest.errors import UserError
from ingest.venues import VENUES
from publish.settings import Settings

_EXCHANGE = max(map(len, VENUES))
_STEP = len("websocket dns")
_STATE = len("skipped")


class DoctorError(UserError):
    """Some checks failed."""


async def examine(settings: Settings, timeout_s: float) -> None:
    """Print the checks as they are done, venue by venue. Raises `DoctorError` if one failed."""
    patients = [
        Patient(
            name,
            venue.symbols,
            ws_url=venue.ws_url,
            rest_url=venue.rest_url,
            trades=venue.trades,
            dexes=venue.chosen_dexes,
        )
        for name, venue in settings.venues.enabled().items()
    ]
    checks = failed = 0
    async with asyncio.TaskGroup() as tasks:
        # All at once, but a venue's lines stay together.
        for told in [_examined(tasks, patient, timeout_s) for patient in patients]:
            while (check := await told.get()) is not None:
                place = f"{check.exchange:{_EXCHANGE}}  {check.step:{_STEP}}"
                print(f"{place}  {check.state:{_STATE}}  {check.text}", flush=True)
                checks += 1
                failed += check.state == "failed"
    if failed:
        raise DoctorError(f"{failed} of {checks} checks failed")


def _examined(
    tasks: asyncio.TaskGroup, patient: Patient, timeout_s: float
) -> asyncio.Queue[Check | None]:
    """The checks of one venue as they are done, and None behind the last."""
    told: asyncio.Queue[Check | None] = asyncio.Queue()

    async def examine() -> None:
        try:
            await Doctor(patient, told.put_nowait, timeout_s).examine()
        finally:
            told.put_nowait(None)

    tasks.create_task(examine())
    return told
