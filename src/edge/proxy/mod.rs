//! The proxy: client connections in, admitted requests out. Only this room imports pingora.

pub mod bridge;
pub mod exchange;
pub mod forward;
pub mod head;
pub mod inbound;
pub mod listener;
pub mod outbound;
pub mod service;
pub mod socket;
pub mod tls;
pub mod upstream;
