//! Admission, the request path: finds the route, verifies the token, checks revocation and applies the route's
//! authorization policy.
//!
//! [`Admission::admit`] is the only maker of a [`Permit`], and the proxy connects to no upstream without
//! one: a forgotten check is a refusal, not a hole. The warm path takes no lock across an await, does
//! no I/O and reads nothing but memory.

use std::net::IpAddr;
use std::sync::Arc;

use super::session_cookies::{CookieVerdict, SessionCookies};
use crate::domain::browser::SessionUse;
use crate::domain::credential::{self, Carrier};
use crate::domain::destination::{self, SecondTarget};
use crate::domain::redirect::Redirect;
use crate::domain::request::{Request, WebOrigin};
use crate::domain::route::{Auth, FailMode, Route};
use crate::domain::same_origin::{self, OwnOrigins, Sender};
use crate::domain::table::{Deciding, Table};
use crate::domain::verdict::{Refusal, TokenFault};
use crate::ports::{Clock, LiveCookie, Revocations, Standing, Verified, Verifier};

/// Proof that a request was admitted, and on what terms. `R` is an entry of the table of routes.
#[derive(Debug)]
pub struct Permit<R = Route> {
    route: Arc<R>,
    caller: Option<Arc<Verified>>,
    carrier: Option<Carrier>,
    is_cookie_spent: bool,
    is_left_to_app: bool,
    session: Option<UsedSession>,
    /// A box, since few requests have one.
    destination: Option<Box<SecondTarget>>,
}

/// The session that admitted a request by its cookie.
#[derive(Debug)]
pub(super) struct UsedSession {
    pub(super) live: Arc<LiveCookie>,
    /// Whether what the client sends on a WebSocket is a use, too.
    pub(super) by_frames: bool,
}

impl<R: AsRef<Route>> Permit<R> {
    /// The route that took the request.
    #[must_use]
    pub fn route(&self) -> &Arc<R> {
        &self.route
    }

    /// The verified caller; `None` for an anonymous one.
    #[must_use]
    pub fn caller(&self) -> Option<&Arc<Verified>> {
        self.caller.as_ref()
    }

    /// What carried the token, to be taken out before forwarding.
    #[must_use]
    pub fn carrier(&self) -> Option<Carrier> {
        self.carrier
    }

    /// The second target, where the request names one and both are admitted: the `Destination` of COPY and MOVE.
    #[must_use]
    pub fn destination(&self) -> Option<&SecondTarget> {
        self.destination.as_deref()
    }

    pub(super) fn with_destination(self, destination: SecondTarget) -> Permit<R> {
        Permit { destination: Some(Box::new(destination)), ..self }
    }

    /// Whether a cookie admitted the request: one that its browser adds to requests by itself.
    #[must_use]
    pub fn is_by_cookie(&self) -> bool {
        matches!(self.carrier, Some(Carrier::Cookie | Carrier::Session))
    }

    /// Whether the request passed without a session because it has the app's own `Authorization` field
    /// (`without_session`): only the app judges it.
    #[must_use]
    pub fn is_left_to_app(&self) -> bool {
        self.is_left_to_app
    }

    /// The name of the cookie that held a token which is no longer good, to be cleared in the browser.
    #[must_use]
    pub fn spent_cookie(&self) -> Option<&str> {
        R::as_ref(&self.route).policy.carriers.cookie.as_deref().filter(|_| self.is_cookie_spent)
    }
}

/// Decides whether a token is good now.
#[derive(Clone)]
pub struct Authenticator {
    pub verifier: Arc<dyn Verifier>,
    pub revocations: Arc<dyn Revocations>,
    /// What becomes of credentials at the native endpoints while the revocation set is not confirmed (`store.fail`).
    /// Routes say it for themselves.
    pub fail: FailMode,
    pub clock: Arc<dyn Clock>,
}

/// What was decided about a request. `R` is an entry of the table of routes.
#[derive(Debug)]
pub enum Verdict<R = Route> {
    /// It may go to an upstream.
    Permit(Permit<R>),
    /// The browser that sent it is to go elsewhere first: to the same address without the mark of a sign-in.
    /// Admission itself never decides so; the proxy does, of a permit, and answers it.
    Redirect {
        /// Where.
        redirect: Redirect,
        /// The route that sends it there.
        route: Arc<R>,
    },
    /// It is turned away.
    Refusal {
        /// Why.
        refusal: Refusal,
        /// The route it belongs to, once one was found.
        route: Option<Arc<R>>,
        /// The caller, where a good token says who that is: the route asks for more.
        caller: Option<Arc<Verified>>,
    },
}

/// Why a request is not admitted, and who sent it, as far as a good token says so.
struct TurnedAway {
    refusal: Refusal,
    caller: Option<Arc<Verified>>,
}

impl From<Refusal> for TurnedAway {
    fn from(refusal: Refusal) -> TurnedAway {
        TurnedAway { refusal, caller: None }
    }
}

/// What admission decides with.
pub struct Admission<R = Route> {
    pub routes: Table<R>,
    pub authenticator: Authenticator,
    /// By which requests of other sites are known.
    pub own: OwnOrigins,
    /// Sessions of ours that travel in cookies; `None`: there are none (`[browser] enabled = false`).
    pub sessions: Option<SessionCookies>,
}

impl<R: AsRef<Route>> Admission<R> {
    /// Decides about one request of `client`. Waits only when a token names a key that its issuer may have
    /// published since the last look, and when a session cookie is to be read from the store.
    pub async fn admit(&self, request: &Request<'_>, client: IpAddr) -> Verdict<R> {
        match self.admit_target(request, client).await {
            // A box keeps what only these requests need out of the state of all others.
            Verdict::Permit(permit) if destination::is_named_by(request.method) => {
                Box::pin(self.admit_destination(request, client, permit)).await
            }
            decided => decided,
        }
    }

    /// Decides about the target of the request line alone.
    pub(super) async fn admit_target(&self, request: &Request<'_>, client: IpAddr) -> Verdict<R> {
        let found = self.routes.find(request);
        // Where the field is the app's, its lines are the app's to read, too.
        let is_apps =
            found.as_ref().is_ok_and(|found| R::as_ref(found.entry).policy.carriers.is_authorization_apps());
        let found = match is_apps {
            true => found,
            false => credential::refuse_several(request.headers).and(found),
        };
        let Deciding { entry, is_open } = match found {
            Ok(found) => found,
            Err(refusal) => return Verdict::Refusal { refusal, route: None, caller: None },
        };
        match self.decide(request, entry, client).await {
            Ok(permit) => Verdict::Permit(permit),
            Err(TurnedAway { refusal, caller }) => {
                let passes = if is_open { pass_anyway(request, entry) } else { None };
                // What is public on a rule for some networks is lent to no page of another site either.
                let passes = passes.map(|permit| self.without_caller(request, permit));
                match passes {
                    Some(Ok(permit)) => Verdict::Permit(permit),
                    Some(Err(TurnedAway { refusal, .. })) => {
                        Verdict::Refusal { refusal, route: Some(Arc::clone(entry)), caller }
                    }
                    None => Verdict::Refusal { refusal, route: Some(Arc::clone(entry)), caller },
                }
            }
        }
    }

    async fn decide(
        &self,
        request: &Request<'_>,
        entry: &Arc<R>,
        client: IpAddr,
    ) -> Result<Permit<R>, TurnedAway> {
        let route = R::as_ref(entry);
        let anonymous = Permit {
            route: Arc::clone(entry),
            caller: None,
            carrier: None,
            is_cookie_spent: false,
            is_left_to_app: false,
            session: None,
            destination: None,
        };
        if route.policy.auth == Auth::None {
            return self.without_caller(request, anonymous);
        }
        let found = credential::find(request, &route.policy.carriers)?;
        // A browser adds our cookie to every request, also to one that the page's own script gave a token in
        // `Authorization`, `Sec-WebSocket-Protocol` or the query. The script chose that token and the cookie was chosen
        // by nothing, so the token counts and the cookie is not looked at: there is no doubt which is meant, and a
        // cookie never lets a request with a bad token pass. The route's own cookie is sent unasked, too, so a good
        // session comes before it: what an earlier sign-in at an identity provider left there keeps no person out.
        let mut is_over = false;
        if let Some(sessions) = &self.sessions
            && found.as_ref().is_none_or(|(_, carrier)| *carrier == Carrier::Cookie)
        {
            match sessions.presented(&self.authenticator, request, route, client).await? {
                CookieVerdict::None => {}
                CookieVerdict::Over => is_over = true,
                CookieVerdict::Good(live) => {
                    return self.by_session(sessions, request, anonymous, live);
                }
            }
        }
        let is_left_to_app =
            route.policy.carriers.leaves_to_app() && credential::has_authorization(request.headers);
        let anonymous = Permit { is_left_to_app, ..anonymous };
        let Some((token, carrier)) = found else {
            return match route.policy.auth {
                Auth::Required if is_left_to_app => Ok(anonymous),
                Auth::Required if is_over => Err(Refusal::SessionOver.into()),
                Auth::Required => Err(Refusal::NoToken.into()),
                Auth::Optional | Auth::None if is_left_to_app => Ok(anonymous),
                Auth::Optional | Auth::None => self.without_caller(request, anonymous),
            };
        };
        let is_cross_site = carrier == Carrier::Cookie
            && same_origin::is_unsafe(request.method, request.websocket)
            // What says nothing of where it comes from is a program.
            && self.sender(request, route) == Sender::CrossOrigin;
        // Where the app judges what has no session, only a good cookie makes the request one of a session.
        if is_cross_site && !is_left_to_app {
            return Err(Refusal::CrossSite.into());
        }
        let is_forgiven =
            (route.policy.auth == Auth::Optional || is_left_to_app) && carrier == Carrier::Cookie;
        match self.authenticator.verify_for(&token, carrier, route, request.host.name()).await {
            Ok(_) if is_cross_site => Err(Refusal::CrossSite.into()),
            Ok(caller) => {
                let (caller, carrier) = (Some(caller), Some(carrier));
                Ok(Permit { caller, carrier, is_left_to_app: false, ..anonymous })
            }
            Err(TurnedAway { refusal: Refusal::Revoked, .. }) if is_forgiven => {
                Ok(Permit { is_cookie_spent: true, ..anonymous })
            }
            // A key that is missing, or an issuer of another route, says nothing against the session.
            Err(TurnedAway { refusal: Refusal::Token(fault), .. }) if is_forgiven => {
                Ok(Permit { is_cookie_spent: fault.is_final(), ..anonymous })
            }
            Err(turned_away) => Err(turned_away),
        }
    }

    /// Admits what needs no caller. Where a route is for clients of some networks, the address of the client is the
    /// credential, which a browser lends to the pages of every site, as it does a cookie: the same-origin rule holds.
    fn without_caller(&self, request: &Request<'_>, anonymous: Permit<R>) -> Result<Permit<R>, TurnedAway> {
        let route = R::as_ref(&anonymous.route);
        if !route.networks.is_empty()
            && same_origin::is_unsafe(request.method, request.websocket)
            // What says nothing of where it comes from is a program.
            && self.sender(request, route) == Sender::CrossOrigin
        {
            return Err(Refusal::CrossSite.into());
        }
        Ok(anonymous)
    }

    /// Admits what a good session cookie came with, and notes the use.
    fn by_session(
        &self,
        sessions: &SessionCookies,
        request: &Request<'_>,
        anonymous: Permit<R>,
        live: Arc<LiveCookie>,
    ) -> Result<Permit<R>, TurnedAway> {
        let route = R::as_ref(&anonymous.route);
        // Here what says nothing is refused: our cookie is for browsers, and they say it.
        if same_origin::is_unsafe(request.method, request.websocket)
            && self.sender(request, route) != Sender::SameOrigin
        {
            return Err(Refusal::CrossSite.into());
        }
        if let Err(refusal) = route.check(&live.verified.identity) {
            return Err(TurnedAway { refusal, caller: Some(Arc::clone(&live.verified)) });
        }
        let uses = sessions.uses(route);
        if sessions.is_use(uses, request) {
            sessions.used(&live, self.authenticator.clock.now());
        }
        let session = Some(UsedSession { live: Arc::clone(&live), by_frames: uses == SessionUse::Every });
        let caller = Some(Arc::clone(&live.verified));
        Ok(Permit { caller, carrier: Some(Carrier::Session), session, ..anonymous })
    }

    /// Notes that the client sent something on the WebSocket that `permit` admitted.
    pub fn sent_frame(&self, permit: &Permit<R>) {
        if let (Some(sessions), Some(session)) = (&self.sessions, &permit.session)
            && session.by_frames
        {
            sessions.used(&session.live, self.authenticator.clock.now());
        }
    }

    /// Where a request says that it comes from. Pages that the route trusts with cookies count as the app's own.
    fn sender(&self, request: &Request<'_>, route: &Route) -> Sender {
        let is_own = |origin: &WebOrigin<'_>| self.own.is_asked(request, origin);
        let trusts = |origin: &[u8]| route.cors.as_ref().is_some_and(|cors| cors.trusts(origin));
        same_origin::sender(request.headers, &is_own, &trusts)
    }
}

/// Admits a request without a caller that was refused for what its caller brings, for where every client may see what it
/// asks for. A token that is not good is taken out as a good one would be; of several credentials none is.
fn pass_anyway<R: AsRef<Route>>(request: &Request<'_>, entry: &Arc<R>) -> Option<Permit<R>> {
    let route = R::as_ref(entry);
    let found = credential::find(request, &route.policy.carriers).ok()?;
    let carrier = found.map(|(_, carrier)| carrier);
    Some(Permit {
        route: Arc::clone(entry),
        caller: None,
        carrier,
        is_cookie_spent: false,
        is_left_to_app: false,
        session: None,
        destination: None,
    })
}

impl Authenticator {
    /// Verifies a token for a route: one token of this form, good, and good for here.
    async fn verify_for(
        &self,
        token: &str,
        carrier: Carrier,
        route: &Route,
        host: &str,
    ) -> Result<Arc<Verified>, TurnedAway> {
        credential::check_form(token)?;
        let caller = match route.policy.carriers.other_token(token, carrier) {
            None => self.verify(token, || route.fail).await?,
            Some(kind) => {
                let caller = self.verifier.verify_other(token, kind, self.clock.now()).await?;
                self.refuse_revoked(&caller, || route.fail)?;
                caller
            }
        };
        if !caller.is_for(host) {
            return Err(Refusal::Token(TokenFault::Audience).into());
        }
        match route.check(&caller.identity) {
            Ok(()) => Ok(caller),
            Err(refusal) => Err(TurnedAway { refusal, caller: Some(caller) }),
        }
    }

    /// Verifies a token and holds it against the revocation set. One that is for the routes of one host alone is refused:
    /// only admission takes those.
    ///
    /// # Errors
    /// [`Refusal::Token`], [`Refusal::Revoked`], [`Refusal::NotReady`] or [`Refusal::Stale`].
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Verified>, Refusal> {
        let caller = self.verify(token, || self.fail).await?;
        if caller.is_for_one_host() {
            return Err(Refusal::Token(TokenFault::Audience));
        }
        Ok(caller)
    }

    async fn verify(&self, token: &str, fail: impl FnOnce() -> FailMode) -> Result<Arc<Verified>, Refusal> {
        let now = self.clock.now();
        let caller = match self.verifier.verify(token, now) {
            Err(fault) if fault.may_lack_keys() && self.verifier.learn_keys(token).await => {
                self.verifier.verify(token, now)
            }
            decided => decided,
        }
        .map_err(Refusal::Token)?;
        self.refuse_revoked(&caller, fail)?;
        Ok(caller)
    }

    /// Holds a verified token against the revocation set. Costs two loads while the set has not changed, and a look at the
    /// uptime where it is believed for a time. `fail` is asked only once that time is over.
    ///
    /// # Errors
    /// [`Refusal::Revoked`]; [`Refusal::NotReady`] while the set is not whole; [`Refusal::Stale`] while it is not
    /// confirmed and `fail` says that it has to be.
    pub fn refuse_revoked(&self, caller: &Verified, fail: impl FnOnce() -> FailMode) -> Result<(), Refusal> {
        // The sequence is read before the set: a revocation in between makes the clearance lapse, and
        // the next request asks again.
        let sequence = match self.revocations.standing() {
            Standing::Confirmed(sequence) => sequence,
            Standing::Stale(sequence) => match fail() {
                FailMode::Open => sequence,
                FailMode::Closed => return Err(Refusal::Stale),
            },
            Standing::Loading => return Err(Refusal::NotReady),
        };
        if !caller.is_cleared_at(sequence) {
            if self.revocations.is_revoked(&caller.identity) {
                return Err(Refusal::Revoked);
            }
            caller.clear_at(sequence);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::domain::fixtures::{self, Fields, request};
    use crate::domain::identity::Identity;
    use crate::domain::pattern::PathPattern;
    use crate::domain::request::Scheme;
    use crate::domain::route::Public;
    use crate::domain::time::UnixTime;

    /// Knows good tokens, some for one host alone; every other is refused for this.
    struct Fixed(TokenFault);

    /// Good tokens, with what their claim [`crate::domain::claims::HOST_CLAIM`] says.
    fn host_of(token: &str) -> Option<Option<serde_json::Value>> {
        match token {
            "good" => Some(None),
            "here" => Some(Some("a.test".into())),
            "elsewhere" => Some(Some("b.test".into())),
            "below" => Some(Some("x.a.test".into())),
            "odd" => Some(Some(serde_json::json!(["a.test"]))),
            _ => None,
        }
    }

    #[async_trait]
    impl Verifier for Fixed {
        fn verify(&self, token: &str, now: UnixTime) -> Result<Arc<Verified>, TokenFault> {
            let host = host_of(token).ok_or(self.0)?;
            let claims = host.map(|host| ("palisade_host".to_owned(), host));
            Ok(Arc::new(Verified::new(Identity {
                issuer: "https://i.test".into(),
                subject: "ann".into(),
                email: None,
                email_verified: false,
                session: None,
                token_id: None,
                version: None,
                scopes: Vec::new(),
                issued_at: now,
                expires_at: now,
                claims: claims.into_iter().collect(),
            })))
        }

        async fn learn_keys(&self, _: &str) -> bool {
            false
        }

        fn accepts(&self, _: &Verified) -> bool {
            true
        }
    }

    /// Not loaded, or loaded with this answer for every token.
    struct Set(Option<bool>);

    impl Revocations for Set {
        fn standing(&self) -> Standing {
            self.0.map_or(Standing::Loading, |_| Standing::Confirmed(1))
        }

        fn is_revoked(&self, _: &Identity) -> bool {
            self.0 == Some(true)
        }
    }

    struct Still;

    impl Clock for Still {
        fn now(&self) -> UnixTime {
            UnixTime(1)
        }
    }

    fn route(auth: Auth) -> Route {
        let path = |text| PathPattern::parse(text).unwrap();
        let mut route = fixtures::route("/", auth);
        route.public = vec![
            Public::to_read(path("=/manifest.json")),
            Public::to_read(path("=/a:b")),
            Public { methods: vec!["POST".into()], path: path("=/acs") },
        ];
        route.policy.carriers.cookie = Some("sid".into());
        route
    }

    fn admission(route: Route, fault: TokenFault, set: Option<bool>) -> Admission {
        Admission {
            routes: Table::new(vec![route]),
            authenticator: Authenticator {
                verifier: Arc::new(Fixed(fault)),
                revocations: Arc::new(Set(set)),
                fail: FailMode::Closed,
                clock: Arc::new(Still),
            },
            own: OwnOrigins { scheme: Scheme::Https, named: Vec::new() },
            sessions: None,
        }
    }

    async fn admitted(
        auth: Auth,
        fault: TokenFault,
        set: Option<bool>,
        cookie: &'static str,
    ) -> Result<(bool, Option<String>), Refusal> {
        asked(auth, fault, set, cookie, "GET", "/", false).await
    }

    async fn asked(
        auth: Auth,
        fault: TokenFault,
        set: Option<bool>,
        cookie: &'static str,
        method: &str,
        path: &str,
        websocket: bool,
    ) -> Result<(bool, Option<String>), Refusal> {
        let admission = admission(route(auth), fault, set);
        let headers = Fields(&[("cookie", cookie)]);
        let request = Request { websocket, headers: &headers, ..request("a.test", method, path) };
        match admission.admit(&request, [192, 0, 2, 1].into()).await {
            Verdict::Permit(permit) => {
                Ok((permit.caller().is_some(), permit.spent_cookie().map(str::to_owned)))
            }
            Verdict::Refusal { refusal, .. } => Err(refusal),
            Verdict::Redirect { .. } => unreachable!("no route sends a browser elsewhere"),
        }
    }

    #[tokio::test]
    async fn a_network_lends_nothing_to_pages_of_other_sites() {
        type Case = (
            Auth,
            &'static str,
            &'static str,
            bool,
            &'static [(&'static str, &'static str)],
            Option<Refusal>,
        );
        const OTHER: &[(&str, &str)] = &[("origin", "https://evil.test"), ("sec-fetch-site", "cross-site")];
        const OWN: &[(&str, &str)] = &[("origin", "https://a.test"), ("sec-fetch-site", "same-origin")];
        let home = ["192.0.2.0/24".parse().unwrap()];
        let cross_site = Some(Refusal::CrossSite);
        let cases: [Case; 15] = [
            (Auth::None, "POST", "/x", false, OTHER, cross_site.clone()),
            (Auth::None, "DELETE", "/x", false, &[("origin", "https://evil.test")], cross_site.clone()),
            (Auth::None, "POST", "/x", false, &[("referer", "https://evil.test/y")], cross_site.clone()),
            (Auth::None, "GET", "/x", true, OTHER, cross_site.clone()),
            (Auth::Optional, "POST", "/x", false, OTHER, cross_site.clone()),
            (Auth::None, "POST", "/x", false, OWN, None),
            (Auth::Optional, "GET", "/x", true, OWN, None),
            // A program.
            (Auth::None, "POST", "/x", false, &[], None),
            (Auth::None, "GET", "/x", false, OTHER, None),
            // What is public there is public to clients of these networks, and the address is their credential.
            (Auth::Required, "POST", "/acs", false, OTHER, cross_site.clone()),
            (Auth::Optional, "POST", "/acs", false, OTHER, cross_site),
            (Auth::Required, "POST", "/acs", false, OWN, None),
            (Auth::Required, "POST", "/acs", false, &[], None),
            (Auth::Required, "GET", "/manifest.json", false, OTHER, None),
            (Auth::Required, "POST", "/x", false, OTHER, Some(Refusal::NoToken)),
        ];
        for (auth, method, path, websocket, fields, refused) in cases {
            let here = Route { networks: home.into(), ..route(auth) };
            let elsewhere = Route { networks: Vec::new(), ..here.clone() };
            let from = |route: Route| {
                let admission = admission(route, TokenFault::Expired, Some(false));
                async move {
                    let (client, headers) = (IpAddr::from([192, 0, 2, 1]), Fields(fields));
                    let request = Request {
                        websocket,
                        client: Some(client),
                        headers: &headers,
                        ..request("a.test", method, path)
                    };
                    match admission.admit(&request, client).await {
                        Verdict::Refusal { refusal, .. } => Some(refusal),
                        Verdict::Permit(_) | Verdict::Redirect { .. } => None,
                    }
                }
            };
            assert_eq!(from(here).await, refused, "{auth:?} {method} {path} {fields:?}");
            let anywhere = refused.filter(|refusal| *refusal == Refusal::NoToken);
            assert_eq!(from(elsewhere).await, anywhere, "{auth:?} {method} {path} {fields:?}");
        }
    }

    #[tokio::test]
    async fn a_spent_cookie_is_none_and_an_outage_signs_nobody_out() {
        let spent = Ok((false, Some("sid".to_owned())));
        for (fault, set, cookie, outcome) in [
            (TokenFault::Expired, Some(false), "sid=good", Ok((true, None))),
            (TokenFault::Expired, Some(false), "sid=bad", spent.clone()),
            (TokenFault::Expired, Some(false), "sid=", spent.clone()),
            (TokenFault::Expired, Some(true), "sid=good", spent),
            // It may be good again once the keys are here, on another route, or later.
            (TokenFault::UnknownKey, Some(false), "sid=bad", Ok((false, None))),
            (TokenFault::Signature, Some(false), "sid=bad", Ok((false, None))),
            (TokenFault::Issuer, Some(false), "sid=bad", Ok((false, None))),
            (TokenFault::Algorithm, Some(false), "sid=bad", Ok((false, None))),
            (TokenFault::NotYet, Some(false), "sid=bad", Ok((false, None))),
            (TokenFault::Expired, None, "sid=good", Err(Refusal::NotReady)),
        ] {
            assert_eq!(
                admitted(Auth::Optional, fault, set, cookie).await,
                outcome,
                "{fault:?} {set:?} {cookie}"
            );
        }
        let required = |fault, set, cookie| admitted(Auth::Required, fault, set, cookie);
        let expired = Err(Refusal::Token(TokenFault::Expired));
        assert_eq!(required(TokenFault::Expired, Some(false), "sid=bad").await, expired);
        assert_eq!(required(TokenFault::Expired, Some(true), "sid=good").await, Err(Refusal::Revoked));
        assert_eq!(required(TokenFault::Expired, None, "sid=good").await, Err(Refusal::NotReady));
    }

    /// Stands as this says, with this answer for every token.
    struct Stands(Standing, bool);

    impl Revocations for Stands {
        fn standing(&self) -> Standing {
            self.0
        }

        fn is_revoked(&self, _: &Identity) -> bool {
            self.1
        }
    }

    #[tokio::test]
    async fn a_token_counts_as_far_as_the_set_is_confirmed_and_the_route_asks_for_that() {
        use FailMode::{Closed, Open};
        let (good, revoked) = (Ok((true, None::<String>)), Err(Refusal::Revoked));
        let (stale, not_ready) = (Err(Refusal::Stale), Err(Refusal::NotReady));
        for (standing, fail, is_revoked, outcome) in [
            (Standing::Confirmed(1), Closed, false, good.clone()),
            (Standing::Confirmed(1), Closed, true, revoked.clone()),
            (Standing::Confirmed(1), Open, true, revoked.clone()),
            (Standing::Stale(1), Closed, false, stale.clone()),
            (Standing::Stale(1), Closed, true, stale.clone()),
            (Standing::Stale(1), Open, false, good),
            (Standing::Stale(1), Open, true, revoked),
            (Standing::Loading, Closed, false, not_ready.clone()),
            (Standing::Loading, Open, false, not_ready),
        ] {
            let mut route = route(Auth::Required);
            route.fail = fail;
            let mut admission = admission(route, TokenFault::Expired, None);
            admission.authenticator.revocations = Arc::new(Stands(standing, is_revoked));
            let case = format!("{standing:?} {fail:?} {is_revoked}");
            let ask = async |fields: &Fields<'_>, path| {
                let request = Request { headers: fields, ..request("a.test", "GET", path) };
                match admission.admit(&request, [192, 0, 2, 1].into()).await {
                    Verdict::Permit(permit) => Ok((permit.caller().is_some(), None)),
                    Verdict::Refusal { refusal, .. } => Err(refusal),
                    Verdict::Redirect { .. } => unreachable!("no route sends a browser elsewhere"),
                }
            };
            let bearer = Fields(&[("authorization", "Bearer good")]);
            assert_eq!(ask(&bearer, "/").await, outcome.clone(), "{case}");
            // Every client may see it, whatever is known of its credential.
            let seen = outcome.is_ok();
            assert_eq!(ask(&bearer, "/manifest.json").await, Ok((seen, None)), "{case}");
            assert_eq!(ask(&Fields(&[]), "/manifest.json").await, Ok((false, None)), "{case}");
            // Native endpoints go by what is said for all of them.
            admission.authenticator.fail = fail;
            let native = admission.authenticator.authenticate("good").await.map(|_| (true, None));
            assert_eq!(native, outcome, "{case}");
        }
    }

    /// Refuses every token for this until keys are learned.
    struct Learning(TokenFault, std::sync::atomic::AtomicBool);

    #[async_trait]
    impl Verifier for Learning {
        fn verify(&self, _: &str, now: UnixTime) -> Result<Arc<Verified>, TokenFault> {
            let is_learned = self.1.load(std::sync::atomic::Ordering::SeqCst);
            Fixed(self.0).verify(if is_learned { "good" } else { "bad" }, now)
        }

        async fn learn_keys(&self, _: &str) -> bool {
            self.1.store(true, std::sync::atomic::Ordering::SeqCst);
            true
        }

        fn accepts(&self, _: &Verified) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn what_a_newer_key_may_verify_is_worth_a_look() {
        for (fault, is_good) in [
            (TokenFault::UnknownKey, true),
            // The issuer may have put another key in the place of the one that is known by this name.
            (TokenFault::Signature, true),
            (TokenFault::Algorithm, true),
            (TokenFault::Expired, false),
            (TokenFault::Audience, false),
            (TokenFault::Malformed, false),
        ] {
            let authenticator = Authenticator {
                verifier: Arc::new(Learning(fault, false.into())),
                revocations: Arc::new(Set(Some(false))),
                fail: FailMode::Closed,
                clock: Arc::new(Still),
            };
            assert_eq!(authenticator.authenticate("token").await.is_ok(), is_good, "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_token_for_one_host_opens_the_routes_of_that_host_alone() {
        let elsewhere = Err(Refusal::Token(TokenFault::Audience));
        for (token, outcome) in [
            ("sid=here", Ok((true, None))),
            ("sid=elsewhere", elsewhere.clone()),
            ("sid=below", elsewhere.clone()),
            ("sid=odd", elsewhere),
        ] {
            let got = admitted(Auth::Required, TokenFault::Expired, Some(false), token).await;
            assert_eq!(got, outcome, "{token}");
        }
        // At native endpoints it is none, not even at those of its own host.
        let authenticator = Authenticator {
            verifier: Arc::new(Fixed(TokenFault::Expired)),
            revocations: Arc::new(Set(Some(false))),
            fail: FailMode::Closed,
            clock: Arc::new(Still),
        };
        assert!(authenticator.authenticate("good").await.is_ok());
        for token in ["here", "elsewhere", "odd"] {
            let refused = authenticator.authenticate(token).await.unwrap_err();
            assert_eq!(refused, Refusal::Token(TokenFault::Audience), "{token}");
        }
    }

    #[tokio::test]
    async fn an_open_path_passes_without_a_caller_and_nothing_beside_it_does() {
        let required = |set, cookie, method, path, websocket| {
            asked(Auth::Required, TokenFault::Expired, set, cookie, method, path, websocket)
        };
        let anonymous = Ok((false, None));
        for path in ["/manifest.json", "/%6Danifest.json", "/a:b"] {
            for method in ["GET", "HEAD"] {
                for cookie in ["", "sid=bad", "sid="] {
                    assert_eq!(
                        required(Some(false), cookie, method, path, false).await,
                        anonymous,
                        "{method} {path} {cookie}"
                    );
                }
                // A revoked token, or a revocation set that is not there, does not keep it from being seen.
                assert_eq!(required(Some(true), "sid=good", method, path, false).await, anonymous);
                assert_eq!(required(None, "sid=good", method, path, false).await, anonymous);
            }
        }
        assert_eq!(required(Some(false), "sid=good", "GET", "/manifest.json", false).await, Ok((true, None)));
        for (method, path, websocket) in [
            ("POST", "/manifest.json", false),
            ("get", "/manifest.json", false),
            ("OPTIONS", "/manifest.json", false),
            ("GET", "/manifest.json", true),
            ("GET", "/manifest.json/", false),
            ("GET", "/manifest.json/x", false),
            ("GET", "/manifest.json;x", false),
            ("GET", "/Manifest.json", false),
            ("GET", "/x/manifest.json", false),
            ("GET", "/manifest%2Ejsonx", false),
            ("GET", "/a%3Ab", false),
            ("GET", "/", false),
        ] {
            let outcome = required(Some(false), "", method, path, websocket).await;
            assert_eq!(outcome, Err(Refusal::NoToken), "{method} {path}");
        }
        // No rule says which of two credentials counts, so both would go on to the app.
        let two = required(Some(false), "sid=a; sid=b", "GET", "/manifest.json", false).await;
        assert_eq!(two, Err(Refusal::Credentials));
    }
}
