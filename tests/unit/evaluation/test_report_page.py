"""The whole page of a report: what it says of a made-up place, and what a real browser makes of it."""

from __future__ import annotations

import html
import json
import math
import queue
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from d2s.evaluation.causes import Doctor, picture_causes
from d2s.evaluation.comparison import Comparison
from d2s.evaluation.coverage import _visibility, measure_coverage
from d2s.evaluation.grades import FAILED, FAIR, GOOD, POOR, grading
from d2s.evaluation.map_figure import view_from_above
from d2s.evaluation.report import Report
from d2s.evaluation.report_data import Keypoints, ReportData
from d2s.evaluation.score import Score, scene_extent, summarize
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.scene.manifest import Scene, SceneImage

CAMERA = parse_camera("PINHOLE 160 120 100 100 79.5 59.5")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=1200,950"),
)
NAMES = ("query/0.png", "query/1.png", "</script><b>2.png", "query/3.png", "query/4.png", "query/5.png")


def look(center, yaw) -> np.ndarray:
    """An upright camera of a world whose z axis points up, looking along (cos yaw, sin yaw, 0)."""
    ahead, down = np.array([math.cos(yaw), math.sin(yaw), 0]), np.array([0, 0, -1.0])
    rotation = np.stack([np.cross(down, ahead), down, ahead])
    return np.column_stack([rotation, -rotation @ np.asarray(center, dtype=float)])


def moved(cam_from_world, offset) -> np.ndarray:
    """The camera moved by `offset` in the world."""
    return np.column_stack([cam_from_world[:, :3], cam_from_world[:, 3] - cam_from_world[:, :3] @ np.asarray(offset, dtype=float)])


@pytest.fixture
def wall():
    """Points (400, 3) of a wall at y = 5, before which mapping cameras walk along x and look at it; nothing was seen behind them."""
    rng = np.random.default_rng(0)
    return np.column_stack([rng.uniform(-3, 9, 400), np.full(400, 5.0), rng.uniform(-1, 2, 400)]).astype(np.float32)


@pytest.fixture
def scene(tmp_path):
    """Mapping cameras 0 to 19 along x; queries between them, the last of which looks away from the wall."""
    mapping = [SceneImage(f"map/{i}.png", 1, look([0.3 * i, 0, 0.5], math.pi / 2), "train") for i in range(20)]
    queries = [SceneImage(name, 1, look([0.9 * i + 0.1, 0.1, 0.5], math.pi / 2), "test") for i, name in enumerate(NAMES[:5])]
    away = SceneImage(NAMES[5], 1, look([3, 0, 0.5], -math.pi / 2), "test")
    return Scene("made", "wall", tmp_path, {1: CAMERA}, (*mapping, *queries, away))


@pytest.fixture
def scores(scene):
    """Two good queries, a fair one, one put 3 m along the wall, one without pose, one refused."""
    images = scene.split("test")
    offsets = [(0.001, 0, 0), (0.002, 0, 0), (0.1, 0, 0), (3.0, 0, 0)]
    found = [moved(image.cam_from_world, offset) for image, offset in zip(images, offsets, strict=False)]
    made = []
    for image, estimate in zip(images, found, strict=False):
        t, r = pose.pose_error(estimate, image.cam_from_world)
        made.append(Score(image, estimate, t, r, "", 90, 100, 300, {"total": 50.0, "regressor": 20.0, "pnp": 10.0}, 0.9, t, r))
    lost = Score(images[4], None, math.inf, math.inf, "only 5 of 60 points agree on a pose, no more than chance", 0, 60, 300)
    refused = Score(images[5], None, math.inf, math.inf, "probably not in this place", 5, 20, 300, {}, 0.1, 4.0, 60.0)
    return [*made, lost, refused]


@pytest.fixture
def visibility(scene, wall):
    mapping = [image.cam_from_world for image in scene.split("train")]
    seen = []
    for cam_from_world in mapping:
        pixels, front = project(CAMERA, pose.transform(cam_from_world, wall))
        inside = front & (pixels >= 0).all(axis=1) & (pixels < [160, 120]).all(axis=1)
        seen.append(wall[inside])
    return _visibility(seen, pose.center(np.stack(mapping)))


@pytest.fixture
def report(scene, scores, wall, visibility, tmp_path):
    for image in scene.images:
        path = tmp_path / image.name
        if "<" not in image.name:  # of one query there is no picture
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.random.default_rng(len(image.name)).integers(0, 255, (120, 160, 3), np.uint8))
    marked = Keypoints(np.full((3, 2), 50, np.float32), np.array([True, True, False]), np.array([True, False, False]))
    found = np.arange(len(wall)) % 2 == 0
    data = ReportData(wall, np.full(wall.shape, 200, np.uint8), found, dict.fromkeys(NAMES, marked))
    metrics = {**summarize(scores, "metres", scene_extent(scene)), "split": "test", "map_bytes": 2_000_000}
    return Report(scene, scores, metrics, data, visibility, Comparison(scores[:2] + scores[3:], 80_000_000))


def plain(page: str) -> str:
    """The words of a page."""
    without = re.sub(r"<(script|style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", without)).split())


def test_page_says_what_went_wrong(report):
    text = plain(report.page())
    assert "6 photos that were not used for mapping were localized" in text
    assert "2 of 6 came out within 5 cm, 5° of the truth, 3 of 6 within 25 cm, 10°" in text
    assert "2 got no pose and 1 was put elsewhere." in text and "lie between 10 and 70 %" in text
    assert "Put 3.00 m away: it was taken for map/19.png" in text
    assert "A pose was found, 4.00 m, 60.0° off, but not trusted" in text and "looks 180° elsewhere" in text
    assert "% of the directions in which a photo from here may look" in text
    assert "80.0 MB" in text and "2.0 MB" in text
    assert "What went wrong (4)" in text and "taken for (" in text and "Can its confidence" not in text


def test_page_is_self_contained_and_escapes_names(report):
    page = report.page()
    assert not any(outside in page for outside in ('src="http', 'href="http', "<script src", "<link", "@import", "fetch("))
    assert "<b>2.png" not in page and "&lt;/script&gt;&lt;b&gt;2.png" in page
    data = json.loads(re.search(r'<script type="application/json" id="scene-data">(.*?)</script>', page, re.DOTALL)[1])
    assert [query["n"] for query in data["queries"]] == list(NAMES) and [query["g"] for query in data["queries"]] == [0, 0, 1, 2, 3, 3]
    assert data["queries"][4]["e"] is None and len(data["mapping"]) == 20


def test_page_without_points_pictures_or_coverage(scene, scores):
    metrics = {**summarize(scores, "arbitrary", scene_extent(scene)), "split": "test"}
    text = plain(Report(scene, scores, metrics).page())
    assert "no metric scale" in text and "What went wrong" not in text and "Not localized (2)" in text and "Shades" not in text


def test_coverage_knows_the_wall_but_not_what_is_behind(scene, visibility):
    images = scene.split("test")
    axes = view_from_above(np.stack([image.cam_from_world for image in scene.images]))
    coverage = measure_coverage(visibility, scene, images, axes)
    assert (coverage.query_shares[:5] > 0.6).all() and coverage.query_shares[5] == 0
    assert 0.1 < coverage.open.mean() < 0.6 and not coverage.tall and coverage.views.sum() == 20
    assert (coverage.centers[:, 1] < 4.9).all(), "nobody stands in the wall"


def test_causes(scene, scores):
    made = grading("metres", scene_extent(scene))
    assert [made.grade(score) for score in scores] == [GOOD, GOOD, FAIR, POOR, FAILED, FAILED]
    doctor = Doctor(scores, scene.split("train"), made, "metres", scene_extent(scene), np.array([0, 0, 1.0]), {NAMES[4]: 0.1})
    codes = {score.image.name: [cause.code for cause in doctor.causes(score)] for score in scores}
    assert codes[NAMES[0]] == [] and codes[NAMES[2]] == ["inaccurate"] and codes[NAMES[3]] == ["lookalike"]
    assert codes[NAMES[4]] == ["nothing", "unseen"] and codes[NAMES[5]] == ["refused", "far", "unknown"]
    storey = moved(scores[3].image.cam_from_world, (0, 0, 3.2))
    above = Score(scores[3].image, storey, 3.2, 0.0, inliers=90, kept=100, extracted=300)
    assert "as on another storey" in doctor.causes(above)[0].text


def test_blurred_and_dark_pictures_are_told_from_sharp_ones():
    sharp = np.random.default_rng(1).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    sharp = cv2.resize(sharp, (640, 480), interpolation=cv2.INTER_NEAREST)
    assert picture_causes(sharp, sharp) == []
    assert [cause.code for cause in picture_causes(cv2.GaussianBlur(sharp, (0, 0), 6), sharp)] == ["blurred"]
    assert [cause.code for cause in picture_causes(sharp // 4, sharp)] == ["dark"]


def test_places_larger_than_a_room_and_without_scale_are_graded_by_their_own_measure():
    assert grading("metres", 5).good.text == "5 cm, 5°" and grading("metres", 80).good.text == "25 cm, 2°"
    assert grading("arbitrary", 3.0).good.t == pytest.approx(0.03) and grading("arbitrary", 3.0).fair.t == pytest.approx(0.15)


PROBE = """<script>
const wrong = [], pause = () => new Promise((go) => setTimeout(go, 100));
addEventListener("error", (e) => wrong.push(String(e.message)));
console.error = (...words) => wrong.push(words.join(" "));
function painted() {
  const canvas = document.querySelector("#scene3d canvas");
  const d = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0, sum = 0;
  for (let i = 3; i < d.length; i += 4) if (d[i]) { count++; sum = (sum * 31 + i) % 1000003; }
  return [count, sum];
}
async function until(what) { for (let i = 0; i < 300 && !wrong.length && !what(); i++) await pause(); }
addEventListener("load", async () => {
  const canvas = document.querySelector("#scene3d canvas");
  const send = (name, x, y) => canvas.dispatchEvent(new PointerEvent(name, { clientX: x, clientY: y, pointerId: 1, bubbles: true }));
  canvas.setPointerCapture = () => {};  // there is no real pointer to capture
  await until(() => canvas.width > 1 && painted()[0]);
  const before = painted();
  send("pointerdown", 100, 200); send("pointermove", 180, 220); send("pointerup", 180, 220);
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -50 }));
  await until(() => painted()[1] !== before[1]);
  const told = { wrong, before, after: painted(), over: document.documentElement.scrollWidth - innerWidth, width: innerWidth,
    shown: !document.getElementById("scene3d").hidden, legend: document.querySelector(".keys").textContent };
  fetch("told", { method: "POST", body: JSON.stringify(told) });
});
</script>"""
FRAME = '<!DOCTYPE html><body><iframe src="page.html" style="width: %dpx; height: 900px; border: 0"></iframe></body>'


@pytest.fixture
def site():
    """Pages by path, what they tell, and the address of the server that offers the one and takes the other."""
    pages, told = {}, queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            page = pages.get(self.path, "").encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def do_POST(self):
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield pages, told, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("width", [390, 1100])
def test_a_browser_draws_the_place_and_nothing_is_too_wide(chromium, site, report, tmp_path, width):
    pages, told, address = site
    pages["/page.html"] = report.page().replace("<head>", f"<head>{PROBE}", 1)
    pages["/"] = FRAME % width  # a browser window cannot be as narrow as a phone, a frame can
    command = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", address]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        seen = told.get(timeout=180)
    finally:
        browser.terminate()
        browser.wait(120)
    assert seen["wrong"] == [] and seen["shown"] and seen["width"] == width
    assert seen["over"] <= 0, "the page scrolls sideways"
    assert seen["before"][0] > 500 and seen["after"][0] > 500 and seen["before"] != seen["after"]
    assert "not localized (2)" in seen["legend"]
