// What a page does with the fragment of its address, which browsers keep to themselves. Every page works without it.
"use strict";

// The token of a mailed link goes into the field for the code, and out of the address bar and the history.
function takeToken() {
  const field = document.querySelector("[data-token]");
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!field || !token) return;
  history.replaceState(history.state, "", location.pathname + location.search);
  field.value = token;
  // There is nothing left to type into it.
  const part = field.closest("[data-token-part]");
  if (part) part.hidden = true;
}

// What the page before says to this one alone, such as an address: into its field, and out of the address bar.
function takeFacts() {
  const facts = new URLSearchParams(location.hash.slice(1));
  for (const field of document.querySelectorAll("[data-fragment]")) {
    const fact = facts.get(field.dataset.fragment);
    if (!fact) continue;
    history.replaceState(history.state, "", location.pathname + location.search);
    if (!field.value) field.value = fact;
  }
}

// A place within the page that its reader came for outlasts the sign-in: forms and links take it along, and browsers
// keep it over redirects.
function keepFragment() {
  if (location.hash.length < 2) return;
  for (const form of document.querySelectorAll("form[data-keep-fragment]")) {
    form.setAttribute("action", (form.getAttribute("action") || location.pathname + location.search).split("#")[0] + location.hash);
  }
  for (const link of document.querySelectorAll("a[data-keep-fragment]")) {
    link.setAttribute("href", link.getAttribute("href").split("#")[0] + location.hash);
  }
}

function read() {
  takeToken();
  takeFacts();
  keepFragment();
}

read();
// A second link in the same tab changes the fragment alone.
addEventListener("hashchange", read);
