//! The outbox over fakes: nothing here waits for time to pass.

use palisade_core::domain::lease::{LeaseHolder, LeaseSubject};
use palisade_core::domain::mail::Mail;
use palisade_core::domain::opaque::ServerKey;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::Change;
use palisade_core::ports::MailFault;
use palisade_core::ports::Mailer;
use palisade_core::ports::Meter;
use palisade_core::ports::{Clock, LeaseStore, Store};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::Notify;
use uuid::Uuid;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use palisade_core::domain::link::Purpose;
use palisade_core::domain::mail::{Facts, Letter, MailedLink};
use palisade_core::ports::Ended;
use palisade_core::service::outbox::*;
use palisade_testing::fakes::{ClaimFault, FakeClock, FakeStore, NOW};

type Answer = dyn Fn(&Mail) -> Result<(), MailFault> + Send + Sync;

/// Takes mail, or not.
struct FakeMailer {
    answer: Mutex<Arc<Answer>>,
    /// Every try: the mail's number, and the token.
    tries: Mutex<Vec<(u128, Option<String>)>>,
    /// One permit lets one try go on.
    gate: Semaphore,
    /// Rung at the beginning of each try.
    begun: Notify,
    under_way: Mutex<(usize, usize)>,
}

impl FakeMailer {
    /// Takes every mail once the gate lets its try go on.
    fn gated() -> FakeMailer {
        FakeMailer {
            answer: Mutex::new(Arc::new(|_: &Mail| Ok(()))),
            tries: Mutex::default(),
            gate: Semaphore::new(0),
            begun: Notify::new(),
            under_way: Mutex::default(),
        }
    }

    fn answers(&self, answer: impl Fn(&Mail) -> Result<(), MailFault> + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(answer);
    }

    fn tried(&self) -> Vec<u128> {
        self.tries.lock().unwrap().iter().map(|(id, _)| *id).collect()
    }

    fn forget(&self) {
        self.tries.lock().unwrap().clear();
    }
}

#[async_trait]
impl Mailer for FakeMailer {
    async fn deliver(&self, mail: &Mail, token: Option<SecretString>) -> Result<(), MailFault> {
        let token = token.map(|token| token.expose_secret().to_owned());
        self.tries.lock().unwrap().push((mail.id.as_u128(), token));
        {
            let mut under_way = self.under_way.lock().unwrap();
            under_way.0 += 1;
            under_way.1 = under_way.1.max(under_way.0);
        }
        self.begun.notify_one();
        self.gate.acquire().await.unwrap().forget();
        self.under_way.lock().unwrap().0 -= 1;
        let answer = Arc::clone(&*self.answer.lock().unwrap());
        answer(mail)
    }
}

#[derive(Default)]
struct FakeMeter(Mutex<Vec<&'static str>>);

impl Meter for FakeMeter {
    fn ended(&self, _: &Ended<'_>) {}
    fn token_cache(&self, _: bool) {}
    fn store_call(&self, _: &'static str, _: Duration, _: bool) {}
    fn mail(&self, outcome: &'static str) {
        self.0.lock().unwrap().push(outcome);
    }
    fn password(&self, _: Duration, _: Duration) {}
    fn jwks_fetch(&self, _: &str, _: bool) {}
    fn provider_call(&self, _: &str, _: &'static str, _: &'static str, _: Duration) {}
    fn provider_request(&self, _: &str, _: &'static str) {}
    fn plugin_reload(&self, _: &str, _: &'static str) {}
}

struct World {
    store: Arc<FakeStore>,
    mailer: Arc<FakeMailer>,
    clock: Arc<FakeClock>,
    meter: Arc<FakeMeter>,
    woken: Arc<Notify>,
    outbox: Arc<Outbox>,
}

fn key() -> ServerKey {
    ServerKey::new(Zeroizing::new([7; 32]))
}

impl World {
    fn new() -> World {
        let world = World::gated();
        world.mailer.gate.add_permits(1_000_000);
        world
    }

    /// Tries end only as the mailer's gate lets them.
    fn gated() -> World {
        let mailer = Arc::new(FakeMailer::gated());
        let (store, clock): (Arc<FakeStore>, Arc<FakeClock>) = Default::default();
        let (meter, woken): (Arc<FakeMeter>, Arc<Notify>) = Default::default();
        let outbox = Arc::new(Outbox::new(
            Arc::clone(&store) as _,
            Arc::clone(&mailer) as _,
            Arc::clone(&clock) as _,
            Arc::clone(&meter) as _,
            Arc::new(key()),
            Arc::clone(&woken),
            LeaseHolder(Uuid::from_u128(1)),
        ));
        World { store, mailer, clock, meter, woken, outbox }
    }

    /// Another gateway over the same store.
    fn another(&self) -> Outbox {
        self.another_over(&self.mailer)
    }

    /// Another gateway over the same store, with a gated mailer of its own.
    fn another_with_mailer(&self) -> (Outbox, Arc<FakeMailer>) {
        let mailer = Arc::new(FakeMailer::gated());
        (self.another_over(&mailer), mailer)
    }

    fn another_over(&self, mailer: &Arc<FakeMailer>) -> Outbox {
        Outbox::new(
            Arc::clone(&self.store) as _,
            Arc::clone(mailer) as _,
            Arc::clone(&self.clock) as _,
            Arc::clone(&self.meter) as _,
            Arc::new(key()),
            Arc::default(),
            LeaseHolder(Uuid::from_u128(2)),
        )
    }

    /// A pass that has begun its first try.
    async fn pass_begun(&self) -> tokio::task::JoinHandle<Option<UnixTime>> {
        let outbox = Arc::clone(&self.outbox);
        let pass = tokio::spawn(async move { outbox.pass().await });
        self.mailer.begun.notified().await;
        pass
    }

    async fn put(&self, mail: Mail) {
        self.store.commit(vec![Change::PutMail(mail)]).await.unwrap();
    }

    async fn waiting(&self) -> Vec<Mail> {
        self.store.mails(1000).await.unwrap()
    }

    async fn only(&self) -> Mail {
        let mails = self.waiting().await;
        assert_eq!(mails.len(), 1, "{mails:#?}");
        mails[0].clone()
    }

    /// Passes at every moment that is asked for, until `end`.
    async fn live_until(&self, end: UnixTime) {
        while let Some(next) = self.outbox.pass().await.filter(|next| *next <= end) {
            assert!(next > self.clock.now(), "a pass asks for a moment that is not ahead");
            self.clock.advance(self.clock.now().until(next).as_secs());
        }
        self.clock.advance(self.clock.now().until(end).as_secs());
    }

    fn counted(&self) -> Vec<&'static str> {
        self.meter.0.lock().unwrap().clone()
    }
}

fn mail(id: u128) -> Mail {
    Mail {
        id: Uuid::from_u128(id),
        letter: Letter::Welcome,
        to: "ann@example.com".parse().unwrap(),
        verified: true,
        name: None,
        link: None,
        facts: Facts::default(),
        created_at: NOW,
        due_at: NOW,
        attempts: 0,
        last_error: None,
        given_up: false,
    }
}

fn reset(id: u128) -> Mail {
    let purpose = Purpose::ResetPassword;
    let link = MailedLink { id: Uuid::from_u128(1000 + id), purpose, expires_at: NOW.plus(purpose.life()) };
    Mail { letter: Letter::ResetPassword, link: Some(link), ..mail(id) }
}

fn later(_: &Mail) -> Result<(), MailFault> {
    Err(MailFault::Transient("451 later".to_owned()))
}

fn down(_: &Mail) -> Result<(), MailFault> {
    Err(MailFault::Unreachable("connection refused".to_owned()))
}

#[tokio::test]
async fn what_is_due_is_sent_once_and_gone() {
    let world = World::new();
    for id in 1..=20 {
        world.put(mail(id)).await;
    }
    assert_eq!(world.outbox.pass().await, None);
    let tried: BTreeSet<u128> = world.mailer.tried().into_iter().collect();
    assert_eq!((world.mailer.tried().len(), tried), (20, (1..=20).collect()));
    assert_eq!(world.waiting().await, []);
    assert_eq!(world.counted(), ["sent"; 20]);
    world.outbox.pass().await;
    assert_eq!(world.mailer.tried().len(), 20);
}

#[tokio::test]
async fn only_so_many_are_under_way_at_once() {
    let world = World::gated();
    for id in 1..=20 {
        world.put(mail(id)).await;
    }
    let pass = tokio::spawn({
        let outbox = Arc::clone(&world.outbox);
        async move { outbox.pass().await }
    });
    world.mailer.begun.notified().await;
    assert_eq!(world.mailer.tried().len(), AT_ONCE);
    world.mailer.gate.add_permits(20);
    assert_eq!(pass.await.unwrap(), None);
    assert_eq!((world.mailer.tried().len(), world.mailer.under_way.lock().unwrap().1), (20, AT_ONCE));
}

#[tokio::test]
async fn a_mail_that_is_not_due_waits() {
    let world = World::new();
    world.put(Mail { due_at: NOW.plus(Duration::from_secs(30)), ..mail(1) }).await;
    assert_eq!(world.outbox.pass().await, Some(NOW.plus(Duration::from_secs(30))));
    assert_eq!(world.mailer.tried(), []);
    world.clock.advance(30);
    assert_eq!(world.outbox.pass().await, None);
    assert_eq!(world.mailer.tried(), [1]);
}

#[tokio::test]
async fn the_token_is_that_of_the_link() {
    let world = World::new();
    world.put(reset(1)).await;
    world.put(mail(2)).await;
    world.outbox.pass().await;
    let mut tries = world.mailer.tries.lock().unwrap().clone();
    tries.sort();
    let token = key().link_token(Uuid::from_u128(1001));
    assert_eq!(tries, [(1, Some(token.expose_secret().to_owned())), (2, None)]);
}

#[tokio::test]
async fn a_mail_is_tried_less_and_less_often_for_a_day() {
    let world = World::new();
    world.mailer.answers(later);
    world.put(mail(1)).await;
    let mut waits = Vec::new();
    while let Some(next) = world.outbox.pass().await {
        waits.push(world.clock.now().until(next).as_secs());
        let kept = world.only().await;
        assert_eq!(kept.attempts as usize, waits.len());
        assert_eq!(kept.last_error.as_deref(), Some("451 later"));
        world.clock.advance(*waits.last().unwrap());
    }
    assert_eq!(waits[..7], [10, 30, 120, 600, 1800, 3600, 3600]);
    let total: u64 = waits.iter().sum();
    assert_eq!(total, LIFE.as_secs() - LAST_CALL.as_secs(), "the last try is shortly before the end");
    let kept = world.only().await;
    assert!(kept.given_up && kept.last_error.as_deref() == Some("451 later"), "{kept:?}");
    assert_eq!(kept.attempts as usize, waits.len() + 1);
    assert_eq!(world.counted().iter().filter(|word| **word == "given_up").count(), 1);
    world.mailer.forget();
    world.mailer.answers(|_| Ok(()));
    world.clock.advance(100_000);
    assert_eq!(world.outbox.pass().await, None);
    assert_eq!(world.mailer.tried(), [], "what was given up stays so");
}

#[tokio::test]
async fn a_letter_is_tried_for_as_long_as_its_link_lives() {
    for (purpose, hours) in [(Purpose::ResetPassword, 1), (Purpose::UndoEmailChange, 72)] {
        let world = World::new();
        world.mailer.answers(later);
        let end = NOW.plus(purpose.life());
        assert_eq!(end, NOW.plus(Duration::from_secs(hours * 3600)));
        let link = MailedLink { id: Uuid::from_u128(1), purpose, expires_at: end };
        world.put(Mail { link: Some(link), ..mail(1) }).await;
        world.live_until(end).await;
        let left = world.only().await;
        assert!(left.given_up, "{purpose:?}");
        let last = left.created_at.plus(purpose.life()).minus(LAST_CALL);
        assert_eq!(left.due_at, last, "{purpose:?}: the last try is shortly before the end");
    }
}

#[tokio::test]
async fn what_will_never_be_taken_is_given_up_at_once() {
    let world = World::new();
    world.mailer.answers(|_| Err(MailFault::Permanent("550 no such user".to_owned())));
    world.put(mail(1)).await;
    assert_eq!(world.outbox.pass().await, None);
    let kept = world.only().await;
    assert!(kept.given_up, "{kept:?}");
    assert_eq!((kept.attempts, kept.last_error.as_deref()), (1, Some("550 no such user")));
    assert_eq!(world.counted(), ["given_up"]);
}

#[tokio::test]
async fn a_dead_link_is_not_sent() {
    let world = World::new();
    world.put(reset(1)).await;
    world.put(Mail { last_error: Some("451 later".to_owned()), ..reset(2) }).await;
    world.put(mail(3)).await;
    world.clock.advance(3600);
    assert_eq!(world.outbox.pass().await, None);
    assert_eq!(world.mailer.tried(), [3]);
    let given_up: Vec<Option<String>> =
        world.waiting().await.into_iter().map(|mail| mail.last_error).collect();
    assert_eq!(given_up, [Some("451 later".to_owned()), Some("it was not tried in time".to_owned())]);
}

#[tokio::test]
async fn a_server_that_is_down_for_an_hour_loses_no_mail_and_is_asked_by_one() {
    let world = World::new();
    world.mailer.answers(down);
    for id in 1..=200 {
        world.put(mail(id)).await;
    }
    let outage = NOW.plus(Duration::from_secs(3600));
    world.live_until(outage).await;
    let tries = world.mailer.tried().len();
    assert!((50..=90).contains(&tries), "{tries} tries in an hour");
    assert_eq!(world.waiting().await.len(), 200);
    // One that comes in the meantime, with a link that lives for an hour.
    let at = world.clock.now();
    world.put(Mail { created_at: at, due_at: at, ..mail(201) }).await;
    world.mailer.answers(|_| Ok(()));
    world.mailer.forget();
    world.live_until(at.plus(Duration::from_secs(60))).await;
    assert_eq!(world.waiting().await, []);
    let tried = world.mailer.tried();
    let distinct: BTreeSet<u128> = tried.iter().copied().collect();
    assert_eq!((tried.len(), distinct.len()), (201, 201));
}

#[tokio::test]
async fn a_wake_during_an_outage_does_not_make_it_busy() {
    let world = World::new();
    world.mailer.answers(down);
    world.put(mail(1)).await;
    let first = world.outbox.pass().await.unwrap();
    world.mailer.forget();
    for id in 2..10 {
        world.put(mail(id)).await;
        assert_eq!(world.outbox.pass().await, Some(first));
    }
    assert_eq!(world.mailer.tried(), []);
    // One refusal of a single mail shows that the server is there.
    world.mailer.answers(|mail| if mail.id.as_u128() == 2 { later(mail) } else { Ok(()) });
    world.clock.advance(NOW.until(first).as_secs());
    world.outbox.pass().await;
    assert_eq!(world.only().await.id.as_u128(), 2);
}

#[tokio::test]
async fn a_store_that_fails_after_a_delivery_brings_no_second_one() {
    let world = World::gated();
    world.put(mail(1)).await;
    let pass = tokio::spawn({
        let outbox = Arc::clone(&world.outbox);
        async move { outbox.pass().await }
    });
    world.mailer.begun.notified().await;
    world.store.fail();
    world.mailer.gate.add_permits(10);
    assert_eq!(pass.await.unwrap(), Some(NOW.plus(STORE_PAUSE)));
    world.clock.advance(10);
    assert_eq!(world.outbox.pass().await, Some(NOW.plus(2 * STORE_PAUSE)));
    world.store.mend();
    world.put(mail(2)).await;
    assert_eq!(world.outbox.pass().await, None);
    assert_eq!(world.mailer.tried(), [1, 2]);
    assert_eq!(world.waiting().await, []);
}

#[tokio::test]
async fn a_try_that_could_not_be_noted_is_not_repeated_at_once() {
    let world = World::gated();
    world.mailer.answers(later);
    world.put(mail(1)).await;
    let pass = tokio::spawn({
        let outbox = Arc::clone(&world.outbox);
        async move { outbox.pass().await }
    });
    world.mailer.begun.notified().await;
    world.store.fail();
    world.mailer.gate.add_permits(10);
    pass.await.unwrap();
    world.store.mend();
    assert_eq!(world.outbox.pass().await, Some(NOW.plus(Duration::from_secs(10))));
    assert_eq!((world.mailer.tried(), world.only().await.attempts), (vec![1], 1));
}

#[tokio::test]
async fn a_mail_under_way_is_not_taken_again_and_a_new_one_does_not_wait_for_it() {
    let world = World::gated();
    world.put(mail(1)).await;
    let pass = tokio::spawn({
        let outbox = Arc::clone(&world.outbox);
        async move { outbox.pass().await }
    });
    world.mailer.begun.notified().await;
    for id in 2..=4 {
        world.put(mail(id)).await;
        world.woken.notify_one();
        world.mailer.begun.notified().await;
    }
    assert_eq!(world.mailer.tried(), [1, 2, 3, 4]);
    world.mailer.gate.add_permits(10);
    assert_eq!(pass.await.unwrap(), None);
    assert_eq!(world.mailer.tried(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_panic_costs_one_try_of_one_mail() {
    let world = World::new();
    world.mailer.answers(|mail| if mail.id.as_u128() == 1 { panic!("a template") } else { Ok(()) });
    world.put(mail(1)).await;
    world.put(mail(2)).await;
    assert_eq!(world.outbox.pass().await, Some(NOW.plus(Duration::from_secs(10))));
    assert_eq!(world.only().await.last_error.as_deref(), Some("the mailer panicked"));
}

#[tokio::test]
async fn the_loop_wakes_for_a_mail_and_ends_when_it_is_closed() {
    let world = World::gated();
    let run = tokio::spawn({
        let outbox = Arc::clone(&world.outbox);
        async move { outbox.run().await }
    });
    world.put(mail(1)).await;
    world.woken.notify_one();
    world.mailer.begun.notified().await;
    world.outbox.close();
    // Under way when it was closed: it is still finished, and what came later is left.
    world.put(mail(2)).await;
    world.mailer.gate.add_permits(10);
    run.await.unwrap();
    assert_eq!((world.mailer.tried(), world.only().await.id.as_u128()), (vec![1], 2));
}

#[tokio::test]
async fn no_mail_is_given_up_by_a_clock_in_doubt() {
    let world = World::new();
    world.mailer.answers(later);
    world.put(mail(1)).await;
    world.outbox.pass().await;
    world.clock.jump(30 * 24 * 3600);
    world.outbox.pass().await;
    let kept = world.only().await;
    assert!(!kept.given_up && kept.due_at > world.clock.now(), "{kept:?}");
    assert_eq!(world.counted(), ["retried", "retried"]);
    // A day later it has had its time by every clock.
    world.live_until(world.clock.now().plus(LIFE)).await;
    assert!(world.only().await.given_up);
}

#[tokio::test]
async fn a_pause_that_began_before_the_clock_was_set_back_is_over() {
    let world = World::new();
    world.clock.advance(365 * 24 * 3600);
    world.mailer.answers(down);
    world.put(Mail { created_at: world.clock.now(), due_at: NOW, ..mail(1) }).await;
    world.outbox.pass().await;
    world.clock.set_back(365 * 24 * 3600);
    world.mailer.answers(|_| Ok(()));
    world.put(mail(2)).await;
    world.outbox.pass().await;
    // The one that goes ahead has shown that the pause is over; the other was put off by the clock that was ahead.
    assert_eq!((world.mailer.tried(), world.waiting().await), (vec![1, 2, 1], Vec::new()));
}

#[tokio::test]
async fn a_mail_that_was_put_off_by_a_clock_that_was_ahead_is_tried() {
    let world = World::new();
    world.clock.advance(365 * 24 * 3600);
    world.mailer.answers(later);
    let now = world.clock.now();
    world.put(Mail { created_at: now, due_at: now, ..mail(1) }).await;
    world.outbox.pass().await;
    world.clock.set_back(365 * 24 * 3600);
    world.mailer.answers(|_| Ok(()));
    world.outbox.pass().await;
    assert_eq!((world.mailer.tried(), world.waiting().await), (vec![1, 1], Vec::new()));
}

/// Who is still down after the clock was set back is asked again soon, not when the pause would have been over.
#[tokio::test]
async fn a_pause_of_a_clock_that_was_ahead_puts_no_later_mail_off_for_longer_than_any() {
    let world = World::new();
    world.clock.advance(365 * 24 * 3600);
    world.mailer.answers(down);
    world.put(Mail { created_at: world.clock.now(), due_at: NOW, ..mail(1) }).await;
    world.outbox.pass().await;
    world.clock.set_back(365 * 24 * 3600);
    world.put(mail(2)).await;
    world.outbox.pass().await;
    let waiting = world.waiting().await;
    let later = waiting.iter().find(|mail| mail.id.as_u128() == 2).unwrap();
    // The worker sleeps for no longer than a minute.
    assert!(
        later.attempts == 1 && later.due_at <= world.clock.now().plus(Duration::from_secs(60)),
        "{later:?}"
    );
}

#[tokio::test]
async fn of_two_gateways_one_delivers_a_mail() {
    let world = World::gated();
    let other = world.another();
    world.put(mail(1)).await;
    let pass = world.pass_begun().await;
    // It is still due, so the other one looks again; it delivers what the first has not begun.
    assert_eq!(other.pass().await, Some(NOW));
    assert_eq!(world.mailer.tried(), [1]);
    world.mailer.gate.add_permits(10);
    assert_eq!(pass.await.unwrap(), None);
    assert_eq!(other.pass().await, None);
    assert_eq!((world.mailer.tried(), world.waiting().await), (vec![1], Vec::new()));
}

#[tokio::test]
async fn a_gateway_delivers_what_is_behind_the_mails_that_another_has_under_way() {
    let world = World::gated();
    let at_once = AT_ONCE as u128;
    for id in 1..=at_once {
        world.put(mail(id)).await;
    }
    let pass = world.pass_begun().await;
    while world.mailer.tried().len() < AT_ONCE {
        world.mailer.begun.notified().await;
    }
    world.put(mail(100)).await;
    let (other, mailer) = world.another_with_mailer();
    mailer.gate.add_permits(1000);
    // The first one still has all that it may send at once under way.
    assert_eq!(other.pass().await, Some(NOW));
    assert_eq!((mailer.tried(), world.waiting().await.len()), (vec![100], AT_ONCE));
    world.mailer.gate.add_permits(1000);
    pass.await.unwrap();
    let mut tried = world.mailer.tried();
    tried.sort_unstable();
    let expected: Vec<u128> = (1..=at_once).collect();
    assert_eq!((tried, world.waiting().await), (expected, Vec::new()));
}

/// Another gateway may have tried it after it was read and before it was leased.
#[tokio::test]
async fn a_mail_is_read_again_under_its_lease() {
    let world = World::new();
    world.mailer.answers(later);
    world.put(mail(1)).await;
    let moved = Mail { due_at: NOW.plus(Duration::from_secs(100)), ..mail(1) };
    world.store.change_at_claim(vec![Change::PutMail(moved.clone())]);
    assert_eq!(world.outbox.pass().await, Some(moved.due_at));
    assert_eq!((world.mailer.tried(), world.only().await), (Vec::new(), moved));
    let subject = LeaseSubject::Mail(Uuid::from_u128(1));
    let free = world.store.claim(subject, LeaseHolder(Uuid::from_u128(3)), LIFE).await.unwrap();
    assert!(free.is_some(), "the lease of a mail that is not tried is released");
}

#[tokio::test]
async fn a_mail_that_cannot_be_read_under_its_lease_holds_no_lease_and_no_other_mail() {
    let world = World::new();
    world.put(mail(1)).await;
    world.put(mail(2)).await;
    *world.store.unreadable_mail.lock().unwrap() = Some(mail(2).id);
    assert_eq!(world.outbox.pass().await, Some(NOW.plus(STORE_PAUSE)));
    assert_eq!((world.mailer.tried(), world.only().await), (vec![1], mail(2)));
    let subject = LeaseSubject::Mail(mail(2).id);
    let free = world.store.claim(subject, LeaseHolder(Uuid::from_u128(3)), LIFE).await.unwrap();
    assert!(free.is_some(), "the lease of a mail that could not be read is released");
}

/// The gateway was suspended between the claim and the delivery.
#[tokio::test]
async fn a_mail_asks_for_its_lease_again_before_it_is_delivered() {
    let world = World::new();
    world.put(mail(1)).await;
    let subject = LeaseSubject::Mail(Uuid::from_u128(1));
    world.store.take_over_after_claim(subject, LeaseHolder(Uuid::from_u128(2)));
    world.outbox.pass().await;
    assert_eq!((world.mailer.tried(), world.only().await), (Vec::new(), mail(1)));
}

/// A lease is extended while a slow server takes its time.
#[tokio::test(start_paused = true)]
async fn a_slow_delivery_keeps_its_lease() {
    let world = World::gated();
    world.put(mail(1)).await;
    let pass = world.pass_begun().await;
    for _ in 0..20 {
        // Lets the timers of that time run first.
        tokio::time::sleep(Duration::from_secs(21)).await;
        world.store.pass_lease_time(Duration::from_secs(21));
    }
    let other = world.another();
    assert_eq!(other.pass().await, Some(NOW));
    world.mailer.gate.add_permits(10);
    assert_eq!(pass.await.unwrap(), None);
    assert_eq!(world.mailer.tried(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_is_broken_off_when_its_lease_is_lost() {
    let world = World::gated();
    world.put(mail(1)).await;
    let pass = world.pass_begun().await;
    world.store.pass_lease_time(LIFE);
    let subject = LeaseSubject::Mail(Uuid::from_u128(1));
    let usurper = world.store.claim(subject, LeaseHolder(Uuid::from_u128(2)), LIFE).await.unwrap();
    assert!(usurper.is_some());
    // It ends though the server answers nothing, and leaves the mail to the other one.
    assert_eq!(pass.await.unwrap(), Some(NOW));
    assert_eq!((world.mailer.tried(), world.only().await), (vec![1], mail(1)));
}

/// It may have gone out already, so that the next try would send it a second time.
#[tokio::test(start_paused = true)]
async fn a_delivery_outlives_its_lease_while_no_other_gateway_claims_the_mail() {
    for fault in [ClaimFault::Refused, ClaimFault::Unanswered] {
        let world = World::gated();
        world.put(mail(1)).await;
        let pass = world.pass_begun().await;
        world.store.fail_claims(Some(fault));
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.store.pass_lease_time(Duration::from_secs(1));
        }
        world.mailer.gate.add_permits(10);
        assert_eq!(pass.await.unwrap(), None, "{fault:?}: the delivery is recorded");
        world.store.fail_claims(None);
        assert_eq!(world.outbox.pass().await, None);
        assert_eq!((world.mailer.tried(), world.waiting().await), (vec![1], Vec::new()), "{fault:?}");
        let free =
            world.store.claim(LeaseSubject::Mail(mail(1).id), LeaseHolder(Uuid::from_u128(3)), LIFE).await;
        assert!(free.unwrap().is_some(), "{fault:?}: the lease is released");
    }
}

#[tokio::test]
async fn what_became_of_a_mail_is_not_kept_when_another_gateway_took_it_over() {
    let world = World::gated();
    world.mailer.answers(later);
    world.put(mail(1)).await;
    let pass = world.pass_begun().await;
    world
        .store
        .take_over_before_commit(LeaseSubject::Mail(Uuid::from_u128(1)), LeaseHolder(Uuid::from_u128(2)));
    world.mailer.gate.add_permits(10);
    pass.await.unwrap();
    assert_eq!(world.only().await, mail(1), "the number of tries is the other one's to write");
}
