"""Where the server keeps shots, jobs and takes, so that they outlive it: SQLite for what is known, folders for the files.

    <store>/medm.sqlite3          shots, files, jobs (write-ahead log)
    <store>/shots/<id>/           shot.json and the files it lists, once they have arrived whole
    <store>/jobs/<id>/shot/       the shot as it was when the job was submitted (hard links), while the job is not finished
    <store>/jobs/<id>/preview.jpg what it has made so far, small, while it runs
    <store>/jobs/<id>/take/       what the job made; `take.part` while it is being made
    <store>/uploads/<sha256>      files of shots that are not known yet; removed when a shot has taken them, or after a day
    <store>/models/               diffusers folders that the server's owner put there, for jobs to name
    <store>/incoming/             files that are still arriving; emptied at every start
    <store>/server.json ...       how the programs of this machine find the server, see sharing.py

Every file is written aside and renamed. One process at a time owns a store: the one that serves. All methods may be called from
any of its threads.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, cast

from medm.errors import BadInput, Cancelled, Unavailable
from medm.service.documents import files_of_manifest

State = Literal["queued", "running", "done", "failed", "cancelled"]
FINISHED: tuple[State, ...] = ("done", "failed", "cancelled")

PREVIEW = "preview.jpg"
UPLOAD_LIFE = 24 * 3600.0
"""Seconds that a file waits for its shot: longer than a shot takes to render that is being watched."""
_TIDY = 600.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS shots (id TEXT PRIMARY KEY, manifest TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS shot_files (
    shot TEXT NOT NULL REFERENCES shots, path TEXT NOT NULL, size INTEGER, sha256 TEXT, PRIMARY KEY (shot, path));
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, shot TEXT NOT NULL REFERENCES shots, settings TEXT NOT NULL,
    state TEXT NOT NULL, progress REAL NOT NULL DEFAULT 0, phase TEXT NOT NULL DEFAULT '', cancel INTEGER NOT NULL DEFAULT 0,
    error_code TEXT, error_message TEXT, created REAL NOT NULL, started REAL, finished REAL);
CREATE TABLE IF NOT EXISTS take_files (
    job TEXT NOT NULL REFERENCES jobs (id), path TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (job, path));
"""
_SCHEMA_VERSION = 1
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no EDQUOT


@dataclass(frozen=True)
class StoredFile:
    """A file that is there whole: its place, its size in bytes, the hex SHA-256 of its content."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class Job:
    """One take that is to be made, is being made, or was made. Times are seconds since the epoch."""

    id: str
    shot: str
    settings: dict[str, Any]
    state: State
    progress: float
    phase: str
    cancel: bool
    error: dict[str, str] | None
    created: float
    started: float | None
    finished: float | None

    @property
    def is_finished(self) -> bool:
        """Whether the job will not change any more."""
        return self.state in FINISHED

    def document(self) -> dict[str, Any]:
        """What the HTTP API says of the job."""
        return {
            "id": self.id,
            "shot": self.shot,
            "settings": self.settings,
            "state": self.state,
            "progress": self.progress,
            "phase": self.phase,
            "error": self.error,
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
        }


class Incoming:
    """A file that is arriving, written aside; `keep` renames it to its place, leaving the `with` block without that removes it.

    Unavailable where the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / secrets.token_hex(16)
        with _naming_a_full_disk():
            self._file: BinaryIO = self._path.open("xb")
        self._digest = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # on a full disk even closing may fail; what was to be kept was sealed before
            self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, block: bytes) -> None:
        """Appends a block."""
        with _naming_a_full_disk():
            self._file.write(block)
        self._digest.update(block)
        self.size += len(block)

    @property
    def sha256(self) -> str:
        """Hex digest of what has arrived so far."""
        return self._digest.hexdigest()

    def seal(self) -> None:
        """Makes sure that all of it is on the disk."""
        with _naming_a_full_disk():
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()

    def keep(self, place: Path) -> None:
        """Renames the sealed file to `place`, replacing what was there."""
        with _naming_a_full_disk():
            place.parent.mkdir(parents=True, exist_ok=True)
            self._path.replace(place)


class Store:
    """The server's memory. Unavailable if the folder cannot be written or another server works in it; any method, if its disk is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self._tidied = 0.0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._ownership = _own(folder)
            self._database = sqlite3.connect(folder / "medm.sqlite3", check_same_thread=False, isolation_level=None)
            self._database.row_factory = sqlite3.Row
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"the server's folder {folder} cannot be used: {error}") from error
        self._lock = threading.RLock()

    def _prepare(self) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA_VERSION):
            raise Unavailable(f"the server's folder {self.folder} was written by another version of MeDM; choose another with --store")
        self._database.executescript(f"{_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION};")
        # What ran when the last server stopped starts anew: rendering keeps no half-made state.
        for row in self._database.execute("SELECT id FROM jobs WHERE state = 'running' AND cancel").fetchall():
            self._database.execute("UPDATE jobs SET state = 'cancelled', finished = ? WHERE id = ?", (time.time(), row["id"]))
            self._clear(row["id"])
        self._database.execute("UPDATE jobs SET state = 'queued', progress = 0, phase = '', started = NULL WHERE state = 'running'")
        shutil.rmtree(self.folder / "incoming", ignore_errors=True)
        for name in ("incoming", "shots", "jobs", "uploads", "models"):
            (self.folder / name).mkdir(exist_ok=True)
        self._remove_stale_uploads()

    def close(self) -> None:
        """Lets go of the store, so that another server may open it."""
        with self._lock:
            self._database.close()
            self._ownership.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _naming_a_full_disk():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # SQLite may have rolled back by itself
                    self._database.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    def incoming(self) -> Incoming:
        """A place aside for a file that is about to arrive."""
        return Incoming(self.folder / "incoming")

    def disk_free_gb(self) -> float | None:
        """What is left of the store's disk, in 10^9 bytes; None if that cannot be told."""
        try:
            return round(shutil.disk_usage(self.folder).free / 1e9, 1)
        except OSError:
            return None

    # Shots

    def add_shot(self, manifest: Any) -> str:
        """Keeps a shot.json and returns the shot's id, which is the same for the same document: so an upload can be resumed."""
        paths = files_of_manifest(manifest)
        text = json.dumps(manifest, sort_keys=True, indent=1)
        shot = hashlib.sha256(text.encode()).hexdigest()[:32]
        with self.incoming() as file:
            file.write(text.encode())
            file.seal()
            file.keep(self.folder / "shots" / shot / "shot.json")
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO shots VALUES (?, ?, ?)", (shot, text, time.time()))
            database.executemany("INSERT OR IGNORE INTO shot_files (shot, path) VALUES (?, ?)", [(shot, path) for path in paths])
        return shot

    def manifest(self, shot: str) -> dict[str, Any] | None:
        """The shot.json of a shot; None if there is no such shot."""
        rows = self._rows("SELECT manifest FROM shots WHERE id = ?", shot)
        return cast(dict[str, Any], json.loads(rows[0]["manifest"])) if rows else None

    def lists(self, shot: str, path: str) -> bool:
        """Whether the shot's manifest lists a file of that name."""
        return bool(self._rows("SELECT 1 FROM shot_files WHERE shot = ? AND path = ?", shot, path))

    def shot_file(self, shot: str, path: str) -> StoredFile | None:
        """A file of a shot; None while it has not arrived."""
        rows = self._rows("SELECT size, sha256 FROM shot_files WHERE shot = ? AND path = ? AND sha256 IS NOT NULL", shot, path)
        place = self.folder / "shots" / shot / path
        if not rows or not _is_there(place, rows[0]["size"]):
            return None
        return StoredFile(place, rows[0]["size"], rows[0]["sha256"])

    def keep_shot_file(self, shot: str, path: str, file: Incoming) -> None:
        """Puts an arrived file into its shot; the manifest must list it."""
        file.seal()
        with self._transaction() as database:
            file.keep(self.folder / "shots" / shot / path)
            values = (file.size, file.sha256, shot, path)
            database.execute("UPDATE shot_files SET size = ?, sha256 = ? WHERE shot = ? AND path = ?", values)

    def missing(self, shot: str) -> list[str]:
        """Files of the shot that have not arrived, in the manifest's order."""
        rows = self._rows("SELECT path, size, sha256 FROM shot_files WHERE shot = ? ORDER BY rowid", shot)
        folder = self.folder / "shots" / shot
        return [row["path"] for row in rows if row["sha256"] is None or not _is_there(folder / row["path"], row["size"])]

    def keep_upload(self, file: Incoming) -> None:
        """Keeps an arrived file for a shot that is not known yet; `adopt` puts it there."""
        file.seal()
        file.keep(self.folder / "uploads" / file.sha256)
        if time.time() - self._tidied > _TIDY:
            self._remove_stale_uploads()

    def adopt(self, shot: str, files: Mapping[str, str]) -> list[str]:
        """Makes files of a shot those of the given digests, where they were uploaded; returns which of them the shot still lacks.

        files: hex SHA-256 by path. BadInput for a path that the shot's manifest does not list; then nothing was changed.
        """
        listed = {row["path"]: row for row in self._rows("SELECT path, size, sha256 FROM shot_files WHERE shot = ?", shot)}
        for path in files:
            if path not in listed:
                raise BadInput(f"the shot lists no file {path!r}")
        folder, missing, used = self.folder / "shots" / shot, [], set[Path]()
        for path, digest in files.items():
            if listed[path]["sha256"] == digest and _is_there(folder / path, listed[path]["size"]):
                continue
            upload, aside = self.folder / "uploads" / digest, self.folder / "incoming" / secrets.token_hex(16)
            try:
                with _naming_a_full_disk(), self._transaction() as database:
                    _link(os.fspath(upload), os.fspath(aside))  # two files of a shot may be the same picture
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    size = aside.stat().st_size
                    aside.replace(folder / path)
                    database.execute("UPDATE shot_files SET size = ?, sha256 = ? WHERE shot = ? AND path = ?", (size, digest, shot, path))
                used.add(upload)
            except FileNotFoundError:
                missing.append(path)
            finally:
                aside.unlink(missing_ok=True)
        for upload in used:
            with contextlib.suppress(OSError):
                upload.unlink()
        return missing

    def _remove_stale_uploads(self) -> None:
        """Removes what was sent for a shot that never came."""
        self._tidied = time.time()
        for upload in (self.folder / "uploads").iterdir():
            with contextlib.suppress(OSError):
                if self._tidied - upload.stat().st_mtime > UPLOAD_LIFE:
                    upload.unlink()

    # Jobs

    def add_job(self, shot: str, settings: Mapping[str, Any]) -> Job:
        """Queues a job on a shot whose files are all there; it keeps the files as they are now, whatever is uploaded later."""
        missing = self.missing(shot)
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise BadInput(f"the shot is not complete on the server; missing: {', '.join(missing[:3])}{more}")
        job = secrets.token_hex(16)
        snapshot = self.folder / "jobs" / job / "shot"
        source = self.folder / "shots" / shot
        try:
            with _naming_a_full_disk():
                shutil.copytree(source, snapshot, copy_function=_link)
            with self._transaction() as database:
                values = (job, shot, json.dumps(settings), "queued", time.time())
                database.execute("INSERT INTO jobs (id, shot, settings, state, created) VALUES (?, ?, ?, ?, ?)", values)
        except BaseException:
            shutil.rmtree(snapshot.parent, ignore_errors=True)
            raise
        return cast(Job, self.job(job))

    def job(self, job: str) -> Job | None:
        """The job of that id, or None."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ?", job)
        return _job(rows[0]) if rows else None

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        return [_job(row) for row in self._rows("SELECT * FROM jobs ORDER BY number")]

    def has_work(self) -> bool:
        """Whether a job is queued or running."""
        return bool(self._rows("SELECT 1 FROM jobs WHERE state IN ('queued', 'running') LIMIT 1"))

    def start_next(self) -> Job | None:
        """Takes the oldest queued job and marks it running."""
        with self._transaction() as database:
            row = database.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY number LIMIT 1").fetchone()
            if row is None:
                return None
            database.execute("UPDATE jobs SET state = 'running', started = ?, progress = 0 WHERE id = ?", (time.time(), row["id"]))
        return self.job(row["id"])

    def set_progress(self, job: str, fraction: float, phase: str) -> None:
        """Notes how far (0 to 1) a running job is, and with what."""
        fraction = min(max(fraction, 0.0), 1.0)
        with self._transaction() as database:
            database.execute("UPDATE jobs SET progress = ?, phase = ? WHERE id = ? AND state = 'running'", (fraction, phase, job))

    def cancel(self, job: str) -> None:
        """A queued job is cancelled at once, a running one is asked to stop, a finished one stays as it is."""
        with self._transaction() as database:
            database.execute("UPDATE jobs SET cancel = 1 WHERE id = ? AND state = 'running'", (job,))
            values = (time.time(), job)
            cancelled = database.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ? WHERE id = ? AND state = 'queued'", values
            ).rowcount
        if cancelled:
            self._clear(job)

    def fail(self, job: str, code: str, message: str) -> None:
        """Ends a running job that could not be done; code `cancelled` where the user asked for that."""
        state: State = "cancelled" if code == Cancelled.code else "failed"
        error = (None, None) if state == "cancelled" else (code, message)
        with self._transaction() as database:
            values = (state, *error, time.time(), job)
            database.execute("UPDATE jobs SET state = ?, error_code = ?, error_message = ?, finished = ? WHERE id = ?", values)
        self._clear(job)

    def keep_take(self, job: str, files: list[tuple[str, int, str]]) -> None:
        """Puts the take in its place and ends the job as done. `files`: (path in the take, size in bytes, hex SHA-256) of each."""
        folder = self.folder / "jobs" / job
        with self._transaction() as database:
            (folder / "take.part").replace(folder / "take")
            database.executemany("INSERT INTO take_files VALUES (?, ?, ?, ?)", [(job, *file) for file in files])
            database.execute("UPDATE jobs SET state = 'done', progress = 1, finished = ? WHERE id = ?", (time.time(), job))
        self._clear(job)

    def _clear(self, job: str) -> None:
        """Removes what a finished job needs no more: its snapshot of the shot and what is half made."""
        for name in (PREVIEW, f"{PREVIEW}.part"):
            with contextlib.suppress(OSError):
                (self.folder / "jobs" / job / name).unlink(missing_ok=True)
        for name in ("shot", "take.part"):
            shutil.rmtree(self.folder / "jobs" / job / name, ignore_errors=True)

    def take_files(self, job: str) -> dict[str, StoredFile]:
        """What a job has made, by path; empty until it is done."""
        rows = self._rows("SELECT path, size, sha256 FROM take_files WHERE job = ? ORDER BY path", job)
        take = self.folder / "jobs" / job / "take"
        return {row["path"]: StoredFile(take / row["path"], row["size"], row["sha256"]) for row in rows}

    def preview(self, job: str) -> bytes | None:
        """A JPEG picture of what a running job has made so far; None while there is none."""
        try:
            return (self.folder / "jobs" / job / PREVIEW).read_bytes()
        except OSError:
            return None

    def work_folders(self, job: str) -> tuple[Path, Path]:
        """Where the worker finds the job's shot, and the folder, not there yet, that it makes the take in."""
        folder = self.folder / "jobs" / job
        for name in ("take.part", "take"):  # left by a server that was killed
            if (folder / name).exists():
                shutil.rmtree(folder / name)
        (folder / PREVIEW).unlink(missing_ok=True)
        return folder / "shot", folder / "take.part"


def _own(folder: Path) -> sqlite3.Connection:
    """Holds the store until closed; the operating system lets go of it when the process dies, however it dies."""
    lock = sqlite3.connect(folder / "owner.lock", timeout=0, check_same_thread=False, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" not in str(error):
            raise
        raise Unavailable(f"another MeDM server works in {folder}; stop it, or choose another folder with --store") from error
    return lock


@contextlib.contextmanager
def _naming_a_full_disk() -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        code = error.errno if isinstance(error, OSError) else error.sqlite_errorcode
        if code not in (_FULL if isinstance(error, OSError) else (sqlite3.SQLITE_FULL,)):
            raise
        raise Unavailable("the server's disk is full; make room there and try again") from error


def _is_there(place: Path, size: int) -> bool:
    try:
        return place.stat().st_size == size
    except OSError:
        return False


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _job(row: sqlite3.Row) -> Job:
    return Job(
        id=row["id"],
        shot=row["shot"],
        settings=json.loads(row["settings"]),
        state=row["state"],
        progress=row["progress"],
        phase=row["phase"],
        cancel=bool(row["cancel"]),
        error={"code": row["error_code"], "message": row["error_message"]} if row["error_code"] else None,
        created=row["created"],
        started=row["started"],
        finished=row["finished"],
    )
