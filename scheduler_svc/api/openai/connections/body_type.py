"""Lets a program leave out that its body is JSON, and no web page.

A browser lets any page send a body that is called nothing, a form or plain text to a server on this machine, unasked;
one that is called JSON only if the server says so first. What a browser sends says that it does: `Origin` is on each
POST of a page, whatever the page does against it. So a body counts as JSON without being called so only where nothing
speaks of a browser:

    curl -d '{...}' (calls it a form), or no content-type   -> JSON
    the same with Origin, Referer or Sec-Fetch-*            -> as it is called, and refused further in
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

_CONTENT_TYPE = "content-type"
_JSON = "application/json"
# What programs send that say nothing: some nothing, curl and many libraries this.
_UNSAID = ("", "application/x-www-form-urlencoded")
_OF_BROWSERS = ("origin", "referer", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
_JSON_WHITE_SPACE = b" \t\r\n"


def with_body_type(scope: Scope, body: bytes) -> Scope:
    """Returns the request, called JSON where its body is an object and its sender, no browser, did not say."""
    headers = Headers(scope=scope)
    is_unsaid = headers.get(_CONTENT_TYPE, "").partition(";")[0].strip().lower() in _UNSAID
    if not is_unsaid or any(name in headers for name in _OF_BROWSERS):
        return scope
    if not body[:64].lstrip(_JSON_WHITE_SPACE).startswith(b"{"):
        return scope
    called = {**scope, "headers": [*scope["headers"]]}
    MutableHeaders(scope=called)[_CONTENT_TYPE] = _JSON
    return called
