// Ask for the page again and again, and exchange what is on it; without a script it is loaded anew (see <noscript>).
"use strict";

const EVERY_MS = 2000;
const live = document.getElementById("live");

function states(root) {
  return new Map([...root.querySelectorAll("tr[id]")].map((row) => [row.id, row.className]));
}

function exchange(page) {
  const before = states(document);
  const scrolled = new Map([...document.querySelectorAll(".scroll")].map((it) => [it.id, it.scrollLeft]));
  const focused = document.activeElement?.id;
  for (const part of ["facts", "proxies"]) {
    document.getElementById(part).replaceWith(page.getElementById(part));
  }
  for (const [id, left] of scrolled) {
    const it = document.getElementById(id);
    if (it) it.scrollLeft = left;
  }
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  for (const [id, state] of states(document)) {
    if (before.has(id) && before.get(id).replace(" changed", "") !== state) {
      document.getElementById(id).classList.add("changed");
    }
  }
  document.title = page.title;
}

async function look() {
  if (!document.hidden) {
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(EVERY_MS) });
      if (!answer.ok) throw new Error(answer.statusText);
      exchange(new DOMParser().parseFromString(await answer.text(), "text/html"));
      live.className = "";
      live.textContent = "live, every 2 s";
    } catch {
      if (!live.className) live.textContent = `no answer since ${new Date().toLocaleTimeString()}`;
      live.className = "lost";
    }
  }
  setTimeout(look, EVERY_MS);
}

live.textContent = "live, every 2 s";
setTimeout(look, EVERY_MS);
