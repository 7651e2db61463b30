"""Where a study is kept: a file that several processes append to, or a database that several hosts reach.

Below `study`: it opens the store, gives one worker at a time its turn, and takes back trials whose worker is gone.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import LabError

if TYPE_CHECKING:
    import optuna

BEAT, GONE = 5, 20  # seconds between two heartbeats, and without one until a worker is taken for dead
LOCK = 0x1AB09  # the number of PostgreSQL's advisory lock; a study's own is added


def import_optuna():
    """Optuna without its notes about what is experimental.

    Raises:
        LabError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise LabError("optuna is not installed, and a search needs it", todo="Run `pip install optuna`") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextmanager
def hushed() -> Iterator[None]:
    """Keep Optuna's warnings of experimental features out of a notebook's output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Store:
    """One study in a file, or in a database.

    A file is Optuna's journal: every change is a line that is appended, so a process that is killed leaves the lines
    of the others whole. A worker on this host is alive where its process is. A database keeps heartbeats: a worker
    that has given none for GONE seconds is taken for dead, wherever it ran.

    Args:
        place: a file's path, or an address such as postgresql+psycopg://user@host/name.
        name: of the study; a database holds many.

    Raises:
        LabError: the file holds something else, the folder can't be written, or the database does not answer.
    """

    def __init__(self, place: str | Path, name: str = "study"):
        self.place, self.name, self.optuna = str(place), name, import_optuna()
        self.is_file = "://" not in self.place
        with hushed():
            self.storage = self._journal() if self.is_file else self._database()

    def _journal(self):
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        file = Path(self.place)
        if file.is_dir():
            raise LabError("this is a folder", where=self.place, expected="a file, made anew or left by a study")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.is_file() and file.stat().st_size:  # it is appended to, so look before writing
                with file.open("rb") as lines:
                    json.loads(lines.readline())["op_code"]
            backend = JournalFileBackend(self.place, JournalFileOpenLock(self.place))
            storage = self.optuna.storages.JournalStorage(backend)
            storage.get_all_studies()  # reads what is there
            return storage
        except OSError as error:
            raise LabError(f"cannot be written here ({error.strerror})", where=self.place,
                           todo="Choose another file") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LabError("this is no study", where=self.place, expected="a file that a study left",
                           todo="Choose another file; this one stays as it is") from error

    def _database(self):
        def opened():
            return self.optuna.storages.RDBStorage(self.place, heartbeat_interval=BEAT, grace_period=GONE,
                                                   heartbeat_stale_trial_callback=wait_again)

        try:
            try:
                return opened()
            except Exception as error:
                if "exist" not in str(error) and "duplicate" not in str(error):
                    raise
                time.sleep(1)  # two hosts made the tables at the same moment: by now they are there
                return opened()
        except ImportError as error:
            raise LabError(f"a driver for this database is missing ({error})", where=self._told(),
                           todo="For PostgreSQL run `pip install 'psycopg[binary]'`, and write the address with "
                                "postgresql+psycopg://") from error
        except Exception as error:  # each driver, and sqlalchemy, has a class of its own
            raise LabError(f"the database cannot be used ({str(error).strip().splitlines()[0]})", where=self._told(),
                           expected="an address such as postgresql+psycopg://user@host/name") from error

    def _told(self) -> str:
        """The address without a password."""
        head, at, tail = self.place.rpartition("@")
        scheme, _, who = head.partition("://")
        return f"{scheme}://{who.partition(':')[0]}@{tail}" if at else self.place

    # -- one at a time ------------------------------------------------------------------------------------------

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One worker at a time, on whatever host; the others wait. Freed where its holder dies."""
        if not self.is_file and self.storage.engine.dialect.name == "postgresql":
            from sqlalchemy import text

            with self.storage.engine.connect() as connection:
                for setting in ("idle = 10", "interval = 5", "count = 3"):  # a holder that was cut off is soon noticed
                    connection.execute(text(f"SET tcp_keepalives_{setting}"))
                connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
                try:
                    yield
                finally:
                    connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
            return
        from filelock import FileLock

        file = self.place if self.is_file else self.storage.engine.url.database  # sqlite
        with FileLock(f"{file}.turn"):
            yield

    # -- who is at work -----------------------------------------------------------------------------------------

    def claim(self, trial: optuna.Trial) -> None:
        """Say that this process works on the trial."""
        trial.set_user_attr("worker", me())
        if not self.is_file:
            self.storage.record_heartbeat(trial._trial_id)

    @contextmanager
    def beating(self, trial: optuna.Trial) -> Iterator[None]:
        """Give heartbeats while the block runs, where the store asks for them."""
        if self.is_file:
            yield
            return
        done = threading.Event()

        def beat():
            while not done.wait(BEAT):
                self.storage.record_heartbeat(trial._trial_id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def take_back(self, study: optuna.Study) -> None:
        """Trials whose worker is gone are marked as failed and wait again, with the settings that they had.

        To be called in one's turn, so that nobody takes the same one back.
        """
        with hushed():
            if not self.is_file:
                self.optuna.storages.fail_stale_trials(study)
                return
            for trial in study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.RUNNING,)):
                if not alive(trial.user_attrs.get("worker")):
                    self.again(study, trial)

    def again(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Mark a running trial as failed, and let another wait with its settings."""
        with hushed():
            try:
                study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            except (ValueError, RuntimeError):  # it was told in the meantime
                return
            wait_again(study, trial)


def wait_again(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Let a new trial wait with the settings of one that failed."""
    first = trial.user_attrs.get("retry_of", trial.number)
    study.enqueue_trial(trial.params or trial.system_attrs.get("fixed_params", {}), user_attrs={"retry_of": first})


def me() -> dict[str, Any]:
    """This process: host, number, and when it was started, since numbers are used again."""
    import psutil

    return {"host": socket.gethostname(), "pid": os.getpid(), "born": psutil.Process().create_time()}


def alive(worker: dict[str, Any] | None) -> bool:
    """Whether a worker that `me` described still runs; on another host it is given the benefit of the doubt."""
    import psutil

    if worker is None:  # it was killed between drawing a trial and saying who it is
        return False
    if worker["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(worker["pid"])
        return abs(process.create_time() - worker["born"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
