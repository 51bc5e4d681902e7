//! How far a cutoff reaches: over what was signed until then, however the clocks of two machines and the
//! seconds of `iat` stand to each other, and over nothing that is signed afterwards.

use serde_json::{Value, json};

use super::{THEIRS, config};
use crate::support::binary::Program;
use crate::support::keys::{Key, now};
use crate::support::{PATIENCE, Upstream};

struct World {
    _upstream: Upstream,
    folder: tempfile::TempDir,
    key: Key,
    program: Option<Program>,
}

impl World {
    async fn start() -> World {
        let upstream = Upstream::start().await;
        let folder = tempfile::tempdir().unwrap();
        let key = Key::ed("theirs");
        std::fs::write(folder.path().join("config.toml"), config(&upstream, &key, folder.path())).unwrap();
        let program = Some(Program::start(folder.path()));
        World { _upstream: upstream, folder, key, program }
    }

    fn program(&self) -> &Program {
        self.program.as_ref().unwrap()
    }

    fn restart(&mut self) {
        self.program.take().unwrap().kill();
        self.program = Some(Program::start(self.folder.path()));
    }

    async fn mint(&self, sub: &str) -> String {
        let (code, answer) = self.program().admin("POST", "/admin/v1/tokens", &json!({"sub": sub})).await;
        assert_eq!(code, 201, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    async fn status(&self, token: &str) -> u16 {
        self.program().status("/", token).await
    }

    async fn revoke(&self, place: &str, body: &Value) {
        let (code, answer) = self.program().admin("POST", &format!("/admin/v1/{place}"), body).await;
        assert!([200, 201].contains(&code), "{body}: {answer}");
    }

    /// Waits until it is written down that the other issuer's clock was seen `ahead` seconds ahead, or more.
    async fn until_seen(&self, ahead: u64) {
        let file = self.folder.path().join("data/issuer-clocks.json");
        let wait = async {
            loop {
                let read =
                    std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
                if read.is_some_and(|read| read["issuers"][THEIRS]["ahead"].as_u64() >= Some(ahead)) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("what was seen is never written down");
    }

    /// A token of the other issuer whose clock is `ahead` seconds ahead of ours.
    fn theirs(&self, sub: &str, ahead: u64) -> String {
        let iat = now() + ahead;
        self.key.token(&json!({"iss": THEIRS, "aud": "api", "sub": sub, "iat": iat, "exp": iat + 600}))
    }
}

/// Many times, so that the second of a cutoff is met: each round is far shorter than a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn our_own_tokens_of_the_same_second_end_before_a_cutoff_and_begin_after_it() {
    let mut world = World::start().await;
    let mut ended: Vec<String> = Vec::new();
    let mut last = String::new();
    for round in 0..12 {
        let before = world.mint("ann").await;
        assert_eq!(world.status(&before).await, 200, "round {round}");
        let unseen = world.mint("ann").await;
        let (place, body) = match round % 4 {
            0 => ("revocations", json!({"before": "now"})),
            1 => ("token-versions", json!({"all": true})),
            2 => ("revocations", json!({"sub": "ann"})),
            _ => ("token-versions", json!({"sub": "ann"})),
        };
        world.revoke(place, &body).await;
        last = world.mint("ann").await;
        assert_eq!(world.status(&last).await, 200, "round {round}: signing in again at once works");
        for token in [&before, &unseen] {
            assert_eq!(world.status(token).await, 401, "round {round}");
        }
        ended.extend([before, unseen]);
    }
    world.restart();
    for token in &ended {
        assert_eq!(world.status(token).await, 401, "after a restart");
    }
    assert_eq!(world.status(&last).await, 200, "after a restart");
    assert_eq!(world.status(&world.mint("ann").await).await, 200, "after a restart");
    // By the clock of the requester: the present second is this moment too.
    let before = world.mint("ann").await;
    world.revoke("revocations", &json!({"before": now()})).await;
    assert_eq!(world.status(&before).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cutoff_reaches_an_issuer_whose_clock_was_seen_ahead_and_no_further() {
    for body in [json!({"sub": "ann", "issuer": THEIRS}), json!({"before": "now", "issuer": THEIRS})] {
        let mut world = World::start().await;
        // Seen once, 20 s ahead, as far as this machine is quick; all of its tokens are of such a clock.
        let seen = world.theirs("ann", 20);
        assert_eq!(world.status(&seen).await, 200);
        let unseen = world.theirs("ann", 10);
        world.revoke("revocations", &body).await;
        for token in [&seen, &unseen] {
            assert_eq!(world.status(token).await, 401, "{body}");
        }
        let again = world.theirs("ann", 50);
        assert_eq!(world.status(&again).await, 200, "{body}: beyond what was seen");
        // Now it was seen further ahead, and a restart forgets neither that nor the cutoff.
        world.until_seen(40).await;
        world.restart();
        for token in [&seen, &unseen] {
            assert_eq!(world.status(token).await, 401, "{body}");
        }
        let unseen = world.theirs("ann", 35);
        world.revoke("revocations", &body).await;
        assert_eq!(world.status(&unseen).await, 401, "{body}");
        world.restart();
        assert_eq!(world.status(&unseen).await, 401, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_issuer_whose_clock_is_level_is_cut_off_at_the_moment_only() {
    for body in [json!({"sub": "ann", "issuer": THEIRS}), json!({"before": "now", "issuer": THEIRS})] {
        let world = World::start().await;
        let before = world.theirs("ann", 0);
        assert_eq!(world.status(&before).await, 200);
        world.revoke("revocations", &body).await;
        assert_eq!(world.status(&before).await, 401, "{body}");
        // Signed a second later, and at the far end of the leeway.
        for ahead in [1, 55] {
            let moment = now();
            let again = world.theirs("ann", ahead);
            assert_eq!(world.status(&again).await, 200, "{body} {ahead} {moment}");
        }
    }
}

/// A stranger cannot move a cutoff: only verified tokens count.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tokens_that_are_not_verified_say_nothing_about_a_clock() {
    let world = World::start().await;
    let stranger = Key::ed("theirs");
    let iat = now() + 50;
    let forged =
        stranger.token(&json!({"iss": THEIRS, "aud": "api", "sub": "ann", "iat": iat, "exp": iat + 600}));
    assert_eq!(world.status(&forged).await, 401);
    world.revoke("revocations", &json!({"sub": "ann", "issuer": THEIRS})).await;
    assert_eq!(world.status(&world.theirs("ann", 30)).await, 200);
}
