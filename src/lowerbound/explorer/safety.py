"""Who may talk to the server: whoever has its token, from a page of its own, on this machine.

A web page of somebody else's, open in the same browser, can send requests to this machine too. So the host that is
asked for must be one of the loopback's names (else a name of theirs could be pointed here), a request that does
something must come from a page of this server (`Origin`), and all must bear the token, which stands in the address
that the terminal shows and afterwards in a cookie.
"""

import hmac
import os
import secrets
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import platformdirs
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-cache",
}


def kept_token() -> str:
    """This user's token, the same every time, so that a page finds the server again once it was started anew.

    It lies in a file that nobody else can read; where none can be kept, it is a new one each time.
    """
    path = Path(platformdirs.user_state_dir("lowerbound")) / "explore.token"
    with suppress(OSError, UnicodeDecodeError):
        token = path.read_text(encoding="ascii").strip()
        if len(token) >= 32 and token.isalnum() and not path.stat().st_mode & 0o077:
            return token
    token = secrets.token_hex(20)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(token)
    return token


class Guard:
    """What stands before the application: nothing gets past it without the token, from elsewhere, or for a host that
    is not this machine's."""

    def __init__(self, app: ASGIApp, token: str, port: int):
        self.app = app
        self.token = token
        self.cookie = f"lowerbound-{port}"  # cookies don't know ports, and there may be two servers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        problem = self._problem(scope, headers)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    own[name] = value
                if problem is None and self._in_address(scope):
                    own["set-cookie"] = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            await send(message)

        if problem is None:
            return await self.app(scope, receive, guarded)
        if scope["type"] == "websocket":
            await receive()  # the request to connect
            return await send({"type": "websocket.close", "code": 4403, "reason": problem})
        await PlainTextResponse(problem + "\n", 403)(scope, receive, guarded)

    def _problem(self, scope: Scope, headers: Headers) -> str | None:
        """Why a request is refused; None: it isn't."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or _name(hosts[0]) not in LOOPBACK:
            return f"refused: asked for as {', '.join(hosts) or 'nothing'}; open it as 127.0.0.1 or localhost"
        acts = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if (origins or acts) and origins != [f"http://{hosts[0]}"]:
            return "refused: asked for by a page of another site"
        if not self._in_address(scope) and not self._in_cookie(headers):
            return "refused: the address lacks its token; open the one that `lowerbound explore` shows in the terminal"
        return None

    def _in_address(self, scope: Scope) -> bool:
        found = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        return self._is_token(found[0])

    def _in_cookie(self, headers: Headers) -> bool:
        cookies = SimpleCookie()
        with suppress(CookieError):
            cookies.load(headers.get("cookie", ""))
        return self.cookie in cookies and self._is_token(cookies[self.cookie].value)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.token.encode())


def _name(host: str) -> str | None:
    """localhost:7860 -> localhost."""
    with suppress(ValueError):
        parts = urlsplit(f"//{host}")
        return parts.hostname if host == parts.netloc and "@" not in host else None
    return None
