//! `palisade routes`: the rules in the order in which they decide, and which of them answers a request.
//!
//! Reads the configuration and needs no running gateway. A request is looked up in the same table as the gateway's.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::Path;

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{Output, pretty, table};
use crate::config::{self, Config, error_lines};
use palisade_core::domain::answer::answer;
use palisade_core::domain::native_hosts::OwnPath;
use palisade_core::domain::order::{self, RouteAt};
use palisade_core::domain::request::{self, Host, NoHeaders, Request};
use palisade_core::domain::route::{Auth, Public, Route};
use palisade_core::domain::table::{Deciding, Table};
use palisade_core::domain::verdict::Refusal;

#[derive(Debug, Subcommand)]
pub(super) enum Routes {
    /// Say which rule answers a request, and why not another one.
    #[command(after_help = "\
Examples:
  palisade routes explain GET https://app.example.com/static/app.js
  palisade routes explain POST https://app.example.com/projects/7/hooks
  palisade routes explain GET https://app.example.com/admin --client 10.0.0.7")]
    Explain {
        /// The method, in upper case.
        method: String,
        /// The URL, as a client would ask for it.
        url: String,
        /// The address of the client, as far as it is known; without it, a client in no network.
        #[arg(long, value_name = "ADDRESS")]
        client: Option<IpAddr>,
        #[command(flatten)]
        output: Output,
    },
}

/// Prints the rules, or which one answers a request.
pub(super) fn run(path: &Path, command: Option<&Routes>, output: &Output) -> Result<String, String> {
    let config = config::load(path).map_err(|errors| error_lines(&errors))?;
    match command {
        None if output.json => Ok(pretty(&listed(&config))),
        None => Ok(format!("{}\n\n{ORDER}", rules(&config))),
        Some(Routes::Explain { method, url, client, output }) => {
            let asked = Asked::parse(method, url, *client)?;
            let explained = explain(&config, &asked)?;
            Ok(if output.json { pretty(&explained.json(&asked)) } else { explained.text(&asked) })
        }
    }
}

const ORDER: &str = "\
The first host and path that take a request decide about it, and no wider one does. Where several rules stand at both, the
first one that takes the client and the method answers. `palisade routes explain GET https://host/path` says which.";

/// The rules in the order in which they decide; what a route lets pass without sign-in is below the path that holds it.
pub(super) fn rules(config: &Config) -> String {
    let mut table = table(&["HOST", "PATH", "METHODS", "NETWORKS", "ROUTE", "AUTH", "UPSTREAM"]);
    for RouteAt { host, path, network, route } in order::ordered(policies(config)) {
        let host = host.to_string();
        let (methods, networks) = (words(&route.methods), words(network.as_slice()));
        let upstreams = route.upstreams.join(" ");
        let name = route.name.to_string();
        table.add_row([&host, path.as_str(), &methods, &networks, &name, auth(route), &upstreams]);
        for public in route.public.iter().filter(|public| path.holds(&public.path)) {
            let (path, methods) = (format!("  {}", public.path), words(&public.methods));
            table.add_row([&host, path.as_str(), &methods, &networks, &name, "public", &upstreams]);
        }
    }
    table.to_string()
}

fn listed(config: &Config) -> Value {
    let rule = |RouteAt { host, path, network, route }: RouteAt<'_>| {
        let public: Vec<Value> = route
            .public
            .iter()
            .filter(|public| path.holds(&public.path))
            .map(|public| json!({"methods": public.methods, "path": public.path.as_str()}))
            .collect();
        json!({
            "host": host.to_string(), "path": path.as_str(), "methods": route.methods,
            "networks": texts(network.as_slice()), "route": &*route.name, "auth": auth(route),
            "upstreams": route.upstreams, "public": public,
        })
    };
    order::ordered(policies(config)).into_iter().map(rule).collect()
}

fn policies(config: &Config) -> impl Iterator<Item = &Route> {
    config.routes.iter().map(|route| &route.policy)
}

fn texts(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn words(values: &[impl ToString]) -> String {
    if values.is_empty() { "every".to_owned() } else { texts(values).join(" ") }
}

const fn auth(route: &Route) -> &'static str {
    match route.policy.auth {
        Auth::Required => "required",
        Auth::Optional => "optional",
        Auth::None => "none",
    }
}

/// The request that is asked about.
struct Asked<'a> {
    method: &'a str,
    url: &'a str,
    host: Host<'a>,
    /// The path with the query.
    target: &'a str,
    path: &'a str,
    client: Option<IpAddr>,
}

impl<'a> Asked<'a> {
    fn parse(method: &'a str, url: &'a str, client: Option<IpAddr>) -> Result<Asked<'a>, String> {
        let want = "want a URL such as https://app.example.com/path";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("{url:?} is no URL; {want}"))?;
        if !matches!(scheme, "http" | "https") {
            return Err(format!("{url:?} has another scheme; {want}"));
        }
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let host = Host::parse(authority.as_bytes()).map_err(|error| format!("{url:?}: {error}; {want}"))?;
        // A client keeps the fragment to itself, and the query takes no part in matching.
        let target = target.split('#').next().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        Ok(Asked { method, url, host, target, path: if path.is_empty() { "/" } else { path }, client })
    }
}

/// Which rule answers, and what the others are.
struct Explained {
    outcome: Outcome,
    /// The path in normal form, where it has one.
    path: Option<String>,
    /// Every rule whose host and path take the request, the first one first, and what becomes of it.
    rules: Vec<Candidate>,
}

enum Outcome {
    /// The gateway answers itself.
    Own(&'static str),
    Answers {
        route: String,
        /// What it wants of the caller; nothing where the entry of `public` lets the request pass.
        wants: String,
        public: Option<String>,
        upstreams: Vec<String>,
        /// The path that the upstream is asked for, where it is another one.
        asks: Option<String>,
    },
    Refused {
        status: u16,
        code: &'static str,
        detail: String,
        allow: Option<String>,
        /// The paths that another server may see in it.
        misread: Vec<String>,
    },
}

struct Candidate {
    host: String,
    path: String,
    methods: Vec<String>,
    networks: Vec<String>,
    route: String,
    why: &'static str,
}

fn explain(config: &Config, asked: &Asked<'_>) -> Result<Explained, String> {
    let path = match request::Path::parse(asked.path.as_bytes()) {
        Ok(path) => path,
        Err(malformed) => {
            let outcome = refused(&Refusal::Malformed(malformed), Vec::new());
            return Ok(Explained { outcome, path: None, rules: Vec::new() });
        }
    };
    let normal = path.as_str().to_owned();
    let host = asked.host.name();
    // A ping is compared as it was sent.
    let is_ping =
        config.server.ping_path.as_deref() == Some(asked.target) && matches!(asked.method, "GET" | "HEAD");
    let own = if is_ping { Some("a ping (server.ping_path)") } else { own(config, host, &normal) };
    if let Some(own) = own {
        return Ok(Explained { outcome: Outcome::Own(own), path: Some(normal), rules: Vec::new() });
    }
    let table = Table::new(policies(config).cloned().collect());
    let client = asked.client.map(|client| client.to_canonical());
    let request = Request {
        method: asked.method,
        host: asked.host.clone(),
        path,
        query: None,
        websocket: false,
        is_peer_trusted: false,
        client,
        headers: &NoHeaders,
    };
    let found = table.find(&request);
    let chosen = found.as_ref().ok().map(|found| found.entry.index);
    let around = order::around(policies(config), host, &normal);
    let first = around.first().copied();
    let mut has_answered = false;
    let rules = around.iter().map(|place| {
        let why = match first {
            Some(first) if first.host != place.host => "a wider host",
            Some(first) if first.path != place.path => "a wider path",
            _ if !place.is_for(client) => "not this client",
            _ if !place.route.takes_method(asked.method) => "not this method",
            _ if chosen.is_none() => "is refused",
            _ if !std::mem::replace(&mut has_answered, true) => "answers",
            _ => "comes later",
        };
        Candidate {
            host: place.host.to_string(),
            path: place.path.to_string(),
            methods: place.route.methods.clone(),
            networks: texts(place.network.as_slice()),
            route: place.route.name.to_string(),
            why,
        }
    });
    let outcome = match &found {
        Ok(Deciding { entry, is_open }) => Outcome::Answers {
            route: entry.name.to_string(),
            wants: wants(entry),
            public: is_open.then(|| public(entry, asked.method, &normal)),
            upstreams: entry.upstreams.clone(),
            asks: entry.upstream_path.of(&normal).ok().filter(|asks| *asks != normal).map(Cow::into_owned),
        },
        Err(refusal @ Refusal::Malformed(_)) => {
            refused(refusal, table.misread(&request).into_iter().map(ToString::to_string).collect())
        }
        Err(refusal) => refused(refusal, Vec::new()),
    };
    Ok(Explained { outcome, rules: rules.collect(), path: Some(normal) })
}

/// The entry of `public` that takes the request.
fn public(route: &Route, method: &str, path: &str) -> String {
    let takes = |public: &&Public| public.path.takes(path) && public.methods.iter().any(|own| own == method);
    let entry = route.public.iter().find(takes);
    entry.map_or_else(String::new, |public| format!("{} {}", public.methods.join(","), public.path))
}

fn own(config: &Config, host: &str, path: &str) -> Option<&'static str> {
    let browser = config.browser.enabled.then_some(&config.browser);
    Some(match OwnPath::at(host, path, &config.server.prefix, &config.native, browser)? {
        OwnPath::Native => "a native endpoint",
        OwnPath::BesideApps => "an endpoint beside the apps",
    })
}

fn refused(refusal: &Refusal, misread: Vec<String>) -> Outcome {
    let answer = answer(refusal);
    let (status, code, detail) = (answer.problem.status, answer.problem.code, answer.problem.detail);
    Outcome::Refused { status, code, detail, allow: answer.allow, misread }
}

/// What the policy of a route asks of a caller.
fn wants(route: &Route) -> String {
    let require = &route.policy.require;
    let mut more = Vec::new();
    if !require.scopes.is_empty() {
        more.push(format!("the scopes {}", require.scopes.join(" ")));
    }
    if require.email_verified {
        more.push("a verified address".to_owned());
    }
    more.extend(require.claims.iter().map(|(name, values)| format!("{name} = {}", values.join(" or "))));
    let more = if more.is_empty() { String::new() } else { format!(" with {}", more.join(", ")) };
    match route.policy.auth {
        Auth::Required if route.policy.carriers.leaves_to_app() => {
            format!("a session or a token{more}, or an Authorization field that the app judges")
        }
        Auth::Required => format!("a session or a token{more}"),
        Auth::Optional => format!("nothing; a session or a token{more} is looked at"),
        Auth::None => "nothing: sessions and tokens are not looked at".to_owned(),
    }
}

impl Explained {
    fn text(&self, asked: &Asked<'_>) -> String {
        let from = match asked.client {
            Some(client) => format!("from {client}"),
            None => "from a client whose address is not known".to_owned(),
        };
        let mut text = format!("{} {} {from}\n", asked.method, asked.url);
        if let Some(path) = self.path.as_deref().filter(|path| *path != asked.path) {
            text += &format!("Its path in normal form: {path}\n");
        }
        if asked.method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            text += "Methods are in upper case, and this one is another than the same in upper case.\n";
        }
        text += "\n";
        text += &match &self.outcome {
            Outcome::Own(what) => format!("The gateway answers itself: {what}."),
            Outcome::Answers { route, wants, public, upstreams, asks } => {
                let wants = match public {
                    Some(entry) => format!("no sign-in: its public has {entry:?}"),
                    None => wants.clone(),
                };
                let asks =
                    asks.as_ref().map_or_else(String::new, |asks| format!("\nIt is asked for: {asks}"));
                format!("Route {route:?} answers. It wants {wants}.\nUpstream: {}{asks}", upstreams.join(" "))
            }
            Outcome::Refused { status, code, detail, allow, misread } => {
                let misread = match &misread[..] {
                    [] => String::new(),
                    some => format!(" Another server may read it as a path of {}.", some.join(", ")),
                };
                let allow = allow.as_ref().filter(|allow| !allow.is_empty());
                let allow = allow.map_or_else(String::new, |allow| format!(" It takes {allow}."));
                format!("Refused with {status} {code}: {}.{allow}{misread}", detail.trim_end_matches('.'))
            }
        };
        if !self.rules.is_empty() {
            let mut table = table(&["HOST", "PATH", "METHODS", "NETWORKS", "ROUTE", ""]);
            for rule in &self.rules {
                let (methods, networks) = (words(&rule.methods), words(&rule.networks));
                table.add_row([&rule.host, &rule.path, &methods, &networks, &rule.route, rule.why]);
            }
            text += &format!("\n\n{table}");
        }
        if asked.client.is_none() && self.rules.iter().any(|rule| rule.why == "not this client") {
            text += "\n\nWith --client ADDRESS the answer is that for a client in a network.";
        }
        text
    }

    fn json(&self, asked: &Asked<'_>) -> Value {
        let rules: Vec<Value> = self
            .rules
            .iter()
            .map(|rule| {
                json!({
                    "host": rule.host, "path": rule.path, "methods": rule.methods, "networks": rule.networks,
                    "route": rule.route, "why": rule.why,
                })
            })
            .collect();
        let outcome = match &self.outcome {
            Outcome::Own(what) => json!({"outcome": "own", "what": what}),
            Outcome::Answers { route, wants, public, upstreams, asks } => json!({
                "outcome": "route", "route": route, "public": public, "wants": wants, "upstreams": upstreams,
                "asks": asks,
            }),
            Outcome::Refused { status, code, detail, allow, misread } => json!({
                "outcome": "refused", "status": status, "code": code, "detail": detail, "allow": allow,
                "misread": misread,
            }),
        };
        json!({
            "method": asked.method, "host": asked.host.name(), "path": self.path, "client": asked.client,
            "answer": outcome, "rules": rules,
        })
    }
}
