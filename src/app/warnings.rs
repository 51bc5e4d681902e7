//! What works but is probably not meant, as far as it takes the network to see it: upstreams that lead back to
//! this gateway, and cleartext to other machines. What the file alone shows is in [`Config::warnings`].

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::config::{Config, UpstreamOrigin};
use palisade_core::domain::route::{Auth, FailMode};

/// How long a name may take to be looked up. An upstream that is not known by then is not looked at.
const PATIENCE: Duration = Duration::from_secs(1);

/// One printable line for each.
pub(crate) async fn about(config: &Config) -> Vec<String> {
    let looks = config.routes.iter().flat_map(|route| {
        let place = format!(
            "{}:{}: routes.{}.upstream",
            config.path.display(),
            route.upstream.line,
            route.policy.name
        );
        route.upstream.origins.iter().map(move |origin| look(config, place.clone(), origin))
    });
    let mut found: Vec<String> = futures::future::join_all(looks).await.into_iter().flatten().collect();
    found.extend(readable_key(config));
    // What comes of a value, such as the host of an upstream, is not in the document whose messages hide it.
    found.into_iter().map(|line| config.redaction.hide(line)).collect()
}

/// What becomes of requests while the database fails over, for a store that several replicas share.
pub(crate) fn about_failover(config: &Config) -> Option<String> {
    let settings = config.store.postgres()?;
    let with_tokens =
        || config.routes.iter().map(|route| &route.policy).filter(|route| route.policy.auth != Auth::None);
    let named = |fail: FailMode| {
        let names: Vec<&str> =
            with_tokens().filter(|route| route.fail == fail).map(|route| &*route.name).collect();
        match names.len() {
            0 => None,
            1..=8 => Some(names.join(", ")),
            more => Some(format!("{} and {} more", names[..8].join(", "), more - 8)),
        }
    };
    let staleness = humantime::format_duration(settings.max_staleness);
    let mut words = format!(
        "{}: store.max_staleness = {staleness}: a failover of the database takes a minute or two as a rule. Until it is \
         over, nothing is signed in, refreshed or revoked (503)",
        config.path.display()
    );
    if let Some(names) = named(FailMode::Closed) {
        words.push_str(&format!(
            "; from {staleness} on, requests with a token or a session are refused with 503 and what they have opened is \
             ended, on {names} (fail = \"closed\")"
        ));
    }
    if let Some(names) = named(FailMode::Open) {
        words.push_str(&format!(
            "; tokens go on being believed on {names} (fail = \"open\"), those too that another replica revokes meanwhile"
        ));
    }
    Some(config.redaction.hide(words))
}

/// A private key of `server.tls` that every user of the machine may read.
fn readable_key(config: &Config) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let key = &config.server.tls.as_ref()?.key;
    let mode = std::fs::metadata(key).ok()?.permissions().mode() & 0o777;
    (mode & 0o004 != 0).then(|| {
        format!(
            "{}: server.tls.key: {} may be read by every user of this machine (mode {mode:04o}); chmod 600 it",
            config.path.display(),
            key.display()
        )
    })
}

async fn look(config: &Config, place: String, origin: &UpstreamOrigin) -> Vec<String> {
    if let Some(path) = &origin.socket {
        return socket_fault(path).await.map(|why| format!("{place}: {path} {why}")).into_iter().collect();
    }
    let addresses = addresses(origin).await;
    let leads_to = |listener: &SocketAddr| addresses.iter().any(|address| reaches(*address, *listener));
    let UpstreamOrigin { tls, host, port, socket: _ } = origin;
    let mut found = Vec::new();
    let server = &config.server;
    if let Some(listener) =
        server.listen.iter().chain(server.tls.iter().map(|tls| &tls.listen)).find(|l| leads_to(l))
    {
        found.push(format!(
            "{place}: {host}:{port} is this gateway's own listener {listener}: requests go in circles"
        ));
    }
    if leads_to(&server.admin) {
        found.push(format!(
            "{place}: {host}:{port} is the admin listener, which is then open to this route's callers"
        ));
    }
    if server.health.as_ref().is_some_and(leads_to) {
        found.push(format!(
            "{place}: {host}:{port} is the health listener, whose metrics are then open to this route's callers"
        ));
    }
    let stays_here = !addresses.is_empty() && addresses.iter().all(|address| is_here(address.ip()));
    if !tls && !stays_here {
        found.push(format!(
            "{place}: {host}:{port} is another machine, and requests cross the network in cleartext, with the identity \
             of the caller; use https:// unless the network is private"
        ));
    }
    found
}

/// What keeps this user from connecting to a socket file now. The app may not have started yet, so it is no error.
async fn socket_fault(path: &str) -> Option<String> {
    use std::os::unix::fs::FileTypeExt as _;
    let is_socket = match std::fs::metadata(path) {
        Ok(found) => found.file_type().is_socket(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Some(
                "is not there: the app makes it when it starts, or its folder has another name".to_owned(),
            );
        }
        Err(error) => return Some(format!("cannot be looked at by this user: {error}")),
    };
    if !is_socket {
        return Some("is no socket file".to_owned());
    }
    let connected = tokio::time::timeout(PATIENCE, tokio::net::UnixStream::connect(path)).await;
    match connected.ok()?.err()?.kind() {
        ErrorKind::PermissionDenied => {
            Some("may not be connected to by this user: that takes permission to write to it".to_owned())
        }
        ErrorKind::ConnectionRefused => {
            Some("has nothing that listens at it: the app is not running".to_owned())
        }
        other => Some(format!("cannot be connected to: {other}")),
    }
}

/// Where an origin leads to now; nothing when its name cannot be looked up.
async fn addresses(origin: &UpstreamOrigin) -> Vec<SocketAddr> {
    let host = origin.host.trim_matches(['[', ']']);
    let port = origin.port;
    if let Ok(address) = host.parse::<IpAddr>() {
        return vec![SocketAddr::new(address, port)];
    }
    // RFC 6761 §6.3, whatever the resolver says.
    if host == "localhost" || host.ends_with(".localhost") {
        return vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()];
    }
    let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port))).await;
    found.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default()
}

/// Whether a connection to `address` arrives at `listener`.
fn reaches(address: SocketAddr, listener: SocketAddr) -> bool {
    // Port 0 is another port each time.
    if listener.port() == 0 || address.port() != listener.port() {
        return false;
    }
    let (to, at) = (address.ip().to_canonical(), listener.ip().to_canonical());
    // A listener of every IPv6 address has every IPv4 address too; one of IPv4 has those alone.
    let covers = at.is_unspecified() && (to.is_ipv4() || at.is_ipv6()) && is_here(to);
    // Connecting to no address in particular is connecting to this machine.
    to == at || covers || (to.is_unspecified() && is_here(at))
}

/// Whether an address is one of this machine's own.
fn is_here(address: IpAddr) -> bool {
    let address = address.to_canonical();
    // Only a machine's own addresses can be bound; nothing is sent.
    address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    async fn warnings(listen: &str, upstream: &str) -> Vec<String> {
        let text = format!(
            "[server]\nlisten = [{listen:?}]\nadmin = \"127.0.0.1:9180\"\nhealth = \"0.0.0.0:9181\"\n\
             [[routes]]\nname = \"app\"\nupstream = [{upstream:?}]\n"
        );
        let config = config::parse(&text, Path::new("config.toml"), &|_| None)
            .unwrap_or_else(|errors| panic!("{errors:#?}"));
        about(&config).await
    }

    #[tokio::test]
    async fn an_upstream_that_is_our_own_listener_is_noticed_however_it_is_written() {
        for (listen, upstream) in [
            ("127.0.0.1:8080", "http://localhost:8080"),
            ("127.0.0.1:8080", "http://app.localhost:8080"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
            ("0.0.0.0:8080", "http://127.3.2.1:8080"),
            ("[::]:8080", "http://127.0.0.1:8080"),
            ("[::]:8080", "http://[::1]:8080"),
            ("[::]:8080", "http://[::ffff:127.0.0.1]:8080"),
            ("127.0.0.1:8080", "http://[::ffff:127.0.0.1]:8080"),
            ("127.0.0.1:8080", "http://0.0.0.0:8080"),
        ] {
            let found = warnings(listen, upstream).await;
            assert_eq!(found.len(), 1, "{listen} {upstream}: {found:?}");
            assert!(found[0].starts_with("config.toml:7: routes.app.upstream: "), "{found:?}");
            assert!(found[0].contains("in circles"), "{found:?}");
        }
        let admin = warnings("127.0.0.1:8080", "http://localhost:9180").await;
        assert!(admin.len() == 1 && admin[0].contains("admin listener"), "{admin:?}");
        let health = warnings("127.0.0.1:8080", "http://127.0.0.1:9181").await;
        assert!(health.len() == 1 && health[0].contains("health listener"), "{health:?}");
        for (listen, upstream) in [
            ("127.0.0.1:8080", "http://localhost:8081"),
            ("127.0.0.1:0", "http://localhost:8080"),
            ("127.0.0.2:8080", "http://127.0.0.1:8080"),
            ("0.0.0.0:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(warnings(listen, upstream).await, [""; 0], "{listen} {upstream}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_socket_file_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("{}/{name}", folder.path().display());
        std::fs::write(at("file"), "").unwrap();
        let _living = std::os::unix::net::UnixListener::bind(at("living")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(at("left")).unwrap());
        for (name, why) in [
            ("missing", "is not there"),
            ("file", "is no socket file"),
            ("file/below", "cannot be looked at"),
            ("left", "nothing that listens"),
        ] {
            let found = warnings("127.0.0.1:8080", &format!("unix:{}", at(name))).await;
            assert!(found.len() == 1 && found[0].contains(why), "{name}: {found:?}");
        }
        assert_eq!(warnings("127.0.0.1:8080", &format!("unix:{}", at("living"))).await, [""; 0]);
    }

    #[tokio::test]
    async fn what_came_from_a_reference_is_in_no_warning() {
        let text = "[[routes]]\nname = \"app\"\nupstream = [\"${env:APP}\"]\n";
        let config =
            config::parse(text, Path::new("config.toml"), &|_| Some("http://App.invalid:3000".to_owned()));
        let found = about(&config.unwrap_or_else(|errors| panic!("{errors:#?}"))).await;
        assert!(
            found.len() == 1 && found[0].contains("upstream: ${env:APP}:3000 is another machine"),
            "{found:?}"
        );
    }

    #[tokio::test]
    async fn cleartext_to_another_machine_is_noticed() {
        // Addresses for documentation (RFC 5737), and a name that is never assigned (RFC 6761 §6.4).
        for upstream in ["http://192.0.2.1", "http://[2001:db8::1]:3000", "http://app.invalid:3000"] {
            let found = warnings("127.0.0.1:8080", upstream).await;
            assert!(found.len() == 1 && found[0].contains("in cleartext"), "{found:?}");
        }
        assert_eq!(warnings("127.0.0.1:8080", "https://192.0.2.1").await, [""; 0]);
    }
}
