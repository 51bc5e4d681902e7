//! Floor 3: the use cases, one file each, over the ports.

pub mod admit;
