// Keys, and a running page that updates itself. Pages are whole without it.
"use strict";

const rows = () => [...document.querySelectorAll("[data-row]")];
let at = -1;

function go(step) {
  const all = rows();
  if (!all.length) return;
  if (at >= 0 && all[at]) all[at].classList.remove("at");
  at = Math.min(all.length - 1, Math.max(0, at + step));
  all[at].classList.add("at");
  all[at].scrollIntoView({ block: "nearest" });
  const target = all[at].querySelector("a") || all[at];
  target.focus({ preventScroll: true });
}

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "j") go(1);
  else if (event.key === "k") go(-1);
  else if (event.key === "u") (document.querySelector("[data-up]") || document.querySelector("nav a")).click();
  else if (event.key === "/") {
    const find = document.querySelector("input[type=search]");
    if (!find) return;
    find.focus();
  } else if (event.key === "?") document.getElementById("help").showModal();
  else return;
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-help]")) document.getElementById("help").showModal();
});

const EVERY_MS = 2000;

async function refresh() {
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const open = [...document.querySelectorAll("details")].map((one) => one.open);
      const focused = document.activeElement && document.activeElement.closest("#content input");
      if (!focused) {
        document.getElementById("content").replaceChildren(...page.getElementById("content").childNodes);
        document.querySelectorAll("details").forEach((one, place) => { one.open = open[place] || one.open; });
        const all = rows();
        if (at >= 0 && all[at]) all[at].classList.add("at");
      }
      if (!("live" in page.body.dataset)) return;
    }
  } catch {
    // The server has stopped, or is busy: the page stays as it is.
  }
  setTimeout(refresh, EVERY_MS);
}

if ("live" in document.body.dataset && location.protocol !== "file:") setTimeout(refresh, EVERY_MS);
