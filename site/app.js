// @ts-check
/**
 * The front page: asks the API, and shows for each response who served it.
 *
 * `ask` sends each request and tells the Answer to the log, the diagram and the outage banner. `tick`, once a second,
 * asks again when the user wants it, or when the last answer was a failure.
 * Whatever came from the network reaches the page as text (`textContent`, `append`), never as markup.
 *
 * @typedef {{code: string, url: string, short: string, clicks: number, created: string}} Link
 * @typedef {{method: string, path: string, status: number, ms: number, servedBy: string[], data: any,
 *            error: string}} Answer  status 0: nobody answered; error: empty, or a sentence for the user
 */

const TIMEOUT_MS = 5000;
const TICK_MS = 1000;
const COUNTED_MS = 1500; // applications write clicks each second
const CONFIRM_MS = 4000;
const LOG_LENGTH = 12;
const PAGE_SIZE = 10;
const MAX_PAGE_SIZE = 100; // of the API

/** @returns {any} the element of index.html with this id */
const byId = (id) => document.getElementById(id);
const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** @returns {any} a new element; strings among the children become text */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** @returns {Promise<Answer>} never rejects */
async function ask(method, path, body = undefined) {
  const answer = { method, path, status: 0, ms: 0, servedBy: [], data: /** @type {any} */ (null), error: "" };
  const began = performance.now();
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS); // bounds the body, too
    const content = body && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(path, { method, signal, cache: "no-store", ...content });
    answer.servedBy = (response.headers.get("X-Served-By") ?? "").split(/[\s,]+/).filter(Boolean);
    const isJson = /[/+]json\b/.test(response.headers.get("Content-Type") ?? "");
    answer.data = isJson ? await response.json() : null;
    answer.status = response.status;
    if (!response.ok) answer.error = answer.data?.detail ?? `${response.status} ${response.statusText}`;
  } catch (error) {
    answer.error = error.name === "TimeoutError" ? `no answer within ${TIMEOUT_MS / 1000} s` : "no connection";
  }
  answer.ms = performance.now() - began;
  for (const listener of [logAnswer, showPath, showOutage]) listener(answer);
  return answer;
}

function logAnswer({ method, path, status, ms, servedBy, error }) {
  const log = byId("log");
  log.prepend(element("tr", { className: error ? "bad" : "", title: error },
    element("td", { title: path }, element("b", {}, method), ` ${path}`),
    element("td", {}, status || "–"),
    element("td", {}, ms.toFixed(ms < 10 ? 1 : 0)),
    element("td", {}, servedBy.join(", ") || error)));
  while (log.rows.length > LOG_LENGTH) log.deleteRow(-1);
}

// The diagram: nodes appear as their names are heard.

const TIERS = ["vip", "web", "app", "db"];
const nodes = Object.fromEntries(TIERS.map((tier) => [tier, new Map()])); // of each tier: name → node
let shown = { route: /** @type {any[]} */ ([]), broken: 4 };

/** The node of that name; "" is one that does not tell its name. The first name heard takes over its place. */
function nodeOf(tier, name, label = name || "?") {
  const known = nodes[tier];
  if (known.has(name)) return known.get(name);
  if (known.get("")?.count === 0) known.delete("");
  const counter = element("span", { className: "count" }, "not heard of yet");
  const box = element("li", {}, element("span", { className: "name" }, label), counter);
  known.set(name, { label, box, counter, count: 0 });
  const inOrder = [...known].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
  byId(`tier-${tier}`).replaceChildren(...inOrder.map(([, node]) => node.box));
  return known.get(name);
}

/** Who served: the nodes in order, and the index of the tier that failed (4: none). */
function routeOf({ status, servedBy, data }) {
  if (status === 0) return { route: [], broken: 0 };
  // A web server that is not ours may leave out its own name: then the only one is the application's.
  const isApp = nodes.app.has(servedBy[0]) || data?.application?.name === servedBy[0];
  const [web = "", app] = servedBy.length === 1 && isApp ? ["", ...servedBy] : servedBy;
  const route = [nodeOf("vip", location.host), nodeOf("web", web)];
  if (!app) return { route, broken: status >= 502 ? 2 : 4 };
  route.push(nodeOf("app", app));
  // A value that cannot be taken is refused before the database is asked.
  if (status < 400 || status === 404 || status === 409) route.push(nodeOf("db", "db", "database"));
  return { route, broken: status >= 502 ? 3 : 4 };
}

function showPath(answer) {
  shown = routeOf(answer);
  for (const node of shown.route) node.counter.textContent = counted(node.count += 1, "response");
  TIERS.forEach((tier, index) => {
    for (const node of nodes[tier].values()) {
      node.box.className = shown.route.includes(node) ? "lit" : index === shown.broken ? "bad" : "";
    }
  });
  const who = shown.route.slice(1).map((node) => node.label).join(" → ") || "Nobody";
  byId("caption").replaceChildren(element("b", {}, who),
    ` answered ${answer.method} ${answer.path}: ${answer.status || answer.error}, ${answer.ms.toFixed(0)} ms`);
  drawWires();
}

/** Lines from each node to all of the next tier. */
function drawWires() {
  const wires = [];
  TIERS.slice(1).forEach((tier, index) => {
    for (const from of nodes[TIERS[index]].values()) {
      for (const to of nodes[tier].values()) {
        const isLit = shown.route[index] === from && shown.route[index + 1] === to;
        const isBad = shown.route[index] === from && shown.broken === index + 1;
        const wire = document.createElementNS("http://www.w3.org/2000/svg", "path");
        wire.setAttribute("class", isLit ? "lit" : isBad ? "bad" : "");
        wire.setAttribute("d", curve(from.box.getBoundingClientRect(), to.box.getBoundingClientRect()));
        wires[isLit || isBad ? "push" : "unshift"](wire); // later ones lie on top
      }
    }
  });
  byId("wires").replaceChildren(...wires);
}

/** From box a to box b of the next tier, which stands at the right of it or, on narrow screens, below. */
function curve(a, b) {
  const { left, top } = byId("diagram").getBoundingClientRect();
  if (matchMedia("(max-width: 43.99rem)").matches) {
    const [ax, bx] = [a, b].map((box) => (box.left + box.right) / 2 - left);
    const [ay, by] = [a.bottom - top, b.top - top];
    return `M${ax} ${ay}C${ax} ${(ay + by) / 2} ${bx} ${(ay + by) / 2} ${bx} ${by}`;
  }
  const [ay, by] = [a, b].map((box) => (box.top + box.bottom) / 2 - top);
  const [ax, bx] = [a.right - left, b.left - left];
  return `M${ax} ${ay}C${(ax + bx) / 2} ${ay} ${(ax + bx) / 2} ${by} ${bx} ${by}`;
}

/** Since when nothing works, and how many requests it cost; null while all is well. */
let outage = /** @type {{since: number, failures: number} | null} */ (null);

function showOutage(answer) {
  if (answer.status === 0 || answer.status >= 502) {
    outage ??= { since: performance.now() - answer.ms, failures: 0 };
    outage.failures += 1;
    say("bad", `${explain(answer)} Retrying every second …`);
  } else if (outage) {
    const seconds = ((performance.now() - outage.since) / 1000).toFixed(1);
    const cost = `${seconds} s and ${counted(outage.failures, "failed request")}`;
    say("good", `${new Date().toLocaleTimeString()}: answering again, after ${cost}.`);
    outage = null;
    reload(); // what was not read, or not confirmed, meanwhile
  }
}

function explain({ status, servedBy, error }) {
  if (status === 0) {
    return `Nobody answers at the virtual address ${location.host}: ${error}. If a load balancer has just died, the ` +
      "other one takes over when three of its advertisements are missing.";
  }
  if (servedBy.length > 1) return `The database is away. ${servedBy.join(", ")}: ${error}.`;
  return "No application is ready: all are stopped, or the database is away. " +
    `${servedBy[0] ?? "The web server"}: ${error}`;
}

/** A live region speaks whenever it changes, so it is changed only for news. */
function say(kind, text) {
  if (byId("banner").textContent === text) return;
  Object.assign(byId("banner"), { className: `banner ${kind}`, textContent: text });
}

const tell = (kind, text) => Object.assign(byId("message"), { className: `message ${kind}`, textContent: text });

// The links

let next = ""; // what to send as `after` for the following page; empty at the end
let turn = 0; // of the newest request for links: an older one's answer comes too late

/** Read the links that are shown again or, with `after`, a further page. */
async function reload(after = "") {
  const mine = ++turn;
  const [list, focused] = [byId("list"), /** @type {any} */ (document.activeElement)];
  const limit = after ? PAGE_SIZE : Math.min(Math.max(list.children.length, PAGE_SIZE), MAX_PAGE_SIZE);
  const { data, error } = await ask("GET", `/api/links?limit=${limit}${after && `&after=${after}`}`);
  if (mine !== turn) return;
  if (!error) {
    const rows = new Map([...list.children].map((row) => [row.dataset.key, row]));
    const found = data.links.map((link) => rowOf(link, rows.get(keyOf(link))));
    list.replaceChildren(...(after ? list.children : []), ...found);
    next = data.next ?? "";
    // Moving a row takes the focus from it; and "More" may be about to vanish.
    (after && !next ? found[0]?.querySelector("button") : focused)?.focus({ preventScroll: !after });
  }
  list.ariaBusy = "false";
  byId("more").hidden = !next;
  byId("placeholder").hidden = list.children.length > 0;
  byId("placeholder").textContent = error ? `The links could not be read: ${error}` : "No links yet. Make the first.";
}

const keyOf = (link) => `${link.code} ${link.created}`; // a code can be deleted, and given again

/** The row of a link; one that is there already is brought up to date. */
function rowOf(link, row = newRow(link)) {
  row.querySelector(".clicks").textContent = counted(link.clicks, "click");
  return row;
}

/** @param {Link} link */
function newRow(link) {
  const short = new URL(link.short, location.origin).href;
  const made = new Date(link.created).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  const button = (text, onclick) => element("button", { onclick, ariaLabel: `${text} ${link.short}` }, text);
  const open = element("a", { className: "button", href: short, target: "_blank", rel: "noopener" }, "Open");
  open.ariaLabel = `Open ${link.short} in a new tab`;
  open.addEventListener("click", () => setTimeout(reload, COUNTED_MS));
  const row = element("li", {},
    element("p", { className: "short" }, element("span", { className: "muted" }, `${location.host}/l/`), link.code),
    element("p", { className: "target" }, link.url),
    element("p", { className: "facts" }, element("span", { className: "clicks" }), ` · ${made}`),
    element("div", { className: "actions" },
      button("Copy", () => copy(short)), open, button("Delete", (event) => remove(link, row, event.target))));
  row.dataset.key = keyOf(link);
  return row;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    tell("", `Copied ${text}`);
  } catch {
    prompt("Copy this:", text); // browsers give a clipboard only to https and to loopback addresses
  }
}

/** The first press asks; a second one within a few seconds deletes. */
async function remove(link, row, button) {
  if (button.className !== "sure") {
    const before = { className: "", textContent: "Delete", ariaLabel: button.ariaLabel };
    Object.assign(button, { className: "sure", textContent: "Sure?", ariaLabel: `Really delete ${link.short}?` });
    setTimeout(() => Object.assign(button, before), CONFIRM_MS);
    return;
  }
  const { status, error } = await ask("DELETE", `/api/links/${encodeURIComponent(link.code)}`);
  tell(error ? "bad" : "", error ? `Not deleted: ${error}` : `Deleted ${link.short}`);
  if (error && status !== 404) return; // 404: somebody else was faster
  const neighbour = row.nextElementSibling ?? row.previousElementSibling;
  row.remove();
  (neighbour?.querySelector("button") ?? byId("list-title")).focus();
  reload();
}

async function submit(event) {
  event.preventDefault();
  const [url, code] = [byId("url").value.trim(), byId("code").value.trim()];
  byId("submit").disabled = true; // against a second press
  const { data, error } = await ask("POST", "/api/links", code ? { url, code } : { url });
  byId("submit").disabled = false;
  for (const name of ["url", "code"]) {
    const isWrong = error !== "" && data?.field === name;
    byId(`${name}-error`).textContent = isWrong ? error : "";
    byId(name).ariaInvalid = String(isWrong);
  }
  const wrong = error && document.querySelector('[aria-invalid="true"]');
  tell(error ? "bad" : "", wrong ? "" : error ? `Not confirmed: ${error}` : `Created ${location.origin}${data.short}`);
  if (!error) byId("form").reset();
  (wrong || byId("url")).focus();
  if (!error) await reload();
}

async function askWho() {
  const { data, error } = await ask("GET", "/api/whoami");
  if (error) return;
  byId("who-application").textContent = `${data.application.name}, process ${data.application.pid}`;
  byId("who-client").textContent = data.client.address;
  byId("who-database").textContent = `${data.database.engine} ${data.database.version} at ${data.database.address}`;
}

/** At most one request at a time, at most one a second, and none while nobody looks. */
async function tick() {
  const isWanted = !document.hidden && (outage !== null || byId("poll").checked);
  await Promise.all([isWanted && askWho(), new Promise((resolve) => setTimeout(resolve, TICK_MS))]);
  tick();
}

byId("form").addEventListener("submit", submit);
byId("more").addEventListener("click", () => reload(next));
byId("ask").addEventListener("click", askWho);
document.addEventListener("visibilitychange", () => { // links were visited meanwhile
  if (document.hidden) return;
  reload();
  setTimeout(reload, COUNTED_MS);
});
new ResizeObserver(drawWires).observe(byId("diagram"));

for (const [tier, ...node] of [["vip", location.host], ["web", ""], ["app", ""], ["db", "db", "database"]]) {
  nodeOf(tier, ...node);
}
await askWho();
await reload();
tick();
