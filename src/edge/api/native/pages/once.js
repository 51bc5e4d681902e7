// Hands the token in once, when the button is pressed, to where the form says. Nothing happens before: programs that
// look at mail open links, and some of them run scripts.

const form = part("act"), path = form.getAttribute("action").replace("../", "");
const told = {
  "email-changes/undo": "The change is undone, and the account is frozen.",
  "email-changes/object": "Your objection is noted.",
};

function begin() {
  const found = takeToken();
  if (!found && token) return;
  form.hidden = !found;
  part("missing").hidden = found;
  part("done").hidden = true;
  tell("", "");
}

form.addEventListener("submit", async event => {
  event.preventDefault();
  const button = part("confirm");
  if (isBusy(button)) return;
  busy(button, true);
  tell("soft", "One moment…");
  const answer = await ask(path, { token });
  busy(button, false);
  if (answer.ok) {
    form.hidden = true;
    part("done").hidden = false;
    tell("good", told[path]);
  } else {
    form.hidden = !temporary(answer);
    tell("bad", detail(answer));
  }
});

addEventListener("hashchange", begin);
begin();
