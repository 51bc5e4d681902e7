//! What Palisade decides, apart from all I/O.
//!
//! - [`domain`]: floor 1, what is true. No async, no I/O, no clock.
//! - [`ports`]: floor 2, what the use cases need from outside, as traits.
//! - [`service`]: floor 3, the use cases over the ports.
//!
//! The crate's manifest is the wall: it lists no crate that does I/O, so nothing here can. Implementations of the
//! ports are in `palisade::edge`, and fakes of them in `palisade_testing`.

#![forbid(unsafe_code)]

pub mod domain;
pub mod ports;
pub mod service;
