"""The live stream, /v1/stream: finished bars of the true clock over websockets, as they close.

    log, topic bars ──▶ feed.py ──rows, encoded once──▶ hub.py ──▶ every subscriber's socket
                                                          ▲
                            server.py: handshake, subscribe, heartbeat, drain

Delivery is at most once and nothing is replayed: what a client missed is in the files. The protocol
is what the public client `aperiodic` (PyPI, 4.3, `endpoints/stream.py`) speaks:

    client  {"op":"subscribe","id":"s1","channels":["ohlcv.okx-perps.1m",
                {"dataset":"flow","exchange":"okx-perps","interval":"1h","symbols":["…"]}]}
    server  {"op":"subscribed","id":"s1","channels":[…],"rejected":[{"channel","code","message"}]}
            {"channel":"ohlcv.okx-perps.1m","snapshot":true,"data":{…}}   the latest bar per symbol
            {"channel":"ohlcv.okx-perps.1m","data":{"symbol","interval","time","open",…}}
            {"op":"heartbeat","time":…}                                    every 30 s
    client  {"op":"unsubscribe","id","channels"}, {"op":"ping","id"}
    server  {"op":"unsubscribed","id","channels","rejected"}, {"op":"pong","id"}
            {"op":"error","id","code","message"}

`time` is a bar's start in µs since 1970; a null is null. Closes: 1012 the server stops, 1008 too
many control frames, 4001 the key was revoked; a reader that is too slow is cut off (1006).
"""
