use super::*;

const START: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3600;
const YEAR: u64 = 365 * DAY;

fn at(seconds: u64) -> UnixTime {
    UnixTime(START + seconds)
}

fn up(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A first start at [`START`] and uptime 0.
fn first() -> TrustedTime {
    TrustedTime::start(None, None, at(0), up(0))
}

/// A start after a process that left `mark`, when the clock shows `wall`.
fn restarted(mark: Mark, wall: UnixTime) -> TrustedTime {
    TrustedTime::start(Some(mark), None, wall, up(0))
}

fn earliest(time: &mut TrustedTime, wall: UnixTime, uptime: u64) -> UnixTime {
    time.observe(wall, up(uptime));
    time.reading(wall).earliest
}

#[test]
fn a_clock_that_goes_with_the_uptime_is_believed() {
    let mut time = first();
    for hour in 0..1000 {
        assert_eq!(earliest(&mut time, at(hour * 3600), hour * 3600), at(hour * 3600));
    }
    let standing = time.standing(at(999 * 3600));
    assert_eq!((standing.doubt, standing.skew(), standing.delay()), (None, 0, up(0)));
}

#[test]
fn a_jump_ahead_while_running_moves_nothing_until_it_is_accepted() {
    let mut time = first();
    earliest(&mut time, at(3600), 3600);
    assert_eq!(earliest(&mut time, at(YEAR), 3601), at(3601));
    assert_eq!(earliest(&mut time, at(YEAR + 100), 3701), at(3701));
    let standing = time.standing(at(YEAR + 100));
    assert_eq!(standing.doubt, Some(Doubt::Ahead(up(YEAR + 100 - 3701))));
    assert_eq!(time.reading(at(YEAR + 100)).horizon, at(YEAR + 100));
    time.accept(0, at(YEAR + 100), up(3701));
    assert_eq!(earliest(&mut time, at(YEAR + 101), 3702), at(YEAR + 101));
    assert_eq!(time.standing(at(YEAR + 101)).doubt, None);
}

#[test]
fn a_jump_ends_its_doubt_when_the_clock_comes_back() {
    let mut time = first();
    earliest(&mut time, at(7200 + YEAR), 7200);
    assert!(time.standing(at(7200 + YEAR)).doubt.is_some());
    assert_eq!(earliest(&mut time, at(7300), 7300), at(7300));
    let standing = time.standing(at(7300));
    assert_eq!(standing.doubt, None);
    // What was signed meanwhile says a later moment: what is revoked now has to outlast it.
    assert!(standing.has_been_ahead());
    assert_eq!(time.reading(at(7300)).horizon, at(7200 + YEAR));
    assert_eq!(time.reading(at(7300)).latest, at(7300));
    time.accept(0, at(7300), up(7300));
    assert!(!time.standing(at(7300)).has_been_ahead());
}

#[test]
fn a_clock_set_back_is_gone_by_and_the_mark_goes_on() {
    let mut time = first();
    earliest(&mut time, at(DAY), DAY);
    assert_eq!(earliest(&mut time, UnixTime(5), DAY + 10), UnixTime(5));
    let reading = time.reading(UnixTime(5));
    assert_eq!(time.standing(UnixTime(5)).doubt, Some(Doubt::Behind(up(START + DAY + 5))));
    // What is revoked now has to outlast tokens that were signed before.
    assert_eq!((reading.latest, reading.horizon), (at(DAY + 10), at(DAY + 10)));
    assert_eq!(earliest(&mut time, at(DAY + 100), DAY + 100), at(DAY + 100));
    assert_eq!(time.standing(at(DAY + 100)).doubt, None);
}

#[test]
fn steps_of_a_corrected_clock_are_no_doubt_and_do_not_drag_the_mark_along() {
    let mut time = first();
    assert_eq!(earliest(&mut time, at(3600 + 500), 3600), at(3603));
    assert_eq!(time.standing(at(3600 + 500)).doubt, None);
    // A clock that runs at double speed is found out, however often it is looked at.
    let mut time = first();
    for second in 1..=2000 {
        earliest(&mut time, at(2 * second), second);
    }
    assert!(matches!(time.standing(at(4000)).doubt, Some(Doubt::Ahead(_))));
    assert!(earliest(&mut time, at(4000), 2000) <= at(2002));
}

#[test]
fn a_weekend_without_the_gateway_is_no_doubt_and_is_believed_after_a_day() {
    let weekend = 64 * 3600;
    let mut time = restarted(first().mark(), at(weekend));
    assert_eq!(time.standing(at(weekend)).doubt, None);
    assert_eq!(earliest(&mut time, at(weekend + 60), 60), at(60));
    let probation = PROBATION.as_secs();
    let just_before = probation - 1;
    assert_eq!(earliest(&mut time, at(weekend + just_before), just_before), at(just_before));
    assert_eq!(earliest(&mut time, at(weekend + probation), probation), at(weekend + probation));
    assert!(time.standing(at(weekend + probation)).stops.is_empty());
}

#[test]
fn stops_of_every_night_are_believed_one_after_the_other() {
    let (mut mark, mut now) = (first().mark(), 0);
    for _ in 0..100 {
        now += 16 * 3600;
        let mut time = restarted(mark, at(now));
        now += 8 * 3600;
        time.observe(at(now), up(8 * 3600));
        let standing = time.standing(at(now));
        assert_eq!(standing.doubt, None, "{standing:?}");
        mark = time.mark();
        // Never more behind than the nights of the last 26 hours of work.
        assert!(mark.at.until(at(now)) <= up(4 * 16 * 3600), "{mark:?}");
    }
}

#[test]
fn a_long_stop_delays_and_does_not_stop() {
    let mut time = restarted(first().mark(), at(30 * DAY));
    assert!(matches!(time.standing(at(30 * DAY)).doubt, Some(Doubt::Ahead(_))));
    for day in 1..=40 {
        assert_eq!(earliest(&mut time, at((30 + day) * DAY), day * DAY), at(day * DAY));
    }
    assert!(time.standing(at(70 * DAY)).doubt.is_some());
    time.accept(0, at(70 * DAY), up(40 * DAY));
    assert_eq!(earliest(&mut time, at(70 * DAY + 1), 40 * DAY + 1), at(70 * DAY + 1));
}

#[test]
fn a_start_far_ahead_is_in_doubt_and_the_next_one_that_is_right_is_not() {
    let ahead = restarted(first().mark(), at(YEAR));
    assert!(ahead.standing(at(YEAR)).doubt.is_some());
    let mut right = restarted(ahead.mark(), at(60));
    assert_eq!(right.standing(at(60)).doubt, None);
    assert_eq!(earliest(&mut right, at(61), 1), at(1));
    assert!(right.standing(at(61)).has_been_ahead());
}

#[test]
fn a_clock_that_is_set_after_the_start_is_a_part_of_the_stop() {
    // Without a battery it shows the moment of the last stop until the network tells the time.
    let mut time = restarted(first().mark(), at(0));
    assert_eq!(earliest(&mut time, at(2 * DAY), 30), at(30));
    assert_eq!(time.standing(at(2 * DAY)).doubt, None);
    // In local time, three hours ahead, until it is set right.
    let mut time = restarted(first().mark(), at(DAY + 3 * 3600));
    time.observe(at(DAY + 30), up(30));
    assert_eq!(time.standing(at(DAY + 30)).doubt, None);
    let probation = PROBATION.as_secs() + 30;
    assert_eq!(earliest(&mut time, at(DAY + probation), probation), at(DAY + probation));
    // An hour later no clock is set by days any more.
    let mut time = restarted(first().mark(), at(0));
    time.observe(at(3600), up(3600));
    time.observe(at(2 * DAY), up(3601));
    assert!(time.standing(at(2 * DAY)).doubt.is_some());
}

#[test]
fn a_stop_on_probation_survives_a_clock_that_goes_back_and_forth() {
    let mut time = restarted(first().mark(), at(2 * DAY));
    time.observe(at(2 * DAY + 3600), up(3600));
    for (wall, uptime) in [(at(2 * DAY + 1800), 3601), (at(2 * DAY + 3602), 3602), (UnixTime(9), 3603)] {
        time.observe(wall, up(uptime));
    }
    time.observe(at(2 * DAY + 3700), up(3700));
    assert_eq!(time.standing(at(2 * DAY + 3700)).doubt, None);
    let later = 2 * PROBATION.as_secs();
    assert_eq!(earliest(&mut time, at(2 * DAY + later), later), at(2 * DAY + later));
}

#[test]
fn no_stop_is_believed_while_the_clock_is_in_doubt() {
    let mut time = restarted(first().mark(), at(2 * DAY));
    let later = PROBATION.as_secs() + 3600;
    time.observe(at(YEAR), up(3600));
    assert_eq!(earliest(&mut time, at(YEAR + later), later), at(later));
    let longer = later + PROBATION.as_secs();
    assert_eq!(earliest(&mut time, at(2 * DAY + longer), longer), at(longer));
}

#[test]
fn a_store_without_a_mark_goes_by_its_records() {
    let time = TrustedTime::start(None, Some(at(0)), at(YEAR), up(0));
    assert!(time.standing(at(YEAR)).doubt.is_some());
    assert_eq!(time.reading(at(YEAR)).earliest, at(0));
    let time = TrustedTime::start(None, Some(at(0)), at(3600), up(0));
    assert_eq!(time.standing(at(3600)).doubt, None);
}

#[test]
fn a_mark_is_read_as_it_was_written() {
    let mark = restarted(first().mark(), at(3600)).mark();
    assert_eq!(mark.stops.len(), 1);
    let text = serde_json::to_string(&mark).unwrap();
    assert_eq!(serde_json::from_str::<Mark>(&text).unwrap(), mark);
    let bare: Mark = serde_json::from_str(r#"{"at":7}"#).unwrap();
    assert_eq!(bare, Mark { at: UnixTime(7), ..Mark::default() });
}

#[test]
fn ends_of_time_are_no_panic() {
    for wall in [UnixTime(0), UnixTime::NEVER] {
        let mut time = restarted(Mark { at: UnixTime::NEVER, ..Mark::default() }, wall);
        time.observe(UnixTime(0), Duration::MAX);
        time.observe(UnixTime::NEVER, Duration::MAX);
        let _ = (time.reading(wall), time.standing(wall).skew());
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What truly goes on, beside what the clocks show.
struct World {
    time: TrustedTime,
    /// The true moment, which nothing here is told.
    truth: u64,
    uptime: u64,
    /// The wall clock is off by so much.
    skew: i64,
}

impl World {
    fn wall(&self) -> UnixTime {
        UnixTime(self.truth.saturating_add_signed(self.skew))
    }

    fn look(&mut self) -> ClockReading {
        let wall = self.wall();
        self.time.observe(wall, up(self.uptime));
        self.time.reading(wall)
    }
}

/// A token of ours lives for a day at most, and what revokes it is kept for an hour past its end.
const LIFE: u64 = DAY;
const SLACK: Duration = Duration::from_secs(3600);

/// A token, by the clock that it was signed by, and the end under which its revocation is filed.
struct Token {
    exp: UnixTime,
    revoked_until: Option<UnixTime>,
}

#[test]
fn no_revocation_is_forgotten_before_its_token_has_truly_ended() {
    let mut forgotten = 0;
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut world = World { time: first(), truth: START, uptime: 0, skew: 0 };
        let mut tokens: Vec<Token> = Vec::new();
        for step in 0..300 {
            match dice.below(12) {
                // Time passes: seconds, minutes or hours.
                0..=4 => {
                    let bound = [10, 900, 6 * 3600][usize::try_from(dice.below(3)).unwrap()];
                    let passed = dice.below(bound);
                    world.truth += passed;
                    world.uptime += passed;
                }
                // The clock jumps: by minutes, by hours, by days, by years, or to the right time.
                5..=6 => {
                    let bound = [900, 10 * 3600, 6 * DAY, 3 * YEAR][usize::try_from(dice.below(4)).unwrap()];
                    let jump = i64::try_from(dice.below(bound)).unwrap();
                    world.skew = match dice.below(3) {
                        0 => 0,
                        1 => world.skew + jump,
                        _ => world.skew - jump,
                    };
                }
                // A stop, and a start by whatever the clock shows then.
                7 => {
                    world.truth += dice.below(6 * DAY);
                    if dice.below(2) == 0 {
                        world.skew += i64::try_from(dice.below(8 * DAY)).unwrap() - 4 * 86_400;
                    }
                    world.uptime = dice.below(100);
                    let (wall, mark) = (world.wall(), world.time.mark());
                    world.time = TrustedTime::start(Some(mark), None, wall, up(world.uptime));
                }
                // An operator, who knows the true time. What was signed by a clock that was ahead is revoked first.
                8 if dice.below(4) == 0 && world.skew == 0 => {
                    let (wall, uptime, horizon) = (world.wall(), up(world.uptime), world.look().horizon);
                    if world.time.standing(wall).has_been_ahead() {
                        let until = Some(horizon.plus(up(LIFE)));
                        tokens
                            .iter_mut()
                            .for_each(|token| token.revoked_until = token.revoked_until.max(until));
                    }
                    world.time.accept(0, wall, uptime);
                }
                // A sign-in.
                8..=9 => {
                    world.look();
                    tokens.push(Token { exp: world.wall().plus(up(LIFE)), revoked_until: None });
                }
                // A revocation of everything.
                _ => {
                    let until = Some(world.look().horizon.plus(up(LIFE)));
                    tokens.iter_mut().for_each(|token| token.revoked_until = token.revoked_until.max(until));
                }
            }
            let before = world.time.mark;
            let reading = world.look();
            assert!(world.time.mark.plus(up(world.uptime / FOLLOW + 1)) >= before, "the mark went back");
            tokens.retain(|token| {
                let is_forgotten =
                    token.revoked_until.is_some_and(|until| until < reading.earliest.minus(SLACK));
                let has_ended = token.exp.0 <= world.truth;
                assert!(!is_forgotten || has_ended, "seed {seed}, step {step}: {reading:?}");
                forgotten += u64::from(is_forgotten);
                !is_forgotten
            });
        }
    }
    // Delayed, not stopped.
    assert!(forgotten > 200, "{forgotten}");
}

/// A mark that is this many days old, after so many words of an operator.
fn marked(days: u64, accepted: u64) -> Mark {
    Mark { at: at(days * DAY), highest: at(days * DAY), accepted, ..Mark::default() }
}

#[test]
fn of_two_marks_the_later_holds_and_an_operators_word_before_both() {
    assert_eq!(marked(3, 0).merged(marked(2, 0)), marked(3, 0));
    assert_eq!(marked(2, 0).merged(marked(3, 0)), marked(3, 0));
    assert_eq!(marked(3, 0).merged(marked(2, 1)), marked(2, 1), "it was ahead, and an operator has said so");
    assert_eq!(marked(2, 1).merged(marked(3, 0)), marked(2, 1));
    let shown = Mark { highest: at(9 * DAY), ..marked(1, 0) };
    assert_eq!(shown.merged(marked(2, 0)).highest, at(9 * DAY), "what any clock of ours has shown");
}

#[test]
fn a_mark_of_another_gateway_is_gone_on_from_and_no_second_counts_twice() {
    let (day, hour) = (DAY, 3600);
    // Both began with the same mark; this one began later, and takes the time in between for a stop.
    let stored = marked(10, 0);
    let mut late = TrustedTime::start(Some(stored.clone()), None, at(10 * day + hour), up(500));
    assert_eq!(late.mark().stops.len(), 1);
    late.observe(at(10 * day + hour + 60), up(560));
    let other = Mark { at: at(10 * day + hour + 60), ..stored };
    late.adopt(other.clone(), up(560));
    assert_eq!(late.mark(), Mark { highest: late.mark().highest, ..other.clone() }, "there was no stop");
    late.observe(at(10 * day + hour + 160), up(660));
    assert_eq!(late.mark().at, at(10 * day + hour + 160), "a hundred seconds, once");
    // What is older changes nothing.
    let before = late.mark();
    late.adopt(other, up(660));
    assert_eq!(late.mark(), before);
}

/// However often three gateways take marks from one another, the mark moves with the uptime.
#[test]
fn three_gateways_do_not_drive_the_mark() {
    let mut stored = marked(10, 0);
    let begin = |uptime| TrustedTime::start(Some(marked(10, 0)), None, at(10 * DAY), up(uptime));
    let mut all = [begin(1000), begin(77), begin(500_000)];
    let uptimes = [1000, 77, 500_000];
    for second in 1..=3600 {
        for (time, uptime) in all.iter_mut().zip(uptimes) {
            let wall = at(10 * DAY + second);
            time.observe(wall, up(uptime + second));
            if second % 7 == uptime % 7 {
                let before = stored.at;
                time.adopt(stored, up(uptime + second));
                stored = time.mark();
                assert!(stored.at >= before, "it never goes back");
            }
        }
    }
    for time in all {
        let behind = time.mark().at.until(at(10 * DAY + 3600));
        assert_eq!((behind, at(10 * DAY + 3600).until(time.mark().at)), (Duration::ZERO, Duration::ZERO));
    }
}
