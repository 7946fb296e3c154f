"""Scripts in several processes, as a user launches them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Nothing that is launched here takes longer; what hangs is ended.
MOST_SECONDS = 150.0


def launched(script: Path, *arguments: Any, n_processes: int = 2) -> subprocess.Popen:
    """A script that has just been launched in several processes of one machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.Popen(
        [sys.executable, *launcher, str(script), *map(str, arguments)],
        env=os.environ | threads,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen, seconds: float = MOST_SECONDS) -> str:
    """What a script that was launched has printed, once it has ended."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # the launcher takes its processes along
        try:
            text = process.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            text = ""
        raise AssertionError(f"{process.args} did not end in {seconds} s:\n{text}") from None


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something is the case."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.02)


def left_by(
    script: Path, factory: Any, prepare: Callable[[Path], None] = lambda folder: None
) -> Path:
    """Folder with what a script has left there, launched once for all workers of a test run.

    `factory` is pytest's ``tmp_path_factory``, and `prepare` puts into the folder what is to be
    there before.
    """
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "-".join(script.relative_to(ROOT).with_suffix("").parts)
    said = folder / "said"
    try:
        folder.mkdir()
    except FileExistsError:
        wait_for(said.exists, 2 * MOST_SECONDS)
    else:
        text = "it was not launched"
        try:
            prepare(folder)
            process = launched(script, folder)
            text = ended(process)
            text = "" if process.returncode == 0 else text or "failed"
        finally:
            part = folder / "said.part"
            part.write_text(text)
            part.replace(said)
    text = said.read_text()
    assert not text, text
    return folder
