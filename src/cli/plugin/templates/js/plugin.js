// What Palisade must know of {{name}}. Every value is explained in wit/provider.wit; names that have a `-`
// there are written in camelCase here, and what is absent is `undefined`.

import { now } from "palisade:provider/clock@0.1.0";
import { send } from "palisade:provider/http@0.1.0";

// Where {{name}} is, unless [providers.settings] says otherwise.
const BASE = "https://{{name}}.example";

// Ends the call. The text is for operators: never put a token or a code into it.
function fail(kind, text) {
  throw { tag: kind, val: kind === "transient" ? { message: text, retryAfter: undefined } : text };
}

// [providers.settings] of Palisade's configuration. A key that is not here is an error that names it.
function read(settings) {
  const { base_url = BASE, ...unknown } = JSON.parse(settings);
  for (const key of Object.keys(unknown)) fail("misconfigured", `settings: unknown key \`${key}\``);
  // In cleartext only to this machine, for development.
  const local = /^http:\/\/(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(\/|$)/;
  if (typeof base_url !== "string" || !(base_url.startsWith("https://") || local.test(base_url))) {
    fail("misconfigured", "settings: `base_url` must be an https URL, or one of this machine");
  }
  return { base: base_url };
}

// Seconds to wait according to Retry-After (RFC 9110 §10.2.3), as the WIT wants them.
function retryAfter(response) {
  const value = response.headers.find(([name]) => name === "retry-after")?.[1];
  if (value === undefined) return undefined;
  const seconds = /^\d+$/.test(value) ? Number(value) : Math.ceil(Date.parse(value) / 1000) - Number(now());
  return Number.isFinite(seconds) ? BigInt(Math.max(0, seconds)) : undefined;
}

// Posts a form as the client, and gives back the answer's JSON, if it is a success.
function post(url, form) {
  let response;
  try {
    response = send({
      method: "post",
      url,
      headers: [
        ["accept", "application/json"],
        ["content-type", "application/x-www-form-urlencoded"],
      ],
      body: new TextEncoder().encode(new URLSearchParams(form).toString()),
      clientAuth: { tag: "basic", val: "form" },
    });
  } catch (error) {
    const { tag, val } = error.payload ?? {};
    if (tag === "denied") fail("misconfigured", `the request was not made: ${val}`);
    if (tag === "too-large") fail("provider-error", "the answer is larger than allowed");
    if (tag === "timeout" || tag === "unreachable") fail("transient", val ?? "no answer in time");
    throw error;
  }
  const { status } = response;
  if ([408, 425, 429].includes(status) || status >= 500) {
    throw { tag: "transient", val: { message: `status ${status}`, retryAfter: retryAfter(response) } };
  }
  let answer = {};
  try {
    answer = JSON.parse(new TextDecoder().decode(response.body)) ?? {};
  } catch {
    if (status === 200) fail("provider-error", "the answer is no JSON");
  }
  if (status < 200 || status > 299) {
    const why = typeof answer.error === "string" ? answer.error : `status ${status}`;
    if (why === "invalid_grant") fail("invalid-grant", why);
    const ours = ["invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"];
    fail(ours.includes(why) ? "misconfigured" : "provider-error", why);
  }
  return answer;
}

// A number of seconds, which some providers write as a text. What is no number must not cost the tokens beside it, and
// what is too large for the interface counts as ten years.
function seconds(value) {
  if (typeof value !== "number" && typeof value !== "string") return undefined;
  const number = Number(value);
  return Number.isNaN(number) ? undefined : BigInt(Math.min(Math.max(0, Math.trunc(number)), 315360000));
}

// A text, or nothing.
function text(value) {
  return typeof value === "string" ? value : undefined;
}

function tokens(connection, form) {
  const answer = post(`${read(connection.settings).base}/token`, form);
  if (typeof answer.access_token !== "string") fail("provider-error", "the answer has no access_token");
  return {
    accessToken: answer.access_token,
    tokenType: text(answer.token_type),
    expiresIn: seconds(answer.expires_in),
    refreshToken: text(answer.refresh_token),
    refreshExpiresIn: undefined,
    scopes: typeof answer.scope === "string" ? answer.scope.split(" ") : undefined,
    idToken: text(answer.id_token),
    keep: [],
  };
}

export const plugin = {
  describe(settings) {
    const { base } = read(settings);
    return {
      displayName: "{{Name}}",
      version: "0.1.0",
      docs: undefined,
      settings: [{ name: "base_url", summary: "Where the provider is, if not at its usual address.", required: false }],
      parameters: [],
      scopes: [],
      hosts: [base.split("/")[2]],
      canRefresh: true,
      canRevoke: true,
      canIdentify: false,
    };
  },

  authorize(connection, state, pkce) {
    const query = new URLSearchParams({
      response_type: "code",
      client_id: connection.clientId,
      redirect_uri: connection.redirectUri,
      scope: connection.scopes.join(" "),
      state,
      code_challenge: pkce.challenge,
      code_challenge_method: "S256",
    });
    return { tag: "visit", val: `${read(connection.settings).base}/auth?${query}` };
  },

  exchange(connection, callback, pkce) {
    const code = callback.find(([name]) => name === "code")?.[1];
    if (!code) fail("provider-error", "the callback came without `code`");
    return tokens(connection, {
      grant_type: "authorization_code",
      code,
      redirect_uri: connection.redirectUri,
      code_verifier: pkce.verifier,
    });
  },

  refresh(connection, current) {
    if (!current.refreshToken) fail("invalid-grant", "there is no refresh token");
    return tokens(connection, { grant_type: "refresh_token", refresh_token: current.refreshToken });
  },

  revoke(connection, current) {
    const token = current.refreshToken ?? current.accessToken;
    post(`${read(connection.settings).base}/token/revocation`, { token });
  },

  // Called when `canIdentify` above is true.
  identity() {
    fail("provider-error", "this provider does not say whose account it is");
  },
};
