// Nothing happens before the button is pressed: programs that look at mail open links, and some of them
// run scripts. The link shows whose the mailbox is; that the password is theirs too is shown by the browser that
// registered, whose cookie comes with the request, or by typing it. Or it is replaced.

const FORMS = ["act", "prove", "choose"];
const REGISTERED = part("why").textContent;
const CHANGES = "This link changes the address of an account. Type the password of that account to go on.";
const FIELDS = { password: "show", new_password: "show_new" };

function only(form) {
  for (const id of FORMS) part(id).hidden = id !== form;
  part("otherwise").hidden = true;
}

function begin() {
  const found = takeToken();
  if (!found && token) return;
  only(found ? "act" : "");
  part("missing").hidden = found;
  part("done").hidden = true;
  for (const [field, box] of Object.entries(FIELDS)) {
    part(field).value = "";
    part(box).checked = false;
    visible(field, box);
    invalid(field, false);
  }
  tell("", "");
}

function visible(field, box) {
  part(field).type = part(box).checked ? "text" : "password";
}

function invalid(field, is) {
  if (is) part(field).setAttribute("aria-invalid", "true");
  else part(field).removeAttribute("aria-invalid");
}

// What would do beside the link, as the server tells it.
function asksFor(ways) {
  if (!ways.includes("password")) return choose();
  only("prove");
  part("why").textContent = ways.includes("access_token") ? CHANGES : REGISTERED;
  part("otherwise").hidden = !ways.includes("new_password");
  tell("", "");
  part("password").focus();
}

async function choose() {
  only("choose");
  tell("", "");
  part("new_password").focus();
  const rules = await ask("password-requirements");
  if (rules.ok && Array.isArray(rules.document.text)) part("rules").textContent = rules.document.text.join(" ");
}

// Sends the link with what else the form has, and says what came of it.
async function send(button, field) {
  if (isBusy(button)) return;
  if (field && !part(field).value) {
    invalid(field, true);
    tell("bad", "Type the password first.");
    return part(field).focus();
  }
  busy(button, true);
  tell("soft", "One moment…");
  const more = field ? { [field]: part(field).value } : {};
  const answer = await ask("verify-email", { token, proof: true, ...more }, "same-origin");
  busy(button, false);
  const { code, ways, violations } = answer.document;
  if (answer.ok) {
    if (field) part(field).value = "";
    part("next").textContent = field === "new_password"
      ? "You can close this page, and sign in with this address and your new password."
      : "You can close this page, and sign in with this address.";
    only("");
    part("done").hidden = false;
    return tell("good", "Your e-mail address is confirmed.");
  }
  if (code === "proof_needed") return asksFor(Array.isArray(ways) ? ways : []);
  if (code === "wrong_password") {
    invalid(field, true);
    const or = part("otherwise").hidden ? "." : ", or choose a new one.";
    tell("bad", "That is not the password. Try again" + or);
    return part(field).focus();
  }
  const broken = Array.isArray(violations) ? violations : [];
  const texts = broken.map(violation => violation && violation.text).filter(text => typeof text === "string");
  tell("bad", detail(answer), texts);
  if (broken.length && field) {
    invalid(field, true);
    return part(field).focus();
  }
  if (!temporary(answer)) only("");
}

for (const [form, button, field] of [["act", "confirm"], ["prove", "give", "password"], ["choose", "set", "new_password"]]) {
  part(form).addEventListener("submit", event => {
    event.preventDefault();
    send(part(button), field);
  });
}
for (const [field, box] of Object.entries(FIELDS)) {
  part(box).addEventListener("change", () => visible(field, box));
  part(field).addEventListener("input", () => invalid(field, false));
}
part("other").addEventListener("click", choose);
addEventListener("hashchange", begin);
begin();
