"""What OpenAPI says of the one request that is more than a GET."""

from __future__ import annotations

from typing import Any

CAMERA = (
    "COLMAP camera of the image at its size, 'MODEL WIDTH HEIGHT p0 p1 ...'. "
    "Without it: that of the mapping images, or the focal length in EXIF, else estimated with the pose."
)

CAMERA_FROM = (
    "given (or the mapping images'); estimated: nothing was known of it; mended: the given one does not fit the image (a crop, a zoom)."
)

PRIOR = (
    'About where the camera was, world to camera, as \'qw qx qy qz tx ty tz\', or as JSON: {"qvec": [w, x, y, z], "tvec": [x, y, z]} or '
    '{"cam_from_world": 3 rows of 4 numbers}. Its surroundings are searched beside the whole map.'
)

COVARIANCE = (
    "Covariance, 6 x 6, of a rotation vector that multiplies the rotation from the left (radians, camera axes) "
    "and of the camera centre (the scene's unit, world axes)."
)


def _number(text: str) -> dict[str, Any]:
    return {"type": ["number", "null"], "description": text}


def _list(count: int, text: str) -> dict[str, Any]:
    return {"type": ["array", "null"], "items": {"type": "number"}, "minItems": count, "maxItems": count, "description": text}


NAME: dict[str, Any] = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "description": "Name of the scene."}

REQUEST: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {
                        "type": "string",
                        "format": "binary",
                        "description": "Photo: JPEG, PNG or WebP, as stored (EXIF orientation is ignored).",
                    },
                    "camera": {"type": "string", "description": CAMERA, "example": "SIMPLE_PINHOLE 640 480 525 320 240"},
                    "prior": {"type": "string", "description": PRIOR, "example": "1 0 0 0 -2.5 1.5 3"},
                    "details": {"type": "string", "enum": ["0", "1"], "description": "1: the answer lists the inliers, at most 500."},
                },
            }
        }
    },
}

RESULT: dict[str, Any] = {
    "type": "object",
    "required": ["image", "success", "reason", "qvec", "tvec", "center", "inliers", "kept", "extracted", "confidence", "ms"],
    "properties": {
        "image": {"type": "string", "description": "The name of the file that was sent."},
        "success": {"type": "boolean", "description": "false: the image was looked at and has no pose in this scene."},
        "reason": {"type": "string", "description": "Why there is no pose; empty where there is one."},
        "qvec": _list(4, "Rotation, camera from world: w x y z."),
        "tvec": _list(3, "Translation, camera from world, in the scene's unit."),
        "center": _list(3, "Camera centre in the world."),
        "inliers": {"type": "integer", "description": "Keypoints that agree with the pose."},
        "kept": {"type": "integer", "description": "Keypoints that were given to the pose solver."},
        "extracted": {"type": "integer", "description": "Keypoints of the image."},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1, "description": "Probability that the pose is right."},
        "sigma_t": _number("Root mean square distance of the camera centre from the true one that is to be expected, in the scene's unit."),
        "sigma_r_deg": _number("The same for the rotation, in degrees."),
        "covariance": {"type": ["array", "null"], "items": {"type": "array", "items": {"type": "number"}}, "description": COVARIANCE},
        "refused_pose": {"type": ["object", "null"], "description": "A pose with too little confidence: qvec, tvec and center."},
        "camera": {"type": ["string", "null"], "description": "COLMAP camera that goes with the pose: MODEL WIDTH HEIGHT p0 p1 ..."},
        "camera_from": {"type": ["string", "null"], "enum": ["given", "estimated", "mended", None], "description": CAMERA_FROM},
        "sigma_focal": _number("Relative standard deviation of an estimated focal length."),
        "ms": {"type": "object", "additionalProperties": {"type": "number"}, "description": "Milliseconds per stage."},
        "from_prior": {"type": "boolean", "description": "With a prior: the pose was found near it."},
        "rival": {
            "type": ["object", "null"],
            "description": "With a prior: another pose that fits as well; only the prior decides against it: qvec, tvec, center, inliers.",
        },
        "points": {
            "type": "object",
            "description": "With details=1: pixels (top-left pixel centre at 0, 0) and scene coordinates of inliers, row by row.",
            "properties": {key: {"type": "array", "items": {"type": "array", "items": {"type": "number"}}} for key in ("pixels", "xyz")},
        },
    },
}

ERROR: dict[str, Any] = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}

STATUSES = {
    400: "The image, the camera or the prior is wrong, or the scene's model can do nothing with a prior.",
    401: "The API key is missing or wrong.",
    404: "There is no such scene.",
    408: "The request came too slowly.",
    413: "The request or the image is too large.",
    415: "The request is not multipart/form-data.",
    503: "Busy, or the scene cannot be loaded; Retry-After says when to come back.",
    504: "Localizing took too long.",
}


def responses() -> dict[int | str, dict[str, Any]]:
    """The answers of POST /scenes/{name}/localize."""
    errors: dict[int | str, dict[str, Any]] = {status: _json(text, ERROR) for status, text in STATUSES.items()}
    return {200: _json("The pose, or why there is none.", RESULT), **errors}


def _json(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
