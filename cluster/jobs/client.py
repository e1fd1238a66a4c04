"""The connection to a cluster's Jobs API. Functions import Ray when they run, so that `wm --help` is fast."""

import http.client
import ipaddress
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from datasets.runtime.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""The local port to which `ray dashboard cluster.yaml` forwards the head node's."""

CONNECT_TIMEOUT_S = 5.0
"""A firewall may drop packets without an answer; Ray's own requests have no timeout and would hang for minutes."""

OVERRIDING_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""In Ray this variable, and RAY_ADDRESS, take precedence over an address in the call."""

LOGGERS = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers of Ray's client, which report each upload and each closed connection."""


def resolve_address(address: str | None) -> str:
    """The Jobs API's URL from the argument, else RAY_ADDRESS, else DEFAULT_ADDRESS.

    Raises:
        UserError: it is not an http(s) URL with a host.
    """
    source = "--address" if address else "RAY_ADDRESS"
    found = (address or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS).rstrip("/")
    try:
        parts = urlsplit(found)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UserError(
            f"{source} is {found!r}; expected the URL of the Jobs API such as {DEFAULT_ADDRESS} "
            "(`ray dashboard cluster.yaml` forwards it)"
        )
    return found


def connect(address: str | None) -> "JobSubmissionClient":
    """A client of the Jobs API, after a check of the address and the token.

    Raises:
        UserError: bad address, nothing answers there, it is not Ray, the token is missing or wrong, or it would travel
            over plain http.
    """
    url = resolve_address(address)
    headers = _auth_headers(url)
    if is_loopback(url):
        _bypass_proxies(url)
    # Our own request first: Ray's client sets no timeout, and its C++ code looks for the token elsewhere.
    _check_answer(url, headers)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with _address_override(url):
            return JobSubmissionClient(url, headers=headers)
    except AuthenticationError as error:
        raise UserError(
            f"RAY_AUTH_MODE is token, but there is none ({_find_token()[1]}); expected a token, although "
            f"{url} needs none; unset RAY_AUTH_MODE, or start the cluster with a token"
        ) from error


def token_error(url: str) -> UserError:
    """The error for a server that refused the token, or the lack of one: what was sent and where the token belongs."""
    token, source = _find_token()
    found = f"the token of {source} was refused" if token else f"no token was sent ({source})"
    return UserError(
        f"{url} requires the cluster's token and {found}; expected the token that its head node was started "
        "with; copy it to ~/.ray/auth_token (mode 600) or name its file in RAY_AUTH_TOKEN_PATH"
    )


def _check_answer(url: str, headers: dict[str, str]) -> None:
    """Request the version, which needs the token like every other request."""
    try:
        request = urllib.request.Request(f"{url}/api/version", headers=headers)
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=CONNECT_TIMEOUT_S) as answer:
            found = "another answer" if "ray_version" not in json.load(answer) else None
    except urllib.error.HTTPError as error:
        if error.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise token_error(url) from error
        found = f"HTTP {error.code}"
    except (http.client.HTTPException, ValueError) as error:
        found = type(error).__name__
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"nothing answers at {url} ({reason}); expected a cluster's Jobs API; start one "
            "(`ray up cluster.yaml`) and forward its port (`ray dashboard cluster.yaml`), or give --address"
        ) from error
    if found:
        raise UserError(
            f"{url} is not Ray's Jobs API (it returned {found}); expected a head node's dashboard port, "
            "8265 unless changed; check the address"
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The token must not follow to another server: an answer that names one is an error."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine's loopback interface."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def has_token() -> bool:
    """Whether there is a token that requests would carry."""
    return bool(_find_token()[0])


def _auth_headers(url: str) -> dict[str, str]:
    """The token as a header, from where Ray reads it.

    Ray itself sends a token only with RAY_AUTH_MODE=token, while `ray start` requires one if a token file exists.

    Raises:
        UserError: the token would travel unencrypted.
    """
    token, source = _find_token()
    if not token:
        return {}
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(url):
        port = parts.port or 80
        raise UserError(
            f"{url} is plain http, over which anyone on the way could read the token of {source}; expected https, or a "
            f"forwarded port: `ray dashboard cluster.yaml`, or `ssh -N -L 8265:127.0.0.1:{port} {parts.hostname}`, "
            f"then --address {DEFAULT_ADDRESS}"
        )
    return {"Authorization": f"Bearer {token}"}


def _bypass_proxies(url: str) -> None:
    """Requests to this machine must not travel to a proxy that http_proxy names, with the token in them."""
    host = urlsplit(url).hostname or ""
    for name in ("NO_PROXY", "no_proxy"):
        others = [other for other in os.environ.get(name, "").split(",") if other]
        if host not in others:
            os.environ[name] = ",".join([*others, host])


def _find_token() -> tuple[str, str]:
    """The token ("" if there is none) and, for messages, its source or why there is none."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return "", "RAY_AUTH_MODE is disabled"
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        return "", f"{path}: {getattr(error, 'strerror', None) or 'not text'}"
    return token, str(path) if token else f"{path} is empty"


@contextmanager
def _address_override(url: str) -> Iterator[None]:
    """Set Ray's environment variable to `url`: an explicit --address takes precedence over RAY_ADDRESS."""
    before = os.environ.get(OVERRIDING_VARIABLE)
    os.environ[OVERRIDING_VARIABLE] = url
    try:
        yield
    finally:
        if before is None:
            del os.environ[OVERRIDING_VARIABLE]
        else:
            os.environ[OVERRIDING_VARIABLE] = before
