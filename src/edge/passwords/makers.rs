//! How the makers of password hashes spell them: what an import takes beside the spellings in which hashes are kept
//! ([`super::hash`], [`super::derived`]).
//!
//! | maker | what it writes |
//! |---|---|
//! | Django (`django.contrib.auth.hashers`) | `pbkdf2_sha256$1000000$salt$base64`, `pbkdf2_sha1$…`, `argon2$argon2id$…`, `scrypt$16384$salt$8$5$base64`, `bcrypt$$2b$…`, `bcrypt_sha256$$2b$…` |
//! | Spring Security (`DelegatingPasswordEncoder`) | `{bcrypt}$2a$…`, `{argon2}$argon2id$…`, `{argon2@SpringSecurity_v5_8}$argon2id$…` |
//! | ASP.NET Identity (`PasswordHasher`, version 2 and 3) | base64 of one binary value |
//! | Keycloak (a credential of a realm's export) | JSON with `secretData` and `credentialData` |
//! | Firebase (`auth:export`) | JSON with `hash`, `salt` and the parameters of the project |

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value};

use super::derived::{Algorithm, Derived, Prf, ScryptCosts, number};

/// The longest text that is looked at: a credential of Keycloak takes half a kilobyte.
pub(super) const LONGEST: usize = 8 * 1024;

/// What a maker's spelling comes to.
pub(super) enum Spelt {
    /// A hash of another algorithm than bcrypt.
    Derived(Derived),
    /// The same, as [`super::hash`] spells it.
    Kept(String),
}

/// Reads a maker's spelling; `None` for any other text, and for a hash that cannot be checked.
pub(super) fn read(text: &str) -> Option<Spelt> {
    if text.len() > LONGEST {
        return None;
    }
    if let Some(rest) = text.strip_prefix("bcrypt$") {
        return Some(Spelt::Kept(rest.to_owned()));
    }
    if let Some((id, rest)) = text.strip_prefix('{').and_then(|text| text.split_once('}'))
        && matches!(id, "bcrypt" | "argon2" | "argon2@SpringSecurity_v5_8")
    {
        return Some(Spelt::Kept(rest.to_owned()));
    }
    let derived = if text.starts_with('{') {
        let Value::Object(members) = serde_json::from_str(text).ok()? else { return None };
        keycloak(&members).or_else(|| firebase(&members))
    } else if text.contains('$') {
        django(text)
    } else {
        aspnet(text)
    };
    derived.map(Spelt::Derived)
}

/// Django's salts are text, and their bytes are the salt.
fn django(text: &str) -> Option<Derived> {
    let (name, rest) = text.split_once('$')?;
    let parts: Vec<&str> = rest.split('$').collect();
    let prf = match name {
        "argon2" => return Derived::read(&format!("${rest}")),
        "pbkdf2_sha1" => Some(Prf::Sha1),
        "pbkdf2_sha256" => Some(Prf::Sha256),
        "scrypt" => None,
        _ => return None,
    };
    match (prf, parts.as_slice()) {
        (Some(prf), [iterations, salt, digest]) => {
            let algorithm = Algorithm::Pbkdf2 { prf, iterations: number(iterations)? };
            Derived::new(algorithm, salt.as_bytes().to_vec(), STANDARD.decode(digest).ok()?)
        }
        (None, [n, salt, r, p, digest]) => {
            let n = number(n).filter(|n| n.is_power_of_two())?;
            let costs = ScryptCosts { log_n: u8::try_from(n.ilog2()).ok()?, r: number(r)?, p: number(p)? };
            Derived::new(Algorithm::Scrypt(costs), salt.as_bytes().to_vec(), STANDARD.decode(digest).ok()?)
        }
        _ => None,
    }
}

/// Version 2: 0, salt of 16 bytes, key of 32 bytes, by PBKDF2 with SHA-1 and 1000 iterations. Version 3: 1, and as
/// numbers of 32 bits in network order which hash function (0 SHA-1, 1 SHA-256, 2 SHA-512), how many iterations and how
/// many bytes of salt; the salt, the key.
fn aspnet(text: &str) -> Option<Derived> {
    let bytes = STANDARD.decode(text).ok()?;
    match bytes.split_first()? {
        (0, rest) => {
            let (salt, key) = rest.split_at_checked(16).filter(|(_, key)| key.len() == 32)?;
            let algorithm = Algorithm::Pbkdf2 { prf: Prf::Sha1, iterations: 1000 };
            Derived::new(algorithm, salt.to_vec(), key.to_vec())
        }
        (1, rest) => {
            let (numbers, rest) = rest.split_at_checked(12)?;
            let at = |at: usize| numbers[at..at + 4].iter().fold(0, |sum, b| sum << 8 | u32::from(*b));
            let prf = match at(0) {
                0 => Prf::Sha1,
                1 => Prf::Sha256,
                2 => Prf::Sha512,
                _ => return None,
            };
            let (salt, key) = rest.split_at_checked(usize::try_from(at(8)).ok()?)?;
            Derived::new(Algorithm::Pbkdf2 { prf, iterations: at(4) }, salt.to_vec(), key.to_vec())
        }
        _ => None,
    }
}

/// A credential of type `password`. Its two parts are JSON in a text, or objects.
fn keycloak(members: &Map<String, Value>) -> Option<Derived> {
    let part = |name: &str| match members.get(name)? {
        Value::String(text) => serde_json::from_str::<Value>(text).ok(),
        object => Some(object.clone()),
    };
    let (secret, credential) = (part("secretData")?, part("credentialData")?);
    let decoded = |name: &str| STANDARD.decode(secret[name].as_str()?).ok();
    let (salt, digest) = (decoded("salt")?, decoded("value")?);
    let iterations = u32::try_from(credential["hashIterations"].as_u64()?).ok()?;
    let prf = match credential["algorithm"].as_str()? {
        "argon2" => {
            // Each is a list of one text.
            let extra = |name: &str| credential["additionalParameters"][name][0].as_str();
            let kind = match extra("type")? {
                "id" => argon2::Algorithm::Argon2id,
                "i" => argon2::Algorithm::Argon2i,
                "d" => argon2::Algorithm::Argon2d,
                _ => return None,
            };
            let version = match extra("version")? {
                "1.3" => argon2::Version::V0x13,
                "1.0" => argon2::Version::V0x10,
                _ => return None,
            };
            let (memory, lanes) = (number(extra("memory")?)?, number(extra("parallelism")?)?);
            let algorithm = Algorithm::Argon2 { kind, version, memory, passes: iterations, lanes };
            return Derived::new(algorithm, salt, digest);
        }
        "pbkdf2" => Prf::Sha1,
        "pbkdf2-sha256" => Prf::Sha256,
        "pbkdf2-sha512" => Prf::Sha512,
        _ => return None,
    };
    Derived::new(Algorithm::Pbkdf2 { prf, iterations }, salt, digest)
}

/// `{"algorithm": "firebase-scrypt", "hash", "salt", "signer_key", "salt_separator", "rounds", "mem_cost"}`: the members
/// of an account, and those that the Firebase console shows of a project. The hash is the signer key under AES-256 in
/// counter mode; without the signer key it is the keystream, which is all that a check needs.
fn firebase(members: &Map<String, Value>) -> Option<Derived> {
    if members.get("algorithm")?.as_str()? != "firebase-scrypt" {
        return None;
    }
    // The command that exports writes base64url.
    let decoded = |name: &str| {
        let text = members.get(name)?.as_str()?;
        STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
    };
    let cost = |name: &str| u32::try_from(members.get(name)?.as_u64()?).ok();
    let (hash, signer_key) = (decoded("hash")?, decoded("signer_key")?);
    if hash.len() != signer_key.len() {
        return None;
    }
    let keystream = hash.iter().zip(&signer_key).map(|(a, b)| a ^ b).collect();
    let salt = [decoded("salt")?, decoded("salt_separator")?].concat();
    let costs = ScryptCosts { log_n: u8::try_from(cost("mem_cost")?).ok()?, r: cost("rounds")?, p: 1 };
    Derived::new(Algorithm::FirebaseScrypt(costs), salt, keystream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn derived(text: &str) -> Derived {
        match read(text) {
            Some(Spelt::Derived(derived)) => derived,
            Some(Spelt::Kept(_)) | None => panic!("{text}"),
        }
    }

    fn kept(text: &str) -> String {
        derived(text).write().0
    }

    /// Made with Django 5.2 and fewer iterations.
    const DJANGO: [&str; 4] = [
        "pbkdf2_sha256$1000$seasalt$JgZryXe2Ga8ysg6XbzkLpTdyPQrHqsinbL9BnnhgX4A=",
        "pbkdf2_sha1$1000$seasalt$ljleU4wBmTtz/MoG5YTwxpM0d7I=",
        "scrypt$1024$seasalt$8$1$+qO2jTkVUbPNlniTkHY96ldSJKs4U0WQif8UbWlfO3wJDNhKOg+pPtDckiT6Zw0qkEvKIQ1MdONfGxsWrpoiNg==",
        "argon2$argon2id$v=19$m=256,t=2,p=8$c2Vhc2FsdHNlYQ$j1G5E8rTIHfVYfi+HsNs43UON5MQ8O7IKJCBePPGRQo",
    ];

    #[test]
    fn djangos_are_read() {
        for text in DJANGO {
            let hash = derived(text);
            assert!(hash.matches("lètmein".as_bytes()) && !hash.matches(b"letmein"), "{text}");
        }
        let as_today = "pbkdf2_sha256$1000000$seasalt$r1uLUxoxpP2Ued/qxvmje7UH9PUJBkRrvf9gGPL7Cps=";
        assert!(kept(as_today).starts_with("$pbkdf2-sha256$i=1000000$c2Vhc2FsdA$r1uLUxox"));
        assert!(kept(DJANGO[2]).starts_with("$scrypt$ln=10,r=8,p=1$c2Vhc2FsdA$+qO2jTkV"));
        assert!(
            matches!(read("bcrypt$$2b$12$abc"), Some(Spelt::Kept(rest)) if rest == "$2b$12$abc"),
            "without the name before"
        );
    }

    #[test]
    fn springs_prefix_goes() {
        for prefix in ["{bcrypt}", "{argon2}", "{argon2@SpringSecurity_v5_8}"] {
            assert!(matches!(read(&format!("{prefix}$2a$x")), Some(Spelt::Kept(rest)) if rest == "$2a$x"));
        }
        assert!(read("{noop}secret").is_none() && read("{MD5}$2a$x").is_none() && read("{bcrypt").is_none());
    }

    fn aspnet_v3(prf: u32, iterations: u32, salt: &[u8], key: &[u8]) -> String {
        let length = u32::try_from(salt.len()).unwrap();
        let numbers = [prf, iterations, length].map(u32::to_be_bytes).concat();
        STANDARD.encode([&[1], &*numbers, salt, key].concat())
    }

    #[test]
    fn aspnets_are_read() {
        for text in [
            // Version 2, and version 3 with SHA-512: made with hashlib.
            "AAABAgMEBQYHCAkKCwwNDg+ukCEMDf0yyQ29NYubggHIVY0sdEUfdyeM+E1LtH1uJg==",
            "AQAAAAIAAAH0AAAAEAABAgMEBQYHCAkKCwwNDg8V50Yx/qBV8yKctJxFoSD2r+P2xWKEKbLJemKndJdFZQ==",
            // Version 3 with SHA-1, from ASP.NET Core's own PasswordHasherTest.cs.
            "AQAAAAAAAAD6AAAAEAhftMyfTJylOlZT+eEotFXd1elee8ih5WsjXaR3PA9M",
        ] {
            let hash = derived(text);
            assert!(hash.matches(b"my password") && !hash.matches(b"another"), "{text}");
        }
        let all = aspnet_v3(2, 100_000, &[7; 16], &[9; 32]);
        assert!(kept(&all).starts_with("$pbkdf2-sha512$i=100000$"));
        for odd in [
            aspnet_v3(3, 100_000, &[7; 16], &[9; 32]),
            aspnet_v3(2, 0, &[7; 16], &[9; 32]),
            aspnet_v3(2, 1, &[7; 16], &[9; 8]),
            STANDARD
                .encode([&[1_u8][..], &[0, 0, 0, 2, 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff], &[7; 48]].concat()),
            STANDARD.encode([0; 48]),
            STANDARD.encode([0; 50]),
            STANDARD.encode([2; 49]),
            STANDARD.encode([1; 5]),
            "AAAA=".to_owned(),
        ] {
            assert!(read(&odd).is_none(), "{odd}");
        }
    }

    fn keycloak_credential(algorithm: &str, iterations: u64, extra: Value) -> Value {
        let secret = json!({"value": STANDARD.encode([9; 64]), "salt": STANDARD.encode([7; 16]), "additionalParameters": {}});
        let credential =
            json!({"hashIterations": iterations, "algorithm": algorithm, "additionalParameters": extra});
        json!({"type": "password", "secretData": secret.to_string(), "credentialData": credential.to_string()})
    }

    #[test]
    fn keycloaks_credentials_are_read() {
        let of = |algorithm: &str, iterations, extra| {
            kept(&keycloak_credential(algorithm, iterations, extra).to_string())
        };
        assert!(of("pbkdf2-sha512", 210_000, json!({})).starts_with("$pbkdf2-sha512$i=210000$BwcH"));
        assert!(of("pbkdf2-sha256", 600_000, Value::Null).starts_with("$pbkdf2-sha256$i=600000$"));
        assert!(of("pbkdf2", 1_300_000, json!({})).starts_with("$pbkdf2-sha1$i=1300000$"));
        let argon2 = json!({"hashLength": ["32"], "memory": ["7168"], "type": ["id"], "version": ["1.3"], "parallelism": ["1"]});
        assert!(of("argon2", 5, argon2.clone()).starts_with("$argon2id$v=19$m=7168,t=5,p=1$"));
        // As objects, as some tools write them.
        let mut plain = keycloak_credential("argon2", 5, argon2);
        for part in ["secretData", "credentialData"] {
            plain[part] = serde_json::from_str(plain[part].as_str().unwrap()).unwrap();
        }
        assert!(kept(&plain.to_string()).starts_with("$argon2id$"));
        for odd in [
            keycloak_credential("bcrypt", 12, json!({})),
            keycloak_credential("argon2", 5, json!({})),
            keycloak_credential("pbkdf2-sha256", 0, json!({})),
            keycloak_credential("pbkdf2-sha256", 1 << 40, json!({})),
            json!({"secretData": "{", "credentialData": "{}"}),
            json!({"secretData": "{}"}),
            json!({}),
            json!([]),
        ] {
            assert!(read(&odd.to_string()).is_none(), "{odd}");
        }
    }

    /// From the README of github.com/firebase/scrypt.
    fn firebases_sample() -> Value {
        json!({
            "algorithm": "firebase-scrypt",
            "hash": "lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ==",
            "salt": "42xEC+ixf3L2lw==",
            "signer_key": "jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==",
            "salt_separator": "Bw==",
            "rounds": 8,
            "mem_cost": 14,
        })
    }

    #[test]
    fn firebases_hash_is_checked_and_kept_without_the_signer_key() {
        let sample = firebases_sample();
        let hash = derived(&sample.to_string());
        assert!(hash.matches(b"user1password") && !hash.matches(b"user1Password"));
        let kept = hash.write().0;
        assert!(kept.starts_with("$firebase-scrypt$ln=14,r=8,p=1$"));
        assert_eq!(Derived::read(&kept), Some(hash.clone()));
        let mut web_safe = sample.clone();
        web_safe["hash"] = json!(sample["hash"].as_str().unwrap().replace('+', "-").replace('/', "_"));
        assert_eq!(derived(&web_safe.to_string()), hash);
        for missing in ["hash", "salt", "signer_key", "salt_separator", "rounds", "mem_cost", "algorithm"] {
            let mut odd = sample.clone();
            odd.as_object_mut().unwrap().remove(missing);
            assert!(read(&odd.to_string()).is_none(), "{missing}");
        }
        let mut odd = sample;
        odd["signer_key"] = json!("Bw==");
        assert!(read(&odd.to_string()).is_none());
    }

    #[test]
    fn other_texts_are_no_hashes() {
        for odd in [
            "",
            "x",
            "secret",
            "pbkdf2_sha256$",
            "md5$salt$hash",
            "pbkdf2_sha512$1$salt$aaaa",
            "scrypt$1000$salt$8$1$aaaa",
            "{}",
            "{",
            "$2b$",
            "null",
        ] {
            assert!(read(odd).is_none(), "{odd}");
        }
        assert!(read(&"A".repeat(LONGEST + 4)).is_none());
        assert!(read(&format!("pbkdf2_sha256$+1$salt${}", STANDARD.encode([1; 32]))).is_none());
    }
}
