// What Palisade must know of Xero (https://developer.xero.com/documentation/guides/oauth2/auth-flow/).
//
// What settings cannot say: a token is for organisations that the user chose, and each request to Xero's API
// names one of them in a header. So a second request, after the exchange, asks which it is, and keeps it.
//
// Every value is explained in wit/provider.wit; names that have a `-` there are written in camelCase here, and
// what is absent is `undefined`.

import { now } from "palisade:provider/clock@0.1.0";
import { send } from "palisade:provider/http@0.1.0";

const AUTHORIZE = "https://login.xero.com/identity/connect/authorize";
const IDENTITY = "https://identity.xero.com/connect";
const CONNECTIONS = "https://api.xero.com/connections";

// An unused refresh token expires after 60 days.
const REFRESH_LIFE = 60n * 86_400n;

// Ends the call. The text is for operators: never put a token or a code into it.
function fail(kind, text) {
  throw { tag: kind, val: kind === "transient" ? { message: text, retryAfter: undefined } : text };
}

// Xero has nothing to set. Saying so is better than not noticing an operator's slip.
function check(settings) {
  for (const key of Object.keys(JSON.parse(settings))) fail("misconfigured", `settings: unknown key \`${key}\``);
}

// Seconds to wait according to Retry-After (RFC 9110 §10.2.3), as the WIT wants them.
function retryAfter(response) {
  const value = response.headers.find(([name]) => name === "retry-after")?.[1];
  if (value === undefined) return undefined;
  const seconds = /^\d+$/.test(value) ? Number(value) : Math.ceil(Date.parse(value) / 1000) - Number(now());
  return Number.isFinite(seconds) ? BigInt(Math.max(0, seconds)) : undefined;
}

// Makes a request, and gives back the answer's JSON, if it is a success.
function ask(request) {
  let response;
  try {
    response = send(request);
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

// Posts a form as the client.
function post(path, form) {
  return ask({
    method: "post",
    url: `${IDENTITY}/${path}`,
    headers: [
      ["accept", "application/json"],
      ["content-type", "application/x-www-form-urlencoded"],
    ],
    body: new TextEncoder().encode(new URLSearchParams(form).toString()),
    clientAuth: { tag: "basic", val: "form" },
  });
}

// A number of seconds. What is no number must not cost the tokens beside it, and what is too large for the interface
// counts as ten years.
function seconds(value) {
  if (typeof value !== "number" && typeof value !== "string") return undefined;
  const number = Number(value);
  return Number.isNaN(number) ? undefined : BigInt(Math.min(Math.max(0, Math.trunc(number)), 315360000));
}

// A text, or nothing.
function text(value) {
  return typeof value === "string" ? value : undefined;
}

function tokens(form) {
  const answer = post("token", form);
  if (typeof answer.access_token !== "string") fail("provider-error", "the answer has no access_token");
  return {
    accessToken: answer.access_token,
    tokenType: text(answer.token_type),
    expiresIn: seconds(answer.expires_in),
    refreshToken: text(answer.refresh_token),
    refreshExpiresIn: text(answer.refresh_token) === undefined ? undefined : REFRESH_LIFE,
    scopes: typeof answer.scope === "string" ? answer.scope.split(" ") : undefined,
    idToken: text(answer.id_token),
    keep: [],
  };
}

// The organisations that the user has just connected.
function organisations(accessToken) {
  const found = ask({
    method: "get",
    url: CONNECTIONS,
    headers: [
      ["accept", "application/json"],
      ["authorization", `Bearer ${accessToken}`],
    ],
    body: new Uint8Array(),
    clientAuth: { tag: "none" },
  });
  if (!Array.isArray(found)) fail("provider-error", "the list of organisations is none");
  return found.filter((one) => one.tenantType === "ORGANISATION");
}

export const plugin = {
  describe(settings) {
    check(settings);
    return {
      displayName: "Xero",
      version: "0.1.0",
      docs: "https://developer.xero.com/documentation/guides/oauth2/auth-flow/",
      settings: [],
      parameters: [],
      scopes: ["openid", "profile", "email", "offline_access", "accounting.settings.read"],
      hosts: ["login.xero.com", "identity.xero.com", "api.xero.com"],
      canRefresh: true,
      canRevoke: true,
      canIdentify: true,
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
    return { tag: "visit", val: `${AUTHORIZE}?${query}` };
  },

  exchange(connection, callback, pkce) {
    const code = callback.find(([name]) => name === "code")?.[1];
    if (!code) fail("provider-error", "the callback came without `code`");
    const granted = tokens({
      grant_type: "authorization_code",
      code,
      redirect_uri: connection.redirectUri,
      code_verifier: pkce.verifier,
    });
    const [organisation] = organisations(granted.accessToken);
    if (!organisation) fail("provider-error", "the user connected no organisation");
    granted.keep = [
      ["tenant_id", organisation.tenantId],
      ["tenant_name", organisation.tenantName],
    ];
    return granted;
  },

  refresh(connection, current) {
    if (!current.refreshToken) fail("invalid-grant", "there is no refresh token");
    return tokens({ grant_type: "refresh_token", refresh_token: current.refreshToken });
  },

  revoke(connection, current) {
    const token = current.refreshToken ?? current.accessToken;
    post("revocation", { token });
  },

  // The organisation: people come and go, and what an app does at Xero it does to an organisation.
  identity(connection, current) {
    const kept = Object.fromEntries(connection.kept);
    const organisation = organisations(current.accessToken).find((one) => one.tenantId === kept.tenant_id);
    if (!organisation) fail("invalid-grant", "the organisation is not connected any more");
    return { subject: organisation.tenantId, email: undefined, emailVerified: false, name: organisation.tenantName };
  },
};
