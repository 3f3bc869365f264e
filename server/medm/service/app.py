"""The HTTP API, version 1, for Blender, scripts and farms. It never loads torch: rendering is the worker's.

    GET  /v1/health                     {"status": "ok", "version", "worker", "device", "disk_free_gb"}
    POST /v1/stop                       {"status": "stopping"}; of a server that only its own machine reaches
    GET  /v1/models                     {"models": [{"id", "description", "licence", "memory_gb", "available"}]}
    POST /v1/settings                   settings, checked
    POST /v1/plan                       {"width", "height", "frames", "settings"} -> {"fits", "needs_gb", "free_gb", "message"}
    POST /v1/shots                      a shot.json -> {"id", "missing": [path]}; the same document gives the same id
    HEAD /v1/shots/{id}/files/{path}    200 with X-Content-SHA256 and X-Content-Size, or 404: is it there, and is it mine?
    PUT  /v1/shots/{id}/files/{path}    the file, with header X-Content-SHA256 (64 hex digits) -> {"path", "size", "sha256"}
    PUT  /v1/uploads/{sha256}           the same for a shot that is not known yet
    POST /v1/shots/{id}/adopt           {"files": {path: sha256}} -> {"missing": [path]}: puts into the shot what was sent so
    POST /v1/jobs                       {"shot", "settings": {}} -> job
    GET  /v1/jobs, /v1/jobs/{id}        {"jobs": [job]}, job
    GET  /v1/jobs/{id}/events           server-sent events, each `data: job`; ends after the job's last state
    POST /v1/jobs/{id}/cancel           job
    GET  /v1/jobs/{id}/preview          a small JPEG of what a running job has made so far, or 204
    GET  /v1/jobs/{id}/files/           {"files": [{"path", "size", "sha256"}]}: empty until the job is done
    GET  /v1/jobs/{id}/files/{path}     the file, with X-Content-SHA256

A job is {"id", "shot", "settings", "state": queued|running|done|failed|cancelled, "progress": 0..1, "phase", "remaining": null|seconds,
"error": null|{"code", "message"}, "created", "started", "finished"}. Every request carries `Authorization: Bearer TOKEN`. Errors are
`{"error": {"code", "message"}}` with a message fit to show an artist. Files are only read and written under names that a manifest or a take
lists, or under their own digest.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import medm
from medm.errors import BadInput, MedmError, Unavailable
from medm.service.device import Device
from medm.service.documents import check_fits, check_model, check_names, model_document, models_there, read_settings
from medm.service.planning import Planner
from medm.service.sharing import Sharing
from medm.service.store import Incoming, Job, Store
from medm.service.worker import Worker

MAX_FILE = 2 * 1024**3
"""Bytes of the largest file that is taken: an 8K multilayer EXR is below it."""
MAX_DOCUMENT = 64 * 1024**2
"""Bytes of the largest JSON document: a manifest of 30,000 frames is below it."""
DIGEST_HEADER = "X-Content-SHA256"
HEARTBEAT = 2.0
"""Seconds after which a quiet event stream says that it is still there."""
_TICK = 0.1
_DIGEST = re.compile("[0-9a-f]{64}")


class RequestError(Exception):
    """A request that is answered with an error other than BadInput's 400 and Unavailable's 503."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def create_app(
    store: Store, worker: Worker, token: str, hosts: frozenset[str] | None, server: Stoppable, sharing: Sharing | None = None
) -> Starlette:
    """The API over a store and its worker, which it starts and stops.

    hosts: the names (without port) that a request's Host header may carry, None for any; a loopback server that takes only its own
    names cannot be reached by a web page that rebinds its DNS name. server: what runs the API. sharing: of the server; None: it is
    shared with nobody.
    """
    api = _Api(store, worker, server, sharing, hosts is not None)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            await run_in_threadpool(worker.stop)
            await run_in_threadpool(api.planner.close)

    return Starlette(
        routes=[
            Route("/v1/health", api.health),
            Route("/v1/stop", api.stop, methods=["POST"]),
            Route("/v1/models", api.models),
            Route("/v1/settings", api.settings, methods=["POST"]),
            Route("/v1/plan", api.plan, methods=["POST"]),
            Route("/v1/shots", api.add_shot, methods=["POST"]),
            Route("/v1/shots/{shot}/files/{path:path}", api.head_shot_file, methods=["HEAD"]),
            Route("/v1/shots/{shot}/files/{path:path}", api.put_shot_file, methods=["PUT"]),
            Route("/v1/shots/{shot}/adopt", api.adopt, methods=["POST"]),
            Route("/v1/uploads/{sha256}", api.put_upload, methods=["PUT"]),
            Route("/v1/jobs", api.add_job, methods=["POST"]),
            Route("/v1/jobs", api.jobs),
            Route("/v1/jobs/{job}", api.job),
            Route("/v1/jobs/{job}/events", api.events),
            Route("/v1/jobs/{job}/cancel", api.cancel, methods=["POST"]),
            Route("/v1/jobs/{job}/preview", api.preview),
            Route("/v1/jobs/{job}/files/", api.take_files),
            Route("/v1/jobs/{job}/files/{path:path}", api.take_file),
        ],
        middleware=[Middleware(_Gate, token=token, hosts=hosts, sharing=sharing)],
        exception_handlers={RequestError: _refused, MedmError: _medm_error, HTTPException: _http_error, Exception: _defect},
        lifespan=lifespan,
    )


class Stoppable(Protocol):
    """What runs the API, seen from here."""

    @property
    def stopping(self) -> bool:
        """Whether it is about to end: then open event streams end too."""

    def stop(self) -> None:
        """Ends it soon."""


class _Gate:
    """Lets a request through that names this host and carries the token."""

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str] | None, sharing: Sharing | None) -> None:
        self._app, self._token, self._hosts, self._sharing = app, token.encode(), hosts, sharing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        host = re.sub(r":\d+$", "", headers.get("host", "")).lower()
        if self._hosts is not None and host not in self._hosts:
            return await _error(403, "wrong_host", "this server answers to its own address only")(scope, receive, send)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            return await _error(401, "wrong_token", "the server's token is missing or wrong")(scope, receive, send)
        if self._sharing is not None and (scope["method"] in ("POST", "PUT") or "/files/" in scope["path"]):
            self._sharing.used()  # asking how things are is no use: those who only watch keep no server alive
        return await self._app(scope, receive, send)


class _Api:
    """The routes. Each reads and writes the store; those that may take longer do so on a thread."""

    def __init__(self, store: Store, worker: Worker, server: Stoppable, sharing: Sharing | None, local: bool) -> None:
        self._store, self._worker, self._server, self._sharing, self._local = store, worker, server, sharing, local
        self._device = Device()
        self.planner = Planner(store.models)

    async def health(self, request: Request) -> Response:
        if self._server.stopping or (self._sharing is not None and self._sharing.ending):
            raise RequestError(503, "stopping", "the server is ending; try again")
        document = {
            "status": "ok",
            "version": medm.__version__,
            "worker": self._worker.state,
            "device": await run_in_threadpool(self._device.document),
            "disk_free_gb": await run_in_threadpool(self._store.disk_free_gb),
        }
        return JSONResponse(document)

    async def plan(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.planner.plan, await _document(request)))

    async def stop(self, request: Request) -> Response:
        if not self._local:
            raise RequestError(403, "not_local", "a server that others reach over the network is stopped on its own machine")
        self._server.stop()
        return JSONResponse({"status": "stopping"}, 202)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"models": [model_document(preset) for preset in models_there(self._store.models)]})

    async def settings(self, request: Request) -> Response:
        """Refuses settings that no shot could be painted with, so that a client finds out before it renders one."""
        settings = read_settings(await _document(request))
        check_model(settings.model, self._store.models)
        check_names(settings, self._store.models)
        return JSONResponse({"settings": settings.model_dump(mode="json")})

    async def add_shot(self, request: Request) -> Response:
        manifest = await _document(request)
        shot = await run_in_threadpool(self._store.add_shot, manifest)
        return JSONResponse({"id": shot, "missing": self._store.missing(shot)}, 201)

    async def head_shot_file(self, request: Request) -> Response:
        file = self._store.shot_file(request.path_params["shot"], request.path_params["path"])
        if file is None:
            return Response(status_code=404)
        return Response(headers={DIGEST_HEADER: file.sha256, "X-Content-Size": str(file.size)})

    async def put_shot_file(self, request: Request) -> Response:
        shot, path = request.path_params["shot"], request.path_params["path"]
        if not self._store.lists(shot, path):
            raise RequestError(404, "not_found", f"the server knows no shot {shot} that lists a file {path!r}")
        promised = request.headers.get(DIGEST_HEADER, "").lower()
        if not _DIGEST.fullmatch(promised):
            raise BadInput(f"an upload needs the file's SHA-256 as 64 hex digits in the header {DIGEST_HEADER}")
        return await self._receive(request, path, promised, partial(self._store.keep_shot_file, shot, path))

    async def put_upload(self, request: Request) -> Response:
        """Takes a file of a shot that is not known yet, because it is still being rendered."""
        promised = request.path_params["sha256"]
        if not _DIGEST.fullmatch(promised):
            raise BadInput("an upload is named by the file's SHA-256, 64 hex digits")
        return await self._receive(request, promised, promised, self._store.keep_upload)

    async def _receive(self, request: Request, path: str, promised: str, keep: Callable[[Incoming], None]) -> Response:
        """Takes the file in a request's body, of the digest that was promised, and has it kept."""
        too_large = RequestError(413, "too_large", f"{path} is larger than {MAX_FILE // 1024**2} MiB, the most that this server takes")
        if int(request.headers.get("content-length", "0")) > MAX_FILE:
            raise too_large
        try:
            with self._store.incoming() as file:
                async for block in request.stream():
                    if file.size + len(block) > MAX_FILE:
                        raise too_large
                    file.write(block)
                if file.sha256 != promised:
                    raise RequestError(400, "digest_mismatch", f"{path} arrived damaged; send it again")
                await run_in_threadpool(keep, file)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        return JSONResponse({"path": path, "size": file.size, "sha256": file.sha256}, 201)

    async def adopt(self, request: Request) -> Response:
        """Puts into a shot what was sent before the shot was known."""
        shot, order = request.path_params["shot"], await _document(request)
        files = order.get("files") if isinstance(order, Mapping) else None
        if not isinstance(files, Mapping) or not all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in files.values()):
            raise BadInput('files are adopted with {"files": {path: the file\'s SHA-256, 64 hex digits}}')
        if self._store.manifest(shot) is None:
            raise RequestError(404, "not_found", f"the server knows no shot {shot!r}")
        return JSONResponse({"missing": await run_in_threadpool(self._store.adopt, shot, dict(files))})

    async def add_job(self, request: Request) -> Response:
        order = await _document(request)
        if not isinstance(order, Mapping) or not isinstance(order.get("shot"), str) or not set(order) <= {"shot", "settings"}:
            raise BadInput('a job is {"shot": the id of a shot, "settings": {...}}')
        manifest = self._store.manifest(order["shot"])
        if manifest is None:
            raise RequestError(404, "not_found", f"the server knows no shot {order['shot']!r}")
        settings = read_settings(order.get("settings", {}))
        check_fits(manifest, settings)
        check_model(settings.model, self._store.models)
        check_names(settings, self._store.models)
        job = await run_in_threadpool(self._store.add_job, order["shot"], settings.model_dump(mode="json"))
        self._worker.wake()
        return JSONResponse(self._told(job), 201)

    async def jobs(self, request: Request) -> Response:
        return JSONResponse({"jobs": [self._told(job) for job in self._store.jobs()]})

    async def job(self, request: Request) -> Response:
        return JSONResponse(self._told(self._job(request)))

    async def cancel(self, request: Request) -> Response:
        await run_in_threadpool(self._store.cancel, self._job(request).id)
        return JSONResponse(self._told(self._job(request)))

    async def events(self, request: Request) -> Response:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._states(self._job(request)), media_type="text/event-stream", headers=headers)

    async def _states(self, job: Job) -> AsyncIterator[str]:
        """Every state of a job that differs from the one before, until its last; the web framework closes it when the client leaves."""
        yield _event(self._told(job))
        quiet = 0.0
        while not job.is_finished and not self._server.stopping:
            await asyncio.sleep(_TICK)
            now = self._store.job(job.id)
            if now is None:
                return
            quiet += _TICK
            if now != job:
                yield _event(self._told(now))
                job, quiet = now, 0.0
            elif quiet >= HEARTBEAT:
                yield ": still here\n\n"
                quiet = 0.0

    async def take_files(self, request: Request) -> Response:
        files = self._store.take_files(self._job(request).id)
        return JSONResponse({"files": [{"path": path, "size": file.size, "sha256": file.sha256} for path, file in files.items()]})

    async def take_file(self, request: Request) -> Response:
        path = request.path_params["path"]
        file = self._store.take_files(self._job(request).id).get(path)
        if file is None or not file.path.is_file():
            raise RequestError(404, "not_found", f"the job has made no file {path!r}")
        return FileResponse(file.path, headers={DIGEST_HEADER: file.sha256})

    async def preview(self, request: Request) -> Response:
        job = self._job(request)
        picture = None if job.is_finished else await run_in_threadpool(self._store.preview, job.id)
        headers = {"Cache-Control": "no-store"}
        return Response(status_code=204, headers=headers) if picture is None else Response(picture, 200, headers, "image/jpeg")

    def _told(self, job: Job) -> dict[str, Any]:
        """What is said of a job."""
        return {**job.document(), "remaining": self._worker.remaining(job.id)}

    def _job(self, request: Request) -> Job:
        job = self._store.job(request.path_params["job"])
        if job is None:
            raise RequestError(404, "not_found", f"the server knows no job {request.path_params['job']!r}")
        return job


async def _document(request: Request) -> Any:
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > MAX_DOCUMENT:
            raise RequestError(413, "too_large", f"the document is larger than {MAX_DOCUMENT // 1024**2} MiB")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the request is not JSON: {error}") from error


def _event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document)}\n\n"


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _error(error.status, error.code, error.message)


async def _medm_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MedmError)
    return _error(503 if isinstance(error, Unavailable) else 400, error.code, str(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    message = {404: f"There is nothing at {request.url.path}.", 405: f"{request.url.path} does not take {request.method}."}
    return _error(error.status_code, code, message.get(error.status_code, error.detail), error.headers)


async def _defect(request: Request, error: Exception) -> Response:
    return _error(500, "internal", "the server failed by an error of its own; its log says more")
