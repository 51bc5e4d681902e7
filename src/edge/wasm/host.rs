//! What a component is given: `http`, `log`, `clock`, and an empty WASI.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::answers;
use super::bindings::palisade::provider::http::{Method, Request, Response, SendError};
use super::bindings::palisade::provider::{clock, http, log, types};
use super::credentials::{self, Client, DraftParts};
use super::engine::Pace;
use super::limits::CallLimiter;
use super::lines::Lines;
use super::secrets::Secrets;
use crate::config::PluginLimits;
use palisade_core::ports::{Assertions, Clock, Door, DoorFault, DoorRequest, DoorResponse, Meter};

/// Resources of WASI that a component may hold at once.
const HANDLES: usize = 256;
/// The most random bytes in one piece.
const RANDOM: u64 = 64 << 10;
/// The largest body of a request, in bytes.
const BODY: usize = 1 << 20;
/// How much earlier than its call a request ends, so that the plugin can still say what happened.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What the calls of one provider have in common.
pub(super) struct Surroundings {
    pub(super) provider: Arc<str>,
    pub(super) client: Client,
    pub(super) door: Arc<dyn Door>,
    pub(super) limits: PluginLimits,
    pub(super) assertions: Arc<dyn Assertions>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) meter: Arc<dyn Meter>,
    /// Who looks on, where a plugin is tried and not in service.
    pub(super) witness: Option<Arc<dyn Witness>>,
}

/// Sees what a plugin does before the host has had a hand in it.
pub(super) trait Witness: Send + Sync {
    /// A request, as the plugin asked for it: without credentials.
    fn asked(&self, request: &Request);
    /// What the plugin is shown of an answer.
    fn answered(&self, answer: &DoorResponse);
    /// A line for the log.
    fn logged(&self, message: &str);
    /// A call ended, with so many bytes of linear memory.
    fn used(&self, memory: usize);
}

/// What one call has to itself.
pub(super) struct State {
    pub(super) limiter: CallLimiter,
    pub(super) pace: Pace,
    around: Arc<Surroundings>,
    pub(super) deadline: Instant,
    /// Requests that may still be made.
    requests: u32,
    /// How long the last host that answered asks to be left alone.
    pub(super) asked_to_wait: Option<Duration>,
    lines: Lines,
    secrets: Arc<Secrets>,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl State {
    /// `online`: whether requests may be made.
    /// `secrets`: what the log may not hold.
    pub(super) fn new(
        around: Arc<Surroundings>,
        secrets: Arc<Secrets>,
        pace: Pace,
        deadline: Instant,
        online: bool,
    ) -> State {
        let lines = Lines::new(Arc::clone(&around.provider), Arc::clone(&secrets));
        let wasi = WasiCtxBuilder::new()
            .stdout(lines.clone())
            .stderr(lines.clone())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(RANDOM)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES);
        State {
            limiter: CallLimiter::new(around.limits.memory),
            pace,
            requests: if online { around.limits.requests } else { 0 },
            asked_to_wait: None,
            around,
            deadline,
            lines,
            secrets,
            wasi,
            table,
        }
    }

    pub(super) fn limits(&self) -> PluginLimits {
        self.around.limits
    }

    /// The observer of the call, if there is one.
    pub(super) fn witness(&self) -> Option<&dyn Witness> {
        self.around.witness.as_deref()
    }

    async fn request(&mut self, request: Request) -> Result<Response, SendError> {
        let denied = |why: String| Err(SendError::Denied(why));
        if let Some(witness) = &self.around.witness {
            witness.asked(&request);
        }
        let limits = self.around.limits;
        let Some(left) = self.requests.checked_sub(1) else {
            return denied(format!(
                "more than {} requests in a call (providers.limits.requests), or one while describing",
                limits.requests
            ));
        };
        self.requests = left;
        if request.body.len() > BODY {
            return denied(format!("a body of more than {BODY} bytes"));
        }
        let rest = self.deadline.saturating_duration_since(Instant::now()).saturating_sub(LAST_WORDS);
        let timeout = limits.request_timeout.min(rest);
        if timeout.is_zero() {
            return Err(SendError::Timeout);
        }
        let draft = credentials::Draft::new(request.url, request.headers, request.body);
        let now = self.around.clock.now();
        let authenticated = credentials::apply(
            draft,
            request.client_auth,
            &self.around.client,
            &*self.around.assertions,
            now,
        );
        let draft = match authenticated {
            Ok(draft) => draft,
            Err(why) => return denied(why),
        };
        let DraftParts { url, headers, body, credentials } = draft.into_parts();
        let request = DoorRequest {
            method: method(request.method),
            url,
            headers,
            body,
            timeout,
            max_bytes: limits.response,
        };
        self.secrets.ask();
        self.pace.pause();
        let answer = self.around.door.send(request).await;
        self.pace.start();
        match answer {
            Ok(answer) => {
                self.asked_to_wait = answer.retry_after;
                let (mut answer, withheld) = answers::shown(answer, &credentials);
                self.secrets.learn(&answer);
                if let Some(witness) = &self.around.witness {
                    witness.answered(&answer);
                }
                if withheld {
                    self.lines.say(
                        "an answer repeats the client's credentials: the plugin gets it without them, and the \
                         provider should not be sent them there",
                    );
                }
                Ok(Response {
                    status: answer.status,
                    headers: answer.headers,
                    body: std::mem::take(&mut *answer.body),
                })
            }
            Err(DoorFault::Denied(why)) => denied(why),
            Err(DoorFault::Timeout) => Err(SendError::Timeout),
            Err(DoorFault::Unreachable(why)) => Err(SendError::Unreachable(why)),
            Err(DoorFault::TooLarge) => Err(SendError::TooLarge),
        }
    }
}

pub(super) fn method(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Patch => "PATCH",
        Method::Delete => "DELETE",
        Method::Head => "HEAD",
    }
}

impl types::Host for State {}

impl http::Host for State {
    async fn send(&mut self, request: Request) -> wasmtime::Result<Result<Response, SendError>> {
        let answer = self.request(request).await;
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(SendError::Denied(why)) => {
                self.lines.say(&format!("a request of the plugin's was not made: {why}"));
                "denied"
            }
            Err(SendError::Timeout) => "timeout",
            Err(SendError::Unreachable(_)) => "unreachable",
            Err(SendError::TooLarge) => "too_large",
        };
        self.around.meter.provider_request(&self.around.provider, outcome);
        Ok(answer)
    }
}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        if let Some(witness) = &self.around.witness {
            witness.logged(&message);
        }
        self.lines.write(level, &message);
        Ok(())
    }
}

impl clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.around.clock.now().0)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bindings::palisade::provider::http::{
        ClientAuth, CredentialParameters, Host as _, Place,
    };
    use super::*;
    use palisade_core::domain::time::UnixTime;
    use palisade_core::ports::{Assertion, DoorResponse, SignError};
    use palisade_testing::fakes::NoMeter;
    use secrecy::{ExposeSecret, SecretString};

    struct Fake;

    impl Assertions for Fake {
        fn sign(&self, _: &SecretString, _: &Assertion, _: UnixTime) -> Result<String, SignError> {
            Ok("head.claims.signature".to_owned())
        }
    }

    impl Clock for Fake {
        fn now(&self) -> UnixTime {
            UnixTime(7)
        }
    }

    /// Answers every request with a redirect to one place, and repeats the request in the body.
    #[async_trait::async_trait]
    impl Door for Fake {
        async fn send(&self, request: DoorRequest) -> Result<DoorResponse, DoorFault> {
            let url = request.url.expose_secret();
            let fields = request.headers.iter().map(|(_, value)| value.expose_secret());
            let sent = String::from_utf8_lossy(&request.body).into_owned();
            let body = fields.map(str::to_owned).chain([sent]).collect::<Vec<_>>().join("\n");
            Ok(DoorResponse {
                status: 307,
                headers: vec![("location".to_owned(), url.replace("a.test", "b.test"))],
                body: body.into_bytes().into(),
                retry_after: None,
            })
        }
    }

    fn state(online: bool) -> State {
        let around = Surroundings {
            provider: "bank".into(),
            client: Client { id: "client-1".into(), secret: Some("hunter2 hunter2/&".into()) },
            door: Arc::new(Fake),
            limits: PluginLimits { requests: 1000, ..PluginLimits::default() },
            assertions: Arc::new(Fake),
            clock: Arc::new(Fake),
            meter: Arc::new(NoMeter),
            witness: None,
        };
        let pace = super::super::engine::Machine::new().unwrap().pace();
        State::new(Arc::new(around), Arc::default(), pace, Instant::now() + Duration::from_secs(600), online)
    }

    async fn send(state: &mut State, client_auth: ClientAuth) -> Result<Response, SendError> {
        let url = "https://a.test/token?x=1".to_owned();
        let request =
            Request { method: Method::Post, url, headers: Vec::new(), body: Vec::new(), client_auth };
        // The outer error would end the call.
        state.send(request).await.unwrap()
    }

    #[tokio::test]
    async fn an_answer_that_repeats_credentials_comes_without_them() {
        use super::super::bindings::palisade::provider::http::{Assertion, BasicEncoding};
        let post = |place| {
            ClientAuth::Post(CredentialParameters { id: None, secret: "client_secret".to_owned(), place })
        };
        let jwt = ClientAuth::PrivateKeyJwt(Assertion {
            algorithm: None,
            key_id: None,
            issuer: None,
            subject: None,
            audience: "aud".to_owned(),
            lifetime: 60,
            claims: "{}".to_owned(),
            parameter: None,
        });
        for auth in [
            post(Place::Query),
            post(Place::Body),
            ClientAuth::Basic(BasicEncoding::Form),
            ClientAuth::Basic(BasicEncoding::Raw),
            jwt,
        ] {
            let in_query = matches!(&auth, ClientAuth::Post(names) if names.place == Place::Query);
            let answer = send(&mut state(true), auth).await.unwrap();
            assert_eq!((answer.status, answer.headers.is_empty()), (307, in_query));
            assert!(answer.body.is_empty(), "{:?}", String::from_utf8_lossy(&answer.body));
        }
        let answer = send(&mut state(true), ClientAuth::None).await.unwrap();
        assert_eq!(answer.headers, [("location".to_owned(), "https://b.test/token?x=1".to_owned())]);
    }

    #[tokio::test]
    async fn a_token_that_an_answer_has_brought_is_in_no_line_from_then_on() {
        let mut state = state(true);
        let body = br#"{"access_token":"brought-1","user":"ann"}"#.to_vec();
        let url = "https://a.test/token".to_owned();
        assert_eq!(*state.secrets.hide("got brought-1"), "got brought-1");
        assert!(!state.secrets.asked());
        let request =
            Request { method: Method::Post, url, headers: Vec::new(), body, client_auth: ClientAuth::None };
        state.send(request).await.unwrap().unwrap();
        assert_eq!(*state.secrets.hide("got brought-1 of ann"), "got (a secret) of ann");
        assert!(state.secrets.asked());
    }

    #[tokio::test]
    async fn a_plugin_that_insists_on_requests_does_not_fill_the_log() {
        let mut state = state(false);
        for _ in 0..1000 {
            assert!(matches!(send(&mut state, ClientAuth::None).await, Err(SendError::Denied(_))));
        }
        assert_eq!(state.lines.left(), 0);
    }
}
