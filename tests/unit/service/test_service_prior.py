"""A pose prior comes with the photo, says where to look, and is refused where it is no pose."""

from __future__ import annotations

import json

import numpy as np
import pytest

from d2s.geometry import pose
from d2s.localization.result import Rival

from .conftest import image_bytes

TURNED = [0.5, 0.5, -0.5, 0.5, 1.0, 2.0, -3.0]
PRIOR = pose.from_qvec_tvec(TURNED[:4], TURNED[4:])
SAME = {
    "as on the command line": "0.5 0.5 -0.5 0.5 1 2 -3",
    "as in an answer": json.dumps({"qvec": TURNED[:4], "tvec": TURNED[4:]}),
    "three rows": json.dumps({"cam_from_world": PRIOR.tolist()}),
    "four rows": json.dumps({"cam_from_world": pose.homogeneous(PRIOR).tolist()}),
    "of another length": " 5 5 -5 5 1 2 -3\n",
}


@pytest.mark.parametrize("form", SAME)
def test_a_prior_reaches_the_localizer(steady, form):
    client, localizer = steady
    answer = client.localize(image_bytes(), prior=SAME[form])
    assert answer.status == 200
    np.testing.assert_allclose(localizer.priors[-1], PRIOR, atol=1e-12)
    assert answer.json["from_prior"] is False and answer.json["rival"] is None


def test_without_a_prior_nothing_is_said_of_it(steady):
    client, localizer = steady
    for fields in ({}, {"prior": " "}):
        value = client.localize(image_bytes(), **fields).json
        assert localizer.priors[-1] is None and "from_prior" not in value and "rival" not in value


def test_an_answer_can_be_the_next_prior(steady):
    client, localizer = steady
    value = client.localize(image_bytes(), prior=SAME["three rows"]).json
    assert client.localize(image_bytes(), prior=json.dumps({key: value[key] for key in ("qvec", "tvec")})).status == 200
    np.testing.assert_allclose(localizer.priors[-1], localizer.pose, atol=1e-12)


WRONG = {
    "words": "near the door",
    "a file": "/etc/passwd",
    "six numbers": "1 0 0 0 1 2",
    "NaN": "1 0 0 0 nan 2 3",
    "endless": "1 0 0 0 inf 2 3",
    "far": "1 0 0 0 1e300 2 3",
    "no rotation": "0 0 0 0 1 2 3",
    "large rotation": "1e300 1e300 0 0 1 2 3",
    "a list": "[1, 0, 0, 0, 1, 2, 3]",
    "half JSON": '{"qvec": [1, 0',
    "no JSON": "{",
    "nothing": "{}",
    "half a pose": '{"qvec": [1, 0, 0, 0]}',
    "too much": '{"qvec": [1, 0, 0, 0], "tvec": [1, 2, 3], "radius": 5}',
    "both": '{"qvec": [1, 0, 0, 0], "tvec": [1, 2, 3], "cam_from_world": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}',
    "a failure's pose": '{"qvec": null, "tvec": null}',
    "texts": '{"qvec": ["1", "0", "0", "0"], "tvec": ["1", "2", "3"]}',
    "truths": '{"qvec": [true, false, false, false], "tvec": [1, 2, 3]}',
    "shifted": '{"qvec": [1, 0, 0], "tvec": [0, 1, 2, 3]}',
    "ragged": '{"cam_from_world": [[1, 0, 0, 0], [0, 1, 0], [0, 0, 1, 0]]}',
    "scaled": '{"cam_from_world": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]}',
    "mirrored": '{"cam_from_world": [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}',
    "JSON's NaN": '{"qvec": [NaN, 0, 0, 0], "tvec": [1, Infinity, 3]}',
    "many digits": '{"qvec": [1, 0, 0, 0], "tvec": [1, 2, ' + "9" * 800 + "]}",
    "deep": '{"qvec":' + "[" * 900,
    "long": "1 " * 600,
    "zeros": "\0\0",
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_prior_is_refused_in_one_line(steady, what):
    client, localizer = steady
    localizer.seen.clear()
    answer = client.localize(image_bytes(), prior=WRONG[what])
    assert answer.status == 400 and answer.error and "\n" not in answer.error and not localizer.seen
    assert what == "long" or ("prior" in answer.error and "qw qx qy qz tx ty tz" in answer.error)


def test_a_model_that_knows_no_priors_says_so(start, localizer):
    client, localizer.has_landmarks = start(), False
    answer = client.localize(image_bytes(), prior=SAME["three rows"])
    assert answer.status == 400 and "no landmarks" in answer.error and not localizer.seen
    assert client.localize(image_bytes()).status == 200


def test_another_pose_that_fits_is_named(start, localizer):
    client = start()
    localizer.result = {"from_prior": True, "rival": Rival(PRIOR, 7)}
    value = client.localize(image_bytes(), prior=SAME["three rows"]).json
    assert value["from_prior"] and value["rival"]["inliers"] == 7 and np.allclose(value["rival"]["tvec"], [1, 2, -3])
    localizer.result = {"from_prior": True, "rival": Rival(np.full((3, 4), np.nan), 7), "refused_pose": np.full((3, 4), np.inf)}
    value = client.localize(image_bytes(), prior=SAME["three rows"])
    assert value.status == 200 and value.json["rival"] is None and value.json["refused_pose"] is None


def test_the_description_has_the_words_of_the_answer(steady):
    post = steady[0].get("/openapi.json").json["paths"]["/scenes/{name}/localize"]["post"]
    assert "prior" in post["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    described = post["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
    assert set(steady[0].localize(image_bytes(), prior=SAME["three rows"], details="1").json) <= set(described)
