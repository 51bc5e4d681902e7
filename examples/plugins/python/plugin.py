"""What Palisade must know of Atlassian (https://developer.atlassian.com/cloud/oauth/getting-started/).

What settings cannot say: a token is for sites that the user chose, and every address of the API names one of
them. So a second request, after the exchange, asks which it is, and keeps it.

Every value is explained in wit/provider.wit; names that have a `-` there are written with `_` here, and what
is absent is `None`.
"""

import json
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import plugin
from wit_world.imports import clock, http, types

AUTHORIZE = "https://auth.atlassian.com/authorize"
TOKEN = "https://auth.atlassian.com/oauth/token"
API = "https://api.atlassian.com"

# A refresh token is good for one use, and ends after 90 days without one.
REFRESH_LIFE = 90 * 86_400


# What ends a call. The texts are for operators: never put a token or a code into them.
def misconfigured(text):
    return Err(types.Failure_Misconfigured(text))


def provider_error(text):
    return Err(types.Failure_ProviderError(text))


def transient(text, retry_after=None):
    return Err(types.Failure_Transient(types.Transient(text, retry_after)))


def check(settings):
    """Atlassian has nothing to set. Saying so is better than not noticing an operator's slip."""
    for key in json.loads(settings):
        raise misconfigured(f"settings: unknown key `{key}`")


def retry_after(response):
    """Seconds to wait according to Retry-After (RFC 9110 §10.2.3)."""
    value = dict(response.headers).get("retry-after", "")
    if value.isdecimal():
        return int(value)
    try:
        return max(0, int(parsedate_to_datetime(value).timestamp()) - clock.now())
    except (TypeError, ValueError):
        return None


def ask(request):
    """Makes a request, and gives back the answer's JSON, if it is a success."""
    try:
        response = http.send(request)
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
    if answer is None and status == 200:
        raise provider_error("the answer is no JSON")
    if not 200 <= status <= 299:
        why = str(answer.get("error") if isinstance(answer, dict) else f"status {status}")
        if why == "invalid_grant":
            raise Err(types.Failure_InvalidGrant(why))
        if why in ("invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"):
            raise misconfigured(why)
        raise provider_error(why)
    return answer


def get(path, access_token):
    headers = [("accept", "application/json"), ("authorization", f"Bearer {access_token}")]
    return ask(http.Request(http.Method.GET, f"{API}{path}", headers, b"", http.ClientAuth_None_()))


def seconds(value):
    """A number of seconds.

    What is no number must not cost the tokens beside it; what is too large for the interface counts as ten years.
    """
    try:
        return int(min(max(0.0, float(value)), 315360000.0))
    except (TypeError, ValueError, OverflowError):
        return None


def text(value):
    """A text, or nothing."""
    return value if isinstance(value, str) else None


def tokens(parameters):
    headers = [("accept", "application/json"), ("content-type", "application/json")]
    # Identifier and secret go into the JSON: Palisade puts them there.
    auth = http.ClientAuth_Post(http.CredentialParameters("client_id", "client_secret", http.Place.BODY))
    answer = ask(http.Request(http.Method.POST, TOKEN, headers, json.dumps(parameters).encode(), auth))
    if not isinstance(answer, dict) or not text(answer.get("access_token")):
        raise provider_error("the answer has no access_token")
    return types.Tokens(
        access_token=answer["access_token"],
        token_type=text(answer.get("token_type")),
        expires_in=seconds(answer.get("expires_in")),
        refresh_token=text(answer.get("refresh_token")),
        refresh_expires_in=REFRESH_LIFE if text(answer.get("refresh_token")) else None,
        scopes=answer["scope"].split(" ") if text(answer.get("scope")) else None,
        id_token=None,
        keep=[],
    )


class Plugin(exports.Plugin):
    def describe(self, settings):
        check(settings)
        return plugin.Description(
            display_name="Atlassian",
            version="0.1.0",
            docs="https://developer.atlassian.com/cloud/oauth/getting-started/",
            settings=[],
            parameters=[],
            scopes=["read:me", "read:jira-work", "offline_access"],
            hosts=["auth.atlassian.com", "api.atlassian.com"],
            can_refresh=True,
            can_revoke=False,
            can_identify=True,
        )

    def authorize(self, connection, state, pkce):
        query = urlencode({
            "audience": "api.atlassian.com",
            "prompt": "consent",
            "response_type": "code",
            "client_id": connection.client_id,
            "redirect_uri": connection.redirect_uri,
            "scope": " ".join(connection.scopes),
            "state": state,
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
        })
        return plugin.Authorization_Visit(f"{AUTHORIZE}?{query}")

    def exchange(self, connection, callback, pkce):
        code = dict(callback).get("code")
        if not code:
            raise provider_error("the callback came without `code`")
        granted = tokens({
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": connection.redirect_uri,
            "code_verifier": pkce.verifier,
        })
        sites = get("/oauth/token/accessible-resources", granted.access_token)
        if not sites:
            raise provider_error("the user granted no site")
        granted.keep = [("cloud_id", sites[0]["id"]), ("site_url", sites[0]["url"])]
        return granted

    def refresh(self, connection, current):
        if not current.refresh_token:
            raise Err(types.Failure_InvalidGrant("there is no refresh token"))
        return tokens({"grant_type": "refresh_token", "refresh_token": current.refresh_token})

    # Called when `can_revoke` above is true: Atlassian has nothing that ends a grant.
    def revoke(self, connection, current):
        raise provider_error("grants are ended on the user's own page at Atlassian")

    def identity(self, connection, current):
        me = get("/me", current.access_token)
        # Whether an address is verified Atlassian does not say here.
        return types.Account(me["account_id"], me.get("email"), False, me.get("name"))
