// Nothing happens before the button is pressed: programs that look at mail open links, and some of them
// run scripts.

function begin() {
  const found = takeToken();
  if (!found && token) return;
  part("act").hidden = !found;
  part("missing").hidden = found;
  part("done").hidden = true;
  tell("", "");
}

part("act").addEventListener("submit", async event => {
  event.preventDefault();
  const button = part("confirm");
  if (isBusy(button)) return;
  busy(button, true);
  tell("soft", "One moment…");
  const answer = await ask("verify-email", { token });
  busy(button, false);
  if (answer.ok) {
    part("act").hidden = true;
    part("done").hidden = false;
    tell("good", "Your e-mail address is confirmed.");
  } else {
    part("act").hidden = !temporary(answer);
    tell("bad", detail(answer));
  }
});

addEventListener("hashchange", begin);
begin();
