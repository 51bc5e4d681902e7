async function begin() {
  const found = takeToken();
  if (!found && token) return;
  part("act").hidden = true;
  part("again").hidden = true;
  part("done").hidden = true;
  part("missing").hidden = found;
  tell("", "");
  if (!found) return;
  tell("soft", "One moment…");
  const [valid, rules] = await Promise.all([ask("password-resets/validate", { token }), ask("password-requirements")]);
  if (rules.ok && Array.isArray(rules.document.text)) part("rules").textContent = rules.document.text.join(" ");
  if (!valid.ok) {
    part("again").hidden = !temporary(valid);
    return tell("bad", detail(valid));
  }
  tell("", "");
  part("act").hidden = false;
  part("password").focus();
}

function show() {
  part("password").type = part("show").checked ? "text" : "password";
}

function invalid(is) {
  if (is) part("password").setAttribute("aria-invalid", "true");
  else part("password").removeAttribute("aria-invalid");
}

part("act").addEventListener("submit", async event => {
  event.preventDefault();
  const button = part("set"), password = part("password");
  if (isBusy(button)) return;
  if (!password.value) {
    invalid(true);
    tell("bad", "Type the new password first.");
    return password.focus();
  }
  busy(button, true);
  tell("soft", "One moment…");
  const answer = await ask("password-resets/confirm", { token, new_password: password.value });
  busy(button, false);
  if (answer.ok) {
    password.value = "";
    part("act").hidden = true;
    part("done").hidden = false;
    return tell("good", "Your new password is set.");
  }
  const broken = Array.isArray(answer.document.violations) ? answer.document.violations : [];
  const texts = broken.map(violation => violation && violation.text).filter(text => typeof text === "string");
  tell("bad", detail(answer), texts);
  if (broken.length) {
    invalid(true);
    password.focus();
  } else if (!temporary(answer)) {
    part("act").hidden = true;
  }
});

part("show").addEventListener("change", show);
part("password").addEventListener("input", () => invalid(false));
part("retry").addEventListener("click", () => {
  location.hash = "token=" + encodeURIComponent(token);
});
addEventListener("hashchange", begin);
show();
begin();
