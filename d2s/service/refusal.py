"""What a client is told when its request is not done."""

from __future__ import annotations

import math

from d2s.errors import D2SError


class Refused(D2SError):
    """An answer other than 200: `status` and, where trying again helps, the seconds after which to do so."""

    def __init__(self, status: int, problem: str, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(problem, remedy)
        self.status, self.retry_after = status, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that belong to the refusal."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


def overloaded(what: str, retry_after: float) -> Refused:
    """503: come back later."""
    return Refused(503, f"The service is busy: {what}.", "Try again after the seconds that Retry-After says.", retry_after)


def client_gone() -> Refused:
    """An answer that nobody reads; the log and the metrics say 499, as other servers do."""
    return Refused(499, "The client has gone.")
