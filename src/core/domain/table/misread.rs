//! Why a request is ambiguous, for people: [`Table::find`] only says that it is.

use super::Table;
use crate::domain::folded;
use crate::domain::pattern::{PathPattern, Relation};
use crate::domain::reading::PathReading;
use crate::domain::request::Request;
use crate::domain::route::Route;

impl<R: AsRef<Route>> Table<R> {
    /// The paths of rules that some server may see in the path of `request` besides the one that it belongs to, and that
    /// admit something else, in the order of the table. Empty where the path has no such reading or
    /// too many of them, or no rule takes it.
    #[must_use]
    pub fn misread(&self, request: &Request<'_>) -> Vec<&PathPattern> {
        let path = request.path.as_str();
        let Some(host) = self.host(request.host.name()) else { return Vec::new() };
        let Some(own) = self.look(host, |trie| trie.find(path)) else { return Vec::new() };
        let Ok(rule) = self.rule(own, request.method, request.client) else { return Vec::new() };
        let Ok(reading) = PathReading::of(path) else { return Vec::new() };
        let mut seen = host.folded.seen(&reading, &folded::certain(&own.path, &reading)).unwrap_or_default();
        seen.sort_unstable();
        let ending =
            self.look(host, |trie| trie.find_with_other_ending(path)).filter(|place| place.path.is_exact());
        let mut paths: Vec<&PathPattern> = Vec::new();
        for place in seen.iter().map(|index| &self.places[*index]).chain(ending) {
            let is_around = own.path.relation(&place.path) == Relation::Narrower;
            if !is_around && !self.agrees_in_any_case(place, rule, request) && !paths.contains(&&place.path) {
                paths.push(&place.path);
            }
        }
        paths
    }
}
