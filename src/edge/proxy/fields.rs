//! Header fields that can be changed: those of a plain map, and those of the engine, which keeps the spelling of each
//! name beside its map.

use bytes::Bytes;
use http::header::InvalidHeaderName;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};

/// The name of a field that is set, known to be one.
#[derive(Debug, Clone)]
pub struct FieldName {
    name: HeaderName,
    /// As it is written in HTTP/1.1.
    spelled: Bytes,
}

pub static ACCESS_CONTROL_ALLOW_CREDENTIALS: FieldName = FieldName::lower("access-control-allow-credentials");
pub static ACCESS_CONTROL_ALLOW_ORIGIN: FieldName = FieldName::lower("access-control-allow-origin");
pub static ACCESS_CONTROL_EXPOSE_HEADERS: FieldName = FieldName::lower("access-control-expose-headers");
pub static AUTHORIZATION: FieldName = FieldName::lower("authorization");
pub static CACHE_CONTROL: FieldName = FieldName::constant("cache-control", "Cache-Control");
pub static CONTENT_LOCATION: FieldName = FieldName::constant("content-location", "Content-Location");
pub static COOKIE: FieldName = FieldName::lower("cookie");
pub static DESTINATION: FieldName = FieldName::constant("destination", "Destination");
pub static FORWARDED: FieldName = FieldName::lower("forwarded");
pub static HOPS: FieldName = FieldName::lower(palisade_core::domain::reserved::HOPS);
pub static HOST: FieldName = FieldName::constant("host", "Host");
pub static LOCATION: FieldName = FieldName::constant("location", "Location");
pub static SEC_WEBSOCKET_PROTOCOL: FieldName = FieldName::lower("sec-websocket-protocol");
pub static SET_COOKIE: FieldName = FieldName::constant("set-cookie", "Set-Cookie");
pub static VARY: FieldName = FieldName::lower("vary");
pub static X_FORWARDED_FOR: FieldName = FieldName::lower("x-forwarded-for");
pub static X_FORWARDED_HOST: FieldName = FieldName::lower("x-forwarded-host");
pub static X_FORWARDED_PORT: FieldName = FieldName::lower("x-forwarded-port");
pub static X_FORWARDED_PREFIX: FieldName = FieldName::lower("x-forwarded-prefix");
pub static X_FORWARDED_PROTO: FieldName = FieldName::lower("x-forwarded-proto");
pub static X_REAL_IP: FieldName = FieldName::lower("x-real-ip");
pub static X_REQUEST_ID: FieldName = FieldName::lower("x-request-id");

impl FieldName {
    const fn lower(name: &'static str) -> FieldName {
        FieldName::constant(name, name)
    }

    /// `name` in lower case, and the same in the case in which it is written. Not lower case: does not compile.
    const fn constant(name: &'static str, spelled: &'static str) -> FieldName {
        FieldName { name: HeaderName::from_static(name), spelled: Bytes::from_static(spelled.as_bytes()) }
    }

    /// Reads a name; it is written in lower case.
    ///
    /// # Errors
    /// No field can have it.
    pub fn parse(text: &str) -> Result<FieldName, InvalidHeaderName> {
        let name: HeaderName = text.parse()?;
        let spelled = Bytes::copy_from_slice(name.as_str().as_bytes());
        Ok(FieldName { name, spelled })
    }

    /// As a map knows it.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }
}

/// Header fields that can be changed.
pub trait HeaderFields {
    /// All of them.
    fn map(&self) -> &HeaderMap;

    /// Sets a field in place of all of its name.
    fn put(&mut self, name: &FieldName, value: HeaderValue);

    /// Sets a field beside those of its name.
    fn add(&mut self, name: &FieldName, value: HeaderValue);

    /// Takes all fields of a name out.
    fn take_out(&mut self, name: &HeaderName);
}

impl HeaderFields for HeaderMap {
    fn map(&self) -> &HeaderMap {
        self
    }

    fn put(&mut self, name: &FieldName, value: HeaderValue) {
        self.insert(name.name.clone(), value);
    }

    fn add(&mut self, name: &FieldName, value: HeaderValue) {
        self.append(name.name.clone(), value);
    }

    fn take_out(&mut self, name: &HeaderName) {
        self.remove(name);
    }
}

/// The engine fails where a name is none, which a [`FieldName`] rules out, and beyond 32,768 fields, which the bounds
/// on header sections rule out.
macro_rules! of_the_engine {
    ($header:ty) => {
        impl HeaderFields for $header {
            fn map(&self) -> &HeaderMap {
                &self.headers
            }

            fn put(&mut self, name: &FieldName, value: HeaderValue) {
                let _ = self.insert_header(name.spelled.clone(), value);
            }

            fn add(&mut self, name: &FieldName, value: HeaderValue) {
                let _ = self.append_header(name.spelled.clone(), value);
            }

            fn take_out(&mut self, name: &HeaderName) {
                self.remove_header(name);
            }
        }
    };
}

of_the_engine!(RequestHeader);
of_the_engine!(ResponseHeader);

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(fields: &mut impl HeaderFields) -> Vec<(String, String)> {
        let value = |text: &'static str| HeaderValue::from_static(text);
        let ours = FieldName::parse("X-Auth-Subject").unwrap();
        fields.put(&ours, value("ann"));
        fields.put(&ours, value("bob"));
        fields.put(&HOST, value("app.test"));
        fields.add(&COOKIE, value("a=b"));
        fields.add(&COOKIE, value("c=d"));
        fields.take_out(&http::header::ACCEPT);
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        fields.map().iter().map(line).collect()
    }

    #[test]
    fn a_map_and_the_engine_are_changed_alike() {
        let before = [("accept", "*/*"), ("x-auth-subject", "evil"), ("Cookie", "x=y")];
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in before {
            request.append_header(name, value).unwrap();
            map.append(name, value.parse().unwrap());
        }
        let want = [
            ("x-auth-subject", "bob"),
            ("cookie", "x=y"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
            ("host", "app.test"),
        ];
        let sorted = |mut lines: Vec<(String, String)>| {
            lines.sort_by_key(|(name, _)| name.clone());
            lines
        };
        let mut want: Vec<_> = want.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        want.sort_by_key(|(name, _)| name.clone());
        assert_eq!(sorted(changed(&mut map)), want);
        assert_eq!(sorted(changed(&mut request)), want);
        let mut wire = Vec::new();
        request.header_to_h1_wire(&mut wire);
        let wire = String::from_utf8(wire).unwrap();
        for line in ["x-auth-subject: bob", "Host: app.test", "Cookie: x=y", "cookie: a=b"] {
            assert!(wire.contains(line), "{wire}");
        }
    }
}
