"use strict";
// What both pages share: the token, the calls, and the place where results are told.

const part = id => document.getElementById(id);

// The token is in the fragment, which no server and no log sees, and leaves the address bar at once, so
// that it stays in no history and no bookmark.
let token = "";
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  if (given) token = given;
  return Boolean(given);
}

function tell(kind, text, items) {
  const result = part("result");
  result.className = kind;
  result.replaceChildren();
  if (!text) return;
  const line = document.createElement("p");
  line.textContent = text;
  result.append(line);
  if (items && items.length) {
    const list = document.createElement("ul");
    for (const item of items) list.append(Object.assign(document.createElement("li"), { textContent: item }));
    result.append(list);
  }
}

// Relative to where this page is, so that it works under any prefix.
// Cookies go with it only where `credentials` says so.
async function ask(path, body, credentials = "omit") {
  const options = { cache: "no-store", credentials, referrerPolicy: "no-referrer" };
  if (body) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json", Accept: "application/json" };
    options.body = JSON.stringify(body);
  }
  try {
    const answer = await fetch("../" + path, options);
    const document = await answer.json().catch(() => ({}));
    return { ok: answer.ok, status: answer.status, document: document || {} };
  } catch {
    return { ok: false, status: 0, document: { detail: "The server could not be reached. Check your connection and try again." } };
  }
}

const detail = answer => typeof answer.document.detail === "string" && answer.document.detail
  ? answer.document.detail
  : "Something went wrong on our side. Please try again in a moment.";

// Whether another try with the same link can succeed.
const temporary = answer => answer.status === 0 || answer.status === 429 || answer.status >= 500;

function busy(button, is) {
  button.setAttribute("aria-disabled", String(is));
}
const isBusy = button => button.getAttribute("aria-disabled") === "true";
