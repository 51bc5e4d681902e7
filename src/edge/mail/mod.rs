//! Mail: the words of a letter (minijinja), the message around them and the way out (lettre).
//!
//! Only this room names either crate. A link's token goes into the letter and nowhere else: no error and
//! no log holds one, except the transport `log`, which is for development and exists to show it. Links
//! are built from the configuration, never from a request.

mod files;
mod lines;
mod message;
mod moment;
mod post;
mod samples;
mod sign_in;
mod smtp;
mod templates;
mod write;

pub use post::{Accepted, Post};
pub use samples::{sample, sample_token};
pub use write::{KNOWN, Letters, Written};
