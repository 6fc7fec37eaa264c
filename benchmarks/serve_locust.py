"""Good clients of `d2s serve`, for Locust; started by serve_soak.py, which names its plan in the environment variable D2S_SOAK.

Every user sends one photo each `pacing` seconds, whether or not the service is busy, on a connection of its own. What came of it
is the request's name in Locust's statistics: answered, told to come back (503 or 504 with Retry-After), or lost: anything else, also a
pose that is not the photo's.
"""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

from locust import HttpUser, constant_pacing, task

PLAN: dict[str, Any] = json.loads(Path(os.environ["D2S_SOAK"]).read_text())
PHOTOS = {Path(path).name: Path(path).read_bytes() for path in PLAN["photos"]}
CLOSE = 0.02
"""Of the answer that the same photo got from the idle service, in the scene's unit."""


def judge(response: Any, name: str) -> str:
    """What a client makes of an answer."""
    if response.status_code in (503, 504) and response.headers.get("Retry-After"):
        return "told to come back"
    if response.status_code != 200:
        return f"lost: status {response.status_code}"
    value = response.json()
    if value["image"] != name or not value["success"] or math.dist(value["center"], PLAN["centers"][name]) > CLOSE:
        return "lost: a wrong answer"
    return "answered"


class GoodClient(HttpUser):
    """Sends photos of the place."""

    wait_time = constant_pacing(PLAN["pacing"])

    @task
    def localize(self) -> None:
        """One photo."""
        name, data = random.choice(list(PHOTOS.items()))
        scene = "other" if random.random() < PLAN["other"] else "place"
        options = {"files": {"image": (name, data, "image/jpeg")}, "headers": {"Connection": "close"}, "timeout": 120}
        with self.client.post(f"/scenes/{scene}/localize", name="good", catch_response=True, **options) as response:
            outcome = judge(response, name) if response.status_code else f"lost: {type(response.error).__name__}"
            response.request_meta["name"] = outcome
            if outcome.startswith("lost"):
                response.failure(outcome)
            else:
                response.success()
