//! What serves the requests of one route: the route itself, the upstreams behind it, and what they are told.

use std::sync::Arc;

use super::capacity::Capacity;
use super::cors::CorsRules;
use super::forward::Forwarding;
use super::replica::SystemResolver;
use super::rewrite::Rewriting;
use super::upstream::Cluster;
use crate::config;
use palisade_core::domain::route::Route;

/// An entry of the table of routes: all that is needed to serve a request.
pub struct ServedRoute {
    /// What the requests are matched and judged by.
    pub route: Arc<Route>,
    /// Where they go.
    pub cluster: Cluster,
    /// What the upstream is told.
    pub forwarding: Forwarding,
    /// Present where the app's answers are told as clients know its addresses.
    pub rewriting: Option<Rewriting>,
    /// Present where the route answers for pages of other origins.
    pub cors: Option<CorsRules>,
}

impl ServedRoute {
    /// Starts what a route needs: its upstreams are resolved and their health checks begin.
    ///
    /// # Errors
    /// Its authorities cannot be used, or a name cannot be that of a header field.
    pub async fn start(configured: config::Route, capacity: &Arc<Capacity>) -> Result<ServedRoute, String> {
        let config::Route { policy: route, upstream, forward } = configured;
        Ok(ServedRoute {
            rewriting: Rewriting::new(&upstream, &route.upstream_path, forward.preserve_host),
            cluster: Cluster::start(&route.name, upstream, capacity, Arc::new(SystemResolver)).await?,
            forwarding: Forwarding::new(&forward, &route)?,
            cors: route.cors.as_ref().map(CorsRules::new).transpose()?,
            route: Arc::new(route),
        })
    }
}

impl AsRef<Route> for ServedRoute {
    fn as_ref(&self) -> &Route {
        &self.route
    }
}

impl AsRef<Arc<Route>> for ServedRoute {
    fn as_ref(&self) -> &Arc<Route> {
        &self.route
    }
}
