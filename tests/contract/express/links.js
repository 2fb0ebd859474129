// What a link is: which URLs, codes and keys are taken, and how a link looks as JSON.
import crypto from "node:crypto";

export const DUPLICATE = 1062; // MySQL's number for a key that is there already
const CODE = /^[A-Za-z0-9_-]{1,32}$/;
const ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const URL_CHARACTERS = /^[A-Za-z0-9\-._~:/?#[\]@!$&'()*+,;=%]{1,2048}$/; // RFC 3986
const KEY = /^(?:"([!#-[\]-~]{1,255})"|([!#-[\]-~]{1,255}))$/;

export class Problem extends Error {
  constructor(status, detail, { headers = {}, ...more } = {}) {
    super(detail);
    Object.assign(this, { status, headers, more });
  }
}

export const isCode = (text) => CODE.test(text);

export function newCode() {
  return Array.from({ length: 7 }, () => ALPHABET[crypto.randomInt(ALPHABET.length)]).join("");
}

// The link that a request's body asks for.
export function readNewLink(body) {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new Problem(400, "the body must be a JSON object");
  }
  const { url, code = null, ...others } = body;
  const [unknown] = Object.keys(others);
  if (unknown !== undefined) throw new Problem(400, `there is no member ${unknown}`, { field: unknown });
  if (!isUrl(url)) throw new Problem(400, "url must be one of http or https, without a user", { field: "url" });
  if (code !== null && !(typeof code === "string" && isCode(code))) {
    throw new Problem(400, "code must be 1 to 32 of A-Z, a-z, 0-9, _ and -", { field: "code" });
  }
  return { url, code };
}

function isUrl(text) {
  if (typeof text !== "string" || !URL_CHARACTERS.test(text) || !/^https?:\/\/[^/?#]/i.test(text)) return false;
  const authority = text.split(/[/?#]/)[2];
  return URL.canParse(text) && !authority.includes("@") && !/:0+$/.test(authority);
}

// An Idempotency-Key, with the fingerprint of what it came with; undefined when there is none.
export function readKey(header, { url, code }) {
  if (header === undefined) return undefined;
  const found = KEY.exec(header);
  if (!found) throw new Problem(400, "a key is 1 to 255 visible ASCII characters", { field: "Idempotency-Key" });
  const fingerprint = crypto.createHash("sha256").update(JSON.stringify({ code, url })).digest("hex");
  return { text: found[1] ?? found[2], fingerprint };
}

// `created` as MySQL writes it: 2026-01-31 12:00:00.000000, UTC.
export function asJson({ code, url, clicks, created }) {
  return { code, url, short: `/l/${code}`, clicks, created: `${created.replace(" ", "T")}Z` };
}

export function now() {
  return new Date().toISOString().replace("T", " ").replace("Z", "000");
}

// A number of the query string as its decimal digits, or undefined when it is not there.
export function readNumber(query, name, least, most) {
  const text = query[name];
  if (text === undefined) return undefined;
  if (!/^[0-9]{1,19}$/.test(text) || BigInt(text) < least || BigInt(text) > most) {
    throw new Problem(400, `${name} must be a number from ${least} to ${most}`, { field: name });
  }
  return text;
}
