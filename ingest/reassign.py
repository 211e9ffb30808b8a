"""Which connection carries which instruments once some are listed and others are gone. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence

from ingest.instruments import Instrument
from ingest.venues import Endpoint

Make = Callable[[Sequence[Instrument]], Sequence[Endpoint]]


def reassigned(
    endpoints: Sequence[Endpoint],
    known: Mapping[str, Instrument],
    gone: Collection[str],
    added: Sequence[Instrument],
    make: Make,
) -> tuple[list[Endpoint | None], list[Endpoint]]:
    """What becomes of each endpoint (None: nothing is left on it), and the ones to open besides.

    `known` are the instruments by native id, `gone` native ids, `make` lays instruments out over
    endpoints as the venue allows. As few endpoints as can be are touched: those that carried what
    is gone, and for what is added the first of its path with room for all of it.
    """
    kept = [_without(endpoint, known, gone, make) for endpoint in endpoints]
    more: list[Endpoint] = []
    for extra in make(added) if added else ():
        for at, endpoint in enumerate(kept):
            joined = _joined(endpoint, extra, known, added, make) if endpoint else None
            if joined is not None:
                kept[at] = joined
                break
        else:
            more.append(extra)
    return kept, more


def _without(
    endpoint: Endpoint, known: Mapping[str, Instrument], gone: Collection[str], make: Make
) -> Endpoint | None:
    left = [channel for channel in endpoint.channels if channel[1] not in gone]
    if len(left) == len(endpoint.channels):
        return endpoint
    return _laid_out(endpoint.path, left, known, make) if left else None


def _joined(
    endpoint: Endpoint,
    extra: Endpoint,
    known: Mapping[str, Instrument],
    added: Sequence[Instrument],
    make: Make,
) -> Endpoint | None:
    """One endpoint for the channels of both, None where the venue needs two."""
    if endpoint.path != extra.path:
        return None
    everything = {**known, **{i.native: i for i in added}}
    return _laid_out(endpoint.path, [*endpoint.channels, *extra.channels], everything, make)


def _laid_out(
    path: str,
    channels: Sequence[tuple[str, str]],
    known: Mapping[str, Instrument],
    make: Make,
) -> Endpoint | None:
    natives = dict.fromkeys(native for _, native in channels)
    made = [e for e in make([known[native] for native in natives]) if e.path == path]
    if len(made) != 1 or set(made[0].channels) != set(channels):
        return None
    return made[0]
