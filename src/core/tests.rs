//! The tests of the use cases, a target of their own because fakes implement the traits of the library: a unit test
//! is compiled into another copy of it, whose traits they do not implement.
//!
//! Each module is a file beside what it tests: `service::clock::tests` is `service/clock/tests.rs`.

mod service {
    mod abuse_tests;
    mod accounts_tests;
    mod answer_tests;
    mod audit_tests;
    mod audited_limits {
        mod tests;
    }
    mod clock {
        mod tests;
    }
    mod connect_tests;
    mod connection_abuse_tests;
    mod doubt_tests;
    mod email_change_tests;
    mod email_freeze_tests;
    mod end_tests;
    mod lasting_tests;
    mod letter_tests;
    mod links {
        mod tests;
    }
    mod mint {
        mod tests;
    }
    mod notice_tests;
    mod ongoing {
        mod tests;
    }
    mod outbox {
        mod tests;
    }
    mod parameter_tests;
    mod password_tests;
    mod refresh_tests;
    mod revoke {
        mod tests;
    }
    mod rotate {
        mod tests;
    }
    mod unclaimed {
        mod tests;
    }
    mod users_tests;
    mod verify_registration {
        mod tests;
    }
    mod waiting_tests;
}
