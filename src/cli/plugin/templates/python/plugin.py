"""What Palisade must know of {{name}}.

Every value is explained in wit/provider.wit; names that have a `-` there are written with `_` here, and what
is absent is `None`.
"""

import json
import re
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode, urlsplit

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import plugin
from wit_world.imports import clock, http, types

# Where {{name}} is, unless [providers.settings] says otherwise.
BASE = "https://{{name}}.example"


# What ends a call. The texts are for operators: never put a token or a code into them.
def misconfigured(text):
    return Err(types.Failure_Misconfigured(text))


def provider_error(text):
    return Err(types.Failure_ProviderError(text))


def transient(text, retry_after=None):
    return Err(types.Failure_Transient(types.Transient(text, retry_after)))


def read(settings):
    """[providers.settings] of Palisade's configuration. A key that is not here is an error that names it."""
    table = json.loads(settings)
    for key in table.keys() - {"base_url"}:
        raise misconfigured(f"settings: unknown key `{key}`")
    base = table.get("base_url", BASE)
    # In cleartext only to this machine, for development.
    if not isinstance(base, str) or not re.match(r"https://|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/|$)", base):
        raise misconfigured("settings: `base_url` must be an https URL, or one of this machine")
    return base


def retry_after(response):
    """Seconds to wait according to Retry-After (RFC 9110 §10.2.3)."""
    value = dict(response.headers).get("retry-after", "")
    if value.isdecimal():
        return int(value)
    try:
        return max(0, int(parsedate_to_datetime(value).timestamp()) - clock.now())
    except (TypeError, ValueError):
        return None


def post(url, form):
    """Posts a form as the client, and gives back the answer's JSON, if it is a success."""
    headers = [("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")]
    auth = http.ClientAuth_Basic(http.BasicEncoding.FORM)
    try:
        response = http.send(http.Request(http.Method.POST, url, headers, urlencode(form).encode(), auth))
    except Err as error:
        match error.value:
            case http.SendError_Denied(why):
                raise misconfigured(f"the request was not made: {why}")
            case http.SendError_TooLarge():
                raise provider_error("the answer is larger than allowed")
            case http.SendError_Unreachable(why):
                raise transient(why)
        raise transient("no answer in time")
    status = response.status
    if status in (408, 425, 429) or status >= 500:
        raise transient(f"status {status}", retry_after(response))
    try:
        answer = json.loads(response.body or b"{}")
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        if status == 200:
            raise provider_error("the answer is no JSON object")
        answer = {}
    if not 200 <= status <= 299:
        why = str(answer.get("error", f"status {status}"))
        if why == "invalid_grant":
            raise Err(types.Failure_InvalidGrant(why))
        if why in ("invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"):
            raise misconfigured(why)
        raise provider_error(why)
    return answer


def seconds(value):
    """A number of seconds, which some providers write as a text.

    What is no number must not cost the tokens beside it; what is too large for the interface counts as ten years.
    """
    try:
        return int(min(max(0.0, float(value)), 315360000.0))
    except (TypeError, ValueError, OverflowError):
        return None


def text(value):
    """A text, or nothing."""
    return value if isinstance(value, str) else None


def tokens(connection, form):
    answer = post(f"{read(connection.settings)}/token", form)
    if not isinstance(answer.get("access_token"), str):
        raise provider_error("the answer has no access_token")
    return types.Tokens(
        access_token=answer["access_token"],
        token_type=text(answer.get("token_type")),
        expires_in=seconds(answer.get("expires_in")),
        refresh_token=text(answer.get("refresh_token")),
        refresh_expires_in=None,
        scopes=answer["scope"].split() if isinstance(answer.get("scope"), str) else None,
        id_token=text(answer.get("id_token")),
        keep=[],
    )


class Plugin(exports.Plugin):
    def describe(self, settings):
        host = urlsplit(read(settings)).netloc
        summary = "Where the provider is, if not at its usual address."
        return plugin.Description(
            display_name="{{Name}}",
            version="0.1.0",
            docs=None,
            settings=[plugin.Setting("base_url", summary, False)],
            parameters=[],
            scopes=[],
            hosts=[host],
            can_refresh=True,
            can_revoke=True,
            can_identify=False,
        )

    def authorize(self, connection, state, pkce):
        query = urlencode({
            "response_type": "code",
            "client_id": connection.client_id,
            "redirect_uri": connection.redirect_uri,
            "scope": " ".join(connection.scopes),
            "state": state,
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
        })
        return plugin.Authorization_Visit(f"{read(connection.settings)}/auth?{query}")

    def exchange(self, connection, callback, pkce):
        code = dict(callback).get("code")
        if not code:
            raise provider_error("the callback came without `code`")
        return tokens(connection, {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": connection.redirect_uri,
            "code_verifier": pkce.verifier,
        })

    def refresh(self, connection, current):
        if not current.refresh_token:
            raise Err(types.Failure_InvalidGrant("there is no refresh token"))
        return tokens(connection, {"grant_type": "refresh_token", "refresh_token": current.refresh_token})

    def revoke(self, connection, current):
        post(f"{read(connection.settings)}/token/revocation", {"token": current.refresh_token or current.access_token})

    # Called when `can_identify` above is true.
    def identity(self, connection, current):
        raise provider_error("this provider does not say whose account it is")
