"""A device's identity for requests.

    from attestd_agent.programs.presenting import Presenter
    from attestd_agent.programs.requests_auth import DeviceAuth

    presenter = Presenter.over(
        "/run/attestd-agent/programs.sock", audience="edge", origins=["https://shop-17.example.org"]
    )
    requests.get("https://shop-17.example.org/orders", auth=DeviceAuth(presenter))

A request to an origin that is not named raises OriginNotNamed. requests itself is not imported: what it takes for an
authentication is anything that can be called with a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attestd_agent.programs.presenting import HEADERS, Presenter

if TYPE_CHECKING:
    from requests import PreparedRequest, Response


class DeviceAuth:
    """Signs each request, and once more where the edge asks for its nonce.

    What was signed for one request does not go on with a redirect; the request that it leads to is signed by itself, if
    its origin is named.
    """

    def __init__(self, presenter: Presenter) -> None:
        self._presenter = presenter

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """requests' hook before a request is sent."""
        self._sign(request)
        request.register_hook("response", self._answered)
        return request

    def _sign(self, request: PreparedRequest) -> None:
        request.headers.update(self._presenter.sign(str(request.method), str(request.url)))

    def _answered(self, response: Response, **options: Any) -> Response:
        """requests' hook after each answer, those on a redirect's way included."""
        request = response.request
        url = str(request.url)
        presented = HEADERS[0] in request.headers
        _unsign(request)  # requests copies the headers to where a redirect leads, and knows only one of them as secret
        self._presenter.learn(url, response.headers.get("DPoP-Nonce"))
        challenge = response.headers.get("WWW-Authenticate")
        if not self._presenter.may_try_again(url, response.status_code, challenge, presented=presented):
            return response
        again = request.copy()
        if not _rewound(again):
            return response  # the body is spent; the nonce is known now, so the program's own next attempt will pass
        self._sign(again)
        _ = response.content  # so that the connection is free
        response.close()
        answer: Response = response.connection.send(again, **options)
        answer.history.append(response)
        answer.request = again
        _unsign(again)
        self._presenter.learn(url, answer.headers.get("DPoP-Nonce"))
        return answer


def _unsign(request: PreparedRequest) -> None:
    for name in HEADERS:
        request.headers.pop(name, None)


def _rewound(request: PreparedRequest) -> bool:
    """Whether the body can be sent again; a file is set to where it began."""
    body = request.body
    if body is None or isinstance(body, (str, bytes)):
        return True
    began, seek = request._body_position, getattr(body, "seek", None)
    if not isinstance(began, int) or seek is None:
        return False
    seek(began)
    return True
