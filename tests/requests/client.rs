//! Who the client is, and what of its fields an app gets: through believed proxies and without.

use crate::support::{Gateway, Upstream, field, routes, status};

/// A gateway that believes the machine it is on, and the field in `client_address`, if any.
async fn behind(client_address: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    let server = format!("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n{client_address}");
    let gateway = Gateway::start_with(&server, &routes(upstream.address)).await;
    (gateway, upstream)
}

/// The fields of a request that say where it came from, as they are on the wire.
fn origin(head: &str) -> Vec<String> {
    let of_origin = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        name.starts_with("x-forwarded") || name.ends_with("-ip") || name == "forwarded"
    };
    let mut lines: Vec<String> = head.lines().filter(of_origin).map(str::to_owned).collect();
    lines.sort_by_key(|line| line.to_ascii_lowercase());
    lines
}

/// What a client behind a proxy sends to spoof another address, in every field that is not read.
const OTHERS: [(&str, &str); 3] = [
    ("X-Forwarded-For", "X-Forwarded-For: 6.6.6.6\r\n"),
    ("Forwarded", "Forwarded: for=6.6.6.6;proto=http;host=evil.test\r\n"),
    ("X-Real-IP", "X-Real-IP: 6.6.6.6\r\n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_field_says_who_the_client_is() {
    for (name, key, line) in [
        (
            "X-Forwarded-For",
            "",
            "X-Forwarded-For: 6.6.6.6, 7.7.7.7:4711, 10.0.0.2\r\nX-Forwarded-Proto: https\r\n",
        ),
        (
            "Forwarded",
            "client_address = \"forwarded\"",
            "Forwarded: for=6.6.6.6, for=\"7.7.7.7:4711\";proto=https;host=app.test, for=10.0.0.2\r\n\
             X-Forwarded-Proto: http\r\n",
        ),
        (
            "X-Real-IP",
            "client_address = \"x-real-ip\"",
            "X-Real-IP: 7.7.7.7:4711\r\nX-Forwarded-Proto: https\r\n",
        ),
    ] {
        let (gateway, upstream) = behind(key).await;
        let others: String =
            OTHERS.iter().filter(|(other, _)| *other != name).map(|(_, line)| *line).collect();
        let strangers = "True-Client-IP: 6.6.6.6\r\nCF-Connecting-IP: 6.6.6.6\r\nX-Client-IP: 6.6.6.6\r\n\
                         X-Forwarded-Client-IP: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX.Real.IP: 6.6.6.6\r\n";
        let answer = gateway.get("/", &format!("{others}{line}{strangers}")).await;
        assert_eq!(status(&answer), 200, "{answer}");
        let seen = upstream.only();
        assert!(!seen.contains("6.6.6.6") && !seen.contains("evil"), "{name}: {seen}");
        let (way, list) = match name {
            "X-Real-IP" => ("", ""),
            _ => (", for=10.0.0.2", ", 10.0.0.2"),
        };
        let mut want = vec![
            format!("forwarded: for=7.7.7.7;host=app.test;proto=https{way}, for=127.0.0.1"),
            format!("x-forwarded-for: 7.7.7.7{list}, 127.0.0.1"),
            "x-forwarded-host: app.test".to_owned(),
            "x-forwarded-proto: https".to_owned(),
        ];
        if name == "X-Real-IP" {
            want.push("x-real-ip: 7.7.7.7".to_owned());
        }
        let seen: Vec<String> = origin(&seen)
            .iter()
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| format!("{}:{value}", name.to_ascii_lowercase()))
            .collect();
        assert_eq!(seen, want, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_ends_what_is_believed() {
    for (lines, want) in [
        (&[&b"X-Forwarded-For: 6.6.6.6"[..], b"X-Forwarded-For: caf\xe9"][..], "127.0.0.1"),
        (&[b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-For: "], "127.0.0.1"),
        (&[b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-For: unknown, 10.0.0.2"], "10.0.0.2, 127.0.0.1"),
        (&[b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-For: \xff\xfe, 7.7.7.7"], "7.7.7.7, 127.0.0.1"),
        (&[b"X-Forwarded-For: [2001:db8::7]:443"], "2001:db8::7, 127.0.0.1"),
        (&[b"X-Forwarded-For: ::ffff:7.7.7.7"], "7.7.7.7, 127.0.0.1"),
        (&[b"X-Forwarded-For: fe80::7%eth0"], "fe80::7, 127.0.0.1"),
        (&[b"X-Real-IP: 6.6.6.6"], "127.0.0.1"),
    ] {
        let (gateway, upstream) = behind("").await;
        let mut request = b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n".to_vec();
        for line in lines {
            request.extend_from_slice(line);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let answer = gateway.send(request).await;
        assert_eq!(status(&answer), 200, "{answer}");
        let seen = upstream.only();
        assert_eq!(field(&seen, "x-forwarded-for"), Some(want), "{seen}");
        assert!(!seen.contains("6.6.6.6"), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_not_believed_whatever_the_field() {
    for key in ["", "client_address = \"forwarded\"", "client_address = \"x-real-ip\""] {
        let upstream = Upstream::start().await;
        let server = format!("trusted_proxies = [\"10.0.0.0/8\"]\n{key}");
        let gateway = Gateway::start_with(&server, &routes(upstream.address)).await;
        let fields: String = OTHERS.iter().map(|(_, line)| *line).collect();
        let fields =
            fields + "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 443\r\n";
        assert_eq!(status(&gateway.get("/", &fields).await), 200);
        let seen = upstream.only();
        assert!(!seen.contains("6.6.6.6") && !seen.contains("evil"), "{seen}");
        assert_eq!(field(&seen, "x-forwarded-port"), None);
        assert_eq!(field(&seen, "x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(field(&seen, "forwarded"), Some("for=127.0.0.1;host=app.test;proto=http"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_behind_a_proxy_uses_up_its_own_limit_only() {
    for (key, name) in [
        ("", "X-Forwarded-For"),
        ("client_address = \"x-real-ip\"", "X-Real-IP"),
        ("client_address = \"forwarded\"", "Forwarded"),
    ] {
        let (gateway, _upstream) = behind(key).await;
        let value = |address: &str| match name {
            "Forwarded" => format!("for=\"{address}:4711\""),
            _ => format!("{address}:4711"),
        };
        let body = "{\"token\":\"x\"}";
        let mut statuses = Vec::new();
        // What a client sends besides never makes it another one.
        for (attempt, address) in (0..21).map(|_| "7.7.7.7").chain(["8.8.8.8"]).enumerate() {
            let others: String = OTHERS.iter().filter(|(other, _)| *other != name).map(|(_, l)| *l).collect();
            let others = others.replace("6.6.6.6", &format!("6.6.6.{attempt}"));
            let request = format!(
                "POST /auth/password-resets/validate HTTP/1.1\r\nHost: app.test\r\n{others}{name}: {}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                value(address),
                body.len()
            );
            statuses.push(status(&gateway.send(request).await));
        }
        let limited: Vec<bool> = statuses.iter().map(|status| *status == 429).collect();
        let want: Vec<bool> = (0..22).map(|attempt| attempt == 20).collect();
        assert_eq!(limited, want, "{name}: {statuses:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_that_a_believed_proxy_gave_a_request_is_kept_and_no_other() {
    let id = "01a2105f-626d-74be-95cd-2b8454bab774";
    let (gateway, upstream) = behind("").await;
    let answer = gateway.get("/", &format!("X-Request-Id: {id}\r\n")).await;
    assert_eq!((status(&answer), field(&answer, "x-request-id")), (200, Some(id)), "{answer}");
    assert_eq!(field(&upstream.only(), "x-request-id"), Some(id));
    // Of what is answered here as well.
    for path in ["/admin", "/auth/session", "/auth/nowhere"] {
        let answer = gateway.get(path, &format!("X-Request-Id: {id}\r\n")).await;
        assert_eq!(field(&answer, "x-request-id"), Some(id), "{path}: {answer}");
    }
    let long = "a".repeat(129);
    for lines in [
        "X-Request-Id: a b\r\n",
        "X-Request-Id: a\"b\r\n",
        "X-Request-Id: <b>\r\n",
        "X-Request-Id: \r\n",
        "X-Request-Id: one\r\nX-Request-Id: two\r\n",
        "X_Request_Id: other\r\n",
        &format!("X-Request-Id: {long}\r\n"),
    ] {
        let answer = gateway.get("/", lines).await;
        let ours = field(&answer, "x-request-id").unwrap();
        assert!(ours.len() == 32 && ours.bytes().all(|byte| byte.is_ascii_hexdigit()), "{lines}: {answer}");
        assert_eq!(field(upstream.requests().last().unwrap(), "x-request-id"), Some(ours));
    }
    let upstream = Upstream::start().await;
    let stranger = Gateway::start(&routes(upstream.address)).await;
    let answer = stranger.get("/", &format!("X-Request-Id: {id}\r\n")).await;
    assert_ne!(field(&answer, "x-request-id"), Some(id), "{answer}");
    assert!(!upstream.only().contains(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_context_of_a_trace_passes_from_every_client() {
    let lines = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b,c=d\r\n\
                 baggage: user=x;y=1\r\nsentry-trace: 0af7651916cd43dd-b7ad6b71-1\r\nb3: 0\r\nX-B3-TraceId: 1\r\n";
    for server in ["", "trusted_proxies = [\"127.0.0.1\"]"] {
        let upstream = Upstream::start().await;
        let gateway = Gateway::start_with(server, &routes(upstream.address)).await;
        assert_eq!(status(&gateway.get("/", lines).await), 200);
        let seen = upstream.only();
        assert!(lines.split_inclusive("\r\n").all(|line| seen.contains(line)), "{seen}");
    }
}

/// Fields in which a proxy in front of an app says who the caller is, or what it really asks for.
const FALSE: [&str; 43] = [
    "X-Original-URL",
    "X-Original-Uri",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Forwarded",
    "X-Forwarded-Uri",
    "X-Forwarded-Prefix",
    "X-Forwarded-Path",
    "X-Forwarded-Ssl",
    "X-Forwarded-Scheme",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "True-Client-IP",
    "CF-Connecting-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "Fastly-Client-IP",
    "X-Client-Cert",
    "X-SSL-Client-Verify",
    "SSL-Client-Subject-DN",
    "Client-Cert",
    "X-Auth-Request-User",
    "X-Authenticated-User",
    "Remote-User",
    "Remote-Email",
    "Remote-Name",
    "Remote-Groups",
    "X-Remote-User",
    "X-Remote-Group",
    "X-WEBAUTH-USER",
    "X-authentik-username",
    "Tailscale-User-Login",
    "X-Goog-Authenticated-User-Email",
    "Cf-Access-Authenticated-User-Email",
    "X-MS-CLIENT-PRINCIPAL-NAME",
    "Impersonate-User",
    "X-Middleware-Subrequest",
    "Proxy",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_field_that_an_app_would_believe_comes_from_a_client() {
    for server in ["", "trusted_proxies = [\"127.0.0.1\"]"] {
        let upstream = Upstream::start().await;
        let gateway = Gateway::start_with(server, &routes(upstream.address)).await;
        for separator in ["-", "_", ".", "~"] {
            let names = FALSE.map(|name| name.replace('-', separator));
            for names in [names.clone(), names.map(|name| name.to_uppercase())] {
                let fields: String = names.iter().map(|name| format!("{name}: evil\r\n")).collect();
                let answer = gateway.get("/", &format!("{fields}X-Kept: yes\r\n")).await;
                assert_eq!(status(&answer), 200, "{answer}");
                let seen = upstream.requests().pop().unwrap();
                assert!(!seen.contains("evil") && field(&seen, "x-kept") == Some("yes"), "{server} {seen}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_passes_the_fields_that_it_names_in_that_spelling() {
    let upstream = Upstream::start().await;
    let route = |name: &str, more: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}\" }}\nupstream = [\"http://{}\"]\n\
             auth = \"none\"\n{more}\n",
            upstream.address
        )
    };
    let routes = route("rest", "pass = [\"X-HTTP-Method-Override\", \"remote_user\"]")
        + &route("other", "")
        + &route("named", "headers = { subject = \"Remote-User\" }");
    let gateway = Gateway::start(&routes).await;
    let fields = "x-http-method-override: PUT\r\nX_HTTP_Method_Override: evil\r\nX-HTTP-Method: evil\r\n\
                  X-Original-URL: evil\r\nRemote_User: odd\r\nRemote-User: evil\r\n";
    assert_eq!(status(&gateway.get("/rest", fields).await), 200);
    let seen = upstream.only();
    assert!(!seen.contains("evil"), "{seen}");
    assert_eq!(field(&seen, "x-http-method-override"), Some("PUT"));
    assert_eq!(field(&seen, "remote_user"), Some("odd"));
    for path in ["/other", "/named"] {
        assert_eq!(status(&gateway.get(path, fields).await), 200);
        let seen = upstream.requests().pop().unwrap();
        assert!(["evil", "PUT", "odd"].iter().all(|value| !seen.contains(value)), "{seen}");
    }
}
