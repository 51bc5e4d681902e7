use palisade::{
    config,
    domain::{account::PasswordHash, password::Policy},
    edge::{
        entropy::SystemEntropy,
        passwords::BcryptPasswords,
        telemetry::{Meters, metrics::Metrics},
    },
    ports::*,
};
use std::{sync::Arc, time::Instant};
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let meter = Arc::new(Meters::new(Arc::new(Metrics::new("x").unwrap()), false));
    let p = BcryptPasswords::start(
        &config::Passwords { policy: Policy::Length, bcrypt_cost: 8, threads: 1 },
        Arc::new(SystemEntropy),
        meter,
    )
    .unwrap();
    let long = "y".repeat(300);
    let h8 = p.hash("right".into()).await.unwrap();
    let h8l = p.hash("z".repeat(300).into()).await.unwrap();
    let h4 = palisade::edge::passwords::hash_now("right", 4, &SystemEntropy);
    let odd = PasswordHash("$2b$31$bad".into());
    let cases: [(&str, &str, Option<&PasswordHash>); 7] = [
        ("none short", "wrong", None),
        ("wrong short", "wrong", Some(&h8)),
        ("cheap short", "wrong", Some(&h4)),
        ("odd", "wrong", Some(&odd)),
        ("none long", &long, None),
        ("wrong long", &long, Some(&h8)),
        ("wrong long sha", &long, Some(&h8l)),
    ];
    let mut t = vec![vec![]; 7];
    for _ in 0..400 {
        for (i, (_, pw, h)) in cases.iter().enumerate() {
            let b = Instant::now();
            p.check((*pw).into(), *h).await.unwrap();
            t[i].push(b.elapsed().as_secs_f64() * 1e3);
        }
    }
    for (i, v) in t.iter_mut().enumerate() {
        let base: Vec<f64> = vec![];
        let _ = base;
        v.sort_by(f64::total_cmp);
        println!("{:15} p10 {:.3} median {:.3} ms p90 {:.3}", cases[i].0, v[40], v[200], v[360]);
    }
    for c in [12u32] {
        let b = Instant::now();
        palisade::edge::passwords::hash_now("x", c, &SystemEntropy);
        println!("cost {c}: {:?}", b.elapsed());
    }
}
