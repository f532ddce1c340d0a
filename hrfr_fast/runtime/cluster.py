"""A Ray cluster that work is sent to: for ``--on ray`` one of this machine alone, for ``--on ray://...`` a running one.

Ray is optional (the extra ``cluster``) and is imported here alone. Functions are sent by their name, so every node
needs this package, of the same version: other versions could give other bytes.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.system import cores
from hrfr_fast.runtime.version import __version__

SCHEME = "ray"
OBJECT_STORE_BYTES = 256 << 20  # of a cluster started here: what lies there are arguments and results on their way
RETRIES = 5  # how often a task whose worker or node was lost is started again

Call = Any
"""A call that was sent off: Ray's ``ObjectRef``."""


class TaskLost(HrfrError):
    """The process or the node that a task was executed on is gone."""


@dataclass(frozen=True)
class Cluster:
    """A connected cluster. ``cpus`` and ``gpus``: how many it has in all."""

    cpus: int
    gpus: int
    ray: Any
    """The module, for what is not wrapped here."""
    remote: Any
    """``_run`` as Ray's function, made once: each one made is sent to the cluster and kept there."""

    def submit(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        cpus: float = 1,
        gpus: float = 0,
        retries: int = RETRIES,
    ) -> Call:
        """Send off ``function(*arguments)``, which runs on a node with so many free cores and GPUs.

        Args:
            function: of a module of this package; picklable arguments.
            retries: how often it is started again where its worker or node is lost; what it raises is not retried.
        """
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": retries}
        return self.remote.options(**options).remote(__version__, function, arguments)

    def finished(self, calls: Sequence[Call], seconds: float) -> list[Call]:
        """Those of ``calls`` that have ended, after ``seconds`` at the latest, or as soon as one has."""
        ended, _ = self.ray.wait(list(calls), num_returns=1, timeout=seconds, fetch_local=False)
        if ended:
            ended, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=0, fetch_local=False)
        return list(ended)

    def result(self, call: Call) -> Any:
        """What the call returned, once it has ended.

        Raises what it raised, TaskLost where its worker was lost too often or the cluster has gone, and HrfrError where
        its worker cannot import this package.
        """
        exceptions = self.ray.exceptions
        try:
            return self.ray.get(call)
        except exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            said = f"{type(cause).__name__}: {cause}"
            if "ModuleNotFoundError" in said or "failed to import" in said:
                raise HrfrError(
                    f"a node of the cluster cannot import what it is to run ({said.strip().splitlines()[-1]}): install"
                    f" hrfr-fast {__version__} in the Python that runs Ray on every node"
                ) from None
            raise cause from None
        except exceptions.RayError as error:
            raise TaskLost(
                f"Ray lost a task ({type(error).__name__}: {_first_line(error)}) and gave it up (a worker out of"
                " memory? a node gone?); what is finished is kept: run the same command again to continue"
            ) from None

    def cancel(self, calls: Sequence[Call], *, force: bool = False) -> None:
        """Take back calls that have not ended; one that runs gets KeyboardInterrupt, or is killed with ``force``."""
        for call in calls:
            self.ray.cancel(call, force=force)


def check_on(on: str) -> None:
    """Raise UsageError where ``on`` is no cluster of this form, or Ray is not installed."""
    _address(on)
    _require_ray()


@contextmanager
def connect(on: str, cpus: int = 0) -> Iterator[Cluster]:
    """The cluster ``on``, until the end of the context; one that was started here is stopped then.

    Where this process is connected already, it stays so: there is one connection a process.

    Args:
        on: "ray": this machine alone, all its cores and GPUs; "ray://auto": the cluster that this machine is a node of
            (`ray start`); "ray://HOST:PORT": another machine's, through Ray Client (port 10001 as a rule).
        cpus: how many cores a cluster that is started here gets; 0 for all.

    Raises:
        UsageError: Ray is not installed, or ``on`` has another form.
        HrfrError: no cluster there, or it has gone meanwhile.
    """
    address = _address(on)
    ray = _require_ray()
    if ray.is_initialized():
        yield _cluster(ray)
        return
    settings: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if address == "local":
        settings |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, "num_cpus": cpus or cores()}
        # This command's priority. Ray's own is nice 15: among busy processes a worker took six minutes to import torch.
        os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
    with _signal_handlers_kept():
        try:
            ray.init(address=address, **settings)
        except Exception as error:  # Ray raises plain ones, too, as for a machine too busy to start it in 30 s
            what = "Ray cannot be started here" if address == "local" else f"no Ray cluster answers at {address}"
            what += "; does it want a token (RAY_AUTH_MODE, RAY_AUTH_TOKEN)?" if address.startswith("ray://") else ""
            raise HrfrError(f"--on {on}: {what} ({_first_line(error)})") from None
    try:
        with _short_messages():
            yield _cluster(ray)
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise HrfrError(
            f"--on {on}: the connection to the cluster was lost ({_first_line(error)}); what is finished is kept: run"
            " the same command again to continue"
        ) from None
    finally:
        ray.shutdown()


def _address(on: str) -> str:
    """What Ray calls the address of ``on``: "local", "auto" or "ray://HOST:PORT"."""
    scheme, separator, place = on.partition("://")
    host, _, port = place.rpartition(":")
    if scheme != SCHEME or (separator and place != "auto" and not (host and port.isdigit())):
        raise UsageError(
            f"--on {on}: give ray (this machine), ray://auto (the cluster that this machine is a node of) or"
            " ray://HOST:10001 (another machine's)"
        )
    return "local" if not separator else place if place == "auto" else on


def _require_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise UsageError("--on ray needs Ray, which is not installed: pip install 'hrfr-fast[cluster]'") from error


def _cluster(ray: Any) -> Cluster:
    resources = ray.cluster_resources()
    return Cluster(max(1, int(resources.get("CPU", 0))), int(resources.get("GPU", 0)), ray, ray.remote(_run))


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """A context after which SIGINT and SIGTERM are handled as before: Ray takes SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _short_messages() -> Iterator[None]:
    """A context in which Ray's messages are a line each on standard error.

    Of a worker that died it prints a paragraph about its own log files on standard output, which no setting of Ray's
    changes.
    """

    def show(data: Mapping[str, Any], **_: Any) -> None:
        for message in data["lines"]:
            sentence = str(message).strip().partition(". ")[0].partition("\n")[0].rstrip(".")
            console.print(f"note: Ray says: {sentence}", markup=False, highlight=False)

    module: Any = import_module("ray._private.worker")
    shown = getattr(module, "print_to_stdstream", None)  # a version that has it elsewhere prints its own words
    module.print_to_stdstream = show
    try:
        yield
    finally:
        module.print_to_stdstream = shown


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _run(version: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """A call in a worker of the cluster."""
    if version != __version__:
        raise UsageError(
            f"the cluster has hrfr-fast {__version__}, this machine {version}: install the same version on every node"
        )
    return function(*arguments)
