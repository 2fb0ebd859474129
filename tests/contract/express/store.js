// The links in the database, by mysql2's pool. An error that leaves a change undone carries `outcome: "failed"`, one
// after which nobody knows carries "unknown"; any other is a mistake of ours.
import mysql from "mysql2/promise";
import { DUPLICATE, Problem } from "./links.js";

const TIMEOUT = 1500; // ms that a request may spend here
const NOT_DONE = new Set([1040, 1205, 1213, 1290]); // too many connections, locks, read-only
const INSERT = "INSERT INTO links (code, url, created) VALUES (?, ?, ?)";

export class Store {
  constructor(url, password, connections) {
    this.address = url.host;
    this.pool = mysql.createPool({
      host: url.hostname,
      port: Number(url.port || 3306),
      user: url.username,
      password,
      database: url.pathname.slice(1),
      connectionLimit: connections,
      queueLimit: 1024,
      connectTimeout: TIMEOUT,
      dateStrings: true, // a Date has no microseconds
    });
    this.clicks = new Map();
  }

  // The promise's value, if it comes in time. What comes later is done all the same.
  async within(promise) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(Object.assign(new Error("no answer in time"), { late: true })), TIMEOUT);
    });
    try {
      return await Promise.race([promise, late]);
    } catch (error) {
      const notBegun = error.syscall === "connect" || error.message.startsWith("Queue limit");
      if (notBegun || NOT_DONE.has(error.errno)) error.outcome = "failed";
      else if (error.late || error.fatal) error.outcome = "unknown";
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  async change(sql, values) {
    const [result] = await this.within(this.pool.execute(sql, values));
    return result.affectedRows;
  }

  async read(sql, values) {
    try {
      const [rows] = await this.within(this.pool.execute(sql, values));
      return rows;
    } catch (error) {
      if (error.outcome) error.outcome = "failed"; // it changes nothing
      throw error;
    }
  }

  async transaction(work) {
    const connection = await this.pool.getConnection();
    try {
      await connection.beginTransaction();
      const result = await work(connection);
      await connection.commit();
      connection.release();
      return result;
    } catch (error) {
      if (error.fatal) connection.destroy();
      else await connection.rollback().then(() => connection.release(), () => connection.destroy());
      throw error;
    }
  }

  add(code, url, created) {
    return this.change(INSERT, [code, url, created]);
  }

  // Store the link and the response, unless this key has one: the response that is stored.
  addOnce(key, response, code, url, created) {
    return this.within(this.transaction(async (connection) => {
      try {
        const insert =
          "INSERT INTO idempotency_keys (idempotency_key, fingerprint, response, created) " +
          "VALUES (?, ?, ?, UTC_TIMESTAMP(6))";
        await connection.execute(insert, [key.text, key.fingerprint, response]);
      } catch (error) {
        if (error.errno !== DUPLICATE) throw error;
        const select = "SELECT fingerprint, response FROM idempotency_keys WHERE idempotency_key = ?";
        const [[stored]] = await connection.execute(select, [key.text]);
        if (stored?.fingerprint === key.fingerprint) return stored.response;
        throw new Problem(422, "this key came with another request before", { field: "Idempotency-Key" });
      }
      await connection.execute(INSERT, [code, url, created]);
      return response;
    }));
  }

  async url(code) {
    const [link] = await this.read("SELECT url FROM links WHERE code = ?", [code]);
    return link?.url;
  }

  async get(code) {
    const [link] = await this.read("SELECT code, url, clicks, created FROM links WHERE code = ?", [code]);
    return link;
  }

  // The newest links before an id, both as text: mysql2 sends numbers as DOUBLE, which LIMIT does not take.
  page(limit, before) {
    const select = "SELECT id, code, url, clicks, created FROM links WHERE id < CAST(? AS UNSIGNED)";
    return this.read(`${select} ORDER BY id DESC LIMIT ?`, [before, limit]);
  }

  remove(code) {
    return this.change("DELETE FROM links WHERE code = ?", [code]);
  }

  async who() {
    const [row] = await this.read("SELECT VERSION() AS version, CONNECTION_ID() AS connection");
    const engine = row.version.toLowerCase().includes("mariadb") ? "mariadb" : "mysql";
    return { engine, version: row.version, address: this.address, connection: row.connection };
  }

  // The tables are there.
  ready() {
    return this.read("SELECT 1 FROM links LEFT JOIN idempotency_keys USING (id) LIMIT 1");
  }

  count(code) {
    this.clicks.set(code, (this.clicks.get(code) ?? 0) + 1);
  }

  // Write the clicks that were counted. Those of a transaction that fails are lost: better than counted twice.
  async flush() {
    const clicks = [...this.clicks].sort(([a], [b]) => (a < b ? -1 : 1)); // in one order everywhere: no deadlocks
    this.clicks.clear();
    if (!clicks.length) return;
    await this.within(this.transaction(async (connection) => {
      for (const [code, count] of clicks) {
        await connection.execute("UPDATE links SET clicks = clicks + ? WHERE code = ?", [count, code]);
      }
    }));
  }
}
