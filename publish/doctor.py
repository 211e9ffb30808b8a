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
    """Print the checks as they are done. Raises `DoctorError` if one failed."""
    checks: list[Check] = []

    def tell(check: Check) -> None:
        checks.append(check)
        place = f"{check.exchange:{_EXCHANGE}}  {check.step:{_STEP}}"
        print(f"{place}  {check.state:{_STATE}}  {check.text}", flush=True)

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
    failed = sum(await asyncio.gather(*(Doctor(p, tell, timeout_s).examine() for p in patients)))
    if failed:
        raise DoctorError(f"{failed} of {len(checks)} checks failed")
