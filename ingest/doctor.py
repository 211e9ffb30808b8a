"""Whether a venue can be collected from here, one step at a time, each with its own verdict.

    websocket dns, tcp, tls  ─┐
    rest dns, tcp, tls        ├─▶ instruments ─▶ subscribe ─▶ first tick ─▶ clock
                             ─┘

A step that can't be taken because an earlier one failed is skipped. Nothing raises for what a
network or a venue does.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from ingest.clock_offset import MAX_OFFSET_MS, venue_offset
from ingest.first_ticks import Heard, listen
from ingest.instruments import Instrument, symbol_by_name
from ingest.selection import dexes_of, is_glob, select
from ingest.universe import UniverseError, fetch_list, rest_base, why
from ingest.venues import venue

SAMPLE = 5
"""Instruments that are subscribed to: enough that one of them trades soon."""
_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}

State = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """The verdict on one step; `text` is the reason, or what was found."""

    exchange: str
    step: str
    state: State
    text: str


@dataclass(frozen=True, slots=True)
class Patient:
    """One venue as it is configured; URLs and `trades` default to the venue's own."""

    exchange: str
    patterns: Sequence[str]
    ws_url: str | None = None
    rest_url: str | None = None
    trades: str | None = None
    dexes: Sequence[str] = ()


class Doctor:
    """Examines one venue. `tell` gets each check as soon as it is done.

    Every step takes at most `timeout_s`.
    """

    def __init__(self, patient: Patient, tell: Callable[[Check], None], timeout_s: float) -> None:
        self._patient = patient
        self._tell = tell
        self._timeout = timeout_s
        self._failed = 0
        self._venue = venue(patient.exchange)

    async def examine(self) -> int:
        """Take every step; returns how many failed."""
        ws_url = (self._patient.ws_url or self._venue.ws_url).rstrip("/")
        rest_url = rest_base(self._patient.exchange, self._patient.rest_url)
        ws, rest = urlsplit(ws_url), urlsplit(rest_url)
        ws_reached = await self._reach("websocket", ws)
        same = (ws.hostname, _port(ws), _secure(ws)) == (rest.hostname, _port(rest), _secure(rest))
        rest_reached = ws_reached if same else await self._reach("rest", rest)
        instruments = await self._instruments(rest_reached)
        heard = await self._listen(ws_url, instruments, ws_reached)
        await self._clock(rest_url, rest_reached, heard)
        return self._failed

    def _say(self, step: str, state: State, text: str) -> None:
        self._failed += state == "failed"
        self._tell(Check(self._patient.exchange, step, state, text))

    async def _reach(self, role: str, url: SplitResult) -> bool:
        """Name, port and certificate of one address."""
        host, port = url.hostname or "", _port(url)
        steps = ["dns", "tcp", *(["tls"] if _secure(url) else [])]
        tries = {"dns": self._dns, "tcp": self._tcp, "tls": self._tls}
        for at, step in enumerate(steps):
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._timeout):
                    found = await tries[step](host, port)
            except (OSError, TimeoutError) as error:
                self._say(f"{role} {step}", "failed", f"{host}:{port}: {self._reason(error)}")
                for missed in steps[at + 1 :]:
                    self._say(f"{role} {missed}", "skipped", f"no {step}")
                return False
            spent = (time.monotonic() - began) * 1e3
            self._say(f"{role} {step}", "ok", f"{found} ({spent:.0f} ms)")
        return True

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer in {self._timeout:g} s"
        return why(error)

    async def _dns(self, host: str, port: int) -> str:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        if addresses == [host]:
            return f"{host} is an address"
        more = f" and {len(addresses) - 3} more" if len(addresses) > 3 else ""
        return f"{host} is {', '.join(addresses[:3])}{more}"

    async def _tcp(self, host: str, port: int) -> str:
        _, writer = await asyncio.open_connection(host, port)
        peer = writer.get_extra_info("peername")[0]
        await _close(writer)
        return f"connected to {peer} port {port}"

    async def _tls(self, host: str, port: int) -> str:
        context = ssl.create_default_context()
        _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        version = writer.get_extra_info("ssl_object").version()
        until = writer.get_extra_info("peercert")["notAfter"]
        await _close(writer)
        return f"{version}, certificate good until {until}"

    async def _instruments(self, reached: bool) -> list[Instrument]:
        """Those to subscribe to; without a list what the configured names alone say."""
        patient = self._patient
        named = _by_name(patient)
        if not reached:
            self._say("instruments", "skipped", "REST is not reached")
            return named
        dexes = dexes_of(patient.exchange, patient.patterns, patient.dexes)
        try:
            async with asyncio.timeout(self._timeout):
                found = await fetch_list(patient.exchange, patient.rest_url, dexes, attempts=1)
        except (UniverseError, TimeoutError) as error:
            text = str(error) if isinstance(error, UniverseError) else self._reason(error)
            self._say("instruments", "failed", text)
            return named
        selection = select(found.listed, patient.patterns)
        if selection.unmatched:
            self._say("instruments", "failed", f"nothing matches {', '.join(selection.unmatched)}")
        else:
            text = f"{len(found.listed)} listed, {len(selection.instruments)} selected"
            self._say("instruments", "ok", text)
        return list(selection.instruments)

    async def _listen(
        self, ws_url: str, instruments: Sequence[Instrument], reached: bool
    ) -> Heard | None:
        if not reached or not instruments:
            missing = "the websocket is not reached" if not reached else "no instrument is known"
            self._say("subscribe", "skipped", missing)
            self._say("first tick", "skipped", "no subscription")
            return None
        trades = self._patient.trades or self._venue.trade_channels[0]
        async with listen(self._venue, ws_url, instruments[:SAMPLE], trades) as heard:
            await heard.until(lambda: heard.answered, self._timeout)
            if heard.answered and not heard.trouble:
                paths = ", ".join(endpoint.path for endpoint in heard.endpoints)
                names = ", ".join(i.native for i in instruments[:SAMPLE])
                self._say("subscribe", "ok", f"{names} on {paths}")
            else:
                silent = f"{heard.acks} of {heard.expected} answers in {self._timeout:g} s"
                self._say("subscribe", "failed", heard.trouble or silent)
            await heard.until(lambda: heard.complete, self._timeout)
            self._say("first tick", "ok" if heard.after_ms else "failed", self._first(heard))
        return heard

    def _first(self, heard: Heard) -> str:
        if not heard.after_ms:
            return heard.trouble or f"nothing came in {self._timeout:g} s"
        parts = [
            f"{kind} after {heard.after_ms[kind]:.0f} ms" if kind in heard.after_ms
            # An instrument may well be silent for that long; its connection is not dead.
            else f"no {kind} in {self._timeout:g} s"
            for kind in ("quote", "trade")
        ]  # fmt: skip
        return ", ".join(parts)

    async def _clock(self, rest_url: str, reached: bool, heard: Heard | None) -> None:
        """The local clock against the venue's: from its time endpoint, else from the ticks."""
        offset = None
        if reached:
            offset = await venue_offset(self._patient.exchange, rest_url, self._timeout)
        if offset is not None:
            ms, within = offset
            # What the way there and back leaves open is no proof of a wrong clock.
            state: State = "failed" if abs(ms) - within > MAX_OFFSET_MS else "ok"
            side = "ahead of" if ms >= 0 else "behind"
            text = f"local clock {abs(ms):.0f} ms {side} the venue's, ± {within:.0f} ms"
            self._say("clock", state, text + _advice(state))
        elif heard is not None and heard.lag_ms is not None:
            # Includes the way here, and a first push may be old: only a negative one is certain.
            state = "failed" if heard.lag_ms < -MAX_OFFSET_MS else "ok"
            text = f"ticks arrive {heard.lag_ms:.0f} ms after their exchange stamp"
            self._say("clock", state, text + _advice(state))
        else:
            self._say("clock", "skipped", "neither a time endpoint nor a tick")


def _advice(state: State) -> str:
    return ": set the clock (NTP)" if state == "failed" else ""


def _by_name(patient: Patient) -> list[Instrument]:
    """Enough to subscribe and to recognise ticks: sizes are not needed for that."""
    natives = [p for p in patient.patterns if not is_glob(p)]
    symbols = {native: symbol_by_name(patient.exchange, native) for native in natives}
    return [Instrument(patient.exchange, n, s) for n, s in symbols.items() if s is not None]


def _port(url: SplitResult) -> int:
    return url.port or _PORTS[url.scheme]


def _secure(url: SplitResult) -> bool:
    return url.scheme in ("wss", "https")


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
