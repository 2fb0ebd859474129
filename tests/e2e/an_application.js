// An application that is not ours, of Node's own HTTP server: the few pages that tests/e2e/test_e2e_swap.py asks for.
// node an_application.js PORT
const http = require("node:http");
const crypto = require("node:crypto");
const links = new Map();

function answer(response, status, value, fields = {}) {
  const body = value === undefined ? "" : JSON.stringify(value);
  response.writeHead(status, { "Content-Type": "application/json", "X-Served-By": "node", ...fields });
  response.end(body);
}

const server = http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const path = request.url.split("?")[0];
    const code = path.split("/").pop();
    if (path === "/readyz") return answer(response, 200, "ready");
    if (path === "/api/links" && request.method === "POST") {
      const made = crypto.randomBytes(4).toString("hex");
      links.set(made, JSON.parse(Buffer.concat(parts)).url);
      return answer(response, 201, { code: made });
    }
    if (path === "/api/echo") {
      const body = Buffer.concat(parts);
      const digest = crypto.createHash("sha256").update(body).digest("hex");
      return answer(response, 200, { headers: request.headers, url: request.url, bytes: body.length, digest });
    }
    if (path === "/api/large") {
      response.writeHead(200, { "Content-Type": "application/octet-stream" }); // chunked, as Node does by itself
      for (let number = 0; number < 100; number++) response.write(Buffer.alloc(10000, number));
      return response.end();
    }
    if (!links.has(code)) return answer(response, 404, { code });
    if (path.startsWith("/l/")) return answer(response, 302, undefined, { Location: links.get(code) });
    if (request.method === "DELETE") {
      links.delete(code);
      response.writeHead(204);
      return response.end();
    }
    return answer(response, 200, { code, url: links.get(code) });
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1");
