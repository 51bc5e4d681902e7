//! Blocks of addresses: what one client is taken to be, and what an account remembers of where it was signed
//! in from.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::account::{User, UserId};
use super::opaque::{KeyIndex, ServerKey};

/// How many blocks an account remembers, the latest last.
pub const MAX_BLOCKS: usize = 16;

/// What one client is taken to be. An IPv4 address that is mapped into IPv6 is the IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressBlock {
    /// One IPv4 address.
    V4(u32),
    /// The first 64 bits of an IPv6 address: one network of one customer (RFC 6177 §2).
    V6(u64),
}

/// The first 48 bits of IPv6 addresses: what one site has, and so 65,536 blocks in one hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site(u64);

impl AddressBlock {
    /// The block that `client` is in.
    #[must_use]
    pub fn of(client: IpAddr) -> AddressBlock {
        match client.to_canonical() {
            IpAddr::V4(address) => AddressBlock::V4(address.to_bits()),
            // The shift leaves 64 bits.
            IpAddr::V6(address) => AddressBlock::V6((address.to_bits() >> 64) as u64),
        }
    }

    /// The site that the block is in. IPv4 has none: addresses there are dear enough.
    #[must_use]
    pub fn site(self) -> Option<Site> {
        match self {
            AddressBlock::V4(_) => None,
            AddressBlock::V6(bits) => Some(Site(bits >> 16)),
        }
    }

    pub(super) fn bytes(self) -> [u8; 9] {
        let (version, bits) = match self {
            AddressBlock::V4(bits) => (4, u64::from(bits)),
            AddressBlock::V6(bits) => (6, bits),
        };
        let mut bytes = [version; 9];
        bytes[1..].copy_from_slice(&bits.to_be_bytes());
        bytes
    }
}

impl ServerKey {
    /// What an account keeps of a block from which it was signed in to: 64 bits of a MAC over both. It can be
    /// compared and not read: neither the address nor that two accounts share one is in the store.
    #[must_use]
    pub fn block_mark(&self, user: UserId, block: AddressBlock) -> String {
        self.block_mark_by(KeyIndex::FIRST, user, block)
    }

    /// Whether `user` was signed in to from `block`, as far as the account remembers: by a mark under any key.
    #[must_use]
    pub fn is_known_block(&self, user: &User, block: AddressBlock) -> bool {
        self.keys().any(|key| user.knows_block(&self.block_mark_by(key, user.id, block)))
    }

    fn block_mark_by(&self, key: KeyIndex, user: UserId, block: AddressBlock) -> String {
        URL_SAFE_NO_PAD.encode(&self.mac_by(key, "block", &[user.0.as_bytes(), &block.bytes()])[..8])
    }
}

impl User {
    /// Whether this account was signed in to from the block of this mark, as far as it remembers.
    #[must_use]
    pub fn knows_block(&self, mark: &str) -> bool {
        self.known_blocks.iter().any(|known| known == mark)
    }

    /// Remembers the block of this mark as the latest; of more than [`MAX_BLOCKS`] the oldest is forgotten.
    pub fn remember_block(&mut self, mark: String) {
        self.known_blocks.retain(|known| *known != mark);
        self.known_blocks.push(mark);
        let excess = self.known_blocks.len().saturating_sub(MAX_BLOCKS);
        self.known_blocks.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use zeroize::Zeroizing;

    use super::*;

    fn block(text: &str) -> AddressBlock {
        AddressBlock::of(text.parse().unwrap())
    }

    #[test]
    fn an_ipv6_network_is_one_block_and_a_mapped_address_is_ipv4() {
        assert_eq!(block("2001:db8:0:1::1"), block("2001:db8:0:1:ffff::"));
        assert_ne!(block("2001:db8:0:1::1"), block("2001:db8:0:2::1"));
        assert_eq!(block("::ffff:192.0.2.1"), block("192.0.2.1"));
        assert_ne!(block("192.0.2.1"), block("192.0.2.2"));
    }

    #[test]
    fn a_site_is_a_48() {
        assert_eq!(block("2001:db8:7:1::1").site(), block("2001:db8:7:ffff::2").site());
        assert_ne!(block("2001:db8:7:1::1").site(), block("2001:db8:8:1::1").site());
        assert_eq!(block("192.0.2.1").site(), None);
    }

    #[test]
    fn a_mark_is_of_one_account_one_block_and_one_key() {
        let key = |byte| ServerKey::new(Zeroizing::new([byte; 32]));
        let user = |id| UserId(Uuid::from_u128(id));
        let mark = key(1).block_mark(user(1), block("192.0.2.1"));
        assert_eq!(mark, key(1).block_mark(user(1), block("::ffff:192.0.2.1")));
        assert_eq!(mark.len(), 11);
        for other in [
            key(2).block_mark(user(1), block("192.0.2.1")),
            key(1).block_mark(user(2), block("192.0.2.1")),
            key(1).block_mark(user(1), block("192.0.2.2")),
            // The same bits as an IPv6 network.
            key(1).block_mark(user(1), block("0:0:c000:201::")),
        ] {
            assert_ne!(mark, other);
        }
    }
}
