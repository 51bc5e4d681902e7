//! Bodies from HTTP/2 clients on their way to HTTP/1.1 upstreams, counted byte by byte: what is left over on a pooled
//! connection is read as the beginning of another client's request (request smuggling).

use http::HeaderMap;

use super::*;
use crate::support::find;

/// What a client sends after its header section.
#[derive(Clone, Copy)]
enum Piece {
    Data(&'static str),
    /// DATA with END_STREAM.
    Last(&'static str),
    /// A second header section, which ends the stream.
    Trailers,
}
use Piece::{Data, Last, Trailers};

async fn send(client: &SendRequest<Bytes>, request: Request<()>, pieces: &[Piece]) -> (StatusCode, String) {
    let mut client = timeout(PATIENCE, client.clone().ready()).await.unwrap().unwrap();
    let (response, mut sending) = client.send_request(request, false).unwrap();
    for piece in pieces {
        match *piece {
            Data(text) => sending.send_data(Bytes::from_static(text.as_bytes()), false).unwrap(),
            Last(text) => sending.send_data(Bytes::from_static(text.as_bytes()), true).unwrap(),
            Trailers => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-checksum", "1".parse().unwrap());
                sending.send_trailers(trailers).unwrap();
            }
        }
    }
    let mut response = timeout(PATIENCE, response).await.unwrap().unwrap();
    let text = body(&mut response).await;
    (response.status(), text)
}

fn post(length: Option<&str>) -> Request<()> {
    let request = Request::put("http://app.test/up").version(Version::HTTP_2);
    match length {
        Some(length) => request.header("content-length", length),
        None => request,
    }
    .body(())
    .unwrap()
}

/// The body that `bytes` are the framing of, whatever the sizes of the chunks, and what follows it.
fn unframed(head: &str, mut bytes: &[u8]) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if field(head, "transfer-encoding").is_none() {
        let length = field(head, "content-length").map_or(0, |length| length.parse().unwrap());
        return (text(&bytes[..length]), text(&bytes[length..]));
    }
    assert_eq!(field(head, "content-length"), None, "{head}");
    let mut body = String::new();
    loop {
        let end = find(bytes, b"\r\n").unwrap();
        let size = usize::from_str_radix(&text(&bytes[..end]), 16).unwrap();
        let (chunk, rest) = bytes[end + 2..].split_at(size);
        assert_eq!(&rest[..2], b"\r\n", "{body}{}", text(bytes));
        body += &text(chunk);
        bytes = &rest[2..];
        if size == 0 {
            return (body, text(bytes));
        }
    }
}

/// Whether a whole message has arrived.
fn is_whole(head: &str, bytes: &[u8]) -> bool {
    match field(head, "transfer-encoding") {
        Some(_) => bytes.ends_with(b"0\r\n\r\n"),
        None => bytes.len() >= field(head, "content-length").map_or(0, |length| length.parse().unwrap()),
    }
}

/// Reads one request with all of its body.
async fn read_message(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let head = read_head(stream).await;
    let mut bytes = Vec::new();
    while !is_whole(&head, &bytes) {
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return None;
        }
    }
    Some((head, bytes))
}

/// An upstream that tells every byte of a request, and of what else arrives on its connection after the answer.
async fn recording() -> (Scripted, mpsc::UnboundedReceiver<(String, Vec<u8>)>) {
    let (told, all) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |mut stream| {
        let told = told.clone();
        async move {
            let Some((head, mut bytes)) = read_message(&mut stream).await else { return };
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut bytes).await;
            let _ = told.send((head, bytes));
        }
    })
    .await;
    (upstream, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_full_of_small_frames_is_an_ordinary_body() {
    let (upstream, mut all) = recording().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    // All at once, so that most of them wait while the upstream is connected to.
    let frames = frame(0, 0, 1, b"twenty bytes of body").repeat(3000);
    let request = [PREFACE, &frame(1, 4, 1, POST), &frames, &frame(0, 1, 1, b"")].concat();
    client.write_all(&request).await.unwrap();
    let (head, bytes) = timeout(PATIENCE, all.recv()).await.expect("no request").unwrap();
    let (body, rest) = unframed(&head, &bytes);
    assert_eq!((body.len(), rest.as_str()), (60_000, ""), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_one_end_whatever_the_frames() {
    let (upstream, mut all) = recording().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let cases: [(Option<&str>, &[Piece], &str); 11] = [
        (None, &[Data("one"), Data(""), Data("two"), Data(""), Data(""), Last("")], "onetwo"),
        (None, &[Data("one"), Data(""), Data("two"), Last("end")], "onetwoend"),
        (None, &[Last("all")], "all"),
        (None, &[Last("")], ""),
        (None, &[Data(""), Data(""), Last("")], ""),
        (None, &[Data("one"), Trailers], "one"),
        (None, &[Data("one"), Data(""), Trailers], "one"),
        (None, &[Trailers], ""),
        (Some("3"), &[Data("one"), Last("")], "one"),
        (Some("3"), &[Data(""), Data("on"), Data(""), Data("e"), Data(""), Trailers], "one"),
        (Some("0"), &[Last("")], ""),
    ];
    for (number, (length, pieces, want)) in cases.into_iter().enumerate() {
        let (code, text) = send(&clear(&gateway).await, post(length), pieces).await;
        assert_eq!((code.as_u16(), &*text), (200, "ok"), "{number}");
        let (head, bytes) = timeout(PATIENCE, all.recv()).await.unwrap().unwrap();
        assert_eq!(unframed(&head, &bytes), (want.to_owned(), String::new()), "{number}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_expects_a_body_says_that_there_is_none() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let client = clear(&gateway).await;
    for (method, want) in [("POST", Some("0")), ("PUT", Some("0")), ("PATCH", Some("0")), ("GET", None)] {
        let request = Request::builder().method(method).uri("http://app.test/up").version(Version::HTTP_2);
        assert_eq!(ask(&client, request.body(()).unwrap()).await.0, 200, "{method}");
        let head = upstream.requests().pop().unwrap();
        assert_eq!(field(&head, "content-length"), want, "{head}");
        assert_eq!(field(&head, "transfer-encoding"), None, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_request_on_the_connection_begins_where_it_begins() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let client = clear(&gateway).await;
    for round in 0..20 {
        assert_eq!(send(&client, post(None), &[Data("one"), Last("")]).await.0, 200, "{round}");
        let (code, text) = ask(&client, get("/page").body(()).unwrap()).await;
        assert_eq!((code.as_u16(), &*text), (200, "GET /page HTTP/1.1"), "{round}");
    }
    let lines: Vec<_> =
        upstream.requests().iter().map(|head| head.lines().next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["PUT /up HTTP/1.1", "GET /page HTTP/1.1"].repeat(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_sent_once_more_has_one_end_too() {
    let (told, mut all) = mpsc::unbounded_channel();
    // Every connection answers one GET; a PUT on the same connection is read and dropped.
    let upstream = Scripted::start(move |mut stream| {
        let told = told.clone();
        async move {
            let mut requests = 0;
            while let Some((head, mut bytes)) = read_message(&mut stream).await {
                requests += 1;
                if head.starts_with("GET ") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                } else if requests == 1 {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                    let _ = stream.write_all(answer).await;
                    let _ = stream.shutdown().await;
                    let _ = stream.read_to_end(&mut bytes).await;
                    let _ = told.send((head, bytes));
                    return;
                } else {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let client = clear(&gateway).await;
    for (pieces, want) in [
        (&[Data("one"), Data(""), Last("")][..], "one"),
        (&[Last("")], ""),
        (&[Data("one"), Trailers], "one"),
        (&[Trailers], ""),
    ] {
        assert_eq!(ask(&client, get("/page").body(()).unwrap()).await.0, 200);
        let (code, text) = send(&client, post(None), pieces).await;
        assert_eq!((code.as_u16(), &*text), (200, "ok"));
        let (head, bytes) = timeout(PATIENCE, all.recv()).await.unwrap().unwrap();
        assert_eq!(unframed(&head, &bytes), (want.to_owned(), String::new()), "{head}");
    }
}

/// An upstream that speaks HTTP/2 and tells the body and the trailers of every request; it answers with an empty DATA
/// frame in the middle of the body and one at its end.
async fn over_http2() -> (Scripted, mpsc::UnboundedReceiver<(String, bool)>) {
    let (told, all) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |stream| {
        let told = told.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let told = told.clone();
                tokio::spawn(async move {
                    let mut received = request.into_body();
                    let mut text = Vec::new();
                    while let Some(Ok(chunk)) = received.data().await {
                        let _ = received.flow_control().release_capacity(chunk.len());
                        text.extend_from_slice(&chunk);
                    }
                    let trailers = received.trailers().await;
                    let _ = told.send((String::from_utf8(text).unwrap(), trailers.is_ok()));
                    let mut answer = respond.send_response(Response::new(()), false).unwrap();
                    for (piece, end) in [("ab", false), ("", false), ("c", false), ("", true)] {
                        answer.send_data(Bytes::from_static(piece.as_bytes()), end).unwrap();
                    }
                });
            }
        }
    })
    .await;
    (upstream, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_upstream_and_an_http1_client_see_one_end_as_well() {
    let (upstream, mut all) = over_http2().await;
    let gateway = Gateway::start(&format!(
        "[[routes]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{}\"]\nauth = \"none\"\nhttp2 = true\n",
        upstream.address
    ))
    .await;
    let client = clear(&gateway).await;
    for pieces in [&[Data("one"), Data(""), Last("")][..], &[Data("one"), Trailers]] {
        assert_eq!(send(&client, post(None), pieces).await, (StatusCode::OK, "abc".to_owned()));
        assert_eq!(timeout(PATIENCE, all.recv()).await.unwrap().unwrap(), ("one".to_owned(), true));
    }
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    for body in ["3\r\none\r\n0\r\n\r\n", "1\r\no\r\n2\r\nne\r\n0\r\n\r\n"] {
        let head = "PUT /up HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        assert_eq!(timeout(PATIENCE, all.recv()).await.unwrap().unwrap(), ("one".to_owned(), true));
        let head = read_head(&mut stream).await;
        assert_eq!(status(&head), 200, "{head}");
        let mut bytes = Vec::new();
        while !is_whole(&head, &bytes) {
            timeout(PATIENCE, stream.read_buf(&mut bytes)).await.unwrap().unwrap();
        }
        assert_eq!(unframed(&head, &bytes), ("abc".to_owned(), String::new()), "{head}");
    }
    // Nothing is left over in front of the next answer.
    stream.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut rest = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 "), "{rest}");
}

/// An upstream of HTTP/2 that answers with a trailer section and promises it. Tells whether a request promised one.
async fn with_trailers() -> (Scripted, mpsc::UnboundedReceiver<bool>) {
    let (told, promises) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |stream| {
        let told = told.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let _ = told.send(request.headers().contains_key("trailer"));
                let head = Response::builder().header("trailer", "x-checksum").body(()).unwrap();
                let mut sending = respond.send_response(head, false).unwrap();
                sending.send_data(Bytes::from_static(b"hello"), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("x-checksum", "1".parse().unwrap());
                sending.send_trailers(trailers).unwrap();
            }
        }
    })
    .await;
    (upstream, promises)
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_between_two_http2_connections_and_are_promised_nowhere_else() {
    let (upstream, mut promises) = with_trailers().await;
    let route = format!(
        "[[routes]]\nname = \"app\"\nmatch = {{ path = \"/\" }}\nauth = \"none\"\nhttp2 = true\nupstream = [\"http://{}\"]\n",
        upstream.address
    );
    let gateway = Gateway::start(&route).await;
    let mut client = timeout(PATIENCE, clear(&gateway).await.ready()).await.unwrap().unwrap();
    let request = Request::put("http://app.test/").header("trailer", "x-checksum").body(()).unwrap();
    let (response, mut sending) = client.send_request(request, false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", "1".parse().unwrap());
    sending.send_trailers(trailers).unwrap();
    let mut response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.headers()["trailer"], "x-checksum");
    assert_eq!(body(&mut response).await, "hello");
    let trailers = timeout(PATIENCE, response.body_mut().trailers()).await.unwrap().unwrap();
    assert_eq!(trailers.expect("no trailers")["x-checksum"], "1");
    // What a client sends behind its body goes no further.
    assert!(!timeout(PATIENCE, promises.recv()).await.unwrap().unwrap());

    let answer = gateway.get("/", "TE: trailers\r\n").await;
    assert_eq!((status(&answer), field(&answer, "trailer")), (200, None), "{answer}");
    assert!(answer.contains("hello") && !answer.contains("x-checksum"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_http2_has_no_more_fields_than_one_over_http1() {
    for (count, want) in [(1000, 200), (1025, 502)] {
        let upstream = Scripted::start(move |stream| async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut head = Response::builder();
                for number in 0..count {
                    head = head.header("set-cookie", format!("c{number}=1"));
                }
                let _ = respond.send_response(head.body(()).unwrap(), true);
            }
        })
        .await;
        let route = format!(
            "[[routes]]\nname = \"app\"\nmatch = {{ path = \"/\" }}\nauth = \"none\"\nhttp2 = true\nupstream = [\"http://{}\"]\n",
            upstream.address
        );
        let gateway = Gateway::start(&route).await;
        let answer = gateway.get("/", "").await;
        assert_eq!(status(&answer), want, "{count}");
        match want {
            200 => assert_eq!(answer.to_ascii_lowercase().matches("set-cookie: ").count(), count),
            _ => assert!(answer.contains("more header fields than this gateway passes on"), "{answer}"),
        }
    }
}
