//! Which addresses a request of our own may be sent to: those of the public internet, and the private networks that an
//! operator opened for one issuer or provider (SSRF). Addresses at which clouds hand out credentials are never among them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What requests on behalf of one issuer or provider may reach, and which authorities they trust. By default: the public internet,
/// with the built-in authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Reach {
    /// `allow_private`: networks that may be called although they are private, in cleartext too.
    pub allow_private: Vec<IpNet>,
    /// `ca`: the authorities to trust instead of the built-in ones.
    pub ca: Option<Authorities>,
}

impl Reach {
    /// Whether a connection over TLS may go to this address: it is public, or in a network that was opened.
    #[must_use]
    pub fn allows(&self, ip: IpAddr) -> bool {
        !is_never_called(ip) && (is_public(ip) || self.opens(ip))
    }

    /// Whether the address is in a network that was opened, so that it may be called in cleartext, too.
    #[must_use]
    pub fn opens(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        !is_never_called(ip) && self.allow_private.iter().any(|net| net.contains(&ip))
    }
}

/// Certificate authorities, as the PEM text of a file.
#[derive(Clone)]
pub struct Authorities {
    /// The key and the file, for messages.
    pub named: Arc<str>,
    pub pem: Arc<str>,
}

/// Whole bundles are long.
impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authorities").field(&self.named).finish()
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Authorities) -> bool {
        self.named == other.named && (Arc::ptr_eq(&self.pem, &other.pem) || self.pem == other.pem)
    }
}

impl Eq for Authorities {}

/// Of the text its length alone: it is hashed whenever a client is looked up.
impl Hash for Authorities {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.named.hash(state);
        self.pem.len().hash(state);
    }
}

/// Whether `ip` is a unicast address of the public internet (IANA special-purpose registries,
/// RFC 6890).
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(matches!(a, 0 | 10 | 127)
        || a >= 224 // Multicast, reserved, broadcast.
        || (a == 100 && (64..128).contains(&b)) // RFC 6598.
        || (a == 169 && b == 254) // Link-local, and where clouds keep their metadata.
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19))
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113))
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, _, _] = ip.segments();
    let inner = v4(&ip.octets(), [12, 13, 14, 15]);
    if (a, b, c, d, e) == (0, 0, 0, 0, 0) && f == 0xffff {
        return is_public_v4(inner);
    }
    if (a, b, c, d, e, f) == (0x64, 0xff9b, 0, 0, 0, 0) {
        return is_public_v4(inner); // RFC 6052: the address behind a NAT64.
    }
    // Only 2000::/3 is global unicast; out of it, tunnels that hide an address and documentation.
    (a & 0xe000) == 0x2000
        && a != 0x2002
        && !(a == 0x2001 && (b < 0x200 || b == 0xdb8))
        && !(a == 0x3fff && b < 0x1000)
}

/// Where clouds answer with credentials, and what is the address of no single host. No `allow_private` opens these.
const NEVER_V4: [Ipv4Net; 7] = [
    // Link-local: the metadata services of AWS, Azure, Google, Oracle and others, and of AWS's containers.
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    // The metadata services of Alibaba and of Oracle's older images, and Azure's WireServer.
    Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 100, 200), 32),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 0, 192), 32),
    Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32),
    // "This network", which Linux takes for this machine; multicast; reserved and broadcast.
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The same for IPv6.
const NEVER_V6: [Ipv6Net; 6] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    // AWS: the metadata service at ::254, and the other services of the instance.
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0), 32),
    // Google's and Scaleway's metadata services.
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254), 128),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042), 128),
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128),
    Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Metadata services that are looked for at the end of every IPv6 address: a NAT64 may have any prefix (RFC 6052 §2.2).
const METADATA: [Ipv4Addr; 6] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

/// Whether no configuration may open this address, in whatever form an IPv4 address is written as an IPv6 one.
#[must_use]
pub fn is_never_called(ip: IpAddr) -> bool {
    let is_never_v4 = |ip: &Ipv4Addr| NEVER_V4.iter().any(|net| net.contains(ip));
    match ip {
        IpAddr::V4(ip) => is_never_v4(&ip),
        IpAddr::V6(ip) => {
            NEVER_V6.iter().any(|net| net.contains(&ip))
                || METADATA.contains(&v4(&ip.octets(), [12, 13, 14, 15]))
                || inner_addresses(ip).iter().flatten().any(is_never_v4)
        }
    }
}

/// Whether every address of the network is one that [`is_never_called`].
#[must_use]
pub fn opens_nothing(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => NEVER_V4.iter().any(|never| never.contains(net)),
        IpNet::V6(net) => {
            let ends = [net.network(), net.broadcast()];
            NEVER_V6.iter().any(|never| never.contains(net))
                // Of a range of IPv4 addresses, which are the last 32 bits, both ends tell.
                || (net.prefix_len() >= 112 && ends.iter().all(|ip| is_never_called(IpAddr::V6(*ip))))
        }
    }
}

/// The IPv4 addresses that an IPv6 address leads to.
fn inner_addresses(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    const LAST: [usize; 4] = [12, 13, 14, 15];
    let bytes = ip.octets();
    let at = |places: [usize; 4]| Some(v4(&bytes, places));
    match ip.segments() {
        // IPv4-mapped and IPv4-compatible (RFC 4291 §2.5.5), IPv4-translated (RFC 2765 §2.1). `::1` is no IPv4 address.
        [0, 0, 0, 0, 0, 0, 0, 1] => [None; 4],
        [0, 0, 0, 0, 0, 0xffff | 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => [at(LAST), None, None, None],
        // NAT64 (RFC 6052 §2.1), and its prefix for local use with an address at any of the places of §2.2 (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => [at(LAST), None, None, None],
        [0x64, 0xff9b, 1, ..] => [at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), at(LAST)],
        // 6to4 (RFC 3056 §2).
        [0x2002, ..] => [at([2, 3, 4, 5]), None, None, None],
        // Teredo (RFC 4380 §4): the server, and the client with its bits inverted.
        [0x2001, 0, ..] => {
            let client = v4(&bytes, LAST).to_bits();
            [at([4, 5, 6, 7]), Some(Ipv4Addr::from_bits(!client)), None, None]
        }
        // ISATAP (RFC 5214 §6.1).
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => [at(LAST), None, None, None],
        _ => [None; 4],
    }
}

/// The IPv4 address of the bytes at these places.
fn v4(bytes: &[u8; 16], [a, b, c, d]: [usize; 4]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[a], bytes[b], bytes[c], bytes[d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for (ip, want) in [
            ("93.184.216.34", true),
            ("2606:4700::1", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("172.16.0.1", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:8.8.8.8", true),
            ("64:ff9b::a00:1", false),
            ("2002:a00:1::", false),
            ("::10.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), want, "{ip}");
        }
    }

    #[test]
    fn a_network_opens_its_addresses_and_never_metadata() {
        let everything = ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap()).to_vec();
        let everything = Reach { allow_private: everything, ca: None };
        for ip in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "ff02::1",
            "fe80::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd00:42::42",
            "::ffff:169.254.169.254",
            "::ffff:0:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::169.254.1.1",
            "64:ff9b:1::a9fe:101",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:0:a9:fea9:fe00:0",
            "2002:a9fe:a9fe::1",
            "2002:6464:64c8::1",
            // Teredo: 169.254.169.254 as the server, and as the client, inverted.
            "2001:0:a9fe:a9fe::",
            "2001:0:808:808:0:0:5601:5601",
            "fd12::5efe:169.254.9.9",
            "fd12::200:5efe:169.254.9.9",
            // A NAT64 with a prefix of the operator's own.
            "fd12:3456::169.254.169.254",
            "2a01:3456::100.100.100.200",
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert!(!everything.allows(ip) && !everything.opens(ip), "{ip}");
            assert!(!Reach::default().allows(ip), "{ip}");
        }
        let some = ["10.0.0.0/8", "fd12::/16"].map(|net| net.parse().unwrap()).to_vec();
        let some = Reach { allow_private: some, ca: None };
        for (ip, allows, opens) in [
            ("10.1.2.3", true, true),
            ("::ffff:10.1.2.3", true, true),
            ("11.1.2.3", true, false),
            ("192.168.1.1", false, false),
            ("127.0.0.1", false, false),
            ("::1", false, false),
            ("fd12::1", true, true),
            ("fd13::1", false, false),
            // What a gateway makes of them is not what was opened.
            ("64:ff9b::10.1.2.3", false, false),
            ("2002:a01:203::1", false, false),
            ("2606:4700::1", true, false),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!((some.allows(ip), some.opens(ip)), (allows, opens), "{ip}");
        }
        assert!(everything.opens("::1".parse().unwrap()));
    }

    #[test]
    fn a_network_of_metadata_alone_opens_nothing() {
        for (net, want) in [
            ("169.254.0.0/16", true),
            ("169.254.169.254/32", true),
            ("169.254.169.0/24", true),
            ("100.100.100.200/32", true),
            ("fe80::/10", true),
            ("fe80::1/128", true),
            ("fd00:ec2::254/128", true),
            ("64:ff9b::a9fe:0/112", true),
            ("64:ff9b::a9fe:a9fe/128", true),
            ("2002:a9fe:a9fe::1/128", true),
            ("169.0.0.0/8", false),
            ("10.0.0.0/8", false),
            ("100.64.0.0/10", false),
            ("64:ff9b::/96", false),
            ("fd00::/8", false),
            ("fc00::/7", false),
        ] {
            assert_eq!(opens_nothing(&net.parse().unwrap()), want, "{net}");
        }
    }
}
