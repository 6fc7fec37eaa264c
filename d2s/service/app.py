"""The routes. FastAPI is imported when the application is made: the rest of the project does without it."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the functions below, whose types are local here.

import asyncio
import base64
import contextlib
import hashlib
import logging
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from importlib import resources
from typing import Any

from safetensors import SafetensorError

import d2s
from d2s.localization.localizer import Localizer
from d2s.service import schema
from d2s.service.catalogue import Catalogue, Load, ServedScene
from d2s.service.compute import Job, finished
from d2s.service.gate import Gate
from d2s.service.metrics import Board, Metrics, render, resident_bytes
from d2s.service.refusal import Refused, overloaded
from d2s.service.settings import ServiceSettings
from d2s.service.upkeep import SECONDS as UPKEEP_SECONDS
from d2s.service.upkeep import Upkeep
from d2s.service.uploads import MAX_FIELD_CHARACTERS, camera_for, check_header, prior_for
from d2s.service.worker import Worker

logger = logging.getLogger(__name__)

STUCK = 4.0
"""Times `answer_seconds` after which the compute thread is given up for lost."""

FIELDS = ("camera", "prior", "details")
PUBLISH_SECONDS = 1.0
MAX_MAP_POINTS = 3000


class Service:
    """What the routes share."""

    def __init__(self, settings: ServiceSettings, load: Load | None = None) -> None:
        self.settings, self.limits = settings, settings.limits
        least, effort = settings.min_confidence, settings.effort
        load = load or partial(
            Localizer.load,
            device=settings.device,
            weights=settings.weights,
            min_confidence=least,
            effort=effort.level,
            budget_ms=effort.budget_ms,
        )
        self.catalogue = Catalogue(settings.scenes, self.limits.loaded_scenes, load)
        self.worker = Worker(self.limits.queue, Upkeep())
        self.metrics = Metrics()
        self.board = None if settings.board is None else Board(settings.board)
        self.uploads = 0

    def scene(self, name: str) -> ServedScene:
        """Raises Refused (404) for a scene that is not served."""
        if name not in self.catalogue.scenes:
            raise Refused(404, f"There is no scene {name[:80]!r}.", f"Choose one of: {', '.join(self.catalogue.scenes)}.")
        return self.catalogue.scenes[name]

    def health(self) -> dict[str, Any]:
        """Raises Refused (503) when the compute thread does not come back."""
        if self.worker.busy_seconds > STUCK * self.limits.answer_seconds:
            raise Refused(503, f"An image has been computed for {self.worker.busy_seconds:.0f} s.", "Restart the service.")
        queue = {"waiting": self.worker.waiting, "capacity": self.worker.queue}
        return {
            "status": "ok",
            "version": d2s.__version__,
            "scenes": len(self.catalogue),
            "loaded": len(self.catalogue.loaded),
            "queue": queue,
        }

    def numbers(self) -> dict[str, float]:
        """The metrics of this process, gauges as of now."""
        gauges = {
            "d2s_queue_length": self.worker.waiting,
            "d2s_queue_capacity": self.worker.queue,
            "d2s_uploads": self.uploads,
            "d2s_models_loaded": len(self.catalogue.loaded),
            "d2s_resident_bytes": resident_bytes(),
            "d2s_processes": 1,
        }
        for name, value in gauges.items():
            self.metrics.set(name, float(value))
        return {**self.metrics.snapshot(), "d2s_model_loads_total": float(self.catalogue.loads)}

    @contextlib.contextmanager
    def upload(self) -> Any:
        """Room for the body of one request. Raises Refused (503) when too many are being read."""
        if self.uploads >= self.limits.uploads:
            raise overloaded(f"{self.uploads} images are being received", self.worker.retry_after)
        self.uploads += 1
        try:
            yield
        finally:
            self.uploads -= 1

    def count(self, scene: str, value: Mapping[str, Any], seconds: float) -> None:
        """Note an answer."""
        self.metrics.add("d2s_images_total", scene=scene, result="localized" if value["success"] else "failed")
        self.metrics.observe("d2s_answer_seconds", seconds, scene=scene)
        for stage, ms in value["ms"].items():
            if stage != "total":
                self.metrics.add("d2s_stage_seconds_total", ms / 1e3, scene=scene, stage=stage)

    async def tidy(self) -> None:
        """Upkeep for a service that gets no more images."""
        while True:
            await asyncio.sleep(UPKEEP_SECONDS)
            self.worker.tidy()

    async def publish(self, parent: int) -> None:
        """Leave this process's numbers where the others find them; end with the process that started it."""
        while self.board is not None:
            await asyncio.to_thread(self.board.publish, self.numbers())
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(PUBLISH_SECONDS)


def create_app(settings: ServiceSettings, load: Load | None = None) -> Gate:
    """The ASGI application. `load`: reads a model (default: `Localizer.load`). Raises InputError when a model folder is not one."""
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.exceptions import HTTPException

    service = Service(settings, load)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(service.publish(os.getppid())), asyncio.create_task(service.tidy())]
        if settings.preload:
            service.worker.submit(service.catalogue.preload)
        yield
        for task in tasks:
            task.cancel()
        service.worker.close()

    app = FastAPI(title="d2s", version=d2s.__version__, description=d2s.__doc__ or "", docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": str(error)}, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "An error of the service; its log says more."}, 500)

    page, policy = load_page()

    @app.get("/", response_class=HTMLResponse, summary="Page to try the service with")
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})

    @app.get("/healthz", summary="Whether the service can work")
    async def healthz() -> JSONResponse:
        return JSONResponse(service.health())

    @app.get("/scenes", summary="The scenes, their units, bounds and cameras")
    async def scenes() -> JSONResponse:
        loaded = service.catalogue.loaded
        return JSONResponse({"scenes": [scene.to_json(scene.name in loaded) for scene in service.catalogue]})

    @app.get("/scenes/{name}/points", summary="Points of a scene's map, to draw it")
    async def points(request: Request) -> JSONResponse:
        scene = service.scene(request.path_params["name"])
        try:
            return JSONResponse({"points": await asyncio.to_thread(scene.points, MAX_MAP_POINTS)})
        except (OSError, SafetensorError) as error:
            logger.error("the map of scene %s cannot be read: %s", scene.name, error)
            raise Refused(503, f"Scene {scene.name} cannot be read; the server's log says why.", retry_after=60.0) from None

    @app.get("/metrics", response_class=PlainTextResponse, summary="Numbers for Prometheus")
    async def metrics() -> PlainTextResponse:
        others = [] if service.board is None else await asyncio.to_thread(lambda: list(service.board.others()))  # type: ignore[union-attr]
        return PlainTextResponse(render([service.numbers(), *others]), media_type="text/plain; version=0.0.4")

    @app.post(
        "/scenes/{name}/localize",
        summary="Pose of one image",
        responses=schema.responses(),
        openapi_extra={"parameters": [schema.NAME], "requestBody": schema.REQUEST},
    )
    async def localize(request: Request) -> JSONResponse:
        return JSONResponse(await localized(service, service.scene(request.path_params["name"]), request))

    return Gate(app, settings.limits, settings.keys, service.metrics)


async def localized(service: Service, scene: ServedScene, request: Any) -> dict[str, Any]:
    """The answer to one POST; what can be refused early is refused early. Raises Refused."""
    begun = time.monotonic()
    notes = request.scope["d2s.notes"]
    notes["scene"] = scene.name
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise Refused(415, "The request is not multipart/form-data.", "Send the form fields image and camera, as curl -F does.")
    service.worker.require_room()
    with service.upload():
        data, name, fields = await read_form(request)
    size = await asyncio.to_thread(check_header, data, service.limits.pixels)
    camera, prior = camera_for(size, fields.get("camera")), prior_for(fields.get("prior"))
    job = Job(scene.name, name, data, size, camera, fields.get("details") == "1", prior)
    future = service.worker.submit(lambda: job.run(service.catalogue))
    value = await finished(future, service.limits.answer_seconds, request.is_disconnected)
    notes.update(success=value["success"], inliers=value["inliers"])
    service.count(scene.name, value, time.monotonic() - begun)
    return value


async def read_form(request: Any) -> tuple[bytes, str, dict[str, str]]:
    """Bytes and name of the image, and the text fields. Raises Refused (400, or what the gate says of the body)."""
    async with request.form(max_files=1, max_fields=len(FIELDS), max_part_size=MAX_FIELD_CHARACTERS + 1) as form:
        unknown = set(form) - {"image", *FIELDS}
        if unknown:
            raise Refused(400, f"Unknown form field {min(unknown)[:80]!r}.", f"Allowed: image, {', '.join(FIELDS)}.")
        image = form.get("image")
        if image is None or isinstance(image, str):
            problem = "no form field image" if image is None else "a form field image without a file"
            raise Refused(400, f"The request has {problem}.", "Send it as a file: curl -F image=@photo.jpg.")
        fields = {key: form[key] for key in FIELDS if key in form}
        if not all(isinstance(value, str) for value in fields.values()):
            raise Refused(400, f"The form fields {', '.join(FIELDS)} are text, not files.")
        if fields.get("details", "0") not in ("0", "1"):
            raise Refused(400, "The form field details is neither 0 nor 1.")
        return await image.read(), (image.filename or "image")[:200], fields


def load_page() -> tuple[str, str]:
    """The web page, and the policy that lets a browser run the page's own script and nothing else."""
    page = resources.files("d2s.service").joinpath("page.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    sources = f"script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; img-src blob: data:"
    return page, f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
