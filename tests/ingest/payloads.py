"""Payloads of the venues as EXCHANGES.md has them: what the fuzzers start from."""
# ruff: noqa: E501

from ingest.instruments import BINANCE, HYPERLIQUID, OKX

INSTRUMENTS = {BINANCE: "BTCUSDT", OKX: "BTC-USDT-SWAP", HYPERLIQUID: "BTC"}
# EXCHANGES §1.2, §2.2, §3.1: every channel, answer and error that is subscribed or may come.
FRAMES = {
    BINANCE: (
        b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1789893896920,"T":1789893896920,"s":"BTCUSDT","t":8097313955,"p":"80227.00","q":"0.010","X":"MARKET","m":true,"st":1}}',
        b'{"e":"trade","E":1789893896920,"T":1789893896920,"s":"BTCUSDT","t":8097313955,"p":"80227.00","q":"0.010","X":"MARKET","m":true,"st":1}',
        b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1791269849801,"a":3476312671,"s":"BTCUSDT","p":"85299.90","q":"0.004","nq":"0.004","f":8149080393,"l":8149080393,"T":1791269849651,"m":true,"st":1}}',
        b'{"stream":"btcusdt@bookTicker","data":{"e":"bookTicker","u":11331904350110,"s":"BTCUSDT","ps":"BTCUSDT","b":"72009.00","B":"3.065","a":"72009.10","A":"2.180","T":1787231293915,"E":1787231293915,"st":1}}',
        b'{"e":"depthUpdate","E":1,"T":1,"s":"BTCUSDT","U":157,"u":160,"pu":149,"b":[["0.0024","10"]],"a":[]}',
        b'{"result":null,"id":1}',
        b'{"error":{"code":2,"msg":"Invalid request: unknown variant `NOT_A_METHOD`"},"id":2}',
        b'{"u":50093239212,"s":"BTCUSDT","b":"61837.63","B":"3.78","a":"61837.64","A":"1.54"}',
    ),
    OKX: (
        b'{"arg":{"channel":"trades","instId":"BTC-USDT-SWAP"},"data":[{"instId":"BTC-USDT-SWAP","tradeId":"2701364977","px":"64311","sz":"31.27","side":"buy","ts":"1781416584831","count":"8","source":"0","seqId":323647402789}]}',
        b'{"arg":{"channel":"trades-all","instId":"BTC-USDT-SWAP"},"data":[{"instId":"BTC-USDT-SWAP","tradeId":"2701364978","px":"64311","sz":"1","side":"sell","ts":"1781416584831","source":"0"}]}',
        b'{"arg":{"channel":"bbo-tbt","instId":"BTC-USDT-SWAP"},"data":[{"asks":[["111.06","55154","0","2"]],"bids":[["111.05","57745","0","2"]],"ts":"1670324386802","seqId":363996337}]}',
        b'{"id":"1512","event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT-SWAP"},"connId":"a4d3ae55"}',
        b'{"id":"1512","event":"error","code":"60018","msg":"Wrong URL or channel:trades,instId:X-USDT-SWAP doesn\'t exist.","connId":"a4d3ae55"}',
        b'{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade. Please reconnect.","connId":"a4d3ae55"}',
        b"pong",
    ),
    HYPERLIQUID: (
        b'{"channel":"trades","data":[{"coin":"BTC","side":"B","px":"64411.0","sz":"0.31377","time":1781416943647,"hash":"0x7f58","tid":828642708897583,"users":["0xe9be","0xf910"]}]}',
        b'{"channel":"bbo","data":{"coin":"BTC","time":1750948919838,"bbo":[{"px":"107575.0","sz":"3.87947","n":17},null]}}',
        b'{"channel":"subscriptionResponse","data":{"method":"subscribe","subscription":{"type":"trades","coin":"BTC"}}}',
        b'{"channel":"error","data":"Invalid subscription {\\"type\\":\\"trades\\",\\"coin\\":\\"NOPE\\"}"}',
        b'{"channel":"error","data":"Already subscribed: {\\"type\\":\\"trades\\",\\"coin\\":\\"BTC\\"}"}',
        b'{"channel":"pong"}',
        b"Websocket connection established.",
    ),
}

LISTS = {
    BINANCE: (
        b'{"symbols":[{"symbol":"BTCUSDT","pair":"BTCUSDT","contractType":"PERPETUAL","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT","marginAsset":"USDT","underlyingType":"COIN"},{"symbol":"AAPLUSDT","contractType":"TRADIFI_PERPETUAL","status":"TRADING","baseAsset":"AAPL","quoteAsset":"USDT","marginAsset":"USDT"},{"symbol":"BTCUSD_PERP","contractType":"PERPETUAL","status":"TRADING","baseAsset":"BTC","quoteAsset":"USD","marginAsset":"BTC","contractSize":100}]}',
    ),
    OKX: (
        b'{"code":"0","msg":"","data":[{"instId":"BTC-USDT-SWAP","instType":"SWAP","ctType":"linear","ctVal":"0.01","ctMult":"1","ctValCcy":"BTC","settleCcy":"USDT","state":"live"},{"instId":"BTC-USD-SWAP","instType":"SWAP","ctType":"inverse","ctVal":"100","ctMult":"1","ctValCcy":"USD","settleCcy":"BTC","state":"live"}]}',
        b'{"code":"51001","msg":"Instrument ID does not exist","data":[]}',
    ),
    HYPERLIQUID: (
        b'{"universe":[{"name":"BTC","szDecimals":5,"maxLeverage":40},{"name":"MATIC","szDecimals":1,"isDelisted":true}],"collateralToken":0}',
        b'{"dex":"xyz","meta":{"universe":[{"name":"xyz:TSLA","szDecimals":3}],"collateralToken":0}}',
    ),
}
PAGES = {
    "trades": b'[{"id":28457,"price":"4.00","qty":"12.00","quoteQty":"48.00","time":1789893896920,"isBuyerMaker":true,"isRPITrade":false}]',
    "aggregates": b'[{"a":26129,"p":"0.01633102","q":"4.70443515","nq":"4.7","f":27781,"l":27781,"T":1789893896920,"m":true}]',
    "okx": b'{"code":"0","msg":"","data":[{"instId":"BTC-USDT-SWAP","side":"sell","sz":"0.2","px":"29963.2","tradeId":"27781","ts":"1789893896920","source":"0"}]}',
    "hyperliquid": b'[{"coin":"BTC","side":"B","px":"64411.0","sz":"0.31377","time":1789893896920,"hash":"0x7f58","tid":828642708897583,"users":["0xe9be","0xf910"]}]',
}
