"use strict";
// What is live on a page. Everything is there without it, after a reload.

// Parts of the page that change while a run goes on.
async function refresh(part) {
  const answer = await fetch(part.dataset.from, { headers: { accept: "text/html" } });
  if (!answer.ok || answer.redirected) return false;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  part.replaceChildren(...page.body.childNodes);
  return part.querySelector("[data-final]") === null;
}

for (const part of document.querySelectorAll("[data-live=state]")) {
  const again = async () => {
    let open = true;
    // A page that nobody sees need not be new.
    if (!document.hidden) open = await refresh(part).catch(() => true);
    if (open) setTimeout(again, 2000);
    else location.reload();
  };
  setTimeout(again, 2000);
}

// The log: lines are added as they come.
for (const log of document.querySelectorAll("[data-follow]")) {
  let known = Number(log.dataset.lines);
  const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.scrollTop = log.scrollHeight;
  const lines = new EventSource(log.dataset.follow);
  let seen = 0;
  lines.onmessage = (message) => {
    const follow = atEnd();
    for (const line of message.data.split("\n")) {
      seen += 1;
      // The page came with the first ones.
      if (seen > known) log.append(line + "\n");
    }
    if (follow) log.scrollTop = log.scrollHeight;
  };
  lines.addEventListener("end", () => lines.close());
}

for (const form of document.querySelectorAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!confirm(form.dataset.confirm)) event.preventDefault();
  });
}

// Brings the answer of a login to the program that waits for it.
for (const form of document.querySelectorAll("form[data-submit]")) form.requestSubmit();
