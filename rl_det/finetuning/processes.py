"""The processes of a comparison's jobs, here or on a Ray cluster: their cores, what they say, and how they stop."""

import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from rl_det.errors import UserError
from rl_det.finetuning.job import JobFile
from rl_det.finetuning.job_process import KilledError, lines_told, run_command, said_since, size_of, start
from rl_det.progress import tell

JOB, LOG = "job.json", "job.log"
"""The files of a job in its folder: its instructions, and what its processes have said on standard error."""
On = Literal["processes", "ray"]
"""Where jobs run: in processes of this machine, or on a Ray cluster."""
STARTS = 4
"""How often Ray starts a job whose worker was killed."""
ANSWERS_WITHIN = 10.0  # seconds
"""How long a Ray cluster is waited for; Ray itself waits for minutes."""
LOCAL_STORE = 100 * 2**20
"""The memory of a local Ray for objects, of which jobs have none."""


@runtime_checkable
class Runner(Protocol):
    """What runs the jobs."""

    def run(self, job: JobFile) -> None:
        """Run one job to its end; UserError for a mistake of the user's or a kill, RuntimeError for one of ours."""
        ...

    def stop(self) -> None:
        """Stop all jobs; each keeps what it has done."""
        ...


def runner_on(place: On, workers: int) -> Runner:
    """The runner of so many jobs at a time; UserError if Ray is asked for and not installed, or its cluster does not answer."""
    return Processes(workers) if place == "processes" else RayJobs(workers)


def written(job: JobFile) -> list[str]:
    """The command of a job, whose file is written to its folder."""
    job.out.mkdir(parents=True, exist_ok=True)
    file = job.out / JOB
    job.write(file)
    return [sys.executable, "-m", "rl_det.finetuning.job", str(file.resolve())]


def threads_of(workers: int) -> str:
    """The threads of one of so many jobs on this machine."""
    return str(max(1, (os.cpu_count() or 1) // workers))


def check_ended(job: JobFile, command: list[str], code: int, printed: str) -> None:
    """Raise UserError for a mistake of the user's or a kill, RuntimeError for a mistake of ours."""
    if not code:
        return
    told = f"{job.out}: {' '.join(command[1:])} ended with {code}"
    if code == 1:  # an error of ours, with its traceback
        raise RuntimeError(f"{told}\n{printed.strip()}")
    if code < 0:
        raise UserError(f"{job.out}: its process was killed ({_signal(-code)}); the same command with --resume goes on")
    raise UserError(f"{told}; {' '.join(printed.split())[-500:]}")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Passing:
    """Passes on what jobs tell, each line once, after the name of the first job that tells it.

    Lines are the same that differ only in the job's folder.
    """

    def __init__(self) -> None:
        self.lock, self.passed = threading.Lock(), set[str]()

    def __call__(self, job: JobFile, line: str) -> None:
        """Pass on one line of a job, if no job has told it before."""
        same = line.replace(str(job.out), "")
        with self.lock:
            is_new = same not in self.passed
            self.passed.add(same)
        if is_new:
            tell(f"{job.out.name}: {line}")


class Processes:
    """The running processes of the jobs, on this machine."""

    def __init__(self, workers: int) -> None:
        self.threads = threads_of(workers)
        self.alive: set[subprocess.Popen[str]] = set()
        self.lock, self.stopped = threading.Lock(), False
        self.pass_on = Passing()

    def run(self, job: JobFile) -> None:
        """Run one process to its end; UserError for a mistake of the user's or a kill, RuntimeError for one of ours."""
        command, log = written(job), job.out / LOG
        begin = size_of(log)
        with self.lock:
            if self.stopped:
                return
            process = start(command, log, self.threads)
            self.alive.add(process)
        with process:
            for line in lines_told(process):
                self.pass_on(job, line)
        with self.lock:
            self.alive.discard(process)
        if not self.stopped:
            check_ended(job, command, process.returncode, said_since(log, begin))

    def stop(self) -> None:
        """Stop all processes; each keeps what it has done."""
        with self.lock:
            self.stopped = True
            for process in self.alive:
                process.terminate()


class RayJobs:
    """Jobs as tasks of Ray, on the cluster of `RAY_ADDRESS`, or on this machine with so many workers.

    Every machine must see the data, the comparison's folder and the cache under the same paths, and have rl_det. A task
    runs the same process as `Processes`, so results are the same. Ray starts a job again whose worker or process was
    killed, and it resumes.
    """

    def __init__(self, workers: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("jobs on Ray need it: pip install 'rl_det[ray]'") from error
        self.ray, self.threads = ray, threads_of(workers)
        self.tasks: set[Any] = set()
        self.pass_on = Passing()
        if not ray.is_initialized():
            _connect(ray, workers)
        cores = int(self.threads) if "RAY_ADDRESS" in os.environ else 1
        retried = {"max_retries": STARTS - 1, "retry_exceptions": [KilledError]}
        self.remote = ray.remote(num_cpus=cores, **retried)(run_command)

    def run(self, job: JobFile) -> None:
        """Run one task to its end."""
        command = written(job)
        task = self.remote.remote(command, (job.out / LOG).resolve(), self.threads)
        self.tasks.add(task)
        try:
            code, told, printed = self.ray.get(task)
        except self.ray.exceptions.TaskCancelledError:
            return
        except (self.ray.exceptions.RayTaskError, self.ray.exceptions.WorkerCrashedError) as error:
            raise UserError(f"{job.out}: the job was killed {STARTS} times ({type(error).__name__})") from error
        finally:
            self.tasks.discard(task)
        for line in told:
            self.pass_on(job, line)
        check_ended(job, command, code, printed)

    def stop(self) -> None:
        """Cancel all tasks; their processes end with their workers."""
        for task in list(self.tasks):
            self.ray.cancel(task, force=True)


def _connect(ray: Any, workers: int) -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start Ray here with so many workers; UserError if no cluster is there."""
    address = os.environ.get("RAY_ADDRESS")
    here = {} if address is not None else {"num_cpus": workers, "object_store_memory": LOCAL_STORE}
    try:
        if address is not None:
            _check_answers(address)
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", **here)
    except (OSError, ValueError, RuntimeError) as error:
        if address is None:
            raise
        raise UserError(
            f"RAY_ADDRESS must be the address of a Ray cluster that runs; {address!r} gives: {' '.join(str(error).split())}; "
            "start one there (ray start --head), or unset RAY_ADDRESS for Ray on this machine"
        ) from error


def _check_answers(address: str) -> None:
    """Raise OSError if nothing answers at the address's host and port; one without them ("auto") is left to Ray."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    if parts.scheme == "ray" and parts.port is not None:
        socket.create_connection((parts.hostname, parts.port), timeout=ANSWERS_WITHIN).close()
