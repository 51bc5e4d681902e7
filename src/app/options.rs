//! What `palisade run` may be asked beside its configuration.

/// What one start is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Also serve the sample app, and route to it.
    pub demo: bool,
    /// What this start may go on from, although it may lose something.
    pub accept: Accept,
}

/// What an operator accepts at a start that would otherwise be refused. Each of these lets one start go on although
/// something is missing, and says yes to what that loses. None of them is remembered: the next start is as strict as
/// before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accept {
    /// `--accept-new-keys`: secrets that are missing from the data folder beside a populated store are made anew.
    pub new_keys: bool,
    /// `--accept-store-as-it-is`: the store is opened although it is not known to hold all that it once held.
    pub store_as_it_is: bool,
    /// `--accept-closed-source`: the store is served although its records are moved, or were moved, to another one. It
    /// takes no change.
    pub closed_source: bool,
}
