"""Fetching a preset's files from the hub: the one place where MeDM uses the network for models, and only when it was told to."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from medm.errors import Unavailable
from medm.library import RECORD, record_of, sha256_of
from medm.presets import Preset, Source
from medm.progress import Progress, silent

_SUFFIXES = (".json", ".safetensors", ".txt")
"""Of files that are fetched where a source says `*`: no pickles."""


@dataclass(frozen=True)
class HubFile:
    """One file to fetch: of `repo` at `commit`, `path` there and `target` in the model's folder; `sha256` where the hub says it."""

    repo: str
    commit: str
    path: str
    target: str
    size: int
    sha256: str | None


def files_of(sources: Iterable[Source]) -> list[HubFile]:
    """What the hub has for these sources, now. Asks the hub.

    Raises:
        Unavailable: the hub cannot be reached, lacks a repository or a file, or names a file as no file may be named here.
    """
    hub = _hub()
    files = []
    for source in sources:
        try:
            found = hub.HfApi().model_info(source.repo, files_metadata=True)
        except hub.errors.HfHubHTTPError as error:  # it has answered
            raise Unavailable(f"the hub does not give {source.repo}: {_first_line(error)}") from error
        except Exception as error:  # the HTTP library's, the system's
            why = _first_line(error)
            raise Unavailable(f"the hub cannot be reached ({why}): connect, or copy the model by hand (docs/models.md)") from error
        siblings = {one.rfilename: one for one in found.siblings or []}
        for there, here in source.files:
            names = [name for name in siblings if (fnmatchcase(name, there) if there.endswith("*") else name == there)]
            names = [name for name in names if name.endswith(_SUFFIXES)]
            if not names:
                raise Unavailable(f"the hub's {source.repo} has no {there} any more; tell MeDM's makers")
            for name in names:
                if not _harmless(name):
                    raise Unavailable(f"the hub's {source.repo} has a file called {name!r}, which could land anywhere; it is not fetched")
                one = siblings[name]
                target = f"{here}/{name.rpartition('/')[2]}" if there.endswith("*") else here
                digest = one.lfs.sha256 if one.lfs is not None else None
                files.append(HubFile(source.repo, str(found.sha), name, target, int(one.size or 0), digest))
    return files


def _harmless(name: str) -> bool:
    """Whether a file's name stays in its folder on every system: Windows takes backslashes for slashes, and colons for drives."""
    return not any(sign in name for sign in "\\:") and name.isprintable() and not {"", ".", ".."} & set(name.split("/"))


def missing_of(files: Iterable[HubFile], folder: Path) -> list[HubFile]:
    """Those of the files that are not in `folder` yet as the hub has them now.

    Whether they are is told by their size, and by what was noted when they were pulled: the digest, or where the hub says none the commit.
    Of files that were copied by hand without a note the size has to do.
    """
    record = record_of(folder)
    return [file for file in files if not _present(file, folder / file.target, record.get(file.target))]


def _present(file: HubFile, here: Path, noted: Mapping[str, Any] | None) -> bool:
    if not here.is_file() or here.stat().st_size != file.size:
        return False
    if noted is None:
        return True
    return bool(noted.get("sha256") == file.sha256 if file.sha256 else noted.get("commit") == file.commit)


def fetch(preset: Preset, files: list[HubFile], progress: Progress = silent) -> None:
    """Fetches what is missing of `files` into the preset's folder. What is broken off goes on where it was when called again.

    A file has its name in the folder only once it is whole and its digest right.

    Raises:
        Unavailable: the hub cannot be reached, a file came damaged, or the disk has no room.
    """
    hub = _hub()
    folder = preset.folder
    wanted = missing_of(files, folder)
    total = sum(file.size for file in wanted)
    aside = folder.parent / ".pulling" / preset.name
    try:
        aside.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(aside).free
        if total > free:
            raise Unavailable(f"{preset.name} needs {total / 1e9:.1f} GB more, and {folder.parent} has {free / 1e9:.1f} GB free")
        done = 0
        for file in wanted:
            progress(done / max(total, 1), file.target)
            arrived = aside / f"{file.commit[:12]}-{file.target.replace('/', '-')}"
            try:
                _download(hub, file, arrived)
            except Exception as error:
                raise Unavailable(f"{file.repo}/{file.path} did not arrive: {_first_line(error)}; pull again to go on") from error
            if file.sha256 and sha256_of(arrived) != file.sha256:
                arrived.unlink()
                raise Unavailable(f"{file.repo}/{file.path} arrived damaged; pull again")
            (folder / file.target).parent.mkdir(parents=True, exist_ok=True)
            arrived.replace(folder / file.target)
            _note(folder, file)
            done += file.size
    except OSError as error:
        raise Unavailable(f"{preset.name} cannot be written to {folder}: {error.strerror or error}") from error
    shutil.rmtree(aside, ignore_errors=True)
    progress(1.0, "done")


def _download(hub: Any, file: HubFile, target: Path) -> None:
    """Goes on at the end of what `target` holds already, which hf_hub_download does only within one run."""
    from huggingface_hub.file_download import http_get

    url = hub.hf_hub_url(file.repo, file.path, revision=file.commit)
    with target.open("ab") as stream:
        if stream.tell() > file.size:
            stream.truncate(0)
        there = target.stat().st_size
        http_get(
            url, stream, resume_size=there, headers=hub.utils.build_hf_headers(), expected_size=file.size, displayed_filename=file.target
        )


def _note(folder: Path, file: HubFile) -> None:
    """Adds a file that has just been fetched to the folder's record: of no other is it known to be what the hub has now."""
    noted = {"repo": file.repo, "path": file.path, "commit": file.commit, "size": file.size, "sha256": file.sha256}
    part = folder / f"{RECORD}.part"
    part.write_text(json.dumps({"files": {**record_of(folder), file.target: noted}}, indent=1) + "\n", encoding="utf-8")
    part.replace(folder / RECORD)


def _hub() -> Any:
    """huggingface_hub, quiet about itself; it reads its settings from the environment when it is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import huggingface_hub
    import huggingface_hub.constants

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise Unavailable("HF_HUB_OFFLINE is set, which forbids to fetch anything; unset it to pull models")
    return huggingface_hub


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
