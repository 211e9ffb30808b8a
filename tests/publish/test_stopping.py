"""Daemons: what hangs does not hold up a stop."""

import subprocess
import sys
import time


def test_a_stop_that_hangs_ends_the_process_with_an_error() -> None:
    script = (
        "import time\n"
        "from publish.stopping import deadline\n"
        "with deadline(0.2):\n"
        "    time.sleep(60)\n"
    )
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "stopping took too long" in ended.stdout + ended.stderr
    assert time.monotonic() - begun < 30


def test_a_stop_in_time_ends_nothing() -> None:
    script = (
        "import time\n"
        "from publish.stopping import deadline\n"
        "with deadline(0.2):\n"
        "    pass\n"
        "time.sleep(0.5)\n"
        "print('alive')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "alive\n")
