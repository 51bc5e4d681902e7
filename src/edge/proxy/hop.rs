//! Where one connection ends and the next begins: what a client says about its own connection never
//! decides about ours (RFC 9110 §7.6.1).

use http::{HeaderName, header};
use pingora::Result;
use pingora::http::RequestHeader;

/// Fields that belong to one connection.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::UPGRADE,
];

/// Takes out what the client named in `Connection` (RFC 9110 §7.6.1), before anything of ours is set and
/// so that none of ours can be named (CVE-2024-45410), then leaves of it only what the engine needs.
///
/// # Errors
/// The engine cannot take a constant: never.
pub fn end(request: &mut RequestHeader, websocket: bool) -> Result<()> {
    let named: Vec<HeaderName> = request
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let close = named.iter().any(|name| name.as_str() == "close");
    for name in &named {
        let framing = matches!(*name, header::HOST | header::CONTENT_LENGTH | header::TRANSFER_ENCODING);
        if !framing && name != header::UPGRADE && !name.as_str().starts_with("sec-websocket-") {
            request.remove_header(name);
        }
    }
    request.remove_header(&header::CONNECTION);
    if websocket {
        request.insert_header(header::CONNECTION, "Upgrade")?;
    } else {
        // A protocol that we do not know is none that we can authorise: only WebSockets are upgraded.
        request.remove_header(&header::UPGRADE);
        if close {
            request.insert_header(header::CONNECTION, "close")?;
        }
    }
    Ok(())
}

/// Takes out of a request to an upstream whatever belongs to the client's connection, and asks for a WebSocket
/// if that is what it is about.
///
/// # Errors
/// The engine cannot take a constant: never.
pub fn begin(request: &mut RequestHeader, websocket: bool) -> Result<()> {
    for name in &HOP_BY_HOP {
        request.remove_header(name);
    }
    if websocket {
        request.insert_header(header::CONNECTION, "Upgrade")?;
        request.insert_header(header::UPGRADE, "websocket")?;
    }
    Ok(())
}
