//! `palisade password`, as people and scripts type it.

use std::process::Output;

use crate::support::binary::{palisade, run};

fn password(arguments: &[&str], input: &str) -> Output {
    run(palisade().arg("password").args(arguments), input)
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap().trim_end().to_owned()
}

#[test]
fn a_hash_is_verified_and_its_password_is_never_echoed() {
    let long = "correct horse battery staple ".repeat(4);
    for (secret, form) in [("S3cret-word", "$2b$04$"), (long.as_str(), "$bcrypt-sha256$v=2,t=2b,r=4$")] {
        let made = password(&["hash", "--cost", "4"], &format!("{secret}\n"));
        let hash = said(&made);
        assert!(made.status.success() && hash.starts_with(form), "{made:?}");
        let right = password(&["verify", &hash, "--cost", "4"], secret);
        assert_eq!((right.status.code(), said(&right)), (Some(0), "right".to_owned()));
        let older = password(&["verify", &hash, "--cost", "5"], secret);
        assert_eq!(said(&older), "right; the next login writes it anew");
        let wrong = password(&["verify", &hash, "--cost", "4"], &format!("{secret}?"));
        assert_eq!((wrong.status.code(), said(&wrong)), (Some(1), "wrong".to_owned()));
        for output in [made, right, older, wrong] {
            let all = [output.stdout, output.stderr].concat();
            assert!(!String::from_utf8(all).unwrap().contains(secret));
        }
    }
}

#[test]
fn what_cannot_be_checked_is_said() {
    for hash in ["", "plain", "$2x$04$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"] {
        let output = password(&["verify", hash], "U*U");
        assert_eq!(output.status.code(), Some(2), "{hash}: {output:?}");
    }
    for input in ["", "\n", "a\0b", &"x".repeat(1025)] {
        let output = password(&["hash", "--cost", "4"], input);
        assert_eq!((output.status.code(), said(&output)), (Some(1), String::new()), "{input:?}");
    }
    // Not as an argument, where every user of the machine sees it.
    assert!(!password(&["hash", "S3cret-word"], "").status.success());
}

#[test]
fn a_generated_password_can_be_used() {
    let (one, other) = (said(&password(&["generate"], "")), said(&password(&["generate"], "")));
    assert!(one.len() == 20 && one != other);
}
