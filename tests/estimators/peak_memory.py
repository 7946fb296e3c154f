"""Peak of the anonymous memory of a call, measured where nothing else goes on: in a new process."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
INTERVAL = 0.002


def anonymous_memory():
    """Bytes of anonymous memory of this process; pages of mapped files do not count."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@contextmanager
def watched(peaks, name):
    """Write to `peaks` by how many MiB the memory rises within, beyond what it was before."""
    before, highest, over = anonymous_memory(), [0], threading.Event()

    def watch():
        while not over.is_set():
            highest[0] = max(highest[0], anonymous_memory())
            time.sleep(INTERVAL)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        peaks[name] = (highest[0] - before) / 2**20


def peaks_of(code):
    """Peaks that `code` writes down, in a new process, by ``with watched(peaks, name)``."""
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import json\n"
        "from tests.estimators.peak_memory import watched\n"
        f"peaks = {{}}\n{code}\nprint(json.dumps(peaks))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
