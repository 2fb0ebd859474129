// @ts-check
/**
 * The front page: asks the API, and shows for each response who served it.
 *
 * Everything passes through `ask`, which sends one request and gives one Answer, whatever happened. An Answer is
 * then told to three listeners in turn: the log, the diagram, and the outage banner. Once a second `tick` looks
 * whether something is to be asked: because the user wants it, or because the last answer was a failure.
 *
 * Whatever came from the network reaches the page as text (`textContent`, `append`), never as markup.
 *
 * @typedef {{code: string, url: string, short: string, clicks: number, created: string}} Link
 * @typedef {{method: string, path: string, status: number, ms: number, servedBy: string[], data: any,
 *            error: string}} Answer  status 0: there was none; error: empty, or one sentence for the user
 */

const TIMEOUT_MS = 5000;
const TICK_MS = 1000;
const LOG_LENGTH = 12;
const PAGE_SIZE = 10;
const MAX_PAGE_SIZE = 100; // of the API
const CONFIRM_MS = 4000;

/** @returns {any} the element of index.html with this id */
const byId = (id) => document.getElementById(id);

/** @returns {any} a new element; strings among the children become text */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

// ## Asking

/** @returns {Promise<Answer>} never rejects */
async function ask(method, path, body = undefined) {
  /** @type {Answer} */
  const answer = { method, path, status: 0, ms: 0, servedBy: [], data: null, error: "" };
  const began = performance.now();
  try {
    const response = await fetch(path, {
      method,
      headers: body && { "Content-Type": "application/json" },
      body: body && JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS), // bounds the body, too
    });
    const names = response.headers.get("X-Served-By") ?? "";
    answer.servedBy = names.split(",").map((name) => name.trim()).filter(Boolean);
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

/** Whether the stack failed, and not the request. Then it is worth asking again. */
const isOutage = (answer) => answer.status === 0 || answer.status >= 502;

function logAnswer({ method, path, status, ms, servedBy, error }) {
  const row = element("tr", { className: error ? "bad" : "", title: error },
    element("td", {}, element("b", {}, method), ` ${path}`),
    element("td", {}, status || error),
    element("td", {}, ms.toFixed(ms < 10 ? 1 : 0)),
    element("td", {}, servedBy.join(", ") || "nobody"));
  byId("log").prepend(row);
  while (byId("log").rows.length > LOG_LENGTH) byId("log").deleteRow(-1);
}

// ## The diagram

const TIERS = ["vip", "web", "app", "db"];
/** What is known of each tier: name → node. A tier of which nobody has been heard has a nameless one. */
const nodes = Object.fromEntries(TIERS.map((tier) => [tier, new Map()]));

/** The node of that name; "" is one that does not tell its name. The first name heard takes over its place. */
function nodeOf(tier, name, label = name || "?") {
  const known = nodes[tier];
  if (known.has(name)) return known.get(name);
  const nameless = known.get("");
  const node = nameless?.count === 0 ? nameless : { box: element("li"), count: 0 };
  if (node === nameless) known.delete("");
  known.set(name, node);
  node.counter = element("span", { className: "count" }, "not heard of yet");
  node.box.replaceChildren(element("span", { className: "name" }, label), node.counter);
  const inOrder = [...known].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
  byId(`tier-${tier}`).replaceChildren(...inOrder.map(([, { box }]) => box));
  return node;
}

/** @returns {{route: any[], broken: number}} the nodes that served, and the index of the tier that did not (or 4) */
function routeOf({ status, servedBy, data }) {
  const vip = nodeOf("vip", location.host);
  if (status === 0) return { route: [], broken: 0 };
  // A web server that is not ours may pass the application's name on and leave out its own.
  const named = servedBy.length === 1 && (nodes.app.has(servedBy[0]) || data?.application?.name === servedBy[0])
    ? ["", ...servedBy] : servedBy;
  const [web, app] = named;
  const route = [vip, nodeOf("web", web ?? "")];
  if (!app) return { route, broken: status >= 502 ? 2 : 4 };
  route.push(nodeOf("app", app));
  if (status >= 502) return { route, broken: 3 };
  // A value that cannot be taken is refused before the database is asked.
  if (status < 400 || status === 404 || status === 409) route.push(nodeOf("db", "db", "database"));
  return { route, broken: 4 };
}

let shown = { /** @type {any[]} */ route: [], broken: 4 };

function showPath(answer) {
  shown = routeOf(answer);
  for (const node of shown.route) node.count += 1;
  TIERS.forEach((tier, index) => {
    for (const node of nodes[tier].values()) {
      node.box.className = shown.route.includes(node) ? "lit" : index === shown.broken ? "bad" : "";
      if (node.count) node.counter.textContent = `${node.count} served`;
    }
  });
  const who = shown.route.slice(1).map((node) => node.box.firstChild.textContent).join(" → ") || "Nobody";
  byId("caption").replaceChildren(element("b", {}, who),
    ` answered ${answer.method} ${answer.path}: ${answer.status || answer.error}, ${answer.ms.toFixed(0)} ms`);
  drawWires();
}

/** Lines from each node to all of the next tier: sideways, or down when the tiers stand below each other. */
function drawWires() {
  const frame = byId("diagram").getBoundingClientRect();
  const isDown = getComputedStyle(byId("diagram")).getPropertyValue("--flow").trim() === "down";
  const lines = [];
  TIERS.slice(1).forEach((tier, index) => {
    for (const from of nodes[TIERS[index]].values()) {
      for (const to of nodes[tier].values()) {
        const isLit = shown.route[index] === from && shown.route[index + 1] === to;
        const isBad = shown.route[index] === from && shown.broken === index + 1;
        lines.push({ d: curve(from.box, to.box, frame, isDown), kind: isLit ? "lit" : isBad ? "bad" : "" });
      }
    }
  });
  lines.sort((a, b) => a.kind.length - b.kind.length); // lit ones last, so that they lie on top
  byId("wires").replaceChildren(...lines.map(({ d, kind }) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    path.setAttribute("class", kind);
    return path;
  }));
}

function curve(from, to, frame, isDown) {
  const [a, b] = [from.getBoundingClientRect(), to.getBoundingClientRect()];
  const middle = (box) => [(box.left + box.right) / 2 - frame.left, (box.top + box.bottom) / 2 - frame.top];
  const [[ax, ay], [bx, by]] = [middle(a), middle(b)];
  if (isDown) {
    const [top, bottom] = [a.bottom - frame.top, b.top - frame.top];
    const bend = (top + bottom) / 2;
    return `M${ax} ${top}C${ax} ${bend} ${bx} ${bend} ${bx} ${bottom}`;
  }
  const [left, right] = [a.right - frame.left, b.left - frame.left];
  const bend = (left + right) / 2;
  return `M${left} ${ay}C${bend} ${ay} ${bend} ${by} ${right} ${by}`;
}

// ## Outages

/** Since when nothing works, and how many requests it cost; null while all is well.
 * @type {{since: number, failures: number} | null} */
let outage = null;

function showOutage(answer) {
  if (isOutage(answer)) {
    outage ??= { since: performance.now() - answer.ms, failures: 0 };
    outage.failures += 1;
    say("bad", `${explain(answer)} Retrying every second …`);
  } else if (outage) {
    const seconds = ((performance.now() - outage.since) / 1000).toFixed(1);
    say("good", `${new Date().toLocaleTimeString()}: answering again, after ${seconds} s and ` +
      `${counted(outage.failures, "failed request")}.`);
    outage = null;
    reload();
  }
}

function explain({ status, servedBy, error }) {
  if (status === 0) {
    return `Nobody answers at ${location.host}: ${error}. If a load balancer has just died, the other one takes the ` +
      "address over when three advertisements are missing.";
  }
  if (servedBy.length > 1 && status === 503) return `The database is away (${servedBy.join(", ")}: ${error}).`;
  return `${servedBy[0] ?? "The web server"} finds no application that is ready. Either all are stopped, or the ` +
    `database is away (${error})`;
}

/** A live region speaks whenever it changes, so it is changed only for news. */
function say(kind, text) {
  const banner = byId("banner");
  if (banner.textContent === text) return;
  banner.className = `banner ${kind}`;
  banner.textContent = text;
}

// ## The links

let next = null; // what to send as `after` for the following page; null at the end
let turn = 0; // of the newest request for links: an older one's answer comes too late

async function reload() {
  const mine = ++turn;
  const list = byId("list");
  const limit = Math.min(Math.max(list.children.length, PAGE_SIZE), MAX_PAGE_SIZE);
  const answer = await ask("GET", `/api/links?limit=${limit}`);
  if (mine !== turn) return;
  if (!answer.error) {
    const focused = document.activeElement;
    const rows = new Map([...list.children].map((row) => [row.dataset.key, row]));
    list.replaceChildren(...answer.data.links.map((link) => linkRow(link, rows.get(keyOf(link)))));
    if (focused instanceof HTMLElement && focused.isConnected) focused.focus({ preventScroll: true });
    next = answer.data.next;
  }
  showEnd(answer.error);
}

async function loadMore() {
  const mine = ++turn;
  const answer = await ask("GET", `/api/links?limit=${PAGE_SIZE}&after=${encodeURIComponent(next ?? "")}`);
  if (mine !== turn || answer.error) return;
  const rows = answer.data.links.map((link) => linkRow(link));
  byId("list").append(...rows);
  next = answer.data.next;
  if (next === null) rows[0]?.querySelector("button").focus(); // "More" is about to vanish
  showEnd("");
}

function showEnd(error) {
  const isEmpty = byId("list").children.length === 0;
  byId("list").ariaBusy = "false";
  byId("more").hidden = next === null;
  byId("placeholder").hidden = !isEmpty;
  byId("placeholder").textContent = error ? `The links could not be read: ${error}.` : "No links yet. The first one is yours.";
}

const keyOf = (link) => `${link.code} ${link.created}`; // a code can be deleted, and given again

/** @param {Link} link @param {any} row an earlier row of the same link, which is brought up to date */
function linkRow(link, row = undefined) {
  row ??= newRow(link);
  row.querySelector(".clicks").textContent = counted(link.clicks, "click");
  return row;
}

function newRow(link) {
  const short = new URL(link.short, location.origin).href;
  const created = new Date(link.created);
  const button = (text, onclick) =>
    element("button", { type: "button", onclick, ariaLabel: `${text} ${link.short}` }, text);
  const open = element("a", { className: "button", href: short, target: "_blank", rel: "noopener",
    ariaLabel: `Open ${link.short} in a new tab` }, "Open");
  open.addEventListener("click", () => setTimeout(reload, TICK_MS)); // the visit has been counted by then
  const row = element("li", {},
    element("p", { className: "short" }, element("span", { className: "muted" }, `${location.host}/l/`), link.code),
    element("p", { className: "target" }, link.url),
    element("p", { className: "facts" },
      element("span", { className: "clicks" }), " · ",
      element("time", { dateTime: link.created },
        created.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }))),
    element("div", { className: "actions" },
      button("Copy", () => copy(short)), open, button("Delete", (event) => removeLink(link, row, event.target))));
  row.dataset.key = keyOf(link);
  return row;
}

async function copy(text) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text); // there is no clipboard but on https and loopback
  } catch {
    const focused = document.activeElement;
    const area = element("textarea", { value: text });
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
  }
  tell(done ? "" : "bad", done ? `Copied ${text}` : `The browser does not let us copy ${text}`);
}

/** The first press asks, the second one within a few seconds deletes. */
async function removeLink(link, row, button) {
  if (button.className !== "sure") {
    const label = button.ariaLabel;
    Object.assign(button, { className: "sure", textContent: "Sure?", ariaLabel: `Really delete ${link.short}?` });
    setTimeout(() => Object.assign(button, { className: "", textContent: "Delete", ariaLabel: label }), CONFIRM_MS);
    return;
  }
  const answer = await ask("DELETE", `/api/links/${encodeURIComponent(link.code)}`);
  if (answer.error && answer.status !== 404) return tell("bad", `Not confirmed: ${answer.error}`);
  const neighbour = row.nextElementSibling ?? row.previousElementSibling;
  row.remove();
  (neighbour?.querySelector("button") ?? byId("list-title")).focus();
  tell("", `Deleted ${link.short}`);
  reload();
}

// ## The form

let isSending = false;

async function submit(event) {
  event.preventDefault();
  if (isSending) return; // not `disabled`, which would lose the focus
  isSending = true;
  const [url, code] = [byId("url").value.trim(), byId("code").value.trim()];
  const answer = await ask("POST", "/api/links", code ? { url, code } : { url });
  isSending = false;
  const field = answer.data?.field;
  for (const name of ["url", "code"]) {
    byId(`${name}-error`).textContent = name === field ? answer.error : "";
    byId(name).ariaInvalid = String(name === field);
  }
  if (field === "url" || field === "code") {
    tell("", "");
    byId(field).focus();
  } else if (answer.error) {
    tell("bad", `Not confirmed: ${answer.error}`);
  } else {
    byId("form").reset();
    byId("url").focus();
    tell("", `Created ${new URL(answer.data.short, location.origin).href}`);
    await reload();
  }
}

function tell(kind, text) {
  byId("message").className = `message ${kind}`;
  byId("message").textContent = text;
}

// ## Who am I, and once a second

async function askWho() {
  const { data, error } = await ask("GET", "/api/whoami");
  if (error) return;
  const { application, client, database } = data;
  byId("who-application").textContent = `${application.name}, process ${application.pid}`;
  byId("who-client").textContent = client.address;
  byId("who-database").textContent = `${database.engine} ${database.version} at ${database.address}`;
}

/** At most one at a time and one a second, and none while nobody looks. */
async function tick() {
  const isWanted = outage !== null || byId("poll").checked;
  await Promise.all([
    isWanted && !document.hidden && askWho(),
    new Promise((resolve) => setTimeout(resolve, TICK_MS)),
  ]);
  tick();
}

byId("form").addEventListener("submit", submit);
byId("more").addEventListener("click", loadMore);
byId("ask").addEventListener("click", askWho);
document.addEventListener("visibilitychange", () => document.hidden || reload()); // links were visited meanwhile
new ResizeObserver(drawWires).observe(byId("diagram"));

byId("prefix").textContent = `${location.host}/l/`;
nodeOf("vip", location.host);
nodeOf("web", "");
nodeOf("app", "");
nodeOf("db", "db", "database");
await askWho();
await reload();
tick();
