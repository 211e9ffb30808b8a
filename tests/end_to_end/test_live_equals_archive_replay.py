from tests.end_to_end.audited_run import *
import time

async def test_x(tmp_path):
    t=time.time()
    found = await collect(tmp_path, 1, 120.0, 4.0)
    print(time.time()-t, found.sealed)
    print({e: len(v) for e,v in found.faults.late.items()}, found.faults.struck)
    import subprocess
    print(subprocess.run(["du","-s",str(tmp_path)],capture_output=True).stdout)
    print(len(found.store.list("metrics")), len(found.store.list("metrics_open")), len(found.store.list("raw")), len(found.store.list("raw_open")))
