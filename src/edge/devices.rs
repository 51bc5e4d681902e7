//! What a request tells of the device that sent it: a name for its owner, and a fingerprint to know it
//! again. The only room that names `maxminddb`.
//!
//! A client chooses its user agent, so nothing here proves anything. The name of a device contains at most one short
//! word of the user agent, of harmless letters, and only the signed-in owner sees it. A letter contains nothing of the
//! user agent: it names only what is in a list of ours.

use std::net::IpAddr;
use std::path::Path;

use maxminddb::{Reader, geoip2};
use sha2::{Digest, Sha256};

use palisade_core::domain::session::Device;
use palisade_core::ports::Devices;

/// What is kept of a user agent, in characters.
const MAX_USER_AGENT: usize = 256;
/// The longest name of a program or a place, in characters.
const MAX_NAME: usize = 64;

/// Browsers by a mark in their user agent. Most contain the marks of other browsers as well, so the order matters:
/// the more specific mark comes first. (No crate for this is kept up; the marks change rarely.)
const BROWSERS: [(&str, &str); 25] = [
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("Edge/", "Edge"),
    ("OPR/", "Opera"),
    ("OPT/", "Opera"),
    ("OPiOS/", "Opera"),
    ("Opera", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("YaBrowser/", "Yandex Browser"),
    ("DuckDuckGo/", "DuckDuckGo"),
    ("Ddg/", "DuckDuckGo"),
    ("UCBrowser/", "UC Browser"),
    ("MiuiBrowser/", "Mi Browser"),
    ("HuaweiBrowser/", "Huawei Browser"),
    ("Thunderbird/", "Thunderbird"),
    ("SeaMonkey/", "SeaMonkey"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("MSIE ", "Internet Explorer"),
    ("Trident/", "Internet Explorer"),
    ("Safari/", "Safari"),
];

/// Systems, in the same way.
const SYSTEMS: [(&str, &str); 14] = [
    ("Windows Phone", "Windows Phone"),
    ("Windows", "Windows"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("iPod", "iPod"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Macintosh", "macOS"),
    ("Mac OS X", "macOS"),
    ("Tizen", "Tizen"),
    ("PlayStation", "PlayStation"),
    ("FreeBSD", "FreeBSD"),
    ("Linux", "Linux"),
    ("X11", "Linux"),
];

/// Programs that are no browsers, by their product names in lower case: what a letter may call them. Names of apps
/// are not among them, since a caller can send any name.
const PROGRAMS: [(&str, &str); 22] = [
    ("curl", "curl"),
    ("wget", "Wget"),
    ("httpie", "HTTPie"),
    ("postmanruntime", "Postman"),
    ("insomnia", "Insomnia"),
    ("python-requests", "Python"),
    ("python-urllib", "Python"),
    ("python-httpx", "Python"),
    ("aiohttp", "Python"),
    ("go-http-client", "Go"),
    ("okhttp", "An app"),
    ("dalvik", "An app"),
    ("cfnetwork", "An app"),
    ("java", "Java"),
    ("apache-httpclient", "Java"),
    ("node", "Node.js"),
    ("node-fetch", "Node.js"),
    ("axios", "Node.js"),
    ("undici", "Node.js"),
    ("ruby", "Ruby"),
    ("guzzlehttp", "PHP"),
    ("powershell", "PowerShell"),
];

/// Reads user agents, and places from a database if there is one.
pub struct DeviceReader {
    places: Option<Reader<Vec<u8>>>,
}

impl DeviceReader {
    /// A reader with the database `geoip` (`sessions.geoip`) in memory.
    ///
    /// # Errors
    /// The file is no such database; says so with advice.
    pub fn open(geoip: Option<&Path>) -> Result<DeviceReader, String> {
        let open = |path: &Path| {
            Reader::open_readfile(path).map_err(|error| {
                let path = path.display();
                format!(
                    "sessions.geoip: {path}: {error}; it must be a MaxMind database (.mmdb), City or Country"
                )
            })
        };
        Ok(DeviceReader { places: geoip.map(open).transpose()? })
    }

    fn place(&self, address: IpAddr) -> Option<String> {
        // An address that the database lacks, or has in another form, has no place.
        let found = self.places.as_ref()?.lookup(address).ok()?.decode::<geoip2::City<'_>>().ok()??;
        place(found.city.names.english, found.country.names.english)
    }
}

impl Devices for DeviceReader {
    fn device(&self, user_agent: Option<&str>, address: IpAddr) -> Device {
        let address = address.to_canonical();
        let user_agent = user_agent.map(clean).filter(|text| !text.is_empty());
        let kind = Kind::of(user_agent.as_deref().unwrap_or_default());
        let (name, fingerprint) = (kind.name(), kind.fingerprint());
        Device { name, user_agent, address, place: self.place(address), fingerprint }
    }

    fn described(&self, user_agent: Option<&str>) -> String {
        let user_agent = user_agent.map(clean).unwrap_or_default();
        let kind = Kind::of(&user_agent);
        // Whatever was found, only a word of the lists is used.
        let listed = |name: &str| {
            let program = || PROGRAMS.iter().find(|(product, _)| name.eq_ignore_ascii_case(product));
            let browser = BROWSERS.iter().find(|(_, known)| *known == name);
            browser.or_else(program).map_or("An app", |(_, listed)| *listed)
        };
        let program = kind.program.map(listed);
        Kind { program, system: kind.system }.name()
    }
}

/// "Berlin, Germany", "Germany", "Berlin".
fn place(city: Option<&str>, country: Option<&str>) -> Option<String> {
    let parts: Vec<String> = [city, country]
        .into_iter()
        .flatten()
        .map(|part| part.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect::<String>())
        .filter(|part| !part.trim().is_empty())
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// A user agent without control characters, and of bounded length.
fn clean(user_agent: &str) -> String {
    let plain: String = user_agent.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT).collect();
    plain.trim().to_owned()
}

/// The kind of program and the kind of system, without versions.
#[derive(Debug, PartialEq, Eq)]
struct Kind<'a> {
    program: Option<&'a str>,
    system: Option<&'a str>,
}

impl<'a> Kind<'a> {
    fn of(user_agent: &'a str) -> Kind<'a> {
        let find = |marks: &[(&str, &'static str)]| {
            marks.iter().find(|(mark, _)| user_agent.contains(mark)).map(|(_, name)| *name)
        };
        let system = find(&SYSTEMS);
        let product = user_agent.split(['/', ' ', '(']).next().unwrap_or_default();
        let program = match product {
            // Every browser says that it is Mozilla, and older Operas that they are Opera.
            "Mozilla" | "Opera" => find(&BROWSERS),
            _ => is_word(product).then_some(product),
        };
        Kind { program, system }
    }

    fn name(&self) -> String {
        match (self.program, self.system) {
            (Some(program), Some(system)) => format!("{program} on {system}"),
            (Some(program), None) => program.to_owned(),
            (None, Some(system)) => format!("A browser on {system}"),
            (None, None) => "An unknown device".to_owned(),
        }
    }

    /// The same for the same kinds of device; a hash, so that it reveals none of them.
    fn fingerprint(&self) -> String {
        let [program, system] = [self.program, self.system].map(Option::unwrap_or_default);
        let sum = Sha256::digest(format!("device 1\0{program}\0{system}"));
        hex::encode(&sum[..16])
    }
}

/// A product's name (RFC 9110 §10.1.5) that can stand in a mail or on a page as it is.
fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    text.len() <= MAX_NAME
        && text.bytes().all(plain)
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(user_agent: &str) -> Device {
        DeviceReader::open(None).unwrap().device(Some(user_agent), [192, 0, 2, 1].into())
    }

    const FIREFOX: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0";

    #[test]
    fn devices_have_names() {
        for (user_agent, name) in [
            (FIREFOX, "Firefox on Windows"),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "Firefox on Linux"),
            ("Mozilla/5.0 (Android 14; Mobile; rv:130.0) Gecko/130.0 Firefox/130.0", "Firefox on Android"),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/127.0 Mobile/15E148 Safari/605.1.15",
                "Firefox on iPhone",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
                "Chrome on Windows",
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
                "Chrome on Android",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/126.0.6478.54 Mobile/15E148 Safari/604.1",
                "Chrome on iPhone",
            ),
            (
                "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
                "Chrome on ChromeOS",
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/126.0.0.0 Safari/537.36",
                "Chrome on Linux",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
                "Safari on macOS",
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
                "Safari on iPad",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36 EdgA/126.0.0.0",
                "Edge on Android",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36 OPR/110.0.0.0",
                "Opera on Windows",
            ),
            ("Opera/9.80 (Windows NT 6.1; U; en) Presto/2.8.131 Version/11.11", "Opera on Windows"),
            (
                "Mozilla/5.0 (Linux; Android 14; SAMSUNG SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/25.0 Chrome/121.0.0.0 Mobile Safari/537.36",
                "Samsung Internet on Android",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko",
                "Internet Explorer on Windows",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
                "A browser on iPhone",
            ),
            ("curl/8.5.0", "curl"),
            ("python-requests/2.32.3", "python-requests"),
            ("okhttp/4.12.0", "okhttp"),
            ("Bank/3.1 (iPhone; iOS 17.5; Scale/3.00)", "Bank on iPhone"),
            ("Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Build/AP2A)", "Dalvik on Android"),
            ("", "An unknown device"),
            ("Mozilla/5.0", "An unknown device"),
            ("<script>alert(1)</script>", "An unknown device"),
            ("Your\u{a0}bank/1.0", "An unknown device"),
            (&"a".repeat(65), "An unknown device"),
        ] {
            assert_eq!(device(user_agent).name, name, "{user_agent}");
        }
        assert_eq!(DeviceReader::open(None).unwrap().device(None, [192, 0, 2, 1].into()).user_agent, None);
    }

    #[test]
    fn a_letter_names_devices_in_words_of_ours() {
        let reader = DeviceReader::open(None).unwrap();
        for (user_agent, name) in [
            (FIREFOX, "Firefox on Windows"),
            ("curl/8.5.0", "curl"),
            ("Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Build/AP2A)", "An app on Android"),
            ("Bank/3.1 (iPhone; iOS 17.5; Scale/3.00)", "An app on iPhone"),
            ("Your-account-was-hacked.Call-555.1234567/1.0", "An app"),
            ("evil.example.com", "An app"),
            ("Mozilla/5.0 (iPhone; call 555 1234567) evil.example.com", "A browser on iPhone"),
            ("", "An unknown device"),
            ("call 555", "An app"),
            ("555", "An unknown device"),
        ] {
            assert_eq!(reader.described(Some(user_agent)), name, "{user_agent}");
        }
        assert_eq!(reader.described(None), "An unknown device");
    }

    #[test]
    fn a_device_is_known_again_after_an_update_and_elsewhere() {
        let first = device(FIREFOX);
        let later = DeviceReader::open(None)
            .unwrap()
            .device(Some(&FIREFOX.replace("140", "151")), [203, 0, 113, 9].into());
        assert_eq!(first.fingerprint, later.fingerprint);
        assert_eq!(first.fingerprint.len(), 32);
        for other in [
            &FIREFOX.replace("Windows NT 10.0", "X11; Linux"),
            &FIREFOX.replace("Firefox", "Chrome"),
            "curl/8.5.0",
            "",
        ] {
            assert_ne!(first.fingerprint, device(other).fingerprint, "{other}");
        }
        assert_ne!(device("curl/8.5.0").fingerprint, device("Wget/1.21").fingerprint);
    }

    #[test]
    fn what_was_sent_is_cut_and_stays_on_its_line() {
        let sent = format!("curl/8\r\nBcc: x@example.com\u{1b}[31m{}", "é".repeat(1000));
        let kept = device(&sent).user_agent.unwrap();
        assert_eq!(kept.chars().count(), 256);
        assert!(kept.starts_with("curl/8Bcc: x@example.com[31mé"));
        assert_eq!(device("  \t ").user_agent, None);
        let mapped = DeviceReader::open(None).unwrap().device(None, "::ffff:192.0.2.1".parse().unwrap());
        assert_eq!(mapped.address, IpAddr::from([192, 0, 2, 1]));
    }

    #[test]
    fn places_come_from_the_database() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/geoip/GeoIP2-City-Test.mmdb");
        let reader = DeviceReader::open(Some(&path)).unwrap();
        let place = |address: &str| reader.device(None, address.parse().unwrap()).place;
        assert_eq!(place("89.160.20.128").as_deref(), Some("Linköping, Sweden"));
        assert_eq!(place("::ffff:89.160.20.128").as_deref(), Some("Linköping, Sweden"));
        assert_eq!(place("127.0.0.1"), None);
        assert_eq!(place("2001:db8::1"), None);
    }

    #[test]
    fn a_place_is_as_much_as_is_known() {
        assert_eq!(place(Some("Berlin"), Some("Germany")).as_deref(), Some("Berlin, Germany"));
        assert_eq!(place(None, Some("Germany")).as_deref(), Some("Germany"));
        assert_eq!(place(Some("Ber\r\nlin"), None).as_deref(), Some("Berlin"));
        assert_eq!(place(Some(" "), None), None);
    }

    #[test]
    fn what_is_no_database_says_so() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let Err(why) = DeviceReader::open(Some(&path)) else { panic!("a text was taken for a database") };
        assert!(
            why.contains("sessions.geoip") && why.contains("Cargo.toml") && why.contains(".mmdb"),
            "{why}"
        );
    }
}
