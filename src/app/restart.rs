//! Which keys of a configuration that was read again take effect at the next start only.
//!
//! Every field of the configuration is named here: one that is added does not compile before its author has said
//! whether a reload puts it in force.

use palisade_core::domain::browser::BrowserSettings;
use secrecy::{ExposeSecret, SecretString};

use crate::config::{
    Accounts, Allowances, Config, Connections, Cors, LimitSettings, Log, Mail, MailTransport, PagesSettings,
    Passwords, PostgresPassword, PostgresServer, Server, Sessions, SharedStore, StoreUrl, Tokens, Vault,
};

/// What the operator is told of the keys that [`keys`] names, with the files that those with a secret have changed in.
pub(super) fn notice(then: &Config, now: &Config) -> Option<String> {
    let named = |key: &'static str| {
        let files = now.sources.changed_since(&then.sources, key);
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        if files.is_empty() { key.to_owned() } else { format!("{key} ({})", files.join(", ")) }
    };
    let keys: Vec<String> = keys(then, now).into_iter().map(named).collect();
    (!keys.is_empty()).then(|| format!("changed, but in force from the next start on: {}", keys.join(", ")))
}

/// Warns where `now` lacks a key that the running process opens the tokens of providers with: after a restart what is sealed
/// with it does not open.
pub(super) fn lost_vault_key(then: &Config, now: &Config) -> Option<String> {
    let has =
        |key: &SecretString| now.vault.keys.iter().any(|other| other.expose_secret() == key.expose_secret());
    let is_lost = !then.vault.keys.iter().all(has);
    is_lost.then(|| {
        "vault.keys: a key is gone that tokens of providers may be sealed with; after a restart those would not open: put \
         it back behind the new one"
            .to_owned()
    })
}

/// The keys that `now` has another value for than `then`, with which this process started, although only a start
/// reads them. A key whose default follows another key is named only where it was set itself.
pub(super) fn keys(then: &Config, now: &Config) -> Vec<&'static str> {
    let Config {
        path: _,
        sources: _,
        hash: _,
        public_url,
        server,
        cors,
        browser,
        native: _,
        pages,
        log,
        store,
        backup,
        tokens,
        issuers: _,
        load_balancers: _,
        introspected: _,
        fetch: _,
        passwords,
        accounts,
        sessions,
        limits,
        mail,
        routes: _,
        providers: _,
        connections,
        vault,
        redaction: _,
        warnings: _,
        unsent_emails: _,
        exposures: _,
    } = then;
    let mut keys = Keys::default();
    keys.differ("public_url", public_url, &now.public_url);
    keys.server(server, &now.server);
    let Cors { origins, allow_methods, allow_headers, expose_headers, credentials, max_age } = cors;
    keys.differ("cors.origins", origins, &now.cors.origins);
    keys.differ("cors.allow_methods", allow_methods, &now.cors.allow_methods);
    keys.differ("cors.allow_headers", allow_headers, &now.cors.allow_headers);
    keys.differ("cors.expose_headers", expose_headers, &now.cors.expose_headers);
    keys.differ("cors.credentials", credentials, &now.cors.credentials);
    keys.differ("cors.max_age", max_age, &now.cors.max_age);
    keys.browser(browser, &now.browser);
    keys.pages(pages, &now.pages);
    keys.log(log, &now.log);
    keys.store(store, &now.store);
    keys.differ("backup.journal", &backup.journal, &now.backup.journal);
    let issuer = tokens.issuer == *public_url && now.tokens.issuer == now.public_url;
    keys.tokens(tokens, &now.tokens, issuer);
    let Passwords { policy, min_guesses, bcrypt_cost, max_cost, threads } = passwords;
    keys.differ("passwords.policy", policy, &now.passwords.policy);
    keys.differ("passwords.min_guesses", min_guesses, &now.passwords.min_guesses);
    keys.differ("passwords.bcrypt_cost", bcrypt_cost, &now.passwords.bcrypt_cost);
    keys.differ("passwords.max_cost", max_cost, &now.passwords.max_cost);
    keys.differ("passwords.threads", threads, &now.passwords.threads);
    let Accounts { verification, registration, webhook: told_of_accounts } = accounts;
    keys.differ("accounts.registration", registration, &now.accounts.registration);
    keys.differ("accounts.verification", verification, &now.accounts.verification);
    let Sessions { max_per_user, absolute_ttl, fingerprint, geoip } = sessions;
    keys.differ("sessions.max_per_user", max_per_user, &now.sessions.max_per_user);
    keys.differ("sessions.absolute_ttl", absolute_ttl, &now.sessions.absolute_ttl);
    keys.differ("sessions.fingerprint", fingerprint, &now.sessions.fingerprint);
    keys.differ("sessions.geoip", geoip, &now.sessions.geoip);
    let LimitSettings { enabled, allowances, guesses, exempt, letters_per_hour, letters_per_day } = limits;
    keys.differ("limits.enabled", enabled, &now.limits.enabled);
    let before = &now.limits.allowances;
    let Allowances {
        login,
        confirm_password,
        register,
        refresh,
        request_mail,
        mail_to_address,
        use_link,
        connect,
        import,
        session_cookie,
    } = allowances;
    keys.differ("limits.login", login, &before.login);
    keys.differ("limits.confirm_password", confirm_password, &before.confirm_password);
    keys.differ("limits.register", register, &before.register);
    keys.differ("limits.refresh", refresh, &before.refresh);
    keys.differ("limits.request_mail", request_mail, &before.request_mail);
    keys.differ("limits.mail_to_address", mail_to_address, &before.mail_to_address);
    keys.differ("limits.use_link", use_link, &before.use_link);
    keys.differ("limits.connect", connect, &before.connect);
    keys.differ("limits.import", import, &before.import);
    keys.differ("limits.session_cookie", session_cookie, &before.session_cookie);
    keys.differ("limits.guesses", guesses, &now.limits.guesses);
    keys.differ("limits.exempt", exempt, &now.limits.exempt);
    keys.differ("limits.letters_per_hour", letters_per_hour, &now.limits.letters_per_hour);
    keys.differ("limits.letters_per_day", letters_per_day, &now.limits.letters_per_day);
    keys.mail(mail, &now.mail, |page| (page_of(then, page), page_of(now, page)));
    let Connections { return_to: _, refresh_ahead: _, keep_fresh: _, warn_ahead: _, webhook, cache } =
        connections;
    let names = ["connections.webhook.url", "connections.webhook.secret"];
    keys.webhook(names, webhook.as_ref(), now.connections.webhook.as_ref());
    let names = ["accounts.webhook.url", "accounts.webhook.secret"];
    keys.webhook(names, told_of_accounts.as_ref(), now.accounts.webhook.as_ref());
    keys.differ("connections.cache", cache, &now.connections.cache);
    let Vault { keys: sealing } = vault;
    keys.secrets("vault.keys", sealing.iter(), now.vault.keys.iter());
    keys.0
}

/// Where the page for mailed links is unless `[mail]` says otherwise.
fn page_of(config: &Config, page: &str) -> String {
    if let Some((_, url)) = config.pages.urls.iter().find(|(name, _)| name.name() == page) {
        return url.clone();
    }
    format!("{}{}/pages/{page}", config.public_url, config.server.prefix)
}

#[derive(Default)]
struct Keys(Vec<&'static str>);

impl Keys {
    fn differ<T: PartialEq>(&mut self, key: &'static str, then: &T, now: &T) {
        if then != now {
            self.0.push(key);
        }
    }

    /// Compares a webhook by its URL. A new secret for the same URL takes effect at a reload (`SignedWebhook::renew`).
    fn webhook(
        &mut self,
        [url, secret]: [&'static str; 2],
        then: Option<&crate::config::Webhook>,
        now: Option<&crate::config::Webhook>,
    ) {
        let url_of = |webhook: &crate::config::Webhook| webhook.url.clone();
        self.differ(url, &then.map(url_of), &now.map(url_of));
        if then.map(url_of) != now.map(url_of) {
            let secret_of =
                |webhook: Option<&'_ crate::config::Webhook>| webhook.map(|webhook| webhook.secret.clone());
            let (then, now) = (secret_of(then), secret_of(now));
            self.secrets(secret, then.iter(), now.iter());
        }
    }

    fn secrets<'a>(
        &mut self,
        key: &'static str,
        then: impl Iterator<Item = &'a SecretString>,
        now: impl Iterator<Item = &'a SecretString>,
    ) {
        if !then.map(ExposeSecret::expose_secret).eq(now.map(ExposeSecret::expose_secret)) {
            self.0.push(key);
        }
    }

    fn server(&mut self, then: &Server, now: &Server) {
        let Server {
            listen,
            admin,
            admin_hosts,
            health,
            ping_path,
            prefix,
            tls,
            trusted_proxies: _,
            client_address: _,
            shutdown_grace,
            header_timeout,
            idle_timeout,
            max_header_bytes,
            max_connections,
            max_request_memory,
            shutdown_delay,
            threads,
            watch: _,
        } = then;
        self.differ("server.listen", listen, &now.listen);
        self.differ("server.admin", admin, &now.admin);
        self.differ("server.admin_hosts", admin_hosts, &now.admin_hosts);
        self.differ("server.health", health, &now.health);
        self.differ("server.ping_path", ping_path, &now.ping_path);
        self.differ("server.prefix", prefix, &now.prefix);
        match (tls, &now.tls) {
            (Some(then), Some(now)) => {
                self.differ("server.tls.listen", &then.listen, &now.listen);
                self.differ("server.tls.cert", &then.cert, &now.cert);
                self.differ("server.tls.key", &then.key, &now.key);
            }
            (then, now) => self.differ("server.tls", then, now),
        }
        self.differ("server.shutdown_grace", shutdown_grace, &now.shutdown_grace);
        self.differ("server.header_timeout", header_timeout, &now.header_timeout);
        self.differ("server.idle_timeout", idle_timeout, &now.idle_timeout);
        self.differ("server.max_header_bytes", max_header_bytes, &now.max_header_bytes);
        self.differ("server.max_connections", max_connections, &now.max_connections);
        self.differ("server.max_request_memory", max_request_memory, &now.max_request_memory);
        self.differ("server.shutdown_delay", shutdown_delay, &now.shutdown_delay);
        self.differ("server.threads", threads, &now.threads);
    }

    fn browser(&mut self, then: &BrowserSettings, now: &BrowserSettings) {
        let BrowserSettings {
            enabled,
            public,
            // Read again with the routes.
            hosts: _,
            domain,
            idle,
            absolute,
            remember,
            return_to,
            uses,
            insecure_http,
        } = then;
        // It follows `public_url`, which is named already.
        if *public == now.public {
            self.differ("browser.enabled", enabled, &now.enabled);
        }
        self.differ("browser.domain", domain, &now.domain);
        self.differ("browser.idle", idle, &now.idle);
        self.differ("browser.absolute", absolute, &now.absolute);
        self.differ("browser.remember", remember, &now.remember);
        self.differ("browser.return_to", return_to, &now.return_to);
        self.differ("browser.use", uses, &now.uses);
        self.differ("browser.insecure_http", insecure_http, &now.insecure_http);
    }

    fn pages(&mut self, then: &PagesSettings, now: &PagesSettings) {
        let PagesSettings { name, logo, accent, folder, languages, urls } = then;
        self.differ("pages.name", name, &now.name);
        self.differ("pages.logo", logo, &now.logo);
        self.differ("pages.accent", accent, &now.accent);
        self.differ("pages.folder", folder, &now.folder);
        self.differ("pages.languages", languages, &now.languages);
        self.differ("pages.urls", urls, &now.urls);
    }

    fn log(&mut self, then: &Log, now: &Log) {
        let Log { format, level, access, audit } = then;
        self.differ("log.format", format, &now.format);
        self.differ("log.level", level, &now.level);
        self.differ("log.access", access, &now.access);
        self.differ("log.audit", audit, &now.audit);
    }

    fn store(&mut self, then: &StoreUrl, now: &StoreUrl) {
        let (then, now) = match (then, now) {
            (StoreUrl::Postgres(then), StoreUrl::Postgres(now)) => (then, now),
            (StoreUrl::Sled(then), StoreUrl::Sled(now)) => return self.differ("store.url", then, now),
            _ => return self.0.push("store.url"),
        };
        let SharedStore { server, feed, ca, connections, max_staleness, fail, data } = &**then;
        self.differ("store.url", &place(server), &place(&now.server));
        let is_own = |feed: &PostgresServer, server: &PostgresServer| place(feed) != place(server);
        if is_own(feed, server) || is_own(&now.feed, &now.server) {
            self.differ("store.feed_url", &place(feed), &place(&now.feed));
        }
        let servers = [(server, &now.server), (feed, &now.feed)];
        if !servers.iter().all(|(then, now)| is_same(then.password.as_ref(), now.password.as_ref())) {
            self.0.push("store.password");
        }
        self.differ("store.ca", ca, &now.ca);
        self.differ("store.connections", connections, &now.connections);
        self.differ("store.max_staleness", max_staleness, &now.max_staleness);
        self.differ("store.fail", fail, &now.fail);
        self.differ("store.data", data, &now.data);
    }

    /// `issuer_follows`: the issuer is the public URL, then and now.
    fn tokens(&mut self, then: &Tokens, now: &Tokens, issuer_follows: bool) {
        let Tokens {
            issuer,
            audience,
            algorithm,
            access_ttl,
            refresh_ttl,
            refresh_repeat,
            leeway,
            key,
            max_bytes,
            cache_entries,
        } = then;
        if !issuer_follows {
            self.differ("tokens.issuer", issuer, &now.issuer);
        }
        self.differ("tokens.audience", audience, &now.audience);
        self.differ("tokens.algorithm", algorithm, &now.algorithm);
        self.differ("tokens.access_ttl", access_ttl, &now.access_ttl);
        self.differ("tokens.refresh_ttl", refresh_ttl, &now.refresh_ttl);
        self.differ("tokens.refresh_repeat", refresh_repeat, &now.refresh_repeat);
        self.differ("tokens.leeway", leeway, &now.leeway);
        self.secrets("tokens.key", key.iter(), now.key.iter());
        self.differ("tokens.max_bytes", max_bytes, &now.max_bytes);
        self.differ("tokens.cache_entries", cache_entries, &now.cache_entries);
    }

    /// `built_in`: where a built-in page was then and is now.
    fn mail(&mut self, then: &Mail, now: &Mail, built_in: impl Fn(&str) -> (String, String)) {
        let Mail { transport, from, templates, verify_url, reset_url, undo_url, object_url } = then;
        let smtp = |transport: &MailTransport| match transport {
            MailTransport::Smtp(smtp) => Some(smtp.clone()),
            MailTransport::None | MailTransport::Log | MailTransport::File(_) => None,
        };
        let (then_smtp, now_smtp) = (smtp(transport), smtp(&now.transport));
        self.differ("mail.transport", &target(transport), &target(&now.transport));
        // A new password of the same user at the same server takes effect at a reload (`Post::renew`).
        if target(transport) != target(&now.transport) {
            self.secrets(
                "mail.password",
                then_smtp.iter().filter_map(|smtp| smtp.password.as_ref()),
                now_smtp.iter().filter_map(|smtp| smtp.password.as_ref()),
            );
        }
        let ca = |smtp: Option<crate::config::Smtp>| smtp.and_then(|smtp| smtp.ca);
        self.differ("mail.ca", &ca(then_smtp), &ca(now_smtp));
        self.differ("mail.from", from, &now.from);
        self.differ("mail.templates", templates, &now.templates);
        for (key, page, then, now) in [
            ("mail.verify_url", "verify", verify_url, &now.verify_url),
            ("mail.reset_url", "reset", reset_url, &now.reset_url),
            ("mail.undo_url", "undo", undo_url, &now.undo_url),
            ("mail.object_url", "object", object_url, &now.object_url),
        ] {
            if built_in(page) != (then.clone(), now.clone()) {
                self.differ(key, then, now);
            }
        }
    }
}

/// A server as its key says it, without the password.
fn place(server: &PostgresServer) -> String {
    format!("{server} {:?}", server.tls)
}

/// Whether it is the same password, or comes from the same file, which is read again at each new connection.
fn is_same(then: Option<&PostgresPassword>, now: Option<&PostgresPassword>) -> bool {
    match (then, now) {
        (None, None) => true,
        (Some(PostgresPassword::File(then)), Some(PostgresPassword::File(now))) => then == now,
        (Some(PostgresPassword::Fixed(then)), Some(PostgresPassword::Fixed(now))) => {
            then.expose_secret() == now.expose_secret()
        }
        _ => false,
    }
}

/// What `mail.transport` itself says, without the keys beside it.
fn target(transport: &MailTransport) -> String {
    match transport {
        MailTransport::None => "none".to_owned(),
        MailTransport::Log => "log".to_owned(),
        MailTransport::File(folder) => format!("file:{}", folder.display()),
        MailTransport::Smtp(smtp) => {
            format!("smtp {:?} {:?} {} {}", smtp.tls, smtp.user, smtp.host, smtp.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    const BEFORE: &str = "public_url = \"http://localhost:8080\"\n\
         [server]\nlisten = [\"127.0.0.1:8080\"]\n[tokens]\naudience = \"api\"\nkey = \"env:KEY\"\nalgorithm = \"HS256\"\n\
         [mail]\ntransport = \"smtp://me@mail.test:587\"\npassword = \"env:KEY\"\n\
         [connections]\nwebhook = { url = \"https://app.test/hook\", secret = \"env:KEY\" }\n\
         [[routes]]\nname = \"app\"\nupstream = [\"http://127.0.0.1:3000\"]\n";

    fn read(text: &str, key: &str) -> Config {
        config::parse(text, Path::new("config.toml"), &|_| Some(key.to_owned()))
            .unwrap_or_else(|errors| panic!("{errors:#?}"))
    }

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn only_what_changed_and_needs_a_start_is_named() {
        let before = read(BEFORE, KEY);
        let check = |from: &str, to: &str, want: &[&str]| {
            let after = BEFORE.replace(from, to);
            assert_ne!(after, BEFORE);
            assert_eq!(keys(&before, &read(&after, KEY)), want, "{to}");
        };
        // What follows the public URL by default has not changed by itself.
        check("localhost:8080\"", "localhost:9090\"", &["public_url"]);
        check("[tokens]", "prefix = \"/id\"\n[tokens]", &["server.prefix"]);
        check("[tokens]", "[tokens]\nissuer = \"x\"", &["tokens.issuer"]);
        for key in ["verify_url", "reset_url", "undo_url", "object_url"] {
            let with = format!("[mail]\n{key} = \"https://a.test/v\"");
            check("[mail]", &with, &[format!("mail.{key}").as_str()]);
        }
        check("127.0.0.1:8080", "127.0.0.1:8081", &["server.listen"]);
        check(
            "[tokens]",
            "admin = \"127.0.0.1:9\"\nthreads = 2\n[tokens]",
            &["server.admin", "server.threads"],
        );
        check(
            "[tokens]",
            "health = \"127.0.0.1:9\"\nping_path = \"/ping\"\n[tokens]",
            &["server.health", "server.ping_path"],
        );
        check("[tokens]", "idle_timeout = \"5s\"\n[tokens]", &["server.idle_timeout"]);
        check("[tokens]", "[store]\nurl = \"sled:x\"\n[tokens]", &["store.url"]);
        check("[tokens]", "[log]\nlevel = \"debug\"\n[tokens]", &["log.level"]);
        check(
            "[mail]",
            "[passwords]\nmax_cost = 13\nbcrypt_cost = 11\n[mail]",
            &["passwords.bcrypt_cost", "passwords.max_cost"],
        );
        check("me@mail", "you@mail", &["mail.transport"]);
        check(
            "[mail]",
            "[accounts]\nregistration = \"open\"\n[browser]\nidle = \"1h\"\nremember = false\n[mail]",
            &["browser.idle", "browser.remember", "accounts.registration"],
        );
        check("[mail]", "[pages]\nurls = { verify = \"https://a.test/v\" }\n[mail]", &["pages.urls"]);
        // Read again with the routes.
        check("[mail]", "[browser]\nhosts = [\"http://notes.localhost\"]\n[mail]", &[]);
        check("app.test/hook", "app.test/hooks", &["connections.webhook.url"]);
        check(
            "[mail]",
            "[sessions]\nmax_per_user = 2\n[limits]\nenabled = false\nexempt = [\"192.0.2.1\"]\nlogin.burst = 9\nletters_per_day = 9\n[mail]",
            &[
                "sessions.max_per_user",
                "limits.enabled",
                "limits.login",
                "limits.exempt",
                "limits.letters_per_day",
            ],
        );
        // The default, written out.
        check("[tokens]", "threads = 0\n[tokens]\nleeway = \"60s\"", &[]);
        // A reload is enough.
        check("[tokens]", "trusted_proxies = [\"10.0.0.1\"]\nclient_address = \"forwarded\"\n[tokens]", &[]);
        check("name = \"app\"", "name = \"other\"\nauth = \"none\"", &[]);
        check("[tokens]", "[store]\nurl = \"sled:y\"\n[tokens]", &["store.url"]);
        // Secrets whose references stayed the same: two of them are taken up.
        let other = KEY.replace('0', "1");
        assert_eq!(keys(&before, &read(BEFORE, &other)), ["tokens.key"]);
        // But not those of another user or of another receiver, who are not asked before the next start.
        let after = BEFORE.replace("me@mail", "you@mail").replace("app.test/hook", "app.test/hooks");
        let want = [
            "tokens.key",
            "mail.transport",
            "mail.password",
            "connections.webhook.url",
            "connections.webhook.secret",
        ];
        assert_eq!(keys(&before, &read(&after, &other)), want);
    }

    #[test]
    fn the_keys_of_a_database_are_named_one_by_one_and_a_password_in_a_file_is_none_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "one\n").unwrap();
        let shared = |url: &str, keys: &str| {
            let text = format!(
                "[store]\nurl = \"{url}\"\n{keys}\n[vault]\nkeys = [\"env:KEY\"]\n[[routes]]\nname = \"app\"\n\
                 upstream = [\"http://127.0.0.1:3000\"]\n"
            );
            read(&text, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
        };
        let file = format!("password = \"file:{}\"", password.display());
        let before = shared("postgres://me@127.0.0.1/p", &file);
        let named = |url: &str, more: &str| keys(&before, &shared(url, &format!("{file}\n{more}")));
        let here = "postgres://me@127.0.0.1/p";
        std::fs::write(&password, "another\n").unwrap();
        assert_eq!(named(here, ""), [""; 0]);
        // The feed follows it, and is not named by itself.
        assert_eq!(named("postgres://me@127.0.0.2/p", ""), ["store.url"]);
        assert_eq!(named(here, "feed_url = \"postgres://me@127.0.0.3/p\""), ["store.feed_url"]);
        let all = "connections = 9\nmax_staleness = \"9s\"\nfail = \"open\"\ndata = \"./other\"";
        let want = ["store.connections", "store.max_staleness", "store.fail", "store.data"];
        assert_eq!(named(here, all), want);
        assert_eq!(keys(&before, &shared(here, "password = \"env:KEY\"")), ["store.password"]);
        assert_eq!(keys(&before, &read("[store]\nurl = \"sled:x\"\n", KEY))[0], "store.url");
    }
}
