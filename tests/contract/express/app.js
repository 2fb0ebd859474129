// The link shortener on Express and mysql2. It stands in for `python -m scaleup.app`, whose interface docs/app.md and
// /api/openapi.json describe, on the same tables; it makes none, and knows one host of the database.
//
//     DATABASE_PASSWORD=… node app.js --listen 127.0.0.1:3000 --database mysql://scaleup@127.0.0.1:3306/scaleup
import cluster from "node:cluster";
import crypto from "node:crypto";
import fs from "node:fs";
import { STATUS_CODES } from "node:http";
import { isIP } from "node:net";
import { parseArgs } from "node:util";
import express from "express";
import { DUPLICATE, Problem, asJson, isCode, newCode, now, readKey, readNewLink, readNumber } from "./links.js";
import { Store } from "./store.js";

const MAX_BODY = 16 * 1024;
const MAX_ID = 2n ** 63n - 1n;
const KEEP_ALIVE = 30_000; // ms; longer than proxies keep idle connections
const DESCRIPTION = fs.readFileSync(new URL("../../../scaleup/app/openapi.json", import.meta.url));

function makeApp(store, name, state) {
  const app = express();
  app.disable("x-powered-by").disable("etag").enable("case sensitive routing").enable("strict routing");
  app.set("trust proxy", ["loopback", "linklocal", "uniquelocal"]);

  app.use((request, response, next) => {
    const given = request.get("X-Request-Id") ?? "";
    const id = /^[0-9A-Za-z._:\/+=-]{1,128}$/.test(given) ? given : crypto.randomBytes(8).toString("hex");
    response.set({ "X-Request-Id": id, "X-Served-By": name });
    if (state.draining) response.set("Connection", "close");
    next();
  });

  function onlyJson(request, response, next) {
    const type = (request.get("Content-Type") ?? "").split(";")[0].trim().toLowerCase();
    if (type === "application/json" && !request.get("Content-Encoding")) return next();
    throw new Problem(415, "send application/json, not compressed", { headers: { "Accept-Post": "application/json" } });
  }

  async function create(request, response) {
    const { url, code: chosen } = readNewLink(request.body);
    const key = readKey(request.get("Idempotency-Key"), { url, code: chosen });
    for (let tries = 0; tries < 5; tries++) {
      const [code, created] = [chosen ?? newCode(), now()];
      const link = JSON.stringify(asJson({ code, url, clicks: 0, created }));
      try {
        const stored = key ? await store.addOnce(key, link, code, url, created) : link;
        if (!key) await store.add(code, url, created);
        return response.status(201).location(`/api/links/${JSON.parse(stored).code}`).type("json").send(stored);
      } catch (error) {
        if (error.errno !== DUPLICATE) throw error;
        if (chosen) throw new Problem(409, `the code ${chosen} is taken`, { field: "code" });
      }
    }
    throw new Problem(503, "no free code was found", { headers: { "Retry-After": "1" } });
  }

  async function page(request, response) {
    const limit = Number(readNumber(request.query, "limit", 1n, 100n) ?? 20);
    const found = await store.page(String(limit + 1), readNumber(request.query, "after", 0n, MAX_ID) ?? String(MAX_ID));
    const links = found.slice(0, limit);
    response.json({ links: links.map(asJson), next: found.length > limit ? String(links.at(-1).id) : null });
  }

  const noLink = (code) => new Problem(404, `there is no link ${code}`);

  async function show(request, response) {
    const { code } = request.params;
    const link = isCode(code) ? await store.get(code) : undefined;
    if (!link) throw noLink(code);
    const body = JSON.stringify(asJson(link));
    const tag = crypto.createHash("sha256").update(body).digest("hex").slice(0, 32);
    response.set({ ETag: `"${tag}"`, "Cache-Control": "no-cache" }).type("json").send(body); // 304 to who knows it
  }

  async function remove(request, response) {
    const { code } = request.params;
    if (!isCode(code) || !(await store.remove(code))) throw noLink(code);
    response.status(204).end();
  }

  async function follow(request, response) {
    const { code } = request.params;
    const url = isCode(code) ? await store.url(code) : undefined;
    if (!url) throw noLink(code);
    if (request.method !== "HEAD") store.count(code);
    response.status(302).set({ Location: url, "Cache-Control": "no-store" }).end(); // location() would rewrite it
  }

  async function whoami(request, response) {
    const address = request.ips.find(isIP) ?? request.socket.remoteAddress; // a proxy may have been told nonsense
    response.json({ application: { name, pid: process.pid }, client: { address }, database: await store.who() });
  }

  async function readyz(request, response) {
    if (state.draining) throw new Problem(503, "draining");
    await store.ready();
    response.type("text").send("ready\n");
  }

  const only = (allowed) => (request) => {
    throw new Problem(405, `${request.path} takes ${allowed}`, { headers: { Allow: allowed } });
  };
  const read = "GET, HEAD";
  const readJson = express.json({ limit: MAX_BODY, strict: false });
  app.route("/api/links").post(onlyJson, readJson, create).get(page).all(only("GET, HEAD, POST"));
  app.route("/api/links/:code").get(show).delete(remove).all(only("DELETE, GET, HEAD"));
  app.route("/l/:code").get(follow).all(only(read));
  app.route("/api/whoami").get(whoami).all(only(read));
  app.route("/api/openapi.json").get((_, response) => response.type("json").send(DESCRIPTION)).all(only(read));
  app.route("/healthz").get((_, response) => response.type("text").send("ok\n")).all(only(read));
  app.route("/readyz").get(readyz).all(only(read));
  app.use((request) => {
    throw new Problem(404, `there is nothing at ${request.path}`);
  });
  app.use(answerProblem);
  return app;
}

// RFC 9457. Express knows an error handler by its four parameters.
function answerProblem(error, request, response, _next) {
  let { status = 500, headers = {}, more = {} } = error;
  let detail = status < 500 ? error.message : "an error of the application; its log says more";
  if (error instanceof Problem) detail = error.message;
  else if (error instanceof URIError) [status, detail] = [404, "no code has such characters"];
  else if (error.outcome) {
    [status, headers, more] = [503, { "Retry-After": "1" }, { outcome: error.outcome }];
    detail = `the database does not answer: ${error.outcome === "failed" ? "nothing was changed" : "it may be done or not"}`;
  } else if (status >= 500) console.error(error);
  if (error.type === "entity.too.large") detail = `the body may have ${MAX_BODY} bytes`;
  response.status(status).set(headers).type("application/problem+json");
  response.send(JSON.stringify({ type: "about:blank", title: STATUS_CODES[status], status, detail, ...more }));
}

function serve(options) {
  const state = { draining: false };
  const store = new Store(new URL(options.database), process.env.DATABASE_PASSWORD, Number(options.connections));
  const [, host, port] = /^(.*):(\d+)$/.exec(options.listen);
  const server = makeApp(store, options.name, state).listen({ host, port: Number(port), backlog: 4096 });
  Object.assign(server, { keepAliveTimeout: KEEP_ALIVE, headersTimeout: KEEP_ALIVE, requestTimeout: KEEP_ALIVE });
  const flush = () => store.flush().catch((error) => console.error(`clicks are lost: ${error.message}`));
  setInterval(flush, 1000);
  process.once("SIGTERM", () => {
    state.draining = true;
    server.close(() => flush().then(() => process.exit()));
    server.closeIdleConnections();
  });
}

function main() {
  const text = (value) => ({ type: "string", default: value });
  const { values: options } = parseArgs({
    options: {
      listen: text("127.0.0.1:3000"),
      database: text("mysql://scaleup@127.0.0.1:3306/scaleup"),
      name: text("express"),
      workers: text("1"),
      connections: text("10"), // to the database, of each worker
    },
  });
  if (options.workers === "1" || cluster.isWorker) return serve(options);
  for (let number = 0; number < Number(options.workers); number++) cluster.fork();
  const replace = () => cluster.fork();
  cluster.on("exit", replace);
  process.once("SIGTERM", () => {
    cluster.off("exit", replace);
    for (const worker of Object.values(cluster.workers)) worker.process.kill("SIGTERM");
  });
}

main();
