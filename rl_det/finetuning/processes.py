"""The processes of a comparison's jobs: how many cores each has, what their errors say, and how they stop."""

import os
import subprocess
import sys
import threading

from rl_det.errors import UserError
from rl_det.finetuning.job import JobFile
from rl_det.storage.files import write_whole

JOB = "job.json"


class Processes:
    """The running processes of the jobs."""

    def __init__(self, workers: int) -> None:
        self.threads = str(max(1, (os.cpu_count() or 1) // workers))
        self.alive: set[subprocess.Popen[str]] = set()
        self.lock, self.stopped = threading.Lock(), False

    def run(self, job: JobFile) -> None:
        """Run one process to its end; UserError for a mistake of the user's or a kill, RuntimeError for one of ours."""
        job.out.mkdir(parents=True, exist_ok=True)
        file = job.out / JOB
        write_whole(file, job.to_json())
        environment = {**os.environ, "OMP_NUM_THREADS": self.threads, "NUMBA_NUM_THREADS": self.threads}
        command = [sys.executable, "-m", "rl_det.finetuning.job", str(file)]
        with self.lock:
            if self.stopped:
                return
            process = subprocess.Popen(
                command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            self.alive.add(process)
        _, printed = process.communicate()
        with self.lock:
            self.alive.discard(process)
        if process.returncode and not self.stopped:
            told = f"{job.out}: {' '.join(command[1:])} ended with {process.returncode}"
            if process.returncode == 1:  # an error of ours, with its traceback
                raise RuntimeError(f"{told}\n{printed.strip()}")
            raise UserError(f"{told}; {' '.join(printed.split())[-500:]}")

    def stop(self) -> None:
        """Stop all processes; each keeps what it has done."""
        with self.lock:
            self.stopped = True
            for process in self.alive:
                process.terminate()
