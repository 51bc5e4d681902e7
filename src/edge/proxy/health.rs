//! Health checks of upstreams: a `GET` that must answer 2xx or 3xx, or only a connection.

use std::sync::Arc;
use std::time::Duration;

use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr, Result};

use super::replica::Replica;
use crate::config;

/// Checks the replicas of one route.
pub struct HealthChecker {
    settings: config::Health,
    /// Makes a new connection for each check.
    connector: Connector,
    probes: Vec<Probe>,
}

struct Probe {
    replica: Arc<Replica>,
    /// The request with how it is sent; `None`: a connection is enough.
    request: Option<(HttpPeer, RequestHeader)>,
}

impl HealthChecker {
    /// Checks of `replicas`, each with how the engine reaches it and the Host that it is told.
    ///
    /// # Errors
    /// The path or a Host cannot stand in a request.
    pub fn new(
        settings: config::Health,
        replicas: impl Iterator<Item = (Arc<Replica>, HttpPeer, Arc<str>)>,
    ) -> Result<HealthChecker, String> {
        let probe = |(replica, peer, host): (Arc<Replica>, HttpPeer, Arc<str>)| {
            let request = settings.path.as_deref().map(|path| request(path, &host, peer, settings.timeout));
            Ok(Probe { replica, request: request.transpose()? })
        };
        let probes = replicas.map(probe).collect::<Result<_, String>>()?;
        Ok(HealthChecker { settings, connector: Connector::new(None), probes })
    }

    /// How often [`HealthChecker::check`] is to be called.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.settings.interval
    }

    /// Checks every replica once.
    pub async fn check(&self) {
        futures::future::join_all(self.probes.iter().map(|probe| async {
            let asked = tokio::time::timeout(self.settings.timeout, self.ask(probe)).await;
            let is_healthy = matches!(asked, Ok(Ok(())));
            let threshold = match is_healthy {
                true => self.settings.healthy_after,
                false => self.settings.unhealthy_after,
            };
            probe.replica.note_health(is_healthy, threshold);
        }))
        .await;
    }

    async fn ask(&self, probe: &Probe) -> Result<()> {
        let Some((peer, request)) = &probe.request else {
            probe.replica.connect().await.or_err(ErrorType::ConnectError, "health check")?;
            return Ok(());
        };
        let (mut session, _) = self.connector.get_http_session(peer).await?;
        session.set_write_timeout(peer.options.write_timeout);
        session.write_request_header(Box::new(request.clone())).await?;
        session.finish_request_body().await?;
        session.set_read_timeout(peer.options.read_timeout);
        session.read_response_header().await?;
        let status = session.response_header().map_or(0, |head| head.status.as_u16());
        if !(200..400).contains(&status) {
            return Error::e_explain(
                ErrorType::HTTPStatus(status),
                "the health check's answer is neither 2xx nor 3xx",
            );
        }
        // An answer that breaks off is none.
        while session.read_response_body().await?.is_some() {}
        Ok(())
    }
}

fn request(
    path: &str,
    host: &str,
    mut peer: HttpPeer,
    timeout: Duration,
) -> Result<(HttpPeer, RequestHeader), String> {
    peer.options.connection_timeout = Some(timeout);
    peer.options.total_connection_timeout = Some(timeout);
    peer.options.read_timeout = Some(timeout);
    peer.options.write_timeout = Some(timeout);
    let unusable = |error: Box<Error>| format!("health path {path:?} cannot be asked for: {error}");
    let mut request = RequestHeader::build("GET", path.as_bytes(), Some(2)).map_err(unusable)?;
    request.insert_header(http::header::HOST, host).map_err(unusable)?;
    request.insert_header(http::header::USER_AGENT, "palisade-health").map_err(unusable)?;
    Ok((peer, request))
}
