// A provider as others run it: npm's oidc-provider over TLS, with an API that takes its access tokens.
//
// node server.mjs FOLDER PORT, where FOLDER holds localhost.pem, localhost.key and settings.json: {callbacks, access_ttl,
// rotate}. Its own pages ask for a name and for consent. Below /test/ the tests look at it from outside: what
// was asked and what was issued, a grant without a browser, an access token that ends early or lives for longer.

import fs from "node:fs";
import https from "node:https";
import path from "node:path";
import process from "node:process";

import Provider from "oidc-provider";

const [folder, port] = process.argv.slice(2);
const read = (name) => fs.readFileSync(path.join(folder, name));
const settings = JSON.parse(read("settings.json"));
const issuer = `https://localhost:${port}`;

export const CLIENT = { client_id: "palisade", client_secret: "a secret: with ~ signs & more" };
const asked = { authorization_code: 0, refresh_token: 0, revoked: 0, refused: 0 };
const issued = [];

const provider = new Provider(issuer, {
  clients: [
    {
      ...CLIENT,
      redirect_uris: settings.callbacks,
      grant_types: ["authorization_code", "refresh_token"],
      token_endpoint_auth_method: "client_secret_basic",
    },
  ],
  cookies: { keys: ["only for tests"] },
  pkce: { required: () => true },
  scopes: ["openid", "offline_access", "email", "read"],
  claims: { openid: ["sub"], email: ["email", "email_verified"] },
  // Every user who signs in is who they say they are.
  findAccount: async (_, id) => ({
    accountId: id,
    claims: async () => ({ sub: id, email: `${id}@provider.test`, email_verified: true }),
  }),
  features: { devInteractions: { enabled: true }, revocation: { enabled: true }, introspection: { enabled: true } },
  issueRefreshToken: async () => true,
  rotateRefreshToken: () => settings.rotate,
  ttl: {
    AccessToken: () => settings.access_ttl,
    RefreshToken: 86_400,
    AuthorizationCode: 60,
    Grant: 86_400,
    IdToken: 3600,
    Interaction: 600,
    Session: 86_400,
  },
});

provider.on("grant.success", (ctx) => {
  asked[ctx.oidc.params.grant_type] += 1;
  const { access_token, refresh_token, id_token } = ctx.body;
  issued.push({ access_token, refresh_token, id_token });
});
provider.on("grant.error", () => { asked.refused += 1; });
provider.on("grant.revoked", () => { asked.revoked += 1; });
provider.on("server_error", (_, error) => console.error(error));

const json = (answer, status, body) => {
  answer.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" });
  answer.end(JSON.stringify(body));
};

// An API of the provider's: names the account of the token that it was given, if the token is good.
async function api(request, answer) {
  const [, presented] = /^Bearer (\S+)$/.exec(request.headers.authorization ?? "") ?? [];
  const token = presented && (await provider.AccessToken.find(presented));
  if (!token || token.isExpired) return json(answer, 401, { error: "invalid_token" });
  const told = Object.fromEntries(Object.entries(request.headers).filter(([name]) => name.startsWith("x-auth-")));
  return json(answer, 200, { account: token.accountId, token: presented, told });
}

// What giving consent in a browser would have brought.
async function grant(account) {
  const consent = new provider.Grant({ accountId: account, clientId: CLIENT.client_id });
  consent.addOIDCScope("openid offline_access email");
  const grantId = await consent.save();
  const client = await provider.Client.find(CLIENT.client_id);
  const common = { accountId: account, client, grantId, gty: "authorization_code", scope: "openid offline_access email" };
  const access = await new provider.AccessToken(common).save();
  const refresh = await new provider.RefreshToken({ ...common, rotations: 0, iiat: Math.floor(Date.now() / 1000) }).save();
  const tokens = { access_token: access, refresh_token: refresh };
  issued.push(tokens);
  return tokens;
}

const oidc = provider.callback();
https
  .createServer({ cert: read("localhost.pem"), key: read("localhost.key") }, async (request, answer) => {
    const url = new URL(request.url, issuer);
    try {
      if (url.pathname.startsWith("/api/")) return await api(request, answer);
      if (url.pathname === "/test/seen") return json(answer, 200, { asked, issued });
      if (url.pathname === "/test/grant") return json(answer, 200, await grant(url.searchParams.get("account")));
      if (url.pathname === "/test/lifetime") {
        settings.access_ttl = Number(url.searchParams.get("seconds"));
        return json(answer, 200, {});
      }
      if (url.pathname === "/test/forget") {
        await (await provider.AccessToken.find(url.searchParams.get("token"))).destroy();
        return json(answer, 200, {});
      }
      return oidc(request, answer);
    } catch (error) {
      console.error(error);
      return json(answer, 500, { error: String(error) });
    }
  })
  .listen(Number(port), "127.0.0.1", () => console.log(`ready on ${issuer}`));
