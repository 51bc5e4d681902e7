// Apps that read paths as Node apps do; each says which of its pages it served. Arguments: the port of each app.
//
// router: Express as it comes. files: Express serves a folder. url: the path by the URL standard. twice: decoded
// once more than needed.
import express from "express";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { posix } from "node:path";

const marker = (page) => `served:${page}\n`;

function router() {
  const app = express();
  app.use("/admin", (_, answer) => answer.send(marker("admin")));
  app.use("/public", (_, answer) => answer.send(marker("public")));
  app.all("/ping", (_, answer) => answer.send(marker("ping")));
  app.use("/files/:id/keys", (_, answer) => answer.send(marker("keys")));
  app.use((_, answer) => answer.send(marker("other")));
  app.use((_error, _request, answer, _next) => answer.status(400).send("no"));
  return app;
}

function files() {
  const folder = mkdtempSync(`${tmpdir()}/express-`);
  for (const page of ["admin", "public"]) {
    mkdirSync(`${folder}/${page}`);
    for (const name of ["index.html", "x", "secret"]) writeFileSync(`${folder}/${page}/${name}`, marker(page));
  }
  writeFileSync(`${folder}/ping`, marker("ping"));
  for (const id of ["a", "x"]) {
    mkdirSync(`${folder}/files/${id}/keys`, { recursive: true });
    for (const name of ["index.html", "x"]) writeFileSync(`${folder}/files/${id}/keys/${name}`, marker("keys"));
  }
  const app = express();
  app.use(express.static(folder, { dotfiles: "allow" }));
  app.use((_, answer) => answer.status(404).send(marker("other")));
  app.use((_error, _request, answer, _next) => answer.status(400).send("no"));
  return app;
}

const page = (path) =>
  /^\/(admin|public)(\/|$)/.exec(path)?.[1] ?? /^\/(ping)$/.exec(path)?.[1] ?? /^\/files\/[^/]+\/(keys)(\/|$)/.exec(path)?.[1] ?? "other";

function reading(read) {
  return (request, answer) => {
    try {
      answer.end(marker(page(read(request.url))));
    } catch {
      answer.writeHead(400).end("no");
    }
  };
}

const url = reading((target) => posix.normalize(decodeURIComponent(new URL(target, "http://app.test").pathname)));
const twice = reading((target) => {
  const path = decodeURIComponent(decodeURIComponent(target.split("?")[0]));
  return posix.normalize(path.split(/[?#\0]/)[0].replaceAll("\\", "/").replaceAll(/;[^/]*/g, "")).toLowerCase();
});

const ports = process.argv.slice(2).map(Number);
for (const [at, app] of [router(), files(), url, twice].entries()) createServer(app).listen(ports[at], "127.0.0.1");
