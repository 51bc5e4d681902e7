//! Loop detection: an upstream that leads back to this gateway would otherwise multiply one request until nothing is
//! left to answer it with.
//!
//! Each process has a random name and adds it to a field of the request, as `Via` would say it (RFC 9110 §7.6.3);
//! a process that finds its own name there refuses the request. It is not `Via` itself, because servers compress less or answer
//! otherwise for proxies that they see. A client that learns the name, from an app that shows it, can have its own
//! requests refused with it, and nothing else.

use http::{HeaderMap, HeaderValue};

use palisade_core::domain::reserved::HOPS;
use palisade_core::ports::Entropy;

/// The hexadecimal digits of a name.
const DIGITS: usize = 16;
/// How many gateways may follow each other.
const MOST: usize = 16;

/// The name of this process.
#[derive(Debug, Clone)]
pub struct LoopMark {
    name: String,
    /// What most requests carry: this gateway is the first.
    alone: HeaderValue,
}

impl LoopMark {
    /// A fresh name.
    #[must_use]
    pub fn random(entropy: &dyn Entropy) -> LoopMark {
        let mut bytes = [0; 8];
        entropy.fill(&mut bytes);
        LoopMark::of(u64::from_ne_bytes(bytes))
    }

    /// The name that stands for `number`.
    #[must_use]
    pub fn of(number: u64) -> LoopMark {
        let name = format!("{number:0DIGITS$x}");
        // Hexadecimal digits are always a field value.
        let alone = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static(""));
        LoopMark { name, alone }
    }

    /// Whether a request has been here before, or has passed more gateways than there may be.
    #[must_use]
    pub fn is_on(&self, fields: &HeaderMap) -> bool {
        let mut names = names(fields);
        let mut count = 0;
        names.any(|name| {
            count += 1;
            name == self.name || count >= MOST
        })
    }

    /// The field with our name behind those that are there; to be read before it is taken out with what else
    /// clients may not send.
    #[must_use]
    pub fn added_to(&self, fields: &HeaderMap) -> HeaderValue {
        if !fields.contains_key(HOPS) {
            return self.alone.clone();
        }
        let names: Vec<&str> = names(fields).take(MOST).chain([self.name.as_str()]).collect();
        HeaderValue::from_str(&names.join(", ")).unwrap_or_else(|_| self.alone.clone())
    }
}

/// The names of gateways in a request; what has not their form is none.
fn names(fields: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = fields.get_all(HOPS).iter().filter_map(|line| line.to_str().ok());
    let is_name = |name: &&str| {
        name.len() == DIGITS && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[&str]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(HOPS, line.parse().unwrap());
        }
        fields
    }

    #[test]
    fn a_gateway_knows_its_own_name_wherever_it_stands() {
        let [one, two] = [1, 2].map(LoopMark::of);
        assert_eq!(one.added_to(&fields(&[])), "0000000000000001");
        let both = two.added_to(&fields(&["0000000000000001"]));
        assert_eq!(both, "0000000000000001, 0000000000000002");
        let both = fields(&[both.to_str().unwrap()]);
        assert!(one.is_on(&both) && two.is_on(&both));
        assert!(!two.is_on(&fields(&["0000000000000001"])) && !one.is_on(&fields(&[])));
        assert!(one.is_on(&fields(&["x", "0000000000000003,0000000000000001"])));
    }

    #[test]
    fn what_a_stranger_writes_is_bounded_and_hides_nothing() {
        let one = LoopMark::of(1);
        assert_eq!(one.added_to(&fields(&["<script>, 1", "00000000000000zz"])), "0000000000000001");
        let many = vec!["00000000000000ff"; MOST].join(",");
        assert!(one.is_on(&fields(&[&many])));
        let few = vec!["00000000000000ff"; MOST - 1].join(",");
        assert!(!one.is_on(&fields(&[&few])));
    }
}
