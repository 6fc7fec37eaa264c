"""A camera on the network: `python mjpeg_server.py PORT FPS` serves /stream.mjpg on loopback; frame i is gray with brightness 8 (i % 24).

Prints its port when it listens (PORT 0: any). Killing it is what an unplugged camera does.
"""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

FPS = float(sys.argv[2]) if len(sys.argv) > 2 else 25.0


def jpeg(index: int) -> bytes:
    return cv2.imencode(".jpg", np.full((120, 160, 3), 8 * (index % 24), np.uint8))[1].tobytes()


class Camera(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/nothing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        index = 0
        while self.path == "/stream.mjpg" or index < 10:  # /short.mjpg breaks off after ten frames
            data = jpeg(index)
            try:
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n")
            except OSError:
                return
            index += 1
            time.sleep(1 / FPS)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Camera)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
