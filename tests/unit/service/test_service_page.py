"""The web page in a real browser: a photo goes in, its camera appears on the map; on a phone's width too."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from ...integration.test_visdom_page import Browser, wait_for
from .conftest import image_bytes, model_folder

KEY = "a key for this test"


@pytest.fixture
def page(start, tmp_path, chromium):
    """A browser that shows the page of a service with a key and a map of 200 points."""
    folder = model_folder(tmp_path / "hall", bounds=[[0, 0, 0], [12, 12, 12]])
    save_file({"landmarks.xyz": np.random.default_rng(0).uniform(0, 12, (200, 3)).astype(np.float32)}, folder / "model.safetensors")
    client = start(keys=(KEY,), scenes={"hall": folder})
    browser = Browser(chromium, tmp_path / "browser", f"http://127.0.0.1:{client.port}/")
    yield browser
    browser.close()


def choose(page: Browser, path) -> None:
    """As if a user had chosen a file."""
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def state(page: Browser) -> str:
    return "".join(page.texts("#state"))


def test_a_photo_becomes_a_camera_on_the_map(page, tmp_path):
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    wait_for(lambda: "API key" in state(page))
    page.value(f"document.getElementById('key').value = {KEY!r}; document.getElementById('key').dispatchEvent(new Event('change'))")
    wait_for(lambda: page.texts("#scene option") == ["hall"])
    wait_for(lambda: "dots: points of the map" in page.texts("#map text"))
    assert page.value("document.querySelectorAll('#map .dots')[0].getAttribute('d').split('M').length - 1") == 200

    photo = tmp_path / "photo.jpg"
    photo.write_bytes(image_bytes())
    choose(page, photo)
    wait_for(lambda: state(page) == "Found.")
    assert len(page.texts("#map .camera")) == 1 and len(page.texts("#map .view")) <= 1
    numbers = dict(zip(page.texts("#numbers dt"), page.texts("#numbers dd"), strict=True))
    assert numbers["Position"].startswith("x 0.000") and numbers["Inliers"].startswith("3 of 4 ")
    assert page.value("document.documentElement.scrollWidth") <= 390  # nothing to scroll sideways

    photo.write_bytes(image_bytes()[:200])
    choose(page, photo)
    wait_for(lambda: "image" in state(page).lower() and page.value("document.getElementById('state').className") == "bad")
    assert not page.texts("#map .camera")
