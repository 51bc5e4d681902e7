//! The tests of the use cases, a target of their own because fakes implement the traits of the library: a unit test
//! is compiled into another copy of the library, and the fakes do not implement the traits of that copy.
//!
//! Each module is a file beside what it tests: `service::clock::tests` is `service/clock/tests.rs`.

mod service {
    mod account_notices {
        mod tests;
    }
    mod accounts {
        mod abuse_tests;
        mod tests;
    }
    mod audited_limits {
        mod tests;
    }
    mod carry {
        mod tests;
    }
    mod browser {
        mod tests;
    }
    mod clock {
        mod doubt_tests;
        mod tests;
    }
    mod demo_account {
        mod tests;
    }
    mod destination {
        mod tests;
    }
    mod connections {
        mod abuse_tests;
        mod answer_tests;
        mod begin {
            mod tests;
        }
        mod disconnect {
            mod tests;
        }
        mod due {
            mod tests;
        }
        mod lease_tests;
        mod replica_tests;
        mod notices {
            mod tests;
        }
        mod refresh {
            mod lasting_tests;
            pub(crate) mod tests;
        }
        mod seal {
            mod tests;
        }
    }
    mod delete_account {
        mod tests;
    }
    mod email_change {
        mod freeze_tests;
        mod tests;
    }
    mod entry {
        mod tests;
    }
    mod invite {
        mod tests;
    }
    mod leases {
        mod tests;
    }
    mod left_to_app {
        mod tests;
    }
    mod links {
        mod tests;
    }
    mod mailboxes {
        mod tests;
    }
    mod mint {
        mod tests;
    }
    mod noted {
        mod tests;
    }
    mod notices {
        mod tests;
    }
    mod ongoing {
        mod tests;
    }
    mod outbox {
        mod tests;
    }
    mod own_claims {
        mod tests;
    }
    mod own_credentials {
        mod tests;
    }
    mod password_login {
        mod tests;
        mod username_tests;
    }
    mod register {
        mod tests;
    }
    mod restore {
        mod tests;
    }
    mod revoke {
        mod tests;
    }
    mod rotate {
        mod tests;
    }
    mod session_cookies {
        mod tests;
    }
    mod session_uses {
        mod tests;
    }
    mod shared_guesses {
        mod tests;
    }
    mod successor_uses {
        mod tests;
    }
    mod unclaimed {
        mod tests;
    }
    mod used_links {
        mod tests;
    }
    mod user_import {
        mod tests;
    }
    mod users {
        mod edit_tests;
        mod no_address_tests;
        mod tests;
        mod username_tests;
    }
    mod verify_registration {
        mod tests;
    }
}
