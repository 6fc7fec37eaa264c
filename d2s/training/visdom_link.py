"""The connection to a Visdom server, which may go away and come back at any time."""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from io import BytesIO
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from d2s.errors import InputError
from d2s.training.validation_view import ValidationView
from d2s.training.visdom_windows import (
    CURVES,
    HEIGHT,
    KEYPOINTS_WINDOW,
    NAMES,
    POINTS_WINDOW,
    CurveWindow,
    Windows,
    columns,
    curve_options,
    points_groups,
    points_options,
)

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""A server that takes longer than this to answer counts as gone."""

RETRY_SECONDS = 10.0
"""Pause before a server that is gone is asked again."""

LOOK_SECONDS = 5.0
"""Pause between two looks whether the server still has the environment, while there is nothing to send."""

LOGIN = {"username": "VISDOM_USERNAME", "password": "VISDOM_PASSWORD"}

CURVE_OF = {window.name: window for window in CURVES}


class VisdomLink:
    """Sends windows into one environment. Raises InputError where no server answers at first; later it waits for the server's return."""

    def __init__(self, environment: str, server: str, port: int) -> None:
        self.environment, self.server, self.port = environment.replace("/", "_"), server, port
        require_server(server, port)
        self._warn_of_broken_page()
        self._make_client = _client_class()
        self._client: Any = None
        self._gone, self._next_try, self._next_look = False, 0.0, 0.0

    @property
    def page(self) -> str:
        """Address of the environment for a browser."""
        return f"{self.server}:{self.port}/env/{quote(self.environment)}"

    def _warn_of_broken_page(self) -> None:
        """Its curves arrive, but nobody would see them: from 6.6 on, tornado refuses the style sheet that Visdom's page names."""
        try:
            urllib.request.urlopen(self.page, timeout=ANSWER_SECONDS).close()
        except urllib.error.HTTPError as error:
            if error.code == 403:
                remedy = "Where the server runs: pip install 'tornado<6.6', and start it again"
                logger.warning("The page %s cannot be opened (%s). %s.", self.page, error, remedy)
        except (OSError, HTTPException):
            return  # `send` will notice

    def send(self, windows: Windows, save: bool = False, now: bool = False) -> bool:
        """Send the windows that have changed, and let the server save the environment; False when it is gone.

        A server that is gone is asked again every RETRY_SECONDS, or at once with `now`. When it is back it gets all windows.
        """
        if self._gone and time.monotonic() < self._next_try and not now:
            return False
        if not (self._gone or windows.changed or save or now) and time.monotonic() < self._next_look:
            return True
        try:
            self._ready(windows)
            for name in windows.names():
                if name in windows.changed:
                    self._send_window(name, windows)
                    windows.changed.discard(name)
            if save:
                self._client.save([self.environment])
            if self._gone:
                self._gone = False
                logger.info("Visdom is back, and has everything.")
        except (OSError, HTTPException, ValueError, RuntimeError) as error:  # RuntimeError: visdom's word for a refused login
            self._lost(error)
            return False
        return True

    def _ready(self, windows: Windows) -> None:
        """Connect where that is needed. A server that does not have the environment (any more) gets all windows."""
        self._next_look = time.monotonic() + LOOK_SECONDS
        if self._client is not None and self.environment in self._client.get_env_list():
            return
        self._client = self._make_client(
            server=self.server, port=self.port, env=self.environment, raise_exceptions=True, use_incoming_socket=False, **_login()
        )
        windows.resend()
        for name in NAMES:  # of an earlier run of this name
            if name not in windows.changed:
                self._client.close(win=name)

    def _lost(self, error: Exception) -> None:
        """The connection is made anew, and everything is sent again, once the server answers."""
        self._client, self._next_try = None, time.monotonic() + RETRY_SECONDS
        if not self._gone:
            self._gone = True
            why = error if isinstance(error, RuntimeError) else type(error).__name__
            logger.warning("Visdom is gone (%s). It is tried again; metrics.jsonl has every value.", why)

    def _send_window(self, name: str, windows: Windows) -> None:
        if name in CURVE_OF:
            self._send_curves(CURVE_OF[name], windows)
        elif windows.view is not None:
            {POINTS_WINDOW: self._send_points, KEYPOINTS_WINDOW: self._send_keypoints}[name](windows.view, windows.epoch)

    def _send_curves(self, window: CurveWindow, windows: Windows) -> None:
        traces = windows.traces(window)
        steps, values = columns(curve for _, curve in traces)
        options = curve_options(window, [trace for trace, _ in traces], windows.label(window))
        self._client.line(X=steps, Y=values if len(traces) > 1 else values[:, 0], win=window.name, opts=options)

    def _send_points(self, view: ValidationView, epoch: int) -> None:
        groups = points_groups(view)
        points = np.concatenate([group[3] for group in groups])
        kinds = np.repeat(np.arange(len(groups)) + 1, [len(group[3]) for group in groups])
        self._client.scatter(X=points, Y=kinds, win=POINTS_WINDOW, opts=points_options(view, groups))

    def _send_keypoints(self, view: ValidationView, epoch: int) -> None:
        pixels = np.asarray(Image.open(BytesIO(view.picture.tobytes())).convert("RGB"))
        caption = f"epoch {epoch}: {view.kept} of {view.extracted} keypoints are reliable (green), the others not (red)"
        options = {
            "title": f"{KEYPOINTS_WINDOW}: keypoints of {view.image}", "caption": caption, "jpgquality": 85,
            "width": round(1.5 * HEIGHT * pixels.shape[1] / pixels.shape[0]), "height": round(1.5 * HEIGHT),
        }  # fmt: skip
        self._client.image(pixels.transpose(2, 0, 1), win=KEYPOINTS_WINDOW, opts=options)


def _client_class() -> Any:
    """Visdom's client that waits for ANSWER_SECONDS only, and raises ConnectionError when the server refuses."""
    try:
        import visdom
    except ImportError:
        raise InputError("Visdom is not installed.", "pip install visdom, or train with --visdom off.") from None
    logging.getLogger("visdom").setLevel(logging.ERROR)  # it warns of a new session, and of the socket that we do not want

    base: Any = visdom.Visdom

    class Client(base):  # type: ignore[misc]
        def _handle_post(self, url: str, data: Any = None) -> str:
            answer = self.session.post(url, data=data or {}, timeout=ANSWER_SECONDS)
            answer.raise_for_status()
            return str(answer.text)

    return Client


def _login() -> dict[str, str]:
    """Name and password for servers that want them, from the variables that Visdom's server itself reads."""
    given = {key: os.environ.get(variable) for key, variable in LOGIN.items()}
    return {key: value for key, value in given.items() if value} if all(given.values()) else {}


def require_server(server: str, port: int) -> None:
    """Raise InputError when no Visdom answers there (asked before visdom's client is made: it would retry and log for long)."""
    try:
        # Not the start page: it is an error page where Visdom's scripts could not be downloaded, and other servers have one, too.
        with urllib.request.urlopen(f"{server}:{port}/env_state", data=b"{}", timeout=ANSWER_SECONDS) as answer:
            if isinstance(json.load(answer), list):
                return
        reason = "something else does"
    except urllib.error.HTTPError as error:
        if error.code == 400 and _login():
            return
        reason = f"{error}; a server with a login needs {' and '.join(LOGIN.values())}" if error.code == 400 else str(error)
    except (OSError, HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)  # urllib wraps it: <urlopen error [Errno 111] Connection refused>
        reason = getattr(cause, "strerror", None) or str(cause)
    raise InputError(f"No Visdom server answers at {server}:{port} ({reason}).", f"Start one: python -m visdom.server -port {port}.")
